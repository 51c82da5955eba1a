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
//! - A collector lets go of the server before it gives the last answer that it owes: once all are
//!   answered the server may end, and its engine and pool must not end here, behind its back.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use aryavarth::{Batch, Durability, KvsEngine, Position};
use tokio::sync::oneshot;

use crate::budget::Share;
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

/// What became of each batch; nothing is known if the engine panicked.
pub(crate) type Written = Option<Vec<aryavarth::Result<(u64, Position)>>>;

/// The batches of a connection.
struct Asked {
    space: u32,
    batches: Vec<Batch>,
    permit: Share,
    /// Whether the answer is of no use before it is on disk.
    is_patient: bool,
    answer: oneshot::Sender<Written>,
}

/// Whom to tell what became of their batches.
type Answers = Vec<(oneshot::Sender<Written>, Written)>;

/// Answers that leave when they are on disk: told earlier, each connection would only go back to
/// sleep. Whoever hears of it looks for itself how far the disk is.
struct Patient(Mutex<Answers>);

impl Wake for Patient {
    fn wake(self: Arc<Self>) {
        answer(std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)));
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

/// Hands batches for a space over; says later what became of each.
pub(crate) fn write<E: KvsEngine, P: ThreadPool>(
    shared: &Arc<Shared<E, P>>,
    permit: Share,
    space: u32,
    batches: Vec<Batch>,
    is_patient: bool,
) -> oneshot::Receiver<Written> {
    let (answer, receiver) = oneshot::channel();
    if shared.writes.push(Asked { space, batches, permit, is_patient, answer }) {
        spawn(shared);
    }
    receiver
}

fn spawn<E: KvsEngine, P: ThreadPool>(shared: &Arc<Shared<E, P>>) {
    let for_it = Arc::clone(shared);
    shared.pool.spawn(move || collect(for_it));
}

/// Writes what is queued until nothing is, or others want the thread.
fn collect<E: KvsEngine, P: ThreadPool>(shared: Arc<Shared<E, P>>) {
    let mut together = shared.writes.next();
    for round in 1.. {
        if together.is_empty() {
            return;
        }
        let answers = write_together(&shared, together);
        together = if round < ROUNDS_MAX { shared.writes.next() } else { Vec::new() };
        if round == ROUNDS_MAX && shared.writes.goes_on() {
            spawn(&shared);
        }
        if together.is_empty() {
            drop(shared);
            answer(answers);
            return;
        }
        answer(answers);
    }
}

/// Writes batches to a space; none of what became of them is known if the engine panics.
pub(crate) fn write_each<E: KvsEngine>(engine: &E, space: u32, batches: Vec<Batch>) -> Written {
    let write = || {
        if space == engine.space() {
            engine.write_each(batches)
        } else {
            engine.with_space(space).write_each(batches)
        }
    };
    catch_unwind(AssertUnwindSafe(write)).ok()
}

/// Writes batches of one space; returns whom to tell what, now that they are written.
fn write_together<E: KvsEngine, P>(shared: &Shared<E, P>, mut together: Vec<Asked>) -> Answers {
    let Shared { engine, .. } = shared;
    let space = together.first().map_or(0, |asked| asked.space);
    let lengths: Vec<usize> = together.iter().map(|asked| asked.batches.len()).collect();
    let batches = together.iter_mut().flat_map(|asked| asked.batches.drain(..)).collect();
    let mut written = write_each(engine, space, batches).map(Vec::into_iter);
    let (mut soon, mut later) = (Vec::new(), Vec::new());
    for (Asked { permit, is_patient, answer, .. }, length) in together.into_iter().zip(lengths) {
        drop(permit);
        let mine = written.as_mut().map(|written| written.take(length).collect());
        let answers = if is_patient { &mut later } else { &mut soon };
        answers.push((answer, mine));
    }
    soon.extend(keep(engine, later));
    soon
}

/// Keeps answers until they are on disk; returns them if they are, or have nothing to wait for.
fn keep<E: KvsEngine>(engine: &E, answers: Answers) -> Answers {
    let outcomes = answers.iter().filter_map(|(_, written)| written.as_ref()).flatten();
    let last = outcomes.filter_map(|outcome| Some(outcome.as_ref().ok()?.1)).max();
    let Some(last) = last else { return answers };
    let patient = Arc::new(Patient(Mutex::new(answers)));
    let waker = Waker::from(Arc::clone(&patient));
    if engine.on_reached(last, Durability::Always, &waker).is_ready() {
        patient.wake();
    }
    Vec::new()
}

fn answer(answers: Answers) {
    for (answer, written) in answers {
        // A client that has gone does not want its answers.
        drop(answer.send(written));
    }
}
