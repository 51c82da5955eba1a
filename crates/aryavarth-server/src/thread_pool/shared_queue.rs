//! A fixed number of threads that take jobs from one queue.
//!
//! Invariants:
//! - A job runs once, in the order of arrival as far as several threads have one.
//! - A thread ends only when the pool is dropped and the queue is empty.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::ThreadPool;
use crate::error::{Result, ServerError};

type Job = Box<dyn FnOnce() + Send>;

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
        if threads == 0 {
            let source = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(ServerError::Threads { asked: 0, source });
        }
        let mut pool = SharedQueueThreadPool { shared: Arc::default(), workers: Vec::new() };
        for number in 0..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new()
                .name(format!("pool-{number}"))
                .spawn(move || work(&shared))
                .map_err(|source| ServerError::Threads { asked: threads, source })?;
            pool.workers.push(worker);
        }
        Ok(pool)
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
        // The panic has already been reported by the panic hook; the thread goes on.
        drop(catch_unwind(AssertUnwindSafe(job)));
    }
}

impl Drop for SharedQueueThreadPool {
    fn drop(&mut self) {
        self.shared.close();
        for worker in self.workers.drain(..) {
            // A job may hold the last handle of the pool; its thread cannot wait for itself.
            if worker.thread().id() != thread::current().id() {
                drop(worker.join());
            }
        }
    }
}

impl fmt::Debug for SharedQueueThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedQueueThreadPool({} threads)", self.workers.len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_panicking_job_costs_no_thread() {
        let pool = SharedQueueThreadPool::new(1).unwrap();
        for _ in 0..10 {
            pool.spawn(|| panic!("a job that fails, as this test wants"));
        }
        let (done, result) = mpsc::channel();
        pool.spawn(move || done.send("alive").unwrap());
        assert_eq!(result.recv(), Ok("alive"));
    }

    #[test]
    fn dropping_the_pool_finishes_the_queue() {
        let ran = Arc::new(AtomicU32::new(0));
        let (open, gate) = mpsc::channel::<()>();
        let pool = SharedQueueThreadPool::new(1).unwrap();
        pool.spawn(move || gate.recv().unwrap());
        for _ in 0..100 {
            let ran = Arc::clone(&ran);
            pool.spawn(move || {
                ran.fetch_add(1, Ordering::Relaxed);
            });
        }
        open.send(()).unwrap();
        drop(pool);
        assert_eq!(ran.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn jobs_run_side_by_side() {
        let pool = SharedQueueThreadPool::new(2).unwrap();
        let (to_second, from_first) = mpsc::channel();
        let (done, result) = mpsc::channel();
        pool.spawn(move || done.send(from_first.recv().unwrap()).unwrap());
        pool.spawn(move || to_second.send("met").unwrap());
        assert_eq!(result.recv(), Ok("met"));
    }

    #[test]
    fn no_threads_are_no_pool() {
        assert!(SharedQueueThreadPool::new(0).is_err());
    }
}
