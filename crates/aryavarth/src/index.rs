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
//! - Never `SkipMap::range()` (it leaks in 0.1.3), never its handles beyond a pin: a scan seeks
//!   its place again by key.

use std::borrow::Borrow;
use std::cell::UnsafeCell;
use std::cmp::Ordering as KeyOrdering;
use std::fmt;

use crossbeam_epoch as epoch;
use crossbeam_skiplist::SkipMap;

use crate::engine::KeyRange;
use crate::sync::{Arc, AtomicU32, AtomicU64, OnceLock, Ordering};

/// Entries of one piece of the arena, pieces of a group, and groups: 2^32 entries in all, made
/// as they are needed, so that an empty store takes little and no writer waits for a large one.
const CHUNK_ENTRIES: usize = 1 << 12;
const GROUP_CHUNKS: usize = 1 << 10;
const GROUPS: usize = 1 << 10;
/// Key bytes that fit into an entry.
const INLINE_BYTES: usize = 23;
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
    Inline { length: u8, bytes: [u8; INLINE_BYTES] },
    Boxed(Box<[u8]>),
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
        }
    }
}

/// A key and the place of its newest record.
struct Entry {
    slot: AtomicU64,
    key: UnsafeCell<Key>,
}

// SAFETY: `key` is the only part that is not `Sync` by itself. It is written only by the writer,
// and only while nobody else can reach the entry: before the entry is put into the list, or after
// it was taken out and an epoch has passed.
#[expect(unsafe_code, reason = "the arena's entries are shared; see the invariant above")]
unsafe impl Sync for Entry {}

impl Entry {
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
            let empty = || Entry {
                slot: AtomicU64::new(0),
                key: UnsafeCell::new(Key::Inline { length: 0, bytes: [0; INLINE_BYTES] }),
            };
            (0..CHUNK_ENTRIES).map(|_| empty()).collect()
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

/// What the list holds: an entry's number, and where the entry is, so that keys compare without a
/// detour through the arena's chunks.
struct KeyRef {
    entry: *const Entry,
    id: EntryId,
}

// SAFETY: a `KeyRef` is a shared reference to an `Entry`, which is `Sync`; the arena outlives the
// list (both are owned by `Index`, which drops the list first) and never moves an entry.
#[expect(unsafe_code, reason = "a shared reference without its lifetime")]
unsafe impl Send for KeyRef {}
// SAFETY: as for `Send`.
#[expect(unsafe_code, reason = "a shared reference without its lifetime")]
unsafe impl Sync for KeyRef {}

impl KeyRef {
    fn entry(&self) -> &Entry {
        // SAFETY: the entry lives in the arena, which outlives the list; see above.
        #[expect(unsafe_code, reason = "a shared reference without its lifetime")]
        unsafe {
            &*self.entry
        }
    }
}

impl Borrow<[u8]> for KeyRef {
    fn borrow(&self) -> &[u8] {
        self.entry().key()
    }
}

impl PartialEq for KeyRef {
    fn eq(&self, other: &Self) -> bool {
        self.entry().key() == other.entry().key()
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
        self.entry().key().cmp(other.entry().key())
    }
}

/// A key's entry, found under a pin.
#[derive(Clone, Copy)]
pub(crate) struct Found<'g> {
    entry: &'g Entry,
    id: EntryId,
}

impl Found<'_> {
    pub(crate) fn id(&self) -> EntryId {
        self.id
    }

    pub(crate) fn slot(&self) -> Slot {
        Slot(self.entry.slot.load(Ordering::Acquire))
    }

    /// Points the entry at a newer record; returns what it pointed at. For the writer only.
    pub(crate) fn publish(&self, slot: Slot) -> Slot {
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
    list: SkipMap<KeyRef, ()>,
    arena: Arc<Arena>,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Index of {} keys", self.list.len())
    }
}

impl Index {
    pub(crate) fn new() -> Index {
        Index { list: SkipMap::new(), arena: Arc::new(Arena::new()) }
    }

    /// The entry of `key`. No lock.
    pub(crate) fn find<'g>(&'g self, key: &[u8], _pin: &'g epoch::Guard) -> Option<Found<'g>> {
        let node = self.list.get(key)?;
        let id = node.key().id;
        Some(Found { entry: self.arena.entry(id), id })
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
        self.list.insert(KeyRef { entry, id }, ());
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
        let removed = self.list.remove(entry.key()).is_some();
        let arena = Arc::clone(&self.arena);
        pin.defer(move || arena.free(id));
        removed
    }

    /// Calls `visit` with the entries of `range` in order until it returns false. The caller
    /// keeps the walk short: it holds an epoch for as long as it lasts.
    pub(crate) fn walk<'g>(
        &'g self,
        range: &KeyRange,
        _pin: &'g epoch::Guard,
        mut visit: impl FnMut(&'g [u8], Found<'g>) -> bool,
    ) {
        let mut node = if range.reverse {
            self.list.upper_bound(range.bounds().1)
        } else {
            self.list.lower_bound(range.bounds().0)
        };
        while let Some(at) = node {
            let id = at.key().id;
            let entry = self.arena.entry(id);
            if !range.contains(entry.key()) || !visit(entry.key(), Found { entry, id }) {
                return;
            }
            node = if range.reverse { at.prev() } else { at.next() };
        }
    }
}
