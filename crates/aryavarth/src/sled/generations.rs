//! What is known in memory of the generations: which space has which, how many keys each has, and
//! which key expires when.
//!
//! Invariants:
//! - A generation that no space has any more is in no count, and its keys expire for nobody: whoever
//!   deletes them needs nobody's leave.
//! - A number of a generation is given out once, over all runs.

use std::collections::{BTreeMap, BTreeSet};

use super::layout::{MADE_FROM, RESERVED, generation_of};
use crate::engine::Count;
use crate::error::{KvsError, Result};

/// The deadline of a key that exists.
pub(super) type Deadline = Option<u64>;

/// Which generation each space has.
#[derive(Clone, Debug)]
pub(super) struct Table {
    generations: BTreeMap<u32, u32>,
    /// The number of the next generation that is made.
    pub(super) next: u32,
    /// The position of the latest change of this table.
    pub(super) changed_at: u64,
}

impl Default for Table {
    fn default() -> Self {
        Table { generations: BTreeMap::new(), next: MADE_FROM, changed_at: 0 }
    }
}

impl Table {
    /// The generation of a space, if it has one: the high spaces have none at first.
    pub(super) fn generation(&self, space: u32) -> Option<u32> {
        let own = (space < MADE_FROM).then_some(space);
        self.generations.get(&space).copied().or(own)
    }

    pub(super) fn set(&mut self, space: u32, generation: u32) {
        self.generations.insert(space, generation);
    }

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

/// What the generations hold.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: BTreeMap<u32, Count>,
    keys: u64,
    /// The places of the keys that have a deadline, by it.
    deadlines: BTreeSet<(u64, Vec<u8>)>,
    /// Generations that no space has any more, and that may still have keys in sled.
    dropped: Vec<u32>,
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
        if let Some(deadline) = before.flatten() {
            self.deadlines.remove(&(deadline, place.to_vec()));
        }
        if let Some(deadline) = after.flatten() {
            self.deadlines.insert((deadline, place.to_vec()));
        }
    }

    /// Drops every generation that no space has.
    pub(super) fn drop_unowned(&mut self, table: &Table) {
        let moved: BTreeSet<u32> = table.generations.values().copied().collect();
        let is_own =
            |generation| generation < MADE_FROM && !table.generations.contains_key(&generation);
        let (counts, dropped, keys) = (&mut self.counts, &mut self.dropped, &mut self.keys);
        counts.retain(|&generation, count| {
            let is_owned = is_own(generation) || moved.contains(&generation);
            if !is_owned && count.keys > 0 {
                *keys -= count.keys;
                dropped.push(generation);
            }
            is_owned
        });
    }

    /// A generation to delete, if there is one.
    pub(super) fn dropped(&self) -> Option<u32> {
        self.dropped.last().copied()
    }

    /// A key of a dropped generation was deleted.
    pub(super) fn forget_deadline(&mut self, place: &[u8], deadline: u64) {
        self.deadlines.remove(&(deadline, place.to_vec()));
    }

    /// A dropped generation has no keys any more.
    pub(super) fn forget_generation(&mut self, generation: u32) {
        self.dropped.retain(|other| *other != generation);
    }

    /// Keys that have expired by `now_ms`, at most `limit`, with their deadlines.
    pub(super) fn expired(&self, now_ms: u64, limit: usize) -> Vec<(u64, Vec<u8>)> {
        let expired = self.deadlines.iter().take_while(|(deadline, _)| *deadline <= now_ms);
        let live = expired.filter(|(_, place)| self.counts.contains_key(&generation_of(place)));
        live.take(limit).cloned().collect()
    }

    /// Whether nothing will ever expire, and nothing waits to be deleted.
    pub(super) fn is_settled(&self) -> bool {
        self.deadlines.is_empty() && self.dropped.is_empty()
    }
}
