//! Messages of channels on their way to a subscriber.
//!
//! ```text
//!   inbox --hear--> gates, output --send--> socket
//!     ^                                       |
//!     +------ unsent bytes, counted until ----+
//! ```
//!
//! Invariants:
//! - A message that was published before the end of a subscription leaves before the confirmation, and
//!   one that was published after its beginning leaves after the confirmation.
//! - A message counts as unsent, and keeps its room, until its last byte was sent.
//! - With a batch of messages unsent no call of the client runs: messages do not wait for ever behind
//!   replies, nor is more than a batch copied.

use std::collections::VecDeque;

use aryavarth::KvsEngine;

use super::Connection;
use crate::channels::Message;
use crate::thread_pool::ThreadPool;

/// Bytes of messages that are handed to the socket at a time.
const BATCH_BYTES: usize = 16 << 10;

/// Messages that were taken from the inbox and not sent.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Each with its end in the bytes that the connection sends from its first on.
    messages: VecDeque<(u64, Message)>,
    bytes: usize,
}

impl Heard {
    /// Whether so much is unsent that neither messages nor calls go on.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES
    }
}

impl<E: KvsEngine, P: ThreadPool> Connection<E, P> {
    /// Queues the next messages that wait, up to a batch.
    pub(super) fn hear(&mut self) {
        if let Some(subscriber) = self.client.subscriber() {
            let messages = subscriber.inbox.take(BATCH_BYTES.saturating_sub(self.heard.bytes));
            self.queue_messages(messages);
        }
    }

    /// Queues the messages that come before the confirmation which is queued next.
    pub(super) fn hear_before_confirmation(&mut self) {
        if let Some(subscriber) = self.client.subscriber() {
            let messages = subscriber.inbox.take_marked();
            self.queue_messages(messages);
        }
    }

    fn queue_messages(&mut self, messages: Vec<Message>) {
        for message in messages {
            let ticket = self.gates.message_ticket(message.position, message.level);
            self.session.push(&message.push, ticket);
            self.heard.bytes += message.cost();
            let end = self.sent_bytes + self.session.output_bytes() as u64;
            self.heard.messages.push_back((end, message));
        }
    }

    /// Gives back the room of messages that were sent.
    pub(super) fn forget_heard(&mut self) {
        if self.heard.messages.is_empty() {
            return;
        }
        // Replies that were dropped make the bytes fewer than they were to be.
        let is_all = self.session.output_bytes() == 0;
        let mut bytes = 0;
        while let Some((end, message)) = self.heard.messages.front()
            && (is_all || *end <= self.sent_bytes)
        {
            bytes += message.cost();
            self.heard.messages.pop_front();
        }
        self.heard.bytes -= bytes;
        if bytes > 0
            && let Some(subscriber) = self.client.subscriber()
        {
            subscriber.inbox.sent(bytes, self.shared.limits.subscriber_bytes_max);
        }
    }
}
