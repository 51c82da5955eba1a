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
//! - A mapping is used only once all of it was in memory; what was not may take the disk a fault per page.

use super::Segment;
use crate::deadline::Deadline;
use crate::engine::{Stored, Wait};
use crate::fs::FsMap;
use crate::record::Kind;
use crate::sync::{AtomicU32, AtomicU64, OnceLock, Ordering};

/// Records up to this are copied to the stack first, and only their value goes on from there.
const SMALL_BYTES: usize = 512;
/// Larger records are read by calls: beside copy and checksum a call is cheap, and one that waits for the
/// disk asks for all of the record at once.
const MAPPED_BYTES_MAX: usize = 64 << 10;
/// The same for reads that must not wait: pages that the system took back are waited for one by one.
const MAPPED_NOW_BYTES_MAX: usize = 16 << 10;
/// Bytes that one step of populating brings into memory.
const POPULATE_BYTES: u64 = 1 << 20;

/// Reads make calls of the system; the mapping is being populated, and they still do; they use it.
const OFF: u32 = 0;
const POPULATING: u32 = 1;
const READY: u32 = 2;

/// A segment's mapping, and whether reads use it.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    /// Made once, and kept as long as the segment.
    map: OnceLock<Box<dyn FsMap>>,
    state: AtomicU32,
    /// Bytes that were brought into memory.
    populated: AtomicU64,
}

impl Mapped {
    fn in_state(&self, state: u32) -> Option<&dyn FsMap> {
        if self.state.load(Ordering::Relaxed) == state {
            self.map.get().map(|map| &**map)
        } else {
            None
        }
    }
}

impl Segment {
    /// Lets reads use a mapping of the first `bytes` of the file, which is made unless there is one: at once
    /// if the file `is_fresh`, written a moment ago and so in memory, or else when it was populated. Returns
    /// whether it has to be.
    pub(crate) fn map(&self, bytes: u64, is_fresh: bool) -> bool {
        if self.mapped.state.load(Ordering::Relaxed) != OFF {
            return false;
        }
        if self.mapped.map.get().is_none() {
            let Some(map) = self.file.map(bytes) else {
                return false;
            };
            // Where another thread was faster, its mapping stays.
            drop(self.mapped.map.set(map));
        }
        self.mapped.populated.store(0, Ordering::Relaxed);
        self.mapped.state.store(if is_fresh { READY } else { POPULATING }, Ordering::Relaxed);
        !is_fresh
    }

    /// Lets reads make calls of the system again. The mapping stays: a reader may be in it.
    pub(crate) fn stop_mapped_reads(&self) {
        self.mapped.state.store(OFF, Ordering::Relaxed);
    }

    /// Brings the next piece of a mapping that waits for it into memory; returns whether it did. Waits
    /// for the disk. Where that fails, reads go on to make calls.
    pub(crate) fn populate(&self) -> bool {
        let from = self.mapped.populated.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Acquire);
        let Some(map) = self.mapped.in_state(POPULATING).filter(|_| from < end) else {
            return false;
        };
        let bytes = POPULATE_BYTES.min(end - from);
        if !map.populate(from, bytes) {
            self.mapped.populated.store(u64::MAX, Ordering::Relaxed);
            return false;
        }
        self.mapped.populated.store(from + bytes, Ordering::Relaxed);
        if from + bytes == end {
            let relaxed = Ordering::Relaxed;
            // Reads may have been stopped meanwhile.
            let _ = self.mapped.state.compare_exchange(POPULATING, READY, relaxed, relaxed);
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
        let map = self.mapped.in_state(READY)?;
        let longest = if wait == Wait::Yes { MAPPED_BYTES_MAX } else { MAPPED_NOW_BYTES_MAX };
        let end = self.end.load(Ordering::Acquire);
        if length > longest || offset.checked_add(length as u64)? > end {
            return None;
        }
        if length > SMALL_BYTES {
            let mut bytes = vec![0; length];
            let is_copied = map.copy(offset, &mut bytes);
            return is_copied.then(|| self.value_in(bytes, offset, generation, key).ok())?;
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::error::KvsError;
    use crate::fs::{Fs, OpenHow, SimFs, Site};
    use crate::segment::{SegmentHeader, SegmentKind};
    use crate::sync::Arc;

    /// The simulated disk panics where a mapping is read beyond the end of its file.
    #[test]
    fn a_pointer_that_leads_behind_the_end_touches_no_page() {
        let fs = SimFs::new();
        fs.map_files(|_, _| {});
        let path = Path::new("/1.log");
        let file = fs.open(Site::SegmentCreate, path, OpenHow::CreateNew).unwrap();
        file.truncate(Site::SegmentFill, 4096).unwrap();
        let header = SegmentHeader {
            kind: SegmentKind::Log,
            id: 1,
            salt: 7,
            base: 0,
            created_ms: 0,
            store_id: 1,
        };
        let segment = Segment::new(0, &header, false, Arc::clone(&file));
        segment.end.store(4096, Ordering::Relaxed);
        assert!(!segment.map(1 << 20, true));
        let read = |offset, length, wait| segment.read_value(offset, length, 0, b"k", wait);
        for wait in [Wait::Yes, Wait::No] {
            for (offset, length) in [(4000, 200), (3000, 2000), (4096, 64), (1 << 40, 64)] {
                let copies = fs.mapped_copies();
                let error = read(offset, length, wait).unwrap_err();
                assert!(
                    matches!(error, KvsError::Corrupt { .. } | KvsError::WouldBlock),
                    "{error}"
                );
                assert_eq!(fs.mapped_copies(), copies, "{length} bytes at {offset}");
            }
            let copies = fs.mapped_copies();
            drop(read(4000, 96, wait));
            assert_eq!(fs.mapped_copies(), copies + 1, "up to the end it is mapped");
        }
    }
}
