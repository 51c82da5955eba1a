//! Import: entries as `export` writes them, set one by one.
//!
//! Each line is one entry. With `--overwrite` an entry that the server has already is skipped, and a
//! key with another value or deadline gets the line's; with `--keep` a key that exists stays as it
//! is. So an import that was cut short is simply run again.
//!
//! Invariant: after an import with `--overwrite` each key that a line names is as the export had it, and
//! gone if its deadline has passed meanwhile.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{self, BufRead, Read, StdinLock};
use std::os::fd::AsFd;
use std::time::{SystemTime, UNIX_EPOCH};

use aryavarth_client::{ClientError, Commands, RedisClient, Value};
use serde::Serialize;

use crate::args::To;
use crate::connect::{connect, refused};
use crate::line::{self, Entry};
use crate::output::{Failure, Output};
use crate::progress::Progress;

/// Entries that are sent together, at most.
const BATCH_ENTRIES: usize = 4096;
/// Bytes of one batch at which no further entry is added.
const BATCH_BYTES: usize = 1 << 20;
/// The longest line: the largest value and key with every byte escaped.
const LINE_BYTES_MAX: u64 = 6 * (aryavarth::VALUE_BYTES_MAX as u64 + (64 << 10)) + 1024;
/// The mark that some editors put before the first line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

const RUN_AGAIN: &str =
    "the lines before it are on disk; run the same import again, it skips what is there";

/// The counts of an import.
#[derive(Default, Serialize)]
struct Imported {
    set: u64,
    equal: u64,
    /// Keys that existed and stayed.
    kept: u64,
    /// Entries whose deadline has passed.
    expired: u64,
    /// Keys that such an entry removed.
    removed: u64,
}

/// Sets the entries that come as lines on standard input.
pub(crate) fn run(to: &To, keep: bool, output: &Output) -> Result<(), Failure> {
    let mut import = Import {
        to,
        client: connect(to, 0)?,
        keep,
        db: 0,
        done: Imported::default(),
        batch: Vec::new(),
        batch_bytes: 0,
        batch_keys: HashSet::new(),
    };
    let progress = Progress::of_bytes("imported", input_bytes());
    let mut stdin = io::stdin().lock();
    let mut line = Vec::new();
    for number in 1_u64.. {
        read_line(&mut stdin, number, &mut line)?;
        if line.is_empty() {
            break;
        }
        let content = match line.strip_prefix(BYTE_ORDER_MARK) {
            Some(content) if number == 1 => content,
            _ => &line,
        };
        progress.add(line.len() as u64);
        if content.trim_ascii().is_empty() {
            continue;
        }
        let entry = if line.len() as u64 > LINE_BYTES_MAX {
            Err(format!("it is longer than {LINE_BYTES_MAX} bytes"))
        } else {
            line::read(content)
        };
        match entry {
            Ok(entry) => import.add(number, entry)?,
            Err(reason) => {
                import.send()?;
                return Err(Failure::Other(format!(
                    "line {number} is not a line of an export: {reason}. The lines before it were \
                     imported; correct it and run the import again"
                )));
            }
        }
    }
    import.send()?;
    progress.end();
    output.line(&import.done.text(keep), &import.done)
}

/// Reads the next line with its end; an empty one is the end of the input.
fn read_line(stdin: &mut StdinLock<'_>, number: u64, line: &mut Vec<u8>) -> Result<(), Failure> {
    line.clear();
    let read = stdin.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', line);
    read.map(drop)
        .map_err(|error| Failure::Other(format!("cannot read line {number}: {error}; {RUN_AGAIN}")))
}

/// The bytes of the input, if it is a file.
fn input_bytes() -> Option<u64> {
    let stat = rustix::fs::fstat(io::stdin().as_fd()).ok()?;
    let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
    is_file.then(|| u64::try_from(stat.st_size).ok()).flatten()
}

impl Imported {
    fn text(&self, keep: bool) -> String {
        let Imported { set, equal, kept, expired, removed } = self;
        let mut text = if keep {
            format!("{set} set, {kept} kept")
        } else {
            format!("{set} set, {equal} equal already")
        };
        if *expired > 0 {
            let _ = write!(text, ", {expired} expired");
        }
        if *removed > 0 {
            let _ = write!(text, ", {removed} of them removed");
        }
        text
    }
}

