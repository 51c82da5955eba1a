//! The limits on a stranger's input.
//!
//! Everything that a client can make grow has a limit here; the error that a client sees names it.

/// The limits of one session. All sizes are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest key. Default: 65,535.
    pub key_bytes_max: usize,
    /// The largest value. Default: 64 MiB.
    pub value_bytes_max: usize,
    /// The longest request as it stands on the wire, escapes included. Default: 256 MiB.
    pub request_bytes_max: usize,
    /// The most entries that one scan may ask for. Default: 10,000.
    pub scan_entries_max: usize,
    /// The most arguments of a command of the Redis protocol. Default: 1,048,576.
    pub arguments_max: usize,
    /// The longest line of the Redis protocol: an inline command, or an announced length. Default:
    /// 64 KiB.
    pub line_bytes_max: usize,
    /// The deepest nesting of objects and arrays in JSON; more than 100 levels are never decoded.
    /// Default: 64.
    pub nesting_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            key_bytes_max: 65_535,
            value_bytes_max: 64 << 20,
            request_bytes_max: 256 << 20,
            scan_entries_max: 10_000,
            arguments_max: 1 << 20,
            line_bytes_max: 64 << 10,
            nesting_max: 64,
        }
    }
}

impl Limits {
    /// The longest request that can be within the limits of key and value: JSON spends at most six
    /// bytes on a byte of text. A longer one is refused before it has arrived.
    pub(crate) fn wire_bytes_max(&self) -> usize {
        let payload = self.value_bytes_max.saturating_add(self.key_bytes_max.saturating_mul(2));
        payload.saturating_mul(6).saturating_add(4096).min(self.request_bytes_max)
    }
}
