//! Memory of the process that is no longer needed goes back to the system.
//!
//! ```text
//!  every second ---> requests ran since ---> yes: give back memory unused for a second
//!                         |
//!                         no, twice -------> all threads give back all that they keep, once
//! ```
//!
//! The server knows no allocator: the program that has one gives [`MemoryHooks`]. A thread's memory
//! can be given back by itself alone, so each of the pool and of the sockets is asked.
//!
//! Invariant: huge pages are off while the process is small or has a limit on memory, for they
//! round each part of the heap up to 2 MiB.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Memory of the process from which on huge pages pay, in bytes.
const HUGE_BYTES_MIN: u64 = 64 << 20;
/// Looks without a request after which the server is at rest.
const RESTED: u64 = 2;

/// Calls into the allocator of the program.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryHooks {
    /// Gives back to the system the memory that the calling thread keeps: all of it, or the part
    /// that was not used lately. Default: none, memory goes back as the allocator has it.
    pub give_back: Option<fn(all: bool)>,
    /// Allows huge pages, which the program has forbidden before. Default: none.
    pub use_huge_pages: Option<fn(allowed: bool)>,
}

/// The state of the upkeep.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    pub(crate) hooks: MemoryHooks,
    has_huge_pages: AtomicBool,
    requests_seen: AtomicU64,
    rested: AtomicU64,
}

impl Upkeep {
    pub(crate) fn new(hooks: MemoryHooks) -> Self {
        Upkeep { hooks, ..Upkeep::default() }
    }

    /// Looks after the memory, once a second: allows huge pages if the process is large and
    /// `has_limit` says that its memory has none, and gives back a little while requests run.
    /// Returns whether all threads are to give back all: once, when the server comes to rest.
    pub(crate) fn look(&self, used_bytes: u64, has_limit: bool, requests: u64) -> bool {
        let pays = !has_limit && used_bytes >= HUGE_BYTES_MIN;
        if let Some(use_huge_pages) = self.hooks.use_huge_pages
            && self.has_huge_pages.swap(pays, Ordering::Relaxed) != pays
        {
            use_huge_pages(pays);
        }
        if self.requests_seen.swap(requests, Ordering::Relaxed) == requests {
            return self.rested.fetch_add(1, Ordering::Relaxed) + 1 == RESTED;
        }
        self.rested.store(0, Ordering::Relaxed);
        if let Some(give_back) = self.hooks.give_back {
            give_back(false);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_asked_once_when_the_server_comes_to_rest() {
        let upkeep = Upkeep::default();
        let looks = [1, 1, 1, 1, 2, 2, 2, 2].map(|requests| upkeep.look(0, false, requests));
        assert_eq!(looks, [false, false, true, false, false, false, true, false]);
    }
}
