//! The order: the entries of one set of keys in the order of their bytes.
//!
//! ```text
//! directory (a skip list)     ""            "user:2000"      "user:5120"
//!                              |                 |                |
//! leaves                  [e e e e e]        [e e e]          [e e e e]
//! covers                  "" .. user:2000    .. user:5120     .. the end
//! ```
//!
//! A list node for each key would take 50 bytes and a cache miss per step. Here the directory has a
//! node for a hundred keys and stays in the cache, and a scan reads arrays. A leaf whose tail is full,
//! and one that loses a key, is replaced by a new one; the old one goes an epoch later, so readers
//! take no lock.
//!
//! Invariants:
//! - Only the writer changes leaves and the directory.
//! - The leaves cover all keys without gap or overlap: a node's key is its leaf's lower bound, its
//!   leaf's `upper` is the next node's key. The node of the least keys stays.
//! - A split puts the upper half into the directory before it shrinks the lower one; a merge shows
//!   the larger leaf before the node of the upper one goes. So a reader that seeks a key finds a leaf
//!   that covers it, or one that ends before it, and then seeks again.
//! - The directory never gets a key that it holds: `SkipList::insert` would let it vanish for a
//!   moment.

mod place;

use std::fmt;
use std::ops::Bound;

use crossbeam_epoch::{self as epoch, Guard};
use crossbeam_skiplist::SkipList;
use crossbeam_skiplist::base::Entry as Node;

use super::entry::EntryId;
use super::leaf::{Keys, LEAF_ENTRIES_MAX, LEAF_ENTRIES_MERGED, Leaf, Removed};
use crate::engine::KeyRange;
use crate::sync::{Arc, spin_loop};
use place::Place;

type LeafNode<'g> = Node<'g, 'g, Arc<[u8]>, Place>;

/// The entries of one set of keys, in order.
pub(super) struct Order {
    directory: SkipList<Arc<[u8]>, Place>,
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Order of {} leaves", self.directory.len())
    }
}

impl Order {
    pub(super) fn new(pin: &Guard) -> Order {
        let directory = SkipList::new(epoch::default_collector().clone());
        let order = Order { directory };
        order.add([].into(), Leaf::new(&NoKeys, &[], None), pin);
        order
    }

    /// An order of entries that are sorted by their keys, in full leaves.
    pub(super) fn of_sorted(keys: &impl Keys, ids: &[EntryId], pin: &Guard) -> Order {
        let order = Order { directory: SkipList::new(epoch::default_collector().clone()) };
        let mut lower: Arc<[u8]> = [].into();
        let mut pieces = ids.chunks(LEAF_ENTRIES_MAX).peekable();
        while let Some(piece) = pieces.next() {
            let upper = pieces.peek().map(|next| Arc::from(keys.key(next[0])));
            order.add(lower, Leaf::new(keys, piece, upper.clone()), pin);
            lower = upper.unwrap_or_else(|| [].into());
        }
        if ids.is_empty() {
            order.add(lower, Leaf::new(keys, &[], None), pin);
        }
        order
    }

    fn add(&self, lower: Arc<[u8]>, leaf: Leaf, pin: &Guard) {
        self.directory.insert(lower, Place::new(leaf), pin).release(pin);
    }

