//! The log of a real server, line by line, as JSON: each change of state is one line with a time, a
//! level, a name and its fields. docs/log.md lists them all.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::Value;
use support::{PATIENCE, Server, data, program, run_briefly};

fn start(data: &Path, args: &[&str]) -> Server {
    Server::start_with(data, &[&["--log-format", "json"], args].concat())
}

/// A line of the log; `None` for the two lines that scripts wait for.
fn parse(line: &str) -> Option<Value> {
    if line == "ready" || line.starts_with("listening on ") {
        return None;
    }
    let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert!(line["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    assert!(line["level"].is_string(), "{line}");
    Some(line)
}

fn name(line: &Value) -> &str {
    line["message"].as_str().unwrap_or_default()
}

/// The line with a name among those on the way up.
fn said(server: &Server, wanted: &str) -> Value {
    let lines: Vec<Value> = server.said.iter().filter_map(|line| parse(line)).collect();
    let found = lines.iter().find(|line| name(line) == wanted);
    found.unwrap_or_else(|| panic!("no line `{wanted}` in {:?}", server.said)).clone()
}

/// The next line with a name. A server that does not say it is killed, which ends the wait.
fn next(server: &mut Server, wanted: &str) -> Value {
    let (child, (_found, wait)) = (pid_of(server), mpsc::channel::<()>());
    thread::spawn(move || {
        if wait.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            kill_process(child, Signal::KILL).unwrap();
        }
    });
    let mut others = Vec::new();
    loop {
        let line = server.next_line();
        let line = parse(&line).unwrap_or_else(|| panic!("`{line}` after {others:?}"));
        if name(&line) == wanted {
            return line;
        }
        others.push(line);
        assert!(others.len() < 1000, "no line `{wanted}` in {others:?}");
    }
}

fn send(addr: &str, commands: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(commands.as_bytes()).unwrap();
    stream
}

/// Sends commands and reads a reply of one line for each.
fn replies(addr: &str, commands: &str) -> Vec<String> {
    let lines = BufReader::new(send(addr, commands)).lines();
    lines.take(commands.lines().count()).map(Result::unwrap).collect()
}

fn pid_of(server: &Server) -> Pid {
    Pid::from_raw(i32::try_from(server.child.id()).unwrap()).unwrap()
}

#[test]
fn a_day_of_a_server_from_its_start_to_its_close() {
    let (_dir, data) = data();
    let mut server = start(&data, &[]);
    let started = said(&server, "started");
    assert_eq!(started["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(started["pid"], server.child.id());
    assert_eq!(started["directory"], data.to_str().unwrap());
    let recovered = said(&server, "recovered");
    assert_eq!((&recovered["keys"], &recovered["clean"]), (&0.into(), &true.into()));
    assert!(recovered["took_ms"].is_u64(), "{recovered}");
    assert_eq!(said(&server, "listening")["address"], server.addr);
    assert_eq!(server.said.last().unwrap(), "ready");

    assert_eq!(replies(&server.addr, "CONFIG SET timeout 100\r\n"), ["+OK"]);
    let set = next(&mut server, "setting changed");
    assert_eq!((&set["name"], &set["value"]), (&"timeout".into(), &"100".into()));
    assert!(set["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{set}");

    server.signal(Signal::USR1);
    assert_eq!(next(&mut server, "signal ignored")["signal"], "SIGUSR1");
    server.signal(Signal::TERM);
    assert_eq!(next(&mut server, "stopping")["signal"], "SIGTERM");
    assert_eq!(next(&mut server, "closed")["level"], "INFO");
}

#[test]
fn a_client_that_stops_the_server_is_in_the_line() {
    let (_dir, data) = data();
    let mut server = start(&data, &[]);
    let client = send(&server.addr, "SHUTDOWN\r\n");
    let stopping = next(&mut server, "stopping");
    assert_eq!(stopping["command"], "SHUTDOWN");
    assert_eq!(stopping["client"], client.local_addr().unwrap().to_string());
    assert_eq!(next(&mut server, "closed")["level"], "INFO");
}

#[test]
fn a_close_that_fails_is_a_line_with_its_reason() {
    let (_dir, data) = data();
    let mut server = start(&data, &[]);
    assert_eq!(replies(&server.addr, "SET k v\r\n"), ["+OK"]);
    let none = Rlimit { current: Some(1), maximum: None };
    prlimit(Some(pid_of(&server)), Resource::Fsize, none).unwrap();
    server.signal(Signal::TERM);
    let (said, code) = server.wait();
    let last = parse(said.lines().last().unwrap()).unwrap();
    assert_eq!((name(&last), code), ("failed", Some(2)), "{said}");
    assert!(last["reason"].as_str().unwrap().contains("File too large"), "{last}");
}

#[test]
fn a_kill_is_told_by_the_whole_records_that_were_kept_and_nothing_is_called_cut() {
    let (_dir, data) = data();
    let mut server = start(&data, &[]);
    assert_eq!(replies(&server.addr, "SET k v\r\nSET l w\r\n"), ["+OK", "+OK"]);
    server.signal(Signal::KILL);
    server.wait();

    let server = start(&data, &[]);
    let recovered = said(&server, "recovered");
    assert_eq!((&recovered["keys"], &recovered["clean"]), (&2.into(), &false.into()));
    assert!(recovered["kept_records"].as_u64().unwrap() >= 1, "{recovered}");
    assert!(recovered["note"].as_str().unwrap().contains("were kept"), "{recovered}");
    assert_eq!(recovered["torn_bytes"], 0, "{recovered}");
    assert!(!server.has_said(&["cut"]), "{:?}", server.said);
}

#[test]
fn bytes_that_are_no_whole_record_are_told_as_a_tail_that_was_cut() {
    let (_dir, data) = data();
    let mut server = start(&data, &[]);
    assert_eq!(replies(&server.addr, "SET k v\r\n"), ["+OK"]);
    server.signal(Signal::KILL);
    server.wait();
    // The next record was begun and not finished.
    let logs = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
    let log = logs.filter(|path| path.extension().is_some_and(|ext| ext == "log")).max().unwrap();
    let mut bytes = fs::read(&log).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 64;
    bytes[end..end + 100].fill(7);
    fs::write(&log, bytes).unwrap();

    let server = start(&data, &[]);
    let cut = said(&server, "tail cut");
    assert_eq!((&cut["level"], &cut["file"]), (&"WARN".into(), &log.to_str().unwrap().into()));
    assert!(cut["bytes"].as_u64().unwrap() >= 100 && cut["offset"].is_u64(), "{cut}");
    assert_eq!(replies(&server.addr, "GET k\r\n"), ["$1"]);
}

#[test]
fn passwords_are_counted_when_wrong_and_never_shown() {
    let (_dir, data) = data();
    let mut server = start(&data, &[]);
    let set = replies(&server.addr, "CONFIG SET requirepass hunter2\r\n");
    assert_eq!(set, ["+OK"]);
    assert_eq!(next(&mut server, "setting changed")["value"], "(not shown)");
    let guesses = "AUTH guess-1\r\n".repeat(100);
    assert!(replies(&server.addr, &guesses).iter().all(|reply| reply.starts_with("-WRONGPASS")));
    let mut count = 0;
    while count < 100 {
        let wrong = next(&mut server, "wrong password");
        assert_eq!(wrong["level"], "WARN");
        assert!(wrong["last"].as_str().unwrap().starts_with("127.0.0.1:"), "{wrong}");
        assert!(!wrong.to_string().contains("guess"), "{wrong}");
        count += wrong["count"].as_u64().unwrap();
    }
    assert_eq!(count, 100);
}

#[test]
fn clients_that_are_refused_are_counted() {
    let (_dir, data) = data();
    let mut server = start(&data, &[]);
    assert_eq!(replies(&server.addr, "CONFIG SET maxclients 1\r\n"), ["+OK"]);
    let mut first = send(&server.addr, "PING\r\n");
    let mut pong = [0; 7];
    // The client before may not be gone yet.
    while first.read(&mut pong).unwrap_or(0) < 7 || &pong != b"+PONG\r\n" {
        first = send(&server.addr, "PING\r\n");
    }
    let refused = replies(&server.addr, "PING\r\n");
    assert!(refused[0].contains("max number of clients"), "{refused:?}");
    let line = next(&mut server, "connections refused");
    assert_eq!((&line["level"], &line["connections_max"]), (&"WARN".into(), &1.into()));
    assert!(line["count"].as_u64().unwrap() >= 1, "{line}");
}

#[test]
fn a_disk_without_space_and_with_space_again() {
    let (_dir, data) = data();
    let mut server = start(&data, &[]);
    // A limit on the size of files is like a full disk.
    let small = Rlimit { current: Some(64 << 10), maximum: None };
    let before = prlimit(Some(pid_of(&server)), Resource::Fsize, small).unwrap();
    let set = format!("SET secret-key {}\r\n", "v".repeat(50_000));
    let start = Instant::now();
    while replies(&server.addr, &set) == ["+OK"] {
        assert!(start.elapsed() < PATIENCE);
    }
    let full = next(&mut server, "disk full");
    assert_eq!(full["level"], "ERROR");
    for field in ["reason", "safe", "remedy"] {
        assert!(full[field].is_string(), "{full}");
    }
    assert!(!full.to_string().contains("secret-key"));
    prlimit(Some(pid_of(&server)), Resource::Fsize, before).unwrap();
    assert!(next(&mut server, "disk writable")["after_ms"].is_u64());
    assert_eq!(replies(&server.addr, "SET k v\r\n"), ["+OK"]);
}

#[test]
fn damage_that_a_client_meets_is_told_with_file_offset_and_key() {
    let (_dir, data) = data();
    let mut server = start(&data, &[]);
    assert_eq!(replies(&server.addr, "SET user:\\x01 the-value-that-rots\r\n"), ["+OK"]);
    server.signal(Signal::TERM);
    server.assert_ends();
    let logs = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
    let (log, at) = logs
        .filter(|path| path.extension().is_some_and(|ext| ext == "log"))
        .find_map(|path| {
            let bytes = fs::read(&path).unwrap();
            let value = b"the-value-that-rots";
            bytes.windows(value.len()).position(|part| part == value).map(|at| (path, at))
        })
        .unwrap();
    let mut bytes = fs::read(&log).unwrap();
    bytes[at] ^= 4;
    fs::write(&log, bytes).unwrap();

    let mut server = start(&data, &[]);
    let reply = replies(&server.addr, "GET user:\\x01\r\n");
    assert!(reply[0].starts_with('-'), "{reply:?}");
    let damage = next(&mut server, "damage found");
    assert_eq!((&damage["level"], &damage["key"]), (&"ERROR".into(), &"user:\\\\x01".into()));
    assert_eq!(damage["file"], log.to_str().unwrap());
    assert!(damage["lost"] == true && damage["remedy"].is_string(), "{damage}");
    assert!(damage["offset"].as_u64().is_some_and(|offset| offset < at as u64), "{damage}");
    assert!(!damage.to_string().contains("value-that-rots"), "{damage}");
    server.signal(Signal::TERM);
    server.assert_ends();
    let known = said(&start(&data, &[]), "damage known");
    assert_eq!((&known["level"], &known["lost"]), (&"ERROR".into(), &1.into()), "{known}");
    assert!(known["remedy"].is_string() && known["safe"].is_string(), "{known}");
}

#[test]
fn a_directory_that_is_removed_poisons_the_store() {
    let (_dir, data) = data();
    let mut server = start(&data, &[]);
    assert_eq!(replies(&server.addr, "SET k v\r\n"), ["+OK"]);
    fs::remove_dir_all(&data).unwrap();
    let set = format!("SET k {}\r\n", "v".repeat(50_000));
    let start = Instant::now();
    while replies(&server.addr, &set) == ["+OK"] {
        assert!(start.elapsed() < PATIENCE);
    }
    let poisoned = next(&mut server, "poisoned");
    assert_eq!(poisoned["level"], "ERROR");
    for field in ["reason", "safe", "remedy"] {
        assert!(poisoned[field].is_string(), "{poisoned}");
    }
}

/// A process that is stopped amid a sync sees a slow one.
#[test]
fn a_sync_that_takes_a_second_is_told() {
    let (_dir, data) = data();
    let mut server = start(&data, &[]);
    let addr = server.addr.clone();
    let writer = thread::spawn(move || {
        let mut stream = TcpStream::connect(addr).unwrap();
        let mut reply = [0; 5];
        while stream.write_all(b"SET k v\r\n").and_then(|()| stream.read_exact(&mut reply)).is_ok()
        {
        }
    });
    let (child, is_told) = (pid_of(&server), std::sync::atomic::AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            while !is_told.load(std::sync::atomic::Ordering::Relaxed) && start.elapsed() < PATIENCE
            {
                kill_process(child, Signal::STOP).unwrap();
                thread::sleep(Duration::from_millis(1200));
                kill_process(child, Signal::CONT).unwrap();
                thread::sleep(Duration::from_millis(37));
            }
        });
        let slow = next(&mut server, "slow sync");
        is_told.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(slow["took_ms"].as_u64().unwrap() >= 1000 && slow["bytes"].is_u64(), "{slow}");
    });
    server.signal(Signal::KILL);
    server.wait();
    writer.join().unwrap();
}

/// Too few descriptors: the clients that are there go on, and each of the others is tried again.
#[test]
fn connections_that_the_system_cannot_hand_over_are_counted() {
    let (_dir, data) = data();
    let mut server = start(&data, &[]);
    let mut served = send(&server.addr, "PING\r\n");
    served.read_exact(&mut [0; 7]).unwrap();
    let pid = pid_of(&server);
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let few = Rlimit { current: Some(3), maximum };
    let before = prlimit(Some(pid), Resource::Nofile, few).unwrap();
    let waiting = send(&server.addr, "PING\r\n");
    let line = next(&mut server, "accept failed");
    assert_eq!(line["level"], "WARN");
    assert!(line["count"].as_u64().unwrap() >= 1, "{line}");
    assert!(line["reason"].as_str().unwrap().contains("open files"), "{line}");
    served.write_all(b"PING\r\n").unwrap();
    served.read_exact(&mut [0; 7]).unwrap();
    prlimit(Some(pid), Resource::Nofile, before).unwrap();
    assert_eq!(BufReader::new(waiting).lines().next().unwrap().unwrap(), "+PONG");
}

#[test]
fn work_that_outlasts_the_stop_is_a_line_that_says_it_is_safe() {
    let (_dir, data) = data();
    let mut server = start(&data, &[]);
    let side = "ab".repeat(2_000);
    let mut stream = send(&server.addr, "");
    for text in [format!("SET a {side}\r\n"), format!("SET b {side}\r\n")] {
        stream.write_all(text.as_bytes()).unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
    }
    // One job of the pool, and a minute of work.
    stream.write_all(b"MULTI\r\n").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    for _ in 0..5_000 {
        stream.write_all(b"LCS a b LEN\r\n").unwrap();
        stream.read_exact(&mut [0; 9]).unwrap();
    }
    stream.write_all(b"EXEC\r\n").unwrap();
    server.signal(Signal::TERM);
    let line = next(&mut server, "stopped while work was running");
    assert_eq!(
        (&line["level"], &line["safe"]),
        (&"WARN".into(), &"nothing acknowledged is lost".into())
    );
    assert_eq!(server.wait().1, Some(0));
}

#[test]
fn a_service_manager_that_is_not_there_is_a_line() {
    let (_dir, data) = data();
    let mut command = program();
    command
        .args(["server", "--listen", "127.0.0.1:0", "--log-format", "json", "--data"])
        .arg(&data);
    command.env("NOTIFY_SOCKET", "/no/such/socket");
    let mut server = Server::spawn(&mut command);
    let line = next(&mut server, "service manager not told");
    assert_eq!((&line["level"], &line["state"]), (&"WARN".into(), &"READY=1".into()));
    assert!(line["reason"].is_string(), "{line}");
}

/// Lines that no test here can bring about from outside are shown where they are written.
#[test]
fn every_line_of_the_page_is_in_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = fs::read_to_string(root.join("docs/log.md")).unwrap();
    let rows = page.lines().skip_while(|line| !line.starts_with("| line | level |")).skip(2);
    let rows = rows.take_while(|line| line.starts_with("| `"));
    let names: Vec<&str> = rows.map(|line| line.split('`').nth(1).unwrap()).collect();
    assert!(names.len() > 20, "{names:?}");
    let tests_of = |path: &str| {
        let text = fs::read_to_string(root.join(path)).unwrap();
        text.split_once("mod tests {").map(|(_, tests)| tests.to_owned()).unwrap_or_default()
    };
    let within = fs::read_to_string(root.join("crates/aryavarth-cli/tests/log.rs")).unwrap();
    let beside = ["crates/aryavarth-server/src/log.rs", "crates/aryavarth-cli/src/log.rs"];
    let beside = beside.map(tests_of).concat();
    for name in names {
        // Where the line is awaited by its name, or written out with its level.
        let is_awaited = within.contains(&format!("\"{name}\""));
        let is_shown = ["ERROR", "WARN", "INFO"]
            .iter()
            .any(|level| beside.contains(&format!("{level} {name}")));
        assert!(
            is_awaited || is_shown || beside.contains(&format!("{name} ")),
            "no test for `{name}`"
        );
    }
}

