//! Recovery: from a directory to a store that goes on.
//!
//! Claim and lock (claim.rs, lock.rs), manifest, then the segments (open.rs): sealed ones through
//! their hint files where these fit, the others record by record. The highest sequence number of a
//! key wins, so files may be read in any order (build.rs). Then the verdict on the tail (tail.rs), and
//! only when that is known, the first change on disk: records beyond the last provably durable
//! position are copied into a new segment and synced, a new manifest says so, and renaming `CURRENT`
//! makes all of it true at once.
//!
//! Invariants:
//! - Nothing is changed on disk before everything was read and found good.
//! - A crash at any point leaves either the old state or the new one; running again is harmless.
//! - No position, sequence number or file id that may have been used is used again.

mod beside;
mod build;
mod claim;
mod lock;
mod merge;
mod open;
mod tail;

use std::path::{Path, PathBuf};

use crate::damage::NOTE;
use crate::error::{KvsError, Result};
use crate::fs::{FsFile, IoError, OpenHow, Site, read_full};
use crate::hint::{self, Places};
use crate::index::SpaceTable;
use crate::log::{Copied, CopyWriter, Log, RESERVE_NEXT, RESERVES};
use crate::manifest::{self, Manifest, Seal, SegmentFacts, State, manifest_path};
use crate::options::Options;
use crate::record::{Kind, SEQ_MAX};
use crate::segment::{
    FORMAT_VERSION, SEGMENT_HEADER_BYTES, ScanStop, Scanner, Segment, SegmentHeader, SegmentKind,
    SegmentTable, hint_path, log_path,
};
use crate::sync::Arc;

pub(crate) use beside::open_beside;
use build::build;
pub(crate) use claim::{Claimed, claim};
pub(crate) use lock::{DirLock, hold_lock_as_found};
use merge::Small;
use open::load;
pub(crate) use tail::{Tail, find_tail};

/// The engine's name in the manifest.
pub(crate) const ENGINE: &str = "kvs";
/// Added to the last known position and sequence number after a crash: more than can have been
/// written without a sync, so that nothing that was lost is numbered again.
const POSITION_GAP: u64 = 1 << 36;
const SEQ_GAP: u64 = 1 << 32;

/// The findings of an open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Whether the store had been closed, or is new.
    pub clean: bool,
    /// Keys that exist.
    pub keys: u64,
    /// Segments read.
    pub segments: u64,
    /// Segments that were read through their hint file.
    pub hints_used: u64,
    /// Small segments that were merged into one, so that the number of files does not grow with
    /// the number of starts.
    pub merged_segments: u64,
    /// Records beyond the last position that provably was on disk, which were kept.
    pub kept_records: u64,
    /// Bytes of the last group that a crash had torn, which were cut off. They belong to writes
    /// that were never acknowledged, or to the last group before an unclean stop.
    pub torn_bytes: u64,
    /// Where the torn bytes began.
    pub torn_at: Option<(PathBuf, u64)>,
    /// Whether the last run left a note of damage.
    pub(crate) has_damage_note: bool,
}

/// The reason where a file is not there.
const MISSING: &str = "the file is missing, or the manifest's last edit is damaged";

/// Opens a directory, creating it if it does not exist.
pub(crate) fn open(dir: &Path, options: &Options) -> Result<(Log, DirLock, Recovery)> {
    let Claimed { fs, lock, names, number, state } = claim(dir, options, ENGINE)?;
    let options = &Options { fs, ..options.clone() };
    let mut opening = Opening::new(dir, options, state);
    opening.choose_small();
    opening.open_segments()?;
    opening.load_sealed()?;
    opening.check_small()?;
    let tail = find_tail(dir, &opening.state, &opening.unsealed)?;
    let files = Files::of(&names);
    opening.report.has_damage_note = names.iter().any(|name| name == NOTE);
    opening.refuse_lost_edits(&files, number)?;
    let (log, report) = opening.finish(tail, &files, number)?;
    Ok((log, lock, report))
}

/// The names in the directory, by their kind.
struct Files {
    logs: Vec<u64>,
    hints: Vec<u64>,
    manifests: Vec<u64>,
    reserves: Vec<&'static str>,
}

