//! A segment: one log file, append-only, and the table through which readers find it.
//!
//! The log is a sequence of segments. The *active* one takes appends; *sealed* ones never change
//! again, so readers need no lock on them. A segment is either a piece of the log as it was
//! written, or a copy that compaction or recovery made of records that lay elsewhere.
//!
//! Invariants:
//! - A file begins with a 64-byte header, written together with the first frame.
//! - Records lie back to back from there; bytes behind the last one read as zeros.
//! - A table index names one segment until every reader that could have seen it in a slot is gone.
//! - A segment's file is closed when the last reader that holds it lets go; it is never reused.
//!
//! Not here: which segment is active (log), which records are live (index), when to sync (commit).

mod dead;
mod mapped;
mod scan;

use std::fmt;
use std::path::{Path, PathBuf};

use arc_swap::{ArcSwapOption, Guard};

use crate::engine::{Deadline, Stored, Wait};
use crate::error::{KvsError, Result};
use crate::fs::{FsFile, IoError, Site, read_full};
use crate::record::{ALIGN, HEADER_BYTES, Header, Kind, Parts, padded, u16_at, u32_at, u64_at};
use crate::sync::{Arc, AtomicI64, AtomicU64, Mutex, OnceLock, Ordering, Rank, lock};

use dead::DeadMap;
use mapped::Mapped;
pub(crate) use scan::{Checked, Remains, ScanStop, Scanned, Scanner};

/// Bytes of a segment's header.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 64;
/// The version of everything that is written. Version 3 has the manifest's clocks, which a reader of
/// version 2 would take for damage, and a record for each space whose generation changed, where
/// version 2 had one for all, so that it would miss them.
pub(crate) const FORMAT_VERSION: u32 = 3;
/// The version that brought deadlines and generations, which a reader of version 1 would take for
/// damage.
pub(crate) const FORMAT_WITH_GENERATIONS: u32 = 2;
/// The oldest version that is read. Version 0 came before the first fixture.
const FORMAT_VERSION_MIN: u32 = 1;
/// No compaction found damage, or found it at a place that is not known: beyond every offset.
const WHOLE: u64 = u64::MAX;
const UNKNOWN_PLACE: u64 = WHOLE - 1;
/// Segments that a store can have at once.
const TABLE_MAX: usize = 1 << 16;
const TABLE_CHUNK: usize = 256;
/// Of these, the log leaves as many to compaction and to the next open.
const TABLE_SPARE: usize = 1 << 10;

/// Whether this version can read files of that format.
pub(crate) fn is_known_format(version: u32) -> bool {
    (FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&version)
}

/// The name of a segment's file.
pub(crate) fn log_path(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id}.log"))
}

/// The name of a segment's hint file.
pub(crate) fn hint_path(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id}.hint"))
}

/// The origin of a segment's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentKind {
    /// A piece of the log, in the order in which it was written.
    Log = 0,
    /// Copies of records that lay in other segments, with their old sequence numbers.
    Copy = 1,
}

impl SegmentKind {
    pub(crate) fn from_byte(byte: u8) -> Option<SegmentKind> {
        match byte {
            0 => Some(SegmentKind::Log),
            1 => Some(SegmentKind::Copy),
            _ => None,
        }
    }
}

/// The first bytes of a segment's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) kind: SegmentKind,
    pub(crate) id: u64,
    pub(crate) salt: u64,
    /// The position of the file's first byte; 0 for copies.
    pub(crate) base: u64,
    pub(crate) created_ms: u64,
    /// The store that the segment belongs to.
    pub(crate) store_id: u64,
}

