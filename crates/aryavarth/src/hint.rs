//! Hint files: a sealed segment's keys and places, without its values, for a fast open.
//!
//! A hint is a convenience. It is bound to its segment by id, salt and exact length, ends in a
//! checksum of itself, and is ignored when anything differs; then the segment itself is read. It
//! is never synced: a crash that tears it costs time at the next open, nothing else.
//!
//! ```text
//! header: magic "ARYH", version u16, reserved u16, segment id, salt, end, count   (40 bytes)
//! entry:  kind, flags and sequence number u64, offset / 8 u32, record length u32, key length u16;
//!         deadline u64 and generation u64, each only where its flag says so; key
//! footer: CRC32C of everything before it
//! ```
//!
//! Hints of format version 1, which have no flags, are read as well.

use std::path::Path;

use crate::error::Result;
use crate::fs::{Fs, OpenHow, Site, read_full, write_full};
use crate::record::{Extra, Header, Kind, u16_at, u32_at, u64_at};
use crate::segment::{
    FORMAT_VERSION, FORMAT_WITH_GENERATIONS, SEGMENT_HEADER_BYTES, ScanStop, Scanned, Scanner,
    Segment, hint_path, is_known_format,
};
use crate::sync::Ordering;

const HINT_MAGIC: &[u8; 4] = b"ARYH";
const HEADER_BYTES: usize = 40;
const ENTRY_BYTES: usize = 18;
const FOOTER_BYTES: usize = 4;
/// Flags in the byte of the kind.
const FLAG_DEADLINE: u8 = 0x10;
const FLAG_GENERATION: u8 = 0x20;
/// The bytes that a check reads at a time.
const CHECK_BYTES: usize = 1 << 20;

/// A record's key, number and place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    key_at: usize,
    key_bytes: u16,
    pub(crate) kind: Kind,
    pub(crate) extra: Extra,
    pub(crate) seq: u64,
    pub(crate) offset: u64,
    /// Bytes of the record in the log.
    pub(crate) bytes: u64,
}

/// The records of one segment, without values.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Where the keys are: the hint file itself, or the keys of a scan one after another.
    bytes: Vec<u8>,
    places: Vec<Place>,
}

impl Places {
    /// The places, each with its key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &Place)> {
        self.places.iter().map(|place| {
            let key = &self.bytes[place.key_at..place.key_at + usize::from(place.key_bytes)];
            (key, place)
        })
    }

    /// Bytes of the hint file that these came from.
    pub(crate) fn hint_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Adds a record that lies, or will lie, at `offset`.
    pub(crate) fn push(&mut self, offset: u64, record: &Scanned<'_>) {
        let Header { kind, seq, .. } = record.header;
        self.places.push(Place {
            key_at: self.bytes.len(),
            key_bytes: record.key.len() as u16,
            kind,
            extra: record.extra,
            seq,
            offset,
            bytes: record.header.record_bytes() as u64,
        });
        self.bytes.extend_from_slice(record.key);
    }
}

/// Collects the places of a segment by reading all of it, verifying every record.
pub(crate) fn scan(segment: &Segment, end: u64) -> Result<Places, ScanStop> {
    let from = SEGMENT_HEADER_BYTES as u64;
    let mut scanner = Scanner::new(&*segment.file, segment.salt, from, end);
    let mut places = Places::default();
    while let Some(record) = scanner.next()? {
        if record.header.kind != Kind::Mark {
            places.push(record.offset, &record);
        }
    }
    Ok(places)
}

/// Writes a sealed segment's hint file; returns its size in bytes. Not synced. None is written (0)
/// where it would be nearly as large as the log, since reading it would spare nothing and keeping
/// it would break the bound on space.
pub(crate) fn write(fs: &dyn Fs, dir: &Path, segment: &Segment, places: &Places) -> Result<u64> {
    let end = segment.end.load(Ordering::Acquire);
    let out = encode(places, segment.id, segment.salt, end);
    if out.len() as u64 > end / 4 * 3 {
        return Ok(0);
    }
    let path = hint_path(dir, segment.id);
    let file = fs.open(Site::HintCreate, &path, OpenHow::CreateNew)?;
    write_full(&*file, Site::HintWrite, &out, 0)?;
    Ok(out.len() as u64)
}

/// The hint file of the segment with this id and salt, which ends at `end`.
pub(crate) fn encode(places: &Places, id: u64, salt: u64, end: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + places.bytes.len() + 24 * places.len());
    out.extend_from_slice(HINT_MAGIC);
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    for word in [id, salt, end, places.len() as u64] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for (key, place) in places.iter() {
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        let kind = place.kind as u8
            | flag(place.extra.expires_at.is_some(), FLAG_DEADLINE)
            | flag(place.extra.generation != 0, FLAG_GENERATION);
        out.extend_from_slice(&(place.seq << 8 | u64::from(kind)).to_le_bytes());
        out.extend_from_slice(&((place.offset / 8) as u32).to_le_bytes());
        out.extend_from_slice(&(place.bytes as u32).to_le_bytes());
        out.extend_from_slice(&(key.len() as u16).to_le_bytes());
        place.extra.encode(&mut out);
        out.extend_from_slice(key);
    }
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out
}

