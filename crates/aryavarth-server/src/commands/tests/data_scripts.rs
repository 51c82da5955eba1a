//! The commands, told by the scripts in `tests/scripts/data`, over an engine in memory whose clock only
//! moves when a script says so; and docs/commands.md, which is made from their table.
//!
//! A script's line is a command as a client sends it, and below it stands the reply as it goes over
//! the wire: in RESP2, and in RESP3 where that differs. A prefix names the connection. After a
//! change that is meant, `UPDATE_GOLDENFILES=1 cargo test -p aryavarth-server commands` rewrites
//! the scripts and the page; read the difference.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aryavarth::{Clock, Durability, MemoryEngine};
use aryavarth_protocol::{Reply, Session};
use goldenscript::Argument;

use super::connections::Connections;
use super::fake_server::FakeServer;
use crate::commands::Answer;
use crate::commands::kit::spec::{Run, Spec};
use crate::commands::registry::{FAMILIES, registry};
use crate::limits::Limits;

#[derive(Debug, Default)]
struct Hands(AtomicU64);

impl Clock for Hands {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Runner {
    clock: Arc<Hands>,
    connections: Connections,
}

impl Runner {
    fn new() -> Self {
        let clock = Arc::new(Hands(AtomicU64::new(1_000_000)));
        let mut limits = Limits::default();
        limits.session.value_bytes_max = 4096;
        let engine = MemoryEngine::with_clock(Arc::<Hands>::clone(&clock));
        let server = FakeServer::new(engine, limits);
        Runner { clock, connections: Connections::new(server) }
    }

    /// The reply to a command of a connection.
    fn call(&mut self, connection: &str, args: &[String]) -> Reply {
        self.answer(connection, args).reply.expect("the client wants replies")
    }

    fn answer(&mut self, connection: &str, args: &[String]) -> Answer {
        self.connections.answer(connection, args).expect("no pause holds it")
    }
}

/// A reply as it goes over the wire, each of its lines indented and by itself.
fn on_the_wire(reply: &Reply, version: u8) -> String {
    let mut session = Session::new(aryavarth_protocol::Limits::default());
    session.feed(b"*1\r\n$4\r\nPING\r\n");
    session.next_event().expect("a command is complete");
    session.set_resp_version(version);
    session.reply_resp(reply, 0);
    let text = session.output().escape_ascii().to_string();
    text.trim_end_matches("\\r\\n").replace("\\r\\n", " ")
}

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let rest = command.args.iter().map(|arg| match arg {
            Argument::KeyValue(key, value) => format!("{key}={value}"),
            Argument::Positional(text) => text.clone(),
            _ => unreachable!("there are only these"),
        });
        let args: Vec<String> = std::iter::once(command.name.clone()).chain(rest).collect();
        if args[0] == "pass-ms" {
            let passed = args[1].parse()?;
            self.clock.0.fetch_add(passed, Ordering::Relaxed);
            return Ok(String::new());
        }
        let connection = context.prefix.clone().unwrap_or_default();
        let reply = self.call(&connection, &args);
        let mut output = on_the_wire(&reply, 2);
        let in_3 = on_the_wire(&reply, 3);
        if in_3 != output {
            write!(output, "\nRESP3: {in_3}")?;
        }
        Ok(output)
    }
}

#[test]
fn every_script_of_the_data_gets_its_output() {
    aryavarth_tests::scripts::run_all("tests/scripts/data", Runner::new);
}

