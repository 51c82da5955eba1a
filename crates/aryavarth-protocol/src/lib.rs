//! Aryavarth's wire protocols: bytes to requests and replies, without any I/O.
//!
//! A [`Session`] is one connection's side of the conversation. It is fed bytes, in pieces of any
//! size, and returns one [`Event`] after another; it is given replies and says which
//! bytes to send. It knows no socket, no clock and no engine, so it can be scripted and fuzzed
//! without them.
//!
//! ```
//! use aryavarth_protocol::{Event, Limits, Request, Response, Session};
//!
//! let mut session = Session::new(Limits::default());
//! session.feed(br#"{"Get":{"key":"user:42"}}"#);
//! assert_eq!(session.next_event(), Some(Event::Request(Request::Get { key: "user:42".into() })));
//!
//! session.reply(&Response::Ok(Some("Aryavarth".into())), 0);
//! assert_eq!(session.output(), b"{\"Ok\":\"Aryavarth\"}\n");
//! ```
//!
//! The first bytes of a connection decide whether it speaks JSON or the Redis protocol.
//! The format on the wire is described in `docs/protocol.md`.

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
pub use resp::{Command, Reply};
pub use session::Session;
