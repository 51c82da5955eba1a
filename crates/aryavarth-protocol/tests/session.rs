//! The session's behaviour, told by the scripts beside this file.
//!
//! Each command prints its events, then the bytes that were sent. After a change that is
//! meant, `UPDATE_GOLDENFILES=1 cargo test -p aryavarth-protocol` rewrites the scripts; read the
//! difference.

use std::error::Error;
use std::fmt::{self, Write as _};

use aryavarth_protocol::{Event, Limits, Reply, Response, Session};

#[derive(goldenscript::Command)]
enum Command {
    /// A new session, with limits.
    New {
        #[arg(key)]
        key: Option<usize>,
        #[arg(key)]
        value: Option<usize>,
        #[arg(key)]
        request: Option<usize>,
        #[arg(key)]
        scan: Option<usize>,
        /// JSON is spoken.
        #[arg(key)]
        json: Option<bool>,
    },
    /// Bytes arrive, as often as said.
    Feed {
        text: String,
        #[arg(key)]
        times: Option<usize>,
    },
    /// Bytes arrive one by one.
    Bytewise { text: String },
    /// Bytes arrive that are no text.
    FeedHex { hex: String },
    /// The client ends its input.
    End,
    /// The oldest request is answered.
    Ok {
        value: Option<String>,
        #[arg(key, optional)]
        at: u64,
    },
    /// The oldest request is answered with an error.
    Err {
        message: String,
        #[arg(key, optional)]
        at: u64,
    },
    /// A page of one entry is the answer.
    Entry { key: String, value: String },
    /// The oldest command is answered, by a reply of the kind that is named.
    Reply {
        kind: String,
        text: Option<String>,
        #[arg(key, optional)]
        at: u64,
    },
    /// The oldest request is answered with an error in the client's protocol.
    Error { message: String },
    /// The client's version of the Redis protocol.
    Version { version: u8 },
    /// Whether the client has authenticated.
    Authenticated { authenticated: bool },
    /// The conversation is given up.
    GiveUp { message: String },
    /// A position has been reached.
    Release { position: u64 },
    /// The position that is awaited will not be reached.
    Fail { message: String },
    /// How many bytes of input are kept, and whether a request is incomplete.
    State,
}

impl Command {
    /// Whether it answers a request.
    fn answers(&self) -> bool {
        use Command::{Entry, Err, Error, Ok, Reply};
        matches!(self, Ok { .. } | Err { .. } | Entry { .. } | Reply { .. } | Error { .. })
    }
}

struct Runner {
    session: Session,
    /// Requests and errors that are not answered yet.
    owed: usize,
    /// The bytes to send when all are.
    last_words: Option<Vec<u8>>,
}

impl Runner {
    fn feed(&mut self, bytes: &[u8], output: &mut String) -> fmt::Result {
        self.session.feed(bytes);
        self.events(output)
    }

    /// Sends all bytes that the session has ready.
    fn send(&mut self, output: &mut String) -> fmt::Result {
        let sent = self.session.output().to_vec();
        for line in sent.split_inclusive(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(line).replace('\r', "\\r").replace('\n', "\\n");
            writeln!(output, "sends {line}")?;
        }
        self.session.sent(sent.len());
        Ok(())
    }

