//! Room for the log: segments prepared ahead, sealed behind, and the answer to a full disk.
//!
//! The writer never creates or allocates a file under its lock. A *spare* segment is prepared
//! before it is needed; the active one's allocation grows ahead of the writer in doubling steps.
//! When either is not ready in time, the writer lets go of its lock and does the work itself.
//!
//! A full disk stops writes and nothing else. Removals (and compaction) may use the space of the
//! `reserve` file, which is given up for them; once there is space again the reserve is made anew
//! and writes resume. A second file, `reserve.open`, is kept for the next open, which needs a new
//! manifest however full the disk is.
//!
//! Invariants:
//! - A segment is in the manifest, and its name on disk, before its first record is written.
//! - An unsealed file's length is always a multiple of the allocation step, so a cut shows.

use std::time::{Duration, Instant};

use super::writer::{Recent, Writer};
use super::{Log, need_of};
use crate::error::{KvsError, Result};
use crate::events::Event;
use crate::fs::{FsFile, IoError, OpenHow, Site};
use crate::manifest::{AppendError, Edit};
use crate::segment::{Segment, SegmentHeader, SegmentKind, log_path};
use crate::sync::{Arc, Ordering, lock};

/// The first allocation of a segment, and the unit of all later ones.
const STEP_BYTES_MAX: u64 = 128 << 10;
/// Files are no longer than a slot's offset can name.
const SEGMENT_FILE_BYTES_MAX: u64 = 4 << 30;
/// How often a full disk is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A segment that is ready to take appends.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(super) id: u64,
    salt: u64,
    file: Arc<dyn FsFile>,
    capacity: u64,
}

impl Log {
    /// The unit of allocation: the file system's blocks for tests with tiny segments.
    fn step_bytes(&self) -> u64 {
        STEP_BYTES_MAX.min(self.options.segment_bytes_min)
    }

    /// At which size a segment is sealed: a sixteenth of the live data, within the options' limits.
    pub(crate) fn segment_limit(&self) -> u64 {
        let live = self.live_bytes.load(Ordering::Relaxed).max(0) as u64;
        (live / 16).clamp(self.options.segment_bytes_min, self.options.segment_bytes_max)
    }

    /// The segment that takes `need` more bytes, after switching to the spare if it must; `None`
    /// if there is no room yet.
    pub(super) fn room_for(&self, writer: &mut Writer, need: u64) -> Option<Arc<Segment>> {
        if let Some(active) = &writer.active {
            if writer.offset + need <= writer.capacity {
                return Some(Arc::clone(active));
            }
            if writer.offset + need <= writer.limit {
                return None;
            }
        }
        self.switch_to_spare(writer, need)
    }

    fn switch_to_spare(&self, writer: &mut Writer, need: u64) -> Option<Arc<Segment>> {
        let spare = writer.spare.take_if(|spare| spare.capacity >= need)?;
        let Some(table_index) = self.table.reserve() else {
            writer.spare = Some(spare);
            return None;
        };
        self.sizes.spare.store(0, Ordering::Relaxed);
        let header = SegmentHeader {
            kind: SegmentKind::Log,
            id: spare.id,
            salt: spare.salt,
            base: writer.position,
            created_ms: 0,
            store_id: self.store_id,
        };
        let segment = Arc::new(Segment::new(table_index, &header, false, spare.file));
        segment.disk_bytes.store(spare.capacity, Ordering::Relaxed);
        self.table.insert(Arc::clone(&segment));
        self.watermarks.begin_segment(Arc::clone(&segment));
        self.retire_active(writer);
        writer.recent.segment = table_index;
        writer.active = Some(Arc::clone(&segment));
        writer.offset = 0;
        writer.capacity = spare.capacity;
        writer.limit = self.segment_limit().max(need);
        Some(segment)
    }

    /// Ends the active segment; its seal follows in the background.
    pub(super) fn retire_active(&self, writer: &mut Writer) {
        if let Some(active) = writer.active.take() {
            writer.sealing.push(active);
            // Its table index may come to mean another segment.
            writer.recent = Recent::default();
            self.call_background();
        }
    }

    /// Asks for the next room before the writer needs it.
    pub(super) fn look_ahead(&self, writer: &Writer) {
        let grows = writer.capacity < writer.limit && writer.offset > writer.capacity / 2;
        let ends = writer.spare.is_none() && writer.offset > writer.limit / 2;
        if grows || ends {
            self.call_background();
        }
    }

    /// Makes room for a frame of `bytes`, for a writer that found none. `may_use_reserve` is for
    /// frames that free space in the end.
    pub(super) fn make_room(&self, bytes: usize, may_use_reserve: bool) -> Result<()> {
        let need = need_of(bytes);
        let mut growth = lock(&self.growth);
        let mut result = self.grow(need);
        if may_use_reserve
            && result.as_ref().is_err_and(KvsError::is_full)
            && self.give_up_reserve(&mut growth)
        {
            result = self.grow(need);
        }
        match result {
            Err(KvsError::Io(source)) if source.is_no_space() => Err(self.note_full(source)),
            result => result,
        }
    }

