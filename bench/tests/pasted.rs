//! The commands that README.md, CONTRIBUTING.md and docs/ show for the bench run, each for a moment: the
//! numbers that make them long are replaced, all else is as it stands there.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "it says which command it skipped")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

/// Options whose values make a run long, and the values of a moment.
const BRIEF: &[(&str, &str)] =
    &[("--keys", "300"), ("--seconds", "0.02"), ("--rounds", "1"), ("--rest", "0")];

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)).unwrap()
}

/// The words of a command line, of which one between double quotes may have spaces.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    let words = parts.flat_map(|(at, part)| match at % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}

/// The bench's commands on the pages, behind `aryavarth-bench --`.
fn shown() -> Vec<Vec<String>> {
    let mut shown = Vec::new();
    for name in ["README.md", "CONTRIBUTING.md"] {
        let page = page(name);
        let calls = page.lines().filter_map(|line| line.split_once("aryavarth-bench -- "));
        let ends = |call: &str| call.split(['>', '`', '#']).next().unwrap_or_default().to_owned();
        shown.extend(calls.map(|(_, call)| words(&ends(call))));
    }
    let article = page("docs/article.md");
    let (_, rows) = article.split_once("| rows | command |").expect("the table of commands");
    let rows = rows.lines().take_while(|line| line.is_empty() || line.starts_with('|'));
    for row in rows.filter(|row| row.starts_with("| ")) {
        shown.extend(row.split('`').skip(1).step_by(2).map(words));
    }
    shown
}

/// Runs a command of the bench for a moment.
fn run_briefly(mut words: Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in BRIEF {
        if let Some(at) = words.iter().position(|word| word == name) {
            (*value).clone_into(&mut words[at + 1]);
        } else if takes(&words[0], name) {
            words.extend([(*name).to_owned(), (*value).to_owned()]);
        }
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_aryavarth-bench"));
    let output = command.args(&words).arg("--dir").arg(dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("no redis-server runs as") {
        println!("skipped: {words:?}: {said}");
        return;
    }
    assert!(output.status.success(), "{words:?}: {said}");
    assert!(!output.stdout.is_empty(), "{words:?}");
}

#[test]
fn each_command_that_is_shown_runs() {
    let shown = shown();
    assert!(shown.len() >= 8, "{shown:?}");
    // Some wait for a store at rest, so all run at once: their figures are not looked at.
    thread::scope(|scope| {
        for words in shown.into_iter().filter(|words| words[0] != "report") {
            scope.spawn(|| run_briefly(words));
        }
    });
}

/// Whether a command of the bench has an option.
fn takes(command: &str, option: &str) -> bool {
    match command {
        "engines" => true,
        "space" => option == "--keys",
        "pools" | "server" | "redis" => option != "--rest",
        _ => option == "--keys" || option == "--rounds",
    }
}
