//! `KvStore`: the handle that users hold.
//!
//! Clones share one store. The last one to go closes it: background threads end, everything is
//! synced and sealed, and the manifest says that the store was closed. The byte-level methods here
//! block until their results are as durable as the handle's level asks; the methods of
//! [`KvsEngine`] of the same names return at once, with a position to wait for.

#[cfg(feature = "async")]
mod asynchronous;
mod background;
mod calls;
mod engine;
mod names;
mod reader;
mod scan;
mod trouble;

use std::fmt;
use std::path::Path;
use std::thread::JoinHandle;

use crate::compaction;
use crate::damage::Damage;
use crate::engine::{
    Deadline, KeyRange, KvsEngine, Now, Position, Transaction, Wait, check_outside,
};
use crate::error::{KvsError, Result};
use crate::log::Log;
use crate::options::{Durability, Options};
use crate::record::Batch;
use crate::recovery::{self, DirLock, Recovery};
use crate::scrub::{Scrubber, VerifyReport};
use crate::stats::Stats;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, Rank};

#[cfg(feature = "async")]
pub use asynchronous::AsyncKvStore;
pub use reader::KvReader;
pub use scan::{Keys, Scan};

/// A durable, ordered key-value store in a directory.
///
/// Keys are at most 65,535 bytes, values 64 MiB unless the options say otherwise. Reads take no
/// lock; writes are serialised and share syncs. One process at a time may have a directory open.
///
/// ```
/// use aryavarth::{Batch, KeyRange, KvStore};
///
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// let store = KvStore::open(dir)?;
/// store.put(b"user:1", b"Alice")?; // returns when it is on disk
/// assert_eq!(store.read(b"user:1")?, Some(b"Alice".to_vec()));
///
/// store.write(Batch::new().put("user:2", "Bob").delete("user:1"))?; // both or neither
/// let users: Vec<_> = store.scan(KeyRange::prefix(b"user:")).collect::<Result<_, _>>()?;
/// assert_eq!(users, [(b"user:2".to_vec(), b"Bob".to_vec())]);
///
/// let visits = store.transact(&[b"visits"], |tx| {
///     let visits = tx.read(b"visits")?.map_or(0, |bytes| bytes[0]) + 1;
///     tx.put("visits", [visits]);
///     Ok(visits)
/// })?;
/// assert_eq!(visits, 1);
/// store.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct KvStore {
    inner: Arc<Inner>,
    durability: Durability,
    space: u32,
}

struct Inner {
    log: Arc<Log>,
    scrubber: Arc<Scrubber>,
    recovery: Recovery,
    threads: Mutex<Vec<JoinHandle<()>>>,
    closed: AtomicBool,
    // Released last, when nothing of this store can touch the directory any more.
    _lock: DirLock,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvStore").field("dir", &self.log.dir).finish_non_exhaustive()
    }
}

impl KvStore {
    /// Opens the store in a directory, creating it if the directory is empty or missing.
    ///
    /// Reads the hint files, or the log where there are none; copies and syncs the records
    /// that a crash left beyond the last provably durable position. The directory is locked until the last handle
    /// is gone.
    ///
    /// # Errors
    /// [`KvsError::Locked`], [`KvsError::NotOurs`], [`KvsError::UnknownFormat`],
    /// [`KvsError::WrongEngine`], [`KvsError::Corrupt`] (each leaves the directory as it was), and
    /// [`KvsError::Io`].
    pub fn open(dir: impl AsRef<Path>) -> Result<KvStore> {
        KvStore::open_with(dir, Options::default())
    }

    /// Opens the store in a directory with options of your own.
    #[expect(clippy::needless_pass_by_value, reason = "options are made for one open")]
    pub fn open_with(dir: impl AsRef<Path>, options: Options) -> Result<KvStore> {
        KvStore::of(recovery::open(dir.as_ref(), &options)?, &options)
    }

    /// A handle of a store that recovery opened.
    fn of(opened: (Log, DirLock, Recovery), options: &Options) -> Result<KvStore> {
        let (log, dir_lock, recovery) = opened;
        let log = Arc::new(log);
        let scrubber = Arc::new(Scrubber::new(&log));
        if recovery.has_damage_note {
            scrubber.recall(&log);
        }
        let inner = Inner {
            scrubber,
            recovery,
            threads: Mutex::new(Rank::Threads, Vec::new()),
            closed: AtomicBool::new(false),
            _lock: dir_lock,
            log,
        };
        if options.background {
            inner.start()?;
        }
        Ok(KvStore { inner: Arc::new(inner), durability: options.durability, space: 0 })
    }

    /// A handle of the same store that waits for another level. Costs nothing.
    #[must_use]
    pub fn with_durability(&self, durability: Durability) -> KvStore {
        KvStore { durability, ..self.clone() }
    }

