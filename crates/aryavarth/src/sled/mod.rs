//! `SledKvsEngine`: the same contract over sled.
//!
//! sled 0.34 is an ordered store of its own with its own files, in the folder `sled` of the
//! store's directory; beside it lie the same `LOCK` and manifest that every store has, so that a
//! directory remembers its engine and the process that has it open. This folder adds the parts of the
//! contract that sled lacks: a write is acknowledged only when it is durable (files.rs), each value carries the
//! position of its write and its deadline (layout.rs), spaces have generations that can be exchanged
//! (generations.rs), writers take turns, so that a closure sees the newest state (write.rs), and
//! expired keys are removed (sweep.rs).
//!
//! sled keeps what was written in buffers of its own for a while, hence two watermarks: `flushed`
//! (with the system: a `kill -9` cannot undo it; the levels below `always` wait for it) and
//! `synced` (with the disk).
//!
//! Invariants, beside those of store.rs and write.rs:
//! - sled's own flusher stays on, for only it gives space back; nothing here depends on its syncs.
//! - The directory's lock is given back when nothing of the store runs any more.

mod bell;
mod files;
mod generations;
mod layout;
mod open;
mod store;
mod sweep;
mod write;

use std::fmt;
use std::path::Path;
use std::task::{Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::engine::{
    Count, Inside, KeyPage, KeyRange, KeyWalk, KvsEngine, Page, Position, Stored, Transaction,
    Wait, Watch, check_outside,
};
use crate::error::{KvsError, Result};
use crate::options::{Durability, Options};
use crate::record::{Batch, check_key, check_size, check_value};
use crate::recovery::DirLock;
use crate::stats::Stats;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, Rank, lock};
use crate::watermarks::Watermarks;
use open::ENGINE;
use store::Store;
use write::NewestInSled;

/// A page of a scan ends after this many bytes.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// A durable store over sled: the contract of every engine, in another one's files.
///
/// All levels of durability hold. Against [`KvStore`](crate::KvStore): an open reads everything, a
/// damaged file is found as far as sled finds it, space comes back as sled gives it back, a full
/// disk ends the writes until the store is reopened, a page of a scan or of keys holds the writers
/// up while it is read, and a list of keys may read files. After a `kill -9`, a clock that was set
/// back may be up to a second behind the time of the last write, but keys that were shown as expired stay
/// gone.
///
/// ```
/// use aryavarth::{KvsEngine, SledKvsEngine};
///
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// let engine = SledKvsEngine::open(dir)?;
/// engine.set("k".into(), "v".into())?; // returns when it is on disk
/// assert_eq!(engine.get("k".into())?, Some("v".into()));
/// engine.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct SledKvsEngine {
    inner: Arc<Inner>,
    durability: Durability,
    space: u32,
}

/// The state that the handles share, and the threads do not: the last handle ends them.
struct Inner {
    store: Arc<Store>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    closed: AtomicBool,
    // Released last, when nothing of this store can touch the directory any more.
    _lock: DirLock,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledKvsEngine").field("home", &self.store.home).finish_non_exhaustive()
    }
}

impl SledKvsEngine {
    /// Opens the store in a directory, creating it if the directory is empty or missing.
    ///
    /// Reads every entry, to count them, and syncs all files.
    ///
    /// # Errors
    /// [`KvsError::Locked`], [`KvsError::NotOurs`], [`KvsError::WrongEngine`],
    /// [`KvsError::UnknownFormat`] (each leaves the directory as it was), [`KvsError::Corrupt`],
    /// [`KvsError::Io`] and [`KvsError::Engine`].
    pub fn open(dir: impl AsRef<Path>) -> Result<SledKvsEngine> {
        SledKvsEngine::open_with(dir, Options::default())
    }

    /// Opens the store in a directory with options of your own. Durability, the limits of values
    /// and batches, and the clock apply; sled opens its files by itself, in the real file system.
    #[expect(clippy::needless_pass_by_value, reason = "options are made for one open")]
    pub fn open_with(dir: impl AsRef<Path>, options: Options) -> Result<SledKvsEngine> {
        let (store, lock) = open::open(dir.as_ref(), &options)?;
        let inner = Inner {
            store: Arc::new(store),
            threads: Mutex::new(Rank::Threads, Vec::new()),
            closed: AtomicBool::new(false),
            _lock: lock,
        };
        inner.start()?;
        Ok(SledKvsEngine { inner: Arc::new(inner), durability: options.durability, space: 0 })
    }

