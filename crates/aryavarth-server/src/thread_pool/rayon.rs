//! Rayon's threads, each with a queue of its own, which steal from one another.
//!
//! Two of rayon's habits are not ours: a job that panics would abort the process, so a panic never
//! reaches it, and a dropped pool leaves its threads to themselves, so they are started here and
//! joined here.

use std::fmt;
use std::io;
use std::thread::{self, JoinHandle};

use rayon_core::ThreadPoolBuilder;

use super::{STACK_BYTES, ThreadPool, check_asked, join, run};
use crate::error::{Result, ServerError};

/// Rayon's work-stealing threads. Jobs from outside wait in one common queue, so beside
/// [`SharedQueueThreadPool`](super::SharedQueueThreadPool) it wins where jobs spawn jobs; its idle
/// threads look around for a moment before they sleep, which answers a little faster and costs
/// processor time.
pub struct RayonThreadPool {
    /// There until the pool is dropped.
    pool: Option<rayon_core::ThreadPool>,
    workers: Vec<JoinHandle<()>>,
}

impl ThreadPool for RayonThreadPool {
    fn new(threads: u32) -> Result<Self> {
        check_asked(threads)?;
        let refused = |source| ServerError::Threads { asked: threads, source };
        let count = usize::try_from(threads).map_err(|error| refused(io::Error::other(error)))?;
        let mut workers = Vec::new();
        let built = ThreadPoolBuilder::new()
            .num_threads(count)
            .spawn_handler(|worker| {
                let name = format!("rayon-{}", worker.index());
                let thread = thread::Builder::new().name(name).stack_size(STACK_BYTES);
                workers.push(thread.spawn(|| worker.run())?);
                Ok(())
            })
            .build();
        // A pool that could not be completed tells the threads that it has to end.
        match built {
            Ok(pool) => Ok(RayonThreadPool { pool: Some(pool), workers }),
            Err(error) => {
                join(workers);
                Err(refused(io::Error::other(error)))
            }
        }
    }

    fn threads(&self) -> u32 {
        u32::try_from(self.workers.len()).unwrap_or(u32::MAX)
    }

    fn spawn<F>(&self, job: F)
    where
        F: FnOnce() + Send + 'static,
    {
        if let Some(pool) = &self.pool {
            pool.spawn(move || run(job));
        }
    }
}

impl Drop for RayonThreadPool {
    fn drop(&mut self) {
        // Rayon's threads end when the pool is gone and every job has run.
        self.pool = None;
        join(std::mem::take(&mut self.workers));
    }
}

impl fmt::Debug for RayonThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RayonThreadPool({} threads)", self.workers.len())
    }
}
