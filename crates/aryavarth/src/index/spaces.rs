//! Spaces: which generation a space of keys has, and the lists of all generations.
//!
//! What a space holds is a *generation*, a list of keys with a number that is never used again. At
//! first every space has the generation of its own number. Emptying a space gives it a new one, swapping
//! two exchanges theirs; the table that says so is a record like others (of [`TABLE_KEY`] in
//! [`TABLE_GENERATION`]), so recovery, compaction and salvage need to know nothing more of it than that
//! the records of a generation that no space has are dead.
//!
//! Invariants:
//! - Only the writer changes the table, by putting a new one in its place. A table that gives a space
//!   another generation is published like a frame of several records, so no reader sees half of it.
//! - Whoever loads the table holds a pin that is older than that, so the entries that it leads to
//!   are not reused.
//! - What a space shows depends on the record that gave it its generation, be it a value or an
//!   absence: see [`SpaceState::since`].

use std::collections::{BTreeMap, BTreeSet};
use std::{fmt, iter};

use super::list::KeyList;
use crate::engine::Count;
use crate::sync::Arc;

/// New generations have numbers from here on; lower ones are those of spaces.
const GENERATION_MIN: u64 = 1 << 32;
/// The generation of the table's own record, and its key.
pub(crate) const TABLE_GENERATION: u64 = u64::MAX;
pub(crate) const TABLE_KEY: &[u8] = b"spaces";

/// What a space holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpaceState {
    pub(crate) generation: u64,
    /// What a crash must not undo for that to stay so: a position.
    pub(crate) since: u64,
}

/// A change of the table: the generation that some spaces get, and the next generation's number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change {
    pub(crate) spaces: BTreeMap<u32, u64>,
    pub(crate) next: u64,
}

/// Which generation each space has.
#[derive(Clone)]
pub(crate) struct SpaceTable {
    /// Of all others the generation has the space's number.
    spaces: BTreeMap<u32, SpaceState>,
    pub(super) lists: BTreeMap<u64, Arc<KeyList>>,
    next: u64,
}

impl fmt::Debug for SpaceTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpaceTable of {:?}, next {}", self.spaces, self.next)
    }
}

impl Default for SpaceTable {
    fn default() -> Self {
        SpaceTable { spaces: BTreeMap::new(), lists: BTreeMap::new(), next: GENERATION_MIN }
    }
}

impl SpaceTable {
    pub(crate) fn state_of(&self, space: u32) -> SpaceState {
        self.spaces
            .get(&space)
            .copied()
            .unwrap_or(SpaceState { generation: space.into(), since: 0 })
    }

    /// The number of the next new generation.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The space that has a generation, if any has.
    pub(crate) fn space_of(&self, generation: u64) -> Option<u32> {
        if let Ok(space) = u32::try_from(generation)
            && !self.spaces.contains_key(&space)
        {
            return Some(space);
        }
        let mut spaces = self.spaces.iter();
        spaces.find(|(_, state)| state.generation == generation).map(|(&space, _)| space)
    }

    /// Whether records of a generation count.
    pub(crate) fn is_alive(&self, generation: u64) -> bool {
        generation == TABLE_GENERATION || self.space_of(generation).is_some()
    }

    /// The same, quicker for one that has keys. For a table that is in use.
    pub(crate) fn is_in_use(&self, generation: u64) -> bool {
        self.lists.contains_key(&generation) || self.is_alive(generation)
    }

    /// How many keys a generation has.
    pub(crate) fn count_in(&self, generation: u64) -> Count {
        self.lists.get(&generation).map(|list| list.count()).unwrap_or_default()
    }

    /// The table after a change that a crash undoes unless `position` is durable.
    pub(crate) fn after(&self, change: &Change, position: u64) -> SpaceTable {
        let mut table = self.clone();
        for (&space, &generation) in &change.spaces {
            table.spaces.insert(space, SpaceState { generation, since: position });
        }
        table.next = change.next;
        table
    }

    /// The value of the table's record: the next number, then space and generation of each space that
    /// has another one than that of its number.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let pairs =
            self.spaces.iter().filter(|(space, state)| u64::from(**space) != state.generation);
        let words = pairs.flat_map(|(&space, state)| [space.into(), state.generation]);
        iter::once(self.next).chain(words).flat_map(u64::to_le_bytes).collect()
    }

    /// The table, without lists, that a record says; `None` if it makes no sense.
    pub(crate) fn decode(value: &[u8]) -> Option<SpaceTable> {
        let (words, rest) = value.as_chunks::<8>();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let next = words.next().filter(|&next| next >= GENERATION_MIN && rest.is_empty())?;
        let mut table = SpaceTable { next, ..SpaceTable::default() };
        let mut generations = BTreeSet::new();
        while let Some(space) = words.next() {
            let (generation, space) = (words.next()?, u32::try_from(space).ok()?);
            let ascends = table.spaces.last_key_value().is_none_or(|(&last, _)| last < space);
            let is_other = generation != u64::from(space) && generations.insert(generation);
            if !ascends || !is_other || generation >= next {
                return None;
            }
            table.spaces.insert(space, SpaceState { generation, since: 0 });
        }
        // A generation of a space's own number that another space has is no longer that space's.
        let is_given = |&generation: &u64| match u32::try_from(generation) {
            Ok(space) => table.spaces.contains_key(&space),
            Err(_) => true,
        };
        generations.iter().all(is_given).then_some(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_reads_as_it_was_written() {
        let spaces =
            BTreeMap::from([(0, GENERATION_MIN), (1, 2), (2, 1), (u32::MAX, GENERATION_MIN + 1)]);
        let change = Change { spaces, next: GENERATION_MIN + 5 };
        let table = SpaceTable::default().after(&change, 7);
        let again = SpaceTable::decode(&table.encode()).expect("it was written");
        assert_eq!(again.encode(), table.encode());
        assert_eq!(again.state_of(0), SpaceState { generation: GENERATION_MIN, since: 0 });
        assert_eq!((again.state_of(3).generation, again.space_of(2)), (3, Some(1)));
        assert!(!again.is_alive(0) && !again.is_alive(u64::from(u32::MAX)) && again.is_alive(3));
        assert_eq!(
            SpaceTable::decode(&SpaceTable::default().encode()).unwrap().next(),
            GENERATION_MIN
        );
    }

    #[test]
    fn a_table_that_makes_no_sense_is_refused() {
        let words = |words: &[u64]| {
            SpaceTable::decode(
                &words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>(),
            )
        };
        let first = GENERATION_MIN;
        assert!(words(&[first + 1, 0, first]).is_some());
        for bad in [
            &[][..],
            &[first - 1],
            &[first + 1, 0],
            &[first, 0, first],
            &[first + 1, 0, 0],
            &[first + 1, 1 << 32, first],
            &[first + 1, 0, first, 1, first],
            &[first + 2, 1, first, 0, first + 1],
            &[first + 1, 0, 1],
        ] {
            assert!(words(bad).is_none(), "{bad:?}");
        }
        assert!(SpaceTable::decode(&[0; 9]).is_none());
    }
}
