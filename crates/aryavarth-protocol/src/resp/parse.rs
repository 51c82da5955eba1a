//! Commands of the Redis protocol, found in the input while it arrives.
//!
//! Invariants:
//! - Each byte is looked at once, however the input is cut into pieces; a bulk is not looked at but
//!   counted. (The bytes of an inline command are looked for its end and then cut.)
//! - Nothing is allocated by a length that was only announced.
//! - The commands at hand become one shared piece of the input, which is split off once, and their
//!   arguments are parts of it. They wait as a batch of bounded length.
//! - An error in the input is told after the commands before it, once, and nothing after it
//!   is looked at.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

use super::command::{Command, Parts};
use super::inline;
use crate::http;
use crate::limits::Limits;

/// The most arguments of a command of a client that is not authenticated.
const ARGS_UNAUTHENTICATED_MAX: i64 = 10;
/// The longest argument of such a client.
const BULK_BYTES_UNAUTHENTICATED_MAX: i64 = 16 << 10;
/// How many commands are found at a time: enough to share a piece among them, and few enough that
/// the list of them takes little beside it.
const BATCH_COMMANDS_MAX: usize = 128;
/// Commands that an idle parser keeps room for.
const IDLE_COMMANDS: usize = 4;

/// The result of a search.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Command(Command),
    /// The input makes no sense; the text of the error, its kind included.
    Broken(Cow<'static, str>),
}

type Broken = Cow<'static, str>;

/// The names of the lengths that are announced, for errors.
struct Length {
    too_big: &'static str,
    invalid: &'static str,
}

const ARRAY: Length = Length {
    too_big: "ERR Protocol error: too big mbulk count string",
    invalid: "ERR Protocol error: invalid multibulk length",
};

const BULK: Length = Length {
    too_big: "ERR Protocol error: too big bulk count string",
    invalid: "ERR Protocol error: invalid bulk length",
};

/// The state of the search. Offsets are bytes of the input buffer.
#[derive(Debug)]
pub(crate) struct Parser {
    /// A client that is not authenticated is held to narrower limits.
    pub(crate) authenticated: bool,
    /// Commands that were found: where in `piece`, and where their arguments are.
    found: VecDeque<(Range<usize>, Parts)>,
    piece: Bytes,
    /// Bytes of `piece` that belong to commands that were handed out.
    handed_out: usize,
    /// The error that was found behind them.
    broken: Option<Broken>,
    /// Where the command begins that is looked at.
    start: usize,
    /// Everything before this is known.
    at: usize,
    /// Bytes behind that which do not end the line.
    searched: usize,
    /// Arguments that are announced and have not arrived.
    args_left: usize,
    /// The length of the next one, if it was announced.
    bulk_bytes: Option<usize>,
    parts: Parts,
}

impl Default for Parser {
    fn default() -> Self {
        Parser {
            authenticated: true,
            found: VecDeque::new(),
            piece: Bytes::new(),
            handed_out: 0,
            broken: None,
            start: 0,
            at: 0,
            searched: 0,
            args_left: 0,
            bulk_bytes: None,
            parts: Parts::default(),
        }
    }
}

impl Parser {
    /// The next command or error in the input, if it has arrived. Takes it from `input`, to which the caller
    /// only appends.
    pub(crate) fn next(&mut self, input: &mut BytesMut, limits: &Limits) -> Option<Found> {
        if self.found.is_empty() && self.broken.is_none() {
            self.find(input, limits);
        }
        let Some((range, parts)) = self.found.pop_front() else {
            return self.broken.take().map(Found::Broken);
        };
        let bytes = if self.found.is_empty() {
            // The last command takes the piece over: once it is gone, the buffer can be used again.
            self.handed_out = 0;
            std::mem::take(&mut self.piece).slice(range)
        } else {
            self.handed_out = range.end;
            self.piece.slice(range)
        };
        Some(Found::Command(Command::new(bytes, parts)))
    }

