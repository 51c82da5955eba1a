//! `KvStore`: the handle that users hold.
//!
//! Clones share one store. The last one to go closes it: background threads end, everything is
//! synced and sealed, and the manifest says that the store was closed. The byte-level methods here
//! block until what they return is as durable as the handle's level asks; the methods of
//! [`KvsEngine`] of the same names return at once, with a position to wait for.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::compaction;
use crate::engine::{
    Count, Entry, KeyPage, KeyRange, KeyWalk, KvsEngine, Page, Position, Stored, Transaction,
    Watch, check_outside,
};
use crate::error::{KvsError, Result};
use crate::log::Log;
use crate::options::{Durability, Options};
use crate::record::Batch;
use crate::recovery::{self, DirLock, Recovery};
use crate::scrub::{Damage, Scrubber, VerifyReport};
use crate::stats::Stats;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, lock};

/// How often the keeper looks around without being called.
const KEEPER_REST: Duration = Duration::from_millis(250);
/// How often the compactor looks whether there is work.
const COMPACTOR_REST: Duration = Duration::from_millis(250);
/// Without writes for this long, a store is at rest.
const REST_AFTER: Duration = Duration::from_secs(5);
/// After this long a compaction that gave nothing back is tried again, without new writes.
const FUTILE_REST: Duration = Duration::from_secs(60);
/// Entries that a scan asks for at a time.
const SCAN_ENTRIES: usize = 256;

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
/// store.write(Batch::new().set("user:2", "Bob").remove("user:1"))?; // both or neither
/// let users: Vec<_> = store.scan(KeyRange::prefix(b"user:")).collect::<Result<_, _>>()?;
/// assert_eq!(users, [(b"user:2".to_vec(), b"Bob".to_vec())]);
///
/// let visits = store.commit(&[b"visits"], |tx| {
///     let visits = tx.get(b"visits")?.map_or(0, |bytes| bytes[0]) + 1;
///     tx.set("visits", [visits]);
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
    /// Reads the hint files, or the log where there are none; copies and syncs what a crash left
    /// beyond the last provably durable position. The directory is locked until the last handle
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
        let durability = options.durability;
        let background = options.background;
        let (log, dir_lock, recovery) = recovery::open(dir.as_ref(), &options)?;
        let log = Arc::new(log);
        let inner = Inner {
            scrubber: Arc::new(Scrubber::new(&log)),
            recovery,
            threads: Mutex::default(),
            closed: AtomicBool::new(false),
            _lock: dir_lock,
            log,
        };
        if background {
            inner.start()?;
        }
        Ok(KvStore { inner: Arc::new(inner), durability, space: 0 })
    }

    /// A handle of the same store that waits for another level. Costs nothing.
    #[must_use]
    pub fn with_durability(&self, durability: Durability) -> KvStore {
        KvStore { durability, ..self.clone() }
    }

    /// A handle of the same store that works in another space of keys. Spaces know nothing of each
    /// other's keys, share the log, its syncs and every batch of [`commit`](Self::commit), and need
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
        self.write(Batch::new().set(key, value)).map(drop)
    }

    /// Sets a key until `expires_at`, in milliseconds since 1970 by the [store's
    /// clock](Self::now_ms): from then on nobody sees it, and its space comes back. Returns when
    /// that is durable. A deadline costs 8 bytes of the record and about 35 bytes of memory.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// let store = aryavarth::KvStore::open(dir)?;
    /// let deadline = store.now_ms() + 60_000;
    /// store.put_until(b"session", b"Alice", deadline)?;
    /// assert_eq!(store.deadline(b"session")?, Some(Some(deadline)));
    /// store.put_until(b"session", b"Alice", store.now_ms())?; // has passed: gone
    /// assert_eq!(store.read(b"session")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put_until(&self, key: &[u8], value: &[u8], expires_at: u64) -> Result<()> {
        self.write(Batch::new().set_until(key, value, expires_at)).map(drop)
    }

    /// The deadline of a key, when durable: `None` without a key, `Some(None)` without a deadline.
    pub fn deadline(&self, key: &[u8]) -> Result<Option<Option<u64>>> {
        let (stored, position) = KvsEngine::find(self, key)?;
        self.wait(position, self.durability)?;
        Ok(stored.map(|stored| stored.expires_at))
    }

    /// Removes all keys of the space by one record; returns when that is durable.
    pub fn clear(&self) -> Result<()> {
        self.commit(&[], |transaction| {
            transaction.clear();
            Ok(())
        })
    }

    /// The value of a key; returns when the value, or its absence, is durable.
    pub fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let (value, position) = KvsEngine::read(self, key)?;
        self.wait(position, self.durability)?;
        Ok(value)
    }

    /// Removes a key; returns whether it existed, when its absence is durable.
    pub fn delete(&self, key: &[u8]) -> Result<bool> {
        Ok(self.write(Batch::new().remove(key))? > 0)
    }

    /// Writes a batch, all of it or nothing; returns its removals that found a key, when durable.
    pub fn write(&self, batch: Batch) -> Result<u64> {
        let (removed, position) = KvsEngine::write(self, batch)?;
        self.wait(position, self.durability)?;
        Ok(removed)
    }

    /// Runs a closure as [`KvsEngine::commit`] does; returns its result, or its error, when all that
    /// it can depend on is durable.
    pub fn commit<R>(
        &self,
        keys: &[&[u8]],
        body: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<R> {
        let done = KvsEngine::commit(self, keys, body);
        // An error of the closure tells of what it saw too, be it that a key is absent.
        let everything = || Position(self.inner.log.last_position());
        let position = done.as_ref().map_or_else(|_| everything(), |&(_, position)| position);
        self.wait(position, self.durability)?;
        done.map(|(result, _)| result)
    }

    /// The entries of a range, in order, each durable when returned; ends after the first error.
    /// Among 16 to 256 keys read together (16 while such commits follow each other closely) each
    /// commit of several keys is seen wholly or not at all; the range is not seen at one moment.
    pub fn scan(&self, range: KeyRange) -> Scan {
        Scan { store: self.clone(), rest: Some(range), page: VecDeque::new() }
    }

    /// Returns when everything written before is on disk, whatever the handle's level.
    pub fn flush(&self) -> Result<()> {
        self.outside()?.commit.sync()
    }

    /// Gives all dead bytes back now: seals the active segment, rewrites all without dead records.
    /// Needs space for up to 256 MiB of live data beside the existing files.
    pub fn compact(&self) -> Result<()> {
        let log = self.outside()?;
        log.commit.check()?;
        log.seal_active()?;
        compaction::run_all(log).map_err(KvsError::told_full)
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
            syncs: log.commit.syncs(),
            compactions: log.compactions.load(Ordering::Relaxed),
            torn_bytes: self.inner.recovery.torn_bytes,
            recovered_records: self.inner.recovery.kept_records,
            durable_position: log.commit.durable(),
            written_position: log.commit.written(),
            scrubbed_bytes: self.inner.scrubber.bytes(),
            damaged_records: self.inner.scrubber.losses(log),
            clock_jumps: log.clock.jumps(),
            clock_offset_ms: log.clock.offset_ms(),
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
    /// store.compact()?; // seals what there is
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

    /// The damage that scrubbing found, in files that still exist. A key that is written again has lost
    /// nothing: compaction drops its damaged record, and leaves a file with a loss alone until a reopen.
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
        if log.commit.step()? || log.tend()? || log.sweep()? {
            return Ok(true);
        }
        log.reap();
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

    /// The log, for a call that needs the writer's lock or waits for the disk.
    fn outside(&self) -> Result<&Log> {
        let log = self.log()?;
        check_outside(log)?;
        Ok(log)
    }
}

impl Inner {
    /// Starts the committer, the keeper, the compactor and the scrubber.
    fn start(&self) -> Result<()> {
        let mut threads = lock(&self.threads);
        let mut spawn = |name: &str, work: fn(&Log, &Scrubber)| {
            let (log, scrubber) = (Arc::clone(&self.log), Arc::clone(&self.scrubber));
            let builder = std::thread::Builder::new().name(format!("aryavarth-{name}"));
            let thread = builder.spawn(move || work(&log, &scrubber));
            thread.map(|thread| threads.push(thread)).map_err(|error| {
                KvsError::InvalidOption(format!("no thread can be started: {error}"))
            })
        };
        spawn("committer", |log, _| log.commit.run())?;
        spawn("keeper", |log, _| keep(log))?;
        if self.log.options.scrub_bytes_per_second > 0 {
            spawn("scrubber", |log, scrubber| scrubber.run(log))?;
        }
        spawn("compactor", |log, _| compact(log))
    }

    fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.log.stop();
        self.scrubber.stop();
        for thread in lock(&self.threads).drain(..) {
            // The last handle may go away with a task that the committer woke: it ends by itself.
            if thread.thread().id() != std::thread::current().id() {
                // A panic in a background thread was reported by the panic hook.
                drop(thread.join());
            }
        }
        self.log.close()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.close());
    }
}