impl Files {
    fn of(names: &[String]) -> Files {
        let id = |name: &String, suffix: &str| name.strip_suffix(suffix)?.parse().ok();
        let number = |name: &String| name.strip_prefix("MANIFEST-")?.parse().ok();
        Files {
            logs: names.iter().filter_map(|name| id(name, ".log")).collect(),
            hints: names.iter().filter_map(|name| id(name, ".hint")).collect(),
            manifests: names.iter().filter_map(number).collect(),
            reserves: RESERVES.into_iter().filter(|o| names.iter().any(|name| name == o)).collect(),
        }
    }
}

/// A segment that the manifest names but does not call sealed.
#[derive(Debug)]
pub(crate) struct Unsealed {
    pub(crate) id: u64,
    pub(crate) facts: SegmentFacts,
    pub(crate) file: Arc<dyn FsFile>,
    pub(crate) length: u64,
    /// `None` while nothing was written, or if the first write was torn.
    pub(crate) header: Option<SegmentHeader>,
}

/// A store that is being opened.
struct Opening<'a> {
    dir: &'a Path,
    options: &'a Options,
    state: State,
    table: SegmentTable,
    sealed: Vec<(Arc<Segment>, Seal)>,
    unsealed: Vec<Unsealed>,
    /// Ids of the sealed segments that this open merges into one, see merge.rs.
    small: Vec<Small>,
    loaded: Vec<(Arc<Segment>, Places)>,
    /// Ids of the copies that this open has made.
    copies: Vec<u64>,
    /// Files to be cut to their end, once the manifest says so.
    overlong: Vec<(u64, u64)>,
    /// The reserves that are left, the one to be given up first last.
    reserves: Vec<&'static str>,
    report: Recovery,
}

