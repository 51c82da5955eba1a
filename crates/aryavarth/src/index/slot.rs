//! Slots: where a key's newest record lies, in one atomic word.
//!
//! Invariant: no two keys share a record, so two slots of different keys are never equal, except for
//! those that say that an entry is free.

/// Lengths up to this are kept exactly, larger ones in coarse steps.
const EXACT_BYTES_MAX: u64 = 0xffff * 8;
const COARSE_STEP_BYTES: u64 = 1 << 14;

/// Where a record lies, in the seed's words; a [`Slot`] is its packed form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogPointer {
    /// The segment's index in the table.
    pub(crate) segment: u16,
    /// Where the record begins in the file.
    pub(crate) offset: u64,
    /// Bytes of the record: exact up to 512 KiB, above that rounded up to 16 KiB.
    pub(crate) length: u64,
    /// Whether the record says that the key is gone.
    pub(crate) tombstone: bool,
}

/// A [`LogPointer`] in one word: segment 16 bits, offset / 8 29, length 17, deadline 1, tombstone
/// 1. Zero is no pointer, since no record lies at offset 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(pub(crate) u64);

impl Slot {
    pub(crate) fn new(segment: u16, offset: u64, length: u64, tombstone: bool) -> Slot {
        let length = if length <= EXACT_BYTES_MAX {
            length / 8
        } else {
            1 << 16 | length.div_ceil(COARSE_STEP_BYTES)
        };
        debug_assert!(offset / 8 < 1 << 29 && length < 1 << 17, "limited where records are made");
        let word = u64::from(segment) << 48 | (offset / 8) << 19 | length << 2;
        Slot(word | u64::from(tombstone))
    }

    pub(crate) fn pointer(self) -> LogPointer {
        let length = self.0 >> 2 & 0x1_ffff;
        LogPointer {
            segment: (self.0 >> 48) as u16,
            offset: (self.0 >> 19 & 0x1fff_ffff) * 8,
            length: if length >> 16 == 0 {
                length * 8
            } else {
                (length & 0xffff) * COARSE_STEP_BYTES
            },
            tombstone: self.is_tombstone(),
        }
    }

    /// The same for a record that has a deadline, or has none.
    pub(crate) fn with_deadline(self, has_deadline: bool) -> Slot {
        Slot(self.0 | u64::from(has_deadline) << 1)
    }

    pub(crate) fn has_deadline(self) -> bool {
        self.0 & 2 != 0
    }

    pub(crate) fn is_tombstone(self) -> bool {
        self.0 & 1 != 0
    }
}

/// The slot of an entry whose generation is gone.
pub(super) const GONE: Slot = Slot(1);
