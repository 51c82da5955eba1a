//! Messages to clients that did not ask for them: encoded once for all of their readers.
//!
//! ```text
//!   *  or  >    4\r\n$8\r\npmessage\r\n$2\r\nn*\r\n       $4\r\nnews\r\n$2\r\nhi\r\n
//!   RESP2, 3    head: for the readers of one pattern     tail: for all readers of the channel
//! ```
//!
//! Invariant: both versions of the protocol differ in the first byte alone.

use bytes::Bytes;

use super::encode::{Version, bulk, head};
use crate::parts::Parts;

/// The words that end several messages.
#[derive(Clone, Debug)]
pub struct Tail {
    words: usize,
    bytes: Bytes,
}

impl Tail {
    /// Encodes the words. Copies them once.
    pub fn new(words: &[&[u8]]) -> Tail {
        let mut bytes = Vec::with_capacity(words.iter().map(|word| word.len() + 32).sum());
        for word in words {
            bulk(word, &mut bytes);
        }
        Tail { words: words.len(), bytes: bytes.into() }
    }
}

/// A message, which its readers share: a clone copies nothing.
#[derive(Clone, Debug)]
pub struct Push {
    head: Bytes,
    tail: Bytes,
}

impl Push {
    /// The message of `words` and, behind them, those of `tail`.
    ///
    /// ```
    /// use aryavarth_protocol::{Limits, Push, Session, Tail};
    ///
    /// let push = Push::new(&[b"message"], &Tail::new(&[b"news", b"hi"]));
    /// let mut session = Session::new(Limits::default());
    /// session.push(&push, 0);
    /// assert_eq!(session.output(), b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n");
    /// ```
    pub fn new(words: &[&[u8]], tail: &Tail) -> Push {
        let mut first = Vec::new();
        head(b'*', words.len() + tail.words, &mut first);
        for word in words {
            bulk(word, &mut first);
        }
        Push { head: Bytes::from(first).slice(1..), tail: tail.bytes.clone() }
    }

    /// Bytes on the wire.
    #[expect(clippy::len_without_is_empty, reason = "none is empty")]
    pub fn len(&self) -> usize {
        1 + self.head.len() + self.tail.len()
    }

    pub(crate) fn encode_into(&self, version: Version, out: &mut Parts) {
        let marker = if version == Version::Resp3 { b'>' } else { b'*' };
        out.write(|out| {
            out.push(marker);
            out.extend_from_slice(&self.head);
        });
        out.push_shared(&self.tail);
    }
}
