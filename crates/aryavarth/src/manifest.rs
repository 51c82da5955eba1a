//! The manifest: which files the store consists of.
//!
//! An append-only file of checksummed edits. An edit is the only way in which the set of files
//! changes: it is synced before anything depends on it, and a file that no edit names does not
//! belong to the store. `CURRENT` names the manifest in use; a new one is written whole and put in
//! place by renaming `CURRENT`, at every open and when the old one has grown.
//!
//! ```text
//! edit: 0 CRC32C of the rest, seeded with the manifest's number and the edit's offset
//!       4 length of the payload     8 payload: one or more operations; zeros up to eight
//! ```
//!
//! Invariants:
//! - A segment is named here before its first record is written, a copy before it is pointed at.
//! - A bad edit at the end was never acknowledged; a bad one with a good one after it is rot.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::error::{KvsError, Result};
use crate::fs::{Fs, FsFile, OpenHow, Site, read_full, take_back, write_counted, write_full};
use crate::record::{padded, u32_at, u64_at};
use crate::segment::{FORMAT_VERSION, SegmentKind, is_known_format};
use crate::sync::Arc;

const EDIT_HEADER_BYTES: usize = 8;
/// Allocated ahead, so that edits still fit when the disk is full.
const SLACK_BYTES: u64 = 64 << 10;
/// No manifest is larger: 65,536 segments take less.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// What is known of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Position of the file's first byte.
    pub(crate) base: u64,
    /// Bytes of the file, exactly.
    pub(crate) end: u64,
    pub(crate) seq_min: u64,
    pub(crate) seq_max: u64,
    /// Records in the file, marks not counted.
    pub(crate) records: u64,
    /// No record in the file is superseded by one numbered below this.
    pub(crate) purged_seq: u64,
}

/// What is known of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentFacts {
    pub(crate) kind: SegmentKind,
    pub(crate) salt: u64,
    /// Unless sealed, the file's length is a multiple of this, or somebody has cut it.
    pub(crate) step: u64,
    pub(crate) seal: Option<Seal>,
}

/// A change of what the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// The store's identity; the first operation of every manifest.
    Store { format: u32, id: u64, engine: String },
    /// A segment is about to be used.
    Add { id: u64, kind: SegmentKind, salt: u64, step: u64 },
    /// A segment takes no more appends.
    Seal { id: u64, seal: Seal },
    /// A segment's file is no longer needed.
    Drop { id: u64 },
    /// Where the log goes on, unless seals say more: no position, sequence number or file id below these is used again.
    Next { position: u64, seq: u64, file_id: u64, clock_ms: u64 },
    /// The store was closed with everything synced and sealed.
    Clean,
}

/// What all edits so far add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) format: u32,
    pub(crate) store_id: u64,
    pub(crate) engine: String,
    pub(crate) segments: BTreeMap<u64, SegmentFacts>,
    pub(crate) position: u64,
    pub(crate) seq: u64,
    /// Higher than every file id named so far.
    pub(crate) file_id: u64,
    pub(crate) clock_ms: u64,
    /// Whether the last edit said so.
    pub(crate) clean: bool,
}

