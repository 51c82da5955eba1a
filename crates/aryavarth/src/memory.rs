//! An engine without a disk: the model that the others are tested against.
//!
//! One lock around ordered maps. Nothing survives the process; everything else of the contract
//! holds, so a test that passes here and fails on another engine has found a difference.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::task::{Poll, Waker};

use crate::clock::{ClockPair, StoreClock};
use crate::deadline::{Now, WALL};
use crate::engine::{
    Count, Deadline, Effects, Generation, Guide, Inside, KeyPage, KeyRange, KeyWalk, KvsEngine,
    Newest, Page, Position, Stored, Transaction, Wait, Watch, Watches, check_outside,
};
use crate::error::Result;
use crate::options::{Clock, Durability, Options, SystemClock};
use crate::record::{Batch, Write, check_key, check_value};
use crate::stats::Stats;
use crate::sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering, Rank, lock};

/// A store in memory, ordered, behind one lock.
///
/// ```
/// use aryavarth::{KvsEngine, MemoryEngine};
///
/// let engine = MemoryEngine::new();
/// engine.set("k".into(), "v".into())?;
/// assert_eq!(engine.get("k".into())?, Some("v".into()));
/// # Ok::<(), aryavarth::KvsError>(())
/// ```
#[derive(Clone, Debug)]
pub struct MemoryEngine {
    shared: Arc<Shared>,
    space: u32,
}

#[derive(Debug)]
struct Shared {
    spaces: Mutex<Spaces>,
    watches: Watches,
    guide: Guide,
    clock: StoreClock,
    expired_keys: AtomicU64,
    /// Keys of all spaces.
    keys: AtomicU64,
}

/// The spaces by their numbers, the first deadline of each, and how many keys there are in all: a
/// write looks at the spaces that it writes to and at those that have something to sweep.
#[derive(Debug, Default)]
struct Spaces {
    by_number: BTreeMap<u32, Space>,
    firsts: BTreeSet<(u64, u32)>,
    keys: u64,
}

impl Spaces {
    fn get(&self, number: u32) -> Option<&Space> {
        self.by_number.get(&number)
    }

    /// Changes a space, which is made if it is not there.
    fn change<R>(&mut self, number: u32, change: impl FnOnce(&mut Space) -> R) -> R {
        let space = self.by_number.entry(number).or_default();
        let (firsts, keys) = (space.firsts(), space.keys.len() as u64);
        let result = change(space);
        self.keys = self.keys + space.keys.len() as u64 - keys;
        for (before, now) in firsts.into_iter().zip(space.firsts()) {
            if now != before {
                before.map(|deadline| self.firsts.remove(&(deadline, number)));
                self.firsts.extend(now.map(|deadline| (deadline, number)));
            }
        }
        result
    }

    /// Removes what has expired; returns how many keys that were.
    fn sweep(&mut self, now: Now) -> u64 {
        let mut swept = 0;
        for from in [0, WALL] {
            while let Some(&(deadline, number)) = self.firsts.range((from, 0)..).next()
                && now.has_reached(deadline)
            {
                swept += self.change(number, |space| space.sweep(now));
            }
        }
        swept
    }
}

/// The keys of a space, and those that have a deadline by it.
#[derive(Clone, Debug, Default)]
struct Space {
    keys: BTreeMap<Vec<u8>, Stored>,
    deadlines: BTreeSet<(u64, Vec<u8>)>,
}

impl Space {
    /// Sets or removes a key; returns its old value.
    fn put(&mut self, key: Vec<u8>, stored: Option<Stored>) -> Option<Stored> {
        let old = match stored {
            Some(Stored { value, deadline }) => {
                // A deadline comes back as it does from a file.
                let word = deadline.word();
                let old =
                    self.keys.insert(key.clone(), Stored { value, deadline: Deadline::of(word) });
                self.forget(&key, old.as_ref());
                self.deadlines.extend(word.map(|word| (word, key)));
                return old;
            }
            None => self.keys.remove(&key),
        };
        self.forget(&key, old.as_ref());
        old
    }

    fn forget(&mut self, key: &[u8], old: Option<&Stored>) {
        if let Some(deadline) = old.and_then(|old| old.deadline.word()) {
            self.deadlines.remove(&(deadline, key.to_vec()));
        }
    }

    /// The first deadline by each clock.
    fn firsts(&self) -> [Option<u64>; 2] {
        let first = |from, to| self.deadlines.range((from, Vec::new())..=(to, Vec::new())).next();
        let by_store = first(0, WALL).map(|&(word, _)| word);
        let by_wall = first(WALL, u64::MAX).map(|&(word, _)| word);
        [by_store, by_wall]
    }

    fn count(&self) -> Count {
        Count { keys: self.keys.len() as u64, expiring: self.deadlines.len() as u64 }
    }

