//! `KvReader`: a store as it was at one moment, read beside the process that has it open.

use std::path::Path;

use super::{Keys, KvStore, Scan};
use crate::engine::{Count, Deadline, KeyRange};
use crate::error::Result;
use crate::options::{Durability, Options};
use crate::recovery;

/// Memory is spent on records in the place of files, so only the smallest segments are merged.
const MERGED_BYTES_MAX: u64 = 4096;

/// A store as it was at the moment of the open, for reading only: beside another process that has
/// the same directory open, or none.
///
/// **The moment**: everything that was acknowledged before [`open`](KvReader::open) was called is
/// there; of what was written while it ran, a beginning of the log may be, each batch and each
/// transaction wholly or not at all. Later writes never show; open again to see them. All that it
/// shows is on disk, with two exceptions, neither of which was acknowledged: while the writer's store is
/// poisoned, writes that a failed sync has lost may show; and of several batches that the writer appends
/// in one call ([`write_each`](crate::KvsEngine::write_each)) to a disk that gets full in the middle of
/// them, the first ones may show to an open in the moment before the writer takes them back.
///
/// Deadlines are by the reader's own clock, which binds nobody: a key that it hides as expired may still
/// show to the writer, if the wall clock was set meanwhile.
///
/// It takes no lock, creates no file and changes none, so the writer does not notice it; space of files
/// that the writer removes comes back when the reader goes. It costs the memory of an index, as
/// [`KvStore`] does. Local file systems only: on a network's, another machine may see old bytes.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// use aryavarth::{KvReader, KvStore};
///
/// let store = KvStore::open(dir)?; // may well be another process
/// store.put(b"k", b"old")?;
/// let reader = KvReader::open(dir)?;
/// store.put(b"k", b"new")?;
/// assert_eq!(reader.read(b"k")?, Some(b"old".to_vec()));
/// assert_eq!(KvReader::open(dir)?.read(b"k")?, Some(b"new".to_vec()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct KvReader {
    store: KvStore,
}

impl KvReader {
    /// Opens the store in a directory for reading. Reads hints or logs as
    /// [`KvStore::open`] does, and syncs the segments that the writer appends to: one or two syncs.
    ///
    /// # Errors
    /// [`KvsError::Io`](crate::KvsError::Io) if there is no store or a file cannot be read,
    /// [`KvsError::Corrupt`](crate::KvsError::Corrupt) for damage, or if the writer changed the files
    /// faster than they could be opened for half a second: try again.
    pub fn open(dir: impl AsRef<Path>) -> Result<KvReader> {
        KvReader::open_with(dir, Options::default())
    }

    /// Opens with a file system, a clock and a seed of your own; other options say nothing here.
    pub fn open_with(dir: impl AsRef<Path>, options: Options) -> Result<KvReader> {
        let options = Options {
            background: false,
            durability: Durability::Always,
            segment_bytes_min: MERGED_BYTES_MAX,
            segment_bytes_max: MERGED_BYTES_MAX,
            ..options
        };
        let opened = recovery::open_beside(dir.as_ref(), &options)?;
        Ok(KvReader { store: KvStore::of(opened, &options)? })
    }

    /// As [`KvStore::with_space`].
    #[must_use]
    pub fn with_space(&self, space: u32) -> KvReader {
        KvReader { store: self.store.with_space(space) }
    }

    /// The space with a name, if there was one; as [`KvStore::named`].
    ///
    /// # Errors
    /// As [`KvStore::named`].
    pub fn named(&self, name: &str) -> Result<Option<KvReader>> {
        Ok(self.store.find_named(name)?.map(|store| KvReader { store }))
    }

    /// As [`KvStore::space_names`].
    pub fn space_names(&self) -> Result<Vec<String>> {
        self.store.space_names()
    }

    /// As [`KvStore::read`].
    pub fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.store.read(key)
    }

    /// As [`KvStore::contains`].
    pub fn contains(&self, key: &[u8]) -> Result<bool> {
        self.store.contains(key)
    }

    /// As [`KvStore::deadline`].
    pub fn deadline(&self, key: &[u8]) -> Result<Option<Deadline>> {
        self.store.deadline(key)
    }

    /// As [`KvStore::count`].
    pub fn count(&self) -> Result<Count> {
        self.store.count()
    }

    /// As [`KvStore::keys`].
    pub fn keys(&self, range: impl Into<KeyRange>) -> Keys {
        self.store.keys(range)
    }

    /// As [`KvStore::scan`].
    pub fn scan(&self, range: impl Into<KeyRange>) -> Scan {
        self.store.scan(range)
    }
}
