//! Spaces in memory: which generation each space has, and the list of keys of each generation.
//!
//! ```text
//! space 0..15 -> slot          array
//! space 16..  -> slot          skip list; a space without a slot has the generation of its number
//!                  |
//!        generation, since, list cell --> list of keys (made with the first key)
//!                                ^
//! generation ------------------- +     skip list, and 16 places in front of it for those in hand
//! ```
//!
//! A space has a *generation*, a list of keys with a number that is never given twice (table.rs). At
//! first every space has the generation of its own number. Emptying a space gives it a new one,
//! swapping two exchanges theirs. A change replaces the slots of the spaces that it changes and
//! touches no other.
//!
//! Invariants:
//! - Only the writer changes slots and generations. A change of several spaces is published like a
//!   frame of several records, so no reader sees half of it.
//! - A reader loads a slot under a pin, so the entries that its list leads to are not reused.
//! - A generation that a space has by a slot is among the generations, with the same cell: it gets
//!   there before the first slot names it, and leaves after the last. So compaction never takes the
//!   records of a space for dead while the space moves.
//! - A generation that has a place in front of the map is in the map: it gets there later, and leaves
//!   earlier.
//! - Neither map ever gets a key that it holds: `SkipMap::insert` would let it vanish for a moment.
//! - An answer about a space depends on the record that gave it its generation, be it a value or an
//!   absence: see [`SpaceState::since`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use arc_swap::{ArcSwap, ArcSwapOption};
use crossbeam_skiplist::SkipMap;

use super::list::KeyList;
use super::table::{SpaceTable, TABLE_GENERATION};
use crate::sync::{Arc, OnceLock};

/// Spaces that have a slot from the start.
const LOW_SPACES: u32 = 16;
/// Places in front of the map of generations; one write looks for its generation several times.
const HOT_PLACES: u64 = 16;

/// The generation of a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpaceState {
    pub(crate) generation: u64,
    /// The position that a crash must not undo for that to stay so.
    pub(crate) since: u64,
}

impl SpaceState {
    /// The state of a space that was never changed.
    fn first(space: u32) -> SpaceState {
        SpaceState { generation: space.into(), since: 0 }
    }
}

/// A change of the table: the generation that some spaces get, and the next generation's number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change {
    pub(crate) spaces: BTreeMap<u32, u64>,
    pub(crate) next: u64,
}

/// The list of a generation, once it has had a key.
#[derive(Debug, Default)]
pub(super) struct ListCell(OnceLock<Box<KeyList>>);

impl ListCell {
    pub(super) fn get(&self) -> Option<&KeyList> {
        self.0.get().map(|list| &**list)
    }

    pub(super) fn get_or_make(&self, make: impl FnOnce() -> KeyList) -> &KeyList {
        self.0.get_or_init(|| Box::new(make()))
    }
}

/// The contents of a slot. Never changed: another one takes its place.
struct Held {
    state: SpaceState,
    list: Arc<ListCell>,
}

/// A generation and its cell, as they are in the map.
struct Hot {
    generation: u64,
    list: Arc<ListCell>,
}

/// All spaces and generations.
pub(super) struct Spaces {
    low: Vec<ArcSwap<Held>>,
    high: SkipMap<u32, ArcSwap<Held>>,
    generations: SkipMap<u64, Arc<ListCell>>,
    /// At the remainder of its number the first generation that was written to. Others with the same
    /// remainder are found in the map, so that writes to many spaces in turn replace nothing here.
    hot: Vec<ArcSwapOption<Hot>>,
}

impl fmt::Debug for Spaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spaces, {} high ones, {} generations", self.high.len(), self.generations.len())
    }
}

impl Spaces {
    /// Spaces without keys.
    pub(super) fn of_table(table: &SpaceTable) -> Spaces {
        let (high, generations) = (SkipMap::new(), SkipMap::new());
        let hot = (0..HOT_PLACES).map(|_| ArcSwapOption::empty()).collect();
        let mut spaces = Spaces { low: Vec::new(), high, generations, hot };
        spaces.cell(TABLE_GENERATION);
        for space in 0..LOW_SPACES {
            let held = spaces.held(table.generation(space), 0);
            spaces.low.push(ArcSwap::from_pointee(held));
        }
        for (space, generation) in table.spaces().filter(|(space, _)| *space >= LOW_SPACES) {
            spaces.set(space, generation, 0);
        }
        spaces
    }

