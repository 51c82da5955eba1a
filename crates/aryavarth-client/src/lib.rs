//! Clients of the Aryavarth server, blocking and asynchronous.
//!
#![doc = include_str!("../README.md")]

#[cfg(feature = "async")]
mod async_client;
mod client;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod pipeline;
mod redis_client;
mod value;

#[cfg(feature = "async")]
pub use async_client::AsyncKvsClient;
pub use client::{KvsClient, Timeouts};
pub use error::{ClientError, Result};
pub use pipeline::{Pipeline, Reply};
pub use redis_client::{Commands, RedisClient, RedisOptions};
pub use value::Value;
