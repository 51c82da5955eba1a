//! The meaning of the input, one event after another.

use crate::message::Request;
use crate::resp::Command;

/// The next thing that a client's input means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request in JSON, to run and then to answer with [`reply`](crate::Session::reply).
    Request(Request),
    /// A command of the Redis protocol, to run and then to answer with
    /// [`reply_resp`](crate::Session::reply_resp).
    Command(Command),
    /// A complete request that makes no sense, and why: to be answered with this error, by
    /// [`reply_error`](crate::Session::reply_error). The conversation goes on.
    Invalid(String),
    /// The input makes no sense and the conversation is over: these are the last bytes to send,
    /// with [`reply_raw`](crate::Session::reply_raw), once everything before is answered.
    Broken(Vec<u8>),
    /// The input ended between two requests. The conversation is over when all is answered.
    End,
}