    /// Extends the active segment, or prepares a spare that holds `need` bytes. The caller holds
    /// the lock of growth, so that only one thread at a time does either.
    fn grow(&self, need: u64) -> Result<()> {
        let writer = self.lock_writer();
        let fits_active = writer.offset + need <= writer.limit;
        if let Some(active) = writer.active.clone()
            && fits_active
        {
            if writer.offset + need <= writer.capacity {
                return Ok(());
            }
            let limit = writer.limit.next_multiple_of(self.step_bytes());
            let wanted = (writer.capacity * 2).min(limit).max(writer.offset + need);
            let capacity = wanted.next_multiple_of(self.step_bytes());
            let before = writer.capacity;
            drop(writer);
            if let Err(error) = allocate(&*active.file, Site::SegmentExtend, capacity) {
                // A full disk may have given a part; the length stays a multiple of the step.
                drop(active.file.truncate(Site::SegmentShrink, before));
                return Err(error.into());
            }
            active.disk_bytes.store(capacity, Ordering::Relaxed);
            let mut writer = self.lock_writer();
            if writer.active.as_ref().is_some_and(|now| now.id == active.id) {
                writer.capacity = capacity;
            }
            return Ok(());
        }
        // Else the spare that there is would be looked for and not taken for ever.
        self.check_table()?;
        if writer.spare.as_ref().is_some_and(|spare| spare.capacity >= need) {
            return Ok(());
        }
        drop(writer);
        self.prepare_spare(need)
    }

    /// Refuses another segment when the table is nearly full, as if the disk were: compaction,
    /// which makes fewer of them, still finds room.
    fn check_table(&self) -> Result<()> {
        if self.table.has_room() {
            return Ok(());
        }
        let reason = "there are as many segments as a store can have; compact it";
        let source = std::io::Error::new(std::io::ErrorKind::StorageFull, reason);
        Err(IoError { site: Site::TableReserve, path: self.dir.clone(), source }.into())
    }

    /// Creates the next segment's file and enters it in the manifest. Four syncs.
    fn prepare_spare(&self, need: u64) -> Result<()> {
        let step = self.step_bytes();
        let capacity = need.next_multiple_of(step);
        if capacity > SEGMENT_FILE_BYTES_MAX {
            let (size, limit) = (capacity, SEGMENT_FILE_BYTES_MAX);
            return Err(KvsError::TooLarge { what: "batch", size, limit });
        }
        let (id, salt) = (self.new_file_id(), self.new_salt());
        let path = log_path(&self.dir, id);
        let fs = &*self.options.fs;
        let file = fs.open(Site::SegmentCreate, &path, OpenHow::CreateNew);
        let file = file.map_err(|error| self.refused_file(error))?;
        let allocated = allocate(&*file, Site::SegmentAllocate, capacity);
        let prepared = allocated.and_then(|()| file.sync(Site::SegmentCreateSync));
        if let Err(error) = prepared {
            self.remove_spare(id);
            return Err(error.into());
        }
        if let Err(error) = fs.sync_dir(Site::SegmentDirSync, &self.dir) {
            if !error.is_out_of_files() {
                return Err(self.watermarks.poison(&error.into()));
            }
            self.remove_spare(id);
            return Err(error.into());
        }
        let mut edits = vec![Edit::Add { id, kind: SegmentKind::Log, salt, step }];
        let small = self.lock_writer().spare.take();
        edits.extend(small.as_ref().map(|spare| Edit::Drop { id: spare.id }));
        if let Err(error) = self.edit_manifest(&edits) {
            self.lock_writer().spare = small;
            // If the store is poisoned, the manifest may name the file by now.
            if self.watermarks.check().is_ok() {
                self.remove_spare(id);
            }
            return Err(error);
        }
        if let Some(small) = small {
            self.remove_spare(small.id);
        }
        self.lock_writer().spare = Some(Spare { id, salt, file, capacity });
        self.sizes.spare.store(capacity, Ordering::Relaxed);
        Ok(())
    }

    /// The error for a file that cannot be created. Where the directory is gone, later writes
    /// are gone with it, and the log takes no more.
    pub(crate) fn refused_file(&self, error: IoError) -> KvsError {
        let is_dir_gone = error.is_dir_gone();
        let error = KvsError::from(error);
        if is_dir_gone { self.watermarks.poison(&error) } else { error }
    }

    /// Removes a segment that nothing was written to. A file that stays behind is a stray, which the
    /// next open removes.
    pub(super) fn remove_spare(&self, id: u64) {
        drop(self.options.fs.remove(Site::SpareRemove, &log_path(&self.dir, id)));
    }