#[test]
fn a_start_that_fails_is_a_line_with_its_reason() {
    let (dir, _) = data();
    fs::write(dir.path().join("foreign"), "").unwrap();
    let path = dir.path().to_str().unwrap();
    let args = ["server", "--listen", "127.0.0.1:0", "--data", path, "--json"];
    let did = run_briefly(&args);
    assert_eq!(did.code, 2);
    let last = parse(did.stderr.lines().last().unwrap()).unwrap();
    assert_eq!((name(&last), &last["level"]), ("failed", &"ERROR".into()));
    assert!(last["reason"].as_str().unwrap().contains("is not an Aryavarth store"), "{last}");
}

#[test]
fn a_level_leaves_lines_out_but_never_those_for_scripts() {
    let (_dir, data) = data();
    let server = Server::start_with(&data, &["--log-level", "warn"]);
    assert_eq!(server.said, [format!("listening on {}", server.addr), "ready".to_owned()]);
}

#[test]
fn a_log_that_nobody_reads_ends_and_blocks_nothing() {
    let (_dir, data) = data();
    let mut command = program();
    command.args(["server", "--listen", "127.0.0.1:0", "--data"]).arg(&data);
    let mut server = Server::spawn(&mut command);
    // More than the pipe and the queue hold.
    let sets = "CONFIG SET timeout 0\r\n".repeat(1000);
    for _ in 0..10 {
        assert!(replies(&server.addr, &sets).iter().all(|reply| reply == "+OK"));
    }
    // Nor does a reader that goes away.
    server.close_stderr();
    assert!(replies(&server.addr, &sets).iter().all(|reply| reply == "+OK"));
    server.signal(Signal::TERM);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_standard_error_that_is_closed_from_the_start_does_no_harm() {
    let (_dir, data) = data();
    let mut closed = Command::new("sh");
    closed.args(["-c", "exec \"$0\" \"$@\" 2>&-"]).arg(program().get_program());
    closed.args(["server", "--listen", "127.0.0.1:0", "--data"]).arg(&data);
    let mut child = closed.stdout(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while !data.join("CURRENT").exists() {
        assert!(start.elapsed() < PATIENCE && child.try_wait().unwrap().is_none());
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(300));
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
