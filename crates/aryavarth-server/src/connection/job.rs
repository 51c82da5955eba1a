//! The jobs of a connection: calls on the pool, appended writes, or a reply that comes later.
//!
//! Invariant: each job ends with the client's state, also if the pool loses the calls.

use std::collections::VecDeque;
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aryavarth::{Durability, KvsEngine, Position};
use aryavarth_protocol::{Reply, Request};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::budget::{Allowance, FREE_OUTPUT_BYTES, Share};
use crate::requests::{self, AfterReply, Answer, BatchResult, Blind, Call, ClientState, Output};
use crate::shared::Shared;
use crate::thread_pool::ThreadPool;
use crate::writes::collector;

/// How long calls wait for a job before they ask again.
const RETRY_PAUSE: Duration = Duration::from_millis(1);

/// The end of a job: the result of its calls, and the client's state.
pub(super) type End = (BatchResult, Box<ClientState>);

pub(super) type Job = Pin<Box<dyn Future<Output = End> + Send>>;

/// Runs calls on the pool; `blind` are those before them.
pub(super) fn run<E: KvsEngine, P: ThreadPool>(
    shared: Arc<Shared<E, P>>,
    permit: Share,
    blind: Option<Blind>,
    calls: VecDeque<Call>,
    mut state: Box<ClientState>,
    is_long: bool,
) -> Job {
    let owed = calls.len() + blind.as_ref().map_or(0, Blind::owed);
    let level = shared.engine.durability();
    // A compaction takes long. One at a time keeps the pool free for the others; its turn
    // ends with the job, also if the client has gone by then.
    let compacts = matches!(calls.back(), Some(Call::Request(Request::Compact {})));
    Box::pin(async move {
        let compaction = Arc::clone(&shared.compaction);
        let turn = if compacts { Some(compaction.lock_owned().await) } else { None };
        // First come, first served; a thread of the pool is left to short work. Nothing closes it.
        let long = Arc::clone(&shared.long_work);
        let long = if is_long { long.acquire_owned().await.ok() } else { None };
        let (sender, receiver) = oneshot::channel();
        let pool_side = Arc::clone(&shared);
        let spare = state.renewed();
        shared.pool.spawn(move || {
            let blind = blind.map(|blind| requests::run_blind(&pool_side, &mut state, blind));
            let mut result = requests::run_on_pool(&pool_side, &mut state, calls, is_long);
            result.answers.splice(..0, blind.into_iter().flatten());
            // Before the answer: once all are answered the server may go, and its engine and
            // pool must not end here, behind its back.
            drop((permit, turn, long, pool_side));
            // A client that has gone does not want its answers.
            drop(sender.send((result, state)));
        });
        receiver.await.unwrap_or_else(|_lost| (lost(owed, level), Box::new(spare)))
    })
}

/// Appends the batches of blind calls together with those of other connections; `is_last` says that
/// no further input has arrived.
pub(super) fn write<E: KvsEngine, P: ThreadPool>(
    shared: Arc<Shared<E, P>>,
    permit: Share,
    mut blind: Blind,
    mut state: Box<ClientState>,
    is_last: bool,
) -> Job {
    let settings = &state.settings;
    // A connection with nothing else to do waits for the reply, and not for the write.
    let level = settings.level();
    let owed = blind.owed();
    let is_durable_only = is_last && owed == 1 && level == Durability::Always;
    let batches = std::mem::take(&mut blind.batches);
    let permits = (permit, blind.pass.take());
    let written = collector::write(&shared, permits, settings.space, batches, is_durable_only);
    Box::pin(async move {
        let result = match written.await {
            Ok(written) => {
                if is_durable_only {
                    shared.clients.statistics.waits.add(written.ended.elapsed());
                }
                let answers = requests::answer_blind(&shared, &mut state, blind, written);
                BatchResult { answers, ..BatchResult::none(VecDeque::new()) }
            }
            Err(_lost) => lost(owed, shared.engine.durability()),
        };
        (result, state)
    })
}

/// The answers of a job that the pool lost.
fn lost(owed: usize, level: Durability) -> BatchResult {
    let message = "internal error: the thread pool lost the request; its outcome is unknown";
    let answer =
        || Answer { output: Output::Error(message.to_owned()), position: Position::ZERO, level };
    let answers = std::iter::repeat_with(answer).take(owed).collect();
    BatchResult { answers, ..BatchResult::none(VecDeque::new()) }
}

/// Waits for room for a reply of `bytes`, which the first of the calls then makes.
pub(super) fn room<E: KvsEngine, P: ThreadPool>(
    shared: Arc<Shared<E, P>>,
    bytes: usize,
    rest: VecDeque<Call>,
    mut state: Box<ClientState>,
) -> Job {
    Box::pin(async move {
        state.room = Allowance::new(shared.output.room(bytes).await, FREE_OUTPUT_BYTES);
        (BatchResult::none(rest), state)
    })
}

/// Keeps calls back while the clients are paused, if the first of them is concerned.
pub(super) fn pause<E: KvsEngine, P: ThreadPool>(
    shared: Arc<Shared<E, P>>,
    rest: VecDeque<Call>,
    state: Box<ClientState>,
) -> Job {
    Box::pin(async move {
        let blocked = shared.clients.block(&state.entry);
        shared.clients.pause_changed().await;
        drop(blocked);
        (BatchResult::none(rest), state)
    })
}

/// Keeps calls back for a moment, because too many jobs wait already.
pub(super) fn later(rest: VecDeque<Call>, state: Box<ClientState>) -> Job {
    Box::pin(async move {
        sleep(RETRY_PAUSE).await;
        (BatchResult::none(rest), state)
    })
}

/// Keeps an answer back as `then` says; the calls after it come later.
pub(super) fn hold<E: KvsEngine, P: ThreadPool>(
    shared: Arc<Shared<E, P>>,
    mut answer: Answer,
    then: AfterReply,
    rest: VecDeque<Call>,
    state: Box<ClientState>,
) -> Job {
    Box::pin(async move {
        let blocked = shared.clients.block(&state.entry);
        match then {
            AfterReply::GoOn | AfterReply::Close | AfterReply::Shutdown => {}
            AfterReply::AfterWrites => shared.clients.writes_done().await,
            AfterReply::Sleep(time) => sleep(time).await,
            AfterReply::WaitForDisk { time, also_replicas } => {
                let mut time = time;
                if also_replicas {
                    rest_of(time).await;
                    time = Some(Duration::ZERO);
                }
                let nothing = Reply::Array(vec![Reply::Integer(0), Reply::Integer(0)]);
                answer.output = tokio::select! {
                    biased;
                    reached = on_disk(&shared.engine, answer.position) => match reached {
                        Ok(()) => answer.output,
                        Err(error) => {
                            Output::Resp(Reply::error(format!("MISCONF {error}")), version(&answer.output))
                        }
                    },
                    () = rest_of(time) => {
                        // It shows nothing, so there is nothing to wait for.
                        answer.position = Position::ZERO;
                        Output::Resp(nothing, version(&answer.output))
                    }
                };
            }
        }
        drop(blocked);
        (BatchResult { answers: vec![answer], ..BatchResult::none(rest) }, state)
    })
}

/// The version of the protocol that an output is written in.
fn version(output: &Output) -> u8 {
    if let Output::Resp(_, version) = output { *version } else { 2 }
}

async fn on_disk<E: KvsEngine>(engine: &E, position: Position) -> aryavarth::Result<()> {
    poll_fn(|context| engine.on_reached(position, Durability::Always, context.waker())).await
}

/// Returns after `time`, or never.
async fn rest_of(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => pending().await,
    }
}
