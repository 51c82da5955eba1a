//! A simulated file system that forgets at a crash all unsynced changes.
//!
//! Everything is in memory, and every call is numbered, so a test can cut the power at any call,
//! let one call fail, take a crash and look at the rest. The simulation is crueler than any
//! disk, within the promises of a journaling file system:
//!
//! - **Generations** survive only through [`FsFile::sync`](super::FsFile::sync). Of the changes
//!   after it, a crash leaves nothing, everything, or some: any subset of the operations, writes
//!   torn at sectors of 512 bytes. Sectors that were lost read as before, or as zeros where the
//!   file is new: never as old data of another file.
//! - **Lengths** are file-system metadata: a length change survives or not, whatever happens to
//!   the data behind it. Data that survives beyond the surviving length is clipped, because no
//!   reader could reach it.
//! - **Names** survive only through [`Fs::sync_dir`] of their directory. A file that was synced
//!   under a name that was not is lost; a removed name that was not is back.
//!
//! Directories have numbers, so that one that was moved is the same one: a view of
//! [`Fs::open_dir`] keeps the number.
//!
//! Invariants:
//! - No threads, no clock, no order that depends on hashing: the same calls and the same seeds
//!   give the same bytes.
//! - A call that fails has no effect, except [`Fault::LostSync`], whose effect is its point.

mod file;
mod image;
mod names;
mod random;
#[cfg(test)]
mod story;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

use self::file::SimFile;
use self::image::{BLOCK_BYTES, Inode};
use self::names::{Dir, Names, Node};
use self::random::Random;
use super::{Fs, FsFile, IoError, OpenHow, Site};
use crate::sync::{Arc, Mutex, Rank, lock};

/// The share of all unsynced changes that a crash leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Nothing: the cruellest power cut.
    Nothing,
    /// Everything: the process died, the machine lives. Unsynced changes are still there, and
    /// still not synced: a later power cut may take it.
    Everything,
    /// Some operations of each file and directory, writes torn at sectors; the seed says which.
    Some {
        /// Equal seeds leave equal images.
        seed: u64,
    },
}

/// How a single call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The disk refuses it (`EIO`).
    Io,
    /// The disk is full (`ENOSPC`).
    NoSpace,
    /// A signal interrupts a read or write (`EINTR`); no cached byte is read either. Other
    /// calls are untouched: the operating system's [`Fs`] repeats them by itself.
    Interrupted,
    /// A read or write moves half of its bytes, one at least. Other calls are untouched.
    Short,
    /// A sync of a file fails with `EIO` and forgets the changes that it should have written:
    /// readers still see it, later syncs succeed, but no sync saves it any more. Each other handle
    /// that is open reports the loss at its next sync, as Linux does since 4.13. Other calls, syncs
    /// of directories among them (names stand in a journal), just fail with `EIO`.
    LostSync,
}

/// A file system in memory, for tests. Clones are handles of the same one.
///
/// ```
/// use aryavarth::fs::{Crash, Fs, OpenHow, SimFs, Site};
/// use std::path::Path;
///
/// let fs = SimFs::new();
/// let file = fs.open(Site::SegmentCreate, Path::new("/a"), OpenHow::CreateNew)?;
/// file.write_at(Site::FrameWrite, b"abc", 0)?;
/// file.sync(Site::LogSync)?;
/// assert!(fs.crash(Crash::Nothing).list(Site::DirList, Path::new("/"))?.is_empty());
/// fs.sync_dir(Site::SegmentDirSync, Path::new("/"))?;
/// assert_eq!(fs.crash(Crash::Nothing).list(Site::DirList, Path::new("/"))?, ["a"]);
/// # Ok::<(), aryavarth::fs::IoError>(())
/// ```
#[derive(Clone)]
pub struct SimFs {
    state: Arc<Mutex<State>>,
    /// Of a view: the number of its directory, and the path under which that was opened.
    view: Option<(u64, PathBuf)>,
}