impl State {
    /// Applies an edit; says what is wrong if it does not fit.
    pub(crate) fn apply(&mut self, edit: &Edit) -> Result<(), &'static str> {
        self.clean = false;
        match edit {
            Edit::Store { format, id, engine } => {
                if self.format != 0 {
                    return Err("an edit names the store a second time");
                }
                (self.format, self.store_id) = (*format, *id);
                self.engine.clone_from(engine);
            }
            Edit::Add { id, kind, salt, step } => {
                let facts = SegmentFacts { kind: *kind, salt: *salt, step: *step, seal: None };
                let next = id.checked_add(1).ok_or("an edit uses the last file id there is")?;
                self.file_id = self.file_id.max(next);
                if self.segments.insert(*id, facts).is_some() {
                    return Err("an edit adds a segment twice");
                }
            }
            Edit::Seal { id, seal } => {
                let Some(facts) = self.segments.get_mut(id) else {
                    return Err("an edit seals an unknown segment");
                };
                facts.seal = Some(*seal);
                // Kept beyond the segment's drop: the log goes on behind it all the same.
                if facts.kind == SegmentKind::Log {
                    self.position = self.position.max(seal.base.saturating_add(seal.end));
                    self.seq = self.seq.max(seal.seq_max.saturating_add(1));
                }
            }
            Edit::Drop { id } => {
                if self.segments.remove(id).is_none() {
                    return Err("an edit drops an unknown segment");
                }
            }
            Edit::Next { position, seq, file_id, clock_ms } => {
                self.position = self.position.max(*position);
                self.seq = self.seq.max(*seq);
                self.file_id = self.file_id.max(*file_id);
                self.clock_ms = self.clock_ms.max(*clock_ms);
            }
            Edit::Clean => self.clean = true,
        }
        Ok(())
    }

    /// The first edit of a manifest that says this.
    pub(crate) fn encode(&self, number: u64) -> Vec<u8> {
        frame(&encode(&self.edits()), number, 0)
    }

    /// The edits that lead to this state at once.
    fn edits(&self) -> Vec<Edit> {
        let store =
            Edit::Store { format: self.format, id: self.store_id, engine: self.engine.clone() };
        let mut edits = vec![store];
        for (&id, facts) in &self.segments {
            edits.push(Edit::Add { id, kind: facts.kind, salt: facts.salt, step: facts.step });
            edits.extend(facts.seal.map(|seal| Edit::Seal { id, seal }));
        }
        edits.push(Edit::Next {
            position: self.position,
            seq: self.seq,
            file_id: self.file_id,
            clock_ms: self.clock_ms,
        });
        edits
    }
}

/// The manifest in use, open for appending.
#[derive(Debug)]
pub(crate) struct Manifest {
    dir: PathBuf,
    number: u64,
    file: Arc<dyn FsFile>,
    end: u64,
    /// How large the file may grow before a new one is written.
    rotate_at: u64,
    state: State,
}

pub(crate) fn manifest_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("MANIFEST-{number}"))
}

fn current_path(dir: &Path) -> PathBuf {
    dir.join("CURRENT")
}

fn next_current_path(dir: &Path) -> PathBuf {
    dir.join("CURRENT.next")
}

impl Manifest {
    /// Writes a manifest that says `state` and makes it the current one.
    pub(crate) fn create(fs: &dyn Fs, dir: &Path, number: u64, state: State) -> Result<Manifest> {
        let manifest = Manifest::prepare(fs, dir, number, state)?;
        make_current(fs, dir)?;
        Ok(manifest)
    }

    /// Everything up to the call that makes a new manifest the current one.
    fn prepare(fs: &dyn Fs, dir: &Path, number: u64, state: State) -> Result<Manifest> {
        let path = manifest_path(dir, number);
        let file = fs.open(Site::ManifestCreate, &path, OpenHow::CreateNew)?;
        let bytes = state.encode(number);
        let rotate_at = SLACK_BYTES.max(4 * bytes.len() as u64);
        file.allocate(Site::ManifestAllocate, rotate_at)?;
        let dir = dir.to_owned();
        let mut manifest = Manifest { dir, number, file, end: 0, rotate_at, state };
        manifest.write(&bytes)?;
        write_next_current(fs, &manifest.dir, number)?;
        Ok(manifest)
    }

    /// Writes and syncs an edit behind the others.
    fn write(&mut self, bytes: &[u8]) -> Result<(), AppendError> {
        write_counted(&*self.file, Site::ManifestWrite, bytes, self.end).map_err(
            |(done, error)| {
                // Part of it is missing; but if that is zeros, all of it is there.
                let sites = (Site::ManifestErase, Site::ManifestEraseSync);
                let unchanged =
                    error.is_no_space() && take_back(&*self.file, sites, self.end, done).is_ok();
                let error = error.into();
                if unchanged { AppendError::Refused(error) } else { AppendError::Unknown(error) }
            },
        )?;
        self.file.sync(Site::ManifestSync).map_err(|error| AppendError::Unknown(error.into()))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Bytes that the manifest takes.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.rotate_at + 4096
    }

    /// Makes edits durable, all of them or none. Two system calls, seldom more.
    ///
    /// A failed write changes nothing; the caller poisons the store after a failed sync.
    pub(crate) fn append(&mut self, fs: &dyn Fs, edits: &[Edit]) -> Result<(), AppendError> {
        let mut state = self.state.clone();
        for edit in edits {
            state.apply(edit).map_err(|reason| {
                AppendError::Refused(KvsError::corrupt(self.file.path(), self.end, reason))
            })?;
        }
        let bytes = frame(&encode(edits), self.number, self.end);
        if self.end + bytes.len() as u64 > self.rotate_at {
            return self.rotate(fs, state);
        }
        self.write(&bytes)?;
        self.state = state;
        Ok(())
    }

