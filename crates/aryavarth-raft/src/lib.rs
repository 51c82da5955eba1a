//! Several Aryavarth nodes as one store: the files that consensus needs.
//!
//! A node has an [`Identity`] and a [`RaftLog`], on the engine's seam to the file system, so the same
//! simulated disk stands under both. Consensus itself is openraft's, behind the adapter in
//! [`openraft`](mod@openraft): no type of it is on disk, on the wire or outside that folder.
#![allow(
    clippy::cast_possible_truncation,
    reason = "lengths are bounded where they enter, and files stay below 2^32 bytes"
)]

mod bytes_of;
mod entry;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod node;
pub mod openraft;
mod raft_log;

pub use entry::{Entry, Frame, Member, Members, Session, Table, Write};
pub use error::{RaftError, Result};
pub use identity::{Identity, NAME_BYTES_MAX};
pub use node::Node;
pub use raft_log::{Answer, EntryKind, LogEntry, LogId, RaftLog, RaftLogOptions, Vote};
