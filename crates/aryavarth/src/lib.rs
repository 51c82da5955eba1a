//! Aryavarth's engine: the key-value store that does not say OK until the write is on disk.
//!
#![doc = include_str!("../README.md")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "lengths are bounded where they enter, and sums of them stay far below 2^63"
)]

mod clock;
mod compaction;
mod damage;
mod deadline;
mod engine;
mod error;
mod events;
pub mod fs;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod hint;
mod index;
mod log;
mod manifest;
mod memory;
mod options;
pub mod plain;
mod record;
mod recovery;
mod salvage;
mod scrub;
mod segment;
#[cfg(feature = "sled")]
mod sled;
mod stats;
mod store;
mod sync;
mod watermarks;

pub use damage::{Damage, Verdict};
pub use deadline::{Deadline, Now};
pub use engine::{
    Count, Effects, Entry, Generation, KeyPage, KeyRange, KeyWalk, KvsEngine, Newest, Page,
    Position, Stored, Transaction, Wait, Watch,
};
pub use error::{KvsError, Result};
pub use events::{Event, Events};
pub use memory::MemoryEngine;
pub use options::{Clock, Durability, KEY_BYTES_MAX, Options, SystemClock, VALUE_BYTES_MAX};
pub use record::{Batch, Write, record_bytes};
pub use recovery::Recovery;
pub use salvage::{SalvageReport, Stale, salvage};
pub use scrub::{VerifyReport, verify};
#[cfg(feature = "sled")]
pub use sled::SledKvsEngine;
pub use stats::Stats;
#[cfg(feature = "async")]
pub use store::AsyncKvStore;
pub use store::{Keys, KvReader, KvStore, Scan};
