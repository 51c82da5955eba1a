//! Workloads: scripts of acts, as data, so that one runs again, call for call, with the power cut
//! somewhere else.
//!
//! The scripts together cover every behaviour of the store; the random ones mix them by a seed.
//! Every value that is written differs from every other, so that no state passes for another.

use std::ops::Bound;

use aryavarth::fs::{SimFs, Site};
use aryavarth::{Durability, KeyRange};

use crate::oracle::{Key, Link};
use crate::runner::Act;
use crate::tombstones;

/// How a store reads the files of its simulated disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// By calls.
    None,
    /// Through mappings, as far as it can.
    Faithful,
    /// Through mappings that change every other record: the disk cannot deliver a page, or another
    /// process is at work.
    Lying,
}

impl Mapping {
    pub(crate) const ALL: [Mapping; 3] = [Mapping::None, Mapping::Faithful, Mapping::Lying];

    /// The one whose turn it is.
    pub(crate) fn turn(nth: u64) -> Mapping {
        Mapping::ALL[(nth % 3) as usize]
    }

    /// Lets the files of a disk be mapped in this way.
    pub(crate) fn set(self, fs: &SimFs) {
        match self {
            Mapping::None => {}
            Mapping::Faithful => fs.map_files(|_, _| {}),
            Mapping::Lying => fs.map_files(lie),
        }
    }
}

/// A copy from a page that cannot be read, wholly or in part.
pub(crate) fn lie(offset: u64, bytes: &mut [u8]) {
    match offset / 8 % 4 {
        0 => bytes.fill(0),
        1 => {
            let half = bytes.len() / 2;
            bytes[half..].fill(0);
        }
        _ => {}
    }
}

/// A named script.
#[derive(Clone)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) segment_bytes_min: u64,
    pub(crate) acts: Vec<Act>,
    pub(crate) mapping: Mapping,
    /// For long ones: only the calls around those at this site are of interest.
    pub(crate) near: Option<Site>,
}

impl Workload {
    pub(crate) fn new(name: impl Into<String>, acts: Vec<Act>) -> Workload {
        let mapping = Mapping::None;
        Workload { name: name.into(), segment_bytes_min: 4096, acts, mapping, near: None }
    }

    /// The same with its files mapped in another way.
    pub(crate) fn mapped(self, mapping: Mapping) -> Workload {
        Workload { mapping, ..self }
    }

    pub(crate) fn near(self, site: Site) -> Workload {
        Workload { near: Some(site), ..self }
    }
}

/// Draws that can be repeated.
#[derive(Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A number under `end`, which is not zero.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % end
    }
}

const ALWAYS: Durability = Durability::Always;
const INTERVAL: Durability = Durability::Interval(10);
const OS: Durability = Durability::Os;

fn key(n: u64) -> Key {
    format!("key-{n:02}").into_bytes()
}

/// A value of `bytes` bytes, at least, that no other `n` has.
fn value(n: u64, bytes: usize) -> Vec<u8> {
    let mut value = format!("value-{n}-").into_bytes();
    while value.len() < bytes {
        value.push(b'a' + (n as usize + value.len()) as u8 % 26);
    }
    value
}

pub(crate) fn set(n: u64, k: u64, bytes: usize) -> Act {
    Act::Set(ALWAYS, key(k), value(n, bytes))
}

pub(crate) fn remove(k: u64) -> Act {
    Act::Remove(ALWAYS, key(k))
}

pub(crate) fn scan_all() -> Act {
    Act::Scan(ALWAYS, KeyRange::all(), usize::MAX)
}

