//! The log: what is appended where, and how it becomes visible.
//!
//! One writer at a time, behind one lock that is held for a single `write` call and a few stores:
//! assign sequence numbers and a place, write the frame, publish its pointers, release the lock.
//! Syncing comes afterwards (commit), so many writes share one sync, and the index always shows
//! the newest write.
//!
//! Invariants:
//! - A pointer is published only after the write call returned.
//! - Under the writer's lock nobody reads a file, waits for a sync, or creates or allocates a file.
//! - A frame that was not written publishes nothing, and its sequence numbers are never reused.
//! - Before the first frame after a completed sync stands a mark that says how far it went.

mod copy;
mod expire;
mod read;
mod reserve;
mod rotate;
mod transact;
mod walk;
mod write;

use std::collections::VecDeque;
use std::path::PathBuf;

use arc_swap::ArcSwapOption;
use crossbeam_epoch as epoch;

use crate::clock::StoreClock;
use crate::commit::Commit;
use crate::engine::Watches;
use crate::error::{KvsError, Result};
use crate::fs::{IoError, Site, take_back, write_counted};
use crate::index::{
    Change, Cursors, Dropped, EntryId, Found, Index, IndexWriter, Slot, TABLE_CONTENT,
};
use crate::manifest::Manifest;
use crate::options::Options;
use crate::record::{Frame, FrameRecord, Kind, MARK_BYTES, Mark};
use crate::segment::{SEGMENT_HEADER_BYTES, Segment, SegmentHeader, SegmentKind, SegmentTable};
use crate::sync::{Arc, AtomicI64, AtomicU64, Condvar, Mutex, MutexGuard, Ordering, lock};

pub(crate) use copy::{Copied, CopyWriter, small_segments};
pub(crate) use reserve::RESERVES;
use rotate::Spare;

/// Room in front of a frame for a segment's header and a mark: one write for all three.
const ROOM_BYTES: usize = SEGMENT_HEADER_BYTES + MARK_BYTES;
/// Newest frames that the writer keeps in memory for closures.
const RECENT_BYTES_MAX: usize = 1 << 20;
/// Removed keys that one write takes out of the index on its way.
const UNLINKS_PER_WRITE: usize = 16;

/// Everything that readers, writers and background work share.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    pub(crate) store_id: u64,
    pub(crate) index: Index,
    pub(crate) table: Arc<SegmentTable>,
    pub(crate) commit: Commit,
    pub(crate) manifest: Mutex<Manifest>,
    /// Segments out of the table whose files are still open.
    retired: Mutex<Vec<Arc<Segment>>>,
    /// Held by the one compaction that may run.
    pub(crate) compacting: Mutex<()>,
    writer: Mutex<Writer>,
    growth: Mutex<reserve::Growth>,
    /// Held by the one thread that seals segments.
    sealing: Mutex<()>,
    /// Odd while a frame with several records, or another content of a space, is being published.
    multi: AtomicU64,
    watches: Watches,
    cursors: Cursors,
    pub(crate) clock: StoreClock,
    /// The next deadline of all keys.
    next_deadline_ms: AtomicU64,
    pub(crate) expired_keys: AtomicU64,
    next_file_id: AtomicU64,
    next_salt: AtomicU64,
    /// Bytes of the records that slots point at, and keys that exist.
    pub(crate) live_bytes: AtomicI64,
    pub(crate) keys: AtomicI64,
    pub(crate) appended_bytes: AtomicU64,
    pub(crate) compactions: AtomicU64,
    sizes: Sizes,
    /// The call that found no space, while the disk is full.
    full: ArcSwapOption<IoError>,
    chores: Mutex<Chores>,
    call: Condvar,
}

/// Bytes of the files beside the segments, where figures of the store find them without the locks
/// that are held while a disk is waited for.
#[derive(Debug, Default)]
struct Sizes {
    reserves: AtomicU64,
    spare: AtomicU64,
    manifest: AtomicU64,
}

