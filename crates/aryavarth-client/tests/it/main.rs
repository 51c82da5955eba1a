//! The promises of both clients, written once and run on each: against a real server, and against one
//! that breaks off where the story wants it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod lost;
mod redis;
mod served;
mod support;
