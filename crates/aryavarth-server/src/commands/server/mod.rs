//! The server: figures, settings, saves, and the commands that describe commands.

#[expect(clippy::unnecessary_wraps, reason = "all commands have one signature")]
pub(crate) mod absent;
#[expect(clippy::unnecessary_wraps, reason = "all commands have one signature")]
pub(crate) mod command;
#[expect(clippy::unnecessary_wraps, reason = "all commands have one signature")]
pub(crate) mod config;
mod constants;
pub(crate) mod damage;
#[expect(clippy::unnecessary_wraps, reason = "all commands have one signature")]
pub(crate) mod debug;
#[expect(clippy::unnecessary_wraps, reason = "all commands have one signature")]
pub(crate) mod info;
#[expect(clippy::unnecessary_wraps, reason = "all commands have one signature")]
pub(crate) mod observe;
#[expect(clippy::unnecessary_wraps, reason = "all commands have one signature")]
pub(crate) mod persistence;
mod usage;
