//! Batches: encoded outside the writer's lock, appended and published under it.
//!
//! A batch is one frame. Batches that follow each other can be appended in one call to the system,
//! each a frame of its own: a crash may keep some of them, and a reader sees each by itself.
//!
//! Invariant: a fact that was looked up outside the lock (the entry of a key, the generation of a
//! space) is used under it only if it still holds.

use crossbeam_epoch as epoch;

use super::append::Appended;
use super::writer::Writer;
use super::{Log, ROOM_BYTES, is_linked};
use crate::deadline::{Deadline, Now};
use crate::engine::Position;
use crate::error::Result;
use crate::index::{Found, SpaceState};
use crate::record::{Batch, Frame, check_key, check_size, check_value};
use crate::sync::lock;

/// Bytes of records that are appended in one call, beyond the first batch: other writers wait.
const CHAIN_BYTES_MAX: usize = 1 << 20;

/// Writes of a batch from which on it collects the memory that the index replaced: one pin covers the whole
/// batch, and the epochs would else fall behind a load of large batches.
const FLUSHED_WRITES: usize = 256;

impl Log {
    /// Refuses a batch that breaks a limit, before anything is copied.
    fn check_batch(&self, batch: &Batch) -> Result<()> {
        for write in batch.writes() {
            check_key(write.key())?;
            if let Some(value) = write.value() {
                check_value(value, self.options.value_bytes_max)?;
            }
        }
        check_size("batch", batch.record_bytes(), self.options.batch_bytes_max)
    }

    /// Appends a batch to a space as one frame. One system call; the encoding happens outside the
    /// lock.
    pub(crate) fn write(&self, space: u32, batch: &Batch) -> Result<Appended> {
        self.check_batch(batch)?;
        if batch.writes().is_empty() {
            return Ok(Appended { removed: 0, position: 0 });
        }
        let has_deadlines = batch.writes().iter().any(|write| write.deadline() != Deadline::Never);
        let now = if has_deadlines { self.settled_now() } else { Now::default() };
        let only_removes = batch.writes().iter().all(|write| write.is_removal(now));
        let mut encoded: Option<(u64, Frame)> = None;
        loop {
            self.check_full(only_removes)?;
            self.wait_for_disk()?;
            // Found outside the lock, so that the walk through the list does not hold others up.
            let pin = epoch::pin();
            let (state, known) = match batch.writes() {
                [write] => self.index.find(space, write.key(), &pin),
                _ => (self.index.state_of(space), None),
            };
            let known = [known];
            let frame = match encoded.take() {
                Some((generation, frame)) if generation == state.generation => frame,
                _ => Frame::of_batch(ROOM_BYTES, batch, state.generation, now),
            };
            let mut writer = lock(&self.writer);
            // The space may even have been swapped away and back, so that it has its generation by a
            // later record.
            let SpaceState { generation, since } = self.index.state_of(space);
            if generation != state.generation {
                // The space was emptied or swapped meanwhile, so the frame is another generation's.
                continue;
            }
            let state = SpaceState { generation, since };
            let absent =
                if only_removes { self.absent(&mut writer, batch, state, known[0]) } else { None };
            let done = match absent {
                Some(absent) => Ok(absent),
                None => self.append(&mut writer, frame, &known, None)?,
            };
            match done {
                Ok(appended) => {
                    batch.writes().iter().for_each(|w| self.watches.touch(space, w.key()));
                    drop(writer);
                    drop(pin);
                    if batch.writes().len() >= FLUSHED_WRITES {
                        epoch::pin().flush();
                    }
                    return Ok(appended);
                }
                Err(frame) => {
                    drop(writer);
                    drop(pin);
                    self.make_room(frame.bytes(), only_removes)?;
                    encoded = Some((state.generation, frame));
                }
            }
        }
    }

    /// What a batch of removals has to say if none of its keys exists: nothing to write, but what
    /// it saw (an absence that may be young) has a position.
    fn absent(
        &self,
        writer: &mut Writer,
        batch: &Batch,
        state: SpaceState,
        known: Option<Found<'_>>,
    ) -> Option<Appended> {
        let pin = epoch::pin();
        let mut position = state.since;
        for write in batch.writes() {
            let found = known.filter(|found| is_linked(*found));
            let found = found.or_else(|| self.index.find_in(state.generation, write.key(), &pin));
            if let Some(found) = found {
                let (slot, expires_at) = found.slot_and_deadline();
                let passed = self.passed(expires_at);
                let stamp = self.stamp.of(passed.unwrap_or_default());
                // A key that has expired is removed after all where nothing covers its deadline yet.
                writer.wants_stamp |= stamp.is_none();
                if (!slot.is_tombstone() && passed.is_none()) || stamp.is_none() {
                    return None;
                }
                position = position.max(stamp.map_or(0, |stamp| stamp.0));
                position = position.max(self.position_of(slot));
            }
        }
        debug_assert!(position <= writer.position, "published before it was written");
        Some(Appended { removed: 0, position })
    }

    /// Appends batches to a space, each as a frame of its own, and as many of them together as go
    /// into one call to the system.
    pub(crate) fn write_each(&self, space: u32, batches: &[Batch]) -> Vec<Result<(u64, Position)>> {
        let mut outcomes = Vec::with_capacity(batches.len());
        while outcomes.len() < batches.len() {
            let rest = &batches[outcomes.len()..];
            let length = self.chain_length(rest);
            let position = if length > 1 { self.write_chain(space, &rest[..length]) } else { None };
            match position {
                Some(position) => {
                    outcomes.resize_with(outcomes.len() + length, || Ok((0, position)));
                }
                // Alone, each names its own error.
                None => outcomes.push(
                    self.write(space, &rest[0])
                        .map(|appended| (appended.removed, Position(appended.position))),
                ),
            }
        }
        outcomes
    }

    /// How many of the first batches may be appended together: they only set, and are not large.
    fn chain_length(&self, batches: &[Batch]) -> usize {
        let mut bytes = 0;
        let fits = |batch: &&Batch| {
            bytes += batch.record_bytes();
            let sets = batch.writes().iter().all(|write| write.value().is_some());
            bytes <= CHAIN_BYTES_MAX
                && sets
                && !batch.writes().is_empty()
                && self.check_batch(batch).is_ok()
        };
        batches.iter().take_while(fits).count()
    }

    /// Appends batches in one call; `None`, and nothing was written, if that cannot be done now.
    fn write_chain(&self, space: u32, batches: &[Batch]) -> Option<Position> {
        self.check_full(false).ok()?;
        self.wait_for_disk().ok()?;
        let now = self.settled_now();
        let pin = epoch::pin();
        let state = self.index.state_of(space);
        let writes = || batches.iter().flat_map(Batch::writes);
        let known: Vec<Option<Found<'_>>> =
            writes().map(|write| self.index.find_in(state.generation, write.key(), &pin)).collect();
        let frame = Frame::of_batches(ROOM_BYTES, batches, state.generation, now);
        let mut writer = lock(&self.writer);
        if self.index.state_of(space).generation != state.generation {
            return None;
        }
        // The single write makes room, or returns the reason why it cannot.
        let appended = self.append(&mut writer, frame, &known, None).ok()?.ok()?;
        writes().for_each(|write| self.watches.touch(space, write.key()));
        Some(Position(appended.position))
    }
}
