//! The index: from a key to the place of its newest record.
//!
//! Every key has one *entry* in an arena, and every entry one *slot*: an atomic word that says
//! where the key's newest record lies. The ordered `SkipMap` maps keys to entries; overwriting a
//! key changes only the slot, never the list. That is what makes reads safe without a lock: a
//! concurrent `SkipMap::insert` of a present key would let it vanish for a moment, so the list is
//! only ever given keys that it does not hold.
//!
//! Invariants:
//! - Only the writer (whoever holds its lock) inserts, unlinks and reuses entries. Compaction may
//!   replace a slot's value by compare-and-swap, nothing else.
//! - An entry is unlinked only while its slot is a tombstone, and its slot stays one until reuse.
//! - An entry is reused only after an epoch has passed since it left the list, so whoever found it
//!   there under a pin can go on reading it.
//! - The list is crossbeam's [`SkipList`], which `SkipMap` wraps: under a pin it needs no count of
//!   references, which would be two writes to shared memory per read. Nothing found in it is used
//!   beyond the pin: a scan seeks its place again by key.

use std::cell::UnsafeCell;
use std::cmp::Ordering as KeyOrdering;
use std::ops::Bound;
use std::{fmt, ptr};

use crossbeam_epoch as epoch;
use crossbeam_skiplist::SkipList;

use crate::engine::KeyRange;
use crate::sync::{Arc, AtomicU32, AtomicU64, OnceLock, Ordering};

/// Entries of one piece of the arena, pieces of a group, and groups: 2^32 entries in all, made
/// as they are needed, so that an empty store takes little and no writer waits for a large one.
const CHUNK_ENTRIES: usize = 1 << 12;
const GROUP_CHUNKS: usize = 1 << 10;
const GROUPS: usize = 1 << 10;
/// Key bytes that fit into an entry, which is then 40 bytes.
const INLINE_BYTES: usize = 22;
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

/// A [`LogPointer`] in one word: segment 16 bits, offset / 8 29, length 17, expiry 1 (reserved),
/// tombstone 1. Zero is no pointer, since no record lies at offset 0.
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

    pub(crate) fn is_tombstone(self) -> bool {
        self.0 & 1 != 0
    }
}

/// An entry's number: its place in the arena.
pub(crate) type EntryId = u32;

enum Key {
    Inline {
        length: u8,
        bytes: [u8; INLINE_BYTES],
    },
    Boxed(Box<[u8]>),
    /// A key that is looked for, in an entry that is not in the arena; see [`probe`].
    Probe(*const [u8]),
}

impl Key {
    fn new(key: &[u8]) -> Key {
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
            // SAFETY: `probe` makes it of a reference that outlives the entry.
            #[expect(unsafe_code, reason = "a reference without its lifetime")]
            Key::Probe(bytes) => unsafe { &**bytes },
        }
    }
}

/// A key and the place of its newest record.
struct Entry {
    slot: AtomicU64,
    key: UnsafeCell<Key>,
    id: EntryId,
}

// SAFETY: `key` is the only part that is not `Sync` by itself. It is written only by the writer,
// and only while nobody else can reach the entry: before the entry is put into the list, or after
// it was taken out and an epoch has passed.
#[expect(unsafe_code, reason = "the arena's entries are shared; see the invariant above")]
unsafe impl Sync for Entry {}
// SAFETY: the pointer of a probe never leaves the thread that made it: the arena holds no probes.
#[expect(unsafe_code, reason = "the arena's entries are owned; see above")]
unsafe impl Send for Entry {}

impl Entry {
    fn new(id: EntryId, key: Key) -> Entry {
        Entry { slot: AtomicU64::new(0), key: UnsafeCell::new(key), id }
    }

    fn key(&self) -> &[u8] {
        // SAFETY: whoever holds a reference to a linked entry (or found it under a pin) is
        // ordered after the write of its key by the list's own publication, and the key does not
        // change before the pin ends.
        #[expect(unsafe_code, reason = "the key is immutable while it can be reached")]
        unsafe { &*self.key.get() }.as_bytes()
    }
}

type Group = Box<[OnceLock<Box<[Entry]>>]>;

/// The arena: entries never move, so that the list can point at them.
struct Arena {
    groups: Box<[OnceLock<Group>]>,
    /// The first of the entries that may be reused, plus one; their slots hold the next, marked
    /// as a tombstone, so that nobody who compares slots takes it for a value's place.
    free: AtomicU32,
}

impl Arena {
    fn new() -> Arena {
        let groups = (0..GROUPS).map(|_| OnceLock::new()).collect();
        Arena { groups, free: AtomicU32::new(0) }
    }

    fn entry(&self, id: EntryId) -> &Entry {
        let chunk = id as usize / CHUNK_ENTRIES;
        let group = self.groups[chunk / GROUP_CHUNKS]
            .get_or_init(|| (0..GROUP_CHUNKS).map(|_| OnceLock::new()).collect());
        let chunk = group[chunk % GROUP_CHUNKS].get_or_init(|| {
            let first = id - id % CHUNK_ENTRIES as EntryId;
            let ids = first..=first + (CHUNK_ENTRIES as EntryId - 1);
            ids.map(|id| Entry::new(id, Key::new(&[]))).collect()
        });
        &chunk[id as usize % CHUNK_ENTRIES]
    }

