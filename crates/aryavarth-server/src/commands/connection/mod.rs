//! The connection itself: greeting, password, database, name, pauses.

#[expect(clippy::unnecessary_wraps, reason = "all commands have one signature")]
pub(crate) mod client;
#[expect(clippy::unnecessary_wraps, reason = "all commands have one signature")]
pub(crate) mod handshake;