    fn rotate(&mut self, fs: &dyn Fs, state: State) -> Result<(), AppendError> {
        let clean = state.clean;
        let old = self.number;
        let new = Manifest::prepare(fs, &self.dir, old + 1, state).map_err(|error| {
            if error.is_full() || error.is_out_of_files() {
                // Nothing names the new one yet, and the next try begins afresh.
                for path in [manifest_path(&self.dir, old + 1), next_current_path(&self.dir)] {
                    drop(fs.remove(Site::ManifestDiscard, &path));
                }
                AppendError::Refused(error)
            } else {
                AppendError::Unknown(error)
            }
        })?;
        // Whether the old or the new one is current after a failure is not known here.
        make_current(fs, &self.dir).map_err(AppendError::Unknown)?;
        *self = new;
        // The old one is a stray now; the next open removes it if this does not.
        drop(fs.remove(Site::ManifestRemove, &manifest_path(&self.dir, old)));
        if clean { self.append(fs, &[Edit::Clean]) } else { Ok(()) }
    }
}

/// How an append to the manifest failed.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// The manifest is as it was.
    Refused(KvsError),
    /// It may or may not have been changed on disk.
    Unknown(KvsError),
}

impl From<AppendError> for KvsError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Refused(error) | AppendError::Unknown(error) => error,
        }
    }
}

/// The current manifest's number and what it says.
pub(crate) fn load(fs: &dyn Fs, dir: &Path) -> Result<(u64, State)> {
    let number = read_current(fs, dir)?;
    let path = manifest_path(dir, number);
    let bytes = read_whole(fs, &path)?;
    Ok((number, replay(&path, &bytes, number)?))
}

/// What the bytes of the manifest at `path` say.
pub(crate) fn replay(path: &Path, bytes: &[u8], number: u64) -> Result<State> {
    let corrupt = |at: usize, reason: &str| KvsError::corrupt(path, at as u64, reason);
    let mut state = State::default();
    let mut at = 0;
    while let Some(payload) = payload_at(bytes, at, number) {
        // The version is looked at before anything that another one may do otherwise.
        if at == 0 {
            let found = format_of(payload).ok_or_else(|| corrupt(0, "it names no format"))?;
            if !is_known_format(found) {
                let path = path.to_owned();
                return Err(KvsError::UnknownFormat { path, found, known: FORMAT_VERSION });
            }
        }
        let edits = decode(payload).ok_or_else(|| corrupt(at, "an edit cannot be understood"))?;
        for edit in edits {
            state.apply(&edit).map_err(|reason| corrupt(at, reason))?;
        }
        at += padded(EDIT_HEADER_BYTES + payload.len());
    }
    if at == 0 {
        return Err(corrupt(0, "its first edit does not match its checksum"));
    }
    if (at..bytes.len()).step_by(8).skip(1).any(|at| payload_at(bytes, at, number).is_some()) {
        return Err(corrupt(at, "an edit does not match its checksum, and good ones follow"));
    }
    Ok(state)
}

/// What a damaged directory's manifests still say.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    /// What the edits add up to that could be read.
    pub(crate) state: State,
    /// Segments that an edit dropped.
    pub(crate) dropped: BTreeSet<u64>,
    /// What is wrong, and where; empty if the manifest is whole.
    pub(crate) damage: Vec<(PathBuf, u64, String)>,
}

/// Makes out what there is to make out, from the manifest that `CURRENT` names or else from the
/// newest that says anything.
///
/// # Errors
/// [`KvsError::UnknownFormat`]; everything else is damage.
pub(crate) fn load_remains(fs: &dyn Fs, dir: &Path, names: &[String]) -> Result<Remains> {
    let mut remains = Remains::default();
    let number_of = |name: &String| name.strip_prefix("MANIFEST-")?.parse().ok();
    let mut numbers: Vec<u64> = names.iter().filter_map(number_of).collect();
    numbers.sort_unstable();
    match read_current(fs, dir) {
        Ok(current) => {
            numbers.retain(|&number| number != current);
            numbers.push(current);
        }
        Err(KvsError::Corrupt { path, offset, reason }) => {
            remains.damage.push((path, offset, reason));
        }
        Err(error) => remains.damage.push((current_path(dir), 0, error.to_string())),
    }
    for &number in numbers.iter().rev() {
        let path = manifest_path(dir, number);
        let bytes = match read_whole(fs, &path) {
            Ok(bytes) => bytes,
            Err(error) => {
                remains.damage.push((path, 0, error.to_string()));
                continue;
            }
        };
        if remains.take(&path, &bytes, number)? {
            return Ok(remains);
        }
        remains.damage.push((path, 0, "no edit in it matches its checksum".to_owned()));
    }
    Ok(remains)
}

