//! The sweep: a thread that removes keys whose deadline has passed, and deletes cleared keys.
//!
//! It works in small steps with pauses between them, so that writers hardly notice it, and looks at
//! the clock a few times a second, but only while a key has a deadline.
//!
//! Invariants:
//! - A key that expired is removed as a writer would, with a position and under the writer's lock.
//! - A generation that no space has is deleted without a position: no reader could see it.

use std::time::{Duration, Instant};

use super::bell::Rest;
use super::files::failed;
use super::layout::{Found, place};
use super::store::Store;
use super::write::{Change, Effect};
use crate::engine::{Deadline, KeyRange};
use crate::error::Result;
use crate::sync::{Ordering, lock};

/// Keys per step.
const STEP_KEYS: usize = 256;
/// Between steps, for those who wait for the writer's lock.
const PAUSE: Duration = Duration::from_millis(1);
/// Between looks at the clock.
const LOOK: Duration = Duration::from_millis(100);

impl Store {
    /// The sweep's life.
    pub(super) fn sweep(&self) {
        loop {
            let rest = match self.sweep_step() {
                Ok(true) => Rest::Until(PAUSE),
                Ok(false) if lock(&self.applying).is_settled() => Rest::UntilRung,
                Ok(false) => Rest::Until(LOOK),
                // The store is poisoned: the sweep has no effect any more.
                Err(_) => return,
            };
            if !self.bell.rest(&rest) {
                return;
            }
        }
    }

    /// Does a little; returns whether there was anything to do.
    fn sweep_step(&self) -> Result<bool> {
        let dropped = lock(&self.applying).dropped();
        match dropped {
            Some(generation) => self.delete_some(generation).map(|()| true),
            None => self.expire_some(),
        }
    }

    fn expire_some(&self) -> Result<bool> {
        if lock(&self.sweep_held).is_some_and(|until| Instant::now() < until) {
            return Ok(false);
        }
        let now_ms = self.now_ms();
        let expired = |limit| lock(&self.applying).expired(now_ms, limit);
        if expired(1).is_empty() {
            return Ok(false);
        }
        let _writer = lock(&self.writer);
        self.check()?;
        let mut change = Change::default();
        for (deadline, place) in expired(STEP_KEYS) {
            change.effects.insert(place, Effect::removal(deadline));
        }
        self.apply(change, now_ms)?;
        Ok(true)
    }

    fn delete_some(&self, generation: u32) -> Result<()> {
        self.check()?;
        let mut batch = ::sled::Batch::default();
        let mut deadlines = Vec::new();
        let mut keys = 0;
        let is_last = self.walk(Some(generation), &KeyRange::all(), |key, found: Found<'_>| {
            let place = place(generation, key);
            batch.remove(place.as_slice());
            deadlines.push((Deadline::of(found.expires_at), place));
            keys += 1;
            keys < STEP_KEYS
        })?;
        self.db.apply_batch(batch).map_err(|error| self.poison(&failed(error)))?;
        let mut tally = lock(&self.applying);
        for (deadline, place) in deadlines {
            tally.forget_deadline(&place, deadline);
        }
        if is_last {
            tally.forget_generation(generation);
        }
        Ok(())
    }

    /// How many keys the sweep and the writers found expired.
    pub(super) fn expired_keys(&self) -> u64 {
        self.expired_keys.load(Ordering::Relaxed)
    }
}