#[derive(Debug, Default)]
struct Chores {
    stopped: bool,
    /// Whether the keeper was called since it last looked, and until when its sweep is held.
    called: bool,
    sweep_held: Option<std::time::Instant>,
}

/// What a recovery hands over: the log as it was found, about to go on.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) manifest: Manifest,
    pub(crate) index: Index,
    pub(crate) index_writer: IndexWriter,
    pub(crate) table: SegmentTable,
    pub(crate) live_bytes: i64,
    pub(crate) keys: i64,
    pub(crate) reserves: [u64; 2],
}

/// What only the writer touches.
#[derive(Debug)]
struct Writer {
    active: Option<Arc<Segment>>,
    /// Where the next frame goes in the active segment; 0 while even its header is unwritten.
    offset: u64,
    /// Allocated bytes of the active segment.
    capacity: u64,
    /// At which size the active segment is sealed.
    limit: u64,
    /// The position of `offset`.
    position: u64,
    next_seq: u64,
    /// The durable position that the last mark told.
    marked: u64,
    index: IndexWriter,
    /// Removed keys that are still in the index, oldest first.
    unlinks: VecDeque<Unlink>,
    /// Contents that no space has any more and whose entries are still there, oldest first.
    dropped: VecDeque<Dropped>,
    recent: Recent,
    spare: Option<Spare>,
    /// Segments that take no more appends and wait for their seal.
    sealing: Vec<Arc<Segment>>,
    /// Whether the log takes no more appends.
    closed: bool,
}

/// A removed key: from when on it may go, its content and entry, and what its slot then holds.
#[derive(Debug)]
struct Unlink {
    position: u64,
    content: u64,
    id: EntryId,
    slot: Slot,
}

/// The active segment's newest frames in memory, so that a closure need not read them from a file.
#[derive(Debug, Default)]
struct Recent {
    segment: u16,
    /// Each with its offset, ascending.
    frames: VecDeque<(u64, Frame)>,
    bytes: usize,
}

impl Recent {
    fn push(&mut self, offset: u64, frame: Frame) {
        self.bytes += frame.bytes();
        self.frames.push_back((offset, frame));
        while self.bytes > RECENT_BYTES_MAX
            && let Some((_, oldest)) = self.frames.pop_front()
        {
            self.bytes -= oldest.bytes();
        }
    }

    /// Value and deadline of the record that `slot` points at, if it is among these.
    fn value(&self, slot: Slot) -> Option<(&[u8], Option<u64>)> {
        let pointer = slot.pointer();
        let after = self.frames.partition_point(|&(offset, _)| offset <= pointer.offset);
        let (offset, frame) = self.frames.get(after.checked_sub(1)?)?;
        if pointer.segment != self.segment {
            return None;
        }
        frame.value_at(pointer.offset - offset)
    }
}

/// A frame that was written: what it found and where it ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Appended {
    /// Removals that found their key.
    pub(crate) removed: u64,
    pub(crate) position: u64,
}

