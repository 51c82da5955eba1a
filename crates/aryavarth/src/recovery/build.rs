//! Building the state in memory: the table of spaces, and the index of everything loaded.
//!
//! Invariants:
//! - Per key the record with the highest sequence number wins, whatever file it lies in.
//! - A removed key, and a key of a generation that no space has, is in no slot and in no count.

use std::collections::BTreeMap;

use super::Opening;
use crate::engine::Wait;
use crate::error::{KvsError, Result};
use crate::hint::{Place, Places};
use crate::index::{Index, Slot, SpaceTable, TABLE_GENERATION, table_key, table_record_name};
use crate::log::Recovered;
use crate::manifest::Manifest;
use crate::record::Kind;
use crate::segment::{Segment, SegmentTable};
use crate::sync::{Arc, Ordering};

impl Opening<'_> {
    /// The table of spaces, from the newest record of each.
    pub(super) fn read_table(&self) -> Result<SpaceTable> {
        let mut table = SpaceTable::default();
        let mut newest: BTreeMap<&[u8], (&Segment, &Place)> = BTreeMap::new();
        for (segment, places) in &self.loaded {
            for (key, place) in places.iter() {
                if place.extra.generation == TABLE_GENERATION {
                    let known = newest.entry(key).or_insert((segment, place));
                    if known.1.seq < place.seq {
                        *known = (segment, place);
                    }
                } else {
                    table.note(place.extra.generation);
                }
            }
        }
        let mut records: Vec<_> = newest.iter().collect();
        records.sort_unstable_by_key(|(_, (segment, place))| (segment.id, place.offset));
        for &(&key, &(segment, place)) in &records {
            let bytes = place.bytes as usize;
            let stored = segment.read_value(place.offset, bytes, TABLE_GENERATION, key, Wait::Yes);
            let stored = stored.map_err(|error| named(error, key))?;
            table.read(place.seq, key, &stored.value).ok_or_else(|| {
                let reason = format!("{} makes no sense", table_record_name(key));
                KvsError::corrupt(segment.file.path(), place.offset, reason)
            })?;
        }
        match table.contradictions().first() {
            None => Ok(table),
            Some(space) => {
                let key = table_key(*space);
                let reason = format!("{} is missing", table_record_name(&key));
                Err(KvsError::corrupt(self.dir, 0, reason))
            }
        }
    }
}

/// An error of a record of the table, which names the record.
fn named(error: KvsError, key: &[u8]) -> KvsError {
    match error {
        KvsError::Corrupt { path, offset, reason } => {
            KvsError::corrupt(&path, offset, format!("{reason} ({})", table_record_name(key)))
        }
        error => error,
    }
}

/// The index of everything loaded: per key the record with the highest sequence number, in the
/// generations that the table gives to spaces.
pub(super) fn build(
    table: SegmentTable,
    loaded: &[(Arc<Segment>, Places)],
    manifest: Manifest,
    (spaces, seed): (&SpaceTable, u64),
    reserves: [u64; 2],
) -> Recovered {
    let mut all: Vec<(u64, u16, &[u8], &Place)> = Vec::new();
    for (segment, places) in loaded {
        table.insert(Arc::clone(segment));
        let mut tombstone_bytes = 0;
        for (key, place) in places.iter() {
            tombstone_bytes += if place.kind == Kind::Tombstone { place.bytes } else { 0 };
            all.push((place.extra.generation, segment.table_index, key, place));
        }
        segment.tombstone_bytes.store(tombstone_bytes, Ordering::Relaxed);
    }
    all.sort_unstable_by(|a, b| (a.0, a.2).cmp(&(b.0, b.2)).then(b.3.seq.cmp(&a.3.seq)));
    all.dedup_by(|later, first| (later.0, later.2) == (first.0, first.2));
    let (mut live_bytes, mut keys) = (0, 0);
    let (index, mut index_writer) = Index::of_table(spaces, seed);
    let given = spaces.generations();
    for run in all.chunk_by(|one, other| one.0 == other.0) {
        let generation = run[0].0;
        if !spaces.is_alive(generation, &given) {
            continue;
        }
        let values = run.iter().filter(|(.., place)| place.kind != Kind::Tombstone);
        let slots = values.map(|&(_, segment, key, place)| {
            let slot = Slot::new(segment, place.offset, place.bytes, false);
            let bytes = slot.pointer().length;
            if let Some(segment) = table.get(segment)
                && let Some(segment) = segment.as_ref()
            {
                segment.note_live(bytes);
            }
            live_bytes += bytes as i64;
            // The table's own records are no keys.
            keys += i64::from(generation != TABLE_GENERATION);
            (key, place.extra, slot)
        });
        index.fill(&mut index_writer, generation, slots);
    }
    Recovered { manifest, index, index_writer, table, live_bytes, keys, reserves }
}
