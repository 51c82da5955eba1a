//! Reading: from a key to a verified value, without a lock.
//!
//! A read finds the entry, loads its slot, takes hold of the segment that the slot names, and
//! copies the record from its mapping, or reads it with one positioned call. It repeats itself while a frame with several records
//! is being published (so that no reader sees half of it), and when compaction retired the segment
//! between two of these steps; once held, a segment can be read however long that takes. It never
//! waits for a lock, for compaction or for another reader.
//!
//! Invariants:
//! - From the load of a slot to the load of its segment the reader holds an epoch, so the table
//!   index in the slot cannot have come to mean another segment.
//! - Key and checksum are compared on the copy that is handed out, wherever it came from.
//! - Every result carries the highest position of all that it observed: of values, of removals, of
//!   expired keys, and of the record that gave the space its generation.

use crossbeam_epoch as epoch;

use super::Log;
use crate::deadline::Now;
use crate::engine::{Count, Deadline, KeyPage, KeyRange, Page, Position, Stored, Wait};
use crate::error::{KvsError, Result};
use crate::index::{Found, Slot, SpaceState};
use crate::segment::Segment;
use crate::sync::{Arc, Ordering, fence, spin_loop};

/// Keys that a scan looks at under one epoch.
const WALK_KEYS_MAX: usize = 256;
/// Among so few keys commits of several keys are always seen wholly or not at all; among more, if
/// none comes between.
const WALK_KEYS_MIN: usize = 16;
/// Records above this are not read with [`Wait::No`]: they are copied and checked for too long, in bytes.
const READ_NOW_BYTES_MAX: usize = 256 << 10;
/// A page of a scan ends when its values reach this.
const PAGE_BYTES_MAX: u64 = 1 << 20;

/// The slot of a key as a reader loaded it, with the segment that it names.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) slot: Slot,
    segment: Arc<Segment>,
    state: SpaceState,
}

impl Seen {
    /// Bytes of its record.
    pub(super) fn bytes(&self) -> usize {
        self.slot.pointer().length as usize
    }

    /// Whether both are the same record.
    pub(super) fn is(&self, other: &Seen) -> bool {
        self.slot == other.slot && Arc::ptr_eq(&self.segment, &other.segment)
    }

    pub(super) fn position(&self) -> Position {
        position_of(&self.segment, self.slot, self.state)
    }

    /// Reads the record's value, whether or not it has expired; for a tombstone there is none.
    pub(super) fn value(&self, key: &[u8], wait: Wait) -> Result<Option<Stored>> {
        value_of(&self.segment, self.slot, self.state, key, wait)
    }
}

/// The position that an answer carries which a slot and its space gave.
fn position_of(segment: &Segment, slot: Slot, state: SpaceState) -> Position {
    Position(segment.position_of(slot.pointer().offset).max(state.since))
}

/// Reads the value of the record that a slot names, which lies in `segment`; for a tombstone there is none.
fn value_of(
    segment: &Segment,
    slot: Slot,
    state: SpaceState,
    key: &[u8],
    wait: Wait,
) -> Result<Option<Stored>> {
    let pointer = slot.pointer();
    if pointer.tombstone {
        return Ok(None);
    }
    let (offset, length) = (pointer.offset, pointer.length as usize);
    if wait == Wait::No && length > READ_NOW_BYTES_MAX {
        return Err(KvsError::WouldBlock);
    }
    segment.read_value(offset, length, state.generation, key, wait).map(Some)
}

/// A key's slot as a reader loaded it.
struct Look {
    slot: Slot,
    state: SpaceState,
    expires_at: Option<u64>,
    /// Its deadline, if it had passed.
    passed: Option<Now>,
}

/// A key that a walk met.
struct ScanHit {
    key: Vec<u8>,
    seen: Seen,
    /// Whether it is there: neither removed nor expired.
    exists: bool,
}

impl Log {
    /// The newest value of a key, and the position of the answer. One copy of a mapped record, one
    /// system call for any other.
    pub(crate) fn find(
        &self,
        space: u32,
        key: &[u8],
        wait: Wait,
    ) -> Result<(Option<Stored>, Position)> {
        let (found, position) = self.look(space, key, |segment, look| {
            if let Some(passed) = look.passed {
                return Ok((None, self.cover_or_fail(passed, wait)?));
            }
            Ok((value_of(segment, look.slot, look.state, key, wait)?, Position::ZERO))
        });
        match found {
            None => Ok((None, position)),
            Some(found) => found.map(|(stored, covered)| (stored, position.max(covered))),
        }
    }

