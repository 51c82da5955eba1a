//! Syncs that callers share: a caller that finds none running syncs for all that wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

use crate::outcome::BoxError;

#[derive(Default)]
struct State {
    /// Callers so far.
    callers: u64,
    syncing: bool,
    /// The callers that wait for the running sync to end.
    sleepers: Vec<Thread>,
}

/// Callers that wait for the same syncs.
#[derive(Default)]
pub(crate) struct Group {
    state: Mutex<State>,
    /// Callers whose writes a sync has covered.
    synced: AtomicU64,
}

impl Group {
    /// Returns when a sync has ended that began after this call, be it the caller's own or another
    /// caller's.
    pub(crate) fn sync(&self, sync: impl Fn() -> Result<(), BoxError>) -> Result<(), BoxError> {
        let mut state = self.lock();
        state.callers += 1;
        let caller = state.callers;
        loop {
            if self.synced.load(Ordering::Acquire) >= caller {
                return Ok(());
            }
            if !state.syncing {
                return self.lead(state, sync);
            }
            state.sleepers.push(thread::current());
            drop(state);
            thread::park();
            // A covered caller takes no lock any more: many wake at the same time.
            if self.synced.load(Ordering::Acquire) >= caller {
                return Ok(());
            }
            state = self.lock();
        }
    }

    /// Syncs for all callers so far.
    fn lead(
        &self,
        mut state: MutexGuard<'_, State>,
        sync: impl Fn() -> Result<(), BoxError>,
    ) -> Result<(), BoxError> {
        state.syncing = true;
        let covered = state.callers;
        drop(state);
        let result = sync();
        let mut state = self.lock();
        state.syncing = false;
        if result.is_ok() {
            self.synced.store(covered, Ordering::Release);
        }
        let sleepers = std::mem::take(&mut state.sleepers);
        drop(state);
        sleepers.iter().for_each(Thread::unpark);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_caller_is_covered_by_a_sync_that_began_after_its_write() {
        let (group, written, on_disk) = (Group::default(), AtomicU64::new(0), AtomicU64::new(0));
        let write_and_sync = || {
            for _ in 0..100 {
                let mine = written.fetch_add(1, Ordering::SeqCst) + 1;
                let sync = || {
                    on_disk.store(written.load(Ordering::SeqCst), Ordering::SeqCst);
                    Ok(())
                };
                group.sync(sync).unwrap();
                assert!(on_disk.load(Ordering::SeqCst) >= mine);
            }
        };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(write_and_sync);
            }
        });
        assert_eq!(on_disk.into_inner(), 400);
    }

    #[test]
    fn a_failed_sync_covers_nobody() {
        let group = Group::default();
        assert!(group.sync(|| Err("no disk".into())).is_err());
        group.sync(|| Ok(())).unwrap();
    }
}
