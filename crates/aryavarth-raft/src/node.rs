//! A node's files: its identity and its Raft log, made together and opened together.
//!
//! ```text
//!  DATA/node          who it is      written last, so it vouches for the log
//!  DATA/raft/1.raft   the log
//! ```
//!
//! Invariants:
//! - A directory with the file `node` has a log; one that has lost it is refused, because a node that
//!   forgot its votes would vote twice.
//! - Log and identity name the same node of the same cluster.

use std::path::Path;
use std::sync::Arc;

use aryavarth::fs::Site;

use crate::error::{RaftError, Result};
use crate::identity::Identity;
use crate::raft_log::{LOG_DIR, RaftLog, RaftLogOptions, recover};

/// A node's files, open.
#[derive(Debug)]
pub struct Node {
    /// Which node of which cluster it is.
    pub identity: Identity,
    /// Its log.
    pub log: RaftLog,
}

impl Node {
    /// Makes the data directory `data`, which exists, a node: an empty log, then the identity. Six syncs.
    ///
    /// # Errors
    /// [`RaftError::Order`] if the directory is a node already; [`RaftError::Lost`] if it holds the log
    /// of one. Otherwise the file system's: the directory is no node then, and the call can be made again.
    pub fn create(data: &Path, identity: &Identity, options: &RaftLogOptions) -> Result<()> {
        let fs = options.fs.open_dir(Site::RaftDataCreate, data)?;
        if Identity::read(&*fs, data)?.is_some() {
            let reason = format!("{} is a node already", data.display());
            return Err(RaftError::Order { reason });
        }
        let options = RaftLogOptions { fs: Arc::clone(&fs), ..options.clone() };
        recover::create(&data.join(LOG_DIR), identity, &options)?;
        identity.write(&*fs, data)
    }

    /// Opens the node in the data directory `data`; `None` if it is none. Reads the whole log.
    ///
    /// # Errors
    /// [`RaftError::Corrupt`] or [`RaftError::Lost`] where the log or the identity is damaged or missing:
    /// the node must not take part again. [`RaftError::Locked`] if another handle has it open;
    /// [`RaftError::Foreign`], [`RaftError::UnknownFormat`]; otherwise the file system's.
    pub fn open(data: &Path, options: &RaftLogOptions) -> Result<Option<Node>> {
        let fs = options.fs.open_dir(Site::RaftDataOpen, data)?;
        let dir = data.join(LOG_DIR);
        let options = RaftLogOptions { fs: Arc::clone(&fs), ..options.clone() };
        let Some(identity) = Identity::read(&*fs, data)? else {
            return Ok(None);
        };
        // The name may be there and not on disk yet, if the node was made by a process that died.
        fs.sync_dir(Site::RaftDataSync, data)?;
        let log = RaftLog::open(&dir, &identity, options)?;
        Ok(Some(Node { identity, log }))
    }
}
