//! The server's log: lines on standard error, as text or as JSON.
//!
//! ```text
//! server, store --line--> queue (4,096 lines) --> its own thread --> standard error
//!                never waits
//! ```
//!
//! Two lines are no log lines, for scripts wait for them: `listening on ADDR` and `ready`, each alone
//! on its line in both formats. They take the same way, so they keep their place.
//!
//! Invariants:
//! - A standard error that is closed, full or not read ends and holds up nothing: lines that find
//!   no room are dropped, counted, and the count is a line.
//! - A panic is a line with its place. Its text is left out unless the source states it, since it
//!   could quote a value.

use std::io::{self, Write};
use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use tracing::{error, warn};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Lines that may wait for standard error.
const LINES_MAX: usize = 4096;
/// How long the end of the program waits for lines that are not written yet.
const FLUSH_TIME: Duration = Duration::from_secs(1);
const DAY_SECONDS: u64 = 24 * 60 * 60;

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Format {
    /// Time, level, name and fields
    Text,
    /// One object a line
    Json,
}

/// Which lines are written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Level {
    /// None
    Off,
    /// Something is broken and needs a person
    Error,
    /// Something may need a person soon
    Warn,
    /// Each change of state
    Info,
    /// All there are
    Debug,
}

enum Message {
    Line(Vec<u8>),
    /// Asks for a sign when all lines before it are written.
    Flush(SyncSender<()>),
}

/// The way to standard error, once there is a log.
static LINES: OnceLock<SyncSender<Message>> = OnceLock::new();
/// Lines that found no room.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Begins the log of this process. Later calls change nothing.
pub(crate) fn begin(level: Level, format: Format) -> io::Result<()> {
    let (sender, receiver) = sync_channel(LINES_MAX);
    if LINES.set(sender).is_err() {
        return Ok(());
    }
    thread::Builder::new().name("log".to_owned()).spawn(move || write_lines(&receiver))?;
    let level = match level {
        Level::Off => LevelFilter::OFF,
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false)
        .with_timer(Utc)
        .with_writer(Lines);
    let begun = match format {
        Format::Text => builder.try_init(),
        Format::Json => {
            let builder = builder.json().flatten_event(true);
            builder.with_current_span(false).with_span_list(false).try_init()
        }
    };
    panic::set_hook(Box::new(log_panic));
    begun.map_err(io::Error::other)
}

/// Writes a line that is no log line.
pub(crate) fn plain(line: &str) {
    send(format!("{line}\n").into_bytes());
}

/// Waits until the lines are written, or for a second.
pub(crate) fn flush() {
    let Some(lines) = LINES.get() else { return };
    let (done, wait) = sync_channel(1);
    if lines.try_send(Message::Flush(done)).is_ok() {
        // A standard error that takes no more is not waited for.
        wait.recv_timeout(FLUSH_TIME).unwrap_or_default();
    }
}

fn send(line: Vec<u8>) {
    if LINES.get().is_none_or(|lines| lines.try_send(Message::Line(line)).is_err()) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// The life of the thread that writes.
fn write_lines(lines: &Receiver<Message>) {
    let mut stderr = io::stderr();
    for message in lines {
        match message {
            // Where standard error is gone there is no place to tell.
            Message::Line(line) => drop(stderr.write_all(&line)),
            Message::Flush(done) => drop(done.try_send(())),
        }
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            warn!(lines = dropped, "log lines dropped");
        }
    }
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let text = panic.payload().downcast_ref::<&'static str>().copied();
    let thread = thread::current();
    error!(place, text, thread = thread.name(), "panic");
}

/// Takes the lines of the log.
struct Lines;

impl MakeWriter<'_> for Lines {
    type Writer = Lines;

    fn make_writer(&self) -> Lines {
        Lines
    }
}

impl Write for Lines {
    /// Takes one whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        send(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The wall clock in UTC, to the millisecond.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        w.write_str(&utc(since))
    }
}

/// A time since 1970, as `2026-11-29T05:01:02.345Z`.
fn utc(since: Duration) -> String {
    let seconds = since.as_secs();
    let (year, month, day) = date(seconds / DAY_SECONDS);
    let second = seconds % DAY_SECONDS;
    let (hour, minute, second, ms) =
        (second / 3600, second / 60 % 60, second % 60, since.subsec_millis());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Year, month and day of the Gregorian calendar, so many days after 1970-01-01.
fn date(mut days: u64) -> (u64, u64, u64) {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    loop {
        let year_days = if is_leap(year) { 366 } else { 365 };
        if days < year_days {
            break;
        }
        days -= year_days;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for month_days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < month_days {
            break;
        }
        days -= month_days;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_to_the_millisecond() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (1_767_225_599_001, "2025-12-31T23:59:59.001Z"),
            (4_102_444_800_000, "2100-01-01T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(utc(Duration::from_millis(ms)), expected);
        }
    }
}
