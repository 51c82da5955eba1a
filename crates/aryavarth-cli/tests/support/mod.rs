//! The program and a server of it, as the tests of the command line use them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "each file of tests uses a part")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longer than anything here takes, on a machine however busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_aryavarth"));
    for name in ["ADDR", "DATA", "DURABILITY", "ENGINE", "INSECURE", "JSON", "LISTEN", "THREADS"] {
        program.env_remove(format!("ARYAVARTH_{name}"));
    }
    for name in ["DB", "LOG_FORMAT", "LOG_LEVEL", "MEMORY_MAX", "PASSWORD", "PASSWORD_FILE", "USER"]
    {
        program.env_remove(format!("ARYAVARTH_{name}"));
    }
    program
}

/// The outcome of a command: its exit code, its output, and its messages.
#[derive(Debug, PartialEq)]
pub(crate) struct Did {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Did {
    fn from(output: Output) -> Did {
        Did {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

pub(crate) fn did(code: i32, stdout: &str, stderr: &str) -> Did {
    Did { code, stdout: stdout.to_owned(), stderr: stderr.to_owned() }
}

pub(crate) fn run(args: &[&str]) -> Did {
    program().args(args).output().unwrap().into()
}

/// Runs a program that should end by itself, and ends it if it does not.
pub(crate) fn run_briefly(args: &[&str]) -> Did {
    let mut command = program();
    let mut child =
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{args:?} does not end");
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap().into()
}

pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) addr: String,
    pub(crate) said: Vec<String>,
    /// Kept open, so that the server's last messages have somewhere to go.
    stderr: Option<BufReader<std::process::ChildStderr>>,
}

impl Server {
    pub(crate) fn start(data: &Path) -> Server {
        Server::start_with(data, &[])
    }

    pub(crate) fn start_with(data: &Path, args: &[&str]) -> Server {
        let mut command = program();
        command.args(["server", "--listen", "127.0.0.1:0", "--data"]).arg(data).args(args);
        Server::spawn(&mut command)
    }

    /// Starts a command that becomes a server, and returns when it is ready.
    pub(crate) fn spawn(command: &mut Command) -> Server {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said: Vec<String> = Vec::new();
        while said.last().is_none_or(|line| line != "ready") {
            let mut line = String::new();
            stderr.read_line(&mut line).unwrap();
            assert!(line.ends_with('\n'), "the server ended after {said:?} {line:?}");
            said.push(line.trim_end().to_owned());
        }
        let addr = said.iter().find_map(|line| line.strip_prefix("listening on ")).unwrap();
        Server { child, addr: addr.to_owned(), said, stderr: Some(stderr) }
    }

    /// Whether the server said a line with all of these parts on its way up.
    pub(crate) fn has_said(&self, parts: &[&str]) -> bool {
        self.said.iter().any(|line| parts.iter().all(|part| line.contains(part)))
    }

    /// The server's next line; it must say one.
    pub(crate) fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.stderr.as_mut().unwrap().read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the server ended: {line:?}");
        line.trim_end().to_owned()
    }

    /// Closes the way that the server's messages take.
    pub(crate) fn close_stderr(&mut self) {
        self.stderr = None;
    }

    /// Waits for an end without a failure.
    pub(crate) fn assert_ends(&mut self) {
        let (said, code) = self.wait();
        assert_eq!(code, Some(0), "{said}");
    }

    /// Waits for a clean end, told as text.
    pub(crate) fn assert_closes(&mut self) {
        let (said, code) = self.wait();
        assert!(code == Some(0) && said.trim_end().ends_with("INFO closed"), "{code:?} {said}");
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut program = program();
        program.args(args).env("ARYAVARTH_ADDR", &self.addr);
        program
    }

    pub(crate) fn run(&self, args: &[&str]) -> Did {
        self.command(args).output().unwrap().into()
    }

    pub(crate) fn run_with_input(&self, args: &[&str], input: &[u8]) -> Did {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap().into()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits until the server has ended; its messages meanwhile, and its exit code.
    pub(crate) fn wait(&mut self) -> (String, Option<i32>) {
        let mut said = String::new();
        self.stderr.as_mut().unwrap().read_to_string(&mut said).unwrap();
        (said, self.child.wait().unwrap().code())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn data() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    (dir, data)
}

/// Writes a file that no other user can read.
pub(crate) fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
