//! A thread for each job.
//!
//! Invariants:
//! - A thread that has ended is joined by the next one that ends, or by the pool's end: there is
//!   at most one unjoined thread without a job.
//! - A job for which the system gives no thread waits for one that becomes free: of those that run
//!   jobs, or of the spare one, which waits for nothing else. So no job is lost and none blocks
//!   its caller.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::{Job, STACK_BYTES, ThreadPool, check_asked, run};
use crate::error::{Result, ServerError};

/// How a thread is started.
type Start = fn(Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>;

#[derive(Default)]
struct State {
    /// The threads that run jobs, by the number of their first one.
    running: HashMap<u64, JoinHandle<()>>,
    jobs_started: u64,
    /// The thread that ended last.
    ended: Option<JoinHandle<()>>,
    /// Jobs for which there was no thread.
    waiting: VecDeque<Job>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    /// Nothing that can panic runs under the lock, so a poisoned one is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new thread for each job: the measure of the other pools. It has as many threads as
/// jobs are outstanding, whatever number was asked for. Where the system gives no more (its limit
/// of threads or of memory), a job waits until another one is done.
pub struct NaiveThreadPool {
    shared: Arc<Shared>,
    spare: Option<JoinHandle<()>>,
    start: Start,
    asked: u32,
}

impl ThreadPool for NaiveThreadPool {
    fn new(threads: u32) -> Result<Self> {
        check_asked(threads)?;
        let refused = |source| ServerError::Threads { asked: 1, source };
        let shared = Arc::<Shared>::default();
        let spare_side = Arc::clone(&shared);
        let spare = start(Box::new(move || run_waiting(&spare_side))).map_err(refused)?;
        Ok(NaiveThreadPool { shared, spare: Some(spare), start, asked: threads })
    }

    fn threads(&self) -> u32 {
        self.asked
    }

    fn spawn<F>(&self, job: F)
    where
        F: FnOnce() + Send + 'static,
    {
        // The job is lent to the thread: one that does not start must not take it along.
        let job = Arc::new(Mutex::new(Some(Box::new(job) as Job)));
        let (lent, shared) = (Arc::clone(&job), Arc::clone(&self.shared));
        let mut state = self.shared.lock();
        let number = state.jobs_started;
        state.jobs_started += 1;
        let started = (self.start)(Box::new(move || {
            if let Some(job) = take(&lent) {
                run(job);
            }
            end(&shared, number);
        }));
        match started {
            // The thread's end needs the lock, so it finds its entry.
            Ok(thread) => drop(state.running.insert(number, thread)),
            Err(_no_thread) => {
                state.waiting.extend(take(&job));
                self.shared.changed.notify_all();
            }
        }
    }
}

fn start(body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("job".to_owned()).stack_size(STACK_BYTES).spawn(body)
}

fn take(job: &Mutex<Option<Job>>) -> Option<Job> {
    job.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// A thread's work after its job: jobs that have no thread, then its own end.
fn end(shared: &Shared, number: u64) {
    let mut state = shared.lock();
    while let Some(job) = state.waiting.pop_front() {
        drop(state);
        run(job);
        state = shared.lock();
    }
    let own = state.running.remove(&number);
    let before = std::mem::replace(&mut state.ended, own);
    drop(state);
    shared.changed.notify_all();
    if let Some(before) = before {
        drop(before.join());
    }
}

/// The spare thread's work: jobs for which the system gave no thread.
fn run_waiting(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        if let Some(job) = state.waiting.pop_front() {
            drop(state);
            run(job);
            state = shared.lock();
        } else if state.closed {
            return;
        } else {
            state = shared.wait(state);
        }
    }
}

impl Drop for NaiveThreadPool {
    fn drop(&mut self) {
        let own = thread::current().id();
        let is_own = |thread: &JoinHandle<()>| thread.thread().id() == own;
        let mut state = self.shared.lock();
        state.closed = true;
        self.shared.changed.notify_all();
        if self.spare.iter().chain(state.running.values()).any(is_own) {
            return;
        }
        while !state.running.is_empty() {
            state = self.shared.wait(state);
        }
        let ended = state.ended.take();
        drop(state);
        for thread in ended.into_iter().chain(self.spare.take()) {
            drop(thread.join());
        }
    }
}

impl fmt::Debug for NaiveThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NaiveThreadPool({} jobs run)", self.shared.lock().running.len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn jobs_run_where_the_system_gives_no_threads() {
        let mut pool = NaiveThreadPool::new(1).unwrap();
        pool.start = |_body| Err(io::ErrorKind::WouldBlock.into());
        let ran = Arc::new(AtomicU32::new(0));
        for _ in 0..100 {
            let ran = Arc::clone(&ran);
            pool.spawn(move || {
                ran.fetch_add(1, Ordering::Relaxed);
                std::panic::resume_unwind(Box::new("a job that fails, as this test wants"));
            });
        }
        drop(pool);
        assert_eq!(ran.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn a_thread_that_is_done_takes_a_job_that_has_none() {
        let mut pool = NaiveThreadPool::new(1).unwrap();
        let (to_first, from_test) = std::sync::mpsc::channel::<()>();
        let (to_spare, spare_from_test) = std::sync::mpsc::channel::<()>();
        let (done, results) = std::sync::mpsc::channel();
        pool.spawn(move || from_test.recv().unwrap());
        pool.start = |_body| Err(io::ErrorKind::WouldBlock.into());
        // Held up here, the spare thread is of no help to the job after it.
        let held = done.clone();
        pool.spawn(move || {
            held.send("held").unwrap();
            spare_from_test.recv().unwrap();
        });
        assert_eq!(results.recv(), Ok("held"));
        pool.spawn(move || done.send("ran").unwrap());
        to_first.send(()).unwrap();
        assert_eq!(results.recv(), Ok("ran"));
        to_spare.send(()).unwrap();
    }
}
