//! Keys in the nodes of a list: what the ordered list compares.
//!
//! Invariant: a [`KeyRef`] in a list points into the arena that the list owns a share of.

use std::cmp::Ordering as KeyOrdering;
use std::ptr;

use super::arena::Arena;
use super::entry::{Entry, Key};

/// What the list holds: where an entry is, and how its key begins. Most keys of a search differ in
/// their first 16 bytes, so most steps of it read the list's node and not the entry, which is
/// another cache line. (Measured: `docs/decisions/0008`.)
pub(super) struct KeyRef {
    prefix: [u64; 2],
    entry: *const Entry,
}

// SAFETY: a `KeyRef` in the list is a shared reference to an `Entry`, which is `Sync`; the arena
// outlives the list (which owns a share of it) and never moves an entry. One in a `probe` does not
// leave its thread.
#[expect(unsafe_code, reason = "a shared reference without its lifetime")]
unsafe impl Send for KeyRef {}
// SAFETY: as for `Send`.
#[expect(unsafe_code, reason = "a shared reference without its lifetime")]
unsafe impl Sync for KeyRef {}

impl KeyRef {
    /// A reference to an entry that lives as long as the reference will.
    pub(super) fn new(entry: &Entry) -> KeyRef {
        KeyRef { prefix: prefix(entry.key()), entry: ptr::from_ref(entry) }
    }

    pub(super) fn entry(&self) -> &Entry {
        // SAFETY: the entry lives in the arena, which outlives the list, or around the probe.
        #[expect(unsafe_code, reason = "a shared reference without its lifetime")]
        unsafe {
            &*self.entry
        }
    }

    /// The entry, for as long as the arena that it lives in is there. For what is in a list.
    pub(super) fn entry_in<'a>(&self, arena: &'a Arena) -> &'a Entry {
        let entry = self.entry();
        debug_assert!(ptr::eq(entry, arena.entry(entry.id)), "an entry of another arena");
        // SAFETY: the entry lives in that arena, which is borrowed and never moves it.
        #[expect(unsafe_code, reason = "a shared reference with the lifetime of its arena")]
        unsafe {
            &*ptr::from_ref(entry)
        }
    }
}

/// The first 16 bytes of a key, filled up with zeros, as numbers that compare like the bytes. Of
/// two keys that differ in them the lesser has the lesser prefix: zeros are the least bytes, and
/// a key is less than any that it begins.
fn prefix(key: &[u8]) -> [u64; 2] {
    let mut bytes = [0; 16];
    let length = key.len().min(16);
    bytes[..length].copy_from_slice(&key[..length]);
    let both = u128::from_be_bytes(bytes);
    [(both >> 64) as u64, both as u64]
}

/// Calls `search` with something that compares like an entry with that key.
pub(super) fn probe<T>(key: &[u8], search: impl FnOnce(&KeyRef) -> T) -> T {
    let entry = Entry::new(0, Key::Probe(ptr::from_ref(key)));
    search(&KeyRef::new(&entry))
}

impl PartialEq for KeyRef {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for KeyRef {}

impl PartialOrd for KeyRef {
    fn partial_cmp(&self, other: &Self) -> Option<KeyOrdering> {
        Some(self.cmp(other))
    }
}

impl Ord for KeyRef {
    fn cmp(&self, other: &Self) -> KeyOrdering {
        self.prefix.cmp(&other.prefix).then_with(|| self.entry().key().cmp(other.entry().key()))
    }
}
