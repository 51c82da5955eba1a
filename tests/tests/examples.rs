//! The programs under `examples/` of the client, the server and the protocol, run as a user runs them.
//! Those of the engine are run by its own tests.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread;

use aryavarth::MemoryEngine;
use aryavarth_client::{KvsClient, RedisClient, Value};
use aryavarth_server::{Config, KvServer, Listener, SharedQueueThreadPool, ThreadPool};
use aryavarth_tests::server::example;

/// Runs a client's example to its end against a server with this password, and returns its output.
fn run_beside_a_server(name: &str, password: &str) -> String {
    let program = example("aryavarth-client", name).unwrap();
    let listener = Listener::bind("127.0.0.1:0", false).unwrap();
    let config = Config { password: password.into(), ..Config::default() };
    let pool = SharedQueueThreadPool::new(2).unwrap();
    let server = KvServer::with_config(listener, MemoryEngine::new(), pool, config);
    let (addr, handle) = (server.local_addr().to_string(), server.handle());
    let serving = thread::spawn(move || server.run());
    let mut command = Command::new(program);
    let output = command.arg(addr).env("ARYAVARTH_PASSWORD", password).output().unwrap();
    handle.shutdown();
    serving.join().unwrap().unwrap();
    text(&output)
}

/// The output of a program that has succeeded.
fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// An example that serves until its input ends.
struct Serving {
    child: Child,
    output: BufReader<ChildStdout>,
    addr: String,
}

impl Serving {
    fn start(name: &str, dir: &Path) -> Serving {
        let mut command = Command::new(example("aryavarth-server", name).unwrap());
        command.arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let addr = line.trim_end().strip_prefix("listening on ").unwrap().to_owned();
        Serving { child, output, addr }
    }

    /// Ends its input, and returns its last lines.
    fn end(mut self) -> Vec<String> {
        drop(self.child.stdin.take());
        let lines = self.output.lines().map(Result::unwrap).collect();
        assert!(self.child.wait().unwrap().success());
        lines
    }
}

#[test]
fn notes_are_set_walked_over_and_removed() {
    let said = run_beside_a_server("notes", "");
    let notes = "note:1: buy bread\nnote:2: call Bob\nnote:3: pay rent\n";
    assert_eq!(said, format!("{notes}note:2 was removed\n2 notes are left\n"));
}

#[test]
fn sessions_hold_any_bytes_behind_a_password() {
    let expected = "\
session:1 is \\x00user\\xff=42
Status(\"OK\")
refused: ERR value is not an integer or out of range
Integer(1)
visit 1
visit 2
visit 3
";
    assert_eq!(run_beside_a_server("sessions", "secret"), expected);
}

#[test]
fn a_program_serves_the_store_that_it_uses() {
    let dir = tempfile::tempdir().unwrap();
    let serving = Serving::start("embedded", &dir.path().join("store"));
    let mut client = RedisClient::connect(&*serving.addr).unwrap();
    assert_eq!(client.command(&["GET", "greeting"]).unwrap(), Value::from("hello"));
    client.command(&["SET", "answer", "hello to you"]).unwrap();
    assert_eq!(serving.end(), ["answer is left", "greeting is left"]);
}

#[test]
fn an_engine_of_three_methods_serves_both_protocols() {
    let dir = tempfile::tempdir().unwrap();
    let serving = Serving::start("own_engine", dir.path());
    let mut redis = RedisClient::connect(&*serving.addr).unwrap();
    redis.command(&["SET", "../user", "Alice"]).unwrap();
    let refused = redis.command(&["EXPIRE", "../user", "10"]).unwrap_err();
    let mut json = KvsClient::connect(&*serving.addr).unwrap();
    assert_eq!(json.get("../user".into()).unwrap().as_deref(), Some("Alice"), "{refused}");
    json.remove("../user".into()).unwrap();
    assert_eq!(json.get("../user".into()).unwrap(), None);
    assert_eq!(serving.end(), [""; 0]);
}

#[test]
fn a_conversation_needs_no_network() {
    let program = example("aryavarth-protocol", "conversation").unwrap();
    let json = r#"{"Set":{"key":"k","value":"v"}} {"Get":{"key":"k"}}"#;
    for (input, expected) in [
        (json, "{\"Ok\":null}\n{\"Ok\":\"v\"}\n"),
        ("SET k v\r\nGET k\r\nPING\r\n", "+OK\r\n$1\r\nv\r\n-ERR not supported here\r\n"),
        ("{\"", "{\"Err\":\"the input ended inside a request, after 2 bytes of it\"}\n"),
    ] {
        let mut command = Command::new(&program);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        assert_eq!(text(&child.wait_with_output().unwrap()), expected, "{input}");
    }
}
