//! The contract that every engine keeps.
//!
//! A server talks to an engine through [`KvsEngine`] alone. The contract separates *doing* from
//! *being durable*: [`read`](KvsEngine::read), [`commit`](KvsEngine::commit) and
//! [`scan`](KvsEngine::scan) return at once with the [`Position`] of the newest thing that they
//! saw or wrote, and [`wait`](KvsEngine::wait) returns when a crash can no longer undo it. So
//! requests of one pipeline run at full speed and wait together. Whoever lets a result out (to a
//! socket, to a person) first waits for its position; the provided `String` methods do.
//!
//! Engines without positions return [`Position::ZERO`], which has always been reached.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::task::{Poll, Waker};

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

/// Which keys a scan visits, and in which direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The lower end.
    pub start: Bound<Vec<u8>>,
    /// The upper end.
    pub end: Bound<Vec<u8>>,
    /// From the upper end down.
    pub reverse: bool,
}

impl KeyRange {
    /// All keys, ascending.
    pub fn all() -> Self {
        KeyRange { start: Bound::Unbounded, end: Bound::Unbounded, reverse: false }
    }

    /// The keys that begin with `prefix`, ascending.
    ///
    /// ```
    /// use aryavarth::KeyRange;
    /// use std::ops::Bound;
    ///
    /// assert_eq!(KeyRange::prefix(b"ab").end, Bound::Excluded(b"ac".to_vec()));
    /// assert_eq!(KeyRange::prefix(b"\xff").end, Bound::Unbounded);
    /// ```
    pub fn prefix(prefix: &[u8]) -> Self {
        let mut end = prefix.to_vec();
        while end.last() == Some(&0xff) {
            end.pop();
        }
        let end = match end.last_mut() {
            Some(last) => {
                *last += 1;
                Bound::Excluded(end)
            }
            None => Bound::Unbounded,
        };
        KeyRange { start: Bound::Included(prefix.to_vec()), end, reverse: false }
    }

    /// The same keys in descending order.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        self.reverse = !self.reverse;
        self
    }

    /// What is left of the range once `key` has been visited.
    #[must_use]
    pub fn after(mut self, key: &[u8]) -> Self {
        let bound = Bound::Excluded(key.to_vec());
        if self.reverse {
            self.end = bound;
        } else {
            self.start = bound;
        }
        self
    }

    /// Both ends, borrowed.
    pub fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (self.start.as_ref().map(Vec::as_slice), self.end.as_ref().map(Vec::as_slice))
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        let above = match &self.start {
            Bound::Included(start) => key >= start.as_slice(),
            Bound::Excluded(start) => key > start.as_slice(),
            Bound::Unbounded => true,
        };
        let below = match &self.end {
            Bound::Included(end) => key <= end.as_slice(),
            Bound::Excluded(end) => key < end.as_slice(),
            Bound::Unbounded => true,
        };
        above && below
    }

    /// Whether no key can lie in the range.
    pub fn is_empty(&self) -> bool {
        match (&self.start, &self.end) {
            (Bound::Included(a), Bound::Included(b)) => a > b,
            (Bound::Included(a) | Bound::Excluded(a), Bound::Excluded(b))
            | (Bound::Excluded(a), Bound::Included(b)) => a >= b,
            _ => false,
        }
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

/// The newest state, as a closure in [`KvsEngine::commit`] sees it. Engines implement it.
pub trait Newest {
    /// The newest value of `key`, or [`KvsError::Again`] if it must be fetched first.
    fn value(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>>;
    /// Whether `key` exists.
    fn contains(&mut self, key: &[u8]) -> Result<bool>;
}

/// What a closure in [`KvsEngine::commit`] works with: it sees the newest state and its own
/// writes, and nobody else writes meanwhile.
pub struct Transaction<'a> {
    newest: &'a mut dyn Newest,
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl<'a> Transaction<'a> {
    /// A transaction over an engine's newest state; for engines.
    pub fn new(newest: &'a mut dyn Newest) -> Self {
        Transaction { newest, writes: BTreeMap::new() }
    }

    /// The newest value of `key`.
    ///
    /// # Errors
    /// [`KvsError::Again`] if the key was neither announced nor at hand: pass it on with `?`, the
    /// engine fetches the key and runs the closure again.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => self.newest.value(key),
        }
    }

    /// Whether `key` exists.
    pub fn contains(&mut self, key: &[u8]) -> Result<bool> {
        match self.writes.get(key) {
            Some(written) => Ok(written.is_some()),
            None => self.newest.contains(key),
        }
    }

    /// Sets `key` when the closure returns `Ok`.
    pub fn set(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.writes.insert(key.into(), Some(value.into()));
    }

    /// Removes `key` when the closure returns `Ok`. A key that does not exist is no error.
    pub fn remove(&mut self, key: impl Into<Vec<u8>>) {
        self.writes.insert(key.into(), None);
    }

    /// The effects, in key order: a value to set, or `None` to remove. For engines.
    pub fn into_writes(self) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        self.writes
    }
}

/// A key-value store: the contract behind the server, the same for every engine.
///
/// Clones are handles of the same store. Keys and values are bytes.
pub trait KvsEngine: Clone + Send + Sync + 'static {
    /// The engine's name, as `--engine` takes it.
    fn name(&self) -> &'static str;

    /// The durability level that this handle waits for by itself.
    fn durability(&self) -> Durability;

    /// The newest value of a key and the position of what was seen, be it a value or its removal.
    ///
    /// # Errors
    /// [`KvsError::Corrupt`] if the record is damaged, [`KvsError::Poisoned`] if it is one whose
    /// outcome is unknown.
    fn read(&self, key: &[u8]) -> Result<(Option<Vec<u8>>, Position)>;

    /// The same without ever blocking on a disk: `None` if it would, or if it would take so long
    /// that other work of the thread suffered. For callers with an async runtime.
    fn read_now(&self, key: &[u8]) -> Result<Option<(Option<Vec<u8>>, Position)>> {
        let _ = key;
        Ok(None)
    }

    /// Writes a batch, all of it or nothing, and returns how many of its removals found their key.
    ///
    /// # Errors
    /// [`KvsError::TooLarge`], [`KvsError::Full`] (nothing was written), [`KvsError::Poisoned`].
    fn write(&self, batch: Batch) -> Result<(u64, Position)>;

    /// Runs a closure that sees the newest state, and writes its effects, all of them or nothing.
    ///
    /// Nobody else writes while it runs. The values of `keys` are fetched beforehand; if the
    /// closure asks for others, it may run several times, so it must have no effects of its own.
    /// A closure that returns an error or panics writes nothing. Its error comes without a position:
    /// whoever lets one out first waits for [`Stats::written_position`].
    fn commit<R>(
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

    /// Rewrites the files without what is dead, as far as the engine can.
    fn compact(&self) -> Result<()>;

    /// Figures of the store.
    fn stats(&self) -> Stats;

    /// Sets a key; returns when it is durable.
    fn set(&self, key: String, value: String) -> Result<()> {
        let (_, position) = self.write(Batch::new().set(key, value))?;
        self.wait(position, self.durability())
    }

    /// The value of a key, if any; returns when what was seen is durable.
    ///
    /// # Errors
    /// [`KvsError::NotUtf8`] for a value that another interface stored as bytes.
    fn get(&self, key: String) -> Result<Option<String>> {
        let (value, position) = self.read(key.as_bytes())?;
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
        let (removed, position) = self.write(Batch::new().remove(key))?;
        self.wait(position, self.durability())?;
        if removed == 0 { Err(KvsError::KeyNotFound) } else { Ok(()) }
    }
}