impl Log {
    /// A log that goes on where recovery left off.
    pub(crate) fn new(dir: PathBuf, options: Options, found: Recovered) -> Log {
        let state = found.manifest.state();
        let writer = Writer {
            active: None,
            offset: 0,
            capacity: 0,
            limit: 0,
            position: state.position,
            next_seq: state.seq,
            marked: state.position,
            index: found.index_writer,
            unlinks: VecDeque::new(),
            dropped: VecDeque::new(),
            recent: Recent::default(),
            spare: None,
            sealing: Vec::new(),
            closed: false,
        };
        let sizes = Sizes::default();
        sizes.reserves.store(found.reserves.iter().sum(), Ordering::Relaxed);
        sizes.manifest.store(found.manifest.disk_bytes(), Ordering::Relaxed);
        let next_deadline_ms = writer.index.next_deadline().unwrap_or(u64::MAX);
        Log {
            dir,
            store_id: state.store_id,
            index: found.index,
            table: Arc::new(found.table),
            commit: Commit::new(state.position),
            retired: Mutex::default(),
            compacting: Mutex::new(()),
            writer: Mutex::new(writer),
            growth: Mutex::new(reserve::Growth::of(found.reserves)),
            sealing: Mutex::default(),
            multi: AtomicU64::new(0),
            watches: Watches::default(),
            cursors: Cursors::new(state.store_id, found.manifest.number()),
            clock: StoreClock::new(Arc::clone(&options.clock), state.clock_ms),
            next_deadline_ms: AtomicU64::new(next_deadline_ms),
            expired_keys: AtomicU64::new(0),
            next_file_id: AtomicU64::new(state.file_id),
            next_salt: AtomicU64::new(options.seed ^ state.file_id.rotate_left(32)),
            live_bytes: AtomicI64::new(found.live_bytes),
            keys: AtomicI64::new(found.keys),
            appended_bytes: AtomicU64::new(0),
            compactions: AtomicU64::new(0),
            sizes,
            full: ArcSwapOption::empty(),
            chores: Mutex::default(),
            call: Condvar::new(),
            manifest: Mutex::new(found.manifest),
            options,
        }
    }

