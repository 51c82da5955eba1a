//! Opening the files of segments: length and header checked, keys and places of sealed ones read.
//!
//! Invariant: a sealed file is at least as long as its seal says, and the salt of its header is the
//! manifest's.

use std::path::Path;

use super::{MISSING, Opening, Unsealed, bad, read_header, refuse_cut};
use crate::error::{KvsError, Result};
use crate::fs::{Fs, FsFile, OpenHow, Site};
use crate::hint::{self, Places};
use crate::manifest::Seal;
use crate::segment::{Segment, SegmentHeader, blocks, log_path};
use crate::sync::{Arc, Mutex, Ordering, Rank, lock};

impl Opening<'_> {
    /// Opens the file of every segment that stays and checks its length and header.
    pub(super) fn open_segments(&mut self) -> Result<()> {
        for (&id, facts) in &self.state.segments {
            match facts.seal {
                Some(_) if self.small.iter().any(|small| small.id == id) => {}
                Some(seal) => {
                    let (header, file, is_overlong) = self.open_sealed(id, facts.salt, &seal)?;
                    self.overlong.extend(is_overlong.then_some((id, seal.end)));
                    let segment = self.settled(&header, file, &seal)?;
                    self.sealed.push((segment, seal));
                }
                None => {
                    let (file, length, header) = self.open_log(id, facts.salt)?;
                    refuse_cut(&log_path(self.dir, id), length, facts.step)?;
                    self.unsealed.push(Unsealed { id, facts: *facts, file, length, header });
                }
            }
        }
        Ok(())
    }

    /// Opens a segment's file; returns its length, and its header if that is whole.
    fn open_log(
        &self,
        id: u64,
        salt: u64,
    ) -> Result<(Arc<dyn FsFile>, u64, Option<SegmentHeader>)> {
        let path = log_path(self.dir, id);
        let file = self.options.fs.open(Site::SegmentOpen, &path, OpenHow::Read);
        let file = file.map_err(|error| match error.source.kind() {
            std::io::ErrorKind::NotFound => KvsError::corrupt(&path, 0, MISSING),
            _ => error.into(),
        })?;
        let length = file.len(Site::SegmentLength)?;
        let header = read_header(&*file, length)?;
        let header = header.filter(|header| header.id == id && header.salt == salt);
        Ok((file, length, header))
    }

    /// Opens a sealed segment's file; says whether it is longer than its seal.
    pub(super) fn open_sealed(
        &self,
        id: u64,
        salt: u64,
        seal: &Seal,
    ) -> Result<(SegmentHeader, Arc<dyn FsFile>, bool)> {
        let (file, length, header) = self.open_log(id, salt)?;
        if length < seal.end {
            let reason = format!("the file ends here, but {} bytes were sealed", seal.end);
            return Err(KvsError::corrupt(file.path(), length, reason));
        }
        let Some(header) = header else {
            let reason = "its header does not match its checksum";
            return Err(KvsError::corrupt(file.path(), 0, reason));
        };
        Ok((header, file, length > seal.end))
    }

    /// A segment of which all is durable, as the running store knows it.
    pub(super) fn settled(
        &self,
        header: &SegmentHeader,
        file: Arc<dyn FsFile>,
        seal: &Seal,
    ) -> Result<Arc<Segment>> {
        let Some(index) = self.table.reserve() else {
            return Err(KvsError::corrupt(self.dir, 0, "it has more than 65,536 segments"));
        };
        let segment = Segment::new(index, header, true, file);
        segment.end.store(seal.end, Ordering::Relaxed);
        segment.seq_min.store(seal.seq_min, Ordering::Relaxed);
        segment.seq_max.store(seal.seq_max, Ordering::Relaxed);
        segment.purged_seq.store(seal.purged_seq, Ordering::Relaxed);
        segment.disk_bytes.store(blocks(seal.end), Ordering::Relaxed);
        Ok(Arc::new(segment))
    }

    /// Reads the keys and places of the sealed segments, several at a time.
    pub(super) fn load_sealed(&mut self) -> Result<()> {
        let threads = if self.options.background {
            std::thread::available_parallelism().map_or(1, |n| n.get().min(8))
        } else {
            1
        };
        let queue = Mutex::new(Rank::Queue, self.sealed.iter());
        let results = Mutex::new(Rank::Results, Vec::new());
        let work = || {
            while let Some((segment, seal)) = { lock(&queue).next() } {
                let loaded = load(&*self.options.fs, self.dir, segment, seal);
                lock(&results).push((Arc::clone(segment), loaded));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.min(self.sealed.len().max(1)) {
                scope.spawn(work);
            }
            work();
        });
        for (segment, loaded) in results.into_inner() {
            let (places, from_hint) = loaded?;
            self.report.hints_used += u64::from(from_hint);
            self.loaded.push((segment, places));
        }
        Ok(())
    }
}

/// The keys and places of a sealed segment, and whether they came from its hint file.
pub(super) fn load(
    fs: &dyn Fs,
    dir: &Path,
    segment: &Segment,
    seal: &Seal,
) -> Result<(Places, bool)> {
    if let Some(places) = hint::read(fs, dir, segment)
        && places.len() as u64 == seal.records
    {
        segment.disk_bytes.fetch_add(blocks(places.hint_bytes()), Ordering::Relaxed);
        return Ok((places, true));
    }
    let places = hint::scan(segment, seal.end).map_err(|stop| bad(segment, stop))?;
    if places.len() as u64 != seal.records {
        let reason = format!("{} records were sealed, {} are here", seal.records, places.len());
        return Err(KvsError::corrupt(segment.file.path(), 0, reason));
    }
    Ok((places, false))
}
