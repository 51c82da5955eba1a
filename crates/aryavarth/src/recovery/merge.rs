//! Merging at the open: many small segments become one before the store goes on.
//!
//! Each start that writes leaves a sealed segment, however little it holds. The store would need a
//! descriptor for each of them, so an open that finds too many small ones copies their records into
//! one segment and drops them. The files are read one after another; none of them stays open.
//!
//! Invariants:
//! - A file is merged only after every record of it was read and found good. A damaged one stays
//!   as it is and is opened like a large one.
//! - The new manifest, which names the copy in place of its sources, makes the merge true; a crash
//!   before it leaves the sources, and the copy as a stray.
//! - The open needs no space for a merge: where the copy cannot be written, the sources are opened.
//! - An open that fails before its manifest is written takes its copies back: else each try would leave
//!   another one on a disk that is full already.

use super::{Opening, bad_at, load};
use crate::error::{KvsError, Result};
use crate::hint;
use crate::log::{Copied, small_segments};
use crate::manifest::{Seal, State};
use crate::record::Kind;
use crate::segment::{SEGMENT_HEADER_BYTES, Scanned, Scanner, blocks};
use crate::sync::Ordering;

/// A sealed segment that is merged.
#[derive(Clone, Copy)]
pub(super) struct Small {
    pub(super) id: u64,
    salt: u64,
    seal: Seal,
}

