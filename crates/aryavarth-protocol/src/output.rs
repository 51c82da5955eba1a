//! Replies on their way out: encoded, in order, each held until what it shows is durable.
//!
//! A reply that shows something not yet durable gets a *ticket*, a number that grows from reply to
//! reply and means nothing else here. The caller calls tickets in order, by [`Output::release`].
//!
//! ```text
//!     push(ticket) ---> held ---> release(ticket) ---> ready ---> sent
//!     push(called ticket, nothing held) ---------------^
//! ```
//!
//! Invariants:
//! - Bytes leave in the order of the replies; a reply that waits holds back all behind it.
//! - A reply moves to `ready` only when [`Output::release`] reached its ticket, and is then whole.
//! - A reply whose ticket can never be called is replaced, not dropped: every request is answered
//!   exactly once. A message that answers no request is dropped.
//! - A short reply costs no allocation of its own, whether it waits or not; a large value is not
//!   copied, and is freed when its last byte has left.

use std::collections::VecDeque;

use crate::parts::Parts;

/// A reply that waits.
#[derive(Debug)]
struct Waiting {
    bytes: usize,
    ticket: u64,
    /// Whether it answers a request: a message that the client did not ask for does not.
    is_answer: bool,
}

/// The replies of one session.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// The replies that wait, and their bytes.
    waiting: VecDeque<Waiting>,
    held: Parts,
    /// Bytes that may be sent.
    ready: Parts,
    /// Every ticket up to here has been called.
    called: u64,
}

/// Room that an idle session keeps: for the short replies of a request or a few.
const IDLE_BYTES: usize = 2 << 10;
const IDLE_REPLIES: usize = 16;

impl Output {
    /// Adds a reply that may leave when `ticket` has been called; `encode` appends its bytes.
    pub(crate) fn push(&mut self, ticket: u64, encode: impl FnOnce(&mut Vec<u8>)) {
        self.push_parts(ticket, |parts| {
            parts.write(encode);
        });
    }

    /// The same for a reply that is written in parts.
    pub(crate) fn push_parts(&mut self, ticket: u64, encode: impl FnOnce(&mut Parts)) {
        self.push_as(true, ticket, encode);
    }

    /// The same for a message that answers no request.
    pub(crate) fn push_message(&mut self, ticket: u64, encode: impl FnOnce(&mut Parts)) {
        self.push_as(false, ticket, encode);
    }

    fn push_as(&mut self, is_answer: bool, ticket: u64, encode: impl FnOnce(&mut Parts)) {
        if self.waiting.is_empty() && ticket <= self.called {
            encode(&mut self.ready);
            return;
        }
        let before = self.held.bytes();
        encode(&mut self.held);
        let bytes = self.held.bytes() - before;
        self.waiting.push_back(Waiting { bytes, ticket, is_answer });
    }

    /// The ticket that the first waiting reply waits for.
    pub(crate) fn next_ticket(&self) -> Option<u64> {
        self.waiting.front().map(|reply| reply.ticket)
    }

    /// Lets the replies go that wait for `ticket` or less, up to the first that waits for more.
    pub(crate) fn release(&mut self, ticket: u64) {
        self.called = self.called.max(ticket);
        let mut bytes = 0;
        while let Some(reply) = self.waiting.front().filter(|next| next.ticket <= self.called) {
            bytes += reply.bytes;
            self.waiting.pop_front();
        }
        self.held.move_to(&mut self.ready, bytes);
    }

    /// Lets the first waiting reply go as an error, whose bytes `encode` appends; a message is dropped.
    pub(crate) fn fail(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        if let Some(reply) = self.waiting.pop_front() {
            self.held.advance(reply.bytes);
            // A client that asked for no reply would take it for the answer to something else.
            if reply.bytes > 0 && reply.is_answer {
                self.ready.write(encode);
            }
        }
        self.release(self.called);
    }

    /// The first bytes that may be sent: all, or those of the first part.
    pub(crate) fn ready(&self) -> &[u8] {
        self.ready.front()
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.ready.advance(bytes);
    }

    /// Frees what is not needed to wait.
    pub(crate) fn trim(&mut self) {
        self.ready.trim(IDLE_BYTES);
        self.held.trim(IDLE_BYTES);
        self.waiting.shrink_to(IDLE_REPLIES);
    }

    /// Bytes of memory that replies take until they are sent.
    pub(crate) fn memory(&self) -> usize {
        self.held.memory() + self.ready.memory()
    }

    /// Bytes that are not sent yet.
    pub(crate) fn bytes(&self) -> usize {
        self.held.bytes() + self.ready.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(output: &mut Output, ticket: u64, text: &str) {
        output.push(ticket, |out| out.extend_from_slice(text.as_bytes()));
    }

    #[test]
    fn what_waits_is_released_in_order_and_counted() {
        let mut output = Output::default();
        push(&mut output, 0, "a");
        push(&mut output, 5, "bb");
        push(&mut output, 3, "ccc");
        push(&mut output, 9, "dddd");
        push(&mut output, 0, "e");
        assert_eq!((output.ready(), output.bytes()), (&b"a"[..], 11));
        output.release(4);
        assert_eq!((output.ready(), output.next_ticket()), (&b"a"[..], Some(5)));
        output.release(5);
        assert_eq!((output.ready(), output.bytes()), (&b"abbccc"[..], 11));
        output.sent(2);
        output.fail(|out| out.extend_from_slice(b"gone"));
        assert_eq!((output.ready(), output.bytes()), (&b"bcccgonee"[..], 9));
        output.sent(9);
        assert_eq!((output.next_ticket(), output.bytes()), (None, 0));
    }

    #[test]
    fn a_reply_without_bytes_fails_without_an_error() {
        let mut output = Output::default();
        push(&mut output, 1, "");
        push(&mut output, 2, "value");
        output.fail(|out| out.extend_from_slice(b"gone"));
        assert_eq!((output.ready(), output.next_ticket()), (&b""[..], Some(2)));
        output.release(2);
        assert_eq!(output.ready(), b"value");
    }

    #[test]
    fn many_that_fail_cost_as_much_as_many_that_are_released() {
        // Were the rest moved at each of them, this would be 10^12 steps.
        let mut output = Output::default();
        for _ in 0..1 << 20 {
            push(&mut output, 1, "+OK\r\n");
        }
        for _ in 0..1 << 20 {
            output.fail(|out| out.extend_from_slice(b"-ERR\r\n"));
        }
        assert_eq!((output.next_ticket(), output.bytes()), (None, 6 << 20));
    }
}
