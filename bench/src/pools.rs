//! The server's thread pools beside each other.
//!
//! One store, and a server over it for each pool; the pools take turns. The clients run in this
//! process, on threads whose time is not counted as the server's. *Hot* means that the store's
//! files are in the page cache, *cold* that they are taken out of it before each slice, so that
//! reads wait for the disk until it has warmed up again.

use std::io;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aryavarth::{KvStore, KvsEngine, SledKvsEngine};
use aryavarth_server::{
    KvServer, NaiveThreadPool, RayonThreadPool, ServerHandle, SharedQueueThreadPool, ThreadPool,
};
use rustix::time::{ClockId, clock_gettime};

use crate::args::{Args, chosen};
use crate::data::{Rng, Values};
use crate::disk::drop_pages;
use crate::figure::{Figure, as_f64, per_second, print_machine};
use crate::load::load_all;
use crate::nothing::{Each, Nothing};
use crate::outcome::{BoxError, Outcome, progress};
use crate::peers::{Peer, kvs, sled};
use crate::slice::turn;
use crate::sockets::raise_open_files;
use crate::wire::{Connection, Requests, Wire, found};

/// The first is the one that others are put beside.
const POOLS: [&str; 3] = ["shared-queue", "rayon", "naive"];
const STORES: [&str; 3] = ["kvs hot", "kvs cold", "sled"];
const DO_NOTHING: &str = "do-nothing server";
/// Threads of clients, which share the connections.
const CLIENT_THREADS: usize = 2;

/// The plan of the measurement.
struct Plan {
    requests: Requests,
    /// In a hundred requests.
    sets: u64,
    time: Duration,
    rounds: usize,
    threads: u32,
}

pub(crate) fn run(args: &mut Args) -> Outcome {
    let keys = args.take("keys", 100_000)?;
    let value_bytes = args.take("value-bytes", 100)?;
    let time = Duration::try_from_secs_f64(args.take("seconds", 0.5)?)?;
    let rounds = args.take("rounds", 3)?;
    let threads = args.take("threads", 4)?;
    let sets = args.take("sets", 5)?;
    let dir: String = args.take("dir", ".".to_owned())?;
    let connections: String = args.take("connections", "1,50,500".to_owned())?;
    let connections: Vec<usize> =
        connections.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let stores = chosen(&args.take("stores", String::new())?, STORES, |name| name)?;
    let pools = chosen(&args.take("pools", String::new())?, POOLS, |name| name)?;
    args.finish()?;

    raise_open_files()?;
    print_machine()?;
    let wire = Wire::Json { sets };
    let requests = Requests { wire, keys, values: Values::new(value_bytes) };
    let plan = Plan { requests, sets, time, rounds, threads };
    let load = |peer: &dyn Peer| load_all(peer, keys, &plan.requests.values);
    for name in stores {
        let dir = tempfile::tempdir_in(&dir)?;
        progress(&format!("loading {name}"));
        if name == "sled" {
            let store = SledKvsEngine::open(dir.path())?;
            load(&sled::of(store.clone()))?;
            store.flush()?;
            plan.compare(name, &store, &pools, &connections, || Ok(()))?;
            continue;
        }
        let store = KvStore::open(dir.path())?;
        load(&kvs::of(store.clone()))?;
        store.flush()?;
        let before_slice = || if name == "kvs cold" { drop_pages(dir.path()) } else { Ok(()) };
        plan.compare(name, &store, &pools, &connections, before_slice)?;
    }
    Ok(true)
}

/// The figures of a slice of requests.
#[derive(Clone, Copy, Debug)]
struct Rate {
    per_second: f64,
    /// Processor time outside the clients, in microseconds per request.
    server_us: f64,
}

