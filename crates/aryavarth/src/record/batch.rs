//! Batches: the writes that a caller wants to happen together.
//!
//! Plain data, without a place and without a number: those come when a frame is appended.
//!
//! Invariant: the writes keep the order in which they were added.

use super::{extra_bytes, record_bytes};
use crate::deadline::{Deadline, Now};

/// One write of a [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Set a key.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
        /// The moment from which on the key is gone. If it has passed when the write is written, the
        /// key is gone at once.
        deadline: Deadline,
    },
    /// Remove a key, if it exists.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
}

impl Write {
    /// The key concerned.
    pub fn key(&self) -> &[u8] {
        match self {
            Write::Put { key, .. } | Write::Delete { key } => key,
        }
    }

    /// The value to set, if it is not a removal.
    pub fn value(&self) -> Option<&[u8]> {
        match self {
            Write::Put { value, .. } => Some(value),
            Write::Delete { .. } => None,
        }
    }

    /// The deadline of the value; [`Deadline::Never`] for a removal.
    pub fn deadline(&self) -> Deadline {
        match self {
            Write::Put { deadline, .. } => *deadline,
            Write::Delete { .. } => Deadline::Never,
        }
    }

    /// Whether the key is gone once this is written: also if its deadline has passed by then.
    pub(crate) fn is_removal(&self, now: Now) -> bool {
        self.value().is_none() || self.deadline().has_passed(now)
    }
}

/// Writes that happen together, in order, or not at all.
///
/// ```
/// use aryavarth::{Batch, KvStore};
///
/// # let dir = tempfile::tempdir()?;
/// # let store = KvStore::open(dir.path())?;
/// store.write(Batch::new().put("from", "90").put("to", "110").delete("pending"))?;
///
/// let mut batch = Batch::new();
/// for number in 0..3 {
///     batch.put(format!("key {number}"), "value");
/// }
/// batch.delete("key 1");
/// batch.extend([("key 3", "value")]);
/// store.write(&batch)?;
/// assert_eq!(batch.len(), 5);
///
/// store.write(&Batch::from([("from", "80"), ("to", "120")]))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    writes: Vec<Write>,
}

impl Batch {
    /// A batch without writes.
    pub fn new() -> Self {
        Batch::default()
    }

    /// Adds: set `key` to `value`.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Self {
        self.put_with_deadline(key, value, Deadline::Never)
    }

    /// Adds: set `key` to `value` until `expires_at`, in milliseconds since 1970 by the machine's
    /// clock, as [`KvStore::put_until`](crate::KvStore::put_until) does.
    pub fn put_until(
        &mut self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        expires_at: u64,
    ) -> &mut Self {
        self.put_with_deadline(key, value, Deadline::Wall(expires_at))
    }

    /// Adds: set `key` to `value` with a deadline by either clock. If that has passed when the batch
    /// is written, the key is gone at once. A lifetime that begins now is
    /// `Deadline::At(store.now_ms() + lifetime_ms)`.
    pub fn put_with_deadline(
        &mut self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        deadline: Deadline,
    ) -> &mut Self {
        self.push(Write::Put { key: key.into(), value: value.into(), deadline })
    }

    /// Adds: remove `key`, if it exists by then.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) -> &mut Self {
        self.push(Write::Delete { key: key.into() })
    }

    /// Adds a write.
    pub fn push(&mut self, write: Write) -> &mut Self {
        self.writes.push(write);
        self
    }

    /// How many writes the batch has.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether the batch has no writes.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// The writes, in order.
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// Bytes of the batch's keys and values.
    pub fn bytes(&self) -> usize {
        self.writes.iter().map(|w| w.key().len() + w.value().map_or(0, <[u8]>::len)).sum()
    }

    /// Bytes of the batch's records in the log, at most.
    pub(crate) fn record_bytes(&self) -> usize {
        let record = |write: &Write| {
            let value_bytes = write.value().map_or(0, <[u8]>::len);
            record_bytes(extra_bytes(true, true) + write.key().len(), value_bytes)
        };
        self.writes.iter().map(record).sum()
    }
}

impl Extend<Write> for Batch {
    fn extend<I: IntoIterator<Item = Write>>(&mut self, writes: I) {
        self.writes.extend(writes);
    }
}

/// Adds a put for each pair of key and value.
impl<K: Into<Vec<u8>>, V: Into<Vec<u8>>> Extend<(K, V)> for Batch {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, pairs: I) {
        for (key, value) in pairs {
            self.put(key, value);
        }
    }
}

impl FromIterator<Write> for Batch {
    fn from_iter<I: IntoIterator<Item = Write>>(writes: I) -> Batch {
        Batch { writes: writes.into_iter().collect() }
    }
}

/// A put for each pair of key and value.
impl<K: Into<Vec<u8>>, V: Into<Vec<u8>>> FromIterator<(K, V)> for Batch {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Batch {
        let mut batch = Batch::new();
        batch.extend(pairs);
        batch
    }
}

/// A put for each pair of key and value.
impl<K: Into<Vec<u8>>, V: Into<Vec<u8>>, const N: usize> From<[(K, V); N]> for Batch {
    fn from(pairs: [(K, V); N]) -> Batch {
        pairs.into_iter().collect()
    }
}