    /// A handle of the same store that works in another space of keys. Spaces know nothing of each
    /// other's keys, share the log, its syncs and every [transaction](Self::transact), and need
    /// not be created. A space with a few keys costs about a kilobyte of memory.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// let store = aryavarth::KvStore::open(dir)?;
    /// let sessions = store.with_space(1);
    /// store.put(b"k", b"in space 0")?;
    /// sessions.put(b"k", b"in space 1")?;
    /// sessions.clear()?;
    /// assert_eq!(sessions.read(b"k")?, None);
    /// assert_eq!(store.read(b"k")?, Some(b"in space 0".to_vec()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_space(&self, space: u32) -> KvStore {
        KvStore { space, ..self.clone() }
    }

    /// Both clocks, as [`KvsEngine::now`] says.
    pub fn now(&self) -> Now {
        self.inner.log.now()
    }

    /// The store's clock, as [`KvsEngine::now_ms`] says.
    pub fn now_ms(&self) -> u64 {
        self.inner.log.now_ms()
    }

    /// Findings of the open: whether the store had been closed, and the tail that a crash tore.
    pub fn recovery(&self) -> &Recovery {
        &self.inner.recovery
    }

    /// Sets a key; returns when that is durable.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.write(Batch::new().put(key, value)).map(drop)
    }

    /// Sets a key until `expires_at`, in milliseconds since 1970 by the machine's clock: from then on
    /// no caller sees it, and its space comes back. Where that clock is set, the key goes at the same
    /// time by the clock as it is now; a key that was shown as gone stays gone. For a lifetime that
    /// counts from now on use [`put_for`](Self::put_for). Returns when
    /// that is durable. A deadline costs 8 bytes of the record and about 35 bytes of memory.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// use aryavarth::Deadline;
    ///
    /// let store = aryavarth::KvStore::open(dir)?;
    /// let deadline = store.now().wall_ms + 60_000;
    /// store.put_until(b"session", b"Alice", deadline)?;
    /// assert_eq!(store.deadline(b"session")?, Some(Deadline::Wall(deadline)));
    /// store.put_until(b"session", b"Alice", store.now().wall_ms)?; // has passed: gone
    /// assert_eq!(store.read(b"session")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put_until(&self, key: &[u8], value: &[u8], expires_at: u64) -> Result<()> {
        self.put_with_deadline(key, value, Deadline::Wall(expires_at))
    }

    /// Sets a key with a deadline by either clock; returns when that is durable.
    pub fn put_with_deadline(&self, key: &[u8], value: &[u8], deadline: Deadline) -> Result<()> {
        self.write(Batch::new().put_with_deadline(key, value, deadline)).map(drop)
    }

    /// The deadline of a key, if there is such a key; returns when that is durable. Reads no file;
    /// errors as [`contains`](Self::contains).
    pub fn deadline(&self, key: &[u8]) -> Result<Option<Deadline>> {
        let (deadline, position) = KvsEngine::deadline(self, key, Wait::Yes)?;
        self.wait(position, self.durability)?;
        Ok(deadline)
    }

    /// Removes all keys of the space by one record; returns when that is durable.
    pub fn clear(&self) -> Result<()> {
        self.transact(&[], |transaction| {
            transaction.clear();
            Ok(())
        })
    }

    /// The value of a key; returns when the value, or its absence, is durable.
    pub fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let (value, position) = KvsEngine::read(self, key, Wait::Yes)?;
        self.wait(position, self.durability)?;
        Ok(value)
    }

    /// Removes a key; returns whether it existed, when its absence is durable.
    pub fn delete(&self, key: &[u8]) -> Result<bool> {
        Ok(self.write(Batch::new().delete(key))? > 0)
    }

    /// Writes a batch, all of it or nothing; returns how many of its removals found their key, when
    /// that is durable. The batch is lent: a caller may write it again after an error.
    pub fn write(&self, batch: &Batch) -> Result<u64> {
        let (removed, position) = KvsEngine::write(self, batch)?;
        self.wait(position, self.durability)?;
        Ok(removed)
    }

    /// Runs a closure as [`KvsEngine::transact`] does; returns its result, or its error, when all that
    /// it can depend on is durable.
    pub fn transact<R>(
        &self,
        keys: &[&[u8]],
        body: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<R> {
        let done = KvsEngine::transact(self, keys, body);
        // An error of the closure tells of its reads too, be it that a key is absent.
        let everything = || Position(self.inner.log.last_position());
        let position = done.as_ref().map_or_else(|_| everything(), |&(_, position)| position);
        self.wait(position, self.durability)?;
        done.map(|(result, _)| result)
    }

    /// The entries of a range, in order, each durable when returned; ends after the first error.
    /// Among 16 to 256 keys read together (16 while such writes follow each other closely) each
    /// batch or transaction of several keys is seen wholly or not at all; the range is not seen at one moment.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// use aryavarth::{Batch, KvStore};
    ///
    /// let store = KvStore::open(dir)?;
    /// store.write(Batch::new().put("a", "1").put("b", "2").put("c", "3"))?;
    /// let (key, _) = store.scan("a".."c").next_back().expect("a and b lie there")?;
    /// assert_eq!(key, b"b");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn scan(&self, range: impl Into<KeyRange>) -> Scan {
        Scan::new(self.clone(), range.into())
    }

    /// Returns when everything written before is on disk, whatever the handle's level.
    pub fn flush(&self) -> Result<()> {
        self.outside()?.watermarks.sync()
    }

    /// Gives all dead bytes back now: seals the active segment, rewrites all without dead records.
    /// Needs space for up to 256 MiB of live data beside the existing files.
    pub fn compact(&self) -> Result<()> {
        let log = self.outside()?;
        log.watermarks.check()?;
        log.seal_active()?;
        self.noted(compaction::run_all(log)).map_err(KvsError::told_full)
    }

    /// Figures of the store. No system call.
    pub fn stats(&self) -> Stats {
        let log = &self.inner.log;
        Stats {
            expired_keys: log.expired_keys.load(Ordering::Relaxed),
            keys: log.keys.load(Ordering::Relaxed).max(0) as u64,
            live_bytes: log.live_bytes.load(Ordering::Relaxed).max(0) as u64,
            disk_bytes: log.disk_bytes(),
            segments: log.table.all().len() as u64,
            appended_bytes: log.appended_bytes.load(Ordering::Relaxed),
            syncs: log.watermarks.syncs(),
            compactions: log.compactions.load(Ordering::Relaxed),
            torn_bytes: self.inner.recovery.torn_bytes,
            recovered_records: self.inner.recovery.kept_records,
            durable_position: log.watermarks.durable(),
            written_position: log.watermarks.written(),
            scrubbed_bytes: self.inner.scrubber.bytes(),
            damaged_records: self.inner.scrubber.losses(log),
            clock_jumps: log.clock.jumps(),
            clock_offset_ms: log.clock.offset_ms(),
            poisoned: log.watermarks.check().is_err(),
            full: log.is_full(),
        }
    }

    /// Reads all sealed files now, without rests, and compares checksums; returns counts and all
    /// damage. Reads, writes and compaction go on meanwhile. The newest records lie in a file that
    /// is not sealed yet and is left out. Bytes in the system's page cache come from there.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// let store = aryavarth::KvStore::open(dir)?;
    /// store.put(b"k", b"v")?;
    /// store.compact()?; // seals every segment
    /// let report = store.scrub()?;
    /// assert_eq!((report.records, report.damaged), (1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn scrub(&self) -> Result<VerifyReport> {
        let log = self.outside()?;
        let report = self.inner.scrubber.pass(log);
        // A pass that was cut short has not seen everything.
        self.log().map(|_| report)
    }

    /// The damage that reads, scrubs and compactions met, in files that still exist: the first 100,000
    /// places. A key that is written again has lost nothing: compaction drops its damaged record, and
    /// leaves a file with a loss alone until the lost key is written again or removed.
    ///
    /// The first 1,000 places are remembered over a restart, in a small file that the background writes;
    /// the open reads the records there again, and lists those that are still damaged. A store without
    /// background threads writes it in [`step`](Self::step) and at the close.
    pub fn damage(&self) -> Vec<Damage> {
        self.inner.scrubber.damage(&self.inner.log)
    }

    /// Closes the store: waits for its threads, syncs and seals everything. Other handles then get
    /// [`KvsError::Closed`]. Dropping the last handle does the same and swallows the error.
    pub fn close(self) -> Result<()> {
        check_outside(&*self.inner.log)?;
        self.inner.close()
    }

    /// Runs one piece of background work, if there is any, for stores without `background`.
    pub fn step(&self) -> Result<bool> {
        let log = self.outside()?;
        if log.watermarks.step()? || log.tend()? || log.sweep()? {
            return Ok(true);
        }
        log.reap();
        if self.inner.scrubber.remember(log, false) {
            return Ok(true);
        }
        if compaction::is_due(log, true) && compaction::run(log, true)? {
            return Ok(true);
        }
        Ok(self.inner.scrubber.step(log))
    }

    fn log(&self) -> Result<&Log> {
        if self.inner.closed.load(Ordering::Acquire) {
            return Err(KvsError::Closed);
        }
        Ok(&self.inner.log)
    }

    /// Lists the damage that a read met.
    fn noted<T>(&self, done: Result<T>) -> Result<T> {
        done.inspect_err(|error| self.inner.scrubber.note_error(&self.inner.log, error))
    }

    /// The log, for a call that needs the writer's lock or waits for the disk.
    fn outside(&self) -> Result<&Log> {
        let log = self.log()?;
        check_outside(log)?;
        Ok(log)
    }
}