    /// Bytes of commands that were found and not handed out.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.piece.len() - self.handed_out
    }

    /// Frees memory that an idle parser does not need.
    pub(crate) fn trim(&mut self) {
        self.found.shrink_to(IDLE_COMMANDS);
    }

    /// Finds the commands at hand and splits them off.
    fn find(&mut self, input: &mut BytesMut, limits: &Limits) {
        // One at a time before authentication: the first may change what the next may be.
        let commands_max = if self.authenticated { BATCH_COMMANDS_MAX } else { 1 };
        let mut end = 0;
        while self.found.len() < commands_max {
            match self.scan(input, limits) {
                Ok(true) => {
                    self.found.push_back((self.start..self.at, std::mem::take(&mut self.parts)));
                    self.start = self.at;
                    end = self.at;
                }
                Ok(false) => break,
                Err(broken) => {
                    self.broken = Some(broken);
                    break;
                }
            }
        }
        if end > 0 {
            self.piece = input.split_to(end).freeze();
        }
        // Input that is no command, such as an empty line.
        input.advance(self.start - end);
        self.at -= self.start;
        self.start = 0;
    }

    /// Goes on to the end of the command, and returns whether it has arrived.
    fn scan(&mut self, input: &mut [u8], limits: &Limits) -> Result<bool, Broken> {
        while self.args_left == 0 {
            match input.get(self.at) {
                None => return Ok(false),
                Some(b'*') => {
                    let Some(count) = self.scan_length(input, &ARRAY, limits)? else {
                        return Ok(false);
                    };
                    self.begin_array(count, limits)?;
                }
                Some(_) => {
                    if !self.scan_inline(input, limits)? {
                        return Ok(false);
                    }
                    if !self.parts.is_empty() {
                        return Ok(true);
                    }
                    self.start = self.at;
                }
            }
        }
        while self.args_left > 0 {
            if !self.scan_bulk(input, limits)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn begin_array(&mut self, count: i64, limits: &Limits) -> Result<(), Broken> {
        if usize::try_from(count).is_ok_and(|count| count > limits.arguments_max) {
            return Err(ARRAY.invalid.into());
        }
        if count > ARGS_UNAUTHENTICATED_MAX && !self.authenticated {
            return Err("ERR Protocol error: unauthenticated multibulk length".into());
        }
        // A command of nothing is no command and gets no reply.
        self.args_left = usize::try_from(count).unwrap_or(0);
        if self.args_left == 0 {
            self.start = self.at;
        }
        Ok(())
    }

    /// Goes on to the end of an argument, and returns whether it has arrived.
    fn scan_bulk(&mut self, input: &[u8], limits: &Limits) -> Result<bool, Broken> {
        let bytes = match self.bulk_bytes {
            Some(bytes) => bytes,
            None => match self.scan_bulk_length(input, limits)? {
                Some(bytes) => *self.bulk_bytes.insert(bytes),
                None => return Ok(false),
            },
        };
        let end = self.at + bytes;
        let Some(line_end) = input.get(end..end + 2) else { return Ok(false) };
        if line_end != b"\r\n" {
            return Err("ERR Protocol error: expected CRLF at the end of a bulk".into());
        }
        if self.parts.is_empty()
            && let Some(sign) = http::sign_of_name(&input[self.at..end])
        {
            return Err(http_refusal(sign));
        }
        self.parts.push(self.at - self.start, end - self.start);
        self.at = end + 2;
        self.bulk_bytes = None;
        self.args_left -= 1;
        Ok(true)
    }

    fn scan_bulk_length(&mut self, input: &[u8], limits: &Limits) -> Result<Option<usize>, Broken> {
        match input.get(self.at) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(other) => {
                let shown = other.escape_ascii();
                return Err(format!("ERR Protocol error: expected '$', got '{shown}'").into());
            }
        }
        let Some(length) = self.scan_length(input, &BULK, limits)? else { return Ok(None) };
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if bytes > limits.value_bytes_max {
            return Err(BULK.invalid.into());
        }
        if length > BULK_BYTES_UNAUTHENTICATED_MAX && !self.authenticated {
            return Err("ERR Protocol error: unauthenticated bulk length".into());
        }
        if (self.at - self.start).saturating_add(bytes).saturating_add(2) > request_max(limits) {
            return Err("ERR Protocol error: too big request".into());
        }
        Ok(Some(bytes))
    }

    /// Reads the line of a marker and a length at `at` and goes behind it; `None` if it has not
    /// arrived.
    fn scan_length(
        &mut self,
        input: &[u8],
        length: &Length,
        limits: &Limits,
    ) -> Result<Option<i64>, Broken> {
        let line = &input[self.at..];
        if let Some((number, bytes)) = short_length(line) {
            self.at += bytes;
            self.searched = 0;
            return Ok(Some(number));
        }
        let window = &line[..line.len().min(limits.line_bytes_max.saturating_add(1))];
        let Some(end) = memchr(b'\r', &window[self.searched..]) else {
            self.searched = window.len();
            if window.len() > limits.line_bytes_max {
                return Err(length.too_big.into());
            }
            return Ok(None);
        };
        let end = self.searched + end;
        match line.get(end + 1) {
            None => {
                self.searched = end;
                return Ok(None);
            }
            Some(b'\n') => {}
            Some(_) => return Err(length.invalid.into()),
        }
        self.at += end + 2;
        self.searched = 0;
        number(&line[1..end]).map(Some).ok_or(length.invalid.into())
    }

    /// Reads the line at `at`, cuts it into arguments and goes behind it; returns whether it has
    /// arrived. A line may turn out to have none.
    fn scan_inline(&mut self, input: &mut [u8], limits: &Limits) -> Result<bool, Broken> {
        let line = &mut input[self.at..];
        // No command begins with such a byte, so it is no use to wait for the end of its line.
        if !matches!(line[0], b' '..=b'~' | b'\t'..=b'\r') {
            let shown = line[0].escape_ascii();
            return Err(format!("ERR Protocol error: expected a command, got '{shown}'").into());
        }
        let limit = limits.line_bytes_max.min(limits.request_bytes_max);
        let looked_at = line.len().min(limit + 1);
        // The limit may have been lowered since.
        let searched = self.searched.min(looked_at);
        let Some(end) = memchr(b'\n', &line[searched..looked_at]) else {
            self.searched = looked_at;
            if looked_at > limit {
                return Err("ERR Protocol error: too big inline request".into());
            }
            return Ok(false);
        };
        let end = searched + end;
        let line = &mut line[..end];
        if memchr(0, line).is_some() {
            return Err(r"ERR Protocol error: unexpected '\x00' in an inline request".into());
        }
        if let Some(sign) = http::sign(line) {
            return Err(http_refusal(sign));
        }
        inline::split(line, self.at - self.start, &mut self.parts)
            .ok_or("ERR Protocol error: unbalanced quotes in request")?;
        let name = self.parts.first().map(|name| &input[self.start..][name]);
        if let Some(sign) = name.and_then(http::sign_of_name) {
            return Err(http_refusal(sign));
        }
        self.at += end + 1;
        self.searched = 0;
        Ok(true)
    }
}

