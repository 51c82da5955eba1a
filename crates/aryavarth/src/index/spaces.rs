//! Spaces: which content a space of keys has, and the lists of all contents.
//!
//! What a space holds is a *content*, a list of keys with a number that is never used again. At
//! first every space has the content of its own number. Emptying a space gives it a new one, swapping
//! two exchanges theirs; the table that says so is a record like others (of [`TABLE_KEY`] in
//! [`TABLE_CONTENT`]), so recovery, compaction and salvage need to know nothing more of it than that
//! the records of a content that no space has are dead.
//!
//! Invariants:
//! - Only the writer changes the table, by putting a new one in its place. A table that gives a space
//!   another content is published like a frame of several records, so no reader sees half of it.
//! - Whoever loads the table holds a pin that is older than that, so the entries that it leads to
//!   are not reused.
//! - What a space shows depends on the record that gave it its content, be it a value or an
//!   absence: see [`Held::since`].

use std::collections::{BTreeMap, BTreeSet};
use std::{fmt, iter};

use arc_swap::ArcSwap;
use crossbeam_epoch as epoch;

use super::{Arena, EntryId, Found, KeyList, Slot};
use crate::engine::{Count, KeyRange};
use crate::record::Extra;
use crate::sync::{Arc, Ordering};

/// New contents have numbers from here on; lower ones are those of spaces.
const CONTENT_MIN: u64 = 1 << 32;
/// The content of the table's own record, and its key.
pub(crate) const TABLE_CONTENT: u64 = u64::MAX;
pub(crate) const TABLE_KEY: &[u8] = b"spaces";

/// What a space holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) content: u64,
    /// What a crash must not undo for that to stay so: a position.
    pub(crate) since: u64,
}

/// A change of the table: the content that some spaces get, and the next content's number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change {
    pub(crate) spaces: BTreeMap<u32, u64>,
    pub(crate) next: u64,
}

/// Which content each space has.
#[derive(Clone)]
pub(crate) struct Table {
    /// Of all others the content has the space's number.
    spaces: BTreeMap<u32, Held>,
    lists: BTreeMap<u64, Arc<KeyList>>,
    next: u64,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table of {:?}, next {}", self.spaces, self.next)
    }
}

impl Default for Table {
    fn default() -> Self {
        Table { spaces: BTreeMap::new(), lists: BTreeMap::new(), next: CONTENT_MIN }
    }
}

impl Table {
    pub(crate) fn held(&self, space: u32) -> Held {
        self.spaces.get(&space).copied().unwrap_or(Held { content: space.into(), since: 0 })
    }

    /// The number of the next new content.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The space that has a content, if any has.
    pub(crate) fn space_of(&self, content: u64) -> Option<u32> {
        if let Ok(space) = u32::try_from(content)
            && !self.spaces.contains_key(&space)
        {
            return Some(space);
        }
        let mut spaces = self.spaces.iter();
        spaces.find(|(_, held)| held.content == content).map(|(&space, _)| space)
    }

    /// Whether records of a content count.
    pub(crate) fn is_alive(&self, content: u64) -> bool {
        content == TABLE_CONTENT || self.space_of(content).is_some()
    }

    /// The same, quicker for one that has keys. For a table that is in use.
    pub(crate) fn is_in_use(&self, content: u64) -> bool {
        self.lists.contains_key(&content) || self.is_alive(content)
    }

    /// How many keys a content has.
    pub(crate) fn count_in(&self, content: u64) -> Count {
        self.lists.get(&content).map(|list| list.count()).unwrap_or_default()
    }

    /// The table after a change that a crash undoes unless `position` is durable.
    pub(crate) fn after(&self, change: &Change, position: u64) -> Table {
        let mut table = self.clone();
        for (&space, &content) in &change.spaces {
            table.spaces.insert(space, Held { content, since: position });
        }
        table.next = change.next;
        table
    }

