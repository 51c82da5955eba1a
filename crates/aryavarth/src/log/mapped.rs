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
use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering};

/// The limits of what is mapped, and the work that is left.
#[derive(Debug)]
pub(super) struct Maps {
    budget: u64,
    /// The changes of the table that were looked at.
    seen: AtomicU64,
    /// Whether a mapping may have to be populated.
    waits: AtomicBool,
}

impl Maps {
    pub(super) fn new(options: &Options) -> Maps {
        let possible = if options.map_bytes_max == 0 { 0 } else { options.fs.mappable_bytes() };
        Maps {
            budget: options.map_bytes_max.min(possible),
            seen: AtomicU64::new(u64::MAX),
            waits: AtomicBool::new(false),
        }
    }
}

impl Log {
    /// Maps the newest segments, as far as the budget goes, and lets the others be read by calls, if any
    /// came or went. The active one and the `fresh` ones were written a moment ago.
    pub(crate) fn map_segments(&self, fresh: &[u64]) {
        if self.maps.budget == 0 {
            return;
        }
        let changes = self.table.changes();
        if self.maps.seen.swap(changes, Ordering::Relaxed) == changes {
            return;
        }
        let active = self.lock_writer().active.as_ref().map(|active| active.id);
        let mut left = self.maps.budget;
        for segment in self.newest_first() {
            let bytes = segment.disk_bytes.load(Ordering::Relaxed);
            if bytes > left {
                left = 0;
                segment.stop_mapped_reads();
                continue;
            }
            left -= bytes;
            let is_fresh = active == Some(segment.id) || fresh.contains(&segment.id);
            if segment.map(self.map_bytes(&segment), is_fresh) {
                self.maps.waits.store(true, Ordering::Relaxed);
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

    /// Brings a piece of a mapped file into memory, so that reads can use it; returns whether there was
    /// one. A store without threads does all of it, so that its steps do the same work mapped or not.
    pub(super) fn populate_mapped(&self) -> bool {
        if !self.maps.waits.swap(false, Ordering::Relaxed) {
            return false;
        }
        let segments = self.newest_first();
        if !self.options.background {
            for segment in &segments {
                while segment.populate() {}
            }
            return false;
        }
        let has_more = segments.iter().any(|segment| segment.populate());
        self.maps.waits.fetch_or(has_more, Ordering::Relaxed);
        has_more
    }
}
