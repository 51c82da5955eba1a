//! The store over sled without its handles and threads: how it is read.
//!
//! Invariants:
//! - A position is claimed before sled may show its write, and counts as written only after sled
//!   has all of it; a reader that saw it in between waits for that moment.
//! - An absence, and a scan, carry the highest position claimed: sled does not remember removals.
//!   A value carries the position of its write, or of the latest swap or clear if that is higher:
//!   it may be why the value is seen.
//! - The table of generations changes together with sled's own, behind a counter that is odd
//!   meanwhile: a reader of a key by a table reads again if the counter was odd or has moved.

use std::path::PathBuf;
use std::time::Instant;

use ::sled::{Db, IVec, Tree};

use super::bell::Bell;
use super::files::{Buffers, Files, failed};
use super::generations::{Table, Tally};
use super::layout::{self, Found};
use crate::clock::StoreClock;
use crate::engine::{Guide, KeyRange, Position, Stored, Watches, check_outside};
use crate::error::{KvsError, Result};
use crate::sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering, fence, lock};
use crate::watermarks::Watermarks;

/// The state that all handles and threads of an open store share.
pub(super) struct Store {
    pub(super) home: PathBuf,
    pub(super) value_bytes_max: usize,
    pub(super) batch_bytes_max: usize,
    pub(super) db: Db,
    pub(super) meta: Tree,
    pub(super) clock: StoreClock,
    /// The time that an open will find. The caller holds `applying`.
    pub(super) remembered_ms: AtomicU64,
    /// The turn of the one writer, closures included.
    pub(super) writer: Mutex<()>,
    /// Held from the claim of a position until it is written, and by scans.
    pub(super) applying: Mutex<Tally>,
    /// Changed by the writer alone.
    pub(super) table: Table,
    /// Odd while the table is being changed.
    pub(super) table_changes: AtomicU64,
    pub(super) claimed: AtomicU64,
    /// Where this run began.
    pub(super) base: u64,
    pub(super) keys: AtomicU64,
    pub(super) expired_keys: AtomicU64,
    /// Until when the sweep removes nothing.
    pub(super) sweep_held: Mutex<Option<Instant>>,
    pub(super) watches: Watches,
    pub(super) guide: Guide,
    pub(super) flushed: Arc<Watermarks<Buffers>>,
    pub(super) synced: Arc<Watermarks<Files>>,
    /// Calls the sweep.
    pub(super) bell: Bell,
}

impl Store {
    /// Takes the writer's turn; refused from inside a closure, which has it.
    pub(super) fn lock_writer(&self) -> Result<MutexGuard<'_, ()>> {
        check_outside(self)?;
        Ok(lock(&self.writer))
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Refuses further writes after one whose outcome is unknown.
    pub(super) fn check(&self) -> Result<()> {
        self.flushed.check()?;
        self.synced.check()
    }

    pub(super) fn poison(&self, error: &KvsError) -> KvsError {
        self.flushed.poison(error);
        self.synced.poison(error)
    }

    pub(super) fn decode<'a>(&self, bytes: &'a [u8]) -> Result<Found<'a>> {
        layout::decode(bytes, &self.home)
    }

    /// A position that was seen in sled, once the write that claimed it is written.
    pub(super) fn published(&self, position: u64) -> Position {
        if position > self.synced.written() {
            drop(lock(&self.applying));
        }
        Position(position)
    }

    /// The bytes that sled holds for a key of a generation.
    pub(super) fn get(&self, generation: Option<u32>, key: &[u8]) -> Result<Option<IVec>> {
        let Some(generation) = generation else { return Ok(None) };
        self.db.get(layout::place(generation, key)).map_err(failed)
    }

    /// The bytes of a key in a space, and when the table by which they were found had changed last.
    fn get_in_space(&self, space: u32, key: &[u8]) -> Result<(Option<IVec>, u64)> {
        loop {
            let changes = self.table_changes.load(Ordering::Acquire);
            if changes.is_multiple_of(2) {
                let bytes = self.get(self.table.generation(space), key)?;
                let changed_at = self.table.changed_at();
                fence(Ordering::Acquire);
                if self.table_changes.load(Ordering::Relaxed) == changes {
                    return Ok((bytes, changed_at));
                }
            } else {
                // The thread that changes the table holds it.
                drop(lock(&self.applying));
            }
        }
    }

    pub(super) fn find(&self, space: u32, key: &[u8]) -> Result<(Option<Stored>, Position)> {
        let now_ms = self.now_ms();
        let (bytes, changed_at) = self.get_in_space(space, key)?;
        let Some(bytes) = bytes else {
            return Ok((None, self.published(self.claimed.load(Ordering::SeqCst))));
        };
        let found = self.decode(&bytes)?;
        let position = self.published(found.position.max(changed_at));
        if found.is_expired(now_ms) {
            let covered = self.cover(&lock(&self.applying), now_ms)?;
            return Ok((None, position.max(covered)));
        }
        Ok((Some(found.to_stored()), position))
    }

    /// Visits the keys of a range until `visit` says no; returns whether it never did. The
    /// caller keeps the writers out, by one of both locks: sled shows a batch entry by entry to a walk.
    pub(super) fn walk(
        &self,
        generation: Option<u32>,
        range: &KeyRange,
        mut visit: impl FnMut(&[u8], Found<'_>) -> bool,
    ) -> Result<bool> {
        let Some(generation) = generation.filter(|_| !range.is_empty()) else { return Ok(true) };
        let mut ascending = self.db.range(layout::places(generation, range));
        while let Some(entry) = if range.reverse { ascending.next_back() } else { ascending.next() }
        {
            let (place, bytes) = entry.map_err(failed)?;
            if !visit(layout::key_of(&place), self.decode(&bytes)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
