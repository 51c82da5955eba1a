//! The state that a closure in [`KvsEngine::transact`](super::KvsEngine::transact) works with: the
//! newest one, with its own writes on top.
//!
//! Spaces can be emptied and swapped in the middle of a transaction, so its writes belong to a
//! *generation*: that of a space when the transaction began, or a new, empty one. The spaces of the
//! transaction name generations, and an engine learns in the end which one.
//!
//! Invariants:
//! - Time stands still in a transaction: whether a key has expired is decided once, by
//!   [`Newest::now`].
//! - A key whose deadline has passed is not there, for a transaction as for everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use super::range::KeyRange;
use super::{Count, Deadline, Guide, KeyPage, KeyWalk, Now, Stored, Watch};
use crate::error::{KvsError, Result};

/// The newest state, as a closure in [`KvsEngine::transact`](super::KvsEngine::transact) sees it.
/// Engines implement it; spaces have the numbers that they had before the transaction, and expired
/// values may be given, for the transaction looks at the deadline.
pub trait Newest {
    /// Both clocks.
    fn now(&self) -> Now;

    /// A caller is shown that a deadline has passed that it learned elsewhere.
    fn note_passed(&mut self, deadline: Deadline) {
        let _ = deadline;
    }

    /// As [`KvsEngine::clock_offset_ms`](super::KvsEngine::clock_offset_ms).
    fn clock_offset_ms(&self) -> i64 {
        0
    }

    /// The newest value of `key`, or [`KvsError::WouldBlock`](crate::KvsError::WouldBlock) if it
    /// must be fetched first.
    fn find(&mut self, space: u32, key: &[u8]) -> Result<Option<Stored>>;

    /// Whether [`find`](Newest::find) has the value of `key` at hand. If not, the key is fetched
    /// before the closure runs again.
    fn is_at_hand(&mut self, space: u32, key: &[u8]) -> bool {
        let _ = (space, key);
        true
    }

    /// The deadline of `key`, if there is such a key.
    fn deadline(&mut self, space: u32, key: &[u8]) -> Result<Option<Deadline>>;

    /// The first keys of a range, at most `limit`, and at least one unless there is none.
    fn keys(&mut self, space: u32, range: &KeyRange, limit: usize) -> Result<Vec<Vec<u8>>>;

    /// One step of a walk, as [`KvsEngine::walk`](super::KvsEngine::walk).
    fn walk(&mut self, space: u32, cursor: u64, limit: usize) -> Result<KeyWalk> {
        Guide::default().walk(cursor, limit, |range, limit| {
            let keys = self.keys(space, range, limit)?;
            Ok(KeyPage { done: keys.is_empty(), keys, ..KeyPage::default() })
        })
    }

    /// How many keys a space has.
    fn count(&mut self, space: u32) -> Result<Count>;
}

/// The keys of a space: those that another (or the same) one had before, or none at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Generation {
    /// The generation of the space of this number when the transaction began.
    Old(u32),
    /// A generation that is new, and empty but for the writes of the transaction.
    New(u32),
}

/// The effects of a transaction. For engines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// The generation of each space whose generation is another one now.
    pub generations: BTreeMap<u32, Generation>,
    /// Values to set in a generation, or `None` to remove; only of generations that a space has.
    pub writes: BTreeMap<(Generation, Vec<u8>), Option<Stored>>,
}

/// The state that a closure in [`KvsEngine::transact`](super::KvsEngine::transact) works with: it sees
/// the newest one and its own writes, and no other write happens meanwhile.
///
/// Calls concern one space: at first that of the handle on which `transact` was called, then the one
/// that was [selected](Transaction::select).
pub struct Transaction<'a> {
    newest: &'a mut dyn Newest,
    now: Now,
    space: u32,
    generations: BTreeMap<u32, Generation>,
    generations_made: u32,
    writes: BTreeMap<(Generation, Vec<u8>), Option<Stored>>,
}

impl<'a> Transaction<'a> {
    /// A transaction over an engine's newest state, in a space; for engines.
    pub fn new(newest: &'a mut dyn Newest, space: u32) -> Self {
        let now = newest.now();
        Transaction {
            newest,
            now,
            space,
            generations: BTreeMap::new(),
            generations_made: 0,
            writes: BTreeMap::new(),
        }
    }

