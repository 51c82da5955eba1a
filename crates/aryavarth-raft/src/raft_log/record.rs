//! Records: the bytes of the Raft log. Pure functions.
//!
//! ```text
//!  0 CRC32C of all that follows, padding included, seeded with the file's salt and the offset
//!  4 bytes of body
//!  8 kind u8   9 flags u8   10 group u16   12 reserved u32   16 term u64   24 index u64
//! 32 body, then zeros up to a multiple of eight
//! ```
//!
//! A *group* is the records that one write call and one sync put on disk. It begins with a `Group`
//! record, which tells the place up to which the log was synced before: that place is *proven*.
//!
//! Invariants:
//! - A record is valid at one place of one file only.
//! - Accepted bytes are those that the encoder writes.

use bytes::Bytes;

use super::{EntryKind, LogEntry, LogId, Vote};
use crate::bytes_of::{u32_at, u64_at};

/// Bytes of a record's header.
pub(crate) const HEADER_BYTES: usize = 32;
/// Records begin at multiples of this.
pub(crate) const ALIGN: usize = 8;
/// Bytes of a `Group` record.
pub(super) const GROUP_BYTES: u64 = 48;
/// Bytes of a `Seal` record.
pub(super) const SEAL_BYTES: u64 = 40;

const GROUP: u8 = 1;
const BLANK: u8 = 2;
const NORMAL: u8 = 3;
const MEMBERS: u8 = 4;
const VOTE: u8 = 5;
const TRUNCATE: u8 = 6;
const PURGED: u8 = 7;
const COMMITTED: u8 = 8;
const SEAL: u8 = 9;

/// Flag: term and index are a log id.
const HAS_ID: u8 = 1;
/// Flag of a vote that a majority has granted.
const GRANTED: u8 = 2;

/// A place in the log: everything before it is on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Proven {
    /// The file's id.
    pub(crate) file: u64,
    /// The offset in that file.
    pub(crate) offset: u64,
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// The beginning of a group: the proven place, and the last log id before the group.
    Group(Proven, Option<LogId>),
    /// An entry.
    Entry(LogEntry),
    /// The node's vote from now on.
    Vote(Vote),
    /// Entries behind this one are gone, so it is the log's last; none is left if it is `None`.
    Truncate(Option<LogId>),
    /// Entries up to this one are no longer needed.
    Purged(LogId),
    /// The log is committed up to here, as far as this node knew.
    Committed(Option<LogId>),
    /// The last record of a file: the log goes on in the file with this id.
    Seal(u64),
}

/// The checksum's beginning, which binds a record to its place.
fn seed(salt: u64, offset: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &offset.to_le_bytes())
}

/// The bytes of a record with so many bytes of body.
pub(crate) fn padded(body: usize) -> usize {
    (HEADER_BYTES + body).next_multiple_of(ALIGN)
}

/// The bytes of the record that begins with this header, if it is one; nothing is verified.
pub(crate) fn extent(header: &[u8; HEADER_BYTES]) -> u64 {
    (HEADER_BYTES as u64 + u64::from(u32_at(header, 4))).next_multiple_of(ALIGN as u64)
}

/// Whether a header claims to begin a group; nothing is verified.
pub(super) fn may_be_group(header: &[u8]) -> bool {
    header[8] == GROUP && u64::from(u32_at(header, 4)) == GROUP_BYTES - HEADER_BYTES as u64
}

impl Record {
    fn kind(&self) -> u8 {
        match self {
            Record::Group(..) => GROUP,
            Record::Entry(entry) => match entry.kind {
                EntryKind::Blank => BLANK,
                EntryKind::Normal => NORMAL,
                EntryKind::Members => MEMBERS,
            },
            Record::Vote(_) => VOTE,
            Record::Truncate(_) => TRUNCATE,
            Record::Purged(_) => PURGED,
            Record::Committed(_) => COMMITTED,
            Record::Seal(_) => SEAL,
        }
    }

    /// Flags, term and index.
    fn head(&self) -> (u8, u64, u64) {
        let head = |id: Option<LogId>| id.map_or((0, 0, 0), |id| (HAS_ID, id.term, id.index));
        match self {
            Record::Group(_, id) | Record::Truncate(id) | Record::Committed(id) => head(*id),
            Record::Entry(entry) => head(Some(entry.id)),
            Record::Purged(id) => head(Some(*id)),
            Record::Vote(vote) => (if vote.granted { GRANTED } else { 0 }, vote.term, 0),
            Record::Seal(_) => (0, 0, 0),
        }
    }

