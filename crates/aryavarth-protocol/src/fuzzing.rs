//! Where a fuzzer comes in: whatever a client sends, the session ends in requests, replies or one
//! last error.
//!
//! [`session`] takes any bytes and panics where a property fails. The target in `fuzz/` calls it,
//! and so does the test below, with every input in `fuzz/corpus`. The module exists for the two of
//! them only.
//!
//! Properties:
//! - The same bytes mean the same, in whatever pieces they arrive: same events, same replies.
//! - Every request and every error is answered once, by one line of JSON, in order; nothing comes
//!   after the last event.
//! - What a request is written as is read as the same request.
//! - What is kept of the input is bounded by the limits and one feed.

use crate::limits::Limits;
use crate::message::{Request, Response};
use crate::session::{Event, Session};
use crate::sniff::LINE_BYTES_MAX;

/// What a conversation came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    events: Vec<Event>,
    sent: Vec<u8>,
}

/// One conversation, fed at once, byte by byte, and in pieces. The first byte says how long the
/// pieces are and how narrow the limits.
pub fn session(data: &[u8]) {
    let Some((&how, data)) = data.split_first() else { return };
    let limits = if how & 1 == 0 {
        Limits::default()
    } else {
        Limits { key_bytes_max: 4, value_bytes_max: 8, request_bytes_max: 48, scan_entries_max: 10 }
    };
    let at_once = converse(&limits, [data]);
    assert_eq!(converse(&limits, data.chunks(1)), at_once, "byte by byte");
    let piece = usize::from(how >> 1) + 2;
    assert_eq!(converse(&limits, data.chunks(piece)), at_once, "in pieces of {piece}");

    let mut answers = 0;
    for event in &at_once.events {
        answers += usize::from(*event != Event::End);
        if let Event::Request(request) = event {
            let json = serde_json::to_string(request).expect("a request has a JSON form");
            let again = converse(&Limits::default(), [json.as_bytes()]);
            assert_eq!(again.events.first(), Some(event), "written as {json}");
        }
    }
    if at_once.sent.starts_with(b"HTTP/") {
        return;
    }
    let lines: Vec<&[u8]> = at_once.sent.split_inclusive(|&byte| byte == b'\n').collect();
    assert_eq!(lines.len(), answers, "an answer each");
    for line in lines {
        assert!(line.ends_with(b"\n"));
        serde_json::from_slice::<Response>(line).expect("a reply is a response");
    }
}

/// Feeds pieces to a session and answers what they mean.
fn converse<'a>(limits: &Limits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Heard {
    let mut session = Session::new(*limits);
    let mut heard = Heard::default();
    let mut position = 0;
    let kept_bytes_max = limits.wire_bytes_max().max(LINE_BYTES_MAX);
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
    // A disk that stops working in the end: what still waits is answered all the same.
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
            Event::Invalid(why) => session.reply(&Response::Err(why.clone()), 0),
            Event::Broken(last_words) => session.reply_raw(last_words.clone()),
            Event::End => {}
        }
        heard.events.push(event);
        session.release(*position - *position % 2);
        send(session, heard);
    }
    session.trim();
}

/// What an engine might say.
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

/// Sends what is ready, half of it first.
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

    /// What fuzzers found, and what they began with.
    #[test]
    fn the_corpus_of_session() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/session");
        let files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()).collect();
        assert!(files.len() > 3, "there is a corpus");
        for file in files {
            let bytes = fs::read(file.path()).unwrap();
            // Whichever fails is the last that was named.
            println!("{}", file.path().display());
            session(&bytes);
            // Cut short, every input is another one.
            for length in 0..bytes.len().min(256) {
                session(&bytes[..length]);
            }
        }
    }
}
