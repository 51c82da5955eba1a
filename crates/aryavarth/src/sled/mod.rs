//! `SledKvsEngine`: the same contract over sled.
//!
//! sled 0.34 is an ordered store of its own with its own files, in the folder `sled` of the
//! store's directory; beside it lie the same `LOCK` and manifest that every store has, so that a
//! directory remembers its engine and says who has it open. What sled lacks of the contract is
//! added here: a write is acknowledged only when it is durable (files.rs), each value carries the
//! position of its write, and writers take turns, so that a closure sees the newest state.
//!
//! sled keeps what was written in buffers of its own for a while, hence two watermarks: `flushed`
//! (with the system: a `kill -9` cannot undo it, what the levels below `always` wait for) and
//! `synced` (with the disk).
//!
//! Invariants:
//! - A position is claimed before sled may show its write, and counts as written only after sled
//!   has all of it; who saw it in between waits for that moment.
//! - An absence, and a scan, carry the highest position claimed: sled does not remember removals.
//! - A write that failed half way poisons the store: nobody knows what sled made of it.
//! - sled's own flusher stays on, for only it gives space back; nothing here depends on its syncs.

mod files;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry::{Occupied, Vacant};
use std::fmt;
use std::mem;
use std::path::{Path, PathBuf};
use std::task::{Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ::sled::{Db, IVec, Tree};

use crate::commit::{Commit, Syncable};
use crate::engine::{KeyRange, KvsEngine, Newest, Page, Position, Transaction};
use crate::error::{KvsError, Result};
use crate::fs::{Fs, Site};
use crate::manifest::{Manifest, State, manifest_path};
use crate::options::{Durability, Options};
use crate::record::{Batch, Write, check_key, check_size, check_value, record_bytes, u64_at};
use crate::recovery::{self, Claimed, DirLock};
use crate::stats::Stats;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, lock};
use files::{Buffers, Files, failed};

/// The engine's name in the manifest.
const ENGINE: &str = "sled";
/// Before a value: the position of its write, little-endian.
const VALUE_HEADER_BYTES: usize = 8;
/// The tree beside the data, and its one key: a position that no removal so far lies above.
const META: &str = "meta";
const REMOVED_UP_TO: &str = "removed up to";
/// Added to the highest position found at an open: more than can have been written without a
/// sync, so that no position is used again.
const POSITION_GAP: u64 = 1 << 36;
/// A page of a scan ends after this many bytes.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// How long sled's threads of a store that was just closed may go on holding its file.
const LINGER: Duration = Duration::from_secs(10);
const LINGER_LOOK: Duration = Duration::from_millis(10);

/// A durable store over sled: the contract of every engine, in another one's files.
///
/// All levels of durability hold. Against [`KvStore`](crate::KvStore): an open reads everything, a
/// damaged file is found as far as sled finds it, space comes back as sled gives it back, a full
/// disk ends the writes until the store is reopened, and a page of a scan holds the writers up
/// while it is read.
///
/// ```
/// use aryavarth::{KvsEngine, SledKvsEngine};
///
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// let engine = SledKvsEngine::new(dir)?;
/// engine.set("k".into(), "v".into())?; // returns when it is on disk
/// assert_eq!(engine.get("k".into())?, Some("v".into()));
/// engine.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct SledKvsEngine {
    inner: Arc<Inner>,
    durability: Durability,
}

struct Inner {
    home: PathBuf,
    value_bytes_max: usize,
    batch_bytes_max: usize,
    db: Db,
    meta: Tree,
    /// Whoever writes, closures included.
    writer: Mutex<()>,
    /// Held from the claim of a position until it is written, and by scans.
    applying: Mutex<()>,
    claimed: AtomicU64,
    /// Where this run began.
    base: u64,
    keys: AtomicU64,
    flushed: Arc<Commit<Buffers>>,
    synced: Arc<Commit<Files>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    closed: AtomicBool,
    // Released last, when nothing of this store can touch the directory any more.
    _lock: DirLock,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledKvsEngine").field("home", &self.home).finish_non_exhaustive()
    }
}

/// What a batch or a closure comes to for one key.
struct Effect {
    was_there: bool,
    value: Option<Vec<u8>>,
}

type Effects = BTreeMap<Vec<u8>, Effect>;

