//! Reading: from a key to a verified value, without a lock.
//!
//! A read finds the entry, loads its slot, takes hold of the segment that the slot names, and
//! reads the record with one positioned call. It repeats itself while a frame with several records
//! is being published (so that nobody sees half of it), and when compaction retired the segment
//! between two of these steps; once held, a segment can be read however long that takes. It never
//! waits for a lock, for compaction or for another reader.
//!
//! Invariants:
//! - From the load of a slot to the load of its segment the reader holds an epoch, so the table
//!   index in the slot cannot have come to mean another segment.
//! - Key and checksum are compared on the copy that is handed out.
//! - Every result carries the highest position of what it observed, absences included.

use crossbeam_epoch as epoch;

use super::Log;
use crate::engine::{KeyRange, Page, Position};
use crate::error::Result;
use crate::index::{Found, Slot};
use crate::segment::Segment;
use crate::sync::{Arc, Ordering, spin_loop};

/// Keys that a scan looks at under one epoch.
const WALK_KEYS_MAX: usize = 256;
/// Among so few keys commits of several keys are always seen wholly or not at all; among more, if
/// none comes between.
const WALK_KEYS_MIN: usize = 16;
/// Records above this are not read in passing: they are copied and checked for too long, in bytes.
const READ_NOW_BYTES_MAX: usize = 256 << 10;
/// A page of a scan ends when its values reach this.
const PAGE_BYTES_MAX: u64 = 1 << 20;

/// What a key's slot said, with the segment that it names.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) slot: Slot,
    segment: Arc<Segment>,
}

impl Seen {
    pub(super) fn position(&self) -> u64 {
        self.segment.position_of(self.slot.pointer().offset)
    }

    /// Reads the record's value; for a tombstone there is none.
    pub(super) fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let pointer = self.slot.pointer();
        if pointer.tombstone {
            return Ok(None);
        }
        self.segment.read_value(pointer.offset, pointer.length as usize, key).map(Some)
    }

    /// The value and its position, without waiting for a disk: `None` if it would take one.
    fn value_now(&self, key: &[u8]) -> Result<Option<(Option<Vec<u8>>, Position)>> {
        let pointer = self.slot.pointer();
        let position = Position(self.position());
        if pointer.tombstone {
            return Ok(Some((None, position)));
        }
        let length = pointer.length as usize;
        if length > READ_NOW_BYTES_MAX {
            return Ok(None);
        }
        let value = self.segment.read_value_now(pointer.offset, length, key)?;
        Ok(value.map(|value| (Some(value), position)))
    }
}

impl Log {
    /// The newest value of a key, and the position of what was seen. One system call.
    pub(crate) fn read(&self, key: &[u8]) -> Result<(Option<Vec<u8>>, Position)> {
        match self.see(key) {
            Some(seen) => Ok((seen.value(key)?, Position(seen.position()))),
            None => Ok((None, Position::ZERO)),
        }
    }

    /// The same without waiting for a disk: `None` if it would take one, or much copying.
    pub(crate) fn read_now(&self, key: &[u8]) -> Result<Option<(Option<Vec<u8>>, Position)>> {
        match self.see(key) {
            Some(seen) => seen.value_now(key),
            None => Ok(Some((None, Position::ZERO))),
        }
    }

    /// What the key's slot says now; `None` if the index does not hold the key, which is then
    /// durably absent.
    pub(super) fn see(&self, key: &[u8]) -> Option<Seen> {
        loop {
            let pin = epoch::pin();
            let slot = self.stable(|| self.index.find(key, &pin).map(Found::slot))?;
            if let Some(seen) = self.hold(slot) {
                return Some(seen);
            }
            // The segment was retired after the slot was loaded; the slot has changed by now.
        }
    }

    /// Takes hold of the segment that a slot names. The caller holds the epoch in which it loaded
    /// the slot.
    fn hold(&self, slot: Slot) -> Option<Seen> {
        let segment = self.table.get(slot.pointer().segment)?;
        Some(Seen { slot, segment: Arc::clone(segment.as_ref()?) })
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

    /// The position that has to be durable for what a slot says to be; 0 for a retired segment.
    pub(super) fn position_of(&self, slot: Slot) -> u64 {
        self.hold(slot).map_or(0, |seen| seen.position())
    }

    /// Runs `look`, which loads slots, so that it sees each frame with several records either
    /// wholly or not at all.
    fn stable<T>(&self, mut look: impl FnMut() -> T) -> T {
        loop {
            let before = self.multi.load(Ordering::Acquire);
            if before.is_multiple_of(2) {
                let result = look();
                // A slot that `look` saw published was stored after the counter became odd.
                if self.multi.load(Ordering::Acquire) == before {
                    return result;
                }
            }
            spin_loop();
        }
    }

    /// One page of a scan: at most `limit` entries, about 1 MiB of values.
    pub(crate) fn scan(&self, range: &KeyRange, limit: usize) -> Result<Page> {
        let mut page = Page::default();
        let mut rest = range.clone();
        let mut bytes = 0;
        while !rest.is_empty() {
            let wanted = (limit - page.entries.len()).saturating_add(1);
            let (keys, is_end) = self.walk(&rest, wanted);
            let Some((last, _)) = keys.last() else {
                break;
            };
            rest = rest.after(last);
            for (key, seen) in keys {
                if page.entries.len() == limit || bytes >= PAGE_BYTES_MAX {
                    return Ok(page);
                }
                let value = seen.value(&key)?;
                page.position = page.position.max(Position(seen.position()));
                bytes += value.as_ref().map_or(0, Vec::len) as u64;
                page.entries.extend(value.map(|value| (key, value)));
            }
            // Looking again could find the new keys of a commit whose old ones are on this page.
            if is_end {
                break;
            }
        }
        page.done = true;
        Ok(page)
    }

    /// The next keys of a range with what their slots said, tombstones included, and whether they
    /// are the last ones. Each commit of several keys is seen wholly or not at all.
    fn walk(&self, range: &KeyRange, wanted: usize) -> (Vec<(Vec<u8>, Seen)>, bool) {
        let mut max = WALK_KEYS_MAX.min(wanted);
        loop {
            let pin = epoch::pin();
            let before = self.multi.load(Ordering::Acquire);
            let mut seen = Vec::with_capacity(max);
            let mut whole = before.is_multiple_of(2);
            self.index.walk(range, &pin, |key, found| {
                match self.hold(found.slot()) {
                    Some(held) => seen.push((key.to_vec(), held)),
                    None => whole = false,
                }
                whole && seen.len() < max
            });
            if whole && self.multi.load(Ordering::Acquire) == before {
                let is_end = seen.len() < max;
                return (seen, is_end);
            }
            // A shorter walk fits between two commits.
            max = (max / 2).max(WALK_KEYS_MIN.min(wanted));
            spin_loop();
        }
    }
}
