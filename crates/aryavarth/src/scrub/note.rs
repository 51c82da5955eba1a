//! The note of damage: the places that a running store knows to be damaged, kept over a restart.
//!
//! ```text
//! header: magic "ARYD", version u16, reserved u16, count u64   (16 bytes)
//! entry:  segment id u64, its salt u64, offset u64, first seen u64
//! footer: CRC32C of everything before it
//! ```
//!
//! A read or a scrub finds rot long before somebody looks at the log, and the next start would know
//! nothing of it until the scrubber comes by again. So the background writes the places to the file
//! `DAMAGE`, and the next open reads the records there once more.
//!
//! Invariants:
//! - The note says where to look, and nothing is believed of it but that: a place that is whole, or
//!   in a segment with another salt, is not damage.
//! - No call fails because of the note. One that is missing, torn or damaged is an empty one.
//! - A note is replaced as a whole, by a rename.

use std::path::Path;

use crate::damage::NOTE;
use crate::fs::{Fs, IoError, OpenHow, Site, read_full, write_full};
use crate::record::{u32_at, u64_at};

const NOTE_NEXT: &str = "DAMAGE.next";
const MAGIC: &[u8; 4] = b"ARYD";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 16;
const ENTRY_BYTES: usize = 32;
const FOOTER_BYTES: usize = 4;
/// The most places of a note: each costs the next open a read. The scrubber finds the others again.
pub(super) const PLACES_MAX: usize = 1000;

/// A damaged place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotedPlace {
    pub(super) segment: u64,
    pub(super) salt: u64,
    pub(super) offset: u64,
    /// In milliseconds since 1970.
    pub(super) first_seen_ms: u64,
}

/// Puts a note of these places in the place of the last one; none if there is no place.
pub(super) fn write(fs: &dyn Fs, dir: &Path, places: &[NotedPlace]) -> Result<(), IoError> {
    let (path, next) = (dir.join(NOTE), dir.join(NOTE_NEXT));
    if places.is_empty() {
        return fs.remove(Site::DamageNoteRemove, &path);
    }
    // A crash may have left one.
    drop(fs.remove(Site::DamageNoteLeftover, &next));
    let file = fs.open(Site::DamageNoteCreate, &next, OpenHow::CreateNew)?;
    write_full(&*file, Site::DamageNoteWrite, &encode(places), 0)?;
    file.sync(Site::DamageNoteSync)?;
    fs.rename(Site::DamageNoteRename, &next, &path)?;
    fs.sync_dir(Site::DamageNoteDirSync, dir)
}

/// The places of the note in a directory.
pub(super) fn read(fs: &dyn Fs, dir: &Path) -> Vec<NotedPlace> {
    let read = || {
        let file = fs.open(Site::DamageNoteOpen, &dir.join(NOTE), OpenHow::Read).ok()?;
        // One byte more tells a file that is too long.
        let mut bytes = vec![0; HEADER_BYTES + PLACES_MAX * ENTRY_BYTES + FOOTER_BYTES + 1];
        let got = read_full(&*file, Site::DamageNoteRead, &mut bytes, 0).ok()?;
        decode(&bytes[..got])
    };
    read().unwrap_or_default()
}

fn encode(places: &[NotedPlace]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + places.len() * ENTRY_BYTES + FOOTER_BYTES);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&(places.len() as u64).to_le_bytes());
    for place in places {
        for word in [place.segment, place.salt, place.offset, place.first_seen_ms] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out
}

/// The places in a note, in the order of segments and offsets; `None` if it is not whole.
fn decode(bytes: &[u8]) -> Option<Vec<NotedPlace>> {
    let footer = bytes.len().checked_sub(FOOTER_BYTES).filter(|at| *at >= HEADER_BYTES)?;
    let (entries, version) = (&bytes[HEADER_BYTES..footer], u32_at(bytes, 4));
    let is_whole = &bytes[..4] == MAGIC
        && version == u32::from(VERSION)
        && u32_at(bytes, footer) == crc32c::crc32c(&bytes[..footer])
        && u64_at(bytes, 8).checked_mul(ENTRY_BYTES as u64) == Some(entries.len() as u64);
    if !is_whole {
        return None;
    }
    let place = |entry: &[u8]| NotedPlace {
        segment: u64_at(entry, 0),
        salt: u64_at(entry, 8),
        offset: u64_at(entry, 16),
        first_seen_ms: u64_at(entry, 24),
    };
    let mut places: Vec<NotedPlace> = entries.chunks_exact(ENTRY_BYTES).map(place).collect();
    places.sort_unstable_by_key(|place| (place.segment, place.offset));
    Some(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_nothing_else_is_one() {
        let place = |n| NotedPlace { segment: n, salt: n << 40, offset: n * 64, first_seen_ms: 7 };
        for count in [1, 2, PLACES_MAX as u64] {
            let places: Vec<_> = (0..count).map(place).collect();
            assert_eq!(decode(&encode(&places)).as_ref(), Some(&places));
        }
        let whole = encode(&[place(1), place(2)]);
        for end in 0..whole.len() {
            assert_eq!(decode(&whole[..end]), None, "{end} bytes");
            let mut flipped = whole.clone();
            flipped[end] ^= 1;
            assert_eq!(decode(&flipped), None, "byte {end}");
        }
        assert_eq!(decode(&[whole, vec![0]].concat()), None, "a byte too many");
    }
}
