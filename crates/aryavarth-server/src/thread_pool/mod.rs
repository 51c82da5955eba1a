//! Thread pools: where engine calls run, so that a disk holds up no socket.

mod shared_queue;

pub use shared_queue::SharedQueueThreadPool;

use crate::error::Result;

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
pub trait ThreadPool: Send + Sync + Sized + 'static {
    /// A pool of `threads` threads.
    ///
    /// # Errors
    /// [`ServerError::Threads`](crate::ServerError::Threads) if the system gives no more threads
    /// or none were asked for.
    fn new(threads: u32) -> Result<Self>;

    /// Runs `job` on one of the threads, when one is free. Never blocks and never refuses: the
    /// caller bounds how many jobs are outstanding. A job that panics costs no thread. Dropping
    /// the pool runs what is queued and then joins the threads.
    fn spawn<F>(&self, job: F)
    where
        F: FnOnce() + Send + 'static;
}
