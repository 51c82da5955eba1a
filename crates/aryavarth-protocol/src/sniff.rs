//! Which protocol a connection speaks, decided once by its first bytes.
//!
//! The first byte that is not white space decides: `{` begins JSON, and no command of the Redis
//! protocol. Any other byte begins that protocol, whose parser reports input that is not a command;
//! but a first line that names a version of HTTP gets an answer in HTTP. (A line that begins with a
//! letter is complete only with its end, so waiting for the end delays no command.)
//!
//! Invariant: the decision is the same however the bytes are cut into pieces.

use memchr::memchr;

use crate::http;

/// A first line longer than this gets no answer in HTTP.
pub(crate) const LINE_BYTES_MAX: usize = 8192;

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Json,
    Http,
    /// The Redis protocol.
    Resp,
}

/// The protocol of a connection whose first bytes, white space aside, are `start`; `None` if that
/// takes more of them. Where there are bytes, the end of input always brings a decision.
pub(crate) fn sniff(start: &[u8], ended: bool) -> Option<Protocol> {
    match start.first()? {
        b'{' => return Some(Protocol::Json),
        letter if letter.is_ascii_alphabetic() => {}
        _ => return Some(Protocol::Resp),
    }
    // Not further than it waits for, or the decision would depend on the pieces that arrive.
    let start = &start[..start.len().min(LINE_BYTES_MAX + 1)];
    let line = match memchr(b'\n', start) {
        Some(end) => &start[..end],
        None if ended || start.len() > LINE_BYTES_MAX => start,
        None => return None,
    };
    Some(if http::version(line).is_some() { Protocol::Http } else { Protocol::Resp })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_tells_json() {
        assert_eq!(sniff(b"", false), None);
        assert_eq!(sniff(b"{", false), Some(Protocol::Json));
        assert_eq!(sniff(b"[1]", false), Some(Protocol::Resp));
        assert_eq!(sniff(b"*1\r\n", false), Some(Protocol::Resp));
        assert_eq!(sniff(b"\x16\x03", false), Some(Protocol::Resp));
    }

    #[test]
    fn http_is_told_by_its_whole_first_line() {
        assert_eq!(sniff(b"GE", false), None);
        assert_eq!(sniff(b"GET / HTTP/1.1\r", false), None);
        assert_eq!(sniff(b"GET / HTTP/1.1\r\n", false), Some(Protocol::Http));
        assert_eq!(sniff(b"POST /x HTTP/1.0\n{}", false), Some(Protocol::Http));
        assert_eq!(sniff(b"OPTIONS /\tHTTP/1.1\r\n", false), Some(Protocol::Http));
        assert_eq!(sniff(b"madeup / http/1.1\r\n", false), Some(Protocol::Http));
        assert_eq!(sniff(b"GET k\r\n", false), Some(Protocol::Resp));
        assert_eq!(sniff(b"hello", true), Some(Protocol::Resp));
        assert_eq!(sniff(b"GET / HTTP/1.1", true), Some(Protocol::Http));
    }

    #[test]
    fn a_line_that_is_too_long_is_the_same_in_pieces_and_at_once() {
        let line = [b"GET /", "x".repeat(LINE_BYTES_MAX).as_bytes(), b" HTTP/1.1\r\n"].concat();
        let first = (0..line.len()).find_map(|bytes| sniff(&line[..bytes], false));
        assert_eq!(first, Some(Protocol::Resp));
        assert_eq!(sniff(&line, false), first);
    }
}
