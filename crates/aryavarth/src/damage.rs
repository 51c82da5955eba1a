//! `Damage`: a place in a store's files that is not as it was written, and its cost.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// The file in a data directory that remembers damage over a restart.
pub(crate) const NOTE: &str = "DAMAGE";

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
    /// The space that has the generation now; `None` if none has, and in reports
    /// of a directory that is not open.
    pub space: Option<u32>,
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
    /// When a running store first saw it, in milliseconds since 1970; 0 in other reports.
    pub first_seen_ms: u64,
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
            space: None,
            key_is_certain: false,
            removal: None,
            seqs: None,
            tears_batch: false,
            verdict: Verdict::Loss,
            first_seen_ms: 0,
        }
    }

    /// Whether data is lost by it, for all that is known.
    pub fn is_loss(&self) -> bool {
        self.verdict == Verdict::Loss
    }
}