    /// The lower bound and the leaf of the keys just below a bound, for a walk down, or from a key
    /// on, for a walk up. `None` if the leaves are being taken out.
    fn seek<'g>(&'g self, bound: Bound<&[u8]>, pin: &'g Guard) -> Option<(&'g [u8], &'g Leaf)> {
        loop {
            let node = self.node(bound, pin)?;
            let leaf = node.value().leaf(pin);
            let upper = leaf.upper.as_deref();
            let is_split = match bound {
                Bound::Included(key) => upper.is_some_and(|upper| upper <= key),
                Bound::Excluded(key) => upper.is_some_and(|upper| upper < key),
                Bound::Unbounded => upper.is_some(),
            };
            if !is_split {
                return Some((node.key(), leaf));
            }
            // The upper half is in the directory already.
            spin_loop();
        }
    }

    /// The node of the leaf that covers the keys just below a bound, or of one that was split.
    fn node<'g>(&'g self, bound: Bound<&[u8]>, pin: &'g Guard) -> Option<LeafNode<'g>> {
        let node = self.directory.upper_bound::<[u8]>(bound, pin);
        // No key is below the least one: its leaf says so.
        node.or_else(|| self.directory.front(pin))
    }

    /// Adds an entry whose key is not here. For the writer only.
    pub(super) fn insert(&self, keys: &impl Keys, id: EntryId, pin: &Guard) {
        let Some(node) = self.node(Bound::Included(keys.key(id)), pin) else { return };
        let leaf = node.value().leaf(pin);
        if leaf.push(id) {
            return;
        }
        let (low, high) = leaf.with(keys, id);
        if let (Some(high), Some(border)) = (high, &low.upper) {
            self.add(Arc::clone(border), high, pin);
        }
        node.value().replace(low, pin);
    }

    /// Takes an entry out that still has its key; returns whether it was here. For the writer only.
    pub(super) fn remove(&self, keys: &impl Keys, id: EntryId, pin: &Guard) -> bool {
        let Some(node) = self.node(Bound::Included(keys.key(id)), pin) else { return false };
        let leaf = node.value().leaf(pin);
        match leaf.remove(keys, id) {
            Removed::Absent => return false,
            Removed::InPlace => {
                if leaf.ids().next().is_none() {
                    self.merge(keys, &node, leaf, pin);
                }
            }
            Removed::Rest(rest) => {
                let few = rest.ids().count() * 2 <= LEAF_ENTRIES_MERGED;
                if !few || !self.merge(keys, &node, &rest, pin) {
                    node.value().replace(rest, pin);
                }
            }
        }
        true
    }

    /// Puts the rest of a leaf together with the leaf before it, if both are small or the rest is
    /// nothing; returns whether it did.
    fn merge(&self, keys: &impl Keys, node: &LeafNode<'_>, rest: &Leaf, pin: &Guard) -> bool {
        if node.key().is_empty() {
            return false;
        }
        let Some(before) = self.node(Bound::Excluded(node.key()), pin) else { return false };
        let low = before.value().leaf(pin);
        let (below, left) = (low.ids().count(), rest.ids().count());
        if left > 0 && below + left > LEAF_ENTRIES_MERGED {
            return false;
        }
        before.value().replace(low.merged(keys, rest), pin);
        if let Some(removed) = self.directory.remove(node.key(), pin) {
            removed.release(pin);
        }
        true
    }

    /// Takes the leaf of the least keys out and returns its entries. For an order that no new reader
    /// reaches: others may lose their place. Any thread may, several at a time.
    pub(super) fn pop(&self, pin: &Guard) -> Option<Vec<EntryId>> {
        let node = self.directory.pop_front(pin)?;
        let ids = node.value().leaf(pin).ids().collect();
        node.release(pin);
        Some(ids)
    }

    /// Calls `visit` with the entries of `range` in order until it returns false.
    pub(super) fn walk<'k>(
        &self,
        keys: &'k impl Keys,
        range: &KeyRange,
        pin: &Guard,
        mut visit: impl FnMut(&'k [u8], EntryId) -> bool,
    ) {
        let mut visit = |id| {
            let key = keys.key(id);
            range.contains(key) && visit(key, id)
        };
        let (start, end) = range.bounds();
        if range.reverse {
            let Some((mut lower, mut leaf)) = self.seek(end, pin) else { return };
            let mut end = end;
            // A leaf that was merged goes on beyond the key where the last one began.
            while leaf.visit_below(keys, end, &mut visit)
                && !lower.is_empty()
                && let Some((next, below)) = self.seek(Bound::Excluded(lower), pin)
                // Below a leaf whose neighbours were taken out it is found itself.
                && next < lower
            {
                end = Bound::Excluded(lower);
                (lower, leaf) = (next, below);
            }
        } else {
            let first = match start {
                Bound::Unbounded => Vec::new(),
                Bound::Included(key) => key.to_vec(),
                Bound::Excluded(key) => after(key),
            };
            let Some((_, mut leaf)) = self.seek(Bound::Included(&first), pin) else { return };
            let mut first = &*first;
            // A leaf that was merged begins before the key where the last one ended.
            while leaf.visit_from(keys, first, &mut visit)
                && let Some(upper) = &leaf.upper
                && let Some((_, above)) = self.seek(Bound::Included(upper), pin)
            {
                first = upper;
                leaf = above;
            }
        }
    }
}

