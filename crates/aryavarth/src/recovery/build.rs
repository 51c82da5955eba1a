//! Building the state in memory: the table of spaces, and the index of everything loaded.
//!
//! Invariants:
//! - Per key the record with the highest sequence number wins, whatever file it lies in.
//! - A removed key, and a key of a generation that no space has, is in no slot and in no count.

use super::Opening;
use crate::error::{KvsError, Result};
use crate::hint::{Place, Places};
use crate::index::{Index, IndexWriter, Slot, SpaceTable, TABLE_GENERATION, TABLE_KEY};
use crate::log::Recovered;
use crate::manifest::Manifest;
use crate::record::Kind;
use crate::segment::{Segment, SegmentTable};
use crate::sync::{Arc, Ordering};

impl Opening<'_> {
    /// The table of spaces, from its newest record.
    pub(super) fn read_table(&self) -> Result<SpaceTable> {
        let mut newest: Option<(u64, &Segment, u64, u64)> = None;
        for (segment, places) in &self.loaded {
            for (key, place) in
                places.iter().filter(|(_, p)| p.extra.generation == TABLE_GENERATION)
            {
                if key == TABLE_KEY && newest.is_none_or(|(seq, ..)| seq < place.seq) {
                    newest = Some((place.seq, segment, place.offset, place.bytes));
                }
            }
        }
        let Some((_, segment, offset, bytes)) = newest else {
            return Ok(SpaceTable::default());
        };
        let stored = segment.read_value(offset, bytes as usize, TABLE_GENERATION, TABLE_KEY)?;
        SpaceTable::decode(&stored.value).ok_or_else(|| {
            let reason = "the record that says what the spaces hold makes no sense";
            KvsError::corrupt(segment.file.path(), offset, reason)
        })
    }
}

/// The index of everything loaded: per key the record with the highest sequence number, in the
/// generations that the table gives to spaces.
pub(super) fn build(
    table: SegmentTable,
    loaded: &[(Arc<Segment>, Places)],
    manifest: Manifest,
    (spaces, seed): (SpaceTable, u64),
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
    let (index, mut index_writer) = (Index::with_table(spaces, seed), IndexWriter::default());
    let spaces = index.table();
    for run in all.chunk_by(|one, other| one.0 == other.0) {
        let generation = run[0].0;
        if !spaces.is_alive(generation) {
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
            // The table's own record is no key.
            keys += i64::from(generation != TABLE_GENERATION);
            (key, place.extra, slot)
        });
        index.fill(&mut index_writer, generation, slots);
    }
    Recovered { manifest, index, index_writer, table, live_bytes, keys, reserves }
}
