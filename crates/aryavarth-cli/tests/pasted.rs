//! The commands that README.md and the help texts show work when they are pasted into a shell.
//!
//! They are taken from where they stand, each run by `sh` in a directory of its own. Only addresses
//! and the places of the system are replaced.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use support::{Did, Server, program, run};

/// Directories of the system that the examples name; the tests put them below their own.
const PLACES: [&str; 4] =
    ["/usr/local/share/man/man1", "/etc/bash_completion.d", "/var/lib", "/mnt"];

/// A shell in `dir` that knows the program, in which clients find `server` unless told otherwise.
fn shell(dir: &Path, server: &Server, other: &Server, line: &str) -> Did {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let line = line.replace("127.0.0.1:5000", &other.addr);
    let line = PLACES
        .iter()
        .fold(line, |line, place| line.replace(place, &format!("{}{place}", text(dir))));
    let binary = Path::new(env!("CARGO_BIN_EXE_aryavarth"));
    let path = format!("{}:{}", text(binary.parent().unwrap()), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    for (name, _) in program().get_envs() {
        command.env_remove(name);
    }
    command.args(["-c", &line]).current_dir(dir).env("PATH", path).stdin(Stdio::null());
    command.env("ARYAVARTH_ADDR", &server.addr).output().unwrap().into()
}

/// The lines of a text that call the program, without their comments.
fn commands(text: &str) -> Vec<&str> {
    let is_command = |line: &str| {
        let rest = line.strip_prefix("aryavarth ");
        rest.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_lowercase()))
    };
    let lines = text.lines().map(str::trim).filter(|line| is_command(line));
    lines.map(|line| line.split(" #").next().unwrap().trim()).collect()
}

/// Two servers and a directory with what the examples speak of.
fn scene() -> (tempfile::TempDir, Server, Server) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("served"));
    let other = Server::start(&dir.path().join("other"));
    for key in ["user:42", "session:7", "page:1"] {
        assert_eq!(server.run(&["set", key, "v", "--ex", "1000"]).code, 0);
        assert_eq!(other.run(&["set", key, "v"]).code, 0);
    }
    fs::write(dir.path().join("page.html"), "<p>").unwrap();
    let line = "{\"key\":\"a\",\"value\":\"1\"}\n";
    fs::write(dir.path().join("all.jsonl"), line).unwrap();
    for place in PLACES {
        fs::create_dir_all(dir.path().join(&place[1..])).unwrap();
    }
    for name in ["aryavarth-data", "var/lib/aryavarth"] {
        let mut stopped = Server::start(&dir.path().join(name));
        assert_eq!(stopped.run(&["set", "k", "v"]).code, 0);
        stopped.signal(Signal::TERM);
        stopped.wait();
    }
    (dir, server, other)
}

#[test]
fn the_readmes_commands_work() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let (dir, server, other) = scene();
    let commands = commands(&readme);
    assert!(commands.len() >= 6, "{commands:?}");
    for line in commands {
        let Did { code, stderr, .. } = shell(dir.path(), &server, &other, line);
        assert_eq!(code, 0, "{line}: {stderr}");
    }
}

#[test]
fn the_examples_of_the_help_work() {
    let (dir, server, other) = scene();
    let help = run(&["--help"]).stdout;
    let names = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = names.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    let names: Vec<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
    for name in names.into_iter().filter(|name| !["help", "server"].contains(name)) {
        let help = run(&[name, "--help"]).stdout;
        let (_, examples) = help.split_once("Examples:\n").unwrap_or_else(|| panic!("{name}"));
        let examples = commands(examples);
        assert!(examples.len() >= 2, "{name}");
        for line in examples {
            // The keys that an example before has removed.
            server.run(&["set", "user:42", "v"]);
            other.run(&["set", "user:42", "v"]);
            drop(fs::remove_dir_all(dir.path().join("saved")));
            let Did { code, stderr, .. } = shell(dir.path(), &server, &other, line);
            assert_eq!(code, 0, "{line}: {stderr}");
        }
    }
}
