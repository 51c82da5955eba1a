//! Closures: every read-modify-write is one closure that runs in the serialised writer.
//!
//! It sees the newest state and its own writes, and its effects are logged as one frame. Under the
//! writer's lock no file may be read, so the values of the keys that it announced are fetched
//! beforehand; values that changed since are found among the newest frames, which the writer keeps in
//! memory; if it needs anything else, it says so, all that it asked for is fetched and it runs again.
//!
//! ```text
//!   keys --fetch--> writer's lock --> closure --> every value was at hand: plan, append, publish
//!          ^                             |
//!          '--- fetch, without the lock -'  some were not: they are collected (`KvsError::WouldBlock`)
//! ```
//!
//! Invariants:
//! - A closure that fails or panics appends nothing, and its panic goes on to the caller.
//! - A closure's frame is appended upon the very state that it saw: no write comes in between.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crossbeam_epoch as epoch;

use super::read::Seen;
use super::writer::{Recent, Writer};
use super::{Log, ROOM_BYTES};
use crate::deadline::Now;
use crate::engine::{
    Count, Deadline, Effects, Generation, Inside, KeyRange, KeyWalk, Newest, Position, Stored,
    Transaction, Wait,
};
use crate::error::{KvsError, Result};
use crate::index::{Change, Found, Index, Slot, TABLE_GENERATION, table_key, table_value};
use crate::record::{Extra, Frame, check_key, check_size, check_value, record_bytes};

/// Keys that a closure gets at a time.
const KEYS_MAX: usize = 1024;

/// A key of a space.
type Place = (u32, Vec<u8>);

/// Values read before the lock was taken, each with its slot at that time.
#[derive(Default)]
struct Fetched {
    values: HashMap<Place, (Seen, Option<Stored>)>,
    /// Bytes of their records.
    bytes: usize,
    /// Keys that were announced and could not be fetched. A closure that reads one fails.
    failed: HashSet<Place>,
}

/// The newest state as a closure sees it under the writer's lock.
struct UnderLock<'a> {
    log: &'a Log,
    recent: &'a Recent,
    fetched: &'a Fetched,
    now: Now,
    /// The latest deadlines of the keys that it saw expired.
    expired: Now,
    /// Keys that the closure read in vain.
    missing: Vec<Place>,
    /// Keys that it announced and that are not at hand.
    announced: Vec<Place>,
}

impl UnderLock<'_> {
    /// A key's slot, if it is not a removal, and its deadline.
    fn slot(&self, space: u32, key: &[u8]) -> Option<(Slot, Option<u64>)> {
        let pin = epoch::pin();
        let found = self.log.index.find(space, key, &pin).1.map(Found::slot_and_deadline);
        found.filter(|(slot, _)| !slot.is_tombstone())
    }

    /// Whether a deadline has passed; what the closure returns then depends on it.
    fn has_passed(&mut self, expires_at: Option<u64>) -> bool {
        let passed = expires_at.filter(|word| self.now.has_reached(*word));
        self.expired = self.expired.max(passed.map(Now::of).unwrap_or_default());
        passed.is_some()
    }
}

impl Newest for UnderLock<'_> {
    fn now(&self) -> Now {
        self.now
    }

    fn clock_offset_ms(&self) -> i64 {
        self.log.clock.offset_ms()
    }

    fn note_passed(&mut self, deadline: Deadline) {
        self.has_passed(deadline.word());
    }

    fn find(&mut self, space: u32, key: &[u8]) -> Result<Option<Stored>> {
        let Some((slot, expires_at)) = self.slot(space, key) else {
            return Ok(None);
        };
        if self.has_passed(expires_at) {
            return Ok(None);
        }
        let place = (space, key.to_vec());
        if let Some((seen, stored)) = self.fetched.values.get(&place)
            && self.log.is_still(seen, slot)
        {
            return Ok(stored.clone());
        }
        if let Some((value, expires_at)) = self.recent.value(slot) {
            return Ok(Some(Stored { value: value.to_vec(), deadline: Deadline::of(expires_at) }));
        }
        self.missing.push(place);
        Err(KvsError::WouldBlock)
    }

    fn is_at_hand(&mut self, space: u32, key: &[u8]) -> bool {
        let Some((slot, expires_at)) = self.slot(space, key) else { return true };
        let place = (space, key.to_vec());
        let fetched = self.fetched.values.get(&place);
        let is_at_hand = expires_at.is_some_and(|word| self.now.has_reached(word))
            || fetched.is_some_and(|(seen, _)| self.log.is_still(seen, slot))
            || self.recent.value(slot).is_some()
            || self.fetched.failed.contains(&place);
        if !is_at_hand {
            self.announced.push(place);
        }
        is_at_hand
    }

    fn deadline(&mut self, space: u32, key: &[u8]) -> Result<Option<Deadline>> {
        let slot = self.slot(space, key);
        self.has_passed(slot.and_then(|(_, expires_at)| expires_at));
        Ok(slot.map(|(_, expires_at)| Deadline::of(expires_at)))
    }

    fn keys(&mut self, space: u32, range: &KeyRange, limit: usize) -> Result<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        let limit = limit.min(KEYS_MAX);
        if limit == 0 || range.is_empty() {
            return Ok(keys);
        }
        let pin = epoch::pin();
        self.log.index.walk(space, range, &pin, |key, found| {
            keys.extend((!found.slot().is_tombstone()).then(|| key.to_vec()));
            keys.len() < limit
        });
        Ok(keys)
    }

    fn walk(&mut self, space: u32, cursor: u64, limit: usize) -> Result<KeyWalk> {
        let now = || self.now;
        let (walk, expired) = self.log.walk_uncovered(space, cursor, limit.min(KEYS_MAX), now);
        self.expired = self.expired.max(expired);
        Ok(walk)
    }

    fn count(&mut self, space: u32) -> Result<Count> {
        Ok(self.log.index.count(space))
    }
}

