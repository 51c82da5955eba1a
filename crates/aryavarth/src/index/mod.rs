//! The index: from a key to the place of its newest record.
//!
//! Every key has one *entry* in an arena, and every entry one *slot*: an atomic word that says
//! where the key's newest record lies. The ordered `SkipMap` maps keys to entries; overwriting a
//! key changes only the slot, never the list. That is what makes reads safe without a lock: a
//! concurrent `SkipMap::insert` of a present key would let it vanish for a moment, so the list is
//! only ever given keys that it does not hold.
//!
//! There is one list per content, and a table says which content a space has (spaces.rs). Entries
//! come from one arena, so that whoever moves or removes a record needs no list. A deadline stands
//! beside its entry, and again in an ordered set that only the writer sees
//! (`docs/decisions/0010`).
//!
//! Invariants:
//! - Only the writer (whoever holds its lock) inserts, unlinks and reuses entries. Compaction may
//!   replace a slot's value by compare-and-swap, nothing else.
//! - An entry is unlinked only while its slot is a tombstone, and its slot stays one until reuse.
//! - A deadline that is read between two loads of the same slot is that slot's: the writer makes it
//!   unreadable before it changes the slot, and readable afterwards.
//! - An entry is reused only after an epoch has passed since it left the list, so whoever found it
//!   there under a pin can go on reading it.
//! - The list is crossbeam's [`SkipList`], which `SkipMap` wraps: under a pin it needs no count of
//!   references, which would be two writes to shared memory per read. Nothing found in it is used
//!   beyond the pin: a scan seeks its place again by key.

mod spaces;

use std::cell::UnsafeCell;
use std::cmp::Ordering as KeyOrdering;
use std::ops::Bound;
use std::{fmt, ptr};

use crossbeam_epoch as epoch;
use crossbeam_skiplist::SkipList;

use crate::engine::{Count, KeyRange};
use crate::sync::{Arc, AtomicI64, AtomicU32, AtomicU64, OnceLock, Ordering, spin_loop};

pub(crate) use spaces::{
    Change, Dropped, Held, Index, IndexWriter, TABLE_CONTENT, TABLE_KEY, Table,
};

/// Entries of one piece of the arena, pieces of a group, and groups: 2^32 entries in all, made
/// as they are needed, so that an empty store takes little and no writer waits for a large one.
const CHUNK_ENTRIES: usize = 1 << 12;
const GROUP_CHUNKS: usize = 1 << 10;
const GROUPS: usize = 1 << 10;
/// Key bytes that fit into an entry, which is then 40 bytes.
const INLINE_BYTES: usize = 22;
/// Stands for a deadline that is being changed, or is none.
const CHANGING: u64 = 0;
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

/// The slot of an entry whose content is gone.
const GONE: Slot = Slot(1);

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

    /// Gives the entry to a key. For the writer, of an entry that is in nobody's reach.
    fn assign(&self, key: &[u8]) {
        // SAFETY: the entry is in nobody's reach: it was never linked, or left its list an epoch
        // ago (only then does it come off the free list), and the caller is the only writer.
        #[expect(unsafe_code, reason = "the key is written before the entry can be reached")]
        unsafe {
            *self.key.get() = Key::new(key);
        }
    }

    fn key(&self) -> &[u8] {
        // SAFETY: whoever holds a reference to a linked entry (or found it under a pin) is
        // ordered after the write of its key by the list's own publication, and the key does not
        // change before the pin ends.
        #[expect(unsafe_code, reason = "the key is immutable while it can be reached")]
        unsafe { &*self.key.get() }.as_bytes()
    }
}

/// A piece of the arena. The deadlines are made when the first of its keys has one.
struct Chunk {
    entries: Box<[Entry]>,
    deadlines: OnceLock<Box<[AtomicU64]>>,
}

impl Chunk {
    fn new(first: EntryId) -> Chunk {
        let ids = first..=first + (CHUNK_ENTRIES as EntryId - 1);
        let entries = ids.map(|id| Entry::new(id, Key::new(&[]))).collect();
        Chunk { entries, deadlines: OnceLock::new() }
    }
}