const SEGMENT_MAGIC: &[u8; 4] = b"ARYV";

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[..4].copy_from_slice(SEGMENT_MAGIC);
        bytes[4..6].copy_from_slice(&(FORMAT_VERSION as u16).to_le_bytes());
        bytes[6..8].copy_from_slice(&(self.kind as u16).to_le_bytes());
        let fields = [self.id, self.salt, self.base, self.created_ms, self.store_id];
        for (slot, field) in bytes[8..48].chunks_exact_mut(8).zip(fields) {
            slot.copy_from_slice(&field.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Gives a header the checksum that it should have.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn mend(bytes: &mut [u8; SEGMENT_HEADER_BYTES]) {
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
    }

    /// Decodes a header; `None` if it is not one.
    pub(crate) fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Option<SegmentHeader> {
        let version = u32::from(u16_at(bytes, 4));
        if &bytes[..4] != SEGMENT_MAGIC
            || u32_at(bytes, 60) != crc32c::crc32c(&bytes[..60])
            || !is_known_format(version)
            || bytes[7] != 0
        {
            return None;
        }
        Some(SegmentHeader {
            kind: SegmentKind::from_byte(bytes[6])?,
            id: u64_at(bytes, 8),
            salt: u64_at(bytes, 16),
            base: u64_at(bytes, 24),
            created_ms: u64_at(bytes, 32),
            store_id: u64_at(bytes, 40),
        })
    }
}

/// The salt that stands in a file's header, whether or not the header is right.
pub(crate) fn raw_salt(file: &dyn FsFile) -> Result<Option<u64>, IoError> {
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let got = read_full(file, Site::SegmentSaltRead, &mut bytes, 0)?;
    Ok((got == bytes.len()).then(|| u64_at(&bytes, 16)))
}

/// One log file as the running store knows it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: u64,
    /// Its place in the table, which slots name.
    pub(crate) table_index: u16,
    pub(crate) salt: u64,
    /// The position of the file's first byte; meaningless once settled.
    base: u64,
    /// Whether all of it was durable before anybody could read it here (copied or recovered).
    settled: bool,
    pub(crate) file: Arc<dyn FsFile>,
    mapped: Mapped,
    /// Bytes of valid data from the file's first byte.
    pub(crate) end: AtomicU64,
    /// Bytes of the file's blocks, hint file included.
    pub(crate) disk_bytes: AtomicU64,
    /// Bytes of records that slots point at. Signed: a racing sum may dip below zero for a moment.
    pub(crate) live_bytes: AtomicI64,
    dead: DeadMap,
    /// Bytes of tombstones, whether or not something still needs them.
    pub(crate) tombstone_bytes: AtomicU64,
    pub(crate) seq_min: AtomicU64,
    pub(crate) seq_max: AtomicU64,
    /// No record here is superseded by one numbered below this; 0 for pieces of the log.
    pub(crate) purged_seq: AtomicU64,
    /// The offset of a damaged record that a compaction needed, else [`WHOLE`].
    lost_at: AtomicU64,
}

impl Segment {
    pub(crate) fn new(
        table_index: u16,
        header: &SegmentHeader,
        settled: bool,
        file: Arc<dyn FsFile>,
    ) -> Segment {
        Segment {
            id: header.id,
            table_index,
            salt: header.salt,
            base: header.base,
            settled,
            file,
            mapped: Mapped::default(),
            end: AtomicU64::new(SEGMENT_HEADER_BYTES as u64),
            disk_bytes: AtomicU64::new(0),
            live_bytes: AtomicI64::new(0),
            dead: DeadMap::default(),
            tombstone_bytes: AtomicU64::new(0),
            seq_min: AtomicU64::new(u64::MAX),
            seq_max: AtomicU64::new(0),
            purged_seq: AtomicU64::new(0),
            lost_at: AtomicU64::new(WHOLE),
        }
    }

    /// Whether a record of a key may lie here that is older than a tombstone numbered `seq`.
    pub(crate) fn may_hold_older(&self, seq: u64) -> bool {
        self.seq_min.load(Ordering::Relaxed) < seq && self.purged_seq.load(Ordering::Relaxed) <= seq
    }

    /// Notes that a slot points at a record of `bytes`.
    pub(crate) fn note_live(&self, bytes: u64) {
        self.live_bytes.fetch_add(bytes as i64, Ordering::Relaxed);
    }

    /// Notes that the slot that pointed at the record of `bytes` at `offset` points elsewhere.
    pub(crate) fn note_dead(&self, offset: u64, bytes: u64) {
        self.live_bytes.fetch_sub(bytes as i64, Ordering::Relaxed);
        self.dead.set(offset);
    }

    /// Notes a damaged record that a copy of the segment would need: compaction leaves the segment alone
    /// until that record is dead. `None` stands for a place that no hint file tells: until a reopen.
    pub(crate) fn note_lost(&self, offset: Option<u64>) {
        self.lost_at.store(offset.unwrap_or(UNKNOWN_PLACE), Ordering::Relaxed);
    }

