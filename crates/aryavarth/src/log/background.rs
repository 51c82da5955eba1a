//! How background threads of a log rest, are called, and end.

use std::time::Duration;

use super::Log;
use crate::sync::{lock, wait_timeout};

impl Log {
    /// Wakes the background threads.
    pub(crate) fn call_background(&self) {
        if !self.options.background {
            return;
        }
        lock(&self.chores).called = true;
        self.call.notify_all();
    }

    /// Waits until there may be work for a background thread, at most `timeout`; returns false
    /// when the store is closing.
    pub(crate) fn rest(&self, timeout: Duration) -> bool {
        let mut chores = lock(&self.chores);
        if !chores.stopped && !chores.called {
            chores = wait_timeout(&self.call, chores, timeout);
        }
        chores.called = false;
        !chores.stopped
    }

    /// Waits for `timeout`, or until the store is closing: then returns false.
    pub(crate) fn pause(&self, timeout: Duration) -> bool {
        let chores = lock(&self.chores);
        if chores.stopped {
            return false;
        }
        !wait_timeout(&self.call, chores, timeout).stopped
    }

    /// Whether the store is closing.
    pub(crate) fn is_stopping(&self) -> bool {
        lock(&self.chores).stopped
    }

    /// Ends the background threads.
    pub(crate) fn stop(&self) {
        lock(&self.chores).stopped = true;
        self.call.notify_all();
        self.watermarks.stop();
    }
}
