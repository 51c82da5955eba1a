//! Records: the bytes of the log, and the batches that they are made from.
//!
//! A record is one write (or a mark, mark.rs) with its sequence number. A *frame* (frame.rs) is one
//! or more records that are appended in one call, the last one flagged, all of them or none; it
//! encodes a batch of writes (batch.rs). Layout of a record (all integers little-endian; the contract
//! is docs/format.md):
//!
//! ```text
//! 0   header CRC32C of bytes 4..24, seeded with the segment's salt and the record's offset
//! 4   payload CRC32C
//! 8   kind in the low byte, sequence number in the upper seven
//! 16  value length     20  key length     22  flags
//! 24  payload: deadline (8 bytes) and generation (8), each only where its flag says so; key, value;
//!     zeros up to a multiple of eight
//! ```
//!
//! A *generation* is a set of keys, and a space of keys has one generation at a time. A record has the
//! number of its generation, so a space is emptied, or swapped with another, without touching any of its
//! records.
//!
//! Invariants:
//! - The seeded header makes a record valid at one place of one segment only, so stale bytes of
//!   another file or place never pass for a record.
//! - The header vouches for the payload: its CRC covers the payload's.
//! - Nothing is believed before its checksum: lengths come from a verified header.

mod batch;
mod frame;
mod mark;

use crate::error::{KvsError, Result};
use crate::options::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

pub use batch::{Batch, Write};
pub(crate) use frame::{Frame, FrameRecord};
pub(crate) use mark::Mark;

/// Bytes of a record's header.
pub(crate) const HEADER_BYTES: usize = 24;
/// Records begin at multiples of this.
pub(crate) const ALIGN: usize = 8;
/// Bytes of a whole mark record.
pub(crate) const MARK_BYTES: usize = HEADER_BYTES + 40;
/// Flag of the last record of a frame.
const FLAG_LAST: u16 = 1;
/// Flag of a record with a deadline.
const FLAG_DEADLINE: u16 = 2;
/// Flag of a record whose generation is not 0.
const FLAG_GENERATION: u16 = 4;
/// Sequence numbers take 56 bits.
pub(crate) const SEQ_MAX: u64 = (1 << 56) - 1;

/// The meaning of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The key has this value.
    Put = 1,
    /// The key is gone.
    Tombstone = 2,
    /// Everything before a position is on disk.
    Mark = 3,
}

/// The fields of a record beside key and value. A generation of 0 and no deadline take no space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extra {
    /// The generation that the key belongs to.
    pub(crate) generation: u64,
    /// The word of the deadline from which on the key is gone; never 0.
    pub(crate) expires_at: Option<u64>,
}

impl Extra {
    /// Bytes that it takes in a record.
    pub(crate) fn bytes(self) -> usize {
        extra_bytes(self.expires_at.is_some(), self.generation != 0)
    }

    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        if let Some(expires_at) = self.expires_at {
            out.extend_from_slice(&expires_at.to_le_bytes());
        }
        if self.generation != 0 {
            out.extend_from_slice(&self.generation.to_le_bytes());
        }
    }

    /// Decodes the fields that [`encode`](Self::encode) wrote at the beginning of `bytes`; `None` for
    /// bytes that it would not have written.
    pub(crate) fn decode(bytes: &[u8], has_deadline: bool, has_generation: bool) -> Option<Extra> {
        let mut extra = Extra::default();
        let bytes = bytes.get(..extra_bytes(has_deadline, has_generation))?;
        if has_deadline {
            extra.expires_at = Some(u64_at(bytes, 0)).filter(|&deadline| deadline != 0);
            extra.expires_at?;
        }
        if has_generation {
            extra.generation = u64_at(bytes, bytes.len() - 8);
        }
        (has_generation == (extra.generation != 0)).then_some(extra)
    }
}

/// Bytes before the key.
const fn extra_bytes(has_deadline: bool, has_generation: bool) -> usize {
    8 * (has_deadline as usize + has_generation as usize)
}

/// A record's payload, taken apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) extra: Extra,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// A record's header, verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    payload_crc: u32,
    /// The record's sequence number, which is its key's version.
    pub(crate) seq: u64,
    pub(crate) kind: Kind,
    pub(crate) key_bytes: usize,
    pub(crate) value_bytes: usize,
    /// Whether the record ends its frame.
    pub(crate) last: bool,
    pub(crate) has_deadline: bool,
    pub(crate) has_generation: bool,
}

