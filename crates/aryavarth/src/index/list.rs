//! The keys of one generation of a space: how they are found, how they are ordered, how many they
//! are.
//!
//! Two structures name the same entries, each for its own use: the front (a hash table) for
//! point reads, overwrites and removals, the order (sorted leaves) for scans. Overwriting a key
//! touches neither.
//!
//! Invariants:
//! - An entry is in the order before it is in the front, and leaves the front before the order:
//!   a scan finds each entry that the front names.
//! - An entry is given back only when neither names it, and reused an epoch after that.

use std::fmt;
use std::hash::Hasher;

use crossbeam_epoch as epoch;
use siphasher::sip::SipHasher13;

use super::arena::Arena;
use super::entry::{Entry, EntryId, Found};
use super::front::{Front, Tag};
use super::order::Order;
use super::slot::{GONE, Slot};
use crate::engine::{Count, KeyRange};
use crate::sync::{Arc, AtomicI64, Ordering};

/// The secret of a store's hashes, so that clients cannot choose keys that meet.
#[derive(Clone, Copy)]
pub(super) struct HashKey(u64, u64);

impl HashKey {
    pub(super) fn new(seed: u64) -> HashKey {
        HashKey(seed, seed.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15)
    }

    fn tag(self, key: &[u8]) -> Tag {
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        hasher.write(key);
        Tag((hasher.finish() >> 32) as u32)
    }
}

/// The keys of one generation, and how many there are.
pub(super) struct KeyList {
    front: Front,
    order: Order,
    hash: HashKey,
    // Front and order name its entries.
    arena: Arc<Arena>,
    /// The number of the list, as its entries have it in [`Entry::list`].
    number: u32,
    pub(super) keys: AtomicI64,
    expiring: AtomicI64,
    pub(super) live_bytes: AtomicI64,
}

impl fmt::Debug for KeyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {:?}", self.front, self.order)
    }
}

impl KeyList {
    pub(super) fn new(arena: &Arc<Arena>, hash: HashKey) -> KeyList {
        KeyList::with_order(arena, hash, Order::new(&epoch::pin()))
    }

    /// A list of entries that are sorted by their keys.
    pub(super) fn of_sorted(arena: &Arc<Arena>, hash: HashKey, ids: &[EntryId]) -> KeyList {
        let pin = epoch::pin();
        let list = KeyList::with_order(arena, hash, Order::of_sorted(&**arena, ids, &pin));
        list.front.reserve(ids.len() as u64, &pin);
        for &id in ids {
            let entry = arena.entry(id);
            list.front.insert(hash.tag(entry.key()), id, &pin);
            entry.list.store(list.number, Ordering::Release);
        }
        list
    }

    fn with_order(arena: &Arc<Arena>, hash: HashKey, order: Order) -> KeyList {
        KeyList {
            front: Front::new(),
            order,
            hash,
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

    /// The entry of a key. Two cache misses; no lock.
    pub(super) fn find<'a>(
        &self,
        arena: &'a Arena,
        key: &[u8],
        pin: &epoch::Guard,
    ) -> Option<Found<'a>> {
        let mut entry = None;
        self.front.find(self.hash.tag(key), pin, |id| {
            let found = arena.entry(id);
            let is_it = found.key() == key;
            if is_it {
                entry = Some(found);
            }
            is_it
        });
        entry.map(|entry| Found { entry, arena })
    }

    /// Adds an entry that no other thread can reach. For the writer only.
    pub(super) fn link(&self, entry: &Entry) {
        let pin = epoch::pin();
        self.order.insert(&*self.arena, entry.id, &pin);
        self.front.insert(self.hash.tag(entry.key()), entry.id, &pin);
        entry.list.store(self.number, Ordering::Release);
    }

    /// Takes an entry out; it is reused after an epoch. For the writer only.
    pub(super) fn unlink(&self, entry: &Entry) -> bool {
        let pin = epoch::pin();
        entry.list.store(0, Ordering::Release);
        let removed = self.front.remove(self.hash.tag(entry.key()), entry.id, &pin);
        self.order.remove(&*self.arena, entry.id, &pin);
        let (arena, id) = (Arc::clone(&self.arena), entry.id);
        pin.defer(move || arena.free(id));
        removed
    }

    /// Takes the entries of one leaf out; returns their old slots. For a list that no table
    /// names any more: the slots are tombstones from then on, so that compaction lets go of them.
    pub(super) fn pop(&self, pin: &epoch::Guard) -> Option<Vec<Slot>> {
        let ids = self.order.pop(pin)?;
        let gone = |id: &EntryId| {
            let entry = self.arena.entry(*id);
            entry.list.store(0, Ordering::Release);
            Slot(entry.slot.swap(GONE.0, Ordering::AcqRel))
        };
        let slots = ids.iter().map(gone).collect();
        let arena = Arc::clone(&self.arena);
        pin.defer(move || ids.into_iter().for_each(|id| arena.free(id)));
        Some(slots)
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
        self.order
            .walk(arena, range, pin, |key, id| visit(key, Found { entry: arena.entry(id), arena }));
    }
}

impl Drop for KeyList {
    fn drop(&mut self) {
        self.arena.give_list_number(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn add(list: &KeyList, id: EntryId, key: &[u8]) {
        let entry = list.arena.entry(id);
        entry.assign(key);
        list.link(entry);
    }

    /// Clients choose keys, and 32 bits of a hash meet among 80,000 of them.
    #[test]
    fn two_keys_whose_hashes_meet_are_told_apart() {
        let arena = Arc::new(Arena::new());
        let list = KeyList::new(&arena, HashKey::new(7));
        let mut seen = HashMap::new();
        let (one, other) = (0_u32..)
            .find_map(|n| {
                seen.insert(list.hash.tag(&n.to_be_bytes()).0, n).map(|before| (before, n))
            })
            .expect("numbers enough for two equal tags");
        add(&list, 0, &one.to_be_bytes());
        let pin = epoch::pin();
        let find = |key: u32| list.find(&arena, &key.to_be_bytes(), &pin).map(Found::id);
        assert_eq!((find(one), find(other)), (Some(0), None));
        add(&list, 1, &other.to_be_bytes());
        assert_eq!((find(one), find(other)), (Some(0), Some(1)));
    }

    #[test]
    fn a_key_that_is_taken_out_is_in_neither_structure() {
        let arena = Arc::new(Arena::new());
        let list = KeyList::new(&arena, HashKey::new(7));
        for id in 0..500 {
            add(&list, id, format!("key {id}").as_bytes());
        }
        let pin = epoch::pin();
        for id in (0..500).step_by(2) {
            assert!(list.unlink(arena.entry(id)));
            assert!(list.find(&arena, format!("key {id}").as_bytes(), &pin).is_none());
            assert!(!list.unlink(arena.entry(id)), "it was here once");
        }
        let mut walked = Vec::new();
        list.walk(&arena, &KeyRange::all(), &pin, |_, found| {
            walked.push(found.id());
            true
        });
        walked.sort_unstable();
        assert!(walked.into_iter().eq((1..500).step_by(2)));
    }
}
