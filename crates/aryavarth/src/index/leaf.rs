//! A leaf: the entries of neighbouring keys, sorted, and a short tail of those that came since.
//!
//! ```text
//! keys   user:1041   user:1042   user:2000      upper: user:3317, the first key of the next leaf
//!        \____/ shared by all of them
//! items  [head "1041" | entry 7]  [head "1042" | entry 3]  [head "2000" | entry 9]     never change
//! tail   entry 12, entry 14, -, -                               grows in place, in order of arrival
//! ```
//!
//! An item is 12 bytes: the entry's number and the eight bytes of its key behind the beginning that
//! all keys of the leaf share. Most comparisons of a search end in those eight bytes and read no
//! entry. A new key goes to the tail, which costs one store; a full tail is sorted into a new leaf. (A
//! new leaf for each key was measured first: 1.3 GB of leaves that waited for their epoch after a
//! load of a million keys in batches of a thousand.)
//!
//! A leaf covers the keys from its place in the directory up to `upper`, so a reader can tell whether
//! a key that the leaf lacks is absent or belongs to a neighbour that was split off.
//!
//! Invariants:
//! - Only the writer changes a tail: it stores an entry, then the length (release).
//! - An entry of the tail that is removed leaves an empty place there.

use std::cmp::Ordering as KeyOrder;
use std::ops::Bound;

use super::entry::EntryId;
use crate::sync::{Arc, AtomicU32, Ordering};

/// Sorted entries of a leaf before it is split. (64 take 2 bytes a key more for the directory.)
pub(super) const LEAF_ENTRIES_MAX: usize = 128;
/// Neighbours that hold no more than this together become one leaf.
pub(super) const LEAF_ENTRIES_MERGED: usize = 64;
/// Entries of a tail.
const TAIL_ENTRIES: usize = 32;
/// An empty place in a tail.
const NONE: EntryId = EntryId::MAX;

/// Where the keys of entries are found.
pub(super) trait Keys {
    /// The key of an entry that is in use.
    fn key(&self, id: EntryId) -> &[u8];
}

/// An entry in a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Item {
    /// Upper and lower half of the head, so that an item is aligned to four bytes.
    head: [u32; 2],
    id: EntryId,
}

impl Item {
    fn new(head: u64, id: EntryId) -> Item {
        Item { head: [(head >> 32) as u32, head as u32], id }
    }

    fn head(self) -> u64 {
        u64::from(self.head[0]) << 32 | u64::from(self.head[1])
    }

    /// The order of two keys of one leaf.
    fn cmp(self, other: Item, keys: &impl Keys) -> KeyOrder {
        let by_key = || keys.key(self.id).cmp(keys.key(other.id));
        self.head().cmp(&other.head()).then_with(by_key)
    }
}

/// Entries that arrived since the leaf was made.
#[derive(Debug)]
struct Tail {
    entries: [AtomicU32; TAIL_ENTRIES],
    length: AtomicU32,
}

impl Default for Tail {
    fn default() -> Tail {
        let entries = [const { AtomicU32::new(NONE) }; TAIL_ENTRIES];
        Tail { entries, length: AtomicU32::new(0) }
    }
}

impl Tail {
    fn ids(&self) -> impl Iterator<Item = EntryId> {
        let length = self.length.load(Ordering::Acquire) as usize;
        let ids = self.entries[..length].iter().map(|entry| entry.load(Ordering::Acquire));
        ids.filter(|&id| id != NONE)
    }

    /// Adds an entry; returns whether there was a place for it.
    fn push(&self, id: EntryId) -> bool {
        let length = self.length.load(Ordering::Relaxed);
        let Some(entry) = self.entries.get(length as usize) else { return false };
        entry.store(id, Ordering::Relaxed);
        self.length.store(length + 1, Ordering::Release);
        true
    }

    /// Takes an entry out; returns whether it was here.
    fn remove(&self, id: EntryId) -> bool {
        let entry = self.entries.iter().find(|entry| entry.load(Ordering::Relaxed) == id);
        entry.map(|entry| entry.store(NONE, Ordering::Release)).is_some()
    }
}

/// Entries of the keys from a lower bound, which the directory knows, to an upper one.
#[derive(Debug)]
pub(super) struct Leaf {
    /// The beginning that all keys of the items share.
    shared: Box<[u8]>,
    items: Box<[Item]>,
    tail: Tail,
    /// The first key that is not this leaf's; `None` for the last leaf.
    pub(super) upper: Option<Arc<[u8]>>,
}