impl SledKvsEngine {
    /// Opens the store in a directory, creating it if the directory is empty or missing.
    ///
    /// Reads every entry, to count them, and syncs all files.
    ///
    /// # Errors
    /// [`KvsError::Locked`], [`KvsError::NotOurs`], [`KvsError::WrongEngine`] (each leaves the
    /// directory as it was), [`KvsError::Corrupt`], [`KvsError::Io`] and [`KvsError::Engine`].
    pub fn new(dir: impl AsRef<Path>) -> Result<SledKvsEngine> {
        SledKvsEngine::new_with(dir, Options::default())
    }

    /// Opens the store in a directory with options of your own. Durability and the limits of
    /// values and batches apply; sled opens its files by itself, in the real file system.
    #[expect(clippy::needless_pass_by_value, reason = "options are made for one open")]
    pub fn new_with(dir: impl AsRef<Path>, options: Options) -> Result<SledKvsEngine> {
        let inner = Inner::open(dir.as_ref(), &options)?;
        inner.start()?;
        Ok(SledKvsEngine { inner: Arc::new(inner), durability: options.durability })
    }

    /// A handle of the same store that waits for another level.
    #[must_use]
    pub fn with_durability(&self, durability: Durability) -> SledKvsEngine {
        SledKvsEngine { inner: Arc::clone(&self.inner), durability }
    }

    /// Returns when everything written before is on disk, whatever the handle's level.
    pub fn flush(&self) -> Result<()> {
        self.open()?.synced.sync()
    }

    /// Closes the store: waits for its threads and syncs everything. Other handles get
    /// [`KvsError::Closed`] from then on. Dropping the last handle does the same and swallows the
    /// error.
    pub fn close(self) -> Result<()> {
        self.inner.close()
    }

    fn open(&self) -> Result<&Inner> {
        if self.inner.closed.load(Ordering::Acquire) {
            return Err(KvsError::Closed);
        }
        Ok(&self.inner)
    }
}

impl Inner {
    fn open(dir: &Path, options: &Options) -> Result<Inner> {
        let fs = Arc::clone(&options.fs);
        let Claimed { lock, mut number, mut state, .. } = recovery::claim(dir, options, ENGINE)?;
        if number == 0 {
            // sled makes its files only after the directory says whose they are.
            number = write_manifest(&*fs, dir, number, &state)?;
        }
        let home = dir.join(ENGINE);
        fs.create_dir(Site::SledDirCreate, &home)?;
        let is_made = state.position > 0;
        if is_made && !files::has_log(&*fs, &home)? {
            return Err(KvsError::corrupt(&home, 0, "sled's log is missing"));
        }
        let db = open_sled(&home)?;
        let files = Files::settle(db.clone(), Arc::clone(&fs), &home)?;
        if !is_made {
            // From now on, a log that is missing is a loss.
            state.position = 1;
            write_manifest(&*fs, dir, number, &state)?;
        }
        let meta = db.open_tree(META).map_err(failed)?;
        let (keys, highest) = survey(&db, &meta, &home)?;
        let base = highest + POSITION_GAP;
        Ok(Inner {
            home,
            value_bytes_max: options.value_bytes_max,
            batch_bytes_max: options.batch_bytes_max,
            meta,
            writer: Mutex::default(),
            applying: Mutex::default(),
            claimed: AtomicU64::new(base),
            base,
            keys: AtomicU64::new(keys),
            flushed: Arc::new(Commit::over(Buffers(db.clone()), base)),
            synced: Arc::new(Commit::over(files, base)),
            threads: Mutex::default(),
            closed: AtomicBool::new(false),
            db,
            _lock: lock,
        })
    }

    /// Starts a committer for each watermark.
    fn start(&self) -> Result<()> {
        let mut threads = lock(&self.threads);
        threads.push(spawn("flusher", &self.flushed)?);
        threads.push(spawn("committer", &self.synced)?);
        Ok(())
    }

    fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // A writer that came before is let out; later ones find the store closed.
        drop(lock(&self.writer));
        self.flushed.stop();
        self.synced.stop();
        for thread in lock(&self.threads).drain(..) {
            // The last handle may go away with a task that a committer woke: it ends by itself.
            if thread.thread().id() != thread::current().id() {
                // A panic in a background thread was reported by the panic hook.
                drop(thread.join());
            }
        }
        // Syncs the rest and wakes the tasks that no committer wakes any more.
        let (flushed, synced) = (self.flushed.step(), self.synced.step());
        flushed.and(synced).map(drop)
    }

    /// Refuses further writes after one whose outcome is unknown.
    fn check(&self) -> Result<()> {
        self.flushed.check()?;
        self.synced.check()
    }

    fn poison(&self, error: &KvsError) -> KvsError {
        self.flushed.poison(error);
        self.synced.poison(error)
    }

    fn contains(&self, key: &[u8]) -> Result<bool> {
        self.db.contains_key(key).map_err(failed)
    }

    fn decode<'a>(&self, stored: &'a [u8]) -> Result<(u64, &'a [u8])> {
        decode(stored, &self.home)
    }

    /// A position that was seen in sled, once the write that claimed it is written.
    fn published(&self, position: u64) -> Position {
        if position > self.synced.written() {
            drop(lock(&self.applying));
        }
        Position(position)
    }

    /// Writes what a batch or a closure comes to, all of it or nothing. For the writer only.
    fn apply(&self, mut effects: Effects) -> Result<Position> {
        effects.retain(|_, effect| effect.was_there || effect.value.is_some());
        if effects.is_empty() {
            return Ok(Position(self.synced.written()));
        }
        let bytes: usize = effects.iter().map(|(key, effect)| effect.record_bytes(key)).sum();
        let sets = effects.values().filter(|effect| !effect.was_there).count() as u64;
        let removals = effects.values().filter(|effect| effect.value.is_none()).count() as u64;

        let applying = lock(&self.applying);
        let position = self.claimed.load(Ordering::Relaxed) + bytes as u64;
        self.claimed.store(position, Ordering::SeqCst);
        let unfinished = Unfinished(self);
        self.store(effects, position, removals > 0).map_err(|error| self.poison(&failed(error)))?;
        mem::forget(unfinished);
        self.flushed.set_written(position);
        self.synced.set_written(position);
        drop(applying);
        self.keys.fetch_add(sets, Ordering::Relaxed);
        self.keys.fetch_sub(removals, Ordering::Relaxed);
        Ok(Position(position))
    }

    fn store(
        &self,
        mut effects: Effects,
        position: u64,
        has_removals: bool,
    ) -> Result<(), ::sled::Error> {
        if has_removals {
            // A removal leaves no value that would keep its position.
            self.meta.insert(REMOVED_UP_TO, &position.to_le_bytes())?;
        }
        if effects.len() == 1
            && let Some((key, effect)) = effects.pop_first()
        {
            // One write is atomic by itself, and cheaper alone.
            return match effect.value {
                Some(value) => self.db.insert(key, encode(position, &value)).map(drop),
                None => self.db.remove(key).map(drop),
            };
        }
        let mut batch = ::sled::Batch::default();
        for (key, effect) in effects {
            match effect.value {
                Some(value) => batch.insert(key, encode(position, &value)),
                None => batch.remove(key),
            }
        }
        self.db.apply_batch(batch)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.close());
    }
}

impl Effect {
    fn record_bytes(&self, key: &[u8]) -> usize {
        record_bytes(key.len(), self.value.as_ref().map_or(0, Vec::len))
    }
}

/// A write that has begun. Dropped before its end, by an error or by a panic inside sled, it
/// poisons the store.
struct Unfinished<'a>(&'a Inner);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let reason = ::sled::Error::ReportableBug("a write did not return".to_owned());
        self.0.poison(&failed(reason));
    }
}

fn encode(position: u64, value: &[u8]) -> IVec {
    let mut stored = Vec::with_capacity(VALUE_HEADER_BYTES + value.len());
    stored.extend_from_slice(&position.to_le_bytes());
    stored.extend_from_slice(value);
    stored.into()
}

fn decode<'a>(stored: &'a [u8], home: &Path) -> Result<(u64, &'a [u8])> {
    if stored.len() < VALUE_HEADER_BYTES {
        return Err(KvsError::corrupt(home, 0, "a value is shorter than its header"));
    }
    Ok((u64_at(stored, 0), &stored[VALUE_HEADER_BYTES..]))
}

