//! openraft's view of the Raft log: calls passed on, answers passed back.
//!
//! Invariants:
//! - A vote, a truncation and a purge return after they are on disk; an append returns when its entries
//!   are readable, and tells openraft when they are on disk.
//! - Errors reach openraft as they are, and openraft stops at any of them.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt as _;

use super::types::{self, OEntry, OLogId, OVote, TypeConfig};
use crate::error::{RaftError, Result};
use crate::raft_log::{Answer, RaftLog};

/// The log as openraft writes it.
#[derive(Clone, Debug)]
pub struct OpenraftLog(Arc<RaftLog>);

/// The log as openraft reads it.
#[derive(Clone, Debug)]
pub struct OpenraftReader(Arc<RaftLog>);

impl OpenraftLog {
    /// Puts the adapter before a log.
    pub fn new(log: Arc<RaftLog>) -> OpenraftLog {
        OpenraftLog(log)
    }

    /// Makes a call and waits until it is on disk.
    async fn wait(&self, call: impl FnOnce(&RaftLog, Answer) -> Result<()>) -> io::Result<()> {
        let (answer, answered) = TypeConfig::oneshot();
        let send = move |done: Result<()>| {
            // A caller that gave up hears nothing.
            let _ = openraft::async_runtime::OneshotSender::send(answer, done);
        };
        call(&self.0, Box::new(send)).map_err(told)?;
        match answered.await {
            Ok(done) => done.map_err(told),
            Err(_) => Err(told(RaftError::Closed)),
        }
    }
}

/// An error in the form that openraft takes.
fn told(error: RaftError) -> io::Error {
    io::Error::other(error)
}

/// The indices of a range.
fn indices(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for OpenraftReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<OEntry>> {
        let entries = self.0.read(indices(&range)).map_err(told)?;
        let unreadable = || io::Error::other("the members in an entry are not of this version");
        entries.into_iter().map(|entry| types::o_entry(entry).ok_or_else(unreadable)).collect()
    }

    async fn read_vote(&mut self) -> io::Result<Option<OVote>> {
        Ok(self.0.vote().map(types::o_vote))
    }
}

impl RaftLogStorage<TypeConfig> for OpenraftLog {
    type LogReader = OpenraftReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let (purged, last) = self.0.bounds();
        let (purged, last) = (purged.map(types::o_log_id), last.map(types::o_log_id));
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> OpenraftReader {
        OpenraftReader(Arc::clone(&self.0))
    }

    async fn save_vote(&mut self, vote: &OVote) -> io::Result<()> {
        let vote = types::vote(vote);
        self.wait(|log, answer| log.save_vote(vote, answer)).await
    }

    async fn save_committed(&mut self, committed: Option<OLogId>) -> io::Result<()> {
        self.0.save_committed(committed.as_ref().map(types::log_id)).map_err(told)
    }

    async fn read_committed(&mut self) -> io::Result<Option<OLogId>> {
        Ok(self.0.committed().map(types::o_log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = OEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(types::entry).collect();
        let answer = move |done: Result<()>| callback.io_completed(done.map_err(told));
        self.0.append(entries, Box::new(answer)).map_err(told)
    }

    async fn truncate_after(&mut self, last: Option<OLogId>) -> io::Result<()> {
        let last = last.as_ref().map(types::log_id);
        self.wait(|log, answer| log.truncate(last, answer)).await
    }

    async fn purge(&mut self, to: OLogId) -> io::Result<()> {
        let to = types::log_id(&to);
        self.wait(|log, answer| log.purge(to, answer)).await
    }
}
