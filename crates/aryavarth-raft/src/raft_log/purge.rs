//! Files that hold nothing needed any more: removed, oldest first.
//!
//! A file is needed while an entry behind the purged id lies in it. Votes and other small state need no
//! old file, because every file begins with a copy of it.
//!
//! Invariants:
//! - A file goes only after the `Purged` and `Truncate` records that make it useless are on disk.
//! - After a crash no file is missing between two others: each name's removal is made durable
//!   before the next file's.

use aryavarth::fs::Site;

use super::Shared;
use super::segment::path_of;
use super::writer::Writer;
use crate::error::Result;

/// Removes the files that are not needed, if a purge was written since the last time.
pub(super) fn remove_files(shared: &Shared, writer: &mut Writer) -> Result<()> {
    if !writer.gives_up_files {
        return Ok(());
    }
    let Some(needed) = shared.oldest_needed(writer.active().id) else { return Ok(()) };
    while let Some(id) = shared.oldest_file().filter(|id| *id < needed) {
        let fs = &*shared.options.fs;
        fs.remove(Site::RaftFileRemove, &path_of(&shared.dir, id))?;
        shared.forget_file(id);
        fs.sync_dir(Site::RaftRemoveDirSync, &shared.dir)?;
    }
    writer.gives_up_files = false;
    Ok(())
}
