//! The table of spaces of a damaged store: its whole records, and homes for generations whose record is
//! lost.
//!
//! A record of one space that is lost concerns that space alone: it has the generation that its newest
//! whole record names, or that of its own number. If another space has that generation by a newer
//! record, the space is empty.
//!
//! ```text
//! generation with keys, of no space:   emptied and not yet purged, or its space's record is lost?
//!   a record of the table is lost                       -> a space of its own
//!   its number is higher than any that the table names  -> a space of its own
//!   a record of an unknown key is lost, older than the
//!   newest of its keys                                  -> a space of its own
//!   otherwise                                           -> it was emptied: its keys are left out
//! ```
//!
//! Invariants:
//! - Nothing is guessed: a generation without a record gets a space that never had keys, and the report
//!   names both.
//! - The table that is written contradicts nothing.

use std::collections::BTreeMap;

use super::{Keys, Newest};
use crate::damage::Damage;
use crate::error::Result;
use crate::index::{SpaceTable, TABLE_GENERATION, table_key, table_record_name};
use crate::record::Kind;
use crate::scrub::Survey;
use crate::segment::{ScanStop, Scanner};

/// The losses that the table may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Losses {
    /// Whether a record of the table is lost.
    pub(super) of_table: bool,
    /// The lowest sequence number that a lost record of an unknown key may have.
    pub(super) unknown_from: u64,
}

impl Default for Losses {
    fn default() -> Self {
        Losses { of_table: false, unknown_from: u64::MAX }
    }
}

/// A table that can be opened.
pub(super) struct Mended {
    pub(super) table: SpaceTable,
    /// The spaces that need a new record.
    pub(super) spaces: Vec<u32>,
    /// The lines of the report about them.
    pub(super) damage: Vec<Damage>,
}

/// The table as the newest whole record of each space says, made consistent. New records get sequence
/// numbers from `seq` on.
pub(super) fn mend(
    survey: &Survey,
    newest: &Keys<Newest>,
    mut losses: Losses,
    seq: u64,
) -> Result<Mended> {
    let mut table = SpaceTable::default();
    for ((_, key), known) in newest.iter().filter(|((of, _), _)| *of == TABLE_GENERATION) {
        losses.of_table |= !read(survey, &mut table, key, known)?;
    }
    let mut mended = Mended { table, spaces: Vec::new(), damage: Vec::new() };
    let named_below = mended.table.next();
    for (generation, _) in newest.keys() {
        mended.table.note(*generation);
    }
    for space in mended.table.contradictions() {
        losses.of_table = true;
        let lost = table_record_name(&table_key(space));
        mended.table.give(space, None, seq);
        mended.spaces.push(space);
        let reason = format!("{lost} is lost; the space is empty now");
        mended.damage.push(Damage::new(survey.dir(), 0, reason));
    }
    mended.house(
        survey,
        newest,
        |generation, seq| {
            let is_new = u32::try_from(generation).is_err();
            let is_unknown = is_new && seq >= losses.unknown_from;
            losses.of_table || generation >= named_below || is_unknown
        },
        seq,
    );
    Ok(mended)
}

/// Reads a record of the table; returns whether it was whole.
fn read(survey: &Survey, table: &mut SpaceTable, key: &[u8], known: &Newest) -> Result<bool> {
    let source = &survey.sources[known.source];
    let end = known.offset + u64::from(known.bytes);
    let mut scanner = Scanner::patient(&*source.file, source.salt, known.offset, end);
    match scanner.next() {
        Ok(Some(record)) => Ok(table.read(known.seq, key, record.value).is_some()),
        Ok(None) | Err(ScanStop::Bad { .. }) => Ok(false),
        Err(ScanStop::Io(error)) => Err(error.into()),
    }
}

impl Mended {
    /// Gives a space of its own to each generation that has keys and no space, and of which
    /// `may_be_alive` says by the newest sequence number of its keys that its record may be lost.
    fn house(
        &mut self,
        survey: &Survey,
        newest: &Keys<Newest>,
        may_be_alive: impl Fn(u64, u64) -> bool,
        seq: u64,
    ) {
        let mut generations: BTreeMap<u64, u64> = BTreeMap::new();
        for ((generation, _), known) in newest.iter().filter(|(_, known)| known.kind == Kind::Put) {
            let newest = generations.entry(*generation).or_default();
            *newest = known.seq.max(*newest);
        }
        let given = self.table.generations();
        let is_homeless =
            |g: &u64, newest: u64| !self.table.is_alive(*g, &given) && may_be_alive(*g, newest);
        // The highest is the one that most likely was no emptied one.
        let homeless = generations.iter().rev().filter(|(of, newest)| is_homeless(of, **newest));
        let homeless: Vec<u64> = homeless.map(|(generation, _)| *generation).collect();
        let mut free = (0..=u32::MAX).rev();
        for generation in homeless {
            let is_free = |space: &u32| {
                let own = u64::from(*space);
                self.table.generation(*space) == own
                    && !given.contains(&own)
                    && !generations.contains_key(&own)
            };
            let Some(space) = free.by_ref().find(is_free) else { return };
            self.table.give(space, Some(generation), seq);
            self.spaces.push(space);
            let reason = format!(
                "no record that is left says which space has this generation; its keys are in \
                 space {space} now"
            );
            let mut damage = Damage::new(survey.dir(), 0, reason);
            damage.generation = generation;
            self.damage.push(damage);
        }
    }
}
