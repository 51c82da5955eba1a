//! The writer's state: where the next frame goes, and the work that waits for it.

use std::collections::VecDeque;

use super::room::Spare;
use crate::clock::{ClockPair, SetBack};
use crate::index::{Dropped, EntryId, IndexWriter, Slot};
use crate::record::Frame;
use crate::segment::Segment;
use crate::sync::Arc;

/// Newest frames that the writer keeps in memory for closures.
const RECENT_BYTES_MAX: usize = 1 << 20;

/// State behind the writer's lock.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) active: Option<Arc<Segment>>,
    /// Where the next frame goes in the active segment; 0 while even its header is unwritten.
    pub(super) offset: u64,
    /// Allocated bytes of the active segment.
    pub(super) capacity: u64,
    /// At which size the active segment is sealed.
    pub(super) limit: u64,
    /// The position of `offset`.
    pub(super) position: u64,
    pub(super) next_seq: u64,
    /// The durable position that the last mark told.
    pub(super) marked: u64,
    /// Whether the next frame brings a mark even if nothing was synced since the last one.
    pub(super) wants_stamp: bool,
    /// The lower wall clock that the next mark brings.
    pub(super) lowers: Option<SetBack>,
    /// The marks that brought one.
    pub(super) lowered: LowMarks,
    pub(super) index: IndexWriter,
    /// Removed keys that are still in the index, oldest first.
    pub(super) unlinks: VecDeque<Unlink>,
    /// Generations that no space has any more and whose entries are still there, oldest first.
    pub(super) dropped: VecDeque<Dropped>,
    pub(super) recent: Recent,
    pub(super) spare: Option<Spare>,
    /// Segments that take no more appends and wait for their seal.
    pub(super) sealing: Vec<Arc<Segment>>,
    /// Whether the log takes no more appends.
    pub(super) closed: bool,
}

/// The marks with a lower wall clock that no sync has covered, oldest first: the position behind each,
/// and both clocks just before it.
#[derive(Debug, Default)]
pub(super) struct LowMarks(VecDeque<(u64, ClockPair)>);

impl LowMarks {
    /// Notes a mark that was written, with its own time of the store's clock: where the mark survives,
    /// an open takes it before the clocks that were noted here.
    pub(super) fn push(&mut self, position: u64, before: ClockPair) {
        self.0.push_back((position, before));
    }

    /// Both clocks before the first mark that is not durable, if there is one; forgets the marks that
    /// are.
    pub(super) fn before_first_beyond(&mut self, durable: u64) -> Option<ClockPair> {
        while self.0.front().is_some_and(|&(position, _)| position <= durable) {
            self.0.pop_front();
        }
        self.0.front().map(|&(_, before)| before)
    }
}

/// A removed key: from when on it may go, its generation and entry, and the slot that it then has.
#[derive(Debug)]
pub(super) struct Unlink {
    pub(super) position: u64,
    pub(super) generation: u64,
    pub(super) id: EntryId,
    pub(super) slot: Slot,
}

/// The active segment's newest frames in memory, so that a closure need not read them from a file.
#[derive(Debug, Default)]
pub(super) struct Recent {
    pub(super) segment: u16,
    /// Each with its offset, ascending.
    frames: VecDeque<(u64, Frame)>,
    bytes: usize,
}

impl Recent {
    pub(super) fn push(&mut self, offset: u64, frame: Frame) {
        self.bytes += frame.bytes();
        self.frames.push_back((offset, frame));
        while self.bytes > RECENT_BYTES_MAX
            && let Some((_, oldest)) = self.frames.pop_front()
        {
            self.bytes -= oldest.bytes();
        }
    }

    /// Value and deadline of the record that `slot` points at, if it is among these.
    pub(super) fn value(&self, slot: Slot) -> Option<(&[u8], Option<u64>)> {
        let pointer = slot.pointer();
        let after = self.frames.partition_point(|&(offset, _)| offset <= pointer.offset);
        let (offset, frame) = self.frames.get(after.checked_sub(1)?)?;
        if pointer.segment != self.segment {
            return None;
        }
        frame.value_at(pointer.offset - offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two set-backs came between two syncs. The first mark becomes durable alone, and with it the keys
    /// behind it, so the time that it ended is no longer the manifest's to tell.
    #[test]
    fn a_durable_low_mark_gives_way_to_the_next_one() {
        let [first, second] =
            [(1000, 100), (1002, 50)].map(|(store_ms, wall_ms)| ClockPair { store_ms, wall_ms });
        let mut marks = LowMarks::default();
        marks.push(10, first);
        marks.push(30, second);
        assert_eq!(marks.before_first_beyond(9), Some(first));
        assert_eq!(marks.before_first_beyond(10), Some(second));
        assert_eq!(marks.before_first_beyond(29), Some(second));
        assert_eq!(marks.before_first_beyond(30), None);
    }
}
