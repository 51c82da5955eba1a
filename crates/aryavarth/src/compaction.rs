//! Compaction: giving dead bytes back without disturbing readers or writers.
//!
//! One round takes some sealed segments (the *inputs*), copies what is live in them into new ones,
//! and drops them. The order is the proof:
//!
//! 1. Pass over the inputs: a record is live if the index points at it. A tombstone is needed as
//!    long as an older segment may hold its key. (A copy made after the tombstone cannot: its pass
//!    found the key removed. Hence every copy is sealed with the sequence number below which it is
//!    *purged*.)
//! 2. Write and sync the copies.
//! 3. Wait until everything written before now is released: only a *durable* newer record makes an
//!    older one garbage.
//! 4. One manifest edit adds the copies and drops the inputs: the commit point.
//! 5. Point the slots at the copies, each by compare-and-swap, so that a newer write always wins.
//! 6. Wait again until what was written is released: an unreleased write still knows the place
//!    that it replaced.
//! 7. Take the inputs out of the table and unlink them. Readers that hold one read on; its table
//!    index is reused after an epoch, its file is closed here when the last reader let go.
//!
//! A damaged input is never dropped: its round fails and names the damage.

use std::collections::HashSet;
use std::ops::Range;
use std::slice;
use std::time::Duration;

use crossbeam_epoch as epoch;

use crate::engine::Position;
use crate::error::{KvsError, Result};
use crate::fs::Site;
use crate::hint;
use crate::index::{EntryId, Slot};
use crate::log::{Copied, CopyWriter, Log, small_segments};
use crate::manifest::Edit;
use crate::options::Durability;
use crate::record::{Extra, Kind};
use crate::recovery::bad_at;
use crate::segment::{
    SEGMENT_HEADER_BYTES, ScanStop, Scanned, Scanner, Segment, SegmentHeader, SegmentKind, blocks,
    hint_path, log_path,
};
use crate::sync::{Arc, Ordering, lock};

/// Dead space that is left alone, beside the share of the live data.
const SLACK_BYTES: u64 = 6 << 20;
/// One round takes inputs of about this size, and at least one.
const ROUND_BYTES_MAX: u64 = 256 << 20;
/// Of those that pay it takes this part of the data, or this much if that is more: what would have
/// come last goes on dying meanwhile. (Measured: `docs/decisions/0012`.)
const ROUND_PART: u64 = 8;
const BEST_BYTES_MIN: u64 = 16 << 20;
/// A copy ends at this size, or that of other segments: on a full disk a large one could not be
/// copied again.
const COPY_BYTES_MAX: u64 = 256 << 20;
/// A segment pays if a round would give back at least this share of it.
const GAIN_PERCENT_MIN: u64 = 10;
/// The same at rest, if the directory takes more than is promised.
const GAIN_PERCENT_MIN_AT_REST: u64 = 2;
/// The background round rests after reading this much.
const PACE_BYTES: u64 = 4 << 20;
const PACE_REST: Duration = Duration::from_millis(1);

/// A sealed segment and what a round over it would give back.
#[derive(Clone, Debug)]
struct Candidate {
    segment: Arc<Segment>,
    disk_bytes: u64,
    gain_bytes: u64,
}

impl Candidate {
    fn pays(&self) -> bool {
        self.gives(GAIN_PERCENT_MIN)
    }

    fn gives(&self, percent: u64) -> bool {
        self.gain_bytes * 100 >= self.disk_bytes * percent
    }

    /// Bytes that a round has to write before it can free the segment.
    fn copy_bytes(&self) -> u64 {
        self.disk_bytes.saturating_sub(self.gain_bytes)
    }
}

/// A record that was copied: whose, from where, to where.
struct Moved {
    entry: EntryId,
    from: Slot,
    to: Slot,
}

/// Whether the directory takes more than the promise allows, or, at rest, more than it should. On a
/// full disk whatever gives space back is due.
pub(crate) fn is_due(log: &Log, at_rest: bool) -> bool {
    if log.is_full() {
        return candidates(log).iter().any(Candidate::pays);
    }
    if at_rest && !small(log, &candidates(log)).is_empty() {
        return true;
    }
    let live = log.live_bytes.load(Ordering::Relaxed).max(0) as u64;
    log.disk_bytes() > SLACK_BYTES + if at_rest { live + live / 10 * 3 } else { live * 2 }
}

