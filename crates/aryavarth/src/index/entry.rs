//! Entries: a key with the slot that says where its newest record lies.
//!
//! Invariants:
//! - The key of an entry is written only by the writer, and only while no list holds the entry and
//!   no reader can have found it there.
//! - A deadline that is read between two loads of the same slot is that slot's: the writer makes it
//!   unreadable before it changes the slot, and readable afterwards.

use std::cell::UnsafeCell;

use super::arena::{Arena, CHANGING};
use super::slot::Slot;
use crate::sync::{AtomicU32, AtomicU64, Ordering, spin_loop};

/// Key bytes that fit into an entry, which is then 40 bytes.
pub(super) const INLINE_BYTES: usize = 22;

/// An entry's number: its place in the arena.
pub(crate) type EntryId = u32;

pub(super) enum Key {
    Inline { length: u8, bytes: [u8; INLINE_BYTES] },
    Boxed(Box<[u8]>),
}

impl Key {
    pub(super) fn new(key: &[u8]) -> Key {
        if key.len() > INLINE_BYTES {
            return Key::Boxed(key.into());
        }
        let mut bytes = [0; INLINE_BYTES];
        bytes[..key.len()].copy_from_slice(key);
        Key::Inline { length: key.len() as u8, bytes }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Key::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Key::Boxed(bytes) => bytes,
        }
    }
}

/// A key and the place of its newest record.
pub(super) struct Entry {
    pub(super) slot: AtomicU64,
    key: UnsafeCell<Key>,
    pub(super) id: EntryId,
    /// The number of the list that holds the entry, 0 while none does.
    pub(super) list: AtomicU32,
}

// SAFETY: `key` is the only part that is not `Sync` by itself. It is written only by the writer,
// and only while no other thread can reach the entry: before the entry is put into the list, or after
// it was taken out and an epoch has passed.
#[expect(unsafe_code, reason = "the arena's entries are shared; see the invariant above")]
unsafe impl Sync for Entry {}

impl Entry {
    pub(super) fn new(id: EntryId, key: Key) -> Entry {
        Entry { slot: AtomicU64::new(0), key: UnsafeCell::new(key), id, list: AtomicU32::new(0) }
    }

    /// Gives the entry to a key. For the writer, of an entry that no reader can reach.
    pub(super) fn assign(&self, key: &[u8]) {
        // SAFETY: the entry is in nobody's reach: it was never linked, or left its list an epoch
        // ago (only then does it come off the free list), and the caller is the only writer.
        #[expect(unsafe_code, reason = "the key is written before the entry can be reached")]
        unsafe {
            *self.key.get() = Key::new(key);
        }
    }

    pub(super) fn key(&self) -> &[u8] {
        // SAFETY: a caller that found the entry in a list, or that read a list's number in `list`,
        // is ordered after the write of the key by that publication; and since it did so under a
        // pin, the key does not change before the pin ends: the entry leaves its list, and `list`
        // becomes 0, an epoch before it is reused.
        #[expect(unsafe_code, reason = "the key is immutable while it can be reached")]
        unsafe { &*self.key.get() }.as_bytes()
    }
}

/// A key's entry, found under a pin.
#[derive(Clone, Copy)]
pub(crate) struct Found<'g> {
    pub(super) entry: &'g Entry,
    pub(super) arena: &'g Arena,
}

impl Found<'_> {
    pub(crate) fn id(self) -> EntryId {
        self.entry.id
    }

    pub(crate) fn slot(self) -> Slot {
        Slot(self.entry.slot.load(Ordering::Acquire))
    }

    /// The slot and, if it says that there is one, its deadline.
    pub(crate) fn slot_and_deadline(self) -> (Slot, Option<u64>) {
        loop {
            let slot = self.slot();
            if !slot.has_deadline() {
                return (slot, None);
            }
            let deadline = self.arena.deadline(self.id());
            if deadline != CHANGING && self.slot() == slot {
                return (slot, Some(deadline));
            }
            // The writer is between two steps; see the invariant above.
            spin_loop();
        }
    }

    /// Points the entry at a newer record; returns its old slot. For the writer only.
    pub(super) fn publish(self, slot: Slot, expires_at: Option<u64>) -> Slot {
        let had_deadline = self.slot().has_deadline();
        if had_deadline || expires_at.is_some() {
            self.arena.set_deadline(self.id(), CHANGING);
        }
        let old = Slot(self.entry.slot.swap(slot.0, Ordering::AcqRel));
        if let Some(deadline) = expires_at {
            self.arena.set_deadline(self.id(), deadline);
        }
        old
    }
}
