//! The contract that every engine keeps.
//!
//! A server talks to an engine through [`KvsEngine`] alone. The contract separates *doing* from
//! *being durable*: [`read`](KvsEngine::read), [`transact`](KvsEngine::transact) and
//! [`scan`](KvsEngine::scan) return at once with the [`Position`] of the newest thing that they
//! saw or wrote, and [`wait`](KvsEngine::wait) returns when a crash can no longer undo it. So
//! requests of one pipeline run at full speed and wait together. A caller that lets a result out (to a
//! socket, to a person) first waits for its position; the provided `String` methods do.
//!
//! Engines without positions return [`Position::ZERO`], which has always been reached.
//!
//! A store holds numbered *spaces* of keys, which know nothing of each other; a handle works in one
//! of them, [0](KvsEngine::with_space) at first. A key may have a *deadline*: from then on no caller
//! sees it, and the engine removes it when it gets to it.

mod guide;
mod inside;
mod range;
mod transaction;
mod watch;

use std::task::{Poll, Waker};
use std::time::Instant;

pub(crate) use guide::Guide;
pub(crate) use inside::{Inside, check_outside};
pub use range::KeyRange;
pub use transaction::{Effects, Generation, Newest, Transaction};
pub use watch::Watch;
pub(crate) use watch::Watches;

use crate::damage::Damage;
pub(crate) use crate::deadline::{Deadline, Now};
use crate::error::{KvsError, Result};
use crate::options::Durability;
use crate::record::Batch;
use crate::stats::Stats;

/// A place in the log: everything appended before it. Positions only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// Before everything: long durable.
    pub const ZERO: Position = Position(0);
}

/// An entry of a scan: key and value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// A value as a key holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The value.
    pub value: Vec<u8>,
    /// The moment from which on the key is gone.
    pub deadline: Deadline,
}

impl Stored {
    /// Whether the key is gone at `now`.
    pub fn is_expired(&self, now: impl Into<Now>) -> bool {
        self.deadline.has_passed(now)
    }
}

/// Whether a read may wait for a disk, or for a writer that waits for one.
///
/// ```
/// use aryavarth::{KvsEngine, KvsError, MemoryEngine, Wait};
///
/// let engine = MemoryEngine::new();
/// engine.set("k".into(), "v".into())?;
/// let (value, _) = match engine.read(b"k", Wait::No) {
///     Err(KvsError::WouldBlock) => engine.read(b"k", Wait::Yes)?, // on a thread that may wait
///     done => done?,
/// };
/// assert_eq!(value, Some(b"v".to_vec()));
/// # Ok::<(), aryavarth::KvsError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// The read answers at once or fails with [`KvsError::WouldBlock`]: for threads that have others
    /// to serve, as those of an async runtime. Of a mapped file it may wait for pages, five at most, that the
    /// system took back from its cache.
    No,
    /// The read waits as long as it takes.
    Yes,
}

/// How many keys a space has, those that have expired and were not removed yet included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Keys.
    pub keys: u64,
    /// Keys that have a deadline.
    pub expiring: u64,
}

impl Count {
    /// Takes note that a key's deadline was `before` and is `after`, where `None` is a key that does
    /// not exist.
    pub(crate) fn change(&mut self, before: Option<Deadline>, after: Option<Deadline>) {
        let ends = |deadline: Option<Deadline>| deadline.is_some_and(|it| it != Deadline::Never);
        self.keys -= u64::from(before.is_some());
        self.keys += u64::from(after.is_some());
        self.expiring -= u64::from(ends(before));
        self.expiring += u64::from(ends(after));
    }
}

/// One page of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The entries, in the order of the scan.
    pub entries: Vec<Entry>,
    /// The newest thing seen, removed keys that were passed over included.
    pub position: Position,
    /// Whether the range has nothing more after these entries.
    pub done: bool,
}

/// One page of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPage {
    /// The keys, in the order of the range.
    pub keys: Vec<Vec<u8>>,
    /// The newest thing seen, removed keys that were passed over included.
    pub position: Position,
    /// Whether the range has nothing more after these keys.
    pub done: bool,
}

/// One step of a [walk](KvsEngine::walk) through the keys of a space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyWalk {
    /// Keys, in no order; there may be none in a step in the middle.
    pub keys: Vec<Vec<u8>>,
    /// The newest thing seen, removed keys that were passed over included.
    pub position: Position,
    /// The cursor of the next step; 0 if this was the last one.
    pub cursor: u64,
}

