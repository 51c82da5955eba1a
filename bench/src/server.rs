//! The server over loopback, beside one that reads lines and answers each without looking at it.
//!
//! Gets, then sets, of random keys that are there, at several depths of pipelines. The servers run
//! in processes of their own and take turns. After each slice of sets the files are written to the
//! disk, outside the clock, so that this does not happen in the next server's slice.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::args::Args;
use crate::clients::{Clients, Load};
use crate::data::Values;
use crate::figure::{Figure, as_f64, print_machine};
use crate::outcome::{BoxError, Outcome, progress};
use crate::serve::{NOTHING, OURS, ServerProcess, Setup, UNSYNCED};
use crate::slice::turn;
use crate::sockets::raise_open_files;
use crate::wire::{Requests, Wire};

/// The measurement of each slice, and its unit.
const MEASURED: [(&str, &str); 4] = [
    ("requests", "1/s"),
    ("median wait", "us"),
    ("99th percentile of waits", "us"),
    ("server time a request", "us"),
];

const SERVERS: [&str; 3] = [NOTHING, OURS, UNSYNCED];

/// The plan of the measurement.
pub(crate) struct Plan {
    pub(crate) setup: Setup,
    connections: usize,
    pipelines: Vec<usize>,
    time: Duration,
    rounds: usize,
}

pub(crate) fn run(args: &mut Args) -> Outcome {
    let plan = Plan::take(args, 100_000, 0.5, 3)?;
    args.finish()?;
    raise_open_files()?;
    print_machine()?;
    let clients = Clients::new()?;
    plan.measure("GET", Wire::Json { sets: 0 }, &SERVERS, &clients, print)?;
    plan.measure("SET", Wire::Json { sets: 100 }, &SERVERS, &clients, print)?;
    Ok(true)
}

impl Plan {
    /// Takes the options that all measurements of servers have.
    pub(crate) fn take(
        args: &mut Args,
        keys: u64,
        seconds: f64,
        rounds: usize,
    ) -> Result<Plan, BoxError> {
        let setup = Setup {
            keys: args.take("keys", keys)?,
            value_bytes: args.take("value-bytes", 100)?,
            threads: args.take("threads", 4)?,
            dir: args.take("dir", ".".to_owned())?,
            redis: PathBuf::new(),
        };
        let time = Duration::try_from_secs_f64(args.take("seconds", seconds)?)?;
        let rounds = args.take("rounds", rounds)?;
        let connections = args.take("connections", 50)?;
        let pipelines: String = args.take("pipelines", "1,16,64".to_owned())?;
        let pipelines = pipelines.split(',').map(str::parse).collect::<Result<Vec<_>, _>>()?;
        if setup.keys == 0 || rounds == 0 || connections == 0 || pipelines.contains(&0) {
            return Err("at least one key, round, connection and request are needed".into());
        }
        Ok(Plan { setup, connections, pipelines, time, rounds })
    }

    /// One kind of request to servers of those names, at every depth. `print` gets each figure of
    /// all of them, in their order.
    pub(crate) fn measure(
        &self,
        operation: &str,
        wire: Wire,
        names: &[&'static str],
        clients: &Clients,
        print: impl Fn(&[Figure]) -> Result<(), BoxError>,
    ) -> Result<(), BoxError> {
        let Setup { keys, value_bytes, .. } = self.setup;
        let requests = Arc::new(Requests { wire, keys, values: Values::new(value_bytes) });
        let mut servers = Vec::new();
        for name in names {
            progress(&format!("starting and loading {name}"));
            let server = ServerProcess::start(name, wire, &self.setup)?;
            progress(&format!("{name} is process {}", server.pid));
            servers.push(server);
        }
        for pipeline in &self.pipelines {
            let connections = self.connections;
            let name = format!("{operation}, {connections} connections, pipeline {pipeline}");
            let mut figures = MEASURED.map(|(what, unit)| {
                let name = format!("{what}: {name}");
                servers.iter().map(|server| figure(&name, server.name, unit)).collect::<Vec<_>>()
            });
            for round in 0..=self.rounds {
                let seed = round as u64;
                let load = Load { connections, pipeline: *pipeline, time: self.time, seed };
                for at in turn(round, servers.len()) {
                    let values = slice(&servers[at], clients, &requests, load)
                        .map_err(|error| format!("{name}, {}: {error}", servers[at].name))?;
                    if wire.writes() {
                        servers[at].sync()?;
                    }
                    progress(&format!(
                        "{name}, round {round} of {}, {}: {values:.1?}",
                        self.rounds, servers[at].name
                    ));
                    // The first round warms up.
                    if round > 0 {
                        let rows = figures.iter_mut().map(|rows| &mut rows[at]);
                        rows.zip(values).for_each(|(figure, value)| figure.runs.push(value));
                    }
                }
            }
            figures.iter().try_for_each(|rows| print(rows))?;
        }
        let name = format!("resident memory after {operation}s");
        let resident = servers.iter().map(|server| -> Result<Figure, BoxError> {
            let runs = vec![as_f64(server.resident_bytes()?)];
            Ok(Figure { runs, ..figure(&name, server.name, "B") })
        });
        print(&resident.collect::<Result<Vec<_>, _>>()?)
    }
}

/// One server's slice: the values of [`MEASURED`].
fn slice(
    server: &ServerProcess,
    clients: &Clients,
    requests: &Arc<Requests>,
    load: Load,
) -> Result<[f64; MEASURED.len()], BoxError> {
    let before = server.cpu_time()?;
    let answered = clients.slice(server.addr, requests, load)?;
    let taken = server.cpu_time()?.saturating_sub(before);
    let server_us = taken.as_secs_f64() * 1e6 / as_f64(answered.requests);
    Ok([answered.per_second, answered.wait_us(50), answered.wait_us(99), server_us])
}

fn figure(name: &str, system: &'static str, unit: &'static str) -> Figure {
    Figure { name: name.to_owned(), system, unit, ..Figure::default() }
}

/// Prints the figures of all servers, each beside the first, which is the limit.
fn print(figures: &[Figure]) -> Result<(), BoxError> {
    let (limit, others) = figures.split_first().ok_or("no server")?;
    limit.print()?;
    for figure in others {
        Figure { limit: Some(limit.value()), ..figure.clone().beside(limit) }.print()?;
    }
    Ok(())
}