impl Opening<'_> {
    /// Chooses the segments to merge by their sizes in the manifest.
    pub(super) fn choose_small(&mut self) {
        let seals = self.state.segments.iter().filter_map(|(&id, facts)| Some((id, facts.seal?)));
        let sizes: Vec<(u64, u64)> = seals.map(|(id, seal)| (id, seal.end)).collect();
        let all: u64 = sizes.iter().map(|&(_, bytes)| bytes).sum();
        let limit =
            (all / 16).clamp(self.options.segment_bytes_min, self.options.segment_bytes_max);
        let facts = small_segments(sizes, limit).into_iter().filter_map(|id| {
            let facts = self.state.segments.get(&id)?;
            Some(Small { id, salt: facts.salt, seal: facts.seal? })
        });
        self.small = facts.collect();
    }

    /// Reads the chosen segments whole. A damaged one is not merged.
    pub(super) fn check_small(&mut self) -> Result<()> {
        for small in std::mem::take(&mut self.small) {
            let mut records = 0;
            let scanned = self.scan_small(&small, |_| {
                records += 1;
                Ok(())
            });
            match scanned {
                Ok(()) if small.seal.records == records => self.small.push(small),
                Ok(()) | Err(KvsError::Corrupt { .. }) => self.load_small(&small)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Copies the records of the chosen segments into one segment that takes their place in
    /// `state`.
    pub(super) fn merge_small(&mut self, state: &mut State) -> Result<()> {
        let small = std::mem::take(&mut self.small);
        if small.is_empty() {
            return Ok(());
        }
        let Some(copied) = self.copy_small(&small, state)? else {
            return small.iter().try_for_each(|small| self.load_small(small));
        };
        for small in &small {
            state.segments.remove(&small.id);
        }
        for edit in copied.edits() {
            state.apply(&edit).map_err(|reason| KvsError::corrupt(self.dir, 0, reason))?;
        }
        let Copied { segment, places, .. } = copied;
        let hint = hint::write(&*self.options.fs, self.dir, &segment, &places).unwrap_or(0);
        segment.disk_bytes.fetch_add(blocks(hint), Ordering::Relaxed);
        self.report.merged_segments = small.len() as u64;
        self.loaded.push((segment, places));
        Ok(())
    }

    /// The copy on disk; `None`, and nothing is left of it, if it cannot be written.
    fn copy_small(&mut self, small: &[Small], state: &mut State) -> Result<Option<Copied>> {
        let Ok(mut writer) = self.begin_copy(state) else { return Ok(None) };
        let fs = &*self.options.fs;
        let mut copy = || -> Result<Copied> {
            for small in small {
                self.scan_small(small, |record| Ok(writer.push(record).map(drop)?))?;
            }
            Ok(writer.finish(fs, self.dir, 0)?)
        };
        match copy() {
            Ok(copied) => Ok(Some(copied)),
            Err(error) => {
                self.give_up_copy(writer);
                // A record that was good a moment ago and is not any more is no reason to go on.
                if matches!(error, KvsError::Corrupt { .. }) { Err(error) } else { Ok(None) }
            }
        }
    }

    /// Opens a chosen segment as if it were a large one.
    fn load_small(&mut self, small: &Small) -> Result<()> {
        let Small { id, salt, seal } = *small;
        let (header, file, is_overlong) = self.open_sealed(id, salt, &seal)?;
        self.overlong.extend(is_overlong.then_some((id, seal.end)));
        let segment = self.settled(&header, file, &seal)?;
        let (places, from_hint) = load(&*self.options.fs, self.dir, &segment, &seal)?;
        self.report.hints_used += u64::from(from_hint);
        self.loaded.push((segment, places));
        Ok(())
    }

    /// Visits the records of a chosen segment, marks excepted; its file is closed afterwards.
    fn scan_small(
        &self,
        small: &Small,
        mut visit: impl FnMut(&Scanned<'_>) -> Result<()>,
    ) -> Result<()> {
        let (header, file, _) = self.open_sealed(small.id, small.salt, &small.seal)?;
        let from = SEGMENT_HEADER_BYTES as u64;
        let mut scanner = Scanner::new(&*file, header.salt, from, small.seal.end);
        while let Some(record) = scanner.next().map_err(|stop| bad_at(file.path(), stop))? {
            if record.header.kind != Kind::Mark {
                visit(&record)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Wait;
    use crate::fs::{Fault, Fs, OpenHow, SimFs, Site};
    use crate::log::Log;
    use crate::options::Options;
    use crate::record::Batch;
    use crate::recovery;
    use crate::segment::log_path;
    use crate::sync::Arc;

    const SEGMENTS: u32 = 300;

    fn open(fs: &SimFs) -> (Log, recovery::DirLock, recovery::Recovery) {
        let fs = Arc::new(fs.clone());
        let options = Options { fs, background: false, ..Options::default() };
        recovery::open("/store".as_ref(), &options).unwrap()
    }

    /// A store of many small segments, as versions before the merge left it.
    fn old_store() -> SimFs {
        let fs = SimFs::new();
        let (log, _lock, _) = open(&fs);
        for n in 0..SEGMENTS {
            log.write(0, Batch::new().put(n.to_le_bytes(), "old")).unwrap();
            log.write(0, Batch::new().put("newest", n.to_le_bytes()).delete("gone")).unwrap();
            log.seal_active().unwrap();
        }
        log.close().unwrap();
        assert_eq!(log.table.all().len(), SEGMENTS as usize);
        fs
    }

    fn check(log: &Log) {
        for n in 0..SEGMENTS {
            let value =
                log.find(0, &n.to_le_bytes(), Wait::Yes).unwrap().0.map(|stored| stored.value);
            assert_eq!(value.as_deref(), Some(&b"old"[..]), "key {n}");
        }
        let newest = log.find(0, b"newest", Wait::Yes).unwrap().0.map(|stored| stored.value);
        assert_eq!(newest, Some((SEGMENTS - 1).to_le_bytes().to_vec()));
    }

    #[test]
    fn an_open_merges_what_many_starts_left() {
        let fs = old_store();
        for start in 0..2 {
            let (log, _lock, report) = open(&fs);
            assert_eq!(report.merged_segments, if start == 0 { u64::from(SEGMENTS) } else { 0 });
            assert_eq!(log.table.all().len(), 1);
            check(&log);
            log.close().unwrap();
        }
    }

    #[test]
    fn a_merge_that_finds_no_space_is_left_out() {
        let fs = old_store();
        fs.fail_next(Site::CopyWrite, Fault::NoSpace);
        let (log, _lock, report) = open(&fs);
        assert_eq!(report.merged_segments, 0);
        check(&log);
    }

    /// Each try of an open that found no space left its copy behind, until the disk was full of them.
    #[test]
    fn an_open_that_fails_after_its_merge_takes_the_copy_back() {
        let fs = old_store();
        let names = || {
            let mut names = fs.list(Site::DirList, "/store".as_ref()).unwrap();
            names.sort();
            names
        };
        let before = names();
        for site in [Site::ManifestCreate, Site::ManifestAllocate, Site::CurrentCreate] {
            // The store is closed without a reserve that the open could give up.
            fs.fail_next(site, Fault::NoSpace);
            let options =
                Options { fs: Arc::new(fs.clone()), background: false, ..Options::default() };
            let error = recovery::open("/store".as_ref(), &options).unwrap_err();
            assert!(error.is_full(), "{error}");
            assert_eq!(names(), before, "after no space at {site:?}");
        }
        let (log, _lock, report) = open(&fs);
        assert_eq!(report.merged_segments, u64::from(SEGMENTS));
        check(&log);
    }

    /// The damage is named when its key is read, as it would be without a merge.
    #[test]
    fn a_damaged_segment_is_not_merged_and_costs_the_others_nothing() {
        let fs = old_store();
        let path = log_path("/store".as_ref(), 1);
        let file = fs.open(Site::SegmentOpen, &path, OpenHow::Write).unwrap();
        let mut bytes = vec![0; file.len(Site::SegmentLength).unwrap() as usize];
        file.read_at(Site::RecordRead, &mut bytes, 0).unwrap();
        let at = bytes.windows(3).position(|window| window == b"old").unwrap();
        file.write_at(Site::FrameWrite, b"0ld", at as u64).unwrap();
        let options = Options { fs: Arc::new(fs.clone()), background: false, ..Options::default() };
        match recovery::open("/store".as_ref(), &options) {
            Ok((log, _lock, report)) => {
                assert_eq!(report.merged_segments, u64::from(SEGMENTS) - 1);
                let damaged = |n: &u32| log.find(0, &n.to_le_bytes(), Wait::Yes).is_err();
                assert_eq!((0..SEGMENTS).filter(damaged).count(), 1);
            }
            // Without a hint file the open has to read the record.
            Err(error) => {
                assert!(matches!(error, KvsError::Corrupt { path: at, .. } if at == path));
            }
        }
    }
}
