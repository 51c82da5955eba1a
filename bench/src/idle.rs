//! The cost of idle connections: the busy ones' speed, the server's memory.
//!
//! Busy connections ask a running server for one key, one request at a time each, over JSON or over
//! the Redis protocol. A slice with idle connections beside them and a slice without make a pair;
//! which comes first alternates, so that a machine that slows down during the run favours neither.
//! An error of the server is counted and ends its connection; any error at all fails the run.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use crate::args::Args;
use crate::figure::{Figure, as_f64, per_second, print_machine};
use crate::memory::status_bytes;
use crate::outcome::{BoxError, Outcome, progress};
use crate::sockets::{PATIENCE, raise_open_files};

/// The server's memory that an idle connection may take.
const IDLE_BYTES_MAX: f64 = 16.0 * 1024.0;
/// Descriptors of this process that are not connections.
const DESCRIPTORS_KEPT: u64 = 64;

/// A request and the reply that it has to get.
type Exchange = (&'static [u8], &'static [u8]);

/// How the one key is written and read.
#[derive(Clone, Copy)]
struct Protocol {
    set: Exchange,
    get: Exchange,
}

const JSON: Protocol = Protocol {
    set: (b"{\"Set\":{\"key\":\"aryavarth-bench\",\"value\":\"v\"}}\n", b"{\"Ok\":null}\n"),
    get: (b"{\"Get\":{\"key\":\"aryavarth-bench\"}}\n", b"{\"Ok\":\"v\"}\n"),
};

const REDIS: Protocol = Protocol {
    set: (b"*3\r\n$3\r\nSET\r\n$15\r\naryavarth-bench\r\n$1\r\nv\r\n", b"+OK\r\n"),
    get: (b"*2\r\n$3\r\nGET\r\n$15\r\naryavarth-bench\r\n", b"$1\r\nv\r\n"),
};

/// The server that is measured.
struct Target {
    addr: String,
    protocol: Protocol,
    /// Its process; empty if only its speed is wanted.
    pid: String,
}

pub(crate) fn run(args: &mut Args) -> Outcome {
    let addr: String = args.take("addr", String::new())?;
    let protocol: String = args.take("protocol", "json".to_owned())?;
    let pid: String = args.take("pid", String::new())?;
    let connections: usize = args.take("connections", 1000)?;
    let busy: usize = args.take("busy", 8)?;
    let slice = Duration::from_secs(args.take("seconds", 2)?);
    let rounds: usize = args.take("rounds", 9)?;
    args.finish()?;
    if addr.is_empty() {
        return Err("idle needs the address of a running server: --addr ADDR".into());
    }
    let protocol = match protocol.as_str() {
        "json" => JSON,
        "redis" => REDIS,
        other => return Err(format!("--protocol is json or redis, not `{other}`").into()),
    };

    raise_open_files()?;
    enough_descriptors(connections + busy)?;
    let target = Target { addr, protocol, pid };
    Connection::open(&target.addr)?.ask(protocol.set)?;
    print_machine()?;
    let is_small = if target.pid.is_empty() { true } else { target.print_memory(connections)? };
    let (mut with_runs, mut without_runs, mut errors) = (Vec::new(), Vec::new(), 0);
    for round in 0..=rounds {
        let with_first = round % 2 == 0;
        let early = target.rate(if with_first { connections } else { 0 }, busy, slice)?;
        let late = target.rate(if with_first { 0 } else { connections }, busy, slice)?;
        let (with, without) = if with_first { (early, late) } else { (late, early) };
        errors += with.errors + without.errors;
        progress(&format!(
            "round {round} of {rounds}: {:.0}/s with {connections} idle connections, \
             {:.0}/s without, {errors} errors so far",
            with.per_second, without.per_second
        ));
        // The first round warms up.
        if round > 0 {
            with_runs.push(with.per_second);
            without_runs.push(without.per_second);
        }
    }

    let figure =
        |name: String, system, unit, runs| Figure { name, system, unit, runs, ..Figure::default() };
    let name = format!("gets over {busy} busy connections");
    let beside = format!("{name} beside {connections} idle ones");
    let without = figure(name, "without idle connections", "1/s", without_runs);
    let with = figure(beside.clone(), "aryavarth", "1/s", with_runs);
    without.print()?;
    Figure { limit: Some(without.value()), ..with.beside(&without) }.print()?;
    let errors_found =
        figure(format!("errors: {beside}"), "aryavarth", "errors", vec![as_f64(errors)]);
    Figure { limit: Some(0.0), ..errors_found }.print()?;
    Ok(is_small && errors == 0)
}

