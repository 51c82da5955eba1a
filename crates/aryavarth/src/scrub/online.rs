//! The scrubber: reads a running store's sealed segments in the background, at a bounded rate.
//!
//! Data that is never read rots unnoticed until it is needed, and by then the backup has rotted or
//! gone. A pass reads once each segment that was sealed when it began, then rests for a day. Its
//! bytes may come from the page cache, which hides a disk's rot until the pages are dropped;
//! that is why it comes back.
//!
//! Invariants:
//! - No lock that a reader or writer takes is held while anything is read, and no segment is held
//!   between two slices: compaction retires any segment, and its file is closed soon after.
//! - Damage counts only if the segment is still in the table after it was found.
//! - Known damage stays known until its bytes were read again: a pass replaces the damage of a slice by
//!   the slice's new findings, all at once.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::{Duration, Instant};

use crossbeam_epoch as epoch;

use super::hole::{Hole, Known, describe, walk};
use super::note::{self, NotedPlace, PLACES_MAX};
use super::{DAMAGE_LISTED_MAX, VerifyReport};
use crate::damage::{Damage, Verdict};
use crate::error::KvsError;
use crate::events::Event;
use crate::hint;
use crate::log::Log;
use crate::record::Kind;
use crate::segment::{SEGMENT_HEADER_BYTES, Scanner, Segment, SegmentKind};
use crate::sync::{Arc, AtomicU64, Condvar, Mutex, Ordering, Rank, lock, wait_timeout};

/// The bytes that are read at a time.
const SLICE_BYTES: u64 = 1 << 20;
/// A store that was just opened has other things to do.
const FIRST_REST: Duration = Duration::from_secs(60);
/// Between two passes.
const PASS_REST: Duration = Duration::from_secs(24 * 60 * 60);

/// Where a pass is.
#[derive(Debug, Default)]
struct Pass {
    /// The segment that is being read, its place in the table, and how far it was read.
    at: Option<(u64, u16, u64)>,
    /// Segments with lower ids were read.
    from_id: u64,
    /// Segments with this id and higher ones did not exist when the pass began. They are left to
    /// the next one, or a pass beside many writers would not end.
    to_id: Option<u64>,
}

/// The scrubber's state.
#[derive(Debug)]
pub(crate) struct Scrubber {
    /// The pass in the background.
    pass: Mutex<Pass>,
    /// When a step may read on, by the store's clock.
    next_ms: AtomicU64,
    found: Mutex<Found>,
    noted: Mutex<Noted>,
    bytes: AtomicU64,
    stopped: Mutex<bool>,
    call: Condvar,
}

/// Damage that is known, by segment and offset.
#[derive(Debug, Default)]
struct Found {
    damage: BTreeMap<(u64, u64), Damage>,
    /// When each place was first seen, by the wall clock. The listener was told of it then.
    first_seen_ms: BTreeMap<(u64, u64), u64>,
}

/// The note of damage on the disk.
#[derive(Debug, Default)]
struct Noted {
    /// Its places.
    places: Vec<NotedPlace>,
    /// The places that were last written, be it in vain.
    tried: Vec<NotedPlace>,
}

impl Scrubber {
    pub(crate) fn new(log: &Log) -> Scrubber {
        let first_ms = log.options.clock.now_ms().saturating_add(FIRST_REST.as_millis() as u64);
        Scrubber {
            pass: Mutex::new(Rank::ScrubPass, Pass::default()),
            next_ms: AtomicU64::new(first_ms),
            found: Mutex::new(Rank::Found, Found::default()),
            noted: Mutex::new(Rank::DamageNote, Noted::default()),
            bytes: AtomicU64::new(0),
            stopped: Mutex::new(Rank::Stopped, false),
            call: Condvar::new(),
        }
    }

    /// Bytes read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The damage that is known, in segments that there still are.
    pub(crate) fn damage(&self, log: &Log) -> Vec<Damage> {
        if lock(&self.found).damage.is_empty() {
            return Vec::new();
        }
        let segments = segments(log);
        let mut found = lock(&self.found);
        found.damage.retain(|(id, _), damage| {
            let segment = segments.get(id);
            // The key may have been written again since.
            if let Some(segment) = segment {
                judge(log, segment, damage);
            }
            segment.is_some()
        });
        found.damage.values().cloned().collect()
    }