    /// Whether a compaction would fail at a damaged record, as far as is known.
    pub(crate) fn has_lost(&self) -> bool {
        let offset = self.lost_at.load(Ordering::Relaxed);
        offset != WHOLE && !self.is_dead(offset)
    }

    /// Whether it is known that no slot points at the record at `offset`, nor ever will.
    pub(crate) fn is_dead(&self, offset: u64) -> bool {
        self.dead.has(offset)
    }

    /// The position of the file's first byte.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Whether it takes no more records and never did here.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled
    }

    /// The position that has to be durable for the record at `offset` to be.
    ///
    /// Watermarks stop only between frames, so any position inside the record will do.
    pub(crate) fn position_of(&self, offset: u64) -> u64 {
        if self.settled { 0 } else { self.base + offset + ALIGN as u64 }
    }

    /// Notes that a record with sequence number `seq` was appended.
    pub(crate) fn note_seq(&self, seq: u64) {
        self.seq_min.fetch_min(seq, Ordering::Relaxed);
        self.seq_max.fetch_max(seq, Ordering::Relaxed);
    }

    /// Reads the value of the record at `offset`, which takes at most `length` bytes and must be
    /// `key`'s in `generation`. The copy that is returned is the one that was verified. It comes from
    /// the mapping of a populated file, or by one system call; a copy from the mapping that does not hold is
    /// no answer, and the call has the last word. With [`Wait::No`] a call reads as far as the page cache has the record,
    /// and fails with [`KvsError::WouldBlock`] where that is less than all.
    pub(crate) fn read_value(
        &self,
        offset: u64,
        length: usize,
        generation: u64,
        key: &[u8],
        wait: Wait,
    ) -> Result<Stored> {
        if let Some(stored) = self.read_mapped(offset, length, generation, key, wait) {
            return Ok(stored);
        }
        let mut bytes = vec![0; length];
        match wait {
            Wait::Yes => {
                let got = read_full(&*self.file, Site::RecordRead, &mut bytes, offset)?;
                bytes.truncate(got);
            }
            Wait::No => {
                let got = self.file.read_at_now(Site::RecordReadNow, &mut bytes, offset)?;
                // Less may be a record that is cached in part; only a read that waits can tell.
                if got != Some(length) {
                    return Err(KvsError::WouldBlock);
                }
            }
        }
        self.value_in(bytes, offset, generation, key)
    }

    /// Verifies that `bytes`, read at `offset`, begin with a record of `key` in `generation`, and
    /// leaves its value of them.
    fn value_in(
        &self,
        mut bytes: Vec<u8>,
        offset: u64,
        generation: u64,
        key: &[u8],
    ) -> Result<Stored> {
        let (header, parts) = self.verified(&bytes, offset)?;
        let expires_at = parts.extra.expires_at;
        if header.kind != Kind::Put || parts.key != key || parts.extra.generation != generation {
            return Err(self.damage(offset, "the record there belongs to another key"));
        }
        let end = HEADER_BYTES + header.payload_bytes();
        bytes.truncate(end);
        bytes.drain(..end - header.value_bytes);
        Ok(Stored { value: bytes, deadline: Deadline::of(expires_at) })
    }

    /// The header of the record that `bytes` begin with, header and payload verified.
    fn verified<'a>(&self, bytes: &'a [u8], offset: u64) -> Result<(Header, Parts<'a>)> {
        let header = bytes
            .first_chunk()
            .and_then(|first| Header::decode(first, self.salt, offset))
            .ok_or_else(|| {
                self.damage(offset, "the record's header does not match its checksum")
            })?;
        let payload = bytes.get(HEADER_BYTES..HEADER_BYTES + header.payload_bytes());
        let payload = payload.filter(|payload| header.vouches_for(payload));
        let parts = payload.and_then(|payload| header.parts(payload));
        let parts = parts.ok_or_else(|| {
            self.damage(offset, "the record's payload does not match its checksum")
        })?;
        Ok((header, parts))
    }

    fn damage(&self, offset: u64, reason: &str) -> KvsError {
        KvsError::corrupt(self.file.path(), offset, reason)
    }
}

type Chunk = Box<[ArcSwapOption<Segment>]>;

