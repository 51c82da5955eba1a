//! Cursors: a number of an entry, and a tag that says of which walk.
//!
//! ```text
//! 63     53           32                 0
//! | zeros | tag, not 0 | number of entry |
//! ```
//!
//! A key keeps its entry as long as it stays, so a walk by the numbers of entries finds it wherever
//! other walks are and whatever others write. Numbers mean something else after a restart, and in a
//! space that was emptied or swapped: there the tag is another one, and the walk begins again, which
//! repeats keys and misses none. A cursor is below 2^53, since some clients keep it in a float.

use super::entry::EntryId;

/// The largest prime below 2^21: tags of one life differ for any two generations whose numbers differ
/// by less, and so do tags of one generation for any two lives.
const PRIME: u64 = (1 << 21) - 9;
/// Keeps the next life of a generation from looking like this life of the next generation.
const FACTOR: u64 = 40_503;
const ENTRY_BITS: u32 = 32;

/// The cursors of one life of a store: from an open to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursors {
    life: u64,
}

impl Cursors {
    /// The cursors of a store that is opened as the `open`-th of its kind.
    pub(crate) fn new(store_id: u64, open: u64) -> Cursors {
        Cursors { life: store_id.wrapping_add(open) % PRIME }
    }

    fn tag(self, generation: u64) -> u64 {
        1 + (self.life * FACTOR + generation % PRIME) % PRIME
    }

    /// The cursor of a walk through a generation that goes on with this entry.
    pub(crate) fn at(self, generation: u64, next: EntryId) -> u64 {
        self.tag(generation) << ENTRY_BITS | u64::from(next)
    }

    /// The entry that a walk through a generation goes on with: the first one if the cursor is none of
    /// this life and generation.
    pub(crate) fn entry(self, generation: u64, cursor: u64) -> EntryId {
        if cursor >> ENTRY_BITS == self.tag(generation) { cursor as EntryId } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_leads_to_its_entry_in_its_life_and_content_alone() {
        let cursors = Cursors::new(0x5eed, 7);
        for generation in [0, 1, 15, u64::from(u32::MAX), 1 << 32, (1 << 32) + 1] {
            for next in [0, 1, 77, u32::MAX] {
                let cursor = cursors.at(generation, next);
                assert!(cursor > 0 && cursor < 1 << 53);
                assert_eq!(cursors.entry(generation, cursor), next);
                assert_eq!(cursors.entry(generation + 1, cursor), 0, "another generation");
                for open in [0, 6, 8, 1000] {
                    assert_eq!(
                        Cursors::new(0x5eed, open).entry(generation, cursor),
                        0,
                        "a restart"
                    );
                }
            }
        }
        assert_eq!(cursors.entry(0, 0), 0);
        assert_eq!(cursors.entry(0, u64::MAX), 0);
    }
}