    /// Reads the places of the last run's note again, and knows the damage there from then on.
    pub(crate) fn recall(&self, log: &Log) {
        let places = note::read(&*log.options.fs, &log.dir);
        let segments = segments(log);
        for of_one in places.chunk_by(|one, other| one.segment == other.segment) {
            let segment = segments.get(&of_one[0].segment);
            let Some(segment) = segment.filter(|segment| segment.salt == of_one[0].salt) else {
                continue;
            };
            let offsets = of_one.iter().map(|place| place.offset);
            let damage = examine(log, segment, offsets);
            // A place that is whole today, and rots again, is news then.
            let seen = of_one.iter().map(|at| ((at.segment, at.offset), at.first_seen_ms));
            let seen = seen.filter(|((_, at), _)| damage.iter().any(|found| found.offset == *at));
            lock(&self.found).first_seen_ms.extend(seen);
            self.note(log, segment.id, damage, &mut VerifyReport::default());
        }
        *lock(&self.noted) = Noted { tried: places.clone(), places };
    }

    /// Brings the note of damage up to date; returns whether there was a need. A note that could not be
    /// written is tried again when the damage has changed, and for the last time at the close.
    pub(crate) fn remember(&self, log: &Log, is_last: bool) -> bool {
        let mut noted = lock(&self.noted);
        let places = self.places(log);
        if places == noted.places || !is_last && places == noted.tried {
            return false;
        }
        if note::write(&*log.options.fs, &log.dir, &places).is_ok() {
            noted.places.clone_from(&places);
        }
        noted.tried = places;
        true
    }

    /// The places for the note.
    fn places(&self, log: &Log) -> Vec<NotedPlace> {
        if lock(&self.found).damage.is_empty() {
            return Vec::new();
        }
        let segments = segments(log);
        let found = lock(&self.found);
        let places = found.damage.values().zip(found.damage.keys()).filter_map(|(damage, at)| {
            let salt = segments.get(&at.0)?.salt;
            let (segment, offset, first_seen_ms) = (at.0, at.1, damage.first_seen_ms);
            Some(NotedPlace { segment, salt, offset, first_seen_ms })
        });
        places.take(PLACES_MAX).collect()
    }

    /// Damaged places that are known and by which data is lost.
    pub(crate) fn losses(&self, log: &Log) -> u64 {
        self.damage(log).iter().filter(|damage| damage.is_loss()).count() as u64
    }

    /// The scrubber's life.
    pub(crate) fn run(&self, log: &Log) {
        let mut rest = FIRST_REST;
        while self.rest(rest) {
            rest = self.turn(log);
        }
    }

    /// The same for a store without threads: one slice, if it is time; returns whether it was.
    pub(crate) fn step(&self, log: &Log) -> bool {
        let now_ms = log.options.clock.now_ms();
        if log.options.scrub_bytes_per_second == 0 || now_ms < self.next_ms.load(Ordering::Relaxed)
        {
            return false;
        }
        let rest_ms = self.turn(log).as_millis() as u64;
        self.next_ms.store(now_ms + rest_ms.max(1), Ordering::Relaxed);
        true
    }

    /// One slice of the background pass; returns how long to rest after it.
    fn turn(&self, log: &Log) -> Duration {
        let mut pass = lock(&self.pass);
        let mut report = VerifyReport::default();
        if !self.advance(log, &mut pass, &mut report) {
            *pass = Pass::default();
            return PASS_REST;
        }
        let rate = log.options.scrub_bytes_per_second.max(1);
        Duration::from_millis(report.bytes.saturating_mul(1000) / rate)
    }

    /// One whole pass without rests.
    pub(crate) fn pass(&self, log: &Log) -> VerifyReport {
        let (mut pass, mut report) = (Pass::default(), VerifyReport::default());
        while !log.is_stopping() && self.advance(log, &mut pass, &mut report) {}
        report
    }

