//! Blind writes of all connections on their way to the engine.
//!
//! A job of the pool for every connection that writes would cost each write two wake-ups, a fight
//! for the engine's lock and a call to the system. So connections put their batches into one queue,
//! and a *collector*, which is a job of the pool, takes what is there: what arrived while it worked
//! goes to the engine together. Under load nobody is woken, and one call appends for many. (Measured:
//! `docs/decisions/0013`.)
//!
//! Invariants:
//! - While the queue holds anything, a collector runs or is queued.
//! - The batches of one connection are in the queue once at most, so they stay in order.
//! - A collector holds the server only while somebody waits for it, who holds the server as well: the
//!   engine and the pool must not end here, behind the server's back.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Wake, Waker};
use std::time::Instant;

use aryavarth::{Batch, Durability, KvsEngine, Position};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::budget::Share;
use crate::clients::WritePass;
use crate::counters::count;
use crate::server::Shared;
use crate::thread_pool::ThreadPool;

/// Bytes of batches that go to the engine together, at least the first of them: others wait.
pub(crate) const TOGETHER_BYTES_MAX: usize = 256 << 10;
/// Batches of several connections that go to the engine together. They are looked at twice, so more
/// of them would be out of the processor's cache the second time; fewer are more calls.
const TOGETHER_BATCHES: usize = 64;
/// Batches in the queue for which one collector is enough; finding their keys takes the time.
const COLLECTOR_BATCHES: usize = 64;
/// More collectors than this would only wait for the engine's lock.
const COLLECTORS_MAX: usize = 4;
/// A collector lets other jobs of the pool have their turn after this many rounds.
const ROUNDS_MAX: usize = 16;

/// What became of batches.
#[derive(Debug)]
pub(crate) struct Written {
    /// Of each in order; nothing is known if the engine panicked.
    pub(crate) outcomes: Option<Vec<aryavarth::Result<(u64, Position)>>>,
    /// When the engine was called, and when it had written.
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
}

/// The batches of a connection.
struct Asked {
    space: u32,
    batches: Vec<Batch>,
    /// Kept until they are in the log.
    permits: Permits,
    /// Whether the answer is of no use before it is on disk.
    is_patient: bool,
    answer: oneshot::Sender<Written>,
}

/// A place among the jobs, and a pass of the clients' pause.
pub(crate) type Permits = (Share, Option<WritePass>);

/// Whom to tell what became of their batches.
type Answers = Vec<(oneshot::Sender<Written>, Written)>;

/// Answers that leave when they are on disk: told earlier, each connection would only go back to
/// sleep. Whoever hears of it looks for itself how far the disk is.
#[derive(Default)]
struct Patient(Mutex<(bool, Answers)>);

impl Patient {
    /// Keeps answers until somebody wakes this, if nobody has.
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

impl Wake for Patient {
    fn wake(self: Arc<Self>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = true;
        let answers = std::mem::take(&mut state.1);
        drop(state);
        answer(answers);
    }
}

#[derive(Default)]
struct Queue {
    asked: VecDeque<Asked>,
    /// Batches of all of them.
    batches: usize,
    /// Collectors that run or are queued.
    collectors: usize,
}

/// The queue of a server.
#[derive(Default)]
pub(crate) struct Writes {
    queue: Mutex<Queue>,
}

impl Writes {
    /// Nothing that can panic runs under the lock, so a poisoned one is whole.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues batches; returns whether they need another collector.
    fn push(&self, asked: Asked) -> bool {
        let mut queue = self.lock();
        queue.batches += asked.batches.len();
        queue.asked.push_back(asked);
        let wanted = (queue.batches / COLLECTOR_BATCHES).clamp(1, COLLECTORS_MAX);
        let more = queue.collectors < wanted;
        queue.collectors += usize::from(more);
        more
    }

    /// Whether there is something left for another collector in the place of this one.
    fn goes_on(&self) -> bool {
        let mut queue = self.lock();
        let goes_on = !queue.asked.is_empty();
        queue.collectors -= usize::from(!goes_on);
        goes_on
    }

