//! Stamps: marks that put the store's clock into the log, so that a key that was shown as expired
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
//! - An answer that depends on a passed deadline carries the position of a mark that covers it.
//! - A reader of keys that have not expired, or whose deadline is covered, takes no lock.

use super::writer::Writer;
use super::{Log, ROOM_BYTES};
use crate::engine::{Position, check_outside};
use crate::error::Result;
use crate::record::Frame;
use crate::sync::{AtomicU64, Ordering};

/// The latest stamp.
#[derive(Debug)]
pub(super) struct Stamp {
    clock_ms: AtomicU64,
    position: AtomicU64,
}

impl Stamp {
    /// The clock that the manifest told, which is durable.
    pub(super) fn of_manifest(clock_ms: u64) -> Stamp {
        Stamp { clock_ms: AtomicU64::new(clock_ms), position: AtomicU64::new(0) }
    }

    /// Notes a mark that was written. The caller holds the writer's lock.
    pub(super) fn note(&self, clock_ms: u64, position: u64) {
        // A reader of the clock finds this position, or a later one.
        self.position.store(position, Ordering::Relaxed);
        self.clock_ms.store(clock_ms, Ordering::Release);
    }

    /// The position of a stamp whose clock has reached a deadline, if there is one. 0 stands for no
    /// deadline.
    pub(super) fn of(&self, deadline_ms: u64) -> Option<Position> {
        if deadline_ms == 0 {
            return Some(Position::ZERO);
        }
        let is_reached = self.clock_ms.load(Ordering::Acquire) >= deadline_ms;
        is_reached.then(|| Position(self.position.load(Ordering::Relaxed)))
    }
}

impl Log {
    /// The deadline of a key, if it has passed.
    pub(super) fn passed(&self, expires_at: Option<u64>) -> Option<u64> {
        expires_at.filter(|deadline| *deadline <= self.now_ms())
    }

    /// The position that has to be durable for a passed deadline to stay passed; appends a mark if
    /// no stamp has reached the deadline. 0 stands for no deadline.
    pub(super) fn cover(&self, deadline_ms: u64) -> Result<Position> {
        if let Some(position) = self.stamp.of(deadline_ms) {
            return Ok(position);
        }
        check_outside(self)?;
        let mut frame = Frame::new(ROOM_BYTES, 0);
        loop {
            let mut writer = self.lock_writer();
            if let Some(position) = self.stamp.of(deadline_ms) {
                return Ok(position);
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

    /// Lets the next frame bring a stamp if none has reached the deadline.
    pub(super) fn cover_with_next(&self, writer: &mut Writer, deadline_ms: u64) {
        writer.wants_stamp |= self.stamp.of(deadline_ms).is_none();
    }
}
