//! The README's commands and dialogues work as they stand there.
//!
//! The commands and the JSON dialogue are taken from README.md itself, so a README that drifts from
//! the program fails here. Only the address and the data directory are replaced, through the
//! environment, and `cargo run --release --` by the program that Cargo built for this test.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Long enough for a loaded machine: a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    fs::read_to_string(path).expect("the README can be read")
}

/// A command of the README: the words after `cargo run --release --`, and the output that it should print.
struct Shown {
    words: Vec<String>,
    prints: Option<String>,
}

fn shown_commands(readme: &str) -> Vec<Shown> {
    let commands = readme.lines().filter_map(|line| line.strip_prefix("cargo run --release -- "));
    commands
        .map(|command| {
            let (command, comment) = command.split_once(" #").unwrap_or((command, ""));
            let prints = comment.trim().strip_prefix("prints: ").map(|text| format!("{text}\n"));
            Shown { words: command.split_whitespace().map(str::to_owned).collect(), prints }
        })
        .collect()
}

/// A running server, ended when the test ends, however it ends.
struct Server {
    child: Child,
    addr: String,
    data: TempDir,
}

impl Server {
    /// Starts the program and returns once it has said `ready`.
    fn start(words: &[String]) -> Server {
        let data = tempfile::tempdir().expect("a data directory");
        let mut child = Command::new(env!("CARGO_BIN_EXE_aryavarth"))
            .args(words)
            .env("ARYAVARTH_LISTEN", "127.0.0.1:0")
            .env("ARYAVARTH_DATA", data.path())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stderr = BufReader::new(child.stderr.take().expect("a piped stderr"));
        let mut server = Server { child, addr: String::new(), data };
        let (sender, lines) = mpsc::channel();
        // Reads to the end, so that the server never waits for a full pipe.
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut said = String::new();
        loop {
            let line = lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|error| panic!("no `ready` ({error}) after:\n{said}"));
            if let Some((_, addr)) = line.split_once("listening on ") {
                addr.split_whitespace().next().unwrap_or_default().clone_into(&mut server.addr);
            }
            if line == "ready" {
                return server;
            }
            said.extend([line.as_str(), "\n"]);
        }
    }

    /// Runs a client command against the server.
    fn run(&self, words: &[String]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_aryavarth"))
            .args(words)
            .env("ARYAVARTH_ADDR", &self.addr)
            .output()
            .expect("the program starts")
    }

    /// Asks the server to stop and returns whether it did so cleanly.
    fn terminate(mut self) -> bool {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, Signal::TERM).expect("the server runs");
        let patience = Instant::now() + PATIENCE;
        while Instant::now() < patience {
            if let Some(status) = self.child.try_wait().expect("the server can be waited for") {
                return status.success();
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_quick_start_works() {
    let mut commands = shown_commands(&readme()).into_iter();
    let first = commands.next().expect("the README shows commands");
    assert_eq!(first.words, ["server"], "the quick start begins with the server");
    let server = Server::start(&first.words);

    let mut names = Vec::new();
    for Shown { words, prints } in commands {
        let output = server.run(&words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?} failed: {stderr}");
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(prints.as_ref().is_none_or(|text| *text == stdout), "{words:?} printed {stdout}");
        names.extend(words.into_iter().next());
    }
    assert_eq!(names, ["set", "get"], "the quick start sets and gets a key");
    assert!(fs::read_dir(server.data.path()).expect("the data directory").count() > 0);
    assert!(server.terminate(), "a server that is asked to stop exits with 0");
}

#[test]
fn the_json_dialogue_is_what_the_server_says() {
    let server = Server::start(&["server".to_owned()]);
    let stream = TcpStream::connect(&server.addr).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let mut replies = BufReader::new(&stream).lines();

    let readme = readme();
    let mut requests = 0;
    for line in readme.lines() {
        if let Some(request) = line.strip_prefix("> {") {
            writeln!(&stream, "{{{request}").expect("the server reads");
            requests += 1;
        } else if let Some(reply) = line.strip_prefix("< ") {
            assert_eq!(replies.next().expect("a reply").expect("a reply"), reply, "to {requests}");
        }
    }
    assert!(requests > 0, "the README shows a dialogue");
    stream.shutdown(Shutdown::Write).expect("the connection is open");
    assert!(replies.next().is_none(), "nothing follows the last reply");
    assert!(server.terminate(), "a server that is asked to stop exits with 0");
}
