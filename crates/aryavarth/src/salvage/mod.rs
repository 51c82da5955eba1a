//! Salvage: all records of a damaged directory that are proven whole, as a new store.
//!
//! The damaged directory is surveyed as `verify` does it, twice: first to learn which record of
//! each key is the newest, then to copy those, with their sequence numbers. A record counts if its
//! header and its payload match their checksums at the place where it lies; nothing else does, and
//! nothing is guessed or corrected.
//!
//! A lost record may have been newer than the one that is left. So:
//! - A removal of which only the hint file still tells is respected: its key is not brought back.
//! - A key whose newest record is known to be lost keeps its older value, and is listed as stale.
//! - Where it is not known whose records were lost, the keys older than these are counted.
//! - Keys of a generation of which no record that is left says whose it is are saved in a space of
//!   their own, which the report names (table.rs).
//! - Of a batch of which a part is lost, the whole records are kept: a salvage is for the data,
//!   and can undo half a batch but not bring it back. The damage says that it tears a batch.
//!
//! Invariants:
//! - Nothing in the damaged directory is changed or created.
//! - The new store is synced, and becomes one by its last step: an unfinished one does not open.
//! - A salvage that fails removes its files again: half a copy is not to be taken for a store.

mod output;
mod table;

use std::collections::HashMap;
use std::path::{Component, Path};

use output::{Writer, claim_empty, undo};
use table::{Losses, Mended, mend};

use crate::damage::Damage;
use crate::error::{KvsError, Result};
use crate::fs::{Fs, Site};
use crate::index::{SpaceTable, TABLE_GENERATION};
use crate::options::Options;
use crate::record::{Header, Kind, SEQ_MAX};
use crate::recovery::Claimed;
use crate::scrub::{Survey, VerifyReport, Visitor, threads};
use crate::segment::{Checked, ScanStop, Scanner};
use crate::sync::{Apart, Mutex, Rank, lock};

/// The outcome of [`salvage`]: read, saved, and lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SalvageReport {
    /// The reading, and all damage.
    pub read: VerifyReport,
    /// Whether the manifest is whole and all files that it names are there. If not, nothing tells
    /// whether other files are missing, and a removed key may be back where only a file that had
    /// been given up still holds it.
    pub manifest_is_whole: bool,
    /// Keys saved, each with its newest value that is whole.
    pub keys: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// Keys whose newest record is lost, so that an older value was saved.
    pub stale: Vec<Stale>,
    /// Keys saved that are older than some lost record whose key is unknown: their value
    /// may be old, or they may have been removed.
    pub doubtful: u64,
    /// Keys with a higher sequence number than this are not doubtful.
    pub doubtful_seq_max: u64,
}

/// A key that was saved with an older value than its last.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stale {
    /// The generation that the key belongs to; see [`Damage::generation`].
    pub generation: u64,
    /// The key.
    pub key: Vec<u8>,
    /// The sequence number of the value that was saved.
    pub seq: u64,
    /// The sequence number of the newest one, which is lost.
    pub lost_seq: u64,
}

/// Something by generation and key.
type Keys<T> = HashMap<(u64, Box<[u8]>), T>;

/// The newest whole record of a key.
struct Newest {
    seq: u64,
    source: usize,
    offset: u64,
    /// Bytes of the record.
    bytes: u32,
    kind: Kind,
    is_saved: bool,
}

/// The findings of the first reading.
#[derive(Default)]
struct Learnt {
    newest: Keys<Newest>,
    /// Per key the newest of its lost records that are known, and whether that is a removal.
    lost: Keys<(u64, bool)>,
    /// The highest number that a lost record of an unknown key may have.
    doubtful_seq_max: u64,
    seq_max: u64,
    losses: Losses,
}

impl Learnt {
    fn record(&mut self, source: usize, record: &Checked, key: &[u8]) {
        let Checked { offset, generation, header } = *record;
        let Header { seq, kind, .. } = header;
        let bytes = header.record_bytes() as u32;
        self.seq_max = self.seq_max.max(seq);
        let newest = || Newest { seq, source, offset, bytes, kind, is_saved: false };
        let known = self.newest.entry((generation, key.into())).or_insert_with(newest);
        if known.seq < seq {
            *known = newest();
        }
    }

