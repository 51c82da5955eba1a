//! Clients that keep a server busy: connections that each have some requests under way.
//!
//! Each connection sends as many requests as its pipeline is deep, waits for all replies, and sends
//! the next ones at once, whatever the others do. So the time between is a client's wait.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::data::Rng;
use crate::figure::per_second;
use crate::outcome::BoxError;
use crate::sockets::PATIENCE;
use crate::wire::Requests;

const THREADS: usize = 2;

/// How much the clients ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    /// Requests that are sent at once, over each connection.
    pub(crate) pipeline: usize,
    pub(crate) time: Duration,
    /// Seeds the requests; the same for all servers of a round.
    pub(crate) seed: u64,
}

/// The figures of a slice of requests.
pub(crate) struct Answered {
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
    /// From the sending of a pipeline to its last reply, in order.
    waits: Vec<Duration>,
}

impl Answered {
    /// The time that so many of a hundred waits did not exceed, in microseconds.
    pub(crate) fn wait_us(&self, percent: usize) -> f64 {
        let at = (self.waits.len() * percent / 100).min(self.waits.len().saturating_sub(1));
        self.waits.get(at).map_or(f64::NAN, |wait| wait.as_secs_f64() * 1e6)
    }
}

/// The threads that the clients share.
pub(crate) struct Clients(Runtime);

impl Clients {
    pub(crate) fn new() -> io::Result<Clients> {
        Ok(Clients(Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?))
    }

    /// Asks for as long as a slice. The first error, also one that the server answers, ends it.
    pub(crate) fn slice(
        &self,
        addr: SocketAddr,
        requests: &Arc<Requests>,
        load: Load,
    ) -> Result<Answered, BoxError> {
        self.0.block_on(async {
            // The clock runs only once all are connected.
            let mut streams = Vec::new();
            for _ in 0..load.connections {
                let stream = TcpStream::connect(addr).await?;
                stream.set_nodelay(true)?;
                streams.push(stream);
            }
            let start = Instant::now();
            let seeds = (load.seed << 16)..;
            let converse = |(stream, seed)| {
                let talk = converse(stream, Arc::clone(requests), load, start, seed);
                tokio::spawn(timeout(load.time + PATIENCE, talk))
            };
            let tasks: Vec<_> = streams.into_iter().zip(seeds).map(converse).collect();
            let mut waits = Vec::new();
            for task in tasks {
                waits.extend(task.await???);
            }
            let elapsed = start.elapsed();
            waits.sort_unstable();
            let requests = (waits.len() * load.pipeline) as u64;
            Ok(Answered { requests, per_second: per_second(requests, elapsed), waits })
        })
    }
}

/// One connection's slice; returns how long it waited for each pipeline.
async fn converse(
    mut stream: TcpStream,
    requests: Arc<Requests>,
    load: Load,
    start: Instant,
    seed: u64,
) -> io::Result<Vec<Duration>> {
    let mut rng = Rng::new(seed);
    let (mut asked, mut replies, mut waits) = (Vec::new(), Vec::new(), Vec::new());
    while start.elapsed() < load.time {
        asked.clear();
        for _ in 0..load.pipeline {
            requests.add(&mut rng, &mut asked);
        }
        let sent = Instant::now();
        stream.write_all(&asked).await?;
        receive(&mut stream, &requests, load.pipeline, &mut replies).await?;
        waits.push(sent.elapsed());
    }
    // A server ends a connection that its client has ended, after the last reply.
    stream.shutdown().await?;
    match stream.read_buf(&mut replies).await? {
        0 => Ok(waits),
        _ => Err(too_many()),
    }
}

/// Waits for so many replies, each of which must be one to such a request.
async fn receive(
    stream: &mut TcpStream,
    requests: &Requests,
    count: usize,
    replies: &mut Vec<u8>,
) -> io::Result<()> {
    replies.clear();
    let (mut received, mut checked) = (0, 0);
    while received < count {
        if stream.read_buf(replies).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Some(bytes) = requests.reply_bytes(&replies[checked..])? {
            checked += bytes;
            received += 1;
        }
    }
    if received > count || checked < replies.len() {
        return Err(too_many());
    }
    Ok(())
}

fn too_many() -> io::Error {
    io::Error::other("the server answered more than it was asked")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Values;
    use crate::nothing::{Each, Nothing};
    use crate::resp::Operation;
    use crate::wire::{DONE, Wire};

    fn ask(wire: Wire, each: Each, reply: &str) -> Result<Answered, BoxError> {
        let server = Nothing::start(reply.to_owned(), each).unwrap();
        let requests = Arc::new(Requests { wire, keys: 10, values: Values::new(100) });
        let time = Duration::from_millis(20);
        let load = Load { connections: 3, pipeline: 16, time, seed: 1 };
        Clients::new().unwrap().slice(server.addr, &requests, load)
    }

    fn ask_lines(reply: &str) -> Result<Answered, BoxError> {
        ask(Wire::Json { sets: 50 }, Each::Line, reply)
    }

    fn ask_commands(operation: Operation, reply: &str) -> Result<Answered, BoxError> {
        let each = Each::Bytes(operation.command_bytes(&Values::new(100)));
        ask(Wire::Resp(operation), each, reply)
    }

    #[test]
    fn every_reply_is_counted_and_waits_are_in_order() {
        let commands = |one: Operation| ask_commands(one, &one.least_reply(100)).unwrap();
        for answered in Operation::ALL.map(commands).into_iter().chain([ask_lines(DONE).unwrap()]) {
            assert!(answered.requests >= 3 * 16 && answered.requests.is_multiple_of(16));
            assert!(answered.per_second > 0.0);
            assert!(0.0 < answered.wait_us(50) && answered.wait_us(50) <= answered.wait_us(99));
        }
    }

    #[test]
    fn an_error_of_the_server_ends_the_slice() {
        let error = ask_lines("{\"Err\":\"busy\"}\n").err().unwrap().to_string();
        assert!(error.contains("busy"), "{error}");
        let error = ask_commands(Operation::Set, "-ERR busy\r\n").err().unwrap().to_string();
        assert!(error.contains("busy"), "{error}");
    }

    #[test]
    fn a_reply_too_many_ends_the_slice() {
        let error = ask_commands(Operation::Incr, ":1\r\n:2\r\n").err().unwrap().to_string();
        assert!(error.contains("more than it was asked"), "{error}");
    }
}
