//! The seam to the file system: the only floor that touches it.
//!
//! Everything the engine asks of a disk goes through [`Fs`] and [`FsFile`], in two forms:
//! [`RealFs`] is the operating system, [`SimFs`] keeps a live and a durable image of every file
//! and directory in memory, so that a test can pull the plug at any call. Every call names its
//! [`Site`], which serves twice: an error tells the store's intent, and a crash sweep can
//! list the sites that it never crossed. A view (`view.rs`) shows a directory to a second process: it reads
//! files as they were at one moment and keeps all changes in memory.
//!
//! A store opens its directory once, with [`Fs::open_dir`], and names its files relative to that:
//! a path that is resolved again later may lead to another directory.
//!
//! Invariants:
//! - Nothing else in the engine names `std::fs` (checked by clippy and by the tidy test).
//! - A call that returned is visible to later calls; it survives a crash only after
//!   [`FsFile::sync`] (contents and length) or [`Fs::sync_dir`] (names).

mod entries;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod guard;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod map;
#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
#[path = "no_map.rs"]
mod map;
mod real;
mod sim;
mod view;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::sync::Arc;

pub(crate) use entries::is_of_the_system;
pub use map::install_sigbus_guard;
pub use real::RealFs;
pub use sim::{Crash, Fault, SimFs};
pub(crate) use view::{Captured, View, in_memory};

