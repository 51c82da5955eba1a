//! The collector: a job of the pool that writes the blind writes of all connections.
//!
//! ```text
//!  connection --write--> queue --next--> write_each, one call --> answers
//!     ^                    |               (one frame a batch)      |    |
//!     |                    +-- spawns a collector if none runs      |    +-- durable-only: kept by
//!     +------------------------ oneshot <---------------------------+        DurableAck until the
//!                                                                            disk has the last
//! ```
//!
//! A job of the pool for every connection that writes would cost each write two wake-ups, a fight
//! for the engine's lock and a call to the system. With the queue, batches that arrive while the
//! collector works go to the engine together: under load no thread is woken, and one call appends for
//! many. (Measured: `docs/decisions/0013`.)
//!
//! Terms: a *batch* is one command's write and one frame of the log. A *round* is one call of the
//! engine for the batches that the queue gives out together. An answer is *durable-only* if its
//! connection has nothing to do before the write is on disk.
//!
//! Invariants:
//! - The batches of one connection are in the queue once at most, so they stay in order.
//! - A collector holds the server only while a connection waits for it, which holds the server as
//!   well: the engine and the pool must not end here, behind the server's back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Wake, Waker};
use std::time::Instant;

use aryavarth::{Batch, Durability, KvsEngine, Position};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::counters::count;
use crate::shared::Shared;
use crate::thread_pool::ThreadPool;
use crate::writes::queue::{PendingWrite, Permits, Writes, Written};

/// A collector lets other jobs of the pool have their turn after this many rounds.
const ROUNDS_MAX: usize = 16;

/// Outcomes, each with the connection that waits for it.
type Answers = Vec<(oneshot::Sender<Written>, Written)>;

/// Durable-only answers, sent once the disk has the last of their writes: sent earlier, each would
/// wake a connection that goes back to sleep. A connection that is woken checks the disk's position
/// itself.
#[derive(Default)]
struct DurableAck(Mutex<(bool, Answers)>);

impl DurableAck {
    /// Keeps answers until the engine wakes this; sends them if it has.
    fn keep(&self, answers: Answers) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.0 {
            state.1 = answers;
            return;
        }
        drop(state);
        answer(answers);
    }
}

impl Wake for DurableAck {
    fn wake(self: Arc<Self>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = true;
        let answers = std::mem::take(&mut state.1);
        drop(state);
        answer(answers);
    }
}

/// Queues batches for a space, within the runtime of the sockets. The receiver gets the outcome of
/// each.
pub(crate) fn write<E: KvsEngine, P: ThreadPool>(
    shared: &Arc<Shared<E, P>>,
    permits: Permits,
    space: u32,
    batches: Vec<Batch>,
    is_durable_only: bool,
) -> oneshot::Receiver<Written> {
    let (answer, receiver) = oneshot::channel();
    if shared.writes.push(PendingWrite { space, batches, permits, is_durable_only, answer }) {
        spawn(shared, Handle::current());
    }
    receiver
}

fn spawn<E: KvsEngine, P: ThreadPool>(shared: &Arc<Shared<E, P>>, sockets: Handle) {
    let (writes, server) = (Arc::clone(&shared.writes), Arc::downgrade(shared));
    shared.pool.spawn(move || collect(&writes, &server, &sockets));
}

/// Queues a collector behind the jobs of others. The sockets do that: a thread of a pool may take
/// its own job first of all, and others would never have their turn.
fn spawn_behind<E: KvsEngine, P: ThreadPool>(server: Weak<Shared<E, P>>, sockets: &Handle) {
    let behind = sockets.clone();
    sockets.spawn(async move {
        if let Some(shared) = server.upgrade() {
            spawn(&shared, behind);
        }
    });
}

/// Writes queued batches until the queue is empty, or others want the thread.
fn collect<E, P>(writes: &Writes, server: &Weak<Shared<E, P>>, sockets: &Handle)
where
    E: KvsEngine,
    P: ThreadPool,
{
    let mut together = writes.next();
    for round in 1.. {
        if together.is_empty() {
            return;
        }
        // Without a server no connection waits.
        let Some(shared) = server.upgrade() else { return };
        let (soon, later) = write_together(&shared, together);
        let last = later.iter().filter_map(|(_, written)| last_of(written)).max();
        let ack = last.and_then(|last| wait_for(&shared.engine, last));
        let is_last = round == ROUNDS_MAX;
        together = if is_last { Vec::new() } else { writes.next() };
        if is_last && writes.goes_on() {
            spawn_behind(Weak::clone(server), sockets);
        }
        // Before the answers: see the invariant.
        drop(shared);
        answer(soon);
        match ack {
            Some(ack) => ack.keep(later),
            None => answer(later),
        }
    }
}

/// Writes batches of one space; returns the answers to send at once, and the durable-only ones.
fn write_together<E: KvsEngine, P>(
    shared: &Shared<E, P>,
    mut together: Vec<PendingWrite>,
) -> (Answers, Answers) {
    let space = together.first().map_or(0, |write| write.space);
    let lengths: Vec<usize> = together.iter().map(|write| write.batches.len()).collect();
    let batches: Vec<Batch> =
        together.iter_mut().flat_map(|write| write.batches.drain(..)).collect();
    let Written { outcomes, began, ended } = write_each(shared, space, &batches);
    let mut outcomes = outcomes.map(Vec::into_iter);
    let (mut soon, mut later) = (Vec::new(), Vec::new());
    for (PendingWrite { permits, is_durable_only, answer, .. }, length) in
        together.into_iter().zip(lengths)
    {
        drop(permits);
        let outcomes = outcomes.as_mut().map(|outcomes| outcomes.take(length).collect());
        let answers = if is_durable_only { &mut later } else { &mut soon };
        answers.push((answer, Written { outcomes, began, ended }));
    }
    (soon, later)
}

/// Writes batches to a space; their outcomes are unknown if the engine panics.
pub(crate) fn write_each<E: KvsEngine, P>(
    shared: &Shared<E, P>,
    space: u32,
    batches: &[Batch],
) -> Written {
    let Shared { engine, counters, .. } = shared;
    let requests = batches.len();
    let write = || {
        if space == engine.space() {
            engine.write_each(batches)
        } else {
            engine.with_space(space).write_each(batches)
        }
    };
    let began = Instant::now();
    let outcomes = catch_unwind(AssertUnwindSafe(write)).ok();
    count(&counters.requests, requests);
    Written { outcomes, began, ended: Instant::now() }
}

/// The last position of the batches that were written, if any was.
fn last_of(written: &Written) -> Option<Position> {
    let outcomes = written.outcomes.iter().flatten();
    outcomes.filter_map(|outcome| Some(outcome.as_ref().ok()?.1)).max()
}

/// The waker's target for a position on its way to the disk; `None` if the disk has it, or if the
/// engine cannot say.
fn wait_for<E: KvsEngine>(engine: &E, last: Position) -> Option<Arc<DurableAck>> {
    let ack = Arc::new(DurableAck::default());
    let waker = Waker::from(Arc::clone(&ack));
    let ask = || engine.on_reached(last, Durability::Always, &waker).is_pending();
    catch_unwind(AssertUnwindSafe(ask)).is_ok_and(|pending| pending).then_some(ack)
}

fn answer(answers: Answers) {
    for (answer, written) in answers {
        // A client that has gone does not want its answers.
        drop(answer.send(written));
    }
}
