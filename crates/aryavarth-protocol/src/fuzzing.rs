//! The fuzzer's entry: any input of a client ends in requests, replies or one
//! last error.
//!
//! [`session`] and [`resp`] take any bytes and panic where a property fails. The targets in `fuzz/`
//! call them, and so do the tests below, with every input in `fuzz/corpus`. The module exists for
//! these only.
//!
//! Properties:
//! - The same bytes mean the same, however they are cut into pieces: same events, same replies.
//! - Every request and every error is answered once, in order and in the protocol that the client
//!   speaks; nothing comes after the last event.
//! - The written form of a request or a command is read as the same.
//! - The kept input is bounded by the limits and one feed.

use crate::event::Event;
use crate::limits::Limits;
use crate::message::{Request, Response};
use crate::resp::{Command, Reply};
use crate::session::Session;

/// The outcome of a conversation.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    events: Vec<Event>,
    sent: Vec<u8>,
}

/// The state in which a conversation begins.
#[derive(Clone, Copy, Debug)]
struct Setup {
    limits: Limits,
    /// A client that is not is from its second command on.
    authenticated: bool,
    version: u8,
}

impl Setup {
    fn of(limits: Limits) -> Setup {
        Setup { limits, authenticated: true, version: 2 }
    }
}

/// One conversation, fed at once, byte by byte, and in pieces. The first byte says how long the
/// pieces are and how narrow the limits.
pub fn session(data: &[u8]) {
    let Some((&how, data)) = data.split_first() else { return };
    conversation(how, Setup::of(limits(how)), data);
}

/// The same for the Redis protocol: its second byte says whether the client is authenticated, and its version.
pub fn resp(data: &[u8]) {
    let [how, client, data @ ..] = data else { return };
    let version = if client & 2 == 0 { 2 } else { 3 };
    conversation(
        *how,
        Setup { limits: limits(*how), authenticated: client & 1 == 0, version },
        data,
    );
}

fn limits(how: u8) -> Limits {
    if how & 1 == 0 {
        Limits::default()
    } else {
        Limits {
            key_bytes_max: 4,
            value_bytes_max: 8,
            request_bytes_max: 48,
            scan_entries_max: 10,
            ..Limits::default()
        }
    }
}

fn conversation(how: u8, setup: Setup, data: &[u8]) {
    let at_once = converse(&setup, [data]);
    assert_eq!(converse(&setup, data.chunks(1)), at_once, "byte by byte");
    let piece = usize::from(how >> 1) + 2;
    assert_eq!(converse(&setup, data.chunks(piece)), at_once, "in pieces of {piece}");

    let anything = Setup::of(Limits::default());
    for event in &at_once.events {
        let written = match event {
            Event::Request(request) => {
                serde_json::to_vec(request).expect("a request has a JSON form")
            }
            Event::Command(command) => written(command),
            _ => continue,
        };
        let again = converse(&anything, [&*written]);
        assert_eq!(again.events.first(), Some(event), "written as {}", written.escape_ascii());
    }
    if at_once.sent.starts_with(b"HTTP/") {
        return;
    }
    let mut sent = &*at_once.sent;
    for event in &at_once.events {
        match event {
            Event::End => {}
            Event::Request(_) | Event::Invalid(_) => json_answer(&mut sent),
            Event::Command(command) => resp_answer(command, &mut sent),
            Event::Broken(_) if sent.starts_with(b"{") => json_answer(&mut sent),
            Event::Broken(_) => {
                let error = line(&mut sent);
                assert!(error.starts_with(b"-ERR ") && error.ends_with(b"\r\n"));
            }
        }
    }
    assert!(sent.is_empty(), "an answer each");
}

fn line<'a>(sent: &mut &'a [u8]) -> &'a [u8] {
    let end = sent.iter().position(|byte| *byte == b'\n').expect("there is an answer");
    let (line, rest) = sent.split_at(end + 1);
    *sent = rest;
    line
}

fn json_answer(sent: &mut &[u8]) {
    serde_json::from_slice::<Response>(line(sent)).expect("a reply is a response");
}

