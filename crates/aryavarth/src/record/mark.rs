//! Marks: records that tell how far the log was on disk.
//!
//! A mark stands before the first frame after a completed sync. Recovery takes the highest position
//! that a mark tells for proof that everything before it was once good: that is how it tells a torn
//! tail from rot. A mark has no key; its payload is five numbers.
//!
//! Invariant: a mark tells a position only after a sync has covered it.

use super::{HEADER_BYTES, Header, Kind, MARK_BYTES, u64_at};

/// The numbers of a mark: up to where the log was on disk when the mark was written, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Everything before this position was synced.
    pub(crate) durable: u64,
    /// The accepted wall clock, in milliseconds since 1970.
    pub(crate) time_ms: u64,
    /// The store's clock, which never goes back, in milliseconds since 1970.
    pub(crate) clock_ms: u64,
    /// Reserved for replication.
    pub(crate) term: u64,
    /// Reserved for replication.
    pub(crate) index: u64,
}

impl Mark {
    /// Decodes a mark's payload, which its header vouched for.
    pub(crate) fn decode(payload: &[u8]) -> Option<Mark> {
        let bytes: &[u8; 40] = payload.try_into().ok()?;
        Some(Mark {
            durable: u64_at(bytes, 0),
            time_ms: u64_at(bytes, 8),
            clock_ms: u64_at(bytes, 16),
            term: u64_at(bytes, 24),
            index: u64_at(bytes, 32),
        })
    }

    /// Writes the mark's whole record into `out`, which has [`MARK_BYTES`].
    pub(crate) fn encode(&self, out: &mut [u8], seq: u64, salt: u64, offset: u64) {
        let fields = [self.durable, self.time_ms, self.clock_ms, self.term, self.index];
        for (slot, field) in out[HEADER_BYTES..].chunks_exact_mut(8).zip(fields) {
            slot.copy_from_slice(&field.to_le_bytes());
        }
        let header = Header {
            payload_crc: crc32c::crc32c(&out[HEADER_BYTES..]),
            seq,
            kind: Kind::Mark,
            key_bytes: 0,
            value_bytes: MARK_BYTES - HEADER_BYTES,
            last: true,
            has_deadline: false,
            has_generation: false,
        };
        out[..HEADER_BYTES].copy_from_slice(&header.encode(salt, offset));
    }
}
