//! Mapped files: the pages of the system's cache, read without a system call.
//!
//! ```text
//!   write_at  -->  pages of the cache  <--  copy from the mapping
//!                        |
//!                       disk     a page that it cannot deliver raises SIGBUS: guard.rs
//! ```
//!
//! Linux keeps one page cache for each file: a call that writes and a mapping that is shared see the same
//! pages, so a copy that begins after the write returned sees the written bytes. A file system
//! that does not keep this rule (some network and user-space ones) must not be mapped
//! (`Options::map_bytes_max`).
//!
//! Other processes may change the file at any time, so no reference to mapped bytes leaves this file:
//! callers get a copy, and check the copy.
//!
//! A process that is forked has the mappings too; a store is not used in it (its lock is shared), and its end
//! takes them away.
//!
//! Invariants:
//! - A file is mapped only while the guard stands, so no mapped page can end the process.
//! - A mapping is registered with the guard before its first copy and until after its last one.
//! - A mapping lives exactly as long as its [`RealMap`], and every copy borrows that.

use std::ffi::c_void;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use rustix::process::{Resource, getrlimit};

use super::FsMap;
use super::guard::{self, Registered};

/// The share of the memory that mapped files may take.
const MEMORY_SHARE: u64 = 2;
/// Mappings that all stores of the process have at most: the system limits those of a process to 65,530,
/// those of its allocator included.
const MAPPINGS_MAX: usize = 8192;

/// Mappings that live, used or not.
static MAPPINGS: AtomicUsize = AtomicUsize::new(0);

/// Lets stores that are opened from now on read their files through mappings, which is faster than
/// through calls of the system: installs a handler of SIGBUS for the whole process, once.
///
/// A page of a mapped file that the disk cannot deliver, or that another process cut off, raises
/// SIGBUS, whose default action ends the process. The handler puts zeros in the place of that file's
/// mapping, and from then on the store reads the file by calls of the system, whose errors the caller
/// gets. Any other SIGBUS goes on to the handler that was there before. **Without the handler no file is
/// mapped**, and every read is a call of the system. A handler for SIGBUS that is installed later must pass on
/// signals for addresses that it does not know, and no thread that reads may block SIGBUS: the system ends a process
/// that blocks it and meets such a page. Nothing is mapped either where the address space is limited
/// (`ulimit -v`). `aryavarth server` calls this; a library does not do so by itself, because handlers
/// belong to the program.
///
/// ```
/// # if cfg!(all(target_os = "linux", target_pointer_width = "64")) {
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// aryavarth::fs::install_sigbus_guard()?;
/// let store = aryavarth::KvStore::open(dir)?;
/// store.put(b"k", b"v")?;
/// assert_eq!(store.read(b"k")?, Some(b"v".to_vec()));
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] where files are not mapped (on other systems than 64-bit Linux), and
/// the system's error if it refuses the handler. Nothing has changed then; stores work all the same.
pub fn install_sigbus_guard() -> io::Result<()> {
    guard::install()
}

/// How many bytes of files may be mapped: half of the memory that the process can have, if the guard
/// stands. None where the address space is limited: it belongs to the process's own memory.
pub(super) fn mappable_bytes() -> u64 {
    let is_limited = getrlimit(Resource::As).current.is_some();
    if guard::is_installed() && !is_limited { memory_bytes() / MEMORY_SHARE } else { 0 }
}

/// The memory that the process can have: the least of the machine's and its control groups'.
fn memory_bytes() -> u64 {
    let system = rustix::system::sysinfo();
    let machine = (system.totalram as u64).saturating_mul(u64::from(system.mem_unit));
    machine.min(group_bytes())
}

/// The limit of the process's control group and of all groups around it; the largest number if none
/// can be read.
#[allow(clippy::disallowed_methods, reason = "files of the system, not of a store")]
fn group_bytes() -> u64 {
    let limit = |path: &Path| fs::read_to_string(path).ok()?.trim().parse().ok();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut least = u64::MAX;
    for line in groups.lines() {
        let Some((controllers, path)) =
            line.split_once(':').and_then(|(_, rest)| rest.split_once(':'))
        else {
            continue;
        };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            least = least.min(limit(&Path::new(root).join(group).join(name)).unwrap_or(u64::MAX));
        }
    }
    least
}

