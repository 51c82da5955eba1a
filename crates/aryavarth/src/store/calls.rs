//! Calls that are made of others: tests and counts of keys, conditional writes, deadlines from now
//! on, and transactions with errors of the caller's own.
//!
//! Invariant: each call is one read or one transaction, so it is as atomic and as durable as these.

use std::time::Duration;

use super::{Keys, KvStore};
use crate::engine::{Count, Deadline, KeyRange, KvsEngine, Transaction, Wait};
use crate::error::{KvsError, Result};

impl KvStore {
    /// Whether a key exists; returns when its presence or absence is durable. Reads no file.
    ///
    /// # Errors
    /// [`KvsError::Poisoned`] if the durability can no longer be known, [`KvsError::Closed`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// let store = aryavarth::KvStore::open(dir)?;
    /// store.put(b"k", b"v")?;
    /// assert!(store.contains(b"k")? && !store.contains(b"other")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn contains(&self, key: &[u8]) -> Result<bool> {
        let (deadline, position) = KvsEngine::deadline(self, key, Wait::Yes)?;
        self.wait(position, self.durability)?;
        Ok(deadline.is_some())
    }

    /// How many keys the space has, and how many of them have a deadline. Keys that have expired and
    /// were not removed yet count. Reads no file; errors as [`contains`](Self::contains).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// let store = aryavarth::KvStore::open(dir)?;
    /// store.put(b"k", b"v")?;
    /// assert_eq!(store.count()?.keys, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn count(&self) -> Result<Count> {
        let (count, position) = KvsEngine::count(self)?;
        self.wait(position, self.durability)?;
        Ok(count)
    }

    /// The keys of a range without their values, in order, each durable when returned; ends after
    /// the first error. Reads no file.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// use aryavarth::{KeyRange, KvStore, Result};
    ///
    /// let store = KvStore::open(dir)?;
    /// for key in [b"a1", b"a2", b"b1"] {
    ///     store.put(key, b"")?;
    /// }
    /// let of_a: Vec<_> = store.keys(KeyRange::prefix(b"a")).collect::<Result<_>>()?;
    /// assert_eq!(of_a, [b"a1", b"a2"]);
    /// assert_eq!(store.keys(..).rev().next().transpose()?, Some(b"b1".to_vec()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn keys(&self, range: impl Into<KeyRange>) -> Keys {
        Keys::new(self.clone(), range.into())
    }

    /// Sets a key for as long as `lifetime` says, by the [store's clock](Self::now_ms), to the
    /// millisecond; returns when that is durable. A lifetime of zero removes the key. Errors and
    /// costs as [`put_until`](Self::put_until).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// use std::time::Duration;
    ///
    /// let store = aryavarth::KvStore::open(dir)?;
    /// store.put_for(b"session", b"Alice", Duration::from_secs(60))?;
    /// assert!(store.deadline(b"session")?.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put_for(&self, key: &[u8], value: &[u8], lifetime: Duration) -> Result<()> {
        self.put_with_deadline(key, value, self.deadline_in(lifetime))
    }

    /// The moment at which a lifetime that begins now has passed.
    pub(super) fn deadline_in(&self, lifetime: Duration) -> Deadline {
        Deadline::after(self.now_ms(), lifetime)
    }

    /// Sets a key that does not exist; returns whether it did not, when that is durable. One
    /// transaction; errors as [`transact`](Self::transact).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// let store = aryavarth::KvStore::open(dir)?;
    /// assert!(store.insert_if_absent(b"owner", b"Alice")?);
    /// assert!(!store.insert_if_absent(b"owner", b"Bob")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn insert_if_absent(&self, key: &[u8], value: &[u8]) -> Result<bool> {
        self.transact(&[], |transaction| {
            let is_absent = !transaction.contains(key)?;
            if is_absent {
                transaction.put(key, value);
            }
            Ok(is_absent)
        })
    }

    /// Sets a key to `new`, or removes it, if its value is `old`; `None` is a key that does not
    /// exist. Returns when the outcome is durable: `Ok` if the value was written, or else `Err` with
    /// the value that stands there. The new value has no deadline. One transaction; errors as
    /// [`transact`](Self::transact).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// let store = aryavarth::KvStore::open(dir)?;
    /// assert_eq!(store.compare_and_swap(b"leader", None, Some(b"node 1"))?, Ok(()));
    /// let lost = store.compare_and_swap(b"leader", None, Some(b"node 2"))?;
    /// assert_eq!(lost, Err(Some(b"node 1".to_vec())));
    /// assert_eq!(store.compare_and_swap(b"leader", Some(b"node 1"), None)?, Ok(()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn compare_and_swap(
        &self,
        key: &[u8],
        old: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<Result<(), Option<Vec<u8>>>> {
        self.transact(&[key], |transaction| {
            let current = transaction.read(key)?;
            if current.as_deref() != old {
                return Ok(Err(current));
            }
            match new {
                Some(new) => transaction.put(key, new),
                None => transaction.delete(key),
            }
            Ok(Ok(()))
        })
    }

    /// Replaces the value of a key by what `update` makes of it, where `None` is a key that does not
    /// exist or is to be removed; returns the value before, when that and the new one are durable. A
    /// deadline stays. `update` may run more than once. One transaction; errors as
    /// [`transact`](Self::transact).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// let store = aryavarth::KvStore::open(dir)?;
    /// let add_one = |visits: Option<&[u8]>| Some(vec![visits.map_or(0, |bytes| bytes[0]) + 1]);
    /// assert_eq!(store.fetch_update(b"visits", add_one)?, None);
    /// assert_eq!(store.fetch_update(b"visits", add_one)?, Some(vec![1]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fetch_update(
        &self,
        key: &[u8],
        mut update: impl FnMut(Option<&[u8]>) -> Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>> {
        self.transact(&[key], |transaction| {
            let before = transaction.find(key)?;
            let after = update(before.as_ref().map(|stored| stored.value.as_slice()));
            let deadline = before.as_ref().map_or(Deadline::Never, |stored| stored.deadline);
            let before = before.map(|stored| stored.value);
            match after {
                Some(value) if before.as_ref() != Some(&value) => {
                    transaction.put_with_deadline(key, value, deadline);
                }
                None if before.is_some() => transaction.delete(key),
                _ => {}
            }
            Ok(before)
        })
    }

    /// Runs a closure as [`transact`](Self::transact) does, with an error of the caller's own type:
    /// a closure that returns one writes nothing, and the error arrives when all that it can depend on
    /// is durable. Errors of the store are converted, inside the closure by `?`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// use aryavarth::{KvStore, KvsError};
    ///
    /// #[derive(Debug)]
    /// enum Refusal {
    ///     NoMoney,
    ///     Store(KvsError),
    /// }
    /// impl From<KvsError> for Refusal {
    ///     fn from(error: KvsError) -> Refusal {
    ///         Refusal::Store(error)
    ///     }
    /// }
    ///
    /// let store = KvStore::open(dir)?;
    /// let paid = store.try_transact(&[b"purse"], |tx| match tx.read(b"purse")? {
    ///     Some(purse) if purse[0] > 0 => {
    ///         tx.put("purse", [purse[0] - 1]);
    ///         Ok(())
    ///     }
    ///     _ => Err(Refusal::NoMoney),
    /// });
    /// assert!(matches!(paid, Err(Refusal::NoMoney)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The closure's own, and those of [`transact`](Self::transact), converted.
    pub fn try_transact<R, E: From<KvsError>>(
        &self,
        keys: &[&[u8]],
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let mut refusal = None;
        let done = self.transact(keys, |transaction| {
            body(transaction).map_err(|error| {
                refusal = Some(error);
                KvsError::WouldBlock
            })
        });
        match (done, refusal) {
            (Ok(result), _) => Ok(result),
            (Err(KvsError::WouldBlock), Some(refusal)) => Err(refusal),
            (Err(error), _) => Err(error.into()),
        }
    }
}
