//! The state of a store's files: edits, and the sum of them.
//!
//! Invariants:
//! - An edit that does not fit the state before it is refused: it names the store twice, adds a
//!   segment twice, or seals or drops one that is not there.
//! - Positions, sequence numbers and file ids only grow, also when the segment that told them is
//!   dropped.

use std::collections::BTreeMap;

use super::edit::{encode, frame};
use crate::clock::ClockPair;
use crate::segment::SegmentKind;

/// The facts of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Position of the file's first byte.
    pub(crate) base: u64,
    /// Bytes of the file, exactly.
    pub(crate) end: u64,
    pub(crate) seq_min: u64,
    pub(crate) seq_max: u64,
    /// Records in the file, marks not counted.
    pub(crate) records: u64,
    /// No record in the file is superseded by one numbered below this.
    pub(crate) purged_seq: u64,
}

/// The facts of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentFacts {
    pub(crate) kind: SegmentKind,
    pub(crate) salt: u64,
    /// Unless sealed, the file's length is a multiple of this, or it was cut.
    pub(crate) step: u64,
    pub(crate) seal: Option<Seal>,
}

/// A change of the set of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// The store's identity; the first operation of every manifest.
    Store { format: u32, id: u64, engine: String },
    /// A segment is about to be used.
    Add { id: u64, kind: SegmentKind, salt: u64, step: u64 },
    /// A segment takes no more appends.
    Seal { id: u64, seal: Seal },
    /// A segment's file is no longer needed.
    Drop { id: u64 },
    /// Where the log goes on, unless seals say more: no position, sequence number or file id below
    /// these is used again.
    Next { position: u64, seq: u64, file_id: u64, clock_ms: u64 },
    /// Both clocks as they were at one moment.
    Clock(ClockPair),
    /// The store was closed with everything synced and sealed.
    Clean,
}

/// The state that all edits so far add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) format: u32,
    pub(crate) store_id: u64,
    pub(crate) engine: String,
    pub(crate) segments: BTreeMap<u64, SegmentFacts>,
    pub(crate) position: u64,
    pub(crate) seq: u64,
    /// Higher than every file id named so far.
    pub(crate) file_id: u64,
    /// Both clocks as they were written down last.
    pub(crate) clock: ClockPair,
    /// Whether the last edit said so.
    pub(crate) clean: bool,
}

impl State {
    /// Applies an edit; returns the reason if it does not fit.
    pub(crate) fn apply(&mut self, edit: &Edit) -> Result<(), &'static str> {
        self.clean = false;
        match edit {
            Edit::Store { format, id, engine } => {
                if self.format != 0 {
                    return Err("an edit names the store a second time");
                }
                (self.format, self.store_id) = (*format, *id);
                self.engine.clone_from(engine);
            }
            Edit::Add { id, kind, salt, step } => {
                let facts = SegmentFacts { kind: *kind, salt: *salt, step: *step, seal: None };
                let next = id.checked_add(1).ok_or("an edit uses the last file id there is")?;
                self.file_id = self.file_id.max(next);
                if self.segments.insert(*id, facts).is_some() {
                    return Err("an edit adds a segment twice");
                }
            }
            Edit::Seal { id, seal } => {
                let Some(facts) = self.segments.get_mut(id) else {
                    return Err("an edit seals an unknown segment");
                };
                facts.seal = Some(*seal);
                // Kept beyond the segment's drop: the log goes on behind it all the same.
                if facts.kind == SegmentKind::Log {
                    self.position = self.position.max(seal.base.saturating_add(seal.end));
                    self.seq = self.seq.max(seal.seq_max.saturating_add(1));
                }
            }
            Edit::Drop { id } => {
                if self.segments.remove(id).is_none() {
                    return Err("an edit drops an unknown segment");
                }
            }
            Edit::Next { position, seq, file_id, clock_ms } => {
                self.position = self.position.max(*position);
                self.seq = self.seq.max(*seq);
                self.file_id = self.file_id.max(*file_id);
                self.clock = self.clock.later(ClockPair { store_ms: *clock_ms, wall_ms: 0 });
            }
            Edit::Clock(pair) => self.clock = self.clock.later(*pair),
            Edit::Clean => self.clean = true,
        }
        Ok(())
    }

    /// The first edit of a manifest that says this.
    pub(crate) fn encode(&self, number: u64) -> Vec<u8> {
        frame(&encode(&self.edits()), number, 0)
    }

    /// The edits that lead to this state at once.
    fn edits(&self) -> Vec<Edit> {
        let store =
            Edit::Store { format: self.format, id: self.store_id, engine: self.engine.clone() };
        let mut edits = vec![store];
        for (&id, facts) in &self.segments {
            edits.push(Edit::Add { id, kind: facts.kind, salt: facts.salt, step: facts.step });
            edits.extend(facts.seal.map(|seal| Edit::Seal { id, seal }));
        }
        edits.push(Edit::Next {
            position: self.position,
            seq: self.seq,
            file_id: self.file_id,
            clock_ms: 0,
        });
        edits.push(Edit::Clock(self.clock));
        edits
    }
}