/// The longest command on the wire. Parts are counted in 32 bits.
fn request_max(limits: &Limits) -> usize {
    limits.request_bytes_max.min(u32::MAX as usize)
}

/// A length of few digits, which is nearly all of them, and the bytes of its line: `$3\r\n` has the
/// length 3 and 4 bytes. `None` if no such length stands here, or not all of it has arrived.
#[inline]
fn short_length(line: &[u8]) -> Option<(i64, usize)> {
    let mut number = 0;
    let mut at = 1;
    while let Some(digit @ b'0'..=b'9') = line.get(at)
        && at < 10
    {
        number = number * 10 + i64::from(digit - b'0');
        at += 1;
    }
    let is_canonical = at == 2 || at > 2 && line[1] != b'0';
    (is_canonical && line.get(at..at + 2) == Some(b"\r\n")).then_some((number, at + 2))
}

/// A number as Redis takes it: no plus sign, no leading zeros, no minus zero.
fn number(digits: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(digits).ok()?;
    let magnitude = text.strip_prefix('-').unwrap_or(text);
    let is_canonical = text == "0" || magnitude.as_bytes().first()?.wrapping_sub(b'1') < 9;
    if is_canonical { text.parse().ok() } else { None }
}

/// The refusal of a part of HTTP. (Redis refuses two of them, `POST` and `Host:`.)
fn http_refusal(sign: &[u8]) -> Broken {
    let sign = sign.escape_ascii();
    format!(
        "ERR Protocol error: '{sign}' is a part of HTTP and not a command; \
         a web page may have made a browser send it"
    )
    .into()
}
