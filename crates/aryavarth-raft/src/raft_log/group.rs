//! Groups: all calls that wait become one write and one sync, and their answers run after it.
//!
//! ```text
//!   taken     a  b  c        d  e                  f
//!   groups       [-- a --]   [-- b c --]  [-- d e --] ...
//! ```
//!
//! Invariants:
//! - A call leaves the queue with its group. If the disk is full the group goes back to the front, so
//!   the order stays.
//! - Answers run in the order in which the calls were taken.
//! - The log is poisoned before any answer of a failed group runs.

use std::sync::Arc;
use std::time::Duration;

use super::record::Record;
use super::writer::Writer;
use super::{Shared, State, Taken, lock, purge};
use crate::error::{RaftError, Result};

/// The size from which on a group takes no further call, in bytes.
const GROUP_BYTES_MAX: u64 = 8 << 20;
/// How long the thread waits for space on a full disk before it tries again.
const RETRY: Duration = Duration::from_millis(500);

impl State {
    /// Whether a call waits for its answer.
    fn is_awaited(&self) -> bool {
        self.queue.iter().any(|taken| taken.answer.is_some())
    }

    /// The calls of the next group.
    fn take_group(&mut self) -> Vec<Taken> {
        let (mut group, mut bytes) = (Vec::new(), 0);
        while bytes < GROUP_BYTES_MAX {
            let Some(taken) = self.queue.pop_front() else { break };
            bytes += taken.records.iter().map(Record::bytes).sum::<u64>();
            group.push(taken);
        }
        group
    }

    /// Whether the memory is ahead of the disk in its view of which entries are needed.
    fn gives_up_more(&self) -> bool {
        let gives_up = |record: &Record| matches!(record, Record::Purged(_) | Record::Truncate(_));
        self.queue.iter().any(|taken| taken.records.iter().any(gives_up))
    }
}

impl Shared {
    /// The thread's life.
    pub(super) fn run(&self) {
        let _poison = PoisonOnPanic(self);
        let mut state = lock(&self.state);
        while !state.stopped {
            if !state.is_awaited() {
                state = self.call.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
                continue;
            }
            drop(state);
            let done = self.step();
            state = lock(&self.state);
            match done {
                Ok(_) => {}
                Err(RaftError::Full(_)) if !state.stopped => {
                    let waited = self.call.wait_timeout(state, RETRY);
                    state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
                }
                Err(_) => return,
            }
        }
    }

    /// Writes one group, if a call waits for its answer; prepares the next file when it is due.
    pub(super) fn step(&self) -> Result<bool> {
        let mut writer = lock(&self.writer);
        let state = lock(&self.state);
        if state.poison.is_none() && !state.is_awaited() {
            drop(state);
            return self.prepare(&mut writer);
        }
        drop(state);
        self.write_group(&mut writer)?;
        self.prepare(&mut writer)?;
        Ok(true)
    }

    /// Makes the next file if it will be needed soon; whether it did. A full disk is told only when
    /// the file is needed.
    fn prepare(&self, writer: &mut Writer) -> Result<bool> {
        let is_idle = lock(&self.state).queue.is_empty();
        if !writer.is_next_due(is_idle) {
            return Ok(false);
        }
        match writer.prepare() {
            Ok(()) => Ok(true),
            Err(RaftError::Full(_)) => Ok(false),
            Err(error) => Err(self.poison(&error)),
        }
    }

    fn write_group(&self, writer: &mut Writer) -> Result<()> {
        let mut state = lock(&self.state);
        state.check_poison()?;
        let group = state.take_group();
        drop(state);
        let records: Vec<&Record> = group.iter().flat_map(|taken| &taken.records).collect();
        let places = match writer.write(&records) {
            Ok(places) => places,
            Err(error @ RaftError::Full(_)) => {
                let mut state = lock(&self.state);
                group.into_iter().rev().for_each(|taken| state.queue.push_front(taken));
                return Err(error);
            }
            Err(error) => {
                let error = self.poison(&error);
                answer(group, &Err(error.clone()));
                return Err(error);
            }
        };
        self.settle(writer, &group, &places);
        answer(group, &Ok(()));
        match purge::remove_files(self, writer) {
            Err(error @ RaftError::Full(_)) => Err(error),
            Err(error) => Err(self.poison(&error)),
            Ok(()) => Ok(()),
        }
    }

    /// Tells the memory that a group is on disk.
    fn settle(&self, writer: &Writer, group: &[Taken], places: &[super::tail::Place]) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let mut places = places.iter();
        for taken in group {
            let mut numbers = taken.numbers.iter();
            for record in &taken.records {
                match record {
                    Record::Entry(entry) => {
                        let (Some(number), Some(place)) = (numbers.next(), places.next()) else {
                            continue;
                        };
                        if state.tail.place(entry.id.index, *number, *place) {
                            state.durable = state.durable.max(Some(entry.id.index));
                        }
                    }
                    Record::Purged(to) => state.durable = state.durable.max(Some(to.index)),
                    _ => {}
                }
            }
        }
        let active = writer.active();
        state.files.insert(active.id, active);
        state.tail.shrink(self.options.memory_bytes);
    }

    /// Stops the log for good; the first failure stays its reason.
    fn poison(&self, error: &RaftError) -> RaftError {
        let mut state = lock(&self.state);
        let reason = state.poison.get_or_insert_with(|| error.to_string().into()).clone();
        let waiting = std::mem::take(&mut state.queue);
        drop(state);
        let error = RaftError::Poisoned { reason };
        answer(waiting, &Err(error.clone()));
        error
    }

    /// Writes all that still waits, and a last group that proves it.
    pub(super) fn finish(&self) -> Result<()> {
        let mut writer = lock(&self.writer);
        loop {
            let is_empty = lock(&self.state).queue.is_empty();
            let done = if is_empty { writer.prove() } else { self.write_group(&mut writer) };
            match done {
                Ok(()) if is_empty => return Ok(()),
                Ok(()) => {}
                Err(error @ RaftError::Poisoned { .. }) => return Err(error),
                Err(error) => {
                    self.poison(&error);
                    return Err(error);
                }
            }
        }
    }

    /// Whether files may be looked at for removal: the disk knows all that the memory gave up.
    pub(super) fn oldest_needed(&self, active: u64) -> Option<u64> {
        let state = lock(&self.state);
        let oldest = state.tail.oldest_file().unwrap_or(active).min(active);
        (!state.gives_up_more()).then_some(oldest)
    }

    /// The oldest file that is there.
    pub(super) fn oldest_file(&self) -> Option<u64> {
        lock(&self.state).files.first_key_value().map(|(id, _)| *id)
    }

    /// Forgets a file whose name is gone; readers that have it go on.
    pub(super) fn forget_file(&self, id: u64) {
        lock(&self.state).files.remove(&id);
    }
}

/// Answers the calls of a group, in order.
fn answer(group: impl IntoIterator<Item = Taken>, done: &Result<()>) {
    for answer in group.into_iter().filter_map(|taken| taken.answer) {
        answer(done.clone());
    }
}

/// Poisons the log if the thread ends by a panic, so that no caller waits for ever.
struct PoisonOnPanic<'a>(&'a Shared);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let reason: Arc<str> = "the thread that writes the Raft log panicked".into();
            self.0.poison(&RaftError::Poisoned { reason });
        }
    }
}
