//! Histories of eight threads, checked for linearizability while compaction runs without pause.
//!
//! Many short histories rather than a long one: in a round each thread does a few operations on a
//! few keys that it shares with all others, then all threads stop, the keys are read, and
//! the history is checked. The next round begins with the values at the end of this one,
//! so nothing can be lost between rounds either. Values are short of a kilobyte and segments of
//! 4 KiB, so that the log rotates every few writes, and keys come and go.
//!
//! `CONCURRENT_SECONDS` says how long each test runs (default 2).

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aryavarth::fs::{Crash, SimFs};
use aryavarth::{
    Batch, Durability, KeyRange, KvStore, KvsEngine, MemoryEngine, Options, Result, Wait,
};

use crate::linear::{Answer, Event, Op, State, check};

const THREADS: u64 = 8;
const GROUPS: usize = 4;
/// Keys of a group.
const KEYS: usize = 3;
const ALL: [usize; KEYS] = [0, 1, 2];
/// Keys that a batch sets beside those of the group, between any two of them.
const OTHER_KEYS: usize = 8;
/// Operations of one thread in one round.
const OPS: usize = 8;

fn seconds() -> Duration {
    let seconds = std::env::var("CONCURRENT_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % end
    }
}

fn key(group: usize, key: usize) -> Vec<u8> {
    format!("{group}/{key}").into_bytes()
}

