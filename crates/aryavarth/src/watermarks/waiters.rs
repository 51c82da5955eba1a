//! Callers that wait for a position: threads that sleep, and tasks that are woken.
//!
//! ```text
//!   thread   not durable yet -> no sync runs: sync as the leader -> wake the threads that it covered,
//!                               and one that it did not: the next leader
//!                            -> a sync runs: sleep
//!   task     not durable yet -> leave a waker; the committer syncs, and wakes it
//! ```
//!
//! Invariants:
//! - A waiter is entered under the lock, after a look at the watermarks under the same lock: a sync
//!   that ends meanwhile is not missed.
//! - No waker is called while the lock is held, nor any other lock of the store: it may run a task at
//!   once, which writes.

use std::task::{Poll, Waker};

use super::Watermarks;
use super::group::Syncable;
use crate::engine::Position;
use crate::error::Result;
use crate::options::Durability;
use crate::sync::{Arc, AtomicBool, MutexGuard, Ordering, lock, thread};

/// How many of the newest places of tasks are looked at for one that a task already has.
const WAKERS_COMPARED: usize = 16;

/// A blocking caller that waits for another thread's sync.
pub(super) struct Sleeper {
    pub(super) position: u64,
    thread: thread::Thread,
    awake: Arc<AtomicBool>,
}

#[derive(Default)]
pub(super) struct Waiters {
    /// Whether a sync runs; the thread that sets it also wakes the waiters afterwards.
    pub(super) syncing: bool,
    pub(super) sleepers: Vec<Sleeper>,
    pub(super) wakers: Vec<(u64, Waker)>,
    /// Ends the committer.
    pub(super) stopped: bool,
}

impl<F: Syncable> Watermarks<F> {
    /// Blocks until `position` is as durable as `level` asks, syncing if no other thread
    /// does.
    pub(crate) fn wait(&self, position: Position, level: Durability) -> Result<()> {
        let position = self.published(position);
        loop {
            if let Some(reached) = self.reached(position, level) {
                return reached;
            }
            let mut waiters = lock(&self.waiters);
            if self.reached(position, level).is_some() {
                continue;
            }
            if waiters.syncing {
                let awake = Arc::new(AtomicBool::new(false));
                let thread = thread::current();
                let sleeper = Sleeper { position: position.0, thread, awake: Arc::clone(&awake) };
                waiters.sleepers.push(sleeper);
                drop(waiters);
                while !awake.load(Ordering::Acquire) {
                    thread::park();
                }
            } else {
                self.sync_as_leader(waiters);
            }
        }
    }

    /// The same for a task: pending means that `waker` is called when it is worth asking again.
    pub(crate) fn on_reached(
        &self,
        position: Position,
        level: Durability,
        waker: &Waker,
    ) -> Poll<Result<()>> {
        let position = self.published(position);
        if let Some(reached) = self.reached(position, level) {
            return Poll::Ready(reached);
        }
        let mut waiters = lock(&self.waiters);
        if let Some(reached) = self.reached(position, level) {
            return Poll::Ready(reached);
        }
        // A task that asks again, because something else woke it, needs no second place.
        let lately = waiters.wakers.iter_mut().rev().take(WAKERS_COMPARED);
        match lately.into_iter().find(|(_, waiting)| waiting.will_wake(waker)) {
            Some((waited, _)) => *waited = (*waited).min(position.0),
            None => waiters.wakers.push((position.0, waker.clone())),
        }
        if !waiters.syncing {
            self.call.notify_one();
        }
        Poll::Pending
    }

    /// Wakes the tasks whose position is reached.
    pub(super) fn wake_ready<'a>(
        &'a self,
        mut waiters: MutexGuard<'a, Waiters>,
    ) -> MutexGuard<'a, Waiters> {
        let released = self.released();
        let poisoned = self.check().is_err();
        let is_ready = |position: u64| poisoned || position <= released;
        if !waiters.wakers.iter().any(|&(position, _)| is_ready(position)) {
            return waiters;
        }
        let all = std::mem::take(&mut waiters.wakers);
        let (ready, later): (Vec<_>, Vec<_>) = all.into_iter().partition(|&(p, _)| is_ready(p));
        waiters.wakers = later;
        drop(waiters);
        for (_, waker) in ready {
            waker.wake();
        }
        lock(&self.waiters)
    }

    /// Wakes the tasks whose position is reached, for when no committer does.
    pub(crate) fn wake_tasks(&self) {
        drop(self.wake_ready(lock(&self.waiters)));
    }
}

impl Sleeper {
    pub(super) fn wake(self) {
        self.wake_by_ref();
    }

    pub(super) fn wake_by_ref(&self) {
        self.awake.store(true, Ordering::Release);
        self.thread.unpark();
    }
}
