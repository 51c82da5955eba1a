//! Trouble of the compactor: a change of it is an event, once.
//!
//! Invariant: each failure is followed by a success, and each lag by its end, before the next one is
//! told.

use std::time::{Duration, Instant};

use crate::compaction;
use crate::error::{KvsError, Result};
use crate::events::Event;
use crate::log::Log;
use crate::scrub::Scrubber;
use crate::sync::Ordering;

/// A directory that is too large for this long is told.
const BEHIND_AFTER: Duration = Duration::from_secs(30);

/// Trouble that the listener was told of.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    has_failed: bool,
    lag: Lag,
}

impl Trouble {
    /// Notes the outcome of a round.
    pub(super) fn round(&mut self, log: &Log, scrubber: &Scrubber, done: &Result<bool>) {
        match done {
            Ok(_) => self.has_failed = false,
            // Told as events of their own.
            Err(KvsError::Closed | KvsError::Poisoned { .. }) => {}
            Err(error) if error.is_full() => {}
            Err(error) => {
                scrubber.note_error(log, error);
                if !std::mem::replace(&mut self.has_failed, true) {
                    let reason = error.to_string();
                    log.options.events.tell(|| Event::CompactionFailed { reason });
                }
            }
        }
        self.look(log);
    }

    /// Looks at the size of the directory.
    pub(super) fn look(&mut self, log: &Log) {
        let change = self.lag.look(compaction::is_behind(log), Instant::now());
        let Some(is_behind) = change else { return };
        let disk_bytes = log.disk_bytes();
        let live_bytes = log.live_bytes.load(Ordering::Relaxed).max(0) as u64;
        log.options.events.tell(|| {
            if is_behind {
                Event::CompactionBehind { disk_bytes, live_bytes }
            } else {
                Event::CompactionCaughtUp { disk_bytes }
            }
        });
    }
}

/// How long the directory has been too large.
#[derive(Debug, Default)]
struct Lag {
    since: Option<Instant>,
    is_told: bool,
}

impl Lag {
    /// Returns whether compaction is behind, if that is news.
    fn look(&mut self, is_too_large: bool, now: Instant) -> Option<bool> {
        if !is_too_large {
            self.since = None;
            return std::mem::take(&mut self.is_told).then_some(false);
        }
        let since = *self.since.get_or_insert(now);
        let is_news = !self.is_told && now.duration_since(since) >= BEHIND_AFTER;
        self.is_told |= is_news;
        is_news.then_some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_too_large_for_half_a_minute_is_told_once_and_so_is_its_end() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let looks = [(true, 0), (true, 29), (false, 29), (true, 31), (true, 60), (true, 61)];
        let news = looks.map(|(is_too_large, seconds)| lag.look(is_too_large, at(seconds)));
        assert_eq!(news, [None, None, None, None, None, Some(true)], "half a minute on end");
        assert_eq!(lag.look(true, at(600)), None, "told");
        assert_eq!(lag.look(false, at(601)), Some(false));
        assert_eq!(lag.look(false, at(602)), None);
    }
}
