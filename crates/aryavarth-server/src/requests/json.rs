//! Requests in JSON, on the engine.

use aryavarth::{Batch, KeyRange, KvsEngine, KvsError, Position, Wait};
use aryavarth_protocol::{KEY_NOT_FOUND, Request, Response};

use super::{Answer, Output, caught};
use crate::budget::Allowance;
use crate::commands::{LONG_BYTES, Later, Plan};
use crate::limits::Limits;
use crate::shared::Shared;
use crate::thread_pool::ThreadPool;

/// A response, and the position that must be durable before it leaves.
type JsonAnswer = (Response, Position);

/// Decides where a request runs: as `commands::plan` does for commands.
pub(super) fn plan<E: KvsEngine, P: ThreadPool>(shared: &Shared<E, P>, request: &Request) -> Plan {
    let is_write = matches!(request, Request::Set { .. } | Request::Remove { .. });
    if shared.clients.pause().is_some_and(|pause| is_write || !pause.only_writes) {
        return Plan::Held;
    }
    match request {
        Request::Get { .. } => Plan::Inline,
        Request::Set { .. } if !shared.settings.is_out_of_memory() => Plan::Append,
        _ => Plan::Pool,
    }
}

/// Whether a request may keep a thread for long, beside waiting for a disk once.
pub(super) fn is_long<E: KvsEngine>(engine: &E, request: &Request) -> bool {
    bytes_shown(engine, request) > LONG_BYTES || matches!(request, Request::Scan { .. })
}

/// About how many bytes of a value the response shows. Reads nothing.
pub(super) fn bytes_shown<E: KvsEngine>(engine: &E, request: &Request) -> usize {
    match request {
        Request::Get { key } => engine.size_hint(key.as_bytes()),
        _ => 0,
    }
}

/// Runs a request.
///
/// # Errors
/// The reason for which nothing was done.
pub(super) fn run<E: KvsEngine, P: ThreadPool>(
    shared: &Shared<E, P>,
    room: &mut Allowance,
    request: &mut Request,
    wait: Wait,
) -> Result<Answer, Later> {
    let Shared { engine, limits, .. } = shared;
    let shows = matches!(request, Request::Get { .. } | Request::Scan { .. });
    let pass = match request {
        Request::Set { .. } | Request::Remove { .. } => {
            Some(shared.clients.begin_write().ok_or(Later::Pause)?)
        }
        _ => None,
    };
    let ran = caught(shared, || match request {
        Request::Set { .. } if shared.settings.is_out_of_memory() => Ok(error(
            "the server's memory has reached its limit; nothing was done. Reads and removals work"
                .to_owned(),
        )),
        request => answer(engine, request, limits, wait),
    });
    drop(pass);
    let ran = match ran {
        Ok(Err(KvsError::WouldBlock)) if wait == Wait::No => return Err(Later::Pool),
        ran => ran.map(|done| done.unwrap_or_else(|failed| error(failed.to_string()))),
    };
    match ran {
        // A reply that only shows something is made anew when there is room for it.
        Ok((response, _)) if shows && !room.fits(response.text_bytes()) => Err(Later::Room),
        Ok((response, position)) => {
            Ok(Answer { output: Output::Json(response), position, level: engine.durability() })
        }
        Err(lost) => Ok(lost),
    }
}

pub(super) fn error(message: String) -> JsonAnswer {
    (Response::Err(message), Position::ZERO)
}

fn answer<E: KvsEngine>(
    engine: &E,
    request: &mut Request,
    limits: &Limits,
    wait: Wait,
) -> Result<JsonAnswer, KvsError> {
    match request {
        Request::Get { key } => {
            let (value, position) = engine.read(key.as_bytes(), wait)?;
            Ok((value_response(value), position))
        }
        Request::Set { key, value } => {
            let (key, value) = (std::mem::take(key), std::mem::take(value));
            engine.write(Batch::new().put(key, value)).map(|(_, at)| (Response::Ok(None), at))
        }
        Request::Remove { key } => remove(engine, std::mem::take(key)),
        Request::Scan { prefix, after, limit } => {
            let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
            scan(engine, prefix, after.as_deref(), limit, limits.scan_bytes_max)
        }
        Request::Compact {} => engine.compact().map(|()| (Response::Ok(None), Position::ZERO)),
    }
}

fn value_response(value: Option<Vec<u8>>) -> Response {
    match value.map(String::from_utf8) {
        None => Response::Ok(None),
        Some(Ok(value)) => Response::Ok(Some(value)),
        Some(Err(_)) => Response::Err(KvsError::NotUtf8.to_string()),
    }
}

fn remove<E: KvsEngine>(engine: &E, key: String) -> Result<JsonAnswer, KvsError> {
    let (removed, position) = engine.write(Batch::new().delete(key))?;
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
) -> Result<JsonAnswer, KvsError> {
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