    fn damage(&mut self, damage: &Damage) {
        let Some(seqs) = &damage.seqs else {
            return;
        };
        let seq = *seqs.end();
        self.losses.of_table |= damage.generation == TABLE_GENERATION;
        if damage.key.is_none() {
            self.losses.unknown_from = self.losses.unknown_from.min(*seqs.start());
        }
        match (&damage.key, damage.removal) {
            (Some(key), Some(removal)) if damage.key_is_certain => {
                let lost = self.lost.entry((damage.generation, key.as_slice().into())).or_default();
                *lost = (*lost).max((seq, removal));
                self.seq_max = self.seq_max.max(seq);
            }
            _ => self.doubtful_seq_max = self.doubtful_seq_max.max(seq),
        }
    }
}

/// Learns from the first reading, and tells how far it is.
struct Learner<F> {
    learnt: Mutex<Learnt>,
    progress: Mutex<F>,
}

impl<F: FnMut(u64, u64) + Send> Visitor for Learner<F> {
    fn record(&self, source: usize, record: &Checked, key: &[u8]) {
        lock(&self.learnt).record(source, record, key);
    }

    fn damage(&self, damage: &Damage) {
        lock(&self.learnt).damage(damage);
    }

    fn progress(&self, done: u64, all: u64) {
        let mut progress = lock(&self.progress);
        let _apart = Apart::begin();
        progress(done, 2 * all);
    }
}

/// Reads the damaged store in `dir` and writes all that can still be proven whole into a new store
/// in `out`, which must be empty or not exist. Nothing in `dir` is changed.
///
/// `progress` is called with the bytes read so far and the bytes in all; everything is read twice.
/// Memory: all keys, and the largest record.
///
/// # Errors
/// [`KvsError::Locked`] if a process has `dir` open, [`KvsError::NotOurs`] if there is nothing of
/// a store in it, [`KvsError::WrongEngine`], [`KvsError::UnknownFormat`];
/// [`KvsError::InvalidOption`] if `out` cannot be used, and [`KvsError::Io`] if it cannot be
/// written: then the new files in it are removed again, and a larger or better disk may help. Bytes
/// of `dir` that cannot be read are no error but damage, in the report.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let (dir, out) = (dir.path().join("damaged"), dir.path().join("saved"));
/// use aryavarth::{KvStore, Options, salvage};
///
/// let store = KvStore::open(&dir)?;
/// store.put(b"k", b"v")?;
/// store.close()?;
/// let report = salvage(&dir, &out, &Options::default(), |_done, _all| {})?;
/// assert_eq!((report.keys, report.read.damaged), (1, 0));
/// assert_eq!(KvStore::open(&out)?.read(b"k")?, Some(b"v".to_vec()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn salvage(
    dir: impl AsRef<Path>,
    out: impl AsRef<Path>,
    options: &Options,
    mut progress: impl FnMut(u64, u64) + Send,
) -> Result<SalvageReport> {
    let (dir, out) = (dir.as_ref(), out.as_ref());
    options.check()?;
    refuse_inside(&*options.fs, dir, out)?;
    let mut survey = Survey::open(&*options.fs, dir)?;
    let Claimed { fs, lock, state, .. } = claim_empty(out, options)?;
    let options = &Options { fs, ..options.clone() };
    let writer = Writer::new(out, options, state);
    let done = save_all(&mut survey, writer, &mut progress);
    let done = done.map_err(|error| undo(&*options.fs, dir, out, error));
    drop(lock);
    done
}

