//! The verdict on the tail: was the log torn by a crash, or did acknowledged data rot?
//!
//! The segments that were not sealed are read as one stream. It ends where the first record is
//! not valid. A mark anywhere behind that place which says that everything up to a later position
//! was on disk proves that the bytes there were once good: that is rot, and the open is refused.
//! Without such a mark the bytes were never vouched for: a torn tail, cut off and counted.
//!
//! ```text
//!                 mark: durable up to A
//!                  v
//!   | frame | frame M frame | frame |######| frame | M  durable up to C?
//!   0       A                       B bad                 C <= B: torn, B is the end
//!   '-kept--'-------- loose --------'                     C >  B: rot, the open is refused
//! ```
//!
//! *Kept* records are provably on disk; *loose* ones are whole, but nothing proves that a power cut
//! would keep them, so the open copies and syncs them.
//!
//! (That marks can tell the two apart is the idea of Alagappan et al., "Protocol-Aware Recovery
//! for Consensus-Based Storage", FAST 2018: keep the identity of an entry apart from the entry.)
//!
//! Invariants:
//! - The part that is kept is a prefix of the log that ends between two frames.
//! - Everything before the highest durable position that a mark tells is kept, or the open fails.

use std::path::{Path, PathBuf};

use super::Unsealed;
use crate::clock::ClockPair;
use crate::error::{KvsError, Result};
use crate::fs::FsFile;
use crate::manifest::{Seal, State};
use crate::record::{Kind, Mark};
use crate::segment::{
    SEGMENT_HEADER_BYTES, ScanStop, Scanner, SegmentHeader, SegmentKind, log_path,
};
use crate::sync::Arc;

/// The fate of the unsealed segments.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// Segments to seal at the last position that is provably on disk.
    pub(crate) kept: Vec<Kept>,
    /// Segments of which nothing stays.
    pub(crate) dropped: Vec<u64>,
    /// Good records that nothing proves durable: to be copied.
    pub(crate) loose: Vec<Loose>,
    /// The position at which the log's good part ends.
    pub(crate) end: u64,
    /// Records in between, marks not counted.
    pub(crate) records: u64,
    pub(crate) seq_max: u64,
    /// Both clocks, by the last mark.
    pub(crate) clock: ClockPair,
    pub(crate) torn_bytes: u64,
    pub(crate) torn_at: Option<(PathBuf, u64)>,
}

/// A segment of which something is provably on disk.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<dyn FsFile>,
    /// With the number of records still to be filled in.
    pub(crate) seal: Seal,
}

