//! The progress of long work, on a terminal; nothing elsewhere.

use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// How often a bar is drawn while nothing moves.
const TICK: Duration = Duration::from_millis(100);

/// A line on standard error with the amount so far, the rate and the time left.
pub(crate) struct Progress {
    bar: ProgressBar,
    bytes: u64,
}

impl Progress {
    /// Of work that is counted in bytes; `total` if it is known.
    pub(crate) fn of_bytes(verb: &str, total: Option<u64>) -> Progress {
        let amount = "{bytes} ({bytes_per_sec}, {elapsed})";
        let share = "{percent} %, {bytes} of {total_bytes} ({bytes_per_sec}, {eta} left)";
        Progress::new(verb, total, if total.is_some() { share } else { amount })
    }

    /// Of work that is counted in keys; `total` if it is known.
    pub(crate) fn of_keys(verb: &str, total: Option<u64>) -> Progress {
        let amount = "{human_pos} keys, {msg} ({per_sec}, {elapsed})";
        let share = "{percent} %, {human_pos} of {human_len} keys, {msg} ({per_sec}, {eta} left)";
        Progress::new(verb, total, if total.is_some() { share } else { amount })
    }

    /// Of work whose amount is not known.
    pub(crate) fn of_time(verb: &str) -> Progress {
        Progress::new(verb, None, "{elapsed}")
    }

    fn new(verb: &str, total: Option<u64>, template: &str) -> Progress {
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        if let Ok(style) = ProgressStyle::with_template(&format!("{{spinner}} {verb} {template}")) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        Progress { bar, bytes: 0 }
    }

    /// Sets the amount and the total.
    pub(crate) fn at(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// Adds to the amount.
    pub(crate) fn add(&self, amount: u64) {
        self.bar.inc(amount);
    }

    /// Adds a key with its bytes.
    pub(crate) fn add_key(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.bar.inc(1);
        self.bar.set_message(HumanBytes(self.bytes).to_string());
    }

    /// Clears the line.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
