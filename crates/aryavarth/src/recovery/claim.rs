//! Claiming a directory: held open, locked, and found to be this engine's or empty.
//!
//! ```text
//! create it -> hold it open -> refuse foreign files -> lock -> CURRENT? -- yes -> load the manifest
//!                                                                `-- no -> sync the way to it
//! ```
//!
//! Invariants:
//! - A directory with foreign files is not touched, its lock file included.
//! - After the claim every name is relative to the directory that is held open.

use std::path::Path;

use super::lock::{DirLock, take_lock};
use crate::error::{KvsError, Result};
use crate::fs::{Fs, Site, is_of_the_system};
use crate::manifest::{self, State};
use crate::options::Options;
use crate::segment::FORMAT_VERSION;
use crate::sync::Arc;

/// A directory that is locked and belongs to the engine that asked for it, or to no engine yet.
pub(crate) struct Claimed {
    /// The directory, held open: every later name is relative to it.
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) lock: DirLock,
    pub(crate) names: Vec<String>,
    /// The manifest's number, 0 as long as there is none.
    pub(crate) number: u64,
    pub(crate) state: State,
}

/// Locks a directory for `engine`, creating it if it does not exist.
pub(crate) fn claim(dir: &Path, options: &Options, engine: &str) -> Result<Claimed> {
    options.check()?;
    options.fs.create_dir(Site::DirCreate, dir)?;
    let fs = options.fs.open_dir(Site::DirOpen, dir)?;
    refuse_foreign(&*fs, dir)?;
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
            // A directory of another user, or of a file system without such a call: none that
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

pub(super) fn load_manifest(fs: &dyn Fs, dir: &Path, engine: &str) -> Result<(u64, State)> {
    let (number, state) = manifest::load(fs, dir)?;
    if state.engine != engine {
        let (path, found) = (dir.to_owned(), state.engine);
        return Err(KvsError::WrongEngine { path, found, asked: engine.to_owned() });
    }
    Ok((number, state))
}

/// Refuses a directory with files in it that no store made.
fn refuse_foreign(fs: &dyn Fs, dir: &Path) -> Result<()> {
    let names = fs.list(Site::DirListFirst, dir)?;
    if names.iter().any(|name| name == "CURRENT") {
        return Ok(());
    }
    // A crash while the store was being created leaves these.
    let ours = |name: &String| matches!(name.as_str(), "LOCK" | "CURRENT.next" | "MANIFEST-1");
    match names.iter().find(|name| !ours(name) && !is_of_the_system(name)) {
        Some(name) => {
            let reason = format!("it holds {name} but no CURRENT");
            Err(KvsError::NotOurs { path: dir.to_owned(), reason })
        }
        None => Ok(()),
    }
}
