//! Names and their subscribers: channels by hash, patterns one by one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::names::Subscriber;
use crate::glob::Glob;

/// Parts of a table, each with a lock: senders to different channels rarely meet.
const PARTS: usize = 64;

/// The subscribers of a name, by their clients' ids.
pub(super) type Readers = BTreeMap<u64, Arc<Subscriber>>;
type Part = HashMap<Arc<[u8]>, Readers>;

/// Channels of one kind.
#[derive(Debug)]
pub(super) struct Table {
    parts: Vec<Mutex<Part>>,
    hasher: RandomState,
    len: AtomicUsize,
}

impl Table {
    pub(super) fn new() -> Self {
        let parts = std::iter::repeat_with(Mutex::default).take(PARTS).collect();
        Table { parts, hasher: RandomState::new(), len: AtomicUsize::new(0) }
    }

    fn part(&self, name: &[u8]) -> MutexGuard<'_, Part> {
        self.parts[self.number(name)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self, name: &[u8]) -> usize {
        usize::try_from(self.hasher.hash_one(name) % PARTS as u64).unwrap_or(0)
    }

    pub(super) fn add(&self, name: &Arc<[u8]>, subscriber: &Arc<Subscriber>) {
        let mut part = self.part(name);
        let readers = part.entry(Arc::clone(name)).or_insert_with(|| {
            self.len.fetch_add(1, Ordering::Relaxed);
            Readers::new()
        });
        readers.insert(subscriber.client, Arc::clone(subscriber));
    }

    pub(super) fn remove(&self, name: &[u8], client: u64) {
        let mut part = self.part(name);
        let Some(readers) = part.get_mut(name) else { return };
        readers.remove(&client);
        if readers.is_empty() {
            part.remove(name);
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The subscribers of a name; no other message reaches them meanwhile.
    pub(super) fn readers<'a>(&'a self, name: &'a [u8]) -> Locked<'a> {
        Locked { part: self.part(name), name }
    }

    /// Whether a name has more subscribers than `count`, or a message to it is being delivered.
    pub(super) fn is_wide(&self, name: &[u8], count: usize) -> bool {
        match self.parts[self.number(name)].try_lock() {
            Ok(part) => part.get(name).is_some_and(|readers| readers.len() > count),
            Err(_) => true,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub(super) fn names(&self, pattern: Option<&Glob>) -> Vec<Arc<[u8]>> {
        let mut names = Vec::new();
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            let matches = |name: &&Arc<[u8]>| pattern.is_none_or(|pattern| pattern.matches(name));
            names.extend(part.keys().filter(matches).cloned());
        }
        names
    }
}

/// The subscribers of a name, with their part of the table.
pub(super) struct Locked<'a> {
    part: MutexGuard<'a, Part>,
    name: &'a [u8],
}

impl Locked<'_> {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Subscriber>> {
        self.part.get(self.name).into_iter().flat_map(BTreeMap::values)
    }

    pub(super) fn len(&self) -> usize {
        self.part.get(self.name).map_or(0, BTreeMap::len)
    }
}

/// A pattern and its subscribers.
#[derive(Debug)]
pub(super) struct Pattern {
    pub(super) name: Arc<[u8]>,
    glob: Glob,
    readers: Mutex<Readers>,
}

impl Pattern {
    pub(super) fn readers(&self) -> MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The patterns, in order. A publication looks at the list as it is, without a lock; a change makes a
/// new one.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    all: Mutex<Arc<Vec<Arc<Pattern>>>>,
    len: AtomicUsize,
    bytes: AtomicUsize,
    readers: AtomicUsize,
}

impl Patterns {
    fn all(&self) -> MutexGuard<'_, Arc<Vec<Arc<Pattern>>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a subscriber of patterns that it does not have.
    pub(super) fn add(&self, names: &[Arc<[u8]>], subscriber: &Arc<Subscriber>) {
        let mut all = self.all();
        let list = Arc::make_mut(&mut all);
        for name in names {
            let readers = Readers::from([(subscriber.client, Arc::clone(subscriber))]);
            match list.binary_search_by(|pattern| pattern.name.cmp(name)) {
                Ok(at) => list[at].readers().extend(readers),
                Err(at) => {
                    let (name, glob) = (Arc::clone(name), Glob::new(name));
                    self.bytes.fetch_add(name.len(), Ordering::Relaxed);
                    let pattern = Pattern { name, glob, readers: Mutex::new(readers) };
                    list.insert(at, Arc::new(pattern));
                }
            }
        }
        self.readers.fetch_add(names.len(), Ordering::Relaxed);
        self.len.store(list.len(), Ordering::Relaxed);
    }

    /// Removes a subscriber of patterns that it has.
    pub(super) fn remove(&self, names: &[Arc<[u8]>], client: u64) {
        if names.is_empty() {
            return;
        }
        let mut all = self.all();
        let mut over = BTreeSet::new();
        for name in names {
            let Ok(at) = all.binary_search_by(|pattern| pattern.name.cmp(name)) else { continue };
            let mut readers = all[at].readers();
            readers.remove(&client);
            if readers.is_empty() {
                over.insert(name);
                self.bytes.fetch_sub(name.len(), Ordering::Relaxed);
            }
        }
        if !over.is_empty() {
            Arc::make_mut(&mut all).retain(|pattern| !over.contains(&pattern.name));
        }
        self.readers.fetch_sub(names.len(), Ordering::Relaxed);
        self.len.store(all.len(), Ordering::Relaxed);
    }

    /// Subscriptions to patterns.
    pub(super) fn readers(&self) -> usize {
        self.readers.load(Ordering::Relaxed)
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Bytes of all patterns.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The patterns that match a channel. Costs one load if there are none.
    pub(super) fn matching(&self, channel: &[u8]) -> Vec<Arc<Pattern>> {
        if self.len() == 0 {
            return Vec::new();
        }
        let all = Arc::clone(&self.all());
        all.iter().filter(|pattern| pattern.glob.matches(channel)).cloned().collect()
    }
}
