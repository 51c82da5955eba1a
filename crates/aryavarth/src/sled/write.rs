//! How the store over sled is written: the effects of a batch or a closure, and their way into sled.
//!
//! Invariants:
//! - A write that failed half way poisons the store: its outcome in sled is unknown.
//! - Keys, and the generations of spaces, change in one batch of sled's.
//! - What has expired is not there for a write, and counts as expired when a write takes its place.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry::{Occupied, Vacant};
use std::mem;

use super::files::failed;
use super::generations::Tally;
use super::layout::{self, Entry, generation_of, key_of, place};
use super::store::Store;
use crate::engine::{
    Count, Deadline, Effects, Generation, KeyPage, KeyRange, KeyWalk, Newest, Now, Position, Stored,
};
use crate::error::Result;
use crate::record::{Batch, Write, check_key, check_size, check_value, record_bytes};
use crate::sync::{MutexGuard, Ordering, lock};

/// Keys of the tree beside the data: a position that no removal so far lies above, and a time that
/// the clock has reached.
pub(super) const REMOVED_UP_TO: &str = "removed up to";
pub(super) const CLOCK: &str = "clock";
/// The wall clock at that time.
pub(super) const WALL_CLOCK: &str = "wall clock";
/// A write takes the time along if it is this much later than the time that an open would find.
const CLOCK_STEP_MS: u64 = 1000;
/// The length of a change of a space, in positions.
const SPACE_BYTES: u64 = 16;

/// The effect of a write on one key. The key before it may have expired.
pub(super) struct Effect {
    before: Option<Deadline>,
    after: Option<Stored>,
}

/// The effects of a write.
#[derive(Default)]
pub(super) struct Change {
    /// By place.
    pub(super) effects: BTreeMap<Vec<u8>, Effect>,
    /// The new generation of spaces, and the number that the next generation gets then.
    spaces: BTreeMap<u32, u32>,
    next: u32,
}

fn is_live(deadline: Option<Deadline>, now_ms: u64) -> bool {
    deadline.is_some_and(|deadline| !deadline.has_passed(now_ms))
}

impl Effect {
    pub(super) fn removal(deadline: u64) -> Effect {
        Effect { before: Some(Deadline::At(deadline)), after: None }
    }

    fn after(&self) -> Option<Deadline> {
        self.after.as_ref().map(|stored| stored.deadline)
    }

    fn record_bytes(&self, place: &[u8]) -> usize {
        record_bytes(place.len(), self.after.as_ref().map_or(0, |stored| stored.value.len()))
    }
}

impl Change {
    fn bytes(&self) -> u64 {
        let effects = self.effects.iter().map(|(place, effect)| effect.record_bytes(place) as u64);
        effects.sum::<u64>() + self.spaces.len() as u64 * SPACE_BYTES
    }

    fn has_removals(&self) -> bool {
        !self.spaces.is_empty() || self.effects.values().any(|effect| effect.after.is_none())
    }
}

impl Store {
    fn deadline(&self, generation: Option<u32>, key: &[u8]) -> Result<Option<Deadline>> {
        let bytes = self.get(generation, key)?;
        bytes.map(|bytes| Ok(Deadline::of(self.decode(&bytes)?.expires_at))).transpose()
    }

    /// Moves a deadline by the machine's clock to the store's, the only one that sled's files know.
    fn by_store_clock(&self, mut stored: Stored) -> Stored {
        if let Deadline::Wall(at) = stored.deadline
            && Deadline::Wall(at).word() != Deadline::Wall(u64::MAX).word()
        {
            let at = at.saturating_add_signed(-self.clock.offset_ms());
            stored.deadline = Deadline::At(at);
        }
        stored
    }

