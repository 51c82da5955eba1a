//! Each command that a page shows is run by a test, or is one of Cargo's whose parts exist.
//!
//! | command | test that runs it |
//! |---|---|
//! | `aryavarth ...` and what feeds it | `pasted` of the command line |
//! | `cargo run --release -- ...` | `readme` of the command line |
//! | `redis-cli`, `redis-benchmark` | `clients`, `tools.rs` |
//! | `aryavarth-bench ...` | `pasted` of the bench |
//! | `cargo test`, `cargo install` | none, being long: their packages, tests and variables exist |
//! | `perf ...` | none: it measures a process on a machine of one's own |

use std::fs;

use aryavarth_tests::{TextFile, root, text_files};

use crate::assert_none;

/// The commands in a page's fences for shells, and Cargo's in its tables, with their line numbers.
fn commands(page: &TextFile) -> Vec<(usize, String)> {
    let (mut commands, mut is_shell) = (Vec::new(), false);
    for (number, line) in (1..).zip(page.text.lines()) {
        if line.starts_with("```") {
            is_shell = line == "```sh";
        } else if is_shell && !line.trim().is_empty() {
            let command = line.split(" #").next().unwrap_or_default().trim();
            commands.push((number, command.to_owned()));
        } else if line.starts_with('|') {
            let code = line.split('`').skip(1).step_by(2);
            let calls = code.filter(|code| code.contains("cargo ") && !code.starts_with("cargo +"));
            commands.extend(calls.map(|call| (number, call.to_owned())));
        }
    }
    commands
}

/// The fault of a command, if it has one.
fn fault(command: &str, files: &[TextFile]) -> Option<String> {
    let runs_in_a_test =
        ["aryavarth ", "cargo run --release ", "redis-cli ", "redis-benchmark ", "("];
    let measures = ["perf ", "target/profiled/release/aryavarth-bench "];
    let feeds = command.contains("| aryavarth ");
    let starts = |list: &[&str]| list.iter().any(|start| command.starts_with(start));
    if starts(&runs_in_a_test) || starts(&measures) || feeds {
        return None;
    }
    if !command.contains("cargo ") {
        return Some("no test runs it".to_owned());
    }
    let words: Vec<&str> = command.split_whitespace().collect();
    let is_named = |name: &str| {
        let quoted = format!("\"{name}\"");
        files.iter().any(|file| file.extension() == "rs" && file.text.contains(&quoted))
    };
    for variable in words.iter().take_while(|word| **word != "cargo") {
        let name = variable.split('=').next().unwrap_or_default();
        let is_of_tools = ["RUST", "CARGO_", "MIRI"].iter().any(|start| name.starts_with(start));
        let is_name = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        if is_name && !is_of_tools && !is_named(name) {
            return Some(format!("no test reads {name}"));
        }
    }
    for pair in words.windows(2) {
        let exists = match pair {
            ["-p", package] => {
                let name = format!("name = \"{package}\"\n");
                files.iter().any(|file| file.extension() == "toml" && file.text.contains(&name))
            }
            ["--test", name] => files.iter().any(|file| {
                let ends = [format!("/tests/{name}.rs"), format!("/tests/{name}/main.rs")];
                ends.iter().any(|end| file.path.ends_with(end))
            }),
            ["--path", path] => root().join(path).join("Cargo.toml").exists(),
            _ => true,
        };
        if !exists {
            return Some(format!("there is no {}", pair[1]));
        }
    }
    None
}

#[test]
fn each_command_of_a_page_is_run_or_its_parts_exist() {
    let files = text_files();
    let pages = files.iter().filter(|file| file.extension() == "md");
    let mut offenders = Vec::new();
    for page in pages {
        for (number, command) in commands(page) {
            if let Some(fault) = fault(&command, &files) {
                offenders.push(format!("{}:{number}: {fault}: {command}", page.path));
            }
        }
    }
    assert_none(&offenders, "a command that is shown works");
}

#[test]
fn the_tests_that_run_commands_are_there() {
    for path in [
        "crates/aryavarth-cli/tests/pasted.rs",
        "crates/aryavarth-cli/tests/readme.rs",
        "tests/tests/clients/tools.rs",
        "bench/tests/pasted.rs",
    ] {
        assert!(fs::exists(root().join(path)).is_ok_and(|exists| exists), "{path}");
    }
}