/// Counts the keys and finds the highest position.
fn survey(db: &Db, meta: &Tree, home: &Path) -> Result<(u64, u64)> {
    let removed = meta.get(REMOVED_UP_TO).map_err(failed)?;
    let mut highest = removed.map_or(Ok(0), |stored| decode(&stored, home).map(|(at, _)| at))?;
    let mut keys = 0;
    for entry in db.iter() {
        let (_, stored) = entry.map_err(failed)?;
        highest = highest.max(decode(&stored, home)?.0);
        keys += 1;
    }
    Ok((keys, highest))
}

/// Makes a manifest that says `state` the current one and returns its number.
fn write_manifest(fs: &dyn Fs, dir: &Path, old: u64, state: &State) -> Result<u64> {
    // A crash on the way to this manifest may have left these.
    for stray in [manifest_path(dir, old + 1), dir.join("CURRENT.next")] {
        drop(fs.remove(Site::SledStrayRemove, &stray));
    }
    Manifest::create(fs, dir, old + 1, state.clone())?;
    if old > 0 {
        drop(fs.remove(Site::SledManifestRemove, &manifest_path(dir, old)));
    }
    Ok(old + 1)
}

/// Opens sled. The threads of one that this process has just closed may still hold its file; no
/// other process can, for the directory's lock is ours.
fn open_sled(home: &Path) -> Result<Db> {
    let until = Instant::now() + LINGER;
    loop {
        match ::sled::Config::new().path(home).open() {
            Err(::sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock")
                    && Instant::now() < until =>
            {
                thread::sleep(LINGER_LOOK);
            }
            opened => return opened.map_err(failed),
        }
    }
}

fn spawn<F>(name: &str, commit: &Arc<Commit<F>>) -> Result<JoinHandle<()>>
where
    F: Syncable + Send + Sync + 'static,
{
    let commit = Arc::clone(commit);
    let builder = thread::Builder::new().name(format!("aryavarth-{name}"));
    builder
        .spawn(move || commit.run())
        .map_err(|error| KvsError::InvalidOption(format!("no thread can be started: {error}")))
}

struct NewestInSled<'a>(&'a Inner);

impl Newest for NewestInSled<'_> {
    fn now_ms(&self) -> u64 {
        crate::Clock::now_ms(&crate::SystemClock)
    }

    fn keys(&mut self, _: u32, _: &KeyRange, _: usize) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }

    fn count(&mut self, _: u32) -> Result<crate::Count> {
        Ok(crate::Count::default())
    }

    fn find(&mut self, _: u32, key: &[u8]) -> Result<Option<crate::Stored>> {
        let value = self.value(key)?;
        Ok(value.map(|value| crate::Stored { value, expires_at: None }))
    }

    fn deadline(&mut self, _: u32, key: &[u8]) -> Result<Option<Option<u64>>> {
        Ok(self.0.contains(key)?.then_some(None))
    }
}

impl NewestInSled<'_> {
    fn value(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(stored) = self.0.db.get(key).map_err(failed)? else {
            return Ok(None);
        };
        Ok(Some(self.0.decode(&stored)?.1.to_vec()))
    }
}

impl KvsEngine for SledKvsEngine {
    fn name(&self) -> &'static str {
        ENGINE
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn space(&self) -> u32 {
        0
    }

    fn with_space(&self, _: u32) -> Self {
        self.clone()
    }

    fn now_ms(&self) -> u64 {
        crate::Clock::now_ms(&crate::SystemClock)
    }

    fn find(&self, key: &[u8]) -> Result<(Option<crate::Stored>, Position)> {
        let (value, position) = KvsEngine::read(self, key)?;
        Ok((value.map(|value| crate::Stored { value, expires_at: None }), position))
    }

    fn keys(&self, range: &KeyRange, limit: usize) -> Result<crate::KeyPage> {
        let page = KvsEngine::scan(self, range, limit)?;
        let keys = page.entries.into_iter().map(|(key, _)| key).collect();
        Ok(crate::KeyPage { keys, position: page.position, done: page.done })
    }

    fn count(&self) -> Result<(crate::Count, Position)> {
        let stats = KvsEngine::stats(self);
        Ok((crate::Count { keys: stats.keys, expiring: 0 }, Position(stats.written_position)))
    }

    fn watch(&self, key: &[u8]) -> Result<crate::Watch> {
        Ok(crate::engine::Watches::default().watch(0, key, None))
    }

