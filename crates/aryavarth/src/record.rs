//! Records: the bytes of the log, and the batches that they are made from.
//!
//! A record is one write (or a mark) with its sequence number; a *frame* is one or more records
//! appended in one call, the last one flagged, all of them or none. Layout (all integers
//! little-endian; the contract is docs/format.md):
//!
//! ```text
//! 0   header CRC32C of bytes 4..24, seeded with the segment's salt and the record's offset
//! 4   payload CRC32C
//! 8   kind in the low byte, sequence number in the upper seven
//! 16  value length     20  key length     22  flags
//! 24  payload: deadline (8 bytes) and content (8), each only where its flag says so; key, value;
//!     zeros up to a multiple of eight
//! ```
//!
//! A *content* is what a space of keys held at some time, and its number is what a record has: so a
//! space is emptied, or swapped with another, without touching any of its records.
//!
//! Invariants:
//! - The seeded header makes a record valid at one place of one segment only, so stale bytes of
//!   another file or place never pass for a record.
//! - The header vouches for the payload: its CRC covers the payload's.
//! - Nothing is believed before its checksum: lengths come from a verified header.

use crate::error::{KvsError, Result};
use crate::options::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

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
/// Flag of a record whose content is not 0.
const FLAG_CONTENT: u16 = 4;
/// Sequence numbers take 56 bits.
pub(crate) const SEQ_MAX: u64 = (1 << 56) - 1;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The key has this value.
    Put = 1,
    /// The key is gone.
    Tombstone = 2,
    /// Everything before a position is on disk.
    Mark = 3,
}

/// What a record says beside key and value. A content of 0 and no deadline take no space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extra {
    /// The content that the key belongs to.
    pub(crate) content: u64,
    /// From when on the key is gone, in milliseconds since 1970; never 0.
    pub(crate) expires_at: Option<u64>,
}

impl Extra {
    /// Bytes that it takes in a record.
    pub(crate) fn bytes(self) -> usize {
        extra_bytes(self.expires_at.is_some(), self.content != 0)
    }

    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        if let Some(expires_at) = self.expires_at {
            out.extend_from_slice(&expires_at.to_le_bytes());
        }
        if self.content != 0 {
            out.extend_from_slice(&self.content.to_le_bytes());
        }
    }

    /// Decodes what [`encode`](Self::encode) wrote at the beginning of `bytes`; `None` for what it
    /// would not have written.
    pub(crate) fn decode(bytes: &[u8], has_deadline: bool, has_content: bool) -> Option<Extra> {
        let mut extra = Extra::default();
        let bytes = bytes.get(..extra_bytes(has_deadline, has_content))?;
        if has_deadline {
            extra.expires_at = Some(u64_at(bytes, 0)).filter(|&deadline| deadline != 0);
            extra.expires_at?;
        }
        if has_content {
            extra.content = u64_at(bytes, bytes.len() - 8);
        }
        (has_content == (extra.content != 0)).then_some(extra)
    }
}

/// Bytes before the key.
const fn extra_bytes(has_deadline: bool, has_content: bool) -> usize {
    8 * (has_deadline as usize + has_content as usize)
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
    pub(crate) has_content: bool,
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
        if flags & !(FLAG_LAST | FLAG_DEADLINE | FLAG_CONTENT) != 0 {
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
            has_content: flags & FLAG_CONTENT != 0,
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
        extra_bytes(self.has_deadline, self.has_content)
    }

    /// Bytes of deadline, content, key and value.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.extra_bytes() + self.key_bytes + self.value_bytes
    }

    /// Takes a payload apart, for which this header vouched; `None` for one that no writer wrote.
    pub(crate) fn parts<'a>(&self, payload: &'a [u8]) -> Option<Parts<'a>> {
        let extra = Extra::decode(payload, self.has_deadline, self.has_content)?;
        let (key, value) = payload.get(self.extra_bytes()..)?.split_at_checked(self.key_bytes)?;
        Some(Parts { extra, key, value })
    }

    /// Bytes of the whole record, padding included.
    pub(crate) fn record_bytes(&self) -> usize {
        padded(HEADER_BYTES + self.payload_bytes())
    }

    /// Whether `payload` is what was written.
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
            | flag(self.has_content, FLAG_CONTENT);
        bytes[22..24].copy_from_slice(&flags.to_le_bytes());
        let crc = crc32c::crc32c_append(seed(salt, offset), &bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// What a mark says: up to where the log was on disk when the mark was written, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Everything before this position was synced.
    pub(crate) durable: u64,
    /// The wall clock, in milliseconds since 1970.
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
            has_content: false,
        };
        out[..HEADER_BYTES].copy_from_slice(&header.encode(salt, offset));
    }
}

