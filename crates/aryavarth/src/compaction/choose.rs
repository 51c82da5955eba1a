//! The inputs of a round: the segments that give back most for the cost of their copies.
//!
//! Invariant: a round that would give nothing back, neither by itself nor by the next one, is not
//! begun.

use std::collections::HashSet;

use super::{GAIN_PERCENT_MIN, ROUND_BYTES_MAX};
use crate::log::{Log, small_segments};
use crate::segment::{Segment, blocks};
use crate::sync::{Arc, Ordering, lock};

/// Of those that pay it takes this part of the data, or this much if that is more: segments that
/// would have come last go on dying meanwhile. (Measured: `docs/decisions/0012`.)
const ROUND_PART: u64 = 8;
const BEST_BYTES_MIN: u64 = 16 << 20;

/// A sealed segment and the bytes that a round over it would give back.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) segment: Arc<Segment>,
    pub(super) disk_bytes: u64,
    gain_bytes: u64,
}

impl Candidate {
    pub(super) fn pays(&self) -> bool {
        self.gives(GAIN_PERCENT_MIN)
    }

    fn gives(&self, percent: u64) -> bool {
        self.gain_bytes * 100 >= self.disk_bytes * percent
    }

    /// Bytes that a round has to write before it can free the segment.
    pub(super) fn copy_bytes(&self) -> u64 {
        self.disk_bytes.saturating_sub(self.gain_bytes)
    }
}

/// The ids of the small segments that are to become one, since there are many of them.
pub(super) fn small(log: &Log, candidates: &[Candidate]) -> Vec<u64> {
    let size = |c: &Candidate| (c.segment.id, c.segment.end.load(Ordering::Relaxed));
    small_segments(candidates.iter().map(size).collect(), log.segment_limit())
}

/// The sealed and undamaged segments of which all is released, each with its gain.
pub(super) fn candidates(log: &Log) -> Vec<Candidate> {
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
        // A copy needs its part of the hint file, too.
        let end = segment.end.load(Ordering::Relaxed).max(1);
        let hint_bytes = disk_bytes.saturating_sub(blocks(end));
        needed += (u128::from(hint_bytes) * u128::from(needed) / u128::from(end)) as u64;
        let gain_bytes = disk_bytes.saturating_sub(needed);
        Candidate { segment: Arc::clone(segment), disk_bytes, gain_bytes }
    };
    let is_candidate = |segment: &&Arc<Segment>| {
        let end = segment.end.load(Ordering::Acquire);
        sealed.contains(&segment.id)
            && !segment.has_lost()
            && segment.position_of(end) <= released + crate::record::ALIGN as u64
    };
    segments.iter().filter(is_candidate).map(of).collect()
}

/// The inputs of a round: those that give back at least this share, the best ones first. If there
/// are none and many of the bytes are tombstones, then the oldest segments that these may be
/// needed for: their copies do not need them. None of these is chosen twice, and a round that would
/// give nothing back, neither by itself nor by the next one, is not begun.
pub(super) fn choose(mut candidates: Vec<Candidate>, percent_min: u64) -> Vec<Candidate> {
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