impl<'a> Opening<'a> {
    fn new(dir: &'a Path, options: &'a Options, state: State) -> Opening<'a> {
        let segments = state.segments.len() as u64;
        let report = Recovery { clean: state.clean, segments, ..Recovery::default() };
        Opening {
            dir,
            options,
            state,
            table: SegmentTable::new(),
            sealed: Vec::new(),
            unsealed: Vec::new(),
            small: Vec::new(),
            loaded: Vec::new(),
            copies: Vec::new(),
            overlong: Vec::new(),
            reserves: Vec::new(),
            report,
        }
    }

    /// A log file that the manifest does not name, is newer than all that it names and holds
    /// records means that the manifest lost an edit.
    fn refuse_lost_edits(&self, files: &Files, number: u64) -> Result<()> {
        for &id in files.logs.iter().filter(|&&id| id >= self.state.file_id) {
            let path = log_path(self.dir, id);
            let file = self.options.fs.open(Site::StrayOpen, &path, OpenHow::Read)?;
            let length = file.len(Site::StrayLength)?;
            let Some(header) = read_header(&*file, length)? else {
                continue;
            };
            let from = SEGMENT_HEADER_BYTES as u64;
            let first = Scanner::new(&*file, header.salt, from, length).next().map(|r| r.is_some());
            if header.kind == SegmentKind::Log && matches!(first, Ok(true)) {
                let path = manifest_path(self.dir, number);
                let reason = format!("it does not name {id}.log, which holds records");
                return Err(KvsError::corrupt(&path, 0, reason));
            }
        }
        Ok(())
    }

    /// Makes the recovered state the store's, on disk and in memory.
    fn finish(mut self, tail: Tail, files: &Files, number: u64) -> Result<(Log, Recovery)> {
        self.reserves.clone_from(&files.reserves);
        let (manifest, spaces) = self.prepare(&tail, files, number).inspect_err(|_| {
            self.discard_copies();
            self.remove_leftovers(number + 1);
        })?;
        // From here on the new manifest may be the current one, and its copies are the store's.
        manifest::make_current(&*self.options.fs, self.dir)?;
        self.cut(&tail);
        self.remove_strays(files, &tail, &manifest);
        self.report.torn_bytes = tail.torn_bytes;
        self.report.torn_at = tail.torn_at;
        let reserves = RESERVES.map(|reserve| self.bytes_of(reserve));
        let recovered =
            build(self.table, &self.loaded, manifest, (&spaces, self.options.seed), reserves);
        self.report.keys = recovered.keys as u64;
        let log = Log::new(self.dir.to_owned(), self.options.clone(), recovered);
        Ok((log, self.report))
    }

    /// Everything up to the rename that makes the new manifest the current one: copies, the state, the
    /// manifest.
    fn prepare(
        &mut self,
        tail: &Tail,
        files: &Files,
        number: u64,
    ) -> Result<(Manifest, SpaceTable)> {
        let mut state = std::mem::take(&mut self.state);
        let highest = files.logs.iter().max().map_or(0, |id| id + 1);
        state.file_id = state.file_id.max(highest);
        if !state.clean {
            state.position = tail.end.max(state.position) + POSITION_GAP;
            state.seq = ((tail.seq_max + 1).max(state.seq) + SEQ_GAP).min(SEQ_MAX);
            state.clock = state.clock.later(tail.clock);
        }
        for kept in &tail.kept {
            let segment = self.settled(&kept.header, Arc::clone(&kept.file), &kept.seal)?;
            let places = hint::scan(&segment, kept.seal.end).map_err(|stop| bad(&segment, stop))?;
            if let Some(facts) = state.segments.get_mut(&kept.header.id) {
                facts.seal = Some(Seal { records: places.len() as u64, ..kept.seal });
            }
            self.overlong.push((kept.header.id, kept.seal.end));
            self.loaded.push((segment, places));
        }
        for id in &tail.dropped {
            state.segments.remove(id);
        }
        if let Some(copied) = self.with_space(|opening| opening.copy_tail(tail, &mut state))? {
            self.report.kept_records = copied.places.len() as u64;
            for edit in copied.edits() {
                state.apply(&edit).map_err(|reason| KvsError::corrupt(self.dir, 0, reason))?;
            }
            self.loaded.push((copied.segment, copied.places));
        }
        self.merge_small(&mut state)?;
        state.clean = false;
        // Records that are written from now on an older version may not understand.
        state.format = FORMAT_VERSION;
        let spaces = self.read_table()?;
        let manifest = self.with_space(|opening| {
            opening.remove_leftovers(number + 1);
            Manifest::prepare(&*opening.options.fs, opening.dir, number + 1, state.clone())
        })?;
        Ok((manifest, spaces))
    }

    /// Runs a step that needs space, again with that of a reserve if the disk is full: else a full
    /// disk would keep a store from starting, which serves reads and removals without any.
    fn with_space<R>(&mut self, mut step: impl FnMut(&mut Self) -> Result<R>) -> Result<R> {
        loop {
            match step(self) {
                Err(error) if error.is_full() => match self.reserves.pop() {
                    Some(reserve) => self.remove_reserve(reserve),
                    None => return Err(error),
                },
                done => return done,
            }
        }
    }

    fn remove_reserve(&self, reserve: &str) {
        drop(self.options.fs.remove(Site::ReserveSpend, &self.dir.join(reserve)));
    }

    /// Bytes of a reserve that the open did not need. One that a crash has emptied is removed.
    fn bytes_of(&self, reserve: &str) -> u64 {
        if !self.reserves.contains(&reserve) {
            return 0;
        }
        let measure = || {
            let path = self.dir.join(reserve);
            let file = self.options.fs.open(Site::ReserveOpen, &path, OpenHow::Read)?;
            file.allocated(Site::ReserveMeasure)
        };
        let bytes = measure().unwrap_or(0);
        if bytes == 0 {
            self.remove_reserve(reserve);
        }
        bytes
    }

    /// Removes the copies of an open that failed, which nothing names.
    fn discard_copies(&self) {
        for &id in &self.copies {
            for path in [log_path(self.dir, id), hint_path(self.dir, id)] {
                drop(self.options.fs.remove(Site::CopyTakeBack, &path));
            }
        }
    }

    /// Removes the files in the way of the new manifest, which nothing names or ever named.
    fn remove_leftovers(&self, next: u64) {
        let names = ["CURRENT.next", RESERVE_NEXT].map(|name| self.dir.join(name));
        for path in names.into_iter().chain([manifest_path(self.dir, next)]) {
            drop(self.options.fs.remove(Site::LeftoverRemove, &path));
        }
    }

    /// Removes the files that the new manifest does not name. Not before it is on disk: the state
    /// that was read here may be newer, and the disk's own manifest may need these files.
    /// A failure leaves a stray, which does no harm.
    fn remove_strays(&self, files: &Files, tail: &Tail, manifest: &Manifest) {
        let segments = &manifest.state().segments;
        let stray = |id: &&u64| !segments.contains_key(id) && !tail.dropped.contains(id);
        let logs = files.logs.iter().filter(stray).map(|&id| log_path(self.dir, id));
        let hints = files.hints.iter().filter(stray).map(|&id| hint_path(self.dir, id));
        let manifests = files.manifests.iter().filter(|&&number| number < manifest.number());
        let manifests = manifests.map(|&number| manifest_path(self.dir, number));
        for path in logs.chain(hints).chain(manifests) {
            drop(self.options.fs.remove(Site::StrayRemove, &path));
        }
    }

    /// Begins a copy, with a file id that no file has.
    fn begin_copy(&mut self, state: &mut State) -> Result<CopyWriter> {
        let id = state.file_id;
        state.file_id += 1;
        let header = SegmentHeader {
            kind: SegmentKind::Copy,
            id,
            salt: self.options.seed.rotate_left(17) ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            base: 0,
            created_ms: self.options.clock.now_ms(),
            store_id: state.store_id,
        };
        let Some(index) = self.table.reserve() else {
            return Err(KvsError::corrupt(self.dir, 0, "it has more than 65,536 segments"));
        };
        let writer = CopyWriter::create(&*self.options.fs, self.dir, header, index)
            .inspect_err(|_| self.table.release(index))?;
        self.copies.push(id);
        Ok(writer)
    }

    fn give_up_copy(&mut self, writer: CopyWriter) {
        self.table.release(writer.table_index());
        self.copies.pop();
        writer.discard(&*self.options.fs, self.dir);
    }

    /// Copies the records that nothing proves durable into a segment of their own.
    fn copy_tail(&mut self, tail: &Tail, state: &mut State) -> Result<Option<Copied>> {
        if tail.loose.is_empty() {
            return Ok(None);
        }
        let mut writer = self.begin_copy(state)?;
        let copied = self.copy_loose(tail, &mut writer);
        if !matches!(copied, Ok(Some(_))) {
            self.give_up_copy(writer);
        }
        copied
    }

    fn copy_loose(&self, tail: &Tail, writer: &mut CopyWriter) -> Result<Option<Copied>> {
        for loose in &tail.loose {
            let mut scanner = Scanner::new(&*loose.file, loose.salt, loose.from, loose.to);
            let path = loose.file.path();
            while let Some(record) = scanner.next().map_err(|stop| bad_at(path, stop))? {
                if record.header.kind != Kind::Mark {
                    writer.push(&record)?;
                }
            }
        }
        if writer.is_empty() {
            return Ok(None);
        }
        Ok(Some(writer.finish(&*self.options.fs, self.dir, 0)?))
    }

    /// Cuts off the records that now lie in the copy, and those that were torn. Where that fails the next open does it.
    fn cut(&self, tail: &Tail) {
        let fs = &*self.options.fs;
        for &(id, end) in &self.overlong {
            let file = fs.open(Site::TailOpen, &log_path(self.dir, id), OpenHow::Write);
            drop(file.and_then(|file| file.truncate(Site::TailTruncate, end)));
        }
        for &id in &tail.dropped {
            drop(fs.remove(Site::TailRemove, &log_path(self.dir, id)));
        }
    }
}

pub(crate) fn read_header(
    file: &dyn FsFile,
    length: u64,
) -> Result<Option<SegmentHeader>, IoError> {
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    if length < bytes.len() as u64 {
        return Ok(None);
    }
    read_full(file, Site::SegmentHeaderRead, &mut bytes, 0)?;
    Ok(SegmentHeader::decode(&bytes))
}

/// An unsealed file grows in steps; any other length means that it was cut.
pub(crate) fn refuse_cut(path: &Path, length: u64, step: u64) -> Result<()> {
    if length == 0 || !length.is_multiple_of(step.max(1)) {
        let reason = "the file was cut here, or the manifest's last edit is damaged";
        return Err(KvsError::corrupt(path, length, reason));
    }
    Ok(())
}

fn bad(segment: &Segment, stop: ScanStop) -> KvsError {
    bad_at(segment.file.path(), stop)
}

pub(crate) fn bad_at(path: &Path, stop: ScanStop) -> KvsError {
    match stop {
        ScanStop::Bad { offset, reason } => KvsError::corrupt(path, offset, reason),
        ScanStop::Io(error) => error.into(),
    }
}
