//! Failures on the way to the server and back.

use std::fmt;
use std::io;

/// The result of everything that the client does.
pub type Result<T, E = ClientError> = std::result::Result<T, E>;

/// Why a call failed. Each case says what is known of the outcome.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// The key to remove does not exist.
    KeyNotFound,
    /// The server refused the request, and says why. Nothing was changed, unless it says otherwise.
    Server(String),
    /// There is no connection, so the request was not run. Call again.
    Connect {
        /// The addresses that were tried.
        addr: String,
        /// The system's error.
        source: io::Error,
    },
    /// A read was lost with the connection. Nothing was changed; call again.
    Lost {
        /// The system's error.
        source: io::Error,
    },
    /// A write was sent and its reply was lost: it was done or not. Read the key to find out, or
    /// do it again where twice is the same as once.
    OutcomeUnknown {
        /// The system's error.
        source: io::Error,
    },
    /// The program that answered is not an Aryavarth server, or one that speaks otherwise.
    Protocol(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::KeyNotFound => f.write_str(aryavarth_protocol::KEY_NOT_FOUND),
            ClientError::Server(message) => f.write_str(message),
            ClientError::Connect { addr, source } => write!(
                f,
                "cannot reach a server at {addr}: {source}; nothing was changed. Check the address \
                 and that the server runs"
            ),
            ClientError::Lost { source } => write!(
                f,
                "the connection was lost before the reply came: {source}; nothing was changed. Try \
                 again"
            ),
            ClientError::OutcomeUnknown { source } => write!(
                f,
                "the connection was lost before the reply came: {source}; it is unknown whether \
                 the write was done. Read the key to find out"
            ),
            ClientError::Protocol(reason) => write!(
                f,
                "the program that answered is not an Aryavarth server: {reason}. Check the address"
            ),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ClientError::Connect { source, .. }
            | ClientError::Lost { source }
            | ClientError::OutcomeUnknown { source } => Some(source),
            _ => None,
        }
    }
}
