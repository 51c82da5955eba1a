//! Real clients of the Redis protocol, doing real work against a server of ours.
//!
//! Each client runs as its users run it, with nothing set for our sake: the scripts in
//! `tests/clients`, redis-cli and redis-benchmark, and redis-rs from here. A client that cannot be
//! installed is told as skipped. `SUBJECT=redis` runs them against Debian's redis, which proves
//! the scripts.
#![expect(clippy::print_stdout, reason = "a run says what it did, and what it could not do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod redis_rs;
mod tools;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use aryavarth_tests::parts::{node, python, run_within};
use aryavarth_tests::server::{Server, subject};
use tempfile::TempDir;

/// Longer than any story takes, on a machine however busy.
const STORY_TIME_MAX: Duration = Duration::from_secs(180);

/// A server that runs, and its directory.
struct Subject {
    server: Server,
    data: TempDir,
}

impl Subject {
    /// Starts the subject, or says that it is skipped.
    fn start() -> Option<Subject> {
        let data = tempfile::tempdir().unwrap();
        match subject("kvs").map(|kind| Server::start(&kind, data.path(), &[]).unwrap()) {
            Ok(server) => Some(Subject { server, data }),
            Err(why) => {
                println!("SKIPPED: {why}");
                None
            }
        }
    }

    fn port(&self) -> String {
        self.server.addr().port().to_string()
    }
}

/// The part, or a word on why it is missing.
fn or_skipped<T>(part: Result<T, String>) -> Option<T> {
    part.map_err(|why| println!("SKIPPED: {why}")).ok()
}

fn script(name: &str) -> PathBuf {
    aryavarth_tests::root().join("tests/clients").join(name)
}

fn in_python(name: &str) -> Option<Command> {
    let mut command = Command::new(or_skipped(python())?);
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(script(name));
    Some(command)
}

fn in_node(name: &str) -> Option<Command> {
    let modules = or_skipped(node())?.join("node_modules");
    let mut command = Command::new("node");
    command.env("NODE_PATH", modules).arg(script(name));
    Some(command)
}

/// Runs a script against a server of its own; it ends with the word `ok`.
fn told(command: Option<Command>) {
    let (Some(mut command), Some(subject)) = (command, Subject::start()) else { return };
    command.env("PORT", subject.port());
    let said = run_within(command, STORY_TIME_MAX).unwrap_or_else(|why| panic!("{why}"));
    assert!(said.trim_end().ends_with("ok"), "{said}");
    print!("{said}");
}

#[test]
fn redis_py_works() {
    told(in_python("redis_py.py"));
}

#[test]
fn redis_py_gives_a_password() {
    told(in_python("redis_py_password.py"));
}

#[test]
fn redis_py_locks_and_runs_scripts() {
    told(in_python("redis_py_locks.py"));
}

#[test]
fn limits_counts_in_its_windows() {
    told(in_python("limits_windows.py"));
}

#[test]
fn rate_limiter_flexible_works() {
    told(in_node("rate_limiter.js"));
}

#[test]
fn django_caches_and_sessions_work() {
    told(in_python("django_cache.py"));
}

#[test]
fn flask_sessions_work() {
    told(in_python("flask_sessions.py"));
}

#[test]
fn node_redis_works() {
    told(in_node("node_redis.js"));
}

#[test]
fn ioredis_works() {
    told(in_node("ioredis.js"));
}

#[test]
fn express_sessions_work() {
    told(in_node("connect_redis.js"));
}

/// The server dies under a client that reconnects, and comes back on the same address with the
/// acknowledged writes.
#[test]
fn ioredis_reconnects_after_a_restart() {
    let (Some(mut command), Some(mut subject)) = (in_node("ioredis.js"), Subject::start()) else {
        return;
    };
    command.env("PORT", subject.port()).env("RECONNECT", "1");
    let mut client =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node starts");
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    subject.server.kill();
    subject.server = subject.server.start_again(subject.data.path()).unwrap();
    client.stdin.take().unwrap().write_all(b"restarted\n").unwrap();
    let said: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(client.wait().unwrap().success(), "{said:?}");
    assert!(said.last().is_some_and(|line| line.ends_with("ok")), "{said:?}");
}
