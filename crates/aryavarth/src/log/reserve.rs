//! Reserves: space that is held in files, to be given up when the disk is full.
//!
//! `reserve` is given up for removals and compaction, which give space back in the end; once there is
//! space again it is made anew and writes resume. `reserve.open` is kept for the next open, which needs
//! a new manifest however full the disk is; nothing else gets it.
//!
//! Invariants:
//! - Nothing is made ahead while a compaction works from the space of the reserve.
//! - A reserve outlives the process; an open takes over those that it did not need.
//! - A reserve of five eighths of the wanted size is enough where there is no space for more:
//!   writes resume with it.
//! - A larger reserve is there before the smaller one goes; where it does not fit, the smaller one stays.

use std::time::Instant;

use super::Log;
use crate::error::Result;
use crate::fs::{IoError, OpenHow, Site};
use crate::segment::blocks;
use crate::sync::{Ordering, lock};

const RESERVE_BYTES_MIN: u64 = 128 << 10;
/// The reserve for removals and compaction, and the one for the next open.
pub(crate) const RESERVES: [&str; 2] = ["reserve", "reserve.open"];
/// A larger reserve, until it takes the place of the smaller one.
pub(crate) const RESERVE_NEXT: &str = "reserve.next";
/// Beside a manifest an open needs a `CURRENT` and perhaps a small copy.
const OPEN_BYTES: u64 = 32 << 10;

/// State behind the space lock: sizes of the reserves, loan, last retry.
#[derive(Debug, Default)]
pub(super) struct Growth {
    /// Bytes of the reserve file; 0 when there is none.
    pub(super) reserve_bytes: u64,
    /// The same for the reserve of the next open.
    pub(super) open_bytes: u64,
    /// Whether a compaction works from the space of the reserve.
    pub(super) is_lent: bool,
    pub(super) tried: Option<Instant>,
}

impl Growth {
    /// The reserves that an open found.
    pub(super) fn of([reserve_bytes, open_bytes]: [u64; 2]) -> Growth {
        Growth { reserve_bytes, open_bytes, ..Growth::default() }
    }
}

impl Log {
    /// Sees to it that the reserves exist: one about as large as a segment, so that on a full disk
    /// the live part of one can be copied and the whole of it freed (see `docs/decisions/0009`), and
    /// before it the one that lets the next open succeed.
    pub(super) fn hold_reserve(&self, growth: &mut Growth) -> Result<bool> {
        let [reserve, of_open] = RESERVES;
        let manifest_bytes = lock(&self.manifest).disk_bytes();
        let mut done = false;
        if growth.open_bytes < manifest_bytes + OPEN_BYTES {
            // Twice as much, so that it is made anew only for a manifest that has grown much.
            let bytes = blocks(2 * manifest_bytes + OPEN_BYTES);
            growth.open_bytes = self.make_reserve(of_open, growth.open_bytes, [bytes; 2])?;
            self.note_reserves(growth);
            done = growth.open_bytes > 0 && !self.is_full();
        }
        let live = self.live_bytes.load(Ordering::Relaxed).max(0) as u64;
        let bytes = blocks((live / 4).min(self.segment_limit()).max(RESERVE_BYTES_MIN));
        if self.is_full() || (bytes / 2..=bytes * 2).contains(&growth.reserve_bytes) {
            return Ok(done);
        }
        // The live half of a segment, and its hint, fit into five eighths.
        let least_bytes = blocks(bytes / 8 * 5).clamp(RESERVE_BYTES_MIN, bytes);
        growth.reserve_bytes =
            self.make_reserve(reserve, growth.reserve_bytes, [bytes, least_bytes])?;
        self.note_reserves(growth);
        Ok(done || (growth.reserve_bytes > 0 && !self.is_full()))
    }

    /// Leaves the sizes of the reserves where figures find them without a lock.
    fn note_reserves(&self, growth: &Growth) {
        self.sizes.reserves.store(growth.reserve_bytes + growth.open_bytes, Ordering::Relaxed);
    }

    /// Makes a reserve in place of one of another size; returns the size that there is afterwards.
    /// Where there is none of the least size and the disk has no space for all of it, that is tried.
    fn make_reserve(
        &self,
        name: &str,
        old_bytes: u64,
        [bytes, least_bytes]: [u64; 2],
    ) -> Result<u64> {
        let fs = &*self.options.fs;
        let is_larger = old_bytes > 0 && bytes > old_bytes;
        if old_bytes > bytes {
            // The space of the old one is enough for the new one.
            self.remove_reserve(name);
        }
        let made = if is_larger { RESERVE_NEXT } else { name };
        let path = self.dir.join(made);
        let make = |bytes: u64| {
            let file = fs.open(Site::ReserveCreate, &path, OpenHow::CreateNew)?;
            file.allocate(Site::ReserveAllocate, bytes)?;
            // Its name is synced with that of the next segment.
            file.sync(Site::ReserveSync)?;
            if is_larger {
                fs.rename(Site::ReserveRename, &path, &self.dir.join(name))?;
            }
            Ok(bytes)
        };
        let mut done = make(bytes);
        if old_bytes < least_bytes
            && least_bytes < bytes
            && done.as_ref().is_err_and(IoError::is_no_space)
        {
            self.remove_reserve(made);
            done = make(least_bytes);
        }
        match done {
            Ok(bytes) => Ok(bytes),
            Err(error) => {
                // The part that was made is removed as well.
                self.remove_reserve(made);
                let kept_bytes = if is_larger { old_bytes } else { 0 };
                self.or_full(Err(self.refused_file(error))).map(|_| kept_bytes)
            }
        }
    }

    /// Frees the reserve's space; returns whether there was any.
    pub(super) fn give_up_reserve(&self, growth: &mut Growth) -> bool {
        if growth.reserve_bytes == 0 {
            return false;
        }
        growth.reserve_bytes = 0;
        self.note_reserves(growth);
        self.remove_reserve(RESERVES[0])
    }

    fn remove_reserve(&self, name: &str) -> bool {
        self.options.fs.remove(Site::ReserveRemove, &self.dir.join(name)).is_ok()
    }

    /// Frees the reserve for a compaction that found no space; returns whether there was any.
    /// Nothing is made ahead until the compaction ends the loan.
    pub(crate) fn lend_reserve(&self) -> bool {
        let mut growth = lock(&self.growth);
        growth.is_lent = self.give_up_reserve(&mut growth);
        growth.is_lent
    }

    pub(crate) fn end_loan(&self) {
        lock(&self.growth).is_lent = false;
    }
}
