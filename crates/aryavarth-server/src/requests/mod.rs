//! Calls of connections on the engine: commands and requests in JSON, on the thread of the sockets
//! or on the pool, as their [`Plan`] says.
//!
//! Invariant: nothing here waits for durability. Each answer carries the position of the newest
//! thing that it shows, and the connection holds it back until that position is reached.

mod blind;
mod json;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use aryavarth::{Durability, KvsEngine, Position, Wait};
use aryavarth_protocol::{Reply, Request, Response};

use crate::commands::{self, CommandCall, LONG_BYTES, Later, ServerContext};
pub(crate) use crate::commands::{AfterReply, ClientState, Plan};
use crate::counters::{count, uncount};
use crate::shared::Shared;
use crate::thread_pool::ThreadPool;
pub(crate) use blind::{Blind, answer_blind, run_blind, take_blind};

/// The content of an answer.
#[derive(Debug)]
pub(crate) enum Output {
    Json(Response),
    /// An error, in the client's own protocol.
    Error(String),
    /// A reply of the Redis protocol, in its version.
    Resp(Reply, u8),
    /// No bytes: the client wants no reply.
    Nothing,
}

/// An answer, and the position that must be durable before it leaves, at its level.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) output: Output,
    pub(crate) position: Position,
    pub(crate) level: Durability,
}

/// A call of a client; one answer is owed to each.
#[derive(Debug)]
pub(crate) enum Call {
    Request(Request),
    Command(CommandCall),
    /// An error that was found before anything ran.
    Refused(String),
}

impl Call {
    fn is_work(&self) -> bool {
        !matches!(self, Call::Refused(_))
    }
}

/// The outcome of calls that ran one after another.
#[derive(Debug)]
pub(crate) struct BatchResult {
    /// The answers of the first calls, in order.
    pub(crate) answers: Vec<Answer>,
    /// The calls that were not run: the answers had become large, or `then` comes first.
    pub(crate) rest: VecDeque<Call>,
    /// The connection's step after the last of the answers.
    pub(crate) then: AfterReply,
}

impl BatchResult {
    /// No answer yet, and all calls to run.
    pub(crate) fn none(rest: VecDeque<Call>) -> Self {
        BatchResult { answers: Vec::new(), rest, then: AfterReply::GoOn }
    }
}

/// Decides where a call runs.
pub(crate) fn plan<E: KvsEngine, P: ThreadPool>(
    shared: &Shared<E, P>,
    client: &ClientState,
    call: &Call,
) -> Plan {
    match call {
        Call::Command(call) => commands::plan(shared, client, call),
        Call::Request(request) => json::plan(shared, request),
        Call::Refused(_) => Plan::Inline,
    }
}

/// Runs the first calls as far as they are inline, on the thread of the sockets. Returns `true` if
/// the first of the rest has been tried and would wait for a disk: it is the pool's.
pub(crate) fn run_inline<E: KvsEngine, P: ThreadPool>(
    shared: &Shared<E, P>,
    client: &mut ClientState,
    calls: VecDeque<Call>,
) -> (BatchResult, bool) {
    let mut run = RunOfCalls::new(shared, client, calls);
    let mut is_for_pool = false;
    while !is_for_pool
        && let Some(call) = run.first()
        && !(listens(call) && run.client.entry.has_messages())
        && plan(run.shared, run.client, call) == Plan::Inline
    {
        match run.run_first(Wait::No) {
            Ok(()) => {}
            Err(Later::Pool) => is_for_pool = true,
            Err(Later::Room | Later::Pause) => break,
        }
    }
    (run.result, is_for_pool)
}

/// Runs calls on the pool, up to the first that a pause holds, that has no room for its reply, or that
/// changes subscriptions: a client that goes meanwhile must not leave one behind.
/// `is_long` says that some may read much.
pub(crate) fn run_on_pool<E: KvsEngine, P: ThreadPool>(
    shared: &Shared<E, P>,
    client: &mut ClientState,
    calls: VecDeque<Call>,
    is_long: bool,
) -> BatchResult {
    let mut run = RunOfCalls::new(shared, client, calls);
    while let Some(call) = run.first() {
        let plan = plan(run.shared, run.client, call);
        if plan == Plan::Held || listens(call) || is_long && !run.has_room() {
            break;
        }
        let ran = match plan {
            Plan::Append if run.append_first() => Ok(()),
            _ => run.run_first(Wait::Yes),
        };
        if ran.is_err() {
            break;
        }
    }
    run.result
}

/// Whether a call changes subscriptions, and so comes behind the messages that wait.
fn listens(call: &Call) -> bool {
    matches!(call, Call::Command(call) if commands::listens(call))
}

/// Calls of a client that run one after another.
struct RunOfCalls<'a, E, P> {
    shared: &'a Shared<E, P>,
    client: &'a mut ClientState,
    result: BatchResult,
    /// About how many bytes the answers take.
    bytes: usize,
    /// When the command before the next call ended: it is when that one begins.
    ended: Option<Instant>,
}

impl<'a, E: KvsEngine, P: ThreadPool> RunOfCalls<'a, E, P> {
    fn new(shared: &'a Shared<E, P>, client: &'a mut ClientState, calls: VecDeque<Call>) -> Self {
        let answers = Vec::with_capacity(calls.len());
        let result = BatchResult { answers, ..BatchResult::none(calls) };
        RunOfCalls { shared, client, result, bytes: 0, ended: None }
    }

