//! The front: an open hash table from a key's hash to the number of its entry.
//!
//! ```text
//! hash(key) --> tag (32 bits) --> home line = tag * lines / 2^32
//!
//! line  | word | word | word | word | word | word | word | word |    64 bytes, one cache line
//! word  | tag 32 bits | entry number + 1, 32 bits |    0: empty, number 0: removed
//! ```
//!
//! A point read costs two cache misses, the line and the entry, where a search of the order costs
//! one for each step. A search walks from the home line to the first line with an empty word. A tag
//! never decides: each hit compares the key in the entry, because clients choose keys and could
//! make tags meet.
//!
//! A table that is three quarters full is followed by a larger one, which the writer fills a few
//! lines at a time. Until all lines are copied the old table holds every key that it held, and new
//! keys go to the new one only, so a reader looks in the old table and then in its follower.
//!
//! Invariants:
//! - Only the writer changes words. A word is stored (release) after its entry has its key.
//! - A line that was full once has no empty word again, so a search may end at the first empty one.
//! - A removed key leaves every table that a new reader can reach before its entry is given back,
//!   and the entry is reused an epoch later. So an entry that is found under a pin keeps its key.
//! - A key that stays is in the first table of the chain that a reader loads, or in one behind it.

use std::fmt;

use crossbeam_epoch::{Atomic, Guard, Owned, Shared};

use super::entry::EntryId;
use crate::sync::{AtomicU64, Ordering};

/// Words of a line.
const LINE_WORDS: usize = 8;
/// Lines of the first table.
const LINES_MIN: usize = 1;
/// Lines that one insertion copies while a table grows: a table is copied long before its follower
/// is full.
const LINES_PER_STEP: usize = 4;
/// A removed word: its number is no entry's, its tag is not zero.
const REMOVED: u64 = 1 << 32;

/// The part of a key's hash that the front keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(pub(super) u32);

impl Tag {
    fn word(self, id: EntryId) -> u64 {
        u64::from(self.0) << 32 | (u64::from(id) + 1)
    }

    /// The tag and the entry of a word, if it names one.
    fn of(word: u64) -> Option<(Tag, EntryId)> {
        let id = (word as u32).checked_sub(1)?;
        Some((Tag((word >> 32) as u32), id))
    }
}

struct Table {
    words: Box<[AtomicU64]>,
    /// The table that the writer copies this one to.
    next: Atomic<Table>,
}

/// Words that are zero. The system gives large tables zeroed pages when they are first touched, so
/// that the writer does not stop to clear them.
#[cfg(not(shuttle))]
fn zeroed(words: usize) -> Box<[AtomicU64]> {
    let words: Box<[u64]> = vec![0; words].into_boxed_slice();
    // SAFETY: an `AtomicU64` has the size, the alignment (on the 64-bit targets that the assertion
    // below admits) and the bit validity of a `u64`, and the box owns its words alone.
    #[expect(unsafe_code, reason = "zeroed pages without a pass over them")]
    unsafe {
        Box::from_raw(Box::into_raw(words) as *mut [AtomicU64])
    }
}

#[cfg(not(shuttle))]
const _: () = assert!(align_of::<u64>() == align_of::<AtomicU64>());