impl Remains {
    /// Applies all good edits of a manifest; returns whether there were any.
    fn take(&mut self, path: &Path, bytes: &[u8], number: u64) -> Result<bool> {
        let (mut at, mut bad_at, mut any) = (0, None, false);
        while at < bytes.len() {
            let Some(payload) = payload_at(bytes, at, number) else {
                if bytes[at..bytes.len().min(at + 8)].iter().any(|&byte| byte != 0) {
                    bad_at = bad_at.or(Some(at));
                }
                at += 8;
                continue;
            };
            if let Some(found) = format_of(payload)
                && !is_known_format(found)
            {
                let path = path.to_owned();
                return Err(KvsError::UnknownFormat { path, found, known: FORMAT_VERSION });
            }
            for edit in decode(payload).unwrap_or_default() {
                any = true;
                if let Edit::Drop { id } = edit {
                    self.dropped.insert(id);
                }
                // An edit that does not fit follows one that is lost.
                if self.state.apply(&edit).is_err() {
                    bad_at = bad_at.or(Some(at));
                }
            }
            at += padded(EDIT_HEADER_BYTES + payload.len());
        }
        if let Some(at) = bad_at
            && any
        {
            let reason = "an edit does not match its checksum".to_owned();
            self.damage.push((path.to_owned(), at as u64, reason));
        }
        Ok(any)
    }
}

/// The bytes of a manifest.
fn read_whole(fs: &dyn Fs, path: &Path) -> Result<Vec<u8>> {
    let file = fs.open(Site::ManifestOpen, path, OpenHow::Read)?;
    let length = file.len(Site::ManifestLength)?;
    if length > MANIFEST_BYTES_MAX {
        return Err(KvsError::corrupt(path, 0, "it is far larger than a manifest can be"));
    }
    let mut bytes = vec![0; length as usize];
    let got = read_full(&*file, Site::ManifestRead, &mut bytes, 0)?;
    bytes.truncate(got);
    Ok(bytes)
}

/// Writes what is to become `CURRENT`.
fn write_next_current(fs: &dyn Fs, dir: &Path, number: u64) -> Result<()> {
    let file = fs.open(Site::CurrentCreate, &next_current_path(dir), OpenHow::CreateNew)?;
    write_full(&*file, Site::CurrentWrite, current_line(number).as_bytes(), 0)?;
    file.sync(Site::CurrentSync)?;
    // Both names are on disk before the one that everything hangs on changes.
    fs.sync_dir(Site::ManifestDirSync, dir)?;
    Ok(())
}

/// Puts the new `CURRENT` in place.
fn make_current(fs: &dyn Fs, dir: &Path) -> Result<()> {
    fs.rename(Site::CurrentRename, &next_current_path(dir), &current_path(dir))?;
    fs.sync_dir(Site::CurrentDirSync, dir)?;
    Ok(())
}

fn read_current(fs: &dyn Fs, dir: &Path) -> Result<u64> {
    let path = current_path(dir);
    let file = fs.open(Site::CurrentOpen, &path, OpenHow::Read)?;
    let mut bytes = [0; 64];
    let got = read_full(&*file, Site::CurrentRead, &mut bytes, 0)?;
    let number = current_number(&bytes[..got]);
    number.ok_or_else(|| KvsError::corrupt(&path, 0, "it does not name a manifest"))
}

/// What `CURRENT` contains.
pub(crate) fn current_line(number: u64) -> String {
    let name = format!("MANIFEST-{number}");
    format!("{name} {:08x}\n", crc32c::crc32c(name.as_bytes()))
}

/// The number of the manifest that a line of `CURRENT` names.
pub(crate) fn current_number(line: &[u8]) -> Option<u64> {
    let name = std::str::from_utf8(line).ok()?.split(' ').next()?;
    let number = name.strip_prefix("MANIFEST-")?.parse().ok()?;
    // Written the same way again, so that no second spelling of a number or checksum passes.
    (current_line(number).as_bytes() == line).then_some(number)
}