    /// Appends a frame and publishes it, with a change of what spaces hold that is one of its
    /// records; gives it back if there is no room.
    fn append(
        &self,
        writer: &mut Writer,
        mut frame: Frame,
        known: &[Option<Found<'_>>],
        change: Option<&Change>,
    ) -> Result<Result<Appended, Frame>> {
        self.commit.check()?;
        if writer.closed {
            return Err(KvsError::Closed);
        }
        self.unlink_released(writer, UNLINKS_PER_WRITE);
        let durable = self.commit.durable();
        let mark_bytes = if durable > writer.marked { MARK_BYTES } else { 0 };
        let Some(segment) = self.room_for(writer, need_of(frame.bytes())) else {
            return Ok(Err(frame));
        };
        let header_bytes = if writer.offset == 0 { SEGMENT_HEADER_BYTES } else { 0 };
        let mark_at = writer.offset + header_bytes as u64;
        let frame_at = mark_at + mark_bytes as u64;
        let first_seq = writer.next_seq + u64::from(mark_bytes > 0);
        frame.place(first_seq, segment.salt, frame_at);
        let count = frame.records().len() as u64;
        let bytes = frame.with_front(header_bytes + mark_bytes);
        if header_bytes > 0 {
            bytes[..SEGMENT_HEADER_BYTES].copy_from_slice(&self.header_of(&segment).encode());
        }
        let (time_ms, clock_ms) = self.clock.times();
        if mark_bytes > 0 {
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
        segment.note_seq(first_seq);
        segment.note_seq(writer.next_seq - 1);
        segment.end.store(writer.offset, Ordering::Release);
        self.appended_bytes.fetch_add(written, Ordering::Relaxed);
        self.commit.set_written(writer.position);
        let published = Published { segment: &segment, frame: &frame, frame_at, known, clock_ms };
        let removed = self.publish(writer, &published, change);
        self.next_deadline_ms
            .store(writer.index.next_deadline().unwrap_or(u64::MAX), Ordering::Relaxed);
        writer.recent.push(frame_at, frame);
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
        // What was appended in one call may be several frames, each seen by itself.
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
        let found = found.or_else(|| self.index.find_in(record.extra.content, key, pin));
        if tombstone {
            segment.tombstone_bytes.fetch_add(bytes, Ordering::Relaxed);
            if found.is_none() {
                return false;
            }
        } else {
            self.account(record.extra.content, slot, 1);
        }
        let old = self.index.put(&mut writer.index, found, record.extra, key, slot);
        let (Some(old), Some(found)) = (old, found) else {
            return false;
        };
        let existed = !old.slot.is_tombstone();
        if existed {
            self.account(record.extra.content, old.slot, -1);
        }
        if tombstone {
            let (position, content, id) = (writer.position, record.extra.content, found.id());
            writer.unlinks.push_back(Unlink { position, content, id, slot });
        }
        let expired = old.expires_at.is_some_and(|deadline| deadline <= new.clock_ms);
        self.expired_keys.fetch_add(u64::from(expired), Ordering::Relaxed);
        tombstone && record.is_asked && existed && !expired
    }

    /// Counts a value's record as live (1) or dead (-1).
    fn account(&self, content: u64, slot: Slot, sign: i64) {
        let bytes = sign * slot.pointer().length as i64;
        self.live_bytes.fetch_add(bytes, Ordering::Relaxed);
        // The table's own record is no key.
        if content != TABLE_CONTENT {
            self.keys.fetch_add(sign, Ordering::Relaxed);
        }
        self.account_segment(slot, sign);
    }

    /// The same for the segment alone that the record lies in.
    pub(crate) fn account_segment(&self, slot: Slot, sign: i64) {
        let pointer = slot.pointer();
        if let Some(segment) = self.table.get(pointer.segment)
            && let Some(segment) = segment.as_ref()
        {
            if sign > 0 {
                segment.note_live(pointer.length);
            } else {
                segment.note_dead(pointer.offset, pointer.length);
            }
        }
    }

    /// What an append that failed after so many bytes means for the store. On a full disk it is
    /// taken back: the next one may go to another segment, and not over what is there.
    fn failed_write(&self, segment: &Segment, at: u64, done: usize, error: IoError) -> KvsError {
        if !error.is_no_space() {
            return self.commit.poison(&error.into());
        }
        let sites = (Site::FrameErase, Site::FrameEraseSync);
        match take_back(&*segment.file, sites, at, done) {
            Ok(()) => self.note_full(Arc::new(error)),
            Err(error) => self.commit.poison(&error.into()),
        }
    }

    fn lock_writer(&self) -> MutexGuard<'_, Writer> {
        lock(&self.writer)
    }

    /// The last published position: what a result computed from anything depends on at most.
    pub(crate) fn last_position(&self) -> u64 {
        self.commit.written()
    }

    /// Makes writers wait when the disk is far behind, so that memory and recovery stay bounded.
    fn wait_for_disk(&self) -> Result<()> {
        if self.commit.is_behind() { self.commit.sync() } else { Ok(()) }
    }

    /// Everything numbered below this is published.
    pub(crate) fn next_seq(&self) -> u64 {
        self.lock_writer().next_seq
    }

    /// Takes over a segment that no slot names any more, to close its file.
    pub(crate) fn retired(&self, segment: &Arc<Segment>) {
        lock(&self.retired).push(Arc::clone(segment));
    }

    /// Closes the files of retired segments that no reader holds any more, so that no reader has
    /// to, and helps the epoch along. Returns whether some are left.
    pub(crate) fn reap(&self) -> bool {
        epoch::pin().flush();
        let mut retired = lock(&self.retired);
        retired.retain(|segment| Arc::strong_count(segment) > 1);
        !retired.is_empty()
    }

    /// A fresh file id.
    pub(crate) fn new_file_id(&self) -> u64 {
        self.next_file_id.fetch_add(1, Ordering::Relaxed)
    }

    /// A fresh salt: the numbers of splitmix64 (Steele, Lea and Flood, 2014) from the seed.
    pub(crate) fn new_salt(&self) -> u64 {
        let mut z = self.next_salt.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A frame that was written and is about to be seen.
struct Published<'a> {
    segment: &'a Segment,
    frame: &'a Frame,
    frame_at: u64,
    /// The entries of its keys, as far as they were found beforehand.
    known: &'a [Option<Found<'a>>],
    clock_ms: u64,
}

/// Bytes that must be free for a frame of `bytes`, whatever stands in front of it. Whoever looks
/// for room and whoever makes it ask for the same, or they would wait for each other.
fn need_of(bytes: usize) -> u64 {
    (ROOM_BYTES + bytes) as u64
}

/// Whether an entry found under the same pin is still linked: only a tombstone can be unlinked.
fn is_linked(found: Found<'_>) -> bool {
    !found.slot().is_tombstone()
}