/// The numbers of the current directory and of `/`.
const ROOTS: [u64; 2] = [0, 1];

/// How a path is followed: from the directory with this number through these names.
struct Way {
    from: u64,
    names: Vec<String>,
}

impl fmt::Debug for SimFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFs").field("calls", &self.calls()).finish_non_exhaustive()
    }
}

impl Default for SimFs {
    fn default() -> Self {
        SimFs::new()
    }
}

/// The whole disk and the fate of its calls.
struct State {
    dirs: BTreeMap<u64, Dir>,
    inodes: BTreeMap<u64, Inode>,
    /// The number of the next file or directory.
    number_next: u64,
    trace: Vec<Site>,
    power_cut_at: u64,
    faults: BTreeMap<u64, Fault>,
    faults_next: BTreeMap<Site, VecDeque<Fault>>,
    space_bytes_max: u64,
    allocates: bool,
    /// Whether files can be mapped, and the change of each copy.
    maps: Option<fn(u64, &mut [u8])>,
    mapped_copies: u64,
}

impl SimFs {
    /// A file system with the directory `/` (and the current one), empty.
    pub fn new() -> SimFs {
        SimFs::with(ROOTS.map(|root| (root, Dir::default())).into(), BTreeMap::new())
    }

    fn with(dirs: BTreeMap<u64, Dir>, inodes: BTreeMap<u64, Inode>) -> SimFs {
        let last = dirs.keys().next_back().max(inodes.keys().next_back());
        let number_next = last.map_or(0, |last| last + 1);
        let state = State {
            dirs,
            inodes,
            number_next,
            trace: Vec::new(),
            power_cut_at: u64::MAX,
            faults: BTreeMap::new(),
            faults_next: BTreeMap::new(),
            space_bytes_max: u64::MAX,
            allocates: true,
            maps: None,
            mapped_copies: 0,
        };
        SimFs { state: Arc::new(Mutex::new(Rank::SimDisk, state)), view: None }
    }

    /// How a path is followed; an error if a view does not reach it.
    fn way(&self, path: &Path) -> io::Result<Way> {
        let (from, rest) = match &self.view {
            Some((dir, opened)) => {
                (*dir, path.strip_prefix(opened).map_err(|_outside| Errno::INVAL)?)
            }
            None => (ROOTS[usize::from(path.has_root())], path),
        };
        let mut names = Vec::new();
        for part in rest.components() {
            match part {
                Component::CurDir | Component::RootDir => {}
                Component::Normal(name) => names.push(name.to_string_lossy().into_owned()),
                Component::ParentDir | Component::Prefix(_) => return Err(Errno::NOENT.into()),
            }
        }
        Ok(Way { from, names })
    }

    /// How many calls were made, failed ones included. The next call has this number.
    pub fn calls(&self) -> u64 {
        lock(&self.state).trace.len() as u64
    }

    /// The site of each call, in order.
    pub fn trace(&self) -> Vec<Site> {
        lock(&self.state).trace.clone()
    }

    /// Cuts the power before the call with number `call`: it and every later one, through any
    /// handle, fails without effect. `u64::MAX` brings the power back.
    pub fn fail_from(&self, call: u64) {
        lock(&self.state).power_cut_at = call;
    }

    /// Lets the call with number `call` go wrong, and only that one.
    pub fn fail_call(&self, call: u64, fault: Fault) {
        lock(&self.state).faults.insert(call, fault);
    }

    /// Lets the next call at `site` go wrong, and only that one; said again before that, the one
    /// after it.
    pub fn fail_next(&self, site: Site, fault: Fault) {
        lock(&self.state).faults_next.entry(site).or_default().push_back(fault);
    }

    /// Limits the space to `bytes`, counted in blocks of 4 KiB. Files that are there already stay;
    /// writes stop short at the limit, allocations and writes without any room fail.
    /// `u64::MAX` is no limit.
    pub fn limit_space(&self, bytes: u64) {
        lock(&self.state).space_bytes_max = bytes;
    }

