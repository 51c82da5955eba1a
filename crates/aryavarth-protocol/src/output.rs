//! Replies on their way out: encoded, in order, each held until what it shows is durable.
//!
//! Invariants:
//! - Bytes leave in the order of the replies; a reply that waits holds back all behind it.
//! - A reply moves to `ready` only when [`Output::release`] reached its position, and is then whole.
//! - A reply whose position can never be reached is replaced, not dropped: every request is
//!   answered exactly once.

use std::collections::VecDeque;

use crate::message::Response;

/// A reply that waits, and the position that it waits for.
#[derive(Debug)]
struct Waiting {
    line: Vec<u8>,
    position: u64,
}

/// The replies of one session.
#[derive(Debug, Default)]
pub(crate) struct Output {
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Bytes that may be sent; those before `sent` have been.
    ready: Vec<u8>,
    sent: usize,
    /// Every position up to here has been reached.
    reached: u64,
}

/// What a session keeps allocated for its next replies, at most.
const KEPT_BYTES_MAX: usize = 16 << 10;

impl Output {
    pub(crate) fn push(&mut self, response: &Response, position: u64) {
        if self.waiting.is_empty() && position <= self.reached {
            response.encode(&mut self.ready);
            return;
        }
        let mut line = Vec::new();
        response.encode(&mut line);
        self.waiting_bytes += line.len();
        self.waiting.push_back(Waiting { line, position });
    }

    /// The position that the first waiting reply waits for.
    pub(crate) fn next_position(&self) -> Option<u64> {
        self.waiting.front().map(|reply| reply.position)
    }

    /// Lets the replies go that wait for `position` or less, up to the first that waits for more.
    pub(crate) fn release(&mut self, position: u64) {
        self.reached = self.reached.max(position);
        while self.waiting.front().is_some_and(|reply| reply.position <= self.reached) {
            if let Some(line) = self.pop_waiting() {
                self.ready.extend_from_slice(&line);
            }
        }
    }

    /// Lets the first waiting reply go as an error.
    pub(crate) fn fail(&mut self, message: &str) {
        if self.pop_waiting().is_some() {
            Response::Err(message.to_owned()).encode(&mut self.ready);
        }
        self.release(self.reached);
    }

    /// Adds bytes that wait for nothing but the replies before them.
    pub(crate) fn push_raw(&mut self, bytes: Vec<u8>) {
        self.waiting_bytes += bytes.len();
        self.waiting.push_back(Waiting { line: bytes, position: 0 });
        self.release(self.reached);
    }

    pub(crate) fn ready(&self) -> &[u8] {
        &self.ready[self.sent..]
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.ready.len() {
            self.sent = 0;
            self.ready.clear();
            self.ready.shrink_to(KEPT_BYTES_MAX);
        } else if self.sent >= self.ready.len() / 2 && self.sent > KEPT_BYTES_MAX {
            // What is moved is at most what was sent, so the copies cost no more than the sends.
            self.ready.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Frees what is not needed to wait.
    pub(crate) fn trim(&mut self) {
        self.ready.shrink_to_fit();
        self.waiting.shrink_to_fit();
    }

    /// Bytes that are not sent yet.
    pub(crate) fn bytes(&self) -> usize {
        self.waiting_bytes + self.ready.len() - self.sent
    }

    fn pop_waiting(&mut self) -> Option<Vec<u8>> {
        let reply = self.waiting.pop_front()?;
        self.waiting_bytes -= reply.line.len();
        Some(reply.line)
    }
}
