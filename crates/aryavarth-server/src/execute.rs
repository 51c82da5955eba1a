//! Requests on the engine: what runs on the thread pool, and what is done in passing.
//!
//! Nothing here waits for durability: each answer carries the position of the newest thing that it
//! shows, and the connection holds it back until that position is reached.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use aryavarth::{Batch, KeyRange, KvsEngine, KvsError, Position};
use aryavarth_protocol::{KEY_NOT_FOUND, Request, Response};

use crate::counters::{LiveCounters, count};
use crate::limits::Limits;

/// An answer, and what must be durable before it leaves.
pub(crate) type Answer = (Response, Position);

/// Something that one answer is owed to.
#[derive(Debug)]
pub(crate) enum Call {
    Request(Request),
    /// An error that was found before anything ran.
    Refused(String),
}

/// What became of a batch of calls.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// The answers of the first calls, in order.
    pub(crate) answers: Vec<Answer>,
    /// The calls that were not run, because the answers had become large.
    pub(crate) rest: VecDeque<Call>,
}

/// Answers the first calls, as far as they cannot block: errors that were found before, and reads
/// of what is at hand. Takes them from `calls`; what follows is the pool's.
pub(crate) fn run_now<E: KvsEngine>(
    engine: &E,
    calls: &mut VecDeque<Call>,
    limits: &Limits,
    counters: &LiveCounters,
) -> Vec<Answer> {
    let mut answers = Vec::new();
    let mut bytes = 0;
    while bytes < limits.output_bytes_max
        && let Some(call) = calls.front_mut()
    {
        let answer = match call {
            Call::Refused(message) => Some(error(std::mem::take(message))),
            Call::Request(Request::Get { key }) => {
                caught(counters, || get_now(engine, key)).unwrap_or_else(Some)
            }
            Call::Request(_) => None,
        };
        let Some(answer) = answer else { break };
        if let Some(Call::Request(_)) = calls.pop_front() {
            count(&counters.requests, 1);
        }
        bytes += answer.0.text_bytes();
        answers.push(answer);
    }
    answers
}

/// Runs calls one after another, and waits for the disk where they have to.
pub(crate) fn run<E: KvsEngine>(
    engine: &E,
    mut calls: VecDeque<Call>,
    limits: &Limits,
    counters: &LiveCounters,
) -> Done {
    let mut answers = Vec::with_capacity(calls.len());
    let mut bytes = 0;
    while bytes < limits.output_bytes_max
        && let Some(call) = calls.pop_front()
    {
        let answer = match call {
            Call::Refused(message) => error(message),
            Call::Request(request) => {
                count(&counters.requests, 1);
                caught(counters, || answer(engine, request, limits)).unwrap_or_else(|lost| lost)
            }
        };
        bytes += answer.0.text_bytes();
        answers.push(answer);
    }
    Done { answers, rest: calls }
}

/// Runs an engine call; if the engine panics, that costs one error.
fn caught<R>(counters: &LiveCounters, call: impl FnOnce() -> R) -> Result<R, Answer> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        drop(payload);
        count(&counters.requests_panicked, 1);
        let message = "internal error: the engine panicked; the outcome of this request is \
                       unknown, everything else goes on";
        error(message.to_owned())
    })
}

fn error(message: String) -> Answer {
    (Response::Err(message), Position::ZERO)
}

fn answer<E: KvsEngine>(engine: &E, request: Request, limits: &Limits) -> Answer {
    let answer = match request {
        Request::Get { key } => get(engine, &key),
        Request::Set { key, value } => {
            engine.write(Batch::new().set(key, value)).map(|(_, at)| (Response::Ok(None), at))
        }
        Request::Remove { key } => remove(engine, key),
        Request::Scan { prefix, after, limit } => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            scan(engine, &prefix, after.as_deref(), limit, limits.scan_bytes_max)
        }
        Request::Compact {} => engine.compact().map(|()| (Response::Ok(None), Position::ZERO)),
    };
    answer.unwrap_or_else(|failed| error(failed.to_string()))
}

fn get<E: KvsEngine>(engine: &E, key: &str) -> Result<Answer, KvsError> {
    let (value, position) = engine.read(key.as_bytes())?;
    Ok((value_response(value), position))
}

/// The same if nothing has to be waited for.
fn get_now<E: KvsEngine>(engine: &E, key: &str) -> Option<Answer> {
    match engine.read_now(key.as_bytes()) {
        Ok(found) => found.map(|(value, position)| (value_response(value), position)),
        Err(failed) => Some(error(failed.to_string())),
    }
}

fn value_response(value: Option<Vec<u8>>) -> Response {
    match value.map(String::from_utf8) {
        None => Response::Ok(None),
        Some(Ok(value)) => Response::Ok(Some(value)),
        Some(Err(_)) => Response::Err(KvsError::NotUtf8.to_string()),
    }
}

fn remove<E: KvsEngine>(engine: &E, key: String) -> Result<Answer, KvsError> {
    let (removed, position) = engine.write(Batch::new().remove(key))?;
    // Absence is shown too, so that answer also waits for its position.
    let response = match removed {
        0 => Response::Err(KEY_NOT_FOUND.to_owned()),
        _ => Response::Ok(None),
    };
    Ok((response, position))
}

fn scan<E: KvsEngine>(
    engine: &E,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
    bytes_max: usize,
) -> Result<Answer, KvsError> {
    let mut range = KeyRange::prefix(prefix.as_bytes());
    if let Some(after) = after
        && after >= prefix
    {
        range = range.after(after.as_bytes());
    }
    let mut entries = Vec::new();
    let mut position = Position::ZERO;
    let mut bytes = 0;
    while entries.len() < limit {
        let page = engine.scan(&range, limit - entries.len())?;
        position = position.max(page.position);
        let last = page.entries.last().map(|(key, _)| key.clone());
        for (key, value) in page.entries {
            bytes += key.len() + value.len();
            match text_entry(key, value) {
                Ok(entry) => entries.push(entry),
                Err(message) => return Ok((Response::Err(message), position)),
            }
        }
        if bytes > bytes_max && entries.len() > 1 {
            let count = entries.len();
            let message = format!(
                "the page is too large: its first {count} entries take {bytes} bytes, the limit \
                 is {bytes_max}; ask with a smaller limit"
            );
            return Ok((Response::Err(message), position));
        }
        match last {
            Some(last) if !page.done => range = range.after(&last),
            _ => break,
        }
    }
    Ok((Response::Entries(entries), position))
}

fn text_entry(key: Vec<u8>, value: Vec<u8>) -> Result<(String, String), String> {
    let key = String::from_utf8(key).map_err(|error| {
        let shown = error.as_bytes().escape_ascii().take(200).map(char::from).collect::<String>();
        format!("the key `{shown}` is not UTF-8 text, and JSON carries only text")
    })?;
    if let Ok(value) = String::from_utf8(value) {
        return Ok((key, value));
    }
    let shown: String = key.chars().take(200).collect();
    Err(format!("the value of `{shown}` is not UTF-8 text, and JSON carries only text"))
}
