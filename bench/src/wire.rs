//! The client's side of a conversation: requests, the least reply, and a connection with nothing
//! that could be the slower one. JSON lines are here, the Redis protocol is in `resp`.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpStream, ToSocketAddrs};

use crate::data::{Rng, Values, key};
use crate::resp::Operation;
use crate::sockets::PATIENCE;

/// The clients' protocol and their requests.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wire {
    /// JSON lines, with so many sets in a hundred requests; the others are gets.
    Json { sets: u64 },
    /// The Redis protocol, with commands of one kind.
    Resp(Operation),
}

impl Wire {
    /// Whether any of the requests changes the store.
    pub(crate) fn writes(self) -> bool {
        match self {
            Wire::Json { sets } => sets > 0,
            Wire::Resp(operation) => operation.writes(),
        }
    }
}

/// The requests of clients: keys that were loaded, at random.
pub(crate) struct Requests {
    pub(crate) wire: Wire,
    pub(crate) keys: u64,
    pub(crate) values: Values,
}

impl Requests {
    /// Adds a request.
    pub(crate) fn add(&self, rng: &mut Rng, requests: &mut Vec<u8>) {
        match self.wire {
            Wire::Json { sets } => self.add_line(sets, rng, requests),
            Wire::Resp(operation) => operation.add(self.keys, &self.values, rng, requests),
        }
    }

    /// Adds a request in JSON, with its newline.
    fn add_line(&self, sets: u64, rng: &mut Rng, lines: &mut Vec<u8>) {
        let key = key(rng.below(self.keys));
        let is_set = rng.below(100) < sets;
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

    /// The length of the first reply, if all of it is there. An error if the server answers one,
    /// or anything else that is no reply to such a request.
    pub(crate) fn reply_bytes(&self, replies: &[u8]) -> io::Result<Option<usize>> {
        if let Wire::Resp(operation) = self.wire {
            return operation.reply_bytes(self.values.value_bytes, replies);
        }
        let Some(end) = replies.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let reply = &replies[..=end];
        if is_ok(reply) {
            return Ok(Some(reply.len()));
        }
        let reply = String::from_utf8_lossy(reply);
        Err(io::Error::other(format!("the server answered `{}`", reply.trim_end())))
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
