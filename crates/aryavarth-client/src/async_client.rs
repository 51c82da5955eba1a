//! The client for tokio: the blocking one's twin, with the same promises.
//!
//! Invariants:
//! - As of the blocking client; also a call that is dropped before its end leaves no connection
//!   behind, so that its reply cannot pass for another one's.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use aryavarth_protocol::Request;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, ToSocketAddrs, lookup_host};
use tokio::time::timeout;

use crate::client::{REPLY_BYTES_MAX, Timeouts, shown, unknown};
use crate::error::{ClientError, Result};
use crate::pipeline::{Attempt, Course, Pipeline, Reply, closed, single, timed_out, too_long};

/// A connection to a server, for tokio. It is kept between calls and renewed when it was lost.
///
/// A call that is dropped before it is done (by a timeout of yours, say) may have been run or not.
///
/// ```no_run
/// # async fn example() -> aryavarth_client::Result<()> {
/// use aryavarth_client::AsyncKvsClient;
///
/// let mut client = AsyncKvsClient::connect("127.0.0.1:4000").await?;
/// client.set("user:42".into(), "Aryavarth".into()).await?;
/// assert_eq!(client.get("user:42".into()).await?, Some("Aryavarth".into()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AsyncKvsClient {
    addrs: Vec<SocketAddr>,
    timeouts: Timeouts,
    connection: Option<TcpStream>,
}

impl AsyncKvsClient {
    /// Connects to a server, for example at "127.0.0.1:4000".
    ///
    /// # Errors
    /// [`ClientError::Connect`] if no server answers there.
    pub async fn connect(addr: impl ToSocketAddrs + fmt::Debug) -> Result<Self> {
        AsyncKvsClient::connect_with(addr, Timeouts::default()).await
    }

    /// The same with other timeouts.
    pub async fn connect_with(
        addr: impl ToSocketAddrs + fmt::Debug,
        timeouts: Timeouts,
    ) -> Result<Self> {
        let addrs = lookup_host(&addr).await.map_err(|source| unknown(&addr, source))?.collect();
        let mut client = AsyncKvsClient { addrs, timeouts, connection: None };
        match client.dial().await {
            Ok(connection) => client.connection = Some(connection),
            Err(source) => {
                return Err(ClientError::Connect { addr: shown(&client.addrs), source });
            }
        }
        Ok(client)
    }

    /// Sets a key; returns when the server has it on disk.
    ///
    /// # Errors
    /// [`ClientError::OutcomeUnknown`] if the reply was lost.
    pub async fn set(&mut self, key: String, value: String) -> Result<()> {
        self.call(Request::Set { key, value }).await?.done()
    }

    /// The value of a key, if it exists.
    pub async fn get(&mut self, key: String) -> Result<Option<String>> {
        self.call(Request::Get { key }).await?.value()
    }

    /// Removes a key; returns when its absence is on the server's disk.
    ///
    /// # Errors
    /// [`ClientError::KeyNotFound`] if it does not exist, [`ClientError::OutcomeUnknown`] if the
    /// reply was lost.
    pub async fn remove(&mut self, key: String) -> Result<()> {
        self.call(Request::Remove { key }).await?.done()
    }

    /// The first `limit` keys, with their values, that begin with `prefix` and stand behind `after`
    /// in the order of their bytes. Fewer than `limit` are the last ones.
    pub async fn scan(
        &mut self,
        prefix: String,
        after: Option<String>,
        limit: u64,
    ) -> Result<Vec<(String, String)>> {
        self.call(Request::Scan { prefix, after, limit }).await?.entries()
    }

    /// Has the server rewrite its files without dead records; returns when that is done.
    pub async fn compact(&mut self) -> Result<()> {
        self.call(Request::Compact {}).await?.done()
    }

