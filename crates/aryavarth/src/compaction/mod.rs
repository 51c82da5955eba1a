//! Compaction: giving dead bytes back without disturbing readers or writers.
//!
//! One round takes some sealed segments (the *inputs*), copies their live records into new ones,
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
//! 6. Wait again until all writes are released: an unreleased write still knows the place
//!    that it replaced.
//! 7. Take the inputs out of the table and unlink them. Readers that hold one read on; its table
//!    index is reused after an epoch, its file is closed here when the last reader let go.
//!
//! `choose.rs` chooses the inputs, `round.rs` takes the steps. A damaged input is never dropped: its round fails and names the damage.

mod choose;
mod round;

use std::slice;

use crate::error::Result;
use crate::log::Log;
use crate::sync::{Ordering, lock};
use choose::{Candidate, candidates, choose, small};
use round::run_round;

/// Dead space that is left alone, beside the share of the live data.
const SLACK_BYTES: u64 = 6 << 20;
/// One round takes inputs of about this size, and at least one.
const ROUND_BYTES_MAX: u64 = 256 << 20;
/// A segment pays if a round would give back at least this share of it.
const GAIN_PERCENT_MIN: u64 = 10;
/// The same at rest, if the directory takes more than is promised.
const GAIN_PERCENT_MIN_AT_REST: u64 = 2;

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

/// Whether the directory takes more than the promise allows, while there is space for compaction.
pub(crate) fn is_behind(log: &Log) -> bool {
    !log.is_full() && is_due(log, false)
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
/// pays, the cheapest first, since each gives back the space that the next one needs. The caller holds the
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

#[cfg(test)]
mod tests {
    use crossbeam_epoch as epoch;

    use super::*;
    use crate::fs::SimFs;
    use crate::options::Options;
    use crate::record::Batch;
    use crate::recovery;
    use crate::sync::Arc;

    /// Between the loads of a slot and of its segment lie a few instructions, so threads would
    /// hardly ever be caught there.
    #[test]
    fn a_table_index_means_one_segment_as_long_as_a_reader_may_have_it() {
        let options =
            Options { fs: Arc::new(SimFs::new()), background: false, ..Options::default() };
        let (log, _lock, _) = recovery::open("/store".as_ref(), &options).unwrap();
        log.write(0, Batch::new().put("k", "v")).unwrap();
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
