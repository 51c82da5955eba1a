//! The messages that wait for one subscriber.
//!
//! Invariants:
//! - Messages leave in the order in which they were published.
//! - A mark is the place of a confirmation among the messages: those before it leave before it, and
//!   those behind it after it.
//! - A message counts, with its place in the queue, until its last byte was sent: the bytes of a
//!   subscriber that reads nothing only grow, up to its limit; then it is cut off, and takes nothing more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aryavarth::{Durability, Position};
use aryavarth_protocol::Push;
use tokio::sync::Notify;

use crate::budget::Share;

/// Bytes that a subscriber may have unsent for [`LARGE_TIME`] at most, as a part of its limit: a
/// quarter, as in Redis.
const LARGE_PART: usize = 4;
const LARGE_TIME: Duration = Duration::from_secs(60);
/// Messages that an empty inbox keeps places for.
const PLACES_KEPT: usize = 64;

/// A published message, which its readers share.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) push: Push,
    /// The position that must be durable first, and at which level.
    pub(crate) position: Position,
    pub(crate) level: Durability,
    /// Its part of the memory for all messages, until the last reader has it.
    #[expect(dead_code, reason = "held until the drop")]
    pub(super) room: Arc<Share>,
}

impl Message {
    /// Bytes that it takes while one subscriber has not read it.
    pub(crate) fn cost(&self) -> usize {
        self.push.len() + size_of::<Message>()
    }
}

/// The outcome of a delivery to one subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Kept,
    /// The subscriber has too many, and is cut off now.
    Cut,
    /// It was cut off before.
    WasCut,
}

/// The messages that wait for one subscriber.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    /// How many messages there were before the first of these.
    gone: u64,
    /// The places of confirmations that have not been queued.
    marks: VecDeque<u64>,
    /// Bytes that were published and not sent: of these messages, and of those before them.
    unsent: usize,
    /// Since when they have been many.
    large_since: Option<Instant>,
    is_cut: bool,
}

impl Inbox {
    /// Adds a message. A single one may exceed the limit.
    pub(super) fn put(&self, message: Message, bytes_max: usize) -> Put {
        let mut queue = self.queue();
        if queue.is_cut {
            return Put::WasCut;
        }
        let bytes = queue.unsent + message.cost();
        let is_over = queue.unsent > 0 && bytes > bytes_max;
        if is_over || queue.is_large_for_long(bytes, bytes_max) {
            queue.cut();
            return Put::Cut;
        }
        queue.unsent = bytes;
        queue.messages.push_back(message);
        drop(queue);
        self.arrived.notify_one();
        Put::Kept
    }

    /// Whether no message waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue().messages.is_empty()
    }

    /// Returns when a message waits.
    pub(crate) async fn arrived(&self) {
        while self.queue().messages.is_empty() {
            self.arrived.notified().await;
        }
    }

    /// Takes the next messages, and no more once they have `bytes`.
    pub(crate) fn take(&self, bytes: usize) -> Vec<Message> {
        let mut queue = self.queue();
        let (mut taken, mut taken_bytes) = (Vec::new(), 0);
        while taken_bytes < bytes
            && let Some(message) = queue.messages.pop_front()
        {
            taken_bytes += message.cost();
            taken.push(message);
        }
        queue.gone += taken.len() as u64;
        queue.spare();
        taken
    }

    /// Notes that a confirmation comes behind the messages that wait now.
    pub(crate) fn mark(&self) {
        let mut queue = self.queue();
        let place = queue.gone + queue.messages.len() as u64;
        queue.marks.push_back(place);
    }

    /// Takes the messages before the next confirmation, which is to be queued behind them.
    pub(crate) fn take_marked(&self) -> Vec<Message> {
        let mut queue = self.queue();
        let Some(place) = queue.marks.pop_front() else { return Vec::new() };
        let before = usize::try_from(place.saturating_sub(queue.gone)).unwrap_or(usize::MAX);
        let before = before.min(queue.messages.len());
        queue.gone += before as u64;
        let taken = queue.messages.drain(..before).collect();
        queue.spare();
        taken
    }

    /// Drops the messages that wait.
    pub(crate) fn clear(&self) {
        let mut queue = self.queue();
        let bytes: usize = queue.messages.iter().map(Message::cost).sum();
        queue.gone += queue.messages.len() as u64;
        queue.messages.clear();
        queue.unsent = queue.unsent.saturating_sub(bytes);
        queue.large_since = None;
        queue.spare();
    }

    /// Takes note that taken messages of so many bytes were sent.
    pub(crate) fn sent(&self, bytes: usize, bytes_max: usize) {
        let mut queue = self.queue();
        queue.unsent = queue.unsent.saturating_sub(bytes);
        if queue.unsent <= bytes_max / LARGE_PART {
            queue.large_since = None;
        }
    }

    /// Bytes that were published and not sent.
    pub(super) fn unsent(&self) -> usize {
        self.queue().unsent
    }

    /// Drops all messages, those to come included. `false` if that was done before.
    pub(super) fn cut(&self) -> bool {
        self.queue().cut()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Frees the places of a backlog that is gone.
    fn spare(&mut self) {
        if self.messages.is_empty() && self.messages.capacity() > PLACES_KEPT {
            self.messages = VecDeque::new();
        }
    }

    fn is_large_for_long(&mut self, bytes: usize, bytes_max: usize) -> bool {
        bytes > bytes_max / LARGE_PART
            && self.large_since.get_or_insert_with(Instant::now).elapsed() > LARGE_TIME
    }

    fn cut(&mut self) -> bool {
        self.messages = VecDeque::new();
        self.unsent = 0;
        !std::mem::replace(&mut self.is_cut, true)
    }
}
