//! The Redis protocol, RESP2 and RESP3: what a client sends and what it hears.

mod command;
mod reply;

pub use command::Command;
pub use reply::Reply;