    /// Removes the expired keys; returns their number.
    fn sweep(&mut self, now: Now) -> u64 {
        let mut swept = 0;
        while let Some(word) =
            self.firsts().into_iter().flatten().find(|word| now.has_reached(*word))
            && let Some((_, key)) = self.deadlines.range((word, Vec::new())..).next().cloned()
        {
            self.deadlines.remove(&(word, key.clone()));
            self.keys.remove(&key);
            swept += 1;
        }
        swept
    }
}

impl Default for MemoryEngine {
    fn default() -> Self {
        MemoryEngine::with_clock(Arc::new(SystemClock))
    }
}

impl MemoryEngine {
    /// An empty store.
    pub fn new() -> Self {
        MemoryEngine::default()
    }

    /// An empty store whose deadlines are by `clock`.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let shared = Shared {
            spaces: Mutex::new(Rank::Spaces, Spaces::default()),
            watches: Watches::default(),
            guide: Guide::new(0),
            clock: StoreClock::new(clock, ClockPair::default()),
            expired_keys: AtomicU64::new(0),
            keys: AtomicU64::new(0),
        };
        MemoryEngine { shared: Arc::new(shared), space: 0 }
    }

    /// The spaces, locked; refused from inside a closure, which has them locked.
    fn spaces(&self) -> Result<MutexGuard<'_, Spaces>> {
        check_outside(&*self.shared)?;
        Ok(lock(&self.shared.spaces))
    }

    /// The same without expired keys, and the time; for writers.
    fn swept(&self) -> Result<(MutexGuard<'_, Spaces>, Now)> {
        let mut spaces = self.spaces()?;
        let (mut now, set_back) = self.shared.clock.now_and_set_back();
        let swept = spaces.sweep(now);
        if let Some(set_back) = set_back {
            // No key is left that the held time shows as expired.
            self.shared.watches.touch_expired(set_back.held_ms);
            self.shared.clock.accept(set_back);
            now = self.now();
        }
        self.shared.expired_keys.fetch_add(swept, Ordering::Relaxed);
        self.shared.keys.store(spaces.keys, Ordering::Relaxed);
        Ok((spaces, now))
    }

    fn apply(&self, spaces: &mut Spaces, effects: Effects) {
        let Effects { generations, writes } = effects;
        let watches = &self.shared.watches;
        let mut held: BTreeMap<Generation, Space> = BTreeMap::new();
        for space in generations.keys() {
            held.insert(Generation::Old(*space), spaces.change(*space, mem::take));
        }
        let before = if watches.any() { held.clone() } else { BTreeMap::new() };
        for ((generation, key), stored) in writes {
            match generation {
                Generation::Old(space) if !held.contains_key(&generation) => {
                    watches.touch(space, &key);
                    spaces.change(space, |space| space.put(key, stored));
                }
                _ => drop(held.entry(generation).or_default().put(key, stored)),
            }
        }
        for (space, generation) in generations {
            let now = held.remove(&generation).unwrap_or_default();
            let before = before.get(&Generation::Old(space));
            watches.touch_space(space, |key| {
                before.is_some_and(|before| before.keys.contains_key(key))
                    || now.keys.contains_key(key)
            });
            spaces.change(space, |space| *space = now);
        }
    }
}

struct NewestInMaps<'a> {
    spaces: &'a Spaces,
    now: Now,
    clock_offset_ms: i64,
}

impl NewestInMaps<'_> {
    fn get(&self, space: u32, key: &[u8]) -> Option<&Stored> {
        self.spaces.get(space)?.keys.get(key)
    }
}

impl Newest for NewestInMaps<'_> {
    fn now(&self) -> Now {
        self.now
    }

    fn clock_offset_ms(&self) -> i64 {
        self.clock_offset_ms
    }

    fn find(&mut self, space: u32, key: &[u8]) -> Result<Option<Stored>> {
        Ok(self.get(space, key).cloned())
    }

    fn deadline(&mut self, space: u32, key: &[u8]) -> Result<Option<Deadline>> {
        Ok(self.get(space, key).map(|stored| stored.deadline))
    }

    fn keys(&mut self, space: u32, range: &KeyRange, limit: usize) -> Result<Vec<Vec<u8>>> {
        let Some(space) = self.spaces.get(space) else { return Ok(Vec::new()) };
        Ok(walk(space, range).map(|(key, _)| key.clone()).take(limit).collect())
    }

    fn count(&mut self, space: u32) -> Result<Count> {
        Ok(self.spaces.get(space).map(Space::count).unwrap_or_default())
    }
}

/// The entries of a range, in its direction.
fn walk<'a>(
    space: &'a Space,
    range: &KeyRange,
) -> Box<dyn Iterator<Item = (&'a Vec<u8>, &'a Stored)> + 'a> {
    if range.is_empty() {
        return Box::new(std::iter::empty());
    }
    let ascending = space.keys.range::<[u8], _>(range.bounds());
    if range.reverse { Box::new(ascending.rev()) } else { Box::new(ascending) }
}

fn check(key: &[u8], value: Option<&[u8]>) -> Result<()> {
    check_key(key)?;
    value.map_or(Ok(()), |value| check_value(value, Options::default().value_bytes_max))
}

