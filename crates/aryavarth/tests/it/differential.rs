//! Random operations on an engine and on `MemoryEngine`: the same answers, all the way.
//!
//! Three spaces, a dozen keys, deadlines that come soon and a clock that moves. The seed of a run
//! that fails is in its message; `DIFFERENTIAL_OPERATIONS` makes the run longer, and
//! `DIFFERENTIAL_SEED` begins it elsewhere.
//!
//! An engine removes expired keys when it gets to them, so its counts may be above the model's,
//! until they agree. And it may or may not call it a write when nothing is removed or put where
//! nothing was: a watch must notice each change of a key, and must not notice more than the model.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use aryavarth::{
    Batch, Count, Deadline, KeyRange, KvsEngine, KvsError, MemoryEngine, Stored, Transaction, Wait,
    Watch,
};

use crate::engines::at_hand;
use crate::runner::TestClock;
use crate::workload::Dice;

stories! { [every] timed [
    random_operations_are_those_of_the_model,
] }

stories! { [every_unbroken] timed [
    many_random_operations_and_watches_are_those_of_the_model,
] }

const SPACES: u32 = 3;
const KEYS: u64 = 12;
const WATCHES_MAX: usize = 10;

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |number| number.parse().expect("a number"))
}

fn random_operations_are_those_of_the_model<E: KvsEngine>(engine: &E, clock: &Arc<TestClock>) {
    Run::new(engine, clock, false).run(from_environment("DIFFERENTIAL_OPERATIONS", 20_000) / 20);
}

fn many_random_operations_and_watches_are_those_of_the_model<E: KvsEngine>(
    engine: &E,
    clock: &Arc<TestClock>,
) {
    Run::new(engine, clock, true).run(from_environment("DIFFERENTIAL_OPERATIONS", 20_000));
}

/// The acts of a closure.
#[derive(Debug)]
enum Act {
    Select(u32),
    Store(Vec<u8>, Stored),
    Remove(Vec<u8>),
    Find(Vec<u8>),
    Deadline(Vec<u8>),
    Keys(KeyRange, usize),
    Count,
    Clear,
    Swap(u32, u32),
    Fail,
}

/// Its answers.
#[derive(Debug, PartialEq)]
enum Seen {
    Stored(Option<Stored>),
    /// Of a key, and whether there is one.
    Deadline(Option<Deadline>),
    Keys(Vec<Vec<u8>>),
    Count(Count),
}

fn act(transaction: &mut Transaction<'_>, acts: &[Act]) -> aryavarth::Result<Vec<Seen>> {
    let mut seen = Vec::new();
    for act in acts {
        match act {
            Act::Select(space) => transaction.select(*space),
            Act::Store(key, stored) => transaction.store(key.clone(), stored.clone()),
            Act::Remove(key) => transaction.delete(key.clone()),
            Act::Find(key) => seen.push(Seen::Stored(transaction.find(key)?)),
            Act::Deadline(key) => {
                let deadline = transaction.deadline(key)?;
                seen.push(Seen::Deadline(deadline));
            }
            Act::Keys(range, limit) => seen.push(Seen::Keys(transaction.keys(range, *limit)?)),
            Act::Count => seen.push(Seen::Count(transaction.count()?)),
            Act::Clear => transaction.clear(),
            Act::Swap(a, b) => transaction.swap(*a, *b),
            Act::Fail => return Err(KvsError::KeyNotFound),
        }
    }
    Ok(seen)
}

/// A key that is watched on both sides, and its value when that began.
struct Watched {
    space: u32,
    key: Vec<u8>,
    held: Option<Stored>,
    by_engine: Watch,
    by_model: Watch,
}

struct Run<'a, E> {
    engine: &'a E,
    model: MemoryEngine,
    clock: &'a TestClock,
    seed: u64,
    dice: Dice,
    values: u64,
    /// Whether one life of the store sees it all, and so watches, and a clock that goes back.
    is_unbroken: bool,
    watched: VecDeque<Watched>,
}

