//! A survey: which files of a directory hold records, where in them, and all of these read once.
//!
//! A manifest that is whole decides: a file that it does not name does not exist, and where the log
//! ends is the verdict of recovery. Where the manifest is damaged, or names a file that is missing,
//! every log file counts that no edit is known to have dropped; and where the verdict is rot, or
//! cannot be had, an unsealed log is read to its last whole frame, damaged places stepped over.
//!
//! Invariants:
//! - Nothing is changed or created, the lock file included.
//! - The same directory gives the same survey twice, so that it can be read twice.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use super::hole::naming_its_space;
use super::reading::Reading;
use super::{VerifyReport, dead};
use crate::damage::Damage;
use crate::error::{KvsError, Result};
use crate::fs::{Fs, FsFile, OpenHow, Site};
use crate::hint;
use crate::manifest::{self, Remains, Seal, SegmentFacts, State};
use crate::record::{Kind, SEQ_MAX};
use crate::recovery::{
    DirLock, ENGINE, Tail, Unsealed, find_tail, hold_lock_as_found, read_header, refuse_cut,
};
use crate::segment::{
    Checked, SEGMENT_HEADER_BYTES, ScanStop, Scanner, SegmentKind, log_path, raw_salt,
};
use crate::sync::{Arc, Mutex, Rank, lock};

const FROM: u64 = SEGMENT_HEADER_BYTES as u64;

/// A visitor of everything that a survey reads. Several threads tell it.
pub(crate) trait Visitor: Sync {
    /// A whole record, which lies in the source with this number.
    fn record(&self, source: usize, record: &Checked, key: &[u8]) {
        let _ = (source, record, key);
    }
    /// A damaged place.
    fn damage(&self, damage: &Damage) {
        let _ = damage;
    }
    /// How far the reading is, in bytes.
    fn progress(&self, done: u64, all: u64);
}

/// A segment's file and the parts of it that hold records.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) file: Arc<dyn FsFile>,
    pub(crate) salt: u64,
    pub(crate) pieces: Vec<Range<u64>>,
    pub(super) id: u64,
    pub(super) rises: bool,
    pub(super) seal: Option<Seal>,
}

impl Source {
    pub(super) fn seqs(&self) -> RangeInclusive<u64> {
        self.seal.map_or(0..=SEQ_MAX, |seal| seal.seq_min..=seal.seq_max)
    }
}

/// A directory that can be read.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) dir: PathBuf,
    pub(super) names: Vec<String>,
    pub(crate) sources: Vec<Source>,
    /// Damage that was found before any record was read, and damage that reading finds.
    pub(crate) report: VerifyReport,
    /// Whether the manifest is whole and all the files that it names are there.
    pub(crate) is_whole: bool,
    /// The state that the manifest's good edits add up to.
    pub(crate) state: State,
    _lock: Option<DirLock>,
}

impl Survey {
    /// Finds the files that there are to read.
    pub(crate) fn open(fs: &dyn Fs, dir: &Path) -> Result<Survey> {
        let fs = fs.open_dir(Site::VerifyDirOpen, dir)?;
        let names = fs.list(Site::VerifyList, dir)?;
        let is_log = |name: &String| id_of(name).is_some();
        let is_ours =
            |name: &String| name == "CURRENT" || name.starts_with("MANIFEST-") || is_log(name);
        if !names.iter().any(is_ours) {
            let reason = "it holds neither CURRENT nor a log".to_owned();
            return Err(KvsError::NotOurs { path: dir.to_owned(), reason });
        }
        let lock = hold_lock_as_found(&*fs, dir, &names)?;
        let Remains { state, dropped, damage } = manifest::load_remains(&*fs, dir, &names)?;
        if !state.engine.is_empty() && state.engine != ENGINE {
            let (path, found) = (dir.to_owned(), state.engine);
            return Err(KvsError::WrongEngine { path, found, asked: ENGINE.to_owned() });
        }
        let mut survey = Survey {
            fs,
            dir: dir.to_owned(),
            names,
            sources: Vec::new(),
            report: VerifyReport::default(),
            is_whole: damage.is_empty(),
            state,
            _lock: lock,
        };
        for (path, offset, reason) in damage {
            survey.report.push(Damage::new(&path, offset, reason));
        }
        let mut unsealed = survey.add_named()?;
        if survey.is_whole {
            survey.is_whole = survey.names_all_logs(&dropped);
        }
        if !survey.is_whole {
            survey.add_unnamed(&dropped, &mut unsealed)?;
        }
        survey.add_unsealed(unsealed)?;
        Ok(survey)
    }

