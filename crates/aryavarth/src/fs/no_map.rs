//! Systems on which no file is mapped: the address space is small, or SIGBUS is not like Linux's.

use std::fs::File;
use std::io;

use super::FsMap;

/// Refused here: reads go through calls of the system.
///
/// # Errors
/// Always [`io::ErrorKind::Unsupported`]; nothing has changed.
pub fn install_sigbus_guard() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn mappable_bytes() -> u64 {
    0
}

pub(super) fn map(_file: &File, _bytes: u64) -> Option<Box<dyn FsMap>> {
    None
}
