//! The one place where atomics, locks and threads come from.
//!
//! The engine imports them from here so that a model checker can be put underneath
//! (`--cfg shuttle`) without touching the code that it checks: shuttle runs the threads of a test
//! one at a time and chooses at each of these calls the thread that goes on. Locks recover from a panic of
//! another holder: whatever the engine protects with a lock is changed only after everything that
//! can panic has run, so a panicking caller leaves nothing half done.
//!
//! Each lock has a [`Rank`], and a debug build checks that threads take locks in the order of their
//! ranks (`order.rs`).

mod order;

#[cfg(not(shuttle))]
use std as under;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
pub(crate) use std::sync::{Arc, OnceLock};
use std::time::Duration;

#[cfg(shuttle)]
use shuttle as under;
pub(crate) use under::hint::spin_loop;
pub(crate) use under::sync::Condvar;
pub(crate) use under::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering, fence,
};
pub(crate) use under::{thread, thread_local};

pub(crate) use order::{Apart, Rank};
use order::{Held, Place};

/// A lock with its place in the order.
#[derive(Debug)]
pub(crate) struct Mutex<T> {
    place: Place,
    lock: under::sync::Mutex<T>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(rank: Rank, value: T) -> Mutex<T> {
        Mutex { place: Place::of(rank), lock: under::sync::Mutex::new(value) }
    }

    /// The value, when no thread can hold the lock any more.
    pub(crate) fn into_inner(self) -> T {
        self.lock.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lock that is held, until it is dropped.
pub(crate) struct MutexGuard<'a, T> {
    guard: under::sync::MutexGuard<'a, T>,
    // Noted until after the lock is released.
    held: Held,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// Locks, whether or not another holder panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    let held = Held::take(mutex.place);
    let guard = mutex.lock.lock().unwrap_or_else(PoisonError::into_inner);
    MutexGuard { guard, held }
}

/// Waits for a notification or for `timeout`, whichever comes first. Under shuttle no time passes:
/// there it waits for the notification.
pub(crate) fn wait_timeout<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    timeout: Duration,
) -> MutexGuard<'a, T> {
    let MutexGuard { guard, held } = guard;
    let guard = condvar.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner).0;
    MutexGuard { guard, held: held.again() }
}

/// Waits for a notification.
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    let MutexGuard { guard, held } = guard;
    let guard = condvar.wait(guard).unwrap_or_else(PoisonError::into_inner);
    MutexGuard { guard, held: held.again() }
}
