//! Replies of the Redis protocol.

use std::borrow::Cow;

/// A reply of the Redis protocol. Its written form depends on the version that the client speaks: a
/// kind that RESP2 lacks is written as Redis writes it there.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// `+OK`: a short text without line breaks.
    Simple(Cow<'static, str>),
    /// `-ERR ...`: an error, which begins with its kind; line breaks are written as spaces. It may
    /// quote the client's input, so it is bytes.
    Error(Cow<'static, [u8]>),
    /// `:1`.
    Integer(i64),
    /// `$1`: bytes.
    Bulk(Vec<u8>),
    /// Nothing: `_`, or `$-1` in RESP2.
    Null,
    /// Nothing where an array was asked for: `_`, or `*-1` in RESP2.
    NullArray,
    /// `#t`, or `:1` in RESP2.
    Boolean(bool),
    /// `,1.5`, or a bulk in RESP2.
    Double(f64),
    /// `(123`: digits, or a bulk in RESP2.
    BigNumber(String),
    /// `=8\r\ntxt:some`: text with a format of three letters, or a bulk in RESP2.
    Verbatim(&'static str, Vec<u8>),
    /// `*2`.
    Array(Vec<Reply>),
    /// `%1`, or an array of twice as many in RESP2.
    Map(Vec<(Reply, Reply)>),
    /// `~2`, or an array in RESP2.
    Set(Vec<Reply>),
    /// `>2`, or an array in RESP2.
    Push(Vec<Reply>),
    /// Several replies to one command, as those of SUBSCRIBE, one for each channel.
    Several(Vec<Reply>),
    /// `|1`: attributes of the reply that follows; left out in RESP2.
    Attributed(Vec<(Reply, Reply)>, Box<Reply>),
}

impl Reply {
    /// `+OK`.
    pub const OK: Reply = Reply::Simple(Cow::Borrowed("OK"));

    /// An error with its whole text, kind included.
    pub fn error(text: impl Into<Cow<'static, str>>) -> Reply {
        Reply::Error(match text.into() {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        })
    }

    /// Bytes.
    pub fn bulk(bytes: impl Into<Vec<u8>>) -> Reply {
        Reply::Bulk(bytes.into())
    }

    /// Bytes, or nothing.
    pub fn bulk_or_null(bytes: Option<impl Into<Vec<u8>>>) -> Reply {
        bytes.map_or(Reply::Null, Reply::bulk)
    }

    /// About how many bytes the reply takes.
    pub fn text_bytes(&self) -> usize {
        let sum = |replies: &[Reply]| replies.iter().map(Reply::text_bytes).sum::<usize>();
        let pairs = |pairs: &[(Reply, Reply)]| {
            pairs.iter().map(|(a, b)| a.text_bytes() + b.text_bytes()).sum::<usize>()
        };
        8 + match self {
            Reply::Simple(text) => text.len(),
            Reply::Error(text) => text.len(),
            Reply::Bulk(bytes) | Reply::Verbatim(_, bytes) => bytes.len(),
            Reply::BigNumber(digits) => digits.len(),
            Reply::Array(replies)
            | Reply::Set(replies)
            | Reply::Push(replies)
            | Reply::Several(replies) => sum(replies),
            Reply::Map(entries) => pairs(entries),
            Reply::Attributed(about, reply) => pairs(about) + reply.text_bytes(),
            Reply::Integer(_)
            | Reply::Null
            | Reply::NullArray
            | Reply::Boolean(_)
            | Reply::Double(_) => 8,
        }
    }

    /// Whether clients that turned their replies off hear it all the same, as messages.
    pub fn is_push(&self) -> bool {
        match self {
            Reply::Push(_) => true,
            Reply::Several(replies) => replies.iter().all(Reply::is_push),
            _ => false,
        }
    }

    /// Whether this is an error.
    pub fn is_error(&self) -> bool {
        matches!(self, Reply::Error(_))
    }
}