/// The keeper's life: room ahead, seals behind, and what has expired.
fn keep(log: &Log) {
    loop {
        // What fails here fails again, with an answer, where a caller needs it.
        drop(log.tend());
        let rest = log.sweep_and_rest(KEEPER_REST);
        if !log.rest(rest) {
            return;
        }
    }
}

/// The compactor's life: a round whenever the directory has grown too large.
fn compact(log: &Log) {
    let mut written = log.last_position();
    let mut written_at = Instant::now();
    // Where a round gave nothing back, or failed, another one waits for new writes, or a while.
    let mut futile_at = None;
    let mut tried_at = Instant::now();
    while log.pause(COMPACTOR_REST) {
        log.reap();
        let now = log.last_position();
        if now != written {
            (written, written_at) = (now, Instant::now());
        }
        if tried_at.elapsed() >= FUTILE_REST {
            futile_at = None;
        }
        loop {
            // A round takes a while, and writes may have begun again.
            let at_rest = written_at.elapsed() >= REST_AFTER && log.last_position() == now;
            if futile_at == Some((now, at_rest)) || !compaction::is_due(log, at_rest) {
                break;
            }
            tried_at = Instant::now();
            let useful = compaction::run(log, at_rest).unwrap_or(false);
            if !useful {
                futile_at = Some((now, at_rest));
            }
            if log.is_stopping() {
                return;
            }
        }
    }
}