/// Reads the damaged store twice and writes its whole records.
fn save_all(
    survey: &mut Survey,
    mut writer: Writer<'_>,
    mut progress: &mut (impl FnMut(u64, u64) + Send),
) -> Result<SalvageReport> {
    let learnt = Learnt {
        doubtful_seq_max: if survey.is_whole { 0 } else { SEQ_MAX },
        seq_max: survey.state.seq.saturating_sub(1),
        ..Learnt::default()
    };
    let learner = Learner {
        learnt: Mutex::new(Rank::Learnt, learnt),
        progress: Mutex::new(Rank::Progress, &mut progress),
    };
    survey.read(threads(writer.options), &learner);
    let learnt = learner.learnt.into_inner();
    let mut report = SalvageReport {
        manifest_is_whole: survey.is_whole,
        doubtful_seq_max: learnt.doubtful_seq_max,
        ..SalvageReport::default()
    };
    let Learnt { mut newest, lost, mut seq_max, losses, .. } = learnt;
    let Mended { table, spaces, damage } = mend(survey, &newest, losses, seq_max + 1)?;
    judge(&mut newest, &lost, &table, &mut report);
    save(survey, &mut newest, &mut writer, &mut progress)?;
    for space in spaces {
        seq_max += 1;
        writer.push_space(space, table.generation(space), seq_max)?;
    }
    report.bytes = writer.bytes;
    writer.finish(&survey.state, seq_max + 1)?;
    report.read = std::mem::take(&mut survey.report);
    let dir = survey.dir();
    for damage in damage {
        report.read.push(damage);
    }
    for ((generation, key), _) in newest.iter().filter(|(_, newest)| !newest.is_saved) {
        report.keys -= u64::from(*generation != TABLE_GENERATION);
        let mut damage = Damage::new(dir, 0, "a record that was whole could not be read again");
        (damage.key, damage.key_is_certain) = (Some(key.to_vec()), true);
        damage.generation = *generation;
        report.read.push(damage);
    }
    Ok(report)
}

/// A directory inside the damaged one would change that, by whatever way its path leads there.
fn refuse_inside(fs: &dyn Fs, dir: &Path, out: &Path) -> Result<()> {
    let [real_dir, real_out] = [dir, out].map(|path| fs.real_path(Site::SalvagePath, path));
    let (real_dir, real_out) = (real_dir?, real_out?);
    // A directory that does not exist yet has no parent to go up to.
    let is_vague = real_out.components().any(|part| part == Component::ParentDir);
    if is_vague || real_out.starts_with(&real_dir) {
        let what = format!("{} lies in {}, which is not changed", out.display(), dir.display());
        return Err(KvsError::InvalidOption(what));
    }
    Ok(())
}

/// Decides which keys are saved: leaves the keys to save in `newest`, and counts those that may be
/// old.
fn judge(
    newest: &mut Keys<Newest>,
    lost: &Keys<(u64, bool)>,
    table: &SpaceTable,
    report: &mut SalvageReport,
) {
    let given = table.generations();
    newest.retain(|key, newest| {
        if !table.is_alive(key.0, &given) {
            return false;
        }
        let lost = lost.get(key).filter(|(lost_seq, _)| *lost_seq > newest.seq);
        let lost_removal = lost.is_some_and(|(_, removal)| *removal);
        if newest.kind != Kind::Put || lost_removal {
            return false;
        }
        if let Some(&(lost_seq, _)) = lost {
            let (generation, key) = (key.0, key.1.to_vec());
            report.stale.push(Stale { generation, key, seq: newest.seq, lost_seq });
        }
        report.doubtful += u64::from(newest.seq <= report.doubtful_seq_max);
        true
    });
    report.stale.sort_by(|a, b| (a.generation, &a.key).cmp(&(b.generation, &b.key)));
    report.keys =
        newest.keys().filter(|(generation, _)| *generation != TABLE_GENERATION).count() as u64;
}

/// Reads everything again and copies the newest record of each key.
fn save(
    survey: &Survey,
    newest: &mut Keys<Newest>,
    writer: &mut Writer<'_>,
    progress: &mut impl FnMut(u64, u64),
) -> Result<()> {
    let pieces = survey.sources.iter().flat_map(|source| &source.pieces);
    let all: u64 = pieces.map(|piece| piece.end - piece.start).sum();
    let mut done = all;
    for (number, source) in survey.sources.iter().enumerate() {
        for piece in &source.pieces {
            let mut scanner = Scanner::patient(&*source.file, source.salt, piece.start, piece.end);
            loop {
                match scanner.next() {
                    Ok(None) => break,
                    Ok(Some(record)) => {
                        let known = newest.get_mut(&(record.extra.generation, record.key.into()));
                        let known = known.filter(|known| {
                            known.source == number && known.offset == record.offset
                        });
                        if let Some(known) = known {
                            writer.push(&record)?;
                            known.is_saved = true;
                        }
                    }
                    Err(ScanStop::Bad { offset, .. }) => scanner.step_over(offset)?,
                    Err(ScanStop::Io(error)) => return Err(error.into()),
                }
            }
            done += piece.end - piece.start;
            progress(done, 2 * all);
        }
    }
    Ok(())
}
