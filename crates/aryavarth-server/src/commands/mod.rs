//! The commands of the Redis protocol.
//!
//! ```text
//!   a call: ["SET", "k", "v"]
//!      |
//!   dispatch     finds its row, admits it, runs it; transactions and blind writes
//!      |
//!   registry     every family's rows, by name
//!      |
//!   string, keyspace, connection, server, transaction, pubsub, scripting
//!      |         a row and a function for each command
//!   kit          row, arguments, context, failure: the parts of every command
//! ```
//!
//! Each floor knows those below it. `COMMAND`, key extraction and docs/commands.md are made from the
//! rows. A command is one small function from its arguments to a reply: over the keys as they are,
//! over a transaction, or over its context.
//!
//! Invariants:
//! - No command waits for durability: an answer says how far the log must be durable before it may
//!   leave, and at which level.
//! - A command that writes is one closure of the engine, and so is a whole transaction: atomic to
//!   readers and across a crash.
//! - A command that fails has changed nothing.

mod connection;
mod dispatch;
mod keyspace;
pub(crate) mod kit;
mod pubsub;
pub(crate) mod registry;
mod scripting;
mod server;
mod string;
#[cfg(test)]
mod tests;
mod transaction;

pub(crate) use dispatch::{
    Answer, LONG_BYTES, Later, Plan, blind, bytes_shown, is_long, listens, plan, resolve, run,
    wants_reply,
};
pub(crate) use kit::call::CommandCall;
pub(crate) use kit::context::{AfterReply, ClientState, ServerContext};
