//! `MONITOR`: streams each executed command to connections in that mode.
//!
//! Invariants:
//! - A line carries the position of the command that caused it: it leaves no earlier
//!   than the command's own reply.
//! - A monitor that does not read costs bounded memory and no time of others: it is cut off.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aryavarth::Position;
use aryavarth_protocol::Command;
use tokio::sync::mpsc;

use super::statistics::secrets;
use crate::process;

/// Bytes of lines that may wait for one monitor. One line may exceed it.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// A command as it is shown.
#[derive(Debug)]
pub(crate) struct Line {
    /// The line, as a simple string: no line break in it.
    pub(crate) text: String,
    /// The position that must be durable first.
    pub(crate) position: Position,
}

/// The lines for one connection.
#[derive(Debug)]
pub(crate) struct Feed {
    lines: mpsc::UnboundedReceiver<Arc<Line>>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl Feed {
    /// The next line; `None` if the connection was cut off because it did not read.
    pub(crate) async fn next(&mut self) -> Option<Arc<Line>> {
        let line = self.lines.recv().await?;
        self.waiting_bytes.fetch_sub(line.text.len(), Ordering::Relaxed);
        Some(line)
    }
}

#[derive(Debug)]
struct Monitor {
    lines: mpsc::UnboundedSender<Arc<Line>>,
    waiting_bytes: Arc<AtomicUsize>,
}

/// The connections in MONITOR mode.
#[derive(Debug, Default)]
pub(super) struct Monitors {
    count: AtomicUsize,
    dropped: AtomicU64,
    all: Mutex<Vec<Monitor>>,
}

impl Monitors {
    /// Whether any connection is in MONITOR mode.
    pub(super) fn are_there(&self) -> bool {
        self.count() > 0
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self) -> Feed {
        let (sender, receiver) = mpsc::unbounded_channel();
        let waiting_bytes = Arc::<AtomicUsize>::default();
        let feed = Feed { lines: receiver, waiting_bytes: Arc::clone(&waiting_bytes) };
        let mut all = self.all();
        all.push(Monitor { lines: sender, waiting_bytes });
        self.count.store(all.len(), Ordering::Relaxed);
        feed
    }

    /// Shows a command to each of them, and cuts off those that have too much waiting.
    pub(super) fn show(&self, peer: SocketAddr, space: u32, command: &Command, position: Position) {
        let line = Arc::new(Line { text: text(peer, space, command), position });
        let bytes = line.text.len();
        let mut all = self.all();
        all.retain(|monitor| {
            if monitor.waiting_bytes.load(Ordering::Relaxed) > WAITING_BYTES_MAX {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return false;
            }
            monitor.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
            // A connection that has gone is a monitor no more.
            monitor.lines.send(Arc::clone(&line)).is_ok()
        });
        self.count.store(all.len(), Ordering::Relaxed);
    }

    fn all(&self) -> MutexGuard<'_, Vec<Monitor>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line like `1339518083.107412 [0 127.0.0.1:60866] "keys" "*"`.
fn text(peer: SocketAddr, space: u32, command: &Command) -> String {
    let now = process::unix_time();
    let mut text = format!("{}.{:06} [{space} {peer}]", now.as_secs(), now.subsec_micros());
    let secrets: HashSet<usize> = secrets(command).into_iter().collect();
    for at in 0..command.len() {
        let arg = command.get(at).unwrap_or_default();
        let arg = if secrets.contains(&at) { b"(redacted)" } else { arg };
        text.push_str(" \"");
        quote(arg, &mut text);
        text.push('"');
    }
    text
}

/// Writes bytes as Redis quotes them.
fn quote(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b'"' => text.push_str("\\\""),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            0x07 => text.push_str("\\a"),
            0x08 => text.push_str("\\b"),
            b' '..=b'~' => text.push(char::from(*byte)),
            other => {
                text.push_str("\\x");
                for digit in [other >> 4, other & 15] {
                    text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: ([u8; 4], u16) = ([127, 0, 0, 1], 5);

    #[test]
    fn a_line_is_quoted_as_redis_quotes_it() {
        let command = Command::from_args([&b"set"[..], b"a b", b"\x00\xff\"\\\r\n\t\x07\x08"]);
        let line = text(PEER.into(), 3, &command);
        let (_, line) = line.split_once(' ').unwrap();
        let expected = r#"[3 127.0.0.1:5] "set" "a b" "\x00\xff\"\\\r\n\t\a\b""#;
        assert_eq!(line, expected);
    }

    #[test]
    fn passwords_are_not_shown() {
        for args in [
            vec!["AUTH", "secret"],
            vec!["auth", "secret", "secret"],
            vec!["hello", "3", "setname", "x", "AUTH", "default", "secret"],
            vec!["config", "set", "timeout", "1", "requirepass", "secret"],
        ] {
            let line = text(PEER.into(), 0, &Command::from_args(&args));
            assert!(line.contains("(redacted)") && !line.contains("secret"), "{line}");
        }
    }

    #[test]
    fn who_does_not_read_is_cut_off_and_counted() {
        let monitors = Monitors::default();
        let feed = monitors.add();
        let large = "x".repeat(WAITING_BYTES_MAX);
        let command = Command::from_args(["set", "k", &large]);
        monitors.show(PEER.into(), 0, &command, Position(1));
        assert_eq!((monitors.count(), monitors.dropped()), (1, 0));
        monitors.show(PEER.into(), 0, &command, Position(2));
        assert_eq!((monitors.count(), monitors.dropped()), (0, 1));
        drop(feed);
    }

    #[test]
    fn who_reads_sees_every_line_with_its_position() {
        let monitors = Monitors::default();
        let mut feed = monitors.add();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for position in 1..=3 {
            let command = Command::from_args(["set", "k", &"x".repeat(WAITING_BYTES_MAX)]);
            monitors.show(PEER.into(), 0, &command, Position(position));
            let line = runtime.block_on(feed.next()).unwrap();
            assert_eq!(line.position, Position(position));
        }
        drop(feed);
        monitors.show(PEER.into(), 0, &Command::from_args(["ping"]), Position(4));
        assert_eq!((monitors.count(), monitors.dropped()), (0, 0));
    }
}