    /// Writes a batch. For the writer only.
    pub(super) fn write_batch(&self, space: u32, batch: &Batch) -> Result<(u64, Position)> {
        let now_ms = self.now_ms();
        let mut numbers = self.table.numbers();
        let mut change = Change::default();
        let generation = match self.table.generation(space) {
            Some(generation) => generation,
            None if batch.writes().is_empty() => return Ok((0, self.written())),
            None => {
                let generation = numbers.make()?;
                change.spaces.insert(space, generation);
                generation
            }
        };
        let mut removed = 0;
        for write in batch.writes() {
            let key = write.key();
            let after = match write {
                Write::Put { value, deadline, .. } => {
                    let stored = Stored { value: value.clone(), deadline: *deadline };
                    Some(self.by_store_clock(stored))
                }
                Write::Delete { .. } => None,
            };
            let is_removal = after.is_none();
            let after = after.filter(|stored| !stored.is_expired(now_ms));
            let was_there = match change.effects.entry(place(generation, key)) {
                Occupied(mut entry) => mem::replace(&mut entry.get_mut().after, after).is_some(),
                Vacant(entry) => {
                    let before = self.deadline(Some(generation), key)?;
                    entry.insert(Effect { before, after });
                    is_live(before, now_ms)
                }
            };
            removed += u64::from(is_removal && was_there);
        }
        for place in change.effects.keys() {
            self.watches.touch(space, key_of(place));
        }
        change.next = numbers.next;
        Ok((removed, self.apply(change, now_ms)?))
    }

    /// Writes the effects of a closure. For the writer only.
    pub(super) fn write_effects(&self, effects: Effects, now_ms: u64) -> Result<Position> {
        let mut numbers = self.table.numbers();
        let mut change = Change::default();
        let mut known = BTreeMap::new();
        let mut number_of = |generation: Generation| -> Result<u32> {
            if let Some(number) = known.get(&generation) {
                return Ok(*number);
            }
            let old = match generation {
                Generation::Old(space) => self.table.generation(space),
                Generation::New(_) => None,
            };
            let number = old.map_or_else(|| numbers.make(), Ok)?;
            known.insert(generation, number);
            Ok(number)
        };
        let mut bytes = 0;
        // The spaces that keep their generations.
        let mut keepers = BTreeMap::new();
        for ((generation, key), after) in effects.writes {
            check_key(&key)?;
            let value = after.as_ref().map(|stored| stored.value.as_slice()).unwrap_or_default();
            check_value(value, self.value_bytes_max)?;
            let number = number_of(generation)?;
            let after = after.map(|stored| self.by_store_clock(stored));
            let effect = Effect { before: self.deadline(Some(number), &key)?, after };
            bytes += effect.record_bytes(&key);
            if let Generation::Old(space) = generation
                && !effects.generations.contains_key(&space)
            {
                keepers.insert(number, space);
            }
            change.effects.insert(place(number, &key), effect);
        }
        check_size("batch", bytes, self.batch_bytes_max)?;
        for (space, generation) in effects.generations {
            change.spaces.insert(space, number_of(generation)?);
        }
        let before = &self.table;
        for (space, generation) in &change.spaces {
            self.touch_space(*space, before.generation(*space), *generation, &change, now_ms);
        }
        for place in change.effects.keys() {
            if let Some(space) = keepers.get(&generation_of(place)) {
                self.watches.touch(*space, key_of(place));
            }
        }
        // A high space that is written for the first time gets a generation.
        let new = keepers.into_iter().filter(|(_, space)| before.generation(*space).is_none());
        change.spaces.extend(new.map(|(number, space)| (space, number)));
        change.next = numbers.next;
        self.apply(change, now_ms)
    }

    fn touch_space(&self, space: u32, old: Option<u32>, new: u32, change: &Change, now_ms: u64) {
        self.watches.touch_space(space, |key| {
            let is_there_now = match change.effects.get(&place(new, key)) {
                Some(effect) => effect.after.is_some(),
                None => self.deadline(Some(new), key).map_or(true, |now| is_live(now, now_ms)),
            };
            is_there_now || self.deadline(old, key).map_or(true, |old| is_live(old, now_ms))
        });
    }