impl Plan {
    /// The pools over one engine.
    fn compare<E: KvsEngine>(
        &self,
        store: &str,
        engine: &E,
        pools: &[&'static str],
        connections: &[usize],
        before_slice: impl Fn() -> io::Result<()>,
    ) -> Result<(), BoxError> {
        let nothing = Nothing::start(found(self.requests.values.value_bytes), Each::Line)?;
        let started = pools.iter().map(|pool| start(pool, engine.clone(), self.threads));
        let servers = started.collect::<Result<Vec<_>, _>>()?;
        let mut systems = vec![(DO_NOTHING, nothing.addr)];
        systems.extend(pools.iter().copied().zip(servers.iter().map(|server| server.addr)));
        for connections in connections {
            let sets = self.sets;
            let name = format!("{store}, {sets} % durable sets, connections: {connections}");
            let mut runs = vec![Vec::new(); systems.len()];
            for round in 0..=self.rounds {
                for at in turn(round, systems.len()) {
                    before_slice()?;
                    let rate = self.drive(systems[at].1, *connections, round as u64)?;
                    progress(&format!("{name}, round {round}, {}: {rate:.1?}", systems[at].0));
                    if round > 0 {
                        runs[at].push(rate);
                    }
                }
            }
            print(&format!("requests over {name}"), "1/s", &systems, &runs, |rate| {
                rate.per_second
            })?;
            print(&format!("server time a request over {name}"), "us", &systems, &runs, |rate| {
                rate.server_us
            })?;
        }
        Ok(())
    }

    /// Requests over all connections, one at a time each, for as long as a slice.
    fn drive(&self, addr: SocketAddr, connections: usize, seed: u64) -> Result<Rate, BoxError> {
        let threads = connections.clamp(1, CLIENT_THREADS);
        let share = |at| (connections + threads - 1 - at) / threads;
        let open = |_| Connection::open(addr);
        let clients =
            (0..threads).map(|at| (0..share(at)).map(open).collect::<io::Result<Vec<_>>>());
        let clients = clients.collect::<io::Result<Vec<_>>>()?;
        let cpu_start = cpu_time(ClockId::ProcessCPUTime);
        let start = Instant::now();
        let work = |mut connections: Vec<Connection>, seed| -> io::Result<(u64, Duration)> {
            let cpu_start = cpu_time(ClockId::ThreadCPUTime);
            let mut rng = Rng::new(seed);
            let mut request = Vec::new();
            let mut count = 0;
            while start.elapsed() < self.time {
                for connection in &mut connections {
                    request.clear();
                    self.requests.add(&mut rng, &mut request);
                    connection.send(&request)?;
                }
                for connection in &mut connections {
                    connection.receive()?;
                }
                count += connections.len() as u64;
            }
            Ok((count, cpu_time(ClockId::ThreadCPUTime).saturating_sub(cpu_start)))
        };
        let done = thread::scope(|scope| {
            let seeds = (seed << 16)..;
            let spawn = |(connections, seed)| scope.spawn(move || work(connections, seed));
            let threads: Vec<_> = clients.into_iter().zip(seeds).map(spawn).collect();
            let joined = threads.into_iter().map(|thread| thread.join().expect("it panics not"));
            joined.collect::<io::Result<Vec<_>>>()
        })?;
        let elapsed = start.elapsed();
        let cpu = cpu_time(ClockId::ProcessCPUTime).saturating_sub(cpu_start);
        let count = done.iter().map(|(count, _)| count).sum();
        let clients_cpu = done.iter().map(|(_, cpu)| cpu).sum();
        let server_us = cpu.saturating_sub(clients_cpu).as_secs_f64() * 1e6 / as_f64(count);
        Ok(Rate { per_second: per_second(count, elapsed), server_us })
    }
}

/// Prints a figure of every system, the pools beside the first of them.
fn print(
    name: &str,
    unit: &'static str,
    systems: &[(&'static str, SocketAddr)],
    runs: &[Vec<Rate>],
    value: impl Fn(&Rate) -> f64,
) -> io::Result<()> {
    let figure = |(system, runs): (&(&'static str, SocketAddr), &Vec<Rate>)| Figure {
        name: name.to_owned(),
        system: system.0,
        unit,
        runs: runs.iter().map(&value).collect(),
        ..Figure::default()
    };
    let figures: Vec<_> = systems.iter().zip(runs).map(figure).collect();
    let limit = figures[0].value();
    figures[0].print()?;
    for figure in &figures[1..] {
        let beside = if figure.system == figures[1].system {
            figure.clone()
        } else {
            figure.clone().beside(&figures[1])
        };
        Figure { limit: Some(limit), ..beside }.print()?;
    }
    Ok(())
}

/// A server in this process, until it is dropped.
struct Server {
    addr: SocketAddr,
    handle: ServerHandle,
    thread: Option<JoinHandle<aryavarth_server::Result<()>>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.shutdown();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Starts a server with a pool of that name.
fn start<E: KvsEngine>(pool: &str, engine: E, threads: u32) -> Result<Server, BoxError> {
    match pool {
        "shared-queue" => serve::<E, SharedQueueThreadPool>(engine, threads),
        "rayon" => serve::<E, RayonThreadPool>(engine, threads),
        "naive" => serve::<E, NaiveThreadPool>(engine, threads),
        _ => Err(format!("there is no pool `{pool}`").into()),
    }
}

fn serve<E: KvsEngine, P: ThreadPool>(engine: E, threads: u32) -> Result<Server, BoxError> {
    let server = KvServer::new("127.0.0.1:0", engine, P::new(threads)?)?;
    let (addr, handle) = (server.local_addr(), server.handle());
    let thread = Some(thread::spawn(move || server.run()));
    Ok(Server { addr, handle, thread })
}

/// Processor time so far.
fn cpu_time(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pool_serves_hot_and_cold() {
        let dir = tempfile::tempdir().unwrap();
        let line = "pools --keys 200 --seconds 0.02 --rounds 1 --connections 1,3 --dir";
        let words = line.split_whitespace().map(str::to_owned);
        let words = words.chain([dir.path().to_str().unwrap().to_owned()]);
        assert!(run(&mut Args::parse(words).unwrap()).unwrap());
    }

    #[test]
    fn an_unknown_pool_is_refused() {
        let words = "pools --pools shared-queue,none".split_whitespace().map(str::to_owned);
        let error = run(&mut Args::parse(words).unwrap()).unwrap_err().to_string();
        assert!(error.contains("`none` is not one of shared-queue,rayon,naive"), "{error}");
    }
}
