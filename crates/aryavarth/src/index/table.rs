//! The table of spaces: which generation each space has, as the records of [`TABLE_GENERATION`] say.
//!
//! ```text
//! space 7 is emptied:   record  key 00 00 00 07   value 2^32 + 4    (its new generation)
//! swapped with space 2: records key 00 00 00 02   value 2^32 + 4
//!                               key 00 00 00 07   value 2
//! ```
//!
//! A change of a space writes the record of that space and no other, in the frame of the transaction,
//! so the cost of a change is that of its own spaces. Of the records of a space the newest counts; a space without a
//! record has the generation of its own number. Formats 1 and 2 wrote one record for all spaces
//! (`spaces`): it counts for each space that has no newer record of its own. It is six bytes long, so
//! its key is no space's.
//!
//! **A generation's number is never given twice.** The next number is one more than the highest that
//! any record names, be it a record of the table or a key's. Is the highest number that was ever given
//! always named? A transaction gives a new number only to a generation that a space has at its end, and
//! writes the record of that space. The record becomes garbage only when the space has a newer one:
//! after a clear, which names a higher number, or after a swap, whose other record names this number.
//! So the highest number is always the value of some space's newest record, which compaction copies and
//! recovery reads. A crash that loses this record loses the frame that it stood in and all later
//! frames, and with them every record that names the number. Keys' records are looked at
//! all the same, so that a number whose record was damaged is not given again, either.
//!
//! Invariants:
//! - No two spaces have the same generation: [`contradictions`](SpaceTable::contradictions) finds
//!   those whose records say so.
//! - Records may be read in any order.

use std::collections::{BTreeMap, BTreeSet};

/// New generations have numbers from here on; lower ones are those of spaces.
const GENERATION_MIN: u64 = 1 << 32;
/// The generation of the table's own records.
pub(crate) const TABLE_GENERATION: u64 = u64::MAX;
/// The key of the record of all spaces that formats 1 and 2 wrote.
const ALL_SPACES: &[u8] = b"spaces";

/// The generation of a space, and the sequence number of the record that says so.
#[derive(Clone, Copy, Debug)]
struct Given {
    generation: u64,
    seq: u64,
}

/// Which generation each space has.
#[derive(Clone, Debug)]
pub(crate) struct SpaceTable {
    /// Every other space has the generation of its own number.
    spaces: BTreeMap<u32, Given>,
    next: u64,
}

impl Default for SpaceTable {
    fn default() -> Self {
        SpaceTable { spaces: BTreeMap::new(), next: GENERATION_MIN }
    }
}

/// The key of the record of a space.
pub(crate) fn table_key(space: u32) -> [u8; 4] {
    space.to_be_bytes()
}

/// The value of the record of a space.
pub(crate) fn table_value(generation: u64) -> [u8; 8] {
    generation.to_le_bytes()
}

/// The content of a record of the table, in the words of an error.
pub(crate) fn table_record_name(key: &[u8]) -> String {
    match <[u8; 4]>::try_from(key) {
        Ok(space) => format!("the record of the generation of space {}", u32::from_be_bytes(space)),
        Err(_) if key == ALL_SPACES => "the record of the generations of all spaces".to_owned(),
        Err(_) => "a record of the table of spaces".to_owned(),
    }
}

impl SpaceTable {
    /// The generation of a space.
    pub(crate) fn generation(&self, space: u32) -> u64 {
        self.spaces.get(&space).map_or(space.into(), |given| given.generation)
    }

    /// The spaces that have records, with their generations, in order.
    pub(crate) fn spaces(&self) -> impl Iterator<Item = (u32, u64)> {
        self.spaces.iter().map(|(&space, given)| (space, given.generation))
    }

    /// The number of the next new generation.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Takes note of a generation that a record names: its number is never given again.
    pub(crate) fn note(&mut self, generation: u64) {
        if generation != TABLE_GENERATION {
            self.next = self.next.max(generation + 1);
        }
    }

    /// Takes a record of the table; `None`, and nothing is taken, if it makes no sense.
    pub(crate) fn read(&mut self, seq: u64, key: &[u8], value: &[u8]) -> Option<()> {
        let (words, rest) = value.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let pairs = match (<[u8; 4]>::try_from(key), words.split_first()) {
            _ if !rest.is_empty() => None,
            (Ok(space), Some((&generation, []))) if generation != TABLE_GENERATION => {
                Some(vec![(u32::from_be_bytes(space), generation)])
            }
            (Err(_), Some((&next, words))) if key == ALL_SPACES => {
                let pairs = pairs_of(next, words)?;
                self.next = self.next.max(next);
                Some(pairs)
            }
            _ => None,
        };
        for (space, generation) in pairs? {
            self.note(generation);
            let given = self.spaces.entry(space).or_insert(Given { generation, seq });
            if given.seq < seq {
                *given = Given { generation, seq };
            }
        }
        Some(())
    }

    /// The spaces whose generation another space has by a newer record: records are missing.
    pub(crate) fn contradictions(&self) -> Vec<u32> {
        let mut by_seq: Vec<(u64, u32, u64)> = self
            .spaces
            .iter()
            .map(|(&space, given)| (given.seq, space, given.generation))
            .collect();
        by_seq.sort_unstable_by(|a, b| b.cmp(a));
        let mut given = BTreeSet::new();
        let mut without = Vec::new();
        for (_, space, generation) in by_seq {
            if !given.insert(generation) {
                without.push(space);
            }
            // A space without a record has its own generation, unless another space was given that.
            let owner = u32::try_from(generation).ok().filter(|owner| *owner != space);
            without.extend(owner.filter(|owner| !self.spaces.contains_key(owner)));
        }
        without.sort_unstable();
        without.dedup();
        without
    }

