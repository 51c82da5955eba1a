//! Frames: the records of one append, encoded.
//!
//! A batch is encoded before the writer's lock is taken. Sequence numbers and header checksums depend
//! on the place in the log; they alone are filled in under the lock.
//!
//! ```text
//! buffer:  room | record, record, last record | record, last record
//!                \_______ frame ______________/ \____ frame ______/
//!          in front, for the header of a segment and a mark: one write call for all
//! ```
//!
//! Invariants:
//! - Each batch becomes one frame: its last record is flagged, and no other one.
//! - A frame without its flagged record is not there, whatever of it is on disk.

use super::{Batch, Extra, HEADER_BYTES, Header, Kind, padded};
use crate::deadline::Now;

/// One record inside a [`Frame`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameRecord {
    /// Where it begins in the frame's buffer.
    pub(crate) at: usize,
    pub(crate) extra: Extra,
    /// Whether a caller asked for this removal: it did not come of a deadline that had passed.
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

/// Records that are appended together: one frame, or several one after another.
#[derive(Debug)]
pub(crate) struct Frame {
    /// Room for a segment's header and a mark, which the log may write in front, then the records.
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
            has_generation: extra.generation != 0,
        };
        self.buf.resize(padded(self.buf.len() - self.room) + self.room, 0);
        self.records.push(FrameRecord { at, extra, is_asked: true, header });
    }

    /// The frame of a batch in a generation. A deadline that has passed at `now` makes a removal.
    pub(crate) fn of_batch(room: usize, batch: &Batch, generation: u64, now: Now) -> Frame {
        Frame::of_batches(room, std::slice::from_ref(batch), generation, now)
    }

    /// The frames of batches, to be appended together.
    pub(crate) fn of_batches(room: usize, batches: &[Batch], generation: u64, now: Now) -> Frame {
        let mut frame = Frame::new(room, batches.iter().map(Batch::record_bytes).sum());
        for batch in batches {
            for write in batch.writes() {
                let value = write.value().filter(|_| !write.is_removal(now));
                let expires_at = write.deadline().word().filter(|_| value.is_some());
                frame.push(Extra { generation, expires_at }, write.key(), value);
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
