//! What can be changed while the server runs.

use std::sync::atomic::{AtomicU64, Ordering};

/// The server's settings, live.
#[derive(Debug, Default)]
pub(crate) struct ServerSettings {
    /// The memory at which writes that take more are refused, in bytes; 0 is no limit.
    memory_bytes_max: AtomicU64,
    /// The memory in use, as it was seen last, in bytes.
    memory_bytes: AtomicU64,
}

impl ServerSettings {
    /// Whether writes that take memory are refused.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        let limit = self.memory_bytes_max.load(Ordering::Relaxed);
        limit > 0 && self.memory_bytes.load(Ordering::Relaxed) > limit
    }
}
