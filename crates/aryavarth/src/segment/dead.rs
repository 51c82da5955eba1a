//! Which records of a segment are dead: a bit for each place where one can begin.
//!
//! Compaction asks for every record of its inputs whether a slot still points at it. Without these
//! bits the answer is a search of the index for its key, though most records of an input are dead.
//! (Measured: `docs/decisions/0012`.)
//!
//! Invariants:
//! - A bit is set only after the slot that pointed at the record was changed, and nothing ever
//!   points a slot back, so a set bit is an answer. (A way to undo a write would have to clear the
//!   bit first.)
//! - A bit that is not set says nothing: after an open none is.

use crate::record::HEADER_BYTES;
use crate::sync::{AtomicU64, OnceLock, Ordering};

/// Records begin at least a header apart, so no two share a bit.
const STEP_BYTES: u64 = HEADER_BYTES as u64;
/// Bits of a leaf, which is 512 bytes for 96 KiB of the segment.
const LEAF_BITS: u64 = 1 << 12;
/// Leaves of a branch, and branches: beyond the 4 GiB that a slot can name.
const LEAVES: u64 = 1 << 8;
const BRANCHES: u64 = 171;

type Leaf = Box<[AtomicU64]>;
type Branch = Box<[OnceLock<Leaf>]>;

/// The bits, in leaves that are made when the first record of their part of the segment dies: few
/// bytes at a time, because a writer makes them under its lock.
#[derive(Debug, Default)]
pub(super) struct DeadMap {
    branches: OnceLock<Box<[OnceLock<Branch>]>>,
}

impl DeadMap {
    /// Notes that no slot points at the record at `offset` any more.
    pub(super) fn set(&self, offset: u64) {
        let (branch, leaf, word, mask) = place(offset);
        let Some(branch) = self.branches.get_or_init(|| empty(BRANCHES)).get(branch) else {
            return;
        };
        let leaf = branch.get_or_init(|| empty(LEAVES))[leaf].get_or_init(|| empty(LEAF_BITS / 64));
        // Orders the change of the slot before it, as the slot itself would.
        leaf[word].fetch_or(mask, Ordering::Release);
    }

    /// Whether it is known that no slot points at the record at `offset`.
    pub(super) fn has(&self, offset: u64) -> bool {
        let (branch, leaf, word, mask) = place(offset);
        let branch = self.branches.get().and_then(|branches| branches.get(branch)?.get());
        let leaf = branch.and_then(|leaves| leaves[leaf].get());
        leaf.is_some_and(|words| words[word].load(Ordering::Acquire) & mask != 0)
    }
}

fn empty<T: Default>(length: u64) -> Box<[T]> {
    (0..length).map(|_| T::default()).collect()
}

/// Branch, leaf, word and bit for a record at `offset`.
fn place(offset: u64) -> (usize, usize, usize, u64) {
    let bit = offset / STEP_BYTES;
    let (leaf, word) = (bit / LEAF_BITS, bit % LEAF_BITS / 64);
    ((leaf / LEAVES) as usize, (leaf % LEAVES) as usize, word as usize, 1 << (bit % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Records as close together as they can be, over the borders of leaves and of branches.
    #[test]
    fn each_record_has_a_bit_of_its_own() {
        let map = DeadMap::default();
        let first = LEAVES * LEAF_BITS * STEP_BYTES - (1 << 20);
        let offsets = || (first..first + (2 << 20)).step_by(STEP_BYTES as usize);
        let is_dead = |offset: &u64| (offset / STEP_BYTES).is_multiple_of(3);
        let dead: BTreeSet<u64> = offsets().filter(is_dead).collect();
        for &offset in &dead {
            map.set(offset);
        }
        assert!(offsets().all(|offset| map.has(offset) == dead.contains(&offset)));
        assert!(!map.has(64));
    }

    #[test]
    fn the_largest_offset_has_a_place() {
        let map = DeadMap::default();
        map.set((1 << 32) - 8);
        assert!(map.has((1 << 32) - 8) && !map.has((1 << 32) - 32));
    }
}
