//! Sealing: a segment that takes no more appends is synced, measured, entered in the manifest and cut.
//!
//! Invariants:
//! - The seal is in the manifest before the file is cut to its end.
//! - One thread at a time seals.

use super::Log;
use crate::error::{KvsError, Result};
use crate::fs::Site;
use crate::hint;
use crate::manifest::{Edit, Seal};
use crate::segment::{ScanStop, Segment, blocks};
use crate::sync::{Arc, Ordering, lock};

/// An active segment smaller than this is left alone at rest.
const ACTIVE_DEAD_BYTES_MIN: u64 = 1 << 20;

impl Log {
    /// Ends the active segment, whatever its size, and seals it.
    pub(crate) fn seal_active(&self) -> Result<()> {
        self.retire_active(&mut self.lock_writer());
        self.seal_rotated()?;
        Ok(())
    }

    /// Ends and seals the active segment if it is large and mostly dead: without writes it would
    /// stay as it is, whatever it was allocated for.
    pub(crate) fn seal_mostly_dead(&self) -> Result<()> {
        let mut writer = self.lock_writer();
        if let Some(active) = &writer.active {
            let disk_bytes = active.disk_bytes.load(Ordering::Relaxed);
            let live_bytes = active.live_bytes.load(Ordering::Relaxed).max(0) as u64;
            if disk_bytes >= ACTIVE_DEAD_BYTES_MIN && live_bytes < disk_bytes / 2 {
                self.retire_active(&mut writer);
            }
        }
        drop(writer);
        self.seal_rotated()?;
        Ok(())
    }

    /// Seals the segments that take no more appends: sync, hint, manifest, cut.
    pub(super) fn seal_rotated(&self) -> Result<bool> {
        // One at a time, in order, and only one thread of them.
        let _one = lock(&self.sealing);
        let rotated = std::mem::take(&mut self.lock_writer().sealing);
        let any = !rotated.is_empty();
        for (i, segment) in rotated.iter().enumerate() {
            if let Err(error) = self.seal(segment) {
                let mut writer = self.lock_writer();
                writer.sealing.splice(0..0, rotated[i..].iter().cloned());
                return Err(error);
            }
        }
        Ok(any)
    }

    fn seal(&self, segment: &Arc<Segment>) -> Result<()> {
        if segment.seq_max.load(Ordering::Relaxed) == 0 {
            return self.drop_unwritten(segment);
        }
        let end = segment.end.load(Ordering::Acquire);
        let position = crate::engine::Position(segment.base() + end);
        self.watermarks.wait(position, crate::options::Durability::Always)?;
        self.watermarks.end_segment(segment);
        let places = hint::scan(segment, end).map_err(|stop| match stop {
            ScanStop::Bad { offset, reason } => {
                KvsError::corrupt(segment.file.path(), offset, reason)
            }
            ScanStop::Io(error) => error.into(),
        })?;
        // A hint that cannot be written costs time at the next open, nothing else.
        let hint = hint::write(&*self.options.fs, &self.dir, segment, &places).unwrap_or(0);
        let seal = Seal {
            base: segment.base(),
            end,
            seq_min: segment.seq_min.load(Ordering::Relaxed),
            seq_max: segment.seq_max.load(Ordering::Relaxed),
            records: places.len() as u64,
            purged_seq: 0,
        };
        // The clocks of its marks are remembered too, since no open reads these any more.
        let clock = Edit::Clock(self.clock_pair());
        self.edit_manifest(&[Edit::Seal { id: segment.id, seal }, clock])?;
        // It is sealed; where the cut fails the next open makes it.
        let cut = segment.file.truncate(Site::SegmentTruncate, end);
        if let Ok(bytes) = cut.and_then(|()| segment.file.allocated(Site::SpaceMeasure)) {
            segment.disk_bytes.store(bytes + blocks(hint), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Gives up a segment of which not even the first frame was written, for want of space: there
    /// is no header that a seal could vouch for, and no slot ever named it.
    fn drop_unwritten(&self, segment: &Arc<Segment>) -> Result<()> {
        self.edit_manifest(&[Edit::Drop { id: segment.id }])?;
        self.watermarks.end_segment(segment);
        self.table.remove(segment.table_index);
        self.table.release(segment.table_index);
        self.remove_spare(segment.id);
        Ok(())
    }

    /// Closes the log: everything synced and sealed, and the manifest says so.
    ///
    /// Operations of other handles may still run. Those that come too late are refused: appends
    /// here, edits of the manifest once it says that the store was closed.
    pub(crate) fn close(&self) -> Result<()> {
        self.lock_writer().closed = true;
        let synced = self.watermarks.sync();
        // The committer, which would do this, has ended.
        self.watermarks.wake_tasks();
        synced?;
        self.seal_active()?;
        // The lock keeps any later spare from being made unseen.
        let _growth = lock(&self.growth);
        let writer = self.lock_writer();
        let (position, seq) = (writer.position, writer.next_seq);
        let spare = writer.spare.as_ref().map(|spare| spare.id);
        drop(writer);
        let file_id = self.new_file_id();
        let mut edits = Vec::from_iter(spare.map(|id| Edit::Drop { id }));
        edits.push(Edit::Next { position, seq, file_id, clock_ms: 0 });
        edits.push(Edit::Clock(self.clock_pair()));
        edits.push(Edit::Clean);
        self.edit_manifest(&edits)?;
        self.lock_writer().spare = None;
        self.sizes.spare.store(0, Ordering::Relaxed);
        if let Some(id) = spare {
            self.remove_spare(id);
        }
        Ok(())
    }
}