impl<'a, E: KvsEngine> Run<'a, E> {
    fn new(engine: &'a E, clock: &'a Arc<TestClock>, is_unbroken: bool) -> Self {
        let seed = from_environment("DIFFERENTIAL_SEED", 1);
        let model = MemoryEngine::with_clock(Arc::<TestClock>::clone(clock));
        let (dice, watched) = (Dice::new(seed), VecDeque::new());
        Run { engine, model, clock, seed, dice, values: 0, is_unbroken, watched }
    }

    fn run(mut self, operations: u64) {
        for n in 0..operations {
            let what = format!("operation {n} of seed {}", self.seed);
            self.operation(&what);
            self.compare(&what);
        }
        self.wait_for_equal_counts();
    }

    fn operation(&mut self, what: &str) {
        let space = self.space();
        let (engine, model) = (self.engine.with_space(space), self.model.with_space(space));
        match self.dice.below(20) {
            0..=6 => {
                let batch = self.batch();
                let what = format!("{what}, in {space}: {batch:?}");
                let removed = engine.write(&batch).unwrap().0;
                assert_eq!(removed, model.write(&batch).unwrap().0, "{what}");
            }
            7..=13 => {
                let acts: Vec<Act> = (0..=self.dice.below(7)).map(|_| self.act()).collect();
                let what = format!("{what}, in {space}: {acts:?}");
                let announced: &[&[u8]] = if self.dice.below(2) == 0 { &[] } else { &[b"3", b"7"] };
                let seen = engine.transact(announced, |transaction| act(transaction, &acts));
                let expected = model.transact(announced, |transaction| act(transaction, &acts));
                assert_same(seen.map(|(seen, _)| seen), expected.map(|(seen, _)| seen), &what);
            }
            14..=16 => drop(self.clock.advance(self.dice.below(10))),
            17 if self.is_unbroken => self.clock.set(model.now_ms() - self.dice.below(100)),
            18 if self.dice.below(50) == 0 => engine.compact().unwrap(),
            _ if self.is_unbroken => self.watch(space),
            _ => {}
        }
    }

    /// Looks at everything that there is.
    fn compare(&mut self, what: &str) {
        assert_eq!(self.engine.now_ms(), self.model.now_ms(), "{what}");
        // Removes expired keys from the model.
        self.model.write(&Batch::new()).unwrap();
        let (range, limit) = (self.range(), 1 + self.dice.below(KEYS) as usize);
        for space in 0..SPACES {
            let (engine, model) = (self.engine.with_space(space), self.model.with_space(space));
            let what = format!("{what}, seen in {space}");
            assert_eq!(pages(&engine, &range, limit), pages(&model, &range, limit), "{what}");
            let entries = |page: aryavarth::Page| (page.entries, page.done);
            let scanned = entries(engine.scan(&KeyRange::all(), 100).unwrap());
            assert_eq!(scanned, entries(model.scan(&KeyRange::all(), 100).unwrap()), "{what}");
            let key = self.key();
            let found = engine.find(&key, Wait::Yes).unwrap().0;
            assert_eq!(found, model.find(&key, Wait::Yes).unwrap().0, "{what}, {key:?}");
            if let Some((now, _)) = at_hand(engine.find(&key, Wait::No)).unwrap() {
                assert_eq!(now, found, "{what}, {key:?}");
            }
            let count = engine.count().unwrap().0;
            assert_is_at_least(count, model.count().unwrap().0, &what);
        }
        self.look_at_watches(what);
    }

    fn watch(&mut self, space: u32) {
        let key = self.key();
        let (engine, model) = (self.engine.with_space(space), self.model.with_space(space));
        let held = model.find(&key, Wait::Yes).unwrap().0;
        let (by_engine, by_model) = (engine.watch(&key).unwrap(), model.watch(&key).unwrap());
        self.watched.push_back(Watched { space, key, held, by_engine, by_model });
        if self.watched.len() > WATCHES_MAX {
            self.watched.pop_front();
        }
    }

    fn look_at_watches(&self, what: &str) {
        let now_ms = self.model.now_ms();
        for Watched { space, key, held, by_engine, by_model } in &self.watched {
            let what = format!("{what}, watched in {space}: {key:?}");
            let is_touched = by_engine.is_touched(now_ms);
            assert!(!is_touched || by_model.is_touched(now_ms), "{what}, touched by nothing");
            let holds = self.model.with_space(*space).find(key, Wait::Yes).unwrap().0;
            assert!(is_touched || holds == *held, "{what}, not touched");
        }
    }

