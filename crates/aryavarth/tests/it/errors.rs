//! The error sweep: every call that a store makes to its disk fails once, in every way.
//!
//! The disk refuses the call, is full, is interrupted by a signal, moves only a part, or fails a
//! sync and forgets the unwritten pages. Afterwards the disk works again. Promised are:
//!
//! - an interrupted or short call is repeated, and no error reaches the caller;
//! - acknowledged values can be read, or the answer is an error that says why not;
//! - the store is then either poisoned, and says so to every writer until it is reopened, or goes
//!   on writing; only a sync that fails may poison;
//! - and whatever a power cut leaves after that opens, with everything that anybody was told.
//!
//! Each script runs in a store that reads by calls, and in one that reads through mappings half of which fail;
//! random workloads take turns, the third kind being mappings that do not fail.
//!
//! `ERROR_INJECTIONS=n` sets how many failures are tried (default: 8,000): calls of the scripts,
//! evenly spread, then of random workloads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use aryavarth::fs::{Crash, Fault, SimFs, Site};
use aryavarth::{Durability, KvsError};

use crate::crash::{may_poison, recover};
use crate::oracle::Oracle;
use crate::runner::Runner;
use crate::scene::{Scene, in_two_threads};
use crate::workload::{Mapping, Workload, random, scripted};

const ERROR_INJECTIONS: u64 = 8_000;
const FAULTS: [Fault; 5] =
    [Fault::Io, Fault::NoSpace, Fault::Interrupted, Fault::Short, Fault::LostSync];

/// How often a writer asks again after an error, with background work and time between.
const RETRIES: u32 = 20;

#[derive(Default)]
struct Tally {
    injections: u64,
    /// How runs ended: the failure, and the store's message.
    ends: BTreeMap<String, u64>,
    wrong: Vec<String>,
}

/// The calls of an undisturbed run.
fn rehearse(workload: &Workload) -> Vec<Site> {
    let fs = SimFs::new();
    let mut runner = Runner::new(&fs, workload, Oracle::default());
    runner.run_whole(&workload.acts).expect("an undisturbed run has no errors");
    fs.trace()
}

fn name_of(error: &KvsError) -> &'static str {
    match error {
        KvsError::Poisoned { .. } => "poisoned",
        KvsError::Full { .. } => "full",
        KvsError::Corrupt { .. } => "corrupt",
        KvsError::Io(_) => "refused by the disk",
        _ => "another error",
    }
}

/// Runs a workload in which one call fails; says how it ended, or the fault.
fn inject(
    workload: &Workload,
    call: u64,
    site: Site,
    fault: Fault,
) -> Result<&'static str, String> {
    let fs = SimFs::new();
    fs.fail_call(call, fault);
    let mut runner = Runner::new(&fs, workload, Oracle::default());
    let done = runner.run_whole(&workload.acts);
    let end = done.as_ref().err().map_or("done", name_of);
    if let Err(error) = &done {
        if matches!(fault, Fault::Interrupted | Fault::Short) {
            return Err(format!("told of a call that only had to be repeated: {error}"));
        }
        if matches!(error, KvsError::Corrupt { .. }) {
            return Err(format!("a call that fails is taken for damage: {error}"));
        }
        if fault == Fault::NoSpace && end == "poisoned" && !may_poison(site) {
            return Err(format!("no space outside a sync poisons: {error}"));
        }
        runner.look_after_failure();
    }
    for crash in [Crash::Nothing, Crash::Everything] {
        recover(&fs.crash(crash), workload, crash, &runner.oracle)
            .map_err(|what| format!("then {crash:?}: {what}"))?;
    }
    if done.is_err() && runner.is_open() {
        go_on(&runner, workload, &fs)?;
    }
    Ok(end)
}

