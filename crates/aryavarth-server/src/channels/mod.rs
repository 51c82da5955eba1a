//! Channels: messages from any client to those that subscribed.
//!
//! ```text
//!   PUBLISH channel message
//!      |
//!      +--> table: channel ---> subscribers --+
//!      |    (64 parts, a lock each)           +--> inbox --> gates --> socket
//!      +--> patterns that match ------------- +    (FIFO)    (until the sender's writes
//!                                                             before it are durable)
//! ```
//!
//! A message is encoded once and shared by its readers. It carries the position of the newest write that
//! its sender had seen, so no subscriber hears of data that a crash can take back. Messages are not
//! logged: a client that is not subscribed misses them.
//!
//! Invariants:
//! - Subscribers of a channel get its messages in one order, each once per matching subscription.
//! - A subscription that is confirmed gets each message that is published after it.
//! - A subscriber that does not read is cut off at its limit; no sender waits for it. All messages
//!   that wait take the limit of all at most, with their places in the inboxes: when there is no room,
//!   the subscribers with the most unsent bytes are cut off, and if that gives none, the message is
//!   refused.
//! - Names are bounded for one client and for all together, and so is the work to match patterns,
//!   which is done without a lock.
//! - Locks are taken in this order: a client's names, the list of patterns, a part of a table, a
//!   pattern's readers, the subscribers, an inbox.

mod inbox;
mod names;
mod table;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aryavarth::{Durability, Position};
use aryavarth_protocol::{Push, Tail};

use crate::budget::{Budget, Share};
use crate::glob::Glob;
use crate::limits::Limits;
pub(crate) use inbox::Message;
use inbox::Put;
pub(crate) use names::{
    Full, NAME_BYTES_MAX, NAMES_MAX, OWN_PATTERNS_MAX, Subscriber, Subscriptions,
};
use names::{PATTERN_BYTES_MAX_TOTAL, PATTERNS_MAX};
use table::{Patterns, Table};

/// The kinds of subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Channel,
    Pattern,
    /// A channel of SSUBSCRIBE and SPUBLISH, which has names of its own.
    Shard,
}

/// A message of a client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Publication<'a> {
    pub(crate) channel: &'a [u8],
    pub(crate) message: &'a [u8],
    /// The newest write that its sender has seen, and the level that its readers wait for.
    pub(crate) position: Position,
    pub(crate) level: Durability,
}

/// The outcome of a publication.
#[derive(Debug)]
pub(crate) struct Published {
    /// Subscriptions that the message was delivered to; an error if it was to none for want of room.
    pub(crate) receivers: Result<usize, Full>,
    /// The clients that are to be closed because they did not read.
    pub(crate) cut: Vec<u64>,
}

/// Bytes of a message's words and handles beside its channel, its pattern and its text.
const HEAD_COST: usize = 128;
/// Subscribers that one publication may cut off to find room.
const CUT_MAX: usize = 16;
/// Steps of matching, and readers, with which a publication is no long work.
const SHORT_STEPS: usize = 1 << 16;
const SHORT_READERS: usize = 256;

/// Every subscription.
#[derive(Debug)]
pub(crate) struct Channels {
    plain: Table,
    shards: Table,
    patterns: Patterns,
    /// The clients that have subscribed, by their ids.
    subscribers: Mutex<BTreeMap<u64, Arc<Subscriber>>>,
    names: Budget,
    pattern_bytes: Budget,
    messages: Budget,
    subscriber_bytes_max: usize,
    message_bytes_max: usize,
    /// How many subscribers there are.
    entered: AtomicUsize,
    published: AtomicU64,
    cut: AtomicU64,
}

impl Channels {
    pub(crate) fn new(limits: &Limits) -> Self {
        Channels {
            plain: Table::new(),
            shards: Table::new(),
            patterns: Patterns::default(),
            subscribers: Mutex::default(),
            names: Budget::new(limits.subscription_bytes_max_total),
            pattern_bytes: Budget::new(PATTERN_BYTES_MAX_TOTAL),
            messages: Budget::new(limits.message_bytes_max_total),
            subscriber_bytes_max: limits.subscriber_bytes_max,
            message_bytes_max: limits.message_bytes_max_total,
            entered: AtomicUsize::new(0),
            published: AtomicU64::new(0),
            cut: AtomicU64::new(0),
        }
    }

