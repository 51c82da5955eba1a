//! The blocking client.
//!
//! Invariants:
//! - A connection that an error touched is never used again: a late reply on it would pass for
//!   the answer of the next request.
//! - A request is sent a second time only if that cannot do anything twice: if it only reads, or
//!   if the first attempt did not leave whole.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use aryavarth_protocol::{KEY_NOT_FOUND, Request, Response};

use crate::error::{ClientError, Result};

/// The longest reply that is taken, in bytes.
const REPLY_BYTES_MAX: u64 = 1 << 30;

/// How long the client waits for the network and the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection to each of the addresses. Default: 5 s.
    pub connect: Duration,
    /// For a reply; a compaction may take as long as it wants. Default: 30 s.
    pub read: Option<Duration>,
    /// For the server to take a piece of the request. Default: 30 s.
    pub write: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        let half_minute = Some(Duration::from_secs(30));
        Timeouts { connect: Duration::from_secs(5), read: half_minute, write: half_minute }
    }
}

/// A connection to a server. It is kept between calls and renewed when it was lost.
///
/// A client is used by one thread at a time; several clients may use one server.
#[derive(Debug)]
pub struct KvsClient {
    addrs: Vec<SocketAddr>,
    timeouts: Timeouts,
    connection: Option<BufReader<TcpStream>>,
}

/// Why a request has no reply.
enum Failure {
    /// It did not leave whole, so the server cannot have run it.
    NotSent(io::Error),
    /// It left, and may have been run.
    NoReply(io::Error),
}

impl KvsClient {
    /// Connects to a server, for example at "127.0.0.1:4000".
    ///
    /// # Errors
    /// [`ClientError::Connect`] if nobody answers there.
    pub fn connect(addr: impl ToSocketAddrs + fmt::Debug) -> Result<Self> {
        KvsClient::connect_with(addr, Timeouts::default())
    }

    /// The same with other timeouts.
    pub fn connect_with(addr: impl ToSocketAddrs + fmt::Debug, timeouts: Timeouts) -> Result<Self> {
        let addrs = addr.to_socket_addrs().map_err(|source| {
            let addr = format!("{addr:?}").trim_matches('"').to_owned();
            ClientError::Connect { addr, source }
        })?;
        let addrs = addrs.collect();
        let mut client = KvsClient { addrs, timeouts, connection: None };
        client.connection = Some(client.dial()?);
        Ok(client)
    }

    /// Sets a key; returns when the server has it on disk.
    ///
    /// # Errors
    /// [`ClientError::OutcomeUnknown`] if the reply was lost.
    pub fn set(&mut self, key: String, value: String) -> Result<()> {
        self.call(&Request::Set { key, value }).and_then(no_value)
    }

    /// The value of a key, if it exists.
    pub fn get(&mut self, key: String) -> Result<Option<String>> {
        match self.call(&Request::Get { key })? {
            Response::Ok(value) => Ok(value),
            other => Err(unexpected(&other)),
        }
    }

    /// Removes a key; returns when its absence is on the server's disk.
    ///
    /// # Errors
    /// [`ClientError::KeyNotFound`] if it does not exist, [`ClientError::OutcomeUnknown`] if the
    /// reply was lost.
    pub fn remove(&mut self, key: String) -> Result<()> {
        self.call(&Request::Remove { key }).and_then(no_value)
    }

    /// The first `limit` keys, with their values, that begin with `prefix` and stand behind `after`
    /// in the order of their bytes. Fewer than `limit` are the last ones.
    ///
    /// ```no_run
    /// # let mut client = aryavarth_client::KvsClient::connect("127.0.0.1:4000")?;
    /// let mut page = client.scan("user:".into(), None, 100)?;
    /// while let Some((last, _)) = page.last().cloned() {
    ///     println!("{page:?}");
    ///     page = client.scan("user:".into(), Some(last), 100)?;
    /// }
    /// # Ok::<(), aryavarth_client::ClientError>(())
    /// ```
    pub fn scan(
        &mut self,
        prefix: String,
        after: Option<String>,
        limit: u64,
    ) -> Result<Vec<(String, String)>> {
        match self.call(&Request::Scan { prefix, after, limit })? {
            Response::Entries(entries) => Ok(entries),
            other => Err(unexpected(&other)),
        }
    }

    /// Has the server rewrite its files without what is dead; returns when that is done.
    pub fn compact(&mut self) -> Result<()> {
        self.call(&Request::Compact {}).and_then(no_value)
    }

