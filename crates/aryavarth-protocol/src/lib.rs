//! The wire protocols.
//!
#![doc = include_str!("../README.md")]

mod event;
mod extent;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod json;
mod limits;
mod message;
mod output;
mod parts;
mod resp;
mod session;
mod sniff;

pub use event::Event;
pub use limits::Limits;
pub use message::{KEY_NOT_FOUND, Request, Response};
pub use resp::{Command, Push, Reply, Tail};
pub use session::Session;
