//! The lock of a directory: one process at a time.
//!
//! An advisory lock of the file `LOCK`, which lasts as long as the file is open. Its content is the
//! holder's process id, for the message to another process.
//!
//! Invariant: a lock that is held as found creates and changes nothing.

use std::path::Path;

use crate::error::{KvsError, Result};
use crate::fs::{Fs, FsFile, OpenHow, Site, read_full, write_full};
use crate::sync::Arc;

/// The lock of a directory, held as long as this lives.
#[derive(Debug)]
pub(crate) struct DirLock {
    file: Arc<dyn FsFile>,
}

/// Takes the directory's lock and leaves the process id in it.
pub(super) fn take_lock(fs: &dyn Fs, dir: &Path) -> Result<DirLock> {
    let lock = hold_lock(fs, dir)?;
    let pid = format!("{}\n", std::process::id());
    // The pid is a courtesy to a process that is refused; the lock itself does not depend on it.
    if lock.file.truncate(Site::LockTruncate, 0).is_ok() {
        drop(write_full(&*lock.file, Site::LockWrite, pid.as_bytes(), 0));
    }
    Ok(lock)
}

/// Takes the directory's lock; refused with its holder's process id.
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

/// The same without making a file: a directory without `LOCK` is open in no process.
pub(crate) fn hold_lock_as_found(
    fs: &dyn Fs,
    dir: &Path,
    names: &[String],
) -> Result<Option<DirLock>> {
    let is_there = names.iter().any(|name| name == "LOCK");
    if is_there { hold_lock(fs, dir).map(Some) } else { Ok(None) }
}
