//! Why a command has no reply of its own, and how clients hear it.
//!
//! Clients branch on the first word of an error and sometimes on its whole text, so those that
//! Redis has are worded as Redis words them; ours name the event, the state of the data and the remedy.

use std::borrow::Cow;

use aryavarth::KvsError;
use aryavarth_protocol::Reply;

use crate::commands::kit::args::Args;

/// Why a command has no reply.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The call cannot be done: the text of the error.
    Refused(Cow<'static, [u8]>),
    /// The engine failed, or wants the closure run again.
    Engine(KvsError),
    /// It would take a disk, and the context cannot wait for one.
    WouldBlock,
    /// The reply has no room among those of all clients. Nothing was done.
    NoRoom,
}

impl From<KvsError> for Failure {
    fn from(error: KvsError) -> Self {
        Failure::Engine(error)
    }
}

pub(crate) const SYNTAX: &str = "ERR syntax error";
pub(crate) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
pub(crate) const NOT_A_FLOAT: &str = "ERR value is not a valid float";
pub(crate) const NO_SUCH_KEY: &str = "ERR no such key";
pub(crate) const OUT_OF_RANGE: &str = "ERR index out of range";
pub(crate) const TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";

/// The bytes that an error quotes of a name, and of all arguments together.
pub(crate) const QUOTED_BYTES_MAX: usize = 128;

/// The name of an EXEC's replies in an error of their size.
pub(crate) const REPLY: &str = "reply";
/// The same where a reply has to wait for room; no client hears it.
pub(crate) const ROOM: &str = "reply for the room that is left";

/// The same where a script was stopped; no client hears it.
pub(crate) const SCRIPT: &str = "script";

/// The error that makes a closure do nothing because its reply has no room.
pub(crate) fn no_room(bytes: usize) -> KvsError {
    KvsError::TooLarge { what: ROOM, size: bytes as u64, limit: 0 }
}

/// The failure that an error of a closure means.
pub(crate) fn of_closure(error: KvsError) -> Failure {
    match error {
        KvsError::TooLarge { what: ROOM, .. } => Failure::NoRoom,
        error => Failure::Engine(error),
    }
}

/// An error that the client hears.
pub(crate) fn refused<T>(text: impl Into<Cow<'static, str>>) -> Result<T, Failure> {
    Err(Failure::Refused(match text.into() {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }))
}

/// An error that quotes the client's words, as [`quotable`] lets it.
pub(crate) fn refused_quoting<T>(before: &str, sent: &[u8], after: &str) -> Result<T, Failure> {
    let text = [before.as_bytes(), quotable(sent, usize::MAX), after.as_bytes()].concat();
    Err(Failure::Refused(text.into()))
}

/// The part of a client's words that an error may quote: as in Redis, whose texts are strings of C,
/// the bytes before a zero.
pub(crate) fn quotable(sent: &[u8], bytes_max: usize) -> &[u8] {
    let sent = &sent[..sent.len().min(bytes_max)];
    sent.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The reply for an engine's error.
pub(crate) fn error_reply(error: &KvsError) -> Reply {
    match error {
        KvsError::TooLarge { what: "value" | "batch", .. } => Reply::error(TOO_LONG),
        KvsError::TooLarge { what: REPLY, .. } => {
            Reply::error(format!("ERR {error}; nothing was done, ask for less"))
        }
        // Redis's word for a write that its persistence cannot take.
        KvsError::Full { .. } | KvsError::Poisoned { .. } => {
            Reply::error(format!("MISCONF {error}"))
        }
        _ => Reply::error(format!("ERR {error}")),
    }
}

/// A call with too few or too many arguments.
pub(crate) fn wrong_arity(name: &str) -> String {
    format!("ERR wrong number of arguments for '{name}' command")
}

/// The error of a subcommand that counts its arguments itself.
pub(crate) fn wrong_subcommand<T>(args: &Args<'_>) -> Result<T, Failure> {
    let command = String::from_utf8_lossy(args.get(0)).to_ascii_uppercase();
    let begin = "ERR unknown subcommand or wrong number of arguments for '";
    let sent = quotable(args.get(1), QUOTED_BYTES_MAX);
    refused_quoting(begin, sent, &format!("'. Try {command} HELP."))
}

/// A command that there is not.
pub(crate) fn unknown(args: &Args<'_>) -> Vec<u8> {
    let name = quotable(args.get(0), QUOTED_BYTES_MAX);
    let mut text = [b"ERR unknown command '", name, b"', with args beginning with: "].concat();
    let begin = text.len();
    for arg in args.from(1) {
        let left = QUOTED_BYTES_MAX.saturating_sub(text.len() - begin);
        if left == 0 {
            break;
        }
        text.extend_from_slice(&[b"'", quotable(arg, left), b"' "].concat());
    }
    text
}