    /// The store's clock, which stands still meanwhile, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.now.store_ms
    }

    /// Both clocks, which stand still meanwhile.
    pub fn now(&self) -> Now {
        self.now
    }

    /// Whether the key of a watch was written since, or has expired. What the closure returns then
    /// depends on it, as on a key that it read.
    pub fn is_touched(&mut self, watch: &Watch) -> bool {
        let is_touched = watch.is_touched(self.now);
        if is_touched {
            self.newest.note_passed(watch.deadline());
        }
        is_touched
    }

    /// By how many milliseconds the machine's clock is ahead of the store's.
    pub fn clock_offset_ms(&self) -> i64 {
        self.newest.clock_offset_ms()
    }

    /// The space that calls concern.
    pub fn space(&self) -> u32 {
        self.space
    }

    /// Lets the calls that follow concern another space.
    pub fn select(&mut self, space: u32) {
        self.space = space;
    }

    /// Announces keys that the closure is about to read: those that are not at hand are fetched
    /// together. A closure that reads many keys which could not be announced before it began (of
    /// another space, or known only from values) calls this first, and runs twice in all instead of
    /// once for each key.
    ///
    /// ```
    /// use aryavarth::{KvsEngine, MemoryEngine};
    ///
    /// let engine = MemoryEngine::new();
    /// engine.with_space(1).set("k".into(), "v".into())?;
    /// let (value, _) = engine.transact(&[], |tx| {
    ///     tx.select(1);
    ///     tx.fetch([&b"k"[..], b"other"])?;
    ///     tx.read(b"k")
    /// })?;
    /// assert_eq!(value, Some(b"v".to_vec()));
    /// # Ok::<(), aryavarth::KvsError>(())
    /// ```
    ///
    /// # Errors
    /// [`KvsError::WouldBlock`] if a key has to be fetched: pass it on, if not at once then at the end.
    pub fn fetch<'k>(&mut self, keys: impl IntoIterator<Item = &'k [u8]>) -> Result<()> {
        let mut are_at_hand = true;
        for key in keys {
            if let Err(Generation::Old(space)) = self.written(key) {
                are_at_hand &= self.newest.is_at_hand(space, key);
            }
        }
        if are_at_hand { Ok(()) } else { Err(KvsError::WouldBlock) }
    }

    /// The newest value of `key`.
    ///
    /// # Errors
    /// [`KvsError::WouldBlock`] if the key was neither announced nor at hand: pass it on with `?`, the
    /// engine fetches the key and runs the closure again. A closure may first ask for other keys,
    /// to have them fetched together, and pass the error on at its end.
    pub fn read(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.find(key)?.map(|stored| stored.value))
    }

    /// The newest value of `key` and its deadline. Errors as [`read`](Transaction::read).
    pub fn find(&mut self, key: &[u8]) -> Result<Option<Stored>> {
        let stored = match self.written(key) {
            Ok(written) => written.cloned(),
            Err(Generation::Old(space)) => self.newest.find(space, key)?,
            Err(Generation::New(_)) => None,
        };
        Ok(stored.filter(|stored| !stored.is_expired(self.now)))
    }

    /// Whether `key` exists.
    pub fn contains(&mut self, key: &[u8]) -> Result<bool> {
        Ok(self.deadline(key)?.is_some())
    }

    /// The deadline of `key`, if there is such a key. Needs no value.
    pub fn deadline(&mut self, key: &[u8]) -> Result<Option<Deadline>> {
        let deadline = match self.written(key) {
            Ok(written) => written.map(|stored| stored.deadline),
            Err(Generation::Old(space)) => self.newest.deadline(space, key)?,
            Err(Generation::New(_)) => None,
        };
        Ok(deadline.filter(|deadline| !deadline.has_passed(self.now)))
    }

    /// Sets `key`, without a deadline, when the closure returns `Ok`.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.put_with_deadline(key, value, Deadline::Never);
    }

    /// Sets `key` for as long as `lifetime` says, by the store's clock, when the closure returns `Ok`. A
    /// lifetime of zero removes the key.
    pub fn put_for(
        &mut self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        lifetime: Duration,
    ) {
        self.put_with_deadline(key, value, Deadline::after(self.now.store_ms, lifetime));
    }

    /// Sets `key` until `expires_at`, in milliseconds since 1970 by the machine's clock, when the
    /// closure returns `Ok`.
    pub fn put_until(
        &mut self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        expires_at: u64,
    ) {
        self.put_with_deadline(key, value, Deadline::Wall(expires_at));
    }

    /// Sets `key` with a deadline by either clock when the closure returns `Ok`. A deadline that has
    /// passed removes the key.
    pub fn put_with_deadline(
        &mut self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        deadline: Deadline,
    ) {
        self.store(key, Stored { value: value.into(), deadline });
    }

    /// Sets `key` to a value with its deadline, as [`find`](Transaction::find) returns them, when the
    /// closure returns `Ok`. A deadline that has passed removes the key.
    pub fn store(&mut self, key: impl Into<Vec<u8>>, stored: Stored) {
        let stored = (!stored.is_expired(self.now)).then_some(stored);
        self.writes.insert((self.generation(self.space), key.into()), stored);
    }

    /// Removes `key` when the closure returns `Ok`. A key that does not exist is no error.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.writes.insert((self.generation(self.space), key.into()), None);
    }

    /// Removes every key of the space when the closure returns `Ok`. Costs the same however many
    /// there are.
    pub fn clear(&mut self) {
        let generation = Generation::New(self.generations_made);
        self.generations_made += 1;
        self.generations.insert(self.space, generation);
    }

    /// Swaps the keys of two spaces when the closure returns `Ok`. Costs the same however many
    /// there are.
    pub fn swap(&mut self, a: u32, b: u32) {
        let (of_a, of_b) = (self.generation(a), self.generation(b));
        self.generations.insert(a, of_b);
        self.generations.insert(b, of_a);
    }

    /// The first keys of a range in the space, at most `limit`; fewer only if there are no more.
    pub fn keys(&mut self, range: &KeyRange, limit: usize) -> Result<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        let mut rest = range.clone();
        while keys.len() < limit {
            let wanted = limit - keys.len();
            let page = self.keys_unfiltered(&rest, wanted)?;
            let Some(last) = page.last() else { break };
            rest = rest.after(last);
            for key in page {
                // With the transaction's own writes among them, a page may be longer than asked.
                if keys.len() < limit && self.contains(&key)? {
                    keys.push(key);
                }
            }
        }
        Ok(keys)
    }

    /// One step of a walk through the keys of the space, as
    /// [`KvsEngine::walk`](super::KvsEngine::walk). The first step also has the keys that the
    /// transaction set, so it may be longer than `limit`.
    pub fn walk(&mut self, cursor: u64, limit: usize) -> Result<KeyWalk> {
        let generation = self.generation(self.space);
        let below = match generation {
            Generation::Old(space) => self.newest.walk(space, cursor, limit)?,
            Generation::New(_) => KeyWalk::default(),
        };
        let own = self.writes_of(generation).filter(|(_, stored)| cursor == 0 && stored.is_some());
        let mut keys: Vec<Vec<u8>> = own.map(|(key, _)| key.to_vec()).collect();
        for key in below.keys {
            let is_listed = cursor == 0 && matches!(self.written(&key), Ok(Some(_)));
            if !is_listed && self.contains(&key)? {
                keys.push(key);
            }
        }
        Ok(KeyWalk { keys, ..below })
    }

    /// Keys that may be there: those of the state below and those of the writes, in order.
    fn keys_unfiltered(&mut self, range: &KeyRange, limit: usize) -> Result<Vec<Vec<u8>>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let generation = self.generation(self.space);
        let mut keys = match generation {
            Generation::Old(space) => self.newest.keys(space, range, limit)?,
            Generation::New(_) => Vec::new(),
        };
        // Keys beyond the page below are left for the next one.
        let is_reached = |key: &[u8], last: Option<&Vec<u8>>| match last {
            Some(last) if range.reverse => key >= last.as_slice(),
            Some(last) => key <= last.as_slice(),
            None => true,
        };
        let last = keys.last().cloned();
        let written = self.writes_of(generation).map(|(key, _)| key);
        let written = written
            .filter(|key| range.contains(key) && is_reached(key, last.as_ref()))
            .map(<[u8]>::to_vec);
        keys.extend(written.collect::<Vec<_>>());
        keys.sort();
        keys.dedup();
        if range.reverse {
            keys.reverse();
        }
        Ok(keys)
    }

    /// How many keys the space has, those that have expired and were not removed yet included.
    pub fn count(&mut self) -> Result<Count> {
        let generation = self.generation(self.space);
        let mut count = match generation {
            Generation::Old(space) => self.newest.count(space)?,
            Generation::New(_) => Count::default(),
        };
        let written: Vec<(Vec<u8>, Option<Deadline>)> = self
            .writes_of(generation)
            .map(|(key, stored)| (key.to_vec(), stored.map(|stored| stored.deadline)))
            .collect();
        for (key, after) in written {
            let before = match generation {
                Generation::Old(space) => self.newest.deadline(space, &key)?,
                Generation::New(_) => None,
            };
            count.change(before, after);
        }
        Ok(count)
    }

    /// The effects. For engines.
    pub fn into_effects(self) -> Effects {
        let Transaction { mut generations, mut writes, .. } = self;
        // A generation that a space kept, and one that none has any more.
        generations.retain(|space, generation| *generation != Generation::Old(*space));
        let kept: BTreeSet<Generation> = generations.values().copied().collect();
        writes.retain(|(generation, _), _| match generation {
            Generation::Old(space) => !generations.contains_key(space) || kept.contains(generation),
            Generation::New(_) => kept.contains(generation),
        });
        Effects { generations, writes }
    }

    fn generation(&self, space: u32) -> Generation {
        self.generations.get(&space).copied().unwrap_or(Generation::Old(space))
    }

    /// The transaction's own write to a key of the space, or else the generation to look in.
    fn written(&self, key: &[u8]) -> Result<Option<&Stored>, Generation> {
        let generation = self.generation(self.space);
        if self.writes.is_empty() {
            return Err(generation);
        }
        match self.writes.get(&(generation, key.to_vec())) {
            Some(written) => Ok(written.as_ref()),
            None => Err(generation),
        }
    }

    fn writes_of(&self, generation: Generation) -> impl Iterator<Item = (&[u8], Option<&Stored>)> {
        let from = Bound::Included((generation, Vec::new()));
        let writes = self.writes.range((from, Bound::Unbounded));
        writes
            .take_while(move |((of, _), _)| *of == generation)
            .map(|((_, key), stored)| (key.as_slice(), stored.as_ref()))
    }
}
