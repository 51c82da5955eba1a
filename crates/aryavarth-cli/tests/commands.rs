//! The program as its users meet it: its output, the stream of each, and its exit codes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Did, Server, data, did, program, run, run_briefly, write_secret};

/// The longest time that a server may take to stop.
const STOP_TIME: Duration = Duration::from_secs(5);

#[test]
fn keys_are_set_read_and_removed() {
    let (_dir, data) = data();
    let server = Server::start(&data);
    assert_eq!(server.run(&["set", "user:1", "Alice"]), did(0, "", ""));
    assert_eq!(server.run(&["set", "user:2", "-5"]), did(0, "", ""));
    assert_eq!(server.run(&["get", "user:1"]), did(0, "Alice\n", ""));
    assert_eq!(server.run(&["get", "user:2"]), did(0, "-5\n", ""));
    assert_eq!(server.run(&["scan", "user:"]), did(0, "user:1\tAlice\nuser:2\t-5\n", ""));
    assert_eq!(server.run(&["scan", "user:", "--limit", "1"]), did(0, "user:1\tAlice\n", ""));
    assert_eq!(server.run(&["compact"]), did(0, "", ""));
    assert_eq!(server.run(&["rm", "user:1"]), did(0, "", ""));
    assert_eq!(server.run(&["scan"]), did(0, "user:2\t-5\n", ""));
}

/// Others call the lifetime of a key its TTL, and give the beginning of the keys by a flag.
#[test]
fn flags_have_the_names_that_other_tools_give_them() {
    let (_dir, data) = data();
    let server = Server::start(&data);
    assert_eq!(server.run(&["set", "user:1", "Alice", "--ttl", "1000"]), did(0, "", ""));
    server.run(&["set", "page:1", "home"]);
    let left = server.run(&["ttl", "user:1"]).stdout;
    assert!((1.0..=1000.0).contains(&left.trim().parse::<f64>().unwrap()), "{left}");
    assert_eq!(server.run(&["scan", "--prefix", "user:"]), did(0, "user:1\tAlice\n", ""));
    let exported = server.run(&["export", "--prefix", "page:"]).stdout;
    assert!(exported.lines().count() == 1 && exported.contains("page:1"), "{exported}");
    let twice = server.run(&["scan", "user:", "--prefix", "page:"]);
    assert!(twice.code == 2 && twice.stderr.contains("cannot be used with"), "{}", twice.stderr);
}

#[test]
fn a_missing_key_is_exit_code_1() {
    let (_dir, data) = data();
    let server = Server::start(&data);
    assert_eq!(server.run(&["get", "k"]), did(1, "", "Key not found\n"));
    assert_eq!(server.run(&["rm", "k"]), did(1, "", "Key not found\n"));
    assert_eq!(server.run(&["--json", "get", "k"]), did(1, "", "{\"error\":\"Key not found\"}\n"));
}

#[test]
fn json_is_one_object_per_line() {
    let (_dir, data) = data();
    let server = Server::start(&data);
    server.run(&["set", "k\n\"1\"", "a\tb"]);
    server.run(&["set", "k2", "значение"]);
    let first = r#"{"key":"k\n\"1\"","value":"a\tb"}"#;
    let second = r#"{"key":"k2","value":"значение"}"#;
    assert_eq!(server.run(&["get", "k2", "--json"]), did(0, &format!("{second}\n"), ""));
    assert_eq!(server.run(&["scan", "--json"]), did(0, &format!("{first}\n{second}\n"), ""));
}

#[test]
fn a_value_comes_from_standard_input_as_it_is() {
    let (_dir, data) = data();
    let server = Server::start(&data);
    let large = "0123456789abcde\n".repeat(65_536);
    assert_eq!(server.run_with_input(&["set", "k", "-"], large.as_bytes()), did(0, "", ""));
    assert_eq!(server.run(&["get", "k"]), did(0, &format!("{large}\n"), ""));
}

