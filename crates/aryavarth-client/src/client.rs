//! The blocking client.
//!
//! Invariants:
//! - A connection that an error touched is never used again: a late reply on it would pass for
//!   the answer of the next request.
//! - No more than a little is sent without reading replies, so client and server cannot wait for
//!   each other.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::Duration;

use aryavarth_protocol::Request;

use crate::error::{ClientError, Result};
use crate::pipeline::{Attempt, Course, Pipeline, Reply, closed, single, timed_out, too_long};

/// The longest reply that is taken, in bytes.
pub(crate) const REPLY_BYTES_MAX: u64 = 1 << 30;
/// Bytes that any connection takes without its replies being read.
pub(crate) const SEND_BYTES_MAX: usize = 16 << 10;

/// How long the client waits for the network and the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection to each of the addresses. Default: 5 s.
    pub connect: Duration,
    /// For a reply, or the next piece of it; a compaction may take as long as it wants. Default: 30 s.
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

impl KvsClient {
    /// Connects to a server, for example at "127.0.0.1:4000".
    ///
    /// # Errors
    /// [`ClientError::Connect`] if no server answers there.
    pub fn connect(addr: impl ToSocketAddrs + fmt::Debug) -> Result<Self> {
        KvsClient::connect_with(addr, Timeouts::default())
    }

    /// The same with other timeouts.
    pub fn connect_with(addr: impl ToSocketAddrs + fmt::Debug, timeouts: Timeouts) -> Result<Self> {
        let addrs = addr.to_socket_addrs().map_err(|source| unknown(&addr, source))?;
        let addrs = addrs.collect();
        let mut client = KvsClient { addrs, timeouts, connection: None };
        match client.dial() {
            Ok(connection) => client.connection = Some(connection),
            Err(source) => {
                return Err(ClientError::Connect { addr: client.shown_addrs(), source });
            }
        }
        Ok(client)
    }

    /// Sets a key; returns when the server has it on disk.
    ///
    /// # Errors
    /// [`ClientError::OutcomeUnknown`] if the reply was lost.
    pub fn set(&mut self, key: String, value: String) -> Result<()> {
        self.call(Request::Set { key, value })?.done()
    }

    /// The value of a key, if it exists.
    pub fn get(&mut self, key: String) -> Result<Option<String>> {
        self.call(Request::Get { key })?.value()
    }

    /// Removes a key; returns when its absence is on the server's disk.
    ///
    /// # Errors
    /// [`ClientError::KeyNotFound`] if it does not exist, [`ClientError::OutcomeUnknown`] if the
    /// reply was lost.
    pub fn remove(&mut self, key: String) -> Result<()> {
        self.call(Request::Remove { key })?.done()
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
        self.call(Request::Scan { prefix, after, limit })?.entries()
    }

    /// Has the server rewrite its files without dead records; returns when that is done.
    pub fn compact(&mut self) -> Result<()> {
        self.call(Request::Compact {})?.done()
    }

    /// Sends all requests of a pipeline and returns their results, in their order.
    ///
    /// ```no_run
    /// use aryavarth_client::{KvsClient, Pipeline, Reply};
    ///
    /// let mut client = KvsClient::connect("127.0.0.1:4000")?;
    /// let results = client.run(Pipeline::new().set("a", "1").get("a"))?;
    /// for result in results {
    ///     match result? {
    ///         Reply::Value(value) => println!("{value:?}"),
    ///         other => println!("{other:?}"),
    ///     }
    /// }
    /// # Ok::<(), aryavarth_client::ClientError>(())
    /// ```
    ///
    /// # Errors
    /// [`ClientError::Connect`] if nothing was sent; each request has a result of its own otherwise.
    pub fn run(&mut self, pipeline: Pipeline) -> Result<Vec<Result<Reply>>> {
        let mut course = Course::new(pipeline)?;
        while !course.is_done() {
            let mut connection = match self.connection() {
                Ok(connection) => connection,
                Err(source) if course.is_new() => {
                    return Err(ClientError::Connect { addr: self.shown_addrs(), source });
                }
                Err(error) => {
                    course.unreachable(&error, &self.shown_addrs());
                    break;
                }
            };
            let timeout = if course.is_patient() { None } else { self.timeouts.read };
            let attempt = exchange(&mut connection, &course, timeout);
            // It is kept only if all went well.
            if course.take(attempt, &self.shown_addrs()) {
                self.connection = Some(connection);
            }
        }
        Ok(course.into_results())
    }

