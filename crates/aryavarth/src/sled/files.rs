//! sled's files, made durable through handles of our own.
//!
//! sled's `flush` hands its buffers to the system and starts the disk on them (`sync_file_range`),
//! but neither empties the disk's own cache nor makes a file's length durable; large values go to
//! files of their own that are never synced; names of files are never synced at all; and the one real
//! sync, that of its background thread, logs its errors and goes on. So the store keeps a handle of
//! its own on sled's log, and the system reports to each handle every failure since it was opened.
//!
//! Invariants:
//! - Writes from before a sync began are flushed first, then their blobs are synced, and the log
//!   that points at them last.
//! - A blob counts as settled only after a sync that followed its completion: it may be found in
//!   the directory while sled still writes it. A blob that was listed before a flush is complete after it.

use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};

use ::sled::Db;

use crate::error::{KvsError, Result};
use crate::fs::{Fs, FsFile, OpenHow, Site, is_of_the_system};
use crate::sync::{Arc, Mutex, Rank, lock};
use crate::watermarks::Syncable;

/// sled's log file and its folder of large values, by their names in sled's directory.
const LOG: &str = "db";
const BLOBS: &str = "blobs";

pub(super) fn failed(error: ::sled::Error) -> KvsError {
    KvsError::from(error)
}

/// For engines over sled outside of this crate.
impl From<::sled::Error> for KvsError {
    fn from(error: ::sled::Error) -> KvsError {
        KvsError::Engine(Arc::new(error))
    }
}

/// sled's buffers, which a `kill -9` would take along: a sync hands them to the system.
#[derive(Debug)]
pub(super) struct Buffers(pub(super) Db);

impl Syncable for Buffers {
    fn sync(&self) -> Result<()> {
        self.0.flush().map(drop).map_err(failed)
    }
}

/// sled's files, which a power cut would tear: a sync hands them to the disk.
pub(super) struct Files {
    db: Db,
    fs: Arc<dyn Fs>,
    log: Arc<dyn FsFile>,
    blob_dir: PathBuf,
    blobs: Mutex<Blobs>,
}

#[derive(Default)]
struct Blobs {
    /// The blobs that the last sync found in the directory.
    listed: BTreeSet<String>,
    /// The blobs that were complete when they were synced. sled never changes one.
    settled: BTreeSet<String>,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").field("log", &self.log.path()).finish_non_exhaustive()
    }
}

/// Whether the directory holds the log of a sled that was opened before.
pub(super) fn has_log(fs: &dyn Fs, home: &Path) -> Result<bool> {
    Ok(fs.list(Site::SledListFirst, home)?.iter().any(|name| name == LOG))
}

impl Files {
    /// Makes everything durable that sled has in `home` right after its open, names included.
    pub(super) fn settle(db: Db, fs: Arc<dyn Fs>, home: &Path) -> Result<Files> {
        for name in fs.list(Site::SledList, home)? {
            if name != BLOBS && !is_of_the_system(&name) {
                let file = fs.open(Site::SledOpen, &home.join(name), OpenHow::Read)?;
                file.sync(Site::SledSync)?;
            }
        }
        let log = fs.open(Site::SledLogOpen, &home.join(LOG), OpenHow::Read)?;
        let (blob_dir, blobs) = (home.join(BLOBS), Mutex::new(Rank::Blobs, Blobs::default()));
        let files = Files { db, fs, log, blob_dir, blobs };
        files.sync()?;
        files.fs.sync_dir(Site::SledDirSync, home)?;
        if let Some(dir) = home.parent() {
            files.fs.sync_dir(Site::SledParentSync, dir)?;
        }
        Ok(files)
    }

    /// Syncs the blobs that are not settled. Lists the directory, so it costs a moment per
    /// thousand large values in the store.
    fn sync_blobs(&self) -> Result<()> {
        let mut blobs = lock(&self.blobs);
        let names = self.fs.list(Site::SledBlobList, &self.blob_dir)?;
        let listed: BTreeSet<String> =
            names.into_iter().filter(|name| !is_of_the_system(name)).collect();
        let mut is_changed = false;
        for name in listed.difference(&blobs.settled) {
            let path = self.blob_dir.join(name);
            match self.fs.open(Site::SledBlobOpen, &path, OpenHow::Read) {
                Ok(file) => file.sync(Site::SledBlobSync)?,
                // sled removes blobs that nothing durable points at any more.
                Err(error) if error.source.kind() == NotFound => {}
                Err(error) => return Err(error.into()),
            }
            is_changed = true;
        }
        if is_changed {
            self.fs.sync_dir(Site::SledBlobDirSync, &self.blob_dir)?;
        }
        blobs.settled = listed.intersection(&blobs.listed).cloned().collect();
        blobs.listed = listed;
        Ok(())
    }
}

impl Syncable for Files {
    fn sync(&self) -> Result<()> {
        self.db.flush().map_err(failed)?;
        self.sync_blobs()?;
        Ok(self.log.sync(Site::SledLogSync)?)
    }
}