    /// The position that an answer carries which depends on a deadline that has passed.
    fn cover_or_fail(&self, passed: Now, wait: Wait) -> Result<Position> {
        match wait {
            Wait::Yes => self.cover(passed),
            Wait::No => self.stamp.of(passed).ok_or(KvsError::WouldBlock),
        }
    }

    /// The key's slot now, and the position of the answer. Where the index does not
    /// hold the key, it is absent as durably as the space has its generation.
    pub(super) fn see(&self, space: u32, key: &[u8]) -> (Option<Seen>, Position) {
        self.look(space, key, |segment, look| Seen {
            slot: look.slot,
            segment: Arc::clone(segment),
            state: look.state,
        })
    }

    /// About how many bytes of the log a read of the key takes: those of its record.
    pub(crate) fn size_hint(&self, space: u32, key: &[u8]) -> usize {
        self.see(space, key).0.map_or(0, |seen| seen.bytes())
    }

    /// The deadline of a key that exists, and the position of what was seen. No system call, unless
    /// the key has expired.
    pub(crate) fn deadline(
        &self,
        space: u32,
        key: &[u8],
        wait: Wait,
    ) -> Result<(Option<Deadline>, Position)> {
        let (look, position) = self.look(space, key, |_, look| look);
        let Some(look) = look.filter(|look| !look.slot.is_tombstone()) else {
            return Ok((None, position));
        };
        match look.passed {
            Some(passed) => Ok((None, position.max(self.cover_or_fail(passed, wait)?))),
            None => Ok((Some(Deadline::of(look.expires_at)), position)),
        }
    }

    /// Hands the key's slot now, and the segment that it names, to `read`; returns its result and the
    /// position of the slot. A deadline is judged by the clocks of that moment: a lower wall clock may
    /// be accepted right behind it. The segment is lent: no count of it is touched, and it lives as long
    /// as `read` runs, which may be long: the epoch has ended by then.
    fn look<R>(
        &self,
        space: u32,
        key: &[u8],
        read: impl FnOnce(&Arc<Segment>, Look) -> R,
    ) -> (Option<R>, Position) {
        loop {
            let pin = epoch::pin();
            let (state, loaded) = self.stable(|| {
                let (state, found) = self.index.find(space, key, &pin);
                let loaded = found.map(Found::slot_and_deadline);
                (state, loaded.map(|(slot, word)| (slot, word, self.passed(word))))
            });
            let Some((slot, expires_at, passed)) = loaded else {
                return (None, Position(state.since));
            };
            let held = self.table.get(slot.pointer().segment);
            drop(pin);
            if let Some(segment) = held.as_ref().and_then(|held| held.as_ref()) {
                let look = Look { slot, state, expires_at, passed };
                return (Some(read(segment, look)), position_of(segment, slot, state));
            }
            // The segment was retired after the slot was loaded; the slot has changed by now.
        }
    }

    /// Whether `slot`, loaded now, names the record that was seen earlier. The word alone would not
    /// tell: between two epochs its table index may have come to mean another segment.
    pub(super) fn is_still(&self, seen: &Seen, slot: Slot) -> bool {
        seen.slot == slot
            && self
                .table
                .get(slot.pointer().segment)
                .is_some_and(|now| now.as_ref().is_some_and(|now| Arc::ptr_eq(now, &seen.segment)))
    }

    /// The position that has to be durable before a slot's record is; 0 for a retired segment.
    pub(super) fn position_of(&self, slot: Slot) -> u64 {
        let pointer = slot.pointer();
        let segment = self.table.get(pointer.segment);
        let segment = segment.as_ref().and_then(|segment| segment.as_ref());
        segment.map_or(0, |segment| segment.position_of(pointer.offset))
    }

    /// Runs `look`, which loads slots, so that it sees each frame with several records either
    /// wholly or not at all.
    pub(super) fn stable<T>(&self, mut look: impl FnMut() -> T) -> T {
        loop {
            let before = self.multi.load(Ordering::Acquire);
            if before.is_multiple_of(2) {
                let result = look();
                // A slot that `look` saw published was stored after the counter became odd; the
                // counts that it read are ordered by the fence alone.
                fence(Ordering::Acquire);
                if self.multi.load(Ordering::Acquire) == before {
                    return result;
                }
            }
            spin_loop();
        }
    }

    /// How many keys a space has.
    pub(crate) fn count(&self, space: u32) -> (Count, Position) {
        let count = self.stable(|| self.index.count(space));
        (count, Position(self.last_position()))
    }