    /// The first batches of the queue, as far as they go together; the collector ends if there are
    /// none.
    fn next(&self) -> Vec<Asked> {
        let mut queue = self.lock();
        let (mut batches, mut bytes) = (0, 0);
        let mut together = Vec::new();
        while batches < TOGETHER_BATCHES
            && bytes < TOGETHER_BYTES_MAX
            && let Some(next) = queue.asked.front()
            && together.first().is_none_or(|first: &Asked| first.space == next.space)
            && let Some(asked) = queue.asked.pop_front()
        {
            batches += asked.batches.len();
            bytes += asked.batches.iter().map(Batch::bytes).sum::<usize>();
            together.push(asked);
        }
        queue.batches -= batches;
        queue.collectors -= usize::from(together.is_empty());
        together
    }
}

/// Hands batches for a space over, within the runtime of the sockets; says later what became of
/// each.
pub(crate) fn write<E: KvsEngine, P: ThreadPool>(
    shared: &Arc<Shared<E, P>>,
    permits: Permits,
    space: u32,
    batches: Vec<Batch>,
    is_patient: bool,
) -> oneshot::Receiver<Written> {
    let (answer, receiver) = oneshot::channel();
    if shared.writes.push(Asked { space, batches, permits, is_patient, answer }) {
        spawn(shared, Handle::current());
    }
    receiver
}

fn spawn<E: KvsEngine, P: ThreadPool>(shared: &Arc<Shared<E, P>>, sockets: Handle) {
    let (writes, server) = (Arc::clone(&shared.writes), Arc::downgrade(shared));
    shared.pool.spawn(move || collect(&writes, &server, &sockets));
}

/// Queues a collector behind the jobs of others. The sockets do that: a thread of a pool may take
/// what it queued itself first of all, and others would never have their turn.
fn spawn_behind<E: KvsEngine, P: ThreadPool>(server: Weak<Shared<E, P>>, sockets: &Handle) {
    let behind = sockets.clone();
    sockets.spawn(async move {
        if let Some(shared) = server.upgrade() {
            spawn(&shared, behind);
        }
    });
}

/// Writes what is queued until nothing is, or others want the thread.
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
        // If the server is gone nobody waits.
        let Some(shared) = server.upgrade() else { return };
        let (soon, later) = write_together(&shared, together);
        let patient = later.iter().filter_map(|(_, written)| last_of(written)).max();
        let patient = patient.and_then(|last| wait_for(&shared.engine, last));
        let is_last = round == ROUNDS_MAX;
        together = if is_last { Vec::new() } else { writes.next() };
        if is_last && writes.goes_on() {
            spawn_behind(Weak::clone(server), sockets);
        }
        // Before the answers: see the invariant.
        drop(shared);
        answer(soon);
        match patient {
            Some(patient) => patient.keep(later),
            None => answer(later),
        }
    }
}

/// Writes batches of one space; returns whom to tell what at once, and whom when it is on disk.
fn write_together<E: KvsEngine, P>(
    shared: &Shared<E, P>,
    mut together: Vec<Asked>,
) -> (Answers, Answers) {
    let space = together.first().map_or(0, |asked| asked.space);
    let lengths: Vec<usize> = together.iter().map(|asked| asked.batches.len()).collect();
    let batches = together.iter_mut().flat_map(|asked| asked.batches.drain(..)).collect();
    let Written { outcomes, began, ended } = write_each(shared, space, batches);
    let mut outcomes = outcomes.map(Vec::into_iter);
    let (mut soon, mut later) = (Vec::new(), Vec::new());
    for (Asked { permits, is_patient, answer, .. }, length) in together.into_iter().zip(lengths) {
        drop(permits);
        let outcomes = outcomes.as_mut().map(|outcomes| outcomes.take(length).collect());
        let answers = if is_patient { &mut later } else { &mut soon };
        answers.push((answer, Written { outcomes, began, ended }));
    }
    (soon, later)
}

/// Writes batches to a space; nothing of what became of them is known if the engine panics.
pub(crate) fn write_each<E: KvsEngine, P>(
    shared: &Shared<E, P>,
    space: u32,
    batches: Vec<Batch>,
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

/// The last position of what was written, if anything was.
fn last_of(written: &Written) -> Option<Position> {
    let outcomes = written.outcomes.iter().flatten();
    outcomes.filter_map(|outcome| Some(outcome.as_ref().ok()?.1)).max()
}

/// What is woken when a position is on disk; `None` if it is, or if the engine cannot say.
fn wait_for<E: KvsEngine>(engine: &E, last: Position) -> Option<Arc<Patient>> {
    let patient = Arc::new(Patient::default());
    let waker = Waker::from(Arc::clone(&patient));
    let ask = || engine.on_reached(last, Durability::Always, &waker).is_pending();
    catch_unwind(AssertUnwindSafe(ask)).is_ok_and(|pending| pending).then_some(patient)
}

fn answer(answers: Answers) {
    for (answer, written) in answers {
        // A client that has gone does not want its answers.
        drop(answer.send(written));
    }
}
