//! Replies on their way out: encoded, in order, each held until what it shows is durable.
//!
//! Invariants:
//! - Bytes leave in the order of the replies; a reply that waits holds back all behind it.
//! - A reply moves to `ready` only when [`Output::release`] reached its position, and is then whole.
//! - A reply whose position can never be reached is replaced, not dropped: every request is
//!   answered exactly once.
//! - A reply costs no allocation of its own, whether it waits or not.

use std::collections::VecDeque;

/// A reply that waits.
#[derive(Debug)]
struct Waiting {
    bytes: usize,
    position: u64,
}

/// The replies of one session.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// The replies that wait, and their bytes, those before `moved` aside.
    waiting: VecDeque<Waiting>,
    held: Vec<u8>,
    moved: usize,
    /// Bytes that may be sent; those before `sent` have been.
    ready: Vec<u8>,
    sent: usize,
    /// Every position up to here has been reached.
    reached: u64,
}

/// What a session keeps allocated for its next replies, at most.
const KEPT_BYTES_MAX: usize = 16 << 10;

/// What an idle one keeps: room for the short replies of a request or a few.
const IDLE_BYTES: usize = 256;
const IDLE_REPLIES: usize = 4;

impl Output {
    /// Adds a reply that may leave when `position` has been reached; `encode` appends its bytes.
    pub(crate) fn push(&mut self, position: u64, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.waiting.is_empty() && position <= self.reached {
            encode(&mut self.ready);
            return;
        }
        let start = self.held.len();
        encode(&mut self.held);
        self.waiting.push_back(Waiting { bytes: self.held.len() - start, position });
    }

    /// The position that the first waiting reply waits for.
    pub(crate) fn next_position(&self) -> Option<u64> {
        self.waiting.front().map(|reply| reply.position)
    }

    /// Lets the replies go that wait for `position` or less, up to the first that waits for more.
    pub(crate) fn release(&mut self, position: u64) {
        self.reached = self.reached.max(position);
        let mut bytes = 0;
        while let Some(reply) = self.waiting.front().filter(|next| next.position <= self.reached) {
            bytes += reply.bytes;
            self.waiting.pop_front();
        }
        self.ready.extend_from_slice(&self.held[self.moved..self.moved + bytes]);
        self.leave_behind(bytes);
    }

    /// Lets the first waiting reply go as an error, whose bytes `encode` appends.
    pub(crate) fn fail(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        if let Some(reply) = self.waiting.pop_front() {
            self.leave_behind(reply.bytes);
            // Who wanted to hear nothing would take it for the answer to something else.
            if reply.bytes > 0 {
                encode(&mut self.ready);
            }
        }
        self.release(self.reached);
    }

    pub(crate) fn ready(&self) -> &[u8] {
        &self.ready[self.sent..]
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        drop_front(&mut self.ready, &mut self.sent);
    }

    /// Frees what is not needed to wait.
    pub(crate) fn trim(&mut self) {
        self.ready.shrink_to(IDLE_BYTES);
        self.held.shrink_to(IDLE_BYTES);
        self.waiting.shrink_to(IDLE_REPLIES);
    }

    /// Bytes that are not sent yet.
    pub(crate) fn bytes(&self) -> usize {
        self.held.len() - self.moved + self.ready.len() - self.sent
    }

    /// Takes note that the first `bytes` of those held are done with.
    fn leave_behind(&mut self, bytes: usize) {
        self.moved += bytes;
        drop_front(&mut self.held, &mut self.moved);
    }
}

/// Removes the first `done` bytes if that is cheap: when they are all, or at least the half.
fn drop_front(bytes: &mut Vec<u8>, done: &mut usize) {
    if *done == bytes.len() {
        bytes.clear();
        bytes.shrink_to(KEPT_BYTES_MAX);
        *done = 0;
    } else if *done >= bytes.len() / 2 && *done > KEPT_BYTES_MAX {
        // What is moved is at most what is removed, so a byte is moved once on average.
        bytes.drain(..*done);
        *done = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(output: &mut Output, position: u64, text: &str) {
        output.push(position, |out| out.extend_from_slice(text.as_bytes()));
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
        assert_eq!((output.ready(), output.next_position()), (&b"a"[..], Some(5)));
        output.release(5);
        assert_eq!((output.ready(), output.bytes()), (&b"abbccc"[..], 11));
        output.sent(2);
        output.fail(|out| out.extend_from_slice(b"gone"));
        assert_eq!((output.ready(), output.bytes()), (&b"bcccgonee"[..], 9));
        output.sent(9);
        assert_eq!((output.next_position(), output.bytes()), (None, 0));
    }

    #[test]
    fn who_wants_no_reply_hears_no_error_either() {
        let mut output = Output::default();
        push(&mut output, 1, "");
        push(&mut output, 2, "value");
        output.fail(|out| out.extend_from_slice(b"gone"));
        assert_eq!((output.ready(), output.next_position()), (&b""[..], Some(2)));
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
        assert_eq!((output.next_position(), output.ready().len()), (None, 6 << 20));
    }
}