impl KvsEngine for MemoryEngine {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn durability(&self) -> Durability {
        Durability::Always
    }

    fn space(&self) -> u32 {
        self.space
    }

    fn with_space(&self, space: u32) -> Self {
        MemoryEngine { space, ..self.clone() }
    }

    fn now(&self) -> Now {
        self.shared.clock.now()
    }

    fn now_ms(&self) -> u64 {
        self.shared.clock.now_ms()
    }

    fn clock_offset_ms(&self) -> i64 {
        self.shared.clock.offset_ms()
    }

    fn find(&self, key: &[u8], _wait: Wait) -> Result<(Option<Stored>, Position)> {
        let spaces = self.spaces()?;
        let now = self.now();
        let stored = spaces.get(self.space).and_then(|space| space.keys.get(key));
        let stored = stored.filter(|stored| !stored.is_expired(now));
        Ok((stored.cloned(), Position::ZERO))
    }

    fn keys(&self, range: &KeyRange, limit: usize) -> Result<KeyPage> {
        let mut page = KeyPage { done: true, ..KeyPage::default() };
        let spaces = self.spaces()?;
        let now = self.now();
        let Some(space) = spaces.get(self.space) else { return Ok(page) };
        for (key, stored) in walk(space, range) {
            if page.keys.len() == limit {
                page.done = false;
                break;
            }
            page.keys.extend((!stored.is_expired(now)).then(|| key.clone()));
        }
        Ok(page)
    }

    fn walk(&self, cursor: u64, limit: usize) -> Result<KeyWalk> {
        self.shared.guide.walk(cursor, limit, |range, limit| self.keys(range, limit))
    }

    fn count(&self) -> Result<(Count, Position)> {
        let count = self.spaces()?.get(self.space).map(Space::count);
        Ok((count.unwrap_or_default(), Position::ZERO))
    }

    fn watch(&self, key: &[u8]) -> Result<Watch> {
        let (spaces, _) = self.swept()?;
        let stored = spaces.get(self.space).and_then(|space| space.keys.get(key));
        let expires_at = stored.and_then(|stored| stored.deadline.word());
        Ok(self.shared.watches.watch(self.space, key, expires_at))
    }

    fn write(&self, batch: &Batch) -> Result<(u64, Position)> {
        for write in batch.writes() {
            check(write.key(), write.value())?;
        }
        let (mut spaces, now) = self.swept()?;
        let mut removed = 0;
        spaces.change(self.space, |space| {
            for write in batch.writes() {
                self.shared.watches.touch(self.space, write.key());
                match write {
                    Write::Put { key, value, deadline } => {
                        let has_passed = deadline.has_passed(now);
                        let stored = (!has_passed)
                            .then(|| Stored { value: value.clone(), deadline: *deadline });
                        space.put(key.clone(), stored);
                    }
                    Write::Delete { key } => {
                        removed += u64::from(space.put(key.clone(), None).is_some());
                    }
                }
            }
        });
        self.shared.keys.store(spaces.keys, Ordering::Relaxed);
        Ok((removed, Position::ZERO))
    }

    fn transact<R>(
        &self,
        _keys: &[&[u8]],
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<(R, Position)> {
        let (mut spaces, now) = self.swept()?;
        let mut newest =
            NewestInMaps { spaces: &spaces, now, clock_offset_ms: self.clock_offset_ms() };
        let mut transaction = Transaction::new(&mut newest, self.space);
        let inside = Inside::enter(&*self.shared);
        let result = body(&mut transaction)?;
        drop(inside);
        let effects = transaction.into_effects();
        for ((_, key), stored) in &effects.writes {
            check(key, stored.as_ref().map(|stored| stored.value.as_slice()))?;
        }
        self.apply(&mut spaces, effects);
        self.shared.keys.store(spaces.keys, Ordering::Relaxed);
        Ok((result, Position::ZERO))
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Page> {
        let mut page = Page { done: true, ..Page::default() };
        let spaces = self.spaces()?;
        let now = self.now();
        let Some(space) = spaces.get(self.space) else { return Ok(page) };
        for (key, stored) in walk(space, range) {
            if page.entries.len() == limit {
                page.done = false;
                break;
            }
            if !stored.is_expired(now) {
                page.entries.push((key.clone(), stored.value.clone()));
            }
        }
        Ok(page)
    }

    fn wait(&self, _position: Position, _level: Durability) -> Result<()> {
        Ok(())
    }

    fn on_reached(
        &self,
        _position: Position,
        _level: Durability,
        _waker: &Waker,
    ) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn compact(&self) -> Result<()> {
        Ok(())
    }

    fn stats(&self) -> Stats {
        let keys = self.shared.keys.load(Ordering::Relaxed);
        let expired_keys = self.shared.expired_keys.load(Ordering::Relaxed);
        Stats {
            keys,
            expired_keys,
            clock_jumps: self.shared.clock.jumps(),
            clock_offset_ms: self.shared.clock.offset_ms(),
            ..Stats::default()
        }
    }
}
