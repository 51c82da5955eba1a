//! Replies of the Redis protocol, version 2, as a client reads them.
//!
//! Invariants:
//! - No announced length takes memory: the bytes that arrive do, up to the limit of one reply.
//! - Input that is not a reply is an error, and never part of the next one.

use std::io::{self, BufRead, Read};

/// The most bytes of one reply, all its elements together.
const REPLY_BYTES_MAX: u64 = 1 << 30;
/// The longest line: a status, an error, a number.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// The deepest nesting of arrays.
const DEPTH_MAX: u32 = 32;

/// A reply of the Redis protocol, version 2.
///
/// ```
/// use aryavarth_client::Value;
///
/// assert_eq!(Value::from("v").into_bytes(), Some(b"v".to_vec()));
/// assert_eq!(Value::Null.into_bytes(), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// No value, such as that of an absent key.
    Null,
    /// A short text, such as `OK`.
    Status(String),
    /// An error of one command inside a pipeline or a transaction; it begins with its kind.
    Error(String),
    /// A number.
    Integer(i64),
    /// Any bytes.
    Bytes(Vec<u8>),
    /// A list of replies.
    Array(Vec<Value>),
}

impl Value {
    /// The bytes of a value or of a status; `None` for other kinds.
    pub fn into_bytes(self) -> Option<Vec<u8>> {
        match self {
            Value::Bytes(bytes) => Some(bytes),
            Value::Status(text) => Some(text.into_bytes()),
            _ => None,
        }
    }

    /// The number; `None` for other kinds.
    pub fn as_integer(&self) -> Option<i64> {
        if let Value::Integer(number) = self { Some(*number) } else { None }
    }

    /// The elements of an array; `None` for other kinds.
    pub fn into_array(self) -> Option<Vec<Value>> {
        if let Value::Array(items) = self { Some(items) } else { None }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Bytes(text.as_bytes().to_vec())
    }
}

/// Reads the next reply.
///
/// # Errors
/// `InvalidData` for bytes that are not a reply, or one beyond the limit; `UnexpectedEof` if the
/// input ends; the system's otherwise.
pub(crate) fn read(input: &mut impl BufRead) -> io::Result<Value> {
    let mut left = REPLY_BYTES_MAX;
    read_nested(input, &mut left, DEPTH_MAX)
}

fn read_nested(input: &mut impl BufRead, left: &mut u64, depth: u32) -> io::Result<Value> {
    let line = read_line(input)?;
    // An item takes memory of its own, however short its line.
    spend(left, (line.len() + size_of::<Value>()) as u64)?;
    let Some((kind, text)) = line.split_first() else { return Err(invalid(&line)) };
    let shown = || String::from_utf8_lossy(text).into_owned();
    match kind {
        b'+' => Ok(Value::Status(shown())),
        b'-' => Ok(Value::Error(shown())),
        b':' => Ok(Value::Integer(number(&line)?)),
        b'$' => match u64::try_from(number(&line)?) {
            Err(_negative) => Ok(Value::Null),
            Ok(bytes) => {
                spend(left, bytes)?;
                read_bulk(input, bytes)
            }
        },
        b'*' => {
            let Ok(count) = u64::try_from(number(&line)?) else { return Ok(Value::Null) };
            let depth = depth.checked_sub(1).ok_or_else(|| invalid(&line))?;
            let mut items = Vec::new();
            for _ in 0..count {
                items.push(read_nested(input, left, depth)?);
            }
            Ok(Value::Array(items))
        }
        _ => Err(invalid(&line)),
    }
}

/// Reads a line without its end.
fn read_line(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    input.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if let Some(content) = line.strip_suffix(b"\r\n") {
        return Ok(content.to_vec());
    }
    // Some other protocols greet with text: as much of it as came says which one.
    if line.is_empty() || is_begun(&line) && line.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Err(invalid(&line))
}

fn is_begun(line: &[u8]) -> bool {
    line.first().is_some_and(|kind| b"+-:$*".contains(kind)) && (line.len() as u64) < LINE_BYTES_MAX
}

fn read_bulk(input: &mut impl BufRead, bytes: u64) -> io::Result<Value> {
    let mut content = Vec::new();
    input.take(bytes + 2).read_to_end(&mut content)?;
    if (content.len() as u64) < bytes + 2 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if !content.ends_with(b"\r\n") {
        return Err(invalid(&content[content.len() - 2..]));
    }
    content.truncate(content.len() - 2);
    Ok(Value::Bytes(content))
}

fn number(line: &[u8]) -> io::Result<i64> {
    let text = std::str::from_utf8(&line[1..]).ok();
    text.and_then(|text| text.parse().ok()).ok_or_else(|| invalid(line))
}

fn spend(left: &mut u64, bytes: u64) -> io::Result<()> {
    let rest = left.checked_sub(bytes);
    let too_long = || {
        let text = format!("a reply is longer than {REPLY_BYTES_MAX} bytes");
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    *left = rest.ok_or_else(too_long)?;
    Ok(())
}

/// The error for bytes that are not a reply; it shows their beginning.
fn invalid(bytes: &[u8]) -> io::Error {
    let shown = bytes[..bytes.len().min(40)].escape_ascii();
    io::Error::new(io::ErrorKind::InvalidData, format!("it sent \"{shown}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(mut input: &[u8]) -> io::Result<Value> {
        let value = read(&mut input)?;
        assert_eq!(input, b"", "all of it was read");
        Ok(value)
    }

    #[test]
    fn every_kind_of_reply_is_read() {
        let bytes = Value::Bytes(b"a\r\nb\0".to_vec());
        for (input, value) in [
            (&b"+OK\r\n"[..], Value::Status("OK".into())),
            (b"-ERR no\r\n", Value::Error("ERR no".into())),
            (b":-3\r\n", Value::Integer(-3)),
            (b"$-1\r\n", Value::Null),
            (b"*-1\r\n", Value::Null),
            (b"$5\r\na\r\nb\0\r\n", bytes.clone()),
            (b"$0\r\n\r\n", Value::Bytes(Vec::new())),
            (b"*2\r\n:1\r\n*1\r\n$1\r\nx\r\n", {
                Value::Array(vec![Value::Integer(1), Value::Array(vec!["x".into()])])
            }),
        ] {
            assert_eq!(parse(input).unwrap(), value);
            for end in 0..input.len() {
                let error = parse(&input[..end]).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{end} of {input:?}");
            }
        }
    }

    #[test]
    fn input_that_is_not_a_reply_is_an_error_that_shows_it() {
        for (input, shown) in [
            (&b"HTTP/1.1 400 Bad Request\r\n"[..], "HTTP/1.1 400"),
            (b"SSH-2.0-OpenSSH_9\r\n", "SSH-2.0"),
            (b"220 mail\n", "220 mail"),
            (b"\x15\x03\x01\x00", r"\x15"),
            (b":x\r\n", ":x"),
            (b"$1\r\nabc", "bc"),
        ] {
            let error = parse(input).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains(shown), "{error}");
        }
    }

    #[test]
    fn lengths_and_depths_beyond_the_limits_take_no_memory() {
        let announced = parse(b"$9223372036854775807\r\n").unwrap_err();
        assert!(announced.to_string().contains("longer than"), "{announced}");
        let deep = "*1\r\n".repeat(100);
        assert_eq!(parse(deep.as_bytes()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let many = parse(b"*9223372036854775807\r\n").unwrap_err();
        assert_eq!(many.kind(), io::ErrorKind::UnexpectedEof);
    }
}