    /// From now on, allocating does nothing, as on file systems that do not know it.
    pub fn never_allocate(&self) {
        lock(&self.state).allocates = false;
    }

    /// From now on files can be mapped, and the store that is opened next maps its own. A mapping is the live
    /// image of its file; a copy out of it is no call, and one beyond the end of the file panics, as a real
    /// one would raise a signal. `change` gets the offset and the bytes of each copy, and may change
    /// them, as a disk does that cannot deliver a page: `|_, _| {}` changes none.
    pub fn map_files(&self, change: fn(u64, &mut [u8])) {
        lock(&self.state).maps = Some(change);
    }

    /// How many copies out of mappings were made.
    pub fn mapped_copies(&self) -> u64 {
        lock(&self.state).mapped_copies
    }

    /// The bytes on the disk, in whole blocks, of files that have a name or an open handle.
    pub fn space_used(&self) -> u64 {
        lock(&self.state).space_used()
    }

    /// The file system that is there after a crash at this moment: all locks free, no calls made,
    /// no faults, no limit, allocation as new, no mappings. This one stays as it is.
    #[must_use]
    pub fn crash(&self, crash: Crash) -> SimFs {
        let state = lock(&self.state);
        match crash {
            Crash::Nothing => state.after_power_cut(None),
            Crash::Some { seed } => state.after_power_cut(Some(Random::new(seed))),
            Crash::Everything => {
                let inodes = state.inodes.iter().map(|(number, inode)| (*number, inode.orphan()));
                SimFs::with(state.dirs.clone(), inodes.collect())
            }
        }
    }
}

impl State {
    /// Numbers a call and says how it goes: on, on with a fault to mind, or not at all.
    fn call(&mut self, site: Site) -> io::Result<Option<Fault>> {
        match self.sync_call(site)? {
            Some(Fault::LostSync) => Err(Errno::IO.into()),
            fault => Ok(fault),
        }
    }

    /// The same for a file's sync, which may have to mind [`Fault::LostSync`] too.
    fn sync_call(&mut self, site: Site) -> io::Result<Option<Fault>> {
        let number = self.trace.len() as u64;
        self.trace.push(site);
        if number >= self.power_cut_at {
            return Err(io::Error::other("simulated power cut"));
        }
        let fault = self.faults_next.get_mut(&site).and_then(VecDeque::pop_front);
        let fault = fault.or_else(|| self.faults.get(&number).copied());
        match fault {
            Some(Fault::Io) => Err(Errno::IO.into()),
            Some(Fault::NoSpace) => Err(Errno::NOSPC.into()),
            fault => Ok(fault),
        }
    }

    fn space_used(&self) -> u64 {
        let kept = self.inodes.values().filter(|inode| inode.named || inode.handles > 0);
        kept.map(|inode| inode.live().allocated()).sum()
    }

    fn blocks_free(&self) -> u64 {
        if self.space_bytes_max == u64::MAX {
            return u64::MAX;
        }
        self.space_bytes_max.saturating_sub(self.space_used()) / BLOCK_BYTES as u64
    }

    /// The rest after a power cut: all that was synced, and a share of the unsynced by `luck`.
    fn after_power_cut(&self, mut luck: Option<Random>) -> SimFs {
        let mut dirs = BTreeMap::new();
        let mut inodes = BTreeMap::new();
        // A directory is looked at only after it is known that its own name survived.
        let mut survivors = Vec::from(ROOTS);
        while let Some(number) = survivors.pop() {
            let names: Names = self.dirs[&number].after_power_cut(luck.as_mut());
            for node in names.values() {
                match node {
                    Node::Dir(number) => survivors.push(*number),
                    Node::File(number) => {
                        let image = self.inodes[number].after_power_cut(luck.as_mut());
                        inodes.insert(*number, Inode::named(image));
                    }
                }
            }
            dirs.insert(number, Dir::survivor(names));
        }
        SimFs::with(dirs, inodes)
    }

