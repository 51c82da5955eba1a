//! One file of the log: its header, and its records in order.
//!
//! ```text
//!  0 "ARYR"   4 version u16   6 reserved u16   8 id u64   16 salt u64   24 cluster id u128
//! 40 node id u64   48 bytes allocated u64   56 reserved u32   60 CRC32C of 0..60   64 records
//! ```
//!
//! A file is made ahead: created, allocated, its header written, synced, and its name synced. So a
//! file whose header is not whole holds no record, and one that is shorter than its header says was cut:
//! a file never shrinks. (Where the file system cannot allocate, the header says 0.)

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aryavarth::fs::{Fs, FsFile, OpenHow, Site, read_full, write_full};

use super::record::{ALIGN, GROUP_BYTES, HEADER_BYTES, Proven, Record, extent, may_be_group};
use crate::bytes_of::{u32_at, u64_at};
use crate::error::{RaftError, Result};
use crate::identity::Identity;

/// Bytes before the first record.
pub(crate) const FILE_HEADER_BYTES: u64 = 64;
const MAGIC: [u8; 4] = *b"ARYR";
const VERSION: u16 = 1;
/// Bytes that a scan reads at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes that are passed over at once where they are zeros.
const BLOCK_BYTES: u64 = 4096;

/// An open file of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: u64,
    pub(crate) salt: u64,
    /// The length that it has at least.
    pub(super) allocated: u64,
    pub(crate) file: Arc<dyn FsFile>,
}

/// A file as an open finds it.
pub(super) struct Opened {
    pub(super) file: Arc<dyn FsFile>,
    pub(super) length: u64,
    pub(super) segment: Option<Segment>,
}

impl Opened {
    /// Whether no record was ever written to the file.
    pub(super) fn is_unused(&self) -> Result<bool> {
        let mut scanner = Scanner::new(&*self.file, 0, self.length);
        Ok(scanner.rest()?.1 <= FILE_HEADER_BYTES)
    }

    /// Whether the file is as it was when it was made, or longer.
    pub(super) fn is_whole(&self) -> bool {
        self.segment.as_ref().is_some_and(|segment| self.length >= segment.allocated)
    }
}

/// The path of the file with this id.
pub(crate) fn path_of(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id}.raft"))
}

/// The id in a file's name, if it is one of the log's.
pub(super) fn id_of(name: &str) -> Option<u64> {
    let id: u64 = name.strip_suffix(".raft")?.parse().ok()?;
    (id > 0 && format!("{id}.raft") == name).then_some(id)
}

