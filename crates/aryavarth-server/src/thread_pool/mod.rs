//! Thread pools: where engine calls run, so that a disk holds up no socket.
//!
//! All keep one contract, [`ThreadPool`], and it is tested on each of them. They differ in the
//! cost of a job and in the thread that runs it.
//!
//! Invariant: a thread of a pool ends only by the pool's own rules, never by a job's panic.

mod naive;
mod rayon;
mod shared_queue;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};

pub use self::naive::NaiveThreadPool;
pub use self::rayon::RayonThreadPool;
pub use self::shared_queue::SharedQueueThreadPool;

use crate::error::{Result, ServerError};

/// The stack of a thread: scripts nest, and their memory is only taken if they do.
const STACK_BYTES: usize = 8 << 20;

type Job = Box<dyn FnOnce() + Send>;

/// Threads that run jobs.
///
/// ```
/// use aryavarth_server::{SharedQueueThreadPool, ThreadPool};
/// use std::sync::mpsc;
///
/// let pool = SharedQueueThreadPool::new(2)?;
/// let (done, result) = mpsc::channel();
/// pool.spawn(move || done.send(6 * 7).unwrap());
/// assert_eq!(result.recv(), Ok(42));
/// # Ok::<(), aryavarth_server::ServerError>(())
/// ```
///
/// # Dropping a pool
/// It runs the queued jobs and then joins the threads. Only where a job itself drops the last
/// handle of its pool no thread is joined, because the job would wait for itself: the queue
/// still runs, and the threads end after it.
pub trait ThreadPool: Send + Sync + Sized + 'static {
    /// A pool of `threads` threads.
    ///
    /// # Errors
    /// [`ServerError::Threads`] if the system gives no more threads
    /// or none were asked for.
    fn new(threads: u32) -> Result<Self>;

    /// How many threads were asked for.
    fn threads(&self) -> u32;

    /// Runs `job` on one of the threads, when one is free. Never blocks and never refuses: the
    /// caller bounds how many jobs are outstanding. A job that panics costs no thread.
    fn spawn<F>(&self, job: F)
    where
        F: FnOnce() + Send + 'static;
}

/// Runs a job so that its panic ends here. The panic hook has reported it already.
fn run(job: impl FnOnce()) {
    drop(catch_unwind(AssertUnwindSafe(job)));
}

/// Refuses a pool without threads.
fn check_asked(threads: u32) -> Result<()> {
    if threads == 0 {
        let source = std::io::Error::from(std::io::ErrorKind::InvalidInput);
        return Err(ServerError::Threads { asked: 0, source });
    }
    Ok(())
}

/// Joins threads that have been told to end, unless this is one of them.
fn join(workers: Vec<JoinHandle<()>>) {
    let own = thread::current().id();
    if workers.iter().any(|worker| worker.thread().id() == own) {
        return;
    }
    for worker in workers {
        drop(worker.join());
    }
}
