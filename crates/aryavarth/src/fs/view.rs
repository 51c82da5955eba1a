//! A view of a directory: files that were opened at one moment, with all changes kept in memory.
//!
//! ```text
//!  read of a captured file  ->  the file, up to its length at that moment
//!  create, write, remove    ->  memory
//! ```
//!
//! Invariants:
//! - No call changes a file, a name or a lock of the directory.
//! - A captured file keeps its length; if the file was cut since, zeros stand for the rest, and the
//!   capture knows that it was read there.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::{Fs, FsFile, IoError, OpenHow, Site};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, Rank, lock};

/// The view; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct View(Arc<Mutex<BTreeMap<PathBuf, Arc<dyn FsFile>>>>);

fn refuse<T>(site: Site, path: &Path, kind: io::ErrorKind) -> Result<T, IoError> {
    Err(IoError { site, path: path.to_owned(), source: kind.into() })
}

impl View {
    /// A view of files by their paths, each a [`Captured`] one or one [`in_memory`].
    pub(crate) fn new(files: BTreeMap<PathBuf, Arc<dyn FsFile>>) -> View {
        View(Arc::new(Mutex::new(Rank::View, files)))
    }
}

/// A file of the view alone.
pub(crate) fn in_memory(path: &Path, bytes: Vec<u8>) -> Arc<dyn FsFile> {
    Arc::new(InMemory { path: path.to_owned(), bytes: Mutex::new(Rank::View, bytes) })
}

impl Fs for View {
    fn create_dir(&self, _site: Site, _dir: &Path) -> Result<bool, IoError> {
        Ok(false)
    }

    fn open_dir(&self, _site: Site, _dir: &Path) -> Result<Arc<dyn Fs>, IoError> {
        Ok(Arc::new(self.clone()))
    }

    fn list(&self, _site: Site, dir: &Path) -> Result<Vec<String>, IoError> {
        let files = lock(&self.0);
        let names = files.keys().filter_map(|path| path.strip_prefix(dir).ok());
        Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
    }

    fn open(&self, site: Site, path: &Path, how: OpenHow) -> Result<Arc<dyn FsFile>, IoError> {
        let mut files = lock(&self.0);
        match (files.get(path), how) {
            (Some(_), OpenHow::CreateNew) => refuse(site, path, io::ErrorKind::AlreadyExists),
            (Some(file), _) => Ok(Arc::clone(file)),
            (None, OpenHow::CreateNew) => {
                let file = in_memory(path, Vec::new());
                files.insert(path.to_owned(), Arc::clone(&file));
                Ok(file)
            }
            (None, _) => refuse(site, path, io::ErrorKind::NotFound),
        }
    }

    fn rename(&self, site: Site, from: &Path, to: &Path) -> Result<(), IoError> {
        let mut files = lock(&self.0);
        match files.remove(from) {
            Some(file) => {
                files.insert(to.to_owned(), file);
                Ok(())
            }
            None => refuse(site, from, io::ErrorKind::NotFound),
        }
    }

    fn remove(&self, site: Site, path: &Path) -> Result<(), IoError> {
        match lock(&self.0).remove(path) {
            Some(_) => Ok(()),
            None => refuse(site, path, io::ErrorKind::NotFound),
        }
    }

    fn sync_dir(&self, _site: Site, _dir: &Path) -> Result<(), IoError> {
        Ok(())
    }

    fn try_lock(&self, _site: Site, path: &Path) -> Result<Option<Arc<dyn FsFile>>, IoError> {
        Ok(Some(in_memory(path, Vec::new())))
    }
}

/// An open file with the length that it had at one moment.
#[derive(Debug)]
pub(crate) struct Captured {
    file: Arc<dyn FsFile>,
    length: AtomicU64,
    was_cut: AtomicBool,
}

impl Captured {
    /// The file as it is now. One system call.
    pub(crate) fn new(site: Site, file: Arc<dyn FsFile>) -> Result<Captured, IoError> {
        let length = AtomicU64::new(file.len(site)?);
        Ok(Captured { file, length, was_cut: AtomicBool::new(false) })
    }

