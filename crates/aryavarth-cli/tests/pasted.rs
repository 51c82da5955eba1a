//! The commands that README.md, docs/ and the help texts show work when they are pasted into a shell,
//! with a password on the server as without one.
//!
//! They are taken from where they stand, each run by `sh` in a directory of its own. Only addresses
//! and the places of the system are replaced.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use support::{Did, Server, program, run, write_secret};

/// Directories of the system that the examples name; the tests put them below their own.
const PLACES: [&str; 4] =
    ["/usr/local/share/man/man1", "/etc/bash_completion.d", "/var/lib", "/mnt"];

/// A shell in a scene's directory that knows the program; clients find the first server unless told
/// otherwise.
fn shell(scene: &Scene, line: &str) -> Command {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let dir = scene.dir.path();
    let line = line.replace("127.0.0.1:5000", &scene.other.addr);
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
    if !scene.password.is_empty() {
        command.env("ARYAVARTH_PASSWORD", scene.password);
    }
    command.env("ARYAVARTH_ADDR", &scene.server.addr);
    command
}

/// Runs a line to its end.
fn paste(scene: &Scene, line: &str) -> Did {
    shell(scene, line).output().unwrap().into()
}

/// The commands in a page's fences for shells that are this program's, with those that feed it and
/// make files for it.
fn fenced(page: &str) -> Vec<&str> {
    let parts = page.split("\n```");
    let fences = parts.filter_map(|part| part.strip_prefix("sh\n"));
    let lines = fences.flat_map(str::lines).map(|line| line.split(" #").next().unwrap().trim());
    lines.filter(|line| line.contains("aryavarth ") || line.starts_with('(')).collect()
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

/// Two servers and a directory with the files that the examples speak of.
struct Scene {
    dir: tempfile::TempDir,
    server: Server,
    other: Server,
    /// Of both servers; empty for none.
    password: &'static str,
}

impl Scene {
    fn new(password: &'static str) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("servers-password");
        let mut args = Vec::new();
        if !password.is_empty() {
            write_secret(&file, password);
            args = vec!["--password-file", file.to_str().unwrap()];
        }
        let start = |name: &str| Server::start_with(&dir.path().join(name), &args);
        let (server, other) = (start("served"), start("other"));
        let scene = Scene { dir, server, other, password };
        for key in ["user:42", "session:7", "page:1"] {
            scene.set(key);
        }
        let dir = scene.dir.path();
        fs::write(dir.join("page.html"), "<p>").unwrap();
        let line = "{\"key\":\"a\",\"value\":\"1\"}\n";
        fs::write(dir.join("all.jsonl"), line).unwrap();
        for place in PLACES {
            fs::create_dir_all(dir.join(&place[1..])).unwrap();
        }
        for name in ["aryavarth-data", "var/lib/aryavarth"] {
            let mut stopped = Server::start(&dir.join(name));
            assert_eq!(stopped.run(&["set", "k", "v"]).code, 0);
            stopped.signal(Signal::TERM);
            stopped.wait();
        }
        scene
    }

    /// Sets a key on both servers.
    fn set(&self, key: &str) {
        for server in [&self.server, &self.other] {
            let mut command = server.command(&["set", key, "v", "--ex", "1000"]);
            if !self.password.is_empty() {
                command.env("ARYAVARTH_PASSWORD", self.password);
            }
            let output = command.output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
    }
}

/// Pastes a page's commands in their order. A server goes on in the background, and the clients
/// behind it find it.
fn assert_works(page: &str, password: &'static str) -> usize {
    let mut scene = Scene::new(password);
    let commands = fenced(page);
    let count = commands.len();
    for line in commands {
        if line.starts_with("aryavarth server") {
            let mut command = shell(&scene, &format!("exec {line}"));
            command.env("ARYAVARTH_LISTEN", "127.0.0.1:0").env_remove("ARYAVARTH_PASSWORD");
            scene.server = Server::spawn(&mut command);
            scene.password = "";
        } else {
            let Did { code, stderr, .. } = paste(&scene, line);
            assert_eq!(code, 0, "{line}: {stderr}");
        }
    }
    count
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_readmes_commands_work() {
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    for password in ["", "correct horse"] {
        assert!(assert_works(&readme, password) >= 13);
    }
}

#[test]
fn the_commands_of_the_other_pages_work() {
    let files = |dir: &str| fs::read_dir(workspace().join(dir)).unwrap().map(Result::unwrap);
    let docs = files("docs").chain(files("docs/decisions")).map(|entry| entry.path());
    let crates = files("crates").map(|entry| entry.path().join("README.md"));
    let mut count = 0;
    for path in docs.chain(crates).filter(|path| path.extension().is_some_and(|ext| ext == "md")) {
        // The command line's own crate has no page.
        let page = fs::read_to_string(path).unwrap_or_default();
        if !fenced(&page).is_empty() {
            count += assert_works(&page, "");
        }
    }
    assert!(count > 0);
}

#[test]
fn the_examples_of_the_help_work() {
    let help = run(&["--help"]).stdout;
    let names = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = names.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    let names: Vec<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
    let scenes = [Scene::new(""), Scene::new("correct horse")];
    for name in names.into_iter().filter(|name| !["help", "server"].contains(name)) {
        let help = run(&[name, "--help"]).stdout;
        let (_, examples) = help.split_once("Examples:\n").unwrap_or_else(|| panic!("{name}"));
        let examples = commands(examples);
        assert!(examples.len() >= 2, "{name}");
        for (line, scene) in examples.iter().flat_map(|line| scenes.each_ref().map(|s| (line, s))) {
            // The key that an example before has removed.
            scene.set("user:42");
            drop(fs::remove_dir_all(scene.dir.path().join("saved")));
            drop(fs::remove_dir_all(scene.dir.path().join("mnt/saved")));
            let Did { code, stderr, .. } = paste(scene, line);
            assert_eq!(code, 0, "{line}: {stderr}");
        }
    }
}
