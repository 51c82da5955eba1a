//! A server that counts requests and answers each with the same reply: the least work of any server.

use std::io;
use std::net::{SocketAddr, TcpListener};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

/// As many as the server has for its sockets.
const THREADS: usize = 2;
const READ_BYTES: usize = 16 << 10;

/// The end of a request for this server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Each {
    Line,
    /// So many bytes, whatever they are.
    Bytes(usize),
}

/// Serves until it is dropped.
pub(crate) struct Nothing {
    pub(crate) addr: SocketAddr,
    runtime: Option<Runtime>,
}

impl Nothing {
    /// A server whose every reply is that one.
    pub(crate) fn start(reply: String, each: Each) -> io::Result<Nothing> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_io().build()?;
        runtime.spawn(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, reply.clone(), each));
            }
        });
        Ok(Nothing { addr, runtime: Some(runtime) })
    }
}

impl Drop for Nothing {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Ends with the connection.
async fn answer(mut stream: TcpStream, reply: String, each: Each) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buf = vec![0; READ_BYTES];
    let mut begun = 0;
    loop {
        let read = stream.read(&mut buf).await?;
        if read == 0 {
            return Ok(());
        }
        let requests = match each {
            Each::Line => buf[..read].split(|byte| *byte == b'\n').count() - 1,
            Each::Bytes(request_bytes) => {
                begun += read;
                let requests = begun / request_bytes;
                begun %= request_bytes;
                requests
            }
        };
        stream.write_all(reply.repeat(requests).as_bytes()).await?;
    }
}
