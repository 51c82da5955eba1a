//! The sizes of files and functions.

use crate::assert_none;
use crate::ceilings::Ceilings;
use crate::sources::{functions, rust_sources};

const FILE_LINES_MAX: usize = 600;

/// The rooms of the engine that its next works change: their files leave space.
const ROOMY: &[&str] = &["record", "recovery", "manifest", "index", "log", "store", "watermarks"];
const ROOMY_LINES_MAX: usize = 450;

const FUNCTION_LINES_MAX: usize = 70;

/// Every file of the server leaves space.
const SERVER_SRC: &str = "crates/aryavarth-server/src/";

/// The number of lines that a file may have, tests apart.
fn lines_max(path: &str) -> usize {
    if path.starts_with(SERVER_SRC) {
        return ROOMY_LINES_MAX;
    }
    let room = path.strip_prefix(crate::ENGINE_SRC).and_then(|path| path.split(['/', '.']).next());
    if room.is_some_and(|room| ROOMY.contains(&room)) { ROOMY_LINES_MAX } else { FILE_LINES_MAX }
}

#[test]
fn no_source_file_is_long() {
    let ceilings = Ceilings::read();
    let mut offenders = Vec::new();
    for file in rust_sources() {
        let lines = file.code_lines().count();
        let max = ceilings.of("lines", &file.path, lines_max(&file.path));
        if lines > max {
            offenders.push(format!("{}: {lines} lines, at most {max}", file.path));
        }
        Ceilings::lower("lines", &file.path, lines, lines_max(&file.path));
    }
    assert_none(&offenders, "a source file has few lines, tests apart");
}

#[test]
fn no_function_is_long() {
    let mut offenders = Vec::new();
    for file in rust_sources() {
        for function in functions(&file.text) {
            if function.lines > FUNCTION_LINES_MAX {
                let (at, name) = (function.line, function.name);
                offenders.push(format!("{}:{at}: {name}, {} lines", file.path, function.lines));
            }
        }
    }
    assert_none(&offenders, "a function has at most 70 lines");
}