    /// Calls `look` with the state of a space and the list of its keys, if it has had any.
    pub(super) fn look<R>(
        &self,
        space: u32,
        look: impl FnOnce(SpaceState, Option<&KeyList>) -> R,
    ) -> R {
        if let Some(slot) = self.low.get(space as usize) {
            let held = slot.load();
            return look(held.state, held.list.get());
        }
        match self.high.get(&space) {
            Some(slot) => {
                let held = slot.value().load();
                look(held.state, held.list.get())
            }
            None => look(SpaceState::first(space), None),
        }
    }

    pub(super) fn state_of(&self, space: u32) -> SpaceState {
        self.look(space, |state, _| state)
    }

    /// Calls `look` with the list of a generation, if a space has that, and it has had a key.
    pub(super) fn look_in<R>(
        &self,
        generation: u64,
        look: impl FnOnce(Option<&KeyList>) -> R,
    ) -> R {
        if let Some(hot) = &*self.place(generation).load()
            && hot.generation == generation
        {
            return look(hot.list.get());
        }
        let cell = self.generations.get(&generation);
        look(cell.as_ref().and_then(|cell| cell.value().get()))
    }

    /// The space that has a generation, if one has. Looks at the slots one by one.
    pub(super) fn space_of(&self, generation: u64) -> Option<u32> {
        let has = |slot: &ArcSwap<Held>| slot.load().state.generation == generation;
        let low = (0..LOW_SPACES).zip(&self.low).find(|(_, slot)| has(slot));
        if let Some((space, _)) = low {
            return Some(space);
        }
        if let Some(slot) = self.high.iter().find(|slot| has(slot.value())) {
            return Some(*slot.key());
        }
        let own = u32::try_from(generation).ok()?;
        (self.state_of(own).generation == generation).then_some(own)
    }

    /// Whether records of a generation count.
    pub(super) fn is_in_use(&self, generation: u64) -> bool {
        let hot = self.place(generation).load();
        if hot.as_ref().is_some_and(|hot| hot.generation == generation) {
            return true;
        }
        let is_first = |space| self.state_of(space).generation == generation;
        self.generations.contains_key(&generation) || u32::try_from(generation).is_ok_and(is_first)
    }

    /// The cell of a generation that a space has. For the writer only.
    pub(super) fn cell_of(&self, generation: u64) -> Arc<ListCell> {
        let place = self.place(generation);
        let hot = place.load();
        if let Some(hot) = hot.as_ref().filter(|hot| hot.generation == generation) {
            return Arc::clone(&hot.list);
        }
        if let Some(cell) = self.generations.get(&generation) {
            let list = Arc::clone(cell.value());
            if hot.is_none() {
                place.store(Some(Arc::new(Hot { generation, list: Arc::clone(&list) })));
            }
            return list;
        }
        let cell = self.cell(generation);
        // The generation of a space's own number: now the space has a slot.
        if let Ok(space) = u32::try_from(generation) {
            self.set(space, generation, 0);
        }
        cell
    }

    /// Gives spaces other generations; returns the cells of the generations that no space has any
    /// more. For the writer only, which keeps readers from seeing a part.
    pub(super) fn change(&self, change: &Change, position: u64) -> Vec<(u64, Arc<ListCell>)> {
        let old: Vec<u64> =
            change.spaces.keys().map(|&space| self.state_of(space).generation).collect();
        let given: BTreeSet<u64> = change.spaces.values().copied().collect();
        for &generation in &given {
            self.cell(generation);
        }
        for (&space, &generation) in &change.spaces {
            self.set(space, generation, position);
        }
        let dead = old.into_iter().filter(|generation| !given.contains(generation));
        let removed = dead.filter_map(|generation| {
            let place = self.place(generation);
            if place.load().as_ref().is_some_and(|hot| hot.generation == generation) {
                place.store(None);
            }
            let cell = self.generations.remove(&generation)?;
            Some((generation, Arc::clone(cell.value())))
        });
        removed.collect()
    }

    /// The place of a generation in front of the map, which it may have or another one.
    fn place(&self, generation: u64) -> &ArcSwapOption<Hot> {
        &self.hot[(generation % HOT_PLACES) as usize]
    }

    /// The cell of a generation, made if it is not there.
    fn cell(&self, generation: u64) -> Arc<ListCell> {
        Arc::clone(self.generations.get_or_insert_with(generation, Arc::default).value())
    }

    fn held(&self, generation: u64, since: u64) -> Held {
        Held { state: SpaceState { generation, since }, list: self.cell(generation) }
    }

