//! Dead records among the damage of a directory: those whose key has a newer record that is whole.
//!
//! A record that rots costs no data once its key was written again. The verdict on such a place is
//! its own, so that a store which has lost nothing does not count as damaged until compaction comes
//! to the file.
//!
//! Invariants:
//! - A record counts as dead only if a checksum vouches for its key and its sequence number (those of
//!   the hint file), and a record with a higher number was read and found whole.
//! - Without a whole manifest no record counts as dead: nothing tells which files are the store's.

use std::collections::HashMap;

use super::hole::walk;
use super::survey::Survey;
use crate::damage::{Damage, Verdict};
use crate::segment::Scanner;

/// The highest sequence number of a whole record, by generation and key.
type Newest = HashMap<u64, HashMap<Vec<u8>, u64>>;

/// Marks the dead records in a survey's report. Reads everything once more if there is damage that
/// may be dead, and nothing otherwise.
pub(super) fn mark(survey: &mut Survey) {
    if !survey.is_whole {
        return;
    }
    let mut newest = Newest::new();
    for (generation, key, _) in survey.report.damage.iter().filter_map(certain) {
        newest.entry(generation).or_default().insert(key.to_vec(), 0);
    }
    if newest.is_empty() {
        return;
    }
    for source in &survey.sources {
        for piece in &source.pieces {
            let mut scanner = Scanner::patient(&*source.file, source.salt, piece.start, piece.end);
            walk(&mut scanner, piece.end, u64::MAX, |record, key| {
                let known = newest.get_mut(&record.generation).and_then(|keys| keys.get_mut(key));
                if let Some(known) = known {
                    *known = record.header.seq.max(*known);
                }
            });
        }
    }
    for damage in &mut survey.report.damage {
        let is_dead = certain(damage).is_some_and(|(generation, key, seq)| {
            newest.get(&generation).and_then(|keys| keys.get(key)).is_some_and(|newer| *newer > seq)
        });
        if is_dead {
            damage.verdict = Verdict::Dead;
        }
    }
}

/// Generation, key and sequence number of a damaged record, where a checksum vouches for them.
fn certain(damage: &Damage) -> Option<(u64, &[u8], u64)> {
    let is_certain = damage.key_is_certain && damage.removal.is_some();
    let (key, seqs) = (damage.key.as_deref()?, damage.seqs.as_ref()?);
    is_certain.then_some((damage.generation, key, *seqs.end()))
}
