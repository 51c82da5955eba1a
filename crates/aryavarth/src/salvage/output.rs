//! The output of a salvage: a new store, or nothing.
//!
//! Invariants:
//! - The directory was empty, but for entries of the system, so every other file in it is of this
//!   salvage.
//! - `CURRENT` comes last, and goes first where the salvage fails.

use std::fmt;
use std::io;
use std::path::Path;

use crate::error::{KvsError, Result};
use crate::fs::{Fs, IoError, Site, is_of_the_system};
use crate::hint;
use crate::index::{TABLE_GENERATION, table_key, table_value};
use crate::log::CopyWriter;
use crate::manifest::{Edit, Manifest, State};
use crate::options::Options;
use crate::record::{Extra, Frame, HEADER_BYTES, Header, Parts, SEQ_MAX};
use crate::recovery::{Claimed, ENGINE, claim};
use crate::segment::{Scanned, SegmentHeader, SegmentKind};
use crate::sync::Arc;

/// A file of the new store ends at this size.
const COPY_BYTES_MAX: u64 = 256 << 20;

/// Makes and locks the directory of the new store.
pub(super) fn claim_empty(out: &Path, options: &Options) -> Result<Claimed> {
    let is_new = options.fs.create_dir(Site::SalvageDirCreate, out)?;
    let names = if is_new { Vec::new() } else { options.fs.list(Site::SalvageDirList, out)? };
    if !names.iter().all(|name| is_of_the_system(name)) {
        let what = format!("{} is not empty; choose a new directory", out.display());
        return Err(KvsError::InvalidOption(what));
    }
    claim(out, options, ENGINE)
}

/// Removes the files of the new store, `CURRENT` first, and says so in the error. The directory
/// held nothing else that is not the system's.
pub(super) fn undo(fs: &dyn Fs, dir: &Path, out: &Path, error: KvsError) -> KvsError {
    let names = fs.list(Site::SalvageUndoList, out);
    let is_clear = names.is_ok_and(|mut names| {
        names.retain(|name| !is_of_the_system(name));
        names.sort_by_key(|name| name != "CURRENT");
        names.iter().all(|name| fs.remove(Site::SalvageUndo, &out.join(name)).is_ok())
    });
    let KvsError::Io(error) = error else { return error };
    let (site, path, kind) = (error.site, error.path.clone(), error.source.kind());
    let (out, dir) = (out.display(), dir.display());
    let left = if is_clear {
        format!("The unfinished copy in {out} was removed")
    } else {
        format!("{out} holds the beginning of a copy, which is no store: remove it")
    };
    let told = format!(
        "{}. {left}. Nothing in {dir} was changed; salvage it into a directory on a disk with \
         more space, or a better one",
        error.source
    );
    let source = io::Error::new(kind, Undone { told, cause: error });
    IoError { site, path, source }.into()
}

/// The reason why a salvage failed, and the state of its output.
#[derive(Debug)]
struct Undone {
    told: String,
    cause: Arc<IoError>,
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told)
    }
}

impl std::error::Error for Undone {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause.source)
    }
}

/// The new store in the making.
pub(super) struct Writer<'a> {
    pub(super) out: &'a Path,
    pub(super) options: &'a Options,
    pub(super) state: State,
    copy: Option<CopyWriter>,
    pub(super) bytes: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a Path, options: &'a Options, state: State) -> Writer<'a> {
        Writer { out, options, state, copy: None, bytes: 0 }
    }

    pub(super) fn push(&mut self, record: &Scanned<'_>) -> Result<()> {
        if self.copy.as_ref().is_some_and(|copy| copy.bytes() >= COPY_BYTES_MAX) {
            self.finish_copy()?;
        }
        let copy = match &mut self.copy {
            Some(copy) => copy,
            none => {
                let id = self.state.file_id;
                let header = SegmentHeader {
                    kind: SegmentKind::Copy,
                    id,
                    salt: self.options.seed.rotate_left(17)
                        ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                    base: 0,
                    created_ms: self.options.clock.now_ms(),
                    store_id: self.state.store_id,
                };
                self.state.file_id += 1;
                none.insert(CopyWriter::create(&*self.options.fs, self.out, header, 0)?)
            }
        };
        copy.push(record)?;
        self.bytes += record.header.record_bytes() as u64;
        Ok(())
    }

    /// Writes the generation of a space, as a record with this number.
    pub(super) fn push_space(&mut self, space: u32, generation: u64, seq: u64) -> Result<()> {
        let extra = Extra { generation: TABLE_GENERATION, expires_at: None };
        let mut frame = Frame::new(0, 0);
        frame.push(extra, &table_key(space), Some(&table_value(generation)));
        frame.place(seq, 0, 0);
        let bytes: &[u8] = frame.with_front(0);
        let header = bytes.first_chunk().and_then(|bytes| Header::decode(bytes, 0, 0));
        let payload =
            header.and_then(|h| bytes.get(HEADER_BYTES..HEADER_BYTES + h.payload_bytes()));
        let parts = header.zip(payload).and_then(|(header, payload)| header.parts(payload));
        if let (Some(header), Some(payload), Some(Parts { extra, key, value })) =
            (header, payload, parts)
        {
            self.push(&Scanned { offset: 0, header, payload, extra, key, value })?;
        }
        Ok(())
    }

    fn finish_copy(&mut self) -> Result<()> {
        let Some(mut copy) = self.copy.take() else {
            return Ok(());
        };
        let fs = &*self.options.fs;
        // Each key has one record here, but a copy without promises holds in any case.
        let copied = copy.finish(fs, self.out, 0)?;
        for edit in copied.edits() {
            self.state.apply(&edit).map_err(|reason| KvsError::corrupt(self.out, 0, reason))?;
        }
        // Without it the first open takes longer, that is all.
        drop(hint::write(fs, self.out, &copied.segment, &copied.places));
        Ok(())
    }

    /// Makes a store of it, as if it had just been closed.
    pub(super) fn finish(mut self, old: &State, seq: u64) -> Result<()> {
        self.finish_copy()?;
        let fs = &*self.options.fs;
        self.state.seq = seq.max(self.state.seq).min(SEQ_MAX);
        self.state.clock = old.clock;
        let mut manifest = Manifest::create(fs, self.out, 1, self.state)?;
        Ok(manifest.append(fs, &[Edit::Clean])?)
    }
}
