//! Requests on the engine: what runs on the thread pool, and what is done in passing.
//!
//! Nothing here waits for durability: each answer carries the position of the newest thing that it
//! shows, and the connection holds it back until that position is reached.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use aryavarth::{Batch, Durability, KeyRange, KvsEngine, KvsError, Position};
use aryavarth_protocol::{Command, KEY_NOT_FOUND, Reply, Request, Response};

use crate::budget::Allowance;
use crate::clients::WritePass;
use crate::commands::{self, ClientState, LONG_BYTES, ServerContext, Then};
use crate::counters::count;
use crate::limits::Limits;
use crate::shared::Shared;
use crate::thread_pool::ThreadPool;
use crate::writes::collector;
use crate::writes::queue::{TOGETHER_BYTES_MAX, Written};

/// An answer in JSON, and what must be durable before it leaves.
type JsonAnswer = (Response, Position);

/// What a client hears.
#[derive(Debug)]
pub(crate) enum Said {
    Json(Response),
    /// An error, in the client's own protocol.
    Error(String),
    /// A reply of the Redis protocol, in its version.
    Resp(Reply, u8),
    /// Nothing: the client does not want to.
    Nothing,
}

/// An answer, and what must be durable before it leaves, as the level has it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) said: Said,
    pub(crate) position: Position,
    pub(crate) level: Durability,
}

/// Something that one answer is owed to.
#[derive(Debug)]
pub(crate) enum Call {
    Request(Request),
    Command(Command),
    /// An error that was found before anything ran.
    Refused(String),
}

/// What became of a batch of calls.
#[derive(Debug)]
pub(crate) struct Done {
    /// The answers of the first calls, in order.
    pub(crate) answers: Vec<Answer>,
    /// The calls that were not run: the answers had become large, or `then` comes first.
    pub(crate) rest: VecDeque<Call>,
    /// What comes after the last of the answers.
    pub(crate) then: Then,
}

/// Runs calls one after another. Where `may_block` says that it must not wait for a disk or another
/// writer it stops at the first call that could, and what follows is the pool's.
pub(crate) fn run<E: KvsEngine, P: ThreadPool>(
    shared: &Shared<E, P>,
    connected: &mut ClientState,
    mut calls: VecDeque<Call>,
    may_block: bool,
) -> Done {
    let Shared { limits, counters, .. } = shared;
    let mut answers = Vec::with_capacity(calls.len());
    let mut then = Then::GoOn;
    let mut bytes = 0;
    while bytes < limits.output_bytes_max
        && then == Then::GoOn
        && let Some(call) = calls.front_mut()
    {
        if is_paused(shared, connected, call) {
            break;
        }
        let is_work = !matches!(call, Call::Refused(_));
        if may_block
            && is_work
            && let Some(blind) = take_blind(shared, connected, &mut calls)
        {
            let blind = run_blind(shared, connected, blind);
            let more = blind.iter().map(|answer| answer.said.text_bytes()).sum::<usize>();
            connected.room.take(more);
            bytes += more;
            answers.extend(blind);
            continue;
        }
        let Some(call) = calls.front_mut() else { break };
        if may_block && is_work {
            count(&counters.requests, 1);
        }
        let answer = match call {
            Call::Refused(message) => {
                let answer = refusal(shared, std::mem::take(message));
                Some(heard(connected, answer))
            }
            Call::Request(request) => run_request(shared, &mut connected.room, request, may_block),
            Call::Command(command) => run_command(shared, connected, command, may_block, &mut then),
        };
        let Some(answer) = answer else { break };
        if !may_block && is_work {
            count(&counters.requests, 1);
        }
        calls.pop_front();
        let more = answer.said.text_bytes();
        connected.room.take(more);
        bytes += more;
        answers.push(answer);
    }
    Done { answers, rest: calls, then }
}

/// Whether calls that were not answered in passing may keep a thread of the pool for long.
pub(crate) fn are_long<E: KvsEngine, P>(
    shared: &Shared<E, P>,
    connected: &ClientState,
    calls: &VecDeque<Call>,
) -> bool {
    calls.iter().any(|call| match call {
        Call::Request(Request::Get { key }) => shared.engine.size_hint(key.as_bytes()) > LONG_BYTES,
        Call::Request(request) => matches!(request, Request::Scan { .. }),
        Call::Command(command) => commands::is_long(&shared.engine, connected, command),
        Call::Refused(_) => false,
    })
}