/// A part of a file from its first byte on, mapped for reading.
#[derive(Debug)]
struct RealMap {
    start: NonNull<u8>,
    /// Bytes that may be copied; the pages go on to a whole number of them.
    bytes: usize,
    pages_bytes: usize,
    registered: Registered,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only read.
#[expect(unsafe_code, reason = "a mapping is read from any thread")]
unsafe impl Send for RealMap {}
// SAFETY: as above; `copy` and `populate` change nothing of it.
#[expect(unsafe_code, reason = "a mapping is read from any thread")]
unsafe impl Sync for RealMap {}

/// Maps the first `bytes` of a file.
pub(super) fn map(file: &File, bytes: u64) -> Option<Box<dyn FsMap>> {
    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes > 0)?;
    let pages_bytes = bytes.checked_next_multiple_of(guard::page_bytes()?)?;
    if MAPPINGS.load(Ordering::Relaxed) >= MAPPINGS_MAX {
        return None;
    }
    // SAFETY: the system chooses the address, so no other memory of the process is touched.
    #[expect(unsafe_code, reason = "the call that maps a file")]
    let mapped =
        unsafe { mmap(ptr::null_mut(), pages_bytes, ProtFlags::READ, MapFlags::SHARED, file, 0) };
    let start = NonNull::new(mapped.ok()?)?.cast();
    let address = start.as_ptr() as usize;
    let registered = guard::register(address..address + pages_bytes);
    MAPPINGS.fetch_add(1, Ordering::Relaxed);
    Some(Box::new(RealMap { start, bytes, pages_bytes, registered }))
}

impl RealMap {
    /// Where `bytes` at `offset` begin, if all of them are mapped.
    fn place(&self, offset: u64, bytes: usize) -> Option<usize> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(bytes)?;
        (end <= self.bytes).then_some(offset)
    }
}

impl FsMap for RealMap {
    // Never inlined: the compiler must not look at the source again in place of the copy.
    #[inline(never)]
    fn copy(&self, offset: u64, to: &mut [u8]) -> bool {
        let Some(place) = self.place(offset, to.len()).filter(|_| !self.registered.is_lost())
        else {
            return false;
        };
        // SAFETY: `place..place + to.len()` lies in the mapping, which lives as long as `self`, and `to`
        // is memory of another kind. A page that the disk cannot deliver is replaced by the guard. Another
        // process may change the bytes meanwhile: they are copied once, as they come, any value of them is a
        // byte, and only the copy is looked at.
        #[expect(unsafe_code, reason = "the one copy out of a mapping")]
        unsafe {
            ptr::copy_nonoverlapping(self.start.as_ptr().add(place), to.as_mut_ptr(), to.len());
        }
        !self.registered.is_lost()
    }

    fn populate(&self, offset: u64, bytes: u64) -> bool {
        let Ok(bytes) = usize::try_from(bytes) else {
            return false;
        };
        let Some(place) = self.place(offset, bytes) else {
            return false;
        };
        let first = place - place % guard::page_bytes().unwrap_or(1);
        // SAFETY: the range lies in the mapping, begins at a page, and the advice changes no contents.
        #[expect(unsafe_code, reason = "advice on a part of the mapping")]
        let done = unsafe {
            let start = self.start.as_ptr().add(first).cast::<c_void>();
            madvise(start, place + bytes - first, Advice::LinuxPopulateRead)
        };
        done.is_ok()
    }
}

impl Drop for RealMap {
    fn drop(&mut self) {
        self.registered.end();
        MAPPINGS.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: the mapping is ours, whole, and nothing borrows it any more. Where the system refuses, at its
        // limit of mappings, the addresses stay taken.
        #[expect(unsafe_code, reason = "the end of the mapping")]
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.pages_bytes) };
    }
}
