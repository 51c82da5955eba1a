//! The client's side of JSON lines, with nothing that could be the slower one.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A server that takes longer than this for one reply is not measured but broken.
const PATIENCE: Duration = Duration::from_secs(30);

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

    /// Sends a request and waits for its reply, which must not be an error.
    pub(crate) fn ask(&mut self, request: &str) -> io::Result<()> {
        self.send(request)?;
        self.receive()
    }

    /// Sends a request.
    pub(crate) fn send(&mut self, request: &str) -> io::Result<()> {
        self.line.clear();
        self.line.push_str(request);
        self.line.push('\n');
        self.stream.get_mut().write_all(self.line.as_bytes())
    }

    /// Waits for a reply, which must not be an error.
    pub(crate) fn receive(&mut self) -> io::Result<()> {
        self.line.clear();
        self.stream.read_line(&mut self.line)?;
        if self.line.starts_with("{\"Ok\"") {
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