    fn events(&mut self, output: &mut String) -> fmt::Result {
        while let Some(event) = self.session.next_event() {
            match event {
                Event::Request(request) => {
                    writeln!(output, "{request:?}")?;
                    self.owed += 1;
                }
                Event::Command(command) => {
                    writeln!(output, "{command:?}")?;
                    self.owed += 1;
                }
                Event::Invalid(message) => writeln!(output, "invalid: {message}")?,
                Event::Broken(bytes) => {
                    writeln!(output, "broken")?;
                    self.last_words = Some(bytes);
                }
                Event::End => writeln!(output, "end")?,
            }
        }
        Ok(())
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut output = String::new();
        let session = &mut self.session;
        match command {
            Command::New { key, value, request, scan, json } => {
                let limits = Limits::default();
                (self.owed, self.last_words) = (0, None);
                self.session = Session::new(Limits {
                    key_bytes_max: key.unwrap_or(limits.key_bytes_max),
                    value_bytes_max: value.unwrap_or(limits.value_bytes_max),
                    request_bytes_max: request.unwrap_or(limits.request_bytes_max),
                    scan_entries_max: scan.unwrap_or(limits.scan_entries_max),
                    ..limits
                })
                .with_json(json.unwrap_or(true));
            }
            Command::Feed { text, times } => {
                for _ in 0..times.unwrap_or(1) {
                    self.feed(text.as_bytes(), &mut output)?;
                }
            }
            Command::Bytewise { text } => {
                for byte in text.bytes() {
                    self.feed(&[byte], &mut output)?;
                }
            }
            Command::FeedHex { hex } => {
                for at in (0..hex.len()).step_by(2) {
                    self.feed(&[u8::from_str_radix(&hex[at..at + 2], 16)?], &mut output)?;
                }
            }
            Command::End => {
                session.end_of_input();
                self.events(&mut output)?;
            }
            Command::Ok { value, at } => session.reply(&Response::Ok(value.clone()), *at),
            Command::Err { message, at } => session.reply(&Response::Err(message.clone()), *at),
            Command::Entry { key, value } => {
                session.reply(&Response::Entries(vec![(key.clone(), value.clone())]), 0);
            }
            Command::Reply { kind, text, at } => {
                session.reply_resp(&reply(kind, text.clone().unwrap_or_default()), *at);
            }
            Command::Error { message } => session.reply_error(message, 0),
            Command::Version { version } => session.set_resp_version(*version),
            Command::Authenticated { authenticated } => session.set_authenticated(*authenticated),
            Command::GiveUp { message } => self.last_words = Some(session.give_up(message)),
            Command::Release { position } => session.release(*position),
            Command::Fail { message } => session.fail_awaited(message),
            Command::State => {
                let (bytes, partial) = (session.input_bytes(), session.is_partial());
                writeln!(output, "keeps {bytes} bytes, partial: {partial}")?;
            }
        }
        self.owed -= usize::from(command.answers());
        if self.owed == 0
            && let Some(bytes) = self.last_words.take()
        {
            self.session.reply_raw(bytes);
        }
        self.send(&mut output)?;
        Ok(output)
    }
}

/// A reply of each kind.
fn reply(kind: &str, text: String) -> Reply {
    let some = || vec![Reply::Integer(1), Reply::Null, Reply::bulk("two")];
    let pairs = || vec![(Reply::bulk("proto"), Reply::Integer(3))];
    match kind {
        "ok" => Reply::OK,
        "simple" => Reply::Simple(text.into()),
        "error" => Reply::error(text),
        "integer" => Reply::Integer(text.parse().expect("an integer")),
        "bulk" => Reply::bulk(text),
        "null" => Reply::Null,
        "null-array" => Reply::NullArray,
        "boolean" => Reply::Boolean(text == "true"),
        "double" => Reply::Double(text.parse().expect("a double")),
        "big-number" => Reply::BigNumber(text),
        "verbatim" => Reply::Verbatim("txt", text.into()),
        "array" => Reply::Array(some()),
        "set" => Reply::Set(some()),
        "push" => Reply::Push(some()),
        "map" => Reply::Map(pairs()),
        "attributed" => Reply::Attributed(pairs(), Box::new(Reply::OK)),
        _ => panic!("there is no kind {kind}"),
    }
}

#[test]
fn every_script_of_the_session_gets_its_output() {
    aryavarth_tests::scripts::run_all("tests/scripts", || {
        let session = Session::new(Limits::default());
        Runner { session, owed: 0, last_words: None }
    });
}