/// The texts of an array of bulks.
fn texts(reply: &Reply) -> Vec<String> {
    let Reply::Array(items) = reply else { panic!("{reply:?} is no array") };
    let text = |item: &Reply| match item {
        Reply::Bulk(bytes) => String::from_utf8(bytes.clone()).expect("it is text"),
        other => panic!("{other:?} is no text"),
    };
    items.iter().map(text).collect()
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn a_scan_returns_each_key_that_stays_whatever_others_do() {
    let mut runner = Runner::new();
    for number in 0..1000 {
        runner.call("", &words(&format!("SET stays:{number} v")));
    }
    let mut seen = Vec::new();
    let mut cursor = "0".to_owned();
    for round in 0.. {
        // Others come and go meanwhile.
        runner.call("b", &words(&format!("SET comes:{round} v")));
        runner.call("b", &words(&format!("SET zcomes:{round} v")));
        runner.call("b", &words(&format!("DEL comes:{}", round / 2)));
        // Another client is in the middle of its own scan, and uses cursors that were never given.
        runner.call("b", &words(&format!("SCAN {} COUNT 3", round * 7919)));
        let reply = runner.call("", &words(&format!("SCAN {cursor} COUNT 7")));
        let Reply::Array(parts) = &reply else { panic!("{reply:?}") };
        seen.extend(texts(&parts[1]).into_iter().filter(|key| key.starts_with("stays:")));
        cursor = texts(&Reply::Array(parts[..1].to_vec())).remove(0);
        if cursor == "0" {
            break;
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 1000);
    assert_eq!(texts(&runner.call("", &words("KEYS stays:*"))), seen);
}

/// The machine's clock was ahead by an hour when the store opened, and is set right.
#[test]
fn deadlines_are_right_although_the_clock_was_set_back() {
    let mut runner = Runner::new();
    runner.clock.0.store(1_700_000_000_000, Ordering::Relaxed);
    runner.call("", &words("SET before v EX 10"));
    let now = 1_700_000_000 - 3600;
    runner.clock.0.store(now * 1000, Ordering::Relaxed);
    runner.call("", &words("SET relative v EX 10"));
    runner.call("", &words(&format!("SET at v EXAT {}", now + 10)));
    runner.call("", &words("SET moved v"));
    runner.call("", &words(&format!("EXPIREAT moved {}", now + 10)));
    let number = |reply| match reply {
        Reply::Integer(number) => number,
        other => panic!("{other:?} is no number"),
    };
    for key in ["before", "relative", "at", "moved"] {
        assert_eq!(number(runner.call("", &words(&format!("TTL {key}")))), 10, "{key}");
        let time = number(runner.call("", &words(&format!("EXPIRETIME {key}"))));
        assert_eq!(time.unsigned_abs(), now + 10, "{key}");
    }
    runner.clock.0.store((now + 10) * 1000, Ordering::Relaxed);
    assert_eq!(number(runner.call("", &words("EXISTS before relative at moved"))), 0);
}

#[test]
fn by_chance_every_key_comes_up() {
    let mut runner = Runner::new();
    // Keys that begin as others do, one of them as all the others.
    for number in 0..600 {
        runner.call("", &words(&format!("SET k:{number} v")));
    }
    runner.call("", &words("SET k: v"));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100_000 {
        let reply = runner.call("", &words("RANDOMKEY"));
        seen.extend(texts(&Reply::Array(vec![reply])));
        if seen.len() == 601 {
            return;
        }
    }
    panic!("only {} of 601 came up", seen.len());
}

#[test]
fn the_page_of_commands_is_what_the_table_says() {
    let path = Path::new("../../docs/commands.md");
    let mut wanted = include_str!("head.md").to_owned();
    let mut last = None;
    for (group, specs) in FAMILIES {
        if last.replace(*group) != Some(*group) {
            let name = group.name();
            let (first, rest) = name.split_at(1);
            write!(wanted, "\n## {}{rest}\n", first.to_uppercase()).expect("a string takes all");
        }
        for spec in *specs {
            describe(spec, None, &mut wanted);
        }
    }
    if std::env::var_os("UPDATE_GOLDENFILES").is_some_and(|value| value == "1") {
        std::fs::write(path, &wanted).expect("the page can be written");
    }
    let page = std::fs::read_to_string(path).expect("the page is there");
    assert!(
        page == wanted,
        "docs/commands.md is stale: UPDATE_GOLDENFILES=1 cargo test -p aryavarth-server commands"
    );
}

fn describe(spec: &Spec, container: Option<&str>, page: &mut String) {
    let name = container.map_or(String::new(), |name| format!("{name} ")) + spec.name;
    if let Run::Container(subcommands) = spec.run {
        for subcommand in subcommands {
            describe(subcommand, Some(&name), page);
        }
        return;
    }
    let call = format!("{} {}", name.to_ascii_uppercase(), spec.usage);
    let Spec { summary, since, complexity, .. } = spec;
    let call = call.trim_end();
    // Some of redis's costs end with a full stop.
    let complexity = complexity.trim_end_matches('.');
    write!(page, "\n### `{call}`\n\n{summary}. Since {since}. {complexity}.\n")
        .expect("a string takes all");
}

#[test]
fn a_level_for_once_is_for_the_whole_transaction() {
    let mut runner = Runner::new();
    for (line, level) in [
        ("CLIENT DURABILITY OS", Durability::Os),
        ("CLIENT DURABILITY INTERVAL 7 ONCE", Durability::Os),
        ("MULTI", Durability::Interval(7)),
        ("SET k v", Durability::Interval(7)),
        ("EXEC", Durability::Interval(7)),
        ("GET k", Durability::Os),
    ] {
        assert_eq!(runner.answer("", &words(line)).level, level, "{line}");
    }
}

/// WAITAOF has said that it is on disk, so the reply must not leave before it is.
#[test]
fn a_level_chosen_after_waitaof_does_not_make_it_a_lie() {
    let mut runner = Runner::new();
    for line in ["MULTI", "SET k v", "WAITAOF 1 0 0", "CLIENT DURABILITY OS"] {
        runner.call("", &words(line));
    }
    let Answer { reply, level, .. } = runner.answer("", &words("EXEC"));
    let Some(Reply::Array(replies)) = reply else { panic!("{reply:?}") };
    assert_eq!(replies[1], Reply::Array(vec![Reply::Integer(1), Reply::Integer(0)]));
    assert_eq!(level, Durability::Always);
    assert_eq!(runner.answer("", &words("PING")).level, Durability::Os);
}

/// The shortest commands take far more memory than they took on the wire.
#[test]
fn a_transaction_of_many_small_commands_is_too_long_too() {
    let mut runner = Runner::new();
    runner.connections.server.limits.transaction_bytes_max = 4096;
    runner.call("", &words("MULTI"));
    let refused = (0..100).filter(|_| runner.call("", &words("PING")).is_error());
    assert!(refused.count() > 0);
    assert!(runner.call("", &words("EXEC")).is_error());
}

#[test]
fn every_row_of_the_table_is_complete() {
    fn check(spec: &Spec) {
        assert!(!spec.summary.is_empty() && !spec.summary.ends_with('.'), "{spec:?}");
        assert!(spec.arity != 0 && !spec.since.is_empty(), "{spec:?}");
        assert_eq!(spec.name, spec.name.to_ascii_lowercase());
        if let Run::Container(subcommands) = spec.run {
            subcommands.iter().for_each(check);
        }
    }
    let mut names: Vec<_> = registry()
        .commands()
        .map(|row| row.spec)
        .inspect(|spec| check(spec))
        .map(|spec| spec.name)
        .collect();
    names.sort_unstable();
    names.windows(2).for_each(|pair| assert_ne!(pair[0], pair[1], "a name stands twice"));
}

/// The replies are also those of the commands before the level was lowered.
#[test]
fn a_transaction_waits_for_the_level_that_it_began_with() {
    let mut runner = Runner::new();
    for (level, then, all) in [
        ("ALWAYS", "OS", Durability::Always),
        ("ALWAYS", "INTERVAL 5", Durability::Always),
        ("INTERVAL 5", "INTERVAL 9", Durability::Interval(5)),
        ("OS", "INTERVAL 5", Durability::Interval(5)),
        ("INTERVAL 5", "ALWAYS", Durability::Always),
    ] {
        runner.call("", &words(&format!("CLIENT DURABILITY {level}")));
        for line in ["MULTI", "SET k v", &format!("CLIENT DURABILITY {then}")] {
            runner.call("", &words(line));
        }
        assert_eq!(runner.answer("", &words("EXEC")).level, all, "{level}, then {then}");
    }
    assert_eq!(runner.answer("", &words("PING")).level, Durability::Always);
}

#[test]
fn names_are_asked_for_once() {
    let mut runner = Runner::new();
    for command in ["COMMAND DOCS", "COMMAND INFO"] {
        assert!(!runner.call("", &words(&format!("{command} get set get"))).is_error());
        let many = format!("{command}{}", " client".repeat(2000));
        assert!(runner.call("", &words(&many)).is_error(), "{command}");
    }
}

#[test]
fn watched_keys_have_a_limit_in_bytes() {
    let mut runner = Runner::new();
    let key = |n: usize| format!("{n:060000}");
    let watched = (0..20).filter(|n| {
        let command = ["WATCH".to_owned(), key(*n), key(0)];
        !runner.call("", &command).is_error()
    });
    assert_eq!(watched.count(), 17, "a mebibyte");
    runner.call("", &words("UNWATCH"));
    assert!(!runner.call("", &["WATCH".to_owned(), key(0)]).is_error());
}