/// The scripts: together they cover every behaviour.
pub(crate) fn scripted() -> Vec<Workload> {
    let never_allocated = |acts: Vec<Act>| [vec![Act::NeverAllocate], acts].concat();
    let extended =
        |name, acts| Workload { segment_bytes_min: 256 << 10, ..Workload::new(name, acts) };
    let scripts = vec![
        Workload::new("nothing", vec![]),
        Workload::new("basics", basics()),
        Workload::new("batches", batches()),
        Workload::new("chains", chains()),
        Workload::new("rotation", rotation()),
        Workload::new("compaction", compaction()),
        Workload::new("steps", steps()),
        Workload::new("reopens", reopens()),
        Workload::new("levels", levels()),
        Workload::new("large", large()),
        Workload::new("full", full()),
        Workload::new("emptied", emptied()),
        Workload::new("refused", refused()),
        Workload::new("broken off", broken_off()),
        Workload::new("spaces", spaces()),
        Workload::new("records of spaces", records_of_spaces()),
        Workload::new("deadlines", deadlines()),
        Workload::new("clocks", wall_clocks()),
        Workload::new("dates", deadlines_by_the_wall_clock()),
        Workload::new("never allocated", never_allocated(rotation())),
        extended("extended", growing()),
        extended("extended, never allocated", never_allocated(growing())),
        Workload::new("many edits", many_edits()).near(Site::ManifestRemove),
        Workload::new("due", due()).near(Site::SegmentRemove),
        Workload::new("refused open", refused_open()).near(Site::CopyTakeBack),
    ];
    scripts.into_iter().chain(tombstones::workloads()).collect()
}

fn basics() -> Vec<Act> {
    vec![
        Act::Read(ALWAYS, key(1)),
        Act::Remove(ALWAYS, key(1)),
        set(1, 1, 10),
        Act::Read(ALWAYS, key(1)),
        set(2, 1, 10),
        Act::Read(ALWAYS, key(1)),
        remove(1),
        Act::Read(ALWAYS, key(1)),
        remove(1),
        set(3, 1, 0),
        Act::Set(ALWAYS, Vec::new(), Vec::new()),
        Act::Read(ALWAYS, Vec::new()),
        Act::Set(ALWAYS, vec![0, 255], vec![255, 0]),
        scan_all(),
        Act::Remove(ALWAYS, Vec::new()),
        Act::Move(ALWAYS, key(1), key(2)),
        Act::Move(ALWAYS, key(1), key(2)),
        Act::Move(ALWAYS, key(2), key(2)),
        Act::Verify,
        Act::Scan(ALWAYS, KeyRange::prefix(b"key").reversed(), 10),
        Act::OpenTwice,
        Act::Beside,
        set(4, 3, 10),
        scan_all(),
        Act::Flush,
    ]
}

fn batches() -> Vec<Act> {
    let put = |n, k, bytes| (key(k), Some(value(n, bytes)));
    let gone = |k| (key(k), None);
    vec![
        Act::Batch(ALWAYS, vec![]),
        Act::Batch(ALWAYS, vec![put(1, 1, 10), put(2, 2, 10), put(3, 3, 10)]),
        Act::Batch(ALWAYS, vec![gone(1), gone(1), put(4, 2, 10), gone(4)]),
        Act::Batch(OS, vec![put(5, 5, 600), put(6, 5, 600), put(7, 6, 600)]),
        Act::Beside,
        Act::Batch(ALWAYS, vec![put(8, 7, 2000), put(9, 8, 2000), gone(2), put(10, 2, 900)]),
        scan_all(),
        Act::Batch(ALWAYS, (0..30).map(|n| put(11 + n, n, 300)).collect()),
        Act::Batch(ALWAYS, (0..30).step_by(2).map(gone).collect()),
        scan_all(),
        Act::Move(ALWAYS, key(1), key(0)),
        Act::Batch(ALWAYS, (0..30).map(gone).chain([put(50, 1, 10)]).collect()),
        Act::Read(ALWAYS, key(3)),
    ]
}

