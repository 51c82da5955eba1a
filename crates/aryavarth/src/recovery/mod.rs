//! Recovery: from a directory to a store that goes on.
//!
//! Lock, manifest, then the segments: sealed ones through their hint files where these fit, the
//! others record by record. The highest sequence number of a key wins, so files may be read in any
//! order. Then the verdict on the tail (tail.rs), and only when that is known, the first change on
//! disk: what lies beyond the last provably durable position is copied into a new segment and
//! synced, a new manifest says so, and renaming `CURRENT` makes all of it true at once.
//!
//! Invariants:
//! - Nothing is changed on disk before everything was read and found good.
//! - A crash at any point leaves either the old state or the new one; running again is harmless.
//! - No position, sequence number or file id that may have been used is used again.

mod merge;
mod open;
mod tail;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::error::{KvsError, Result};
use crate::fs::{Fs, FsFile, IoError, OpenHow, Site, is_of_the_system, read_full, write_full};
use crate::hint::{self, Place, Places};
use crate::index::{Index, IndexWriter, Slot, TABLE_CONTENT, TABLE_KEY, Table};
use crate::log::{Copied, CopyWriter, Log, Recovered};
use crate::manifest::{self, Manifest, Seal, SegmentFacts, State, manifest_path};
use crate::options::Options;
use crate::record::{Kind, SEQ_MAX};
use crate::segment::{
    FORMAT_VERSION, SEGMENT_HEADER_BYTES, ScanStop, Scanner, Segment, SegmentHeader, SegmentKind,
    SegmentTable, hint_path, log_path,
};
use crate::sync::{Arc, Ordering};

use merge::Small;
use open::load;
pub(crate) use tail::{Tail, find_tail};

/// The engine's name in the manifest.
pub(crate) const ENGINE: &str = "kvs";
/// Added to the last known position and sequence number after a crash: more than can have been
/// written without a sync, so that nothing that was lost is numbered again.
const POSITION_GAP: u64 = 1 << 36;
const SEQ_GAP: u64 = 1 << 32;

/// What an open found.
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
}

const MISSING: &str = "the file is missing, or the manifest's last edit is damaged";

/// The lock of a directory, held as long as this lives.
#[derive(Debug)]
pub(crate) struct DirLock {
    file: Arc<dyn FsFile>,
}

/// A directory that is locked and belongs to the engine that asked for it, or to nobody yet.
pub(crate) struct Claimed {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) lock: DirLock,
    pub(crate) names: Vec<String>,
    /// The manifest's number, 0 as long as there is none.
    pub(crate) number: u64,
    pub(crate) state: State,
}

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
    opening.refuse_lost_edits(&files, number)?;
    let (log, report) = opening.finish(tail, &files, number)?;
    Ok((log, lock, report))
}

/// Locks a directory for `engine`, creating it if it does not exist.
pub(crate) fn claim(dir: &Path, options: &Options, engine: &str) -> Result<Claimed> {
    options.check()?;
    options.fs.create_dir(Site::DirCreate, dir)?;
    let fs = options.fs.open_dir(Site::DirOpen, dir)?;
    let lock = take_lock(&*fs, dir)?;
    let names = fs.list(Site::DirList, dir)?;
    if names.iter().any(|name| name == "CURRENT") {
        let (number, state) = load_manifest(&*fs, dir, engine)?;
        return Ok(Claimed { fs, lock, names, number, state });
    }
    sync_ancestors(&*options.fs, dir)?;
    let state = State {
        format: FORMAT_VERSION,
        store_id: options.seed,
        engine: engine.to_owned(),
        seq: 1,
        clean: true,
        ..State::default()
    };
    Ok(Claimed { fs, lock, names, number: 0, state })
}

/// Makes the way to a new store durable. Which directories are new is not known: an earlier
/// attempt may have made them and died.
fn sync_ancestors(fs: &dyn Fs, dir: &Path) -> Result<()> {
    use std::io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    for ancestor in dir.ancestors().skip(1) {
        let here = Path::new(".");
        let ancestor = if ancestor.as_os_str().is_empty() { here } else { ancestor };
        match fs.sync_dir(Site::DirParentSync, ancestor) {
            // A directory of somebody else, or of a file system without such a call: none that
            // was made here.
            Err(error)
                if matches!(
                    error.source.kind(),
                    PermissionDenied | InvalidInput | Unsupported | ReadOnlyFilesystem
                ) => {}
            done => done?,
        }
    }
    Ok(())
}

fn load_manifest(fs: &dyn Fs, dir: &Path, engine: &str) -> Result<(u64, State)> {
    let (number, state) = manifest::load(fs, dir)?;
    if state.engine != engine {
        let (path, found) = (dir.to_owned(), state.engine);
        return Err(KvsError::WrongEngine { path, found, asked: engine.to_owned() });
    }
    Ok((number, state))
}

