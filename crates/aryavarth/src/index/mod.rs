//! The index: from a key to the place of its newest record.
//!
//! Every key has one *entry* in an arena, and every entry one *slot*: an atomic word that says
//! where the key's newest record lies. Two structures lead from keys to entries, a hash table for
//! single keys and sorted leaves for scans; overwriting a key changes only the slot, neither of them.
//!
//! ```text
//!   get, overwrite, remove          scan, new keys, removed keys
//!          |                                  |
//!   front: hash -> entry            order: leaves of sorted entries
//!          |                                  |
//!          +-------> arena: slot | key <------+
//!                            |
//!                 segment, offset, length of the newest record
//! ```
//!
//! There is one list per generation, and a slot says which generation a space has (spaces.rs, as its
//! records in the log say, table.rs). Entries come from one arena, so that moving or removing a record
//! needs no list. A deadline stands
//! beside its entry, and again in an ordered set that only the writer sees
//! (`docs/decisions/0010`).
//!
//! Invariant: only the writer (the thread that holds its lock) inserts, unlinks and reuses entries.
//! Compaction may replace a slot's value by compare-and-swap, nothing else.

mod arena;
mod cursor;
mod deadlines;
mod dropped;
mod entry;
mod front;
mod leaf;
mod list;
mod order;
mod slot;
mod spaces;
mod table;
mod writer;

use std::fmt;

use crossbeam_epoch as epoch;

use crate::engine::{Count, KeyRange};
use crate::record::Extra;
use crate::sync::{Arc, Ordering};

use arena::Arena;
pub(crate) use cursor::Cursors;
pub(crate) use dropped::Dropped;
use entry::Entry;
pub(crate) use entry::{EntryId, Found};
use list::{HashKey, KeyList};
pub(crate) use slot::Slot;
pub(crate) use spaces::{Change, SpaceState};
use spaces::{ListCell, Spaces};
pub(crate) use table::{SpaceTable, TABLE_GENERATION, table_key, table_record_name, table_value};
pub(crate) use writer::IndexWriter;

/// The slot and the deadline that a write replaced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Old {
    pub(crate) slot: Slot,
    pub(crate) expires_at: Option<u64>,
}

/// The index of all spaces.
pub(crate) struct Index {
    spaces: Spaces,
    arena: Arc<Arena>,
    hash: HashKey,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.spaces.fmt(f)
    }
}

impl Index {
    /// An index without keys whose spaces have the generations that a table says, and the writer's
    /// part of it; the seed makes its hashes secret.
    pub(crate) fn of_table(table: &SpaceTable, seed: u64) -> (Index, IndexWriter) {
        let (spaces, hash) = (Spaces::of_table(table), HashKey::new(seed));
        let writer = IndexWriter { next_generation: table.next(), ..IndexWriter::default() };
        (Index { spaces, arena: Arc::new(Arena::new()), hash }, writer)
    }

    /// The generation of a space now.
    pub(crate) fn state_of(&self, space: u32) -> SpaceState {
        self.spaces.state_of(space)
    }

    /// The space that has a generation, if one has.
    pub(crate) fn space_of(&self, generation: u64) -> Option<u32> {
        self.spaces.space_of(generation)
    }

    /// Whether records of a generation count.
    pub(crate) fn is_in_use(&self, generation: u64) -> bool {
        self.spaces.is_in_use(generation)
    }

