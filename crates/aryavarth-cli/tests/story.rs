//! One server through a bad day, as its operator sees it: the log, and `aryavarth status` beside each
//! incident. A full disk, space again, rot, a slow sync, a wrong password, signals, the end; once with
//! a log as text and once as JSON.
//!
//! The disk is full by a limit on the size of the server's files, rot is a bit flipped in one of them,
//! and a sync is slow because the process is stopped amid it. `LOG_STORY=1` prints the day:
//!
//! `LOG_STORY=1 cargo test -p aryavarth-cli --test story -- --nocapture --test-threads=1`
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use aryavarth_client::{RedisClient, RedisOptions};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::Value;
use support::{Did, PATIENCE, Server, did, program, write_secret};

const PASSWORD: &str = "correct horse";
const ROTS: &str = "the value that rots";

/// A server, and everything that was seen of it so far.
struct Day {
    server: Server,
    is_json: bool,
    seen: Vec<String>,
    /// Ends the watch that kills a server which says nothing more.
    _watch: mpsc::Sender<()>,
}

impl Day {
    /// Starts a server that has a password and no terminal.
    fn begin(dir: &Path, format: &str) -> Day {
        let password = dir.join("password");
        write_secret(&password, PASSWORD);
        // It becomes the server, in a session of its own.
        let mut command = Command::new("setsid");
        for (name, _) in program().get_envs() {
            command.env_remove(name);
        }
        command.arg(program().get_program());
        command.args(["server", "--listen", "127.0.0.1:0", "--log-format", format]);
        command.arg("--data").arg(dir.join("data")).arg("--password-file").arg(password);
        let server = Server::spawn(&mut command);
        let (watch, end) = mpsc::channel();
        let pid = pid(&server);
        thread::spawn(move || {
            if end.recv_timeout(PATIENCE * 10) == Err(RecvTimeoutError::Timeout) {
                kill_process(pid, Signal::KILL).unwrap();
            }
        });
        let seen = server.said.clone();
        Day { server, is_json: format == "json", seen, _watch: watch }
    }

    /// Checks that the line has the form of the log; its name and fields begin the rest of it.
    fn parse<'a>(&self, line: &'a str) -> (String, &'a str) {
        if self.is_json {
            let fields: Value = serde_json::from_str(line).unwrap();
            assert!(fields["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
            let [level, name] = ["level", "message"].map(|name| fields[name].as_str().unwrap());
            return (format!("{level} {name}"), line);
        }
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.len() == 24 && time.ends_with('Z'), "{line}");
        (rest.trim_start().to_owned(), line)
    }

    /// Whether a line has a level and a name, and all of the fields.
    fn is(&self, line: &str, head: &str, fields: &[&str]) -> bool {
        let (found, line) = self.parse(line);
        let has = |field: &&str| {
            let shown = if self.is_json { format!("\"{field}\":") } else { format!(" {field}=") };
            line.contains(&shown)
        };
        let rest = found.strip_prefix(head);
        let is_named = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
        assert!(!is_named || fields.iter().all(has), "{fields:?} in {line}");
        is_named
    }

    /// Reads the log up to the line with a level and a name, which has all of the fields.
    fn until(&mut self, head: &str, fields: &[&str]) -> String {
        loop {
            let line = self.server.next_line();
            self.seen.push(line.clone());
            if self.is(&line, head, fields) {
                return line;
            }
            assert!(self.seen.len() < 1000, "no `{head}` in {:#?}", self.seen);
        }
    }

    fn command(&self, args: &[&str], password: &str) -> Did {
        let mut command = self.server.command(args);
        command.env("ARYAVARTH_PASSWORD", password).output().unwrap().into()
    }

    /// Runs `aryavarth status`, whose exit code and health must be these.
    fn status(&mut self, code: i32, health: &str) {
        let args: &[&str] = if self.is_json { &["status", "--json"] } else { &["status"] };
        let did = self.command(args, PASSWORD);
        self.seen.push(format!("$ aryavarth {}", args.join(" ")));
        self.seen.extend(did.stdout.lines().map(str::to_owned));
        self.seen.extend(did.stderr.lines().map(str::to_owned));
        self.seen.push(format!("(exit code {})", did.code));
        assert_eq!(did.code, code, "{did:?}");
        assert!(did.stdout.contains(health) || did.stderr.contains(health), "{did:?}");
    }

    fn chapter(&mut self, title: &str) {
        self.seen.push(format!("\n--- {title}"));
    }

    fn client(&self) -> RedisClient {
        let password = Some(PASSWORD.as_bytes().to_vec());
        let options = RedisOptions { password, ..RedisOptions::default() };
        RedisClient::connect_with(&*self.server.addr, &options).unwrap()
    }
}

fn pid(server: &Server) -> Pid {
    Pid::from_raw(i32::try_from(server.child.id()).unwrap()).unwrap()
}

/// The log file that holds some bytes, and their offset there.
fn place(data: &Path, wanted: &[u8]) -> (PathBuf, u64) {
    let files = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|ext| ext == "log"));
    let mut found = logs.filter_map(|path| {
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(wanted.len()).position(|part| part == wanted)?;
        Some((path, at as u64))
    });
    found.next().unwrap()
}