    /// Whether a read met a place that was cut off since.
    pub(crate) fn was_cut(&self) -> bool {
        self.was_cut.load(Ordering::Relaxed)
    }

    /// How much of a read of `bytes` at `offset` lies before the captured end.
    fn within(&self, bytes: usize, offset: u64) -> usize {
        let left = self.length.load(Ordering::Relaxed).saturating_sub(offset);
        bytes.min(usize::try_from(left).unwrap_or(usize::MAX))
    }
}

impl FsFile for Captured {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn read_at(&self, site: Site, buf: &mut [u8], offset: u64) -> Result<usize, IoError> {
        let within = self.within(buf.len(), offset);
        let buf = &mut buf[..within];
        match self.file.read_at(site, buf, offset)? {
            0 if within > 0 => {
                self.was_cut.store(true, Ordering::Relaxed);
                buf.fill(0);
                Ok(within)
            }
            got => Ok(got),
        }
    }

    fn read_at_now(
        &self,
        site: Site,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<Option<usize>, IoError> {
        let within = self.within(buf.len(), offset);
        self.file.read_at_now(site, &mut buf[..within], offset)
    }

    fn will_need(&self, offset: u64, bytes: u64) {
        self.file.will_need(offset, bytes);
    }

    fn write_at(&self, site: Site, _buf: &[u8], _offset: u64) -> Result<usize, IoError> {
        refuse(site, self.path(), io::ErrorKind::ReadOnlyFilesystem)
    }

    fn allocate(&self, site: Site, _len: u64) -> Result<(), IoError> {
        refuse(site, self.path(), io::ErrorKind::ReadOnlyFilesystem)
    }

    fn truncate(&self, _site: Site, len: u64) -> Result<(), IoError> {
        self.length.fetch_min(len, Ordering::Relaxed);
        Ok(())
    }

    fn sync(&self, site: Site) -> Result<(), IoError> {
        self.file.sync(site)
    }

    fn len(&self, _site: Site) -> Result<u64, IoError> {
        Ok(self.length.load(Ordering::Relaxed))
    }

    fn allocated(&self, site: Site) -> Result<u64, IoError> {
        self.file.allocated(site)
    }
}

#[derive(Debug)]
struct InMemory {
    path: PathBuf,
    bytes: Mutex<Vec<u8>>,
}

impl InMemory {
    fn resize(&self, len: u64, grows_only: bool) {
        let mut bytes = lock(&self.bytes);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if !grows_only || len > bytes.len() {
            bytes.resize(len, 0);
        }
    }
}

impl FsFile for InMemory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, _site: Site, buf: &mut [u8], offset: u64) -> Result<usize, IoError> {
        let bytes = lock(&self.bytes);
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let length = buf.len().min(bytes.len() - from);
        buf[..length].copy_from_slice(&bytes[from..from + length]);
        Ok(length)
    }

    fn read_at_now(
        &self,
        site: Site,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<Option<usize>, IoError> {
        self.read_at(site, buf, offset).map(Some)
    }

    fn write_at(&self, _site: Site, buf: &[u8], offset: u64) -> Result<usize, IoError> {
        self.resize(offset + buf.len() as u64, true);
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        lock(&self.bytes)[from..from + buf.len()].copy_from_slice(buf);
        Ok(buf.len())
    }

    fn allocate(&self, _site: Site, len: u64) -> Result<(), IoError> {
        self.resize(len, true);
        Ok(())
    }

    fn truncate(&self, _site: Site, len: u64) -> Result<(), IoError> {
        self.resize(len, false);
        Ok(())
    }

    fn sync(&self, _site: Site) -> Result<(), IoError> {
        Ok(())
    }

    fn len(&self, _site: Site) -> Result<u64, IoError> {
        Ok(lock(&self.bytes).len() as u64)
    }

    fn allocated(&self, site: Site) -> Result<u64, IoError> {
        self.len(site)
    }
}
