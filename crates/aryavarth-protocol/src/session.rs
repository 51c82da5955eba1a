//! One connection's side of the conversation.
//!
//! Bytes go in by [`feed`](Session::feed), their meaning comes out of
//! [`next_event`](Session::next_event); replies go in by [`reply`](Session::reply) or
//! [`reply_resp`](Session::reply_resp), the bytes to send come out of [`output`](Session::output).
//!
//! Invariants:
//! - The same bytes mean the same, however they are cut into pieces; each is looked at once.
//! - Events come in the order of the input, and each request or error is answered once, in order.
//! - After a [`Event::Broken`] nothing that arrives is looked at: where a request would begin is
//!   no longer known, and guessing would let one protocol smuggle requests into another.
//! - The kept input is at most the limit of one request, or of a first line that may be HTTP, and
//!   the bytes of one feed.
//! - A client hears everything, errors included, in its own protocol.

use bytes::{Buf, BytesMut};

use crate::event::Event;
use crate::extent::Extent;
use crate::http;
use crate::json;
use crate::limits::Limits;
use crate::message::Response;
use crate::output::Output;
use crate::resp::{self, Found, Parser, Push, Reply, Version};
use crate::sniff::{Protocol, sniff};

/// The conversation with one client.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    /// JSON is spoken here.
    json: bool,
    protocol: Option<Protocol>,
    /// Bytes that arrived and are not consumed.
    input: BytesMut,
    /// The scan of the JSON request that begins there.
    extent: Extent,
    /// The search for the command that begins there.
    parser: Parser,
    /// The version in which replies of the Redis protocol are written.
    version: Version,
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
            json: true,
            protocol: None,
            input: BytesMut::new(),
            extent: Extent::default(),
            parser: Parser::default(),
            version: Version::default(),
            ended: false,
            over: false,
            output: Output::default(),
        }
    }

    /// The same with JSON spoken or not; it is by default. It has no way to say a password, so
    /// where one is set a client that begins with `{` gets an error, in the Redis protocol.
    #[must_use]
    pub fn with_json(mut self, json: bool) -> Self {
        self.json = json;
        self
    }

    /// Changes the limits, for input that is looked at from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes bytes that arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The buffer that bytes arrive in, for a caller that reads straight into it. Only append.
    pub fn input_buffer(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Takes note that the client will send nothing more.
    pub fn end_of_input(&mut self) {
        self.ended = true;
    }

    /// The next event, or `None` until more input has arrived.
    pub fn next_event(&mut self) -> Option<Event> {
        if self.over {
            return None;
        }
        let event = self.read_event()?;
        self.over = matches!(event, Event::Broken(_) | Event::End);
        Some(event)
    }

    /// Whether the client speaks the Redis protocol; `false` as long as that is not known.
    pub fn is_resp(&self) -> bool {
        self.protocol == Some(Protocol::Resp)
    }

    /// Whether the client speaks JSON, and may; `false` as long as that is not known.
    pub fn is_json(&self) -> bool {
        self.protocol == Some(Protocol::Json) && self.json
    }

    /// The version of the Redis protocol in which replies are written from now on: 2, as every
    /// conversation begins, or 3.
    pub fn set_resp_version(&mut self, version: u8) {
        debug_assert!(matches!(version, 2 | 3), "there are two versions");
        self.version = if version == 3 { Version::Resp3 } else { Version::Resp2 };
    }

    /// Whether the client is authenticated, if it has to be. Until it is, a command of the Redis
    /// protocol may have 10 arguments of 16 KiB each, as in Redis. By default there is nothing to
    /// say. To be changed before the next event is taken.
    pub fn set_authenticated(&mut self, authenticated: bool) {
        self.parser.authenticated = authenticated;
    }

    /// Gives the conversation up: input from now on is not read. Returns the last bytes
    /// to send, for [`reply_raw`](Session::reply_raw).
    pub fn give_up(&mut self, message: &str) -> Vec<u8> {
        self.over = true;
        let mut bytes = Vec::new();
        encode_error(self.speaks_resp(), message, &mut bytes);
        bytes
    }

    /// Ends the conversation without a word: nothing more is read out of the input, even if it
    /// has arrived already. Replies that are owed can still be given.
    pub fn stop_reading(&mut self) {
        self.over = true;
    }

    /// Whether a request has begun to arrive and is not complete. Meaningful after
    /// [`next_event`](Session::next_event) returned `None`.
    pub fn is_partial(&self) -> bool {
        !self.over && !self.input.is_empty()
    }

    /// Bytes of input that are kept.
    pub fn input_bytes(&self) -> usize {
        self.input.len() + self.parser.kept_bytes()
    }

    /// Moves the input that is kept to a buffer of its size.
    pub fn shrink_input(&mut self) {
        self.input = BytesMut::from(&self.input[..]);
    }

    /// Frees the memory that an idle conversation does not need, so that thousands of them cost
    /// little; of an empty input buffer, all if `with_input`. Less than 4 KiB of the rest is left.
    pub fn trim(&mut self, with_input: bool) {
        if with_input && self.input.is_empty() {
            self.input = BytesMut::new();
        }
        self.parser.trim();
        self.output.trim();
    }

    /// Answers the oldest unanswered request, in JSON. The answer may leave when `position` has
    /// been [released](Session::release); 0 always has.
    pub fn reply(&mut self, response: &Response, position: u64) {
        self.output.push(position, |out| response.encode(out));
    }

    /// Answers the oldest unanswered command, in the client's version of the Redis protocol. The
    /// answer may leave when `position` has been [released](Session::release); 0 always has.
    ///
    /// ```
    /// use aryavarth_protocol::{Command, Event, Limits, Reply, Session};
    ///
    /// let mut session = Session::new(Limits::default());
    /// session.feed(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    /// assert_eq!(session.next_event(), Some(Event::Command(Command::from_args(["GET", "k"]))));
    ///
    /// session.reply_resp(&Reply::bulk("v"), 0);
    /// session.set_resp_version(3);
    /// session.reply_resp(&Reply::Null, 0);
    /// assert_eq!(session.output(), b"$1\r\nv\r\n_\r\n");
    /// ```
    pub fn reply_resp(&mut self, reply: &Reply, position: u64) {
        let version = self.version;
        self.output.push(position, |out| reply.encode(version, out));
    }

    /// As [`reply_resp`](Session::reply_resp), and does not copy large values.
    pub fn reply_resp_owned(&mut self, reply: Reply, position: u64) {
        let version = self.version;
        self.output.push_parts(position, |parts| reply.encode_into(version, parts));
    }

    /// Sends a message that answers no command. It keeps its place among the replies; if its position
    /// will not be reached, it is dropped. A long message is not copied.
    pub fn push(&mut self, push: &Push, position: u64) {
        let version = self.version;
        self.output.push_message(position, |parts| push.encode_into(version, parts));
    }

    /// Answers the oldest unanswered request with an error, in the client's protocol (where that is
    /// the Redis protocol, of the kind `ERR`). The answer may leave as others may.
    pub fn reply_error(&mut self, message: &str, position: u64) {
        let resp = self.speaks_resp();
        self.output.push(position, |out| encode_error(resp, message, out));
    }

    /// Adds the bytes of [`Event::Broken`] behind all replies.
    pub fn reply_raw(&mut self, bytes: Vec<u8>) {
        self.output.push(0, |out| out.extend(bytes));
    }

    /// Takes the place of an answer to a client that wants none: nothing is sent, but the position
    /// is waited for as any other.
    pub fn reply_nothing(&mut self, position: u64) {
        self.output.push(position, |_| {});
    }

    /// The position that holds back the oldest unsent reply, if one is held back.
    pub fn awaited_position(&self) -> Option<u64> {
        self.output.next_ticket()
    }

    /// Takes note that `position` has been reached: replies up to it may leave.
    pub fn release(&mut self, position: u64) {
        self.output.release(position);
    }

    /// Turns the oldest reply that is held back into an error: its position will not be reached. In
    /// the Redis protocol it is of the kind `MISCONF`, Redis's word for a disk that fails.
    pub fn fail_awaited(&mut self, message: &str) {
        if self.speaks_resp() {
            let error = Reply::error(format!("MISCONF {message}"));
            let version = self.version;
            self.output.fail(|out| error.encode(version, out));
        } else {
            self.output.fail(|out| json::error(message, out));
        }
    }

    /// The bytes to send next: not always all, and none only if nothing may be sent.
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

    /// Bytes of memory that these replies take: a large value is kept until its last byte is sent.
    pub fn output_memory(&self) -> usize {
        self.output.memory()
    }

    fn read_event(&mut self) -> Option<Event> {
        if !self.is_resp() {
            self.skip_white_space();
            if self.input.is_empty() {
                return self.ended.then_some(Event::End);
            }
        }
        if self.protocol.is_none() {
            self.protocol = sniff(&self.input, self.ended);
        }
        match self.protocol? {
            Protocol::Json if !self.json => Some(self.broken(
                "ERR JSON is off on this port because a password is set; \
                 use a client of the Redis protocol",
            )),
            Protocol::Json => {
                json::read(&mut self.input, &mut self.extent, &self.limits, self.ended)
            }
            Protocol::Http => Some(Event::Broken(http::refusal())),
            Protocol::Resp => self.read_command(),
        }
    }

    fn skip_white_space(&mut self) {
        let is_white = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        let white = self.input.iter().take_while(|byte| is_white(byte)).count();
        self.input.advance(white);
    }

    fn read_command(&mut self) -> Option<Event> {
        match self.parser.next(&mut self.input, &self.limits) {
            Some(Found::Command(command)) => Some(Event::Command(command)),
            Some(Found::Broken(text)) => Some(self.broken(&text)),
            None if !self.ended => None,
            None if self.input.is_empty() => Some(Event::End),
            None => {
                let bytes = self.input.len();
                let reason = format!("the input ended inside a command, after {bytes} bytes of it");
                Some(self.broken(&format!("ERR Protocol error: {reason}")))
            }
        }
    }

    /// The end, with an error of the Redis protocol.
    fn broken(&self, text: &str) -> Event {
        let mut bytes = Vec::new();
        Reply::error(text.to_owned()).encode(self.version, &mut bytes);
        Event::Broken(bytes)
    }

    /// Whether errors are written for a client of the Redis protocol: unless it has begun to speak
    /// JSON, and may. Clients of the Redis protocol know errors that come unasked.
    fn speaks_resp(&self) -> bool {
        !self.is_json()
    }
}

fn encode_error(resp: bool, message: &str, out: &mut Vec<u8>) {
    if resp { resp::error(message, out) } else { json::error(message, out) }
}
