//! The layout in sled: the keys and values of the one tree that holds the data.
//!
//! ```text
//! key:    0 number of the generation, big-endian   4 the key
//! value:  0 flags: 1 with a deadline            1 position of its write, little-endian
//!         9 the deadline, if there is one       then the value
//! ```
//!
//! A *generation* is the set of keys of a space. Spaces under 2^31 have at first the generation of their own
//! number; generations that are made later have numbers from 2^31 up, and none is used twice. Which
//! space has which stands in the same tree, under the reserved number, so that one batch of sled's
//! changes both.
//!
//! Invariants:
//! - Within a generation, keys stand in their own order.
//! - No reader takes entries under the reserved number for data.

use std::ops::Bound;
use std::path::Path;

use ::sled::IVec;

use crate::engine::{Deadline, KeyRange, Stored};
use crate::error::{KvsError, Result};
use crate::record::{u32_at, u64_at};

/// The layout's number, which the manifest tells. 0 was before there were spaces, and was never
/// released.
pub(super) const LAYOUT: u32 = 1;
/// The first number of a generation that is not a space's own.
pub(super) const MADE_FROM: u32 = 1 << 31;
/// No generation has this number.
pub(super) const RESERVED: u32 = u32::MAX;
/// A name under the reserved number: this and a space, or the next number of a generation.
const SPACE: u8 = b's';
const NEXT: &[u8] = b"next";

const GENERATION_BYTES: usize = 4;
const POSITION_AT: usize = 1;
const DEADLINE_AT: usize = 9;
const WITH_DEADLINE: u8 = 1;

/// Where a key of a generation stands.
pub(super) fn place(generation: u32, key: &[u8]) -> Vec<u8> {
    let mut place = Vec::with_capacity(GENERATION_BYTES + key.len());
    place.extend_from_slice(&generation.to_be_bytes());
    place.extend_from_slice(key);
    place
}

/// The generation and the key of a place.
pub(super) fn split<'a>(place: &'a [u8], home: &Path) -> Result<(u32, &'a [u8])> {
    match place.split_first_chunk() {
        Some((generation, key)) => Ok((u32::from_be_bytes(*generation), key)),
        None => Err(KvsError::corrupt(home, 0, "a key is shorter than its generation's number")),
    }
}

/// The same for a place that was made here.
pub(super) fn generation_of(place: &[u8]) -> u32 {
    place.first_chunk().map_or(RESERVED, |generation| u32::from_be_bytes(*generation))
}

/// The key of a place that was made here.
pub(super) fn key_of(place: &[u8]) -> &[u8] {
    place.get(GENERATION_BYTES..).unwrap_or_default()
}

/// Where the keys of a range stand in a generation. For a range that is not empty.
pub(super) fn places(generation: u32, range: &KeyRange) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let start = match &range.start {
        Bound::Included(key) => Bound::Included(place(generation, key)),
        Bound::Excluded(key) => Bound::Excluded(place(generation, key)),
        Bound::Unbounded => Bound::Included(place(generation, b"")),
    };
    let end = match &range.end {
        Bound::Included(key) => Bound::Included(place(generation, key)),
        Bound::Excluded(key) => Bound::Excluded(place(generation, key)),
        // No generation has the last number, so there is a next one.
        Bound::Unbounded => Bound::Excluded(place(generation + 1, b"")),
    };
    (start, end)
}

/// A value as it stands in sled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    pub(super) position: u64,
    pub(super) expires_at: Option<u64>,
    pub(super) value: &'a [u8],
}

impl Found<'_> {
    pub(super) fn is_expired(&self, now_ms: u64) -> bool {
        Deadline::of(self.expires_at).has_passed(now_ms)
    }

    pub(super) fn to_stored(self) -> Stored {
        Stored { value: self.value.to_vec(), deadline: Deadline::of(self.expires_at) }
    }
}

pub(super) fn encode(position: u64, stored: &Stored) -> IVec {
    let mut bytes = Vec::with_capacity(DEADLINE_AT + 8 + stored.value.len());
    bytes.push(if stored.deadline.word().is_some() { WITH_DEADLINE } else { 0 });
    bytes.extend_from_slice(&position.to_le_bytes());
    if let Some(deadline) = stored.deadline.word() {
        bytes.extend_from_slice(&deadline.to_le_bytes());
    }
    bytes.extend_from_slice(&stored.value);
    bytes.into()
}

pub(super) fn decode<'a>(bytes: &'a [u8], home: &Path) -> Result<Found<'a>> {
    let header_bytes = match bytes.first() {
        Some(0) => DEADLINE_AT,
        Some(&WITH_DEADLINE) => DEADLINE_AT + 8,
        Some(_) => return Err(KvsError::corrupt(home, 0, "a value has flags that nobody set")),
        None => usize::MAX,
    };
    if bytes.len() < header_bytes {
        return Err(KvsError::corrupt(home, 0, "a value is shorter than its header"));
    }
    let expires_at = (header_bytes > DEADLINE_AT).then(|| u64_at(bytes, DEADLINE_AT));
    let position = u64_at(bytes, POSITION_AT);
    Ok(Found { position, expires_at, value: &bytes[header_bytes..] })
}

/// An entry under the reserved number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// The generation of a space.
    Space(u32, u32),
    /// The number that the next generation gets.
    Next(u32),
}

impl Entry {
    pub(super) fn encode(self) -> (Vec<u8>, [u8; 4]) {
        match self {
            Entry::Space(space, generation) => {
                let mut name = vec![SPACE];
                name.extend_from_slice(&space.to_be_bytes());
                (place(RESERVED, &name), generation.to_le_bytes())
            }
            Entry::Next(generation) => (place(RESERVED, NEXT), generation.to_le_bytes()),
        }
    }

    /// An entry by its name under the reserved number.
    pub(super) fn decode(name: &[u8], bytes: &[u8], home: &Path) -> Result<Entry> {
        if bytes.len() == 4 {
            let generation = u32_at(bytes, 0);
            match name {
                NEXT => return Ok(Entry::Next(generation)),
                [SPACE, a, b, c, d] => {
                    return Ok(Entry::Space(u32::from_be_bytes([*a, *b, *c, *d]), generation));
                }
                _ => {}
            }
        }
        Err(KvsError::corrupt(home, 0, "the table of spaces has an entry that nobody wrote"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were_put() {
        let home = Path::new("sled");
        for expires_at in [None, Some(0), Some(u64::MAX)] {
            for value in [&b""[..], b"value"] {
                let stored = Stored { value: value.to_vec(), deadline: Deadline::of(expires_at) };
                let bytes = encode(7, &stored);
                let found = decode(&bytes, home).unwrap();
                assert_eq!((found.position, found.to_stored()), (7, stored));
                for end in 0..bytes.len() - value.len() {
                    assert!(decode(&bytes[..end], home).is_err(), "cut to {end} bytes");
                }
            }
        }
        assert!(decode(&[2; 100], home).is_err(), "an unknown flag");
    }

    #[test]
    fn the_table_comes_back_as_it_was_put() {
        let home = Path::new("sled");
        for entry in [Entry::Space(u32::MAX, MADE_FROM), Entry::Space(0, 0), Entry::Next(9)] {
            let (place, bytes) = entry.encode();
            let (generation, name) = split(&place, home).unwrap();
            assert_eq!(generation, RESERVED);
            assert_eq!(Entry::decode(name, &bytes, home).unwrap(), entry);
            assert!(Entry::decode(name, &bytes[..3], home).is_err());
            assert!(Entry::decode(&name[1..], &bytes, home).is_err());
        }
        assert!(split(&[0; 3], home).is_err());
    }
}
