//! The engine beside its peers: every phase in one run, in turns.
//!
//! In each round of a phase every system has one slice, and the order of the systems changes from
//! round to round, so that none always runs in the wake of the same neighbour. The first round
//! warms up and is not counted. After each slice of writes the system writes everything to the
//! disk, outside the clock, so that it does not do so in another one's slice.
//!
//! Each line's ratio is to its `peer` in the same rounds: ours is put beside the best of
//! the peers that keep the same promise, everyone else beside ours. The limit is the bare loop's.

use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::args::{Args, chosen};
use crate::data::{KEY_BYTES, Key, Rng, Values, key};
use crate::disk::allocated_bytes;
use crate::figure::{Figure, as_f64, per_second, print_machine};
use crate::load::{load_all, load_keys};
use crate::memory;
use crate::outcome::{BoxError, Outcome, progress};
use crate::peers::{Peer, Phase, Role, SYSTEMS, System};
use crate::slice::{Slice, turn};

/// How often every key is overwritten, on average, before the space is measured again.
const OVERWRITES: u64 = 3;
/// Sets in a hundred operations of the mix.
const MIX_SETS: u64 = 5;
const GET_THREADS: [usize; 3] = [1, 2, 4];
const MIX_THREADS: usize = 4;
const DURABLE_THREADS: [usize; 3] = [1, 16, 64];
/// A key and a pointer: the least of an index in memory.
const MEMORY_BYTES_MIN: u64 = KEY_BYTES as u64 + 8;

/// How much is measured of whom.
struct Plan {
    keys: u64,
    value_bytes: usize,
    time: Duration,
    rounds: usize,
    /// Pause before the space is measured.
    rest: Duration,
    dir: String,
    phases: Vec<Phase>,
    systems: Vec<&'static System>,
    /// The only numbers of threads to measure gets and durable sets with; all if empty.
    threads: Vec<usize>,
    values: Values,
}

pub(crate) fn run(args: &mut Args) -> Outcome {
    let plan = Plan::take(args)?;
    print_machine()?;
    plan.load()?;
    plan.timed()?;
    plan.space()?;
    plan.memory()?;
    Ok(true)
}

impl Plan {
    fn take(args: &mut Args) -> Result<Plan, BoxError> {
        let keys = args.take("keys", 100_000)?;
        let value_bytes = args.take("value-bytes", 100)?;
        let time = Duration::try_from_secs_f64(args.take("seconds", 0.5)?)?;
        let rounds = args.take("rounds", 3)?;
        let rest = Duration::try_from_secs_f64(args.take("rest", 10.0)?)?;
        let dir = args.take("dir", ".".to_owned())?;
        let phases = chosen(&args.take("only", String::new())?, Phase::ALL, |phase| phase.name())?;
        let systems = chosen(&args.take("systems", String::new())?, SYSTEMS, |one| one.name)?;
        let threads: String = args.take("threads", String::new())?;
        let threads = threads.split(',').filter(|one| !one.is_empty()).map(str::parse);
        let threads = threads.collect::<Result<Vec<_>, _>>()?;
        args.finish()?;
        let values = Values::new(value_bytes);
        if keys == 0 || rounds == 0 {
            return Err("at least one key and one round are needed".into());
        }
        Ok(Plan { keys, value_bytes, time, rounds, rest, dir, phases, systems, threads, values })
    }

