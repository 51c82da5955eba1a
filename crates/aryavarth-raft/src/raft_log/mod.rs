//! The Raft log: entries, votes, truncations and purges of one node, in one order, on disk.
//!
//! ```text
//!  append, save_vote, truncate, purge        read, last, vote
//!        |  check, change memory                  |
//!        v                                        v
//!   queue: one order for all  ............  entries in memory, or their file
//!        |
//!   writer: all that waits is one group:  write -> fdatasync -> durable, answers
//!        |
//!   1.raft  2.raft  ...  n.raft (active)  n+1.raft (made ahead)
//! ```
//!
//! A call is *taken* when its change is in memory and in the queue; it is *answered* when its group
//! is on disk. Readers see what was taken, because consensus counts what was answered.
//!
//! Invariants:
//! - The order in the files is the order in which calls were taken, so a crash leaves a prefix of it.
//! - An answer without an error comes after the sync that covers the call. A committed id is the
//!   exception: it rides along with the next group and is never synced for.
//! - A failed write or sync poisons the log for good: all that waits fails, and all that comes.
//! - The writer is locked before the state.

mod group;
mod purge;
pub(crate) mod record;
pub(crate) mod recover;
pub(crate) mod segment;
mod tail;
mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use aryavarth::fs::{Fs, FsFile, RealFs};
use bytes::Bytes;

use crate::error::{RaftError, Result};
use crate::identity::Identity;
use record::Record;
use segment::Segment;
use tail::{Found, Tail};
use writer::Writer;

/// The directory of the log inside a data directory.
pub(crate) const LOG_DIR: &str = "raft";

/// The term and the index of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The leader's term.
    pub term: u64,
    /// The entry's number in the log.
    pub index: u64,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.term, self.index)
    }
}

/// A node's vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The term that it is for.
    pub term: u64,
    /// The node that it is given to.
    pub node: u64,
    /// Whether a majority has granted it, so that this node leads.
    pub granted: bool,
}

/// The kinds of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A new leader's first entry, without a body.
    Blank,
    /// Effects of clients' writes, see [`Entry`](crate::Entry).
    Normal,
    /// Members of the cluster, see [`Members`](crate::Members).
    Members,
}

/// An entry of the log; its body is opaque here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its term and index.
    pub id: LogId,
    /// The meaning of the body.
    pub kind: EntryKind,
    /// The encoded contents; empty for [`EntryKind::Blank`].
    pub body: Bytes,
}

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct RaftLogOptions {
    /// The file system.
    pub fs: Arc<dyn Fs>,
    /// The size at which a file ends; a group that is larger has a file of its own. 64 MiB.
    pub file_bytes: u64,
    /// Memory for the newest entries, in bytes; entries that are not on disk may exceed it. 64 MiB.
    pub memory_bytes: usize,
    /// Whether a thread writes; if not, [`RaftLog::step`] does. True.
    pub background: bool,
}

impl Default for RaftLogOptions {
    fn default() -> RaftLogOptions {
        let (file_bytes, memory_bytes) = (64 << 20, 64 << 20);
        RaftLogOptions { fs: Arc::new(RealFs), file_bytes, memory_bytes, background: true }
    }
}

/// The answer to a call: runs once, on the thread that writes, when the call is on disk or failed.
/// It must not wait and not call the log.
pub type Answer = Box<dyn FnOnce(Result<()>) + Send>;

/// A call that was taken.
struct Taken {
    records: Vec<Record>,
    /// The numbers of the entries among them.
    numbers: Vec<u64>,
    answer: Option<Answer>,
}

struct State {
    tail: Tail,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// Entries up to here are on disk, or purged.
    durable: Option<u64>,
    queue: VecDeque<Taken>,
    files: BTreeMap<u64, Arc<Segment>>,
    poison: Option<Arc<str>>,
    stopped: bool,
}

/// The parts that the handle and its thread share.
struct Shared {
    dir: PathBuf,
    options: RaftLogOptions,
    state: Mutex<State>,
    call: Condvar,
    writer: Mutex<Writer>,
}

/// The Raft log of one node. Any thread may call it; calls are taken in one order.
pub struct RaftLog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    _lock: Arc<dyn FsFile>,
}

