//! Runs goldenscripts: each script of a folder on a runner of its own.
//!
//! `UPDATE_GOLDENFILES=1` rewrites the scripts with the output of this run; read the difference.

use std::fs;
use std::path::{Path, PathBuf};

use goldenscript::Runner;

/// Runs the scripts of a folder, which is named from the package's own, in the order of their names.
///
/// # Panics
/// If the folder has no script, or the output of a command is not the script's.
pub fn run_all<R: Runner>(folder: impl AsRef<Path>, new_runner: impl Fn() -> R) {
    let folder = folder.as_ref();
    let entries = fs::read_dir(folder).expect("the folder of scripts is there");
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no scripts", folder.display());
    for path in paths {
        let run = goldenscript::run(&mut new_runner(), &path);
        run.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
