//! The server over real sockets, each test with a server of its own on a free port.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod channels;
mod clients;
mod durability;
mod framing;
mod isolation;
mod limits;
mod neighbours;
mod output;
mod pools;
mod promises;
mod redis;
#[cfg(feature = "lua")]
mod scripts;
mod scripts_bounds;
mod scripts_kept;
mod shutdown;
mod strangers;
mod support;
mod threads;
mod writes;