impl fmt::Debug for RaftLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftLog").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

/// Locks, whether or not another holder panicked: state is changed after all that can panic has run.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn check_poison(&self) -> Result<()> {
        let poisoned = |reason: &Arc<str>| RaftError::Poisoned { reason: Arc::clone(reason) };
        self.poison.as_ref().map_or(Ok(()), |reason| Err(poisoned(reason)))
    }

    fn check(&self) -> Result<()> {
        self.check_poison()?;
        if self.stopped { Err(RaftError::Closed) } else { Ok(()) }
    }
}

impl RaftLog {
    /// Opens the log in the directory `dir`: reads every file, cuts a torn end, and makes all that it
    /// then shows durable. Takes time in proportion to the log.
    ///
    /// # Errors
    /// [`RaftError::Corrupt`] or [`RaftError::Lost`] where acknowledged records are damaged or missing:
    /// the node must join anew. [`RaftError::Locked`] if the log is in use; [`RaftError::Foreign`] if
    /// it belongs to another node. Otherwise the file system's; nothing was changed that a next open
    /// would not find as it was.
    pub(crate) fn open(
        dir: &Path,
        identity: &Identity,
        options: RaftLogOptions,
    ) -> Result<RaftLog> {
        let found = recover::recover(dir, identity, &options)?;
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            state: Mutex::new(found.state),
            call: Condvar::new(),
            writer: Mutex::new(found.writer),
            options,
        });
        let mut log = RaftLog { shared, thread: None, _lock: found.lock };
        if log.shared.options.background {
            let shared = Arc::clone(&log.shared);
            let thread = std::thread::Builder::new().name("raft-log".to_owned());
            let spawned = thread.spawn(move || shared.run());
            log.thread = Some(spawned.map_err(|source| RaftError::Poisoned {
                reason: format!("its thread could not be started: {source}").into(),
            })?);
        }
        Ok(log)
    }

    /// Takes a call: `change` checks it and changes the memory, or refuses and changes nothing.
    fn take(
        &self,
        answer: Option<Answer>,
        change: impl FnOnce(&mut State) -> Result<(Vec<Record>, Vec<u64>)>,
    ) -> Result<()> {
        let mut state = lock(&self.shared.state);
        state.check()?;
        let (records, numbers) = change(&mut state)?;
        let wakes = answer.is_some();
        state.queue.push_back(Taken { records, numbers, answer });
        drop(state);
        if wakes {
            self.shared.call.notify_one();
        }
        Ok(())
    }

    /// Appends entries; they are readable at once, and `answer` runs when they are on disk.
    ///
    /// # Errors
    /// [`RaftError::Order`] if they would leave a hole or their terms fall; [`RaftError::Poisoned`],
    /// [`RaftError::Closed`]. The answer then never runs.
    pub fn append(&self, entries: Vec<LogEntry>, answer: Answer) -> Result<()> {
        self.take(Some(answer), |state| {
            state.tail.check_append(entries.iter().map(|entry| entry.id))?;
            let numbers = entries.iter().map(|entry| state.tail.append(entry.clone())).collect();
            Ok((entries.into_iter().map(Record::Entry).collect(), numbers))
        })
    }

    /// Saves the vote. It counts once `answer` ran without an error, and not before.
    ///
    /// # Errors
    /// [`RaftError::Poisoned`], [`RaftError::Closed`].
    pub fn save_vote(&self, vote: Vote, answer: Answer) -> Result<()> {
        self.take(Some(answer), |state| {
            state.vote = Some(vote);
            Ok((vec![Record::Vote(vote)], Vec::new()))
        })
    }

    /// Removes the entries behind `to`; all of them for `None`.
    ///
    /// # Errors
    /// [`RaftError::Order`] if purged ones would be among them; [`RaftError::Poisoned`],
    /// [`RaftError::Closed`].
    pub fn truncate(&self, to: Option<LogId>, answer: Answer) -> Result<()> {
        self.take(Some(answer), |state| {
            let before = state.tail.last();
            state.tail.truncate(to)?;
            let last = state.tail.last();
            if last == before {
                return Ok((Vec::new(), Vec::new()));
            }
            state.durable = state.durable.min(last.map(|last| last.index));
            Ok((vec![Record::Truncate(last)], Vec::new()))
        })
    }

    /// Gives up the entries up to `to`, which may lie beyond the last one; their files are removed
    /// once that is on disk. The caller has them in a synced engine, and sends none of them.
    ///
    /// # Errors
    /// [`RaftError::Poisoned`], [`RaftError::Closed`].
    pub fn purge(&self, to: LogId, answer: Answer) -> Result<()> {
        self.take(Some(answer), |state| {
            if state.purged.is_some_and(|purged| purged.index >= to.index) {
                return Ok((Vec::new(), Vec::new()));
            }
            state.tail.purge(to);
            state.purged = Some(to);
            Ok((vec![Record::Purged(to)], Vec::new()))
        })
    }

    /// Notes up to where the log is committed. It rides along with the next group.
    ///
    /// # Errors
    /// [`RaftError::Poisoned`], [`RaftError::Closed`].
    pub fn save_committed(&self, to: Option<LogId>) -> Result<()> {
        self.take(None, |state| {
            state.committed = to;
            // An older one that still waits says nothing more.
            let waits = |taken: &Taken| matches!(*taken.records, [Record::Committed(_)]);
            if state.queue.back().is_some_and(waits) {
                state.queue.pop_back();
            }
            Ok((vec![Record::Committed(to)], Vec::new()))
        })
    }

    /// The newest vote that was taken.
    pub fn vote(&self) -> Option<Vote> {
        lock(&self.shared.state).vote
    }

    /// Up to where the log was committed, as far as it was noted.
    pub fn committed(&self) -> Option<LogId> {
        lock(&self.shared.state).committed
    }

    /// The last purged log id, and the last one of all.
    pub fn bounds(&self) -> (Option<LogId>, Option<LogId>) {
        let state = lock(&self.shared.state);
        (state.purged, state.tail.last())
    }

    /// The index up to which every entry is on this node's disk, or purged.
    pub fn durable(&self) -> Option<u64> {
        lock(&self.shared.state).durable
    }

    /// The entries of a range; those that were purged, and those beyond the last, are left out.
    ///
    /// # Errors
    /// [`RaftError::Corrupt`] if an entry on disk is damaged; the file system's.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<LogEntry>> {
        let state = lock(&self.shared.state);
        let found = state.tail.find(range);
        let is_on_disk = found.iter().any(|found| matches!(found, Found::OnDisk(_)));
        let files = if is_on_disk { state.files.clone() } else { BTreeMap::new() };
        drop(state);
        let read = |found| match found {
            Found::Here(entry) => Ok(entry),
            Found::OnDisk(place) => {
                let gone = || RaftError::Order { reason: "the entry's file is gone".to_owned() };
                let segment = files.get(&place.file).ok_or_else(gone)?;
                match segment.read(place.offset, place.bytes)? {
                    Record::Entry(entry) => Ok(entry),
                    _ => Err(segment.damaged(place.offset, "no entry lies there")),
                }
            }
        };
        found.into_iter().map(read).collect()
    }

    /// Writes and syncs all that waits, and prepares the next file; whether there was anything to do.
    /// Only for a log without a thread.
    ///
    /// # Errors
    /// [`RaftError::Full`]: what waits goes on waiting, try again. [`RaftError::Poisoned`].
    pub fn step(&self) -> Result<bool> {
        self.shared.step()
    }

    /// Writes all that waits, and proves it, so that a next open can tell every damage from a torn end.
    /// A drop does the same, without the result.
    ///
    /// # Errors
    /// [`RaftError::Full`]: what waited is lost, and its answers failed. [`RaftError::Poisoned`].
    pub fn close(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let was_stopped = std::mem::replace(&mut lock(&self.shared.state).stopped, true);
        self.shared.call.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has poisoned the log, which the last step tells.
            let _ = thread.join();
        }
        if was_stopped { Ok(()) } else { self.shared.finish() }
    }
}

impl Drop for RaftLog {
    fn drop(&mut self) {
        // An error here was an error of every call that waited.
        let _ = self.end();
    }
}
