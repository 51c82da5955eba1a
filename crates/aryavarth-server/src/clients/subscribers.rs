//! Connections as subscribers of channels.
//!
//! Invariant: a subscriber that a message cuts off is closed by its sender, wherever it is.

use std::sync::Arc;

use super::{ClientHandle, Clients};
use crate::channels::{Full, Kind, Publication, Subscriber, Subscriptions};

impl Clients {
    /// The client's subscriptions, which begin here.
    pub(crate) fn subscriber<'a>(&self, client: &'a ClientHandle) -> &'a Arc<Subscriber> {
        client.0.subscriber.get_or_init(|| self.channels.enter(client.0.id))
    }

    /// Ends all subscriptions of a client, and drops the messages that wait for it.
    pub(crate) fn end_subscriptions(&self, client: &ClientHandle) {
        let Some(subscriber) = client.subscriber() else { return };
        for kind in [Kind::Channel, Kind::Pattern, Kind::Shard] {
            self.channels.unsubscribe_all(subscriber, kind);
        }
        subscriber.inbox.clear();
    }

    /// Delivers a message, and closes the subscribers that do not read. Returns how many
    /// subscriptions got it.
    ///
    /// # Errors
    /// There is no room for it; nothing was delivered.
    pub(crate) fn publish(&self, kind: Kind, of: &Publication<'_>) -> Result<usize, Full> {
        let published = self.channels.publish(kind, of);
        if !published.cut.is_empty() {
            let all = self.all();
            published.cut.iter().filter_map(|id| all.get(id)).for_each(ClientHandle::kill);
        }
        published.receivers
    }
}

impl ClientHandle {
    /// Its subscriptions, if it ever had one.
    pub(crate) fn subscriber(&self) -> Option<&Arc<Subscriber>> {
        self.0.subscriber.get()
    }

    /// Whether messages wait for it.
    pub(crate) fn has_messages(&self) -> bool {
        self.subscriber().is_some_and(|subscriber| !subscriber.inbox.is_empty())
    }

    /// How many subscriptions it has.
    pub(crate) fn subscriptions(&self) -> Subscriptions {
        self.subscriber().map_or_else(Subscriptions::default, |subscriber| subscriber.counts())
    }
}