/// One record inside a [`Frame`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameRecord {
    /// Where it begins in the frame's buffer.
    pub(crate) at: usize,
    pub(crate) extra: Extra,
    /// Whether somebody asked for this removal: it did not come of a deadline that had passed.
    pub(crate) is_asked: bool,
    header: Header,
}

impl FrameRecord {
    pub(crate) fn kind(&self) -> Kind {
        self.header.kind
    }

    pub(crate) fn bytes(&self) -> usize {
        self.header.record_bytes()
    }

    /// Whether it ends its frame.
    pub(crate) fn is_last(&self) -> bool {
        self.header.last
    }
}

/// Records that are appended together (one frame, or several one after another), encoded before the writer's lock is taken: only sequence
/// numbers and header CRCs, which depend on the place, are filled in under it.
#[derive(Debug)]
pub(crate) struct Frame {
    /// Room for whatever the log writes in front, then the records.
    buf: Vec<u8>,
    room: usize,
    records: Vec<FrameRecord>,
}

impl Frame {
    /// An empty frame with `room` bytes in front and space for `bytes` of records.
    pub(crate) fn new(room: usize, bytes: usize) -> Frame {
        let mut buf = Vec::with_capacity(room + bytes);
        buf.resize(room, 0);
        Frame { buf, room, records: Vec::with_capacity(1) }
    }

    /// Adds a record that sets `key`, or removes it where there is no value, and so no deadline.
    pub(crate) fn push(&mut self, extra: Extra, key: &[u8], value: Option<&[u8]>) {
        debug_assert!(value.is_some() || extra.expires_at.is_none());
        let at = self.buf.len();
        self.buf.resize(at + HEADER_BYTES, 0);
        extra.encode(&mut self.buf);
        self.buf.extend_from_slice(key);
        self.buf.extend_from_slice(value.unwrap_or_default());
        let header = Header {
            payload_crc: crc32c::crc32c(&self.buf[at + HEADER_BYTES..]),
            seq: 0,
            kind: if value.is_some() { Kind::Put } else { Kind::Tombstone },
            key_bytes: key.len(),
            value_bytes: value.map_or(0, <[u8]>::len),
            last: false,
            has_deadline: extra.expires_at.is_some(),
            has_content: extra.content != 0,
        };
        self.buf.resize(padded(self.buf.len() - self.room) + self.room, 0);
        self.records.push(FrameRecord { at, extra, is_asked: true, header });
    }

    /// The frame of a batch in a content. A deadline that has passed at `now_ms` makes a removal.
    pub(crate) fn of_batch(room: usize, batch: &Batch, content: u64, now_ms: u64) -> Frame {
        Frame::of_batches(room, std::slice::from_ref(batch), content, now_ms)
    }

    /// The frames of batches, to be appended together.
    pub(crate) fn of_batches(room: usize, batches: &[Batch], content: u64, now_ms: u64) -> Frame {
        let mut frame = Frame::new(room, batches.iter().map(Batch::record_bytes).sum());
        for batch in batches {
            for write in batch.writes() {
                let value = write.value().filter(|_| !write.is_removal(now_ms));
                let expires_at = write.expires_at().filter(|_| value.is_some());
                frame.push(Extra { content, expires_at }, write.key(), value);
                if let Some(record) = frame.records.last_mut() {
                    record.is_asked = value.is_some() || write.value().is_none();
                }
            }
            if let Some(last) = frame.records.last_mut() {
                last.header.last = true;
            }
        }
        frame
    }

    /// Fills in the headers: the first record gets sequence number `seq` and lies at `offset` of
    /// the segment with `salt`.
    pub(crate) fn place(&mut self, seq: u64, salt: u64, offset: u64) {
        let count = self.records.len();
        let numbers = seq..;
        for ((i, record), seq) in self.records.iter_mut().enumerate().zip(numbers) {
            record.header.seq = seq;
            record.header.last |= i + 1 == count;
            let place = offset + (record.at - self.room) as u64;
            let bytes = record.header.encode(salt, place);
            self.buf[record.at..record.at + HEADER_BYTES].copy_from_slice(&bytes);
        }
    }

    /// The records, in order.
    pub(crate) fn records(&self) -> &[FrameRecord] {
        &self.records
    }

    /// The key of one of the frame's records.
    pub(crate) fn key(&self, record: &FrameRecord) -> &[u8] {
        let at = record.at + HEADER_BYTES + record.header.extra_bytes();
        &self.buf[at..at + record.header.key_bytes]
    }