/// One background round over the segments that pay best; returns whether it gave anything back. At
/// rest the active segment, if it is mostly dead, is one of them.
pub(crate) fn run(log: &Log, at_rest: bool) -> Result<bool> {
    let _only_one = lock(&log.compacting);
    // The reserve is only lent.
    let before = log.data_bytes();
    if at_rest {
        // Where that fails the others can be compacted all the same.
        drop(log.seal_mostly_dead());
    }
    let presses = at_rest && is_due(log, false);
    let percent_min = if presses { GAIN_PERCENT_MIN_AT_REST } else { GAIN_PERCENT_MIN };
    let done = with_reserve(log, || {
        let mut candidates = candidates(log);
        let small = if at_rest { small(log, &candidates) } else { Vec::new() };
        if small.is_empty() {
            return run_rounds(log, choose(candidates, percent_min));
        }
        candidates.retain(|candidate| small.contains(&candidate.segment.id));
        run_rounds(log, candidates)
    });
    let useful = log.data_bytes() < before;
    match done {
        // The disk is less full now.
        Err(error) if error.is_full() && useful => Ok(true),
        done => done.map(|()| useful),
    }
}

/// Rewrites every sealed segment, oldest first, so that only live records are left.
pub(crate) fn run_all(log: &Log) -> Result<()> {
    let _only_one = lock(&log.compacting);
    with_reserve(log, || {
        let mut left = candidates(log);
        left.sort_by_key(|candidate| candidate.segment.seq_min.load(Ordering::Relaxed));
        while !left.is_empty() {
            let mut bytes = 0;
            let fits = left.partition_point(|candidate| {
                bytes += candidate.disk_bytes;
                bytes <= ROUND_BYTES_MAX
            });
            let later = left.split_off(fits.max(1));
            run_rounds(log, std::mem::replace(&mut left, later))?;
        }
        Ok(())
    })
}

/// Does it again with the space of the reserve if the disk was full. The caller holds the lock of
/// compaction.
fn with_reserve(log: &Log, mut rounds: impl FnMut() -> Result<()>) -> Result<()> {
    match rounds() {
        Err(error) if error.is_full() && log.lend_reserve() => {
            let done = rounds();
            log.end_loan();
            done
        }
        done => done,
    }
}

/// One round over some inputs; if there is no space for the copies of all, then one for each that
/// pays, the cheapest first, since each gives back what the next one needs. The caller holds the
/// lock of compaction.
fn run_rounds(log: &Log, mut inputs: Vec<Candidate>) -> Result<()> {
    match run_round(log, &inputs) {
        Err(error) if error.is_full() && inputs.len() > 1 => {}
        done => return done,
    }
    inputs.retain(Candidate::pays);
    inputs.sort_by_key(Candidate::copy_bytes);
    for input in inputs {
        run_round(log, slice::from_ref(&input))?;
        // An unlinked file takes space until it is closed.
        drop(input);
        log.reap();
    }
    Ok(())
}

