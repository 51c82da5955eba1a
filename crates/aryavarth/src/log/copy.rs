//! Copies: a new segment with records that lie elsewhere, for compaction and recovery.
//!
//! Copies keep their sequence numbers and payload checksums; only the header's seed changes with
//! the place. A copy is not part of the store until the manifest says so, and is durable by then.

use std::path::Path;

use crate::error::Result;
use crate::fs::{Fs, FsFile, IoError, OpenHow, Site, write_full};
use crate::hint::Places;
use crate::manifest::{Edit, Seal};
use crate::record::{Kind, padded};
use crate::segment::{
    SEGMENT_HEADER_BYTES, Scanned, Segment, SegmentHeader, SegmentKind, blocks, log_path,
};
use crate::sync::{Arc, Ordering};

/// Copies are written in pieces of this size.
const WRITE_BYTES: usize = 1 << 20;

/// So many small segments are left alone.
const SMALL_SEGMENTS_MAX: usize = 16;
/// Segments below this size are merged whatever the sizes of the others.
const TINY_BYTES: u64 = 64 << 10;
/// One merge copies no more than about this.
const MERGE_BYTES_MAX: u64 = 64 << 20;

/// The segments, of `sizes` by id, that are to be merged into one because there are too many that
/// are far smaller than `limit`, the size at which a segment is sealed. Bounds their number by the
/// data; the largest is no larger than the others together, so that a record is copied only when the
/// segment that it lies in doubles.
pub(crate) fn small_segments(mut sizes: Vec<(u64, u64)>, limit: u64) -> Vec<u64> {
    sizes.retain(|&(_, bytes)| bytes < limit / 2);
    if sizes.len() <= SMALL_SEGMENTS_MAX {
        return Vec::new();
    }
    sizes.sort_unstable_by_key(|&(id, bytes)| (bytes, id));
    let (mut before, mut taken) = (0, 0);
    for (i, &(_, bytes)) in sizes.iter().enumerate() {
        if before + bytes > MERGE_BYTES_MAX {
            break;
        }
        if bytes <= before.max(TINY_BYTES) {
            taken = i + 1;
        }
        before += bytes;
    }
    if taken < 2 {
        return Vec::new();
    }
    sizes[..taken].iter().map(|&(id, _)| id).collect()
}

/// A copy that is being written.
#[derive(Debug)]
pub(crate) struct CopyWriter {
    header: SegmentHeader,
    table_index: u16,
    file: Arc<dyn FsFile>,
    /// Bytes already in the file, and those that follow.
    written: u64,
    buf: Vec<u8>,
    places: Places,
    seq_min: u64,
    seq_max: u64,
    tombstone_bytes: u64,
}

/// A copy that is on disk.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) segment: Arc<Segment>,
    pub(crate) places: Places,
    pub(crate) seal: Seal,
}

impl CopyWriter {
    /// Creates the copy's file. `header` gives id, salt and store.
    pub(crate) fn create(
        fs: &dyn Fs,
        dir: &Path,
        header: SegmentHeader,
        table_index: u16,
    ) -> Result<CopyWriter, IoError> {
        let path = log_path(dir, header.id);
        let file = fs.open(Site::CopyCreate, &path, OpenHow::CreateNew)?;
        Ok(CopyWriter {
            header,
            table_index,
            file,
            written: 0,
            buf: header.encode().to_vec(),
            places: Places::default(),
            seq_min: u64::MAX,
            seq_max: 0,
            tombstone_bytes: 0,
        })
    }

    /// The table index under which the copy will be found.
    pub(crate) fn table_index(&self) -> u16 {
        self.table_index
    }