    /// A handle of the same store that waits for another level.
    #[must_use]
    pub fn with_durability(&self, durability: Durability) -> SledKvsEngine {
        SledKvsEngine { durability, ..self.clone() }
    }

    /// Returns when everything written before is on disk, whatever the handle's level.
    pub fn flush(&self) -> Result<()> {
        let store = self.store()?;
        check_outside(store)?;
        store.synced.sync()
    }

    /// Closes the store: waits for its threads and syncs everything. Other handles get
    /// [`KvsError::Closed`] from then on. Dropping the last handle does the same and swallows the
    /// error.
    pub fn close(self) -> Result<()> {
        check_outside(&*self.inner.store)?;
        self.inner.close()
    }

    fn store(&self) -> Result<&Store> {
        if self.inner.closed.load(Ordering::Acquire) {
            return Err(KvsError::Closed);
        }
        Ok(&self.inner.store)
    }
}

impl Inner {
    /// Starts a committer for each watermark, and the sweep.
    fn start(&self) -> Result<()> {
        let store = &self.store;
        let (flushed, synced) = (Arc::clone(&store.flushed), Arc::clone(&store.synced));
        let sweeper = Arc::clone(store);
        let mut threads = lock(&self.threads);
        threads.push(spawn("flusher", move || Watermarks::run(&flushed))?);
        threads.push(spawn("committer", move || Watermarks::run(&synced))?);
        threads.push(spawn("sweep", move || sweeper.sweep())?);
        Ok(())
    }

    fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let store = &self.store;
        // A writer that came before is let out; later ones find the store closed.
        drop(lock(&store.writer));
        store.bell.stop();
        store.flushed.stop();
        store.synced.stop();
        for thread in lock(&self.threads).drain(..) {
            // The last handle may go away with a task that a committer woke: it ends by itself.
            if thread.thread().id() != thread::current().id() {
                // A panic in a background thread was reported by the panic hook, and fails a test.
                let ended = thread.join();
                debug_assert!(ended.is_ok() || thread::panicking(), "a background thread panicked");
            }
        }
        let remembered = store.remember_clock();
        // Syncs the rest and wakes the tasks that no committer wakes any more.
        let (flushed, synced) = (store.flushed.step(), store.synced.step());
        remembered.and(flushed.and(synced)).map(drop)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.close());
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let builder = thread::Builder::new().name(format!("aryavarth-{name}"));
    builder
        .spawn(body)
        .map_err(|error| KvsError::InvalidOption(format!("no thread can be started: {error}")))
}

impl KvsEngine for SledKvsEngine {
    fn name(&self) -> &'static str {
        ENGINE
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn space(&self) -> u32 {
        self.space
    }

    fn with_space(&self, space: u32) -> Self {
        SledKvsEngine { space, ..self.clone() }
    }

    fn now_ms(&self) -> u64 {
        self.inner.store.now_ms()
    }

    fn clock_offset_ms(&self) -> i64 {
        self.inner.store.clock.offset_ms()
    }

    /// Sled does not say whether it has a value in memory.
    fn find(&self, key: &[u8], wait: Wait) -> Result<(Option<Stored>, Position)> {
        match wait {
            Wait::Yes => self.store()?.find(self.space, key),
            Wait::No => Err(KvsError::WouldBlock),
        }
    }

    fn keys(&self, range: &KeyRange, limit: usize) -> Result<KeyPage> {
        let store = self.store()?;
        let now_ms = store.now_ms();
        let applying = lock(&store.applying);
        let position = store.cover(&applying, now_ms)?;
        let mut keys = Vec::new();
        let done = store.walk(store.table.generation(self.space), range, |key, found| {
            let has_room = keys.len() < limit;
            if has_room && !found.is_expired(now_ms) {
                keys.push(key.to_vec());
            }
            has_room
        })?;
        Ok(KeyPage { keys, position, done })
    }

