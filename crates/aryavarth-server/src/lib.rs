//! The server: sockets, sessions, commands, and threads for the engine.
//!
#![doc = include_str!("../README.md")]

mod budget;
mod channels;
mod clients;
mod commands;
mod connection;
mod counters;
mod error;
mod figures;
mod glob;
mod limits;
mod log;
mod process;
mod requests;
mod script;
mod server;
mod settings;
mod shared;
mod signals;
pub mod thread_pool;
mod upkeep;
mod writes;

pub use counters::Counters;
pub use error::{Result, ServerError};
pub use limits::{Limits, ScriptLimits};
pub use log::{LoggedEvents, log_events, log_events_to_their_end};
pub use server::{Config, KvServer, Listener, ServerHandle};
pub use signals::ignore_stray_signals;
pub use thread_pool::{NaiveThreadPool, RayonThreadPool, SharedQueueThreadPool, ThreadPool};
pub use upkeep::MemoryHooks;