    fn call(&mut self, request: Request) -> Result<Reply> {
        single(self.run(Pipeline::new().with(request))?)
    }

    /// The connection that is there, or a new one.
    fn connection(&mut self) -> io::Result<BufReader<TcpStream>> {
        match self.connection.take() {
            Some(connection) if is_quiet(&connection) => Ok(connection),
            _ => self.dial(),
        }
    }

    fn dial(&self) -> io::Result<BufReader<TcpStream>> {
        dial(&self.addrs, &self.timeouts).map(BufReader::new)
    }

    fn shown_addrs(&self) -> String {
        shown(&self.addrs)
    }
}

/// Connects to the first of the addresses that takes a connection.
pub(crate) fn dial(addrs: &[SocketAddr], timeouts: &Timeouts) -> io::Result<TcpStream> {
    let dial_one = |addr: &SocketAddr| {
        let stream = TcpStream::connect_timeout(addr, timeouts.connect)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(timeouts.write)?;
        Ok(stream)
    };
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for addr in addrs {
        match dial_one(addr) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Whether the server has neither closed the connection nor said anything unasked, so that a
/// request on it will be heard and answered. Without this look, a write after the server's restart
/// would be lost with an unknown outcome.
fn is_quiet(connection: &BufReader<TcpStream>) -> bool {
    let stream = connection.get_ref();
    let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let silent = matches!(&peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    silent && stream.set_nonblocking(false).is_ok()
}

/// Sends requests and reads their replies, which may come before the last request has left.
fn exchange(
    connection: &mut BufReader<TcpStream>,
    course: &Course,
    timeout: Option<Duration>,
) -> Attempt {
    let mut attempt = Attempt::default();
    let prepared = connection.get_ref().set_read_timeout(timeout);
    let writer = prepared.and_then(|()| connection.get_ref().try_clone());
    let mut writer = match writer {
        Ok(writer) => writer,
        Err(error) => {
            attempt.failure = Some(error);
            return attempt;
        }
    };
    let bytes = course.bytes_left();
    if course.replies_left() == 1 || bytes.len() <= SEND_BYTES_MAX {
        attempt.sent_bytes = send(&mut writer, bytes);
        read_replies(connection, course, &mut attempt);
        return attempt;
    }
    // A server that has to get rid of replies first takes no more requests, so they are read while
    // the requests leave.
    attempt.sent_bytes = thread::scope(|scope| {
        let sender = thread::Builder::new().spawn_scoped(scope, || send(&mut writer, bytes));
        match sender {
            Ok(sender) => {
                read_replies(connection, course, &mut attempt);
                if attempt.failure.is_some() {
                    // A request that the server has not taken by now will never be answered.
                    drop(connection.get_ref().shutdown(Shutdown::Both));
                }
                sender.join().unwrap_or(bytes.len())
            }
            Err(error) => {
                attempt.failure = Some(error);
                0
            }
        }
    });
    attempt
}

/// Sends as much as the server takes; returns how much left.
pub(crate) fn send(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(0) => break,
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The reader will find out why: the server may say it.
            Err(_) => break,
        }
    }
    sent
}

fn read_replies(connection: &mut BufReader<TcpStream>, course: &Course, attempt: &mut Attempt) {
    while attempt.replies.len() < course.replies_left() {
        match read_line(connection) {
            Ok(reply) => attempt.replies.push(reply),
            Err(error) => {
                attempt.failure = Some(error);
                return;
            }
        }
    }
    attempt.said_more = !connection.buffer().is_empty();
}

/// Reads a reply, without its newline.
fn read_line(connection: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let read = connection.take(REPLY_BYTES_MAX).read_until(b'\n', &mut line);
    read.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => timed_out(),
        _ => error,
    })?;
    match line.pop() {
        Some(b'\n') => Ok(line),
        _ if line.len() as u64 + 1 == REPLY_BYTES_MAX => Err(too_long()),
        _ => Err(closed()),
    }
}

pub(crate) fn shown(addrs: &[SocketAddr]) -> String {
    addrs.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
}

/// An address that makes no sense, or has no entry anywhere.
pub(crate) fn unknown(addr: &impl fmt::Debug, source: io::Error) -> ClientError {
    let addr = format!("{addr:?}").trim_matches('"').to_owned();
    ClientError::Connect { addr, source }
}