#[cfg(shuttle)]
fn zeroed(words: usize) -> Box<[AtomicU64]> {
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

impl Table {
    fn new(lines: usize) -> Table {
        Table { words: zeroed(lines * LINE_WORDS), next: Atomic::null() }
    }

    fn lines(&self) -> usize {
        self.words.len() / LINE_WORDS
    }

    fn line(&self, line: usize) -> &[AtomicU64] {
        &self.words[line * LINE_WORDS..][..LINE_WORDS]
    }

    /// The lines from a tag's home on, all of them once.
    fn lines_of(&self, tag: Tag) -> impl Iterator<Item = &[AtomicU64]> {
        let lines = self.lines();
        let home = ((u64::from(tag.0) * lines as u64) >> 32) as usize;
        (home..lines).chain(0..home).map(|line| self.line(line))
    }

    /// The entry with this tag that `is_it` accepts.
    fn find(&self, tag: Tag, mut is_it: impl FnMut(EntryId) -> bool) -> Option<EntryId> {
        for line in self.lines_of(tag) {
            let mut ends = false;
            for word in line {
                let word = word.load(Ordering::Acquire);
                ends |= word == 0;
                if let Some((found, id)) = Tag::of(word)
                    && found == tag
                    && is_it(id)
                {
                    return Some(id);
                }
            }
            if ends {
                return None;
            }
        }
        None
    }

    /// Puts an entry into the first free word; returns whether that word was never used.
    fn insert(&self, tag: Tag, id: EntryId) -> bool {
        let free = self.lines_of(tag).flatten();
        let free = free.map(|word| (word, word.load(Ordering::Relaxed)));
        let mut free = free.filter(|(_, now)| *now == 0 || *now == REMOVED);
        let (word, now) = free.next().expect("a table grows before it is full");
        word.store(tag.word(id), Ordering::Release);
        now == 0
    }

    /// Takes an entry out; returns whether its word became empty, or `None` if it is not here.
    fn remove(&self, tag: Tag, id: EntryId) -> Option<bool> {
        let is = |word: &AtomicU64, value| word.load(Ordering::Relaxed) == value;
        for line in self.lines_of(tag) {
            // A line that was never full is where every search of its keys ended.
            let ends = line.iter().any(|word| is(word, 0));
            if let Some(word) = line.iter().find(|word| is(word, tag.word(id))) {
                word.store(if ends { 0 } else { REMOVED }, Ordering::Release);
                return Some(ends);
            }
            if ends {
                return None;
            }
        }
        None
    }
}

/// Counts and place that only the writer knows.
#[derive(Debug, Default)]
struct Growth {
    /// Entries, and words that are not empty in the table that takes insertions.
    entries: AtomicU64,
    used: AtomicU64,
    /// Lines of the old table that are copied, while there is a follower.
    copied: AtomicU64,
}

/// The table of one set of keys.
pub(super) struct Front {
    table: Atomic<Table>,
    growth: Growth,
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Front of {} entries", self.entries())
    }
}

/// The table behind a pointer that was loaded under a pin.
fn seen(table: Shared<'_, Table>) -> Option<&Table> {
    // SAFETY: a table is destroyed an epoch after it left the chain, or with the front that the
    // caller borrows; the pin of the load outlives the reference.
    #[expect(unsafe_code, reason = "a pointer that an epoch protects")]
    unsafe {
        table.as_ref()
    }
}

impl Front {
    pub(super) fn new() -> Front {
        Front { table: Atomic::new(Table::new(LINES_MIN)), growth: Growth::default() }
    }

    fn entries(&self) -> u64 {
        self.growth.entries.load(Ordering::Relaxed)
    }

    /// The entry with this tag that `is_it` accepts by its key. No lock, no allocation.
    pub(super) fn find(
        &self,
        tag: Tag,
        pin: &Guard,
        mut is_it: impl FnMut(EntryId) -> bool,
    ) -> Option<EntryId> {
        let mut table = seen(self.table.load(Ordering::Acquire, pin));
        while let Some(at) = table {
            let found = at.find(tag, &mut is_it);
            if found.is_some() {
                return found;
            }
            // A key that came after the old table was full is in its follower only.
            table = seen(at.next.load(Ordering::Acquire, pin));
        }
        None
    }

    /// Adds an entry whose key is not here. For the writer only.
    pub(super) fn insert(&self, tag: Tag, id: EntryId, pin: &Guard) {
        let Growth { entries, used, .. } = &self.growth;
        self.grow(pin);
        let Some(table) = seen(self.table.load(Ordering::Relaxed, pin)) else { return };
        let newest = seen(table.next.load(Ordering::Relaxed, pin)).unwrap_or(table);
        let fresh = newest.insert(tag, id);
        entries.fetch_add(1, Ordering::Relaxed);
        used.fetch_add(u64::from(fresh), Ordering::Relaxed);
    }

