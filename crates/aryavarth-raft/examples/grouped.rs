//! Grouped appends of the Raft log beside a bare loop of append and sync, on the same disk: prints both
//! rates and their ratio. `cargo run --release -p aryavarth-raft --example grouped [DIR]`
#![allow(clippy::print_stdout, clippy::cast_precision_loss, reason = "it prints figures")]
#![allow(clippy::cast_possible_truncation, reason = "the figures are small")]

use std::error::Error;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use aryavarth::fs::{Fs, OpenHow, RealFs, Site, write_full};
use aryavarth_raft::{EntryKind, Identity, LogEntry, LogId, Node, RaftLogOptions};
use bytes::Bytes;

const ENTRY_BYTES: usize = 256;
/// Entries that one sync covers, as with so many clients.
const WAITING: [u64; 3] = [1, 16, 64];
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(700);
const FILE_BYTES: u64 = 64 << 20;
const SITE: Site = Site::RaftAppend;

/// Entries per second of a loop that appends `waiting` entries in one write and syncs them, in a file
/// allocated like the log's.
fn bare(path: &Path, waiting: u64) -> Result<f64, Box<dyn Error>> {
    let file = RealFs.open(SITE, path, OpenHow::CreateNew)?;
    file.allocate(SITE, FILE_BYTES)?;
    file.sync(SITE)?;
    let bytes = vec![7; waiting as usize * (ENTRY_BYTES + 32)];
    let (begun, mut entries, mut offset) = (Instant::now(), 0, 0);
    while begun.elapsed() < ROUND {
        write_full(&*file, SITE, &bytes, offset)?;
        file.sync(SITE)?;
        offset += bytes.len() as u64;
        entries += waiting;
    }
    Ok(entries as f64 / begun.elapsed().as_secs_f64())
}

/// Entries per second of the log, with `waiting` of them on their way.
fn grouped(dir: &Path, waiting: u64) -> Result<f64, Box<dyn Error>> {
    let options = RaftLogOptions::default();
    std::fs::create_dir_all(dir)?;
    Node::create(dir, &Identity::of_new_cluster("bench"), &options)?;
    let node = Node::open(dir, &options)?.ok_or("no node")?;
    let body = Bytes::from(vec![7; ENTRY_BYTES]);
    let (done, answers) = mpsc::channel();
    let (mut next, mut answered) = (0, 0);
    let begun = Instant::now();
    while begun.elapsed() < ROUND || answered < next {
        while next < answered + waiting && begun.elapsed() < ROUND {
            let count = answered + waiting - next;
            let id = |n| LogId { term: 1, index: next + n };
            let entry = |n| LogEntry { id: id(n), kind: EntryKind::Normal, body: body.clone() };
            let done = done.clone();
            let answer = move |result| drop(done.send((count, result)));
            node.log.append((0..count).map(entry).collect(), Box::new(answer))?;
            next += count;
        }
        let (count, result) = answers.recv()?;
        result?;
        answered += count;
    }
    Ok(answered as f64 / begun.elapsed().as_secs_f64())
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = match std::env::args_os().nth(1) {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    for waiting in WAITING {
        let (mut ratios, mut rates) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let bare = bare(&dir.path().join(format!("bare-{waiting}-{round}")), waiting)?;
            let log = grouped(&dir.path().join(format!("{waiting}-{round}")), waiting)?;
            ratios.push(log / bare);
            rates.push((log, bare));
        }
        ratios.sort_by(f64::total_cmp);
        rates.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (log, bare) = rates[ROUNDS / 2];
        println!(
            "{waiting:>3} waiting: {log:>8.0} entries/s, bare {bare:>8.0}, ratio {:.2} ({:.2} to {:.2})",
            ratios[ROUNDS / 2],
            ratios[0],
            ratios[ROUNDS - 1]
        );
    }
    Ok(())
}