macro_rules! sites {
    ($($name:ident = $text:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        enum Call { $($name,)* }

        /// The engine's reason for a call of the file system: one per call in the source. A file
        /// system passes it on to its errors and needs to know no more; the sites themselves change
        /// with the engine, and only its tests name them.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct Site(Call);

        #[doc(hidden)]
        #[expect(non_upper_case_globals, reason = "they stand for the cases of an enumeration")]
        impl Site { $(pub const $name: Site = Site(Call::$name);)* }

        impl Site {
            /// Every site, in the order of the source. For the engine's tests.
            #[doc(hidden)]
            pub const ALL: &'static [Site] = &[$(Site::$name,)*];

            /// The site in words, fit to follow "could not".
            pub fn text(self) -> &'static str {
                match self.0 { $(Call::$name => $text,)* }
            }
        }
    };
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

sites! {
    DirCreate = "create the data directory",
    DirParentSync = "sync the data directory's parent",
    DirOpen = "open the data directory",
    DirListFirst = "look into the data directory",
    DirList = "list the data directory",
    LockTake = "lock the data directory",
    LockOpen = "open the lock file",
    LockRead = "read the lock file",
    LockWrite = "write the lock file",
    LockTruncate = "clear the lock file",
    CurrentOpen = "open CURRENT",
    CurrentRead = "read CURRENT",
    CurrentCreate = "create CURRENT",
    CurrentWrite = "write CURRENT",
    CurrentSync = "sync CURRENT",
    CurrentRename = "put CURRENT in place",
    CurrentDirSync = "sync the data directory for CURRENT",
    ManifestOpen = "open the manifest",
    ManifestLength = "measure the manifest",
    ManifestRead = "read the manifest",
    ManifestCreate = "create a manifest",
    ManifestAllocate = "allocate the manifest",
    ManifestWrite = "append to the manifest",
    ManifestSync = "sync the manifest",
    ManifestErase = "take back an edit that found no space",
    ManifestEraseSync = "sync the manifest without an edit that found no space",
    ManifestDirSync = "sync the data directory for a manifest",
    ManifestDiscard = "remove a new manifest that found no space",
    ManifestRemove = "remove an old manifest",
    TailOpen = "open a segment to cut its tail",
    TailTruncate = "cut the torn tail",
    TailRemove = "remove a segment of which nothing stayed",
    TableReserve = "find a number for a segment",
    SegmentCreate = "create a segment",
    SegmentAllocate = "allocate a segment",
    SegmentCreateSync = "sync a new segment",
    SegmentDirSync = "sync the data directory for a new segment",
    SegmentExtend = "extend the active segment",
    SegmentShrink = "take back an extension of the active segment",
    SegmentOpen = "open a segment",
    SegmentLength = "measure a segment",
    SegmentAllocateLength = "measure an allocated segment",
    SegmentFill = "extend a segment that could not be allocated",
    SegmentHeaderRead = "read a segment's header",
    SegmentScan = "scan a segment",
    SegmentScanPiece = "scan a block of a segment",
    SegmentTruncate = "cut a segment to its end",
    SegmentRemove = "remove a segment",
    FrameWrite = "append to the log",
    FrameErase = "take back what found no space in the log",
    FrameEraseSync = "sync the log without what found no space",
    LogSync = "sync the log",
    RecordRead = "read a record",
    RecordReadNow = "read a record that is at hand",
    CopyCreate = "create a copy of records",
    CopyWrite = "write a copy of records",
    CopySync = "sync a copy of records",
    CopyDirSync = "sync the data directory for a copy of records",
    CopyDiscard = "remove a copy of records that is not needed",
    CopyRemove = "remove an unfinished copy of records",
    CopyTakeBack = "remove the copies of an open that failed",
    HintCreate = "create a hint file",
    HintWrite = "write a hint file",
    HintOpen = "open a hint file",
    HintLength = "measure a hint file",
    HintRead = "read a hint file",
    HintRemove = "remove a hint file",
    StrayOpen = "open a segment that the manifest does not name",
    StrayLength = "measure a segment that the manifest does not name",
    LeftoverRemove = "remove what an interrupted start left",
    StrayRemove = "remove a file that the manifest does not name",
    ReserveCreate = "create the reserve",
    ReserveAllocate = "allocate the reserve",
    ReserveSync = "sync the reserve",
    ReserveRemove = "give up the reserve",
    ReserveSpend = "give up a reserve for the open",
    ReserveRename = "put a larger reserve in place",
    ReserveOpen = "open a reserve",
    ReserveMeasure = "measure a reserve",
    SpareRemove = "remove a segment that was never used",
    VerifyDirOpen = "open the directory to verify",
    VerifyList = "look into the directory to verify",
    VerifyOpen = "open a segment to verify",
    VerifyLength = "measure a segment to verify",
    StrayLogOpen = "open a segment that a damaged manifest may have named",
    StrayLogLength = "measure a segment that a damaged manifest may have named",
    SegmentSaltRead = "read a damaged segment header",
    HintCheckOpen = "open a hint file to check it",
    HintCheckLength = "measure a hint file to check it",
    HintCheckRead = "read a hint file to check it",
    HintFooterRead = "read a hint file's checksum",
    HintSaltOpen = "open the hint file of a damaged segment",
    HintSaltRead = "read the hint file of a damaged segment",
    SalvagePath = "find out where a directory really is",
    SalvageDirCreate = "create the directory for what is saved",
    SalvageDirList = "look into the directory for what is saved",
    SalvageUndoList = "look into the directory of a salvage that failed",
    SalvageUndo = "remove a file of a salvage that failed",
    BesideDirOpen = "open the data directory beside the store's writer",
    BesideOpen = "open a file beside the store's writer",
    BesideLength = "measure a file beside the store's writer",
    BesideSync = "sync a segment beside the store's writer",
    SpaceMeasure = "measure a file's blocks",
    DamageNoteOpen = "open the note of damage",
    DamageNoteRead = "read the note of damage",
    DamageNoteLeftover = "remove an unfinished note of damage",
    DamageNoteCreate = "create a note of damage",
    DamageNoteWrite = "write a note of damage",
    DamageNoteSync = "sync a note of damage",
    DamageNoteRename = "put a note of damage in place",
    DamageNoteDirSync = "sync the data directory for the note of damage",
    DamageNoteRemove = "remove the note of damage",
    SledStrayRemove = "remove an unfinished manifest",
    SledManifestRemove = "remove the manifest of a store in the making",
    SledDirCreate = "create sled's directory",
    SledListFirst = "look into sled's directory",
    SledList = "list sled's directory",
    SledOpen = "open a file of sled's",
    SledSync = "sync a file of sled's",
    SledDirSync = "sync sled's directory",
    SledParentSync = "sync the data directory for sled's",
    SledLogOpen = "open sled's log",
    SledLogSync = "sync sled's log",
    SledBlobList = "list sled's large values",
    SledBlobOpen = "open a large value of sled's",
    SledBlobSync = "sync a large value of sled's",
    SledBlobDirSync = "sync the directory of sled's large values",
    RaftNodeOpen = "open the node file",
    RaftNodeLength = "measure the node file",
    RaftNodeRead = "read the node file",
    RaftNodeLeftover = "remove an unfinished node file",
    RaftNodeCreate = "create the node file",
    RaftNodeWrite = "write the node file",
    RaftNodeSync = "sync the node file",
    RaftNodeRename = "put the node file in place",
    RaftNodeDirSync = "sync the data directory for the node file",
    RaftDataCreate = "open the data directory of a new node",
    RaftDataOpen = "open the data directory of a node",
    RaftDataSync = "sync the data directory of a node",
    RaftDirCreate = "create the directory of the Raft log",
    RaftDirParentSync = "sync the data directory for the Raft log",
    RaftDirList = "list the directory of the Raft log",
    RaftLock = "lock the Raft log",
    RaftLeftoverOpen = "open the beginning of a Raft log",
    RaftLeftoverLength = "measure the beginning of a Raft log",
    RaftUnusedRemove = "remove an unfinished file of the Raft log",
    RaftFileCreate = "create a file of the Raft log",
    RaftFileAllocate = "allocate a file of the Raft log",
    RaftFileMeasure = "measure a new file of the Raft log",
    RaftFileHeader = "write the header of a file of the Raft log",
    RaftFileSync = "sync a new file of the Raft log",
    RaftFileDirSync = "sync the directory for a file of the Raft log",
    RaftFileDiscard = "remove a new file of the Raft log that found no space",
    RaftFileOpen = "open a file of the Raft log",
    RaftFileLength = "measure a file of the Raft log",
    RaftFileHeaderRead = "read the header of a file of the Raft log",
    RaftScan = "scan a file of the Raft log",
    RaftSealedLength = "measure a sealed file of the Raft log",
    RaftEndRead = "read the end of the Raft log",
    RaftEndWrite = "write the end of the Raft log again",
    RaftEndErase = "cut the torn end of the Raft log",
    RaftEndSync = "sync the end of the Raft log",
    RaftFileExtend = "extend a file of the Raft log",
    RaftAppend = "append to the Raft log",
    RaftSync = "sync the Raft log",
    RaftSeal = "seal a file of the Raft log",
    RaftSealSync = "sync a sealed file of the Raft log",
    RaftRead = "read an entry of the Raft log",
    RaftFileRemove = "remove a file of the Raft log",
    RaftRemoveDirSync = "sync the directory after a file of the Raft log was removed",
}

/// A file-system call that failed: the intent of the store, the path, and the reason.
#[derive(Debug)]
pub struct IoError {
    /// The engine's intent.
    pub site: Site,
    /// The file or directory concerned.
    pub path: PathBuf,
    /// The system's error.
    pub source: io::Error,
}

impl IoError {
    /// Whether the disk (or a quota) is full.
    pub fn is_no_space(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    }

    /// Whether a file cannot be created because its directory is no longer there.
    pub(crate) fn is_dir_gone(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether the process or the system has too many open files, so that nothing was tried.
    pub(crate) fn is_out_of_files(&self) -> bool {
        let code = self.source.raw_os_error();
        code.is_some_and(|code| {
            [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error).contains(&code)
        })
    }
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {} ({}): {}", self.site.text(), self.path.display(), self.source)
    }
}

impl std::error::Error for IoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenHow {
    /// An existing file, for reading only.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A file that must not exist yet, mode 0600, for reading and writing.
    CreateNew,
}

/// A file system, real or simulated. One call is one system call, repeated if a signal interrupts
/// it; only [`FsFile::read_at`] and [`FsFile::write_at`] leave that to [`read_full`] and
/// [`write_full`], which repeat anyway.
pub trait Fs: fmt::Debug + Send + Sync + 'static {
    /// Creates a directory (mode 0700) and its missing parents; an existing one is fine.
    /// Returns whether it was created.
    fn create_dir(&self, site: Site, dir: &Path) -> Result<bool, IoError>;
    /// Opens a directory and returns a view of it, in which `dir` and the paths that begin with it
    /// mean this very directory: also after it was moved, and when another one has its name. Other
    /// paths are refused. Errors give the paths that the caller gave.
    fn open_dir(&self, site: Site, dir: &Path) -> Result<Arc<dyn Fs>, IoError>;
    /// The names in a directory, in no order.
    fn list(&self, site: Site, dir: &Path) -> Result<Vec<String>, IoError>;
    /// Opens a file.
    fn open(&self, site: Site, path: &Path, how: OpenHow) -> Result<Arc<dyn FsFile>, IoError>;
    /// Where a path leads, without links and `..`. Of a path that leads nowhere, the parents
    /// that do exist are followed. A file system without links may return it as it is.
    fn real_path(&self, site: Site, path: &Path) -> Result<PathBuf, IoError> {
        let _ = site;
        Ok(path.to_owned())
    }
    /// Renames a file over another.
    fn rename(&self, site: Site, from: &Path, to: &Path) -> Result<(), IoError>;
    /// Removes a file's name; open handles go on reading it.
    fn remove(&self, site: Site, path: &Path) -> Result<(), IoError>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, site: Site, dir: &Path) -> Result<(), IoError>;
    /// Takes the advisory lock of a file, creating the file (mode 0600) if need be.
    /// `None` if another handle holds it; the lock lasts as long as the file handle.
    fn try_lock(&self, site: Site, path: &Path) -> Result<Option<Arc<dyn FsFile>>, IoError>;
    /// How many bytes of its files a store may map into memory, see [`FsFile::map`]; 0 if none.
    fn mappable_bytes(&self) -> u64 {
        0
    }
}