/// Whether a sealed segment's hint file fits it, found in little memory.
pub(crate) fn fits(fs: &dyn Fs, dir: &Path, id: u64, salt: u64, end: u64) -> bool {
    let check = || {
        let file = fs.open(Site::HintCheckOpen, &hint_path(dir, id), OpenHow::Read).ok()?;
        let length = file.len(Site::HintCheckLength).ok()?;
        let footer = length.checked_sub(FOOTER_BYTES as u64)?;
        let mut window = vec![0; CHECK_BYTES];
        let (mut crc, mut at, mut is_its) = (0, 0, false);
        while at < length {
            let got = read_full(&*file, Site::HintCheckRead, &mut window, at).ok()?;
            let bytes = window.get(..got).filter(|bytes| !bytes.is_empty())?;
            if at == 0 {
                is_its = header_fits(bytes, id, salt, end);
            }
            // The footer may lie across two windows.
            let covered = bytes.len().min(footer.saturating_sub(at) as usize);
            crc = crc32c::crc32c_append(crc, &bytes[..covered]);
            at += got as u64;
        }
        let mut last = [0; FOOTER_BYTES];
        read_full(&*file, Site::HintFooterRead, &mut last, footer).ok()?;
        Some(is_its && u32::from_le_bytes(last) == crc)
    };
    check().unwrap_or(false)
}

/// Whether a hint file's header is that of a segment.
fn header_fits(bytes: &[u8], id: u64, salt: u64, end: u64) -> bool {
    bytes.len() >= HEADER_BYTES
        && &bytes[..4] == HINT_MAGIC
        && is_known_format(u32_at(bytes, 4))
        && u64_at(bytes, 8) == id
        && u64_at(bytes, 16) == salt
        && u64_at(bytes, 24) == end
}

/// Reads a sealed segment's hint file; `None` if there is none that fits.
pub(crate) fn read(fs: &dyn Fs, dir: &Path, segment: &Segment) -> Option<Places> {
    read_of(fs, dir, segment.id, segment.salt, segment.end.load(Ordering::Acquire))
}

/// The salt of a segment whose own header is damaged, as its hint file tells it. Only a
/// record that fits it proves it.
pub(crate) fn salt_of(fs: &dyn Fs, dir: &Path, id: u64) -> Option<u64> {
    let file = fs.open(Site::HintSaltOpen, &hint_path(dir, id), OpenHow::Read).ok()?;
    let mut bytes = [0; HEADER_BYTES];
    let got = read_full(&*file, Site::HintSaltRead, &mut bytes, 0).ok()?;
    (got == bytes.len() && &bytes[..4] == HINT_MAGIC && u64_at(&bytes, 8) == id)
        .then(|| u64_at(&bytes, 16))
}

/// The same for a segment of which only these are known.
pub(crate) fn read_of(fs: &dyn Fs, dir: &Path, id: u64, salt: u64, end: u64) -> Option<Places> {
    let path = hint_path(dir, id);
    let file = fs.open(Site::HintOpen, &path, OpenHow::Read).ok()?;
    let length = file.len(Site::HintLength).ok()?;
    // An entry is smaller than its record, so a longer file is not this segment's hint.
    if length > end + HEADER_BYTES as u64 {
        return None;
    }
    let mut bytes = vec![0; length as usize];
    if read_full(&*file, Site::HintRead, &mut bytes, 0).ok()? != bytes.len() {
        return None;
    }
    decode(bytes, id, salt, end)
}

/// The places in a hint file; `None` if it does not fit the segment with this id, salt and end.
pub(crate) fn decode(bytes: Vec<u8>, id: u64, salt: u64, end: u64) -> Option<Places> {
    let footer = bytes.len().checked_sub(FOOTER_BYTES).filter(|&at| at >= HEADER_BYTES)?;
    let count = u64_at(&bytes, 32);
    let fits = u32_at(&bytes, footer) == crc32c::crc32c(&bytes[..footer])
        && header_fits(&bytes, id, salt, end)
        && count <= (bytes.len() / ENTRY_BYTES) as u64;
    if !fits {
        return None;
    }
    let mut places = Vec::with_capacity(count as usize);
    let mut at = HEADER_BYTES;
    for _ in 0..count {
        let entry = bytes.get(at..at + ENTRY_BYTES)?;
        let word = u64_at(entry, 0);
        let byte = word as u8;
        let kind = match byte & !(FLAG_DEADLINE | FLAG_GENERATION) {
            1 => Kind::Put,
            2 if byte & FLAG_DEADLINE == 0 => Kind::Tombstone,
            _ => return None,
        };
        if byte != kind as u8 && u32_at(&bytes, 4) < FORMAT_WITH_GENERATIONS {
            return None;
        }
        let offset = u64::from(u32_at(entry, 8)) * 8;
        let record = u64::from(u32_at(entry, 12));
        let key_bytes = u16_at(entry, 16);
        let rest = bytes.get(at + ENTRY_BYTES..footer)?;
        let extra = Extra::decode(rest, byte & FLAG_DEADLINE != 0, byte & FLAG_GENERATION != 0)?;
        let key_at = at + ENTRY_BYTES + extra.bytes();
        at = key_at + usize::from(key_bytes);
        if at > footer || offset + record > end {
            return None;
        }
        let seq = word >> 8;
        places.push(Place { key_at, key_bytes, kind, extra, seq, offset, bytes: record });
    }
    (at == footer).then_some(Places { bytes, places })
}

/// Gives a hint file the checksum that it should have.
#[cfg(any(test, fuzzing))]
pub(crate) fn mend(bytes: &mut [u8]) {
    if let Some((all, footer)) = bytes.split_last_chunk_mut::<FOOTER_BYTES>() {
        *footer = crc32c::crc32c(all).to_le_bytes();
    }
}