/// Batches that are asked for together: of sets alone, which go into one call as far as there is
/// room, of removals too, and of keys that expire, some of them at once.
fn chains() -> Vec<Act> {
    let put = |n, k, bytes| (key(k), Some(value(n, bytes)));
    let sets = |n: u64, bytes| -> Link {
        (None, (0..=n % 3).map(|nth| put(n * 10 + nth, (n + nth) % 6, bytes)).collect())
    };
    let gone = |k| (None, vec![(key(k), None)]);
    let until = |n, k, ms| (Some(ms), vec![put(n, k, 200), put(n + 1, k + 1, 200)]);
    vec![
        Act::Chain(ALWAYS, (0..8).map(|n| sets(n, 40)).collect()),
        Act::Read(ALWAYS, key(2)),
        Act::Chain(ALWAYS, vec![(None, vec![put(100, 1, 9)]), (None, vec![put(101, 1, 9)])]),
        Act::Chain(OS, (20..24).map(|n| sets(n, 90)).collect()),
        Act::Chain(ALWAYS, vec![sets(30, 90), gone(1), gone(1), sets(31, 90), (None, vec![])]),
        Act::Chain(OS, vec![until(400, 1, 0), until(410, 2, 700), until(420, 6, 0), sets(43, 9)]),
        Act::Chain(INTERVAL, (50..56).map(|n| sets(n, 700)).collect()),
        scan_all(),
        Act::Work(9),
        Act::Wait(700),
        Act::Chain(ALWAYS, vec![until(600, 2, 0), until(610, 2, 5000), sets(62, 9), gone(2)]),
        Act::Compact,
        Act::Chain(OS, (70..78).map(|n| sets(n, 5)).collect()),
        Act::Chain(OS, vec![sets(80, 2500), sets(81, 2500), sets(82, 5000), sets(83, 5)]),
        Act::Reopen,
        Act::Chain(OS, vec![gone(0), gone(9), sets(90, 5), sets(91, 5), sets(92, 5)]),
    ]
}

fn rotation() -> Vec<Act> {
    let mut acts = Vec::new();
    for n in 0..40 {
        acts.push(set(n, n % 7, 300 + (n as usize * 131) % 700));
        if n % 9 == 4 {
            acts.push(remove(n % 7));
        }
        if n % 10 == 9 {
            acts.push(scan_all());
            acts.push(Act::Work(3));
        }
    }
    acts
}

fn compaction() -> Vec<Act> {
    let mut acts = Vec::new();
    for round in 0..3 {
        for n in 0..16 {
            acts.push(set(round * 100 + n, (n * 5 + round) % 9, 500));
        }
        acts.extend([remove(round), Act::Compact, remove(round + 1), Act::Read(ALWAYS, key(0))]);
    }
    acts.extend([scan_all(), Act::Compact, Act::Compact, Act::Reopen, set(999, 4, 100)]);
    acts.extend([Act::Compact, scan_all()]);
    acts
}

fn steps() -> Vec<Act> {
    let mut acts = Vec::new();
    for n in 0..30 {
        acts.push(Act::Set(if n % 3 == 0 { OS } else { ALWAYS }, key(n % 5), value(n, 700)));
        acts.push(Act::Work(1 + n as usize % 4));
        acts.push(Act::Wait(400));
    }
    acts.extend([remove(0), remove(1), Act::Wait(6000), Act::Work(50), scan_all()]);
    acts.extend([set(100, 0, 10), Act::Wait(6000), Act::Work(50), Act::Read(ALWAYS, key(1))]);
    acts
}

fn reopens() -> Vec<Act> {
    let mut acts = vec![Act::Reopen, set(1, 1, 10), Act::Reopen, Act::Reopen];
    for n in 0..12 {
        acts.push(Act::Set(OS, key(n % 5), value(n + 10, 900)));
    }
    acts.extend([Act::Reopen, remove(1), remove(2), Act::Work(10), Act::Reopen, scan_all()]);
    acts.extend([set(30, 2, 10), Act::Move(ALWAYS, key(2), key(3)), Act::Reopen, scan_all()]);
    acts
}

