//! Batches: the writes that a caller wants to happen together.
//!
//! Plain data, without a place and without a number: those come when a frame is appended.
//!
//! Invariant: the writes keep the order in which they were added.

use super::{extra_bytes, record_bytes};
use crate::deadline::Now;

/// One write of a [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Set a key.
    Set {
        /// The key.
        key: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
        /// The [word](crate::Deadline::word) of the deadline from which on the key is gone, if it has
        /// one.
        expires_at: Option<u64>,
    },
    /// Remove a key, if it exists.
    Remove {
        /// The key.
        key: Vec<u8>,
    },
}

impl Write {
    /// The key concerned.
    pub fn key(&self) -> &[u8] {
        match self {
            Write::Set { key, .. } | Write::Remove { key } => key,
        }
    }

    /// The value to set, if it is not a removal.
    pub fn value(&self) -> Option<&[u8]> {
        match self {
            Write::Set { value, .. } => Some(value),
            Write::Remove { .. } => None,
        }
    }

    /// The deadline, if there is one.
    pub fn expires_at(&self) -> Option<u64> {
        match self {
            Write::Set { expires_at, .. } => *expires_at,
            Write::Remove { .. } => None,
        }
    }

    /// Whether the key is gone once this is written: also if its deadline has passed by then.
    pub(crate) fn is_removal(&self, now: Now) -> bool {
        self.value().is_none() || self.expires_at().is_some_and(|word| now.has_reached(word))
    }
}

/// Writes that happen together, in order, or not at all.
///
/// ```
/// use aryavarth::Batch;
///
/// let batch = Batch::new().set("from", "90").set("to", "110").remove("pending");
/// assert_eq!(batch.writes().len(), 3);
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
    #[must_use]
    pub fn set(mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.add(key, value, None);
        self
    }

    /// Adds: set `key` to `value` until `expires_at`, in milliseconds since 1970 by the store's
    /// clock, or the [word](crate::Deadline::word) of a deadline by the machine's. If that has passed when the batch is written, the key is gone at once.
    #[must_use]
    pub fn set_until(
        mut self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        expires_at: u64,
    ) -> Self {
        self.add(key, value, Some(expires_at));
        self
    }

    /// Adds: remove `key`, if it exists by then.
    #[must_use]
    pub fn remove(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.delete(key);
        self
    }

    /// Adds a write.
    pub fn push(&mut self, write: Write) {
        self.writes.push(write);
    }

    /// Adds in place, for a loop: set `key` to `value`.
    ///
    /// ```
    /// use aryavarth::Batch;
    ///
    /// let mut batch = Batch::new();
    /// for number in 0..3 {
    ///     batch.put(format!("key {number}"), "value");
    /// }
    /// batch.delete("key 1");
    /// batch.extend([("key 3", "value")]);
    /// assert_eq!(batch.len(), 5);
    /// ```
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Self {
        self.add(key, value, None)
    }

    /// Adds in place: set `key` to `value` until `expires_at`, as
    /// [`set_until`](Self::set_until).
    pub fn put_until(
        &mut self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        expires_at: u64,
    ) -> &mut Self {
        self.add(key, value, Some(expires_at))
    }

    /// Adds in place: remove `key`, if it exists by then.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) -> &mut Self {
        self.writes.push(Write::Remove { key: key.into() });
        self
    }

    fn add(
        &mut self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        expires_at: Option<u64>,
    ) -> &mut Self {
        self.writes.push(Write::Set { key: key.into(), value: value.into(), expires_at });
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

    /// The writes, in order.
    pub fn into_writes(self) -> Vec<Write> {
        self.writes
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

/// Adds a set for each pair of key and value.
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
