//! The bell: how the sweep rests, is called, and ends.
//!
//! Writers ring it when a first deadline or a cleared generation comes up, so that a store without
//! either wakes no thread.

use std::time::Duration;

use crate::sync::{Condvar, Mutex, Rank, lock, wait, wait_timeout};

/// Calls the sweep when there is something to do for it again.
pub(super) struct Bell {
    rung: Mutex<Rung>,
    call: Condvar,
}

#[derive(Default)]
struct Rung {
    is_rung: bool,
    is_stopped: bool,
}

/// How long the sweep may rest.
pub(super) enum Rest {
    UntilRung,
    Until(Duration),
}

impl Default for Bell {
    fn default() -> Bell {
        Bell { rung: Mutex::new(Rank::Bell, Rung::default()), call: Condvar::new() }
    }
}

impl Bell {
    pub(super) fn ring(&self) {
        lock(&self.rung).is_rung = true;
        self.call.notify_all();
    }

    /// Ends the sweep.
    pub(super) fn stop(&self) {
        lock(&self.rung).is_stopped = true;
        self.call.notify_all();
    }

    /// Rests; returns whether to go on.
    pub(super) fn rest(&self, rest: &Rest) -> bool {
        let mut rung = lock(&self.rung);
        match rest {
            Rest::Until(time) if !rung.is_rung && !rung.is_stopped => {
                rung = wait_timeout(&self.call, rung, *time);
            }
            Rest::Until(_) => {}
            Rest::UntilRung => {
                while !rung.is_rung && !rung.is_stopped {
                    rung = wait(&self.call, rung);
                }
            }
        }
        rung.is_rung = false;
        !rung.is_stopped
    }
}
