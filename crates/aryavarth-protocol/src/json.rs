//! Requests in JSON, found in the input and decoded.

use bytes::{Buf, BytesMut};
use serde::de::IgnoredAny;

use crate::event::Event;
use crate::extent::{Extent, Found};
use crate::limits::Limits;
use crate::message::{Request, Response};

/// The most that is shown of an error that quotes its request.
const MESSAGE_CHARS_MAX: usize = 200;

const EXAMPLE: &str = r#"a request looks like {"Get":{"key":"k"}}"#;

/// Takes the request at the beginning of `input`, which is not empty, if it has arrived. `extent`
/// is the scan of that request, and `ended` says that nothing more will come.
pub(crate) fn read(
    input: &mut BytesMut,
    extent: &mut Extent,
    limits: &Limits,
    ended: bool,
) -> Option<Event> {
    if input[0] != b'{' {
        let shown = input[0].escape_ascii();
        return Some(broken(&format!("unexpected `{shown}` after a request; {EXAMPLE}")));
    }
    let limit = limits.wire_bytes_max();
    // Not further than where a longer request is refused, or the reason of the refusal would depend on
    // the pieces in which it arrives.
    let looked_at = &input[..input.len().min(limit.saturating_add(1))];
    match extent.scan(looked_at, limits.nesting_max) {
        Found::Bad(why) => Some(broken(&format!("not JSON: {why}; {EXAMPLE}"))),
        Found::End(bytes) if bytes > limit => Some(too_long(limit)),
        Found::More if input.len() > limit => Some(too_long(limit)),
        Found::End(bytes) => {
            let event = decode(&input[..bytes], limits);
            input.advance(bytes);
            *extent = Extent::default();
            Some(event)
        }
        Found::More if ended => {
            let bytes = input.len();
            Some(broken(&format!("the input ended inside a request, after {bytes} bytes of it")))
        }
        Found::More => None,
    }
}

/// Appends an error's line to `out`.
pub(crate) fn error(message: &str, out: &mut Vec<u8>) {
    Response::Err(message.to_owned()).encode(out);
}

fn broken(message: &str) -> Event {
    let mut line = Vec::new();
    error(message, &mut line);
    Event::Broken(line)
}

fn too_long(limit: usize) -> Event {
    broken(&format!("the request is too long: the limit is {limit} bytes"))
}

/// Decodes a request whose extent is known. JSON that is not a request leaves the framing intact.
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
