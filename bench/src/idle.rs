//! What idle connections cost the busy ones.
//!
//! Busy connections ask a running server for one key, one request at a time each. A slice with idle
//! connections beside them and a slice without make a pair; which comes first alternates, so that a
//! machine that slows down during the run favours neither.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::figure::{Figure, per_second, print_machine};
use crate::wire::{Connection, raise_open_files};
use crate::{BoxError, Outcome, progress};

const SET: &[u8] = b"{\"Set\":{\"key\":\"aryavarth-bench\",\"value\":\"v\"}}\n";
const GET: &[u8] = b"{\"Get\":{\"key\":\"aryavarth-bench\"}}\n";

pub(crate) fn run(args: &mut Args) -> Outcome {
    let addr: String = args.take("addr", String::new())?;
    let connections: usize = args.take("connections", 1000)?;
    let busy: usize = args.take("busy", 8)?;
    let slice = Duration::from_secs(args.take("seconds", 2)?);
    let rounds: usize = args.take("rounds", 9)?;
    args.finish()?;
    if addr.is_empty() {
        return Err("idle needs the address of a running server: --addr ADDR".into());
    }

    raise_open_files()?;
    Connection::open(&addr)?.ask(SET)?;
    let (mut with_runs, mut without_runs) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let with_first = round % 2 == 0;
        let early = rate(&addr, if with_first { connections } else { 0 }, busy, slice)?;
        let late = rate(&addr, if with_first { 0 } else { connections }, busy, slice)?;
        let (with, without) = if with_first { (early, late) } else { (late, early) };
        progress(&format!(
            "round {round} of {rounds}: {with:.0}/s with {connections} idle connections, \
             {without:.0}/s without"
        ));
        // The first round warms up.
        if round > 0 {
            with_runs.push(with);
            without_runs.push(without);
        }
    }

    let figure = |name: String, system, runs| Figure {
        name,
        system,
        unit: "1/s",
        runs,
        ..Figure::default()
    };
    let name = format!("gets over {busy} busy connections");
    let without = figure(name.clone(), "without idle connections", without_runs);
    let with = figure(format!("{name} beside {connections} idle ones"), "aryavarth", with_runs);
    print_machine()?;
    without.print()?;
    Figure { limit: Some(without.value()), ..with.beside(&without) }.print()?;
    Ok(true)
}

/// Requests per second over `busy` connections while `idle` others do nothing.
fn rate(addr: &str, idle: usize, busy: usize, slice: Duration) -> Result<f64, BoxError> {
    // One request each, so that the server has accepted them and knows their protocol.
    let open = |_| Connection::open(addr).and_then(|mut one| one.ask(GET).map(|()| one));
    let idlers = (0..idle).map(open).collect::<io::Result<Vec<_>>>()?;
    let workers = (0..busy).map(open).collect::<io::Result<Vec<_>>>()?;
    let start = Instant::now();
    let count = thread::scope(|scope| {
        let work = |mut connection: Connection| -> io::Result<u64> {
            let mut count = 0;
            while start.elapsed() < slice {
                connection.ask(GET)?;
                count += 1;
            }
            Ok(count)
        };
        let spawn = |connection| scope.spawn(move || work(connection));
        let workers: Vec<_> = workers.into_iter().map(spawn).collect();
        let counts = workers.into_iter().map(|worker| worker.join().expect("no worker panics"));
        counts.sum::<io::Result<u64>>()
    })?;
    let elapsed = start.elapsed();
    drop(idlers);
    Ok(per_second(count, elapsed))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
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

    #[test]
    fn busy_connections_are_counted_beside_idle_ones() {
        let addr = server_that_says("{\"Ok\":\"v\"}");
        let rate = rate(&addr, 20, 2, Duration::from_millis(50)).unwrap();
        assert!(rate > 0.0);
    }

    #[test]
    fn an_error_of_the_server_ends_the_run() {
        let addr = server_that_says("{\"Err\":\"busy\"}");
        let error = rate(&addr, 1, 1, Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("busy"), "{error}");
    }
}
