//! The house rules that no compiler checks: the order of files and crates, the words and sizes of
//! sources, and that ARCHITECTURE.md tells the truth.
//!
//! Each test lists all offenders at once, one per line, as `path:line: fault`.

mod ceilings;
mod commands;
mod floors;
mod sizes;
mod sources;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use aryavarth_tests::{TextFile, root, text_files};

use sources::{names_after, rust_sources, statements};

const ENGINE_SRC: &str = "crates/aryavarth/src/";
const RAFT_SRC: &str = "crates/aryavarth-raft/src/";

/// Names that a crate's sources never contain.
const ABSENCES: &[(&str, &[&str])] = &[
    ("aryavarth", &["std::env", "std::net", "std::process::Command"]),
    ("aryavarth-protocol", &["std::env", "std::fs", "std::net", "std::time", "std::thread"]),
    ("aryavarth-raft", &["std::env", "std::fs", "std::net", "std::process::Command"]),
];

fn engine_sources() -> Vec<TextFile> {
    rust_sources().into_iter().filter(|file| file.path.starts_with(ENGINE_SRC)).collect()
}

/// The step of an engine source, `None` for `lib.rs`.
fn step_of(file: &TextFile) -> Option<&str> {
    let path = file.path.strip_prefix(ENGINE_SRC).expect("an engine source");
    let step = path.split(['/', '.']).next().expect("a path has a first part");
    (path != "lib.rs").then_some(step)
}

/// The words between backticks in lines of Markdown.
fn names_in_code<'a>(lines: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    let names = lines.into_iter().flat_map(|line| line.split('`').skip(1).step_by(2));
    names.map(str::to_owned).collect()
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| part == word)
}

fn assert_none(offenders: &[String], rule: &str) {
    assert!(offenders.is_empty(), "{rule}:\n{}", offenders.join("\n"));
}

#[test]
fn every_rust_file_says_what_it_is() {
    let silent = rust_sources().into_iter().filter(|file| !file.text.starts_with("//! "));
    assert_none(&silent.map(|file| file.path).collect::<Vec<_>>(), "a file opens with `//!`");
}

#[test]
fn architecture_names_every_source() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    assert!(page.lines().count() <= 320, "ARCHITECTURE.md has at most 320 lines");
    let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in page.lines() {
        if line.starts_with('#') {
            section = line.split('`').nth(1).unwrap_or_default().to_owned();
        }
        named.entry(section.clone()).or_default().extend(names_in_code([line]));
    }
    let mut offenders = BTreeSet::new();
    for file in rust_sources() {
        let Some((package, rest)) = file.path.split_once("/src/") else { continue };
        let entry = match rest.split_once('/') {
            Some((folder, _)) => format!("{folder}/"),
            None => rest.to_owned(),
        };
        let is_named = named.get(package).is_some_and(|names| names.contains(&entry));
        if package.starts_with("crates/") && !is_named {
            offenders.insert(format!("{package}/src/{entry}"));
        }
    }
    let offenders: Vec<String> = offenders.into_iter().collect();
    assert_none(&offenders, "ARCHITECTURE.md names each file or folder in its crate's section");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut offenders = Vec::new();
    for file in text_files().iter().filter(|file| file.extension() == "md") {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (number, line) in (1..).zip(file.text.lines()) {
            let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            for target in targets.filter(|target| !target.contains("://")) {
                let path = target.split('#').next().unwrap_or_default();
                if !root().join(folder).join(path).exists() {
                    offenders.push(format!("{}:{number}: {target}", file.path));
                }
            }
        }
    }
    assert_none(&offenders, "a link in a document names a file of this repository");
}

/// Pages that name the tests which guard their claims: all words in backticks that have three
/// underscores or more.
const PAGES_THAT_NAME_TESTS: &[&str] = &["docs/guarantees.md", "docs/races.md"];

#[test]
fn every_test_that_a_page_names_exists() {
    let sources: Vec<String> = rust_sources().into_iter().map(|file| file.text).collect();
    let exists = |name: &str| {
        let function = format!("fn {name}");
        let ends = |rest: &str| rest.starts_with(['(', '<']);
        sources.iter().any(|text| text.split(&function).skip(1).any(ends))
    };
    let mut offenders = Vec::new();
    let mut named = 0;
    for page in PAGES_THAT_NAME_TESTS {
        let text = fs::read_to_string(root().join(page)).expect("the page exists");
        for name in names_in_code(text.lines()) {
            let is_test = name.matches('_').count() >= 3 && !name.contains(' ');
            named += usize::from(is_test);
            if is_test && !exists(&name) {
                offenders.push(format!("{page}: {name}"));
            }
        }
    }
    assert!(named > 20, "the pages were not understood");
    assert_none(&offenders, "a test that a page names exists");
}

