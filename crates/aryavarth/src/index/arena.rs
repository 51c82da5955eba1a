//! The arena: the entries of all spaces, numbered, and the deadlines beside them.
//!
//! Invariants:
//! - An entry never moves, so that the lists can point at it.
//! - An entry is reused only after an epoch has passed since it left its list, so a reader that found
//!   it there under a pin can go on reading it.

use super::entry::{Entry, EntryId, Key};
use super::leaf::Keys;
use crate::sync::{AtomicU32, AtomicU64, Mutex, OnceLock, Ordering, Rank, lock};

/// Entries of one piece of the arena, pieces of a group, and groups: 2^32 entries in all, made
/// as they are needed, so that an empty store takes little and no writer waits for a large one.
const CHUNK_ENTRIES: usize = 1 << 12;
const GROUP_CHUNKS: usize = 1 << 10;
const GROUPS: usize = 1 << 10;
/// Stands for a deadline that is being changed, or is none.
pub(super) const CHANGING: u64 = 0;

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

impl Keys for Arena {
    fn key(&self, id: EntryId) -> &[u8] {
        self.entry(id).key()
    }
}

type Group = Box<[OnceLock<Chunk>]>;

/// The arena: entries never move, so that the list can point at them.
pub(super) struct Arena {
    groups: Box<[OnceLock<Group>]>,
    /// The first of the entries that may be reused, plus one; their slots hold the next, marked
    /// as a tombstone, so that no comparison of slots takes it for a value's place.
    free: AtomicU32,
    /// How many entries were ever given to keys. Only the writer changes it.
    used: AtomicU32,
    lists: Mutex<ListNumbers>,
}

/// The numbers of lists: each is that of one list at a time.
#[derive(Default)]
struct ListNumbers {
    used: u32,
    free: Vec<u32>,
}

impl Arena {
    pub(super) fn new() -> Arena {
        let groups = (0..GROUPS).map(|_| OnceLock::new()).collect();
        Arena {
            groups,
            free: AtomicU32::new(0),
            used: AtomicU32::new(0),
            lists: Mutex::new(Rank::Lists, ListNumbers::default()),
        }
    }

    /// A number for a new list; not 0.
    pub(super) fn take_list_number(&self) -> u32 {
        let mut lists = lock(&self.lists);
        lists.free.pop().unwrap_or_else(|| {
            lists.used += 1;
            lists.used
        })
    }

    /// Takes the number of a list back that holds no entries and is in nobody's reach.
    pub(super) fn give_list_number(&self, number: u32) {
        lock(&self.lists).free.push(number);
    }

    /// Every entry with a lower number was given to a key at some time, no other was.
    pub(super) fn used(&self) -> EntryId {
        self.used.load(Ordering::Acquire)
    }

    /// An entry that was never used. For the writer only.
    pub(super) fn take_new(&self) -> EntryId {
        let id = self.used.load(Ordering::Relaxed);
        self.used.store(id + 1, Ordering::Release);
        id
    }

    fn chunk(&self, id: EntryId) -> &Chunk {
        let chunk = id as usize / CHUNK_ENTRIES;
        let group = self.groups[chunk / GROUP_CHUNKS]
            .get_or_init(|| (0..GROUP_CHUNKS).map(|_| OnceLock::new()).collect());
        let first = || id - id % CHUNK_ENTRIES as EntryId;
        group[chunk % GROUP_CHUNKS].get_or_init(|| Chunk::new(first()))
    }

    pub(super) fn entry(&self, id: EntryId) -> &Entry {
        &self.chunk(id).entries[id as usize % CHUNK_ENTRIES]
    }

    /// The deadline beside an entry, which means something only if the entry's slot says so.
    pub(super) fn deadline(&self, id: EntryId) -> u64 {
        let deadlines = self.chunk(id).deadlines.get();
        deadlines.map_or(CHANGING, |all| all[id as usize % CHUNK_ENTRIES].load(Ordering::Acquire))
    }

    /// For the writer only.
    pub(super) fn set_deadline(&self, id: EntryId, deadline: u64) {
        let new = || (0..CHUNK_ENTRIES).map(|_| AtomicU64::new(CHANGING)).collect();
        let deadlines = self.chunk(id).deadlines.get_or_init(new);
        deadlines[id as usize % CHUNK_ENTRIES].store(deadline, Ordering::Release);
    }

    /// Puts an entry on the free list. Called by whichever thread advances the epoch.
    pub(super) fn free(&self, id: EntryId) {
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
    pub(super) fn take_free(&self) -> Vec<EntryId> {
        let mut ids = Vec::new();
        let mut next = self.free.swap(0, Ordering::Acquire);
        while next != 0 {
            ids.push(next - 1);
            next = (self.entry(next - 1).slot.load(Ordering::Relaxed) >> 1) as u32;
        }
        ids
    }
}
