//! The bytes of an edit.
//!
//! ```text
//! edit: 0 CRC32C of the rest, seeded with the manifest's number and the edit's offset
//!       4 length of the payload     8 payload: one or more operations; zeros up to eight
//! ```
//!
//! Invariant: a checksum fits at one place of one manifest only, so stale bytes of an older edit never
//! pass for a newer one.

use super::{Edit, Seal};
use crate::clock::ClockPair;
use crate::record::{padded, u32_at, u64_at};
use crate::segment::SegmentKind;

/// Bytes of an edit before its payload.
pub(super) const EDIT_HEADER_BYTES: usize = 8;

fn seed(number: u64, offset: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), &offset.to_le_bytes())
}

/// An edit with its header, as it lies at `offset` of the manifest with this number.
pub(super) fn frame(payload: &[u8], number: u64, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0; EDIT_HEADER_BYTES];
    bytes[4..].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(payload);
    let crc = crc32c::crc32c_append(seed(number, offset), &bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes.resize(padded(bytes.len()), 0);
    bytes
}

/// Gives the edit at `at` the checksum that it should have; returns where the next one begins.
#[cfg(any(test, fuzzing))]
pub(crate) fn mend(bytes: &mut [u8], at: usize, number: u64) -> Option<usize> {
    let end = at + EDIT_HEADER_BYTES + u32_at(bytes.get(at..at + EDIT_HEADER_BYTES)?, 4) as usize;
    let crc = crc32c::crc32c_append(seed(number, at as u64), bytes.get(at + 4..end)?);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    Some(padded(end))
}

/// The payload of the edit at `at`, if its checksum fits.
pub(super) fn payload_at(bytes: &[u8], at: usize, number: u64) -> Option<&[u8]> {
    let header = bytes.get(at..at + EDIT_HEADER_BYTES)?;
    let length = u32_at(header, 4) as usize;
    // Most places that are looked at lie in the allocated rest, which is zeros.
    if length == 0 {
        return None;
    }
    let rest = bytes.get(at + 4..at + EDIT_HEADER_BYTES + length)?;
    let crc = crc32c::crc32c_append(seed(number, at as u64), rest);
    (crc == u32_at(header, 0)).then(|| &rest[4..])
}

/// The payload of some operations.
pub(super) fn encode(edits: &[Edit]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |tag: u8, words: &[u64]| {
        out.push(tag);
        for word in words {
            out.extend_from_slice(&word.to_le_bytes());
        }
    };
    for edit in edits {
        match edit {
            Edit::Store { format, id, engine } => {
                let mut name = [0; 8];
                let length = engine.len().min(8);
                name[..length].copy_from_slice(&engine.as_bytes()[..length]);
                put(1, &[u64::from(*format), *id, u64::from_le_bytes(name)]);
            }
            Edit::Add { id, kind, salt, step } => put(2, &[*id, *kind as u64, *salt, *step]),
            Edit::Seal { id, seal } => {
                let Seal { base, end, seq_min, seq_max, records, purged_seq } = *seal;
                put(3, &[*id, base, end, seq_min, seq_max, records, purged_seq]);
            }
            Edit::Drop { id } => put(4, &[*id]),
            Edit::Next { position, seq, file_id, clock_ms } => {
                put(5, &[*position, *seq, *file_id, *clock_ms]);
            }
            Edit::Clean => put(6, &[]),
            Edit::Clock(ClockPair { store_ms, wall_ms }) => put(7, &[*store_ms, *wall_ms]),
        }
    }
    out
}

/// The format version of a manifest, from its first payload.
pub(super) fn format_of(payload: &[u8]) -> Option<u32> {
    (payload.len() >= 9 && payload[0] == 1).then(|| u64_at(payload, 1) as u32)
}

/// The operations of a payload; `None` if it holds anything else.
pub(super) fn decode(mut payload: &[u8]) -> Option<Vec<Edit>> {
    let mut edits = Vec::new();
    while let Some((&tag, rest)) = payload.split_first() {
        let words = match tag {
            1 => 3,
            2 | 5 => 4,
            3 => 7,
            4 => 1,
            6 => 0,
            7 => 2,
            _ => return None,
        };
        let (fields, rest) = rest.split_at_checked(words * 8)?;
        payload = rest;
        let word = |i: usize| u64_at(fields, i * 8);
        edits.push(match tag {
            1 => {
                let name = word(2).to_le_bytes();
                let engine = std::str::from_utf8(&name).ok()?.trim_end_matches('\0').to_owned();
                Edit::Store { format: u32::try_from(word(0)).ok()?, id: word(1), engine }
            }
            2 => {
                let kind = SegmentKind::from_byte(u8::try_from(word(1)).ok()?)?;
                Edit::Add { id: word(0), kind, salt: word(2), step: word(3) }
            }
            3 => {
                let (base, end, seq_min) = (word(1), word(2), word(3));
                let (seq_max, records, purged_seq) = (word(4), word(5), word(6));
                let seal = Seal { base, end, seq_min, seq_max, records, purged_seq };
                Edit::Seal { id: word(0), seal }
            }
            4 => Edit::Drop { id: word(0) },
            5 => {
                Edit::Next { position: word(0), seq: word(1), file_id: word(2), clock_ms: word(3) }
            }
            6 => Edit::Clean,
            _ => Edit::Clock(ClockPair { store_ms: word(0), wall_ms: word(1) }),
        });
    }
    Some(edits)
}
