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

use std::cell::Cell;
use std::io::{self, Write};
use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
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
const FLUSH_TIME: Duration = Duration::from_secs(if cfg!(test) { 30 } else { 1 });
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

/// The way to standard error, once there is a log.
static LINES: OnceLock<SyncSender<Vec<u8>>> = OnceLock::new();
/// Lines that found no room.
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// Lines that found room, and those of them that standard error has taken.
static QUEUED: AtomicU64 = AtomicU64::new(0);
static WRITTEN: (Mutex<u64>, Condvar) = (Mutex::new(0), Condvar::new());

thread_local! {
    /// Whether this is the thread that writes: its own lines need no queue.
    static WRITES: Cell<bool> = const { Cell::new(false) };
}

/// The log of this process. Its end, also by a panic, waits until the lines are written, or for a
/// second.
#[must_use]
#[derive(Debug)]
pub(crate) struct Log(());

impl Drop for Log {
    fn drop(&mut self) {
        let queued = QUEUED.load(Ordering::Acquire);
        let (written, is_more) = &WRITTEN;
        let written = written.lock().unwrap_or_else(PoisonError::into_inner);
        // A standard error that takes no more is not waited for.
        drop(is_more.wait_timeout_while(written, FLUSH_TIME, |written| *written < queued));
    }
}

/// Begins the log of this process. Later calls change nothing.
pub(crate) fn begin(level: Level, format: Format) -> io::Result<Log> {
    let (sender, receiver) = sync_channel(LINES_MAX);
    if LINES.set(sender).is_err() {
        return Ok(Log(()));
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
    begun.map(|()| Log(())).map_err(io::Error::other)
}

/// Writes a line that is no log line.
pub(crate) fn plain(line: &str) {
    send(format!("{line}\n").into_bytes());
}

fn send(line: Vec<u8>) {
    if WRITES.get() {
        return write_line(&line);
    }
    // Counted first: the line may be written before this thread goes on.
    QUEUED.fetch_add(1, Ordering::AcqRel);
    if LINES.get().is_none_or(|lines| lines.try_send(line).is_err()) {
        QUEUED.fetch_sub(1, Ordering::AcqRel);
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

fn write_line(line: &[u8]) {
    // Where standard error is gone there is no place to tell.
    drop(io::stderr().write_all(line));
}

/// The life of the thread that writes.
fn write_lines(lines: &Receiver<Vec<u8>>) {
    WRITES.set(true);
    for line in lines {
        write_line(&line);
        // Lines are dropped while the queue is full, so one behind them tells their number.
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            warn!(lines = dropped, "log lines dropped");
        }
        let (written, is_more) = &WRITTEN;
        *written.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        is_more.notify_all();
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
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio, exit};

    use tracing::info;

    use super::*;

    /// Says to a test that it is the process whose log another one reads.
    const CHILD: &str = "ARYAVARTH_LOG_TEST_CHILD";
    const LINES: u64 = 3 * LINES_MAX as u64;

    /// Runs a test in a process of its own, as the child.
    fn child(test: &str) -> Option<Child> {
        if std::env::var_os(CHILD).is_some() {
            return None;
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("log::tests::{test}"), "--nocapture"]).env(CHILD, "1");
        Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn read(child: Child) -> String {
        String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap()
    }

    /// The wait for the last lines found no place in a full queue, and so did the count of the lines
    /// that had found none before: both were lost.
    #[test]
    fn at_the_end_each_line_is_written_or_counted_as_dropped_also_with_a_full_queue() {
        let Some(mut child) =
            child("at_the_end_each_line_is_written_or_counted_as_dropped_also_with_a_full_queue")
        else {
            let log = begin(Level::Info, Format::Text).unwrap();
            (0..LINES).for_each(|number| info!(number, "one"));
            io::stdout().write_all(b"full\n").unwrap();
            drop(log);
            exit(0);
        };
        // The pipe and the queue are full before the first line is read.
        let stdout = BufReader::new(child.stdout.take().unwrap());
        assert!(stdout.lines().any(|line| line.unwrap().ends_with("full")));
        let said = read(child);
        let written = said.lines().filter(|line| line.contains("one number=")).count() as u64;
        let dropped = said
            .lines()
            .filter_map(|line| line.split_once("log lines dropped lines=")?.1.parse::<u64>().ok());
        let dropped: u64 = dropped.sum();
        assert!(dropped > 0, "{written} were written");
        assert_eq!(written + dropped, LINES);
    }

    #[test]
    fn the_panic_that_ends_the_program_is_a_line() {
        let Some(child) = child("the_panic_that_ends_the_program_is_a_line") else {
            let end = panic::catch_unwind(|| {
                let _log = begin(Level::Info, Format::Text).unwrap();
                (0..LINES_MAX / 2).for_each(|number| info!(number, "one"));
                panic!("as this test wants");
            });
            exit(i32::from(end.is_err()));
        };
        let said = read(child);
        let last = said.lines().last().unwrap();
        assert!(last.contains("ERROR panic") && last.contains("as this test wants"), "{last}");
    }

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