    /// One page of a scan: at most `limit` entries, about 1 MiB of values.
    pub(crate) fn scan(&self, space: u32, range: &KeyRange, limit: usize) -> Result<Page> {
        let (mut page, mut bytes) = (Page::default(), 0);
        let entries = &mut page.entries;
        (page.position, page.done) = self.page(space, range, limit, |met| {
            if entries.len() == limit || bytes >= PAGE_BYTES_MAX {
                return Ok(false);
            }
            let stored = if met.exists { met.seen.value(&met.key, Wait::Yes)? } else { None };
            bytes += stored.as_ref().map_or(0, |stored| stored.value.len()) as u64;
            entries.extend(stored.map(|stored| (met.key, stored.value)));
            Ok(true)
        })?;
        Ok(page)
    }

    /// The keys of a range, at most `limit`. Reads no file.
    pub(crate) fn keys(&self, space: u32, range: &KeyRange, limit: usize) -> Result<KeyPage> {
        let mut page = KeyPage::default();
        let keys = &mut page.keys;
        (page.position, page.done) = self.page(space, range, limit, |met| {
            if keys.len() == limit {
                return Ok(false);
            }
            keys.extend(met.exists.then_some(met.key));
            Ok(true)
        })?;
        Ok(page)
    }

    /// Visits the keys of a range, those that are not there included, until `visit` refuses one;
    /// returns the position of the visited keys, and whether none is left. About `limit` of them
    /// are looked at together.
    fn page(
        &self,
        space: u32,
        range: &KeyRange,
        limit: usize,
        mut visit: impl FnMut(ScanHit) -> Result<bool>,
    ) -> Result<(Position, bool)> {
        let (mut rest, mut position) = (range.clone(), Position::ZERO);
        let mut visited = 0;
        while !rest.is_empty() {
            let wanted = limit.saturating_sub(visited).max(1).saturating_add(1);
            let walked = self.walk(space, &rest, wanted);
            position = position.max(Position(walked.since)).max(self.cover(walked.expired)?);
            let Some(last) = walked.keys.last() else {
                break;
            };
            rest = rest.after(&last.key);
            for met in walked.keys {
                let met_position = met.seen.position();
                visited += usize::from(met.exists);
                if !visit(met)? {
                    return Ok((position, false));
                }
                position = position.max(met_position);
            }
            // Looking again could find the new keys of a commit whose old ones are on this page.
            if walked.is_end {
                break;
            }
        }
        Ok((position, true))
    }

    /// The next keys of a range with their slots, tombstones included. Each commit of
    /// several keys is seen wholly or not at all.
    fn walk(&self, space: u32, range: &KeyRange, wanted: usize) -> ScanPage {
        let mut max = WALK_KEYS_MAX.min(wanted);
        loop {
            let pin = epoch::pin();
            let before = self.multi.load(Ordering::Acquire);
            let mut met: Vec<(Vec<u8>, Slot, Arc<Segment>, bool)> = Vec::with_capacity(max);
            let mut whole = before.is_multiple_of(2);
            let mut expired = Now::default();
            let state = self.index.walk(space, range, &pin, |key, found| {
                let (slot, expires_at) = found.slot_and_deadline();
                let segment = self.table.get(slot.pointer().segment);
                match segment.as_ref().and_then(|segment| segment.as_ref()) {
                    Some(segment) => {
                        let passed = self.passed(expires_at);
                        expired = expired.max(passed.unwrap_or_default());
                        let exists = !slot.is_tombstone() && passed.is_none();
                        met.push((key.to_vec(), slot, Arc::clone(segment), exists));
                    }
                    None => whole = false,
                }
                whole && met.len() < max
            });
            if whole && self.multi.load(Ordering::Acquire) == before {
                let is_end = met.len() < max;
                let keys = met.into_iter().map(|(key, slot, segment, exists)| ScanHit {
                    key,
                    seen: Seen { slot, segment, state },
                    exists,
                });
                let (keys, since) = (keys.collect(), state.since);
                return ScanPage { keys, is_end, since, expired };
            }
            // A shorter walk fits between two commits.
            max = (max / 2).max(WALK_KEYS_MIN.min(wanted));
            spin_loop();
        }
    }
}

/// The keys that a walk met, whether these are the last ones of its range, the position of the record
/// that gave the space its generation, and the latest deadlines of the keys that have expired.
struct ScanPage {
    keys: Vec<ScanHit>,
    is_end: bool,
    since: u64,
    expired: Now,
}
