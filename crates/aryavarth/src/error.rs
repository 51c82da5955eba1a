//! Failures, in words that a user can act on.
//!
//! Few cases, one per thing that the caller would do differently; each keeps its source. Every
//! message says the event, the safe state and the remedy, because the store's errors are
//! printed as they are by the server and by the command line.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::fs::IoError;
use crate::sync::Arc;

/// The result of everything that the engine does.
pub type Result<T, E = KvsError> = std::result::Result<T, E>;

/// Why an operation failed. Each case names the caller's remedy.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum KvsError {
    /// The key to remove does not exist. Nothing was changed; often no error at all.
    KeyNotFound,
    /// A key, a value, or the writes or reads of one call are over their limit. Nothing was changed;
    /// send less.
    TooLarge {
        /// The thing that is too large: "key", "value", "batch", "name" of a space, or "set of values
        /// that are read" by a transaction.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The value is not UTF-8, so the `String` methods cannot return it; use the byte methods.
    NotUtf8,
    /// The disk is full. Reads go on, nothing acknowledged is lost; writes resume by themselves
    /// when there is space again.
    Full {
        /// The call that found no space.
        source: Arc<IoError>,
    },
    /// A sync failed, so writes after the last good sync may or may not be on disk.
    /// Reads of older data go on; reopen the store to learn the outcome of the rest.
    Poisoned {
        /// The first failure.
        reason: Arc<str>,
    },
    /// A file does not contain the bytes that the store wrote there. Nothing was changed.
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// The damage.
        reason: String,
    },
    /// Another process (or another handle of this one) has the directory open.
    Locked {
        /// The directory.
        path: PathBuf,
        /// The holder's process id, where it could be read.
        pid: Option<u32>,
    },
    /// The directory is not an Aryavarth store, or holds files that are not the store's. Left untouched.
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// The entry that was found.
        reason: String,
    },
    /// The directory was written in a format that this version does not know: a newer one, or 0,
    /// which was never released. Left untouched.
    UnknownFormat {
        /// The file that says so.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The directory belongs to another engine. Left untouched.
    WrongEngine {
        /// The directory.
        path: PathBuf,
        /// The engine that made it.
        found: String,
        /// The engine that was asked for.
        asked: String,
    },
    /// The file system refused a call for another reason.
    Io(Arc<IoError>),
    /// An option has a value that makes no sense.
    InvalidOption(String),
    /// The store was closed.
    Closed,
    /// The answer takes a disk, for which the call may not wait; nothing was done. A read with
    /// [`Wait::No`](crate::Wait::No): call again with [`Wait::Yes`](crate::Wait::Yes) where waiting
    /// harms no other work. A transaction's closure: pass the error on with `?`, the engine fetches
    /// the key and runs the closure again.
    WouldBlock,
    /// A closure called into its own store, whose lock the closure holds. Nothing was done; use the
    /// closure's transaction, or make the call after the closure.
    InsideTransaction,
    /// Another engine's own error.
    Engine(Arc<dyn std::error::Error + Send + Sync>),
}

impl KvsError {
    /// Damage in `path` at `offset`.
    pub(crate) fn corrupt(path: &Path, offset: u64, reason: impl Into<String>) -> Self {
        KvsError::Corrupt { path: path.to_owned(), offset, reason: reason.into() }
    }

    /// A full disk told as such, with the safe state and the remedy.
    pub(crate) fn told_full(self) -> Self {
        match self {
            KvsError::Io(source) if source.is_no_space() => KvsError::Full { source },
            error => error,
        }
    }

    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        match self {
            KvsError::Full { .. } => true,
            KvsError::Io(error) => error.is_no_space(),
            _ => false,
        }
    }

    /// Whether a file could not be opened because too many are; nothing is in doubt then.
    pub(crate) fn is_out_of_files(&self) -> bool {
        matches!(self, KvsError::Io(error) if error.is_out_of_files())
    }
}

impl From<IoError> for KvsError {
    fn from(error: IoError) -> Self {
        KvsError::Io(Arc::new(error))
    }
}

impl fmt::Display for KvsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KvsError::KeyNotFound => f.write_str("Key not found"),
            KvsError::TooLarge { what, size, limit } => {
                write!(f, "the {what} is too large: {size} bytes, the limit is {limit}")
            }
            KvsError::NotUtf8 => f.write_str("the value is not UTF-8 text; read it as bytes"),
            KvsError::Full { source } => write!(
                f,
                "no space on the disk: {source}. Nothing acknowledged is lost and reads go on; \
                 free some space and writes resume by themselves"
            ),
            KvsError::Poisoned { reason } => write!(
                f,
                "{reason}. The outcome of the last writes is unknown until the store is reopened; \
                 reads of older data go on"
            ),
            KvsError::Corrupt { path, offset, reason } => write!(
                f,
                "{} is damaged at byte {offset}: {reason}. Nothing was changed; copy the \
                 directory, then run `aryavarth verify` on it to see what is affected, and restore \
                 the file from a backup or save what is whole with `aryavarth salvage`",
                path.display()
            ),
            KvsError::Locked { path, pid } => {
                write!(f, "{} is in use", path.display())?;
                if let Some(pid) = pid {
                    write!(f, " by process {pid}")?;
                }
                f.write_str("; nothing was changed. Stop that process or choose another directory")
            }
            KvsError::NotOurs { path, reason } => write!(
                f,
                "{} is not an Aryavarth store: {reason}; nothing was changed. Choose an empty \
                 directory or one that a store made",
                path.display()
            ),
            KvsError::UnknownFormat { path, found, known } => {
                let remedy = match *found {
                    0 => "Export from it with the unreleased version that wrote it, and import",
                    _ => "Open it with a newer version",
                };
                write!(
                    f,
                    "{} has format version {found}, this program knows 1 to {known}; nothing was \
                     changed. {remedy}",
                    path.display()
                )
            }
            KvsError::WrongEngine { path, found, asked } => write!(
                f,
                "{} was made by the engine {found}, not by {asked}; nothing was changed. Use \
                 `--engine {found}`, or export from it and import here",
                path.display()
            ),
            KvsError::Io(error) => write!(f, "{error}"),
            KvsError::InvalidOption(what) => write!(f, "invalid option: {what}"),
            KvsError::Closed => f.write_str("the store is closed"),
            KvsError::WouldBlock => f.write_str(
                "the key has to be read from the disk first, and this call may not wait for it; \
                 nothing was done. Read it with Wait::Yes, or pass the error on in a transaction",
            ),
            KvsError::InsideTransaction => f.write_str(
                "the store was called from inside a transaction's closure, which holds its lock; \
                 nothing was done. Use the transaction's own methods, or call after the closure",
            ),
            KvsError::Engine(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for KvsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            KvsError::Io(error) | KvsError::Full { source: error } => Some(error.as_ref()),
            KvsError::Engine(error) => Some(error.as_ref()),
            _ => None,
        }
    }
}