    /// The call to run next: none once the answers are large, or the connection has another step to
    /// take first.
    fn first(&self) -> Option<&Call> {
        let goes_on = self.bytes < self.shared.limits.output_bytes_max
            && self.result.then == AfterReply::GoOn;
        self.result.rest.front().filter(|_| goes_on)
    }

    /// Whether the values that the first call shows have room among all replies: taken before they
    /// are read.
    fn has_room(&mut self) -> bool {
        let engine = &self.shared.engine;
        let bytes = match self.result.rest.front() {
            Some(Call::Command(call)) => commands::bytes_shown(engine, self.client, call),
            Some(Call::Request(request)) => json::bytes_shown(engine, request),
            Some(Call::Refused(_)) | None => 0,
        };
        let bytes = bytes.min(self.shared.limits.reply_bytes_max);
        bytes <= LONG_BYTES || self.client.room.fits(bytes)
    }

    /// Runs the first call.
    fn run_first(&mut self, wait: Wait) -> Result<(), Later> {
        let RunOfCalls { shared, client, result, ended, .. } = self;
        let Some(call) = result.rest.front_mut() else { return Ok(()) };
        let is_work = call.is_work();
        // A read that is tried inline counts when it has an answer; on the pool each call counts
        // before it runs, so that INFO counts itself. One that has not run counts when it does.
        if is_work && wait == Wait::Yes {
            count(&shared.counters.requests, 1);
        }
        let ran = match call {
            Call::Refused(message) => {
                let answer = refusal(shared, std::mem::take(message));
                Ok(heard(client, answer))
            }
            Call::Request(request) => json::run(shared, &mut client.room, request, wait),
            Call::Command(call) => {
                let began = ended.take().unwrap_or_else(Instant::now);
                run_command(shared, client, call, (wait, began), (&mut result.then, ended))
            }
        };
        if ran.is_err() && wait == Wait::Yes {
            uncount(&shared.counters.requests, 1);
        }
        let answer = ran?;
        if is_work && wait == Wait::No {
            count(&shared.counters.requests, 1);
        }
        result.rest.pop_front();
        self.push(answer);
        Ok(())
    }

    /// Writes the first calls as far as they are blind, together. `false` if none is.
    fn append_first(&mut self) -> bool {
        let Some(blind) = take_blind(self.shared, self.client, &mut self.result.rest) else {
            return false;
        };
        self.ended = None;
        for answer in run_blind(self.shared, self.client, blind) {
            self.push(answer);
        }
        true
    }

    fn push(&mut self, answer: Answer) {
        let bytes = answer.output.text_bytes();
        self.client.room.take(bytes);
        self.bytes += bytes;
        self.result.answers.push(answer);
    }
}

/// Whether calls of the pool may keep a thread for long.
pub(crate) fn are_long<E: KvsEngine, P: ThreadPool>(
    shared: &Shared<E, P>,
    client: &ClientState,
    calls: &VecDeque<Call>,
) -> bool {
    let mut space = client.settings.space;
    calls.iter().any(|call| match call {
        Call::Request(request) => json::is_long(&shared.engine, request),
        Call::Command(call) => commands::is_long(&shared.engine, shared, client, call, &mut space),
        Call::Refused(_) => false,
    })
}

impl Output {
    /// About how many bytes it takes to keep.
    fn text_bytes(&self) -> usize {
        match self {
            Output::Json(response) => response.text_bytes(),
            Output::Error(message) => message.len(),
            Output::Resp(reply, _) => reply.text_bytes(),
            Output::Nothing => 0,
        }
    }
}

fn refusal<E: KvsEngine, P>(shared: &Shared<E, P>, message: String) -> Answer {
    let level = shared.engine.durability();
    Answer { output: Output::Error(message), position: Position::ZERO, level }
}

/// The answer, or no bytes if the client wants no reply.
fn heard(client: &mut ClientState, answer: Answer) -> Answer {
    let output = if commands::wants_reply(client) { answer.output } else { Output::Nothing };
    Answer { output, ..answer }
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

/// A command's answer, as the connection sends it.
fn answer_of(answer: commands::Answer) -> Answer {
    let commands::Answer { reply, position, level, version, .. } = answer;
    let output = reply.map_or(Output::Nothing, |reply| Output::Resp(reply, version));
    Answer { output, position, level }
}

fn run_command<E: KvsEngine, P: ThreadPool>(
    shared: &Shared<E, P>,
    client: &mut ClientState,
    call: &CommandCall,
    times: (Wait, Instant),
    (then, ended): (&mut AfterReply, &mut Option<Instant>),
) -> Result<Answer, Later> {
    let server: &dyn ServerContext = shared;
    match caught(shared, || commands::run(&shared.engine, server, client, call, times)) {
        Ok(answer) => {
            let mut answer = answer?;
            *then = std::mem::replace(&mut answer.then, AfterReply::GoOn);
            *ended = Some(answer.ended);
            Ok(answer_of(answer))
        }
        Err(lost) => Ok(heard(client, lost)),
    }
}
