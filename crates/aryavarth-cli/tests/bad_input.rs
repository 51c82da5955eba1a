//! Input that makes no sense is refused with a line that says what would, and output that nobody reads
//! ends quietly.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::io::Read;
use std::process::{Output, Stdio};
use std::time::Instant;

use support::{Did, PATIENCE, Server, data, did, run_briefly};

/// Runs a command and closes its output after the first byte, as `head -c 1` does.
fn cut_off(server: &Server, args: &[&str]) -> Did {
    let mut child =
        server.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    assert_eq!(stdout.read(&mut [0]).unwrap(), 1);
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    Did::from(Output { stdout: Vec::new(), ..output })
}

#[test]
fn an_output_that_is_cut_off_ends_quietly_with_its_verdict() {
    let (_dir, data) = data();
    let server = Server::start_with(&data, &["--durability", "os"]);
    let value = "v".repeat(100_000);
    for n in 0..40 {
        assert_eq!(server.run(&["set", &format!("key-{n:02}"), &value]).code, 0);
    }
    for args in [&["scan"][..], &["scan", "--json"], &["get", "key-00"], &["export"], &["info"]] {
        assert_eq!(cut_off(&server, args), did(0, "", ""), "{args:?}");
    }
    assert_eq!(cut_off(&server, &["status"]).code, 0);
    // A disk that is full is said whether or not the screen is read.
    let pid = rustix::process::Pid::from_raw(i32::try_from(server.child.id()).unwrap());
    let small = rustix::process::Rlimit { current: Some(64 << 10), maximum: None };
    rustix::process::prlimit(pid, rustix::process::Resource::Fsize, small).unwrap();
    for args in [&["status"][..], &["status", "--json"]] {
        // A store with a full disk looks for space again and again, and smaller steps may find some.
        let start = Instant::now();
        loop {
            let _ = server.run(&["set", "key", &value]);
            let mut unread = server.command(args);
            let mut child = unread.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            drop(child.stdout.take());
            let Did { code, stderr, .. } = child.wait_with_output().unwrap().into();
            if code == 2 {
                assert!(stderr.contains("the disk is full"), "{args:?}: {stderr}");
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{args:?}: {code} {stderr}");
        }
    }
}

#[test]
fn a_line_that_is_none_of_an_export_is_named_once_by_its_number() {
    let (_dir, data) = data();
    let server = Server::start(&data);
    let good = "{\"key\":\"a\",\"value\":\"1\"}\n";
    for (bad, why) in [
        ("{\"key\":7}", "invalid type"),
        ("{\"key\":\"a\"", "EOF"),
        ("{\"key\":\"a\",\"value\":\"\\x\"}", "invalid escape"),
        ("{\"key\":\"a\",\"valeu\":\"1\"}", "unknown field"),
        ("{\"key\":\"a\",\"value_base64\":\"?\"}", "not base64"),
        ("[\"a\",null,\"1\"]", "object"),
        ("key,value", "object"),
        ("{\"key\":\"a\",\"value\":\"1\",\"db\":-1}", "invalid value"),
    ] {
        let text = format!("{good}{good}{bad}\n{good}");
        let Did { code, stdout, stderr } = server.run_with_input(&["import"], text.as_bytes());
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (2, "", 1), "{bad}: {stderr}");
        assert!(stderr.starts_with("line 3 is not") && stderr.contains(why), "{bad}: {stderr}");
        let numbers = stderr.matches("line 1").count() + stderr.matches("line 3").count();
        assert_eq!(numbers, 1, "{bad}: {stderr}");
    }
}

#[test]
fn each_number_and_address_that_makes_no_sense_says_which_would() {
    for (args, would) in [
        (&["set", "k", "v", "--ex", "0"][..], "such as 60"),
        (&["set", "k", "v", "--px", "1.5"], "such as 60"),
        (&["scan", "--limit", "0"], "such as 60"),
        (&["scan", "--limit", "-1"], "such as 60"),
        (&["export", "--db", "-1"], "such as 0 or 3"),
        (&["ttl", "k", "--db", "4294967296"], "such as 0 or 3"),
        (&["server", "--memory-max", "1.5gb"], "such as 100mb"),
        (&["server", "--memory-max", "-1"], "such as 100mb"),
        (&["server", "--threads", "0"], "1..=1024"),
        (&["server", "--durability", "sometimes"], "interval:MS (1 to 1000)"),
        (&["server", "--durability", "interval:0"], "interval:MS (1 to 1000)"),
        (&["server", "--engine", "rocks"], "kvs"),
        (&["server", "--listen", "4000"], "such as 127.0.0.1:4000"),
        (&["server", "--listen", ""], "such as 127.0.0.1:4000"),
        (&["server", "--listen", ":4005"], "Write HOST:PORT, such as 127.0.0.1:4000"),
        (&["ping", "--addr", ":4000"], "Write HOST:PORT, such as 127.0.0.1:4000"),
        (&["ping", "--addr", "127.0.0.1:"], "such as 127.0.0.1:4000"),
        (&["status", "--addr", "host:port"], "such as 127.0.0.1:4000"),
        (&["damage", "--addr", ""], "such as 127.0.0.1:4000"),
    ] {
        let Did { code, stdout, stderr } = run_briefly(args);
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
        assert!(stderr.contains(would), "{args:?}: {stderr}");
    }
}