    /// The directory that is read.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens the segments that the manifest names. Returns the segments that are not sealed.
    fn add_named(&mut self) -> Result<Vec<Unsealed>> {
        let mut unsealed = Vec::new();
        for (id, facts) in self.state.segments.clone() {
            let path = log_path(&self.dir, id);
            self.report.segments += 1;
            let file = match self.fs.open(Site::VerifyOpen, &path, OpenHow::Read) {
                Ok(file) => file,
                Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {
                    self.lose_file(id, &facts, "the file is missing");
                    continue;
                }
                Err(error) => {
                    self.lose_file(id, &facts, &error.to_string());
                    continue;
                }
            };
            let length = file.len(Site::VerifyLength)?;
            let (header, reason) = match read_header(&*file, length) {
                Ok(header) => (header, "its header does not match its checksum".to_owned()),
                Err(error) => (None, error.to_string()),
            };
            let header = header.filter(|header| header.id == id && header.salt == facts.salt);
            let Some(seal) = facts.seal else {
                unsealed.push(Unsealed { id, facts, file, length, header });
                continue;
            };
            if header.is_none() && length >= FROM {
                let mut damage = Damage::new(&path, 0, reason);
                damage.bytes = FROM;
                self.report.push(damage);
            }
            let rises = facts.kind == SegmentKind::Log;
            // A part that was cut off is a hole too, so the whole range is read.
            let (salt, pieces, seal) = (facts.salt, one(FROM, seal.end), Some(seal));
            self.sources.push(Source { file, salt, pieces, id, rises, seal });
        }
        Ok(unsealed)
    }

    /// Reports a whole segment as lost, key by key where its hint file is there.
    fn lose_file(&mut self, id: u64, facts: &SegmentFacts, reason: &str) {
        self.is_whole = false;
        let path = log_path(&self.dir, id);
        let mut damage = Damage::new(&path, 0, reason);
        damage.seqs = Some(self.state.seq..=SEQ_MAX);
        let Some(seal) = facts.seal else {
            return self.report.push(damage);
        };
        damage.seqs = Some(seal.seq_min..=seal.seq_max);
        let Some(places) = hint::read_of(&*self.fs, &self.dir, id, facts.salt, seal.end) else {
            return self.report.push(damage);
        };
        for (key, place) in places.iter() {
            let lost = Damage {
                offset: place.offset,
                bytes: place.bytes,
                key: Some(key.to_vec()),
                generation: place.extra.generation,
                key_is_certain: true,
                removal: Some(place.kind == Kind::Tombstone),
                seqs: Some(place.seq..=place.seq),
                ..damage.clone()
            };
            self.report.push(naming_its_space(lost));
        }
    }

    /// Whether there is no log that only an edit can have named which is lost.
    fn names_all_logs(&mut self, dropped: &BTreeSet<u64>) -> bool {
        for id in self.unnamed(dropped).into_iter().filter(|&id| id >= self.state.file_id) {
            let Some((file, length)) = self.open_log(id) else { continue };
            let Some(header) = read_header(&*file, length).ok().flatten() else { continue };
            let first = Scanner::new(&*file, header.salt, FROM, length).next().map(|r| r.is_some());
            if header.kind == SegmentKind::Log && matches!(first, Ok(true)) {
                let path = self.dir.join("CURRENT");
                let reason = format!("its manifest does not name {id}.log, which holds records");
                self.report.push(Damage::new(&path, 0, reason));
                return false;
            }
        }
        true
    }