/// The first bytes of a file, mapped into memory for reading: no call of the system reads them.
///
/// Bytes that [`FsFile::write_at`] wrote are seen by each copy that begins after that call returned.
/// The caller copies only bytes that the file has: it knows how far the file was written, and never
/// makes it shorter than that.
pub trait FsMap: fmt::Debug + Send + Sync + 'static {
    /// Copies the bytes at `offset` into `to`. False if they are not all mapped, or if the disk could
    /// not deliver some of the file, now or before; then `to` may hold anything. May wait for a disk.
    fn copy(&self, offset: u64, to: &mut [u8]) -> bool;
    /// Brings mapped bytes into memory, so that a copy does not wait for a disk until the system takes
    /// them back. Waits for the disk. False if that cannot be done or the disk fails.
    fn populate(&self, offset: u64, bytes: u64) -> bool;
}

/// An open file with positioned calls only: no cursor, so any thread may use it.
pub trait FsFile: fmt::Debug + Send + Sync + 'static {
    /// The path under which the file was opened.
    fn path(&self) -> &Path;
    /// Reads up to `buf.len()` bytes; 0 at the end of the file. May read fewer.
    fn read_at(&self, site: Site, buf: &mut [u8], offset: u64) -> Result<usize, IoError>;
    /// The same without waiting for a disk: `None` if that would take one, or if the file system
    /// cannot tell.
    fn read_at_now(
        &self,
        site: Site,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<Option<usize>, IoError> {
        let _ = (site, buf, offset);
        Ok(None)
    }
    /// Says that these bytes will be read soon, so that the disk can begin. Waits for nothing and
    /// cannot fail: it is advice.
    fn will_need(&self, offset: u64, bytes: u64) {
        let _ = (offset, bytes);
    }
    /// Maps the first `bytes` of the file for reading; the file may be shorter at the time. `None` if
    /// that cannot be done, which changes nothing.
    fn map(&self, bytes: u64) -> Option<Box<dyn FsMap>> {
        let _ = bytes;
        None
    }
    /// Writes up to `buf.len()` bytes. May write fewer.
    fn write_at(&self, site: Site, buf: &[u8], offset: u64) -> Result<usize, IoError>;
    /// Grows the file to `len` bytes with blocks behind them that read as zeros.
    fn allocate(&self, site: Site, len: u64) -> Result<(), IoError>;
    /// Cuts the file to `len` bytes and frees the blocks behind it.
    fn truncate(&self, site: Site, len: u64) -> Result<(), IoError>;
    /// Makes contents and length durable.
    fn sync(&self, site: Site) -> Result<(), IoError>;
    /// The length in bytes.
    fn len(&self, site: Site) -> Result<u64, IoError>;
    /// The bytes that the file takes on the disk.
    fn allocated(&self, site: Site) -> Result<u64, IoError>;
}