struct Import<'a> {
    to: &'a To,
    client: RedisClient,
    keep: bool,
    /// The database that is selected, and that the batch is for.
    db: u32,
    done: Imported,
    /// Entries with the numbers of their lines.
    batch: Vec<(u64, Entry)>,
    batch_bytes: usize,
    /// The keys of the batch, so that each comes once: it is compared with the state before.
    batch_keys: HashSet<Vec<u8>>,
}

impl Import<'_> {
    fn add(&mut self, number: u64, entry: Entry) -> Result<(), Failure> {
        let full = self.batch.len() == BATCH_ENTRIES || self.batch_bytes >= BATCH_BYTES;
        if full || entry.db != self.db || self.batch_keys.contains(&entry.key) {
            self.send()?;
        }
        if entry.db != self.db {
            let selected = self.client.command(&["SELECT", &entry.db.to_string()]);
            selected.map_err(|error| stopped(number, &error.to_string()))?;
            self.db = entry.db;
        }
        if self.keep && has_expired(&entry) {
            self.done.expired += 1;
            return Ok(());
        }
        self.batch_bytes += entry.key.len() + entry.value.len();
        self.batch_keys.insert(entry.key.clone());
        self.batch.push((number, entry));
        Ok(())
    }

    /// Sets the entries of the batch that the server does not have.
    fn send(&mut self) -> Result<(), Failure> {
        let mut batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        self.batch_keys.clear();
        let Some(first) = batch.first().map(|(number, _)| *number) else { return Ok(()) };
        if !self.keep {
            let is_there =
                self.compare(&batch).map_err(|error| stopped(first, &error.to_string()))?;
            let mut is_there = is_there.into_iter();
            let before = batch.len();
            batch.retain(|_| !is_there.next().unwrap_or(false));
            self.done.equal += (before - batch.len()) as u64;
        }
        let mut commands = Commands::new();
        for (_, entry) in &batch {
            if has_expired(entry) {
                commands.push(&[b"DEL", &*entry.key]);
            } else {
                push_set(entry, self.keep, &mut commands);
            }
        }
        let (mut numbers, mut refusal) = (batch.iter().map(|(number, _)| *number), None);
        let done = &mut self.done;
        let sent = self.client.pipeline_each(&commands, |reply| {
            let number = numbers.next().unwrap_or(first);
            match reply {
                Value::Null => done.kept += 1,
                Value::Error(text) => drop(refusal.get_or_insert((number, text))),
                Value::Integer(removed) => {
                    done.expired += 1;
                    done.removed += u64::from(removed == 1);
                }
                _ => done.set += 1,
            }
        });
        // The server may close the connection behind a refusal.
        if let Some((number, text)) = refusal {
            return Err(stopped(number, &refused(self.to, &text)));
        }
        sent.map_err(|error| stopped(first, &error.to_string()))
    }

    /// Whether the server has each of the entries, deadline included.
    fn compare(&mut self, batch: &[(u64, Entry)]) -> Result<Vec<bool>, ClientError> {
        let mut commands = Commands::new();
        for (_, entry) in batch {
            commands.push(&[b"GET", &*entry.key]);
            commands.push(&[b"PEXPIRETIME", &*entry.key]);
        }
        let mut equal = vec![true; batch.len()];
        let mut at = 0;
        self.client.pipeline_each(&commands, |reply| {
            let entry = &batch[at / 2].1;
            equal[at / 2] &= match reply {
                Value::Bytes(value) => value == entry.value,
                Value::Integer(deadline) => u64::try_from(deadline).ok() == entry.deadline_ms,
                _ => false,
            };
            at += 1;
        })?;
        Ok(equal)
    }
}

/// Whether the deadline of an entry has passed.
fn has_expired(entry: &Entry) -> bool {
    entry.deadline_ms.is_some_and(|deadline| deadline <= unix_ms())
}

fn push_set(entry: &Entry, keep: bool, commands: &mut Commands) {
    let deadline = entry.deadline_ms.map(|deadline| deadline.to_string());
    let mut args: Vec<&[u8]> = vec![b"SET", &entry.key, &entry.value];
    if let Some(deadline) = &deadline {
        args.extend([&b"PXAT"[..], deadline.as_bytes()]);
    }
    if keep {
        args.push(b"NX");
    }
    commands.push(&args);
}

fn stopped(number: u64, reason: &str) -> Failure {
    Failure::Other(format!("stopped at line {number}: {reason}; {RUN_AGAIN}"))
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
