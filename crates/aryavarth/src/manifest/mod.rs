//! The manifest: which files the store consists of.
//!
//! An append-only file of checksummed edits (edit.rs). An edit is the only way in which the set of
//! files changes: it is synced before anything depends on it, and a file that no edit names does
//! not belong to the store. The edits add up to a state (state.rs). `CURRENT` names the manifest in
//! use; a new one is written whole and put in place by renaming `CURRENT`, at every open and when
//! the old one has grown. Of a damaged one remains.rs reads as much as its checksums prove.
//!
//! ```text
//! MANIFEST-7: state | edit | edit        CURRENT: "MANIFEST-7"
//! MANIFEST-8: state of 7 and its edits   CURRENT.next: "MANIFEST-8", then renamed to CURRENT
//! ```
//!
//! Invariants:
//! - A segment is named here before its first record is written, a copy before it is pointed at.
//! - A bad edit at the end was never acknowledged; a bad one with a good one after it is rot.

mod edit;
mod remains;
mod state;

use std::path::{Path, PathBuf};

use crate::error::{KvsError, Result};
use crate::fs::{Fs, FsFile, OpenHow, Site, read_full, take_back, write_counted, write_full};
use crate::record::padded;
use crate::segment::{FORMAT_VERSION, is_known_format};
use crate::sync::Arc;

#[cfg(any(test, fuzzing))]
pub(crate) use edit::mend;
use edit::{EDIT_HEADER_BYTES, decode, encode, format_of, frame, payload_at};
pub(crate) use remains::{Remains, load_remains};
pub(crate) use state::{Edit, Seal, SegmentFacts, State};

/// Allocated ahead, so that edits still fit when the disk is full.
const SLACK_BYTES: u64 = 64 << 10;
/// No manifest is larger: 65,536 segments take less.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

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

    /// Everything up to [`make_current`], which makes a new manifest the current one. After a
    /// failure nothing names the new one, and its beginning can be removed.
    pub(crate) fn prepare(fs: &dyn Fs, dir: &Path, number: u64, state: State) -> Result<Manifest> {
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

/// The current manifest's number and its state.
pub(crate) fn load(fs: &dyn Fs, dir: &Path) -> Result<(u64, State)> {
    let number = read_current(fs, dir)?;
    let path = manifest_path(dir, number);
    let bytes = read_whole(fs, &path)?;
    Ok((number, replay(&path, &bytes, number)?))
}

/// The state that the edits in the bytes of the manifest at `path` add up to.
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

/// Writes the file that is to become `CURRENT`.
fn write_next_current(fs: &dyn Fs, dir: &Path, number: u64) -> Result<()> {
    let file = fs.open(Site::CurrentCreate, &next_current_path(dir), OpenHow::CreateNew)?;
    write_full(&*file, Site::CurrentWrite, current_line(number).as_bytes(), 0)?;
    file.sync(Site::CurrentSync)?;
    // Both names are on disk before the one that everything hangs on changes.
    fs.sync_dir(Site::ManifestDirSync, dir)?;
    Ok(())
}

/// Puts the new `CURRENT` in place.
pub(crate) fn make_current(fs: &dyn Fs, dir: &Path) -> Result<()> {
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

/// The line that `CURRENT` contains.
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
