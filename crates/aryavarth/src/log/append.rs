//! Appending: number a frame, write it, publish its pointers.
//!
//! Invariants:
//! - A pointer is published only after the write call returned.
//! - A frame that could not be written publishes nothing; its sequence numbers are not used again,
//!   so its remains on the file can never pass for records of a later frame.
//! - Before the first frame after a completed sync stands a mark that says how far it went.

use crossbeam_epoch as epoch;

use super::writer::{Unlink, Writer};
use super::{Log, UNLINKS_PER_WRITE, is_linked, need_of};
use crate::deadline::Now;
use crate::error::{KvsError, Result};
use crate::fs::{IoError, Site, take_back, write_counted};
use crate::index::{Change, Found, Slot};
use crate::record::{Frame, FrameRecord, Kind, MARK_BYTES, Mark};
use crate::segment::{SEGMENT_HEADER_BYTES, Segment, SegmentHeader, SegmentKind};
use crate::sync::{Arc, Ordering};

/// A frame that was written: the removals that found their key, and its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Appended {
    /// Removals that found their key.
    pub(crate) removed: u64,
    pub(crate) position: u64,
}

impl Log {
    /// Appends a frame and publishes it, with a change of generations that is one of its
    /// records; gives it back if there is no room.
    pub(super) fn append(
        &self,
        writer: &mut Writer,
        mut frame: Frame,
        known: &[Option<Found<'_>>],
        change: Option<&Change>,
    ) -> Result<Result<Appended, Frame>> {
        self.watermarks.check()?;
        if writer.closed {
            return Err(KvsError::Closed);
        }
        self.unlink_released(writer, UNLINKS_PER_WRITE);
        let durable = self.watermarks.durable();
        let is_marked = durable > writer.marked || writer.wants_stamp;
        let mark_bytes = if is_marked { MARK_BYTES } else { 0 };
        let Some(segment) = self.room_for(writer, need_of(frame.bytes())) else {
            return Ok(Err(frame));
        };
        let header_bytes = if writer.offset == 0 { SEGMENT_HEADER_BYTES } else { 0 };
        let mark_at = writer.offset + header_bytes as u64;
        let frame_at = mark_at + mark_bytes as u64;
        let first_seq = writer.next_seq + u64::from(is_marked);
        frame.place(first_seq, segment.salt, frame_at);
        let count = frame.records().len() as u64;
        let bytes = frame.with_front(header_bytes + mark_bytes);
        if header_bytes > 0 {
            bytes[..SEGMENT_HEADER_BYTES].copy_from_slice(&self.header_of(&segment).encode());
        }
        let (mut now, lowers) = (self.clock.now(), writer.lowers);
        if let Some(set_back) = lowers {
            now.wall_ms = set_back.wall_ms;
        }
        if is_marked {
            let (time_ms, clock_ms) = (now.wall_ms, now.store_ms);
            let mark = Mark { durable, time_ms, clock_ms, term: 0, index: 0 };
            let out = &mut bytes[header_bytes..header_bytes + MARK_BYTES];
            mark.encode(out, writer.next_seq, segment.salt, mark_at);
        }
        let written = bytes.len() as u64;
        // Used up whatever happens: see the invariant above.
        writer.next_seq = first_seq + count;
        write_counted(&*segment.file, Site::FrameWrite, bytes, writer.offset)
            .map_err(|(done, error)| self.failed_write(&segment, writer.offset, done, error))?;
        writer.marked = durable;
        writer.offset += written;
        writer.position += written;
        // Of a mark alone the last number is its own.
        segment.note_seq(first_seq.min(writer.next_seq - 1));
        segment.note_seq(writer.next_seq - 1);
        segment.end.store(writer.offset, Ordering::Release);
        self.appended_bytes.fetch_add(written, Ordering::Relaxed);
        self.watermarks.set_written(writer.position);
        if is_marked {
            writer.wants_stamp = false;
            self.stamp.note(now, writer.position);
        }
        if let Some(set_back) = lowers {
            self.accept(writer, set_back, now.store_ms);
        }
        let published = Published { segment: &segment, frame: &frame, frame_at, known, now };
        let removed = self.publish(writer, &published, change);
        let next = writer.index.deadlines.next();
        self.next_deadline_ms.store(next.store_ms, Ordering::Relaxed);
        self.next_wall_deadline_ms.store(next.wall_ms, Ordering::Relaxed);
        if count > 0 {
            writer.recent.push(frame_at, frame);
        }
        self.look_ahead(writer);
        Ok(Ok(Appended { removed, position: writer.position }))
    }

    fn header_of(&self, segment: &Segment) -> SegmentHeader {
        SegmentHeader {
            kind: SegmentKind::Log,
            id: segment.id,
            salt: segment.salt,
            base: segment.base(),
            created_ms: self.options.clock.now_ms(),
            store_id: self.store_id,
        }
    }

    /// Points the slots of the frames' keys at their records; returns how many removals found a key.
    fn publish(&self, writer: &mut Writer, new: &Published<'_>, change: Option<&Change>) -> u64 {
        let pin = epoch::pin();
        let mut known = new.known.iter().copied();
        let mut removed = 0;
        // One call may append several frames; readers see each by itself.
        for records in new.frame.records().chunk_by(|record, _| !record.is_last()) {
            let many = records.len() > 1 || change.is_some();
            if many {
                self.multi.fetch_add(1, Ordering::AcqRel);
            }
            if let Some(change) = change {
                self.change_spaces(writer, change);
            }
            for record in records {
                let known = known.next().flatten();
                removed += u64::from(self.publish_record(writer, new, record, known, &pin));
            }
            if many {
                self.multi.fetch_add(1, Ordering::AcqRel);
            }
        }
        removed
    }

    /// Points one slot at its record; returns whether this removed a key.
    fn publish_record(
        &self,
        writer: &mut Writer,
        new: &Published<'_>,
        record: &FrameRecord,
        known: Option<Found<'_>>,
        pin: &epoch::Guard,
    ) -> bool {
        let (segment, key, bytes) = (new.segment, new.frame.key(record), record.bytes() as u64);
        let offset = new.frame_at + new.frame.offset_of(record);
        let tombstone = record.kind() == Kind::Tombstone;
        let slot = Slot::new(segment.table_index, offset, bytes, tombstone);
        let found = known.filter(|found| is_linked(*found));
        let found = found.or_else(|| self.index.find_in(record.extra.generation, key, pin));
        if tombstone {
            segment.tombstone_bytes.fetch_add(bytes, Ordering::Relaxed);
            if found.is_none() {
                return false;
            }
        } else {
            self.account(record.extra.generation, slot, 1);
        }
        let old = self.index.put(&mut writer.index, found, record.extra, key, slot);
        let (Some(old), Some(found)) = (old, found) else {
            return false;
        };
        let existed = !old.slot.is_tombstone();
        if existed {
            self.account(record.extra.generation, old.slot, -1);
        }
        if tombstone {
            let (position, generation, id) = (writer.position, record.extra.generation, found.id());
            writer.unlinks.push_back(Unlink { position, generation, id, slot });
        }
        let expired = old.expires_at.is_some_and(|word| new.now.has_reached(word));
        self.expired_keys.fetch_add(u64::from(expired), Ordering::Relaxed);
        tombstone && record.is_asked && existed && !expired
    }

    /// The store's error for an append that failed after `done` bytes. On a full disk the part is
    /// taken back: the next one may go to another segment, and not over those bytes.
    fn failed_write(&self, segment: &Segment, at: u64, done: usize, error: IoError) -> KvsError {
        if !error.is_no_space() {
            return self.watermarks.poison(&error.into());
        }
        let sites = (Site::FrameErase, Site::FrameEraseSync);
        match take_back(&*segment.file, sites, at, done) {
            Ok(()) => self.note_full(Arc::new(error)),
            Err(error) => self.watermarks.poison(&error.into()),
        }
    }
}

/// A frame that was written and is about to be seen.
struct Published<'a> {
    segment: &'a Segment,
    frame: &'a Frame,
    frame_at: u64,
    /// The entries of its keys, as far as they were found beforehand.
    known: &'a [Option<Found<'a>>],
    now: Now,
}