    /// Makes manifest edits durable; poisons the store if their outcome is unknown.
    pub(crate) fn edit_manifest(&self, edits: &[Edit]) -> Result<()> {
        self.watermarks.check()?;
        let mut manifest = lock(&self.manifest);
        if manifest.state().clean {
            return Err(KvsError::Closed);
        }
        let appended = manifest.append(&*self.options.fs, edits).map_err(|error| match error {
            AppendError::Refused(error) => error,
            AppendError::Unknown(error) => self.watermarks.poison(&error),
        });
        self.sizes.manifest.store(manifest.disk_bytes(), Ordering::Relaxed);
        appended
    }

    /// One round of maintenance: seals rotated segments, makes room ahead, takes removed keys and
    /// emptied generations out of the index, tries a full disk again. Returns whether there was any
    /// work.
    pub(crate) fn tend(&self) -> Result<bool> {
        self.watermarks.check()?;
        // A segment that cannot be sealed holds no other work up.
        let sealed = self.seal_rotated();
        let unlinked = self.unlink_all_released();
        let purged = self.purge_some();
        let grown = self.grow_ahead()?;
        self.map_segments(&[]);
        Ok(sealed? || unlinked || purged || grown || self.populate_mapped())
    }

    fn grow_ahead(&self) -> Result<bool> {
        let mut growth = lock(&self.growth);
        if growth.is_lent {
            // A file that is made now would take the space that was lent to the compaction.
            return Ok(false);
        }
        let was_full = self.is_full();
        if was_full {
            let soon = growth.tried.is_some_and(|tried| tried.elapsed() < RETRY);
            if soon && self.options.background {
                return Ok(false);
            }
            growth.tried = Some(Instant::now());
        }
        // Writes resume when everything below finds space, the reserve first.
        self.full.store(None);
        let mut done = self.hold_reserve(&mut growth)?;
        let (extend_bytes, spare) = {
            let writer = self.lock_writer();
            let active = writer.active.is_some();
            let grows = writer.capacity < writer.limit && writer.offset > writer.capacity / 2;
            let ends = !active || writer.offset > writer.limit / 2;
            let left = writer.capacity.saturating_sub(writer.offset);
            ((active && grows).then_some(left + 1), writer.spare.is_none() && ends)
        };
        if let Some(bytes) = extend_bytes
            && !self.is_full()
        {
            done |= self.or_full(self.grow(bytes))?;
        }
        if spare && !self.is_full() {
            done |= self.or_full(self.prepare_spare(self.step_bytes()))?;
        }
        if self.is_full() {
            return Ok(done);
        }
        if let Some(since) = lock(&self.full_since).take() {
            self.options.events.tell(|| Event::DiskWritable { after: since.elapsed() });
        }
        Ok(done || was_full)
    }

    /// No space while working ahead is not the caller's error: it makes the store read-only.
    pub(super) fn or_full(&self, result: Result<()>) -> Result<bool> {
        match result {
            Ok(()) => Ok(true),
            Err(KvsError::Io(source)) if source.is_no_space() => {
                self.note_full(source);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the disk was full when it was last asked.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load().is_some()
    }

    /// Notes that the disk is full, until maintenance finds space again; returns the error for it.
    pub(super) fn note_full(&self, source: Arc<IoError>) -> KvsError {
        if self.full.swap(Some(Arc::clone(&source))).is_none() {
            self.call_background();
        }
        let mut since = lock(&self.full_since);
        if since.is_none() {
            *since = Some(Instant::now());
            self.options.events.tell(|| Event::DiskFull { reason: source.to_string() });
        }
        drop(since);
        KvsError::Full { source }
    }

    /// Refuses a write while the disk is full, unless it frees space in the end. A store that is
    /// poisoned too says that, since space would not help it.
    pub(super) fn check_full(&self, only_removes: bool) -> Result<()> {
        self.watermarks.check()?;
        match self.full.load_full() {
            Some(source) if !only_removes => Err(KvsError::Full { source }),
            _ => Ok(()),
        }
    }

    /// Bytes that the store's files take. No lock and no system call.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.data_bytes() + self.sizes.reserves.load(Ordering::Relaxed)
    }

    /// The same without the reserve.
    pub(crate) fn data_bytes(&self) -> u64 {
        let segments: u64 =
            self.table.all().iter().map(|s| s.disk_bytes.load(Ordering::Relaxed)).sum();
        let spare = self.sizes.spare.load(Ordering::Relaxed);
        segments + spare + self.sizes.manifest.load(Ordering::Relaxed) + 8192
    }
}

/// Grows a file to `length` bytes that read as zeros, with blocks behind them where possible.
fn allocate(file: &dyn FsFile, site: Site, length: u64) -> Result<(), IoError> {
    file.allocate(site, length)?;
    // A file system that cannot allocate leaves the file as it is; the length counts too.
    if file.len(Site::SegmentAllocateLength)? < length {
        file.truncate(Site::SegmentFill, length)?;
    }
    Ok(())
}