    /// Log files that no edit names.
    fn unnamed(&self, dropped: &BTreeSet<u64>) -> Vec<u64> {
        let ids = self.names.iter().filter_map(id_of);
        let mut ids: Vec<u64> = ids
            .filter(|id| !self.state.segments.contains_key(id) && !dropped.contains(id))
            .collect();
        ids.sort_unstable();
        ids
    }

    fn open_log(&self, id: u64) -> Option<(Arc<dyn FsFile>, u64)> {
        let path = log_path(&self.dir, id);
        let file = self.fs.open(Site::StrayLogOpen, &path, OpenHow::Read).ok()?;
        let length = file.len(Site::StrayLogLength).ok()?;
        Some((file, length))
    }

    /// Takes up the logs that a damaged manifest may have named.
    fn add_unnamed(&mut self, dropped: &BTreeSet<u64>, unsealed: &mut Vec<Unsealed>) -> Result<()> {
        for id in self.unnamed(dropped) {
            let Some((file, length)) = self.open_log(id) else { continue };
            if length < FROM {
                continue;
            }
            let header = read_header(&*file, length).ok().flatten();
            let header = header.filter(|header| header.id == id);
            let mut salts: Vec<u64> = header.iter().map(|header| header.salt).collect();
            salts.extend(raw_salt(&*file).ok().flatten());
            salts.extend(hint::salt_of(&*self.fs, &self.dir, id));
            let fits = |salt: &u64| holds_records(&*file, *salt, length);
            let Some(salt) = salts.into_iter().find(fits) else {
                // A spare that was never used is no damage.
                let mut scanner = Scanner::patient(&*file, 0, 0, length);
                let bytes = scanner.written_after(0)?;
                if bytes > FROM {
                    let reason = "nothing tells how its records are to be read";
                    let mut damage = Damage::new(file.path(), 0, reason);
                    (damage.bytes, damage.seqs) = (bytes, Some(0..=SEQ_MAX));
                    self.report.push(damage);
                }
                continue;
            };
            if header.is_none() {
                let reason = "its header does not match its checksum";
                self.report.push(Damage::new(file.path(), 0, reason));
            }
            let kind = header.map_or(SegmentKind::Copy, |header| header.kind);
            let facts = SegmentFacts { kind, salt, step: 1, seal: None };
            self.report.segments += 1;
            unsealed.push(Unsealed { id, facts, file, length, header });
        }
        Ok(())
    }

    /// Decides where the log ends.
    fn add_unsealed(&mut self, unsealed: Vec<Unsealed>) -> Result<()> {
        let mut is_cut = false;
        for segment in unsealed.iter().filter(|_| self.is_whole) {
            let path = log_path(&self.dir, segment.id);
            if let Err(KvsError::Corrupt { offset, reason, .. }) =
                refuse_cut(&path, segment.length, segment.facts.step)
            {
                let mut damage = Damage::new(&path, offset, reason);
                damage.seqs = Some(self.state.seq..=SEQ_MAX);
                self.report.push(damage);
                is_cut = true;
            }
        }
        if self.is_whole && !is_cut {
            match find_tail(&self.dir, &self.state, &unsealed) {
                Ok(tail) => {
                    self.add_tail(&tail, unsealed);
                    return Ok(());
                }
                Err(KvsError::Corrupt { path, offset, reason }) => {
                    let mut damage = Damage::new(&path, offset, reason);
                    damage.seqs = Some(self.state.seq..=SEQ_MAX);
                    self.report.push(damage);
                }
                // A disk that cannot read all of it: the readable part counts.
                Err(KvsError::Io(error)) => {
                    let mut damage = Damage::new(&error.path, 0, error.to_string());
                    damage.seqs = Some(self.state.seq..=SEQ_MAX);
                    self.report.push(damage);
                }
                Err(error) => return Err(error),
            }
        }
        for segment in unsealed {
            let rises = segment.facts.kind == SegmentKind::Log;
            let end = end_of_frames(&segment, rises);
            let Unsealed { id, facts, file, .. } = segment;
            let (salt, pieces, seal) = (facts.salt, one(FROM, end.max(FROM)), None);
            self.sources.push(Source { file, salt, pieces, id, rises, seal });
        }
        Ok(())
    }

