//! Failures of a node's files, in words that a user can act on.
//!
//! One case per remedy. A node whose log is damaged or gone must never vote again under its old name:
//! such an error says so, because the way back is to join as a new node.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use aryavarth::fs::IoError;

/// The result of everything that this crate does.
pub type Result<T, E = RaftError> = std::result::Result<T, E>;

/// Why a call on a node's files failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RaftError {
    /// The file system refused a call before anything was changed. Mend the cause and try again.
    Io(Arc<IoError>),
    /// The disk is full. Nothing is lost: the log waits and writes as soon as there is space.
    Full(Arc<IoError>),
    /// A write or sync failed, so the outcome of what was not acknowledged is unknown. The process
    /// has to start again and read the log anew.
    Poisoned {
        /// The first failure.
        reason: Arc<str>,
    },
    /// A file does not hold the bytes that this node wrote and acknowledged. Nothing was changed.
    /// The node must not take part again under its id; it can join as a new node.
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// The damage.
        reason: String,
    },
    /// Files of a node are missing, so its votes and entries may be forgotten. The same remedy.
    Lost {
        /// The directory.
        path: PathBuf,
        /// The missing part.
        reason: String,
    },
    /// A file belongs to another cluster or another node. Nothing was changed.
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A newer version wrote the file. Nothing was changed; use that version.
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        version: u16,
    },
    /// Another handle has the log open.
    Locked {
        /// The log's directory.
        path: PathBuf,
    },
    /// The call would leave a hole in the log, or change what is no longer there. Nothing was changed.
    Order {
        /// The rule that the call would break.
        reason: String,
    },
    /// The log was closed.
    Closed,
}

impl From<IoError> for RaftError {
    fn from(error: IoError) -> RaftError {
        if error.is_no_space() {
            return RaftError::Full(Arc::new(error));
        }
        RaftError::Io(Arc::new(error))
    }
}

/// The way back for a node whose files cannot be trusted.
const REJOIN: &str = "this node must not take part under its id any more; \
                      move its directory away and join as a new node";

impl fmt::Display for RaftError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RaftError::Io(source) => write!(f, "{source}"),
            RaftError::Full(source) => write!(
                f,
                "the disk is full, so this node acknowledges nothing; nothing is lost, and it goes on \
                 when there is space ({source})"
            ),
            RaftError::Poisoned { reason } => write!(
                f,
                "the Raft log has stopped, because the outcome of a write is unknown: {reason}; \
                 start the node again"
            ),
            RaftError::Corrupt { path, offset, reason } => {
                write!(f, "{} is damaged at byte {offset}: {reason}; {REJOIN}", path.display())
            }
            RaftError::Lost { path, reason } => {
                write!(f, "{}: {reason}; {REJOIN}", path.display())
            }
            RaftError::Foreign { path } => write!(
                f,
                "{} belongs to another cluster or node; nothing was changed; give each node a \
                 directory of its own",
                path.display()
            ),
            RaftError::UnknownFormat { path, version } => write!(
                f,
                "{} has format version {version}, which this version does not know; nothing was \
                 changed; use a newer one",
                path.display()
            ),
            RaftError::Locked { path } => {
                write!(f, "{} is in use by another process or handle", path.display())
            }
            RaftError::Order { reason } => write!(f, "refused, and nothing changed: {reason}"),
            RaftError::Closed => write!(f, "the Raft log is closed"),
        }
    }
}

impl std::error::Error for RaftError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RaftError::Io(source) | RaftError::Full(source) => Some(source.as_ref()),
            _ => None,
        }
    }
}
