//! The salvage command: the whole records of a damaged directory, as a new store.
//!
//! As with verify, damage is data and goes to standard output, the account of the work to standard
//! error. The exit code is 0 only if nothing is lost; the new store has the saved records either way.

use std::path::Path;

use aryavarth::{Options, SalvageReport, Stale};
use serde::Serialize;

use crate::base64;
use crate::output::{Failure, Output, counted, read_or_not, say};
use crate::progress::Progress;
use crate::verify::{print_damage, say_read};

pub(crate) fn run(dir: &Path, out: &Path, output: &Output) -> Result<(), Failure> {
    let progress = Progress::of_bytes("read", Some(0));
    let report =
        aryavarth::salvage(dir, out, &Options::default(), |done, all| progress.at(done, all));
    progress.end();
    let report = report?;
    read_or_not(print_damage(&report.read, output))?;
    for stale in &report.stale {
        read_or_not(output.line(&describe(stale), &StaleLine::of(stale)))?;
    }
    let SalvageReport { read, keys, bytes, stale, doubtful, .. } = &report;
    say_read(read.segments, read.records, read.bytes);
    let (keys, bytes) = (counted(*keys, "key", "keys"), counted(*bytes, "byte", "bytes"));
    say(format_args!("{keys} saved in {}, {bytes}", out.display()));
    read_or_not(output.summary(&Summary::of(&report)))?;
    if read.torn_bytes > 0 {
        let left_out =
            counted(read.torn_bytes, "byte of a torn tail was", "bytes of a torn tail were");
        say(format_args!("{left_out} left out"));
    }
    if read.is_good() {
        return Ok(());
    }
    if !stale.is_empty() {
        let stale = counted(stale.len() as u64, "key has", "keys have");
        say(format_args!("{stale} an older value, as the newest is lost"));
    }
    if *doubtful > 0 {
        say(format_args!(
            "{} may be out of date: a newer record of an unknown key is lost",
            counted(*doubtful, "key", "keys")
        ));
    }
    if !report.manifest_is_whole {
        say(
            "the manifest is damaged: files may be missing that nothing names, and keys that were \
             removed may be back",
        );
    }
    Err(Failure::Other(format!(
        "{} is damaged in {}; nothing in it was changed. Its whole records are in {}, a \
         store that opens",
        dir.display(),
        counted(read.losses(), "place", "places"),
        out.display()
    )))
}

fn describe(stale: &Stale) -> String {
    let Stale { key, seq, lost_seq, .. } = stale;
    let key = key.escape_ascii();
    format!("key {key}: saved as of sequence number {seq}; the newest, {lost_seq}, is lost")
}

#[derive(Serialize)]
struct StaleLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    stale: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stale_base64: Option<String>,
    seq: u64,
    lost_seq: u64,
}

impl<'a> StaleLine<'a> {
    fn of(stale: &'a Stale) -> Self {
        let key = std::str::from_utf8(&stale.key).ok();
        let stale_base64 = if key.is_none() { Some(base64::encode(&stale.key)) } else { None };
        StaleLine { stale: key, stale_base64, seq: stale.seq, lost_seq: stale.lost_seq }
    }
}

/// The last line of the JSON output.
#[derive(Serialize)]
struct Summary {
    saved_keys: u64,
    saved_bytes: u64,
    stale_keys: u64,
    doubtful_keys: u64,
    doubtful_seq_max: u64,
    damaged: u64,
    torn_bytes: u64,
    manifest_is_whole: bool,
}

impl Summary {
    fn of(report: &SalvageReport) -> Self {
        Summary {
            saved_keys: report.keys,
            saved_bytes: report.bytes,
            stale_keys: report.stale.len() as u64,
            doubtful_keys: report.doubtful,
            doubtful_seq_max: report.doubtful_seq_max,
            damaged: report.read.damaged,
            torn_bytes: report.read.torn_bytes,
            manifest_is_whole: report.manifest_is_whole,
        }
    }
}