    /// Replaces the slot of a space, or makes it.
    fn set(&self, space: u32, generation: u64, since: u64) {
        let held = Arc::new(self.held(generation, since));
        if let Some(slot) = self.low.get(space as usize) {
            slot.store(held);
        } else if let Some(slot) = self.high.get(&space) {
            slot.value().store(held);
        } else {
            self.high.get_or_insert(space, ArcSwap::new(held));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(spaces: &[(u32, u64)]) -> Change {
        Change { spaces: spaces.iter().copied().collect(), next: 0 }
    }

    /// The dropped generations of a change.
    fn dropped(spaces: &Spaces, pairs: &[(u32, u64)]) -> Vec<u64> {
        let dropped = spaces.change(&change(pairs), 7);
        dropped.into_iter().map(|(generation, _)| generation).collect()
    }

    #[test]
    fn a_generation_is_in_use_as_long_as_a_space_has_it() {
        let new = 1 << 32;
        let spaces = Spaces::of_table(&SpaceTable::default());
        for space in [3, 300] {
            let own = u64::from(space);
            assert!(spaces.is_in_use(own) && !spaces.is_in_use(new + own));
            assert_eq!((spaces.space_of(own), spaces.space_of(new + own)), (Some(space), None));
            // Emptied, swapped with a space that was never used, and emptied again.
            dropped(&spaces, &[(space, new + own)]);
            assert!(!spaces.is_in_use(own) && spaces.is_in_use(new + own));
            assert_eq!((spaces.space_of(own), spaces.space_of(new + own)), (None, Some(space)));
            assert_eq!(dropped(&spaces, &[(space, 99), (99, new + own)]), [] as [u64; 0]);
            assert_eq!((spaces.space_of(99), spaces.space_of(new + own)), (Some(space), Some(99)));
            assert_eq!(spaces.state_of(99), SpaceState { generation: new + own, since: 7 });
            assert!(spaces.is_in_use(99) && spaces.is_in_use(new + own));
            assert_eq!(dropped(&spaces, &[(space, new + own), (99, 99)]), [] as [u64; 0]);
            assert_eq!(dropped(&spaces, &[(space, new + 2 * own)]), [new + own]);
            assert!(!spaces.is_in_use(new + own) && spaces.is_in_use(TABLE_GENERATION));
        }
    }

    #[test]
    fn a_generation_is_found_by_its_place_as_in_the_map() {
        let spaces = Spaces::of_table(&SpaceTable::default());
        // 3 and 19 meet in one place; the first of them that is written to has it.
        let cells = [3, 19].map(|generation| {
            let cell = spaces.cell_of(generation);
            assert!(Arc::ptr_eq(&cell, &spaces.cell_of(generation)));
            cell
        });
        assert!(!Arc::ptr_eq(&cells[0], &cells[1]));
        let hot = || spaces.place(3).load().as_ref().map(|hot| hot.generation);
        assert_eq!(hot(), Some(3));
        let new = (1 << 32) + 3;
        assert_eq!(dropped(&spaces, &[(3, new)]), [3]);
        assert_eq!(hot(), None, "no space has it");
        assert!(!spaces.is_in_use(3));
        let cell = spaces.cell_of(new);
        assert!(!Arc::ptr_eq(&cell, &cells[0]));
        assert_eq!(hot(), Some(new));
        assert!(spaces.is_in_use(new) && spaces.is_in_use(19));
        assert_eq!(dropped(&spaces, &[(3, new + 1)]), [new]);
        assert!(!spaces.is_in_use(new));
    }

    #[test]
    fn a_change_costs_what_it_changes() {
        let spaces = Spaces::of_table(&SpaceTable::default());
        for space in 0..1000 {
            spaces.cell_of(space);
        }
        let slots = |spaces: &Spaces| -> Vec<usize> {
            let slot = |space: u32| spaces.look(space, |_, _| ());
            (0..1000).for_each(slot);
            let high = spaces.high.iter().map(|slot| Arc::as_ptr(&slot.value().load()) as usize);
            high.collect()
        };
        let before = slots(&spaces);
        spaces.change(&change(&[(500, 1 << 32)]), 1);
        let after = slots(&spaces);
        assert_eq!(before.iter().zip(&after).filter(|(a, b)| a != b).count(), 1, "one slot is new");
        assert_eq!(spaces.generations.len(), 1000 + 1, "all generations and the table's own");
    }
}
