//! Keys from the command line: any bytes, deadlines, databases and passwords; and the server's state.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::{Did, Server, data, did, run, write_secret};

fn run_bytes(server: &Server, args: &[&[u8]]) -> Output {
    let mut command = server.command(&[]);
    command.args(args.iter().map(|arg| OsStr::from_bytes(arg))).output().unwrap()
}

#[test]
fn keys_and_values_are_any_bytes() {
    let (_dir, data) = data();
    let server = Server::start(&data);
    let every: Vec<u8> = (0..=255).collect();
    let (key, value) = (b"k\xff\n", &*every);
    assert!(run_bytes(&server, &[b"set", key, b"\x80 as an argument"]).status.success());
    assert_eq!(run_bytes(&server, &[b"get", key]).stdout, b"\x80 as an argument\n");

    let mut set = server.command(&["set"]);
    set.arg(OsStr::from_bytes(key)).arg("-").stdin(Stdio::piped());
    let mut child = set.spawn().unwrap();
    child.stdin.take().unwrap().write_all(value).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(run_bytes(&server, &[b"get", key, b"--raw"]).stdout, value);
    let line = [&key[..], b"\t", value, b"\n"].concat();
    assert_eq!(run_bytes(&server, &[b"scan"]).stdout, line);
    assert_eq!(run_bytes(&server, &[b"scan", b"k\xff"]).stdout, line);
    assert_eq!(run_bytes(&server, &[b"scan", b"k*"]).stdout, b"", "a prefix is no pattern");
    let json = String::from_utf8(run_bytes(&server, &[b"get", key, b"--json"]).stdout).unwrap();
    assert!(json.starts_with(r#"{"key_base64":"a/8K","value_base64":"AAEC"#), "{json}");
    assert!(run_bytes(&server, &[b"rm", key]).status.success());
    assert_eq!(run_bytes(&server, &[b"get", key]).status.code(), Some(1));
}

#[test]
fn a_key_has_a_deadline_and_a_condition() {
    let (_dir, data) = data();
    let server = Server::start(&data);
    assert_eq!(server.run(&["set", "k", "v", "--ex", "1000"]), did(0, "", ""));
    let left: f64 = server.run(&["ttl", "k"]).stdout.trim().parse().unwrap();
    assert!((900.0..=1000.0).contains(&left), "{left}");
    assert!(server.run(&["ttl", "k", "--json"]).stdout.starts_with(r#"{"ttl_ms":9"#));
    assert_eq!(server.run(&["set", "k", "w", "--nx"]), did(1, "", "the key exists already\n"));
    assert_eq!(server.run(&["set", "k", "w", "--xx"]), did(0, "", ""));
    assert_eq!(server.run(&["ttl", "k"]), did(0, "none\n", ""));
    assert_eq!(server.run(&["ttl", "k", "--json"]), did(0, "{\"ttl_ms\":null}\n", ""));
    assert_eq!(server.run(&["set", "absent", "w", "--xx"]), did(1, "", "Key not found\n"));
    assert_eq!(server.run(&["ttl", "absent"]), did(1, "", "Key not found\n"));
    assert_eq!(server.run(&["set", "k", "soon gone", "--px", "1"]), did(0, "", ""));
    let start = Instant::now();
    while server.run(&["get", "k"]).code == 0 {
        assert!(start.elapsed() < support::PATIENCE);
    }
    for wrong in [["--ex", "0"], ["--ex", "soon"], ["--px", "-1"]] {
        assert_eq!(server.run(&["set", "k", "v", wrong[0], wrong[1]]).code, 2);
    }
}

#[test]
fn addresses_and_numbers_that_make_no_sense_say_which_would() {
    for (args, would) in [
        (&["get", "k", "--addr", "nonsense"][..], "such as 127.0.0.1:4000"),
        (&["get", "k", "--addr", "127.0.0.1"], "such as 127.0.0.1:4000"),
        (&["server", "--listen", "127.0.0.1:99999"], "such as 127.0.0.1:4000"),
        (&["server", "--memory-max", "ten"], "such as 100mb"),
        (&["server", "--durability", "interval:x"], "interval:MS (1 to 1000)"),
        (&["set", "k", "v", "--ex", "soon"], "such as 60"),
        (&["get", "k", "--db", "x"], "such as 0 or 3"),
    ] {
        let Did { code, stderr, .. } = support::run_briefly(args);
        assert!(code == 2 && stderr.contains(would), "{args:?}: {stderr}");
    }
}

#[test]
fn databases_do_not_mix() {
    let (_dir, data) = data();
    let server = Server::start(&data);
    assert_eq!(server.run(&["set", "k", "three", "--db", "3"]), did(0, "", ""));
    assert_eq!(server.run(&["get", "k"]).code, 1);
    assert_eq!(server.run(&["get", "k", "--db", "3"]), did(0, "three\n", ""));
    assert_eq!(server.run(&["scan", "--db", "3"]), did(0, "k\tthree\n", ""));
    let Did { code, stderr, .. } = server.run(&["get", "k", "--db", "99"]);
    assert!(code == 2 && stderr.contains("out of range"), "{stderr}");
}

#[test]
fn a_password_opens_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    write_secret(&file, "secret\n");
    let file = file.to_str().unwrap();
    let server = Server::start_with(&dir.path().join("data"), &["--password-file", file]);
    let all: &[&[&str]] = &[
        &["set", "k", "v"],
        &["get", "k"],
        &["scan"],
        &["ttl", "k"],
        &["ping"],
        &["info"],
        &["status"],
        &["compact"],
        &["damage"],
        &["export"],
        &["rm", "k"],
    ];
    // An import is refused before it reads a line.
    let import: &[&str] = &["import"];
    for args in all.iter().chain([&import]) {
        let Did { code, stdout, stderr } = server.run(args);
        assert!(code == 2 && stderr.contains("asks for a password"), "{args:?}: {stderr}");
        assert_eq!((stdout.as_str(), stderr.lines().count()), ("", 1), "{args:?}");
        let wrong = server.command(args).env("ARYAVARTH_PASSWORD", "no").output().unwrap();
        let Did { code, stdout, stderr } = wrong.into();
        assert!(code == 2 && stderr.contains("WRONGPASS"), "{args:?}: {stderr}");
        assert_eq!((stdout.as_str(), stderr.lines().count()), ("", 1), "{args:?}");
    }
    for args in all {
        let Did { code, stderr, .. } = server.run(&[*args, &["--password-file", file]].concat());
        assert_eq!(code, 0, "{args:?}: {stderr}");
    }
    let mut named = server.command(&["set", "k", "v", "--user", "default"]);
    assert!(named.env("ARYAVARTH_PASSWORD", "secret").status().unwrap().success());
    let wrong = server.command(&["get", "k"]).env("ARYAVARTH_PASSWORD", "no").output().unwrap();
    let Did { code, stderr, .. } = wrong.into();
    assert!(code == 2 && stderr.contains("WRONGPASS"), "{stderr}");
    let Did { code, stderr, .. } = server.run(&["get", "k", "--user", "default"]);
    assert!(code == 2 && stderr.contains("--user needs a password"), "{stderr}");
}

#[test]
fn a_password_that_others_can_read_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let (file, data) = (dir.path().join("password"), dir.path().join("data"));
    fs::write(&file, "secret\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let (path, data) = (file.to_str().unwrap(), data.to_str().unwrap());
    let remedy = format!("chmod 600 {path}");
    let start = ["server", "--data", data, "--listen", "127.0.0.1:0", "--password-file", path];
    for args in [&start[..], &["get", "k", "--password-file", path]] {
        let Did { code, stderr, .. } = support::run_briefly(args);
        assert!(code == 2 && stderr.contains(&remedy), "{stderr}");
    }
    assert!(!fs::exists(data).unwrap(), "nothing was made");
    let insecure = Server::start_with(data.as_ref(), &["--password-file", path, "--insecure"]);
    assert!(insecure.said.iter().any(|line| line.starts_with("warning: ")), "{:?}", insecure.said);
}

#[test]
fn the_servers_state_fits_a_screen_and_a_script() {
    let (_dir, data) = data();
    let server = Server::start(&data);
    server.run(&["set", "a", "1", "--ex", "1000"]);
    server.run(&["set", "b", "2", "--db", "5"]);
    assert_eq!(server.run(&["ping"]), did(0, "PONG\n", ""));
    assert_eq!(server.run(&["ping", "--json"]), did(0, "{\"ping\":\"PONG\"}\n", ""));
    let Did { code, stdout, stderr } = server.run(&["status"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.lines().count() <= 24, "{stdout}");
    for part in ["2, 1 of them with a deadline, in 2 databases", &server.addr, "healthy", "kvs"] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    let json = server.run(&["status", "--json"]).stdout;
    assert!(json.starts_with(r#"{"healthy":true,"problems":[],"#), "{json}");
    assert!(server.run(&["info"]).stdout.contains("\nredis_version:"));
    assert!(server.run(&["info", "keyspace", "--json"]).stdout.contains(r#""db5":"keys=1"#));
    assert_eq!(server.run(&["info", "nonsense"]).code, 2);
    let compacted = server.run(&["compact", "--json"]).stdout;
    assert!(compacted.starts_with(r#"{"disk_bytes_before":"#), "{compacted}");
}

/// The command line once waited 62 s for a program that never answers.
#[test]
fn a_program_that_is_no_such_server_is_named_at_once() {
    for (answer, shown) in [(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "HTTP/1.1"), (b"", "5 s")] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut input = [0; 1024];
            while stream.read(&mut input).is_ok_and(|bytes| bytes > 0) {
                drop(stream.write_all(answer));
            }
        });
        let start = Instant::now();
        let Did { code, stderr, .. } = run(&["get", "k", "--addr", &addr]);
        assert!(code == 2 && stderr.contains("is not an Aryavarth server"), "{stderr}");
        assert!(stderr.contains(shown), "{stderr}");
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    }
}
