//! The crash sweep: the power is cut after every call that a store makes to its disk.
//!
//! Each workload runs once to count its calls, then once per call: with the power cut there, or
//! with that one call going wrong. The disk after the crash (nothing of the unsynced, some of it, or
//! all) is opened again and shown to the oracle, and so is the disk after the power fails a
//! second time, after any call of that open. Promised are: no acknowledged write lost, none back,
//! no batch halved, no reply undone, and a store that opens and goes on. At every other crash somebody
//! sets the wall clock back an hour: no key that was shown as expired comes back.
//!
//! Every call is crashed in a store that reads by calls, every twelfth one in a store that reads through
//! mappings of its files, and every twelfth one where these mappings fail.
//!
//! `CRASH_POINTS=n` sets how many crashes are tried (default: 110,000): the scripts first, thinned
//! out if they are more than that, then random workloads until there were enough. The summary
//! names the calls of the engine that no crash crossed; with the default or more, there must be
//! none, and enough random workloads. `CRASH_WORKLOAD="random 17"` sweeps only the workload that a failure named, in exactly the
//! same way.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use aryavarth::fs::{Crash, Fault, SimFs, Site};
use aryavarth::{Durability, KvsError};

use crate::oracle::Oracle;
use crate::runner::{Act, Runner};
use crate::scene::{Scene, in_two_threads};
use crate::workload::{Mapping, Workload, named, random, scripted};

const CRASH_POINTS: u64 = 110_000;
const SCRIPT_POINTS: u64 = 85_000;
/// Random workloads that the default must leave points for: fewer show little.
const RANDOM_WORKLOADS_MIN: u64 = 4;

/// How single calls go wrong, in turn.
const FAULTS: [Fault; 4] = [Fault::LostSync, Fault::NoSpace, Fault::LostSync, Fault::Short];

/// One run in so many has its opens crashed too, for each kind of crash.
const DEEP_EVERY: u64 = 64;

/// How far from the site of interest a long workload is crashed, in calls.
const NEAR_CALLS: u64 = 20;

/// How far the wall clock is set back before an open.
const BACK_MS: i64 = -3_600_000;

/// Why no workload crosses the calls of the note.
const NOTED: &str = "only beside rot; the note is cut short at every call by its own test";

/// Calls that no sweep can cross, each with its reason.
const NOT_CROSSED: &[(Site, &str)] = &[
    (Site::TableReserve, "no call of the disk: all 65,536 segments are taken"),
    (Site::SegmentScanPiece, "only where a disk cannot read"),
    (Site::StrayLogOpen, "only where rot has taken an edit of the manifest"),
    (Site::StrayLogLength, "only where rot has taken an edit of the manifest"),
    (Site::SegmentSaltRead, "only where rot has taken an edit of the manifest"),
    (Site::HintSaltOpen, "only where rot has taken an edit of the manifest"),
    (Site::HintSaltRead, "only where rot has taken an edit of the manifest"),
    (Site::ReserveSpend, "only an open on a full disk, which has a test of its own"),
    (Site::ReserveRename, "only a reserve that has to grow, which has a test of its own"),
    (Site::DamageNoteOpen, NOTED),
    (Site::DamageNoteRead, NOTED),
    (Site::DamageNoteLeftover, NOTED),
    (Site::DamageNoteCreate, NOTED),
    (Site::DamageNoteWrite, NOTED),
    (Site::DamageNoteSync, NOTED),
    (Site::DamageNoteRename, NOTED),
    (Site::DamageNoteDirSync, NOTED),
    (Site::DamageNoteRemove, NOTED),
    (Site::SalvagePath, "the simulated disk has no links"),
    (Site::SalvageDirCreate, "salvage is cut short at every call by its own test"),
    (Site::SalvageDirList, "salvage is cut short at every call by its own test"),
    (Site::SalvageUndoList, "salvage is cut short at every call by its own test"),
    (Site::SalvageUndo, "salvage is cut short at every call by its own test"),
];

/// Whether the outcome is unknown after a call at this site that found no space: a sync, or a call
/// that was to take back an append that found no space before.
pub(crate) fn may_poison(site: Site) -> bool {
    site.text().contains("sync") || matches!(site, Site::FrameErase | Site::ManifestErase)
}

/// The fault of a run.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// The power is cut before this call.
    PowerCut(u64),
    /// This call alone goes wrong.
    Fault(u64, Fault),
}

/// Crashes of one workload, and the events that they crossed.
struct Sweep {
    workload: Workload,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    runs: u64,
    random_workloads: u64,
    points: u64,
    opens_cut: u64,
    crossed: BTreeSet<Site>,
    called: BTreeSet<Site>,
    wrong: Vec<String>,
}