/// A key-value store: the contract behind the server, the same for every engine.
///
/// Clones are handles of the same store. Keys and values are bytes.
pub trait KvsEngine: Clone + Send + Sync + 'static {
    /// The engine's name, as `--engine` takes it.
    fn name(&self) -> &'static str;

    /// The durability level that this handle waits for by itself.
    fn durability(&self) -> Durability;

    /// The space that this handle works in.
    fn space(&self) -> u32;

    /// A handle of the same store that works in another space. A space needs not be created, and an
    /// empty one costs nothing.
    ///
    /// ```
    /// use aryavarth::{KvsEngine, MemoryEngine};
    ///
    /// let engine = MemoryEngine::new();
    /// engine.set("k".into(), "in 0".into())?;
    /// assert_eq!(engine.with_space(1).get("k".into())?, None);
    /// # Ok::<(), aryavarth::KvsError>(())
    /// ```
    #[must_use]
    fn with_space(&self, space: u32) -> Self;

    /// Both clocks: the store's, and the machine's as far as the store accepts it.
    fn now(&self) -> Now {
        let store_ms = self.now_ms();
        Now { store_ms, wall_ms: store_ms.saturating_add_signed(self.clock_offset_ms()) }
    }

    /// The store's clock, in milliseconds since 1970, by which deadlines are that were given as a
    /// duration. It is the machine's, but
    /// where that is set it goes on with elapsed time, and it never goes back, over a restart neither.
    fn now_ms(&self) -> u64;

    /// By how many milliseconds the machine's clock is ahead of the [store's](KvsEngine::now_ms): 0
    /// unless it was set while the store was open. A deadline by the store's clock, plus this, is the
    /// deadline by the machine's.
    fn clock_offset_ms(&self) -> i64 {
        0
    }

    /// The newest value of a key with its deadline, and the position of the answer, be it a value or
    /// its removal. A key whose deadline has passed is not there.
    ///
    /// # Errors
    /// [`KvsError::Corrupt`] if the record is damaged, [`KvsError::Poisoned`] if it is one whose
    /// outcome is unknown. With [`Wait::No`] also [`KvsError::WouldBlock`], if the answer takes a
    /// disk, or so much copying that other work of the thread suffered; an engine that cannot tell
    /// fails so each time.
    fn find(&self, key: &[u8], wait: Wait) -> Result<(Option<Stored>, Position)>;

    /// About how many bytes a read of the key takes to copy and check, as far as that is known
    /// without a disk; 0 if it is not. For callers that plan their work; it promises nothing.
    fn size_hint(&self, key: &[u8]) -> usize {
        let _ = key;
        0
    }

    /// The newest value of a key and the position of the answer. Errors as
    /// [`find`](KvsEngine::find).
    fn read(&self, key: &[u8], wait: Wait) -> Result<(Option<Vec<u8>>, Position)> {
        let (stored, position) = self.find(key, wait)?;
        Ok((stored.map(|stored| stored.value), position))
    }

    /// The deadline of a key, if there is such a key, and the position of the answer. Reads no file
    /// where the index knows. Errors as [`find`](KvsEngine::find).
    ///
    /// ```
    /// use aryavarth::{Deadline, KvsEngine, MemoryEngine, Wait};
    ///
    /// let engine = MemoryEngine::new();
    /// engine.set("k".into(), "v".into())?;
    /// assert_eq!(engine.deadline(b"k", Wait::Yes)?.0, Some(Deadline::Never));
    /// assert_eq!(engine.deadline(b"other", Wait::Yes)?.0, None);
    /// # Ok::<(), aryavarth::KvsError>(())
    /// ```
    fn deadline(&self, key: &[u8], wait: Wait) -> Result<(Option<Deadline>, Position)> {
        let (stored, position) = self.find(key, wait)?;
        Ok((stored.map(|stored| stored.deadline), position))
    }

    /// The first keys of a range, at most `limit`, without their values: reads no file. A page that
    /// is not done has a key.
    fn keys(&self, range: &KeyRange, limit: usize) -> Result<KeyPage>;

    /// One step of a walk through all keys of the space: at most `limit` keys, and the cursor of the
    /// next step. A walk begins with cursor 0 and ends when a step returns cursor 0. It returns each
    /// key that is there from its beginning to its end at least once, whatever others write, and
    /// over a restart too; keys may come twice. No cursor is an error: one that the engine does not
    /// know begins the walk again. Cursors are below 2^53.
    ///
    /// An engine that numbers its keys answers from these numbers. The provided method walks in the
    /// order of keys and, but for the first step, looks at all keys to find its place.
    ///
    /// ```
    /// use aryavarth::{Batch, KvsEngine, MemoryEngine};
    ///
    /// let engine = MemoryEngine::new();
    /// engine.write(Batch::new().put("a", "1").put("b", "2").put("c", "3"))?;
    /// let (mut keys, mut cursor) = (Vec::new(), 0);
    /// loop {
    ///     let step = engine.walk(cursor, 2)?;
    ///     keys.extend(step.keys);
    ///     cursor = step.cursor;
    ///     if cursor == 0 {
    ///         break;
    ///     }
    /// }
    /// keys.sort();
    /// assert_eq!(keys, [b"a", b"b", b"c"]);
    /// # Ok::<(), aryavarth::KvsError>(())
    /// ```
    fn walk(&self, cursor: u64, limit: usize) -> Result<KeyWalk> {
        Guide::default().walk(cursor, limit, |range, limit| self.keys(range, limit))
    }

    /// How many keys the space has, and the position of the count.
    fn count(&self) -> Result<(Count, Position)>;

    /// Watches a key of the space: the watch knows whether the key was written since. Waits for the
    /// writer that runs.
    fn watch(&self, key: &[u8]) -> Result<Watch>;

    /// Writes a batch, all of it or nothing, and returns how many of its removals found their key.
    ///
    /// # Errors
    /// [`KvsError::TooLarge`], [`KvsError::Full`] (nothing was written), [`KvsError::Poisoned`].
    fn write(&self, batch: &Batch) -> Result<(u64, Position)>;

    /// Writes batches one after another, each all of it or nothing, and returns the
    /// result of [`write`](KvsEngine::write) for each. Costs less than as many calls where the engine can append
    /// them together; readers and other writers may still come between two of them.
    fn write_each(&self, batches: &[Batch]) -> Vec<Result<(u64, Position)>> {
        batches.iter().map(|batch| self.write(batch)).collect()
    }

    /// Runs a closure that sees the newest state, and writes its effects, all of them or nothing.
    ///
    /// The closure works with its [`Transaction`] alone: a call from inside it into the same store
    /// that needs the writer's lock, or that would wait for the disk, fails at once with
    /// [`KvsError::InsideTransaction`]. (A closure that waits for another thread's call into the
    /// store waits for ever.)
    ///
    /// No other write happens while it runs. The values of `keys` are fetched beforehand; if the
    /// closure asks for others, it may run several times, so it must have no effects of its own.
    /// All that are fetched for one call may have twice the bytes that a batch may have, or there
    /// is one of them; beyond, a call that asks for more fails with [`KvsError::TooLarge`].
    /// A closure that returns an error or panics writes nothing. Its error comes without a position:
    /// a caller that lets it out first waits for [`Stats::written_position`].
    fn transact<R>(
        &self,
        keys: &[&[u8]],
        body: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<(R, Position)>;

    /// The first entries of a range: at most `limit`, and no more than about 1 MiB of values.
    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Page>;

    /// Returns when everything before `position` is as durable as `level` asks.
    ///
    /// # Errors
    /// [`KvsError::Poisoned`] if that can no longer be known.
    fn wait(&self, position: Position, level: Durability) -> Result<()>;

    /// The same for async callers: ready, or pending with `waker` woken when it may be ready.
    fn on_reached(&self, position: Position, level: Durability, waker: &Waker) -> Poll<Result<()>>;

    /// Rewrites the files without their dead records, as far as the engine can.
    fn compact(&self) -> Result<()>;

    /// Figures of the store.
    fn stats(&self) -> Stats;

    /// The damaged places that the engine knows of in its files; `None` if it does not look for
    /// damage, so that nothing is known.
    fn damage(&self) -> Option<Vec<Damage>> {
        None
    }

    /// Keeps the records of keys that have expired until then, or no longer: no caller sees the keys,
    /// but nothing is written for them. An engine that writes nothing for them need not care.
    fn hold_sweep(&self, until: Option<Instant>) {
        let _ = until;
    }

    /// Sets a key; returns when it is durable.
    fn set(&self, key: String, value: String) -> Result<()> {
        let (_, position) = self.write(Batch::new().put(key, value))?;
        self.wait(position, self.durability())
    }

    /// The value of a key, if any; returns when the answer is durable.
    ///
    /// # Errors
    /// [`KvsError::NotUtf8`] for a value that another interface stored as bytes.
    fn get(&self, key: String) -> Result<Option<String>> {
        let (value, position) = self.read(key.as_bytes(), Wait::Yes)?;
        self.wait(position, self.durability())?;
        value.map(String::from_utf8).transpose().map_err(|not_utf8| {
            drop(not_utf8);
            KvsError::NotUtf8
        })
    }

    /// Removes a key; returns when its absence is durable.
    ///
    /// # Errors
    /// [`KvsError::KeyNotFound`] if the key does not exist.
    fn remove(&self, key: String) -> Result<()> {
        let (removed, position) = self.write(Batch::new().delete(key))?;
        self.wait(position, self.durability())?;
        if removed == 0 { Err(KvsError::KeyNotFound) } else { Ok(()) }
    }
}
