//! The generations in memory: which space has which, how many keys each has, and which key expires
//! when.
//!
//! Invariants:
//! - A generation that no space has any more is in no count, and its keys do not expire: their deletion
//!   takes no part in the order of writes.
//! - A number of a generation is given out once, over all runs.

use std::collections::{BTreeMap, BTreeSet};

use crossbeam_skiplist::SkipMap;

use super::layout::{MADE_FROM, RESERVED, generation_of};
use crate::deadline::FAR_MS;
use crate::engine::{Count, Deadline};
use crate::error::{KvsError, Result};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Which generation each space has. The writer changes it; readers read behind the counter of changes
/// (store.rs) or hold one of the locks.
#[derive(Debug)]
pub(super) struct Table {
    /// Never gets a space that it holds, see `docs/decisions/dependencies.md`.
    generations: SkipMap<u32, AtomicU32>,
    /// The number of the next generation that is made.
    next: AtomicU32,
    /// The position of the latest change.
    changed_at: AtomicU64,
}

impl Default for Table {
    fn default() -> Self {
        let (next, changed_at) = (AtomicU32::new(MADE_FROM), AtomicU64::new(0));
        Table { generations: SkipMap::new(), next, changed_at }
    }
}

impl Table {
    /// The generation of a space, if it has one: the high spaces have none at first.
    pub(super) fn generation(&self, space: u32) -> Option<u32> {
        let own = (space < MADE_FROM).then_some(space);
        let given = self.generations.get(&space);
        given.map(|given| given.value().load(Ordering::Acquire)).or(own)
    }

    /// The position of the latest change.
    pub(super) fn changed_at(&self) -> u64 {
        self.changed_at.load(Ordering::Acquire)
    }

    /// The numbers that a change may give to generations.
    pub(super) fn numbers(&self) -> Numbers {
        Numbers { next: self.next.load(Ordering::Relaxed) }
    }

    /// Takes an entry that an open found, or a change wrote.
    pub(super) fn set(&self, space: u32, generation: u32) {
        match self.generations.get(&space) {
            Some(given) => given.value().store(generation, Ordering::Release),
            None => drop(self.generations.get_or_insert(space, AtomicU32::new(generation))),
        }
    }

    /// The numbers below are given.
    pub(super) fn set_next(&self, next: u32) {
        self.next.fetch_max(next, Ordering::Relaxed);
    }

    /// Gives spaces other generations; returns the generations that no space has any more.
    pub(super) fn change(&self, spaces: &BTreeMap<u32, u32>, position: u64) -> Vec<u32> {
        let given: BTreeSet<u32> = spaces.values().copied().collect();
        let old = spaces.keys().filter_map(|space| self.generation(*space));
        let dropped = old.filter(|generation| !given.contains(generation)).collect();
        for (space, generation) in spaces {
            self.set(*space, *generation);
        }
        self.changed_at.store(position, Ordering::Release);
        dropped
    }
}

/// Numbers for generations; they are given once the change that has them is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) next: u32,
}

impl Numbers {
    /// A number for a new generation.
    pub(super) fn make(&mut self) -> Result<u32> {
        if self.next == RESERVED {
            let (size, limit) = (u64::from(RESERVED), u64::from(RESERVED - 1));
            return Err(KvsError::TooLarge { what: "number of cleared spaces", size, limit });
        }
        self.next += 1;
        Ok(self.next - 1)
    }
}

/// The keys of the generations, counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: BTreeMap<u32, Count>,
    keys: u64,
    /// The places of the keys that have a deadline, by it.
    deadlines: BTreeSet<(u64, Vec<u8>)>,
    /// Generations that no space has any more, and that may still have keys in sled.
    dropped: BTreeSet<u32>,
}

impl Tally {
    pub(super) fn count(&self, generation: Option<u32>) -> Count {
        generation.and_then(|generation| self.counts.get(&generation)).copied().unwrap_or_default()
    }

    /// How many keys there are in all.
    pub(super) fn keys(&self) -> u64 {
        self.keys
    }

    /// A key's deadline was `before` and is `after`, where `None` is no key.
    pub(super) fn change(
        &mut self,
        place: &[u8],
        before: Option<Deadline>,
        after: Option<Deadline>,
    ) {
        self.counts.entry(generation_of(place)).or_default().change(before, after);
        self.keys -= u64::from(before.is_some());
        self.keys += u64::from(after.is_some());
        if let Some(deadline) = before.and_then(Deadline::at) {
            self.deadlines.remove(&(deadline, place.to_vec()));
        }
        if let Some(deadline) = after.and_then(Deadline::at) {
            self.deadlines.insert((deadline, place.to_vec()));
        }
    }

    /// Drops a generation that no space has any more.
    pub(super) fn drop_generation(&mut self, generation: u32) {
        if let Some(count) = self.counts.remove(&generation)
            && count.keys > 0
        {
            self.keys -= count.keys;
            self.dropped.insert(generation);
        }
    }

    /// Drops every generation that no space has. For an open, which finds what a crash left.
    pub(super) fn drop_unowned(&mut self, table: &Table) {
        let load = |given: &AtomicU32| given.load(Ordering::Relaxed);
        let given: BTreeSet<u32> =
            table.generations.iter().map(|given| load(given.value())).collect();
        let is_own = |generation: u32| {
            generation < MADE_FROM && !table.generations.contains_key(&generation)
        };
        let all: Vec<u32> = self.counts.keys().copied().collect();
        for generation in all {
            if !is_own(generation) && !given.contains(&generation) {
                self.drop_generation(generation);
            }
        }
    }

    /// A generation to delete, if there is one.
    pub(super) fn dropped(&self) -> Option<u32> {
        self.dropped.last().copied()
    }

    /// A key of a dropped generation was deleted.
    pub(super) fn forget_deadline(&mut self, place: &[u8], deadline: Deadline) {
        if let Some(at) = deadline.at() {
            self.deadlines.remove(&(at, place.to_vec()));
        }
    }

    /// A dropped generation has no keys any more.
    pub(super) fn forget_generation(&mut self, generation: u32) {
        self.dropped.remove(&generation);
    }

    /// Keys that have expired by `now_ms`, at most `limit`, with their deadlines.
    pub(super) fn expired(&self, now_ms: u64, limit: usize) -> Vec<(u64, Vec<u8>)> {
        // The last time never comes.
        let now_ms = now_ms.min(FAR_MS - 1);
        let expired = self.deadlines.iter().take_while(|(deadline, _)| *deadline <= now_ms);
        let live = expired.filter(|(_, place)| self.counts.contains_key(&generation_of(place)));
        live.take(limit).cloned().collect()
    }

    /// Whether nothing will ever expire, and nothing waits to be deleted.
    pub(super) fn is_settled(&self) -> bool {
        self.deadlines.is_empty() && self.dropped.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key's record has the word of its deadline, and the table its moment: they differ for one by
    /// the wall clock, which the last of all may be.
    #[test]
    fn a_deleted_generation_leaves_no_deadline() {
        for deadline in [Deadline::At(5000), Deadline::At(u64::MAX), Deadline::Wall(u64::MAX)] {
            let place = super::super::layout::place(3, b"key");
            let stored = Deadline::of(deadline.word());
            let mut tally = Tally::default();
            tally.change(&place, None, Some(stored));
            tally.drop_generation(3);
            tally.forget_deadline(&place, stored);
            tally.forget_generation(3);
            assert!(tally.is_settled(), "{deadline:?}");
        }
    }
}
