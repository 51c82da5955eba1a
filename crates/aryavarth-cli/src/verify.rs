//! The verify command: what is damaged in a store's directory, one line each.
//!
//! Damage is data and goes to standard output; what was read, and how far it is, is said on
//! standard error. The exit code is 0 only if nothing is lost.

use std::io::{IsTerminal, Write, stderr};
use std::path::Path;
use std::time::{Duration, Instant};

use aryavarth::{Damage, KvsError, Options, VerifyReport};
use serde::Serialize;

use crate::output::{Failure, Output, base64, say};

/// What takes less is not worth a sign of progress.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);

pub(crate) fn run(dir: &Path, output: &Output) -> Result<(), Failure> {
    let mut progress = Progress { shown: None, started: Instant::now() };
    let report = aryavarth::verify(dir, &Options::default(), |done, all| progress.at(done, all));
    progress.end();
    let report = report.map_err(|error| match error {
        KvsError::Io(error) => Failure::Other(format!("{error}; nothing was changed")),
        error => error.into(),
    })?;
    for damage in &report.damage {
        output.line(&describe(damage), &DamageLine::of(damage))?;
    }
    let VerifyReport { segments, records, bytes, torn_bytes, .. } = report;
    say(format_args!("{segments} segments, {records} good records, {bytes} bytes read"));
    if torn_bytes > 0 {
        say(format_args!("{torn_bytes} bytes of a torn tail, which the next start will cut off"));
    }
    if report.is_good() {
        return Ok(());
    }
    let lost = report.damage.iter().filter(|damage| !damage.harmless).count();
    Err(Failure::Other(format!(
        "{} is damaged in {lost} places; nothing was changed. Restore the files named above from a \
         backup",
        dir.display()
    )))
}

fn describe(damage: &Damage) -> String {
    let Damage { path, offset, reason, key, seq, harmless, .. } = damage;
    let key = key.as_ref().map(|key| format!("; key {}", key.escape_ascii()));
    let seq = seq.map(|seq| format!("; sequence number {seq}"));
    let harmless = if *harmless { "; nothing is lost by it" } else { "" };
    let (key, seq) = (key.unwrap_or_default(), seq.unwrap_or_default());
    format!("{}: byte {offset}: {reason}{key}{seq}{harmless}", path.display())
}

#[derive(Serialize)]
struct DamageLine<'a> {
    path: String,
    offset: u64,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    harmless: bool,
}

impl<'a> DamageLine<'a> {
    fn of(damage: &'a Damage) -> Self {
        let bytes = damage.key.as_deref();
        let key = bytes.and_then(|key| std::str::from_utf8(key).ok());
        DamageLine {
            path: damage.path.display().to_string(),
            offset: damage.offset,
            reason: &damage.reason,
            key,
            key_base64: if key.is_none() { bytes.map(base64) } else { None },
            seq: damage.seq,
            harmless: damage.harmless,
        }
    }
}

/// How far it is, on a terminal.
struct Progress {
    shown: Option<u64>,
    started: Instant,
}

impl Progress {
    fn at(&mut self, done: u64, all: u64) {
        let percent = done.saturating_mul(100) / all.max(1);
        if self.shown == Some(percent) || self.started.elapsed() < PROGRESS_AFTER {
            return;
        }
        let mut stderr = stderr();
        if stderr.is_terminal() {
            drop(write!(stderr, "\rread {percent} %"));
            self.shown = Some(percent);
        }
    }

    fn end(&self) {
        if self.shown.is_some() {
            drop(write!(stderr(), "\r           \r"));
        }
    }
}