/// The disk works again: the store says that it is poisoned, or writes.
fn go_on(runner: &Runner, workload: &Workload, fs: &SimFs) -> Result<(), String> {
    fs.limit_space(u64::MAX);
    let store = runner.handle(Durability::Always).with_space(0);
    let mut written = store.put(b"zz", b"after the error");
    if matches!(written, Err(KvsError::Poisoned { .. })) {
        let again = [store.put(b"zz", b"again"), store.compact()];
        return match again.iter().find(|done| !matches!(done, Err(KvsError::Poisoned { .. }))) {
            Some(done) => Err(format!("poisoned once, and then {done:?}")),
            None => Ok(()),
        };
    }
    for _ in 0..RETRIES {
        if written.is_ok() {
            break;
        }
        runner.pass(1_000);
        let _ = store.step();
        written = store.put(b"zz", b"after the error");
    }
    written.map_err(|error| format!("the disk works again, the store does not: {error}"))?;
    let fs = fs.crash(Crash::Nothing);
    let mut later = Runner::new(&fs, workload, Oracle::default());
    later.open().map_err(|error| format!("does not open after it went on: {error}"))?;
    match later.handle(Durability::Always).read(b"zz") {
        Ok(Some(value)) if value == b"after the error" => Ok(()),
        other => Err(format!("what was written after the error is {other:?}")),
    }
}

fn injections_asked() -> u64 {
    let asked = std::env::var("ERROR_INJECTIONS").ok();
    asked.map_or(ERROR_INJECTIONS, |text| text.parse().expect("ERROR_INJECTIONS is a number"))
}

/// Which calls of which workloads fail, and how: every pair, thinned out to the number asked for.
fn plan(asked: u64) -> impl Iterator<Item = (Workload, Vec<(u64, Site, Fault)>)> {
    let pairs_of = |workload: &Workload| -> Vec<(u64, Site, Fault)> {
        let trace = rehearse(workload);
        let calls = (0..).zip(trace);
        calls.flat_map(|(call, site)| FAULTS.map(|fault| (call, site, fault))).collect()
    };
    // The long workloads are about one call each, which the crash sweep crosses.
    let short = |workload: &Workload| workload.near.is_none();
    let scripts: Vec<_> = scripted()
        .into_iter()
        .filter(short)
        .flat_map(|workload| {
            let lying = workload.clone().mapped(Mapping::Lying);
            [workload, lying]
        })
        .map(|workload| {
            let pairs = pairs_of(&workload);
            (workload, pairs)
        })
        .collect();
    let all: usize = scripts.iter().map(|(_, pairs)| pairs.len()).sum();
    // Not a multiple of the number of faults, so that each of them has its turn.
    let stride = (all / (asked as usize).max(1)).max(1);
    let stride = if stride.is_multiple_of(FAULTS.len()) { stride - 1 } else { stride };
    let thin = move |(workload, pairs): (Workload, Vec<_>)| {
        (workload, pairs.into_iter().step_by(stride).collect())
    };
    let randoms = (0..)
        .map(|seed| random(seed).mapped(Mapping::turn(seed)))
        .filter(move |workload| short(workload));
    let randoms = randoms.map(move |workload| {
        let pairs = pairs_of(&workload);
        (workload, pairs)
    });
    scripts.into_iter().map(thin).chain(randoms)
}

#[test]
fn no_failing_call_loses_or_invents_anything() {
    let asked = injections_asked();
    let plan = Mutex::new(plan(asked));
    let all = Arc::new(Mutex::new(Tally::default()));
    let sum = Arc::clone(&all);
    let next = move || {
        let tally = sum.lock().unwrap();
        if tally.injections >= asked || tally.wrong.len() > 5 {
            return None;
        }
        drop(tally);
        plan.lock().unwrap().next()
    };
    let sum = Arc::clone(&all);
    in_two_threads(move || {
        while let Some((workload, failures)) = next() {
            for (call, site, fault) in failures {
                let name = &workload.name;
                let mapping = workload.mapping;
                let scene = Scene::new(format!(
                    "{name}, mapped {mapping:?}, call {call} ({}) with {fault:?}",
                    site.text()
                ));
                let end = inject(&workload, call, site, fault);
                let mut tally = sum.lock().unwrap();
                tally.injections += 1;
                match end {
                    Ok(end) => {
                        *tally.ends.entry(format!("{fault:?}: {end}")).or_default() += 1;
                    }
                    Err(what) => tally.wrong.push(format!("{}: {what}", scene.text)),
                }
            }
        }
    });
    let all = all.lock().unwrap();
    println!("{} injected failures", all.injections);
    for (end, count) in &all.ends {
        println!("  {end}: {count}");
    }
    assert!(all.wrong.is_empty(), "{:#?}", all.wrong);
    assert!(all.injections >= asked.min(ERROR_INJECTIONS), "{} failures", all.injections);
}