/// The frame of a closure's effects.
struct Planned {
    frame: Frame,
    change: Option<Change>,
    /// Whether it gives space back in the end.
    frees: bool,
}

impl Log {
    /// Runs a closure in the writer and appends its effects as one frame.
    pub(crate) fn transact<R>(
        &self,
        space: u32,
        keys: &[&[u8]],
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<(R, Position)> {
        let mut fetched = Fetched::default();
        let mut wanted = Vec::new();
        let mut announced: Vec<_> = keys.iter().map(|key| (space, key.to_vec())).collect();
        loop {
            self.watermarks.check()?;
            self.wait_for_disk()?;
            self.fetch_all(&mut fetched, announced, wanted)?;
            let (mut writer, now) = self.lock_settled();
            let mut newest = UnderLock {
                log: self,
                recent: &writer.recent,
                fetched: &fetched,
                now,
                expired: Now::default(),
                missing: Vec::new(),
                announced: Vec::new(),
            };
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let _inside = Inside::enter(self);
                let mut transaction = Transaction::new(&mut newest, space);
                body(&mut transaction).map(|result| (result, transaction.into_effects()))
            }));
            let expired = newest.expired;
            (wanted, announced) = (newest.missing, newest.announced);
            let (result, effects) = match outcome {
                Err(panic) => {
                    drop(writer);
                    resume_unwind(panic);
                }
                // A closure that swallowed the error has seen less than it asked for.
                Ok(_) if !(wanted.is_empty() && announced.is_empty()) => continue,
                Ok(Err(error)) => {
                    // The error may say that a key is not there.
                    drop(writer);
                    self.cover(expired)?;
                    return Err(error);
                }
                Ok(Ok(done)) => done,
            };
            let Planned { frame, change, frees } = self.plan(&writer, &effects)?;
            let watched = change.as_ref().map_or_else(Vec::new, |change| self.watched(change));
            if frame.records().is_empty() {
                self.touch(&effects, None, watched);
                drop(writer);
                let stamp = self.cover(expired)?;
                return Ok((result, stamp.max(Position(self.last_position()))));
            }
            self.check_full(frees)?;
            self.cover_with_next(&mut writer, expired);
            match self.append(&mut writer, frame, &[], change.as_ref())? {
                Ok(appended) => {
                    self.touch(&effects, change.as_ref(), watched);
                    return Ok((result, Position(appended.position)));
                }
                Err(frame) => {
                    drop(writer);
                    self.make_room(frame.bytes(), frees)?;
                }
            }
        }
    }

    /// Fetches the values of keys that a closure announced, and of those that it read in vain.
    fn fetch_all(
        &self,
        fetched: &mut Fetched,
        announced: Vec<Place>,
        wanted: Vec<Place>,
    ) -> Result<()> {
        for place in announced {
            // A key that cannot be read fails a closure that reads it. A closure that does not
            // may be about to remove it, or to set it to something else.
            if self.fetch(fetched, &place).is_err() {
                fetched.failed.insert(place);
            }
        }
        wanted.into_iter().try_for_each(|place| self.fetch(fetched, &place))
    }

    /// Fetches a value, unless all would be too large then.
    fn fetch(&self, fetched: &mut Fetched, place: &Place) -> Result<()> {
        let (Some(seen), _) = self.see(place.0, &place.1) else { return Ok(()) };
        match fetched.values.get(place) {
            Some((before, _)) if before.is(&seen) => return Ok(()),
            Some((before, _)) => {
                fetched.bytes -= before.bytes();
                fetched.values.remove(place);
            }
            None => {}
        }
        let bytes = fetched.bytes + seen.bytes();
        if !fetched.values.is_empty() {
            check_size("set of values that are read", bytes, 2 * self.options.batch_bytes_max)?;
        }
        let stored = seen.value(&place.1, Wait::Yes)?;
        fetched.bytes = bytes;
        fetched.values.insert(place.clone(), (seen, stored));
        Ok(())
    }

    /// The frame of a closure's effects. Removals of keys that do not exist are no effects. The
    /// caller holds the writer's lock.
    fn plan(&self, writer: &Writer, effects: &Effects) -> Result<Planned> {
        let (numbers, change) = resolve(&self.index, writer.index.next_generation, effects)?;
        let changed = change.as_ref().map_or(0, |change| change.spaces.len());
        let mut bytes = changed * record_bytes(8 + 4, 8);
        for ((_, key), stored) in &effects.writes {
            let value = stored.as_ref().map_or(&[][..], |stored| &stored.value);
            check_key(key)?;
            check_value(value, self.options.value_bytes_max)?;
            let extra = Extra { generation: 1, expires_at: Some(1) };
            bytes += record_bytes(extra.bytes() + key.len(), value.len());
        }
        check_size("batch", bytes, self.options.batch_bytes_max)?;
        let pin = epoch::pin();
        let mut frame = Frame::new(ROOM_BYTES, bytes);
        let mut frees = effects.writes.values().all(Option::is_none);
        if let Some(change) = &change {
            let extra = Extra { generation: TABLE_GENERATION, expires_at: None };
            for (&space, &generation) in &change.spaces {
                frame.push(extra, &table_key(space), Some(&table_value(generation)));
            }
            frees &= self.drops(change);
        }
        for ((generation, key), stored) in &effects.writes {
            let generation = number(&self.index, &numbers, *generation)?;
            let exists = || {
                let found = self.index.find_in(generation, key, &pin);
                found.is_some_and(|found| !found.slot().is_tombstone())
            };
            match stored {
                Some(Stored { value, deadline }) => {
                    let expires_at = deadline.word();
                    frame.push(Extra { generation, expires_at }, key, Some(value));
                }
                None if exists() => frame.push(Extra { generation, expires_at: None }, key, None),
                None => {}
            }
        }
        Ok(Planned { frame, change, frees })
    }

    /// Whether a change leaves a generation without a space.
    fn drops(&self, change: &Change) -> bool {
        let given: BTreeSet<u64> = change.spaces.values().copied().collect();
        let is_dropped = |space: &u32| !given.contains(&self.index.state_of(*space).generation);
        change.spaces.keys().any(is_dropped)
    }

    /// The keys that are watched in the spaces of a change and are there now.
    fn watched(&self, change: &Change) -> Vec<Place> {
        let mut watched = Vec::new();
        for &space in change.spaces.keys() {
            self.watches.touch_space(space, |key| {
                if self.is_there(space, key) {
                    watched.push((space, key.to_vec()));
                }
                false
            });
        }
        watched
    }

    /// Touches the keys that a closure changed, now that they are published, and those that were
    /// `watched` there before. The caller holds the writer's lock.
    fn touch(&self, effects: &Effects, change: Option<&Change>, watched: Vec<Place>) {
        if !self.watches.any() {
            return;
        }
        for (generation, key) in effects.writes.keys() {
            if let Generation::Old(space) = generation
                && !effects.generations.contains_key(space)
            {
                self.watches.touch(*space, key);
            }
        }
        for (space, key) in watched {
            self.watches.touch(space, &key);
        }
        // An emptied space that was empty before has no other generation, but may have new keys.
        let spaces = change.into_iter().flat_map(|change| change.spaces.keys());
        for &space in spaces.chain(effects.generations.keys()) {
            self.watches.touch_space(space, |key| self.is_there(space, key));
        }
    }

    fn is_there(&self, space: u32, key: &[u8]) -> bool {
        let pin = epoch::pin();
        self.index.find(space, key, &pin).1.is_some_and(|found| self.exists(found))
    }
}