    /// The generation of a space, and the entry of `key` in it. No lock.
    pub(crate) fn find<'g>(
        &'g self,
        space: u32,
        key: &[u8],
        pin: &'g epoch::Guard,
    ) -> (SpaceState, Option<Found<'g>>) {
        self.spaces.look(space, |state, list| {
            (state, list.and_then(|list| list.find(&self.arena, key, pin)))
        })
    }

    /// The entry of `key` in a generation. No lock.
    pub(crate) fn find_in<'g>(
        &'g self,
        generation: u64,
        key: &[u8],
        pin: &'g epoch::Guard,
    ) -> Option<Found<'g>> {
        self.spaces.look_in(generation, |list| list?.find(&self.arena, key, pin))
    }

    /// Calls `visit` with the entries of a range of a space in order until it returns false;
    /// returns the space's state. The caller keeps the walk short, as it holds an epoch.
    pub(crate) fn walk<'g>(
        &'g self,
        space: u32,
        range: &KeyRange,
        pin: &'g epoch::Guard,
        visit: impl FnMut(&'g [u8], Found<'g>) -> bool,
    ) -> SpaceState {
        self.spaces.look(space, |state, list| {
            if let Some(list) = list {
                list.walk(&self.arena, range, pin, visit);
            }
            state
        })
    }

    /// Calls `visit` with the entries of a space by their numbers, from `from` on, until it returns
    /// false or `max` entries of any space were looked at; returns the space's state, and the
    /// entry to go on with if there are more. The caller keeps it short, as it holds an epoch.
    pub(crate) fn visit<'g>(
        &'g self,
        space: u32,
        from: EntryId,
        max: u32,
        pin: &'g epoch::Guard,
        visit: impl FnMut(&'g [u8], Found<'g>) -> bool,
    ) -> (SpaceState, Option<EntryId>) {
        self.spaces.look(space, |state, list| {
            (state, list.and_then(|list| list.visit(&self.arena, from, max, pin, visit)))
        })
    }

    /// How many keys a space has.
    pub(crate) fn count(&self, space: u32) -> Count {
        self.spaces.look(space, |_, list| list.map(KeyList::count).unwrap_or_default())
    }

    /// Points a key's entry, which `found` is if there is one, at a newer record; returns its
    /// old slot. For the writer only.
    pub(crate) fn put(
        &self,
        writer: &mut IndexWriter,
        found: Option<Found<'_>>,
        extra: Extra,
        key: &[u8],
        slot: Slot,
    ) -> Option<Old> {
        let Extra { generation, expires_at } = extra;
        let slot = slot.with_deadline(expires_at.is_some());
        let cell = self.spaces.cell_of(generation);
        let list = self.list(&cell);
        list.account(slot, 1);
        let Some(found) = found else {
            let id = self.insert(writer, list, extra, key, slot);
            writer.deadlines.note(generation, id, expires_at);
            return None;
        };
        let (_, old_deadline) = found.slot_and_deadline();
        let old = found.publish(slot, expires_at);
        list.account(old, -1);
        let id = found.id();
        writer.deadlines.forget(generation, id, old_deadline);
        writer.deadlines.note(generation, id, expires_at);
        Some(Old { slot: old, expires_at: old_deadline })
    }

    /// The list of a cell, made if it has none yet. For the writer only.
    fn list<'c>(&self, cell: &'c ListCell) -> &'c KeyList {
        cell.get_or_make(|| KeyList::new(&self.arena, self.hash))
    }

    /// Adds a key that the list does not hold.
    fn insert(
        &self,
        writer: &mut IndexWriter,
        list: &KeyList,
        extra: Extra,
        key: &[u8],
        slot: Slot,
    ) -> EntryId {
        let entry = self.entry_for(writer, extra, key, slot);
        list.link(entry);
        entry.id
    }

    /// An entry of a key, not yet in a list.
    fn entry_for(&self, writer: &mut IndexWriter, extra: Extra, key: &[u8], slot: Slot) -> &Entry {
        if writer.free.is_empty() {
            writer.free = self.arena.take_free();
        }
        let id = writer.free.pop().unwrap_or_else(|| self.arena.take_new());
        let entry = self.arena.entry(id);
        entry.assign(key);
        if let Some(deadline) = extra.expires_at {
            self.arena.set_deadline(id, deadline);
        }
        entry.slot.store(slot.0, Ordering::Release);
        entry
    }

    /// Adds all keys of a generation, in ascending order, to an index that has none of them and that
    /// no thread reads yet: full leaves, and a front of the right size.
    pub(crate) fn fill<'k>(
        &self,
        writer: &mut IndexWriter,
        generation: u64,
        keys: impl Iterator<Item = (&'k [u8], Extra, Slot)>,
    ) {
        let mut ids = Vec::new();
        let mut slots = Vec::new();
        for (key, extra, slot) in keys {
            let slot = slot.with_deadline(extra.expires_at.is_some());
            let id = self.entry_for(writer, extra, key, slot).id;
            writer.deadlines.note(generation, id, extra.expires_at);
            ids.push(id);
            slots.push(slot);
        }
        let cell = self.spaces.cell_of(generation);
        let list = cell.get_or_make(|| KeyList::of_sorted(&self.arena, self.hash, &ids));
        for slot in slots {
            list.account(slot, 1);
        }
    }

    /// Points an entry at a copy of the record that it points at, unless it has moved on. An entry
    /// that was reused meanwhile points elsewhere, too: no two keys share a record.
    pub(crate) fn replace(&self, id: EntryId, old: Slot, copy: Slot) -> bool {
        let slot = &self.arena.entry(id).slot;
        slot.compare_exchange(old.0, copy.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Takes a key whose slot is still `tombstone` out of its list; its entry is reused after an
    /// epoch. That of a dropped generation is left to its purge. For the writer only.
    pub(crate) fn unlink(&self, generation: u64, id: EntryId, tombstone: Slot) -> bool {
        let entry = self.arena.entry(id);
        if entry.slot.load(Ordering::Acquire) != tombstone.0 {
            return false;
        }
        self.spaces.look_in(generation, |list| list.is_some_and(|list| list.unlink(entry)))
    }

    /// The slot of an entry.
    pub(crate) fn slot(&self, id: EntryId) -> Slot {
        Slot(self.arena.entry(id).slot.load(Ordering::Acquire))
    }

    /// The key of an entry that the writer knows to be in use. For the writer only.
    pub(crate) fn key(&self, id: EntryId) -> Vec<u8> {
        self.arena.entry(id).key().to_vec()
    }

    /// Gives spaces other generations; returns the generations with keys that no space has any more.
    /// For the writer only, which keeps readers from seeing a part of what it publishes.
    pub(crate) fn change(
        &self,
        writer: &mut IndexWriter,
        change: &Change,
        position: u64,
    ) -> Vec<Dropped> {
        writer.next_generation = change.next;
        let dead = self.spaces.change(change, position).into_iter();
        let with_keys = dead.filter(|(_, cell)| cell.get().is_some());
        let dropped = with_keys.map(|(generation, cell)| {
            Dropped::new(cell, Arc::new(writer.deadlines.drop_generation(generation)), position)
        });
        dropped.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::entry::INLINE_BYTES;
    use super::*;
    use crate::record::Extra;

    /// Keys that are hard for a prefix: zeros, lengths about 16 and about the room in an entry,
    /// one the beginning of another.
    fn keys() -> Vec<Vec<u8>> {
        let mut keys = vec![Vec::new()];
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            for length in [1, 2, 7, 8, 9, 15, 16, 17, INLINE_BYTES, INLINE_BYTES + 1, 100] {
                keys.push(vec![byte; length]);
                for last in [0, 1, 0xff] {
                    let mut key = vec![byte; length];
                    key.push(last);
                    keys.push(key);
                }
            }
        }
        keys.sort();
        keys.dedup();
        keys
    }

    fn put(index: &Index, writer: &mut IndexWriter, key: &[u8], slot: Slot) {
        index.put(writer, None, Extra::default(), key, slot);
    }

    #[test]
    fn keys_are_found_and_walked_in_the_order_of_their_bytes() {
        let ((index, mut writer), keys) = (Index::of_table(&SpaceTable::default(), 7), keys());
        for (at, key) in keys.iter().enumerate().rev() {
            put(&index, &mut writer, key, Slot::new(1, 8 * (at as u64 + 1), 64, false));
        }
        let pin = epoch::pin();
        for (at, key) in keys.iter().enumerate() {
            let found = index.find(0, key, &pin).1.expect("it was inserted");
            assert_eq!(found.slot().pointer().offset, 8 * (at as u64 + 1));
        }
        for reverse in [false, true] {
            let range = KeyRange { reverse, ..KeyRange::all() };
            let mut walked = Vec::new();
            index.walk(0, &range, &pin, |key, _| {
                walked.push(key.to_vec());
                true
            });
            if reverse {
                walked.reverse();
            }
            assert_eq!(walked, keys);
        }
    }

    /// The window is a few instructions wide, so threads would hardly ever hit it.
    #[test]
    fn an_entry_is_not_reused_under_the_pin_of_somebody_who_found_it() {
        let (index, mut writer) = Index::of_table(&SpaceTable::default(), 7);
        put(&index, &mut writer, b"a", Slot::new(1, 64, 64, false));
        let pin = epoch::pin();
        let found = index.find(0, b"a", &pin).1.expect("it was inserted");
        let tombstone = Slot::new(1, 128, 64, true);
        found.publish(tombstone, None);
        assert!(index.unlink(0, found.id(), tombstone));
        for other in 0..100 {
            put(&index, &mut writer, &[other], Slot::new(1, 192, 64, false));
            let id = index.find(0, &[other], &pin).1.expect("it was inserted").id();
            assert_ne!(id, found.id(), "two keys in one entry");
        }
        assert_eq!(found.slot(), tombstone);
    }

    #[test]
    fn a_deadline_is_never_that_of_another_write() {
        let (index, mut writer) = Index::of_table(&SpaceTable::default(), 7);
        put(&index, &mut writer, b"k", Slot::new(1, 8, 64, false));
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let pin = epoch::pin();
                let found = index.find(0, b"k", &pin).1.expect("it was inserted");
                while !done.load(Ordering::Relaxed) {
                    let (slot, deadline) = found.slot_and_deadline();
                    let expected = slot.has_deadline().then(|| slot.pointer().offset);
                    assert_eq!(deadline, expected);
                }
            });
            let pin = epoch::pin();
            for n in 2..200_000 {
                let found = index.find(0, b"k", &pin).1;
                // One in three has no deadline; the others have that of their place.
                let expires_at = (n % 3 > 0).then_some(8 * n);
                let extra = Extra { generation: 0, expires_at };
                index.put(&mut writer, found, extra, b"k", Slot::new(1, 8 * n, 64, false));
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(writer.deadlines.next().store_ms, 8 * 199_999, "no other is left");
    }

    #[test]
    fn an_entry_takes_forty_bytes() {
        assert_eq!(size_of::<Entry>(), 40);
    }
}
