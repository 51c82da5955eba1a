//! Reading the sources of a survey: each record once, the holes between them named.
//!
//! Invariants:
//! - Sources may be read by several threads at a time; each is read by one.
//! - The hints of one damaged segment at a time are in memory.

use super::VerifyReport;
use super::hole::{Hole, Known, describe, walk};
use super::survey::{Source, Survey, Visitor};
use crate::damage::{Damage, Verdict};
use crate::hint;
use crate::manifest::Seal;
use crate::record::Kind;
use crate::segment::{Scanner, hint_path};
use crate::sync::{AtomicU64, Mutex, Ordering, Rank, lock};

/// How often progress is told.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Everything being read.
pub(super) struct Reading<'a, V> {
    survey: &'a Survey,
    visitor: &'a V,
    all: u64,
    done: AtomicU64,
    naming: Mutex<()>,
}

impl<'a, V: Visitor> Reading<'a, V> {
    pub(super) fn new(survey: &'a Survey, visitor: &'a V, all: u64) -> Reading<'a, V> {
        Reading {
            survey,
            visitor,
            all,
            done: AtomicU64::new(0),
            naming: Mutex::new(Rank::Naming, ()),
        }
    }

    /// Reads one source, holes included.
    pub(super) fn source(&self, number: usize) -> VerifyReport {
        let source = &self.survey.sources[number];
        let mut report = VerifyReport::default();
        let mut holes = Vec::new();
        for piece in &source.pieces {
            let mut told = piece.start;
            let mut scanner = Scanner::patient(&*source.file, source.salt, piece.start, piece.end);
            holes.extend(walk(&mut scanner, piece.end, u64::MAX, |record, key| {
                let offset = record.offset;
                if record.header.kind != Kind::Mark {
                    report.records += 1;
                    self.visitor.record(number, record, key);
                }
                if offset - told > PROGRESS_BYTES {
                    self.tell(offset - told);
                    told = offset;
                }
            }));
            self.tell(piece.end - told);
            report.bytes += piece.end - piece.start;
        }
        self.name_damage(source, &holes, &mut report);
        report
    }

    fn tell(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.visitor.progress(done, self.all);
    }

    /// Reports the holes of a source, and its hint file if that does not fit.
    fn name_damage(&self, source: &Source, holes: &[Hole], report: &mut VerifyReport) {
        let Survey { fs, dir, names, .. } = self.survey;
        let path = source.file.path();
        let has_hint = names.contains(&format!("{}.hint", source.id));
        let seal = source.seal.filter(|_| has_hint);
        let (id, salt) = (source.id, source.salt);
        let fits = |seal: Seal| hint::fits(&**fs, dir, id, salt, seal.end);
        let mut push = |damage: Damage| {
            self.visitor.damage(&damage);
            report.push(damage);
        };
        if seal.is_some_and(|seal| !fits(seal)) {
            let reason = "the hint file does not fit its segment; the next open does without it";
            push(Damage {
                verdict: Verdict::Harmless,
                ..Damage::new(&hint_path(dir, id), 0, reason)
            });
        }
        if holes.is_empty() {
            return;
        }
        // Only a damaged file's hint is worth the memory, and only one at a time.
        let _one_at_a_time = lock(&self.naming);
        let places = seal.and_then(|seal| hint::read_of(&**fs, dir, id, salt, seal.end));
        let known = Known { rises: source.rises, seqs: source.seqs(), places };
        let by_offset = known.by_offset();
        for hole in holes {
            describe(hole, path, &known, by_offset.as_ref(), &mut push);
        }
    }
}