/// Calls that write without a look at what is there, and what they write.
pub(crate) struct Blind {
    calls: Vec<Call>,
    pub(crate) batches: Vec<Batch>,
    /// Kept until they are in the log.
    pub(crate) pass: Option<WritePass>,
}

impl Blind {
    /// How many answers are owed.
    pub(crate) fn owed(&self) -> usize {
        self.calls.len()
    }
}

/// Takes the first calls as far as they are blind, to be written together.
pub(crate) fn take_blind<E: KvsEngine, P: ThreadPool>(
    shared: &Shared<E, P>,
    connected: &ClientState,
    calls: &mut VecDeque<Call>,
) -> Option<Blind> {
    let pass = shared.clients.begin_write()?;
    let mut bytes = 0;
    let mut batches = Vec::new();
    for call in calls.iter_mut() {
        let batch = match call {
            Call::Request(Request::Set { key, value }) if !shared.settings.is_out_of_memory() => {
                Some(Batch::new().set(std::mem::take(key), std::mem::take(value)))
            }
            Call::Command(command) => commands::blind::batch(shared, connected, command),
            _ => None,
        };
        let Some(batch) = batch else { break };
        bytes += batch.bytes();
        batches.push(batch);
        if bytes >= TOGETHER_BYTES_MAX {
            break;
        }
    }
    let calls: Vec<Call> = calls.drain(..batches.len()).collect();
    (!calls.is_empty()).then_some(Blind { calls, batches, pass: Some(pass) })
}

/// Writes what blind calls write, and answers them.
pub(crate) fn run_blind<E: KvsEngine, P: ThreadPool>(
    shared: &Shared<E, P>,
    connected: &mut ClientState,
    mut blind: Blind,
) -> Vec<Answer> {
    let batches = std::mem::take(&mut blind.batches);
    let written = collector::write_each(shared, connected.settings.space, batches);
    answer_blind(shared, connected, blind, written)
}

/// The answers of blind calls, by what was written.
pub(crate) fn answer_blind<E: KvsEngine, P: ThreadPool>(
    shared: &Shared<E, P>,
    connected: &mut ClientState,
    Blind { calls, .. }: Blind,
    written: Written,
) -> Vec<Answer> {
    let Some(outcomes) = written.outcomes else {
        return calls.iter().map(|_| heard(connected, panicked(shared))).collect();
    };
    // Each took its share.
    let parts = u32::try_from(calls.len()).unwrap_or(u32::MAX);
    // Time in the queue is no time in the engine.
    let Written { began, ended, .. } = written;
    let ended = began + ended.saturating_duration_since(began) / parts;
    let answered = calls.iter().zip(outcomes).map(|(call, outcome)| match call {
        Call::Command(command) => {
            said(commands::blind::answer(shared, connected, command, (began, ended), outcome))
        }
        Call::Request(_) | Call::Refused(_) => {
            let (response, position) = match outcome {
                Ok((_, position)) => (Response::Ok(None), position),
                Err(failed) => error(failed.to_string()),
            };
            Answer { said: Said::Json(response), position, level: shared.engine.durability() }
        }
    });
    answered.collect()
}

impl Said {
    /// About how much it takes to keep.
    fn text_bytes(&self) -> usize {
        match self {
            Said::Json(response) => response.text_bytes(),
            Said::Error(message) => message.len(),
            Said::Resp(reply, _) => reply.text_bytes(),
            Said::Nothing => 0,
        }
    }
}

/// Whether a call has to wait until somebody lets the clients go on.
pub(crate) fn is_paused<E: KvsEngine, P: ThreadPool>(
    shared: &Shared<E, P>,
    connected: &ClientState,
    call: &Call,
) -> bool {
    match call {
        Call::Command(command) => commands::is_paused(shared, connected, command),
        Call::Request(request) => shared.clients.pause().is_some_and(|pause| {
            !pause.only_writes || matches!(request, Request::Set { .. } | Request::Remove { .. })
        }),
        Call::Refused(_) => false,
    }
}

fn refusal<E: KvsEngine, P>(shared: &Shared<E, P>, message: String) -> Answer {
    let level = shared.engine.durability();
    Answer { said: Said::Error(message), position: Position::ZERO, level }
}