    /// The value of the record that begins `offset` bytes into the frame, and its deadline.
    pub(crate) fn value_at(&self, offset: u64) -> Option<(&[u8], Option<u64>)> {
        let at = self.room + usize::try_from(offset).ok()?;
        let i = self.records.binary_search_by_key(&at, |record| record.at).ok()?;
        let FrameRecord { header, extra, .. } = &self.records[i];
        let from = at + HEADER_BYTES + header.extra_bytes() + header.key_bytes;
        Some((self.buf.get(from..from + header.value_bytes)?, extra.expires_at))
    }

    /// Bytes of the records.
    pub(crate) fn bytes(&self) -> usize {
        self.buf.len() - self.room
    }

    /// Where a record lies, counted from the frame's first byte.
    pub(crate) fn offset_of(&self, record: &FrameRecord) -> u64 {
        (record.at - self.room) as u64
    }

    /// The records with the last `front` bytes of the room before them, to write those.
    pub(crate) fn with_front(&mut self, front: usize) -> &mut [u8] {
        &mut self.buf[self.room - front..]
    }
}

/// One write of a [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Set a key.
    Set {
        /// The key.
        key: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
        /// The deadline from which on the key is gone, in milliseconds since 1970, if it has one.
        expires_at: Option<u64>,
    },
    /// Remove a key, if it exists.
    Remove {
        /// The key.
        key: Vec<u8>,
    },
}

impl Write {
    /// The key concerned.
    pub fn key(&self) -> &[u8] {
        match self {
            Write::Set { key, .. } | Write::Remove { key } => key,
        }
    }

    /// The value to set, if it is not a removal.
    pub fn value(&self) -> Option<&[u8]> {
        match self {
            Write::Set { value, .. } => Some(value),
            Write::Remove { .. } => None,
        }
    }

    /// The deadline, if there is one.
    pub fn expires_at(&self) -> Option<u64> {
        match self {
            Write::Set { expires_at, .. } => *expires_at,
            Write::Remove { .. } => None,
        }
    }

    /// Whether the key is gone once this is written: also if its deadline has passed by then.
    pub(crate) fn is_removal(&self, now_ms: u64) -> bool {
        self.value().is_none() || self.expires_at().is_some_and(|deadline| deadline <= now_ms)
    }
}

/// Writes that happen together, in order, or not at all.
///
/// ```
/// use aryavarth::Batch;
///
/// let batch = Batch::new().set("from", "90").set("to", "110").remove("pending");
/// assert_eq!(batch.writes().len(), 3);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    writes: Vec<Write>,
}

impl Batch {
    /// A batch without writes.
    pub fn new() -> Self {
        Batch::default()
    }

    /// Adds: set `key` to `value`.
    #[must_use]
    pub fn set(mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        let (key, value) = (key.into(), value.into());
        self.writes.push(Write::Set { key, value, expires_at: None });
        self
    }

    /// Adds: set `key` to `value` until `expires_at`, in milliseconds since 1970 by the store's
    /// clock. If that has passed when the batch is written, the key is gone at once.
    #[must_use]
    pub fn set_until(
        mut self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        expires_at: u64,
    ) -> Self {
        let (key, value) = (key.into(), value.into());
        self.writes.push(Write::Set { key, value, expires_at: Some(expires_at) });
        self
    }

    /// Adds: remove `key`, if it exists by then.
    #[must_use]
    pub fn remove(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.writes.push(Write::Remove { key: key.into() });
        self
    }

    /// Adds a write.
    pub fn push(&mut self, write: Write) {
        self.writes.push(write);
    }

    /// The writes, in order.
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// The writes, in order.
    pub fn into_writes(self) -> Vec<Write> {
        self.writes
    }

    /// Bytes of the batch's keys and values.
    pub fn bytes(&self) -> usize {
        self.writes.iter().map(|w| w.key().len() + w.value().map_or(0, <[u8]>::len)).sum()
    }

    /// Bytes of the batch's records in the log, at most.
    pub(crate) fn record_bytes(&self) -> usize {
        let record = |write: &Write| {
            let value_bytes = write.value().map_or(0, <[u8]>::len);
            record_bytes(extra_bytes(true, true) + write.key().len(), value_bytes)
        };
        self.writes.iter().map(record).sum()
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

/// Refuses what is over its limit.
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
    let extra_bytes = extra_bytes(flags & FLAG_DEADLINE != 0, flags & FLAG_CONTENT != 0);
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
