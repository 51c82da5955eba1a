//! The scripts that run: how many at once, and which one SCRIPT KILL stops.
//!
//! Invariants:
//! - At most as many scripts run at once as the memory for all of them holds.
//! - A place is taken before the engine is called: a script that waits here holds nobody up.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::ScriptLimits;

/// Redis's answer while a script keeps the server.
const BUSY: &str = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN \
                    NOSAVE.";

/// The state of lrand48 has 48 bits.
const RANDOM_MASK: u64 = (1 << 48) - 1;

#[derive(Debug)]
struct Entry {
    number: u64,
    is_killed: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Entries {
    /// In the order in which they began.
    running: Vec<Entry>,
    begun: u64,
}

/// The scripts that run.
#[derive(Debug)]
pub(super) struct RunningScripts {
    entries: Mutex<Entries>,
    ended: Condvar,
    at_once_max: usize,
    patience: Duration,
}

impl RunningScripts {
    pub(super) fn new(limits: &ScriptLimits) -> Self {
        let at_once_max = (limits.memory_bytes_max_total / limits.memory_bytes_max.max(1)).max(1);
        let (entries, ended) = (Mutex::default(), Condvar::new());
        RunningScripts { entries, ended, at_once_max, patience: limits.time }
    }

    pub(super) fn begin(&self) -> Result<Running<'_>, &'static str> {
        let deadline = Instant::now() + self.patience;
        let mut entries = self.lock();
        while entries.running.len() >= self.at_once_max {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(BUSY);
            }
            let waited = self.ended.wait_timeout(entries, left);
            entries = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        entries.begun += 1;
        let (number, is_killed) = (entries.begun, Arc::default());
        entries.running.push(Entry { number, is_killed: Arc::clone(&is_killed) });
        let random = RandomState::new().hash_one(number) & RANDOM_MASK;
        Ok(Running { all: self, number, is_killed, random, began: Instant::now() })
    }

    pub(super) fn kill(&self) -> bool {
        let entries = self.lock();
        let first = entries.running.iter().find(|one| !one.is_killed.load(Ordering::Relaxed));
        if let Some(first) = first {
            first.is_killed.store(true, Ordering::Relaxed);
        }
        !entries.running.is_empty()
    }

    /// Nothing panics under the lock, so a poisoned one is whole.
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the scripts that run.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    all: &'a RunningScripts,
    number: u64,
    /// Set by SCRIPT KILL.
    pub(crate) is_killed: Arc<AtomicBool>,
    /// The state of the random numbers with which each run of the call begins.
    pub(crate) random: u64,
    /// When the call began, waits for memory aside.
    pub(crate) began: Instant,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.all.lock().running.retain(|one| one.number != self.number);
        self.all.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_scripts_run_than_there_is_memory_for() {
        let limits = ScriptLimits {
            memory_bytes_max: 1 << 20,
            memory_bytes_max_total: 2 << 20,
            time: Duration::from_millis(20),
            ..ScriptLimits::default()
        };
        let scripts = RunningScripts::new(&limits);
        let one = scripts.begin().expect("there is room");
        let two = scripts.begin().expect("there is room");
        assert!(scripts.begin().is_err_and(|text| text.starts_with("BUSY ")));
        drop(one);
        assert!(scripts.begin().is_ok());
        drop(two);
    }

    #[test]
    fn a_kill_stops_the_script_that_has_run_for_longest() {
        let scripts = RunningScripts::new(&ScriptLimits::default());
        assert!(!scripts.kill());
        let (one, two) = (scripts.begin().expect("room"), scripts.begin().expect("room"));
        let killed = |running: &Running<'_>| running.is_killed.load(Ordering::Relaxed);
        assert!(scripts.kill());
        assert!(killed(&one) && !killed(&two));
        assert!(scripts.kill());
        assert!(killed(&two), "the next one, while the first has not ended");
    }
}