/// Refuses to begin a run that the system's limit of open files would end.
fn enough_descriptors(connections: usize) -> Result<(), BoxError> {
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if connections as u64 + DESCRIPTORS_KEPT <= allowed {
        return Ok(());
    }
    let why = format!(
        "{connections} connections need as many open files, and this system allows {allowed}: \
         raise the limit (ulimit -n) or ask for fewer (--connections)"
    );
    Err(why.into())
}

/// The work of busy connections in a slice.
struct Answered {
    per_second: f64,
    errors: u64,
}

impl Target {
    /// Opens idle connections, each of which has asked once, and prints one's share of
    /// the server's resident memory; returns whether that is within the bound.
    fn print_memory(&self, idle: usize) -> Outcome {
        let before = status_bytes(&self.pid, "VmRSS:")?;
        let idlers = self.open(idle)?;
        let after = status_bytes(&self.pid, "VmRSS:")?;
        drop(idlers);
        let bytes = as_f64(after.saturating_sub(before)) / as_f64(idle.max(1) as u64);
        let name = format!("resident memory per idle connection, {idle} of them");
        let (system, unit) = ("aryavarth", "B");
        let limit = Some(IDLE_BYTES_MAX);
        Figure { name, system, unit, runs: vec![bytes], limit, ..Figure::default() }.print()?;
        Ok(bytes <= IDLE_BYTES_MAX)
    }

    /// Connections with one request each behind them, so that the server has accepted them and
    /// knows their protocol.
    fn open(&self, count: usize) -> io::Result<Vec<Connection>> {
        let open = |_| {
            let mut connection = Connection::open(&self.addr)?;
            connection.ask(self.protocol.get).map(|()| connection)
        };
        (0..count).map(open).collect()
    }

    /// Requests per second over `busy` connections while `idle` others do nothing.
    fn rate(&self, idle: usize, busy: usize, slice: Duration) -> Result<Answered, BoxError> {
        let idlers = self.open(idle)?;
        let workers = self.open(busy)?;
        let start = Instant::now();
        let (count, mut errors) = thread::scope(|scope| {
            let work = |mut connection: Connection| {
                let mut count = 0;
                while start.elapsed() < slice {
                    if let Err(error) = connection.ask(self.protocol.get) {
                        progress(&format!("a busy connection: {error}"));
                        return (count, 1);
                    }
                    count += 1;
                }
                (count, 0)
            };
            let spawn = |connection| scope.spawn(move || work(connection));
            let workers: Vec<_> = workers.into_iter().map(spawn).collect();
            let done = workers.into_iter().map(|worker| worker.join().expect("no worker panics"));
            done.fold((0, 0), |sum: (u64, u64), one| (sum.0 + one.0, sum.1 + one.1))
        });
        let elapsed = start.elapsed();
        // The idle ones have to be alive still.
        for mut idler in idlers {
            errors += u64::from(idler.ask(self.protocol.get).is_err());
        }
        Ok(Answered { per_second: per_second(count, elapsed), errors })
    }
}

/// A connection with nothing that takes memory of its own.
struct Connection(TcpStream);

impl Connection {
    fn open(addr: &str) -> io::Result<Connection> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Connection(stream))
    }

    fn ask(&mut self, (request, expected): Exchange) -> io::Result<()> {
        self.0.write_all(request)?;
        let mut reply = [0; 64];
        let reply = &mut reply[..expected.len()];
        self.0.read_exact(reply)?;
        if reply == expected {
            return Ok(());
        }
        Err(io::Error::other(format!("the server answered `{}...`", reply.escape_ascii())))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    use super::*;

    /// A server that gives the same reply to every line, until the test ends.
    fn server_that_says(reply: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || {
                    let lines = BufReader::new(&stream).lines().map_while(Result::ok);
                    lines.map(|_| writeln!(&stream, "{reply}")).all(|written| written.is_ok())
                });
            }
        });
        addr
    }

    fn target(reply: &'static str, protocol: Protocol) -> Target {
        Target { addr: server_that_says(reply), protocol, pid: "self".to_owned() }
    }

    #[test]
    fn busy_connections_are_counted_beside_idle_ones() {
        let target = target("{\"Ok\":\"v\"}", JSON);
        let answered = target.rate(20, 2, Duration::from_millis(50)).unwrap();
        assert!(answered.per_second > 0.0);
        assert_eq!(answered.errors, 0);
        target.print_memory(5).unwrap();
    }

    #[test]
    fn an_error_of_the_server_ends_the_run() {
        let target = target("{\"Err\":\"busy\"}", JSON);
        let error = target.rate(1, 1, Duration::from_millis(50)).err().unwrap();
        assert!(error.to_string().contains("Err"), "{error}");
    }

    #[test]
    fn more_connections_than_open_files_are_refused_with_the_remedy() {
        let error = enough_descriptors(usize::MAX >> 1).unwrap_err();
        assert!(error.to_string().contains("ulimit -n"), "{error}");
    }
}
