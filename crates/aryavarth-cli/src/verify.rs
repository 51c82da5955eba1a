//! The verify command: the damage in a store's directory, one line each.
//!
//! Damage is data and goes to standard output; figures and progress go to
//! standard error. The exit code is 0 only if nothing is lost.

use std::path::Path;

use aryavarth::{Damage, KvsError, Options, Verdict, VerifyReport};
use serde::Serialize;

use crate::base64;
use crate::output::{Failure, Output, counted, read_or_not, say};
use crate::progress::Progress;

/// Sequence numbers from here on mean that there is no upper end.
const SEQ_MAX: u64 = (1 << 56) - 1;

pub(crate) fn run(dir: &Path, output: &Output) -> Result<(), Failure> {
    let progress = Progress::of_bytes("read", Some(0));
    let report = aryavarth::verify(dir, &Options::default(), |done, all| progress.at(done, all));
    progress.end();
    let report = report.map_err(|error| match error {
        KvsError::Io(error) => Failure::Other(format!("{error}; nothing was changed")),
        error => error.into(),
    })?;
    read_or_not(print_damage(&report, output))?;
    read_or_not(output.summary(&Summary::of(&report)))?;
    let VerifyReport { segments, records, bytes, torn_bytes, .. } = report;
    say_read(segments, records, bytes);
    if torn_bytes > 0 {
        let torn = counted(torn_bytes, "byte", "bytes");
        say(format_args!("{torn} of a torn tail, which the next start will cut off"));
    }
    let dead = report.damage.iter().filter(|damage| damage.verdict == Verdict::Dead).count();
    match dead {
        0 => {}
        1 => say("1 damaged record is dead: its key has a newer one, and nothing is lost"),
        _ => say(format_args!(
            "{dead} damaged records are dead: their keys have newer ones, and nothing is lost"
        )),
    }
    if report.is_good() {
        return Ok(());
    }
    Err(Failure::Other(format!(
        "{} is damaged in {}; nothing was changed. Restore the files named above from a \
         backup, or save the whole records with `aryavarth salvage`",
        dir.display(),
        counted(report.losses(), "place", "places")
    )))
}

/// Says how much was read.
pub(crate) fn say_read(segments: u64, records: u64, bytes: u64) {
    let segments = counted(segments, "segment", "segments");
    let records = counted(records, "good record", "good records");
    say(format_args!("{segments}, {records}, {} read", counted(bytes, "byte", "bytes")));
}

/// The last line of the JSON output.
#[derive(Serialize)]
struct Summary {
    good: bool,
    segments: u64,
    records: u64,
    bytes: u64,
    torn_bytes: u64,
    damaged: u64,
}

impl Summary {
    fn of(report: &VerifyReport) -> Self {
        Summary {
            good: report.is_good(),
            segments: report.segments,
            records: report.records,
            bytes: report.bytes,
            torn_bytes: report.torn_bytes,
            damaged: report.damaged,
        }
    }
}

/// Prints all damage, one line each.
pub(crate) fn print_damage(report: &VerifyReport, output: &Output) -> Result<(), Failure> {
    for damage in &report.damage {
        output.line(&describe(damage), &DamageLine::of(damage))?;
    }
    let unlisted = report.damaged - report.damage.len() as u64;
    if unlisted > 0 {
        say(format_args!("and {}", counted(unlisted, "more damaged place", "more damaged places")));
    }
    Ok(())
}

fn describe(damage: &Damage) -> String {
    let Damage { path, offset, bytes, reason, .. } = damage;
    let mut line = vec![format!("{}: byte {offset}: {reason}", path.display())];
    if *bytes > 0 {
        line.push(counted(*bytes, "byte", "bytes"));
    }
    if let Some(key) = &damage.key {
        let likely = if damage.key_is_certain { "" } else { "likely " };
        line.push(format!("{likely}key {}", key.escape_ascii()));
    }
    if damage.removal == Some(true) {
        line.push("a removal".to_owned());
    }
    match damage.seqs.as_ref().map(|seqs| (*seqs.start(), *seqs.end())) {
        Some((first, last)) if first == last => line.push(format!("sequence number {first}")),
        Some((first, SEQ_MAX)) => line.push(format!("sequence numbers from {first}")),
        Some((first, last)) => line.push(format!("sequence numbers {first} to {last}")),
        None => {}
    }
    if damage.tears_batch {
        line.push("its batch is torn".to_owned());
    }
    match damage.verdict {
        Verdict::Dead => line.push("the record is dead, its key has a newer one".to_owned()),
        Verdict::Harmless => line.push("nothing is lost by it".to_owned()),
        _ => {}
    }
    line.join("; ")
}

#[derive(Serialize)]
struct DamageLine<'a> {
    path: String,
    offset: u64,
    bytes: u64,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_is_certain: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removal: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq_min: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq_max: Option<u64>,
    tears_batch: bool,
    harmless: bool,
    dead: bool,
}

impl<'a> DamageLine<'a> {
    fn of(damage: &'a Damage) -> Self {
        let bytes = damage.key.as_deref();
        let key = bytes.and_then(|key| std::str::from_utf8(key).ok());
        DamageLine {
            path: damage.path.display().to_string(),
            offset: damage.offset,
            bytes: damage.bytes,
            reason: &damage.reason,
            key,
            key_base64: if key.is_none() { bytes.map(base64::encode) } else { None },
            key_is_certain: bytes.map(|_| damage.key_is_certain),
            removal: damage.removal,
            seq_min: damage.seqs.as_ref().map(|seqs| *seqs.start()),
            seq_max: damage.seqs.as_ref().map(|seqs| *seqs.end()),
            tears_batch: damage.tears_batch,
            harmless: damage.verdict == Verdict::Harmless,
            dead: damage.verdict == Verdict::Dead,
        }
    }
}