impl KvsEngine for KvStore {
    fn name(&self) -> &'static str {
        recovery::ENGINE
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn space(&self) -> u32 {
        self.space
    }

    fn with_space(&self, space: u32) -> Self {
        KvStore::with_space(self, space)
    }

    fn now_ms(&self) -> u64 {
        KvStore::now_ms(self)
    }

    fn clock_offset_ms(&self) -> i64 {
        self.inner.log.clock.offset_ms()
    }

    fn find(&self, key: &[u8]) -> Result<(Option<Stored>, Position)> {
        self.log()?.find(self.space, key)
    }

    fn find_now(&self, key: &[u8]) -> Result<Option<(Option<Stored>, Position)>> {
        self.log()?.find_now(self.space, key)
    }

    fn size_hint(&self, key: &[u8]) -> usize {
        self.log().map_or(0, |log| log.size_hint(self.space, key))
    }

    fn deadline(&self, key: &[u8]) -> Result<(Option<Option<u64>>, Position)> {
        Ok(self.log()?.deadline(self.space, key))
    }

    fn deadline_now(&self, key: &[u8]) -> Result<Option<(Option<Option<u64>>, Position)>> {
        KvsEngine::deadline(self, key).map(Some)
    }

    fn keys(&self, range: &KeyRange, limit: usize) -> Result<KeyPage> {
        self.log()?.keys(self.space, range, limit)
    }

    fn walk(&self, cursor: u64, limit: usize) -> Result<KeyWalk> {
        Ok(self.log()?.walk_keys(self.space, cursor, limit))
    }

    fn count(&self) -> Result<(Count, Position)> {
        Ok(self.log()?.count(self.space))
    }

    fn watch(&self, key: &[u8]) -> Result<Watch> {
        Ok(self.outside()?.watch(self.space, key))
    }

    fn write(&self, batch: Batch) -> Result<(u64, Position)> {
        let appended = self.outside()?.write(self.space, &batch)?;
        Ok((appended.removed, Position(appended.position)))
    }

    fn write_each(&self, batches: Vec<Batch>) -> Vec<Result<(u64, Position)>> {
        match self.outside() {
            Ok(log) => log.write_each(self.space, &batches),
            Err(_) => batches.into_iter().map(|batch| KvsEngine::write(self, batch)).collect(),
        }
    }

    fn commit<R>(
        &self,
        keys: &[&[u8]],
        body: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<(R, Position)> {
        self.outside()?.commit(self.space, keys, body)
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Page> {
        self.log()?.scan(self.space, range, limit)
    }

    fn wait(&self, position: Position, level: Durability) -> Result<()> {
        let commit = &self.inner.log.commit;
        if position > Position(commit.released()) {
            check_outside(&*self.inner.log)?;
        }
        commit.wait(position, level)
    }

    fn on_reached(&self, position: Position, level: Durability, waker: &Waker) -> Poll<Result<()>> {
        self.inner.log.commit.on_reached(position, level, waker)
    }

    fn compact(&self) -> Result<()> {
        KvStore::compact(self)
    }

    fn stats(&self) -> Stats {
        KvStore::stats(self)
    }

    fn hold_sweep(&self, until: Option<Instant>) {
        self.inner.log.hold_sweep(until);
    }
}

/// The entries of a range: what [`KvStore::scan`] returns.
#[derive(Debug)]
pub struct Scan {
    store: KvStore,
    rest: Option<KeyRange>,
    page: VecDeque<Entry>,
}

impl Scan {
    fn next_page(&mut self) -> Result<()> {
        let Some(range) = self.rest.take() else {
            return Ok(());
        };
        let page = KvsEngine::scan(&self.store, &range, SCAN_ENTRIES)?;
        self.store.wait(page.position, self.store.durability)?;
        if let Some((last, _)) = page.entries.last()
            && !page.done
        {
            self.rest = Some(range.after(last));
        }
        self.page = page.entries.into();
        Ok(())
    }
}

impl Iterator for Scan {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        while self.page.is_empty() && self.rest.is_some() {
            if let Err(error) = self.next_page() {
                return Some(Err(error));
            }
        }
        self.page.pop_front().map(Ok)
    }
}
