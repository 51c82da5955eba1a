//! The crash sweep of the Raft log: the power is cut after every call that it makes to its disk.
//!
//! Each story runs once to count its calls, then twice per call: with the power cut there, and with that
//! one call going wrong. The disk after the crash (nothing of the unsynced, some of it, or all) is opened
//! again: the log is a prefix of the records that were taken, nothing acknowledged is missing, no vote
//! goes back, and it goes on from there. Some opens are cut, too, at each of their calls.
//!
//! `CRASH_POINTS=n` sets how many crashes are tried (default: 20,000). The summary names the calls of the Raft
//! log that no crash crossed; with the default or more there must be none.

use std::collections::BTreeSet;
use std::path::Path;

use aryavarth::fs::{Crash, Fault, SimFs, Site};
use aryavarth_raft::{Node, RaftError, RaftLog, Result};

use crate::story::{
    Act, DATA, Model, Random, Teller, disk, entries, identity, open, options, story,
};

const CRASH_POINTS: u64 = 20_000;
/// Calls of a story.
const ACTS: usize = 40;
/// One crash in so many has its open cut at each call.
const DEEP_EVERY: u64 = 47;

/// How single calls go wrong, in turn.
const FAULTS: [Fault; 4] = [Fault::LostSync, Fault::NoSpace, Fault::Io, Fault::Short];

/// Calls that no sweep can cross, each with its reason.
const NOT_CROSSED: &[(&str, &str)] =
    &[("RaftFileDiscard", "only on a full disk, which has power: the faults go through it")];

#[derive(Clone, Copy, Debug)]
enum Trouble {
    PowerCut(u64),
    Fault(u64, Fault),
}

#[derive(Default)]
struct Tally {
    points: u64,
    stories: u64,
    crossed: BTreeSet<Site>,
    wrong: Vec<String>,
}

impl Tally {
    /// Crashes one story at each of its calls.
    fn sweep(&mut self, seed: u64, points_max: u64) {
        let acts = story(seed, ACTS);
        let mut teller = Teller::new(&disk());
        teller.tell(&acts).expect("an undisturbed story has no errors");
        let calls = teller.fs.calls();
        let found = Model::of(teller.log.as_ref().unwrap()).unwrap();
        assert_eq!(Some(&found), teller.models.last(), "story {seed}");
        self.stories += 1;
        let begin = disk().calls();
        for call in begin..calls {
            if self.points >= points_max || self.wrong.len() > 5 {
                return;
            }
            let fault = FAULTS[(call + seed) as usize % FAULTS.len()];
            for trouble in [Trouble::PowerCut(call), Trouble::Fault(call, fault)] {
                self.run(seed, &acts, trouble);
            }
        }
    }

    fn run(&mut self, seed: u64, acts: &[Act], trouble: Trouble) {
        let fs = disk();
        match trouble {
            Trouble::PowerCut(call) => fs.fail_from(call),
            Trouble::Fault(call, fault) => fs.fail_call(call, fault),
        }
        let mut teller = Teller::new(&fs);
        let done = teller.tell(acts);
        let scene = format!("story {seed}, {trouble:?}");
        if matches!(trouble, Trouble::Fault(_, Fault::Short)) && done.is_err() {
            self.wrong.push(format!("{scene}: a short call is no error: {done:?}"));
        }
        let trace = fs.trace();
        if let Trouble::PowerCut(call) = trouble {
            self.crossed.extend(trace[..call as usize].last());
        }
        for crash in [Crash::Nothing, Crash::Everything, Crash::Some { seed: self.points }] {
            let scene = format!("{scene}, then {crash:?}");
            self.after(&fs.crash(crash), &teller, &scene);
        }
        // The log is dropped after the crash: its last words are not on that disk.
        drop(teller);
    }