/// Fills `buf` from `offset`; returns how much was there before the file ended.
pub fn read_full(
    file: &dyn FsFile,
    site: Site,
    buf: &mut [u8],
    offset: u64,
) -> Result<usize, IoError> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(site, &mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.source.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `buf` at `offset`.
pub fn write_full(file: &dyn FsFile, site: Site, buf: &[u8], offset: u64) -> Result<(), IoError> {
    write_counted(file, site, buf, offset).map_err(|(_, error)| error)
}

/// The same; an error comes with how many bytes were written before it.
pub(crate) fn write_counted(
    file: &dyn FsFile,
    site: Site,
    buf: &[u8],
    offset: u64,
) -> Result<(), (usize, IoError)> {
    let mut done = 0;
    while done < buf.len() {
        match file.write_at(site, &buf[done..], offset + done as u64) {
            Ok(0) => {
                let source = io::Error::from(io::ErrorKind::WriteZero);
                return Err((done, IoError { site, path: file.path().to_owned(), source }));
            }
            Ok(n) => done += n,
            Err(error) if error.source.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((done, error)),
        }
    }
    Ok(())
}

/// Takes back the part of a write that was done before the disk was full, so that it never passes
/// for a record or edit: zeros go over its beginning, and a sync over all. Two system calls; none
/// if nothing was written.
pub(crate) fn take_back(
    file: &dyn FsFile,
    (erase, sync): (Site, Site),
    offset: u64,
    written: usize,
) -> Result<(), IoError> {
    /// The longest beginning by which a record or edit is recognised, in bytes.
    const HEAD_BYTES: usize = 64;
    if written == 0 {
        return Ok(());
    }
    write_full(file, erase, &[0; HEAD_BYTES][..written.min(HEAD_BYTES)], offset)?;
    file.sync(sync)
}