    fn wait_for_equal_counts(&self) {
        let begin = Instant::now();
        let is_equal = |space| {
            let count = self.engine.with_space(space).count().unwrap().0;
            count == self.model.with_space(space).count().unwrap().0
        };
        while !(0..SPACES).all(is_equal) {
            assert!(begin.elapsed() < Duration::from_secs(60), "nobody sweeps");
            self.engine.write(Batch::new().put("any", "write").delete("any")).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(self.engine.stats().keys, self.model.stats().keys);
    }

    fn space(&mut self) -> u32 {
        self.dice.below(u64::from(SPACES)) as u32
    }

    fn key(&mut self) -> Vec<u8> {
        self.dice.below(KEYS).to_string().into_bytes()
    }

    fn range(&mut self) -> KeyRange {
        let range = match self.dice.below(3) {
            0 => KeyRange::all(),
            1 => KeyRange::all().after(&self.key()),
            _ => KeyRange::prefix(b"1"),
        };
        if self.dice.below(2) == 0 { range.reversed() } else { range }
    }

    /// A value that no other write has, half of the time with a deadline, which may be in the past.
    fn stored(&mut self) -> Stored {
        self.values += 1;
        let bytes = if self.dice.below(10) == 0 { 2000 } else { 1 };
        let value = format!("{:>bytes$}", self.values).into_bytes();
        let at = self.model.now_ms() - 2 + self.dice.below(40);
        let deadline = if self.dice.below(2) == 0 { Deadline::At(at) } else { Deadline::Never };
        Stored { value, deadline }
    }

    fn batch(&mut self) -> Batch {
        let mut batch = Batch::new();
        for _ in 0..=self.dice.below(4) {
            let key = self.key();
            if self.dice.below(3) == 0 {
                batch.delete(key);
            } else {
                let Stored { value, deadline } = self.stored();
                batch.put_with_deadline(key, value, deadline);
            }
        }
        batch
    }

    fn act(&mut self) -> Act {
        match self.dice.below(40) {
            0..=4 => Act::Select(self.space()),
            5..=14 => Act::Store(self.key(), self.stored()),
            15..=19 => Act::Remove(self.key()),
            20..=24 => Act::Find(self.key()),
            25..=28 => Act::Deadline(self.key()),
            29..=32 => Act::Keys(self.range(), self.dice.below(KEYS) as usize),
            33..=34 => Act::Count,
            35 => Act::Clear,
            36..=38 => Act::Swap(self.space(), self.space()),
            _ => Act::Fail,
        }
    }
}

fn pages<E: KvsEngine>(engine: &E, range: &KeyRange, limit: usize) -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut rest = range.clone();
    loop {
        let page = engine.keys(&rest, limit).unwrap();
        assert!(page.keys.len() <= limit && (page.done || !page.keys.is_empty()));
        keys.extend(page.keys);
        if page.done {
            return keys;
        }
        rest = rest.after(keys.last().unwrap());
    }
}

fn assert_is_at_least(count: Count, expected: Count, what: &str) {
    assert!(count.keys >= expected.keys, "{what}: {count:?}, {expected:?}");
    // A key that has expired without being removed has a deadline, so the others are counted exactly.
    let without = |count: Count| count.keys - count.expiring;
    assert_eq!(without(count), without(expected), "{what}: {count:?}, {expected:?}");
}

fn assert_same(
    seen: Result<Vec<Seen>, KvsError>,
    expected: Result<Vec<Seen>, KvsError>,
    what: &str,
) {
    let (seen, expected) = match (seen, expected) {
        (Ok(seen), Ok(expected)) => (seen, expected),
        (Err(KvsError::KeyNotFound), Err(KvsError::KeyNotFound)) => return,
        (seen, expected) => panic!("{what}: {seen:?}, {expected:?}"),
    };
    assert_eq!(seen.len(), expected.len());
    for (seen, expected) in seen.into_iter().zip(expected) {
        match (seen, expected) {
            (Seen::Count(seen), Seen::Count(expected)) => assert_is_at_least(seen, expected, what),
            (seen, expected) => assert_eq!(seen, expected, "{what}"),
        }
    }
}
