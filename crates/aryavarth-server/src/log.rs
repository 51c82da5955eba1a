//! The log's lines: changes of state, by `tracing`, each under a fixed name with fields.
//!
//! The program that runs the server decides where the lines go, if anywhere. All lines, their levels
//! and fields are listed in docs/log.md.
//!
//! Invariants:
//! - No line holds a value or a password. A key is escaped, and cut at 64 bytes.
//! - A client that can cause a line again and again causes at most one line a second.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aryavarth::{Event, Events};
use tracing::{debug, error, info, warn};

/// Bytes of a key that a line shows.
const SHOWN_BYTES_MAX: usize = 64;

/// Writes a store's events to the log; for [`Options::events`](aryavarth::Options::events).
///
/// ```
/// use aryavarth::{KvStore, Options};
///
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// let events = aryavarth_server::log_events()?;
/// let store = KvStore::open_with(dir, Options { events, ..Options::default() })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The system's, if it refuses a thread.
pub fn log_events() -> io::Result<Events> {
    Events::to(log_event)
}

/// As [`log_events`], for a program that ends: events told while its store closes are in the log
/// once [`LoggedEvents::wait`] has returned.
///
/// # Errors
/// As [`log_events`].
pub fn log_events_to_their_end() -> io::Result<(Events, LoggedEvents)> {
    let (listener, ended) = mpsc::channel::<Infallible>();
    let events = Events::to(move |event| {
        // It goes with this closure, when the last event was delivered.
        let _listener = &listener;
        log_event(event);
    })?;
    Ok((events, LoggedEvents { ended }))
}

/// The end of a store's events, all of which are in the log by then.
#[derive(Debug)]
pub struct LoggedEvents {
    ended: mpsc::Receiver<Infallible>,
}

impl LoggedEvents {
    /// Waits until all handles of the store are gone and its events are in the log, at most for
    /// `time`. Returns whether that is so.
    pub fn wait(&self, time: Duration) -> bool {
        self.ended.recv_timeout(time) == Err(RecvTimeoutError::Disconnected)
    }
}

fn log_event(event: &Event) {
    match event {
        Event::DiskFull { reason } => error!(
            reason,
            safe = "everything acknowledged is on disk; reads and removals go on",
            remedy = "free some space; writes resume by themselves",
            "disk full"
        ),
        Event::DiskWritable { after } => info!(after_ms = ms(*after), "disk writable"),
        Event::Poisoned { reason } => error!(
            reason,
            safe = "everything acknowledged is on disk and can be read; writes are refused",
            remedy = "see to the disk, then restart the server",
            "poisoned"
        ),
        Event::SlowSync { took, bytes } => warn!(took_ms = ms(*took), bytes, "slow sync"),
        Event::CompactionFailed { reason } => warn!(reason, "compaction failed"),
        Event::CompactionBehind { disk_bytes, live_bytes } => {
            warn!(disk_bytes, live_bytes, "compaction behind");
        }
        Event::CompactionCaughtUp { disk_bytes } => info!(disk_bytes, "compaction caught up"),
        Event::ClockJumped { by_ms, offset_ms } => warn!(by_ms, offset_ms, "clock jumped"),
        event @ Event::Damaged { .. } => log_damage(event),
        Event::Missed { events } => warn!(events, "events missed"),
        event => warn!(?event, "event"),
    }
}

fn log_damage(event: &Event) {
    let Event::Damaged { path, offset, reason, key, is_loss } = event else { return };
    let file = path.display().to_string();
    let key = key.as_deref().map(shown);
    let key = key.as_deref();
    if *is_loss {
        let remedy = "write the key again, or restore the store from a copy";
        error!(file, offset, key, reason, lost = true, remedy, "damage found");
    } else {
        warn!(file, offset, key, reason, lost = false, "damage found");
    }
}

/// Writes a line of a script, of redis's level 0 (debug) to 3 (warning).
pub(crate) fn log_of_script(level: i64, line: &[u8]) {
    let text = line.escape_ascii().to_string();
    match level {
        0 | 1 => debug!(text, "script"),
        2 => info!(text, "script"),
        _ => warn!(text, "script"),
    }
}

/// A key as lines show it: printable, and not for ever long.
fn shown(key: &[u8]) -> String {
    let text = key[..key.len().min(SHOWN_BYTES_MAX)].escape_ascii();
    if key.len() <= SHOWN_BYTES_MAX {
        return text.to_string();
    }
    format!("{text}... ({} bytes)", key.len())
}

