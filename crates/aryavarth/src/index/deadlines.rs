//! The deadlines of all keys, in order: one table for each clock that they mean.
//!
//! ```text
//! by the store's clock, and the same by the wall clock:
//!
//! firsts        (3, gen 7)  (5, gen 0)  (9, gen 2)       the first deadline of each generation
//!                   |
//! generations   7: (3, entry) (8, entry) ...             its deadlines
//! ```
//!
//! The sweep asks for the next deadline after each append, and a space that is emptied drops its
//! deadlines at once: neither may take longer the more generations there are.
//!
//! Invariant: `firsts` has the first deadline of every generation that has any, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use super::entry::EntryId;
use crate::deadline::{FAR_MS, Now, WALL};

/// The words of a generation's deadlines by one clock, in order.
pub(super) type Set = BTreeSet<(u64, EntryId)>;

/// The deadlines of the keys of all generations.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    by_store: Table,
    by_wall: Table,
}

impl Deadlines {
    /// The next deadline of each clock; `u64::MAX` for none.
    pub(crate) fn next(&self) -> Now {
        let next = |table: &Table| table.next().map_or(u64::MAX, |word| word & !WALL);
        Now { store_ms: next(&self.by_store), wall_ms: next(&self.by_wall) }
    }

    /// Generations and entries of keys whose deadline has passed at `now`, at most `max`.
    pub(crate) fn due(&self, now: Now, max: usize) -> Vec<(u64, EntryId)> {
        let mut due = self.by_store.due(now.store_ms.min(FAR_MS - 1), max);
        due.extend(self.by_wall.due(WALL | now.wall_ms.min(FAR_MS - 1), max - due.len()));
        due
    }

    pub(super) fn note(&mut self, generation: u64, id: EntryId, expires_at: Option<u64>) {
        if let Some(word) = expires_at {
            self.table(word).note(generation, id, word);
        }
    }

    pub(super) fn forget(&mut self, generation: u64, id: EntryId, expires_at: Option<u64>) {
        if let Some(word) = expires_at {
            self.table(word).forget(generation, id, word);
        }
    }

    /// Takes the deadlines of a generation out, to be freed elsewhere.
    pub(super) fn drop_generation(&mut self, generation: u64) -> [Set; 2] {
        [&mut self.by_store, &mut self.by_wall].map(|table| table.drop_generation(generation))
    }

    fn table(&mut self, word: u64) -> &mut Table {
        if word & WALL == 0 { &mut self.by_store } else { &mut self.by_wall }
    }
}

/// The deadlines by one clock.
#[derive(Debug, Default)]
struct Table {
    generations: BTreeMap<u64, Set>,
    firsts: BTreeSet<(u64, u64)>,
}

impl Table {
    /// The next deadline of all.
    fn next(&self) -> Option<u64> {
        self.firsts.first().map(|&(deadline, _)| deadline)
    }

    /// Generations and entries of keys whose deadline is not after `now`, at most `max`.
    fn due(&self, now: u64, max: usize) -> Vec<(u64, EntryId)> {
        let firsts = self.firsts.iter().take_while(|(deadline, _)| *deadline <= now);
        let sets = firsts.filter_map(|(_, generation)| {
            self.generations.get(generation).map(|set| (*generation, set))
        });
        let due = sets.flat_map(|(generation, set)| {
            let due = set.iter().take_while(move |(deadline, _)| *deadline <= now);
            due.map(move |&(_, id)| (generation, id))
        });
        due.take(max).collect()
    }

    fn note(&mut self, generation: u64, id: EntryId, deadline: u64) {
        let set = self.generations.entry(generation).or_default();
        let before = first(set);
        set.insert((deadline, id));
        let after = first(set);
        self.move_first(generation, before, after);
    }

    fn forget(&mut self, generation: u64, id: EntryId, deadline: u64) {
        if let Some(set) = self.generations.get_mut(&generation) {
            let before = first(set);
            set.remove(&(deadline, id));
            let after = first(set);
            if after.is_none() {
                self.generations.remove(&generation);
            }
            self.move_first(generation, before, after);
        }
    }

    fn drop_generation(&mut self, generation: u64) -> Set {
        let set = self.generations.remove(&generation).unwrap_or_default();
        self.move_first(generation, first(&set), None);
        set
    }

    fn move_first(&mut self, generation: u64, before: Option<u64>, after: Option<u64>) {
        if before == after {
            return;
        }
        if let Some(deadline) = before {
            self.firsts.remove(&(deadline, generation));
        }
        self.firsts.extend(after.map(|deadline| (deadline, generation)));
    }
}

fn first(set: &Set) -> Option<u64> {
    set.first().map(|&(deadline, _)| deadline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_deadlines_follow_every_change() {
        let mut deadlines = Deadlines::default();
        let (mut model, mut draw) = (BTreeSet::new(), 7_u64);
        for step in 0..4000 {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            let [generation, deadline, id] =
                [draw >> 60, (draw >> 40) % 50, (draw >> 30) % 4].map(|n| n % 50);
            // One in two is by the wall clock.
            let deadline = deadline | ((draw >> 59) % 2 * WALL);
            match step % 40 {
                39 => {
                    let dropped = deadlines.drop_generation(generation);
                    assert_eq!(
                        dropped.iter().map(Set::len).sum::<usize>(),
                        model.iter().filter(|m: &&(u64, u64, u64)| m.1 == generation).count()
                    );
                    model.retain(|m| m.1 != generation);
                }
                n if n % 2 == 0 => {
                    deadlines.note(generation, id as EntryId, Some(deadline));
                    model.insert((deadline, generation, id));
                }
                _ => {
                    deadlines.forget(generation, id as EntryId, Some(deadline));
                    model.remove(&(deadline, generation, id));
                }
            }
            let first = |wall: u64| {
                let words = model.iter().map(|m| m.0).filter(|word| word & WALL == wall);
                words.min().map_or(u64::MAX, |word| word & !WALL)
            };
            assert_eq!(deadlines.next(), Now { store_ms: first(0), wall_ms: first(WALL) });
            let now = Now { store_ms: 20, wall_ms: 30 };
            let mut due = deadlines.due(now, usize::MAX);
            let mut expected: Vec<_> = model
                .iter()
                .filter(|m| now.has_reached(m.0))
                .map(|m| (m.1, m.2 as EntryId))
                .collect();
            due.sort_unstable();
            expected.sort_unstable();
            assert_eq!(due, expected);
        }
    }
}
