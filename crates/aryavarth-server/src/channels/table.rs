//! Names and their subscribers: channels by hash, patterns one by one.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use super::names::Subscriber;
use crate::glob::Glob;

/// Parts of a table, each with a lock: senders to different channels rarely meet.
const PARTS: usize = 64;

/// The subscribers of a name, by their clients' ids.
type Readers = BTreeMap<u64, Arc<Subscriber>>;
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
        let number = usize::try_from(self.hasher.hash_one(name) % PARTS as u64).unwrap_or(0);
        self.parts[number].lock().unwrap_or_else(PoisonError::into_inner)
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

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A pattern and its subscribers.
#[derive(Debug)]
struct Pattern {
    glob: Glob,
    readers: Readers,
}

/// The patterns, looked at by each publication.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    all: RwLock<BTreeMap<Arc<[u8]>, Pattern>>,
    len: AtomicUsize,
    bytes: AtomicUsize,
}

impl Patterns {
    pub(super) fn add(&self, name: &Arc<[u8]>, subscriber: &Arc<Subscriber>) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        let pattern = all.entry(Arc::clone(name)).or_insert_with(|| {
            self.len.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(name.len(), Ordering::Relaxed);
            Pattern { glob: Glob::new(name), readers: Readers::new() }
        });
        pattern.readers.insert(subscriber.client, Arc::clone(subscriber));
    }

    pub(super) fn remove(&self, name: &[u8], client: u64) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        let Some(pattern) = all.get_mut(name) else { return };
        pattern.readers.remove(&client);
        if pattern.readers.is_empty() {
            all.remove(name);
            self.len.fetch_sub(1, Ordering::Relaxed);
            self.bytes.fetch_sub(name.len(), Ordering::Relaxed);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Bytes of all patterns.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The patterns that match a channel. Costs one load if there are none.
    pub(super) fn matching(&self, channel: &[u8]) -> Matching<'_> {
        if self.len() == 0 {
            return Matching { all: None, names: Vec::new() };
        }
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let matches = all.iter().filter(|(_, pattern)| pattern.glob.matches(channel));
        let names = matches.map(|(name, _)| Arc::clone(name)).collect();
        Matching { all: Some(all), names }
    }
}

/// The patterns that match a channel, held against changes.
pub(super) struct Matching<'a> {
    all: Option<RwLockReadGuard<'a, BTreeMap<Arc<[u8]>, Pattern>>>,
    names: Vec<Arc<[u8]>>,
}

impl Matching<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Each with its subscribers.
    pub(super) fn iter(
        &self,
    ) -> impl Iterator<Item = (&[u8], impl Iterator<Item = &Arc<Subscriber>>)> {
        let all = self.all.as_deref();
        self.names.iter().filter_map(move |name| Some((&**name, all?.get(name)?.readers.values())))
    }
}
