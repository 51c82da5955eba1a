# The server in a container.
#
#   docker build -t aryavarth .
#   docker run -p 127.0.0.1:4000:4000 -v aryavarth:/data -e ARYAVARTH_PASSWORD=... aryavarth
#
# In a container the server listens on every address, so it asks for a password and does not start
# without one.
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p aryavarth-cli

FROM debian:bookworm-slim
COPY --from=build /src/target/release/aryavarth /usr/local/bin/aryavarth
RUN useradd --system --home-dir /data --uid 999 aryavarth \
    && install -d -o aryavarth -g aryavarth -m 700 /data
USER aryavarth
VOLUME /data
EXPOSE 4000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=1h CMD ["aryavarth", "status"]
ENTRYPOINT ["aryavarth"]
CMD ["server", "--data", "/data", "--listen", "0.0.0.0:4000"]
