//! Stamps: marks that put both clocks into the log, so that a key that was shown as expired
//! stays gone.
//!
//! ```text
//! log     | k until 50 |  mark: clock 60  | ...
//! reader  k is expired at 55: answered once a mark with a clock of 50 or more is durable
//! open    goes on from 60 or later, whatever the wall clock says: k is expired
//! ```
//!
//! Nothing is written when a deadline passes, so after a crash only the clock says that the key is
//! gone, and the wall clock may have been set back meanwhile. An open goes on from the latest clock
//! that the log and the manifest tell. An answer that shows a key as expired therefore depends on a
//! mark whose clock has reached the deadline, as a value depends on its record. Most marks are
//! written before frames anyway; a reader that comes before the next of them appends one.
//!
//! Invariants:
//! - An answer that depends on a passed deadline carries the position of a mark that covers it, or,
//!   where a lower wall clock was accepted meanwhile, of the key's removal.
//! - A reader of keys that have not expired, or whose deadline is covered, takes no lock.

use super::writer::Writer;
use super::{Log, ROOM_BYTES};
use crate::clock::ClockPair;
use crate::deadline::Now;
use crate::engine::{Position, check_outside};
use crate::error::Result;
use crate::record::Frame;
use crate::sync::{AtomicU64, Ordering};

/// The latest stamp.
#[derive(Debug)]
pub(super) struct Stamp {
    pub(super) store_ms: AtomicU64,
    pub(super) wall_ms: AtomicU64,
    position: AtomicU64,
}

impl Stamp {
    /// The clocks that the manifest told, which is durable.
    pub(super) fn of_manifest(clock: ClockPair) -> Stamp {
        let [store_ms, wall_ms] = [clock.store_ms, clock.wall_ms].map(AtomicU64::new);
        Stamp { store_ms, wall_ms, position: AtomicU64::new(0) }
    }

    /// Notes a mark that was written. The caller holds the writer's lock.
    pub(super) fn note(&self, now: Now, position: u64) {
        // A reader of a clock finds this position, or a later one.
        self.position.store(position, Ordering::Relaxed);
        self.store_ms.store(now.store_ms, Ordering::Release);
        self.wall_ms.store(now.wall_ms, Ordering::Release);
    }

    /// The position of a stamp whose clocks have reached passed deadlines, if there is one.
    pub(super) fn of(&self, passed: Now) -> Option<Position> {
        if passed == Now::default() {
            return Some(Position::ZERO);
        }
        let [store_ms, wall_ms] = [&self.store_ms, &self.wall_ms];
        let now = Now {
            store_ms: store_ms.load(Ordering::Acquire),
            wall_ms: wall_ms.load(Ordering::Acquire),
        };
        now.covers(passed).then(|| Position(self.position.load(Ordering::Relaxed)))
    }
}

impl Log {
    /// The deadline of a key, if it has passed.
    pub(super) fn passed(&self, expires_at: Option<u64>) -> Option<Now> {
        expires_at.filter(|word| self.now().has_reached(*word)).map(Now::of)
    }

    /// The position that has to be durable for passed deadlines to stay passed; appends a mark if
    /// no stamp has reached them.
    pub(super) fn cover(&self, passed: Now) -> Result<Position> {
        if let Some(position) = self.stamp.of(passed) {
            return Ok(position);
        }
        check_outside(self)?;
        let mut frame = Frame::new(ROOM_BYTES, 0);
        loop {
            let mut writer = self.lock_writer();
            if let Some(position) = self.stamp.of(passed) {
                return Ok(position);
            }
            // No later mark will tell so late a time if a lower one was accepted since the answer was
            // made. Everything that it saw as expired was removed, or replaced, before.
            if self.clock.accepted_ms() < passed.wall_ms {
                let seen = Position(writer.position);
                drop(writer);
                return Ok(seen.max(self.cover(Now { wall_ms: 0, ..passed })?));
            }
            writer.wants_stamp = true;
            match self.append(&mut writer, frame, &[], None)? {
                Ok(appended) => return Ok(Position(appended.position)),
                Err(again) => {
                    drop(writer);
                    frame = again;
                    self.make_room(frame.bytes(), true)?;
                }
            }
        }
    }

    /// Lets the next frame bring a stamp if none has reached the deadlines.
    pub(super) fn cover_with_next(&self, writer: &mut Writer, passed: Now) {
        writer.wants_stamp |= self.stamp.of(passed).is_none();
    }
}
