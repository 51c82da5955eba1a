//! A walk through all keys of a space by the numbers of their entries, in bounded steps.
//!
//! ```text
//! arena   | a | - | b | of another space | c | - | d |     - : free, or removed
//!         `------ one step ------'       `-- the next --> cursor 0: the walk is over
//! ```
//!
//! Invariants:
//! - A key keeps its entry while it stays, so each walk from cursor 0 to cursor 0 returns it.
//! - A step looks at a bounded number of entries, whatever it finds.
//! - Commits of several keys are seen wholly or not at all among the entries that are looked at
//!   together, as in a scan.

use crossbeam_epoch as epoch;

use super::Log;
use crate::deadline::Now;
use crate::engine::{KeyWalk, Position};
use crate::error::Result;
use crate::index::{EntryId, Found};
use crate::sync::{Ordering, spin_loop};

/// Entries that a step looks at, if its limit does not ask for more.
const STEP_ENTRIES_MIN: u32 = 16_384;
/// Entries that are looked at under one epoch, at most and at least.
const LOOK_ENTRIES_MAX: u32 = 1024;
const LOOK_ENTRIES_MIN: u32 = 16;

/// Keys that were found together.
#[derive(Default)]
struct Look {
    keys: Vec<Vec<u8>>,
    position: u64,
    /// The entry to go on with, if there is one.
    next: Option<EntryId>,
    /// Entries that were looked at.
    entries: u32,
    /// The latest deadlines of the keys that have expired.
    expired: Now,
}

impl Log {
    /// One step of a walk: at most `limit` keys.
    pub(crate) fn walk_keys(&self, space: u32, cursor: u64, limit: usize) -> Result<KeyWalk> {
        let now = || self.now();
        let (mut walk, expired) = self.walk_uncovered(space, cursor, limit, now);
        walk.position = walk.position.max(self.cover(expired)?);
        Ok(walk)
    }

    /// The same at the time that `now` tells, with the latest deadlines of keys that were passed over
    /// because they have expired.
    pub(super) fn walk_uncovered(
        &self,
        space: u32,
        cursor: u64,
        limit: usize,
        now: impl Fn() -> Now,
    ) -> (KeyWalk, Now) {
        let limit = limit.max(1);
        let entries_max = STEP_ENTRIES_MIN.max(u32::try_from(limit).unwrap_or(u32::MAX));
        let generation = self.stable(|| self.index.state_of(space)).generation;
        let mut walk = KeyWalk::default();
        let mut next = self.cursors.entry(generation, cursor);
        let (mut looked, mut expired) = (0, Now::default());
        loop {
            let max = (entries_max - looked).min(LOOK_ENTRIES_MAX);
            let limit_left = limit - walk.keys.len();
            let Some(look) = self.look_at(space, generation, next, (max, limit_left), &now) else {
                // The space has another generation now: the cursor says so to the next step.
                walk.cursor = self.cursors.at(generation, next);
                return (walk, expired);
            };
            expired = expired.max(look.expired);
            walk.keys.extend(look.keys);
            walk.position = walk.position.max(Position(look.position));
            looked += look.entries;
            let Some(then) = look.next else { return (walk, expired) };
            next = then;
            if walk.keys.len() >= limit || looked >= entries_max {
                walk.cursor = self.cursors.at(generation, next);
                return (walk, expired);
            }
        }
    }

    /// Looks at up to `max` entries from `from` on, and stops behind `limit` keys; `None` if the
    /// space has another generation.
    fn look_at(
        &self,
        space: u32,
        generation: u64,
        from: EntryId,
        (mut max, limit): (u32, usize),
        now: &impl Fn() -> Now,
    ) -> Option<Look> {
        loop {
            let pin = epoch::pin();
            let before = self.multi.load(Ordering::Acquire);
            let mut look = Look::default();
            let visit = |key: &[u8], found: Found<'_>| {
                let (slot, expires_at) = found.slot_and_deadline();
                look.position = look.position.max(self.position_of(slot));
                let passed = expires_at.filter(|word| now().has_reached(*word)).map(Now::of);
                look.expired = look.expired.max(passed.unwrap_or_default());
                let exists = !slot.is_tombstone() && passed.is_none();
                look.keys.extend(exists.then(|| key.to_vec()));
                look.keys.len() < limit
            };
            let (state, next) = self.index.visit(space, from, max, &pin, visit);
            if before.is_multiple_of(2) && self.multi.load(Ordering::Acquire) == before {
                if state.generation != generation {
                    return None;
                }
                look.position = look.position.max(state.since);
                look.entries = next.map_or(max, |next| next - from);
                look.next = next;
                return Some(look);
            }
            // A shorter look fits between two commits.
            max = (max / 2).max(LOOK_ENTRIES_MIN.min(max));
            spin_loop();
        }
    }
}