    fn read(&self, key: &[u8]) -> Result<(Option<Vec<u8>>, Position)> {
        let inner = self.open()?;
        let Some(stored) = inner.db.get(key).map_err(failed)? else {
            return Ok((None, inner.published(inner.claimed.load(Ordering::SeqCst))));
        };
        let (position, value) = inner.decode(&stored)?;
        Ok((Some(value.to_vec()), inner.published(position)))
    }

    fn write(&self, batch: Batch) -> Result<(u64, Position)> {
        let inner = self.open()?;
        for write in batch.writes() {
            check_key(write.key())?;
            check_value(write.value().unwrap_or_default(), inner.value_bytes_max)?;
        }
        check_size("batch", batch.record_bytes(), inner.batch_bytes_max)?;
        let _writer = lock(&inner.writer);
        self.open()?.check()?;
        let mut removed = 0;
        let mut effects = Effects::new();
        for write in batch.into_writes() {
            let (key, value) = match write {
                Write::Set { key, value, .. } => (key, Some(value)),
                Write::Remove { key } => (key, None),
            };
            let is_removal = value.is_none();
            let is_there = match effects.entry(key) {
                Occupied(mut entry) => mem::replace(&mut entry.get_mut().value, value).is_some(),
                Vacant(entry) => {
                    let was_there = inner.contains(entry.key())?;
                    entry.insert(Effect { was_there, value });
                    was_there
                }
            };
            removed += u64::from(is_removal && is_there);
        }
        Ok((removed, inner.apply(effects)?))
    }

    fn commit<R>(
        &self,
        _keys: &[&[u8]],
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<(R, Position)> {
        let inner = self.open()?;
        let _writer = lock(&inner.writer);
        self.open()?.check()?;
        let mut newest = NewestInSled(inner);
        let mut transaction = Transaction::new(&mut newest, 0);
        let result = body(&mut transaction)?;
        let mut bytes = 0;
        let mut effects = Effects::new();
        for ((_, key), stored) in transaction.into_effects().writes {
            let value = stored.map(|stored| stored.value);
            check_key(&key)?;
            check_value(value.as_deref().unwrap_or_default(), inner.value_bytes_max)?;
            let effect = Effect { was_there: inner.contains(&key)?, value };
            bytes += effect.record_bytes(&key);
            effects.insert(key, effect);
        }
        check_size("batch", bytes, inner.batch_bytes_max)?;
        Ok((result, inner.apply(effects)?))
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Page> {
        let inner = self.open()?;
        let mut page = Page { done: true, ..Page::default() };
        if range.is_empty() {
            return Ok(page);
        }
        // sled shows a batch entry by entry to who walks past.
        let _applying = lock(&inner.applying);
        page.position = Position(inner.claimed.load(Ordering::Relaxed));
        let mut bytes = 0;
        let mut ascending = inner.db.range::<&[u8], _>(range.bounds());
        while let Some(entry) = if range.reverse { ascending.next_back() } else { ascending.next() }
        {
            let (key, stored) = entry.map_err(failed)?;
            if page.entries.len() == limit || bytes >= PAGE_BYTES_MAX {
                page.done = false;
                break;
            }
            bytes += key.len() + stored.len();
            page.entries.push((key.to_vec(), inner.decode(&stored)?.1.to_vec()));
        }
        Ok(page)
    }

    fn wait(&self, position: Position, level: Durability) -> Result<()> {
        if level != Durability::Always {
            self.inner.flushed.wait(position, Durability::Always)?;
        }
        self.inner.synced.wait(position, level)
    }

    fn on_reached(&self, position: Position, level: Durability, waker: &Waker) -> Poll<Result<()>> {
        if level != Durability::Always {
            match self.inner.flushed.on_reached(position, Durability::Always, waker) {
                Poll::Ready(Ok(())) => {}
                pending => return pending,
            }
        }
        self.inner.synced.on_reached(position, level, waker)
    }

    /// Nothing to do: sled rewrites its files by itself, and has no way to be asked.
    fn compact(&self) -> Result<()> {
        self.open().map(drop)
    }

    fn stats(&self) -> Stats {
        let inner = &self.inner;
        Stats {
            keys: inner.keys.load(Ordering::Relaxed),
            disk_bytes: inner.db.size_on_disk().unwrap_or(0),
            appended_bytes: inner.synced.written() - inner.base,
            syncs: inner.synced.syncs(),
            durable_position: inner.synced.durable(),
            written_position: inner.synced.written(),
            ..Stats::default()
        }
    }
}
