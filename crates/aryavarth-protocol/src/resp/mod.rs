//! The Redis protocol, RESP2 and RESP3: commands in, replies out.

mod command;
mod encode;
mod inline;
mod parse;
mod push;
mod reply;

pub use command::Command;
pub(crate) use encode::{Version, error};
pub(crate) use parse::{Found, Parser};
pub use push::{Push, Tail};
pub use reply::Reply;