/// A leaf after a removal.
pub(super) enum Removed {
    /// The entry was not here.
    Absent,
    /// The entry left its place in the tail empty.
    InPlace,
    /// The rest of the entries.
    Rest(Leaf),
}

/// The eight bytes of a key from `at` on, filled up with zeros, as a number that compares like them.
fn head(key: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    let rest = key.get(at..).unwrap_or_default();
    let length = rest.len().min(8);
    bytes[..length].copy_from_slice(&rest[..length]);
    u64::from_be_bytes(bytes)
}

fn shared_bytes(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

impl Leaf {
    /// A leaf of entries in the order of their keys.
    pub(super) fn new(keys: &impl Keys, ids: &[EntryId], upper: Option<Arc<[u8]>>) -> Leaf {
        let shared = match ids {
            [first, .., last] => {
                let first = keys.key(*first);
                &first[..shared_bytes(first, keys.key(*last))]
            }
            _ => &[],
        };
        let items = ids.iter().map(|&id| Item::new(head(keys.key(id), shared.len()), id));
        Leaf { shared: shared.into(), items: items.collect(), tail: Tail::default(), upper }
    }

    /// A leaf of sorted items whose heads begin behind `shared`; further behind if that tells more.
    fn of_items(keys: &impl Keys, items: &[Item], shared: &[u8], upper: Option<Arc<[u8]>>) -> Leaf {
        let is_telling = match items {
            [first, .., last] => first.head[0] != last.head[0],
            _ => false,
        };
        if !is_telling {
            let ids: Vec<_> = items.iter().map(|item| item.id).collect();
            return Leaf::new(keys, &ids, upper);
        }
        Leaf { shared: shared.into(), items: items.into(), tail: Tail::default(), upper }
    }

    /// Entries, in no order.
    pub(super) fn ids(&self) -> impl Iterator<Item = EntryId> {
        self.items.iter().map(|item| item.id).chain(self.tail.ids())
    }

    /// How many of the items' keys are less than `key`.
    fn place(&self, keys: &impl Keys, key: &[u8]) -> usize {
        let length = self.shared.len().min(key.len());
        match key[..length].cmp(&self.shared[..length]) {
            KeyOrder::Less => return 0,
            KeyOrder::Greater => return self.items.len(),
            // A key that ends within the shared beginning is less than all that go on.
            KeyOrder::Equal if length < self.shared.len() => return 0,
            KeyOrder::Equal => {}
        }
        let wanted = head(key, self.shared.len());
        self.items.partition_point(|item| match item.head().cmp(&wanted) {
            KeyOrder::Equal => keys.key(item.id) < key,
            order => order.is_lt(),
        })
    }

    /// Calls `visit` with the entries from `first` on, in order, until it returns false; returns
    /// whether it never did.
    pub(super) fn visit_from(
        &self,
        keys: &impl Keys,
        first: &[u8],
        mut visit: impl FnMut(EntryId) -> bool,
    ) -> bool {
        let mut tail: Vec<_> = self.tail.ids().filter(|&id| keys.key(id) >= first).collect();
        tail.sort_unstable_by_key(|&id| keys.key(id));
        let mut tail = tail.into_iter().peekable();
        for item in &self.items[self.place(keys, first)..] {
            while let Some(id) = tail.next_if(|&id| keys.key(id) < keys.key(item.id)) {
                if !visit(id) {
                    return false;
                }
            }
            if !visit(item.id) {
                return false;
            }
        }
        tail.all(visit)
    }

    /// The same for the entries below `end`, from the last one down.
    pub(super) fn visit_below(
        &self,
        keys: &impl Keys,
        end: Bound<&[u8]>,
        mut visit: impl FnMut(EntryId) -> bool,
    ) -> bool {
        let is_below = |key: &[u8]| match end {
            Bound::Included(end) => key <= end,
            Bound::Excluded(end) => key < end,
            Bound::Unbounded => true,
        };
        let mut at = match end {
            Bound::Included(end) | Bound::Excluded(end) => self.place(keys, end),
            Bound::Unbounded => self.items.len(),
        };
        // The place of a key is before the key itself.
        at += usize::from(self.items.get(at).is_some_and(|item| is_below(keys.key(item.id))));
        let mut tail: Vec<_> = self.tail.ids().filter(|&id| is_below(keys.key(id))).collect();
        tail.sort_unstable_by_key(|&id| std::cmp::Reverse(keys.key(id)));
        let mut tail = tail.into_iter().peekable();
        for item in self.items[..at].iter().rev() {
            while let Some(id) = tail.next_if(|&id| keys.key(id) > keys.key(item.id)) {
                if !visit(id) {
                    return false;
                }
            }
            if !visit(item.id) {
                return false;
            }
        }
        tail.all(visit)
    }

    /// Items of all entries and of one more, sorted, and the beginning in front of their heads.
    fn items_and(&self, keys: &impl Keys, more: Option<EntryId>) -> (Vec<Item>, Box<[u8]>) {
        let tail: Vec<_> = self.tail.ids().chain(more).collect();
        let fits = |&id: &EntryId| keys.key(id).starts_with(&self.shared);
        let (mut items, shared) = if self.items.len() > 1 && tail.iter().all(fits) {
            (self.items.to_vec(), self.shared.clone())
        } else {
            let first = self.items.first().map_or(&[][..], |item| keys.key(item.id));
            let both = |bytes: usize, &id: &EntryId| bytes.min(shared_bytes(first, keys.key(id)));
            let length = tail.iter().fold(self.shared.len(), both);
            let item = |item: &Item| Item::new(head(keys.key(item.id), length), item.id);
            (self.items.iter().map(item).collect(), first[..length].into())
        };
        let item = |id| Item::new(head(keys.key(id), shared.len()), id);
        items.extend(tail.into_iter().map(item));
        // Two runs, of which the first is sorted: a stable sort is quick with such.
        items.sort_by(|one, other| one.cmp(*other, keys));
        (items, shared)
    }

    /// Adds an entry whose key is not here, if the tail has a place for it. For the writer only.
    pub(super) fn push(&self, id: EntryId) -> bool {
        self.tail.push(id)
    }

    /// The same entries and one more, in two leaves if one would be too large; the second one's
    /// lower bound is the first one's upper.
    pub(super) fn with(&self, keys: &impl Keys, id: EntryId) -> (Leaf, Option<Leaf>) {
        let (items, shared) = self.items_and(keys, Some(id));
        if items.len() <= LEAF_ENTRIES_MAX {
            return (Leaf::of_items(keys, &items, &shared, self.upper.clone()), None);
        }
        // Keys that arrive in ascending order fill the leaves; others split them in halves.
        let ascending = items[LEAF_ENTRIES_MAX..].iter().any(|item| item.id == id)
            && self.items.len() == LEAF_ENTRIES_MAX
            && self.items.last().map(|item| item.id) == Some(items[LEAF_ENTRIES_MAX - 1].id);
        let middle = if ascending { LEAF_ENTRIES_MAX } else { items.len() / 2 };
        let (low, high) = items.split_at(middle);
        let border: Arc<[u8]> = keys.key(high[0].id).into();
        let high = Leaf::of_items(keys, high, &shared, self.upper.clone());
        (Leaf::of_items(keys, low, &shared, Some(border)), Some(high))
    }

    /// Takes an entry out. For the writer only.
    pub(super) fn remove(&self, keys: &impl Keys, id: EntryId) -> Removed {
        if self.tail.remove(id) {
            return Removed::InPlace;
        }
        let at = self.place(keys, keys.key(id));
        if self.items.get(at).is_none_or(|item| item.id != id) {
            return Removed::Absent;
        }
        let (mut items, shared) = self.items_and(keys, None);
        items.retain(|item| item.id != id);
        Removed::Rest(Leaf::of_items(keys, &items, &shared, self.upper.clone()))
    }

    /// The entries of this leaf and of the next one.
    pub(super) fn merged(&self, keys: &impl Keys, next: &Leaf) -> Leaf {
        let sorted = |leaf: &Leaf| leaf.items_and(keys, None).0;
        let both: Vec<_> = sorted(self).iter().chain(&sorted(next)).map(|item| item.id).collect();
        Leaf::new(keys, &both, next.upper.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Keys for Vec<Vec<u8>> {
        fn key(&self, id: EntryId) -> &[u8] {
            &self[id as usize]
        }
    }

    /// Keys that are hard for heads: zeros, one the beginning of another, long shared beginnings.
    fn hard_keys() -> Vec<Vec<u8>> {
        let mut keys = vec![Vec::new()];
        for start in [&b""[..], b"a", b"user:0000000000:", &[0, 0, 0], &[0xff; 9]] {
            for byte in [0, 1, 0x7f, 0xff] {
                for length in [1, 2, 7, 8, 9] {
                    keys.push([start, &vec![byte; length]].concat());
                }
            }
        }
        keys.sort();
        keys.dedup();
        keys
    }

    fn ids(leaf: &Leaf, keys: &Vec<Vec<u8>>) -> Vec<EntryId> {
        let mut ids = Vec::new();
        leaf.visit_from(keys, &[], |id| {
            ids.push(id);
            true
        });
        let mut down = Vec::new();
        leaf.visit_below(keys, Bound::Unbounded, |id| {
            down.insert(0, id);
            true
        });
        assert_eq!(ids, down, "up and down");
        ids
    }

    #[test]
    fn an_item_takes_twelve_bytes() {
        assert_eq!(size_of::<Item>(), 12);
    }

    #[test]
    fn a_key_is_placed_as_its_bytes_compare_in_any_part_of_the_keys() {
        let keys = hard_keys();
        for from in (0..keys.len()).step_by(3) {
            for to in from..=keys.len() {
                let ids: Vec<EntryId> = (from as u32..to as u32).collect();
                let leaf = Leaf::new(&keys, &ids, None);
                for (at, key) in keys.iter().enumerate() {
                    let expected = at.clamp(from, to) - from;
                    assert_eq!(leaf.place(&keys, key), expected, "{key:?} in {from}..{to}");
                }
            }
        }
    }

    #[test]
    fn entries_come_and_go_in_any_order() {
        let keys = hard_keys();
        let mut leaf = Leaf::new(&keys, &[], None);
        let shuffled = (0..keys.len()).map(|at| (at * 37 % keys.len()) as EntryId);
        let mut expected = std::collections::BTreeSet::new();
        for id in shuffled.clone() {
            if !leaf.push(id) {
                leaf = leaf.with(&keys, id).0;
            }
            expected.insert(id);
            assert!(ids(&leaf, &keys).into_iter().eq(expected.iter().copied()));
        }
        for id in shuffled {
            match leaf.remove(&keys, id) {
                Removed::Rest(rest) => leaf = rest,
                Removed::InPlace => {}
                Removed::Absent => panic!("entry {id} was put in"),
            }
            expected.remove(&id);
            assert!(ids(&leaf, &keys).into_iter().eq(expected.iter().copied()));
            assert!(matches!(leaf.remove(&keys, id), Removed::Absent));
        }
    }

    #[test]
    fn a_visit_begins_at_its_bound_in_items_and_tail() {
        let keys = hard_keys();
        let even: Vec<EntryId> = (0..keys.len() as u32).step_by(2).collect();
        let leaf = Leaf::new(&keys, &even, None);
        let odd: Vec<EntryId> = (1..40).step_by(2).rev().collect();
        assert!(odd.iter().all(|&id| leaf.push(id)));
        let all: Vec<_> = (0..keys.len() as u32).filter(|id| id % 2 == 0 || *id < 40).collect();
        for (at, key) in keys.iter().enumerate() {
            let mut from = Vec::new();
            leaf.visit_from(&keys, key, |id| {
                from.push(id);
                true
            });
            assert!(from.iter().eq(all.iter().filter(|&&id| id as usize >= at)));
            for (end, last) in [(Bound::Excluded(&**key), at), (Bound::Included(&**key), at + 1)] {
                let mut below = Vec::new();
                leaf.visit_below(&keys, end, |id| {
                    below.push(id);
                    true
                });
                assert!(below.iter().eq(all.iter().rev().filter(|&&id| (id as usize) < last)));
            }
        }
    }

    #[test]
    fn a_full_leaf_is_split_in_halves_and_ascending_keys_leave_it_full() {
        let keys: Vec<_> = (0..400_u32).map(|n| format!("key {n:05}").into_bytes()).collect();
        let even: Vec<_> = (0..LEAF_ENTRIES_MAX as u32).map(|n| 2 * n).collect();
        for id in [1, 127, 129, 253] {
            let leaf = Leaf::new(&keys, &even, Some(keys[300].as_slice().into()));
            let (low, high) = leaf.with(&keys, id);
            let high = high.expect("it was full");
            let (low_ids, high_ids) = (ids(&low, &keys), ids(&high, &keys));
            assert_eq!(low_ids.len() + high_ids.len(), LEAF_ENTRIES_MAX + 1);
            assert!(low_ids.len().abs_diff(high_ids.len()) <= 1);
            assert_eq!(low.upper.as_deref(), Some(keys.key(high_ids[0])));
            assert!(low_ids.iter().chain(&high_ids).is_sorted());
            assert_eq!(high.upper.as_deref(), Some(&*keys[300]));
        }
        let leaf = Leaf::new(&keys, &even, None);
        let mut next = 255;
        while leaf.push(next) {
            next += 1;
        }
        let (low, high) = leaf.with(&keys, next);
        let high = high.map(|high| ids(&high, &keys).len());
        assert_eq!((ids(&low, &keys), high), (even, Some(TAIL_ENTRIES + 1)));
    }
}
