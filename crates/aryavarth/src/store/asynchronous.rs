//! `AsyncKvStore`: the store's calls as futures, for any runtime.
//!
//! ```text
//!  task                      worker threads              committer
//!  read in the page cache    read from a disk,           one sync for all that wait
//!    |                       append, closure               |
//!    |  else, or a write -> job -> result                  |
//!    +---- position, Pending ------------------- wakes ----+
//! ```
//!
//! A job ends with a position, and the future waits for it without a thread: any number of tasks
//! share a sync.
//!
//! Invariants:
//! - A poll takes no lock that is held during a system call, and makes no call that waits for a disk.
//! - A job that was begun runs to its end, whether or not its future is still polled.

use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::KvStore;
use crate::engine::{Count, Deadline, KeyRange, KvsEngine, Page, Position, Transaction, Wait};
use crate::error::{KvsError, Result};
use crate::record::{Batch, Write};
use crate::sync::{Arc, Mutex, Rank, lock, thread};

/// Threads that read from a disk and append, so that one slow read does not hold up all others.
const WORKERS: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// A store whose calls are futures; made of a [`KvStore`] by [`AsyncKvStore::new`].
///
/// It works under any runtime and needs none of its timers or threads: four threads of its own
/// make the calls that may wait for a disk, and syncs are shared with all other users of the
/// store. A future that is dropped before it is ready leaves its write done or not done, never
/// half done. Clones are handles of the same store and share the threads, which end with the last.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// # use std::{pin::pin, task::{Context, Poll, Waker}};
/// # fn block_on<F: Future>(future: F) -> F::Output {
/// #     let (mut future, mut cx) = (pin!(future), Context::from_waker(Waker::noop()));
/// #     loop {
/// #         if let Poll::Ready(result) = future.as_mut().poll(&mut cx) {
/// #             return result;
/// #         }
/// #         std::thread::yield_now();
/// #     }
/// # }
/// use aryavarth::{AsyncKvStore, KvStore};
///
/// let store = AsyncKvStore::new(KvStore::open(dir)?);
/// block_on(async {
///     store.put("user:1", "Alice").await?; // ready when it is on disk
///     assert_eq!(store.read("user:1").await?, Some(b"Alice".to_vec()));
///     Ok::<(), aryavarth::KvsError>(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct AsyncKvStore {
    store: KvStore,
    workers: Arc<Workers>,
}

impl AsyncKvStore {
    /// A handle of the store whose calls are futures. Starts four threads, at the first call that
    /// needs one.
    pub fn new(store: KvStore) -> AsyncKvStore {
        AsyncKvStore { store, workers: Arc::default() }
    }

    /// The store, for calls that block.
    pub fn store(&self) -> &KvStore {
        &self.store
    }