/// A value's bytes, of a length that depends on the value, so that records differ in size.
fn bytes(value: u64) -> Vec<u8> {
    let mut bytes = value.to_le_bytes().to_vec();
    bytes.resize(8 + (value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize % 700, 0x5a);
    bytes
}

fn value(read: &[u8]) -> u64 {
    let value = u64::from_le_bytes(read[..8].try_into().unwrap());
    assert_eq!(read, bytes(value), "a value that nobody wrote");
    value
}

/// In half of the groups everything that writes is a batch or a closure on all of the keys: only
/// there is a scan one moment, because it passes over single writes as they come.
fn writes_all(group: usize) -> bool {
    group % 2 == 1
}

/// The next act of a thread in a group.
enum Step {
    Op(Op),
    /// Reads all keys, one after the other.
    Each,
    Scan,
}

fn choose(random: &mut Random, group: usize, fresh: u64, held: Option<u64>) -> Step {
    let key = random.below(KEYS);
    let whole = writes_all(group);
    let op = match random.below(16) {
        0..=2 => Op::Read(vec![key]),
        3 | 4 => return Step::Each,
        5 => Op::Read(ALL.to_vec()),
        6 | 7 => return Step::Scan,
        8 | 9 if !whole => Op::Write(vec![(key, Some(fresh))]),
        10 if !whole => Op::Write(vec![(key, None)]),
        11 | 12 if !whole => Op::CompareAndSet { key, old: held, new: fresh },
        13 if !whole => Op::Increment(vec![key]),
        11..=13 => Op::Increment(ALL.to_vec()),
        14 => Op::Write(ALL.map(|key| (key, None)).to_vec()),
        _ => Op::Write(ALL.map(|key| (key, Some(fresh))).to_vec()),
    };
    Step::Op(op)
}

/// A batch of the writes. One that is all sets has other keys in between, so that publishing it
/// takes long enough for a reader to look.
fn batch(group: usize, writes: &[(usize, Option<u64>)]) -> Batch {
    let others = if writes.len() > 1 { OTHER_KEYS } else { 0 };
    let mut batch = Batch::new();
    for &(at, value) in writes {
        let Some(value) = value else {
            batch.delete(key(group, at));
            continue;
        };
        batch.put(key(group, at), bytes(value));
        batch.extend((0..others).map(|other| (format!("{group}~{other}"), "")));
    }
    batch
}

/// Does one operation; its answer is as durable as the handle's level asks.
fn run<E: KvsEngine>(engine: &E, group: usize, op: &Op) -> Result<Answer> {
    let (answer, position) = match op {
        Op::Read(keys) if keys.len() == 1 => {
            let (read, position) = engine.read(&key(group, keys[0]), Wait::Yes)?;
            (Answer::Values(vec![read.as_deref().map(value)]), position)
        }
        Op::Write(writes) => {
            let (removed, position) = engine.write(&batch(group, writes))?;
            (Answer::Removed(removed), position)
        }
        Op::Read(_) | Op::Increment(_) | Op::CompareAndSet { .. } => {
            let (held, position) = engine.transact(&[], |tx| {
                let mut get = |at: usize| Ok(tx.read(&key(group, at))?.as_deref().map(value));
                match op {
                    Op::Write(_) => unreachable!("no closure"),
                    Op::Read(keys) => keys.iter().map(|&at| get(at)).collect(),
                    Op::Increment(keys) => {
                        let held = keys.iter().map(|&at| get(at)).collect::<Result<State>>()?;
                        for (&at, held) in keys.iter().zip(&held) {
                            tx.put(key(group, at), bytes(held.unwrap_or(0) + 1));
                        }
                        Ok(held)
                    }
                    &Op::CompareAndSet { key: at, old, new } => {
                        let held = get(at)?;
                        if held == old {
                            tx.put(key(group, at), bytes(new));
                        }
                        Ok(vec![held])
                    }
                }
            })?;
            (Answer::Values(held), position)
        }
    };
    engine.wait(position, engine.durability())?;
    Ok(answer)
}

fn scan<E: KvsEngine>(engine: &E, group: usize) -> Result<State> {
    let page = engine.scan(&KeyRange::prefix(format!("{group}/").as_bytes()), 16)?;
    engine.wait(page.position, engine.durability())?;
    let mut state = vec![None; KEYS];
    for (found, read) in page.entries {
        let at = ALL.iter().position(|&at| key(group, at) == found).expect("a key of the group");
        state[at] = Some(value(&read));
    }
    Ok(state)
}

/// A clock whose ticks order the calls and returns of all threads.
#[derive(Default)]
struct Ticks(AtomicU64);

impl Ticks {
    fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// The history of one thread in one round, by group. After its first operation that fails a thread
/// only looks around.
fn thread<E: KvsEngine>(engine: &E, ticks: &Ticks, seed: u64) -> Vec<(usize, Event)> {
    let mut random = Random::new(seed);
    let mut events = Vec::new();
    let mut held = None;
    let mut failed = false;
    let mut record = |group: usize, op: Op, held: &mut Option<u64>| {
        let call = ticks.tick();
        let answer = run(engine, group, &op).ok();
        let end = ticks.tick();
        if let Some(Answer::Values(values)) = &answer {
            *held = values[0];
        }
        let ok = answer.is_some();
        events.push((group, Event { op, answer, call, end }));
        ok
    };
    let mut scans = Vec::new();
    for i in 0..OPS {
        let group = random.below(GROUPS);
        // No other thread and no other round writes the same.
        let fresh = (seed << 8 | i as u64) << 20;
        let ok = match choose(&mut random, group, fresh, held) {
            Step::Op(op) if !failed => record(group, op, &mut held),
            Step::Op(_) | Step::Each => {
                ALL.iter().all(|&at| record(group, Op::Read(vec![at]), &mut held))
            }
            Step::Scan => {
                let call = ticks.tick();
                let state = scan(engine, group).ok();
                let ok = state.is_some();
                scans.extend(seen(group, state, call, ticks.tick()));
                ok
            }
        };
        failed |= !ok;
    }
    events.extend(scans);
    events
}

/// The answer of a scan: all of it at one moment where no thread writes single keys, else each key at one.
fn seen(group: usize, state: Option<State>, call: u64, end: u64) -> Vec<(usize, Event)> {
    let Some(state) = state else { return Vec::new() };
    let event = |keys: &[usize]| {
        let values = keys.iter().map(|&key| state[key]).collect();
        let (op, answer) = (Op::Read(keys.to_vec()), Some(Answer::Values(values)));
        (group, Event { op, answer, call, end })
    };
    if writes_all(group) { vec![event(&ALL)] } else { ALL.map(|key| event(&[key])).to_vec() }
}

/// One round: all threads at once, each on one of the handles, which may differ in their level.
fn round<E: KvsEngine>(handles: &[E], ticks: &Ticks, seed: u64) -> Vec<(usize, Event)> {
    let start = Barrier::new(THREADS as usize);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|i| {
                let (start, engine) = (&start, &handles[i as usize % handles.len()]);
                scope.spawn(move || {
                    start.wait();
                    thread(engine, ticks, seed * THREADS + i + 1)
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// Reads the keys of all groups, which ends each group's history, and checks the histories.
fn close<E: KvsEngine>(
    engine: &E,
    ticks: &Ticks,
    states: &mut [State],
    mut events: Vec<(usize, Event)>,
    seed: u64,
) {
    for (group, state) in states.iter_mut().enumerate() {
        let call = ticks.tick();
        let now: State = ALL
            .map(|at| engine.read(&key(group, at), Wait::Yes).unwrap().0.as_deref().map(value))
            .to_vec();
        let values = Some(Answer::Values(now.clone()));
        let last = Event { op: Op::Read(ALL.to_vec()), answer: values, call, end: ticks.tick() };
        events.push((group, last));
        let history: Vec<Event> =
            events.iter().filter(|(of, _)| *of == group).map(|(_, event)| event.clone()).collect();
        if let Err(story) = check(state, &history) {
            panic!("round {seed}, group {group}: {story}");
        }
        *state = now;
    }
}

/// Rounds until the time is up, with compaction beside them; returns how many operations they had.
fn check_histories<E: KvsEngine>(handles: &[E], time: Duration) -> usize {
    let (stop, compactions) = (AtomicBool::new(false), AtomicU64::new(0));
    let deadline = Instant::now() + time;
    let (mut rounds, mut operations) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                handles[0].compact().unwrap();
                compactions.fetch_add(1, Ordering::Relaxed);
                thread::yield_now();
            }
        });
        // A failed check must not leave the compaction running.
        let result = thread::Builder::new().spawn_scoped(scope, || {
            let ticks = Ticks::default();
            let mut states = vec![vec![None; KEYS]; GROUPS];
            while Instant::now() < deadline {
                rounds += 1;
                let events = round(handles, &ticks, rounds);
                operations += events.len();
                close(&handles[0], &ticks, &mut states, events, rounds);
            }
        });
        let result = result.unwrap().join();
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    let name = handles[0].name();
    println!("{name}: {rounds} histories, {operations} operations, {compactions:?} compactions");
    operations
}

fn options(fs: &SimFs) -> Options {
    let fs = std::sync::Arc::new(fs.clone());
    Options { fs, segment_bytes_min: 4096, seed: 7, ..Options::default() }
}

/// The handles of a store, of every level.
fn levels(store: &KvStore) -> [KvStore; 3] {
    [Durability::Always, Durability::Os, Durability::Interval(5)]
        .map(|level| store.with_durability(level))
}

#[test]
fn every_history_has_an_order_that_explains_it() {
    let store = KvStore::open_with("/store", options(&SimFs::new())).unwrap();
    check_histories(&levels(&store), seconds());
    assert!(store.stats().compactions > 0);
    store.close().unwrap();
}

#[test]
fn every_history_on_a_real_disk_has_an_order_that_explains_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes_min: 4096, ..Options::default() };
    let store = KvStore::open_with(dir.path(), options).unwrap();
    check_histories(&levels(&store), seconds() / 2);
    store.close().unwrap();
}

#[test]
fn the_model_has_such_histories_too() {
    check_histories(&[MemoryEngine::new()], seconds() / 4);
}

#[cfg(feature = "sled")]
#[test]
fn sled_has_such_histories_too() {
    let dir = tempfile::tempdir().unwrap();
    let engine = aryavarth::SledKvsEngine::open(dir.path()).unwrap();
    check_histories(&[engine], seconds() / 2);
}

/// The power fails in the middle of a history. Acknowledged writes are there afterwards, values that were
/// seen stay, and each write under way is there wholly or not at all: the history, with the state that
/// the next open finds as its end, still has an order that explains it.
#[test]
fn every_history_that_a_power_cut_ends_has_an_order_that_explains_it() {
    let deadline = Instant::now() + seconds();
    let ticks = Ticks::default();
    let mut random = Random::new(11);
    let mut states = vec![vec![None; KEYS]; GROUPS];
    let mut fs = SimFs::new();
    let (mut rounds, mut cut) = (0, 0);
    while Instant::now() < deadline {
        rounds += 1;
        let store = KvStore::open_with("/store", options(&fs)).unwrap();
        fs.fail_from(fs.calls() + random.below(400) as u64);
        let stop = AtomicBool::new(rounds % 2 == 0);
        let events = thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && store.compact().is_ok() {
                    thread::yield_now();
                }
            });
            let events = round(std::slice::from_ref(&store), &ticks, 1_000_000 + rounds);
            stop.store(true, Ordering::Relaxed);
            events
        });
        cut += u64::from(events.iter().any(|(_, event)| event.answer.is_none()));
        fs.fail_from(0);
        drop(store);
        fs = match random.below(3) {
            0 => fs.crash(Crash::Nothing),
            1 => fs.crash(Crash::Everything),
            _ => fs.crash(Crash::Some { seed: rounds }),
        };
        let store = KvStore::open_with("/store", options(&fs)).unwrap();
        close(&store, &ticks, &mut states, events, rounds);
        drop(store);
    }
    println!("{rounds} histories, {cut} of them cut short");
    assert!(cut > 0);
}
