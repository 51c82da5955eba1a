//! A log as an open finds it: every file read, the end found, and made durable.
//!
//! ```text
//!            proven place P                 end E              written end W
//!  ... groups | the last group, or a part of it | torn: cut with zeros |  zeros
//! ```
//!
//! Everything before P was synced once, so a bad record there, or a place that a later group proves
//! behind E, is rot: the node acknowledged it and must not forget it. Between P and E lies the last
//! group; a failed sync may have lost it though readers still see it, so it is written again and
//! synced before any of it counts. What lies behind E was never acknowledged.
//!
//! Invariants:
//! - Nothing is changed before every file was read and found good.
//! - An open that is cut short at any call leaves a log that the next open finds the same.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use aryavarth::fs::{Fs, FsFile, OpenHow, Site, read_full, write_full};

use super::record::{Proven, Record};
use super::segment::{FILE_HEADER_BYTES, Opened, Scanner, Segment, id_of, path_of};
use super::tail::{Place, Tail};
use super::writer::{Told, Writer};
use super::{RaftLogOptions, State};
use crate::error::{RaftError, Result};
use crate::identity::{Identity, random};

/// Bytes of the end that are written again at once.
const PIECE_BYTES: u64 = 64 << 10;

/// The parts of an open log.
pub(super) struct Found {
    pub(super) state: State,
    pub(super) writer: Writer,
    pub(super) lock: Arc<dyn FsFile>,
}

fn lost<T>(dir: &Path, reason: String) -> Result<T> {
    Err(RaftError::Lost { path: dir.to_owned(), reason })
}

/// The ids of the log's files, in order.
fn ids(fs: &dyn Fs, dir: &Path) -> Result<Vec<u64>> {
    let names = match fs.list(Site::RaftDirList, dir) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names?,
    };
    let mut ids: Vec<u64> = names.iter().filter_map(|name| id_of(name)).collect();
    ids.sort_unstable();
    Ok(ids)
}

fn remove_unused(fs: &dyn Fs, dir: &Path, id: u64) -> Result<()> {
    Ok(fs.remove(Site::RaftUnusedRemove, &path_of(dir, id))?)
}

/// Makes an empty log, in a directory that may hold the beginnings of one.
pub(crate) fn create(dir: &Path, identity: &Identity, options: &RaftLogOptions) -> Result<()> {
    let fs = &*options.fs;
    fs.create_dir(Site::RaftDirCreate, dir)?;
    fs.sync_dir(Site::RaftDirParentSync, dir.parent().unwrap_or(Path::new(".")))?;
    for id in ids(fs, dir)? {
        let file = fs.open(Site::RaftLeftoverOpen, &path_of(dir, id), OpenHow::Read)?;
        let length = file.len(Site::RaftLeftoverLength)?;
        if !(Opened { file, length, segment: None }).is_unused()? {
            return lost(dir, "it holds the log of a node whose node file is gone".to_owned());
        }
        remove_unused(fs, dir, id)?;
    }
    Segment::create(fs, dir, 1, options.file_bytes, (random(), identity)).map(drop)
}

/// The state that the records tell, while they are read.
#[derive(Default)]
struct Replay {
    tail: Tail,
    told: Told,
    proven: Proven,
    files: Vec<Segment>,
    /// The end of the records in the last file.
    end: u64,
    /// The end of the bytes behind them.
    written: u64,
    /// The file in which the log goes on, if the last file says so.
    sealed_to: Option<u64>,
    /// A file without records.
    unused: Option<u64>,
}

impl Replay {
    /// Reads the records of a file.
    fn scan(&mut self, segment: Segment, length: u64) -> Result<()> {
        let file = Arc::clone(&segment.file);
        let mut scanner = Scanner::new(&*file, segment.salt, length);
        self.sealed_to = None;
        while let Some((offset, record)) = scanner.next()? {
            if let Record::Seal(next) = record {
                self.sealed_to = Some(next);
                break;
            }
            self.apply(&segment, offset, &record)?;
        }
        self.end = scanner.offset;
        self.written = self.end;
        if self.sealed_to.is_none() {
            let (proven, written) = scanner.rest()?;
            if proven > (Proven { file: segment.id, offset: self.end }) {
                let reason = format!(
                    "no valid record there, though the log was on disk up to byte {} of file {}",
                    proven.offset, proven.file
                );
                return Err(segment.damaged(self.end, reason));
            }
            self.written = written;
        }
        self.files.push(segment);
        Ok(())
    }

    fn apply(&mut self, segment: &Segment, offset: u64, record: &Record) -> Result<()> {
        let is_first = offset == FILE_HEADER_BYTES;
        match record {
            Record::Group(proven, last) => self.begin_group(segment, offset, (*proven, *last))?,
            _ if is_first => return Err(segment.damaged(offset, "the file begins with no group")),
            Record::Entry(entry) => {
                if let Err(error) = self.tail.check_append([entry.id]) {
                    return Err(segment.damaged(offset, error.to_string()));
                }
                let place = Place { file: segment.id, offset, bytes: record.bytes() };
                self.tail.append_at(entry.id, Some(place));
            }
            Record::Truncate(to) => self.tail.replay_truncate(*to),
            Record::Purged(to) => self.tail.purge(*to),
            Record::Vote(_) | Record::Committed(_) | Record::Seal(_) => {}
        }
        self.told.tell(record);
        Ok(())
    }

