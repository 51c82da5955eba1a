//! The adapter to openraft: the only folder that knows its types.
//!
//! openraft is an alpha and pinned (docs/decisions/0021). Its types are converted at this border, so
//! that another version of it, or another engine, changes this folder and nothing on disk or on the wire.

mod log;
mod types;

pub use log::{OpenraftLog, OpenraftReader};
pub use types::{Data, TypeConfig};
