//! The same random commands to Debian's redis and to us: the replies are equal, byte for byte.
//!
//! Scripts are compared in `scripts.rs`. Sequences over every command on strings, keys, deadlines and transactions that redis 7.0 has,
//! in pipelines, with a second connection that interferes, in RESP2 and in RESP3. Deliberate
//! differences stand in `differences.rs`. `DIFFERENTIAL_COMMANDS` says how many commands in each
//! protocol (default 20,000), `DIFFERENTIAL_SEED` repeats a run. After a difference both servers
//! are emptied and the run goes on, so that one run shows them all, the most frequent first, each
//! with the fewest commands found that lead to it.
#![expect(clippy::print_stdout, reason = "a run says what it did, and what it could not do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod description;
mod differences;
mod expiry;
mod generator;
mod pair;
mod scripts;
mod settings;
mod shrink;
mod vocabulary;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aryavarth_tests::parts::redis_tools;
use aryavarth_tests::resp::shown;
use aryavarth_tests::server::{Kind, Server, subject};
use tempfile::TempDir;

use crate::generator::{Generator, Step};
use crate::pair::{Difference, Pair, told};
use crate::shrink::shrunk;

/// After this many differences a run has said enough.
const DIFFERENCES_MAX: usize = 2_000;
/// Kinds of difference that are shrunk and shown.
const KINDS_SHOWN_MAX: usize = 40;
/// How long is spent on making the sequences short.
const SHRINK_TIME_MAX: Duration = Duration::from_secs(60);

/// Two servers, each with a directory of its own.
pub(crate) struct Servers {
    pub(crate) redis: Server,
    pub(crate) ours: Server,
    _directories: [TempDir; 2],
}

impl Servers {
    /// Debian's redis and the subject, or why there is nothing to compare.
    pub(crate) fn start(ours: &Kind, arguments: &[&str]) -> Result<Servers, String> {
        let redis = Kind::Redis(redis_tools()?);
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        Ok(Servers {
            redis: Server::start(&redis, directories[0].path(), &[])?,
            ours: Server::start(ours, directories[1].path(), arguments)?,
            _directories: directories,
        })
    }

    fn pair(&self, version: u8) -> Pair {
        Pair::open(self.redis.addr(), self.ours.addr(), version).unwrap()
    }
}

/// All that was found of one kind.
struct Found {
    count: usize,
    first: Difference,
    history: Vec<Step>,
}

/// Sends `commands` commands and returns every kind of difference.
fn differences(
    servers: &Servers,
    version: u8,
    seed: u64,
    commands: usize,
) -> HashMap<String, Found> {
    let mut generator = Generator::new(seed);
    let mut pair = servers.pair(version);
    let mut found: HashMap<String, Found> = HashMap::new();
    let (mut history, mut sent, mut total) = (Vec::new(), 0, 0);
    while sent < commands && total < DIFFERENCES_MAX {
        let step = generator.step();
        sent += if let Step::Pipeline(commands) = &step { commands.len() } else { 1 };
        let difference = pair.run(&step).unwrap_or_else(|error| {
            panic!("RESP{version}, seed {seed}, before command {sent}: {error}")
        });
        history.push(step);
        if let Some(first) = difference {
            total += 1;
            let history = std::mem::take(&mut history);
            let kind = first.kind();
            found.entry(kind).or_insert(Found { count: 0, first, history }).count += 1;
            pair = pair.again(version).unwrap();
        }
    }
    found
}

/// The kinds of difference as a text, the most frequent first; empty if there are none.
fn report(servers: &Servers, version: u8, found: HashMap<String, Found>) -> String {
    let mut found: Vec<(String, Found)> = found.into_iter().collect();
    found.sort_by_key(|(_, found)| std::cmp::Reverse(found.count));
    let (mut text, start) = (Vec::new(), Instant::now());
    for (kind, Found { count, first, history }) in found.iter().take(KINDS_SHOWN_MAX) {
        text.push(format!("{count} x {kind}"));
        text.push(format!("    at      {}", told(&first.arguments)));
        let time = SHRINK_TIME_MAX.saturating_sub(start.elapsed()).min(Duration::from_secs(5));
        let shrunk = shrunk(servers, version, history, time);
        let (steps, first) = match &shrunk {
            Some((steps, difference)) => (steps.as_slice(), difference),
            None => (&history[history.len().saturating_sub(10)..], first),
        };
        if shrunk.is_none() {
            text.push("    (only as part of the whole run; its last steps)".to_owned());
        }
        for step in steps {
            text.push(format!("    {}", step.told()));
        }
        text.push(format!("    redis   {}", shown(&first.redis)));
        text.push(format!("    ours    {}", shown(&first.ours)));
    }
    text.join("\n")
}

impl Step {
    fn told(&self) -> String {
        match self {
            Step::Pipeline(commands) => {
                let told: Vec<String> =
                    commands.iter().map(|command| told(&command.arguments)).collect();
                format!("send    {}", told.join(" ; "))
            }
            Step::Interfere(command) => format!("other   {}", told(&command.arguments)),
            Step::Iterate(options) => format!("other   SCAN to the end {}", told(options)),
        }
    }
}

pub(crate) fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn compare_in(version: u8) {
    let servers = match subject("kvs").and_then(|ours| Servers::start(&ours, &[])) {
        Ok(servers) => servers,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    let seed = number("DIFFERENTIAL_SEED", 1);
    let commands = usize::try_from(number("DIFFERENTIAL_COMMANDS", 20_000)).unwrap();
    let start = Instant::now();
    let found = differences(&servers, version, seed, commands);
    let total: usize = found.values().map(|found| found.count).sum();
    println!(
        "RESP{version}, seed {seed}: {commands} commands, {total} differences, {:.1} s",
        start.elapsed().as_secs_f64()
    );
    let text = report(&servers, version, found);
    assert!(text.is_empty(), "RESP{version}, DIFFERENTIAL_SEED={seed}:\n{text}");
}

#[test]
fn replies_are_those_of_redis_in_resp2() {
    compare_in(2);
}

#[test]
fn replies_are_those_of_redis_in_resp3() {
    compare_in(3);
}

/// The comparison itself: a redis that renames one command and limits another is found out, and
/// the sequences are short.
#[test]
fn a_planted_difference_is_found() {
    let planted = ["--rename-command", "GETDEL", "", "--databases", "3"];
    let servers =
        match redis_tools().and_then(|tools| Servers::start(&Kind::Redis(tools), &planted)) {
            Ok(servers) => servers,
            Err(why) => return println!("SKIPPED: {why}"),
        };
    let found = differences(&servers, 2, 7, 6_000);
    let kinds: Vec<&String> = found.keys().collect();
    assert!(kinds.iter().any(|kind| kind.starts_with("GETDEL | ")), "{kinds:?}");
    assert!(kinds.iter().any(|kind| kind.starts_with("SELECT | +OK | -ERR DB index")), "{kinds:?}");
    let names = ["GETDEL", "SELECT", "MOVE", "COPY", "SWAPDB", "EXEC"];
    let strange: Vec<_> =
        kinds.iter().filter(|kind| !names.iter().any(|name| kind.starts_with(name))).collect();
    assert!(strange.is_empty(), "{strange:?}");
    for (kind, found) in &found {
        let (steps, _) = shrunk(&servers, 2, &found.history, Duration::from_secs(5)).unwrap();
        assert!(steps.len() <= 5, "{kind}: {steps:?}");
    }
}
