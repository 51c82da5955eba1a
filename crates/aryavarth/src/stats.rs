//! Figures of a store, for people and for metrics.

/// Figures of a store: its contents, and its work since the open. Reading them costs no system
/// call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Keys that exist.
    pub keys: u64,
    /// Bytes of the encoded records of existing keys, headers included.
    pub live_bytes: u64,
    /// Bytes that the store's files take on the disk.
    pub disk_bytes: u64,
    /// Log files, the active one included.
    pub segments: u64,
    /// Bytes appended to the log.
    pub appended_bytes: u64,
    /// Syncs of the log.
    pub syncs: u64,
    /// Compactions finished.
    pub compactions: u64,
    /// Bytes of the last run's torn tail that the open cut off.
    pub torn_bytes: u64,
    /// Records that the open found beyond the last durable position and kept.
    pub recovered_records: u64,
    /// Position up to which the log is durable.
    pub durable_position: u64,
    /// Position up to which the log is written.
    pub written_position: u64,
    /// Bytes that the scrubber read to compare their checksums.
    pub scrubbed_bytes: u64,
    /// Damaged places that this found, in files that there still are, by which data is lost.
    /// A damaged record counts until its key is written again.
    pub damaged_records: u64,
    /// Keys that were removed because their deadline had passed.
    pub expired_keys: u64,
    /// How often the machine's clock was set by more than a second, backwards or forwards. Deadlines
    /// go on as if it had not been.
    pub clock_jumps: u64,
    /// By how many milliseconds the machine's clock is ahead of the store's since then.
    pub clock_offset_ms: i64,
    /// Whether writes are refused until the store is opened again, because the outcome of a sync or
    /// a write is unknown.
    pub poisoned: bool,
    /// Whether writes are refused because the disk is full.
    pub full: bool,
}