    /// Reads on for a slice; returns whether there was anything left to read.
    fn advance(&self, log: &Log, pass: &mut Pass, report: &mut VerifyReport) -> bool {
        let Some((segment, from)) = Scrubber::at(log, pass, report) else {
            return false;
        };
        let end = segment.end.load(Ordering::Acquire);
        let mut scanner = Scanner::patient(&*segment.file, segment.salt, from, end);
        let holes = walk(&mut scanner, end, from + SLICE_BYTES, |record, _| {
            report.records += u64::from(record.header.kind != Kind::Mark);
        });
        let read = scanner.offset() - from;
        self.bytes.fetch_add(read, Ordering::Relaxed);
        report.bytes += read;
        pass.at = Some((segment.id, segment.table_index, scanner.offset()));
        // A file that was cut short ends before `end`.
        if scanner.is_over() {
            (pass.at, pass.from_id) = (None, segment.id + 1);
        }
        let damage = if holes.is_empty() { Vec::new() } else { name(log, &segment, &holes) };
        if is_there(log, segment.id, segment.table_index) {
            let to = if scanner.is_over() { u64::MAX } else { scanner.offset() };
            self.replace(log, segment.id, from..to, damage, report);
        }
        true
    }

    /// Lists the damage that a read or a compaction met, if `error` is of that kind.
    pub(crate) fn note_error(&self, log: &Log, error: &KvsError) {
        let KvsError::Corrupt { path, offset, reason } = error else { return };
        let segments = log.table.all();
        let Some(segment) = segments.iter().find(|segment| segment.file.path() == path) else {
            return;
        };
        if lock(&self.found).damage.contains_key(&(segment.id, *offset)) {
            return;
        }
        let mut damage = examine(log, segment, [*offset]);
        if damage.is_empty() {
            // Its checksums are right, or right again.
            damage.push(Damage::new(path, *offset, reason.as_str()));
        }
        self.note(log, segment.id, damage, &mut VerifyReport::default());
    }

    fn note(&self, log: &Log, id: u64, damage: Vec<Damage>, report: &mut VerifyReport) {
        self.replace(log, id, 0..0, damage, report);
    }

    /// Lists damage in the place of that which was known of these bytes: a fault of the disk that has
    /// passed is none.
    fn replace(
        &self,
        log: &Log,
        id: u64,
        bytes: Range<u64>,
        damage: Vec<Damage>,
        report: &mut VerifyReport,
    ) {
        let now_ms = log.options.clock.now_ms();
        let mut found = lock(&self.found);
        let Found { damage: listed, first_seen_ms } = &mut *found;
        listed.retain(|(of, offset), _| *of != id || !bytes.contains(offset));
        for mut damage in damage {
            let place = (id, damage.offset);
            let seen = first_seen_ms.get(&place).copied();
            damage.first_seen_ms = seen.unwrap_or(now_ms);
            if seen.is_none() && first_seen_ms.len() < DAMAGE_LISTED_MAX {
                first_seen_ms.insert(place, now_ms);
                log.options.events.tell(|| event_of(&damage));
            }
            if listed.len() < DAMAGE_LISTED_MAX {
                listed.insert(place, damage.clone());
            }
            report.push(damage);
        }
    }

    /// The segment that a pass is at, and from where it goes on.
    fn at(log: &Log, pass: &mut Pass, report: &mut VerifyReport) -> Option<(Arc<Segment>, u64)> {
        if let Some((id, index, offset)) = pass.at.take() {
            pass.from_id = id + 1;
            if let Some(segment) = segment_at(log, id, index) {
                return Some((segment, offset));
            }
        }
        let sealed: Vec<u64> = {
            let manifest = lock(&log.manifest);
            let state = manifest.state();
            let to_id = *pass.to_id.get_or_insert(state.file_id);
            let left = state.segments.range(pass.from_id.min(to_id)..to_id);
            left.filter(|(_, facts)| facts.seal.is_some()).map(|(&id, _)| id).collect()
        };
        let segments = log.table.all().into_iter().filter(|s| sealed.binary_search(&s.id).is_ok());
        let segment = segments.min_by_key(|segment| segment.id)?;
        report.segments += 1;
        Some((segment, SEGMENT_HEADER_BYTES as u64))
    }