#[test]
fn text_is_clean() {
    // In pieces, so that this file does not contain the forbidden words.
    let notes = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut offenders = Vec::new();
    for file in text_files() {
        if !["rs", "md", "toml"].contains(&file.extension()) {
            continue;
        }
        for (number, line) in (1..).zip(file.text.lines()) {
            let at = format!("{}:{number}", file.path);
            if line != line.trim_end() {
                offenders.push(format!("{at}: trailing blanks"));
            }
            if line.contains('\t') {
                offenders.push(format!("{at}: a tab"));
            }
            for note in notes.iter().filter(|note| has_word(line, note)) {
                offenders.push(format!("{at}: {note}"));
            }
        }
        if !file.text.ends_with('\n') {
            offenders.push(format!("{}: no newline at the end", file.path));
        }
        if file.extension() == "rs" {
            let wide = file.code_lines().filter(|(_, line)| !line.is_ascii());
            offenders.extend(wide.map(|(number, _)| format!("{}:{number}: not ASCII", file.path)));
        }
    }
    assert_none(&offenders, "text has no notes to oneself, tabs or trailing blanks");
}

#[test]
fn only_the_fs_step_touches_the_file_system() {
    let mut offenders = Vec::new();
    for file in engine_sources() {
        for (number, line) in statements(&file) {
            let is_grouped = line.contains("std::{") && has_word(line, "fs");
            let is_named = names_after(line, "std::").contains(&"fs");
            if step_of(&file) != Some("fs") && (is_grouped || is_named) {
                offenders.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    assert_none(&offenders, "only the engine's fs folder names std::fs");
}

#[test]
fn each_site_is_one_call() {
    let seam = fs::read_to_string(root().join(ENGINE_SRC).join("fs/mod.rs")).expect("fs/mod.rs");
    let list = seam.split("\nsites! {\n").nth(1).expect("the list of sites");
    let list = list.split("\n}\n").next().expect("the end of the list");
    let names = list.lines().filter_map(|line| line.trim().split_once(" = "));
    let mut uses: BTreeMap<String, Vec<String>> =
        names.map(|(name, _)| (name.to_owned(), Vec::new())).collect();
    assert!(uses.len() > 10, "the list of sites was not understood");

    let engine = engine_sources();
    let raft = rust_sources().into_iter().filter(|file| file.path.starts_with(RAFT_SRC));
    let raft: Vec<TextFile> = raft.collect();
    for file in engine.iter().filter(|file| step_of(file) != Some("fs")).chain(&raft) {
        for (number, line) in statements(file) {
            for name in names_after(line, "Site::") {
                // Other names are the enum's own constants and functions.
                if let Some(at) = uses.get_mut(name) {
                    at.push(format!("{}:{number}", file.path));
                }
            }
        }
    }
    // The engine is complete once it has its topmost step.
    let is_complete = engine.iter().any(|file| step_of(file) == Some("store"));
    let is_wrong = |count: usize| count > 1 || (is_complete && count == 0);
    let wrong = uses.iter().filter(|(_, at)| is_wrong(at.len()));
    let told = wrong.map(|(name, at)| match at.len() {
        0 => format!("Site::{name}: never used"),
        _ => format!("Site::{name}: used at {}", at.join(", ")),
    });
    assert_none(&told.collect::<Vec<_>>(), "a site names one call in the engine's sources");
}

#[test]
fn there_is_one_program_to_run() {
    // A second binary in the default members would leave `cargo run` without an answer.
    let is_program = |path: &str| path.ends_with("/src/main.rs") || path.contains("/src/bin/");
    let sources = rust_sources().into_iter().map(|file| file.path);
    let programs: Vec<String> =
        sources.filter(|path| is_program(path) && !path.starts_with("bench/")).collect();
    assert_eq!(programs, ["crates/aryavarth-cli/src/main.rs"]);
}

#[test]
fn only_the_adapter_knows_openraft() {
    let mut offenders = Vec::new();
    for file in rust_sources().iter().filter(|file| file.path.starts_with(RAFT_SRC)) {
        let is_adapter = file.path.starts_with(&format!("{RAFT_SRC}openraft/"));
        for (number, line) in statements(file).filter(|_| !is_adapter) {
            if line.contains("openraft::") || line.contains("openraft_rt") {
                offenders.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    assert_none(&offenders, "only the folder openraft/ names openraft");
}

#[test]
fn crates_keep_their_absences() {
    let mut offenders = Vec::new();
    for file in rust_sources() {
        for (package, forbidden) in ABSENCES {
            if !file.path.starts_with(&format!("crates/{package}/src/")) {
                continue;
            }
            for (number, line) in statements(&file) {
                let found = forbidden.iter().filter(|path| line.contains(**path));
                offenders.extend(found.map(|path| format!("{}:{number}: {path}", file.path)));
            }
        }
    }
    assert_none(&offenders, "the engine, the protocol and the Raft log do without these");
}

#[test]
fn nothing_names_this_machine_or_a_registry() {
    let forbidden = [
        concat!("/wor", "k/"),
        concat!("/bash_", "jobs"),
        concat!("/tm", "p/wt"),
        concat!("/hom", "e/"),
        concat!("/roo", "t/"),
        concat!(".libra", "ry/"),
        concat!("crates", ".io"),
        concat!("docs", ".rs"),
        concat!("pypi", ".org"),
        concat!("npm", "js."),
    ];
    let mut offenders = Vec::new();
    for file in text_files() {
        for (number, line) in (1..).zip(file.text.lines()) {
            if let Some(found) = forbidden.iter().find(|pattern| line.contains(**pattern)) {
                offenders.push(format!("{}:{number}: {found}", file.path));
            }
        }
    }
    assert_none(&offenders, "no line names a path of one machine or a registry's host");
}
