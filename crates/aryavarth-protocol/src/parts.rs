//! Bytes on their way out, in parts that are freed as they leave.
//!
//! One growing buffer would keep a large reply whole until its last byte has left, and would copy it
//! once per move. Short replies share a part; a large value is a part of its own, which moves
//! without a copy; a large message to many clients is one allocation for all of them.
//!
//! Invariants:
//! - Bytes leave in the order in which they were written.
//! - A part of many replies is at most [`PART_BYTES`] and one reply long.
//! - A byte is copied at most once after it was encoded.

use std::collections::VecDeque;
use std::ops::Deref;

use bytes::Bytes;

/// A part takes no further reply beyond this, in bytes; a value of this length has its own part.
pub(crate) const PART_BYTES: usize = 64 << 10;
/// Bytes that several queues share are a part from this length on; shorter ones are copied.
const SHARED_BYTES_MIN: usize = 4 << 10;
/// Capacity that an empty queue keeps for the next replies, in bytes.
const KEPT_BYTES_MAX: usize = 16 << 10;

/// Bytes of one queue, or bytes that several queues share.
#[derive(Debug)]
enum Part {
    Own(Vec<u8>),
    Shared(Bytes),
}

impl Deref for Part {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Part::Own(bytes) => bytes,
            Part::Shared(bytes) => bytes,
        }
    }
}

/// A queue of bytes.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    queue: VecDeque<Part>,
    /// Bytes of the first part that have left.
    gone: usize,
    /// Bytes that have not left.
    bytes: usize,
}

impl Parts {
    /// Bytes that have not left.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that are kept: those that have left of a part that has not are kept, too.
    pub(crate) fn memory(&self) -> usize {
        self.bytes + self.gone
    }

    /// The first bytes: all of them, or the rest of the first part.
    pub(crate) fn front(&self) -> &[u8] {
        self.queue.front().map_or(&[], |part| &part[self.gone..])
    }

    /// Appends the bytes that `encode` appends; returns how many.
    pub(crate) fn write(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> usize {
        let has_room = |part: &Part| matches!(part, Part::Own(bytes) if bytes.len() < PART_BYTES);
        if !self.queue.back().is_some_and(has_room) {
            self.queue.push_back(Part::Own(Vec::new()));
        }
        let Some(Part::Own(part)) = self.queue.back_mut() else { return 0 };
        let before = part.len();
        encode(part);
        let more = part.len() - before;
        self.bytes += more;
        more
    }

    /// Appends bytes as a part of their own.
    pub(crate) fn push(&mut self, part: Vec<u8>) {
        self.push_part(Part::Own(part));
    }

    /// Appends bytes that other queues send, too: large ones are not copied.
    pub(crate) fn push_shared(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARED_BYTES_MIN {
            self.write(|out| out.extend_from_slice(bytes));
        } else {
            self.push_part(Part::Shared(bytes.clone()));
        }
    }

    fn push_part(&mut self, part: Part) {
        if self.bytes == 0 {
            self.clear();
            self.queue.clear();
        }
        self.bytes += part.len();
        self.queue.push_back(part);
    }

    /// Removes the first `bytes`; frees the parts that are over.
    pub(crate) fn advance(&mut self, mut bytes: usize) {
        self.bytes -= bytes;
        if self.bytes == 0 {
            self.clear();
            return;
        }
        while let Some(rest) = self.queue.front().map(|part| part.len() - self.gone) {
            if bytes < rest {
                self.gone += bytes;
                return;
            }
            bytes -= rest;
            self.gone = 0;
            self.queue.pop_front();
        }
    }

    /// Moves the first `bytes` to the end of `to`.
    pub(crate) fn move_to(&mut self, to: &mut Parts, mut bytes: usize) {
        if to.bytes == 0 && bytes == self.bytes {
            std::mem::swap(self, to);
            return;
        }
        while bytes > 0 {
            let first = self.front();
            let step = bytes.min(first.len());
            let is_shared = matches!(self.queue.front(), Some(Part::Shared(_)));
            let is_whole = step == first.len() && self.gone == 0;
            if is_whole && (is_shared || step >= PART_BYTES) {
                self.bytes -= step;
                if let Some(part) = self.queue.pop_front() {
                    to.push_part(part);
                }
            } else {
                to.write(|out| out.extend_from_slice(&first[..step]));
                self.advance(step);
            }
            bytes -= step;
        }
    }

    /// Keeps at most `bytes` of capacity, if nothing waits.
    pub(crate) fn trim(&mut self, bytes: usize) {
        if self.bytes == 0 {
            self.clear();
            if let Some(Part::Own(part)) = self.queue.front_mut() {
                part.shrink_to(bytes);
            }
        }
        self.queue.shrink_to(1);
    }

    /// Forgets parts without bytes, one for the next replies aside.
    fn clear(&mut self) {
        self.gone = 0;
        self.queue.truncate(1);
        match self.queue.front_mut() {
            Some(Part::Own(part)) => {
                part.clear();
                part.shrink_to(KEPT_BYTES_MAX);
            }
            Some(Part::Shared(_)) => self.queue.clear(),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(parts: &mut Parts) -> Vec<u8> {
        let mut bytes = Vec::new();
        while parts.bytes() > 0 {
            let step = parts.front().len().min(10_000);
            bytes.extend_from_slice(&parts.front()[..step]);
            parts.advance(step);
        }
        assert!(parts.front().is_empty());
        bytes
    }

    #[test]
    fn bytes_leave_in_order_however_they_are_moved() {
        let mut expected = Vec::new();
        let (mut held, mut ready) = (Parts::default(), Parts::default());
        for step in 0..200_usize {
            let text = vec![u8::try_from(step % 251).unwrap(); step * 37];
            if step % 50 == 49 {
                let large = vec![7; PART_BYTES + step];
                expected.extend_from_slice(&large);
                held.push(large);
            }
            expected.extend_from_slice(&text);
            held.write(|out| out.extend_from_slice(&text));
            let third = held.bytes() / 3;
            held.move_to(&mut ready, third);
        }
        let rest = held.bytes();
        held.move_to(&mut ready, rest);
        assert_eq!((held.bytes(), ready.bytes()), (0, expected.len()));
        assert!(all(&mut ready) == expected);
    }

    #[test]
    fn parts_are_freed_as_they_leave() {
        let mut parts = Parts::default();
        (0..4).for_each(|_| parts.push(vec![0; 1 << 20]));
        parts.advance((3 << 20) + 1);
        assert_eq!((parts.queue.len(), parts.bytes()), (1, (1 << 20) - 1));
        parts.advance((1 << 20) - 1);
        let kept =
            |part: &Part| matches!(part, Part::Own(part) if part.capacity() <= KEPT_BYTES_MAX);
        assert!(parts.queue.iter().all(kept));
    }

    #[test]
    fn a_large_message_is_one_allocation_for_all_queues() {
        let (large, short) = (Bytes::from(vec![7; PART_BYTES]), Bytes::from_static(b"short"));
        let (mut held, mut ready) = (Parts::default(), Parts::default());
        held.push_shared(&short);
        held.push_shared(&large);
        held.write(|out| out.push(8));
        let bytes = held.bytes();
        held.move_to(&mut ready, bytes);
        assert_eq!(ready.front(), b"short");
        ready.advance(5);
        assert_eq!(ready.front().as_ptr(), large.as_ptr(), "not copied");
        ready.advance(PART_BYTES);
        assert_eq!(ready.front(), [8]);
        ready.advance(1);
        ready.push_shared(&large);
        ready.advance(PART_BYTES);
        assert!(large.is_unique(), "let go when its last byte has left");
    }
}