type Group = Box<[OnceLock<Chunk>]>;

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

    fn chunk(&self, id: EntryId) -> &Chunk {
        let chunk = id as usize / CHUNK_ENTRIES;
        let group = self.groups[chunk / GROUP_CHUNKS]
            .get_or_init(|| (0..GROUP_CHUNKS).map(|_| OnceLock::new()).collect());
        let first = || id - id % CHUNK_ENTRIES as EntryId;
        group[chunk % GROUP_CHUNKS].get_or_init(|| Chunk::new(first()))
    }

    fn entry(&self, id: EntryId) -> &Entry {
        &self.chunk(id).entries[id as usize % CHUNK_ENTRIES]
    }

    /// The deadline beside an entry, which means something only if the entry's slot says so.
    fn deadline(&self, id: EntryId) -> u64 {
        let deadlines = self.chunk(id).deadlines.get();
        deadlines.map_or(CHANGING, |all| all[id as usize % CHUNK_ENTRIES].load(Ordering::Acquire))
    }

    /// For the writer only.
    fn set_deadline(&self, id: EntryId, deadline: u64) {
        let new = || (0..CHUNK_ENTRIES).map(|_| AtomicU64::new(CHANGING)).collect();
        let deadlines = self.chunk(id).deadlines.get_or_init(new);
        deadlines[id as usize % CHUNK_ENTRIES].store(deadline, Ordering::Release);
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
// outlives the list (which owns a share of it) and never moves an entry. One in a `probe` does not
// leave its thread.
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

    /// The entry, for as long as the arena that it lives in is there. For what is in a list.
    fn entry_in<'a>(&self, arena: &'a Arena) -> &'a Entry {
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
    arena: &'g Arena,
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

    /// Points the entry at a newer record; returns what it pointed at. For the writer only.
    fn publish(self, slot: Slot, expires_at: Option<u64>) -> Slot {
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

/// The keys of one content, in order, and how many there are.
struct KeyList {
    list: SkipList<KeyRef, ()>,
    // The keys of the list point into it.
    arena: Arc<Arena>,
    keys: AtomicI64,
    expiring: AtomicI64,
    live_bytes: AtomicI64,
}

impl fmt::Debug for KeyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries", self.list.len())
    }
}

impl KeyList {
    fn new(arena: &Arc<Arena>) -> KeyList {
        KeyList {
            list: SkipList::new(epoch::default_collector().clone()),
            arena: Arc::clone(arena),
            keys: AtomicI64::new(0),
            expiring: AtomicI64::new(0),
            live_bytes: AtomicI64::new(0),
        }
    }

    fn count(&self) -> Count {
        let number = |count: &AtomicI64| count.load(Ordering::Relaxed).max(0) as u64;
        Count { keys: number(&self.keys), expiring: number(&self.expiring) }
    }

    /// Counts a value's record (1) or one that no longer is (-1).
    fn account(&self, slot: Slot, sign: i64) {
        if !slot.is_tombstone() {
            self.keys.fetch_add(sign, Ordering::Relaxed);
            self.expiring.fetch_add(sign * i64::from(slot.has_deadline()), Ordering::Relaxed);
            self.live_bytes.fetch_add(sign * slot.pointer().length as i64, Ordering::Relaxed);
        }
    }

