//! Why a server does not start or stops.

use std::fmt;
use std::io;
use std::net::SocketAddr;

/// The result of starting and running a server.
pub type Result<T, E = ServerError> = std::result::Result<T, E>;

/// Why a server does not start or stops. Nothing was changed in the store.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServerError {
    /// The address makes no sense, or is not to be had. Choose another one.
    Listen {
        /// The address, as far as it is known.
        addr: String,
        /// The system's error.
        source: io::Error,
    },
    /// The address can be reached from other machines, and there is no authentication. Listen on
    /// loopback, or say so to [`Listener::bind`](crate::Listener::bind).
    Exposed {
        /// The address.
        addr: SocketAddr,
    },
    /// There are not enough threads. Ask for fewer, but at least one.
    Threads {
        /// How many were asked for.
        asked: u32,
        /// The system's error.
        source: io::Error,
    },
    /// The system refuses a thread, a socket or a signal that the server needs to run.
    Runtime {
        /// The attempt that failed.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerError::Listen { addr, source } => write!(
                f,
                "cannot listen on {addr}: {source}; nothing was changed. Choose an address of this \
                 machine and a free port"
            ),
            ServerError::Exposed { addr } => write!(
                f,
                "{addr} can be reached from other machines and there is no password; nothing was \
                 changed. Listen on 127.0.0.1, set a password with --password-file, or allow it \
                 with --insecure"
            ),
            ServerError::Threads { asked: 0, .. } => {
                f.write_str("a thread pool needs at least one thread")
            }
            ServerError::Threads { asked, source } => {
                write!(f, "cannot start {asked} threads: {source}; ask for fewer")
            }
            ServerError::Runtime { what, source } => write!(f, "cannot {what}: {source}"),
        }
    }
}

impl std::error::Error for ServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ServerError::Exposed { .. } => None,
            ServerError::Listen { source, .. }
            | ServerError::Threads { source, .. }
            | ServerError::Runtime { source, .. } => Some(source),
        }
    }
}
