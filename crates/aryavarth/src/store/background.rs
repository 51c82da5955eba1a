//! The background of an open store: its threads, from the start to the close.
//!
//! The committer wakes waiters and syncs, the maintenance thread makes room ahead and seals behind, the
//! compactor runs rounds, the scrubber reads records at leisure.

use std::thread;
use std::time::{Duration, Instant};

use super::Inner;
use super::trouble::Trouble;
use crate::compaction;
use crate::error::{KvsError, Result};
use crate::log::Log;
use crate::scrub::Scrubber;
use crate::sync::{Arc, Ordering, lock};

/// How often the maintenance thread looks around without being called.
const KEEPER_REST: Duration = Duration::from_millis(250);
/// The same while there is work: the entries of emptied spaces are given back a few at a time.
const BUSY_REST: Duration = Duration::from_millis(5);
/// How often the compactor looks whether there is work.
const COMPACTOR_REST: Duration = Duration::from_millis(250);
/// Without writes for this long, a store is at rest.
const REST_AFTER: Duration = Duration::from_secs(5);
/// After this long a compaction that gave nothing back is tried again, without new writes.
const FUTILE_REST: Duration = Duration::from_secs(60);

impl Inner {
    /// Starts the committer, the maintenance thread, the compactor and the scrubber.
    pub(super) fn start(&self) -> Result<()> {
        let mut threads = lock(&self.threads);
        let mut spawn = |name: &str, work: fn(&Log, &Scrubber)| {
            let (log, scrubber) = (Arc::clone(&self.log), Arc::clone(&self.scrubber));
            let builder = thread::Builder::new().name(format!("aryavarth-{name}"));
            let thread = builder.spawn(move || work(&log, &scrubber));
            thread.map(|thread| threads.push(thread)).map_err(|error| {
                KvsError::InvalidOption(format!("no thread can be started: {error}"))
            })
        };
        spawn("committer", |log, _| log.watermarks.run())?;
        spawn("maintenance", |log, _| maintain(log))?;
        if self.log.options.scrub_bytes_per_second > 0 {
            spawn("scrubber", |log, scrubber| scrubber.run(log))?;
        }
        spawn("compactor", compact)
    }

    pub(super) fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.log.stop();
        self.scrubber.stop();
        for thread in lock(&self.threads).drain(..) {
            // The last handle may go away with a task that the committer woke: it ends by itself.
            if thread.thread().id() != thread::current().id() {
                // A panic in a background thread was reported by the panic hook, and fails a test.
                let ended = thread.join();
                debug_assert!(ended.is_ok() || thread::panicking(), "a background thread panicked");
            }
        }
        self.scrubber.remember(&self.log, true);
        self.log.settle_clock();
        self.log.close()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.close());
    }
}

/// The life of the maintenance thread: room ahead, seals behind, and the sweep of expired keys.
fn maintain(log: &Log) {
    loop {
        // Work that fails here fails again, with an answer, where a caller needs it.
        let is_busy = matches!(log.tend(), Ok(true));
        let rest = log.sweep_and_rest(if is_busy { BUSY_REST } else { KEEPER_REST });
        if !log.rest(rest) {
            return;
        }
    }
}

/// The compactor's life: a round whenever the directory has grown too large.
fn compact(log: &Log, scrubber: &Scrubber) {
    let mut trouble = Trouble::default();
    let mut written = log.last_position();
    let mut written_at = Instant::now();
    // Where a round gave nothing back, or failed, another one waits for new writes, or a while.
    let mut futile_at = None;
    let mut tried_at = Instant::now();
    while log.pause(COMPACTOR_REST) {
        log.reap();
        scrubber.remember(log, false);
        let now = log.last_position();
        if now != written {
            (written, written_at) = (now, Instant::now());
        }
        if tried_at.elapsed() >= FUTILE_REST {
            futile_at = None;
        }
        loop {
            // A round takes a while, and writes may have begun again.
            let at_rest = written_at.elapsed() >= REST_AFTER && log.last_position() == now;
            if futile_at == Some((now, at_rest)) || !compaction::is_due(log, at_rest) {
                break;
            }
            tried_at = Instant::now();
            let useful = compaction::run(log, at_rest);
            trouble.round(log, scrubber, &useful);
            if !useful.unwrap_or(false) {
                futile_at = Some((now, at_rest));
            }
            if log.is_stopping() {
                return;
            }
        }
        trouble.look(log);
    }
}
