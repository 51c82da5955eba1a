//! The part of the index that only the writer touches: entries that are free, the next generation's
//! number, and the deadlines of all keys in order.

use super::deadlines::Deadlines;
use super::entry::EntryId;

/// The part of the index that only the writer changes.
#[derive(Debug, Default)]
pub(crate) struct IndexWriter {
    pub(super) free: Vec<EntryId>,
    pub(crate) deadlines: Deadlines,
    /// The number of the next new generation.
    pub(crate) next_generation: u64,
}