fn seed(number: u64, offset: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), &offset.to_le_bytes())
}

fn frame(payload: &[u8], number: u64, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0; EDIT_HEADER_BYTES];
    bytes[4..].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(payload);
    let crc = crc32c::crc32c_append(seed(number, offset), &bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes.resize(padded(bytes.len()), 0);
    bytes
}

/// Gives the edit at `at` the checksum that it should have; returns where the next one begins.
#[cfg(any(test, fuzzing))]
pub(crate) fn mend(bytes: &mut [u8], at: usize, number: u64) -> Option<usize> {
    let end = at + EDIT_HEADER_BYTES + u32_at(bytes.get(at..at + EDIT_HEADER_BYTES)?, 4) as usize;
    let crc = crc32c::crc32c_append(seed(number, at as u64), bytes.get(at + 4..end)?);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    Some(padded(end))
}

fn payload_at(bytes: &[u8], at: usize, number: u64) -> Option<&[u8]> {
    let header = bytes.get(at..at + EDIT_HEADER_BYTES)?;
    let length = u32_at(header, 4) as usize;
    // Most places that are looked at lie in the allocated rest, which is zeros.
    if length == 0 {
        return None;
    }
    let rest = bytes.get(at + 4..at + EDIT_HEADER_BYTES + length)?;
    let crc = crc32c::crc32c_append(seed(number, at as u64), rest);
    (crc == u32_at(header, 0)).then(|| &rest[4..])
}

fn encode(edits: &[Edit]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |tag: u8, words: &[u64]| {
        out.push(tag);
        for word in words {
            out.extend_from_slice(&word.to_le_bytes());
        }
    };
    for edit in edits {
        match edit {
            Edit::Store { format, id, engine } => {
                let mut name = [0; 8];
                let length = engine.len().min(8);
                name[..length].copy_from_slice(&engine.as_bytes()[..length]);
                put(1, &[u64::from(*format), *id, u64::from_le_bytes(name)]);
            }
            Edit::Add { id, kind, salt, step } => put(2, &[*id, *kind as u64, *salt, *step]),
            Edit::Seal { id, seal } => {
                let Seal { base, end, seq_min, seq_max, records, purged_seq } = *seal;
                put(3, &[*id, base, end, seq_min, seq_max, records, purged_seq]);
            }
            Edit::Drop { id } => put(4, &[*id]),
            Edit::Next { position, seq, file_id, clock_ms } => {
                put(5, &[*position, *seq, *file_id, *clock_ms]);
            }
            Edit::Clean => put(6, &[]),
        }
    }
    out
}

/// The format version of a manifest, from its first payload.
fn format_of(payload: &[u8]) -> Option<u32> {
    (payload.len() >= 9 && payload[0] == 1).then(|| u64_at(payload, 1) as u32)
}

fn decode(mut payload: &[u8]) -> Option<Vec<Edit>> {
    let mut edits = Vec::new();
    while let Some((&tag, rest)) = payload.split_first() {
        let words = match tag {
            1 => 3,
            2 | 5 => 4,
            3 => 7,
            4 => 1,
            6 => 0,
            _ => return None,
        };
        let (fields, rest) = rest.split_at_checked(words * 8)?;
        payload = rest;
        let word = |i: usize| u64_at(fields, i * 8);
        edits.push(match tag {
            1 => {
                let name = word(2).to_le_bytes();
                let engine = std::str::from_utf8(&name).ok()?.trim_end_matches('\0').to_owned();
                Edit::Store { format: u32::try_from(word(0)).ok()?, id: word(1), engine }
            }
            2 => {
                let kind = SegmentKind::from_byte(u8::try_from(word(1)).ok()?)?;
                Edit::Add { id: word(0), kind, salt: word(2), step: word(3) }
            }
            3 => {
                let (base, end, seq_min) = (word(1), word(2), word(3));
                let (seq_max, records, purged_seq) = (word(4), word(5), word(6));
                let seal = Seal { base, end, seq_min, seq_max, records, purged_seq };
                Edit::Seal { id: word(0), seal }
            }
            4 => Edit::Drop { id: word(0) },
            5 => {
                Edit::Next { position: word(0), seq: word(1), file_id: word(2), clock_ms: word(3) }
            }
            _ => Edit::Clean,
        });
    }
    Some(edits)
}