    fn body_bytes(&self) -> usize {
        match self {
            Record::Group(..) => 16,
            Record::Entry(entry) => entry.body.len(),
            Record::Vote(_) | Record::Seal(_) => 8,
            Record::Truncate(_) | Record::Purged(_) | Record::Committed(_) => 0,
        }
    }

    /// The bytes that the record takes.
    pub(crate) fn bytes(&self) -> u64 {
        padded(self.body_bytes()) as u64
    }

    /// Appends the record to `out`, as it lies at `offset` of the file with `salt`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, salt: u64, offset: u64) {
        let (begin, (flags, term, index)) = (out.len(), self.head());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(self.body_bytes() as u32).to_le_bytes());
        // Its Raft group is 0, and the reserved bytes are zeros.
        out.extend_from_slice(&[self.kind(), flags, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&term.to_le_bytes());
        out.extend_from_slice(&index.to_le_bytes());
        match self {
            Record::Group(proven, _) => {
                out.extend_from_slice(&proven.file.to_le_bytes());
                out.extend_from_slice(&proven.offset.to_le_bytes());
            }
            Record::Entry(entry) => out.extend_from_slice(&entry.body),
            Record::Vote(Vote { node: number, .. }) | Record::Seal(number) => {
                out.extend_from_slice(&number.to_le_bytes());
            }
            Record::Truncate(_) | Record::Purged(_) | Record::Committed(_) => {}
        }
        out.resize(begin + padded(out.len() - begin - HEADER_BYTES), 0);
        let crc = crc32c::crc32c_append(seed(salt, offset), &out[begin + 4..]);
        out[begin..begin + 4].copy_from_slice(&crc.to_le_bytes());
    }

    /// The record that lies at `offset` of the file with `salt`; `bytes` are all that it takes by
    /// its header. `None` if no encoder wrote it there.
    pub(crate) fn decode(bytes: &[u8], salt: u64, offset: u64) -> Option<Record> {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        let crc = crc32c::crc32c_append(seed(salt, offset), &bytes[4..]);
        if extent(header) != bytes.len() as u64 || crc != u32_at(bytes, 0) {
            return None;
        }
        let end = HEADER_BYTES + u32_at(header, 4) as usize;
        let (body, padding) = (&bytes[HEADER_BYTES..end], &bytes[end..]);
        let [kind, flags, rest @ ..] = header[8..16].first_chunk::<8>()?;
        if rest.iter().chain(padding).any(|byte| *byte != 0) {
            return None;
        }
        let (term, index) = (u64_at(header, 16), u64_at(header, 24));
        let is_bare = *flags == 0 && index == 0;
        let id = match *flags {
            HAS_ID => Some(LogId { term, index }),
            _ => None,
        };
        let no_id = *flags == 0 && term == 0 && index == 0;
        let record = match (*kind, body.len()) {
            (GROUP, 16) if id.is_some() || no_id => {
                Record::Group(Proven { file: u64_at(body, 0), offset: u64_at(body, 8) }, id)
            }
            (BLANK, 0) => Record::entry(id?, EntryKind::Blank, body),
            (NORMAL, _) => Record::entry(id?, EntryKind::Normal, body),
            (MEMBERS, _) => Record::entry(id?, EntryKind::Members, body),
            (VOTE, 8) if is_bare || (*flags == GRANTED && index == 0) => {
                Record::Vote(Vote { term, node: u64_at(body, 0), granted: *flags == GRANTED })
            }
            (TRUNCATE, 0) if id.is_some() || no_id => Record::Truncate(id),
            (PURGED, 0) => Record::Purged(id?),
            (COMMITTED, 0) if id.is_some() || no_id => Record::Committed(id),
            (SEAL, 8) if no_id => Record::Seal(u64_at(body, 0)),
            _ => return None,
        };
        Some(record)
    }

    fn entry(id: LogId, kind: EntryKind, body: &[u8]) -> Record {
        Record::Entry(LogEntry { id, kind, body: Bytes::copy_from_slice(body) })
    }
}

/// Gives the record that begins in `bytes`, as far as its header says, the checksum that it needs at `offset`;
/// returns its bytes.
#[cfg(any(test, fuzzing))]
pub(crate) fn mend(bytes: &mut [u8], salt: u64, offset: u64) -> Option<usize> {
    let length = extent(bytes.first_chunk()?) as usize;
    let record = bytes.get_mut(..length)?;
    let crc = crc32c::crc32c_append(seed(salt, offset), &record[4..]);
    record[..4].copy_from_slice(&crc.to_le_bytes());
    Some(length)
}
