//! An open simulated file: the calls of one handle, checked, counted and passed to its inode.
//!
//! Invariants:
//! - A handle goes on working after its file's name is gone, as long as it lives.
//! - The lock that a handle holds is free once the handle is dropped.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::image::Inode;
use super::{Fault, State, at};
use crate::fs::{FsFile, FsMap, IoError, Site};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, lock};

/// Longer files are refused, so that a wild offset is an error and not the end of the memory.
const FILE_BYTES_MAX: u64 = 4 << 30;

pub(super) struct SimFile {
    state: Arc<Mutex<State>>,
    number: u64,
    path: PathBuf,
    writable: bool,
    holds_lock: AtomicBool,
    /// Lost syncs of the file that this handle has reported, or that came before it.
    losses_seen: AtomicU64,
}

impl SimFile {
    /// A handle of the inode `number`, which counts it already and has had so many lost syncs.
    pub(super) fn new(
        state: Arc<Mutex<State>>,
        number: u64,
        path: PathBuf,
        writable: bool,
        losses: u64,
    ) -> SimFile {
        let losses_seen = AtomicU64::new(losses);
        SimFile { state, number, path, writable, holds_lock: AtomicBool::new(false), losses_seen }
    }

    /// Frees the inode's lock when this handle is dropped.
    pub(super) fn hold_lock(&self) {
        self.holds_lock.store(true, Ordering::Relaxed);
    }

    /// Counts a call and, if it gets that far, runs `body`, which minds the fault.
    fn call<R>(
        &self,
        site: Site,
        body: impl FnOnce(&mut State, Option<Fault>) -> io::Result<R>,
    ) -> Result<R, IoError> {
        let mut state = lock(&self.state);
        let done = state.call(site).and_then(|fault| body(&mut state, fault));
        done.map_err(at(site, &self.path))
    }

    fn inode<'a>(&self, state: &'a mut State) -> io::Result<&'a mut Inode> {
        state.inodes.get_mut(&self.number).ok_or(Errno::BADF.into())
    }

    /// Refuses a change that this handle may not make, and one that ends nowhere sensible.
    fn check_change(&self, end: Option<u64>) -> io::Result<()> {
        match end {
            _ if !self.writable => Err(Errno::BADF.into()),
            Some(end) if end <= FILE_BYTES_MAX => Ok(()),
            _ => Err(Errno::FBIG.into()),
        }
    }
}

/// How many of `bytes` a call with `fault` moves.
fn moved(bytes: usize, fault: Option<Fault>) -> io::Result<usize> {
    match fault {
        Some(Fault::Interrupted) => Err(Errno::INTR.into()),
        Some(Fault::Short) => Ok(bytes.div_ceil(2)),
        _ => Ok(bytes),
    }
}

/// The live image of a file, read without a call. The file's handle outlives it.
struct SimMap {
    state: Arc<Mutex<State>>,
    number: u64,
    bytes: u64,
}

impl fmt::Debug for SimMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimMap").field("number", &self.number).finish_non_exhaustive()
    }
}

impl FsMap for SimMap {
    fn copy(&self, offset: u64, to: &mut [u8]) -> bool {
        if offset + to.len() as u64 > self.bytes {
            return false;
        }
        let mut state = lock(&self.state);
        let got = state.inodes.get(&self.number).map(|inode| inode.live().read(to, offset));
        assert_eq!(got, Some(to.len()), "a mapping is read beyond the end of its file");
        if let Some(change) = state.maps {
            state.mapped_copies += 1;
            drop(state);
            change(offset, to);
        }
        true
    }

    fn populate(&self, offset: u64, bytes: u64) -> bool {
        offset + bytes <= self.bytes
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if let Some(inode) = state.inodes.get_mut(&self.number) {
            inode.handles -= 1;
            if self.holds_lock.load(Ordering::Relaxed) {
                inode.locked = false;
            }
        }
    }
}

impl FsFile for SimFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, site: Site, buf: &mut [u8], offset: u64) -> Result<usize, IoError> {
        self.call(site, |state, fault| {
            let bytes = moved(buf.len(), fault)?;
            Ok(self.inode(state)?.live().read(&mut buf[..bytes], offset))
        })
    }

    fn read_at_now(
        &self,
        site: Site,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<Option<usize>, IoError> {
        // Everything is in memory.
        match self.read_at(site, buf, offset) {
            Err(error) if error.source.kind() == io::ErrorKind::Interrupted => Ok(None),
            done => done.map(Some),
        }
    }

    fn map(&self, bytes: u64) -> Option<Box<dyn FsMap>> {
        lock(&self.state).maps?;
        Some(Box::new(SimMap { state: Arc::clone(&self.state), number: self.number, bytes }))
    }

    fn write_at(&self, site: Site, buf: &[u8], offset: u64) -> Result<usize, IoError> {
        self.call(site, |state, fault| {
            self.check_change(offset.checked_add(buf.len() as u64))?;
            let blocks_free = state.blocks_free();
            let inode = self.inode(state)?;
            let asked = moved(buf.len(), fault)?;
            let bytes = inode.live().fitting(offset, asked, blocks_free);
            if bytes == 0 && asked > 0 {
                return Err(Errno::NOSPC.into());
            }
            if bytes > 0 {
                inode.write(&buf[..bytes], offset);
            }
            Ok(bytes)
        })
    }

    fn allocate(&self, site: Site, len: u64) -> Result<(), IoError> {
        self.call(site, |state, _| {
            self.check_change(Some(len))?;
            if len == 0 {
                return Err(Errno::INVAL.into());
            }
            if !state.allocates {
                return Ok(());
            }
            let blocks_free = state.blocks_free();
            let inode = self.inode(state)?;
            // A whole range either fits or is refused.
            if inode.live().fitting(0, len as usize, blocks_free) as u64 != len {
                return Err(Errno::NOSPC.into());
            }
            inode.allocate(len);
            Ok(())
        })
    }

    fn truncate(&self, site: Site, len: u64) -> Result<(), IoError> {
        self.call(site, |state, _| {
            self.check_change(Some(len))?;
            self.inode(state)?.set_len(len);
            Ok(())
        })
    }

    fn sync(&self, site: Site) -> Result<(), IoError> {
        let mut state = lock(&self.state);
        let done = state.sync_call(site).and_then(|fault| {
            let inode = self.inode(&mut state)?;
            if fault == Some(Fault::LostSync) {
                inode.lose();
            } else {
                inode.sync();
            }
            let seen = self.losses_seen.swap(inode.losses, Ordering::Relaxed);
            if seen == inode.losses { Ok(()) } else { Err(Errno::IO.into()) }
        });
        done.map_err(at(site, &self.path))
    }

    fn len(&self, site: Site) -> Result<u64, IoError> {
        self.call(site, |state, _| Ok(self.inode(state)?.live().len()))
    }

    fn allocated(&self, site: Site) -> Result<u64, IoError> {
        self.call(site, |state, _| Ok(self.inode(state)?.live().allocated()))
    }
}