    /// Ends the scrubber's life.
    pub(crate) fn stop(&self) {
        *lock(&self.stopped) = true;
        self.call.notify_all();
    }

    /// Waits; returns false when the store is closing.
    fn rest(&self, rest: Duration) -> bool {
        let until = Instant::now() + rest;
        let mut stopped = lock(&self.stopped);
        while !*stopped {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            stopped = wait_timeout(&self.call, stopped, left);
        }
        false
    }
}

/// The segments that there are, by their ids.
fn segments(log: &Log) -> HashMap<u64, Arc<Segment>> {
    log.table.all().into_iter().map(|segment| (segment.id, segment)).collect()
}

/// Reads the records at these places again, in their order; returns the damage there.
fn examine(log: &Log, segment: &Segment, offsets: impl IntoIterator<Item = u64>) -> Vec<Damage> {
    let end = segment.end.load(Ordering::Acquire);
    let (mut holes, mut read_to) = (Vec::new(), 0);
    // A hole may hold several records.
    for offset in offsets {
        if offset < read_to || offset >= end {
            continue;
        }
        let mut scanner = Scanner::patient(&*segment.file, segment.salt, offset, end);
        holes.extend(walk(&mut scanner, end, offset + 1, |_, _| ()));
        read_to = if scanner.is_over() { end } else { scanner.offset() };
    }
    if holes.is_empty() { Vec::new() } else { name(log, segment, &holes) }
}

fn event_of(damage: &Damage) -> Event {
    Event::Damaged {
        path: damage.path.clone(),
        offset: damage.offset,
        reason: damage.reason.clone(),
        key: damage.key.clone(),
        is_loss: damage.is_loss(),
    }
}

/// Describes the holes of a segment.
fn name(log: &Log, segment: &Segment, holes: &[Hole]) -> Vec<Damage> {
    let (id, salt) = (segment.id, segment.salt);
    let end = segment.end.load(Ordering::Acquire);
    let seq_min = segment.seq_min.load(Ordering::Relaxed);
    let seq_max = segment.seq_max.load(Ordering::Relaxed);
    let rises = {
        let manifest = lock(&log.manifest);
        let facts = manifest.state().segments.get(&id);
        facts.is_some_and(|facts| facts.kind == SegmentKind::Log)
    };
    let places = hint::read_of(&*log.options.fs, &log.dir, id, salt, end);
    let known = Known { rises, seqs: seq_min..=seq_max, places };
    let by_offset = known.by_offset();
    let mut damage = Vec::new();
    for hole in holes {
        let path = segment.file.path();
        describe(hole, path, &known, by_offset.as_ref(), |found| damage.push(found));
    }
    for found in &mut damage {
        judge(log, segment, found);
    }
    damage
}

/// Gives damage the verdict and the space of the moment.
fn judge(log: &Log, segment: &Segment, damage: &mut Damage) {
    damage.verdict = verdict(log, segment, damage);
    damage.space = damage.key.as_ref().and_then(|_| log.index.space_of(damage.generation));
}

/// Whether a key points at a damaged record, or may need it as its removal.
fn verdict(log: &Log, segment: &Segment, damage: &Damage) -> Verdict {
    let (Some(key), true) = (&damage.key, damage.key_is_certain) else { return Verdict::Loss };
    let pin = epoch::pin();
    let found = log.index.find_in(damage.generation, key, &pin).map(|found| found.slot().pointer());
    let is_dead = match (found, damage.removal) {
        (Some(place), Some(_)) => {
            (place.segment, place.offset) != (segment.table_index, damage.offset)
        }
        // A removed key is gone from the index when its removal is durable.
        (None, Some(is_removal)) => !is_removal,
        (_, None) => false,
    };
    if is_dead { Verdict::Dead } else { Verdict::Loss }
}

/// The segment at a place in the table, if it is still this one.
fn segment_at(log: &Log, id: u64, index: u16) -> Option<Arc<Segment>> {
    let guard = log.table.get(index)?;
    guard.as_ref().filter(|segment| segment.id == id).cloned()
}

fn is_there(log: &Log, id: u64, index: u16) -> bool {
    segment_at(log, id, index).is_some()
}