/// A piece of a file with good records.
#[derive(Debug)]
pub(crate) struct Loose {
    pub(crate) file: Arc<dyn FsFile>,
    pub(crate) salt: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// The good part of one segment: nothing, for those that the stream does not reach.
#[derive(Default)]
struct Good {
    base: u64,
    /// Offset behind the last whole frame.
    end: u64,
    /// Offset and sequence number of every record.
    records: Vec<(u64, u64)>,
}

/// Reads the unsealed segments and decides.
pub(crate) fn find_tail(dir: &Path, state: &State, unsealed: &[Unsealed]) -> Result<Tail> {
    let seals = || state.segments.values().filter_map(|facts| Some((facts.kind, facts.seal?)));
    let logs = seals().filter(|&(kind, _)| kind == SegmentKind::Log);
    let start = logs.map(|(_, seal)| seal.base + seal.end).max().unwrap_or(0).max(state.position);
    let seq_max = seals().map(|(_, seal)| seal.seq_max).max().unwrap_or(0);
    let seq_max = seq_max.max(state.seq.saturating_sub(1));
    let mut tail = Tail { end: start, seq_max, ..Tail::default() };

    let mut order: Vec<&Unsealed> = unsealed.iter().collect();
    order.sort_by_key(|segment| (segment.header.map_or(u64::MAX, |h| h.base), segment.id));
    let mut goods: Vec<Good> = Vec::new();
    let mut durable = start;
    for segment in &order {
        match segment.header.filter(|header| header.base == tail.end) {
            Some(header) => goods.push(read_good(segment, &header, &mut tail, &mut durable)?),
            None => break,
        }
    }
    let reached = goods.len();
    goods.resize_with(order.len(), Good::default);
    // The stream breaks off behind the last segment that it reached.
    let last = reached.saturating_sub(1);
    let broken_at = order.get(last).map(|s| (log_path(dir, s.id), goods[last].end));
    for (i, (segment, good)) in order.iter().zip(&goods).enumerate() {
        let vouched = vouched_behind(segment, good)?.max(durable);
        if vouched > tail.end {
            let (path, offset) = broken_at.unwrap_or_default();
            let reason = format!(
                "no valid record there, though the log was on disk up to position {vouched}"
            );
            return Err(KvsError::corrupt(&path, offset, reason));
        }
        let torn = written_behind(segment, good)?;
        // Bytes behind the last frame of a segment that the stream left are no loss.
        if i >= last && torn > 0 {
            tail.torn_bytes += torn;
            tail.torn_at.get_or_insert((log_path(dir, segment.id), good.end));
        }
    }
    for (segment, good) in order.iter().zip(goods) {
        divide(segment, &good, durable, &mut tail);
    }
    Ok(tail)
}

/// Reads a segment's frames from its beginning to the first that is not whole and good.
fn read_good(
    segment: &Unsealed,
    header: &SegmentHeader,
    tail: &mut Tail,
    durable: &mut u64,
) -> Result<Good> {
    let from = SEGMENT_HEADER_BYTES as u64;
    let mut scanner = Scanner::new(&*segment.file, header.salt, from, segment.length);
    let mut good = Good { base: header.base, ..Good::default() };
    let mut frame: Vec<(u64, u64)> = Vec::new();
    loop {
        let record = match scanner.next() {
            Ok(Some(record)) => record,
            Ok(None) | Err(ScanStop::Bad { .. }) => break,
            Err(ScanStop::Io(error)) => return Err(error.into()),
        };
        let last_seq = frame.last().map_or(tail.seq_max, |&(_, seq)| seq);
        // Left over from a write that failed and was written over: not part of the log. Nor are
        // the beginning of one frame and the end of another.
        let follows = frame.is_empty() || record.header.seq == last_seq + 1;
        if record.header.seq <= last_seq || !follows {
            break;
        }
        frame.push((record.offset, record.header.seq));
        tail.records += u64::from(record.header.kind != Kind::Mark);
        let behind = record.offset + record.header.record_bytes() as u64;
        if record.header.kind == Kind::Mark
            && let Some(mark) = Mark::decode(record.value)
        {
            *durable = (*durable).max(mark.durable);
            let pair = ClockPair { store_ms: mark.clock_ms, wall_ms: mark.time_ms };
            tail.clock = tail.clock.later(pair);
        }
        if record.header.last {
            tail.seq_max = record.header.seq;
            tail.end = header.base + behind;
            good.end = behind;
            good.records.append(&mut frame);
        }
    }
    Ok(good)
}

/// The highest durable position that a mark behind the good part tells; 0 if there is none.
fn vouched_behind(segment: &Unsealed, good: &Good) -> Result<u64> {
    let from = good.end.max(SEGMENT_HEADER_BYTES as u64);
    let mut scanner = Scanner::new(&*segment.file, segment.facts.salt, from, segment.length);
    let mut vouched = 0;
    while let Some(mark) = scanner.find_mark()? {
        vouched = vouched.max(mark.durable);
    }
    Ok(vouched)
}

/// Bytes behind the good part before only zeros follow.
fn written_behind(segment: &Unsealed, good: &Good) -> Result<u64> {
    let mut scanner = Scanner::new(&*segment.file, segment.facts.salt, good.end, segment.length);
    Ok(scanner.written_after(good.end)?)
}

/// Divides a segment's good part into the provably durable one, which stays, and the rest.
fn divide(segment: &Unsealed, good: &Good, durable: u64, tail: &mut Tail) {
    let header_bytes = SEGMENT_HEADER_BYTES as u64;
    let proven = durable.saturating_sub(good.base).min(good.end);
    let (stays, loose): (Vec<_>, Vec<_>) = good.records.iter().partition(|&&(at, _)| at < proven);
    let from = proven.max(header_bytes);
    if !loose.is_empty() {
        let file = Arc::clone(&segment.file);
        tail.loose.push(Loose { file, salt: segment.facts.salt, from, to: good.end });
    }
    match segment.header {
        Some(header) if !stays.is_empty() => tail.kept.push(Kept {
            header,
            file: Arc::clone(&segment.file),
            seal: Seal {
                base: good.base,
                end: proven,
                seq_min: stays.iter().map(|&(_, seq)| seq).min().unwrap_or(u64::MAX),
                seq_max: stays.iter().map(|&(_, seq)| seq).max().unwrap_or(0),
                records: 0,
                purged_seq: 0,
            },
        }),
        _ => tail.dropped.push(segment.id),
    }
}
