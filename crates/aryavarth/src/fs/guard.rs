//! The guard of mapped files: a handler of SIGBUS.
//!
//! ```text
//!   SIGBUS at an address
//!     in a registered range  ->  zeros take the place of the whole range, and its readers make calls
//!     anywhere else          ->  the handler that was there before, or the end of the process
//! ```
//!
//! The handler may run amid any instruction, so it takes no lock, allocates nothing, and makes one
//! system call. Ranges stand in a list of chunks that only grows.
//!
//! Invariants:
//! - A range is in the list while a reader may touch it, and no other memory has its addresses then.
//! - The list is never taken apart, so the handler can walk it at any time.
//! - The first fault of a range replaces all of it by one mapping of zeros. Page by page each would split
//!   the range, and some 32,000 scattered ones use up the mappings that a process can have.
//!
//! The atomics are the standard library's, also under a model checker: a signal is no thread of it.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem;
use std::ops::Range;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// Ranges of one chunk of the list.
const CHUNK: usize = 64;
/// The start of a place in the list that is free, and of one that is being filled.
const FREE: usize = 0;
const CLAIMED: usize = 1;
/// The code of memory that went bad while no thread reads it.
const BUS_MCEERR_AO: c_int = 5;

static INSTALLED: AtomicBool = AtomicBool::new(false);
static PAGE_BYTES: AtomicUsize = AtomicUsize::new(0);
/// The action that was there before.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());
static RANGES: Chunk = Chunk::new();

#[derive(Debug)]
struct Place {
    start: AtomicUsize,
    end: AtomicUsize,
    /// Whether zeros stand in its place.
    lost: AtomicBool,
}

impl Place {
    const fn new() -> Place {
        let (start, end) = (AtomicUsize::new(FREE), AtomicUsize::new(0));
        Place { start, end, lost: AtomicBool::new(false) }
    }
}

#[derive(Debug)]
struct Chunk {
    places: [Place; CHUNK],
    next: AtomicPtr<Chunk>,
}

impl Chunk {
    const fn new() -> Chunk {
        let places = [const { Place::new() }; CHUNK];
        Chunk { places, next: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The chunk behind this one.
    fn next(&self) -> Option<&'static Chunk> {
        // SAFETY: a chunk that is linked was leaked, so it lives for ever, and only its atomics change.
        #[expect(unsafe_code, reason = "a link to memory that is never freed")]
        unsafe {
            self.next.load(Ordering::Acquire).as_ref()
        }
    }

    fn next_or_new(&self) -> &'static Chunk {
        if let Some(next) = self.next() {
            return next;
        }
        let new = Box::into_raw(Box::new(Chunk::new()));
        let linked =
            self.next.compare_exchange(ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire);
        // SAFETY: a chunk that another thread linked meanwhile stays in its place; ours was seen by none.
        #[expect(unsafe_code, reason = "a chunk that was not linked is freed, any other one stays")]
        unsafe {
            match linked {
                Ok(_) => &*new,
                Err(other) => {
                    drop(Box::from_raw(new));
                    &*other
                }
            }
        }
    }
}

/// A range in the list.
#[derive(Debug)]
pub(super) struct Registered(&'static Place);

impl Registered {
    /// Whether a fault has put zeros into the place of the range.
    pub(super) fn is_lost(&self) -> bool {
        self.0.lost.load(Ordering::Acquire)
    }

    /// Takes the range out, before its memory can become other memory.
    pub(super) fn end(&self) {
        self.0.start.store(FREE, Ordering::Release);
    }
}

/// Enters a range of addresses.
pub(super) fn register(range: Range<usize>) -> Registered {
    let mut chunk: &'static Chunk = &RANGES;
    loop {
        for place in &chunk.places {
            let claimed =
                place.start.compare_exchange(FREE, CLAIMED, Ordering::AcqRel, Ordering::Relaxed);
            if claimed.is_ok() {
                place.lost.store(false, Ordering::Relaxed);
                place.end.store(range.end, Ordering::Release);
                place.start.store(range.start, Ordering::Release);
                return Registered(place);
            }
        }
        chunk = chunk.next_or_new();
    }
}

/// The registered range in which an address lies.
fn find(address: usize) -> Option<(&'static Place, Range<usize>)> {
    let mut chunk: Option<&'static Chunk> = Some(&RANGES);
    while let Some(here) = chunk {
        for place in &here.places {
            let start = place.start.load(Ordering::Acquire);
            let end = place.end.load(Ordering::Acquire);
            // A place that changes now is not the one of the reader that was interrupted.
            let is_whole = start > CLAIMED && place.start.load(Ordering::Acquire) == start;
            if is_whole && (start..end).contains(&address) {
                return Some((place, start..end));
            }
        }
        chunk = here.next();
    }
    None
}

/// Whether the handler stands.
pub(super) fn is_installed() -> bool {
    INSTALLED.load(Ordering::Acquire)
}

/// Bytes of a page; `None` until the handler stands.
pub(super) fn page_bytes() -> Option<usize> {
    is_installed().then(|| PAGE_BYTES.load(Ordering::Relaxed))
}

/// Installs the handler, once for the process.
pub(super) fn install() -> io::Result<()> {
    static ONCE: Once = Once::new();
    let mut done = Ok(());
    ONCE.call_once(|| done = install_handler());
    match done {
        Ok(()) if !is_installed() => Err(io::Error::other("the system refused the handler before")),
        done => done,
    }
}

fn install_handler() -> io::Result<()> {
    PAGE_BYTES.store(rustix::param::page_size(), Ordering::Relaxed);
    let check = |result: c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: an action of zeros is a whole one: the default, no flags, no signals held back. Both calls
    // get whole actions, and the handler is a function for three arguments, as SA_SIGINFO says.
    #[expect(unsafe_code, reason = "the calls that install a handler")]
    unsafe {
        let mut previous: libc::sigaction = mem::zeroed();
        check(libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut previous))?;
        // Never freed: the handler may read it at any time.
        PREVIOUS.store(Box::into_raw(Box::new(previous)), Ordering::Release);
        let mut action: libc::sigaction = mem::zeroed();
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_sigbus;
        action.sa_sigaction = handler as usize;
        // On the stack for signals, as the standard library's handler, which is passed what overflows a stack.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        check(libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()))?;
    }
    INSTALLED.store(true, Ordering::Release);
    Ok(())
}

extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the system passes a whole `siginfo_t` with this signal; its address is read only where
    // the system itself raised the signal (its code is above zero), and so has set it.
    #[expect(unsafe_code, reason = "the arguments of a signal handler")]
    let (code, address) = unsafe {
        let code = (*info).si_code;
        (code, (code > 0).then(|| (*info).si_addr() as usize))
    };
    if let Some((place, range)) = address.and_then(find)
        && put_zeros(place, range)
    {
        return;
    }
    // No instruction raises it again: a process sent it, or memory went bad that no thread reads now.
    let is_sent = address.is_none() || code == BUS_MCEERR_AO;
    pass_on(signal, info, context, is_sent);
    // A handler that leaves the signal to the system, as the standard library's does, expects the
    // instruction to raise it again.
    if is_sent && is_default(signal) {
        raise_default(signal);
    }
}

/// Whether the signal's action is the default one.
fn is_default(signal: c_int) -> bool {
    // SAFETY: an action of zeros is a whole one, and the call only fills it.
    #[expect(unsafe_code, reason = "the call that reads an action")]
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        libc::sigaction(signal, ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_DFL
    }
}

/// Gives a signal its default action and raises it; it is held back until the handler returns.
fn raise_default(signal: c_int) {
    // SAFETY: an action of zeros is the default one, and a handler may make both calls.
    #[expect(unsafe_code, reason = "the calls that end the process as the signal would")]
    unsafe {
        let default: libc::sigaction = mem::zeroed();
        libc::sigaction(signal, &raw const default, ptr::null_mut());
        libc::raise(signal);
    }
}

/// Puts zeros into the place of a range, in one mapping.
fn put_zeros(place: &Place, range: Range<usize>) -> bool {
    place.lost.store(true, Ordering::Release);
    let start = ptr::with_exposed_provenance_mut(range.start);
    // SAFETY: the range is registered, all of it a mapping for reading that its reader, which this signal
    // interrupts, keeps alive; it and others in the range then find zeros.
    #[expect(unsafe_code, reason = "the mapping that the disk cannot deliver is replaced")]
    let placed = unsafe {
        mmap_anonymous(start, range.len(), ProtFlags::READ, MapFlags::PRIVATE | MapFlags::FIXED)
    };
    placed.is_ok()
}

/// Leaves a signal, which the system raised or a process sent, to the handler that was there before, or
/// to the system.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void, is_sent: bool) {
    // SAFETY: the action was stored before the handler was installed and is never freed. Its handler has
    // the arguments that its flags say.
    #[expect(unsafe_code, reason = "the previous handler is called as the system would")]
    unsafe {
        let previous = PREVIOUS.load(Ordering::Acquire).as_ref();
        match previous.map(|action| (action.sa_sigaction, action.sa_flags)) {
            Some((libc::SIG_IGN, _)) if is_sent => {}
            None | Some((libc::SIG_DFL | libc::SIG_IGN, _)) => raise_default(signal),
            Some((handler, flags)) if flags & libc::SA_SIGINFO != 0 => {
                let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                    mem::transmute(handler);
                handler(signal, info, context);
            }
            Some((handler, _)) => {
                let handler: extern "C" fn(c_int) = mem::transmute(handler);
                handler(signal);
            }
        }
    }
}