/// The least key above `key`.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// The keys of a leaf without entries.
struct NoKeys;

impl Keys for NoKeys {
    fn key(&self, _: EntryId) -> &[u8] {
        &[]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    #[cfg(not(shuttle))]
    use crate::sync::thread;

    /// Keys by number, in pairs and with long beginnings, so that heads alone do not decide.
    fn keys(count: u32) -> Vec<Vec<u8>> {
        let key = |n: u32| match n % 3 {
            0 => format!("user:profile:{:06}", n * 7919 % count).into_bytes(),
            1 => format!("u{}", n * 7919 % count).into_bytes(),
            _ => [&[0xff; 9][..], &n.wrapping_mul(0x9e37_79b9).to_be_bytes()].concat(),
        };
        let mut keys: Vec<_> = (0..count).map(key).collect();
        let unique: BTreeSet<_> = keys.drain(..).collect();
        // Numbers in no order of their keys.
        let mut keys: Vec<_> = unique.into_iter().collect();
        let length = keys.len();
        for at in 0..length {
            keys.swap(at, at * 31 % length);
        }
        keys
    }

    fn walked(order: &Order, keys: &Vec<Vec<u8>>, range: &KeyRange) -> Vec<EntryId> {
        let (mut ids, pin) = (Vec::new(), epoch::pin());
        order.walk(keys, range, &pin, |_, id| {
            ids.push(id);
            true
        });
        ids
    }

    fn expected(model: &BTreeSet<(Vec<u8>, EntryId)>, range: &KeyRange) -> Vec<EntryId> {
        let inside = model.iter().filter(|(key, _)| range.contains(key));
        let mut ids: Vec<_> = inside.map(|&(_, id)| id).collect();
        if range.reverse {
            ids.reverse();
        }
        ids
    }

    #[test]
    fn entries_come_and_go_and_are_walked_as_in_a_sorted_set() {
        let keys = keys(4_000);
        let (order, mut model) = (Order::new(&epoch::pin()), BTreeSet::new());
        let mut random = 3_u64;
        let mut next = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize % below
        };
        for step in 0..60_000 {
            let (id, pin) = (next(keys.len()) as EntryId, epoch::pin());
            let entry = (keys[id as usize].clone(), id);
            let adds = (step / 12_000) % 2 == 0 || next(8) == 0;
            if adds && model.insert(entry.clone()) {
                order.insert(&keys, id, &pin);
            } else if !adds {
                assert_eq!(order.remove(&keys, id, &pin), model.remove(&entry));
            }
            if step % 500 == 0 {
                let (one, other) = (&keys[next(keys.len())], &keys[next(keys.len())]);
                for (start, end) in [
                    (Bound::Unbounded, Bound::Unbounded),
                    (Bound::Included(one), Bound::Excluded(other)),
                    (Bound::Excluded(one), Bound::Included(other)),
                    (Bound::Included(one), Bound::Unbounded),
                ] {
                    for reverse in [false, true] {
                        let (start, end) = (start.cloned(), end.cloned());
                        let range = KeyRange { start, end, reverse };
                        assert_eq!(walked(&order, &keys, &range), expected(&model, &range));
                    }
                }
            }
        }
        for (_, id) in model {
            assert!(order.remove(&keys, id, &epoch::pin()));
        }
        assert_eq!(order.directory.len(), 1, "leaves without entries are gone");
    }

    #[test]
    fn an_order_of_sorted_entries_is_the_same_in_full_leaves() {
        let keys = keys(3_000);
        for count in [0, 1, LEAF_ENTRIES_MAX, LEAF_ENTRIES_MAX + 1, keys.len()] {
            let mut ids: Vec<EntryId> = (0..count as u32).collect();
            ids.sort_by_key(|&id| &keys[id as usize]);
            let order = Order::of_sorted(&keys, &ids, &epoch::pin());
            assert_eq!(walked(&order, &keys, &KeyRange::all()), ids);
            assert_eq!(order.directory.len(), count.div_ceil(LEAF_ENTRIES_MAX).max(1));
        }
    }