    /// The systems that take part in a phase; none if the phase was not asked for.
    fn systems(&self, phase: Phase) -> Vec<&'static System> {
        let asked = self.phases.contains(&phase);
        let takes_part = |system: &&System| asked && system.phases.contains(&phase);
        self.systems.iter().copied().filter(takes_part).collect()
    }

    fn temporary(&self) -> Result<TempDir, BoxError> {
        Ok(tempfile::tempdir_in(&self.dir)?)
    }

    /// Batches into a new store, without waiting for the disk.
    fn load(&self) -> Result<(), BoxError> {
        let systems = self.systems(Phase::Load);
        let mut cell = Cell::new("load, batches of 1000", "1/s", &systems);
        self.in_turns(&systems, &mut cell, |_, system| {
            let dir = self.temporary()?;
            let peer = (system.open)(dir.path())?;
            let start = Instant::now();
            load_all(&*peer, self.keys, &self.values)?;
            let rate = per_second(self.keys, start.elapsed());
            peer.sync()?;
            Ok(rate)
        })?;
        cell.print()
    }

    /// The phases that work on stores which stay.
    fn timed(&self) -> Result<(), BoxError> {
        let phases = [Phase::Reopen, Phase::Get, Phase::Overwrite, Phase::Mix, Phase::Durable];
        let has_part = |system: &&&System| {
            phases
                .iter()
                .any(|phase| self.systems(*phase).iter().any(|one| one.name == system.name))
        };
        let mut stores = Vec::new();
        for system in self.systems.iter().filter(has_part) {
            progress(&format!("loading {}", system.name));
            let dir = self.temporary()?;
            let peer = (system.open)(dir.path())?;
            load_all(&*peer, self.keys, &self.values)?;
            peer.sync()?;
            stores.push(Store { system, peer: Some(peer), dir });
        }
        if self.phases.contains(&Phase::Reopen) {
            self.reopen(&mut stores)?;
        }
        for threads in self.threads(GET_THREADS) {
            self.slices(Phase::Get, "random get", threads, &stores, |store, rng, value| {
                self.get(store, rng, value)
            })?;
        }
        self.slices(Phase::Overwrite, "overwrite, not synced", 1, &stores, |store, rng, _| {
            store.put(&self.any_key(rng), self.values.any(rng))
        })?;
        let mix = "95 % gets, 5 % sets, not synced";
        self.slices(Phase::Mix, mix, MIX_THREADS, &stores, |store, rng, value| {
            if rng.below(100) < MIX_SETS {
                return store.put(&self.any_key(rng), self.values.any(rng));
            }
            self.get(store, rng, value)
        })?;
        for threads in self.threads(DURABLE_THREADS) {
            self.slices(Phase::Durable, "durable set", threads, &stores, |store, rng, _| {
                store.put_durable(&self.any_key(rng), self.values.any(rng))
            })?;
        }
        Ok(())
    }

    fn threads(&self, all: [usize; 3]) -> impl Iterator<Item = usize> {
        let is_asked = |one: &usize| self.threads.is_empty() || self.threads.contains(one);
        all.into_iter().filter(is_asked)
    }

    fn any_key(&self, rng: &mut Rng) -> Key {
        key(rng.below(self.keys))
    }

    fn get(&self, store: &dyn Peer, rng: &mut Rng, value: &mut Vec<u8>) -> Result<(), BoxError> {
        if store.get(&self.any_key(rng), value)? && value.len() == self.value_bytes {
            return Ok(());
        }
        Err("a key that was loaded is not there".into())
    }

    /// One cell: every round a slice of each store that takes part.
    fn slices(
        &self,
        phase: Phase,
        name: &str,
        threads: usize,
        stores: &[Store],
        operation: impl Fn(&dyn Peer, &mut Rng, &mut Vec<u8>) -> Result<(), BoxError> + Sync,
    ) -> Result<(), BoxError> {
        let systems = self.systems(phase);
        let plural = if threads == 1 { "" } else { "s" };
        let name = format!("{name}, {threads} thread{plural}");
        let mut cell = Cell::new(&name, "1/s", &systems);
        let durable = phase == Phase::Durable;
        self.in_turns(&systems, &mut cell, |round, system| {
            let store = stores.iter().find(|store| store.system.name == system.name);
            let store = store.and_then(|store| store.peer.as_deref()).ok_or("not loaded")?;
            store.prepare(durable)?;
            let stride = if durable { 1 } else { 32 };
            let slice = Slice { threads, time: self.time, stride, seed: round as u64 };
            let rate = slice.rate(|rng, value| operation(store, rng, value))?;
            store.prepare(false)?;
            if phase != Phase::Get {
                store.sync()?;
            }
            Ok(rate)
        })?;
        cell.print()
    }

    /// From a closed store to the first value.
    fn reopen(&self, stores: &mut [Store]) -> Result<(), BoxError> {
        let systems = self.systems(Phase::Reopen);
        let mut cell = Cell::new("reopen and first get", "ms", &systems);
        self.in_turns(&systems, &mut cell, |round, system| {
            let store = stores.iter_mut().find(|store| store.system.name == system.name);
            let store = store.ok_or("not loaded")?;
            store.peer = None;
            let start = Instant::now();
            let peer = (system.open)(store.dir.path())?;
            self.get(&*peer, &mut Rng::new(round as u64), &mut Vec::new())?;
            let elapsed = start.elapsed();
            store.peer = Some(peer);
            Ok(elapsed.as_secs_f64() * 1e3)
        })?;
        cell.print()
    }

    /// Runs all rounds of a cell.
    fn in_turns(
        &self,
        systems: &[&'static System],
        cell: &mut Cell,
        mut run: impl FnMut(usize, &'static System) -> Result<f64, BoxError>,
    ) -> Result<(), BoxError> {
        if systems.is_empty() {
            return Ok(());
        }
        for round in 0..=self.rounds {
            let mut values = vec![0.0; systems.len()];
            for at in turn(round, systems.len()) {
                let failed = |error| format!("{}, {}: {error}", cell.name, systems[at].name);
                values[at] = run(round, systems[at]).map_err(failed)?;
            }
            let shown = systems.iter().zip(&values);
            let shown: Vec<_> =
                shown.map(|(system, value)| format!("{} {value:.6}", system.name)).collect();
            let (name, rounds) = (&cell.name, self.rounds);
            progress(&format!("{name}, round {round} of {rounds}: {}", shown.join(", ")));
            if round > 0 {
                cell.add(&values);
            }
        }
        Ok(())
    }

    /// The directory's size after the load and after overwrites, each after a rest. Needs no
    /// turns: bytes do not depend on the rest of the machine.
    fn space(&self) -> Result<(), BoxError> {
        let systems = self.systems(Phase::Space);
        let data = as_f64(self.keys * (KEY_BYTES + self.value_bytes) as u64);
        let mut loaded = Cell::new("bytes on disk after the load", "B", &systems).limited(data);
        let name = format!("bytes on disk after {OVERWRITES} x overwrite");
        let mut overwritten = Cell::new(&name, "B", &systems).limited(data);
        let (mut loaded_bytes, mut overwritten_bytes) = (Vec::new(), Vec::new());
        for system in &systems {
            progress(&format!("space of {}", system.name));
            let dir = self.temporary()?;
            let peer = (system.open)(dir.path())?;
            let rested_bytes = || -> Result<f64, BoxError> {
                peer.sync()?;
                thread::sleep(self.rest);
                Ok(as_f64(allocated_bytes(dir.path())?))
            };
            load_all(&*peer, self.keys, &self.values)?;
            loaded_bytes.push(rested_bytes()?);
            let mut rng = Rng::new(OVERWRITES);
            let keys = self.keys * OVERWRITES;
            load_keys(&*peer, keys, &self.values, |_| self.any_key(&mut rng))?;
            overwritten_bytes.push(rested_bytes()?);
        }
        loaded.add(&loaded_bytes);
        overwritten.add(&overwritten_bytes);
        loaded.print()?;
        overwritten.print()
    }

    /// Anonymous memory: a process for each system that loads, and one that opens and reads.
    fn memory(&self) -> Result<(), BoxError> {
        let systems = self.systems(Phase::Memory);
        let least = as_f64(self.keys * MEMORY_BYTES_MIN);
        let mut loaded = Cell::new("memory after the load", "B", &systems).limited(least);
        let name = "memory after an open and random gets";
        let mut read = Cell::new(name, "B", &systems).limited(least);
        let (mut loaded_bytes, mut read_bytes) = (Vec::new(), Vec::new());
        for system in &systems {
            progress(&format!("memory of {}", system.name));
            let dir = self.temporary()?;
            let measure = || memory::measure(system, self.keys, self.value_bytes, dir.path());
            loaded_bytes.push(measure()?);
            read_bytes.push(measure()?);
        }
        loaded.add(&loaded_bytes);
        read.add(&read_bytes);
        loaded.print()?;
        read.print()
    }
}

/// A system's store during the timed phases.
struct Store {
    system: &'static System,
    peer: Option<Box<dyn Peer>>,
    // Removed after the store is closed, in the order of the fields.
    dir: TempDir,
}

/// The figures of one measurement, a row for each system.
struct Cell {
    name: String,
    rows: Vec<(&'static System, Figure)>,
    limit: Option<f64>,
}

impl Cell {
    fn new(name: &str, unit: &'static str, systems: &[&'static System]) -> Cell {
        let figure = |system: &System| Figure {
            name: name.to_owned(),
            system: system.name,
            unit,
            ..Figure::default()
        };
        let rows = systems.iter().map(|system| (*system, figure(system))).collect();
        Cell { name: name.to_owned(), rows, limit: None }
    }

    /// With a limit that needs no measurement.
    fn limited(self, limit: f64) -> Cell {
        Cell { limit: Some(limit), ..self }
    }

    /// Adds the values of one round.
    fn add(&mut self, values: &[f64]) {
        for ((_, figure), value) in self.rows.iter_mut().zip(values) {
            figure.runs.push(*value);
        }
    }

    fn with_role(&self, role: Role) -> impl Iterator<Item = &Figure> {
        self.rows.iter().filter(move |(system, _)| system.role == role).map(|(_, figure)| figure)
    }

    /// The figures, each beside its peer.
    fn figures(&self) -> Vec<Figure> {
        let ours = self.with_role(Role::Ours).next();
        let better = |one: &&Figure, other: &&Figure| {
            let order = one.value().total_cmp(&other.value());
            if one.more_is_better() { order } else { order.reverse() }
        };
        let best = self.with_role(Role::Peer).max_by(better);
        let limit = self.limit.or(self.with_role(Role::Limit).next().map(Figure::value));
        let beside = |(system, figure): &(&System, Figure)| {
            let peer = if system.role == Role::Ours { best } else { ours };
            let figure = peer.map_or(figure.clone(), |peer| figure.clone().beside(peer));
            Figure { limit: limit.filter(|_| system.role != Role::Limit), ..figure }
        };
        self.rows.iter().map(beside).collect()
    }

    fn print(&self) -> Result<(), BoxError> {
        for figure in self.figures() {
            figure.print()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Args {
        Args::parse(line.split_whitespace().map(str::to_owned)).unwrap()
    }

    #[test]
    fn a_small_run_goes_through_every_phase_but_memory() {
        let dir = tempfile::tempdir().unwrap();
        let line = "engines --keys 200 --seconds 0.01 --rounds 1 --rest 0 \
                    --only load,reopen,get,overwrite,mix,durable,space --dir";
        let mut args = args(&format!("{line} {}", dir.path().display()));
        assert!(run(&mut args).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it cleans up");
    }

    #[test]
    fn unknown_phases_and_systems_are_named() {
        let error = run(&mut args("engines --only load,gte")).unwrap_err().to_string();
        assert!(error.contains("`gte` is not one of load,"), "{error}");
        let error = run(&mut args("engines --systems postgres")).unwrap_err().to_string();
        assert!(error.contains("`postgres` is not one of bare loop,"), "{error}");
    }

    #[test]
    fn ours_is_put_beside_the_best_peer_and_others_beside_ours() {
        let named = |name| SYSTEMS.iter().find(|system| system.name == name).unwrap();
        let systems = ["bare loop", "aryavarth", "sled (not a sync)", "redb", "fjall"].map(named);
        let mut cell = Cell::new("durable set", "1/s", &systems);
        cell.add(&[100.0, 80.0, 90.0, 40.0, 60.0]);
        cell.add(&[100.0, 60.0, 90.0, 40.0, 60.0]);
        let figures = cell.figures();
        let beside: Vec<_> =
            figures.iter().map(|one| (one.peer.unwrap(), one.ratio.unwrap())).collect();
        // Not beside sled, which promises less.
        assert_eq!(beside[1].0, "fjall");
        assert!((beside[1].1 - f64::midpoint(80.0 / 60.0, 1.0)).abs() < 1e-9);
        assert_eq!(beside[3].0, "aryavarth");
        assert_eq!(figures[0].limit, None);
        assert_eq!(figures[1].limit, Some(100.0));
    }
}