fn levels() -> Vec<Act> {
    let mut acts = Vec::new();
    for n in 0..36 {
        let level = [OS, INTERVAL, OS, OS, ALWAYS, INTERVAL][n as usize % 6];
        acts.push(match n % 5 {
            3 => Act::Remove(level, key(n % 4)),
            4 => Act::Move(level, key(n % 3), key(n % 7)),
            _ => Act::Set(level, key(n % 7), value(n, 400)),
        });
        match n % 8 {
            1 => acts.push(Act::Read(OS, key(n % 7))),
            3 => acts.push(Act::Read(ALWAYS, key(n % 4))),
            5 => acts.push(Act::Scan(INTERVAL, KeyRange::all(), 3)),
            6 => acts.push(Act::Scan(ALWAYS, KeyRange::prefix(b"key-0").reversed(), 2)),
            7 => acts.extend([Act::Wait(20), Act::Work(2)]),
            _ => {}
        }
        if n == 20 {
            acts.push(Act::Flush);
        }
    }
    acts.extend([Act::Set(OS, key(1), value(100, 10)), Act::Compact, Act::Remove(OS, key(2))]);
    acts
}

fn large() -> Vec<Act> {
    let mut acts = vec![set(1, 1, 5000), set(2, 2, 40_000), Act::Read(ALWAYS, key(2))];
    acts.extend([set(3, 1, 150_000), Act::Set(OS, key(3), value(4, 20_000)), remove(2)]);
    let batch = (0..4).map(|n| (key(n), Some(value(10 + n, 9000)))).collect();
    acts.extend([Act::Batch(ALWAYS, batch), Act::Compact, Act::Reopen, scan_all(), set(5, 1, 10)]);
    acts
}

/// A disk that fills up twice, and is given space again.
fn full() -> Vec<Act> {
    let mut acts = vec![set(1, 1, 500), set(2, 2, 500), Act::Work(10), Act::Limit(64 << 10)];
    acts.extend((0..30).map(|n| set(10 + n, n % 10, 9000)));
    acts.extend([remove(1), remove(2), Act::Read(ALWAYS, key(3)), Act::Compact, Act::Work(10)]);
    acts.extend([set(50, 5, 100), Act::Unlimit, Act::Wait(2000), Act::Work(10)]);
    acts.extend((0..5).map(|n| set(60 + n, n, 3000)));
    acts.extend([Act::Limit(0), set(70, 1, 9000), set(71, 1, 9000), remove(1), Act::Unlimit]);
    acts.extend([Act::Work(10), set(72, 1, 100), scan_all()]);
    acts
}

fn emptied() -> Vec<Act> {
    let mut acts: Vec<Act> = (0..12).map(|n| set(n, n, 800)).collect();
    acts.extend((0..12).map(remove));
    acts.extend([Act::Compact, Act::Work(20), scan_all(), Act::Reopen, Act::Compact, scan_all()]);
    acts
}

/// Spaces that are emptied and swapped, alone and in closures, at every level.
fn spaces() -> Vec<Act> {
    let mut acts = vec![Act::Clear(ALWAYS), set(1, 1, 300), Act::Use(1), set(2, 1, 700)];
    acts.extend([set(3, 2, 700), Act::Swap(ALWAYS, 0, 1), scan_all(), Act::Clear(ALWAYS)]);
    acts.extend([scan_all(), set(4, 3, 900), Act::Mix(ALWAYS, 2, key(4), value(5, 600))]);
    acts.extend([Act::Use(2), scan_all(), set(6, 5, 900), Act::Compact, Act::Swap(OS, 1, 2)]);
    acts.extend([Act::Read(ALWAYS, key(4)), Act::Clear(OS), Act::Read(ALWAYS, key(9))]);
    acts.extend([Act::Work(20), Act::Reopen, Act::Use(0), Act::Set(OS, key(1), value(7, 500))]);
    acts.push(Act::Beside);
    acts.extend([Act::Clear(OS), Act::Read(ALWAYS, key(1)), Act::Clear(ALWAYS), set(8, 1, 900)]);
    acts.extend([Act::Mix(OS, 1, key(2), value(9, 900)), Act::Compact, Act::Read(ALWAYS, key(2))]);
    acts.extend([Act::Swap(ALWAYS, 0, 0), Act::Swap(ALWAYS, 2, 0), Act::Verify, scan_all()]);
    acts.extend([Act::Use(1), scan_all(), Act::Clear(ALWAYS), Act::Work(20), Act::Compact]);
    acts
}