    fn find<'a>(&self, arena: &'a Arena, key: &[u8], pin: &epoch::Guard) -> Option<Found<'a>> {
        let node = probe(key, |probe| self.list.get(probe, pin))?;
        Some(Found { entry: node.key().entry_in(arena), arena })
    }

    /// Puts an entry, which nobody else can reach, under its key into the list.
    fn link(&self, entry: &Entry) {
        let pin = epoch::pin();
        self.list.insert(KeyRef::new(entry), (), &pin).release(&pin);
    }

    /// Takes a key out of the list; its entry is reused after an epoch.
    fn unlink(&self, entry: &Entry) -> bool {
        let pin = epoch::pin();
        let node = self.list.remove(&KeyRef::new(entry), &pin);
        let removed = node.is_some();
        if let Some(node) = node {
            node.release(&pin);
        }
        let (arena, id) = (Arc::clone(&self.arena), entry.id);
        pin.defer(move || arena.free(id));
        removed
    }

    /// Takes the first key out of the list; returns what its slot held. For a list that no table
    /// names any more: the slot is a tombstone from then on, so that compaction lets go of it.
    fn pop(&self, pin: &epoch::Guard) -> Option<Slot> {
        let node = self.list.pop_front(pin)?;
        let entry = node.key().entry();
        let slot = Slot(entry.slot.swap(GONE.0, Ordering::AcqRel));
        let (arena, id) = (Arc::clone(&self.arena), entry.id);
        node.release(pin);
        pin.defer(move || arena.free(id));
        Some(slot)
    }

    /// Calls `visit` with the entries of `range` in order until it returns false. The caller
    /// keeps the walk short: it holds an epoch for as long as it lasts.
    fn walk<'a>(
        &self,
        arena: &'a Arena,
        range: &KeyRange,
        pin: &epoch::Guard,
        mut visit: impl FnMut(&'a [u8], Found<'a>) -> bool,
    ) {
        let (start, end) = range.bounds();
        let mut node = if range.reverse {
            bound(end, |end| self.list.upper_bound(end, pin))
        } else {
            bound(start, |start| self.list.lower_bound(start, pin))
        };
        while let Some(at) = node {
            let entry = at.key().entry_in(arena);
            if !range.contains(entry.key()) || !visit(entry.key(), Found { entry, arena }) {
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
    use crate::record::Extra;

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

    fn put(index: &Index, writer: &mut IndexWriter, key: &[u8], slot: Slot) {
        index.put(writer, None, Extra::default(), key, slot);
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
        let (index, mut writer, keys) =
            (Index::with_table(Table::default()), IndexWriter::default(), keys());
        for (at, key) in keys.iter().enumerate().rev() {
            put(&index, &mut writer, key, Slot::new(1, 8 * (at as u64 + 1), 64, false));
        }
        let pin = epoch::pin();
        for (at, key) in keys.iter().enumerate() {
            let found = index.find(0, key, &pin).1.expect("it was inserted");
            assert_eq!(found.slot().pointer().offset, 8 * (at as u64 + 1));
        }
        for reverse in [false, true] {
            let range = KeyRange { reverse, ..KeyRange::all() };
            let mut walked = Vec::new();
            index.walk(0, &range, &pin, |key, _| {
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
        let (index, mut writer) = (Index::with_table(Table::default()), IndexWriter::default());
        put(&index, &mut writer, b"a", Slot::new(1, 64, 64, false));
        let pin = epoch::pin();
        let found = index.find(0, b"a", &pin).1.expect("it was inserted");
        let tombstone = Slot::new(1, 128, 64, true);
        found.publish(tombstone, None);
        assert!(index.unlink(0, found.id(), tombstone));
        for other in 0..100 {
            put(&index, &mut writer, &[other], Slot::new(1, 192, 64, false));
            let id = index.find(0, &[other], &pin).1.expect("it was inserted").id();
            assert_ne!(id, found.id(), "two keys in one entry");
        }
        assert_eq!(found.slot(), tombstone);
    }

    #[test]
    fn a_deadline_is_never_that_of_another_write() {
        let (index, mut writer) = (Index::with_table(Table::default()), IndexWriter::default());
        put(&index, &mut writer, b"k", Slot::new(1, 8, 64, false));
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let pin = epoch::pin();
                let found = index.find(0, b"k", &pin).1.expect("it was inserted");
                while !done.load(Ordering::Relaxed) {
                    let (slot, deadline) = found.slot_and_deadline();
                    let expected = slot.has_deadline().then(|| slot.pointer().offset);
                    assert_eq!(deadline, expected);
                }
            });
            let pin = epoch::pin();
            for n in 2..200_000 {
                let found = index.find(0, b"k", &pin).1;
                // One in three has no deadline; the others have that of their place.
                let expires_at = (n % 3 > 0).then_some(8 * n);
                let extra = Extra { content: 0, expires_at };
                index.put(&mut writer, found, extra, b"k", Slot::new(1, 8 * n, 64, false));
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(writer.next_deadline(), Some(8 * 199_999), "no other is left");
    }

    #[test]
    fn an_entry_and_its_reference_stay_small() {
        assert_eq!((size_of::<Entry>(), size_of::<KeyRef>()), (40, 24));
    }
}