    /// Gives a space a new, empty generation, or one that no other space has.
    pub(crate) fn give(&mut self, space: u32, generation: Option<u64>, seq: u64) {
        let generation = generation.unwrap_or(self.next);
        self.note(generation);
        self.spaces.insert(space, Given { generation, seq });
    }

    /// The generations that spaces with records have.
    pub(crate) fn generations(&self) -> BTreeSet<u64> {
        self.spaces.values().map(|given| given.generation).collect()
    }

    /// Whether records of a generation count, where `given` are those of the spaces with records.
    pub(crate) fn is_alive(&self, generation: u64, given: &BTreeSet<u64>) -> bool {
        let is_own = || u32::try_from(generation).is_ok_and(|own| !self.spaces.contains_key(&own));
        generation == TABLE_GENERATION || given.contains(&generation) || is_own()
    }
}

/// The spaces and generations in the record of all spaces; `None` if they make no sense.
fn pairs_of(next: u64, words: &[u64]) -> Option<Vec<(u32, u64)>> {
    let (pairs, rest) = words.as_chunks::<2>();
    if next < GENERATION_MIN || !rest.is_empty() {
        return None;
    }
    let mut found: Vec<(u32, u64)> = Vec::new();
    for &[space, generation] in pairs {
        let space = u32::try_from(space).ok()?;
        let ascends = found.last().is_none_or(|&(last, _)| last < space);
        if !ascends || generation == u64::from(space) || generation >= next {
            return None;
        }
        found.push((space, generation));
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u64 = GENERATION_MIN;

    fn all_spaces(words: &[u64]) -> Option<SpaceTable> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut table = SpaceTable::default();
        table.read(1, ALL_SPACES, &bytes).map(|()| table)
    }

    fn table(records: &[(u64, u32, u64)]) -> SpaceTable {
        let mut table = SpaceTable::default();
        for &(seq, space, generation) in records {
            table.read(seq, &table_key(space), &table_value(generation)).expect("it makes sense");
        }
        table
    }

    #[test]
    fn the_newest_record_of_a_space_counts_in_whatever_order_they_are_read() {
        let records = [(5, 0, FIRST), (6, 0, FIRST + 1), (7, 1, 2), (7, 2, 1), (3, 2, FIRST + 7)];
        let mut reversed = records;
        reversed.reverse();
        for records in [records, reversed] {
            let table = table(&records);
            assert!(table.spaces().eq([(0, FIRST + 1), (1, 2), (2, 1)]));
            assert_eq!((table.generation(1), table.generation(3)), (2, 3));
            assert_eq!(table.next(), FIRST + 8, "no number that was named is given again");
            let given = table.generations();
            assert!(!table.is_alive(0, &given) && !table.is_alive(FIRST, &given));
            assert!(table.is_alive(FIRST + 1, &given) && table.is_alive(3, &given));
            assert!(table.is_alive(TABLE_GENERATION, &given) && table.contradictions().is_empty());
        }
    }

    #[test]
    fn the_record_of_all_spaces_counts_until_a_space_has_a_newer_one() {
        let mut table = all_spaces(&[FIRST + 9, 1, FIRST, 4, 5, 5, 4]).unwrap();
        assert!(table.spaces().eq([(1, FIRST), (4, 5), (5, 4)]));
        assert_eq!(table.next(), FIRST + 9);
        for space in [4, 5] {
            table.read(2, &table_key(space), &table_value(space.into())).unwrap();
        }
        assert!(table.spaces().eq([(1, FIRST), (4, 4), (5, 5)]));
        assert!(table.contradictions().is_empty());
    }

    #[test]
    fn spaces_whose_records_are_missing_are_found() {
        for (records, without) in [
            (&[(1, 0, FIRST), (2, 1, FIRST)][..], &[0][..]),
            (&[(2, 0, FIRST), (1, 1, FIRST)], &[1]),
            (&[(1, 7, 8)], &[8]),
            (&[(1, 7, 8), (2, 8, FIRST)], &[]),
            (&[(1, 7, 8), (1, 8, 7), (1, 9, 9)], &[]),
        ] {
            assert_eq!(table(records).contradictions(), without, "{records:?}");
        }
    }

    #[test]
    fn a_record_that_makes_no_sense_is_refused() {
        assert!(all_spaces(&[FIRST + 1, 0, FIRST]).is_some());
        for bad in [
            &[][..],
            &[FIRST - 1],
            &[FIRST + 1, 0],
            &[FIRST, 0, FIRST],
            &[FIRST + 1, 0, 0],
            &[FIRST + 1, 1 << 32, FIRST],
            &[FIRST + 2, 1, FIRST, 0, FIRST + 1],
        ] {
            assert!(all_spaces(bad).is_none(), "{bad:?}");
        }
        let mut table = SpaceTable::default();
        for (key, value) in [
            (&b"\0\0\0\x01"[..], &[0; 7][..]),
            (b"\0\0\0\x01", &[0; 16]),
            (b"\0\0\0\x01", &[]),
            (b"\0\0\0\x01", &[0xff; 8]),
            (b"\0\0\x01", &[0; 8]),
            (b"Spaces", &[0; 8]),
            (ALL_SPACES, &[0; 9]),
        ] {
            assert!(table.read(1, key, value).is_none(), "{key:?} {value:?}");
        }
        assert_eq!((table.spaces().count(), table.next()), (0, FIRST));
    }
}