#[test]
fn a_value_that_arrives_byte_by_byte_is_looked_at_once() {
    // Rescanned at every byte this would be 10^13 steps, and the test would not end.
    let mut session = Session::new(Limits::default());
    session.feed(br#"{"Set":{"key":"k","value":""#);
    for _ in 0..4 << 20 {
        session.feed(b"x");
        assert_eq!(session.next_event(), None);
    }
    session.feed(br#""}}"#);
    assert!(matches!(session.next_event(), Some(Event::Request(_))));
    assert_eq!(session.input_bytes(), 0);
}

#[test]
fn a_bulk_that_arrives_byte_by_byte_is_looked_at_once() {
    let mut session = Session::new(Limits::default());
    session.feed(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4194304\r\n");
    for _ in 0..4 << 20 {
        session.feed(b"\r");
        assert_eq!(session.next_event(), None);
    }
    session.feed(b"\r\n");
    assert!(matches!(session.next_event(), Some(Event::Command(_))));
    assert_eq!(session.input_bytes(), 0);
}

#[test]
fn of_a_long_pipeline_every_command_is_heard_once_and_its_bytes_are_given_back() {
    let mut session = Session::new(Limits::default());
    let command = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n\r\n";
    session.feed(&command.repeat(1000));
    session.feed(b"*1\r\n!");
    let mut kept = session.input_bytes();
    for _ in 0..1000 {
        assert!(matches!(session.next_event(), Some(Event::Command(_))));
        assert!(session.input_bytes() < kept, "what was handed out is not kept");
        kept = session.input_bytes();
    }
    assert!(matches!(session.next_event(), Some(Event::Broken(_))));
    assert_eq!(session.next_event(), None);
}

#[test]
fn a_password_counts_from_the_next_command_on_though_both_arrived_together() {
    let long = format!("*2\r\n$3\r\nGET\r\n$20000\r\n{}\r\n", "k".repeat(20_000));
    for knows_it in [true, false] {
        let mut session = Session::new(Limits::default());
        session.set_authenticated(false);
        session.feed(b"*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n");
        session.feed(long.as_bytes());
        assert!(matches!(session.next_event(), Some(Event::Command(_))));
        session.set_authenticated(knows_it);
        match session.next_event() {
            Some(Event::Command(get)) => assert!(knows_it && get.get(1).unwrap().len() == 20_000),
            Some(Event::Broken(_)) => assert!(!knows_it),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_line_that_arrives_byte_by_byte_is_looked_at_once() {
    let mut session = Session::new(Limits::default());
    for _ in 0..64 {
        for _ in 0..60_000 {
            session.feed(b"x");
            assert_eq!(session.next_event(), None);
        }
        session.feed(b"\n");
        assert!(matches!(session.next_event(), Some(Event::Command(_))));
    }
}

#[test]
fn cut_anywhere_a_request_is_an_error_and_in_two_pieces_it_is_the_same() {
    let text = r#" {"Set":{"key":"k\u00e9\"","value":"{\\"}} "#.as_bytes();
    let mut whole = Session::new(Limits::default());
    whole.feed(text);
    let expected = whole.next_event();
    assert!(matches!(expected, Some(Event::Request(_))));
    for cut in 2..text.len() - 1 {
        let mut session = Session::new(Limits::default());
        session.feed(&text[..cut]);
        assert_eq!(session.next_event(), None, "cut at {cut}");
        session.feed(&text[cut..]);
        assert_eq!(session.next_event(), expected, "cut at {cut}");

        let mut session = Session::new(Limits::default());
        session.feed(&text[..cut]);
        session.end_of_input();
        assert!(matches!(session.next_event(), Some(Event::Broken(_))), "cut at {cut}");
        assert_eq!(session.next_event(), None);
    }
}

/// All that a session makes of bytes that arrive in pieces of at most `piece` bytes.
fn events_of(bytes: &[u8], piece: usize) -> Vec<Event> {
    let mut session = Session::new(Limits::default());
    let mut events = Vec::new();
    for piece in bytes.chunks(piece) {
        session.feed(piece);
        events.extend(std::iter::from_fn(|| session.next_event()));
    }
    session.end_of_input();
    events.extend(std::iter::from_fn(|| session.next_event()));
    events
}

#[test]
fn any_bytes_mean_the_same_in_any_pieces_and_come_to_an_end() {
    let seed = br#"{"Set":{"key":"k\u00e9","value":"\\\"{}"}}
        {"Get":{"key":"k"}}{"Scan":{"prefix":"p","after":null,"limit":10}}{"Nope":[1,-2e5,true]}"#;
    // A generator of Knuth's, so that a failure can be repeated.
    let mut random: u64 = 1;
    let mut below = |limit: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize % limit
    };
    for round in 0..20_000 {
        let mut bytes = seed.to_vec();
        for _ in 0..below(4) {
            let at = below(bytes.len());
            bytes[at] = match below(3) {
                0 => b"{}[]\":,\\ \n0e"[below(12)],
                1 => u8::try_from(below(256)).expect("below 256"),
                _ => seed[below(seed.len())],
            };
        }
        bytes.truncate(1 + below(bytes.len()));
        let events = events_of(&bytes, bytes.len());
        assert_eq!(events, events_of(&bytes, 1 + below(9)), "round {round}: {bytes:?}");
        let ends = |event: &Event| matches!(event, Event::End | Event::Broken(_));
        assert_eq!(events.iter().filter(|event| ends(event)).count(), 1, "round {round}");
        assert!(events.last().is_some_and(ends), "round {round}: {bytes:?}");
    }
}