/// One round over some inputs. The caller holds the lock of compaction.
fn run_round(log: &Log, inputs: &[Candidate]) -> Result<()> {
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

/// The ids of the small segments that are to become one, since there are many of them.
fn small(log: &Log, candidates: &[Candidate]) -> Vec<u64> {
    let size = |c: &Candidate| (c.segment.id, c.segment.end.load(Ordering::Relaxed));
    small_segments(candidates.iter().map(size).collect(), log.segment_limit())
}

/// The sealed and undamaged segments of which all is released, each with its gain.
fn candidates(log: &Log) -> Vec<Candidate> {
    let sealed: HashSet<u64> = {
        let manifest = lock(&log.manifest);
        let facts = manifest.state().segments.iter();
        facts.filter(|(_, facts)| facts.seal.is_some()).map(|(&id, _)| id).collect()
    };
    let released = log.watermarks.released();
    let segments = log.table.all();
    let of = |segment: &Arc<Segment>| {
        let disk_bytes = segment.disk_bytes.load(Ordering::Relaxed);
        let mut needed = segment.live_bytes.load(Ordering::Relaxed).max(0) as u64;
        let mut others = segments.iter().filter(|other| other.id != segment.id);
        let seq_max = segment.seq_max.load(Ordering::Relaxed);
        if others.any(|other| other.may_hold_older(seq_max)) {
            needed += segment.tombstone_bytes.load(Ordering::Relaxed);
        }
        // What is copied needs its part of the hint file, too.
        let end = segment.end.load(Ordering::Relaxed).max(1);
        let hint_bytes = disk_bytes.saturating_sub(blocks(end));
        needed += (u128::from(hint_bytes) * u128::from(needed) / u128::from(end)) as u64;
        let gain_bytes = disk_bytes.saturating_sub(needed);
        Candidate { segment: Arc::clone(segment), disk_bytes, gain_bytes }
    };
    let is_candidate = |segment: &&Arc<Segment>| {
        let end = segment.end.load(Ordering::Acquire);
        sealed.contains(&segment.id)
            && !segment.damaged.load(Ordering::Relaxed)
            && segment.position_of(end) <= released + crate::record::ALIGN as u64
    };
    segments.iter().filter(is_candidate).map(of).collect()
}

/// The inputs of a round: those that give back at least this share, the best ones first. If there
/// are none and much of what there is are tombstones, then the oldest segments that these may be
/// needed for: their copies do not need them. None of these is chosen twice, and a round that would
/// give nothing back, neither by itself nor by the next one, is not begun.
fn choose(mut candidates: Vec<Candidate>, percent_min: u64) -> Vec<Candidate> {
    let mut bytes_max = ROUND_BYTES_MAX;
    if candidates.iter().any(|candidate| candidate.gives(percent_min)) {
        let all: u64 = candidates.iter().map(|candidate| candidate.disk_bytes).sum();
        bytes_max = (all / ROUND_PART).clamp(BEST_BYTES_MIN, ROUND_BYTES_MAX);
        candidates.retain(|candidate| candidate.gives(percent_min));
        candidates.sort_by_key(|c| c.copy_bytes() * 1000 / c.disk_bytes.max(1));
    } else {
        let tombstones = |c: &Candidate| c.segment.tombstone_bytes.load(Ordering::Relaxed);
        let disk_bytes: u64 = candidates.iter().map(|candidate| candidate.disk_bytes).sum();
        if candidates.iter().map(tombstones).sum::<u64>() * 100 < disk_bytes * percent_min {
            return Vec::new();
        }
        let with = candidates.iter().filter(|candidate| tombstones(candidate) > 0);
        let newest = with.map(|c| c.segment.seq_max.load(Ordering::Relaxed)).max().unwrap_or(0);
        candidates.retain(|candidate| candidate.segment.may_hold_older(newest));
        candidates.sort_by_key(|c| c.segment.seq_min.load(Ordering::Relaxed));
    }
    let mut taken = 0;
    candidates.retain(|candidate| {
        let take = taken == 0 || taken + candidate.disk_bytes <= bytes_max;
        taken += if take { candidate.disk_bytes } else { 0 };
        take
    });
    candidates
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

    /// Goes on behind a damaged place if a copy needs nothing of what was there; else the file is
    /// left alone from now on.
    fn step_over_dead(
        &self,
        input: &Segment,
        scanner: &mut Scanner<'_>,
        stop: ScanStop,
    ) -> Result<()> {
        if let ScanStop::Bad { offset, .. } = stop {
            let is_behind = scanner.offset() > offset || scanner.step_over(offset).is_ok();
            let hole = offset..scanner.offset();
            if is_behind && !hole.is_empty() && self.held_nothing_needed(input, &hole) {
                return Ok(());
            }
            input.damaged.store(true, Ordering::Relaxed);
        }
        Err(bad_at(input.file.path(), stop))
    }

    /// Whether the records of a stretch, by what the hint file says of them, need no copy.
    fn held_nothing_needed(&self, input: &Segment, hole: &Range<u64>) -> bool {
        let Some(places) = hint::read(&*self.log.options.fs, &self.log.dir, input) else {
            return false;
        };
        let mut lost = places.iter().filter(|(_, place)| hole.contains(&place.offset));
        lost.all(|(key, place)| {
            let is_tombstone = place.kind == Kind::Tombstone;
            let here = Slot::new(input.table_index, place.offset, place.bytes, is_tombstone);
            let here = here.with_deadline(place.extra.expires_at.is_some());
            self.is_needed(input, place.extra, key, place.seq, here).is_none()
        })
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
            // No space has it any more, nor will: what took it away is durable by step 3.
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
        // What was not copied because its space had been emptied: its slots name the inputs still.
        log.purge_all_released();
        Ok(())
    }

    /// Step 7.
    fn retire(&mut self) {
        let log = self.log;
        for input in self.inputs {
            log.table.remove(input.table_index);
            let fs = &*log.options.fs;
            // What cannot be removed is a stray, which the next open removes.
            drop(fs.remove(Site::SegmentRemove, &log_path(&log.dir, input.id)));
            drop(fs.remove(Site::HintRemove, &hint_path(&log.dir, input.id)));
            let (table, index) = (Arc::clone(&log.table), input.table_index);
            let pin = epoch::pin();
            pin.defer(move || table.release(index));
            log.retired(input);
        }
        log.reap();
    }

    /// Gives up what was written; the inputs stay.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::SimFs;
    use crate::options::Options;
    use crate::record::Batch;
    use crate::recovery;

    /// Between the loads of a slot and of its segment lie a few instructions, so threads would
    /// hardly ever be caught there.
    #[test]
    fn a_table_index_means_one_segment_as_long_as_a_reader_may_have_it() {
        let options =
            Options { fs: Arc::new(SimFs::new()), background: false, ..Options::default() };
        let (log, _lock, _) = recovery::open("/store".as_ref(), &options).unwrap();
        log.write(0, &Batch::new().set("k", "v")).unwrap();
        log.seal_active().unwrap();
        let pin = epoch::pin();
        let slot = log.index.find(0, b"k", &pin).1.unwrap().slot();
        run_all(&log).unwrap();
        assert_ne!(log.index.find(0, b"k", &pin).1.unwrap().slot(), slot, "it was moved");
        for _ in 0..100 {
            assert_ne!(log.table.reserve(), Some(slot.pointer().segment), "given away");
        }
    }
}
