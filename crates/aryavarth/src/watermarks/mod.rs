//! Watermarks: positions up to which the log is written, durable and released.
//!
//! ```text
//!          released            durable             written
//!   log ------|-------------------|-------------------|- - - -
//!    answers  |      synced       |  published, and   |  free
//!    leave    |                   |  not synced yet   |
//! ```
//!
//! A write is published first and synced afterwards; this room makes sure that nothing leaves before
//! the sync that covers it. One sync runs at a time and covers everything that was written before it
//! began, so any number of waiting callers share it (group commit, `group.rs`). A blocking caller that
//! no running sync covers runs the next one itself; tasks are woken by the store's committer thread
//! (`waiters.rs`).
//!
//! Invariants:
//! - `written >= durable >= released`, each only grows. A sync advances `durable` to the position
//!   read *before* the call.
//! - After a failed sync nothing advances any more: bytes above `durable` may or may not be on disk,
//!   and every waiter hears so.
//! - Waiting takes no lock that a writer holds across a system call.

mod group;
#[cfg(shuttle)]
#[cfg(test)]
mod tests;
mod waiters;

use std::fmt;

use crate::engine::Position;
use crate::error::{KvsError, Result};
use crate::events::{Event, Events};
use crate::options::Durability;
use crate::sync::{Arc, AtomicU64, Condvar, Mutex, OnceLock, Ordering, Rank, fence, lock};
pub(crate) use group::{Syncable, Unsynced};
use waiters::{Sleeper, Waiters};

/// A sync starts when this much waits for one, whatever the level.
const UNSYNCED_BYTES_MAX: u64 = 8 << 20;
/// Writers wait for the disk when this much waits for a sync.
const BACKLOG_BYTES_MAX: u64 = 64 << 20;
const NEVER: u64 = u64::MAX;

/// The watermarks of one log.
pub(crate) struct Watermarks<F = Unsynced> {
    written: AtomicU64,
    durable: AtomicU64,
    /// With replication the lesser of durable and committed; without, the same as durable.
    released: AtomicU64,
    poison: OnceLock<Arc<str>>,
    files: F,
    waiters: Mutex<Waiters>,
    /// Wakes the committer.
    call: Condvar,
    /// The shortest delay in milliseconds within which a caller asked a sync to start.
    delay_ms: AtomicU64,
    syncs: AtomicU64,
    events: Events,
}

impl<F: Syncable> fmt::Debug for Watermarks<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watermarks written {} durable {}", self.written(), self.durable())
    }
}

impl Watermarks {
    /// Watermarks of a log of segments that begins at `position`, everything before it durable.
    pub(crate) fn new(position: u64) -> Watermarks {
        Watermarks::over(Unsynced::default(), position)
    }
}

impl<F: Syncable> Watermarks<F> {
    /// Watermarks of a log in `files` that begins at `position`, everything before it durable.
    pub(crate) fn over(files: F, position: u64) -> Watermarks<F> {
        Watermarks {
            written: AtomicU64::new(position),
            durable: AtomicU64::new(position),
            released: AtomicU64::new(position),
            poison: OnceLock::new(),
            files,
            waiters: Mutex::new(Rank::Waiters, Waiters::default()),
            call: Condvar::new(),
            delay_ms: AtomicU64::new(NEVER),
            syncs: AtomicU64::new(0),
            events: Events::default(),
        }
    }

    /// The same, with a listener for failed and slow syncs.
    pub(crate) fn with_events(self, events: Events) -> Watermarks<F> {
        Watermarks { events, ..self }
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(crate) fn released(&self) -> u64 {
        self.released.load(Ordering::Acquire)
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Notes that the log is written up to `position`, before the records there are
    /// published.
    /// For the writer only.
    pub(crate) fn set_written(&self, position: u64) {
        self.written.store(position, Ordering::Release);
        if position - self.durable.load(Ordering::Relaxed) > UNSYNCED_BYTES_MAX {
            self.sync_within(0);
        }
    }

    /// Whether the disk is so far behind that writers should wait for it.
    pub(crate) fn is_behind(&self) -> bool {
        // Read one after the other: by then more may be durable than was written.
        self.written().saturating_sub(self.durable()) > BACKLOG_BYTES_MAX
    }

    /// Refuses further work after a failed sync.
    pub(crate) fn check(&self) -> Result<()> {
        match self.poison.get() {
            Some(reason) => Err(KvsError::Poisoned { reason: Arc::clone(reason) }),
            None => Ok(()),
        }
    }

    /// Gives up on the log: a write or sync failed in a way that leaves its outcome unknown. Wakes the
    /// threads that wait, and calls the committer, which wakes the tasks: the caller may hold the
    /// writer's lock, and a waker may run its task at once.
    pub(crate) fn poison(&self, error: &KvsError) -> KvsError {
        let reason = self.poison.get_or_init(|| {
            self.events.tell(|| Event::Poisoned { reason: error.to_string() });
            error.to_string().into()
        });
        lock(&self.waiters).sleepers.drain(..).for_each(Sleeper::wake);
        self.call.notify_all();
        KvsError::Poisoned { reason: Arc::clone(reason) }
    }

    /// Whether `position` is as durable as `level` asks; `None` while it is not known.
    fn reached(&self, position: Position, level: Durability) -> Option<Result<()>> {
        let released = position.0 <= self.released();
        if released {
            return Some(Ok(()));
        }
        if let Err(poisoned) = self.check() {
            // The sync that covers the position may have been the last good one.
            return Some(if position.0 <= self.released() { Ok(()) } else { Err(poisoned) });
        }
        if level == Durability::Always {
            return None;
        }
        self.sync_within(level.delay_ms());
        Some(Ok(()))
    }

    /// No position beyond the written one was ever given out; a caller with such a one waits for all.
    fn published(&self, position: Position) -> Position {
        position.min(Position(self.written()))
    }

    /// Sees to it that a sync starts within `delay_ms`.
    fn sync_within(&self, delay_ms: u64) {
        // Either this sees that a sync took the earlier wish with it, or that sync sees the
        // position that was written before this: see `sync_files`.
        fence(Ordering::SeqCst);
        if self.delay_ms.load(Ordering::Relaxed) > delay_ms
            && self.delay_ms.fetch_min(delay_ms, Ordering::Relaxed) > delay_ms
        {
            // The committer may be about to sleep; the lock makes sure that it looks again.
            drop(lock(&self.waiters));
            self.call.notify_one();
        }
    }
}