    pub(super) fn written(&self) -> Position {
        Position(self.synced.written())
    }

    /// Writes a change, all of it or nothing. For the writer only.
    pub(super) fn apply(&self, mut change: Change, now_ms: u64) -> Result<Position> {
        change.effects.retain(|_, effect| effect.before.is_some() || effect.after.is_some());
        if change.effects.is_empty() && change.spaces.is_empty() {
            return Ok(self.written());
        }
        let mut tally = lock(&self.applying);
        let position = self.claimed.load(Ordering::Relaxed) + change.bytes();
        self.claimed.store(position, Ordering::SeqCst);
        let unfinished = Unfinished(self);
        if !change.spaces.is_empty() {
            self.table_changes.fetch_add(1, Ordering::AcqRel);
        }
        let stored = self.store(&change, position, now_ms);
        stored.map_err(|error| self.poison(&failed(error)))?;
        let was_settled = tally.is_settled();
        for (place, effect) in &change.effects {
            let is_late = effect.before.is_some() && !is_live(effect.before, now_ms);
            self.expired_keys.fetch_add(u64::from(is_late), Ordering::Relaxed);
            tally.change(place, effect.before, effect.after());
        }
        if !change.spaces.is_empty() {
            self.table.set_next(change.next);
            for generation in self.table.change(&change.spaces, position) {
                tally.drop_generation(generation);
            }
            self.table_changes.fetch_add(1, Ordering::AcqRel);
        }
        mem::forget(unfinished);
        self.flushed.set_written(position);
        self.synced.set_written(position);
        self.keys.store(tally.keys(), Ordering::Relaxed);
        if was_settled && !tally.is_settled() {
            self.bell.ring();
        }
        Ok(Position(position))
    }

    fn store(&self, change: &Change, position: u64, now_ms: u64) -> Result<(), ::sled::Error> {
        if change.has_removals() {
            // A removal leaves no value that would keep its position.
            self.meta.insert(REMOVED_UP_TO, &position.to_le_bytes())?;
        }
        if now_ms >= self.remembered_ms.load(Ordering::Relaxed).saturating_add(CLOCK_STEP_MS) {
            self.remember()?;
        }
        let mut effects = change.effects.iter();
        if change.spaces.is_empty()
            && let (Some((place, effect)), None) = (effects.next(), effects.next())
        {
            // One write is atomic by itself, and cheaper alone.
            return match &effect.after {
                Some(stored) => self.db.insert(place, layout::encode(position, stored)).map(drop),
                None => self.db.remove(place).map(drop),
            };
        }
        let mut batch = ::sled::Batch::default();
        for (place, effect) in &change.effects {
            match &effect.after {
                Some(stored) => batch.insert(place.as_slice(), layout::encode(position, stored)),
                None => batch.remove(place.as_slice()),
            }
        }
        if !change.spaces.is_empty() {
            let spaces = change.spaces.iter();
            let spaces = spaces.map(|(space, generation)| Entry::Space(*space, *generation));
            for entry in spaces.chain([Entry::Next(change.next)]) {
                let (place, bytes) = entry.encode();
                batch.insert(place, &bytes);
            }
        }
        self.db.apply_batch(batch)
    }

    fn remember(&self) -> Result<(), ::sled::Error> {
        // Not the held wall clock: an open goes on by the way that the wall clock made since.
        let (wall_ms, store_ms) = self.clock.times();
        let mut batch = ::sled::Batch::default();
        batch.insert(CLOCK, &store_ms.to_le_bytes());
        batch.insert(WALL_CLOCK, &wall_ms.to_le_bytes());
        self.meta.apply_batch(batch)?;
        self.remembered_ms.store(store_ms, Ordering::Relaxed);
        Ok(())
    }