    /// The window is a few instructions wide, so threads would hardly ever hit it.
    #[test]
    fn a_leaf_is_not_freed_under_the_pin_of_a_reader_that_walks_it() {
        let keys = keys(1_000);
        let mut ids: Vec<EntryId> = (0..keys.len() as u32).collect();
        ids.sort_by_key(|&id| &keys[id as usize]);
        let (odd, even): (Vec<_>, Vec<_>) = ids.iter().partition(|id| *id % 2 == 1);
        let order = Order::of_sorted(&keys, &even, &epoch::pin());
        let pin = epoch::pin();
        let (_, leaf) = order.seek(Bound::Included(&[]), &pin).expect("it has leaves");
        let upper = Arc::clone(leaf.upper.as_ref().expect("it has several"));
        let holders = Arc::strong_count(&upper);
        for &id in odd.iter().take(100) {
            order.insert(&keys, id, &epoch::pin());
        }
        let (_, now) = order.seek(Bound::Included(&[]), &pin).expect("it has leaves");
        assert!(!std::ptr::eq(leaf, now), "the leaf was replaced");
        assert!(Arc::strong_count(&upper) > holders, "the old leaf and a new one end at this key");
    }

    #[test]
    fn a_dropped_order_is_taken_apart_leaf_by_leaf() {
        let keys = keys(1_000);
        let (order, pin) = (Order::new(&epoch::pin()), epoch::pin());
        for id in 0..keys.len() as EntryId {
            order.insert(&keys, id, &pin);
        }
        let mut ids = BTreeSet::new();
        let down = KeyRange::all().reversed();
        while let Some(some) = order.pop(&pin) {
            ids.extend(some);
            assert!(walked(&order, &keys, &KeyRange::all()).len() + ids.len() <= keys.len());
            assert!(walked(&order, &keys, &down).len() + ids.len() <= keys.len());
        }
        assert!(ids.into_iter().eq(0..keys.len() as EntryId));
    }

    /// Keys that stay are walked, once each and in order, while leaves split and merge around them.
    #[cfg(not(shuttle))]
    fn keys_that_stay_are_walked(count: usize, rounds: usize, readers: usize) {
        let keys = Arc::new(keys(count as u32));
        let order = Arc::new(Order::new(&epoch::pin()));
        let stays = |id: &EntryId| id.is_multiple_of(5);
        let all = 0..keys.len() as EntryId;
        for id in all.clone().filter(stays) {
            order.insert(&*keys, id, &epoch::pin());
        }
        let writer = {
            let (keys, order, all) = (Arc::clone(&keys), Arc::clone(&order), all.clone());
            thread::spawn(move || {
                for _ in 0..rounds {
                    for id in all.clone().filter(|id| !stays(id)) {
                        order.insert(&*keys, id, &epoch::pin());
                    }
                    for id in all.clone().filter(|id| !stays(id)) {
                        assert!(order.remove(&*keys, id, &epoch::pin()));
                    }
                }
            })
        };
        let reader = |reader: usize| {
            let (keys, order) = (Arc::clone(&keys), Arc::clone(&order));
            thread::spawn(move || {
                for round in 0..rounds {
                    let reverse = (reader + round) % 2 == 1;
                    let range = KeyRange { reverse, ..KeyRange::all() };
                    let ids = walked(&order, &keys, &range);
                    let ordered = |pair: &[EntryId]| {
                        let (one, other) = (&keys[pair[0] as usize], &keys[pair[1] as usize]);
                        if reverse { one > other } else { one < other }
                    };
                    assert!(ids.windows(2).all(ordered), "each once and in order");
                    let stayed = ids.iter().filter(|&id| stays(id)).count();
                    assert_eq!(stayed, keys.len().div_ceil(5));
                }
            })
        };
        let readers: Vec<_> = (0..readers).map(reader).collect();
        for thread in readers.into_iter().chain([writer]) {
            thread.join().unwrap();
        }
    }

    #[cfg(not(shuttle))]
    #[test]
    fn keys_that_stay_are_walked_while_leaves_split_and_merge() {
        keys_that_stay_are_walked(3_000, 30, 3);
    }
}
