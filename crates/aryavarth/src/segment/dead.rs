//! Which records of a segment are dead: a bit for each place where one can begin.
//!
//! Compaction asks for every record of its inputs whether a slot still points at it. Without these
//! bits the answer is a search of the index for its key, though most records of an input are dead.
//! (Measured: a third of the processor time of a server under random overwrites.)
//!
//! Invariants:
//! - A bit is set only after the slot that pointed at the record was changed, and nothing ever points
//!   a slot back, so a set bit is an answer. (What would undo a write has to clear the bit first.)
//! - A bit that is not set says nothing: after an open none is.

use crate::record::HEADER_BYTES;
use crate::sync::{AtomicU64, OnceLock, Ordering};

/// Records begin at least a header apart, so no two share a bit.
const STEP_BYTES: u64 = HEADER_BYTES as u64;
/// Bits of the first piece; each further one is twice as large as the one before. It is 512 bytes
/// for the first 96 KiB of a segment.
const FIRST_BITS: u64 = 1 << 12;
/// Together they reach beyond the 4 GiB that a slot can name.
const PIECES: usize = 16;

/// The bits, made piece by piece as records die: at most a bit for each 24 bytes of the file.
#[derive(Debug, Default)]
pub(super) struct DeadMap {
    pieces: [OnceLock<Box<[AtomicU64]>>; PIECES],
}

impl DeadMap {
    /// Notes that no slot points at the record at `offset` any more.
    pub(super) fn set(&self, offset: u64) {
        let (piece, bit) = place(offset);
        let words = (FIRST_BITS << piece) / 64;
        let new = || (0..words).map(|_| AtomicU64::new(0)).collect();
        let Some(piece) = self.pieces.get(piece) else { return };
        // Orders the change of the slot before it, as the slot itself would.
        piece.get_or_init(new)[(bit / 64) as usize].fetch_or(1 << (bit % 64), Ordering::Release);
    }

    /// Whether it is known that no slot points at the record at `offset`.
    pub(super) fn has(&self, offset: u64) -> bool {
        let (piece, bit) = place(offset);
        let piece = self.pieces.get(piece).and_then(OnceLock::get);
        piece.is_some_and(|words| {
            words[(bit / 64) as usize].load(Ordering::Acquire) & 1 << (bit % 64) != 0
        })
    }
}

/// The piece, and the bit in it, for a record at `offset`.
fn place(offset: u64) -> (usize, u64) {
    let bit = offset / STEP_BYTES;
    let piece = (bit / FIRST_BITS + 1).ilog2();
    (piece as usize, bit - FIRST_BITS * ((1 << piece) - 1))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Records as close together as they can be, over the borders of several pieces.
    #[test]
    fn each_record_has_a_bit_of_its_own() {
        let map = DeadMap::default();
        let offsets = || (64..4 << 20).step_by(STEP_BYTES as usize);
        let dead: BTreeSet<u64> =
            offsets().filter(|offset| (offset / STEP_BYTES).is_multiple_of(3)).collect();
        for &offset in &dead {
            map.set(offset);
        }
        assert!(offsets().all(|offset| map.has(offset) == dead.contains(&offset)));
    }

    #[test]
    fn the_largest_offset_has_a_place() {
        let (piece, bit) = place((1 << 32) - 8);
        assert!(piece < PIECES && bit < FIRST_BITS << piece);
    }
}