    /// The value of the table's record: the next number, then space and content of each space that
    /// has another one than that of its number.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let pairs = self.spaces.iter().filter(|(space, held)| u64::from(**space) != held.content);
        let words = pairs.flat_map(|(&space, held)| [space.into(), held.content]);
        iter::once(self.next).chain(words).flat_map(u64::to_le_bytes).collect()
    }

    /// The table, without lists, that a record says; `None` if it makes no sense.
    pub(crate) fn decode(value: &[u8]) -> Option<Table> {
        let (words, rest) = value.as_chunks::<8>();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let next = words.next().filter(|&next| next >= CONTENT_MIN && rest.is_empty())?;
        let mut table = Table { next, ..Table::default() };
        let mut contents = BTreeSet::new();
        while let Some(space) = words.next() {
            let (content, space) = (words.next()?, u32::try_from(space).ok()?);
            let ascends = table.spaces.last_key_value().is_none_or(|(&last, _)| last < space);
            let is_other = content != u64::from(space) && contents.insert(content);
            if !ascends || !is_other || content >= next {
                return None;
            }
            table.spaces.insert(space, Held { content, since: 0 });
        }
        // A content of a space's own number that another space has is no longer that space's.
        let is_given = |&content: &u64| match u32::try_from(content) {
            Ok(space) => table.spaces.contains_key(&space),
            Err(_) => true,
        };
        contents.iter().all(is_given).then_some(table)
    }
}

/// What only the writer changes.
#[derive(Debug, Default)]
pub(crate) struct IndexWriter {
    next: EntryId,
    free: Vec<EntryId>,
    /// By content the deadlines of its keys, in order.
    deadlines: BTreeMap<u64, BTreeSet<(u64, EntryId)>>,
}

impl IndexWriter {
    /// The next deadline of all.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.deadlines.values().filter_map(|set| Some(set.first()?.0)).min()
    }

    /// Contents and entries of keys whose deadline is not after `now_ms`, at most `max`.
    pub(crate) fn due(&self, now_ms: u64, max: usize) -> Vec<(u64, EntryId)> {
        let due = self.deadlines.iter().flat_map(|(&content, set)| {
            let due = set.iter().take_while(move |(deadline, _)| *deadline <= now_ms);
            due.map(move |&(_, id)| (content, id))
        });
        due.take(max).collect()
    }

    fn note(&mut self, content: u64, id: EntryId, expires_at: Option<u64>) {
        if let Some(deadline) = expires_at {
            self.deadlines.entry(content).or_default().insert((deadline, id));
        }
    }

    fn forget(&mut self, content: u64, id: EntryId, expires_at: Option<u64>) {
        if let Some(deadline) = expires_at
            && let Some(set) = self.deadlines.get_mut(&content)
        {
            set.remove(&(deadline, id));
            if set.is_empty() {
                self.deadlines.remove(&content);
            }
        }
    }
}

/// What a write replaced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Old {
    pub(crate) slot: Slot,
    pub(crate) expires_at: Option<u64>,
}

/// A content that no space has any more. Its keys do not count from then on; the entries are given
/// back later, see [`purge`](Dropped::purge).
#[derive(Clone, Debug)]
pub(crate) struct Dropped {
    list: Arc<KeyList>,
    /// Given back with the last of these, not under the writer's lock.
    _deadlines: Arc<BTreeSet<(u64, EntryId)>>,
    /// The place of the record that took it from its space.
    pub(crate) position: u64,
}

impl Dropped {
    /// Whether this is the same content.
    pub(crate) fn is(&self, other: &Dropped) -> bool {
        Arc::ptr_eq(&self.list, &other.list)
    }

    /// Keys that it had, and bytes of their records.
    pub(crate) fn keys_and_bytes(&self) -> (i64, i64) {
        let load = |count: &crate::sync::AtomicI64| count.load(Ordering::Relaxed);
        (load(&self.list.keys), load(&self.list.live_bytes))
    }

    /// Gives at most `max` entries back, and calls `each` with what their slots held, if that was
    /// a value's record. Returns whether there was nothing left. Any thread may, several at a time.
    pub(crate) fn purge(&self, max: usize, mut each: impl FnMut(Slot)) -> bool {
        let pin = epoch::pin();
        for _ in 0..max {
            match self.list.pop(&pin) {
                Some(slot) if slot.is_tombstone() => {}
                Some(slot) => each(slot),
                None => return true,
            }
        }
        false
    }
}

