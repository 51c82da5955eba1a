//! A fixed number of threads that take jobs from one queue.
//!
//! Invariants:
//! - A job runs once, in the order of arrival as far as several threads have one.
//! - A thread ends only when the pool is dropped and the queue is empty.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::{Job, STACK_BYTES, ThreadPool, check_asked, join, run};
use crate::error::{Result, ServerError};

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    /// Nothing that can panic runs under the lock, so a poisoned one is whole.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a job; `None` when there will be none.
    fn next_job(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

/// Threads around one queue: the default pool. Good for jobs that wait, because any free thread
/// takes the next job.
pub struct SharedQueueThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl ThreadPool for SharedQueueThreadPool {
    fn new(threads: u32) -> Result<Self> {
        check_asked(threads)?;
        let mut pool = SharedQueueThreadPool { shared: Arc::default(), workers: Vec::new() };
        for number in 0..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new()
                .name(format!("pool-{number}"))
                .stack_size(STACK_BYTES)
                .spawn(move || work(&shared))
                .map_err(|source| ServerError::Threads { asked: threads, source })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    fn threads(&self) -> u32 {
        u32::try_from(self.workers.len()).unwrap_or(u32::MAX)
    }

    fn spawn<F>(&self, job: F)
    where
        F: FnOnce() + Send + 'static,
    {
        self.shared.lock().jobs.push_back(Box::new(job));
        self.shared.changed.notify_one();
    }
}

fn work(shared: &Shared) {
    while let Some(job) = shared.next_job() {
        run(job);
    }
}

impl Drop for SharedQueueThreadPool {
    fn drop(&mut self) {
        self.shared.close();
        join(std::mem::take(&mut self.workers));
    }
}

impl fmt::Debug for SharedQueueThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedQueueThreadPool({} threads)", self.workers.len())
    }
}
