//! What a connection waits for while nothing else of it runs: calls on the pool, or a reply that
//! comes later.

use std::collections::VecDeque;
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aryavarth::{Durability, KvsEngine, Position};
use aryavarth_protocol::{Reply, Request};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::budget::{Allowance, FREE_OUTPUT_BYTES, Share};
use crate::commands::{ClientState, Then};
use crate::execute::{self, Answer, Blind, Call, Done, Said};
use crate::shared::Shared;
use crate::thread_pool::ThreadPool;
use crate::writes::collector;

/// How long calls wait for a job before they ask again.
const RETRY_PAUSE: Duration = Duration::from_millis(1);

/// Ends with answers, and with what the commands know of the connection.
pub(super) type Job = Pin<Box<dyn Future<Output = (Done, Box<ClientState>)> + Send>>;

/// Runs calls on the pool; `blind` are those before them.
pub(super) fn run<E: KvsEngine, P: ThreadPool>(
    shared: Arc<Shared<E, P>>,
    permit: Share,
    blind: Option<Blind>,
    calls: VecDeque<Call>,
    mut connected: Box<ClientState>,
    is_long: bool,
) -> Job {
    let owed = calls.len() + blind.as_ref().map_or(0, Blind::owed);
    let level = shared.engine.durability();
    // A compaction takes long. One at a time keeps the pool free for everybody else; its turn
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
        let spare = connected.renewed();
        shared.pool.spawn(move || {
            let blind = blind.map(|blind| execute::run_blind(&pool_side, &mut connected, blind));
            let mut done = execute::run(&pool_side, &mut connected, calls, true);
            done.answers.splice(..0, blind.into_iter().flatten());
            // Before the answer: once all are answered the server may go, and its engine and
            // pool must not end here, behind its back.
            drop((permit, turn, long, pool_side));
            // A client that has gone does not want its answers.
            drop(sender.send((done, connected)));
        });
        receiver.await.unwrap_or_else(|_lost| (lost(owed, level), Box::new(spare)))
    })
}

/// Writes what calls write together with what other connections write; `is_last` says that nothing
/// more has arrived.
pub(super) fn write<E: KvsEngine, P: ThreadPool>(
    shared: Arc<Shared<E, P>>,
    permit: Share,
    mut blind: Blind,
    mut connected: Box<ClientState>,
    is_last: bool,
) -> Job {
    let settings = &connected.settings;
    // With nothing else to do, the reply is what to wait for, and not the write.
    let level = settings.level();
    let owed = blind.owed();
    let is_durable_only = is_last && owed == 1 && level == Durability::Always;
    let batches = std::mem::take(&mut blind.batches);
    let permits = (permit, blind.pass.take());
    let written = collector::write(&shared, permits, settings.space, batches, is_durable_only);
    Box::pin(async move {
        let done = match written.await {
            Ok(written) => {
                if is_durable_only {
                    shared.clients.statistics.waits.add(written.ended.elapsed());
                }
                let answers = execute::answer_blind(&shared, &mut connected, blind, written);
                Done { answers, rest: VecDeque::new(), then: Then::GoOn }
            }
            Err(_lost) => lost(owed, shared.engine.durability()),
        };
        (done, connected)
    })
}

/// The answers of a job that the pool lost.
fn lost(owed: usize, level: Durability) -> Done {
    let message = "internal error: the thread pool lost the request; its outcome is unknown";
    let answer =
        || Answer { said: Said::Error(message.to_owned()), position: Position::ZERO, level };
    Done {
        answers: std::iter::repeat_with(answer).take(owed).collect(),
        rest: VecDeque::new(),
        then: Then::GoOn,
    }
}

/// Waits for room for a reply of `bytes`, which the first of the calls then makes.
pub(super) fn room<E: KvsEngine, P: ThreadPool>(
    shared: Arc<Shared<E, P>>,
    bytes: usize,
    rest: VecDeque<Call>,
    mut connected: Box<ClientState>,
) -> Job {
    Box::pin(async move {
        connected.room = Allowance::new(shared.output.room(bytes).await, FREE_OUTPUT_BYTES);
        (Done { answers: Vec::new(), rest, then: Then::GoOn }, connected)
    })
}

/// Keeps calls back while the clients are paused, if the first of them is concerned.
pub(super) fn pause<E: KvsEngine, P: ThreadPool>(
    shared: Arc<Shared<E, P>>,
    rest: VecDeque<Call>,
    connected: Box<ClientState>,
) -> Job {
    Box::pin(async move {
        let blocked = shared.clients.block(&connected.entry);
        shared.clients.pause_changed().await;
        drop(blocked);
        (Done { answers: Vec::new(), rest, then: Then::GoOn }, connected)
    })
}

/// Keeps calls back for a moment, because too many jobs wait already.
pub(super) fn later(rest: VecDeque<Call>, connected: Box<ClientState>) -> Job {
    Box::pin(async move {
        sleep(RETRY_PAUSE).await;
        (Done { answers: Vec::new(), rest, then: Then::GoOn }, connected)
    })
}

/// Keeps an answer back as `then` says; the calls after it come later.
pub(super) fn hold<E: KvsEngine, P: ThreadPool>(
    shared: Arc<Shared<E, P>>,
    mut answer: Answer,
    then: Then,
    rest: VecDeque<Call>,
    connected: Box<ClientState>,
) -> Job {
    Box::pin(async move {
        let blocked = shared.clients.block(&connected.entry);
        match then {
            Then::GoOn | Then::Close | Then::Shutdown => {}
            Then::AfterWrites => shared.clients.writes_done().await,
            Then::Sleep(time) => sleep(time).await,
            Then::WaitForDisk { time, also_replicas } => {
                let mut time = time;
                if also_replicas {
                    rest_of(time).await;
                    time = Some(Duration::ZERO);
                }
                let nothing = Reply::Array(vec![Reply::Integer(0), Reply::Integer(0)]);
                answer.said = tokio::select! {
                    biased;
                    reached = on_disk(&shared.engine, answer.position) => match reached {
                        Ok(()) => answer.said,
                        Err(error) => {
                            Said::Resp(Reply::error(format!("MISCONF {error}")), version(&answer.said))
                        }
                    },
                    () = rest_of(time) => {
                        // It shows nothing, so there is nothing to wait for.
                        answer.position = Position::ZERO;
                        Said::Resp(nothing, version(&answer.said))
                    }
                };
            }
        }
        drop(blocked);
        (Done { answers: vec![answer], rest, then: Then::GoOn }, connected)
    })
}

/// The version of the protocol that something is said in.
fn version(said: &Said) -> u8 {
    if let Said::Resp(_, version) = said { *version } else { 2 }
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

pub(super) fn poll_job(
    job: &mut Option<Job>,
    context: &mut Context<'_>,
) -> Poll<(Done, Box<ClientState>)> {
    match job {
        Some(job) => job.as_mut().poll(context),
        None => Poll::Pending,
    }
}
