//! Scrub: reading everything to see whether it is still as it was written.
//!
//! [`verify`] works on a directory that no process has open. It changes nothing, goes on behind
//! every damaged place, and names each: file, offset, sequence numbers and, where they can still be
//! read, keys. A running store reads its own sealed segments in the background (online.rs). What is
//! read and in which order is the survey's business (survey.rs), which salvage shares; how a
//! damaged place is described, the hole's (hole.rs); which damaged records no key needs, that of
//! dead.rs.
//!
//! Invariants:
//! - Nothing is written here, and nothing is created.
//! - Memory is bounded by a window of the log and the hints of damaged segments.

mod dead;
mod hole;
mod online;
mod reading;
mod survey;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::index::{TABLE_GENERATION, table_record_name};
use crate::options::Options;
use crate::sync::{Apart, Mutex, Rank, lock};

pub(crate) use online::Scrubber;
pub(crate) use survey::{Survey, Visitor};

/// The most damaged places that a report lists one by one.
const DAMAGE_LISTED_MAX: usize = 100_000;

/// The cost of a damaged place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Data is lost by it, for all that is known.
    Loss,
    /// The damaged record is known to be dead: its key has a newer record, which is whole. No data
    /// is lost, and compaction takes the record away.
    Dead,
    /// A hint file is damaged, which is made again from its segment.
    Harmless,
}

/// A place that differs from the bytes that the store wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The damaged file.
    pub path: PathBuf,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How many bytes are damaged; 0 if that is not known, or if the file is missing.
    pub bytes: u64,
    /// The reason.
    pub reason: String,
    /// The key of the damaged record, where it can still be read.
    pub key: Option<Vec<u8>>,
    /// The generation that the key belongs to: the number of its space, unless that was ever emptied
    /// or swapped; see docs/format.md.
    pub generation: u64,
    /// Whether a checksum vouches for the key. Else it is the rest of it in the damaged record.
    pub key_is_certain: bool,
    /// Whether the damaged record was a removal, where that is known.
    pub removal: Option<bool>,
    /// The sequence numbers of the lost records: those of the record where it can still be read, or
    /// else those between its neighbours. `None` if no record was lost.
    pub seqs: Option<RangeInclusive<u64>>,
    /// Whether other records of the same batch are whole, so that the batch is torn.
    pub tears_batch: bool,
    /// The cost of the damage.
    pub verdict: Verdict,
}

impl Damage {
    pub(crate) fn new(path: &Path, offset: u64, reason: impl Into<String>) -> Damage {
        Damage {
            path: path.to_owned(),
            offset,
            bytes: 0,
            reason: reason.into(),
            key: None,
            generation: 0,
            key_is_certain: false,
            removal: None,
            seqs: None,
            tears_batch: false,
            verdict: Verdict::Loss,
        }
    }

    /// The same, with the space in its reason if a space's own record is damaged.
    fn naming_its_space(mut self) -> Damage {
        if let (TABLE_GENERATION, Some(key)) = (self.generation, &self.key) {
            self.reason = format!("{} ({})", self.reason, table_record_name(key));
        }
        self
    }

    /// Whether data is lost by it, for all that is known.
    pub fn is_loss(&self) -> bool {
        self.verdict == Verdict::Loss
    }
}

/// The findings of reading everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Segments read.
    pub segments: u64,
    /// Good records in them.
    pub records: u64,
    /// Bytes of the segments.
    pub bytes: u64,
    /// Everything that is damaged, in the order in which it was met: the first 100,000 places.
    pub damage: Vec<Damage>,
    /// Damaged places in all.
    pub damaged: u64,
    /// Bytes of a torn tail, which the next open will cut off.
    pub torn_bytes: u64,
}

impl VerifyReport {
    /// Whether nothing is lost: there is no damage but to files that are made again and to dead
    /// records.
    pub fn is_good(&self) -> bool {
        self.losses() == 0
    }

    /// Damaged places by which data is lost.
    pub fn losses(&self) -> u64 {
        let no_loss = self.damage.iter().filter(|damage| !damage.is_loss()).count();
        self.damaged - no_loss as u64
    }

    pub(crate) fn push(&mut self, damage: Damage) {
        self.damaged += 1;
        if self.damage.len() < DAMAGE_LISTED_MAX {
            self.damage.push(damage);
        }
    }

    /// Adds the findings in another file.
    fn add(&mut self, other: VerifyReport) {
        self.records += other.records;
        self.bytes += other.bytes;
        let unlisted = other.damaged - other.damage.len() as u64;
        other.damage.into_iter().for_each(|damage| self.push(damage));
        self.damaged += unlisted;
    }
}

/// Reads every record of the store in `dir` and reports all damage. Nothing is changed.
///
/// `progress` is called with the bytes read so far and the bytes in all. Where the manifest is
/// damaged, its remains and the segments' own headers say which files there are to read.
///
/// # Errors
/// [`KvsError::Locked`](crate::KvsError::Locked) if a process has the store open,
/// [`KvsError::NotOurs`](crate::KvsError::NotOurs) if there is nothing of a store,
/// [`KvsError::WrongEngine`](crate::KvsError::WrongEngine) and
/// [`KvsError::UnknownFormat`](crate::KvsError::UnknownFormat).
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// use aryavarth::{KvStore, Options, verify};
///
/// let store = KvStore::open(dir)?;
/// store.put(b"k", b"v")?;
/// store.close()?;
/// let report = verify(dir, &Options::default(), |_done, _all| {})?;
/// assert!(report.is_good());
/// assert_eq!(report.records, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn verify(
    dir: impl AsRef<Path>,
    options: &Options,
    progress: impl FnMut(u64, u64) + Send,
) -> Result<VerifyReport> {
    /// Records pass it by; it only tells how far the reading is.
    struct Progress<F>(Mutex<F>);

    impl<F: FnMut(u64, u64) + Send> Visitor for Progress<F> {
        fn progress(&self, done: u64, all: u64) {
            let mut progress = lock(&self.0);
            let _apart = Apart::begin();
            progress(done, all);
        }
    }

    let mut survey = Survey::open(&*options.fs, dir.as_ref())?;
    survey.read(threads(options), &Progress(Mutex::new(Rank::Progress, progress)));
    Ok(survey.report)
}

/// How many files are read at a time. Two keep a disk busy while checksums are computed; more would
/// only make it seek. One for runs that are to be repeated.
pub(crate) fn threads(options: &Options) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if options.background { cores.min(2) } else { 1 }
}
