//! One client's subscriptions.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Kind;
use super::inbox::Inbox;
use crate::budget::Share;

/// The longest name of a channel, and the longest pattern, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 4 << 10;
/// Names that one client may have subscribed to.
pub(crate) const NAMES_MAX: usize = 16 << 10;
/// Memory that a subscription takes beside its name, in bytes.
pub(crate) const NAME_COST: usize = 256;
/// Bytes of the patterns of all clients, and how many there may be: each publication matches them
/// all, and each change copies the list.
pub(crate) const PATTERN_BYTES_MAX_TOTAL: usize = 256 << 10;
pub(super) const PATTERNS_MAX: usize = 16 << 10;
/// Patterns that one client may have.
pub(crate) const OWN_PATTERNS_MAX: usize = 1 << 10;

/// How many names a client has subscribed to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subscriptions {
    pub(crate) channels: usize,
    pub(crate) patterns: usize,
    pub(crate) shards: usize,
}

impl Subscriptions {
    /// Whether there is any.
    pub(crate) fn any(self) -> bool {
        self.channels + self.patterns + self.shards > 0
    }

    /// The number that confirms a subscription of a kind: channels and patterns count together.
    pub(crate) fn confirmed(self, kind: Kind) -> usize {
        if kind == Kind::Shard { self.shards } else { self.channels + self.patterns }
    }
}

/// The limit that a subscription or a message would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// A name is longer than [`NAME_BYTES_MAX`].
    Name,
    /// The client has [`NAMES_MAX`] names.
    Names,
    /// All clients together have as many names as there is room for.
    AllNames,
    /// All clients together have [`PATTERN_BYTES_MAX_TOTAL`] bytes of patterns.
    AllPatterns,
    /// The message is larger than all messages may be.
    Message,
    /// The messages that wait leave no room, and closing the slowest subscribers gave none at once.
    Messages,
}

/// A client that may subscribe.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(super) client: u64,
    pub(crate) inbox: Inbox,
    names: Mutex<Names>,
    counts: [AtomicUsize; 3],
}

#[derive(Debug, Default)]
struct Names {
    sets: [BTreeSet<Arc<[u8]>>; 3],
    /// The client's parts of the names of all, and of the bytes of all patterns.
    shares: Option<(Share, Share)>,
}

impl Subscriber {
    pub(super) fn new(client: u64, shares: Option<(Share, Share)>) -> Self {
        let names = Mutex::new(Names { shares, ..Names::default() });
        Subscriber { client, inbox: Inbox::default(), names, counts: Default::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many names of each kind the client has subscribed to.
    pub(crate) fn counts(&self) -> Subscriptions {
        let [channels, patterns, shards] =
            [0, 1, 2].map(|at: usize| self.counts[at].load(Ordering::Relaxed));
        Subscriptions { channels, patterns, shards }
    }

    /// Adds names, all or none; calls `enter` with those that are new. Returns the number that
    /// confirms each, and marks their place in the inbox.
    pub(super) fn add(
        &self,
        kind: Kind,
        names: &[&[u8]],
        enter: impl FnOnce(&[Arc<[u8]>]),
    ) -> Result<Vec<usize>, Full> {
        let mut own = self.lock();
        let Names { sets, shares } = &mut *own;
        let set = &mut sets[kind as usize];
        let new: BTreeSet<&[u8]> =
            names.iter().copied().filter(|name| !set.contains(*name)).collect();
        if names.iter().any(|name| name.len() > NAME_BYTES_MAX) {
            return Err(Full::Name);
        }
        let max = if kind == Kind::Pattern { OWN_PATTERNS_MAX } else { NAMES_MAX };
        if set.len() + new.len() > max {
            return Err(Full::Names);
        }
        let bytes: usize = new.iter().map(|name| name.len()).sum();
        let Some((all, patterns)) = shares else { return Err(Full::AllNames) };
        let (before, cost) = (all.amount(), bytes + new.len() * NAME_COST);
        if !all.resize(before + cost) {
            return Err(Full::AllNames);
        }
        if kind == Kind::Pattern && !patterns.resize(patterns.amount() + bytes) {
            all.resize(before);
            return Err(Full::AllPatterns);
        }
        // Before the first message that the new names can bring.
        self.inbox.mark();
        let new: Vec<Arc<[u8]>> = new.into_iter().map(Arc::from).collect();
        enter(&new);
        let mut new: BTreeSet<Arc<[u8]>> = new.into_iter().collect();
        let mut confirmed = Vec::with_capacity(names.len());
        for name in names {
            set.extend(new.take(*name));
            self.counts[kind as usize].store(set.len(), Ordering::Relaxed);
            confirmed.push(self.counts().confirmed(kind));
        }
        Ok(confirmed)
    }

    /// Removes a name, if it is there, and calls `leave` with it. Returns the number that confirms
    /// it.
    pub(super) fn remove(
        &self,
        kind: Kind,
        name: &[u8],
        leave: impl FnOnce(&[Arc<[u8]>]),
    ) -> usize {
        let mut own = self.lock();
        let Names { sets, shares } = &mut *own;
        let set = &mut sets[kind as usize];
        if let Some(name) = set.take(name) {
            leave(std::slice::from_ref(&name));
            self.counts[kind as usize].store(set.len(), Ordering::Relaxed);
            if let Some((all, patterns)) = shares {
                all.resize(all.amount().saturating_sub(name.len() + NAME_COST));
                if kind == Kind::Pattern {
                    patterns.resize(patterns.amount().saturating_sub(name.len()));
                }
            }
        }
        self.counts().confirmed(kind)
    }

    /// Removes all names of a kind, and calls `leave` with them. Returns each with the number that
    /// confirms it.
    pub(super) fn remove_all(
        &self,
        kind: Kind,
        leave: impl FnOnce(&[Arc<[u8]>]),
    ) -> Vec<(Arc<[u8]>, usize)> {
        let mut own = self.lock();
        let Names { sets, shares } = &mut *own;
        let names: Vec<Arc<[u8]>> = std::mem::take(&mut sets[kind as usize]).into_iter().collect();
        leave(&names);
        self.counts[kind as usize].store(0, Ordering::Relaxed);
        let bytes: usize = names.iter().map(|name| name.len()).sum();
        if let Some((all, patterns)) = shares {
            all.resize(all.amount().saturating_sub(bytes + names.len() * NAME_COST));
            if kind == Kind::Pattern {
                patterns.resize(patterns.amount().saturating_sub(bytes));
            }
        }
        let (others, count) = (self.counts().confirmed(kind), names.len());
        let left = |(at, name)| (name, others + count - 1 - at);
        names.into_iter().enumerate().map(left).collect()
    }

    /// Takes no further name.
    pub(super) fn close(&self) {
        self.lock().shares = None;
    }
}