/// From the 16 bits in a slot to the segment: read without a lock, changed rarely.
pub(crate) struct SegmentTable {
    chunks: Box<[OnceLock<Chunk>]>,
    /// How often a segment came or went.
    changes: AtomicU64,
    indexes: Mutex<Indexes>,
}

#[derive(Default)]
struct Indexes {
    next: usize,
    free: Vec<u16>,
}

impl fmt::Debug for SegmentTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}

impl SegmentTable {
    pub(crate) fn new() -> SegmentTable {
        let chunks = (0..TABLE_MAX / TABLE_CHUNK).map(|_| OnceLock::new()).collect();
        let changes = AtomicU64::new(0);
        SegmentTable { chunks, changes, indexes: Mutex::new(Rank::Segments, Indexes::default()) }
    }

    /// Reserves an index; `None` when all 65,536 are taken.
    pub(crate) fn reserve(&self) -> Option<u16> {
        let mut indexes = lock(&self.indexes);
        if let Some(index) = indexes.free.pop() {
            return Some(index);
        }
        let index = u16::try_from(indexes.next).ok()?;
        indexes.next += 1;
        Some(index)
    }

    /// Whether the log may take another index.
    pub(crate) fn has_room(&self) -> bool {
        let indexes = lock(&self.indexes);
        indexes.next - indexes.free.len() < TABLE_MAX - TABLE_SPARE
    }

    /// Gives an index back. The caller knows that no slot and no reader names it any more.
    pub(crate) fn release(&self, index: u16) {
        lock(&self.indexes).free.push(index);
    }

    /// Puts a segment where readers find it.
    pub(crate) fn insert(&self, segment: Arc<Segment>) {
        let index = segment.table_index;
        self.cell_or_new(index).store(Some(segment));
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Takes a segment out; readers that hold it go on.
    pub(crate) fn remove(&self, index: u16) -> Option<Arc<Segment>> {
        let removed = self.cell(index).and_then(|cell| cell.swap(None));
        self.changes.fetch_add(1, Ordering::Release);
        removed
    }

    /// A number that is another one once a segment came or went.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The segment at an index. No lock, no write to shared memory on the usual path.
    pub(crate) fn get(&self, index: u16) -> Option<Guard<Option<Arc<Segment>>>> {
        let guard = self.cell(index)?.load();
        guard.is_some().then_some(guard)
    }

    /// All segments.
    pub(crate) fn all(&self) -> Vec<Arc<Segment>> {
        let chunks = self.chunks.iter().filter_map(OnceLock::get);
        chunks.flat_map(|chunk| chunk.iter().filter_map(ArcSwapOption::load_full)).collect()
    }

    fn cell(&self, index: u16) -> Option<&ArcSwapOption<Segment>> {
        let chunk = self.chunks[usize::from(index) / TABLE_CHUNK].get()?;
        Some(&chunk[usize::from(index) % TABLE_CHUNK])
    }

    fn cell_or_new(&self, index: u16) -> &ArcSwapOption<Segment> {
        let chunk = self.chunks[usize::from(index) / TABLE_CHUNK]
            .get_or_init(|| (0..TABLE_CHUNK).map(|_| ArcSwapOption::empty()).collect());
        &chunk[usize::from(index) % TABLE_CHUNK]
    }
}

/// Rounds up to whole blocks, as a file system counts them.
pub(crate) fn blocks(bytes: u64) -> u64 {
    bytes.next_multiple_of(4096)
}

const _: () = assert!(SEGMENT_HEADER_BYTES == padded(SEGMENT_HEADER_BYTES));

#[cfg(test)]
mod tests {
    use super::*;

    /// A log that finds no table index must know before it looks, or it looks for ever; and the
    /// indexes that it leaves are enough for a compaction.
    #[test]
    fn the_log_leaves_indexes_to_compaction() {
        let table = SegmentTable::new();
        let mut taken = Vec::new();
        while table.has_room() {
            taken.extend(table.reserve());
        }
        assert_eq!(taken.len(), TABLE_MAX - TABLE_SPARE);
        assert!((0..TABLE_SPARE).all(|_| table.reserve().is_some()));
        assert_eq!(table.reserve(), None);
        table.release(taken[0]);
        assert!(!table.has_room());
        assert_eq!(table.reserve(), Some(taken[0]));
    }
}