/// A file's header.
pub(crate) fn header(
    (id, salt, allocated): (u64, u64, u64),
    identity: &Identity,
) -> [u8; FILE_HEADER_BYTES as usize] {
    let mut bytes = [0; FILE_HEADER_BYTES as usize];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
    bytes[8..16].copy_from_slice(&id.to_le_bytes());
    bytes[16..24].copy_from_slice(&salt.to_le_bytes());
    bytes[24..40].copy_from_slice(&identity.cluster.to_le_bytes());
    bytes[40..48].copy_from_slice(&identity.node.to_le_bytes());
    bytes[48..56].copy_from_slice(&allocated.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

impl Segment {
    /// Creates a file, allocated up to `bytes`, and makes it and its name durable.
    pub(super) fn create(
        fs: &dyn Fs,
        dir: &Path,
        id: u64,
        bytes: u64,
        (salt, identity): (u64, &Identity),
    ) -> Result<Segment> {
        let file = fs.open(Site::RaftFileCreate, &path_of(dir, id), OpenHow::CreateNew)?;
        file.allocate(Site::RaftFileAllocate, bytes)?;
        let allocated = file.len(Site::RaftFileMeasure)?;
        let header = header((id, salt, allocated), identity);
        write_full(&*file, Site::RaftFileHeader, &header, 0)?;
        file.sync(Site::RaftFileSync)?;
        fs.sync_dir(Site::RaftFileDirSync, dir)?;
        Ok(Segment { id, salt, allocated, file })
    }

    /// Opens a file, with the length that it has now; without a segment if its header was never whole.
    pub(super) fn open(fs: &dyn Fs, dir: &Path, id: u64, identity: &Identity) -> Result<Opened> {
        let path = path_of(dir, id);
        let file = fs.open(Site::RaftFileOpen, &path, OpenHow::Write)?;
        let length = file.len(Site::RaftFileLength)?;
        let mut bytes = [0; FILE_HEADER_BYTES as usize];
        let got = read_full(&*file, Site::RaftFileHeaderRead, &mut bytes, 0)?;
        let is_whole = got == bytes.len() && bytes.starts_with(&MAGIC);
        if !is_whole || u32_at(&bytes, 60) != crc32c::crc32c(&bytes[..60]) {
            return Ok(Opened { file, length, segment: None });
        }
        let (salt, allocated) = (u64_at(&bytes, 16), u64_at(&bytes, 48));
        let version = u16::from_le_bytes([bytes[4], bytes[5]]);
        if version != VERSION {
            return Err(RaftError::UnknownFormat { path, version });
        }
        if bytes != header((id, salt, allocated), identity) {
            return Err(RaftError::Foreign { path });
        }
        let segment = Segment { id, salt, allocated, file: Arc::clone(&file) };
        Ok(Opened { file, length, segment: Some(segment) })
    }

    /// The error for a damaged place of this file.
    pub(super) fn damaged(&self, offset: u64, reason: impl Into<String>) -> RaftError {
        let path = self.file.path().to_owned();
        RaftError::Corrupt { path, offset, reason: reason.into() }
    }

    /// Reads one record that is known to lie here.
    pub(super) fn read(&self, offset: u64, bytes: u64) -> Result<Record> {
        let mut buf = vec![0; bytes as usize];
        let got = read_full(&*self.file, Site::RaftRead, &mut buf, offset)?;
        let record = Record::decode(&buf[..got], self.salt, offset);
        record.ok_or_else(|| self.damaged(offset, "an entry is not as it was written"))
    }
}

/// Reads a file's records in order.
pub(crate) struct Scanner<'a> {
    file: &'a dyn FsFile,
    salt: u64,
    /// Where the next record begins.
    pub(crate) offset: u64,
    end: u64,
    chunk: Vec<u8>,
    chunk_at: u64,
}

impl<'a> Scanner<'a> {
    /// A scan from the first record to the file's end.
    pub(crate) fn new(file: &'a dyn FsFile, salt: u64, end: u64) -> Scanner<'a> {
        Scanner { file, salt, offset: FILE_HEADER_BYTES, end, chunk: Vec::new(), chunk_at: 0 }
    }

    /// The next record and its offset; `None` where the bytes are no record.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Record)>> {
        let Some(header) = self.bytes(self.offset, HEADER_BYTES as u64)? else { return Ok(None) };
        let length = header.first_chunk().map_or(0, extent);
        let (offset, salt) = (self.offset, self.salt);
        let Some(bytes) = self.bytes(offset, length)? else { return Ok(None) };
        let record = Record::decode(bytes, salt, offset);
        if record.is_some() {
            self.offset += length;
        }
        Ok(record.map(|record| (offset, record)))
    }

    /// Looks at everything from the scan's place on: the highest place that a group there proves, and
    /// the end of the bytes that are not zero.
    pub(crate) fn rest(&mut self) -> Result<(Proven, u64)> {
        let (mut proven, mut written) = (Proven::default(), self.offset);
        let mut at = self.offset;
        while at < self.end {
            let block = (self.end - at).min(BLOCK_BYTES);
            if self.bytes(at, block)?.is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0)) {
                at += block;
                continue;
            }
            let block_end = at + block;
            while at < block_end {
                let word = (block_end - at).min(ALIGN as u64);
                let bytes = self.bytes(at, word)?.unwrap_or_default();
                if bytes.iter().any(|byte| *byte != 0) {
                    written = at + word;
                    if let Some(group) = self.group_at(at)? {
                        proven = proven.max(group);
                    }
                }
                at += word;
            }
        }
        Ok((proven, written))
    }

    /// The place that a group at `at` proves, if one begins there.
    fn group_at(&mut self, at: u64) -> Result<Option<Proven>> {
        let salt = self.salt;
        let Some(bytes) = self.bytes(at, GROUP_BYTES)? else { return Ok(None) };
        if !may_be_group(bytes) {
            return Ok(None);
        }
        match Record::decode(bytes, salt, at) {
            Some(Record::Group(proven, _)) => Ok(Some(proven)),
            _ => Ok(None),
        }
    }

    /// The bytes of a range; `None` if the file ends before.
    fn bytes(&mut self, from: u64, bytes: u64) -> Result<Option<&[u8]>> {
        let Some(end) = from.checked_add(bytes).filter(|end| *end <= self.end) else {
            return Ok(None);
        };
        let chunk_end = self.chunk_at + self.chunk.len() as u64;
        if from < self.chunk_at || end > chunk_end {
            let wanted = bytes.max(CHUNK_BYTES as u64).min(self.end - from);
            self.chunk.resize(wanted as usize, 0);
            self.chunk_at = from;
            let got = read_full(self.file, Site::RaftScan, &mut self.chunk, from)?;
            self.chunk.truncate(got);
        }
        let begin = (from - self.chunk_at) as usize;
        Ok(self.chunk.get(begin..begin + bytes as usize))
    }
}