    fn begin_group(
        &mut self,
        segment: &Segment,
        offset: u64,
        (proven, last): (Proven, Option<super::LogId>),
    ) -> Result<()> {
        let begins = offset == FILE_HEADER_BYTES && self.files.is_empty();
        if begins {
            // The entries before it are in files that are gone.
            self.tail = Tail::after(last);
            self.told.last = last;
        } else if last != self.tail.last() {
            return Err(segment.damaged(offset, "entries before this group are missing"));
        }
        let here = Proven { file: segment.id, offset };
        let is_of_last = self.files.last().is_some_and(|last| last.id == proven.file);
        if proven > here || (is_of_last && proven.offset > self.end) {
            return Err(segment.damaged(offset, "records before this group are missing"));
        }
        self.proven = self.proven.max(proven);
        Ok(())
    }

    /// Takes the next file of the log.
    fn file(&mut self, dir: &Path, opened: Opened, id: u64, is_last: bool) -> Result<()> {
        let is_whole = opened.is_whole();
        let damaged = |reason: &str| {
            let path = path_of(dir, id);
            Err(RaftError::Corrupt { path, offset: 0, reason: reason.to_owned() })
        };
        if self.files.is_empty() || self.sealed_to == Some(id) {
            let length = opened.length;
            return match opened.segment {
                Some(segment) if is_whole => self.scan(segment, length),
                Some(_) => damaged("the file was cut"),
                None => damaged("the file's header is damaged"),
            };
        }
        if !opened.is_unused()? || !is_last {
            return damaged("the file before this one has lost its end");
        }
        // Made ahead, perhaps without its syncs: it is made anew when it is needed.
        self.unused = Some(id);
        Ok(())
    }

    /// Checks that nothing is missing.
    fn check(&self, dir: &Path) -> Result<()> {
        if let Some(id) = self.sealed_to {
            return lost(dir, format!("the file {id}.raft is missing"));
        }
        let before = self.tail.before().map(|before| before.index);
        if before > self.told.purged.map(|purged| purged.index) {
            return lost(dir, "the oldest files of the log are missing".to_owned());
        }
        Ok(())
    }

    /// Writes again what no sync is known to cover, and zeros over a torn end.
    fn make_durable(&self) -> Result<()> {
        for segment in self.files.iter().filter(|segment| segment.id >= self.proven.file) {
            let is_active = self.files.last().is_some_and(|last| last.id == segment.id);
            let known = segment.id == self.proven.file;
            let mut at = if known { self.proven.offset } else { FILE_HEADER_BYTES };
            let end = if is_active { self.end } else { sealed_end(segment)? };
            let written = if is_active { self.written } else { end };
            if at >= written {
                continue;
            }
            let mut piece = Vec::new();
            while at < end {
                piece.resize((end - at).min(PIECE_BYTES) as usize, 0);
                read_full(&*segment.file, Site::RaftEndRead, &mut piece, at)?;
                write_full(&*segment.file, Site::RaftEndWrite, &piece, at)?;
                at += piece.len() as u64;
            }
            while at < written {
                let zeros = vec![0; (written - at).min(PIECE_BYTES) as usize];
                write_full(&*segment.file, Site::RaftEndErase, &zeros, at)?;
                at += zeros.len() as u64;
            }
            segment.file.sync(Site::RaftEndSync)?;
        }
        Ok(())
    }
}

/// The end of the records in a file that was sealed.
fn sealed_end(segment: &Segment) -> Result<u64> {
    let length = segment.file.len(Site::RaftSealedLength)?;
    let mut scanner = Scanner::new(&*segment.file, segment.salt, length);
    while let Some((_, record)) = scanner.next()? {
        if matches!(record, Record::Seal(_)) {
            break;
        }
    }
    Ok(scanner.offset)
}

/// Opens the log in `dir`.
pub(super) fn recover(dir: &Path, identity: &Identity, options: &RaftLogOptions) -> Result<Found> {
    let fs = &*options.fs;
    let ids = ids(fs, dir)?;
    let Some(last) = ids.last().copied() else {
        return lost(dir, "the node's log is gone".to_owned());
    };
    let lock = fs.try_lock(Site::RaftLock, &dir.join("LOCK"))?;
    let lock = lock.ok_or_else(|| RaftError::Locked { path: dir.to_owned() })?;
    let mut replay = Replay::default();
    for (id, expected) in ids.iter().copied().zip(ids[0]..) {
        if id != expected {
            return lost(dir, format!("the file {expected}.raft is missing"));
        }
        let opened = Segment::open(fs, dir, id, identity)?;
        replay.file(dir, opened, id, id == last)?;
    }
    replay.check(dir)?;
    replay.make_durable()?;
    if let Some(id) = replay.unused {
        remove_unused(fs, dir, id)?;
    }
    Ok(found(dir, identity, options, (replay, lock)))
}

fn found(
    dir: &Path,
    identity: &Identity,
    options: &RaftLogOptions,
    (replay, lock): (Replay, Arc<dyn FsFile>),
) -> Found {
    let files: BTreeMap<u64, Arc<Segment>> =
        replay.files.into_iter().map(|segment| (segment.id, Arc::new(segment))).collect();
    let active = files.last_key_value().map(|(_, segment)| Arc::clone(segment));
    let active = active.expect("an open without a file has ended before");
    let writer = Writer {
        dir: dir.to_owned(),
        options: options.clone(),
        identity: identity.clone(),
        offset: replay.end,
        proven: Proven { file: active.id, offset: replay.end },
        active,
        is_unproven: false,
        next: None,
        told: replay.told.clone(),
        gives_up_files: true,
        buffer: Vec::new(),
    };
    let state = State {
        durable: replay.tail.last().map(|last| last.index),
        tail: replay.tail,
        vote: replay.told.vote,
        committed: replay.told.committed,
        purged: replay.told.purged,
        queue: std::collections::VecDeque::new(),
        files,
        poison: None,
        stopped: false,
    };
    Found { state, writer, lock }
}