/// The records that say which generation a space has: written, superseded, copied, and read again by
/// opens that give the next numbers.
fn records_of_spaces() -> Vec<Act> {
    let mut acts = Vec::new();
    for round in 0..4 {
        for (n, space) in [0, 1, 300].into_iter().enumerate() {
            let k = round * 10 + n as u64;
            acts.extend([Act::Use(space), set(k, k % 4, 900), Act::Set(OS, key(9), value(k, 20))]);
            acts.extend((round > 0).then_some(Act::Clear(if n == 1 { OS } else { ALWAYS })));
            acts.push(set(k + 100, 5, 300));
        }
        acts.extend([Act::Swap(if round % 2 == 0 { ALWAYS } else { OS }, 1, 300), scan_all()]);
        acts.extend([Act::Work(20), Act::Compact, Act::Reopen, Act::Use(1), scan_all()]);
        // After an open, and before anything else: the number must be new.
        acts.extend([Act::Clear(ALWAYS), Act::Use(300), scan_all(), set(round + 200, 5, 10)]);
        acts.extend([
            Act::Use(1),
            scan_all(),
            Act::Mix(ALWAYS, 2, key(4), value(round + 300, 600)),
        ]);
    }
    acts.extend([Act::Compact, Act::Verify, Act::Use(2), scan_all(), Act::Use(300), scan_all()]);
    acts
}

/// Keys that expire: read, overwritten, removed and swept afterwards, over compactions and reopens.
fn deadlines() -> Vec<Act> {
    let set_for = |level, n, k, ms| Act::SetFor(level, key(k), value(n, 500), ms);
    let mut acts = vec![set_for(ALWAYS, 1, 1, 1000), set_for(ALWAYS, 2, 2, 5000), set(3, 3, 300)];
    acts.extend([set_for(ALWAYS, 4, 3, 0), Act::Read(ALWAYS, key(3)), Act::Wait(999), scan_all()]);
    acts.extend([Act::Wait(1), Act::Read(ALWAYS, key(1)), remove(1), Act::Work(9), scan_all()]);
    acts.extend([set_for(ALWAYS, 5, 1, 1000), set(6, 2, 500), Act::Wait(6000), Act::Reopen]);
    acts.extend([Act::Read(ALWAYS, key(2)), set_for(OS, 7, 4, 10), Act::Wait(10)]);
    acts.extend([Act::Read(ALWAYS, key(4)), set(8, 4, 900), set_for(OS, 9, 4, 50), Act::Wait(50)]);
    acts.extend([scan_all(), Act::Compact, Act::Work(20), Act::Compact, Act::Reopen, scan_all()]);
    acts.extend((0..8).map(|k| set_for(if k % 2 == 0 { OS } else { ALWAYS }, 20 + k, k, 100)));
    acts.extend([Act::Move(ALWAYS, key(1), key(2)), Act::Compact, Act::Wait(100)]);
    acts.extend([Act::Move(ALWAYS, key(1), key(2)), Act::Work(1), Act::Work(1), set(30, 3, 10)]);
    acts.extend([Act::Work(20), scan_all(), Act::Verify, scan_all()]);
    acts
}

