//! Scrub: reading everything to see whether it is still as it was written.
//!
//! [`verify`] works on a directory that no process has open. It changes nothing, goes on behind
//! every damaged place, and names each: file, offset, sequence numbers and, where they can still be
//! read, keys. A running store reads its own sealed segments in the background (online.rs). What is
//! read and in which order is the survey's business (survey.rs), which salvage shares; how a
//! damaged place is described, the hole's (hole.rs); which damaged records no key needs, that of
//! dead.rs; which places a running store remembers over a restart, that of the note (note.rs).
//!
//! Invariants:
//! - Nothing is written here but the note of a running store.
//! - Memory is bounded by a window of the log and the hints of damaged segments.

mod dead;
mod hole;
mod note;
mod online;
mod reading;
mod survey;

use std::path::Path;

use crate::damage::Damage;
use crate::error::Result;
use crate::options::Options;
use crate::sync::{Apart, Mutex, Rank, lock};

pub(crate) use online::Scrubber;
pub(crate) use survey::{Survey, Visitor};

/// The most damaged places that a report lists one by one.
const DAMAGE_LISTED_MAX: usize = 100_000;

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