    /// Opens the disk after a crash, and cuts that open, too, from time to time.
    fn after(&mut self, left: &SimFs, teller: &Teller, scene: &str) {
        self.points += 1;
        let fs = left.crash(Crash::Everything);
        if let Err(wrong) = recover(&fs, teller) {
            self.wrong.push(format!("{scene}: {wrong}"));
        }
        if !self.points.is_multiple_of(DEEP_EVERY) {
            return;
        }
        for call in 0.. {
            let fs = left.crash(Crash::Everything);
            fs.fail_from(call);
            let opened = open_or_create(&fs, teller);
            self.crossed.extend(fs.trace()[..fs.trace().len().min(call as usize)].last());
            if opened.is_ok() && fs.calls() <= call {
                break;
            }
            let again = if call % 2 == 0 { Crash::Nothing } else { Crash::Some { seed: call } };
            self.points += 1;
            if let Err(wrong) = recover(&fs.crash(again), teller) {
                self.wrong.push(format!("{scene}, opened until {call}, then {again:?}: {wrong}"));
            }
        }
    }
}

/// Opens a log after a crash, checks it, and goes on with it.
fn recover(fs: &SimFs, teller: &Teller) -> Result<(), String> {
    let failed = |doing: &'static str| move |error: RaftError| format!("{doing}: {error}");
    let log = match open_or_create(fs, teller) {
        Ok(log) => log,
        Err(error) => return Err(format!("the log does not open: {error}")),
    };
    let Some(log) = log else { return Ok(()) };
    let found = Model::of(&log).map_err(failed("the log cannot be read"))?;
    let at = teller.check(&found)?;
    let last = found.last().map(|last| last.index);
    if log.durable() != last {
        return Err(format!("durable up to {:?}, and the log ends at {last:?}", log.durable()));
    }

    // Shown entries must hold, even if the power fails now.
    let again = fs.crash(Crash::Nothing);
    let shown = open(&again).and_then(|log| Model::of(&log));
    if shown.map_err(failed("the log does not open after a second crash"))? != found {
        return Err("a second crash undid entries that were shown".to_owned());
    }

    let mut next = Teller::new(fs);
    next.models = vec![found];
    next.log = Some(log);
    let mut random = Random::new(at as u64);
    for term in [100, 101] {
        let last = next.models.last().and_then(Model::last);
        let acts = [
            Act::Append(entries(&mut random, last, term)),
            Act::Step,
            Act::Truncate(next.models[0].last()),
            Act::Append(entries(&mut random, next.models[0].last(), term)),
            Act::Step,
        ];
        acts.iter().try_for_each(|act| next.act(act)).map_err(failed("the log does not go on"))?;
    }
    let left = fs.crash(Crash::Nothing);
    let log = open(&left).map_err(failed("the log does not open after a third crash"))?;
    let found = Model::of(&log).map_err(failed("the log cannot be read after a third crash"))?;
    next.check(&found).map(drop).map_err(|wrong| format!("after a third crash: {wrong}"))
}

/// The log; `None` if the directory is no node yet, nothing was promised, and it can be made one.
fn open_or_create(fs: &SimFs, teller: &Teller) -> Result<Option<RaftLog>> {
    let (data, options) = (Path::new(DATA), options(fs));
    if let Some(node) = Node::open(data, &options)? {
        return Ok(Some(node.log));
    }
    assert_eq!(teller.acknowledged(), 0, "the node is gone");
    Node::create(data, &identity(), &options)?;
    open(fs).map(|_| None)
}

fn points_asked() -> u64 {
    let asked = std::env::var("CRASH_POINTS").ok();
    asked.map_or(CRASH_POINTS, |text| text.parse().expect("CRASH_POINTS is a number"))
}

#[test]
fn no_crash_undoes_an_answer_of_the_raft_log() {
    let asked = points_asked();
    let mut tally = Tally::default();
    for seed in 0.. {
        if tally.points >= asked || !tally.wrong.is_empty() {
            break;
        }
        tally.sweep(seed, asked);
    }
    let all = Site::ALL.iter().filter(|site| format!("{site:?}").starts_with("Raft"));
    let missed: Vec<String> = all
        .filter(|site| !tally.crossed.contains(site))
        .map(|site| format!("{site:?}"))
        .filter(|name| !NOT_CROSSED.iter().any(|(other, _)| other == name))
        .collect();
    println!(
        "{} crash points in {} stories, {} call sites crossed, not crossed: {missed:?}",
        tally.points,
        tally.stories,
        tally.crossed.len()
    );
    assert!(tally.wrong.is_empty(), "{}", tally.wrong.join("\n"));
    assert!(asked < CRASH_POINTS || missed.is_empty(), "no crash crossed {missed:?}");
}
