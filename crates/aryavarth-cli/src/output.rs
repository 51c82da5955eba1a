//! What the commands print, for people or as JSON, and how they fail.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use aryavarth::KvsError;
use aryavarth_client::ClientError;
use aryavarth_server::ServerError;
use serde::Serialize;

/// Standard output and standard error.
pub(crate) struct Output {
    json: bool,
}

#[derive(Serialize)]
struct Entry<'a> {
    key: &'a str,
    value: &'a str,
}

#[derive(Serialize)]
struct Error<'a> {
    error: &'a str,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Output { json }
    }

    /// Prints a value: alone, or as JSON with its key.
    pub(crate) fn value(&self, key: &str, value: &str) -> Result<(), Failure> {
        if self.json {
            return self.entries(&[(key.to_owned(), value.to_owned())]);
        }
        writeln!(io::stdout(), "{value}").map_err(|error| Failure::stdout(&error))
    }

    /// Prints keys and values, one pair per line.
    pub(crate) fn entries(&self, entries: &[(String, String)]) -> Result<(), Failure> {
        let mut lines = Vec::new();
        for (key, value) in entries {
            if self.json {
                serde_json::to_writer(&mut lines, &Entry { key, value })
                    .map_err(|error| Failure::Other(error.to_string()))?;
                lines.push(b'\n');
            } else {
                lines.extend_from_slice(format!("{key}\t{value}\n").as_bytes());
            }
        }
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(&lines)
            .and_then(|()| stdout.flush())
            .map_err(|error| Failure::stdout(&error))
    }

    /// Prints a line of data: as text, or as JSON.
    pub(crate) fn line(&self, text: &str, json: &impl Serialize) -> Result<(), Failure> {
        let line = if self.json {
            serde_json::to_string(json).map_err(|error| Failure::Other(error.to_string()))?
        } else {
            text.to_owned()
        };
        writeln!(io::stdout(), "{line}").map_err(|error| Failure::stdout(&error))
    }

    /// Prints a line of data that there is only as JSON; people are told in other words.
    pub(crate) fn summary(&self, json: &impl Serialize) -> Result<(), Failure> {
        if self.json { self.line("", json) } else { Ok(()) }
    }

    /// Prints an error. Where standard error is gone, the exit code has to do.
    pub(crate) fn error(&self, message: &str) {
        let error = Error { error: message };
        let line = match serde_json::to_string(&error) {
            Ok(json) if self.json => json,
            _ => message.to_owned(),
        };
        drop(writeln!(io::stderr(), "{line}"));
    }
}

/// What became of printing what is not all that is said: a verdict follows, whoever reads it.
pub(crate) fn read_or_not(printed: Result<(), Failure>) -> Result<(), Failure> {
    match printed {
        Err(Failure::ReaderGone) => Ok(()),
        printed => printed,
    }
}

/// Prints a text as it is.
pub(crate) fn print(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let printed = stdout.write_all(text).and_then(|()| stdout.flush());
    printed.map_err(|error| Failure::stdout(&error))
}

/// Prints a line about what goes on.
pub(crate) fn say(line: impl fmt::Display) {
    drop(writeln!(io::stderr(), "{line}"));
}

/// Bytes that are no text, for JSON.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut bits = [0; 4];
        bits[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(bits);
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            let is_there = digit <= chunk.len();
            text.push(if is_there { char::from(DIGITS[value as usize]) } else { '=' });
        }
    }
    text
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    KeyNotFound,
    /// Nobody reads what is printed any more, which is no error: `aryavarth scan | head`.
    ReaderGone,
    Other(String),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Failure::ReaderGone => ExitCode::SUCCESS,
            Failure::KeyNotFound => ExitCode::from(1),
            Failure::Other(_) => ExitCode::from(2),
        }
    }

    fn stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ReaderGone,
            _ => Failure::Other(format!("cannot write to standard output: {error}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::KeyNotFound => f.write_str("Key not found"),
            Failure::ReaderGone => f.write_str("nobody reads the output"),
            Failure::Other(message) => f.write_str(message),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::KeyNotFound => Failure::KeyNotFound,
            error => Failure::Other(error.to_string()),
        }
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        Failure::Other(error.to_string())
    }
}

impl From<KvsError> for Failure {
    fn from(error: KvsError) -> Self {
        Failure::Other(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }
}
