//! `CLIENT PAUSE`: commands that wait until somebody lets them go on, or for a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::watch;

/// What waits, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) until: Instant,
    /// Whether only commands that write wait.
    pub(crate) only_writes: bool,
}

/// The gate in front of all commands.
#[derive(Debug, Default)]
pub(super) struct Gate {
    is_closed: AtomicBool,
    pause: watch::Sender<Option<Pause>>,
}

impl Gate {
    /// The pause that holds now.
    pub(super) fn now(&self) -> Option<Pause> {
        if !self.is_closed.load(Ordering::Acquire) {
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
        self.is_closed.store(true, Ordering::Release);
    }

    pub(super) fn open(&self) {
        self.is_closed.store(false, Ordering::Release);
        self.pause.send_replace(None);
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
            // The gate lives as long as the one who waits.
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

    #[test]
    fn a_pause_ends_by_itself() {
        let gate = Gate::default();
        gate.close(Pause { until: Instant::now(), only_writes: false });
        assert_eq!(gate.now(), None);
    }
}