/// Takes the directory's lock and leaves the process id in it. A directory that is not ours is
/// not touched.
fn take_lock(fs: &dyn Fs, dir: &Path) -> Result<DirLock> {
    refuse_foreign(fs, dir)?;
    let lock = hold_lock(fs, dir)?;
    let pid = format!("{}\n", std::process::id());
    // The pid is a courtesy to whoever is refused; the lock itself does not depend on it.
    if lock.file.truncate(Site::LockTruncate, 0).is_ok() {
        drop(write_full(&*lock.file, Site::LockWrite, pid.as_bytes(), 0));
    }
    Ok(lock)
}

/// Takes the directory's lock, or says who has it.
pub(crate) fn hold_lock(fs: &dyn Fs, dir: &Path) -> Result<DirLock> {
    let path = dir.join("LOCK");
    let Some(file) = fs.try_lock(Site::LockTake, &path)? else {
        let pid = fs.open(Site::LockOpen, &path, OpenHow::Read).ok().and_then(|file| {
            let mut bytes = [0; 16];
            let got = read_full(&*file, Site::LockRead, &mut bytes, 0).ok()?;
            std::str::from_utf8(&bytes[..got]).ok()?.trim().parse().ok()
        });
        return Err(KvsError::Locked { path: dir.to_owned(), pid });
    };
    Ok(DirLock { file })
}

/// The same without making a file: nobody has a directory open in which there is no `LOCK`.
pub(crate) fn hold_lock_as_found(
    fs: &dyn Fs,
    dir: &Path,
    names: &[String],
) -> Result<Option<DirLock>> {
    let is_there = names.iter().any(|name| name == "LOCK");
    if is_there { hold_lock(fs, dir).map(Some) } else { Ok(None) }
}

/// Refuses a directory with files in it that no store made.
fn refuse_foreign(fs: &dyn Fs, dir: &Path) -> Result<()> {
    let names = fs.list(Site::DirListFirst, dir)?;
    if names.iter().any(|name| name == "CURRENT") {
        return Ok(());
    }
    let ours = |name: &String| matches!(name.as_str(), "LOCK" | "CURRENT.next" | "MANIFEST-1");
    match names.iter().find(|name| !ours(name) && !is_of_the_system(name)) {
        Some(name) => {
            let reason = format!("it holds {name} but no CURRENT");
            Err(KvsError::NotOurs { path: dir.to_owned(), reason })
        }
        None => Ok(()),
    }
}

/// The names in the directory, by what they are.
struct Files {
    logs: Vec<u64>,
    hints: Vec<u64>,
    manifests: Vec<u64>,
    others: Vec<&'static str>,
}

