//! Which segments are mapped: the newest, within a budget of memory.
//!
//! ```text
//!   newest                                                oldest
//!   | active | sealed | copy | sealed |   budget   | sealed | sealed |
//!     reads copy from the mapping                    reads make calls of the system
//! ```
//!
//! A segment is mapped when it comes into the table, once, and stays so until its file is closed;
//! a segment that falls out of the budget only stops to use its mapping, so no reader waits for that and none
//! touches memory that went away. Mapped pages belong to the system's cache and are no memory of the
//! process's own: `RssFile`, not `RssAnon`.
//!
//! Invariants:
//! - No file is mapped before recovery has cut what it cuts, or under the writer's lock.
//! - A file is never made shorter than the end of its records (seal.rs, room.rs), mapped or not.

use std::cmp::Reverse;

use super::Log;
use crate::options::Options;
use crate::segment::Segment;
use crate::sync::{Arc, Ordering};

/// Segments that are mapped at most: the system limits the mappings of a process, those of its allocator
/// included.
const SEGMENTS_MAX: usize = 8192;

/// The limits of what is mapped.
#[derive(Debug)]
pub(super) struct Maps {
    budget: u64,
    /// Files from this number on were written by this process.
    own_from: u64,
}

impl Maps {
    pub(super) fn new(options: &Options, own_from: u64) -> Maps {
        let possible = if options.map_bytes_max == 0 { 0 } else { options.fs.mappable_bytes() };
        Maps { budget: options.map_bytes_max.min(possible), own_from }
    }
}

impl Log {
    /// Maps the newest segments, as far as the budget goes, and lets the others be read by calls.
    pub(crate) fn map_segments(&self) {
        if self.maps.budget == 0 {
            return;
        }
        let mut left = self.maps.budget;
        for (nth, segment) in self.newest_first().iter().enumerate() {
            let bytes = segment.disk_bytes.load(Ordering::Relaxed);
            if nth < SEGMENTS_MAX && bytes <= left {
                left -= bytes;
                segment.map(self.map_bytes(segment), segment.id >= self.maps.own_from);
            } else {
                left = 0;
                segment.stop_mapped_reads();
            }
        }
    }

    fn newest_first(&self) -> Vec<Arc<Segment>> {
        let mut segments = self.table.all();
        segments.sort_unstable_by_key(|segment| Reverse(segment.id));
        segments
    }

    /// How much of a segment's file is mapped: all of its records, those to come included.
    fn map_bytes(&self, segment: &Segment) -> u64 {
        let end = segment.end.load(Ordering::Acquire);
        if segment.is_settled() {
            return end;
        }
        self.segment_limit().max(segment.disk_bytes.load(Ordering::Relaxed)).max(end)
    }

    /// Brings a piece of a mapped file into memory, so that reads that must not wait can use it; returns
    /// whether there was one.
    pub(super) fn populate_some(&self) -> bool {
        self.maps.budget > 0 && self.newest_first().iter().any(|segment| segment.populate())
    }
}
