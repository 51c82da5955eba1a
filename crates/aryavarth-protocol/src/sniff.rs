//! Which protocol a connection speaks, decided once by its first bytes.
//!
//! The first byte that is not white space decides: `{` begins JSON, and no command of the Redis
//! protocol. Everything else is that protocol, where what makes no sense gets its error, unless the
//! whole first line is HTTP's: a browser that was made to connect here must not get anything after
//! that line interpreted. (`GET k` is a command that a person may type.)

use memchr::memchr;

/// A first line longer than this is no HTTP that we would recognise.
pub(crate) const LINE_BYTES_MAX: usize = 8192;

const HTTP_METHODS: [&[u8]; 10] = [
    b"GET ",
    b"POST ",
    b"HEAD ",
    b"PUT ",
    b"OPTIONS ",
    b"DELETE ",
    b"CONNECT ",
    b"PATCH ",
    b"TRACE ",
    b"PRI ",
];

/// What a connection speaks.
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
    match start.first() {
        None => return None,
        Some(b'{') => return Some(Protocol::Json),
        Some(_) => {}
    }
    // Not further than it waits for, or the decision would depend on the pieces that arrive.
    let start = &start[..start.len().min(LINE_BYTES_MAX + 1)];
    let line = match memchr(b'\n', start) {
        Some(end) => &start[..end],
        None if ended || start.len() > LINE_BYTES_MAX => start,
        None if may_become_http(start) => return None,
        None => return Some(Protocol::Resp),
    };
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let is_http = HTTP_METHODS.iter().any(|method| line.starts_with(method))
        && [&b" HTTP/1.0"[..], b" HTTP/1.1", b" HTTP/2.0"].iter().any(|end| line.ends_with(end));
    Some(if is_http { Protocol::Http } else { Protocol::Resp })
}

fn may_become_http(start: &[u8]) -> bool {
    HTTP_METHODS.iter().any(|method| method.starts_with(start) || start.starts_with(method))
}

/// What HTTP clients get: where they are, and how to talk to this port instead.
pub(crate) fn http_refusal() -> Vec<u8> {
    let body = "This is the data port of an Aryavarth server. It speaks the Redis \
                protocol and JSON, not HTTP.\n\
                Try: aryavarth get KEY\n";
    let head = format!(
        "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
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
    }

    #[test]
    fn http_is_told_by_its_whole_first_line() {
        assert_eq!(sniff(b"GE", false), None);
        assert_eq!(sniff(b"GET / HTTP/1.1\r", false), None);
        assert_eq!(sniff(b"GET / HTTP/1.1\r\n", false), Some(Protocol::Http));
        assert_eq!(sniff(b"POST /x HTTP/1.0\n{}", false), Some(Protocol::Http));
        assert_eq!(sniff(b"GET k\r\n", false), Some(Protocol::Resp));
        assert_eq!(sniff(b"hello", false), Some(Protocol::Resp));
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