/// The answer, or nothing if the client does not want to hear it.
fn heard(connected: &mut ClientState, answer: Answer) -> Answer {
    let said = if commands::wants_reply(connected) { answer.said } else { Said::Nothing };
    Answer { said, ..answer }
}

/// Runs an engine call; if the engine panics, that costs one error.
fn caught<E: KvsEngine, P, R>(
    shared: &Shared<E, P>,
    call: impl FnOnce() -> R,
) -> Result<R, Answer> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        drop(payload);
        panicked(shared)
    })
}

fn panicked<E: KvsEngine, P>(shared: &Shared<E, P>) -> Answer {
    count(&shared.counters.requests_panicked, 1);
    let message = "internal error: the engine panicked; the outcome of this request is unknown, \
                   everything else goes on";
    refusal(shared, message.to_owned())
}

fn said(ran: commands::Answer) -> Answer {
    let said = ran.reply.map_or(Said::Nothing, |reply| Said::Resp(reply, ran.version));
    Answer { said, position: ran.position, level: ran.level }
}

fn run_command<E: KvsEngine, P: ThreadPool>(
    shared: &Shared<E, P>,
    connected: &mut ClientState,
    command: &Command,
    may_block: bool,
    then: &mut Then,
) -> Option<Answer> {
    let host: &dyn ServerContext = shared;
    let ran = caught(shared, || commands::run(&shared.engine, host, connected, command, may_block));
    let ran = match ran {
        Ok(ran) => ran?,
        Err(lost) => return Some(heard(connected, lost)),
    };
    *then = ran.then.clone();
    Some(said(ran))
}

fn run_request<E: KvsEngine, P: ThreadPool>(
    shared: &Shared<E, P>,
    room: &mut Allowance,
    request: &mut Request,
    may_block: bool,
) -> Option<Answer> {
    let Shared { engine, limits, .. } = shared;
    let shows = matches!(request, Request::Get { .. } | Request::Scan { .. });
    let writes = matches!(request, Request::Set { .. } | Request::Remove { .. });
    // Refused if a pause began behind the look at it: the request is held.
    let _pass = if may_block && writes { Some(shared.clients.begin_write()?) } else { None };
    let ran = caught(shared, || match request {
        Request::Get { key } if !may_block => get_now(engine, key),
        _ if !may_block => None,
        // The others are blind writes.
        Request::Set { .. } if shared.settings.is_out_of_memory() => Some(error(
            "the server's memory has reached its limit; nothing was done. Reads and removals work"
                .to_owned(),
        )),
        request => Some(answer(engine, request, limits)),
    });
    match ran {
        Ok(ran) => {
            // A reply that only shows something is made anew when there is room for it.
            let (response, position) =
                ran.filter(|(response, _)| !shows || room.fits(response.text_bytes()))?;
            Some(Answer { said: Said::Json(response), position, level: engine.durability() })
        }
        Err(lost) => Some(lost),
    }
}

fn error(message: String) -> JsonAnswer {
    (Response::Err(message), Position::ZERO)
}

fn answer<E: KvsEngine>(engine: &E, request: &mut Request, limits: &Limits) -> JsonAnswer {
    let answer = match request {
        Request::Get { key } => get(engine, key),
        Request::Set { key, value } => {
            let (key, value) = (std::mem::take(key), std::mem::take(value));
            engine.write(Batch::new().set(key, value)).map(|(_, at)| (Response::Ok(None), at))
        }
        Request::Remove { key } => remove(engine, std::mem::take(key)),
        Request::Scan { prefix, after, limit } => {
            let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
            scan(engine, prefix, after.as_deref(), limit, limits.scan_bytes_max)
        }
        Request::Compact {} => engine.compact().map(|()| (Response::Ok(None), Position::ZERO)),
    };
    answer.unwrap_or_else(|failed| error(failed.to_string()))
}

fn get<E: KvsEngine>(engine: &E, key: &str) -> Result<JsonAnswer, KvsError> {
    let (value, position) = engine.read(key.as_bytes())?;
    Ok((value_response(value), position))
}

/// The same if nothing has to be waited for.
fn get_now<E: KvsEngine>(engine: &E, key: &str) -> Option<JsonAnswer> {
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

fn remove<E: KvsEngine>(engine: &E, key: String) -> Result<JsonAnswer, KvsError> {
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