    /// Takes the log's end as an open would.
    fn add_tail(&mut self, tail: &Tail, unsealed: Vec<Unsealed>) {
        self.report.torn_bytes = tail.torn_bytes;
        // The newest clocks stand in the marks.
        self.state.clock = self.state.clock.later(tail.clock);
        let mut pieces: BTreeMap<PathBuf, Vec<Range<u64>>> = BTreeMap::new();
        for kept in &tail.kept {
            pieces.entry(kept.file.path().to_owned()).or_default().push(FROM..kept.seal.end);
        }
        for loose in &tail.loose {
            pieces.entry(loose.file.path().to_owned()).or_default().push(loose.from..loose.to);
        }
        for Unsealed { id, facts, file, .. } in unsealed {
            if let Some(pieces) = pieces.remove(file.path()) {
                self.sources.push(Source {
                    file,
                    salt: facts.salt,
                    pieces,
                    id,
                    rises: true,
                    seal: None,
                });
            }
        }
    }

    /// Reads everything once, several files at a time if there may be `threads`: checksums cost
    /// about as much time as copying from the page cache, and one thread would do these in turn.
    pub(crate) fn read(&mut self, threads: usize, visitor: &impl Visitor) {
        let pieces = self.sources.iter().flat_map(|source| &source.pieces);
        let all = pieces.map(|piece| piece.end - piece.start).sum();
        self.report.damage.iter().for_each(|damage| visitor.damage(damage));
        let reading = Reading::new(self, visitor, all);
        let queue = Mutex::new(Rank::Queue, 0..self.sources.len());
        let reports = Mutex::new(Rank::Results, BTreeMap::new());
        let work = || {
            while let Some(number) = { lock(&queue).next() } {
                let report = reading.source(number);
                lock(&reports).insert(number, report);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.min(self.sources.len()) {
                scope.spawn(work);
            }
            work();
        });
        visitor.progress(all, all);
        for report in reports.into_inner().into_values() {
            self.report.add(report);
        }
        dead::mark(self);
    }
}

/// The one piece of a file that is read in one go.
fn one(from: u64, to: u64) -> Vec<Range<u64>> {
    std::iter::once(from..to).collect()
}

/// The segment whose log a name is.
fn id_of(name: &String) -> Option<u64> {
    let id = name.strip_suffix(".log")?.parse().ok()?;
    (format!("{id}.log") == *name).then_some(id)
}

/// Whether any record in a file fits `salt`.
fn holds_records(file: &dyn FsFile, salt: u64, length: u64) -> bool {
    let mut scanner = Scanner::patient(file, salt, FROM, length);
    let mut key = Vec::new();
    loop {
        match scanner.check(&mut key) {
            Ok(found) => return found.is_some(),
            Err(ScanStop::Bad { offset, .. }) if scanner.step_over(offset).is_ok() => {}
            Err(_) => return false,
        }
    }
}

/// Where the last whole frame of an unsealed segment ends, damaged places before it or not. The
/// bytes behind it were never acknowledged: a frame without its end, or the rest of a write that
/// found no space and was written over, whose sequence numbers do not rise.
fn end_of_frames(segment: &Unsealed, rises: bool) -> u64 {
    let file = &*segment.file;
    let mut scanner = Scanner::patient(file, segment.facts.salt, FROM, segment.length);
    let (mut end, mut key, mut seq) = (FROM, Vec::new(), 0);
    loop {
        match scanner.check(&mut key) {
            Ok(Some(Checked { header, .. })) if rises && header.seq <= seq => return end,
            Ok(Some(Checked { header, .. })) => {
                seq = header.seq;
                end = if header.last { scanner.offset() } else { end };
            }
            Err(ScanStop::Bad { offset, .. }) if scanner.step_over(offset).is_ok() => {}
            Ok(None) | Err(_) => return end,
        }
    }
}