fn largest_file(data: &Path) -> u64 {
    let files = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    files.max().unwrap()
}

fn flip_a_bit(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

fn start(day: &mut Day) {
    let starts = ["INFO started", "INFO recovered", "INFO listening"];
    let address = format!("listening on {}", day.server.addr);
    let for_scripts = [address.as_str(), "ready"];
    let (plain, log): (Vec<&str>, Vec<&str>) =
        day.seen.iter().map(String::as_str).partition(|line| for_scripts.contains(line));
    assert_eq!(plain, for_scripts);
    assert_eq!(log.len(), starts.len(), "{log:?}");
    for (line, head) in log.into_iter().zip(starts) {
        assert!(day.is(line, head, &[]), "{line}");
    }
    day.status(0, "healthy");
}

fn full_disk(day: &mut Day, data: &Path) {
    day.chapter("the disk is full");
    let mut client = day.client();
    // No file may grow beyond the largest one, so that the log finds no room when that is used up.
    let small = Rlimit { current: Some(largest_file(data)), maximum: None };
    let before = prlimit(Some(pid(&day.server)), Resource::Fsize, small).unwrap();
    let (value, start) = ("v".repeat(50_000), Instant::now());
    for key in 0.. {
        if client.command(&["SET", &*key.to_string(), &*value]).is_err() {
            break;
        }
        assert!(start.elapsed() < PATIENCE);
    }
    day.until("ERROR disk full", &["reason", "safe", "remedy"]);
    day.status(2, "the disk is full");

    day.chapter("space again");
    prlimit(Some(pid(&day.server)), Resource::Fsize, before).unwrap();
    day.until("INFO disk writable", &["after_ms"]);
    assert!(client.command(&["SET", "large", &*value]).is_ok());
    day.status(0, "healthy");
}

fn rot(day: &mut Day, data: &Path) {
    day.chapter("a bit rots");
    // A merge of segments may carry the record to another file meanwhile.
    let log = loop {
        let (log, at) = place(data, ROTS.as_bytes());
        flip_a_bit(&log, at);
        let did = day.command(&["get", "rots"], PASSWORD);
        if did.code != 0 {
            break log;
        }
    };
    let line = day.until("ERROR damage found", &["file", "offset", "key", "reason", "remedy"]);
    assert!(line.contains(log.to_str().unwrap()) && !line.contains("value that"), "{line}");
    day.status(2, "1 damaged record");

    day.chapter("its key is written again");
    assert_eq!(day.command(&["set", "rots", ROTS], PASSWORD), did(0, "", ""));
    day.status(0, "healthy");
}

fn slow_sync(day: &mut Day) {
    day.chapter("a sync takes longer than a second");
    let (mut client, process) = (day.client(), pid(&day.server));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                client.command(&["SET", "k", "v"]).unwrap();
            }
        });
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                kill_process(process, Signal::STOP).unwrap();
                thread::sleep(Duration::from_millis(1200));
                kill_process(process, Signal::CONT).unwrap();
                thread::sleep(Duration::from_millis(37));
            }
        });
        day.until("WARN slow sync", &["took_ms", "bytes"]);
        is_over.store(true, Ordering::Relaxed);
    });
    day.status(0, "healthy");
}

fn strangers_and_signals(day: &mut Day) {
    day.chapter("a wrong password");
    let did = day.command(&["status"], "wrong horse");
    assert!(did.code == 2 && did.stderr.contains("password"), "{did:?}");
    let line = day.until("WARN wrong password", &["count", "last"]);
    assert!(!line.contains("horse"), "{line}");
    day.status(0, "healthy");

    day.chapter("SIGHUP, to a server without a terminal");
    day.server.signal(Signal::HUP);
    let line = day.until("INFO signal ignored", &["signal"]);
    assert!(line.contains("SIGHUP"), "{line}");
    day.status(0, "healthy");

    day.chapter("SIGTERM");
    day.server.signal(Signal::TERM);
    day.until("INFO stopping", &["signal"]);
    day.until("INFO closed", &[]);
    let (rest, code) = day.server.wait();
    assert_eq!((rest.as_str(), code), ("", Some(0)));
    day.status(2, "cannot reach a server");
}

/// Lives through the day and returns all that was seen of it.
fn day(format: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    // The record that rots is of an earlier run, as most are.
    let mut before = Server::start(&data);
    assert_eq!(before.run(&["set", "rots", ROTS]), did(0, "", ""));
    before.signal(Signal::TERM);
    before.assert_closes();
    let mut day = Day::begin(dir.path(), format);
    start(&mut day);
    full_disk(&mut day, &data);
    rot(&mut day, &data);
    slow_sync(&mut day);
    strangers_and_signals(&mut day);
    day.seen.join("\n").replace(dir.path().to_str().unwrap(), "")
}

#[test]
fn a_bad_day_in_text() {
    let seen = day("text");
    if std::env::var_os("LOG_STORY").is_some() {
        println!("{seen}");
    }
}

#[test]
fn a_bad_day_in_json() {
    let seen = day("json");
    if std::env::var_os("LOG_STORY").is_some() {
        println!("{seen}");
    }
}