/// Wall clocks that are set forward and back between a deadline, the answer that shows that it has
/// passed, and the sweep; over clean closes too.
fn wall_clocks() -> Vec<Act> {
    const HOUR_MS: i64 = 3_600_000;
    let set_for = |level, n, k, ms| Act::SetFor(level, key(k), value(n, 300), ms);
    let mut acts = vec![set(1, 1, 300), Act::Jump(HOUR_MS), set_for(ALWAYS, 2, 2, 1000)];
    acts.extend([set_for(OS, 3, 3, 1500), Act::Wait(1000), Act::Read(ALWAYS, key(2))]);
    acts.extend([Act::Jump(-HOUR_MS), Act::Wait(400), Act::Read(OS, key(3)), Act::Wait(100)]);
    acts.extend([Act::Read(OS, key(3)), scan_all(), Act::Jump(-HOUR_MS), Act::Work(9)]);
    acts.extend([set_for(ALWAYS, 4, 4, 5000), Act::Reopen, Act::Wait(4999), scan_all()]);
    acts.extend([Act::Wait(1), remove(4), set_for(OS, 5, 4, 700), Act::Reopen, Act::Wait(700)]);
    acts.extend([Act::Move(ALWAYS, key(4), key(5)), Act::Jump(2 * HOUR_MS), set(6, 6, 20)]);
    acts.extend((7..12).map(|n| set_for(OS, n, n, 100 * n)));
    acts.extend([Act::Flush, Act::Wait(800), Act::Read(ALWAYS, key(7)), Act::Compact]);
    acts.extend([Act::Jump(-HOUR_MS), Act::Wait(300), scan_all(), Act::Work(20), scan_all()]);
    acts.extend([
        set_for(ALWAYS, 20, 1, 50),
        Act::Wait(50),
        Act::Reopen,
        Act::Work(9),
        set(21, 1, 9),
    ]);
    acts
}

/// Deadlines by the wall clock, and beside them some by elapsed time, while it is set forward and back:
/// keys that a wrong clock has shown as expired stay gone, and those that come after it are right.
fn deadlines_by_the_wall_clock() -> Vec<Act> {
    const HOUR_MS: i64 = 3_600_000;
    const HOUR: u64 = HOUR_MS.unsigned_abs();
    let set_at = |level, n, k, ms| Act::SetAt(level, key(k), value(n, 300), ms);
    let set_for = |level, n, k, ms| Act::SetFor(level, key(k), value(n, 300), ms);
    let mut acts = vec![set_at(ALWAYS, 1, 1, 5000), set_for(ALWAYS, 2, 2, 5000), set(3, 3, 20)];
    acts.extend([set_at(OS, 4, 4, 2 * HOUR), Act::Wait(1000), scan_all(), Act::Jump(HOUR_MS)]);
    acts.extend([Act::Read(ALWAYS, key(1)), set_at(ALWAYS, 5, 5, 100), set(6, 1, 10)]);
    acts.extend([Act::JumpAndLook(ALWAYS, -HOUR_MS), set_at(ALWAYS, 7, 6, 2000), scan_all()]);
    acts.extend([Act::Read(OS, key(5)), set_at(OS, 8, 5, 3000), Act::Wait(2000), scan_all()]);
    acts.extend([Act::Jump(HOUR_MS), Act::Read(ALWAYS, key(5)), Act::Jump(-HOUR_MS)]);
    acts.extend((7..47).map(|k| set_at(OS, k, k, if k % 2 == 0 { 3000 } else { 2 * HOUR })));
    acts.extend([Act::Flush, Act::Jump(HOUR_MS), Act::Read(ALWAYS, key(8)), Act::Compact]);
    acts.extend([Act::JumpAndLook(OS, -HOUR_MS), set_at(ALWAYS, 50, 8, 1000), scan_all()]);
    acts.extend([Act::Compact, Act::Wait(1000), scan_all(), Act::Reopen, Act::Beside]);
    acts.extend([Act::Jump(-HOUR_MS), Act::Reopen, scan_all(), set_at(OS, 51, 9, 500)]);
    acts.extend([Act::Swap(OS, 0, 1), Act::Jump(2 * HOUR_MS), Act::Use(1), scan_all()]);
    acts.extend([Act::Clear(OS), Act::Jump(-HOUR_MS), set_at(ALWAYS, 52, 9, 500), Act::Verify]);
    acts.extend([Act::Wait(500), scan_all(), Act::Work(20), Act::Reopen, scan_all()]);
    acts
}

