//! One connection's side of the conversation.
//!
//! Bytes go in by [`feed`](Session::feed), what they mean comes out of
//! [`next_event`](Session::next_event); replies go in by [`reply`](Session::reply), the bytes to
//! send come out of [`output`](Session::output).
//!
//! Invariants:
//! - The same bytes mean the same, in whatever pieces they arrive; each is looked at once.
//! - Events come in the order of the input, and each request or error is answered once, in order.
//! - After a [`Event::Broken`] nothing that arrives is looked at: where a request would begin is
//!   no longer known, and guessing would let one protocol smuggle requests into another.
//! - What is kept of the input is at most the limit of one request, or of a first line that may be
//!   HTTP, and what one feed added.

use serde::de::IgnoredAny;

use crate::extent::{Extent, Found};
use crate::limits::Limits;
use crate::message::{Request, Response};
use crate::output::Output;
use crate::sniff::{Protocol, http_refusal, sniff};

/// The most that is shown of an error that quotes its request.
const MESSAGE_CHARS_MAX: usize = 200;

const EXAMPLE: &str = r#"a request looks like {"Get":{"key":"k"}}"#;

/// What arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request to run, and then to answer with [`Session::reply`].
    Request(Request),
    /// A complete request that makes no sense, and why: to be answered with this error. The
    /// conversation goes on.
    Invalid(String),
    /// The input makes no sense and the conversation is over: these are the last bytes to send,
    /// with [`Session::reply_raw`], once everything before is answered.
    Broken(Vec<u8>),
    /// The input ended between two requests. The conversation is over when all is answered.
    End,
}

/// The conversation with one client.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    protocol: Option<Protocol>,
    input: Vec<u8>,
    /// Bytes of `input` that are done with.
    consumed: usize,
    /// The scan of the request that begins there.
    extent: Extent,
    /// The client will send nothing more.
    ended: bool,
    /// Nothing more will be read out of the input.
    over: bool,
    output: Output,
}

impl Session {
    /// A conversation that has not begun.
    pub fn new(limits: Limits) -> Self {
        Session {
            limits,
            protocol: None,
            input: Vec::new(),
            consumed: 0,
            extent: Extent::default(),
            ended: false,
            over: false,
            output: Output::default(),
        }
    }