    /// Bytes of the copy so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.written + self.buf.len() as u64
    }

    /// Whether nothing was copied yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes() == SEGMENT_HEADER_BYTES as u64
    }

    /// Copies a record; returns where the copy lies.
    pub(crate) fn push(&mut self, record: &Scanned<'_>) -> Result<u64, IoError> {
        let offset = self.bytes();
        let header = record.header;
        self.buf.extend_from_slice(&header.copied_to(self.header.salt, offset));
        self.buf.extend_from_slice(record.payload);
        self.buf.resize(padded(self.buf.len()), 0);
        self.seq_min = self.seq_min.min(header.seq);
        self.seq_max = self.seq_max.max(header.seq);
        if header.kind == Kind::Tombstone {
            self.tombstone_bytes += header.record_bytes() as u64;
        }
        self.places.push(offset, record);
        if self.buf.len() >= WRITE_BYTES {
            self.write_buf()?;
        }
        Ok(offset)
    }

    fn write_buf(&mut self) -> Result<(), IoError> {
        write_full(&*self.file, Site::CopyWrite, &self.buf, self.written)?;
        self.written += self.buf.len() as u64;
        self.buf.clear();
        Ok(())
    }

    /// Writes the rest and syncs file and name. The manifest does not know of it yet.
    /// Nothing in it is superseded by a record numbered below `purged_seq`. After a failure only
    /// [`discard`](Self::discard) is left.
    pub(crate) fn finish(
        &mut self,
        fs: &dyn Fs,
        dir: &Path,
        purged_seq: u64,
    ) -> Result<Copied, IoError> {
        self.write_buf()?;
        self.file.sync(Site::CopySync)?;
        fs.sync_dir(Site::CopyDirSync, dir)?;
        let segment = Segment::new(self.table_index, &self.header, true, Arc::clone(&self.file));
        segment.end.store(self.written, Ordering::Relaxed);
        segment.disk_bytes.store(blocks(self.written), Ordering::Relaxed);
        segment.tombstone_bytes.store(self.tombstone_bytes, Ordering::Relaxed);
        segment.seq_min.store(self.seq_min, Ordering::Relaxed);
        segment.seq_max.store(self.seq_max, Ordering::Relaxed);
        segment.purged_seq.store(purged_seq, Ordering::Relaxed);
        let seal = Seal {
            base: 0,
            end: self.written,
            seq_min: self.seq_min,
            seq_max: self.seq_max,
            records: self.places.len() as u64,
            purged_seq,
        };
        let places = std::mem::take(&mut self.places);
        Ok(Copied { segment: Arc::new(segment), places, seal })
    }

    /// Gives the copy up.
    pub(crate) fn discard(self, fs: &dyn Fs, dir: &Path) {
        // A file that stays behind is a stray, which the next open removes.
        drop(fs.remove(Site::CopyRemove, &log_path(dir, self.header.id)));
    }
}

impl Copied {
    /// The edits that make the copy part of the store.
    pub(crate) fn edits(&self) -> [Edit; 2] {
        let (id, salt) = (self.segment.id, self.segment.salt);
        [
            Edit::Add { id, kind: SegmentKind::Copy, salt, step: 1 },
            Edit::Seal { id, seal: self.seal },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(sizes: &[u64], limit: u64) -> Vec<u64> {
        small_segments((0..).zip(sizes.iter().copied()).collect(), limit)
    }

    #[test]
    fn many_small_segments_are_merged_and_few_or_large_ones_are_not() {
        assert!(ids(&[100; SMALL_SEGMENTS_MAX], 1 << 20).is_empty());
        assert_eq!(ids(&[100; SMALL_SEGMENTS_MAX + 1], 1 << 20).len(), SMALL_SEGMENTS_MAX + 1);
        assert!(ids(&[1 << 20; 100], 1 << 20).is_empty());
    }

    /// A start adds one segment of a fixed size, and merges where it must: neither the number of
    /// segments nor the work grows as the number of starts does.
    #[test]
    fn the_number_of_segments_and_of_copies_of_a_record_is_bounded() {
        let (start_bytes, starts) = (200_000, 2_000);
        let (mut sizes, mut copied) = (Vec::new(), 0);
        for start in 0..starts {
            sizes.push((start, start_bytes));
            let all: u64 = sizes.iter().map(|&(_, bytes)| bytes).sum();
            let limit = (all / 16).max(1 << 20);
            let small = small_segments(sizes.clone(), limit);
            let is_small = |&(id, _): &(u64, u64)| small.contains(&id);
            let merged: u64 = sizes.iter().filter(|size| is_small(size)).map(|s| s.1).sum();
            sizes.retain(|size| !is_small(size));
            sizes.extend((merged > 0).then_some((starts + start, merged)));
            copied += merged;
            assert!(sizes.len() <= 80, "{} segments after {start} starts", sizes.len());
        }
        assert!(copied < 12 * starts * start_bytes, "{copied} bytes were copied");
    }
}
