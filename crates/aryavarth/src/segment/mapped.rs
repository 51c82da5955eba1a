//! Reads of a segment through its mapping: one copy, verified, and no system call.
//!
//! ```text
//!   0          record                 end              capacity       length of the mapping
//!   |H . . . . [offset, length) . . . |. . . . . . . . |              |
//!              copied, then checked    never read       not in the file
//! ```
//!
//! A mapping may be longer than its file: the active segment's is made once for all that the file may
//! grow to. The file is never made shorter than `end`, so every byte below `end` has a page behind it.
//!
//! Invariants:
//! - Bytes are copied only below `end`, loaded after the slot: the write that put them there has returned,
//!   and no writer changes them any more.
//! - Checksum, key and generation are compared on the copy, and the mapping is not looked at again.
//! - A copy that does not hold is no answer: the same bytes are read again by a call of the system.
//!   So a mapping never turns a good record into an error, nor hides the reason of one.

use super::Segment;
use crate::deadline::Deadline;
use crate::engine::{Stored, Wait};
use crate::fs::FsMap;
use crate::record::Kind;
use crate::sync::{AtomicU32, AtomicU64, OnceLock, Ordering};

/// Records up to this are copied to the stack first, and only their value goes on from there.
const SMALL_BYTES: usize = 512;
/// Bytes that one step of populating brings into memory.
const POPULATE_BYTES: u64 = 4 << 20;

/// Reads make calls of the system; reads that may wait go through the mapping; all reads do.
const OFF: u32 = 0;
const WAITING: u32 = 1;
const READY: u32 = 2;

/// A segment's mapping, and the reads that use it.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    /// Made once, and kept as long as the segment.
    map: OnceLock<Option<Box<dyn FsMap>>>,
    state: AtomicU32,
    /// Bytes that were brought into memory.
    populated: AtomicU64,
}

impl Mapped {
    /// The mapping, if a read that may or may not wait uses it.
    fn usable(&self, wait: Wait) -> Option<&dyn FsMap> {
        let needed = if wait == Wait::Yes { WAITING } else { READY };
        if self.state.load(Ordering::Relaxed) < needed {
            return None;
        }
        self.map.get()?.as_deref()
    }
}

impl Segment {
    /// Lets reads use a mapping of the first `bytes` of the file, which is made unless there is one. Of a
    /// file that was written by this process all is in memory; any other is populated first.
    pub(crate) fn map(&self, bytes: u64, is_written_here: bool) {
        if self.mapped.state.load(Ordering::Relaxed) != OFF {
            return;
        }
        let is_new = self.mapped.map.get().is_none();
        if self.mapped.map.get_or_init(|| self.file.map(bytes)).is_some() {
            let is_ready = is_new && is_written_here;
            self.mapped.populated.store(if is_ready { u64::MAX } else { 0 }, Ordering::Relaxed);
            self.mapped.state.store(if is_ready { READY } else { WAITING }, Ordering::Relaxed);
        }
    }

    /// Lets reads make calls of the system again. The mapping stays: a reader may be in it.
    pub(crate) fn stop_mapped_reads(&self) {
        self.mapped.state.store(OFF, Ordering::Relaxed);
    }

    /// Brings the next piece of a mapping that waits for it into memory; returns whether it did. Waits
    /// for the disk. Where that fails, only reads that may wait go on to use the mapping.
    pub(crate) fn populate(&self) -> bool {
        let from = self.mapped.populated.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Acquire);
        let Some(map) = self.mapped.usable(Wait::Yes).filter(|_| from < end) else {
            return false;
        };
        let bytes = POPULATE_BYTES.min(end - from);
        if !map.populate(from, bytes) {
            self.mapped.populated.store(u64::MAX, Ordering::Relaxed);
            return false;
        }
        self.mapped.populated.store(from + bytes, Ordering::Relaxed);
        if from + bytes == end {
            let (waiting, ready) = (WAITING, READY);
            // Reads may have been stopped meanwhile.
            let relaxed = Ordering::Relaxed;
            let _ = self.mapped.state.compare_exchange(waiting, ready, relaxed, relaxed);
        }
        true
    }

    /// The value of the record at `offset`, as [`read_value`](Self::read_value) reads it, from the
    /// mapping; `None` if that has no verified copy of it.
    pub(super) fn read_mapped(
        &self,
        offset: u64,
        length: usize,
        generation: u64,
        key: &[u8],
        wait: Wait,
    ) -> Option<Stored> {
        let map = self.mapped.usable(wait)?;
        // The length of a large record is rounded up, and may reach beyond the end.
        let left = self.end.load(Ordering::Acquire).checked_sub(offset)?;
        let length = length.min(usize::try_from(left).unwrap_or(usize::MAX));
        if length > SMALL_BYTES {
            let mut bytes = vec![0; length];
            return map
                .copy(offset, &mut bytes)
                .then(|| self.value_in(bytes, offset, generation, key).ok())?;
        }
        let mut room = [0; SMALL_BYTES];
        let bytes = &mut room[..length];
        if !map.copy(offset, bytes) {
            return None;
        }
        let (header, parts) = self.verified(bytes, offset).ok()?;
        let is_it = header.kind == Kind::Put && parts.key == key;
        let deadline = Deadline::of(parts.extra.expires_at);
        let stored = Stored { value: parts.value.to_vec(), deadline };
        (is_it && parts.extra.generation == generation).then_some(stored)
    }
}