    /// Lets the next open find how late it is, if a deadline depends on it. For the end.
    pub(super) fn remember_clock(&self) -> Result<()> {
        let _writer = lock(&self.writer);
        self.check()?;
        let tally = lock(&self.applying);
        let is_untouched = self.claimed.load(Ordering::Relaxed) == self.base;
        if is_untouched && tally.is_settled() {
            return Ok(());
        }
        self.remember_until(&tally, self.now_ms())
    }

    /// Lets an open go on from `now_ms` or later.
    fn remember_until(&self, _applying: &MutexGuard<'_, Tally>, now_ms: u64) -> Result<()> {
        if now_ms <= self.remembered_ms.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.check()?;
        // A position of its own, so that the last sync is not left out.
        let position = self.claimed.load(Ordering::Relaxed) + SPACE_BYTES;
        self.claimed.store(position, Ordering::SeqCst);
        let unfinished = Unfinished(self);
        self.remember().map_err(|error| self.poison(&failed(error)))?;
        mem::forget(unfinished);
        self.flushed.set_written(position);
        self.synced.set_written(position);
        Ok(())
    }

    /// Makes the time durable with the position of an answer that may pass over keys which have
    /// expired: else they could come back after a crash with a clock that was set back. Returns the
    /// position that such an answer carries.
    pub(super) fn cover(&self, tally: &MutexGuard<'_, Tally>, now_ms: u64) -> Result<Position> {
        if !tally.expired(now_ms, 1).is_empty() {
            self.remember_until(tally, now_ms)?;
        }
        Ok(Position(self.claimed.load(Ordering::Relaxed)))
    }
}

/// A write that has begun. Dropped before its end, by an error or by a panic inside sled, it
/// poisons the store.
struct Unfinished<'a>(&'a Store);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let reason = ::sled::Error::ReportableBug("a write did not return".to_owned());
        self.0.poison(&failed(reason));
        // Readers go on, by the table that there was.
        let changes = self.0.table_changes.load(Ordering::Relaxed);
        self.0.table_changes.fetch_add(changes % 2, Ordering::AcqRel);
    }
}

/// The newest state for a closure. For the writer only.
pub(super) struct NewestInSled<'a> {
    pub(super) store: &'a Store,
    pub(super) now_ms: u64,
}

impl NewestInSled<'_> {
    fn generation(&self, space: u32) -> Option<u32> {
        self.store.table.generation(space)
    }
}

impl Newest for NewestInSled<'_> {
    fn now(&self) -> Now {
        let offset_ms = self.clock_offset_ms();
        Now { store_ms: self.now_ms, wall_ms: self.now_ms.saturating_add_signed(offset_ms) }
    }

    fn clock_offset_ms(&self) -> i64 {
        self.store.clock.offset_ms()
    }

    fn find(&mut self, space: u32, key: &[u8]) -> Result<Option<Stored>> {
        let bytes = self.store.get(self.generation(space), key)?;
        bytes.map(|bytes| Ok(self.store.decode(&bytes)?.to_stored())).transpose()
    }

    fn deadline(&mut self, space: u32, key: &[u8]) -> Result<Option<Deadline>> {
        self.store.deadline(self.generation(space), key)
    }

    fn keys(&mut self, space: u32, range: &KeyRange, limit: usize) -> Result<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        self.store.walk(self.generation(space), range, |key, _| {
            let has_room = keys.len() < limit;
            if has_room {
                keys.push(key.to_vec());
            }
            has_room
        })?;
        Ok(keys)
    }

    fn walk(&mut self, space: u32, cursor: u64, limit: usize) -> Result<KeyWalk> {
        let store = self.store;
        store.guide.walk(cursor, limit, |range, limit| {
            let keys = self.keys(space, range, limit)?;
            Ok(KeyPage { done: keys.len() < limit, keys, ..KeyPage::default() })
        })
    }

    fn count(&mut self, space: u32) -> Result<Count> {
        Ok(lock(&self.store.applying).count(self.generation(space)))
    }
}
