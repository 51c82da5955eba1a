//! Cursors for engines that know their keys only in order.
//!
//! A walk goes through the keys in their order, and a cursor is the hash of the last key of a page.
//! The guide remembers the newest of these keys; for an older cursor it looks for the key itself,
//! through all keys; if that key is gone, the walk begins again.
//!
//! ```text
//! cursor 0 -----------------------------------> the first key
//! cursor c -- remembered ----------------------> the key behind it, O(1)
//!          `- not remembered, key still there -> the key behind it, O(keys)
//!          `- not remembered, key gone --------> the first key: keys are repeated, none is missed
//! ```
//!
//! Invariants:
//! - The remembered keys are bounded in number and bytes; the oldest go first.
//! - A cursor leads behind the key whose hash it is, or to the beginning: a key that stays is in each
//!   walk, unless two keys share 53 bits of a hash.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{KeyPage, KeyRange, KeyWalk};
use crate::error::Result;
use crate::sync::{Mutex, Rank, lock};

/// Keys that are remembered.
const PLACES_MAX: usize = 16_384;
/// Bytes that these may have in all.
const PLACE_BYTES_MAX: usize = 16 << 20;
/// Keys that a search asks for at a time.
const SEARCH_KEYS: usize = 4096;

/// The cursors of an engine.
#[derive(Debug)]
pub(crate) struct Guide {
    /// The same for each run of a store, so that cursors outlive a restart.
    seed: u64,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    keys: HashMap<u64, Vec<u8>>,
    /// The cursors of `keys`, oldest first.
    order: VecDeque<u64>,
    bytes: usize,
}

impl Default for Guide {
    fn default() -> Guide {
        Guide::new(0)
    }
}

impl Guide {
    pub(crate) fn new(seed: u64) -> Guide {
        Guide { seed, places: Mutex::new(Rank::Guide, Places::default()) }
    }

    /// One step of a walk, where `keys` returns the first keys of a range.
    pub(crate) fn walk(
        &self,
        cursor: u64,
        limit: usize,
        mut keys: impl FnMut(&KeyRange, usize) -> Result<KeyPage>,
    ) -> Result<KeyWalk> {
        let place = match cursor {
            0 => None,
            _ => match self.remembered(cursor) {
                Some(key) => Some(key),
                None => self.search(cursor, &mut keys)?,
            },
        };
        let range = place.map_or_else(KeyRange::all, |last| KeyRange::all().after(&last));
        let page = keys(&range, limit.max(1))?;
        let last = page.keys.last().filter(|_| !page.done);
        let cursor = last.map_or(0, |last| self.remember(last));
        Ok(KeyWalk { keys: page.keys, position: page.position, cursor })
    }

    /// A number below 2^53, which clients may keep in a float, and never 0.
    fn cursor_of(&self, key: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, key).hash(&mut hasher);
        (hasher.finish() >> 11).max(1)
    }

    fn remembered(&self, cursor: u64) -> Option<Vec<u8>> {
        lock(&self.places).keys.get(&cursor).cloned()
    }

    fn remember(&self, key: &[u8]) -> u64 {
        let cursor = self.cursor_of(key);
        let mut places = lock(&self.places);
        if places.keys.insert(cursor, key.to_vec()).is_none() {
            places.bytes += key.len();
            places.order.push_back(cursor);
        }
        while places.order.len() > PLACES_MAX || places.bytes > PLACE_BYTES_MAX {
            let Some(oldest) = places.order.pop_front() else { break };
            let forgotten = places.keys.remove(&oldest).unwrap_or_default();
            places.bytes -= forgotten.len().min(places.bytes);
        }
        cursor
    }

    fn search(
        &self,
        cursor: u64,
        keys: &mut impl FnMut(&KeyRange, usize) -> Result<KeyPage>,
    ) -> Result<Option<Vec<u8>>> {
        let mut rest = KeyRange::all();
        loop {
            let page = keys(&rest, SEARCH_KEYS)?;
            if let Some(key) = page.keys.iter().find(|key| self.cursor_of(key) == cursor) {
                return Ok(Some(key.clone()));
            }
            match page.keys.last() {
                Some(last) if !page.done => rest = rest.after(last),
                _ => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_places_are_bounded_and_the_oldest_go_first() {
        let guide = Guide::new(1);
        let first = guide.remember(b"first");
        for number in 1..PLACES_MAX {
            guide.remember(number.to_string().as_bytes());
        }
        assert_eq!(guide.remembered(first), Some(b"first".to_vec()));
        guide.remember(b"one more");
        assert_eq!(guide.remembered(first), None);
        let long = |n: u8| vec![n; PLACE_BYTES_MAX / 4];
        let cursors: Vec<u64> = (0..6).map(|n| guide.remember(&long(n))).collect();
        assert_eq!(guide.remembered(cursors[5]), Some(long(5)));
        assert_eq!(guide.remembered(cursors[1]), None);
        assert!(lock(&guide.places).bytes <= PLACE_BYTES_MAX);
    }

    #[test]
    fn cursors_differ_between_stores_and_fit_into_a_float() {
        let cursor = Guide::new(1).remember(b"k");
        assert_ne!(Guide::new(2).remember(b"k"), cursor);
        assert_eq!(Guide::new(1).remember(b"k"), cursor);
        assert!(cursor < 1 << 53);
    }
}
