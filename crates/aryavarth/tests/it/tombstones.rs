//! Scripts of the crash sweep in which a tombstone is all that hides an older value.
//!
//! A round of compaction over the tombstone's segment alone, while a segment that is left out holds
//! the value, must carry the tombstone along. An explicit compaction takes everything at once unless
//! there is no space for that, so random workloads hardly ever get there: these scripts do, by
//! sizes that decide which segment pays. That they do is asserted, since nothing else would show it
//! when compaction comes to choose otherwise.

use aryavarth::fs::{SimFs, Site};
use aryavarth::{Durability, Recovery, verify};

use crate::oracle::Oracle;
use crate::runner::{Act, DIR, Runner, options};
use crate::workload::{Workload, remove, scan_all, set};

/// A segment is sealed at this size.
const SEGMENT_BYTES: u64 = 32 << 10;
/// Live values of these sizes fill the blocks of their segment so well that no round pays for a
/// small one that died beside them.
const BULK_BYTES: usize = 28_000;
const BULK_SMALL_BYTES: usize = 3800;

/// How it comes to a round over the tombstone's segment alone.
struct Story {
    name: &'static str,
    /// Up to a live segment with the older value and a mostly dead one with the tombstone.
    before: Vec<Act>,
    round: Vec<Act>,
    /// Records that there are then: the older value, its tombstone, and the live ones.
    records: u64,
    /// Segments that an open finds then, and how many of them have a hint file.
    segments: u64,
    hints: u64,
}

impl Story {
    fn workload(&self) -> Workload {
        let acts = [&self.before[..], &self.round, &[Act::Reopen, scan_all()]].concat();
        let workload = Workload::new(self.name, acts).near(Site::SegmentRemove);
        Workload { segment_bytes_min: SEGMENT_BYTES, ..workload }
    }
}

/// The scripts.
pub(crate) fn workloads() -> Vec<Workload> {
    stories().iter().map(Story::workload).collect()
}

fn stories() -> [Story; 3] {
    let older = || vec![set(1, 1, 20), set(2, 2, BULK_BYTES)];
    // Two dead values: a round that gives back just these took this segment, and no other.
    let removal = || vec![remove(1), set(3, 3, 5000), set(4, 3, 5000), set(5, 3, BULK_SMALL_BYTES)];
    // A round over both finds no space, and then one over each that pays does.
    let refused = || vec![Act::NoSpaceAt(Site::CopyWrite), Act::Compact];
    let no_hint = || vec![Act::NoSpaceAt(Site::HintCreate)];
    // Nor has the next one, which is the copy's.
    let no_hints = || [no_hint(), vec![Act::NoSpaceAt(Site::HintWrite)]].concat();
    // A third segment and one that was made ahead take the writes after the removal, until there
    // is no space for a fifth. The first two are sealed.
    let full = vec![
        set(6, 4, BULK_BYTES),
        Act::Work(9),
        Act::Limit(0),
        set(7, 5, BULK_BYTES),
        set(8, 6, BULK_BYTES),
    ];
    [
        Story {
            name: "tombstone of a copy",
            before: [older(), vec![Act::Compact], removal()].concat(),
            round: refused(),
            records: 4,
            segments: 2,
            hints: 2,
        },
        Story {
            name: "tombstone of a log, no hints",
            before: [older(), no_hint(), vec![Act::Reopen], removal()].concat(),
            round: [no_hints(), refused()].concat(),
            records: 4,
            segments: 2,
            hints: 0,
        },
        Story {
            name: "tombstone on a full disk",
            before: [older(), vec![Act::Compact], removal(), full].concat(),
            round: vec![Act::Work(9), Act::Unlimit],
            records: 6,
            segments: 4,
            // There was no space for those of the other two.
            hints: 2,
        },
    ]
}

/// The state after some acts.
#[derive(Debug)]
struct Played {
    /// Rounds of compaction that were finished.
    rounds: u64,
    records: u64,
    recovery: Recovery,
}

fn played(workload: &Workload, acts: &[Act]) -> Played {
    let fs = SimFs::new();
    let mut runner = Runner::new(&fs, workload, Oracle::default());
    runner.run(acts).unwrap();
    let rounds = runner.handle(Durability::Always).stats().compactions;
    runner.close().unwrap();
    let records = verify(DIR, &options(&fs), |_, _| {}).unwrap().records;
    runner.open().unwrap();
    let recovery = runner.handle(Durability::Always).recovery().clone();
    Played { rounds, records, recovery }
}

#[test]
fn the_round_over_a_tombstone_leaves_the_older_value_where_it_is() {
    for story in stories() {
        let (name, workload) = (story.name, story.workload());
        let before = played(&workload, &story.before);
        let after = played(&workload, &[&story.before[..], &story.round].concat());
        assert_eq!(after.rounds, before.rounds + 1, "{name}");
        assert_eq!(after.records, story.records, "{name}");
        assert_eq!(before.records, story.records + 2, "{name}");
        assert_eq!(after.recovery.segments, story.segments, "{name}");
        assert_eq!(after.recovery.hints_used, story.hints, "{name}");
    }
}