    /// Sends a request and waits for its reply; an error reply is an error.
    fn call(&mut self, request: &Request) -> Result<Response> {
        // No newline behind it: only so does a request that did not leave whole lack its brace.
        let line = match serde_json::to_vec(request) {
            Ok(line) => line,
            Err(error) => return Err(ClientError::Protocol(error.to_string())),
        };
        let reads = matches!(request, Request::Get { .. } | Request::Scan { .. });
        let patient = matches!(request, Request::Compact {});
        let reply = match self.exchange(&line, patient)? {
            Ok(reply) => Ok(reply),
            Err(Failure::NotSent(_)) => self.exchange(&line, patient)?,
            Err(Failure::NoReply(_)) if reads => self.exchange(&line, patient)?,
            Err(failure) => Err(failure),
        };
        match reply {
            Ok(reply) => decode(&reply),
            Err(Failure::NotSent(source)) => {
                Err(ClientError::Connect { addr: self.shown_addrs(), source })
            }
            Err(Failure::NoReply(source)) if reads => Err(ClientError::Lost { source }),
            Err(Failure::NoReply(source)) => Err(ClientError::OutcomeUnknown { source }),
        }
    }

    /// One attempt on the connection that is there, or on a new one. It is kept only if all went
    /// well.
    fn exchange(&mut self, line: &[u8], patient: bool) -> Result<Result<Vec<u8>, Failure>> {
        let mut connection = match self.connection.take() {
            Some(connection) if is_quiet(&connection) => connection,
            _ => self.dial()?,
        };
        let timeout = if patient { None } else { self.timeouts.read };
        if let Err(error) = connection.get_ref().set_read_timeout(timeout) {
            return Ok(Err(Failure::NotSent(error)));
        }
        let sent = connection.get_mut().write_all(line);
        let reply = read_line(&mut connection);
        Ok(match (sent, reply) {
            (Ok(()), Ok(reply)) => {
                self.connection = Some(connection);
                Ok(reply)
            }
            // The server may refuse a request before it has taken all of it, and close.
            (Err(_), Ok(reply)) => Ok(reply),
            (Err(error), Err(_)) => Err(Failure::NotSent(error)),
            (Ok(()), Err(error)) => Err(Failure::NoReply(error)),
        })
    }

    fn dial(&self) -> Result<BufReader<TcpStream>> {
        let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for addr in &self.addrs {
            match self.dial_one(addr) {
                Ok(stream) => return Ok(BufReader::new(stream)),
                Err(error) => failed = error,
            }
        }
        Err(ClientError::Connect { addr: self.shown_addrs(), source: failed })
    }

    fn dial_one(&self, addr: &SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(addr, self.timeouts.connect)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(self.timeouts.write)?;
        Ok(stream)
    }

    fn shown_addrs(&self) -> String {
        self.addrs.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// Whether the server has neither closed the connection nor said anything unasked, so that a
/// request on it will be heard and answered. Without this look, a write after the server's restart
/// would be lost with an unknown outcome.
fn is_quiet(connection: &BufReader<TcpStream>) -> bool {
    let stream = connection.get_ref();
    let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let silent = matches!(&peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    silent && connection.buffer().is_empty() && stream.set_nonblocking(false).is_ok()
}

/// Reads a reply, without its newline.
fn read_line(connection: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    connection.take(REPLY_BYTES_MAX).read_until(b'\n', &mut line).map_err(|error| {
        match error.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "timed out"),
            _ => error,
        }
    })?;
    if line.pop() == Some(b'\n') {
        return Ok(line);
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed it"))
}

fn decode(reply: &[u8]) -> Result<Response> {
    match serde_json::from_slice(reply) {
        Ok(Response::Err(message)) if message == KEY_NOT_FOUND => Err(ClientError::KeyNotFound),
        Ok(Response::Err(message)) => Err(ClientError::Server(message)),
        Ok(response) => Ok(response),
        Err(error) => Err(ClientError::Protocol(error.to_string())),
    }
}

fn no_value(response: Response) -> Result<()> {
    match response {
        Response::Ok(None) => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(response: &Response) -> ClientError {
    let kind = match response {
        Response::Ok(_) => "a value",
        Response::Err(_) => "an error",
        Response::Entries(_) => "a page of a scan",
    };
    ClientError::Protocol(format!("it answered {kind} to another question"))
}