    /// Takes an entry out; it may be given back afterwards. Returns whether it was here. For the
    /// writer only.
    pub(super) fn remove(&self, tag: Tag, id: EntryId, pin: &Guard) -> bool {
        let Growth { entries, used, .. } = &self.growth;
        let Some(table) = seen(self.table.load(Ordering::Relaxed, pin)) else { return false };
        let newest = seen(table.next.load(Ordering::Relaxed, pin));
        // The newest table last: its words are the ones that are counted.
        let before = newest.and_then(|_| table.remove(tag, id));
        let emptied = newest.unwrap_or(table).remove(tag, id);
        used.fetch_sub(u64::from(emptied == Some(true)), Ordering::Relaxed);
        let found = before.is_some() || emptied.is_some();
        entries.fetch_sub(u64::from(found), Ordering::Relaxed);
        found
    }

    /// Makes room for a number of entries at once, before the first of them. For a front that
    /// no thread reads yet.
    pub(super) fn reserve(&self, entries: u64, pin: &Guard) {
        let lines = (entries as usize * 3 / 2).div_ceil(LINE_WORDS).max(LINES_MIN);
        let empty = self.growth.entries.load(Ordering::Relaxed) == 0;
        if empty && seen(self.table.load(Ordering::Relaxed, pin)).is_some_and(|t| t.lines() < lines)
        {
            self.replace(Owned::new(Table::new(lines)).into_shared(pin), pin);
        }
    }

    /// Puts a table in the place of the first one, which goes after an epoch.
    fn replace(&self, table: Shared<'_, Table>, pin: &Guard) {
        let old = self.table.swap(table, Ordering::AcqRel, pin);
        // SAFETY: no new reader reaches the old table, and it is destroyed once.
        #[expect(unsafe_code, reason = "an epoch protects the readers that have it")]
        unsafe {
            pin.defer_destroy(old);
        }
    }