    /// Drops the contents that no path and no handle reaches, not even after a crash.
    fn forget_unreachable(&mut self) {
        let dirs = &self.dirs;
        self.inodes.retain(|number, inode| {
            let node = Node::File(*number);
            inode.named || inode.handles > 0 || dirs.values().any(|dir| dir.may_name(node))
        });
    }
}

impl SimFs {
    fn handle(&self, state: &mut State, number: u64, path: &Path, how: OpenHow) -> Arc<SimFile> {
        let mut losses = 0;
        if let Some(inode) = state.inodes.get_mut(&number) {
            inode.handles += 1;
            losses = inode.losses;
        }
        let writable = how != OpenHow::Read;
        Arc::new(SimFile::new(self.state.clone(), number, path.to_owned(), writable, losses))
    }
}

impl SimFs {
    /// Counts a call and, if it gets that far, runs `body` with the way that `path` is followed.
    fn call<R>(
        &self,
        site: Site,
        path: &Path,
        body: impl FnOnce(&mut State, &Way) -> io::Result<R>,
    ) -> Result<R, IoError> {
        let mut state = lock(&self.state);
        let done = state.call(site).and_then(|_| body(&mut state, &self.way(path)?));
        done.map_err(at(site, path))
    }
}

impl Fs for SimFs {
    fn create_dir(&self, site: Site, dir: &Path) -> Result<bool, IoError> {
        self.call(site, dir, State::create_dir)
    }

    fn open_dir(&self, site: Site, dir: &Path) -> Result<Arc<dyn Fs>, IoError> {
        let number = self.call(site, dir, |state, way| state.dir(way))?;
        let view = Some((number, dir.to_owned()));
        Ok(Arc::new(SimFs { state: Arc::clone(&self.state), view }))
    }

    fn list(&self, site: Site, dir: &Path) -> Result<Vec<String>, IoError> {
        self.call(site, dir, |state, way| {
            let number = state.dir(way)?;
            Ok(state.names(number)?.live().keys().cloned().collect())
        })
    }

    fn open(&self, site: Site, path: &Path, how: OpenHow) -> Result<Arc<dyn FsFile>, IoError> {
        self.call(site, path, |state, way| {
            let number = match how {
                OpenHow::Read | OpenHow::Write => state.file(way)?,
                OpenHow::CreateNew => state.create_file(way)?,
            };
            Ok(self.handle(state, number, path, how) as Arc<dyn FsFile>)
        })
    }

    fn rename(&self, site: Site, from: &Path, to: &Path) -> Result<(), IoError> {
        self.call(site, from, |state, way| state.rename(way, &self.way(to)?))
    }

    fn remove(&self, site: Site, path: &Path) -> Result<(), IoError> {
        self.call(site, path, State::remove)
    }

    fn sync_dir(&self, site: Site, dir: &Path) -> Result<(), IoError> {
        self.call(site, dir, |state, way| {
            let number = state.dir(way)?;
            state.names(number)?.sync();
            state.forget_unreachable();
            Ok(())
        })
    }

    fn try_lock(&self, site: Site, path: &Path) -> Result<Option<Arc<dyn FsFile>>, IoError> {
        self.call(site, path, |state, way| {
            let number = match state.file(way) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => state.create_file(way)?,
                found => found?,
            };
            match state.inodes.get_mut(&number) {
                Some(inode) if !inode.locked => inode.locked = true,
                _ => return Ok(None),
            }
            let file = self.handle(state, number, path, OpenHow::Write);
            file.hold_lock();
            Ok(Some(file as Arc<dyn FsFile>))
        })
    }

    fn mappable_bytes(&self) -> u64 {
        if lock(&self.state).maps.is_some() { u64::MAX } else { 0 }
    }
}

fn at(site: Site, path: &Path) -> impl FnOnce(io::Error) -> IoError + '_ {
    move |source| IoError { site, path: path.to_owned(), source }
}