    /// The same threads over another handle: of another space or durability, of the same store.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let store = aryavarth::AsyncKvStore::new(aryavarth::KvStore::open(dir.path())?);
    /// let sessions = store.with(store.store().named("sessions")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with(&self, store: KvStore) -> AsyncKvStore {
        AsyncKvStore { store, workers: Arc::clone(&self.workers) }
    }

    /// As [`KvStore::read`]. Ready at the first poll if the record is in the page cache and durable.
    pub async fn read(&self, key: impl Into<Vec<u8>>) -> Result<Option<Vec<u8>>> {
        let key = key.into();
        let (value, position) = match KvsEngine::read(&self.store, &key, Wait::No) {
            Err(KvsError::WouldBlock) => {
                self.run(move |store| KvsEngine::read(store, &key, Wait::Yes)).await?
            }
            done => done?,
        };
        self.reached(position).await?;
        Ok(value)
    }

    /// As [`KvStore::contains`].
    pub async fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.deadline(key).await?.is_some())
    }

    /// As [`KvStore::deadline`].
    pub async fn deadline(&self, key: impl AsRef<[u8]>) -> Result<Option<Deadline>> {
        let (deadline, position) = match KvsEngine::deadline(&self.store, key.as_ref(), Wait::No) {
            Err(KvsError::WouldBlock) => {
                let key = key.as_ref().to_vec();
                self.run(move |store| KvsEngine::deadline(store, &key, Wait::Yes)).await?
            }
            done => done?,
        };
        self.reached(position).await?;
        Ok(deadline)
    }

    /// As [`KvStore::count`].
    pub async fn count(&self) -> Result<Count> {
        let (count, position) = KvsEngine::count(&self.store)?;
        self.reached(position).await?;
        Ok(count)
    }

    /// As [`KvStore::put`].
    pub async fn put(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Result<()> {
        self.write_owned(Batch::from([(key, value)])).await.map(drop)
    }

    /// As [`KvStore::put_for`].
    pub async fn put_for(
        &self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        lifetime: Duration,
    ) -> Result<()> {
        self.put_with_deadline(key, value, self.store.deadline_in(lifetime)).await
    }

    /// As [`KvStore::put_until`].
    pub async fn put_until(
        &self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        expires_at: u64,
    ) -> Result<()> {
        self.put_with_deadline(key, value, Deadline::Wall(expires_at)).await
    }

    /// As [`KvStore::put_with_deadline`].
    pub async fn put_with_deadline(
        &self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        deadline: Deadline,
    ) -> Result<()> {
        let mut batch = Batch::new();
        batch.put_with_deadline(key, value, deadline);
        self.write_owned(batch).await.map(drop)
    }

    /// As [`KvStore::delete`].
    pub async fn delete(&self, key: impl Into<Vec<u8>>) -> Result<bool> {
        let write = Write::Delete { key: key.into() };
        Ok(self.write_owned(Batch::from_iter([write])).await? > 0)
    }

    /// As [`KvStore::write`]. Copies the batch for the thread that appends it.
    pub async fn write(&self, batch: &Batch) -> Result<u64> {
        self.write_owned(batch.clone()).await
    }

    async fn write_owned(&self, batch: Batch) -> Result<u64> {
        let (removed, position) = self.run(move |store| KvsEngine::write(store, &batch)).await?;
        self.reached(position).await?;
        Ok(removed)
    }

    /// As [`KvStore::transact`], with keys that are announced.
    pub async fn transact<R: Send + 'static>(
        &self,
        keys: &[&[u8]],
        body: impl FnMut(&mut Transaction<'_>) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
        let done = self.run(move |store| {
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            let done = KvsEngine::transact(store, &keys, body);
            // An error of the closure tells of what it saw too.
            let written = Position(store.inner.log.last_position());
            Ok((done, written))
        });
        let (done, written) = done.await?;
        let position = done.as_ref().map_or(written, |&(_, position)| position);
        self.reached(position).await?;
        done.map(|(result, _)| result)
    }

    /// The first entries of a range: at most `limit`, and about 1 MiB of values. A page that is not
    /// [`done`](Page::done) goes on with [`KeyRange::after`] its last key.
    pub async fn scan(&self, range: impl Into<KeyRange>, limit: usize) -> Result<Page> {
        let range = range.into();
        let page = self.run(move |store| KvsEngine::scan(store, &range, limit)).await?;
        self.reached(page.position).await?;
        Ok(page)
    }

    /// As [`KvStore::flush`].
    pub async fn flush(&self) -> Result<()> {
        self.run(KvStore::flush).await
    }

    /// Ready when a position is as durable as the handle's level asks.
    async fn reached(&self, position: Position) -> Result<()> {
        let level = self.store.durability;
        poll_fn(|context| self.store.on_reached(position, level, context.waker())).await
    }

    /// Runs a call that may block on a thread of the store's own; its panic goes on to the caller.
    async fn run<R: Send + 'static>(
        &self,
        call: impl FnOnce(&KvStore) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let (store, answer) = (self.store.clone(), Arc::new(Answer::default()));
        let told = Arc::clone(&answer);
        self.workers.send(Box::new(move || {
            let done = catch_unwind(AssertUnwindSafe(|| call(&store)));
            // The task may drop the last other handle and open the directory again.
            drop(store);
            told.tell(done);
        }))?;
        match poll_fn(|context| answer.poll(context)).await {
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        }
    }
}

/// The result of a job, for the task that waits for it.
struct Answer<T>(Mutex<(Option<thread::Result<T>>, Option<Waker>)>);

impl<T> Default for Answer<T> {
    fn default() -> Self {
        Answer(Mutex::new(Rank::Answer, (None, None)))
    }
}

impl<T> Answer<T> {
    fn tell(&self, result: thread::Result<T>) {
        let mut state = lock(&self.0);
        state.0 = Some(result);
        let waker = state.1.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<thread::Result<T>> {
        let mut state = lock(&self.0);
        if let Some(result) = state.0.take() {
            return Poll::Ready(result);
        }
        let before = state.1.replace(context.waker().clone());
        // Its drop may run code of the task's.
        drop(state);
        drop(before);
        Poll::Pending
    }
}

/// Threads that run jobs until the last handle is gone. They hold the receiver's end of a channel
/// whose only sender is here.
struct Workers(Mutex<Option<Sender<Job>>>);

impl Default for Workers {
    fn default() -> Self {
        Workers(Mutex::new(Rank::Workers, None))
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Workers")
    }
}

impl Workers {
    fn send(&self, job: Job) -> Result<()> {
        let mut sender = lock(&self.0);
        let sent = match &*sender {
            Some(sender) => sender.send(job),
            None => sender.insert(start()?).send(job),
        };
        sent.map_err(|_unsent| KvsError::Closed)
    }
}

fn start() -> Result<Sender<Job>> {
    let (sender, receiver) = channel();
    let receiver = Arc::new(Mutex::new(Rank::Jobs, receiver));
    for _ in 0..WORKERS {
        let receiver = Arc::clone(&receiver);
        let worker = thread::Builder::new().name("aryavarth-async".to_owned());
        let spawned = worker.spawn(move || work(&receiver));
        spawned.map_err(|error| KvsError::Engine(Arc::new(error)))?;
    }
    Ok(sender)
}

/// The life of a worker: one job after another, until no sender is left.
fn work(jobs: &Mutex<Receiver<Job>>) {
    loop {
        // Its own statement, so that the lock is free while the job runs.
        let job = lock(jobs).recv();
        match job {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}
