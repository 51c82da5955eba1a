//! `CLIENT PAUSE`: commands that wait until `CLIENT UNPAUSE`, or for a time.
//!
//! ```text
//!   a write:  begin_write -> [ queued, appended ] -> drop of its pass
//!                 |  refused while the gate is closed: the call is held
//!   PAUSE:    close -> wait until no pass is out -> +OK
//! ```
//!
//! Invariants:
//! - A write holds a pass from before it is queued until it is in the log.
//! - The reply to `CLIENT PAUSE` waits for the passes that are out: after it, no write lands until
//!   the pause ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::{Notify, watch};

/// The commands that wait, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) until: Instant,
    /// Whether only commands that write wait.
    pub(crate) only_writes: bool,
}

/// Lets one write, or several together, go on to the log; a pause waits for its drop.
#[derive(Debug)]
pub(crate) struct WritePass(Arc<Gate>);

impl Drop for WritePass {
    fn drop(&mut self) {
        let was = self.0.writes.fetch_sub(1, Ordering::SeqCst);
        if was == 1 && self.0.is_closed.load(Ordering::SeqCst) {
            self.0.idle.notify_waiters();
        }
    }
}

/// The gate in front of all commands.
#[derive(Debug, Default)]
pub(super) struct Gate {
    is_closed: AtomicBool,
    /// Passes that are out.
    writes: AtomicUsize,
    idle: Notify,
    pause: watch::Sender<Option<Pause>>,
}

impl Gate {
    /// A pass for writes, unless a pause holds.
    pub(super) fn begin_write(self: &Arc<Self>) -> Option<WritePass> {
        // Counted first: either the pause sees the write, or the write sees the pause.
        self.writes.fetch_add(1, Ordering::SeqCst);
        let pass = WritePass(Arc::clone(self));
        self.now().is_none().then_some(pass)
    }

    /// Returns when no write is on its way to the log, or the pause has ended.
    pub(super) async fn writes_done(&self) {
        loop {
            let idle = self.idle.notified();
            let Some(pause) = self.now() else { return };
            if self.writes.load(Ordering::SeqCst) == 0 {
                return;
            }
            tokio::select! {
                () = idle => {}
                () = tokio::time::sleep_until(pause.until.into()) => return,
            }
        }
    }

    /// The pause that holds now.
    pub(super) fn now(&self) -> Option<Pause> {
        if !self.is_closed.load(Ordering::SeqCst) {
            return None;
        }
        let pause = *self.pause.borrow();
        pause.filter(|pause| Instant::now() < pause.until)
    }

    /// Begins a pause. One that holds already is made no shorter and no weaker.
    pub(super) fn close(&self, mut pause: Pause) {
        let now = self.now();
        self.pause.send_modify(|kept| {
            if let Some(before) = now {
                pause.until = pause.until.max(before.until);
                pause.only_writes &= before.only_writes;
            }
            *kept = Some(pause);
        });
        self.is_closed.store(true, Ordering::SeqCst);
    }

    pub(super) fn open(&self) {
        self.is_closed.store(false, Ordering::SeqCst);
        self.pause.send_replace(None);
        self.idle.notify_waiters();
    }

    /// Returns when the pause has ended or become another; at once if there is none.
    pub(super) async fn changed(&self) {
        let mut changes = self.pause.subscribe();
        let Some(pause) = self.now() else { return };
        if *changes.borrow_and_update() != Some(pause) {
            return;
        }
        let ended = tokio::time::sleep_until(pause.until.into());
        tokio::select! {
            () = ended => {}
            // The gate lives as long as its waiters.
            _ = changes.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pause_is_made_no_shorter_and_no_weaker() {
        let gate = Gate::default();
        assert_eq!(gate.now(), None);
        let until = Instant::now() + Duration::from_secs(100);
        gate.close(Pause { until, only_writes: true });
        gate.close(Pause { until: Instant::now(), only_writes: false });
        assert_eq!(gate.now(), Some(Pause { until, only_writes: false }));
        gate.open();
        assert_eq!(gate.now(), None);
    }

    /// A write that was let through before the pause is in the log when the pause has begun.
    #[test]
    fn a_pause_begins_when_the_writes_before_it_are_done() {
        let gate = Arc::new(Gate::default());
        let pass = gate.begin_write().expect("nothing is paused");
        let until = Instant::now() + Duration::from_secs(1000);
        gate.close(Pause { until, only_writes: true });
        assert!(gate.begin_write().is_none(), "a write during the pause");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut done = std::pin::pin!(gate.writes_done());
            let soon = tokio::time::timeout(Duration::from_millis(20), &mut done);
            assert!(soon.await.is_err(), "it does not wait for the write");
            drop(pass);
            tokio::time::timeout(Duration::from_secs(60), done).await.expect("it ends");
        });
        gate.open();
        assert!(gate.begin_write().is_some());
    }

    #[test]
    fn a_pause_ends_by_itself() {
        let gate = Gate::default();
        gate.close(Pause { until: Instant::now(), only_writes: false });
        assert_eq!(gate.now(), None);
    }
}
