//! Harness shared by the cross-crate tests: the workspace's place and its files, and real
//! servers and clients.
//!
//! Tests of the house rules read the sources as text, because their subjects (order of files, absences,
//! words) are visible to a reader, not to a compiler.

pub mod parts;
pub mod resp;
pub mod scripts;
pub mod server;

use std::fs;
use std::path::{Path, PathBuf};

/// A text file of the workspace.
#[derive(Clone, Debug)]
pub struct TextFile {
    /// Its path from the workspace's root, with `/` between the parts.
    pub path: String,
    /// Its contents.
    pub text: String,
}

impl TextFile {
    /// The file's extension, empty if there is none.
    pub fn extension(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name.rsplit_once('.').map_or("", |(_, extension)| extension)
    }

    /// Whether the whole file is a test, or part of one.
    pub fn is_test(&self) -> bool {
        let mut parts = self.path.split('/').rev();
        parts.next() == Some("tests.rs") || parts.any(|part| part == "tests")
    }

    /// The lines of a Rust source before its test module, with their numbers from 1.
    pub fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let is_start =
            |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod tests");
        let end = lines.windows(2).position(is_start).unwrap_or(lines.len());
        let end = if self.is_test() { 0 } else { end };
        (1..).zip(lines).take(end)
    }
}

/// The workspace's root directory.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every text file of the workspace, in the order of their paths: sources, manifests, documents,
/// scripts. Build output, data directories, lock files and hidden folders other than `.ci` and
/// `.github` are left out.
///
/// # Panics
/// If the workspace cannot be read.
pub fn text_files() -> Vec<TextFile> {
    let mut files = Vec::new();
    collect(&root(), "", &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn collect(dir: &Path, prefix: &str, files: &mut Vec<TextFile>) {
    for entry in fs::read_dir(dir).expect("the workspace can be listed") {
        let entry = entry.expect("the workspace can be listed");
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if entry.file_type().expect("an entry has a type").is_dir() {
            let is_hidden = name.starts_with('.') && name != ".ci" && name != ".github";
            // Cargo marks its build output with this file, whatever the folder's name.
            let is_output = path.join("CACHEDIR.TAG").exists();
            if !is_hidden && !is_output && name != "target" && name != "aryavarth-data" {
                collect(&path, &format!("{prefix}{name}/"), files);
            }
        } else if !has_extension(&name, "lock") && name != ".git" {
            // A file that is not UTF-8 is not text: a fixture, an image.
            if let Ok(text) = fs::read_to_string(&path) {
                files.push(TextFile { path: format!("{prefix}{name}"), text });
            }
        }
    }
}

fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|found| found == extension)
}

/// The README's Rust example, which runs as a test of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
