//! The log's entries: the place of each on disk, and the newest of them in memory.
//!
//! ```text
//!  before |  first ................................. last
//!         |  on disk alone  |  in memory too  |  in memory, not on disk yet
//! ```
//!
//! It is changed when a call is taken, before the disk has it, so that an entry is readable at once;
//! the writer then tells each entry's place. `before` is the log id before the first entry: the purged one,
//! or of a log whose oldest files are gone, the last one in them.
//!
//! Invariants:
//! - Indices have no holes, and terms never fall.
//! - An entry without a place is in memory. Of one with a place the memory may be given back.
//! - An entry's number is its own: a place that the writer tells for an entry which was truncated
//!   meanwhile, and written anew, changes nothing.

use std::collections::VecDeque;

use super::{LogEntry, LogId};
use crate::error::{RaftError, Result};

/// Where an entry's record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: u64,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

#[derive(Debug)]
struct Known {
    term: u64,
    number: u64,
    place: Option<Place>,
}

/// An entry as a reader gets it.
pub(super) enum Found {
    Here(LogEntry),
    OnDisk(Place),
}

#[derive(Debug, Default)]
pub(super) struct Tail {
    before: Option<LogId>,
    /// The index of the first of `known`.
    first: u64,
    known: VecDeque<Known>,
    /// The newest entries, up to the last.
    memory: VecDeque<LogEntry>,
    memory_bytes: usize,
    number_next: u64,
}

fn refused<T>(reason: String) -> Result<T> {
    Err(RaftError::Order { reason })
}

/// The memory that an entry takes, about.
fn cost(entry: &LogEntry) -> usize {
    entry.body.len() + size_of::<LogEntry>()
}

impl Tail {
    /// A log whose entries up to `before` are in files that are gone.
    pub(super) fn after(before: Option<LogId>) -> Tail {
        Tail { before, ..Tail::default() }
    }

    /// The log id before the first entry.
    pub(super) fn before(&self) -> Option<LogId> {
        self.before
    }

    /// The last log id, purged ones included.
    pub(super) fn last(&self) -> Option<LogId> {
        let last = self.known.back().map(|known| {
            let index = self.first + self.known.len() as u64 - 1;
            LogId { term: known.term, index }
        });
        last.or(self.before)
    }

    /// The indices of the entries.
    pub(super) fn range(&self) -> std::ops::Range<u64> {
        self.first..self.first + self.known.len() as u64
    }

    /// The oldest file in which an entry lies.
    pub(super) fn oldest_file(&self) -> Option<u64> {
        self.known.front().and_then(|known| known.place).map(|place| place.file)
    }

    /// Whether entries with these ids may follow.
    pub(super) fn check_append(&self, ids: impl IntoIterator<Item = LogId>) -> Result<()> {
        let mut last = self.last();
        for id in ids {
            if let Some(last) =
                last.filter(|last| id.index != last.index + 1 || id.term < last.term)
            {
                return refused(format!("entry {id} cannot follow {last}"));
            }
            last = Some(id);
        }
        Ok(())
    }

    /// Takes an entry that [`check_append`](Self::check_append) accepted; returns its number.
    pub(super) fn append(&mut self, entry: LogEntry) -> u64 {
        let number = self.append_at(entry.id, None);
        self.memory_bytes += cost(&entry);
        self.memory.push_back(entry);
        number
    }

    /// Notes an entry that lies on disk. Entries in memory are the newest, so there must be none.
    pub(super) fn append_at(&mut self, id: LogId, place: Option<Place>) -> u64 {
        if self.known.is_empty() {
            self.first = id.index;
        }
        self.number_next += 1;
        self.known.push_back(Known { term: id.term, number: self.number_next, place });
        self.number_next
    }

    /// Removes the entries behind `to`, all of them for `None`.
    pub(super) fn truncate(&mut self, to: Option<LogId>) -> Result<()> {
        let keeps = to.map_or(0, |to| to.index + 1);
        if let Some(before) = self.before.filter(|before| before.index >= keeps) {
            return refused(format!("the log cannot be cut before {before}, which was purged"));
        }
        self.keep_before(keeps);
        Ok(())
    }

    /// The same during a recovery, where entries may lie in files that are gone.
    pub(super) fn replay_truncate(&mut self, to: Option<LogId>) {
        let keeps = to.map_or(0, |to| to.index + 1);
        if self.before.is_some_and(|before| before.index >= keeps) {
            self.before = to;
        }
        self.keep_before(keeps);
    }

    fn keep_before(&mut self, end: u64) {
        let keep = end.saturating_sub(self.first).min(self.known.len() as u64) as usize;
        let dropped = self.known.len() - keep;
        self.known.truncate(keep);
        for _ in 0..dropped.min(self.memory.len()) {
            if let Some(entry) = self.memory.pop_back() {
                self.memory_bytes -= cost(&entry);
            }
        }
    }

    /// Forgets the entries up to `to`, which may lie beyond the last.
    pub(super) fn purge(&mut self, to: LogId) {
        let count = (to.index + 1).saturating_sub(self.first).min(self.known.len() as u64) as usize;
        self.known.drain(..count);
        while self.memory.len() > self.known.len() {
            self.forget_oldest();
        }
        self.first = self.first.max(to.index + 1);
        self.before = self.before.max(Some(to));
    }

    fn forget_oldest(&mut self) {
        if let Some(entry) = self.memory.pop_front() {
            self.memory_bytes -= cost(&entry);
        }
    }

    /// Tells where an entry lies, by its number; whether it is still in the log.
    pub(super) fn place(&mut self, index: u64, number: u64, place: Place) -> bool {
        let known = index.checked_sub(self.first).and_then(|at| self.known.get_mut(at as usize));
        match known.filter(|known| known.number == number) {
            Some(known) => {
                known.place = Some(place);
                true
            }
            None => false,
        }
    }

    /// Gives memory back until at most `bytes` are left, oldest entries first.
    pub(super) fn shrink(&mut self, bytes: usize) {
        while self.memory_bytes > bytes {
            let oldest = self.known.len() - self.memory.len();
            if self.known.get(oldest).is_none_or(|known| known.place.is_none()) {
                break;
            }
            self.forget_oldest();
        }
    }

    /// The entries of a range that are there.
    pub(super) fn find(&self, range: std::ops::Range<u64>) -> Vec<Found> {
        let here = self.range();
        let (from, end) = (range.start.max(here.start), range.end.min(here.end));
        let on_disk = self.known.len() - self.memory.len();
        let find = |index: u64| {
            let at = (index - self.first) as usize;
            match at.checked_sub(on_disk) {
                Some(at) => self.memory.get(at).cloned().map(Found::Here),
                None => self.known[at].place.map(Found::OnDisk),
            }
        };
        (from..end).filter_map(find).collect()
    }
}