/// The index of all spaces.
pub(crate) struct Index {
    table: ArcSwap<Table>,
    arena: Arc<Arena>,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table.load().fmt(f)
    }
}

impl Index {
    /// An index without keys whose spaces have the contents that a table says.
    pub(crate) fn with_table(table: Table) -> Index {
        Index { table: ArcSwap::from_pointee(table), arena: Arc::new(Arena::new()) }
    }

    /// The table as it is now.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// What a space holds now.
    pub(crate) fn held(&self, space: u32) -> Held {
        self.table.load().held(space)
    }

    /// Whether records of a content count.
    pub(crate) fn is_in_use(&self, content: u64) -> bool {
        self.table.load().is_in_use(content)
    }

    /// What a space holds, and the entry of `key` in it. No lock.
    pub(crate) fn find<'g>(
        &'g self,
        space: u32,
        key: &[u8],
        pin: &'g epoch::Guard,
    ) -> (Held, Option<Found<'g>>) {
        let table = self.table.load();
        let held = table.held(space);
        let list = table.lists.get(&held.content);
        (held, list.and_then(|list| list.find(&self.arena, key, pin)))
    }

    /// The entry of `key` in a content. No lock.
    pub(crate) fn find_in<'g>(
        &'g self,
        content: u64,
        key: &[u8],
        pin: &'g epoch::Guard,
    ) -> Option<Found<'g>> {
        let table = self.table.load();
        table.lists.get(&content).and_then(|list| list.find(&self.arena, key, pin))
    }

    /// Calls `visit` with the entries of a range of a space in order until it returns false;
    /// returns what the space holds. The caller keeps the walk short, as it holds an epoch.
    pub(crate) fn walk<'g>(
        &'g self,
        space: u32,
        range: &KeyRange,
        pin: &'g epoch::Guard,
        visit: impl FnMut(&'g [u8], Found<'g>) -> bool,
    ) -> Held {
        let table = self.table.load();
        let held = table.held(space);
        if let Some(list) = table.lists.get(&held.content) {
            list.walk(&self.arena, range, pin, visit);
        }
        held
    }

    /// How many keys a space has.
    pub(crate) fn count(&self, space: u32) -> Count {
        let table = self.table.load();
        table.count_in(table.held(space).content)
    }

    /// Points a key's entry, which `found` is if there is one, at a newer record; returns what it
    /// pointed at. For the writer only.
    pub(crate) fn put(
        &self,
        writer: &mut IndexWriter,
        found: Option<Found<'_>>,
        extra: Extra,
        key: &[u8],
        slot: Slot,
    ) -> Option<Old> {
        let Extra { content, expires_at } = extra;
        let slot = slot.with_deadline(expires_at.is_some());
        let list = self.list_of(content);
        list.account(slot, 1);
        let Some(found) = found else {
            let id = self.insert(writer, &list, extra, key, slot);
            writer.note(content, id, expires_at);
            return None;
        };
        let (_, old_deadline) = found.slot_and_deadline();
        let old = found.publish(slot, expires_at);
        list.account(old, -1);
        let id = found.id();
        writer.forget(content, id, old_deadline);
        writer.note(content, id, expires_at);
        Some(Old { slot: old, expires_at: old_deadline })
    }

    /// The list of a content, made if it has none yet. For the writer only.
    fn list_of(&self, content: u64) -> Arc<KeyList> {
        let table = self.table.load();
        if let Some(list) = table.lists.get(&content) {
            return Arc::clone(list);
        }
        let list = Arc::new(KeyList::new(&self.arena));
        let mut table = Table::clone(&table);
        table.lists.insert(content, Arc::clone(&list));
        self.table.store(Arc::new(table));
        list
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
        if writer.free.is_empty() {
            writer.free = self.arena.take_free();
        }
        let id = writer.free.pop().unwrap_or_else(|| {
            writer.next += 1;
            writer.next - 1
        });
        let entry = self.arena.entry(id);
        entry.assign(key);
        if let Some(deadline) = extra.expires_at {
            self.arena.set_deadline(id, deadline);
        }
        entry.slot.store(slot.0, Ordering::Release);
        list.link(entry);
        id
    }

    /// Points an entry at a copy of the record that it points at, unless it has moved on. An entry
    /// that was reused meanwhile points elsewhere, too: no two keys share a record.
    pub(crate) fn replace(&self, id: EntryId, old: Slot, copy: Slot) -> bool {
        let slot = &self.arena.entry(id).slot;
        slot.compare_exchange(old.0, copy.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Takes a key whose slot is still `tombstone` out of its list; its entry is reused after an
    /// epoch. That of a dropped content is left to its purge. For the writer only.
    pub(crate) fn unlink(&self, content: u64, id: EntryId, tombstone: Slot) -> bool {
        let entry = self.arena.entry(id);
        if entry.slot.load(Ordering::Acquire) != tombstone.0 {
            return false;
        }
        let table = self.table.load();
        let list = table.lists.get(&content);
        list.is_some_and(|list| list.unlink(entry))
    }

    /// What an entry points at.
    pub(crate) fn slot(&self, id: EntryId) -> Slot {
        Slot(self.arena.entry(id).slot.load(Ordering::Acquire))
    }

    /// The key of an entry that the writer knows to be in use. For the writer only.
    pub(crate) fn key(&self, id: EntryId) -> Vec<u8> {
        self.arena.entry(id).key().to_vec()
    }

    /// Changes the table; returns the contents that no space has any more. For the writer only, who
    /// sees to it that no reader sees half of what it publishes.
    pub(crate) fn change(
        &self,
        writer: &mut IndexWriter,
        change: &Change,
        position: u64,
    ) -> Vec<Dropped> {
        let mut table = self.table.load().after(change, position);
        let lists = std::mem::take(&mut table.lists);
        let (alive, dead) = lists.into_iter().partition(|&(content, _)| table.is_alive(content));
        table.lists = alive;
        self.table.store(Arc::new(table));
        let dropped = |(content, list): (u64, _)| {
            let deadlines = Arc::new(writer.deadlines.remove(&content).unwrap_or_default());
            Dropped { list, _deadlines: deadlines, position }
        };
        let dead: BTreeMap<u64, Arc<KeyList>> = dead;
        dead.into_iter().map(dropped).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_reads_as_it_was_written() {
        let spaces =
            BTreeMap::from([(0, CONTENT_MIN), (1, 2), (2, 1), (u32::MAX, CONTENT_MIN + 1)]);
        let change = Change { spaces, next: CONTENT_MIN + 5 };
        let table = Table::default().after(&change, 7);
        let again = Table::decode(&table.encode()).expect("it was written");
        assert_eq!(again.encode(), table.encode());
        assert_eq!(again.held(0), Held { content: CONTENT_MIN, since: 0 });
        assert_eq!((again.held(3).content, again.space_of(2)), (3, Some(1)));
        assert!(!again.is_alive(0) && !again.is_alive(u64::from(u32::MAX)) && again.is_alive(3));
        assert_eq!(Table::decode(&Table::default().encode()).unwrap().next(), CONTENT_MIN);
    }

    #[test]
    fn a_table_that_makes_no_sense_is_refused() {
        let words = |words: &[u64]| {
            Table::decode(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>())
        };
        let first = CONTENT_MIN;
        assert!(words(&[first + 1, 0, first]).is_some());
        for bad in [
            &[][..],
            &[first - 1],
            &[first + 1, 0],
            &[first, 0, first],
            &[first + 1, 0, 0],
            &[first + 1, 1 << 32, first],
            &[first + 1, 0, first, 1, first],
            &[first + 2, 1, first, 0, first + 1],
            &[first + 1, 0, 1],
        ] {
            assert!(words(bad).is_none(), "{bad:?}");
        }
        assert!(Table::decode(&[0; 9]).is_none());
    }
}