impl Sweep {
    /// Runs the workload once, undisturbed, and checks that it ends as it should.
    fn rehearse(&mut self) -> Vec<Site> {
        let _scene = Scene::new(format!("{}, undisturbed", self.workload.name));
        let fs = SimFs::new();
        let mut runner = Runner::new(&fs, &self.workload, Oracle::default());
        runner.run_whole(&self.workload.acts).expect("an undisturbed run has no errors");
        let trace = fs.trace();
        self.tally.called.extend(trace.iter().copied());
        trace
    }

    /// The calls at which to crash, in the run that made these.
    fn calls(&self, trace: &[Site], stride: u64) -> Vec<u64> {
        let Some(near) = self.workload.near else {
            return (0..=trace.len() as u64).step_by(stride as usize).collect();
        };
        let at = trace.iter().rposition(|site| *site == near).expect("the site is reached") as u64;
        (at - NEAR_CALLS..=(at + NEAR_CALLS).min(trace.len() as u64)).collect()
    }

    /// Crashes the workload at every `stride`th call: at all of them with files that are read by calls, and
    /// at a twelfth of them with each kind of mapping. A long one has only the faithful kind.
    fn sweep(mut self, stride: u64) -> Tally {
        self.tally.random_workloads += u64::from(self.workload.name.starts_with("random "));
        let mut changes = Vec::new();
        for mapping in Mapping::ALL {
            let is_long = self.workload.near.is_some();
            if is_long && mapping == Mapping::Lying {
                break;
            }
            self.workload.mapping = mapping;
            let trace = self.rehearse();
            // The calls that change the disk are the same, however the files are read.
            let is_change = |site: &&Site| ![Site::RecordRead, Site::RecordReadNow].contains(site);
            let these: Vec<Site> = trace.iter().filter(is_change).copied().collect();
            if changes.is_empty() {
                changes.clone_from(&these);
            }
            assert_eq!(these, changes, "{}, mapped {mapping:?}", self.workload.name);
            let turn = match mapping {
                Mapping::Faithful if !is_long => (0, 12),
                Mapping::Lying => (6, 12),
                Mapping::None | Mapping::Faithful => (0, 1),
            };
            self.sweep_calls(&trace, stride, turn);
        }
        self.tally
    }

    fn sweep_calls(&mut self, trace: &[Site], stride: u64, (first, step): (usize, usize)) {
        for call in self.calls(trace, stride).into_iter().skip(first).step_by(step) {
            if self.tally.wrong.len() > 5 {
                break;
            }
            self.run(Trouble::PowerCut(call));
            if call < trace.len() as u64 {
                let fault = FAULTS[(self.tally.runs / 2) as usize % FAULTS.len()];
                self.run(Trouble::Fault(call, fault));
            }
        }
    }

    fn run(&mut self, trouble: Trouble) {
        let Workload { name, mapping, .. } = &self.workload;
        let scene = Scene::new(format!("{name}, mapped {mapping:?}, {trouble:?}"));
        let fs = SimFs::new();
        let mut runner = Runner::new(&fs, &self.workload, Oracle::default());
        match trouble {
            Trouble::PowerCut(call) => fs.fail_from(call),
            Trouble::Fault(call, fault) => fs.fail_call(call, fault),
        }
        let done = runner.run_whole(&self.workload.acts);
        let troubled = match trouble {
            Trouble::PowerCut(call) | Trouble::Fault(call, _) => fs.calls() > call,
        };
        if let Err(error) = &done {
            assert!(troubled, "an error before anything went wrong: {error}");
            let short = matches!(trouble, Trouble::Fault(_, Fault::Short));
            assert!(!short, "a short call is no error: {error}");
            runner.look_after_failure();
        }
        if let (Trouble::Fault(call, Fault::NoSpace), Err(KvsError::Poisoned { reason })) =
            (trouble, &done)
            && let Some(site) = fs.trace().get(call as usize)
            && !may_poison(*site)
        {
            self.tally
                .wrong
                .push(format!("{}: no space at {site:?} poisons: {reason}", scene.text));
        }
        let trace = fs.trace();
        if let Trouble::PowerCut(call @ 1..) = trouble {
            self.tally.crossed.insert(trace[call as usize - 1]);
        }
        self.tally.called.extend(trace);
        self.tally.runs += 1;
        let seed = self.tally.runs;
        for crash in [Crash::Nothing, Crash::Everything, Crash::Some { seed }] {
            if matches!((trouble, crash), (Trouble::Fault(..), Crash::Some { .. })) {
                continue;
            }
            let _scene = Scene::new(format!("{}, then {crash:?}", scene.text));
            let deep = match crash {
                // The opens of a long workload's store are like those of a short one's, but slow.
                _ if self.workload.near.is_some() && seed != 5 => false,
                Crash::Nothing => seed.is_multiple_of(DEEP_EVERY),
                Crash::Everything => seed % DEEP_EVERY == 21,
                Crash::Some { .. } => seed % DEEP_EVERY == 42,
            };
            self.after(&fs.crash(crash), crash, &runner.oracle, deep, &scene.text);
        }
        runner.expect_last_acceptance();
        let oracle = runner.oracle.clone();
        drop(runner);
        if matches!(trouble, Trouble::Fault(..)) {
            let _scene = Scene::new(format!("{}, then a drop", scene.text));
            self.after(&fs.crash(Crash::Nothing), Crash::Nothing, &oracle, false, &scene.text);
        }
    }

