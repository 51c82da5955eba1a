//! The operating system's file system.
//!
//! Thin on purpose: one method, one system call, no buffering. Directories are made 0700 and files
//! 0600, because a store's contents are its owner's business. Where a file system cannot allocate
//! ahead (`fallocate` unsupported), the file is simply not allocated: appends still work, syncs
//! just cost more.

#![allow(clippy::disallowed_methods, reason = "this is the file that touches the file system")]

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FallocateFlags, Mode, OFlags, fallocate, fsync, mkdirat, openat, renameat,
    unlinkat,
};
use rustix::io::{Errno, retry_on_intr};

use super::{Fs, FsFile, FsMap, IoError, OpenHow, Site, map};
use crate::sync::Arc;

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

/// A directory that is held open, and the path under which it was opened.
#[derive(Debug)]
struct RealDir {
    path: PathBuf,
    file: File,
}

#[derive(Debug)]
struct RealFile {
    path: PathBuf,
    file: File,
}

fn at(site: Site, path: &Path) -> impl FnOnce(io::Error) -> IoError + '_ {
    move |source| IoError { site, path: path.to_owned(), source }
}

/// Reads bytes that the page cache has.
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

/// A path as the system is given it: relative to an open directory.
#[derive(Clone, Copy)]
struct Place<'a> {
    dir: BorrowedFd<'a>,
    name: &'a Path,
}

impl Place<'_> {
    fn open(self, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(retry_on_intr(|| openat(self.dir, self.name, flags, mode))?.into())
    }

    fn open_dir(self) -> io::Result<File> {
        self.open(OFlags::RDONLY | OFlags::DIRECTORY)
    }

    fn list(self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(self.open_dir()?)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn lock(self, path: &Path) -> io::Result<Option<Arc<dyn FsFile>>> {
        // A disk that is mounted read-only, as a failing one should be, can be locked all the same.
        let file =
            self.open(OFlags::RDWR | OFlags::CREATE).or_else(|error| match error.kind() {
                io::ErrorKind::ReadOnlyFilesystem => self.open(OFlags::RDONLY),
                _ => Err(error),
            })?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Arc::new(RealFile { path: path.to_owned(), file }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(source),
        }
    }
}

fn flags_of(how: OpenHow) -> OFlags {
    match how {
        OpenHow::Read => OFlags::RDONLY,
        OpenHow::Write => OFlags::RDWR,
        OpenHow::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
    }
}

impl RealFs {
    fn place(path: &Path) -> Place<'_> {
        Place { dir: CWD, name: path }
    }
}

impl Fs for RealFs {
    fn create_dir(&self, site: Site, dir: &Path) -> Result<bool, IoError> {
        if dir.is_dir() {
            return Ok(false);
        }
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(site, dir))?;
        Ok(true)
    }

    fn open_dir(&self, site: Site, dir: &Path) -> Result<Arc<dyn Fs>, IoError> {
        let file = RealFs::place(dir).open_dir().map_err(at(site, dir))?;
        Ok(Arc::new(RealDir { path: dir.to_owned(), file }))
    }

    fn list(&self, site: Site, dir: &Path) -> Result<Vec<String>, IoError> {
        RealFs::place(dir).list().map_err(at(site, dir))
    }

    fn open(&self, site: Site, path: &Path, how: OpenHow) -> Result<Arc<dyn FsFile>, IoError> {
        let file = RealFs::place(path).open(flags_of(how)).map_err(at(site, path))?;
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
        RealFs::place(path).lock(path).map_err(at(site, path))
    }

    fn mappable_bytes(&self) -> u64 {
        map::mappable_bytes()
    }
}

impl RealDir {
    /// A path in this directory, relative to it.
    fn place<'a>(&'a self, path: &'a Path) -> io::Result<Place<'a>> {
        let outside = |_| io::Error::new(io::ErrorKind::InvalidInput, "not in the open directory");
        let name = path.strip_prefix(&self.path).map_err(outside)?;
        let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
        Ok(Place { dir: self.file.as_fd(), name })
    }

    /// The error of a call that creates the file `place`, with the reason where the directory is
    /// gone: in one that exists the system has always a place for a new name.
    fn told(place: Place<'_>, error: io::Error) -> io::Error {
        let is_here = place.name.components().count() == 1;
        if is_here && error.kind() == io::ErrorKind::NotFound {
            let reason = "the directory was removed while it was in use";
            return io::Error::new(io::ErrorKind::NotFound, reason);
        }
        error
    }
}

impl Fs for RealDir {
    fn create_dir(&self, site: Site, dir: &Path) -> Result<bool, IoError> {
        let create = || {
            let place = self.place(dir)?;
            match mkdirat(place.dir, place.name, Mode::RWXU) {
                Ok(()) => Ok(true),
                Err(Errno::EXIST) => place.open_dir().map(|_| false),
                Err(errno) => Err(errno.into()),
            }
        };
        match create() {
            Err(error) if error.kind() == io::ErrorKind::NotFound && dir != self.path => {
                self.create_dir(site, dir.parent().unwrap_or(&self.path))?;
                create().map_err(at(site, dir))
            }
            done => done.map_err(at(site, dir)),
        }
    }

    fn open_dir(&self, site: Site, dir: &Path) -> Result<Arc<dyn Fs>, IoError> {
        let file = self.place(dir).and_then(Place::open_dir).map_err(at(site, dir))?;
        Ok(Arc::new(RealDir { path: dir.to_owned(), file }))
    }

    fn list(&self, site: Site, dir: &Path) -> Result<Vec<String>, IoError> {
        self.place(dir).and_then(Place::list).map_err(at(site, dir))
    }

    fn open(&self, site: Site, path: &Path, how: OpenHow) -> Result<Arc<dyn FsFile>, IoError> {
        let place = self.place(path).map_err(at(site, path))?;
        let file = place.open(flags_of(how)).map_err(|error| match how {
            OpenHow::CreateNew => at(site, path)(RealDir::told(place, error)),
            OpenHow::Read | OpenHow::Write => at(site, path)(error),
        })?;
        Ok(Arc::new(RealFile { path: path.to_owned(), file }))
    }

    fn rename(&self, site: Site, from: &Path, to: &Path) -> Result<(), IoError> {
        let rename = || {
            let (from, to) = (self.place(from)?, self.place(to)?);
            Ok(renameat(from.dir, from.name, to.dir, to.name)?)
        };
        rename().map_err(at(site, from))
    }

    fn remove(&self, site: Site, path: &Path) -> Result<(), IoError> {
        let place = self.place(path);
        place
            .and_then(|place| Ok(unlinkat(place.dir, place.name, AtFlags::empty())?))
            .map_err(at(site, path))
    }

    fn sync_dir(&self, site: Site, dir: &Path) -> Result<(), IoError> {
        let sync = || {
            let is_own = self.place(dir)?.name == Path::new(".");
            let other = if is_own { None } else { Some(self.place(dir)?.open_dir()?) };
            Ok(retry_on_intr(|| fsync(other.as_ref().unwrap_or(&self.file)))?)
        };
        sync().map_err(at(site, dir))
    }

    fn try_lock(&self, site: Site, path: &Path) -> Result<Option<Arc<dyn FsFile>>, IoError> {
        self.place(path).and_then(|place| place.lock(path)).map_err(at(site, path))
    }

    fn mappable_bytes(&self) -> u64 {
        map::mappable_bytes()
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
            // Not cached, or interrupted; then the ways to say that it is unknown.
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

    fn map(&self, bytes: u64) -> Option<Box<dyn FsMap>> {
        map::map(&self.file, bytes)
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