/// The command's name, or the error that the disk is gone.
fn resp_answer(command: &Command, sent: &mut &[u8]) {
    if sent.starts_with(b"-") {
        assert_eq!(line(sent), b"-ERR the disk is gone\r\n");
        return;
    }
    let bytes = command.name().len();
    let expected = [format!("${bytes}\r\n").as_bytes(), command.name(), b"\r\n"].concat();
    *sent = sent.strip_prefix(&*expected).expect("the answer is this command's");
}

/// The command as clients write it.
fn written(command: &Command) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for arg in [command.name()].into_iter().chain(command.args()) {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Feeds pieces to a session and answers its events.
fn converse<'a>(setup: &Setup, pieces: impl IntoIterator<Item = &'a [u8]>) -> Heard {
    let limits = setup.limits;
    let mut session = Session::new(limits);
    session.set_authenticated(setup.authenticated);
    session.set_resp_version(setup.version);
    let mut heard = Heard::default();
    let mut position = 0;
    // Of JSON and of an inline command less is kept; behind the arguments may stand a long line.
    let kept_bytes_max = limits.request_bytes_max + limits.line_bytes_max + 1;
    for piece in pieces {
        session.feed(piece);
        answer(&mut session, &mut heard, &mut position);
        let is_over = matches!(heard.events.last(), Some(Event::Broken(_)));
        assert!(is_over || session.input_bytes() <= kept_bytes_max + piece.len());
    }
    session.end_of_input();
    answer(&mut session, &mut heard, &mut position);
    assert!(matches!(heard.events.last(), Some(Event::Broken(_) | Event::End)), "it ends");
    session.feed(b"{\"Get\":{\"key\":\"late\"}}");
    assert_eq!(session.next_event(), None, "and nothing comes after that");
    // A disk that stops working in the end: replies that still wait leave as errors.
    while session.awaited_position().is_some() {
        session.fail_awaited("the disk is gone");
        send(&mut session, &mut heard);
    }
    assert_eq!(session.output_bytes(), 0, "everything was sent");
    heard
}

/// Answers every event at hand; every third answer waits for a position, which comes later.
fn answer(session: &mut Session, heard: &mut Heard, position: &mut u64) {
    while let Some(event) = session.next_event() {
        *position += 1;
        match &event {
            Event::Request(request) => {
                session.reply(&response(request), *position - *position % 3);
            }
            Event::Command(command) => {
                session.reply_resp(&Reply::bulk(command.name()), *position - *position % 3);
                session.set_authenticated(true);
            }
            Event::Invalid(why) => session.reply_error(why, 0),
            Event::Broken(last_words) => session.reply_raw(last_words.clone()),
            Event::End => {}
        }
        heard.events.push(event);
        session.release(*position - *position % 2);
        send(session, heard);
    }
    session.trim(true);
}

/// A reply that an engine might give.
fn response(request: &Request) -> Response {
    match request {
        Request::Set { .. } | Request::Compact {} => Response::Ok(None),
        Request::Get { key } => Response::Ok(Some(key.clone())),
        Request::Remove { key } => Response::Err(key.clone()),
        Request::Scan { prefix, after, .. } => {
            Response::Entries(vec![(prefix.clone(), after.clone().unwrap_or_default())])
        }
    }
}

/// Sends the replies that are ready, half of the bytes first.
fn send(session: &mut Session, heard: &mut Heard) {
    while !session.output().is_empty() {
        let half = session.output().len().div_ceil(2);
        heard.sent.extend_from_slice(&session.output()[..half]);
        session.sent(half);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The inputs that fuzzers found, and those that they began with.
    fn replay(target: &str, run: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        let files = fs::read_dir(corpus.join(target)).unwrap();
        let files: Vec<_> = files.map(|entry| entry.unwrap()).collect();
        assert!(files.len() > 3, "there is a corpus");
        for file in files {
            let bytes = fs::read(file.path()).unwrap();
            // Whichever fails is the last that was named.
            println!("{}", file.path().display());
            run(&bytes);
            // Cut short, every input is another one.
            for length in 0..bytes.len().min(256) {
                run(&bytes[..length]);
            }
        }
    }

    #[test]
    fn the_corpus_of_session() {
        replay("session", session);
    }

    #[test]
    fn the_corpus_of_resp() {
        replay("resp", resp);
    }
}
