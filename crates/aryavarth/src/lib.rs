//! Aryavarth's engine: the key-value store that does not say OK until the write is on disk.
#![allow(clippy::cast_possible_truncation, reason = "lengths are bounded where they enter")]
mod engine;
mod error;
pub mod fs;
mod memory;
mod options;
mod record;
mod stats;
mod sync;

pub use engine::{Entry, KeyRange, KvsEngine, Newest, Page, Position, Transaction};
pub use error::{KvsError, Result};
pub use memory::MemoryEngine;
pub use options::{Clock, Durability, KEY_BYTES_MAX, Options, SystemClock, VALUE_BYTES_MAX};
pub use record::{Batch, Write, record_bytes};
pub use stats::Stats;