    /// Sends all requests of a pipeline and returns their results, in their order.
    ///
    /// # Errors
    /// [`ClientError::Connect`] if nothing was sent; each request has a result of its own otherwise.
    pub async fn run(&mut self, pipeline: Pipeline) -> Result<Vec<Result<Reply>>> {
        let mut course = Course::new(pipeline)?;
        while !course.is_done() {
            let mut connection = match self.connection().await {
                Ok(connection) => connection,
                Err(source) if course.is_new() => {
                    return Err(ClientError::Connect { addr: shown(&self.addrs), source });
                }
                Err(error) => {
                    course.unreachable(&error, &shown(&self.addrs));
                    break;
                }
            };
            let attempt = self.exchange(&mut connection, &course).await;
            // It is kept only if all went well.
            if course.take(attempt, &shown(&self.addrs)) {
                self.connection = Some(connection);
            }
        }
        Ok(course.into_results())
    }

    async fn call(&mut self, request: Request) -> Result<Reply> {
        single(self.run(Pipeline::new().with(request)).await?)
    }

    /// The connection that is there, or a new one.
    async fn connection(&mut self) -> io::Result<TcpStream> {
        match self.connection.take().and_then(quiet) {
            Some(connection) => Ok(connection),
            None => self.dial().await,
        }
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for addr in &self.addrs {
            let dialled = within(Some(self.timeouts.connect), TcpStream::connect(addr)).await;
            match dialled.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Sends requests and reads their replies meanwhile, because a server that has to get rid of
    /// replies takes no more requests.
    async fn exchange(&self, connection: &mut TcpStream, course: &Course) -> Attempt {
        let mut attempt = Attempt::default();
        let Timeouts { read, write, .. } = self.timeouts;
        let read = if course.is_patient() { None } else { read };
        let (reader, mut writer) = connection.split();
        let mut reader = BufReader::new(reader);
        let Attempt { replies, sent_bytes, .. } = &mut attempt;
        attempt.failure = {
            let mut sending = pin!(send(&mut writer, course.bytes_left(), write, sent_bytes));
            let mut reading = pin!(read_replies(&mut reader, course.replies_left(), read, replies));
            let mut is_sent = false;
            // Until there is no more to read: a request that the server has not taken by then will
            // never be answered.
            let all_read = poll_fn(|context| {
                is_sent = is_sent || sending.as_mut().poll(context).is_ready();
                reading.as_mut().poll(context)
            });
            all_read.await.err()
        };
        attempt.said_more = !reader.buffer().is_empty();
        attempt
    }
}

/// The connection, if the server has neither closed it nor said anything unasked. The runtime may
/// not know yet, so the system is asked.
fn quiet(connection: TcpStream) -> Option<TcpStream> {
    let stream = connection.into_std().ok()?;
    match stream.peek(&mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => TcpStream::from_std(stream).ok(),
        _ => None,
    }
}

/// Waits for something, but not for longer than `limit`.
async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match limit {
        Some(limit) => timeout(limit, work).await.unwrap_or_else(|_late| Err(timed_out())),
        None => work.await,
    }
}

/// Sends as much as the server takes, and counts it.
async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    limit: Option<Duration>,
    sent: &mut usize,
) {
    while *sent < bytes.len() {
        match within(limit, writer.write(&bytes[*sent..])).await {
            Ok(count) if count > 0 => *sent += count,
            // The reader will find out why: the server may say it.
            _ => return,
        }
    }
}

async fn read_replies(
    reader: &mut (impl AsyncBufRead + Unpin),
    count: usize,
    limit: Option<Duration>,
    replies: &mut Vec<Vec<u8>>,
) -> io::Result<()> {
    while replies.len() < count {
        replies.push(read_line(reader, limit).await?);
    }
    Ok(())
}

/// Reads a reply, without its newline.
async fn read_line(
    reader: &mut (impl AsyncBufRead + Unpin),
    limit: Option<Duration>,
) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        let piece = within(limit, reader.fill_buf()).await?;
        if piece.is_empty() {
            return Err(closed());
        }
        let end = piece.iter().position(|byte| *byte == b'\n');
        let bytes = end.unwrap_or(piece.len());
        line.extend_from_slice(&piece[..bytes]);
        reader.consume(end.map_or(bytes, |end| end + 1));
        if end.is_some() {
            return Ok(line);
        }
        if line.len() as u64 >= REPLY_BYTES_MAX {
            return Err(too_long());
        }
    }
}