/// So many small segments that the open merges them, and an open that finds no space after its merge.
fn refused_open() -> Vec<Act> {
    let mut acts: Vec<Act> = (0..16).flat_map(|n| [set(n, n % 9, 40), Act::Reopen]).collect();
    acts.extend([set(20, 3, 40), Act::RefusedOpen, scan_all(), set(21, 4, 40), Act::Reopen]);
    acts
}

/// Compactions that find no space: for the copy of a single segment, which takes the reserve, for
/// the copies of several, and at the manifest.
fn refused() -> Vec<Act> {
    let mut acts = vec![set(1, 1, 500), set(2, 1, 500), Act::Work(9)];
    acts.extend([Act::NoSpaceAt(Site::CopyWrite), Act::Compact, Act::Work(9)]);
    acts.extend((0..10).map(|n| set(n, n % 4, 900)));
    acts.extend([Act::NoSpaceAt(Site::CopyWrite), Act::Compact, set(20, 2, 900), Act::Compact]);
    // Nothing is left to seal now, so that the manifest's next edit is the compaction's.
    acts.extend([Act::NoSpaceAt(Site::ManifestWrite), Act::Compact, set(21, 3, 900), remove(1)]);
    acts.extend([Act::Work(9), Act::NoSpaceAt(Site::CopyDirSync), Act::Compact]);
    acts.extend([Act::Compact, scan_all(), set(23, 4, 900)]);
    acts
}

/// Appends and edits that find no space when half of them is written, and writes to another
/// segment afterwards.
fn broken_off() -> Vec<Act> {
    let halves = |n: u8| {
        let pair = |k: u8| (vec![b'h', n, k], Some(vec![0; 200]));
        vec![Act::HalfAt(Site::FrameWrite), Act::Batch(ALWAYS, vec![pair(1), pair(2)])]
    };
    let mut acts = vec![];
    // Of a new segment, of one that is going on, and of one that has been left.
    for n in 0..3 {
        acts.extend(halves(n));
        acts.extend([Act::Work(9), set(n.into(), 1, 4000), set(n.into(), 2, 10)]);
    }
    acts.extend([Act::Work(9), Act::HalfAt(Site::ManifestWrite), Act::Compact, set(4, 3, 10)]);
    acts.extend([Act::Work(9), Act::HalfAt(Site::ManifestWrite), set(5, 1, 4000), Act::Work(9)]);
    acts.extend([set(6, 1, 4000), Act::Compact, scan_all(), Act::Reopen, scan_all()]);
    acts
}

/// A segment that grows by steps, the first time without space for it.
fn growing() -> Vec<Act> {
    let mut acts = vec![Act::NoSpaceAt(Site::SegmentExtend)];
    for n in 0..14 {
        acts.push(Act::Set(if n % 4 == 1 { OS } else { ALWAYS }, key(n % 6), value(n, 30_000)));
        if n % 3 == 0 {
            acts.push(Act::Work(2));
        }
    }
    acts.extend([remove(1), scan_all(), Act::Reopen, set(20, 1, 200_000), scan_all()]);
    acts
}

/// So many segments that the manifest is written anew, first without space for that.
fn many_edits() -> Vec<Act> {
    let mut acts = vec![Act::NoSpaceAt(Site::ManifestAllocate)];
    for n in 0..500 {
        acts.push(Act::Set(OS, key(n % 3), value(n, 4000)));
        acts.push(Act::Work(9));
        if n % 40 == 39 {
            acts.push(Act::Compact);
        }
    }
    acts
}

