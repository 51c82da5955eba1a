//! The client's side of JSON lines: requests, the least reply, and a connection with nothing that
//! could be the slower one.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::data::{Rng, Values, key};

/// A server that takes longer than this for one reply is not measured but broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What clients ask for: keys that were loaded, at random.
pub(crate) struct Requests {
    pub(crate) keys: u64,
    /// Sets in a hundred requests; the others are gets.
    pub(crate) sets: u64,
    pub(crate) values: Values,
}

impl Requests {
    /// Adds a request, with its newline.
    pub(crate) fn add(&self, rng: &mut Rng, lines: &mut Vec<u8>) {
        let key = key(rng.below(self.keys));
        let is_set = rng.below(100) < self.sets;
        lines.extend_from_slice(if is_set {
            b"{\"Set\":{\"key\":\""
        } else {
            b"{\"Get\":{\"key\":\""
        });
        lines.extend_from_slice(&key);
        if is_set {
            lines.extend_from_slice(b"\",\"value\":\"");
            lines.extend_from_slice(self.values.any(rng));
        }
        lines.extend_from_slice(b"\"}}\n");
    }
}

/// The reply to a set.
pub(crate) const DONE: &str = "{\"Ok\":null}\n";

/// The reply to a get that finds that many bytes.
pub(crate) fn found(value_bytes: usize) -> String {
    format!("{{\"Ok\":\"{}\"}}\n", "v".repeat(value_bytes))
}

/// Whether a reply is not an error.
pub(crate) fn is_ok(reply: &[u8]) -> bool {
    reply.starts_with(b"{\"Ok\"")
}

/// One connection that speaks JSON lines.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    line: String,
}

impl Connection {
    pub(crate) fn open(addr: impl ToSocketAddrs) -> io::Result<Connection> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Connection { stream: BufReader::with_capacity(256, stream), line: String::new() })
    }

    /// Sends a request, a line.
    pub(crate) fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(request)
    }

    /// Waits for a reply, which must not be an error.
    pub(crate) fn receive(&mut self) -> io::Result<()> {
        self.line.clear();
        self.stream.read_line(&mut self.line)?;
        if is_ok(self.line.as_bytes()) {
            return Ok(());
        }
        Err(io::Error::other(format!("the server answered `{}`", self.line.trim_end())))
    }
}

/// Lets this process open as many connections as the system allows it.
pub(crate) fn raise_open_files() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    Ok(())
}