    /// Begins a larger table when the present one is three quarters full, or copies some lines of
    /// it to the one that was begun.
    fn grow(&self, pin: &Guard) {
        let Growth { entries, used, copied } = &self.growth;
        let Some(table) = seen(self.table.load(Ordering::Relaxed, pin)) else { return };
        let next = table.next.load(Ordering::Relaxed, pin);
        let Some(newest) = seen(next) else {
            let words = table.words.len() as u64;
            if (used.load(Ordering::Relaxed) + 1) * 4 > words * 3 {
                // Removed words go with the old table: few entries need no more lines.
                let factor = if entries.load(Ordering::Relaxed) * 2 > words { 2 } else { 1 };
                let lines = table.lines() * factor;
                table.next.store(Owned::new(Table::new(lines)), Ordering::Release);
                used.store(0, Ordering::Relaxed);
                copied.store(0, Ordering::Relaxed);
            }
            return;
        };
        let from = copied.load(Ordering::Relaxed) as usize;
        let to = (from + LINES_PER_STEP).min(table.lines());
        let words = (from..to).flat_map(|line| table.line(line));
        for (tag, id) in words.filter_map(|word| Tag::of(word.load(Ordering::Relaxed))) {
            let fresh = newest.insert(tag, id);
            used.fetch_add(u64::from(fresh), Ordering::Relaxed);
        }
        copied.store(to as u64, Ordering::Relaxed);
        if to == table.lines() {
            self.replace(next, pin);
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let tables = std::mem::replace(&mut self.table, Atomic::null());
        let mut first = Some(tables);
        while let Some(table) = first.take() {
            // SAFETY: the front is borrowed mutably, so no thread reads; a table that was replaced is
            // not in this chain, since only the first one is ever replaced, by the second.
            #[expect(unsafe_code, reason = "the end of the owner of the tables")]
            let owned = unsafe { table.try_into_owned() };
            first = owned.map(|mut owned| std::mem::replace(&mut owned.next, Atomic::null()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crossbeam_epoch as epoch;

    use super::*;
    use crate::sync::{Arc, thread};

    /// A tag for a key that is its own entry's number. Uneven, so that lines overflow: squares and
    /// products alone would spread the keys too well.
    fn tag(key: u32) -> Tag {
        let mixed = (key ^ key >> 16).wrapping_mul(0x7feb_352d);
        Tag((mixed ^ mixed >> 15).wrapping_mul(0x846c_a68b))
    }

    fn find(front: &Front, key: u32, pin: &Guard) -> Option<EntryId> {
        front.find(tag(key), pin, |id| id == key)
    }

    #[test]
    fn a_front_holds_what_a_map_holds_through_growth_and_removal() {
        let (front, mut model) = (Front::new(), BTreeSet::new());
        let mut random = 1_u64;
        for step in 0..200_000_u32 {
            let pin = epoch::pin();
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let key = (random >> 40) as u32 % (1 + step / 8);
            // Waves of growth and of removal, so that tables of the same size follow, too.
            let adds = (step / 20_000) % 2 == 0 || (random >> 33).is_multiple_of(4);
            if adds && model.insert(key) {
                front.insert(tag(key), key, &pin);
            } else if !adds {
                assert_eq!(front.remove(tag(key), key, &pin), model.remove(&key));
            }
            let other = (random >> 20) as u32 % (1 + step / 8);
            assert_eq!(find(&front, other, &pin).is_some(), model.contains(&other));
            assert_eq!(front.entries(), model.len() as u64);
        }
    }

    /// Tags that clients made equal: the key decides, and each is found.
    #[test]
    fn equal_tags_are_told_apart_by_the_key() {
        let (front, pin) = (Front::new(), epoch::pin());
        for id in 0..200 {
            front.insert(Tag(u32::MAX), id, &pin);
        }
        for id in 0..200 {
            assert_eq!(front.find(Tag(u32::MAX), &pin, |found| found == id), Some(id));
        }
        assert_eq!(front.find(Tag(u32::MAX), &pin, |found| found == 200), None);
        for id in (0..200).step_by(2) {
            assert!(front.remove(Tag(u32::MAX), id, &pin));
        }
        let left = (0..200).filter(|&id| front.find(Tag(u32::MAX), &pin, |at| at == id).is_some());
        assert!(left.eq((0..200).filter(|id| id % 2 == 1)));
    }

    #[test]
    fn the_words_of_a_growing_front_stay_within_sixteen_bytes_a_key_on_average() {
        let (front, mut words, mut keys) = (Front::new(), 0, 0);
        for key in 0..1 << 17 {
            let pin = epoch::pin();
            front.insert(tag(key), key, &pin);
            if key > 1 << 16 && key % 1_000 == 0 {
                let table = seen(front.table.load(Ordering::Relaxed, &pin)).unwrap();
                words += table.words.len();
                keys += key as usize;
            }
        }
        assert!(words * 8 < keys * 16, "{words} words for {keys} keys");
    }

    /// A key that stays is found in each moment, while others come and go and tables grow.
    pub(super) fn keys_that_stay_are_found(keys: u32, steps: u32, readers: u32) {
        let front = Arc::new(Front::new());
        for key in 0..keys {
            front.insert(tag(key), key, &epoch::pin());
        }
        let writer = {
            let front = Arc::clone(&front);
            thread::spawn(move || {
                for step in 0..steps {
                    let pin = epoch::pin();
                    front.insert(tag(keys + step), keys + step, &pin);
                    if step % 3 == 0 {
                        assert!(front.remove(tag(keys + step), keys + step, &pin));
                    }
                }
            })
        };
        let reader = |_| {
            let front = Arc::clone(&front);
            thread::spawn(move || {
                for key in 0..keys {
                    let pin = epoch::pin();
                    assert_eq!(find(&front, key, &pin), Some(key), "a key that stays");
                }
            })
        };
        let readers: Vec<_> = (0..readers).map(reader).collect();
        for thread in readers.into_iter().chain([writer]) {
            thread.join().unwrap();
        }
        for step in 0..steps {
            let found = find(&front, keys + step, &epoch::pin());
            assert_eq!(found.is_some(), step % 3 != 0);
        }
    }

    /// The same under schedules that shuttle chooses.
    #[cfg(shuttle)]
    #[test]
    fn model_a_key_that_stays_is_found_while_the_table_grows() {
        let set = std::env::var("SHUTTLE_ITERATIONS").ok();
        let iterations = set.and_then(|text| text.parse().ok()).unwrap_or(300);
        let test = || keys_that_stay_are_found(5, 12, 2);
        shuttle::check_random(test, iterations);
        shuttle::check_pct(test, iterations, 3);
    }

    #[cfg(not(shuttle))]
    #[test]
    fn a_key_that_stays_is_found_while_the_table_grows() {
        keys_that_stay_are_found(1_000, 100_000, 4);
    }
}