/// So many dead bytes that background work compacts.
fn due() -> Vec<Act> {
    let mut acts = Vec::new();
    for n in 0..120 {
        acts.push(Act::Set(OS, key(n % 3), value(n, 70_000)));
        acts.push(Act::Work(9));
    }
    acts.push(scan_all());
    acts
}

/// The workload that a failure names: a script, or `random SEED`.
pub(crate) fn named(name: &str) -> Option<Workload> {
    match name.strip_prefix("random ") {
        Some(seed) => seed.parse().ok().map(random),
        None => scripted().into_iter().find(|workload| workload.name == name),
    }
}

/// A script from a seed.
pub(crate) fn random(seed: u64) -> Workload {
    let mut dice = Dice::new(seed);
    let acts = (0..40 + dice.below(40)).map(|n| random_act(n, &mut dice)).collect();
    Workload::new(format!("random {seed}"), acts)
}

fn random_act(n: u64, dice: &mut Dice) -> Act {
    let level = [ALWAYS, ALWAYS, OS, INTERVAL][dice.below(4) as usize];
    let bytes = [0, 20, 300, 900, 2500][dice.below(5) as usize];
    let k = dice.below(8);
    match dice.below(143) {
        0..40 => Act::Set(level, key(k), value(n, bytes)),
        40..52 => Act::Remove(level, key(k)),
        52..62 => {
            let changes = (0..=dice.below(5)).map(|nth| {
                let set = dice.below(3) > 0;
                (key(dice.below(8)), set.then(|| value(n * 100 + nth, bytes)))
            });
            Act::Batch(level, changes.collect())
        }
        62..70 => Act::Move(level, key(k), key(dice.below(8))),
        70..76 => Act::Read(level, key(k)),
        76..81 => {
            let (start, end) = (Bound::Included(key(k)), Bound::Unbounded);
            let range = KeyRange { start, end, reverse: dice.below(2) == 0 };
            Act::Scan(level, range, 1 + dice.below(5) as usize)
        }
        81..84 => Act::Flush,
        84..88 => Act::Compact,
        88..94 => Act::Work(1 + dice.below(4) as usize),
        94..97 => Act::Wait(dice.below(7000)),
        97..100 => Act::Reopen,
        100..108 => Act::Use(dice.below(3) as u32),
        108..118 => {
            let ms = [0, 1, 700, 5000][dice.below(4) as usize];
            Act::SetFor(level, key(k), value(n, bytes), ms)
        }
        118..121 => Act::Clear(level),
        121..124 => Act::Swap(level, dice.below(3) as u32, dice.below(3) as u32),
        124..127 => Act::Mix(level, dice.below(3) as u32, key(k), value(n, bytes)),
        127..130 => Act::Wait(700),
        140.. => Act::Jump([3_600_000, -3_600_000, 5000][dice.below(3) as usize]),
        _ => Act::Chain(level, random_links(n, dice)),
    }
}

/// Batches to be asked for together, every other time of sets alone, and small ones, so that they
/// often go into one call.
fn random_links(n: u64, dice: &mut Dice) -> Vec<Link> {
    let only_sets = dice.below(2) == 0;
    let links = 2 + dice.below(7);
    let bytes = [0, 20, 20, 90, 700][dice.below(5) as usize];
    let mut nth = n * 1000;
    let link = |_| {
        let ms = [None, None, None, Some(0), Some(700)][dice.below(5) as usize];
        let changes = (0..=dice.below(3)).map(|_| {
            nth += 1;
            let set = only_sets || ms.is_some() || dice.below(3) > 0;
            (key(dice.below(8)), set.then(|| value(nth, bytes)))
        });
        (ms, changes.collect())
    };
    (0..links).map(link).collect()
}
