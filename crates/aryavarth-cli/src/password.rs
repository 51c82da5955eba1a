//! The password: the first line of a file, or a variable of the environment.
//!
//! A file that other users of the machine can read keeps no secret, so it is refused. Access of the
//! file's group is left to the operator, who may run the server under a user of its own.

use std::env;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::output::{Failure, say};

/// The longest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Bits of a file's mode: read or write by others, and write by the group.
const OPEN_TO_OTHERS: u32 = 0o026;

/// The password in a file, or in the variable `ARYAVARTH_PASSWORD` if no file is named; `None` if
/// there is neither. A variable that is empty is no password, but not the wish for none either: a
/// server would stand open.
pub(crate) fn find(file: Option<&Path>, insecure: bool) -> Result<Option<Vec<u8>>, Failure> {
    if let Some(path) = file {
        return read(path, insecure).map(Some);
    }
    let variable = env::var_os("ARYAVARTH_PASSWORD").map(OsStringExt::into_vec);
    if variable.as_ref().is_some_and(Vec::is_empty) {
        return Err(Failure::Other(
            "the variable ARYAVARTH_PASSWORD is empty; nothing was changed. Give it a password, or \
             unset it to go without"
                .to_owned(),
        ));
    }
    Ok(variable)
}

/// Reads the password in a file. A file that others can read or write is refused, or taken with a
/// warning if `insecure`.
fn read(path: &Path, insecure: bool) -> Result<Vec<u8>, Failure> {
    let shown = path.display();
    let failed = |reason: String| {
        Failure::Other(format!("no password in {shown}: {reason}; nothing was changed"))
    };
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let meta = file.metadata().map_err(|error| failed(error.to_string()))?;
    let mode = meta.permissions().mode() & 0o777;
    if is_plain(&meta) && mode & OPEN_TO_OTHERS != 0 {
        let finding = format!("others can read or change it (mode {mode:o})");
        if !insecure {
            return Err(failed(format!("{finding}. Take their access with `chmod 600 {shown}`")));
        }
        say(format_args!("warning: the password is in {shown}; {finding}"));
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(|error| failed(error.to_string()))?;
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(failed("its first line is empty".to_owned()));
    }
    Ok(line.to_vec())
}

/// Whether it is a file with permissions of its own, and not a pipe of a shell.
fn is_plain(meta: &fs::Metadata) -> bool {
    meta.file_type().is_file()
}
