//! Scrub: reading everything to see whether it is still what was written.
//!
//! [`verify`] works on a directory that nobody has open. It changes nothing, goes on behind every
//! damaged place, and names each: file, offset, and, where a hint file still tells, key and
//! sequence number. Memory is bounded by a window of the log and one hint file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::{KvsError, Result};
use crate::fs::{Fs, FsFile, OpenHow, Site};
use crate::hint::{self, Places};
use crate::manifest::{self, Seal, SegmentFacts, State};
use crate::options::Options;
use crate::recovery::{ENGINE, Unsealed, find_tail, hold_lock, read_header, refuse_cut};
use crate::segment::{
    SEGMENT_HEADER_BYTES, ScanStop, Scanner, Segment, SegmentHeader, hint_path, log_path,
};
use crate::sync::{Arc, Ordering};

/// Something that is not what the store wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The damaged file.
    pub path: PathBuf,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub reason: String,
    /// The key of the damaged record, where it is known.
    pub key: Option<Vec<u8>>,
    /// The sequence number of the damaged record, where it is known.
    pub seq: Option<u64>,
    /// Whether nothing is lost by it: a hint file is made again from its segment.
    pub harmless: bool,
}

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Segments read.
    pub segments: u64,
    /// Good records in them.
    pub records: u64,
    /// Bytes of the segments.
    pub bytes: u64,
    /// Everything that is damaged, in the order in which it was met.
    pub damage: Vec<Damage>,
    /// Bytes of a torn tail, which the next open will cut off.
    pub torn_bytes: u64,
}

impl VerifyReport {
    /// Whether nothing is lost.
    pub fn is_good(&self) -> bool {
        self.damage.iter().all(|damage| damage.harmless)
    }
}

/// Reads every record of the store in `dir` and reports all damage. Nothing is changed.
///
/// `progress` is called with the bytes read so far and the bytes in all.
///
/// # Errors
/// [`KvsError::Locked`] if a process has the store open, [`KvsError::NotOurs`], and
/// [`KvsError::Corrupt`] if the manifest itself cannot be read, for then nothing else can.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// use aryavarth::{KvStore, Options, verify};
///
/// let store = KvStore::open(dir)?;
/// store.put(b"k", b"v")?;
/// store.close()?;
/// let report = verify(dir, &Options::default(), |_done, _all| {})?;
/// assert!(report.is_good());
/// assert_eq!(report.records, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn verify(
    dir: impl AsRef<Path>,
    options: &Options,
    mut progress: impl FnMut(u64, u64),
) -> Result<VerifyReport> {
    let dir = dir.as_ref();
    let fs = &*options.fs;
    let names = fs.list(Site::VerifyList, dir)?;
    if !names.iter().any(|name| name == "CURRENT") {
        let reason = "it holds no CURRENT".to_owned();
        return Err(KvsError::NotOurs { path: dir.to_owned(), reason });
    }
    let _lock = hold_lock(fs, dir)?;
    let (_, state) = manifest::load(fs, dir)?;
    if state.engine != ENGINE {
        let (path, found) = (dir.to_owned(), state.engine);
        return Err(KvsError::WrongEngine { path, found, asked: ENGINE.to_owned() });
    }
    let all = state.segments.values().filter_map(|facts| facts.seal).map(|seal| seal.end).sum();
    let mut scrub =
        Scrub { fs, dir, report: VerifyReport::default(), progress: &mut progress, all };
    let mut unsealed = Vec::new();
    for (&id, facts) in &state.segments {
        unsealed.extend(scrub.segment(id, facts, &names)?);
    }
    scrub.tail(&state, &unsealed)?;
    Ok(scrub.report)
}

struct Scrub<'a> {
    fs: &'a dyn Fs,
    dir: &'a Path,
    report: VerifyReport,
    progress: &'a mut dyn FnMut(u64, u64),
    /// Bytes that will have been read in the end.
    all: u64,
}

