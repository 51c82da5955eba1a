//! The allocator of the process, and the memory that it keeps.
//!
//! mimalloc asks for huge pages: each first touch of 2 MiB then takes 2 MiB, and a store of 20,000
//! small keys takes 62 MB in place of 11. They pay from about 64 MiB on, so the server begins
//! without them and turns them on as it grows.

/// Faster than the system's allocator for a server, which makes and frees many small things on
/// several threads. (Measured: `docs/decisions/dependencies.md`.)
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[expect(unsafe_code, reason = "the crate of the allocator has no safe name for this call")]
mod collect {
    // SAFETY: the signature is mimalloc's; the allocator is linked into the program.
    unsafe extern "C" {
        /// Frees the memory that the calling thread keeps for later, or what is due of it.
        pub(super) safe fn mi_collect(all: bool);
    }
}

/// Gives memory back that the calling thread keeps, and that no thread owns: all, or what has
/// not been used for a second.
pub(crate) fn give_back(all: bool) {
    collect::mi_collect(all);
}

/// Allows huge pages or not. A system without them refuses, which changes nothing.
pub(crate) fn use_huge_pages(allowed: bool) {
    let _ = rustix::thread::disable_transparent_huge_pages(!allowed);
}