    /// Opens the disk after a crash, checks it, and crashes it again if `deep`.
    fn after(&mut self, left: &SimFs, crash: Crash, oracle: &Oracle, deep: bool, scene: &str) {
        self.tally.points += 1;
        let opened = left.crash(Crash::Everything);
        let mut oracle = oracle.clone();
        if self.tally.points.is_multiple_of(2) {
            oracle.wall.jump(BACK_MS);
        }
        let oracle = &oracle;
        match recover(&opened, &self.workload, crash, oracle) {
            Ok(()) => {}
            Err(what) => self.tally.wrong.push(format!("{scene}, then {crash:?}: {what}")),
        }
        if !deep {
            return;
        }
        let calls = {
            let fs = left.crash(Crash::Everything);
            let mut runner = Runner::new(&fs, &self.workload, oracle.clone());
            let _ = runner.open();
            self.tally.called.extend(fs.trace());
            fs.calls()
        };
        for call in 0..calls {
            let _scene = Scene::new(format!("{scene}, then {crash:?}, opened until call {call}"));
            let fs = left.crash(Crash::Everything);
            fs.fail_from(call);
            let mut runner = Runner::new(&fs, &self.workload, oracle.clone());
            let _ = runner.open();
            self.tally.crossed.extend(fs.trace()[..call as usize].last());
            let again = if call % 2 == 0 { Crash::Nothing } else { Crash::Some { seed: call } };
            self.tally.points += 1;
            self.tally.opens_cut += 1;
            if let Err(what) = recover(&fs.crash(again), &self.workload, again, oracle) {
                let open = format!("then {crash:?}, opened until call {call}, then {again:?}");
                self.tally.wrong.push(format!("{scene}, {open}: {what}"));
            }
        }
    }
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.runs += other.runs;
        self.random_workloads += other.random_workloads;
        self.points += other.points;
        self.opens_cut += other.opens_cut;
        self.crossed.extend(other.crossed);
        self.called.extend(other.called);
        self.wrong.extend(other.wrong);
    }

    fn summary(&self) -> String {
        let mut text = format!(
            "{} crash points ({} of them in an open), {} random workloads, {} of {} call sites \
             crossed",
            self.points,
            self.opens_cut,
            self.random_workloads,
            self.crossed.len(),
            Site::ALL.len()
        );
        for site in self.never_crossed() {
            let reason = NOT_CROSSED.iter().find(|(other, _)| *other == site);
            let reason = reason.map_or("no crash crossed it", |(_, reason)| reason);
            let called = if self.called.contains(&site) { "called" } else { "never called" };
            let _ = write!(text, "\n  not crossed: {site:?} ({called}): {reason}");
        }
        for wrong in &self.wrong {
            let _ = write!(text, "\n  wrong: {wrong}");
        }
        text
    }

    fn never_crossed(&self) -> impl Iterator<Item = Site> {
        // sled keeps its own, real files: no simulated disk meets the calls around them. The Raft
        // log has a sweep of its own, in its crate.
        let is_ours = |site: &Site| {
            let name = format!("{site:?}");
            !["Sled", "Raft"].iter().any(|other| name.starts_with(other))
        };
        let all = Site::ALL.iter().copied().filter(is_ours);
        all.filter(|site| !self.crossed.contains(site))
    }
}

