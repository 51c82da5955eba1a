//! The part of the index that only the writer touches: entries that are free, and the deadlines of
//! all keys in order.

use std::collections::{BTreeMap, BTreeSet};

use super::entry::EntryId;

/// The part of the index that only the writer changes.
#[derive(Debug, Default)]
pub(crate) struct IndexWriter {
    pub(super) free: Vec<EntryId>,
    /// By generation the deadlines of its keys, in order.
    pub(super) deadlines: BTreeMap<u64, BTreeSet<(u64, EntryId)>>,
}

impl IndexWriter {
    /// The next deadline of all.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.deadlines.values().filter_map(|set| Some(set.first()?.0)).min()
    }

    /// Generations and entries of keys whose deadline is not after `now_ms`, at most `max`.
    pub(crate) fn due(&self, now_ms: u64, max: usize) -> Vec<(u64, EntryId)> {
        let due = self.deadlines.iter().flat_map(|(&generation, set)| {
            let due = set.iter().take_while(move |(deadline, _)| *deadline <= now_ms);
            due.map(move |&(_, id)| (generation, id))
        });
        due.take(max).collect()
    }

    pub(super) fn note(&mut self, generation: u64, id: EntryId, expires_at: Option<u64>) {
        if let Some(deadline) = expires_at {
            self.deadlines.entry(generation).or_default().insert((deadline, id));
        }
    }

    pub(super) fn forget(&mut self, generation: u64, id: EntryId, expires_at: Option<u64>) {
        if let Some(deadline) = expires_at
            && let Some(set) = self.deadlines.get_mut(&generation)
        {
            set.remove(&(deadline, id));
            if set.is_empty() {
                self.deadlines.remove(&generation);
            }
        }
    }
}
