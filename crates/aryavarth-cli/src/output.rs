//! The output of commands, for people or as JSON, and their failures.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use aryavarth::KvsError;
use aryavarth_client::ClientError;
use aryavarth_server::ServerError;
use serde::Serialize;

use crate::line;

/// Bytes of lines that are kept before they are printed together.
const LINES_BYTES_MAX: usize = 64 << 10;

/// Refuses an address without a host, which a resolver would look up under an empty name.
pub(crate) fn has_host(addr: &str) -> Result<(), Failure> {
    if addr.starts_with(':') {
        return Err(Failure::Other(format!("the address {addr} has no host; {AN_ADDRESS}")));
    }
    Ok(())
}

/// The remedy for a text that is not an address.
const AN_ADDRESS: &str = "nothing was changed. Write HOST:PORT, such as 127.0.0.1:4000";

/// Standard output and standard error.
pub(crate) struct Output {
    json: bool,
}

#[derive(Serialize)]
struct Error<'a> {
    error: &'a str,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Output { json }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a value: as a line, as its bytes alone if `raw`, or as JSON with its key.
    pub(crate) fn value(&self, key: &[u8], value: &[u8], raw: bool) -> Result<(), Failure> {
        if raw {
            return print(value);
        }
        if self.json {
            let mut lines = Lines::default();
            lines.add(key, value, None, 0)?;
            return lines.flush();
        }
        print(&[value, b"\n"].concat())
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

    /// Prints a line of data for `--json` only; people read the same in other words.
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

/// Lines of data that are printed many at a time.
#[derive(Default)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
}

impl Lines {
    /// Adds an entry as JSON, and returns the bytes of its line.
    pub(crate) fn add(
        &mut self,
        key: &[u8],
        value: &[u8],
        deadline_ms: Option<u64>,
        db: u32,
    ) -> Result<u64, Failure> {
        let before = self.bytes.len();
        line::write(key, value, deadline_ms, db, &mut self.bytes)
            .map_err(|error| Failure::Other(error.to_string()))?;
        let bytes = (self.bytes.len() - before) as u64;
        self.print_if_many()?;
        Ok(bytes)
    }

    /// Adds an entry as text, a tab between key and value.
    pub(crate) fn add_text(&mut self, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        for part in [key, b"\t", value, b"\n"] {
            self.bytes.extend_from_slice(part);
        }
        self.print_if_many()
    }

    /// Prints the lines that are left.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        print(&self.bytes)?;
        self.bytes.clear();
        Ok(())
    }

    fn print_if_many(&mut self) -> Result<(), Failure> {
        if self.bytes.len() < LINES_BYTES_MAX { Ok(()) } else { self.flush() }
    }
}

/// The outcome of printing details before a verdict: the verdict follows even if the reader is gone.
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

/// A count with the word for one or for many.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Prints a line about the work itself, on standard error.
pub(crate) fn say(line: impl fmt::Display) {
    drop(writeln!(io::stderr(), "{line}"));
}

/// The reason why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    KeyNotFound,
    /// A condition of the command does not hold.
    NotSet(&'static str),
    /// The reader of standard output has gone, which is no error: `aryavarth scan | head`.
    ReaderGone,
    Other(String),
    /// The server's failure, which is a line of its log already.
    Logged,
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Failure::ReaderGone => ExitCode::SUCCESS,
            Failure::KeyNotFound | Failure::NotSet(_) => ExitCode::from(1),
            Failure::Other(_) | Failure::Logged => ExitCode::from(2),
        }
    }

    pub(crate) fn stdout(error: &io::Error) -> Self {
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
            Failure::NotSet(reason) => f.write_str(reason),
            Failure::ReaderGone => f.write_str("the reader of the output has gone"),
            Failure::Logged => f.write_str("see the log"),
            Failure::Other(message) => f.write_str(message),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::KeyNotFound => Failure::KeyNotFound,
            ClientError::Connect { addr, source }
                if source.kind() == io::ErrorKind::InvalidInput =>
            {
                Failure::Other(format!("cannot reach a server at {addr}: {source}; {AN_ADDRESS}"))
            }
            error => Failure::Other(error.to_string()),
        }
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        match error {
            ServerError::Listen { addr, source }
                if source.kind() == io::ErrorKind::InvalidInput =>
            {
                Failure::Other(format!("cannot listen on {addr}: {source}; {AN_ADDRESS}"))
            }
            error => Failure::Other(error.to_string()),
        }
    }
}

impl From<KvsError> for Failure {
    fn from(error: KvsError) -> Self {
        Failure::Other(error.to_string())
    }
}