    fn walk(&self, cursor: u64, limit: usize) -> Result<KeyWalk> {
        let store = self.store()?;
        store.guide.walk(cursor, limit, |range, limit| self.keys(range, limit))
    }

    fn count(&self) -> Result<(Count, Position)> {
        let store = self.store()?;
        let tally = lock(&store.applying);
        let count = tally.count(store.table.generation(self.space));
        Ok((count, Position(store.claimed.load(Ordering::Relaxed))))
    }

    fn watch(&self, key: &[u8]) -> Result<Watch> {
        let store = self.store()?;
        let _writer = store.lock_writer()?;
        let (stored, _) = store.find(self.space, key)?;
        let expires_at = stored.and_then(|stored| stored.deadline.word());
        Ok(store.watches.watch(self.space, key, expires_at))
    }

    fn write(&self, batch: &Batch) -> Result<(u64, Position)> {
        let store = self.store()?;
        for write in batch.writes() {
            check_key(write.key())?;
            check_value(write.value().unwrap_or_default(), store.value_bytes_max)?;
        }
        check_size("batch", batch.record_bytes(), store.batch_bytes_max)?;
        let _writer = store.lock_writer()?;
        self.store()?.check()?;
        store.write_batch(self.space, batch)
    }

    fn transact<R>(
        &self,
        _keys: &[&[u8]],
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<(R, Position)> {
        let store = self.store()?;
        let _writer = store.lock_writer()?;
        self.store()?.check()?;
        let now_ms = store.now_ms();
        let mut newest = NewestInSled { store, now_ms };
        let mut transaction = Transaction::new(&mut newest, self.space);
        let inside = Inside::enter(store);
        let result = body(&mut transaction);
        drop(inside);
        // An error may say that a key is not there, as a result may.
        let covered = store.cover(&lock(&store.applying), now_ms)?;
        let result = result?;
        let position = store.write_effects(transaction.into_effects(), now_ms)?;
        Ok((result, position.max(covered)))
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Page> {
        let store = self.store()?;
        let now_ms = store.now_ms();
        let applying = lock(&store.applying);
        let position = store.cover(&applying, now_ms)?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let done = store.walk(store.table.generation(self.space), range, |key, found| {
            let has_room = entries.len() < limit && bytes < PAGE_BYTES_MAX;
            if has_room && !found.is_expired(now_ms) {
                bytes += key.len() + found.value.len();
                entries.push((key.to_vec(), found.value.to_vec()));
            }
            has_room
        })?;
        Ok(Page { entries, position, done })
    }

    fn wait(&self, position: Position, level: Durability) -> Result<()> {
        let store = &self.inner.store;
        if position > Position(store.synced.released()) {
            check_outside(&**store)?;
        }
        if level != Durability::Always {
            store.flushed.wait(position, Durability::Always)?;
        }
        store.synced.wait(position, level)
    }

    fn on_reached(&self, position: Position, level: Durability, waker: &Waker) -> Poll<Result<()>> {
        let store = &self.inner.store;
        if level != Durability::Always {
            match store.flushed.on_reached(position, Durability::Always, waker) {
                Poll::Ready(Ok(())) => {}
                pending => return pending,
            }
        }
        store.synced.on_reached(position, level, waker)
    }

    /// Nothing to do: sled rewrites its files by itself, and has no way to be asked.
    fn compact(&self) -> Result<()> {
        self.store().map(drop)
    }

    fn hold_sweep(&self, until: Option<Instant>) {
        *lock(&self.inner.store.sweep_held) = until;
        self.inner.store.bell.ring();
    }

    fn stats(&self) -> Stats {
        let store = &self.inner.store;
        Stats {
            poisoned: store.check().is_err(),
            keys: store.keys.load(Ordering::Relaxed),
            disk_bytes: store.db.size_on_disk().unwrap_or(0),
            appended_bytes: store.synced.written() - store.base,
            syncs: store.synced.syncs(),
            durable_position: store.synced.durable(),
            written_position: store.synced.written(),
            expired_keys: store.expired_keys(),
            clock_jumps: store.clock.jumps(),
            clock_offset_ms: store.clock.offset_ms(),
            ..Stats::default()
        }
    }
}