/// A duration in whole milliseconds.
pub(crate) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Incidents that clients or the system can cause again and again, collected for one line a second.
#[derive(Debug, Default)]
pub(crate) struct Incidents {
    /// Connections refused because there are too many, with the last client.
    pub(crate) refused: Sampled,
    /// Wrong passwords, with the last client.
    pub(crate) wrong_passwords: Sampled,
    /// Connections that the system could not hand over, with the last reason.
    pub(crate) accept_errors: Sampled,
}

impl Incidents {
    /// Writes a line for each kind that there was since the last call.
    pub(crate) fn log(&self, connections_max: u64) {
        if let Some((count, last)) = self.refused.take() {
            warn!(count, last, connections_max, "connections refused");
        }
        if let Some((count, last)) = self.wrong_passwords.take() {
            warn!(count, last, "wrong password");
        }
        if let Some((count, reason)) = self.accept_errors.take() {
            warn!(count, reason, "accept failed");
        }
    }
}

/// A count of incidents, and the last one.
#[derive(Debug, Default)]
pub(crate) struct Sampled(Mutex<(u64, String)>);

impl Sampled {
    pub(crate) fn note(&self, last: impl fmt::Display) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = (seen.0 + 1, last.to_string());
    }

    /// The incidents since the last call, if there were any.
    fn take(&self) -> Option<(u64, String)> {
        let seen = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        (seen.0 > 0).then_some(seen)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Metadata, Subscriber, subscriber};

    use super::*;

    /// Keeps lines as text.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl Subscriber for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &tracing::Event<'_>) {
            let mut line = Line(event.metadata().level().to_string());
            event.record(&mut line);
            self.0.lock().unwrap().push(line.0);
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.0 = match field.name() {
                "message" => format!("{} {value:?}", self.0),
                "safe" | "remedy" => std::mem::take(&mut self.0),
                name => format!("{} {name}={value:?}", self.0),
            };
        }
    }

    #[test]
    fn each_event_of_the_store_is_a_line_with_its_level() {
        let lines = Lines::default();
        let reason = || "no".to_owned();
        let second = Duration::from_secs(1);
        let damage = |is_loss| Event::Damaged {
            path: "/data/7.log".into(),
            offset: 64,
            reason: reason(),
            key: Some(b"k\n".to_vec()),
            is_loss,
        };
        subscriber::with_default(lines.clone(), || {
            for event in [
                Event::DiskFull { reason: reason() },
                Event::DiskWritable { after: second },
                Event::Poisoned { reason: reason() },
                Event::SlowSync { took: second, bytes: 8 },
                Event::CompactionFailed { reason: reason() },
                Event::CompactionBehind { disk_bytes: 9, live_bytes: 1 },
                Event::CompactionCaughtUp { disk_bytes: 2 },
                Event::ClockJumped { by_ms: -5000, offset_ms: 0 },
                damage(true),
                damage(false),
                Event::Missed { events: 3 },
            ] {
                log_event(&event);
            }
        });
        let lines = lines.0.lock().unwrap();
        // The name stands where the message was recorded: first.
        assert_eq!(
            *lines,
            [
                r#"ERROR disk full reason="no""#,
                "INFO disk writable after_ms=1000",
                r#"ERROR poisoned reason="no""#,
                "WARN slow sync took_ms=1000 bytes=8",
                r#"WARN compaction failed reason="no""#,
                "WARN compaction behind disk_bytes=9 live_bytes=1",
                "INFO compaction caught up disk_bytes=2",
                "WARN clock jumped by_ms=-5000 offset_ms=0",
                r#"ERROR damage found file="/data/7.log" offset=64 key="k\\n" reason="no" lost=true"#,
                r#"WARN damage found file="/data/7.log" offset=64 key="k\\n" reason="no" lost=false"#,
                "WARN events missed events=3",
            ]
        );
    }

    #[test]
    fn the_end_of_the_events_comes_with_the_last_handle_of_the_store() {
        let (events, logged) = log_events_to_their_end().unwrap();
        let other = events.clone();
        drop(events);
        assert!(!logged.wait(Duration::from_millis(20)), "a handle is left");
        drop(other);
        assert!(logged.wait(Duration::from_secs(30)));
    }

    #[test]
    fn a_key_is_shown_escaped_and_short() {
        assert_eq!(shown(b"user:1"), "user:1");
        assert_eq!(shown(b"\x1b[2J\n\xff"), r"\x1b[2J\n\xff");
        assert_eq!(shown(&[b'k'; 1000]), format!("{}... (1000 bytes)", "k".repeat(64)));
    }

    #[test]
    fn incidents_are_counted_until_they_are_taken() {
        let sampled = Sampled::default();
        assert_eq!(sampled.take(), None);
        sampled.note("first");
        sampled.note("second");
        assert_eq!(sampled.take(), Some((2, "second".to_owned())));
        assert_eq!(sampled.take(), None);
    }
}
