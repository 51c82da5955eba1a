//! The one place where atomics, locks and threads come from.
//!
//! The engine imports them from here so that a model checker can be put underneath
//! (`--cfg shuttle`) without touching the code that it checks: shuttle runs the threads of a test
//! one at a time and decides at each of these calls who goes on. Locks recover from a panic of
//! another holder: whatever the engine protects with a lock is changed only after everything that
//! can panic has run, so a panicking caller leaves nothing half done.

#[cfg(not(shuttle))]
use std as under;
use std::sync::PoisonError;
pub(crate) use std::sync::{Arc, OnceLock};
use std::time::Duration;

#[cfg(shuttle)]
use shuttle as under;
pub(crate) use under::hint::spin_loop;
pub(crate) use under::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering, fence,
};
pub(crate) use under::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use under::{thread, thread_local};

/// Locks, whether or not another holder panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification or for `timeout`, whichever comes first. Under shuttle no time passes:
/// there it waits for the notification.
pub(crate) fn wait_timeout<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    timeout: Duration,
) -> MutexGuard<'a, T> {
    condvar.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner).0
}

/// Waits for a notification.
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}
