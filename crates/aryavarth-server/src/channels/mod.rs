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
//!   that wait take the limit of all at most: when there is no room, the
//!   subscriber with the most unsent bytes is cut off.
//! - Names are bounded for one client and for all together, and so is the work to match patterns.

mod inbox;
mod names;
mod table;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aryavarth::{Durability, Position};
use aryavarth_protocol::{Push, Tail};

use crate::budget::{Budget, Share};
use crate::glob::Glob;
use crate::limits::Limits;
pub(crate) use inbox::Message;
use names::PATTERN_BYTES_MAX_TOTAL;
pub(crate) use names::{Full, NAME_BYTES_MAX, NAMES_MAX, Subscriber, Subscriptions};
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
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Published {
    /// Subscriptions that the message was delivered to.
    pub(crate) receivers: usize,
    /// The clients that are to be closed because they did not read.
    pub(crate) cut: Vec<u64>,
}

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
            published: AtomicU64::new(0),
            cut: AtomicU64::new(0),
        }
    }

    /// A client that may subscribe, until [`Channels::leave`].
    pub(crate) fn enter(&self, client: u64) -> Arc<Subscriber> {
        let shares = self.names.take(0).zip(self.pattern_bytes.take(0));
        let subscriber = Arc::new(Subscriber::new(client, shares));
        self.subscribers().insert(client, Arc::clone(&subscriber));
        subscriber
    }

    /// A client is gone.
    pub(crate) fn leave(&self, subscriber: &Arc<Subscriber>) {
        for kind in [Kind::Channel, Kind::Pattern, Kind::Shard] {
            self.unsubscribe_all(subscriber, kind);
        }
        subscriber.inbox.cut();
        self.subscribers().remove(&subscriber.client);
    }

    /// Subscribes a client to names, to all or to none; returns how many subscriptions it has
    /// after each.
    pub(crate) fn subscribe(
        &self,
        subscriber: &Arc<Subscriber>,
        kind: Kind,
        names: &[&[u8]],
    ) -> Result<Vec<usize>, Full> {
        subscriber.add(kind, names, |name| match kind {
            Kind::Pattern => self.patterns.add(name, subscriber),
            Kind::Channel => self.plain.add(name, subscriber),
            Kind::Shard => self.shards.add(name, subscriber),
        })
    }

    /// Ends a subscription, if there is one; returns how many the client has left.
    pub(crate) fn unsubscribe(&self, subscriber: &Subscriber, kind: Kind, name: &[u8]) -> usize {
        subscriber.remove(kind, name, |name| match kind {
            Kind::Pattern => self.patterns.remove(name, subscriber.client),
            Kind::Channel => self.plain.remove(name, subscriber.client),
            Kind::Shard => self.shards.remove(name, subscriber.client),
        })
    }

    /// Ends all subscriptions of a kind; returns their names, and how many of the client's are left
    /// after each.
    pub(crate) fn unsubscribe_all(
        &self,
        subscriber: &Subscriber,
        kind: Kind,
    ) -> Vec<(Arc<[u8]>, usize)> {
        let names = subscriber.names(kind);
        let left = |name: Arc<[u8]>| {
            let left = self.unsubscribe(subscriber, kind, &name);
            (name, left)
        };
        names.into_iter().map(left).collect()
    }

    /// Delivers a message to the subscribers of its channel and of patterns that match it.
    ///
    /// # Errors
    /// [`Full`] if the message alone is larger than the memory for all messages.
    pub(crate) fn publish(&self, of: &Publication<'_>) -> Result<Published, Full> {
        self.published.fetch_add(1, Ordering::Relaxed);
        let patterns = self.patterns.matching(of.channel);
        let readers = self.plain.readers(of.channel);
        if readers.is_empty() && patterns.is_empty() {
            return Ok(Published::default());
        }
        let tail = Tail::new(&[of.channel, of.message]);
        let mut delivery = self.delivery(of, &tail)?;
        if !readers.is_empty() {
            delivery.deliver(&Push::new(&[b"message"], &tail), readers.iter());
        }
        for (pattern, readers) in patterns.iter() {
            delivery.deliver(&Push::new(&[b"pmessage", pattern], &tail), readers);
        }
        Ok(delivery.published)
    }

    /// Delivers a message to the subscribers of its shard channel.
    ///
    /// # Errors
    /// As [`Channels::publish`].
    pub(crate) fn publish_to_shard(&self, of: &Publication<'_>) -> Result<Published, Full> {
        self.published.fetch_add(1, Ordering::Relaxed);
        let readers = self.shards.readers(of.channel);
        if readers.is_empty() {
            return Ok(Published::default());
        }
        let tail = Tail::new(&[of.channel, of.message]);
        let mut delivery = self.delivery(of, &tail)?;
        delivery.deliver(&Push::new(&[b"smessage"], &tail), readers.iter());
        Ok(delivery.published)
    }

    fn delivery(&self, of: &Publication<'_>, tail: &Tail) -> Result<Delivery<'_>, Full> {
        let mut published = Published::default();
        let bytes = Push::new(&[], tail).len();
        let room = loop {
            match self.messages.take(bytes) {
                Some(room) => break Arc::new(room),
                None => published.cut.push(self.cut_slowest().ok_or(Full::Message)?),
            }
        };
        let (position, level) = (of.position, of.level);
        Ok(Delivery { channels: self, position, level, room, published })
    }

    /// Cuts off the subscriber with the most unsent bytes.
    fn cut_slowest(&self) -> Option<u64> {
        let subscribers = self.subscribers();
        let unsent = subscribers.values().map(|subscriber| (subscriber.inbox.unsent(), subscriber));
        let (bytes, slowest) = unsent.max_by_key(|(bytes, _)| *bytes)?;
        (bytes > 0 && slowest.inbox.cut()).then(|| {
            self.cut.fetch_add(1, Ordering::Relaxed);
            slowest.client
        })
    }

    /// Whether matching patterns with a channel may take long.
    pub(crate) fn is_long(&self, channel: &[u8]) -> bool {
        const SHORT_STEPS: usize = 1 << 20;
        self.patterns.bytes().saturating_mul(channel.len().min(NAME_BYTES_MAX)) > SHORT_STEPS
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
    published: Published,
}

impl Delivery<'_> {
    fn deliver<'r>(&mut self, push: &Push, readers: impl Iterator<Item = &'r Arc<Subscriber>>) {
        let (position, level) = (self.position, self.level);
        for reader in readers {
            let room = Arc::clone(&self.room);
            let message = Message { push: push.clone(), position, level, room };
            if reader.inbox.put(message, self.channels.subscriber_bytes_max) {
                self.published.receivers += 1;
            } else {
                self.channels.cut.fetch_add(1, Ordering::Relaxed);
                self.published.cut.push(reader.client);
            }
        }
    }
}