impl Scrub<'_> {
    fn damage(&mut self, path: PathBuf, offset: u64, reason: impl Into<String>) {
        let reason = reason.into();
        let (key, seq, harmless) = (None, None, false);
        self.report.damage.push(Damage { path, offset, reason, key, seq, harmless });
    }

    /// Checks a segment; one that is not sealed is handed back for the verdict on the tail.
    fn segment(
        &mut self,
        id: u64,
        facts: &SegmentFacts,
        names: &[String],
    ) -> Result<Option<Unsealed>> {
        let path = log_path(self.dir, id);
        self.report.segments += 1;
        let file = match self.fs.open(Site::VerifyOpen, &path, OpenHow::Read) {
            Ok(file) => file,
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {
                self.damage(path, 0, "the file is missing");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let length = file.len(Site::VerifyLength)?;
        let header = read_header(&*file, length)?;
        let header = header.filter(|header| header.id == id && header.salt == facts.salt);
        let Some(seal) = facts.seal else {
            if let Err(KvsError::Corrupt { offset, reason, .. }) =
                refuse_cut(&path, length, facts.step)
            {
                self.damage(path, offset, reason);
            }
            return Ok(Some(Unsealed { id, facts: *facts, file, length, header }));
        };
        if length < seal.end {
            let reason = format!("the file ends here, but {} bytes were sealed", seal.end);
            self.damage(path.clone(), length, reason);
        }
        if header.is_none() {
            self.damage(path, 0, "its header does not match its checksum");
        }
        self.sealed(file, facts.salt, id, &seal, length, names)?;
        Ok(None)
    }

    /// Reads a sealed segment to its end, damaged places included.
    fn sealed(
        &mut self,
        file: Arc<dyn FsFile>,
        salt: u64,
        id: u64,
        seal: &Seal,
        length: u64,
        names: &[String],
    ) -> Result<()> {
        let kind = crate::segment::SegmentKind::Log;
        let header = SegmentHeader { kind, id, salt, base: 0, created_ms: 0, store_id: 0 };
        let segment = Segment::new(0, &header, true, file);
        segment.end.store(seal.end, Ordering::Relaxed);
        let before = self.report.bytes;
        let mut bad = Vec::new();
        let end = seal.end.min(length);
        let mut scanner = Scanner::new(&*segment.file, salt, SEGMENT_HEADER_BYTES as u64, end);
        let mut told = 0;
        loop {
            match scanner.next() {
                Ok(None) => break,
                Ok(Some(record)) => {
                    let marks = u64::from(record.header.kind == crate::record::Kind::Mark);
                    self.report.records += 1 - marks;
                    if record.offset - told > 1 << 20 {
                        told = record.offset;
                        (self.progress)(before + told, self.all);
                    }
                }
                Err(ScanStop::Bad { offset, reason }) => {
                    bad.push((offset, reason));
                    scanner.step_over(offset)?;
                }
                Err(ScanStop::Io(error)) => {
                    let (path, reason) = (error.path.clone(), error.to_string());
                    self.damage(path, scanner.offset(), reason);
                    break;
                }
            }
        }
        self.report.bytes += end;
        (self.progress)(self.report.bytes, self.all);
        self.name_damage(&segment, &bad, names);
        Ok(())
    }

    /// Reports the damaged places of a segment, with what its hint file knows of them, and the
    /// hint file itself if it does not fit.
    fn name_damage(&mut self, segment: &Segment, bad: &[(u64, &'static str)], names: &[String]) {
        let places = hint::read(self.fs, self.dir, segment);
        let path = hint_path(self.dir, segment.id);
        let is_there =
            path.file_name().is_some_and(|name| names.iter().any(|n| name == n.as_str()));
        if is_there && places.is_none() {
            let reason = "the hint file does not fit its segment; the next open does without it";
            self.damage(path, 0, reason);
            self.report.damage.last_mut().into_iter().for_each(|damage| damage.harmless = true);
        }
        if bad.is_empty() {
            return;
        }
        let known: HashMap<u64, (&[u8], u64)> = places
            .iter()
            .flat_map(Places::iter)
            .map(|(key, place)| (place.offset, (key, place.seq)))
            .collect();
        for &(offset, reason) in bad {
            self.damage(segment.file.path().to_owned(), offset, reason);
            if let (Some((key, seq)), Some(damage)) =
                (known.get(&offset), self.report.damage.last_mut())
            {
                (damage.key, damage.seq) = (Some(key.to_vec()), Some(*seq));
            }
        }
    }

    /// The verdict on what was not sealed.
    fn tail(&mut self, state: &State, unsealed: &[Unsealed]) -> Result<()> {
        match find_tail(self.dir, state, unsealed) {
            Ok(tail) => {
                self.report.records += tail.records;
                self.report.bytes += tail.end.saturating_sub(tail.start);
                self.report.torn_bytes = tail.torn_bytes;
            }
            Err(KvsError::Corrupt { path, offset, reason }) => self.damage(path, offset, reason),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
