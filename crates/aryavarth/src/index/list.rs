//! A list: the keys of one content, in order, and their count.
//!
//! The list is crossbeam's [`SkipList`], which `SkipMap` wraps: under a pin it needs no count of
//! references, which would be two writes to shared memory per read. Nothing found in it is used
//! beyond the pin: a scan seeks its place again by key.
//!
//! Invariants:
//! - Only the writer links and unlinks entries, and links none whose key the list holds: an insert of
//!   a present key would let it vanish for a moment.
//! - An entry is unlinked only while its slot is a tombstone, and its slot stays one until reuse.

use std::fmt;
use std::ops::Bound;

use crossbeam_epoch as epoch;
use crossbeam_skiplist::SkipList;

use super::arena::Arena;
use super::entry::{Entry, EntryId, Found};
use super::key_ref::{KeyRef, probe};
use super::slot::{GONE, Slot};
use crate::engine::{Count, KeyRange};
use crate::sync::{Arc, AtomicI64, Ordering};

/// The keys of one content, in order, and how many there are.
pub(super) struct KeyList {
    list: SkipList<KeyRef, ()>,
    // The keys of the list point into it.
    arena: Arc<Arena>,
    /// What the entries of the list say in [`Entry::list`].
    number: u32,
    pub(super) keys: AtomicI64,
    expiring: AtomicI64,
    pub(super) live_bytes: AtomicI64,
}

impl fmt::Debug for KeyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries", self.list.len())
    }
}

impl KeyList {
    pub(super) fn new(arena: &Arc<Arena>) -> KeyList {
        KeyList {
            list: SkipList::new(epoch::default_collector().clone()),
            number: arena.take_list_number(),
            arena: Arc::clone(arena),
            keys: AtomicI64::new(0),
            expiring: AtomicI64::new(0),
            live_bytes: AtomicI64::new(0),
        }
    }

    pub(super) fn count(&self) -> Count {
        let number = |count: &AtomicI64| count.load(Ordering::Relaxed).max(0) as u64;
        Count { keys: number(&self.keys), expiring: number(&self.expiring) }
    }

    /// Counts a value's record (1) or one that no longer is (-1).
    pub(super) fn account(&self, slot: Slot, sign: i64) {
        if !slot.is_tombstone() {
            self.keys.fetch_add(sign, Ordering::Relaxed);
            self.expiring.fetch_add(sign * i64::from(slot.has_deadline()), Ordering::Relaxed);
            self.live_bytes.fetch_add(sign * slot.pointer().length as i64, Ordering::Relaxed);
        }
    }

    pub(super) fn find<'a>(
        &self,
        arena: &'a Arena,
        key: &[u8],
        pin: &epoch::Guard,
    ) -> Option<Found<'a>> {
        let node = probe(key, |probe| self.list.get(probe, pin))?;
        Some(Found { entry: node.key().entry_in(arena), arena })
    }

    /// Puts an entry, which nobody else can reach, under its key into the list.
    pub(super) fn link(&self, entry: &Entry) {
        let pin = epoch::pin();
        self.list.insert(KeyRef::new(entry), (), &pin).release(&pin);
        entry.list.store(self.number, Ordering::Release);
    }

    /// Takes a key out of the list; its entry is reused after an epoch.
    pub(super) fn unlink(&self, entry: &Entry) -> bool {
        let pin = epoch::pin();
        entry.list.store(0, Ordering::Release);
        let node = self.list.remove(&KeyRef::new(entry), &pin);
        let removed = node.is_some();
        if let Some(node) = node {
            node.release(&pin);
        }
        let (arena, id) = (Arc::clone(&self.arena), entry.id);
        pin.defer(move || arena.free(id));
        removed
    }

    /// Takes the first key out of the list; returns what its slot held. For a list that no table
    /// names any more: the slot is a tombstone from then on, so that compaction lets go of it.
    pub(super) fn pop(&self, pin: &epoch::Guard) -> Option<Slot> {
        let node = self.list.pop_front(pin)?;
        let entry = node.key().entry();
        let slot = Slot(entry.slot.swap(GONE.0, Ordering::AcqRel));
        entry.list.store(0, Ordering::Release);
        let (arena, id) = (Arc::clone(&self.arena), entry.id);
        node.release(pin);
        pin.defer(move || arena.free(id));
        Some(slot)
    }

    /// Calls `visit` with the entries by their numbers, from `from` on, until it returns false or
    /// `max` entries of any list were looked at; returns the entry to go on with if there are more.
    pub(super) fn visit<'a>(
        &self,
        arena: &'a Arena,
        from: EntryId,
        max: u32,
        _pin: &'a epoch::Guard,
        mut visit: impl FnMut(&'a [u8], Found<'a>) -> bool,
    ) -> Option<EntryId> {
        let used = arena.used();
        let end = from.saturating_add(max).min(used);
        for id in from..end {
            let entry = arena.entry(id);
            let is_here = entry.list.load(Ordering::Acquire) == self.number;
            if is_here && !visit(entry.key(), Found { entry, arena }) {
                return Some(id + 1).filter(|next| *next < used);
            }
        }
        Some(end).filter(|next| *next < used)
    }

    /// Calls `visit` with the entries of `range` in order until it returns false. The caller
    /// keeps the walk short: it holds an epoch for as long as it lasts.
    pub(super) fn walk<'a>(
        &self,
        arena: &'a Arena,
        range: &KeyRange,
        pin: &epoch::Guard,
        mut visit: impl FnMut(&'a [u8], Found<'a>) -> bool,
    ) {
        let (start, end) = range.bounds();
        let mut node = if range.reverse {
            bound(end, |end| self.list.upper_bound(end, pin))
        } else {
            bound(start, |start| self.list.lower_bound(start, pin))
        };
        while let Some(at) = node {
            let entry = at.key().entry_in(arena);
            if !range.contains(entry.key()) || !visit(entry.key(), Found { entry, arena }) {
                return;
            }
            node = if range.reverse { at.prev() } else { at.next() };
        }
    }
}

impl Drop for KeyList {
    fn drop(&mut self) {
        self.arena.give_list_number(self.number);
    }
}

/// Calls `search` with a bound of what compares like keys.
fn bound<T>(key: Bound<&[u8]>, search: impl FnOnce(Bound<&KeyRef>) -> T) -> T {
    match key {
        Bound::Included(key) => probe(key, |probe| search(Bound::Included(probe))),
        Bound::Excluded(key) => probe(key, |probe| search(Bound::Excluded(probe))),
        Bound::Unbounded => search(Bound::Unbounded),
    }
}