    /// Takes bytes that arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.input_buffer().extend_from_slice(bytes);
    }

    /// The buffer that bytes arrive in, for a caller that reads straight into it. Only append.
    pub fn input_buffer(&mut self) -> &mut Vec<u8> {
        if self.consumed == self.input.len() {
            self.input.clear();
            self.consumed = 0;
        } else if self.consumed >= self.input.len() - self.consumed {
            // What is moved is at most what was consumed, so a byte is moved once on average.
            self.input.drain(..self.consumed);
            self.consumed = 0;
        }
        &mut self.input
    }

    /// Takes note that the client will send nothing more.
    pub fn end_of_input(&mut self) {
        self.ended = true;
    }

    /// What arrived next, or `None` until more has.
    pub fn next_event(&mut self) -> Option<Event> {
        if self.over {
            return None;
        }
        let event = self.read_event()?;
        self.over = matches!(event, Event::Broken(_) | Event::End);
        Some(event)
    }

    /// Gives the conversation up: what arrives from now on is not looked at. Returns the last bytes
    /// to send, for [`reply_raw`](Session::reply_raw).
    pub fn give_up(&mut self, message: &str) -> Vec<u8> {
        self.over = true;
        error_line(message)
    }

    /// Whether a request has begun to arrive and is not complete. Meaningful after
    /// [`next_event`](Session::next_event) returned `None`.
    pub fn is_partial(&self) -> bool {
        !self.over && self.consumed < self.input.len()
    }

    /// Bytes of input that are kept.
    pub fn input_bytes(&self) -> usize {
        self.input.len() - self.consumed
    }

    /// Frees what an idle conversation does not need, so that thousands of them cost little.
    pub fn trim(&mut self) {
        self.input_buffer().shrink_to_fit();
        self.output.trim();
    }

    /// Answers the oldest unanswered request. The answer may leave when `position` has been
    /// [released](Session::release); 0 always has.
    pub fn reply(&mut self, response: &Response, position: u64) {
        self.output.push(response, position);
    }

    /// Adds the bytes of [`Event::Broken`] behind all replies.
    pub fn reply_raw(&mut self, bytes: Vec<u8>) {
        self.output.push_raw(bytes);
    }

    /// The position that holds back the oldest unsent reply, if one is held back.
    pub fn awaited_position(&self) -> Option<u64> {
        self.output.next_position()
    }

    /// Takes note that `position` has been reached: replies up to it may leave.
    pub fn release(&mut self, position: u64) {
        self.output.release(position);
    }

    /// Turns the oldest reply that is held back into an error: its position will not be reached.
    pub fn fail_awaited(&mut self, message: &str) {
        self.output.fail(message);
    }

    /// The bytes to send next.
    pub fn output(&self) -> &[u8] {
        self.output.ready()
    }

    /// Takes note that the first `bytes` of the [output](Session::output) were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.output.sent(bytes);
    }

    /// Bytes of replies that are not sent yet, held back or not.
    pub fn output_bytes(&self) -> usize {
        self.output.bytes()
    }

    fn read_event(&mut self) -> Option<Event> {
        self.skip_white_space();
        let rest = &self.input[self.consumed..];
        if rest.is_empty() {
            return self.ended.then_some(Event::End);
        }
        if self.protocol.is_none() {
            self.protocol = sniff(rest, self.ended);
        }
        match self.protocol? {
            Protocol::Json => self.read_json(),
            Protocol::Http => Some(Event::Broken(http_refusal())),
            Protocol::Unknown => Some(broken(&format!("this port speaks JSON; {EXAMPLE}"))),
        }
    }

    fn skip_white_space(&mut self) {
        let rest = &self.input[self.consumed..];
        let is_white = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        self.consumed += rest.iter().take_while(|byte| is_white(byte)).count();
    }

    fn read_json(&mut self) -> Option<Event> {
        let rest = &self.input[self.consumed..];
        if rest[0] != b'{' {
            let shown = rest[0].escape_ascii();
            return Some(broken(&format!("unexpected `{shown}` after a request; {EXAMPLE}")));
        }
        let limit = self.limits.wire_bytes_max();
        // Not further than where a longer request is refused, or what it is refused for would depend
        // on the pieces in which it arrives.
        let looked_at = &rest[..rest.len().min(limit.saturating_add(1))];
        match self.extent.scan(looked_at) {
            Found::Bad(why) => Some(broken(&format!("not JSON: {why}; {EXAMPLE}"))),
            Found::End(bytes) if bytes > limit => Some(too_long(limit)),
            Found::More if rest.len() > limit => Some(too_long(limit)),
            Found::End(bytes) => {
                let event = decode(&rest[..bytes], &self.limits);
                self.consumed += bytes;
                self.extent = Extent::default();
                Some(event)
            }
            Found::More if self.ended => {
                let bytes = rest.len();
                let what = format!("the input ended inside a request, after {bytes} bytes of it");
                Some(broken(&what))
            }
            Found::More => None,
        }
    }
}

fn error_line(message: &str) -> Vec<u8> {
    let mut line = Vec::new();
    Response::Err(message.to_owned()).encode(&mut line);
    line
}

fn broken(message: &str) -> Event {
    Event::Broken(error_line(message))
}

fn too_long(limit: usize) -> Event {
    broken(&format!("the request is too long: the limit is {limit} bytes"))
}

/// Decodes a request whose extent is known. What is JSON but no request leaves the framing intact.
fn decode(json: &[u8], limits: &Limits) -> Event {
    let error = match serde_json::from_slice::<Request>(json) {
        Ok(request) => {
            return match request.check(limits) {
                Ok(()) => Event::Request(request),
                Err(why) => Event::Invalid(why),
            };
        }
        Err(error) => error,
    };
    if let Err(not_utf8) = std::str::from_utf8(json) {
        let at = not_utf8.valid_up_to() + 1;
        return broken(&format!("not JSON: byte {at} of the request is not UTF-8"));
    }
    match serde_json::from_slice::<IgnoredAny>(json) {
        Err(syntax) => broken(&format!("not JSON: {}; {EXAMPLE}", shortened(&syntax))),
        Ok(_) => Event::Invalid(format!("not a valid request: {}; {EXAMPLE}", shortened(&error))),
    }
}

/// An error's message, which may quote the whole of a request, in no more than a few lines.
fn shortened(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &message[..end]),
        None => message,
    }
}