/// The server's refusal was dropped with the connection, so that a lost connection was reported.
#[test]
fn a_value_beyond_the_limit_is_refused_with_the_limit_and_an_import_names_its_line() {
    let (_dir, data) = data();
    let server = Server::start_with(&data, &["--value-max", "1mb"]);
    let large = "a".repeat(3 << 20);
    let limit = "a value is at most --value-max of the server, here 1048576 bytes";
    let Did { code, stderr, .. } = server.run_with_input(&["set", "k", "-"], large.as_bytes());
    assert!(code == 2 && stderr.contains(limit), "{code}: {stderr}");

    let line = |key: &str, value: &str| format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}\n");
    // The lines behind it are sent together with it, and get no answer.
    let lines = [line("a", "1"), line("b", &"b".repeat(1000)), line("c", &large)].concat();
    let behind = [line("d", "4"), line("e", "5")].concat();
    for (lines, number) in [(lines.clone() + &behind, 3), ("\n".to_owned() + &lines, 4)] {
        let Did { code, stderr, .. } = server.run_with_input(&["import"], lines.as_bytes());
        assert!(code == 2 && stderr.contains(limit), "{code}: {stderr}");
        assert!(stderr.starts_with(&format!("stopped at line {number}: ")), "{stderr}");
        assert_eq!(server.run(&["get", "a"]), did(0, "1\n", ""));
        assert_eq!(server.run(&["get", "d"]).code, 1);
    }
}

#[test]
fn a_scan_goes_on_page_by_page() {
    let (_dir, data) = data();
    let server = Server::start_with(&data, &["--durability", "os"]);
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    let large = "x".repeat(20_000);
    let mut expected = String::new();
    for i in 0..2500 {
        let value = if i < 2000 { large.as_str() } else { "v" };
        write!(stream, r#"{{"Set":{{"key":"{i:04}","value":"{value}"}}}}"#).unwrap();
        writeln!(expected, "{i:04}\t{value}").unwrap();
    }
    let replies = BufReader::new(stream).lines().take(2500);
    assert_eq!(replies.map(Result::unwrap).filter(|reply| reply == "{\"Ok\":null}").count(), 2500);
    // 40 MB do not fit one page of 1000 entries, so the scan has to ask for less.
    let scanned = server.run(&["scan"]);
    assert_eq!((scanned.code, scanned.stderr.as_str()), (0, ""));
    assert!(scanned.stdout == expected, "{} bytes came", scanned.stdout.len());
}

#[test]
fn a_flag_counts_before_the_environment() {
    let (_dir, data) = data();
    let server = Server::start(&data);
    server.run(&["set", "k", "v"]);
    let mut get = program();
    get.args(["get", "k", "--addr", &server.addr]).env("ARYAVARTH_ADDR", "127.0.0.1:1");
    assert_eq!(Did::from(get.output().unwrap()), did(0, "v\n", ""));
    let mut get = server.command(&["get", "k"]);
    get.env("ARYAVARTH_JSON", "1");
    assert_eq!(get.output().unwrap().stdout, b"{\"key\":\"k\",\"value\":\"v\"}\n");
}

#[test]
fn what_cannot_be_reached_is_one_line_and_exit_code_2() {
    for addr in ["127.0.0.1:1", "nonsense", "127.0.0.1:99999"] {
        let Did { code, stdout, stderr } = run(&["get", "k", "--addr", addr]);
        assert_eq!((code, stdout.as_str()), (2, ""));
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.starts_with(&format!("cannot reach a server at {addr}: ")), "{stderr}");
    }
}

/// Every file under a directory, with its content. The store of a running server changes by
/// itself, so it is left out.
fn files(dir: &Path, running: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            found.insert(path.clone(), fs::read(path).unwrap());
        } else {
            found.insert(path.clone(), Vec::new());
            if path != running {
                found.extend(files(&path, running));
            }
        }
    }
    found
}