/// The numbers of a transaction's new generations, and the change of the table, if there is any.
fn resolve(
    index: &Index,
    next: u64,
    effects: &Effects,
) -> Result<(BTreeMap<Generation, u64>, Option<Change>)> {
    let mut numbers = BTreeMap::new();
    let mut change = Change { next, ..Change::default() };
    let kept: BTreeSet<Generation> = effects.generations.values().copied().collect();
    for (&space, generation) in &effects.generations {
        let held = index.state_of(space).generation;
        if let Generation::New(_) = generation {
            if index.count(space).keys == 0 && !kept.contains(&Generation::Old(space)) {
                // It is empty as it is.
                numbers.insert(*generation, held);
                continue;
            }
            numbers.insert(*generation, change.next);
            change.next += 1;
        }
        let generation = number(index, &numbers, *generation)?;
        if generation != held {
            change.spaces.insert(space, generation);
        }
    }
    let is_none = change.spaces.is_empty();
    Ok((numbers, (!is_none).then_some(change)))
}

/// The number of a transaction's generation.
fn number(
    index: &Index,
    numbers: &BTreeMap<Generation, u64>,
    generation: Generation,
) -> Result<u64> {
    match generation {
        Generation::Old(space) => Ok(index.state_of(space).generation),
        Generation::New(_) => numbers.get(&generation).copied().ok_or_else(|| {
            KvsError::InvalidOption("a write to a generation that no space has".to_owned())
        }),
    }
}
