//! One round: the steps of the proof, in their order.

use std::ops::Range;
use std::time::Duration;

use crossbeam_epoch as epoch;

use super::choose::Candidate;
use crate::engine::Position;
use crate::error::{KvsError, Result};
use crate::fs::Site;
use crate::hint;
use crate::index::{EntryId, Slot};
use crate::log::{Copied, CopyWriter, Log};
use crate::manifest::Edit;
use crate::options::Durability;
use crate::record::{Extra, Kind};
use crate::recovery::bad_at;
use crate::segment::{
    SEGMENT_HEADER_BYTES, ScanStop, Scanned, Scanner, Segment, SegmentHeader, SegmentKind, blocks,
    hint_path, log_path,
};
use crate::sync::{Arc, Ordering};

/// A copy ends at this size, or that of other segments: on a full disk a large one could not be
/// copied again.
const COPY_BYTES_MAX: u64 = 256 << 20;
/// The background round rests after reading this much.
const PACE_BYTES: u64 = 4 << 20;
const PACE_REST: Duration = Duration::from_millis(1);

/// A record that was copied: whose, from where, to where.
struct Moved {
    entry: EntryId,
    from: Slot,
    to: Slot,
}

/// One round over some inputs. The caller holds the lock of compaction.
pub(super) fn run_round(log: &Log, inputs: &[Candidate]) -> Result<()> {
    if inputs.is_empty() {
        return Ok(());
    }
    log.watermarks.check()?;
    // After this no slot holds a tombstone that lies in an input.
    log.purge_all_released();
    let inputs: Vec<Arc<Segment>> = inputs.iter().map(|input| Arc::clone(&input.segment)).collect();
    let mut round = Round::new(log, &inputs);
    let copied = round.copy().and_then(|()| round.finish_copy());
    if let Err(error) = copied.and_then(|()| round.commit()) {
        // A manifest whose outcome is unknown may name the copies: then they stay.
        if log.watermarks.check().is_ok() {
            round.discard();
        }
        return Err(error);
    }
    round.publish();
    round.sweep()?;
    round.retire();
    log.compactions.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

struct Round<'a> {
    log: &'a Log,
    inputs: &'a [Arc<Segment>],
    /// The segments that are not inputs: where something older than a tombstone may lie.
    outside: Vec<Arc<Segment>>,
    /// Everything numbered below this was published before the pass began.
    purged_seq: u64,
    copy_bytes_max: u64,
    writer: Option<CopyWriter>,
    copies: Vec<Copied>,
    moved: Vec<Moved>,
}