#[test]
fn a_server_that_cannot_start_says_why_and_changes_nothing() {
    let (dir, running) = data();
    let server = Server::start(&running);
    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.txt"), "not a store").unwrap();
    let file = foreign.join("thesis.txt");
    let fresh = dir.path().join("fresh");

    let pid = server.child.id().to_string();
    let loopback = "127.0.0.1:0";
    for (listen, data, says) in [
        ("0.0.0.0:0", &fresh, "--insecure"),
        ("nonsense", &fresh, "cannot listen on nonsense"),
        ("192.0.2.1:0", &fresh, "--insecure"),
        (server.addr.as_str(), &fresh, "in use"),
        (loopback, &running, pid.as_str()),
        (loopback, &foreign, "is not an Aryavarth store"),
        (loopback, &file, "cannot open"),
    ] {
        let before = files(dir.path(), &running);
        let args = ["server", "--listen", listen, "--data", data.to_str().unwrap()];
        let Did { code, stdout, stderr } = run_briefly(&args);
        assert_eq!((code, stdout.as_str()), (2, ""), "{listen} {data:?}: {stderr}");
        let errors: Vec<&str> = stderr.lines().filter(|line| !line.contains(" INFO ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(says), "{stderr}");
        assert_eq!(files(dir.path(), &running), before, "{listen} {data:?}");
    }
    assert_eq!(run_briefly(&["server", "--durability", "sometimes"]).code, 2);
    assert_eq!(run_briefly(&["server", "--threads", "0"]).code, 2);
}

/// A figure of INFO, as the command prints it.
#[cfg(feature = "sled")]
fn figure(server: &Server, name: &str) -> String {
    let info = server.run(&["info"]).stdout;
    let found = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.unwrap_or_else(|| panic!("no {name} in {info}")).to_owned()
}

/// Sends a command of the Redis protocol, and reads its reply of one line when it is asked for.
#[cfg(feature = "sled")]
fn ask(server: &Server, command: &str) -> impl FnOnce() -> String + use<> {
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    move || BufReader::new(stream).lines().next().unwrap().unwrap()
}

/// The pause holds each engine's sweep by a way of its own.
#[cfg(feature = "sled")]
#[test]
fn a_pause_holds_writes_and_the_sweep_on_the_other_engine_too() {
    let (_dir, data) = data();
    let server = Server::start_with(&data, &["--engine", "sled"]);
    let wait_for = |wanted: &str, name: &str, value: &str| {
        let start = Instant::now();
        while figure(&server, name) != value {
            assert!(start.elapsed() < support::PATIENCE, "never: {wanted}");
        }
    };
    assert_eq!(ask(&server, "SET kept v")(), "+OK");
    assert_eq!(ask(&server, "CLIENT PAUSE 600000 WRITE")(), "+OK");
    let held = ask(&server, "SET kept w");
    wait_for("a write waits", "blocked_clients", "1");
    assert_eq!(server.run(&["get", "kept"]), did(0, "v\n", ""));
    assert_eq!(ask(&server, "CLIENT UNPAUSE")(), "+OK");
    assert_eq!(held(), "+OK");
    assert_eq!(server.run(&["get", "kept"]), did(0, "w\n", ""));

    // A key that expires meanwhile is gone for readers and stays in the store.
    assert_eq!(ask(&server, "SET soon v PX 2000")(), "+OK");
    assert_eq!(ask(&server, "CLIENT PAUSE 600000 WRITE")(), "+OK");
    let expired = figure(&server, "expired_keys");
    if server.run(&["get", "soon"]).code == 0 {
        assert_eq!(expired, "0");
        let start = Instant::now();
        while server.run(&["get", "soon"]).code == 0 {
            assert!(start.elapsed() < support::PATIENCE);
        }
        thread::sleep(Duration::from_millis(1500));
        assert_eq!(figure(&server, "expired_keys"), "0");
    }
    assert_eq!(ask(&server, "CLIENT UNPAUSE")(), "+OK");
    wait_for("the sweep goes on", "expired_keys", "1");
}

#[cfg(feature = "sled")]
#[test]
fn a_directory_of_the_other_engine_is_refused_with_the_remedy() {
    let (_dir, data) = data();
    let mut server = Server::start_with(&data, &["--engine", "sled"]);
    assert!(server.has_said(&["started", r#"engine="sled""#]), "{:?}", server.said);
    assert_eq!(server.run(&["set", "k", "v"]), did(0, "", ""));
    assert_eq!(server.run(&["compact"]), did(0, "", ""));
    assert_eq!(server.run(&["scan"]), did(0, "k\tv\n", ""));
    server.signal(Signal::TERM);
    assert_eq!(server.wait().1, Some(0));

    let args = ["server", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    let Did { code, stdout, stderr } = run_briefly(&args);
    assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
    assert!(stderr.contains("made by the engine sled") && stderr.contains("--engine sled"));
    let server = Server::start_with(&data, &["--engine", "sled"]);
    assert!(server.has_said(&["recovered", "keys=1"]), "{:?}", server.said);
    assert_eq!(server.run(&["get", "k"]), did(0, "v\n", ""));
}

#[test]
fn verify_names_what_is_damaged_and_changes_nothing() {
    let (dir, data) = data();
    let mut server = Server::start(&data);
    server.run(&["set", "key-1", "value-1"]);
    server.run(&["set", "key-2", "value-2"]);
    let path = data.to_str().unwrap();
    let locked = run(&["verify", path]);
    assert_eq!(locked.code, 2);
    assert!(locked.stderr.contains("in use"), "{}", locked.stderr);
    server.signal(Signal::TERM);
    server.wait();

    let Did { code, stdout, stderr } = run(&["verify", path]);
    assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    assert!(stderr.contains("2 good records"), "{stderr}");

    let (log, mut bytes) = files(&data, Path::new(""))
        .into_iter()
        .find(|(_, bytes)| bytes.windows(7).any(|part| part == b"value-1"))
        .unwrap();
    let at = bytes.windows(7).position(|part| part == b"value-1").unwrap();
    bytes[at] ^= 1;
    fs::write(&log, &bytes).unwrap();
    let before = files(dir.path(), Path::new(""));
    let Did { code, stdout, stderr } = run(&["verify", path]);
    assert_eq!((code, stdout.lines().count()), (2, 1), "{stdout}{stderr}");
    assert!(stdout.starts_with(&format!("{}: byte ", log.display())), "{stdout}");
    assert!(stderr.contains("is damaged in 1 place;"), "{stderr}");
    assert!(stderr.contains(", 1 good record, "), "{stderr}");
    let json = run(&["verify", path, "--json"]).stdout;
    assert!(json.starts_with(r#"{"path":""#) && json.contains(r#""offset":"#), "{json}");
    // `aryavarth verify DIR | head -1` must not say that all is well.
    let mut unread = program()
        .args(["verify", path])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(unread.stdout.take());
    assert_eq!(unread.wait().unwrap().code(), Some(2));
    assert_eq!(files(dir.path(), Path::new("")), before);

    let nothing = run(&["verify", dir.path().join("nothing").to_str().unwrap()]);
    assert_eq!((nothing.code, nothing.stderr.lines().count()), (2, 1), "{}", nothing.stderr);
}

#[test]
fn salvage_saves_what_is_whole_and_touches_nothing() {
    let (dir, data) = data();
    let mut server = Server::start(&data);
    for n in 1..=3 {
        server.run(&["set", &format!("key-{n}"), &format!("value-{n}")]);
    }
    let (path, out) = (data.to_str().unwrap(), dir.path().join("saved"));
    let out = out.to_str().unwrap();
    let locked = run(&["salvage", path, out]);
    assert!(locked.code == 2 && locked.stderr.contains("in use"), "{}", locked.stderr);
    server.signal(Signal::TERM);
    server.wait();

    let before = files(&data, Path::new(""));
    let whole = run(&["salvage", path, out]);
    assert_eq!((whole.code, whole.stdout.as_str()), (0, ""), "{}", whole.stderr);
    assert!(whole.stderr.contains("3 keys saved"), "{}", whole.stderr);
    let again = run(&["salvage", path, out]);
    assert!(again.code == 2 && again.stderr.contains("not empty"), "{}", again.stderr);
    fs::remove_dir_all(out).unwrap();
    assert_eq!(files(&data, Path::new("")), before);

    let (log, mut bytes) = before
        .into_iter()
        .find(|(_, bytes)| bytes.windows(7).any(|part| part == b"value-2"))
        .unwrap();
    let at = bytes.windows(7).position(|part| part == b"value-2").unwrap();
    bytes[at] ^= 1;
    fs::write(&log, &bytes).unwrap();
    fs::remove_file(data.join("LOCK")).unwrap();
    let before = files(&data, Path::new(""));
    let Did { code, stdout, stderr } = run(&["salvage", path, out, "--json"]);
    assert_eq!((code, stdout.lines().count()), (2, 2), "{stdout}{stderr}");
    let damage = stdout.lines().next().unwrap();
    for part in [r#""key":"key-2""#, r#""key_is_certain":true"#, r#""seq_min":"#, r#""offset":"#] {
        assert!(damage.contains(part), "{damage}");
    }
    let summary = stdout.lines().last().unwrap();
    assert!(summary.starts_with(r#"{"saved_keys":2,"#), "{summary}");
    assert!(summary.contains(r#""damaged":1"#) && summary.contains(r#""doubtful_keys":0"#));
    assert_eq!(files(&data, Path::new("")), before, "not even the lock file was made");

    let server = Server::start(Path::new(out));
    assert_eq!(server.run(&["get", "key-1"]), did(0, "value-1\n", ""));
    assert_eq!(server.run(&["get", "key-2"]).code, 1);
    assert_eq!(server.run(&["get", "key-3"]), did(0, "value-3\n", ""));
}

#[test]
fn a_server_says_what_it_does_and_ends_with_ready() {
    let (_dir, data) = data();
    let server = Server::start_with(&data, &["--durability", "interval:10"]);
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    let data = format!("directory={data:?}");
    let parts = ["started", &version, r#"engine="kvs""#, &data, "durability=interval:10"];
    assert!(server.has_said(&parts), "{:?}", server.said);
    assert_eq!(run(&["--version"]).stdout, format!("aryavarth {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_pool_serves() {
    for pool in ["shared-queue", "rayon", "naive"] {
        let (_dir, data) = data();
        let server = Server::start_with(&data, &["--pool", pool, "--threads", "2"]);
        assert_eq!(server.run(&["set", "k", pool]), did(0, "", ""));
        assert_eq!(server.run(&["get", "k"]), did(0, &format!("{pool}\n"), ""));
    }
}

#[test]
fn a_signal_stops_the_server_in_time_whatever_its_clients_do() {
    for signal in [Signal::TERM, Signal::INT] {
        let (_dir, data) = data();
        let mut server = Server::start(&data);
        server.run(&["set", "k", "v"]);
        let _idle = TcpStream::connect(&server.addr).unwrap();
        let mut half = TcpStream::connect(&server.addr).unwrap();
        half.write_all(br#"{"Set":{"key":"#).unwrap();
        let mut deaf = TcpStream::connect(&server.addr).unwrap();
        deaf.write_all(&br#"{"Get":{"key":"k"}}"#.repeat(1000)).unwrap();

        let start = Instant::now();
        server.signal(signal);
        server.assert_closes();
        assert!(start.elapsed() < STOP_TIME, "{:?}", start.elapsed());

        let server = Server::start(&data);
        assert!(server.has_said(&["recovered", "keys=1", "clean=true"]), "{:?}", server.said);
        assert_eq!(server.run(&["get", "k"]), did(0, "v\n", ""));
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let (_dir, data) = data();
    let mut server = Server::start(&data);
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    let (acknowledge, acknowledged) = mpsc::channel();
    let writer = thread::spawn(move || {
        let mut replies = BufReader::new(stream.try_clone().unwrap());
        for i in 0.. {
            let request = format!(r#"{{"Set":{{"key":"k","value":"{i}"}}}}"#);
            let mut reply = String::new();
            let sent = stream.write_all(request.as_bytes());
            if sent.and_then(|()| replies.read_line(&mut reply)).is_err() || reply.is_empty() {
                return;
            }
            assert_eq!(reply, "{\"Ok\":null}\n");
            acknowledge.send(i).unwrap();
        }
    });
    for _ in 0..50 {
        acknowledged.recv().unwrap();
    }
    server.signal(Signal::KILL);
    server.wait();
    writer.join().unwrap();
    let acknowledged: u64 = acknowledged.iter().last().unwrap_or(49);

    let server = Server::start(&data);
    assert!(server.said.iter().any(|line| line.contains("was not closed")), "{:?}", server.said);
    let value: u64 = server.run(&["get", "k"]).stdout.trim().parse().unwrap();
    assert!(value == acknowledged || value == acknowledged + 1, "{value} after {acknowledged}");
}

/// A server's replies to commands of the Redis protocol.
fn replies(addr: &str, commands: &str, replies: usize) -> Vec<String> {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(commands.as_bytes()).unwrap();
    let lines = BufReader::new(stream).lines().take(replies);
    lines.map(|line| line.unwrap().trim_end().to_owned()).collect()
}

#[test]
fn with_a_password_the_server_asks_for_it_and_speaks_no_json() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    write_secret(&file, "secret\r\nthe rest is a note\n");
    let file = file.to_str().unwrap();
    let server = Server::start_with(&dir.path().join("data"), &["--password-file", file]);
    let said = replies(&server.addr, "GET k\r\nAUTH wrong\r\nAUTH secret\r\nSET k v\r\n", 4);
    assert_eq!(said[0], "-NOAUTH Authentication required.");
    assert!(said[1].starts_with("-WRONGPASS "), "{said:?}");
    assert_eq!(said[2..], ["+OK", "+OK"]);
    let json = replies(&server.addr, r#"{"Get":{"key":"k"}}"#, 1);
    assert!(json[0].contains("JSON is off"), "{json:?}");
    let Did { code, stderr, .. } = server.run(&["get", "k"]);
    assert!(code == 2 && stderr.contains("--password-file"), "{stderr}");
}

#[test]
fn a_password_file_without_a_password_is_refused_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let (data, empty) = (dir.path().join("data"), dir.path().join("empty"));
    write_secret(&empty, "\nsecret\n");
    for (file, why) in [(empty, "its first line is empty"), (dir.path().join("absent"), "No such")]
    {
        let (data, file) = (data.to_str().unwrap(), file.to_str().unwrap());
        let did = run_briefly(&["server", "--data", data, "--password-file", file]);
        assert_eq!(did.code, 2);
        assert!(did.stderr.contains(file) && did.stderr.contains(why), "{did:?}");
    }
    assert!(!data.exists());
}

/// It once started a server that asks for no password.
#[test]
fn an_empty_variable_is_no_password_and_a_file_counts_before_the_variable() {
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().join("data"), dir.path().join("password"));
    let start = ["server", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    for args in [&start[..], &["get", "k"]] {
        let output = program().args(args).env("ARYAVARTH_PASSWORD", "").output().unwrap();
        let Did { code, stderr, .. } = output.into();
        assert!(code == 2 && stderr.contains("ARYAVARTH_PASSWORD is empty"), "{code}: {stderr}");
    }
    assert!(!data.exists());
    write_secret(&file, "secret");
    let server = Server::start_with(&data, &["--password-file", file.to_str().unwrap()]);
    let mut get = server.command(&["set", "k", "v", "--password-file", file.to_str().unwrap()]);
    for variable in ["", "wrong"] {
        let output = get.env("ARYAVARTH_PASSWORD", variable).output().unwrap();
        assert_eq!(Did::from(output), did(0, "", ""));
    }
}

#[test]
fn at_its_limit_of_memory_the_server_refuses_what_takes_more_in_both_protocols() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(&dir.path().join("data"), &["--memory-max", "1"]);
    let said = replies(&server.addr, "SET k v\r\nGET k\r\nDEL k\r\n", 3);
    assert_eq!(said, ["-OOM command not allowed when used memory > 'maxmemory'.", "$-1", ":0"]);
    let json = r#"{"Set":{"key":"k","value":"v"}}{"Get":{"key":"k"}}"#;
    let said = replies(&server.addr, json, 2);
    assert!(said[0].contains("memory has reached its limit"), "{said:?}");
    assert_eq!(said[1], r#"{"Ok":null}"#);
    // It once was healthy, while each write was refused.
    let Did { code, stderr, .. } = server.run(&["status"]);
    assert!(code == 2 && stderr.contains("the memory is above its limit"), "{code}: {stderr}");
}