/// Opens the store, checks its contents, and that it goes on from there, come what may.
pub(crate) fn recover(
    fs: &SimFs,
    workload: &Workload,
    crash: Crash,
    oracle: &Oracle,
) -> Result<(), String> {
    let failed = |what: &'static str| move |error: KvsError| format!("{what}: {error}");
    let mut runner = Runner::new(fs, workload, oracle.clone());
    runner.open().map_err(failed("the store does not open"))?;
    runner.restarted(crash)?;
    let found = runner.state().map_err(failed("the store cannot be read"))?;
    let count = runner.oracle.check(&found, crash)?;
    runner.oracle.settle(count);

    // Shown values must hold, even if the power fails now.
    let again = fs.crash(Crash::Nothing);
    let mut second = Runner::new(&again, workload, runner.oracle.clone());
    second.open().map_err(failed("the store does not open after a second crash"))?;
    second.restarted(Crash::Nothing)?;
    let found = second.state().map_err(failed("the store cannot be read after a second crash"))?;
    let undone = |what| format!("a second crash undid what was shown: {what}");
    second.oracle.check(&found, Crash::Nothing).map_err(undone)?;
    drop(second);

    runner.close().map_err(failed("the store does not close"))?;
    runner.run(&afterwards()).map_err(failed("the store does not go on"))?;
    let last = fs.crash(Crash::Nothing);
    let mut third = Runner::new(&last, workload, runner.oracle.clone());
    third.verify().map_err(failed("the store cannot be verified after a third crash"))?;
    third.open().map_err(failed("the store does not open after a third crash"))?;
    third.restarted(Crash::Nothing)?;
    let found = third.state().map_err(failed("the store cannot be read after a third crash"))?;
    let undone = |what| format!("a third crash undid what was written since: {what}");
    third.oracle.check(&found, Crash::Nothing).map(drop).map_err(undone)
}

/// A use of a recovered store, to see that it works.
fn afterwards() -> Vec<Act> {
    let (always, os) = (Durability::Always, Durability::Os);
    let name = |n: u8| vec![b'z', n];
    vec![
        Act::Set(always, name(1), vec![1; 3000]),
        Act::Batch(os, vec![(name(2), Some(vec![2; 3000])), (name(1), None)]),
        Act::Work(2),
        Act::Compact,
        Act::Set(os, b"key-01".to_vec(), vec![3; 10]),
        Act::Reopen,
        Act::Remove(always, name(2)),
        Act::Use(1),
        Act::SetFor(os, name(3), vec![4; 3000], 1000),
        Act::Swap(os, 1, 2),
        Act::Clear(always),
        Act::Set(always, name(4), vec![5; 10]),
        Act::Wait(1000),
        Act::Jump(-BACK_MS),
        Act::Work(5),
    ]
}

fn points_asked() -> u64 {
    let asked = std::env::var("CRASH_POINTS").ok();
    asked.map_or(CRASH_POINTS, |text| text.parse().expect("CRASH_POINTS is a number"))
}

#[test]
fn no_crash_undoes_what_anybody_was_told() {
    let points_max = points_asked();
    if let Ok(name) = std::env::var("CRASH_WORKLOAD") {
        let workload = named(&name).expect("CRASH_WORKLOAD names a script, or is \"random SEED\"");
        let tally = Sweep { workload, tally: Tally::default() }.sweep(1);
        println!("{}", tally.summary());
        assert!(tally.wrong.is_empty(), "{}", tally.summary());
        return;
    }
    // Crashing the scripts at every call takes about so many.
    let stride = (SCRIPT_POINTS / points_max).max(1);
    let scripts = scripted().into_iter().map(move |script| (script, stride));
    let randoms = (0..).map(|seed| (random(seed), 1));
    let scripts_left = scripts.len();
    let queue = Mutex::new((scripts.chain(randoms), scripts_left));
    let all = Arc::new(Mutex::new(Tally::default()));
    let sum = Arc::clone(&all);
    let next = move || {
        let enough = sum.lock().unwrap().points >= points_max;
        let mut queue = queue.lock().unwrap();
        let script = queue.1 > 0;
        queue.1 = queue.1.saturating_sub(1);
        if script || !enough { queue.0.next() } else { None }
    };
    let sum = Arc::clone(&all);
    in_two_threads(move || {
        while let Some((workload, stride)) = next() {
            let sweep = Sweep { workload, tally: Tally::default() };
            let tally = sweep.sweep(stride);
            sum.lock().unwrap().add(tally);
        }
    });
    let all = all.lock().unwrap();
    println!("{}", all.summary());
    assert!(all.wrong.is_empty(), "{}", all.summary());
    if points_max >= CRASH_POINTS {
        let missed = all.never_crossed();
        let missed: Vec<Site> =
            missed.filter(|site| !NOT_CROSSED.iter().any(|(other, _)| other == site)).collect();
        assert_eq!(missed, [], "call sites that no crash crossed");
        let random = all.random_workloads;
        assert!(random >= RANDOM_WORKLOADS_MIN, "the scripts left room for {random} random ones");
    }
}
