//! Holes: stretches of a segment in which no record can be proven whole, and their former records.
//!
//! Three things may still name the lost records, from the best to the least: the segment's hint
//! file (checksummed: keys, sequence numbers and whether they were removals), the damaged record's
//! own header where that is right, and the sequence numbers of the neighbours.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use crate::damage::Damage;
use crate::hint::{Place, Places};
use crate::index::{TABLE_GENERATION, table_record_name};
use crate::record::{Header, Kind, SEQ_MAX};
use crate::segment::{Checked, Remains, ScanStop, Scanner};

/// A stretch without a whole record.
#[derive(Debug)]
pub(super) struct Hole {
    range: Range<u64>,
    reason: String,
    /// The header of the first record in it, if that is right, and its key as it is now.
    remains: Option<Remains>,
    /// The record before it, and the sequence number of the one behind it.
    before: Option<Header>,
    after_seq: Option<u64>,
}

/// Reads all records from where `scanner` is to `end`, holes included. `each` gets the whole
/// ones, with place, header and key. Stops early before the first record at or behind `until`.
pub(super) fn walk(
    scanner: &mut Scanner<'_>,
    end: u64,
    until: u64,
    mut each: impl FnMut(&Checked, &[u8]),
) -> Vec<Hole> {
    let (mut holes, mut key) = (Vec::<Hole>::new(), Vec::new());
    let mut before: Option<Header> = None;
    let mut open_holes = 0;
    // A missing end is told before the file is taken for read.
    while scanner.offset() < until || scanner.is_over() {
        match scanner.check(&mut key) {
            Ok(None) => {
                if scanner.offset() < end {
                    let (range, reason) = (scanner.offset()..end, "the file ends here".to_owned());
                    holes.push(Hole { range, reason, remains: None, before, after_seq: None });
                }
                return holes;
            }
            Ok(Some(record)) => {
                let first_open = holes.len() - open_holes;
                holes[first_open..].iter_mut().for_each(|h| h.after_seq = Some(record.header.seq));
                (before, open_holes) = (Some(record.header), 0);
                each(&record, &key);
            }
            Err(ScanStop::Bad { offset, reason }) => {
                let remains = scanner.remains_at(offset).ok().flatten();
                // A right header says where the next record is; else it has to be looked for.
                if scanner.offset() <= offset && scanner.step_over(offset).is_err() {
                    return holes;
                }
                let range = offset..scanner.offset();
                if range.is_empty() {
                    // The file ends here, which is told next.
                    continue;
                }
                let unreadable = scanner.is_unreadable(&range);
                let reason = if unreadable { "the disk could not read it" } else { reason };
                let reason = reason.to_owned();
                holes.push(Hole { range, reason, remains, before, after_seq: None });
                open_holes += 1;
            }
            Err(ScanStop::Io(error)) => {
                let (range, reason) = (scanner.offset()..scanner.offset(), error.to_string());
                holes.push(Hole { range, reason, remains: None, before, after_seq: None });
                return holes;
            }
        }
    }
    holes
}

/// The facts of a segment beside its records.
#[derive(Debug)]
pub(super) struct Known {
    /// Whether sequence numbers rise in it.
    pub(super) rises: bool,
    /// All its sequence numbers are among these.
    pub(super) seqs: RangeInclusive<u64>,
    /// Its hint file, if that fits.
    pub(super) places: Option<Places>,
}

impl Known {
    /// The hint file's entries for the records in the file, by their offsets.
    pub(super) fn by_offset(&self) -> Option<BTreeMap<u64, Lost<'_>>> {
        let places = self.places.as_ref()?.iter();
        let lost = |(key, place): (_, &Place)| (place.offset, (key, *place));
        Some(places.map(lost).collect())
    }
}

/// Key and place of a record that is lost.
pub(super) type Lost<'a> = (&'a [u8], Place);

/// Describes a hole: one entry per lost record where a hint tells them apart, else one in all.
pub(super) fn describe(
    hole: &Hole,
    path: &Path,
    known: &Known,
    by_offset: Option<&BTreeMap<u64, Lost<'_>>>,
    mut each: impl FnMut(Damage),
) {
    let torn_before = hole.before.is_some_and(|header| !header.last);
    let mut damage = Damage::new(path, hole.range.start, hole.reason.as_str());
    damage.bytes = hole.range.end - hole.range.start;
    damage.tears_batch = torn_before || hole.remains.as_ref().is_some_and(|r| !r.header.last);
    let Some(by_offset) = by_offset else {
        damage.seqs = Some(seqs(hole, known));
        if let Some(Remains { header, generation, key }) = &hole.remains {
            damage.removal = Some(header.kind == Kind::Tombstone);
            match header.kind {
                // A mark holds no data.
                Kind::Mark => (damage.seqs, damage.removal) = (None, None),
                Kind::Put | Kind::Tombstone => {
                    (damage.key, damage.generation) = (Some(key.clone()), *generation);
                }
            }
        }
        return each(naming_its_space(damage));
    };
    let mut inside = by_offset.range(hole.range.clone()).peekable();
    if inside.peek().is_none() {
        // Only a mark was there.
        return each(damage);
    }
    while let Some((&offset, &(key, place))) = inside.next() {
        let Place { kind, seq, extra, .. } = place;
        let end = inside.peek().map_or(hole.range.end, |(next, _)| **next);
        let lost = Damage {
            offset,
            bytes: end - offset,
            key: Some(key.to_vec()),
            generation: extra.generation,
            key_is_certain: true,
            removal: Some(kind == Kind::Tombstone),
            seqs: Some(seq..=seq),
            ..damage.clone()
        };
        each(naming_its_space(lost));
    }
}

/// The same damage, with the space in its reason if a space's own record is damaged.
pub(super) fn naming_its_space(mut damage: Damage) -> Damage {
    if let (TABLE_GENERATION, Some(key)) = (damage.generation, &damage.key) {
        damage.reason = format!("{} ({})", damage.reason, table_record_name(key));
    }
    damage
}

/// The sequence numbers that a hole may have held.
fn seqs(hole: &Hole, known: &Known) -> RangeInclusive<u64> {
    if let Some(Remains { header, .. }) = &hole.remains {
        return header.seq..=header.seq;
    }
    if !known.rises {
        return known.seqs.clone();
    }
    let first = hole.before.map_or(*known.seqs.start(), |header| header.seq + 1);
    let last = hole.after_seq.map_or(*known.seqs.end(), |seq| seq.saturating_sub(1));
    first..=last.min(SEQ_MAX).max(first)
}
