//! The blocks that a directory takes on the disk, and its pages in memory.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Advice, fadvise};

/// The blocks that the files of a directory and of those below it take, in bytes, as `du` counts.
pub(crate) fn allocated_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    each_file(dir, &mut |path| {
        bytes += fs::metadata(path)?.blocks() * 512;
        Ok(())
    })?;
    Ok(bytes)
}

/// Writes the files of a directory to the disk, written by any process.
pub(crate) fn sync_files(dir: &Path) -> io::Result<()> {
    each_file(dir, &mut |path| File::open(path)?.sync_data())
}

/// Writes the files of a directory to the disk and takes their pages out of the page cache, so
/// that the next read of each has to wait for the disk.
pub(crate) fn drop_pages(dir: &Path) -> io::Result<()> {
    each_file(dir, &mut |path| {
        let file = File::open(path)?;
        // Pages that are not on the disk yet would stay.
        file.sync_data()?;
        Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
    })
}

fn each_file(dir: &Path, visit: &mut impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let visited = match entry.file_type() {
            Ok(kind) if kind.is_dir() => each_file(&entry.path(), visit),
            Ok(_) => visit(&entry.path()),
            Err(error) => Err(error),
        };
        match visited {
            // Compaction removed it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            visited => visited?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_below_the_directory_count() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), [1; 5000]).unwrap();
        let alone = allocated_bytes(dir.path()).unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::write(dir.path().join("below/file"), [1; 5000]).unwrap();
        drop_pages(dir.path()).unwrap();
        assert!(alone >= 5000);
        assert_eq!(allocated_bytes(dir.path()).unwrap(), 2 * alone);
    }
}