impl<'a> Round<'a> {
    fn new(log: &'a Log, inputs: &'a [Arc<Segment>]) -> Round<'a> {
        let is_input = |segment: &Arc<Segment>| inputs.iter().any(|input| input.id == segment.id);
        let mut outside = log.table.all();
        outside.retain(|segment| !is_input(segment));
        let purged_seq = log.next_seq();
        let copy_bytes_max = log.segment_limit().min(COPY_BYTES_MAX);
        let (writer, copies, moved) = (None, Vec::new(), Vec::new());
        Round { log, inputs, outside, purged_seq, copy_bytes_max, writer, copies, moved }
    }

    /// Steps 1 and 2, up to the last copy.
    fn copy(&mut self) -> Result<()> {
        let mut read_bytes = 0;
        for input in self.inputs {
            let end = input.end.load(Ordering::Acquire);
            let from = SEGMENT_HEADER_BYTES as u64;
            let mut scanner = Scanner::new(&*input.file, input.salt, from, end);
            loop {
                let record = match scanner.next() {
                    Ok(Some(record)) => record,
                    Ok(None) => break,
                    Err(stop) => {
                        self.step_over_dead(input, &mut scanner, stop)?;
                        continue;
                    }
                };
                read_bytes += record.header.record_bytes() as u64;
                let header = &record.header;
                let is_mark = header.kind == Kind::Mark;
                let here = slot_of(input.table_index, record.offset, &record);
                let needed = || self.is_needed(input, record.extra, record.key, header.seq, here);
                if let Some(entry) = if is_mark { None } else { needed() } {
                    self.push(input, &record, entry)?;
                }
                if read_bytes >= PACE_BYTES && self.log.options.background {
                    read_bytes = 0;
                    if !self.log.pause(PACE_REST) {
                        return Err(KvsError::Closed);
                    }
                }
            }
        }
        Ok(())
    }

    /// Goes on behind a damaged place if no record there needs a copy; else the file is
    /// left alone until the record that it needs is dead.
    fn step_over_dead(
        &self,
        input: &Segment,
        scanner: &mut Scanner<'_>,
        stop: ScanStop,
    ) -> Result<()> {
        if let ScanStop::Bad { offset, .. } = stop {
            let is_behind = scanner.offset() > offset || scanner.step_over(offset).is_ok();
            let hole = offset..scanner.offset();
            match if is_behind { self.needed_in(input, &hole) } else { Some(None) } {
                None => return Ok(()),
                Some(lost_at) => input.note_lost(lost_at),
            }
        }
        Err(bad_at(input.file.path(), stop))
    }

    /// A record of a stretch that a copy needs, by what the hint file says of it: its offset, if that is
    /// known.
    #[expect(
        clippy::option_option,
        reason = "whether there is one; then whether its place is known"
    )]
    fn needed_in(&self, input: &Segment, hole: &Range<u64>) -> Option<Option<u64>> {
        if hole.is_empty() {
            return Some(None);
        }
        let Some(places) = hint::read(&*self.log.options.fs, &self.log.dir, input) else {
            return Some(None);
        };
        let mut lost = places.iter().filter(|(_, place)| hole.contains(&place.offset));
        let needed = lost.find(|(key, place)| {
            let is_tombstone = place.kind == Kind::Tombstone;
            let here = Slot::new(input.table_index, place.offset, place.bytes, is_tombstone);
            let here = here.with_deadline(place.extra.expires_at.is_some());
            self.is_needed(input, place.extra, key, place.seq, here).is_some()
        });
        needed.map(|(_, place)| Some(place.offset))
    }

    /// Whether a record has to be copied; if so, the entry that points at it, if any does. `here` is
    /// the slot of such an entry.
    #[expect(clippy::option_option, reason = "needed or not; and then with an entry or without")]
    fn is_needed(
        &self,
        input: &Segment,
        extra: Extra,
        key: &[u8],
        seq: u64,
        here: Slot,
    ) -> Option<Option<EntryId>> {
        if !self.log.index.is_in_use(extra.generation) {
            // No space has it any more, nor will: the record that took it away is durable by step 3.
            return None;
        }
        let pin = epoch::pin();
        let find = || self.log.index.find_in(extra.generation, key, &pin);
        if input.is_dead(here.pointer().offset) {
            debug_assert!(find().is_none_or(|found| found.slot() != here), "it is not dead");
            return None;
        }
        let found = find();
        if !here.is_tombstone() {
            return found.filter(|found| found.slot() == here).map(|found| Some(found.id()));
        }
        // An entry means that a newer record follows (durable by step 3), or that this very
        // tombstone is not unlinked yet.
        let newer = found.is_some_and(|found| found.slot() != here);
        let older = || self.outside.iter().any(|other| other.may_hold_older(seq));
        (!newer && older()).then_some(None)
    }

    fn push(
        &mut self,
        input: &Segment,
        record: &Scanned<'_>,
        entry: Option<EntryId>,
    ) -> Result<()> {
        if self.writer.as_ref().is_some_and(|writer| writer.bytes() >= self.copy_bytes_max) {
            self.finish_copy()?;
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(new_copy(self.log)?),
        };
        let offset = writer.push(record)?;
        if let Some(entry) = entry {
            let from = slot_of(input.table_index, record.offset, record);
            let to = slot_of(writer.table_index(), offset, record);
            self.moved.push(Moved { entry, from, to });
        }
        Ok(())
    }

    fn finish_copy(&mut self) -> Result<()> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        let fs = &*self.log.options.fs;
        // A copy that cannot be finished stays here, to be discarded.
        self.copies.push(writer.finish(fs, &self.log.dir, self.purged_seq)?);
        self.writer = None;
        Ok(())
    }

    /// Steps 3 and 4.
    fn commit(&mut self) -> Result<()> {
        let log = self.log;
        log.watermarks.wait(Position(log.last_position()), Durability::Always)?;
        let mut edits = Vec::new();
        for copy in &self.copies {
            edits.extend(copy.edits());
        }
        edits.extend(self.inputs.iter().map(|input| Edit::Drop { id: input.id }));
        log.edit_manifest(&edits)
    }

    /// Puts the copies where readers find them, and their hints beside them.
    fn publish(&self) {
        let log = self.log;
        for copy in &self.copies {
            let segment = &copy.segment;
            let hint = hint::write(&*log.options.fs, &log.dir, segment, &copy.places).unwrap_or(0);
            segment.disk_bytes.fetch_add(blocks(hint), Ordering::Relaxed);
            log.table.insert(Arc::clone(segment));
        }
        let fresh: Vec<u64> = self.copies.iter().map(|copy| copy.segment.id).collect();
        log.map_segments(&fresh);
    }

    /// Steps 5 and 6.
    fn sweep(&mut self) -> Result<()> {
        let log = self.log;
        for moved in self.moved.drain(..) {
            if log.index.replace(moved.entry, moved.from, moved.to) {
                log.account_segment(moved.from, -1);
                log.account_segment(moved.to, 1);
            }
        }
        log.watermarks.wait(Position(log.last_position()), Durability::Always)?;
        // Slots of emptied spaces, whose records were not copied, name the inputs still.
        log.purge_all_released();
        Ok(())
    }

    /// Step 7.
    fn retire(&mut self) {
        let log = self.log;
        for input in self.inputs {
            log.table.remove(input.table_index);
            let fs = &*log.options.fs;
            // A file that cannot be removed is a stray, which the next open removes.
            drop(fs.remove(Site::SegmentRemove, &log_path(&log.dir, input.id)));
            drop(fs.remove(Site::HintRemove, &hint_path(&log.dir, input.id)));
            let (table, index) = (Arc::clone(&log.table), input.table_index);
            let pin = epoch::pin();
            pin.defer(move || table.release(index));
            log.retired(input);
        }
        log.reap();
    }

    /// Gives up the copies; the inputs stay.
    fn discard(&mut self) {
        let fs = &*self.log.options.fs;
        if let Some(writer) = self.writer.take() {
            self.log.table.release(writer.table_index());
            writer.discard(fs, &self.log.dir);
        }
        for copy in self.copies.drain(..) {
            self.log.table.release(copy.segment.table_index);
            drop(fs.remove(Site::CopyDiscard, &log_path(&self.log.dir, copy.segment.id)));
        }
    }
}

/// The slot of a record that lies, or will lie, there.
fn slot_of(table_index: u16, offset: u64, record: &Scanned<'_>) -> Slot {
    let header = &record.header;
    let tombstone = header.kind == Kind::Tombstone;
    let slot = Slot::new(table_index, offset, header.record_bytes() as u64, tombstone);
    slot.with_deadline(header.has_deadline)
}

fn new_copy(log: &Log) -> Result<CopyWriter> {
    let header = SegmentHeader {
        kind: SegmentKind::Copy,
        id: log.new_file_id(),
        salt: log.new_salt(),
        base: 0,
        created_ms: log.options.clock.now_ms(),
        store_id: log.store_id,
    };
    let Some(index) = log.table.reserve() else {
        return Err(KvsError::corrupt(&log.dir, 0, "it has more than 65,536 segments"));
    };
    CopyWriter::create(&*log.options.fs, &log.dir, header, index).map_err(|error| {
        log.table.release(index);
        log.refused_file(error)
    })
}
