//! An open beside the process that has the store open, which changes no file.
//!
//! ```text
//! manifest -> open all that it names -> manifest again -- the same -> recovery over a view
//!    ^                                    |                               |
//!    +------------- another --------------+         sync the log's files -+-> readers
//! ```
//!
//! The files are opened between two looks at the manifest that agree, so they are the store of one
//! moment: the writer may drop and remove them afterwards, and open handles go on. Recovery then runs
//! as after a crash, in a view that keeps its changes in memory. The writer cuts a segment when it
//! seals it, and recovery cuts one after a crash: an open that read there begins again.
//!
//! Invariants:
//! - Everything that was acknowledged before the open began is there.
//! - Nothing is shown before it is on disk: the files that were not sealed are synced between the
//!   reading of their records and the return of the open.
//! - A sync of the reader's that fails is one of the writer's too: the system reports it to each open
//!   handle of the file (Linux since 4.13), so the writer does not acknowledge the lost writes. After a
//!   failed sync of the writer's, which poisons the store, there is no such help: the records that it
//!   lost are still in the page cache and show here.
//! - A call of the writer that appends several batches, and finds no space for the last of them, takes
//!   all of them back: it zeroes the first record at once, then syncs. A reader that read the file
//!   between the refusal and the zeros shows the batches that were whole. A single batch is one frame,
//!   which is whole only when all of it is written, so it never shows.
//! - Bytes that change while they are read can look like damage; damage is reported only if it is
//!   there again and again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{DirLock, ENGINE, MISSING, Recovery, claim};
use crate::error::{KvsError, Result};
use crate::fs::{Captured, Fs, FsFile, IoError, OpenHow, Site, View, in_memory};
use crate::log::Log;
use crate::manifest::{self, State, manifest_path};
use crate::options::Options;
use crate::segment::{hint_path, log_path};
use crate::sync::{Arc, thread};

/// How often the open begins again because the writer has changed files meanwhile, and the pause.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// The files of a store at one moment.
struct Moment {
    view: View,
    /// Files that were not sealed: the writer's page cache may be ahead of the disk.
    unsealed: Vec<Arc<Captured>>,
}

/// Opens the store in a directory for reading, whether or not another process has it open.
pub(crate) fn open_beside(dir: &Path, options: &Options) -> Result<(Log, DirLock, Recovery)> {
    options.check()?;
    let fs = options.fs.open_dir(Site::BesideDirOpen, dir)?;
    let mut tries = 0;
    loop {
        tries += 1;
        match try_open(&fs, dir, options) {
            Err(KvsError::Corrupt { .. }) if tries < TRIES => thread::sleep(PAUSE),
            done => return done,
        }
    }
}

fn try_open(fs: &Arc<dyn Fs>, dir: &Path, options: &Options) -> Result<(Log, DirLock, Recovery)> {
    let moment = capture(fs, dir)?;
    let options = Options { fs: Arc::new(moment.view), ..options.clone() };
    let opened = super::open(dir, &options)?;
    for file in &moment.unsealed {
        file.sync(Site::BesideSync)?;
        if file.was_cut() {
            return Err(KvsError::corrupt(file.path(), 0, "the file was cut while it was read"));
        }
    }
    Ok(opened)
}

/// Opens the files of the current manifest. One that is gone, or another manifest afterwards, is
/// reported as damage, which the caller tries again.
fn capture(fs: &Arc<dyn Fs>, dir: &Path) -> Result<Moment> {
    let (number, state) = load_manifest(&**fs, dir)?;
    let mut files: BTreeMap<PathBuf, Arc<dyn FsFile>> = BTreeMap::new();
    let mut unsealed = Vec::new();
    for (&id, facts) in &state.segments {
        let path = log_path(dir, id);
        let file = open_captured(&**fs, &path).map_err(|error| missing(&path, error))?;
        unsealed.extend(facts.seal.is_none().then(|| Arc::clone(&file)));
        files.insert(path, file);
        if facts.seal.is_some() {
            let path = hint_path(dir, id);
            // Without its hint the segment itself is read.
            if let Ok(hint) = open_captured(&**fs, &path) {
                files.insert(path, hint);
            }
        }
    }
    let again = load_manifest(&**fs, dir)?;
    if again != (number, state.clone()) {
        return Err(KvsError::corrupt(&manifest_path(dir, number), 0, "it changes all the time"));
    }
    files.extend(manifest_of(dir, number, &state));
    Ok(Moment { view: View::new(files), unsealed })
}

/// The manifest as it was read, and the file that names it.
fn manifest_of(dir: &Path, number: u64, state: &State) -> [(PathBuf, Arc<dyn FsFile>); 2] {
    let current = dir.join("CURRENT");
    let manifest = manifest_path(dir, number);
    let line = manifest::current_line(number).into_bytes();
    let files = [in_memory(&current, line), in_memory(&manifest, state.encode(number))];
    let [line, state] = files;
    [(current, line), (manifest, state)]
}

/// The current manifest. One that is gone by the time it is opened was replaced meanwhile.
fn load_manifest(fs: &dyn Fs, dir: &Path) -> Result<(u64, State)> {
    claim::load_manifest(fs, dir, ENGINE).map_err(|error| match &error {
        KvsError::Io(io) if io.path != dir.join("CURRENT") && is_gone(io) => {
            KvsError::corrupt(&io.path, 0, MISSING)
        }
        _ => error,
    })
}

fn is_gone(error: &IoError) -> bool {
    error.source.kind() == std::io::ErrorKind::NotFound
}

fn open_captured(fs: &dyn Fs, path: &Path) -> Result<Arc<Captured>, IoError> {
    let file = fs.open(Site::BesideOpen, path, OpenHow::Read)?;
    Ok(Arc::new(Captured::new(Site::BesideLength, file)?))
}

/// The error for a file that the manifest names; one that is not there may have been dropped since.
fn missing(path: &Path, error: IoError) -> KvsError {
    if is_gone(&error) { KvsError::corrupt(path, 0, MISSING) } else { error.into() }
}