impl Header {
    /// Decodes a header that lies at `offset` of the segment with `salt`; `None` if it is not one.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES], salt: u64, offset: u64) -> Option<Header> {
        if u32_at(bytes, 0) != crc32c::crc32c_append(seed(salt, offset), &bytes[4..]) {
            return None;
        }
        let kind = match bytes[8] {
            1 => Kind::Put,
            2 => Kind::Tombstone,
            3 => Kind::Mark,
            _ => return None,
        };
        let flags = u16_at(bytes, 22);
        if flags & !(FLAG_LAST | FLAG_DEADLINE | FLAG_GENERATION) != 0 {
            return None;
        }
        let header = Header {
            payload_crc: u32_at(bytes, 4),
            seq: u64_at(bytes, 8) >> 8,
            kind,
            key_bytes: usize::from(u16_at(bytes, 20)),
            value_bytes: u32_at(bytes, 16) as usize,
            last: flags & FLAG_LAST != 0,
            has_deadline: flags & FLAG_DEADLINE != 0,
            has_generation: flags & FLAG_GENERATION != 0,
        };
        header.has_sizes_of_its_kind().then_some(header)
    }

    /// Whether a record of this kind can have such a key and value.
    fn has_sizes_of_its_kind(&self) -> bool {
        match self.kind {
            Kind::Put => self.value_bytes <= VALUE_BYTES_MAX,
            Kind::Tombstone => self.value_bytes == 0 && !self.has_deadline,
            Kind::Mark => {
                self.last
                    && self.payload_bytes() == self.value_bytes
                    && HEADER_BYTES + self.value_bytes == MARK_BYTES
            }
        }
    }

    /// Bytes before the key.
    pub(crate) fn extra_bytes(&self) -> usize {
        extra_bytes(self.has_deadline, self.has_generation)
    }

    /// Bytes of deadline, generation, key and value.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.extra_bytes() + self.key_bytes + self.value_bytes
    }

    /// Takes a payload apart, for which this header vouched; `None` for one that no writer wrote.
    pub(crate) fn parts<'a>(&self, payload: &'a [u8]) -> Option<Parts<'a>> {
        let extra = Extra::decode(payload, self.has_deadline, self.has_generation)?;
        let (key, value) = payload.get(self.extra_bytes()..)?.split_at_checked(self.key_bytes)?;
        Some(Parts { extra, key, value })
    }

    /// Bytes of the whole record, padding included.
    pub(crate) fn record_bytes(&self) -> usize {
        padded(HEADER_BYTES + self.payload_bytes())
    }

    /// Whether `payload` is the one that was written.
    pub(crate) fn vouches_for(&self, payload: &[u8]) -> bool {
        payload.len() == self.payload_bytes() && crc32c::crc32c(payload) == self.payload_crc
    }

    /// The same for a payload of the right length that was read in pieces, of which this is the
    /// checksum.
    pub(crate) fn vouches_for_crc(&self, payload_crc: u32) -> bool {
        payload_crc == self.payload_crc
    }

    /// The header of a copy of this record, a frame of its own, at another place.
    pub(crate) fn copied_to(&self, salt: u64, offset: u64) -> [u8; HEADER_BYTES] {
        Header { last: true, ..*self }.encode(salt, offset)
    }

    fn encode(&self, salt: u64, offset: u64) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[4..8].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[8..16].copy_from_slice(&(self.seq << 8 | self.kind as u64).to_le_bytes());
        bytes[16..20].copy_from_slice(&(self.value_bytes as u32).to_le_bytes());
        bytes[20..22].copy_from_slice(&(self.key_bytes as u16).to_le_bytes());
        let flag = |is: bool, flag: u16| if is { flag } else { 0 };
        let flags = flag(self.last, FLAG_LAST)
            | flag(self.has_deadline, FLAG_DEADLINE)
            | flag(self.has_generation, FLAG_GENERATION);
        bytes[22..24].copy_from_slice(&flags.to_le_bytes());
        let crc = crc32c::crc32c_append(seed(salt, offset), &bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// Bytes of a record in the log, header and padding included, for a key of space 0 without a
/// deadline. A deadline adds 8 bytes, and so does another space.
pub fn record_bytes(key_bytes: usize, value_bytes: usize) -> usize {
    padded(HEADER_BYTES + key_bytes + value_bytes)
}

/// Refuses a key over the limit.
pub(crate) fn check_key(key: &[u8]) -> Result<()> {
    check_size("key", key.len(), KEY_BYTES_MAX)
}

/// Refuses a value over `limit`.
pub(crate) fn check_value(value: &[u8], limit: usize) -> Result<()> {
    check_size("value", value.len(), limit)
}

/// Refuses a size over its limit.
pub(crate) fn check_size(what: &'static str, size: usize, limit: usize) -> Result<()> {
    if size > limit {
        return Err(KvsError::TooLarge { what, size: size as u64, limit: limit as u64 });
    }
    Ok(())
}

/// Rounds up to the alignment of records.
pub(crate) const fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN)
}

/// Gives the record at `at` the checksums that it should have, as far as it lies in `bytes`; returns
/// where the next one begins.
#[cfg(any(test, fuzzing))]
pub(crate) fn mend(bytes: &mut [u8], at: usize, salt: u64) -> Option<usize> {
    let record = bytes.get_mut(at..).filter(|record| record.len() >= HEADER_BYTES)?;
    let flags = u16_at(record, 22);
    let extra_bytes = extra_bytes(flags & FLAG_DEADLINE != 0, flags & FLAG_GENERATION != 0);
    let payload_bytes = extra_bytes + u32_at(record, 16) as usize + usize::from(u16_at(record, 20));
    if let Some(payload) = record.get(HEADER_BYTES..HEADER_BYTES + payload_bytes) {
        let crc = crc32c::crc32c(payload);
        record[4..8].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = crc32c::crc32c_append(seed(salt, at as u64), &record[4..HEADER_BYTES]);
    record[..4].copy_from_slice(&crc.to_le_bytes());
    Some(at + padded(HEADER_BYTES + payload_bytes))
}

fn seed(salt: u64, offset: u64) -> u32 {
    let mixed = salt ^ offset;
    (mixed >> 32) as u32 ^ mixed as u32
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
