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
//! - A message counts as unsent, and keeps its room, until the output is empty.

use aryavarth::KvsEngine;

use super::Connection;
use crate::channels::Message;
use crate::thread_pool::ThreadPool;

/// Bytes of messages that are handed to the socket at a time.
const BATCH_BYTES: usize = 64 << 10;

/// Messages that were taken from the inbox and not sent.
#[derive(Debug, Default)]
pub(super) struct Heard {
    messages: Vec<Message>,
    bytes: usize,
}

impl<E: KvsEngine, P: ThreadPool> Connection<E, P> {
    /// Queues the next messages that wait.
    pub(super) fn hear(&mut self) {
        if let Some(subscriber) = self.client.subscriber() {
            let messages = subscriber.inbox.take(BATCH_BYTES);
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
            let ticket = self.gates.ticket(message.position, message.level);
            self.session.push(&message.push, ticket);
            self.heard.bytes += message.push.len();
            self.heard.messages.push(message);
        }
    }

    /// Gives back the room of messages that were sent.
    pub(super) fn forget_heard(&mut self) {
        if self.heard.bytes > 0 && self.session.output_bytes() == 0 {
            let heard = std::mem::take(&mut self.heard);
            if let Some(subscriber) = self.client.subscriber() {
                subscriber.inbox.sent(heard.bytes, self.shared.limits.subscriber_bytes_max);
            }
        }
    }
}