    /// Puts an entry on the free list. Called by whichever thread advances the epoch.
    fn free(&self, id: EntryId) {
        let entry = self.entry(id);
        let mut head = self.free.load(Ordering::Relaxed);
        loop {
            entry.slot.store(u64::from(head) << 1 | 1, Ordering::Relaxed);
            match self.free.compare_exchange_weak(
                head,
                id + 1,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes the whole free list, which leaves no room for the ABA of taking single entries.
    fn take_free(&self) -> Vec<EntryId> {
        let mut ids = Vec::new();
        let mut next = self.free.swap(0, Ordering::Acquire);
        while next != 0 {
            ids.push(next - 1);
            next = (self.entry(next - 1).slot.load(Ordering::Relaxed) >> 1) as u32;
        }
        ids
    }
}

/// What the list holds: where an entry is, and how its key begins. Most keys of a search differ in
/// their first 16 bytes, so most steps of it read the list's node and not the entry, which is
/// another cache line. (Measured: `docs/decisions/0008`.)
struct KeyRef {
    prefix: [u64; 2],
    entry: *const Entry,
}

// SAFETY: a `KeyRef` in the list is a shared reference to an `Entry`, which is `Sync`; the arena
// outlives the list (both are owned by `Index`, which drops the list first) and never moves an
// entry. One in a `probe` does not leave its thread.
#[expect(unsafe_code, reason = "a shared reference without its lifetime")]
unsafe impl Send for KeyRef {}
// SAFETY: as for `Send`.
#[expect(unsafe_code, reason = "a shared reference without its lifetime")]
unsafe impl Sync for KeyRef {}

impl KeyRef {
    /// A reference to an entry that lives as long as the reference will.
    fn new(entry: &Entry) -> KeyRef {
        KeyRef { prefix: prefix(entry.key()), entry: ptr::from_ref(entry) }
    }

    fn entry(&self) -> &Entry {
        // SAFETY: the entry lives in the arena, which outlives the list, or around the probe.
        #[expect(unsafe_code, reason = "a shared reference without its lifetime")]
        unsafe {
            &*self.entry
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
fn probe<T>(key: &[u8], search: impl FnOnce(&KeyRef) -> T) -> T {
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

/// A key's entry, found under a pin.
#[derive(Clone, Copy)]
pub(crate) struct Found<'g> {
    entry: &'g Entry,
}

impl Found<'_> {
    pub(crate) fn id(self) -> EntryId {
        self.entry.id
    }

    pub(crate) fn slot(self) -> Slot {
        Slot(self.entry.slot.load(Ordering::Acquire))
    }

    /// Points the entry at a newer record; returns what it pointed at. For the writer only.
    pub(crate) fn publish(self, slot: Slot) -> Slot {
        Slot(self.entry.slot.swap(slot.0, Ordering::AcqRel))
    }
}

/// What only the writer changes.
#[derive(Debug, Default)]
pub(crate) struct IndexWriter {
    next: EntryId,
    free: Vec<EntryId>,
}

/// The index of one key space.
pub(crate) struct Index {
    // Dropped before the arena that its keys point into.
    list: SkipList<KeyRef, ()>,
    arena: Arc<Arena>,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Index of {} keys", self.list.len())
    }
}

impl Index {
    pub(crate) fn new() -> Index {
        let list = SkipList::new(epoch::default_collector().clone());
        Index { list, arena: Arc::new(Arena::new()) }
    }

    /// The entry of `key`. No lock.
    pub(crate) fn find<'g>(&'g self, key: &[u8], pin: &'g epoch::Guard) -> Option<Found<'g>> {
        let node = probe(key, |probe| self.list.get(probe, pin))?;
        Some(Found { entry: node.key().entry() })
    }

    /// Adds a key that the index does not hold. For the writer only.
    pub(crate) fn insert(&self, writer: &mut IndexWriter, key: &[u8], slot: Slot) -> EntryId {
        if writer.free.is_empty() {
            writer.free = self.arena.take_free();
        }
        let id = writer.free.pop().unwrap_or_else(|| {
            writer.next += 1;
            writer.next - 1
        });
        let entry = self.arena.entry(id);
        // SAFETY: the entry is in nobody's reach: it was never linked, or left the list an epoch
        // ago (only then does it come off the free list), and the caller is the only writer.
        #[expect(unsafe_code, reason = "the key is written before the entry can be reached")]
        unsafe {
            *entry.key.get() = Key::new(key);
        }
        entry.slot.store(slot.0, Ordering::Release);
        let pin = epoch::pin();
        self.list.insert(KeyRef::new(entry), (), &pin).release(&pin);
        id
    }

    /// Points an entry at a copy of the record that it points at, unless it has moved on. An entry
    /// that was reused meanwhile points elsewhere, too: no two keys share a record.
    pub(crate) fn replace(&self, id: EntryId, old: Slot, copy: Slot) -> bool {
        let slot = &self.arena.entry(id).slot;
        slot.compare_exchange(old.0, copy.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Takes a key whose slot is still `tombstone` out of the list; its entry is reused after an
    /// epoch. For the writer only.
    pub(crate) fn unlink(&self, id: EntryId, tombstone: Slot) -> bool {
        let entry = self.arena.entry(id);
        if entry.slot.load(Ordering::Acquire) != tombstone.0 {
            return false;
        }
        let pin = epoch::pin();
        let node = self.list.remove(&KeyRef::new(entry), &pin);
        let removed = node.is_some();
        if let Some(node) = node {
            node.release(&pin);
        }
        let arena = Arc::clone(&self.arena);
        pin.defer(move || arena.free(id));
        removed
    }

    /// Calls `visit` with the entries of `range` in order until it returns false. The caller
    /// keeps the walk short: it holds an epoch for as long as it lasts.
    pub(crate) fn walk<'g>(
        &'g self,
        range: &KeyRange,
        pin: &'g epoch::Guard,
        mut visit: impl FnMut(&'g [u8], Found<'g>) -> bool,
    ) {
        let (start, end) = range.bounds();
        let mut node = if range.reverse {
            bound(end, |end| self.list.upper_bound(end, pin))
        } else {
            bound(start, |start| self.list.lower_bound(start, pin))
        };
        while let Some(at) = node {
            let entry = at.key().entry();
            if !range.contains(entry.key()) || !visit(entry.key(), Found { entry }) {
                return;
            }
            node = if range.reverse { at.prev() } else { at.next() };
        }
    }
}

/// Calls `search` with a bound of what compares like keys.
fn bound<T>(key: Bound<&[u8]>, search: impl FnOnce(Bound<&KeyRef>) -> T) -> T {
    match key {
        Bound::Included(key) => probe(key, |probe| search(Bound::Included(probe))),
        Bound::Excluded(key) => probe(key, |probe| search(Bound::Excluded(probe))),
        Bound::Unbounded => search(Bound::Unbounded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys that are hard for a prefix: zeros, lengths about 16 and about what fits in an entry,
    /// one the beginning of another.
    fn keys() -> Vec<Vec<u8>> {
        let mut keys = vec![Vec::new()];
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            for length in [1, 2, 7, 8, 9, 15, 16, 17, INLINE_BYTES, INLINE_BYTES + 1, 100] {
                keys.push(vec![byte; length]);
                for last in [0, 1, 0xff] {
                    let mut key = vec![byte; length];
                    key.push(last);
                    keys.push(key);
                }
            }
        }
        keys.sort();
        keys.dedup();
        keys
    }

    #[test]
    fn references_compare_like_the_bytes_of_their_keys() {
        for one in &keys() {
            for other in &keys() {
                let order = probe(one, |one| probe(other, |other| one.cmp(other)));
                assert_eq!(order, one.cmp(other), "{one:?} and {other:?}");
            }
        }
    }

    #[test]
    fn keys_are_found_and_walked_in_the_order_of_their_bytes() {
        let (index, mut writer, keys) = (Index::new(), IndexWriter::default(), keys());
        for (at, key) in keys.iter().enumerate().rev() {
            index.insert(&mut writer, key, Slot::new(1, 8 * (at as u64 + 1), 64, false));
        }
        let pin = epoch::pin();
        for (at, key) in keys.iter().enumerate() {
            let found = index.find(key, &pin).expect("it was inserted");
            assert_eq!(found.slot().pointer().offset, 8 * (at as u64 + 1));
        }
        for reverse in [false, true] {
            let range = KeyRange { reverse, ..KeyRange::all() };
            let mut walked = Vec::new();
            index.walk(&range, &pin, |key, _| {
                walked.push(key.to_vec());
                true
            });
            if reverse {
                walked.reverse();
            }
            assert_eq!(walked, keys);
        }
    }

    /// The window is a few instructions wide, so threads would hardly ever hit it.
    #[test]
    fn an_entry_is_not_reused_under_the_pin_of_somebody_who_found_it() {
        let (index, mut writer) = (Index::new(), IndexWriter::default());
        index.insert(&mut writer, b"a", Slot::new(1, 64, 64, false));
        let pin = epoch::pin();
        let found = index.find(b"a", &pin).expect("it was inserted");
        let tombstone = Slot::new(1, 128, 64, true);
        found.publish(tombstone);
        assert!(index.unlink(found.id(), tombstone));
        for other in 0..100 {
            let id = index.insert(&mut writer, &[other], Slot::new(1, 192, 64, false));
            assert_ne!(id, found.id(), "two keys in one entry");
        }
        assert_eq!(found.slot(), tombstone);
    }

    #[test]
    fn an_entry_and_its_reference_stay_small() {
        assert_eq!((size_of::<Entry>(), size_of::<KeyRef>()), (40, 24));
    }
}
