//! The operating system's file system.
//!
//! Thin on purpose: one method, one system call, no buffering. Directories are made 0700 and files
//! 0600, because a store's contents are its owner's business. Where a file system cannot allocate
//! ahead (`fallocate` unsupported), the file is simply not allocated: appends still work, syncs
//! just cost more.

#![allow(clippy::disallowed_methods, reason = "this is the file that touches the file system")]

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, retry_on_intr};

use super::{Fs, FsFile, IoError, OpenHow, Site};
use crate::sync::Arc;

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

#[derive(Debug)]
struct RealFile {
    path: PathBuf,
    file: File,
}

fn at(site: Site, path: &Path) -> impl FnOnce(io::Error) -> IoError + '_ {
    move |source| IoError { site, path: path.to_owned(), source }
}

/// Reads what the page cache has.
#[cfg(target_os = "linux")]
fn read_cached(file: &File, buf: &mut [u8], offset: u64) -> Result<usize, Errno> {
    use rustix::io::{ReadWriteFlags, preadv2};
    preadv2(file, &mut [io::IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT)
}

/// There is no such call here.
#[cfg(not(target_os = "linux"))]
fn read_cached(_file: &File, _buf: &mut [u8], _offset: u64) -> Result<usize, Errno> {
    Err(Errno::OPNOTSUPP)
}

impl Fs for RealFs {
    fn create_dir(&self, site: Site, dir: &Path) -> Result<bool, IoError> {
        if dir.is_dir() {
            return Ok(false);
        }
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(site, dir))?;
        Ok(true)
    }

    fn list(&self, site: Site, dir: &Path) -> Result<Vec<String>, IoError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(at(site, dir))? {
            let name = entry.map_err(at(site, dir))?.file_name();
            names.push(name.to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn open(&self, site: Site, path: &Path, how: OpenHow) -> Result<Arc<dyn FsFile>, IoError> {
        let mut options = OpenOptions::new();
        options.read(true).write(how != OpenHow::Read).create_new(how == OpenHow::CreateNew);
        let file = options.mode(0o600).open(path).map_err(at(site, path))?;
        Ok(Arc::new(RealFile { path: path.to_owned(), file }))
    }

    fn real_path(&self, site: Site, path: &Path) -> Result<PathBuf, IoError> {
        let absolute = std::path::absolute(path).map_err(at(site, path))?;
        for parent in absolute.ancestors() {
            match fs::canonicalize(parent) {
                Ok(real) => {
                    let rest = absolute.strip_prefix(parent).unwrap_or(Path::new(""));
                    return Ok(if rest == Path::new("") { real } else { real.join(rest) });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at(site, path)(error)),
            }
        }
        Ok(absolute)
    }

    fn rename(&self, site: Site, from: &Path, to: &Path) -> Result<(), IoError> {
        fs::rename(from, to).map_err(at(site, from))
    }

    fn remove(&self, site: Site, path: &Path) -> Result<(), IoError> {
        fs::remove_file(path).map_err(at(site, path))
    }

    fn sync_dir(&self, site: Site, dir: &Path) -> Result<(), IoError> {
        File::open(dir).and_then(|file| file.sync_all()).map_err(at(site, dir))
    }

    fn try_lock(&self, site: Site, path: &Path) -> Result<Option<Arc<dyn FsFile>>, IoError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        // A disk that is mounted read-only, as a failing one should be, can be locked all the same.
        let file = options.open(path).or_else(|error| match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => File::open(path),
            _ => Err(error),
        });
        let file = file.map_err(at(site, path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Arc::new(RealFile { path: path.to_owned(), file }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(at(site, path)(source)),
        }
    }
}

impl FsFile for RealFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, site: Site, buf: &mut [u8], offset: u64) -> Result<usize, IoError> {
        self.file.read_at(buf, offset).map_err(at(site, &self.path))
    }

    fn read_at_now(
        &self,
        site: Site,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<Option<usize>, IoError> {
        match read_cached(&self.file, buf, offset) {
            Ok(bytes) => Ok(Some(bytes)),
            // Not cached, or interrupted; then the ways to say that nobody knows.
            Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                Ok(None)
            }
            Err(errno) => Err(at(site, &self.path)(errno.into())),
        }
    }

    fn will_need(&self, offset: u64, bytes: u64) {
        let length = std::num::NonZeroU64::new(bytes);
        let _ = rustix::fs::fadvise(&self.file, offset, length, rustix::fs::Advice::WillNeed);
    }

    fn write_at(&self, site: Site, buf: &[u8], offset: u64) -> Result<usize, IoError> {
        self.file.write_at(buf, offset).map_err(at(site, &self.path))
    }

    fn allocate(&self, site: Site, len: u64) -> Result<(), IoError> {
        // The length changes afterwards and at once: a call that finds too little space may have
        // moved it by a part, which would be there if the process ended now.
        match retry_on_intr(|| fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, len)) {
            Ok(()) if self.len(site)? < len => self.truncate(site, len),
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(at(site, &self.path)(errno.into())),
        }
    }

    fn truncate(&self, site: Site, len: u64) -> Result<(), IoError> {
        self.file.set_len(len).map_err(at(site, &self.path))
    }

    fn sync(&self, site: Site) -> Result<(), IoError> {
        self.file.sync_data().map_err(at(site, &self.path))
    }

    fn len(&self, site: Site) -> Result<u64, IoError> {
        Ok(self.file.metadata().map_err(at(site, &self.path))?.len())
    }

    fn allocated(&self, site: Site) -> Result<u64, IoError> {
        Ok(self.file.metadata().map_err(at(site, &self.path))?.blocks() * 512)
    }
}
