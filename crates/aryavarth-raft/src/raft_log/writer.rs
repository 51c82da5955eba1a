//! The writer: groups of records at the end of the active file, and the way to the next file.
//!
//! ```text
//!  n.raft    | header | state | group | group | ... | seal |
//!  n+1.raft  | header |  made ahead: allocated, synced        |
//! ```
//!
//! The first group of a file begins with the state that older files hold (vote, purged and committed
//! id), so that they can go. A file that is full gets a `Seal`, which is synced before the first group of
//! the next file is written.
//!
//! Invariants:
//! - Nothing is written behind a group that is not synced.
//! - The state here is that of the disk: it changes only after a sync.
//! - After an error for want of space nothing has changed: the same place is written again.

use std::path::PathBuf;
use std::sync::Arc;

use aryavarth::fs::{IoError, Site, write_full};

use super::record::{Proven, Record, SEAL_BYTES};
use super::segment::{FILE_HEADER_BYTES, Segment, path_of};
use super::tail::Place;
use super::{LogId, RaftLogOptions, Vote};
use crate::error::{RaftError, Result};
use crate::identity::{Identity, random};

/// Memory that the writer keeps between groups.
const BUFFER_BYTES: usize = 1 << 20;

/// The small state that the records on disk tell.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
    pub(super) last: Option<LogId>,
}

impl Told {
    pub(super) fn tell(&mut self, record: &Record) {
        match record {
            Record::Entry(entry) => self.last = Some(entry.id),
            Record::Vote(vote) => self.vote = Some(*vote),
            Record::Truncate(last) => self.last = *last,
            Record::Purged(to) => {
                self.purged = Some(*to);
                if self.last.is_none_or(|last| last.index < to.index) {
                    self.last = Some(*to);
                }
            }
            Record::Committed(to) => self.committed = *to,
            Record::Group(..) | Record::Seal(_) => {}
        }
    }

    /// The records that tell it again.
    fn records(&self) -> Vec<Record> {
        let mut records = Vec::from_iter(self.purged.map(Record::Purged));
        records.extend(self.vote.map(Record::Vote));
        records.extend(self.committed.map(|to| Record::Committed(Some(to))));
        records
    }
}

pub(super) struct Writer {
    pub(super) dir: PathBuf,
    pub(super) options: RaftLogOptions,
    pub(super) identity: Identity,
    pub(super) active: Arc<Segment>,
    /// Where the next group goes.
    pub(super) offset: u64,
    /// Everything before this place is on disk.
    pub(super) proven: Proven,
    /// Whether a group was written that no other one proves.
    pub(super) is_unproven: bool,
    /// The file made ahead.
    pub(super) next: Option<Segment>,
    pub(super) told: Told,
    /// A purge was written, and files were not removed since.
    pub(super) gives_up_files: bool,
    pub(super) buffer: Vec<u8>,
}

/// A failed sync is never tried again: the pages that it lost count as clean.
fn poisoned(error: IoError) -> RaftError {
    RaftError::Io(Arc::new(error))
}

impl Writer {
    pub(super) fn active(&self) -> Arc<Segment> {
        Arc::clone(&self.active)
    }

    /// Whether the next file should be made: from half of the active one on if nothing waits, or else
    /// from seven eighths on.
    pub(super) fn is_next_due(&self, is_idle: bool) -> bool {
        let eighths = if is_idle { 4 } else { 7 };
        self.next.is_none() && self.offset > self.options.file_bytes / 8 * eighths
    }

    /// Makes the next file. On a full disk no trace of it is left.
    pub(super) fn prepare(&mut self) -> Result<()> {
        let (fs, id) = (&*self.options.fs, self.active.id + 1);
        let owner = (random(), &self.identity);
        match Segment::create(fs, &self.dir, id, self.options.file_bytes, owner) {
            Ok(segment) => {
                self.next = Some(segment);
                Ok(())
            }
            Err(error) => {
                fs.remove(Site::RaftFileDiscard, &path_of(&self.dir, id)).map_err(poisoned)?;
                Err(error)
            }
        }
    }

    /// Goes on in the next file.
    fn rotate(&mut self) -> Result<()> {
        if self.next.is_none() {
            self.prepare()?;
        }
        let Some(next) = self.next.take() else { return Err(RaftError::Closed) };
        if let Err(error) = self.seal(next.id) {
            self.next = Some(next);
            return Err(error);
        }
        let offset = self.offset + SEAL_BYTES;
        self.proven = Proven { file: self.active.id, offset };
        self.active = Arc::new(next);
        self.offset = FILE_HEADER_BYTES;
        Ok(())
    }

    fn seal(&mut self, next: u64) -> Result<()> {
        let mut bytes = Vec::new();
        Record::Seal(next).encode(&mut bytes, self.active.salt, self.offset);
        write_full(&*self.active.file, Site::RaftSeal, &bytes, self.offset)?;
        self.active.file.sync(Site::RaftSealSync).map_err(poisoned)
    }

    /// Writes and syncs records as one group; returns the place of each entry among them. One write
    /// and one sync, more where the file ends.
    pub(super) fn write(&mut self, records: &[&Record]) -> Result<Vec<Place>> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let group = Record::Group(Proven::default(), None);
        let bytes: u64 = [&group].iter().chain(records).map(|record| record.bytes()).sum();
        let end = self.offset + bytes + SEAL_BYTES;
        if end > self.options.file_bytes && self.offset > FILE_HEADER_BYTES {
            self.rotate()?;
        }
        let is_first = self.offset == FILE_HEADER_BYTES;
        let state = if is_first { self.told.records() } else { Vec::new() };
        let group = Record::Group(self.proven, self.told.last);
        let mut places = Vec::new();
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        for record in [&group].into_iter().chain(&state).chain(records.iter().copied()) {
            let (file, offset) = (self.active.id, self.offset + buffer.len() as u64);
            record.encode(&mut buffer, self.active.salt, offset);
            if matches!(record, Record::Entry(_)) {
                places.push(Place { file, offset, bytes: record.bytes() });
            }
        }
        let done = self.put(&buffer);
        buffer.shrink_to(BUFFER_BYTES);
        let written = buffer.len() as u64;
        self.buffer = buffer;
        done?;
        self.offset += written;
        self.proven = Proven { file: self.active.id, offset: self.offset };
        self.is_unproven = true;
        for record in records {
            self.told.tell(record);
            self.gives_up_files |= matches!(record, Record::Purged(_));
        }
        Ok(places)
    }

    /// Writes and syncs the bytes of a group.
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.offset + bytes.len() as u64 + SEAL_BYTES;
        if end > self.options.file_bytes {
            // A group that is larger than a file.
            self.active.file.allocate(Site::RaftFileExtend, end)?;
        }
        write_full(&*self.active.file, Site::RaftAppend, bytes, self.offset)?;
        self.active.file.sync(Site::RaftSync).map_err(poisoned)
    }

    /// Proves the last group by an empty one, if there was one.
    pub(super) fn prove(&mut self) -> Result<()> {
        if !self.is_unproven {
            return Ok(());
        }
        let mut bytes = Vec::new();
        let group = Record::Group(self.proven, self.told.last);
        group.encode(&mut bytes, self.active.salt, self.offset);
        self.put(&bytes)?;
        self.offset += bytes.len() as u64;
        self.proven = Proven { file: self.active.id, offset: self.offset };
        self.is_unproven = false;
        Ok(())
    }
}
