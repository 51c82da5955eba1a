//! Which keys a scan visits: a range of keys, and a direction.

use std::ops::{Bound, Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

/// Which keys a scan visits, and in which direction. Each range of Rust over keys is one.
///
/// ```
/// use aryavarth::KeyRange;
///
/// assert!(KeyRange::from("a".."c").contains(b"b") && !KeyRange::from("a".."c").contains(b"c"));
/// assert!(KeyRange::from(..="c").contains(b"c"));
/// assert!(KeyRange::from(vec![7]..).contains(&[7, 0]));
/// assert_eq!(KeyRange::from(..), KeyRange::all());
/// ```
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

    /// The keys between two bounds, ascending.
    pub fn between<K: Into<Vec<u8>>>(start: Bound<K>, end: Bound<K>) -> Self {
        KeyRange { start: start.map(Into::into), end: end.map(Into::into), reverse: false }
    }

    /// The same keys in descending order.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        self.reverse = !self.reverse;
        self
    }

    /// The rest of the range once `key` has been visited.
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

impl From<RangeFull> for KeyRange {
    fn from(_: RangeFull) -> KeyRange {
        KeyRange::all()
    }
}

impl<K: Into<Vec<u8>>> From<Range<K>> for KeyRange {
    fn from(Range { start, end }: Range<K>) -> KeyRange {
        KeyRange::between(Bound::Included(start), Bound::Excluded(end))
    }
}

impl<K: Into<Vec<u8>>> From<RangeInclusive<K>> for KeyRange {
    fn from(range: RangeInclusive<K>) -> KeyRange {
        let (start, end) = range.into_inner();
        KeyRange::between(Bound::Included(start), Bound::Included(end))
    }
}

impl<K: Into<Vec<u8>>> From<RangeFrom<K>> for KeyRange {
    fn from(range: RangeFrom<K>) -> KeyRange {
        KeyRange::between(Bound::Included(range.start), Bound::Unbounded)
    }
}

impl<K: Into<Vec<u8>>> From<RangeTo<K>> for KeyRange {
    fn from(range: RangeTo<K>) -> KeyRange {
        KeyRange::between(Bound::Unbounded, Bound::Excluded(range.end))
    }
}

impl<K: Into<Vec<u8>>> From<RangeToInclusive<K>> for KeyRange {
    fn from(range: RangeToInclusive<K>) -> KeyRange {
        KeyRange::between(Bound::Unbounded, Bound::Included(range.end))
    }
}