    /// A client that may subscribe, until [`Channels::leave`].
    pub(crate) fn enter(&self, client: u64) -> Arc<Subscriber> {
        let shares = self.names.take(0).zip(self.pattern_bytes.take(0));
        let subscriber = Arc::new(Subscriber::new(client, shares));
        self.subscribers().insert(client, Arc::clone(&subscriber));
        self.entered.fetch_add(1, Ordering::Relaxed);
        subscriber
    }

    /// A client is gone, and cannot subscribe any more.
    pub(crate) fn leave(&self, subscriber: &Arc<Subscriber>) {
        subscriber.close();
        for kind in [Kind::Channel, Kind::Pattern, Kind::Shard] {
            self.unsubscribe_all(subscriber, kind);
        }
        subscriber.inbox.cut();
        if self.subscribers().remove(&subscriber.client).is_some() {
            self.entered.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Subscribes a client to names, to all or to none; returns how many subscriptions it has
    /// after each.
    pub(crate) fn subscribe(
        &self,
        subscriber: &Arc<Subscriber>,
        kind: Kind,
        names: &[&[u8]],
    ) -> Result<Vec<usize>, Full> {
        // Others may add some at the same time: the limit is one of work, not an exact one.
        if kind == Kind::Pattern && self.patterns.len() >= PATTERNS_MAX {
            return Err(Full::AllPatterns);
        }
        subscriber.add(kind, names, |names| match kind {
            Kind::Pattern => self.patterns.add(names, subscriber),
            Kind::Channel | Kind::Shard => {
                for name in names {
                    self.table(kind).add(name, subscriber);
                }
            }
        })
    }

    /// Ends a subscription, if there is one; returns how many the client has left.
    pub(crate) fn unsubscribe(&self, subscriber: &Subscriber, kind: Kind, name: &[u8]) -> usize {
        subscriber.remove(kind, name, |names| self.leave_names(kind, names, subscriber.client))
    }

    /// Ends all subscriptions of a kind; returns their names, and how many of the client's are left
    /// after each.
    pub(crate) fn unsubscribe_all(
        &self,
        subscriber: &Subscriber,
        kind: Kind,
    ) -> Vec<(Arc<[u8]>, usize)> {
        subscriber.remove_all(kind, |names| self.leave_names(kind, names, subscriber.client))
    }

    fn leave_names(&self, kind: Kind, names: &[Arc<[u8]>], client: u64) {
        match kind {
            Kind::Pattern => self.patterns.remove(names, client),
            Kind::Channel | Kind::Shard => {
                for name in names {
                    self.table(kind).remove(name, client);
                }
            }
        }
    }

    /// Delivers a message to the subscribers of its channel and of patterns that match it.
    pub(crate) fn publish(&self, kind: Kind, of: &Publication<'_>) -> Published {
        self.published.fetch_add(1, Ordering::Relaxed);
        let is_shard = kind == Kind::Shard;
        let mut patterns = Vec::new();
        if !is_shard {
            patterns = self.patterns.matching(of.channel);
        }
        // Held to the end: it keeps the order of the channel's messages for all.
        let readers = self.table(kind).readers(of.channel);
        let patterns: Vec<_> =
            patterns.iter().map(|pattern| (pattern, pattern.readers())).collect();
        let count =
            readers.len() + patterns.iter().map(|(_, readers)| readers.len()).sum::<usize>();
        if count == 0 {
            return Published { receivers: Ok(0), cut: Vec::new() };
        }
        let tail = Tail::new(&[of.channel, of.message]);
        let heads: usize = patterns.iter().map(|(pattern, _)| pattern.name.len() + HEAD_COST).sum();
        let bytes = Push::new(&[], &tail).len() + HEAD_COST + heads + count * size_of::<Message>();
        let mut cut = Vec::new();
        let room = match self.room(bytes, &mut cut) {
            Ok(room) => Arc::new(room),
            Err(full) => return Published { receivers: Err(full), cut },
        };
        let (position, level) = (of.position, of.level);
        let mut delivery = Delivery { channels: self, position, level, room, receivers: 0, cut };
        let word: &[u8] = if is_shard { b"smessage" } else { b"message" };
        delivery.deliver(&Push::new(&[word], &tail), readers.iter());
        for (pattern, readers) in &patterns {
            delivery.deliver(&Push::new(&[b"pmessage", &pattern.name], &tail), readers.values());
        }
        Published { receivers: Ok(delivery.receivers), cut: delivery.cut }
    }

    /// Room for a message, for which the slowest subscribers are cut off if it has to be.
    fn room(&self, bytes: usize, cut: &mut Vec<u64>) -> Result<Share, Full> {
        if bytes > self.message_bytes_max {
            return Err(Full::Message);
        }
        let mut cut_bytes = 0;
        loop {
            if let Some(room) = self.messages.take(bytes) {
                return Ok(room);
            }
            // The room of those that were cut off comes back when they are closed.
            if cut_bytes >= bytes || cut.len() >= CUT_MAX {
                return Err(Full::Messages);
            }
            let (client, bytes) = self.cut_slowest().ok_or(Full::Messages)?;
            cut.push(client);
            cut_bytes += bytes;
        }
    }

    /// Cuts off the subscriber with the most unsent bytes; returns its client and these bytes.
    fn cut_slowest(&self) -> Option<(u64, usize)> {
        let subscribers = self.subscribers();
        let unsent = subscribers.values().map(|subscriber| (subscriber.inbox.unsent(), subscriber));
        let (bytes, slowest) = unsent.max_by_key(|(bytes, _)| *bytes)?;
        (bytes > 0 && slowest.inbox.cut()).then(|| {
            self.cut.fetch_add(1, Ordering::Relaxed);
            (slowest.client, bytes)
        })
    }

    /// Whether a publication may take long: it matches many patterns or has many readers.
    pub(crate) fn is_long(&self, channel: &[u8]) -> bool {
        let steps = self.patterns.bytes().saturating_mul(channel.len().min(NAME_BYTES_MAX));
        steps > SHORT_STEPS
            || self.patterns.readers() > SHORT_READERS
            || self.entered.load(Ordering::Relaxed) > SHORT_READERS
                && (self.plain.is_wide(channel, SHORT_READERS)
                    || self.shards.is_wide(channel, SHORT_READERS))
    }

    /// The names that have subscribers, and match.
    pub(crate) fn names(&self, kind: Kind, pattern: Option<&Glob>) -> Vec<Arc<[u8]>> {
        let mut names = self.table(kind).names(pattern);
        names.sort();
        names
    }

    /// How many clients have subscribed to a name.
    pub(crate) fn subscribers_of(&self, kind: Kind, name: &[u8]) -> usize {
        self.table(kind).readers(name).len()
    }

    /// How many subscriptions a message on a channel meets now.
    pub(crate) fn receivers(&self, kind: Kind, channel: &[u8]) -> usize {
        let patterns = match kind {
            Kind::Shard => Vec::new(),
            Kind::Channel | Kind::Pattern => self.patterns.matching(channel),
        };
        let by_pattern: usize = patterns.iter().map(|pattern| pattern.readers().len()).sum();
        self.subscribers_of(kind, channel) + by_pattern
    }

    fn table(&self, kind: Kind) -> &Table {
        if kind == Kind::Shard { &self.shards } else { &self.plain }
    }

    /// Channels, patterns and shard channels that have subscribers.
    pub(crate) fn counts(&self) -> Subscriptions {
        Subscriptions {
            channels: self.plain.len(),
            patterns: self.patterns.len(),
            shards: self.shards.len(),
        }
    }

    /// Publications, and the subscribers that were cut off.
    pub(crate) fn figures(&self) -> (u64, u64) {
        (self.published.load(Ordering::Relaxed), self.cut.load(Ordering::Relaxed))
    }

    fn subscribers(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Subscriber>>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message on its way to its readers.
struct Delivery<'a> {
    channels: &'a Channels,
    position: Position,
    level: Durability,
    room: Arc<Share>,
    receivers: usize,
    cut: Vec<u64>,
}

impl Delivery<'_> {
    fn deliver<'r>(&mut self, push: &Push, readers: impl Iterator<Item = &'r Arc<Subscriber>>) {
        let (position, level) = (self.position, self.level);
        for reader in readers {
            let room = Arc::clone(&self.room);
            let message = Message { push: push.clone(), position, level, room };
            match reader.inbox.put(message, self.channels.subscriber_bytes_max) {
                Put::Kept => self.receivers += 1,
                Put::Cut => {
                    self.channels.cut.fetch_add(1, Ordering::Relaxed);
                    self.cut.push(reader.client);
                }
                Put::WasCut => {}
            }
        }
    }
}
