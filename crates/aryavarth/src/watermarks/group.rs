//! Group sync: one sync at a time, for everything that was written before it began.
//!
//! ```text
//!   writers   a  b  c        d  e                  f
//!   syncs        [-- a --]   [-- b c --]  [-- d e --] ...
//! ```
//!
//! Invariants:
//! - The sync takes its target, the written position, before it lists the files to sync.
//! - A failed sync poisons the watermarks before another sync may begin: a second one would succeed,
//!   although the bytes that the first one lost are gone.

use std::time::{Duration, Instant};

use super::waiters::Waiters;
use super::{NEVER, Watermarks};
use crate::engine::Position;
use crate::error::Result;
use crate::events::Event;
use crate::fs::Site;
use crate::options::Durability;
use crate::segment::Segment;
use crate::sync::{Arc, Mutex, MutexGuard, Ordering, Rank, fence, lock, wait, wait_timeout};

/// A sync that takes longer is an event.
const SLOW_SYNC: Duration = Duration::from_secs(1);

/// Files whose sync makes everything durable that was written before the call.
pub(crate) trait Syncable {
    fn sync(&self) -> Result<()>;
}

/// The segments written since the last sync, the active one last.
pub(crate) struct Unsynced(Mutex<Vec<Arc<Segment>>>);

impl Default for Unsynced {
    fn default() -> Unsynced {
        Unsynced(Mutex::new(Rank::Unsynced, Vec::new()))
    }
}

impl Syncable for Unsynced {
    fn sync(&self) -> Result<()> {
        let segments = lock(&self.0).clone();
        for segment in &segments {
            segment.file.sync(Site::LogSync)?;
        }
        // All but the last were sealed before the list was read: they never change again.
        let sealed = &segments[..segments.len().saturating_sub(1)];
        lock(&self.0).retain(|now| !sealed.iter().any(|other| Arc::ptr_eq(other, now)));
        Ok(())
    }
}

impl Watermarks {
    /// Notes that appends now go to `segment`, which the next sync has to cover.
    pub(crate) fn begin_segment(&self, segment: Arc<Segment>) {
        lock(&self.files.0).push(segment);
    }

    /// Notes that all of `segment` is durable and that it takes no more appends.
    pub(crate) fn end_segment(&self, segment: &Arc<Segment>) {
        lock(&self.files.0).retain(|other| !Arc::ptr_eq(other, segment));
    }
}

impl<F: Syncable> Watermarks<F> {
    /// Syncs everything that is written now.
    pub(crate) fn sync(&self) -> Result<()> {
        self.wait(Position(self.written()), Durability::Always)
    }

    /// Runs one sync and wakes the threads that waited for it. Takes the waiters locked, while no
    /// sync runs.
    pub(super) fn sync_as_leader(&self, mut waiters: MutexGuard<'_, Waiters>) {
        waiters.syncing = true;
        drop(waiters);
        if let Err(error) = self.sync_files() {
            // Before another thread may sync: a second sync would succeed, although the bytes
            // that the first one lost are gone.
            self.poison(&error);
        }
        let mut waiters = lock(&self.waiters);
        waiters.syncing = false;
        let released = self.released();
        let mut next = None;
        waiters.sleepers.retain_mut(|sleeper| {
            let asleep = sleeper.position > released;
            if !asleep {
                sleeper.wake_by_ref();
            } else if next.is_none() {
                next = Some(());
                sleeper.wake_by_ref();
                return false;
            }
            asleep
        });
        if !waiters.wakers.is_empty() {
            self.call.notify_one();
        }
    }

    /// Syncs the files, and tells a sync that took long.
    fn sync_files(&self) -> Result<()> {
        let (begun, before) = (Instant::now(), self.durable());
        let done = self.sync_written();
        let took = begun.elapsed();
        if took >= SLOW_SYNC && done.is_ok() {
            let bytes = self.durable().saturating_sub(before);
            self.events.tell(|| Event::SlowSync { took, bytes });
        }
        done
    }

    /// Syncs everything written since the last sync and moves the watermarks.
    fn sync_written(&self) -> Result<()> {
        self.check()?;
        // The order matters: frames written by now lie in the files that are synced afterwards.
        self.delay_ms.store(NEVER, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let target = self.written();
        self.files.sync()?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.durable.fetch_max(target, Ordering::AcqRel);
        self.released.fetch_max(target, Ordering::AcqRel);
        Ok(())
    }

    /// The committer's life: serve wakers, and sync when a delay or the backlog says so.
    pub(crate) fn run(&self) {
        let mut due: Option<(u64, Instant)> = None;
        let mut waiters = lock(&self.waiters);
        while !waiters.stopped {
            waiters = self.wake_ready(waiters);
            if waiters.stopped {
                // The end was called while the lock was free, and is called once.
                return;
            }
            let poisoned = self.check().is_err();
            let uncovered = !waiters.wakers.is_empty();
            if poisoned && uncovered {
                // The call of the poison came while the lock was free for the wakers.
                continue;
            }
            let delay = self.delay_ms.load(Ordering::Relaxed);
            due = match due {
                _ if delay == NEVER => None,
                Some((asked, at)) if asked <= delay => Some((asked, at)),
                _ => Some((delay, Instant::now() + Duration::from_millis(delay))),
            };
            let left = due.map(|(_, at)| at.saturating_duration_since(Instant::now()));
            let now = !poisoned && (uncovered || left == Some(Duration::ZERO));
            if now && !waiters.syncing {
                due = None;
                self.sync_as_leader(waiters);
                waiters = lock(&self.waiters);
            } else if let (Some(left), false) = (left, poisoned) {
                // While another thread syncs, its end wakes the committer, or this timeout does.
                let least = Duration::from_millis(1);
                waiters = wait_timeout(&self.call, waiters, left.max(least));
            } else {
                waiters = wait(&self.call, waiters);
            }
        }
    }

    /// One step of the committer for stores without threads; returns whether it did anything.
    pub(crate) fn step(&self) -> Result<bool> {
        let due = self.durable() < self.written();
        let synced = self.check().and_then(|()| if due { self.sync() } else { Ok(()) });
        self.wake_tasks();
        synced.map(|()| due)
    }

    /// Ends the committer.
    pub(crate) fn stop(&self) {
        lock(&self.waiters).stopped = true;
        self.call.notify_all();
    }
}
