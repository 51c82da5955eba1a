//! HTTP on the data port: recognised line by line, and refused.
//!
//! A web page can make a browser on the server's machine send a request to any port. The page
//! chooses the method, the path, most headers and the body, so any line of the request may be a
//! command of the Redis protocol. A server that answers "unknown command" and goes on runs it.
//!
//! Invariant: the first line that shows HTTP ends the connection, wherever it stands in the
//! conversation and however it is spelled. Every request of HTTP opens with such a line.

/// Methods of HTTP that are not commands of the Redis protocol (GET is one). A line that begins
/// with one of them is a request even if its version was garbled on the way.
const METHODS: [&[u8]; 9] =
    [b"POST", b"HEAD", b"PUT", b"OPTIONS", b"DELETE", b"CONNECT", b"PATCH", b"TRACE", b"PRI"];

/// Where every version of HTTP begins, for comparisons without regard to case.
const VERSION: &[u8] = b"HTTP/";

/// The part of a line that belongs to HTTP, if there is one: a version anywhere in it, a method of
/// HTTP as its first word, or the header that names the host.
pub(crate) fn sign(line: &[u8]) -> Option<&[u8]> {
    version(line).or_else(|| {
        let line = line.trim_ascii_start();
        let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
        let word = &line[..end];
        let is_method = METHODS.iter().any(|method| word.eq_ignore_ascii_case(method));
        if is_method { Some(word) } else { sign_of_name(word) }
    })
}

/// The part of a command's name that belongs to HTTP, if there is one: the two that Redis refuses.
pub(crate) fn sign_of_name(name: &[u8]) -> Option<&[u8]> {
    if name.eq_ignore_ascii_case(b"POST") {
        return Some(name);
    }
    name.get(..5).filter(|start| start.eq_ignore_ascii_case(b"host:"))
}

/// The version of HTTP that `line` names: `HTTP/` and a digit, in any case.
pub(crate) fn version(line: &[u8]) -> Option<&[u8]> {
    line.windows(VERSION.len() + 1).find(|part| {
        part[..VERSION.len()].eq_ignore_ascii_case(VERSION) && part[VERSION.len()].is_ascii_digit()
    })
}

/// The reply to a connection that begins with HTTP: where the client is, and how to talk to this
/// port instead.
pub(crate) fn refusal() -> Vec<u8> {
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
    fn every_way_to_spell_a_request_line_shows_http() {
        for line in [
            "GET / HTTP/1.1",
            "OPTIONS /\tHTTP/1.1",
            "GET\t/ HTTP/1.0",
            "get / http/1.1",
            "  GET /x   HTTP/2.0  ",
            "MADEUP / HTTP/1.1",
            "SET / HTTP/1.1",
            "GET / HTTP/3",
            "OPTIONS * HTTP /1.1",
            "options",
            "Put /k",
            "Host: localhost",
            "host:localhost",
            " HOST: x",
        ] {
            assert!(sign(line.as_bytes()).is_some(), "{line}");
        }
    }

    #[test]
    fn commands_do_not_show_http() {
        for line in
            ["GET k", "GET /path", "SET http://host/ 1", "DEL k", "TTL host:1", "GET HTTP/", ""]
        {
            assert_eq!(sign(line.as_bytes()), None, "{line}");
        }
    }
}