impl Files {
    fn of(names: &[String]) -> Files {
        let id = |name: &String, suffix: &str| name.strip_suffix(suffix)?.parse().ok();
        let number = |name: &String| name.strip_prefix("MANIFEST-")?.parse().ok();
        let others = ["CURRENT.next", "reserve"];
        Files {
            logs: names.iter().filter_map(|name| id(name, ".log")).collect(),
            hints: names.iter().filter_map(|name| id(name, ".hint")).collect(),
            manifests: names.iter().filter_map(number).collect(),
            others: others.into_iter().filter(|o| names.iter().any(|name| name == o)).collect(),
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
    /// Files to be cut to their end, once the manifest says so.
    overlong: Vec<(u64, u64)>,
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
            overlong: Vec::new(),
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
        let fs = &*self.options.fs;
        self.remove_leftovers(files, number + 1);
        let mut state = std::mem::take(&mut self.state);
        let highest = files.logs.iter().max().map_or(0, |id| id + 1);
        state.file_id = state.file_id.max(highest);
        if !state.clean {
            state.position = tail.end.max(state.position) + POSITION_GAP;
            state.seq = ((tail.seq_max + 1).max(state.seq) + SEQ_GAP).min(SEQ_MAX);
            state.clock_ms = state.clock_ms.max(tail.clock_ms);
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
        if let Some(copied) = self.copy_tail(&tail, &mut state)? {
            self.report.kept_records = copied.places.len() as u64;
            for edit in copied.edits() {
                state.apply(&edit).map_err(|reason| KvsError::corrupt(self.dir, 0, reason))?;
            }
            self.loaded.push((copied.segment, copied.places));
        }
        self.merge_small(&mut state)?;
        state.clean = false;
        // What is written from now on an older version may not understand.
        state.format = FORMAT_VERSION;
        let table = self.read_table()?;
        let manifest = Manifest::create(fs, self.dir, number + 1, state)?;
        self.cut(&tail);
        self.remove_strays(files, &tail, &manifest);
        self.report.torn_bytes = tail.torn_bytes;
        self.report.torn_at = tail.torn_at;
        let recovered = build(self.table, &self.loaded, manifest, table);
        self.report.keys = recovered.keys as u64;
        let log = Log::new(self.dir.to_owned(), self.options.clone(), recovered);
        Ok((log, self.report))
    }

    /// Which contents the spaces have, as the newest record of that says.
    fn read_table(&self) -> Result<Table> {
        let mut newest: Option<(u64, &Segment, u64, u64)> = None;
        for (segment, places) in &self.loaded {
            for (key, place) in places.iter().filter(|(_, p)| p.extra.content == TABLE_CONTENT) {
                if key == TABLE_KEY && newest.is_none_or(|(seq, ..)| seq < place.seq) {
                    newest = Some((place.seq, segment, place.offset, place.bytes));
                }
            }
        }
        let Some((_, segment, offset, bytes)) = newest else {
            return Ok(Table::default());
        };
        let stored = segment.read_value(offset, bytes as usize, TABLE_CONTENT, TABLE_KEY)?;
        Table::decode(&stored.value).ok_or_else(|| {
            let reason = "the record that says what the spaces hold makes no sense";
            KvsError::corrupt(segment.file.path(), offset, reason)
        })
    }

    /// Removes what is in the way of the new manifest and named by nothing, nor ever was.
    fn remove_leftovers(&self, files: &Files, next: u64) {
        let manifest = files.manifests.iter().filter(|&&number| number == next);
        let manifest = manifest.map(|&number| manifest_path(self.dir, number));
        let others = files.others.iter().map(|name| self.dir.join(name));
        for path in manifest.chain(others) {
            drop(self.options.fs.remove(Site::LeftoverRemove, &path));
        }
    }

    /// Removes what the new manifest does not name. Not before it is on disk: what was read here
    /// may have been newer than that, and the disk's own manifest may need these files.
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

    /// Copies the records that nothing proves durable into a segment of their own.
    fn copy_tail(&self, tail: &Tail, state: &mut State) -> Result<Option<Copied>> {
        if tail.loose.is_empty() {
            return Ok(None);
        }
        let fs = &*self.options.fs;
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
        let mut writer = CopyWriter::create(fs, self.dir, header, index)?;
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
            writer.discard(fs, self.dir);
            self.table.release(index);
            return Ok(None);
        }
        Ok(Some(writer.finish(fs, self.dir, 0)?))
    }

    /// Cuts off what now lies in the copy or was torn. Where that fails the next open does it.
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

/// An unsealed file grows in steps; any other length means that somebody cut it.
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

/// The index of everything loaded: per key the record with the highest sequence number, in the
/// contents that the table gives to spaces.
fn build(
    table: SegmentTable,
    loaded: &[(Arc<Segment>, Places)],
    manifest: Manifest,
    spaces: Table,
) -> Recovered {
    let mut all: Vec<(u64, u16, &[u8], &Place)> = Vec::new();
    for (segment, places) in loaded {
        table.insert(Arc::clone(segment));
        let mut tombstone_bytes = 0;
        for (key, place) in places.iter() {
            tombstone_bytes += if place.kind == Kind::Tombstone { place.bytes } else { 0 };
            all.push((place.extra.content, segment.table_index, key, place));
        }
        segment.tombstone_bytes.store(tombstone_bytes, Ordering::Relaxed);
    }
    // Ascending keys make the list cheap to build: its search path stays in the cache.
    all.sort_unstable_by(|a, b| (a.0, a.2).cmp(&(b.0, b.2)).then(b.3.seq.cmp(&a.3.seq)));
    all.dedup_by(|later, first| (later.0, later.2) == (first.0, first.2));
    let (mut live_bytes, mut keys) = (0, 0);
    let contents: BTreeSet<u64> = all.iter().map(|(content, ..)| *content).collect();
    let dead: BTreeSet<u64> = contents.into_iter().filter(|&c| !spaces.is_alive(c)).collect();
    let (index, mut index_writer) = (Index::with_table(spaces), IndexWriter::default());
    for (content, segment, key, place) in all {
        if place.kind == Kind::Tombstone || dead.contains(&content) {
            continue;
        }
        let slot = Slot::new(segment, place.offset, place.bytes, false);
        index.put(&mut index_writer, None, place.extra, key, slot);
        let bytes = slot.pointer().length;
        if let Some(segment) = table.get(segment)
            && let Some(segment) = segment.as_ref()
        {
            segment.note_live(bytes);
        }
        live_bytes += bytes as i64;
        // The table's own record is no key.
        keys += i64::from(content != TABLE_CONTENT);
    }
    Recovered { manifest, index, index_writer, table, live_bytes, keys }
}
