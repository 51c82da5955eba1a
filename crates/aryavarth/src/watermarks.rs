//! Watermarks: what is written, what is durable, and who waits for it.
//!
//! A write is published first and synced afterwards; this file makes sure that nothing leaves
//! before the sync that covers it. One sync runs at a time and covers everything that was written
//! before it began, so any number of waiting callers share it (group commit). A blocking caller
//! that no running sync covers runs the next one itself; async callers are served by the store's
//! committer thread.
//!
//! Invariants:
//! - `written >= durable >= released`, each only grows. A sync advances `durable` to the position
//!   read *before* the call.
//! - After a failed sync nothing advances any more: what lies above `durable` may or may not be on
//!   disk, and nobody is ever told otherwise.
//! - Waiting takes no lock that a writer holds across a system call.

use std::fmt;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::engine::Position;
use crate::error::{KvsError, Result};
use crate::fs::Site;
use crate::options::Durability;
use crate::segment::Segment;
use crate::sync::{
    Arc, AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, OnceLock, Ordering, Rank, fence, lock,
    thread, wait, wait_timeout,
};

/// A sync starts when this much waits for one, whatever the level.
const UNSYNCED_BYTES_MAX: u64 = 8 << 20;
/// Writers wait for the disk when this much waits for a sync.
const BACKLOG_BYTES_MAX: u64 = 64 << 20;
/// How many of the newest places of tasks are looked at for one that a task already has.
const WAKERS_COMPARED: usize = 16;
const NEVER: u64 = u64::MAX;

/// A blocking caller that waits for a sync somebody else runs.
struct Sleeper {
    position: u64,
    thread: thread::Thread,
    awake: Arc<AtomicBool>,
}

#[derive(Default)]
struct Waiters {
    /// Whether somebody is syncing; whoever sets it also serves the waiters afterwards.
    syncing: bool,
    sleepers: Vec<Sleeper>,
    wakers: Vec<(u64, Waker)>,
    /// Ends the committer.
    stopped: bool,
}

/// What a sync makes durable: everything that was written before the call.
pub(crate) trait Syncable {
    fn sync(&self) -> Result<()>;
}

/// The segments written since the last sync, the active one last.
pub(crate) struct Unsynced(Mutex<Vec<Arc<Segment>>>);

impl Default for Unsynced {
    fn default() -> Unsynced {
        Unsynced(Mutex::new(Rank::Unsynced, Vec::new()))
    }
}

impl Syncable for Unsynced {
    fn sync(&self) -> Result<()> {
        let segments = lock(&self.0).clone();
        for segment in &segments {
            segment.file.sync(Site::LogSync)?;
        }
        // All but the last were sealed before the list was read: they never change again.
        let sealed = &segments[..segments.len().saturating_sub(1)];
        lock(&self.0).retain(|now| !sealed.iter().any(|other| Arc::ptr_eq(other, now)));
        Ok(())
    }
}

/// The watermarks of one log.
pub(crate) struct Watermarks<F = Unsynced> {
    written: AtomicU64,
    durable: AtomicU64,
    /// With replication the lesser of durable and committed; without, the same as durable.
    released: AtomicU64,
    poison: OnceLock<Arc<str>>,
    files: F,
    waiters: Mutex<Waiters>,
    /// Wakes the committer.
    call: Condvar,
    /// The shortest delay in milliseconds that somebody asked a sync to start within.
    delay_ms: AtomicU64,
    syncs: AtomicU64,
}

impl<F: Syncable> fmt::Debug for Watermarks<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watermarks written {} durable {}", self.written(), self.durable())
    }
}

impl Watermarks {
    /// Watermarks of a log of segments that begins at `position`, everything before it durable.
    pub(crate) fn new(position: u64) -> Watermarks {
        Watermarks::over(Unsynced::default(), position)
    }

    /// Notes that appends now go to `segment`, which the next sync has to cover.
    pub(crate) fn begin_segment(&self, segment: Arc<Segment>) {
        lock(&self.files.0).push(segment);
    }

    /// Notes that all of `segment` is durable and that it takes no more appends.
    pub(crate) fn end_segment(&self, segment: &Arc<Segment>) {
        lock(&self.files.0).retain(|other| !Arc::ptr_eq(other, segment));
    }
}

impl<F: Syncable> Watermarks<F> {
    /// Watermarks of a log in `files` that begins at `position`, everything before it durable.
    pub(crate) fn over(files: F, position: u64) -> Watermarks<F> {
        Watermarks {
            written: AtomicU64::new(position),
            durable: AtomicU64::new(position),
            released: AtomicU64::new(position),
            poison: OnceLock::new(),
            files,
            waiters: Mutex::new(Rank::Waiters, Waiters::default()),
            call: Condvar::new(),
            delay_ms: AtomicU64::new(NEVER),
            syncs: AtomicU64::new(0),
        }
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(crate) fn released(&self) -> u64 {
        self.released.load(Ordering::Acquire)
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Notes that the log is written up to `position`, before what lies there is published.
    /// For the writer only.
    pub(crate) fn set_written(&self, position: u64) {
        self.written.store(position, Ordering::Release);
        if position - self.durable.load(Ordering::Relaxed) > UNSYNCED_BYTES_MAX {
            self.sync_within(0);
        }
    }

    /// Whether the disk is so far behind that writers should wait for it.
    pub(crate) fn is_behind(&self) -> bool {
        // Read one after the other: by then more may be durable than was written.
        self.written().saturating_sub(self.durable()) > BACKLOG_BYTES_MAX
    }

    /// Refuses further work after a failed sync.
    pub(crate) fn check(&self) -> Result<()> {
        match self.poison.get() {
            Some(reason) => Err(KvsError::Poisoned { reason: Arc::clone(reason) }),
            None => Ok(()),
        }
    }

    /// Gives up on the log: a write or sync failed in a way that leaves its outcome unknown.
    pub(crate) fn poison(&self, error: &KvsError) -> KvsError {
        let reason = self.poison.get_or_init(|| error.to_string().into());
        let mut waiters = lock(&self.waiters);
        waiters.sleepers.drain(..).for_each(Sleeper::wake);
        let wakers = std::mem::take(&mut waiters.wakers);
        drop(waiters);
        for (_, waker) in wakers {
            waker.wake();
        }
        self.call.notify_all();
        KvsError::Poisoned { reason: Arc::clone(reason) }
    }

    /// Whether `position` is as durable as `level` asks; `None` while it is not known.
    fn reached(&self, position: Position, level: Durability) -> Option<Result<()>> {
        let released = position.0 <= self.released();
        if released {
            return Some(Ok(()));
        }
        if let Err(poisoned) = self.check() {
            // The sync that covers the position may have been the last good one.
            return Some(if position.0 <= self.released() { Ok(()) } else { Err(poisoned) });
        }
        if level == Durability::Always {
            return None;
        }
        self.sync_within(level.delay_ms());
        Some(Ok(()))
    }

    /// No position beyond what is written was ever given out; whoever asks for one waits for all.
    fn published(&self, position: Position) -> Position {
        position.min(Position(self.written()))
    }

    /// Sees to it that a sync starts within `delay_ms`.
    fn sync_within(&self, delay_ms: u64) {
        // Either this sees that a sync took the earlier wish with it, or that sync sees what was
        // written before this: see `sync_files`.
        fence(Ordering::SeqCst);
        if self.delay_ms.load(Ordering::Relaxed) > delay_ms
            && self.delay_ms.fetch_min(delay_ms, Ordering::Relaxed) > delay_ms
        {
            // The committer may be about to sleep; the lock makes sure that it looks again.
            drop(lock(&self.waiters));
            self.call.notify_one();
        }
    }

    /// Blocks until `position` is as durable as `level` asks, syncing if nobody else does.
    pub(crate) fn wait(&self, position: Position, level: Durability) -> Result<()> {
        let position = self.published(position);
        loop {
            if let Some(reached) = self.reached(position, level) {
                return reached;
            }
            let mut waiters = lock(&self.waiters);
            if self.reached(position, level).is_some() {
                continue;
            }
            if waiters.syncing {
                let awake = Arc::new(AtomicBool::new(false));
                let thread = thread::current();
                let sleeper = Sleeper { position: position.0, thread, awake: Arc::clone(&awake) };
                waiters.sleepers.push(sleeper);
                drop(waiters);
                while !awake.load(Ordering::Acquire) {
                    thread::park();
                }
            } else {
                self.sync_as_leader(waiters);
            }
        }
    }

    /// The same for a task: pending means that `waker` is called when it is worth asking again.
    pub(crate) fn on_reached(
        &self,
        position: Position,
        level: Durability,
        waker: &Waker,
    ) -> Poll<Result<()>> {
        let position = self.published(position);
        if let Some(reached) = self.reached(position, level) {
            return Poll::Ready(reached);
        }
        let mut waiters = lock(&self.waiters);
        if let Some(reached) = self.reached(position, level) {
            return Poll::Ready(reached);
        }
        // A task that asks again, because something else woke it, needs no second place.
        let lately = waiters.wakers.iter_mut().rev().take(WAKERS_COMPARED);
        match lately.into_iter().find(|(_, waiting)| waiting.will_wake(waker)) {
            Some((waited, _)) => *waited = (*waited).min(position.0),
            None => waiters.wakers.push((position.0, waker.clone())),
        }
        if !waiters.syncing {
            self.call.notify_one();
        }
        Poll::Pending
    }

    /// Syncs what is written now, whoever waits.
    pub(crate) fn sync(&self) -> Result<()> {
        self.wait(Position(self.written()), Durability::Always)
    }

    /// Runs one sync and serves who waited for it. Takes the waiters locked, nobody syncing.
    fn sync_as_leader(&self, mut waiters: MutexGuard<'_, Waiters>) {
        waiters.syncing = true;
        drop(waiters);
        if let Err(error) = self.sync_files() {
            // Before anybody else may sync: a second sync would succeed, although what the first
            // one lost is gone.
            self.poison(&error);
        }
        let mut waiters = lock(&self.waiters);
        waiters.syncing = false;
        let released = self.released();
        let mut next = None;
        waiters.sleepers.retain_mut(|sleeper| {
            let asleep = sleeper.position > released;
            if !asleep {
                sleeper.wake_by_ref();
            } else if next.is_none() {
                next = Some(());
                sleeper.wake_by_ref();
                return false;
            }
            asleep
        });
        if !waiters.wakers.is_empty() {
            self.call.notify_one();
        }
    }

    /// Syncs everything written since the last sync and moves the watermarks.
    fn sync_files(&self) -> Result<()> {
        self.check()?;
        // The order matters: what is written by now lies in the files that are synced afterwards.
        self.delay_ms.store(NEVER, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let target = self.written();
        self.files.sync()?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.durable.fetch_max(target, Ordering::AcqRel);
        self.released.fetch_max(target, Ordering::AcqRel);
        Ok(())
    }

    /// The committer's life: serve wakers, and sync when a delay or the backlog says so.
    pub(crate) fn run(&self) {
        let mut due: Option<(u64, Instant)> = None;
        let mut waiters = lock(&self.waiters);
        while !waiters.stopped {
            waiters = self.wake_ready(waiters);
            if waiters.stopped {
                // Said while the lock was free; nobody says it again.
                return;
            }
            let poisoned = self.check().is_err();
            let uncovered = !waiters.wakers.is_empty();
            let delay = self.delay_ms.load(Ordering::Relaxed);
            due = match due {
                _ if delay == NEVER => None,
                Some((asked, at)) if asked <= delay => Some((asked, at)),
                _ => Some((delay, Instant::now() + Duration::from_millis(delay))),
            };
            let left = due.map(|(_, at)| at.saturating_duration_since(Instant::now()));
            let now = !poisoned && (uncovered || left == Some(Duration::ZERO));
            if now && !waiters.syncing {
                due = None;
                self.sync_as_leader(waiters);
                waiters = lock(&self.waiters);
            } else if let (Some(left), false) = (left, poisoned) {
                // While somebody else syncs, their end of it wakes the committer or this does.
                let least = Duration::from_millis(1);
                waiters = wait_timeout(&self.call, waiters, left.max(least));
            } else {
                waiters = wait(&self.call, waiters);
            }
        }
    }

    /// Wakes the tasks whose position is reached.
    fn wake_ready<'a>(&'a self, mut waiters: MutexGuard<'a, Waiters>) -> MutexGuard<'a, Waiters> {
        let released = self.released();
        let poisoned = self.check().is_err();
        let is_ready = |position: u64| poisoned || position <= released;
        if !waiters.wakers.iter().any(|&(position, _)| is_ready(position)) {
            return waiters;
        }
        let all = std::mem::take(&mut waiters.wakers);
        let (ready, later): (Vec<_>, Vec<_>) = all.into_iter().partition(|&(p, _)| is_ready(p));
        waiters.wakers = later;
        drop(waiters);
        for (_, waker) in ready {
            waker.wake();
        }
        lock(&self.waiters)
    }

    /// One step of the committer for stores without threads; returns whether it did anything.
    pub(crate) fn step(&self) -> Result<bool> {
        self.check()?;
        let due = self.durable() < self.written();
        if due {
            self.sync()?;
        }
        self.wake_tasks();
        Ok(due)
    }

    /// Wakes the tasks whose position is reached, for when no committer does.
    pub(crate) fn wake_tasks(&self) {
        drop(self.wake_ready(lock(&self.waiters)));
    }

    /// Ends the committer.
    pub(crate) fn stop(&self) {
        lock(&self.waiters).stopped = true;
        self.call.notify_all();
    }
}

impl Sleeper {
    fn wake(self) {
        self.wake_by_ref();
    }

    fn wake_by_ref(&self) {
        self.awake.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// The hand-over between those who wait and those who sync, under shuttle: see `tests/shuttle.rs`.
#[cfg(shuttle)]
#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;
    use std::task::Wake;

    use super::*;
    use crate::fs::IoError;

    /// A disk that knows what it has, and may fail at one of its syncs.
    struct Disk {
        written: AtomicU64,
        synced: AtomicU64,
        syncs_left: AtomicU64,
    }

    impl Syncable for Arc<Disk> {
        fn sync(&self) -> Result<()> {
            let written = self.written.load(Ordering::SeqCst);
            if self.syncs_left.fetch_sub(1, Ordering::SeqCst) == 1 {
                let source = io::Error::other("the disk lost it");
                return Err(IoError { site: Site::LogSync, path: PathBuf::new(), source }.into());
            }
            self.synced.fetch_max(written, Ordering::SeqCst);
            Ok(())
        }
    }

    struct Store {
        disk: Arc<Disk>,
        watermarks: Watermarks<Arc<Disk>>,
        writer: Mutex<()>,
    }

    impl Store {
        /// A store whose sync number `fails_at` fails; 0 for none.
        fn new(fails_at: u64) -> Arc<Store> {
            let syncs_left = AtomicU64::new(fails_at);
            let (written, synced) = (AtomicU64::new(0), AtomicU64::new(0));
            let disk = Arc::new(Disk { written, synced, syncs_left });
            let watermarks = Watermarks::over(Arc::clone(&disk), 0);
            Arc::new(Store { disk, watermarks, writer: Mutex::new(Rank::Writer, ()) })
        }

        fn write(&self) -> Position {
            let _writer = lock(&self.writer);
            let position = self.disk.written.fetch_add(8, Ordering::SeqCst) + 8;
            self.watermarks.set_written(position);
            Position(position)
        }

        /// What a caller may be told of `position`.
        fn check(&self, position: Position, told: &Result<()>) {
            match told {
                Ok(()) => assert!(self.disk.synced.load(Ordering::SeqCst) >= position.0),
                Err(error) => assert!(matches!(error, KvsError::Poisoned { .. }), "{error}"),
            }
        }

        fn write_and_wait(&self) {
            let position = self.write();
            self.check(position, &self.watermarks.wait(position, Durability::Always));
        }

        fn write_as_task(&self) {
            let position = self.write();
            let bell =
                Arc::new(Bell { rung: Mutex::new(Rank::Chores, false), call: Condvar::new() });
            let waker = Waker::from(Arc::clone(&bell));
            let told = loop {
                match self.watermarks.on_reached(position, Durability::Always, &waker) {
                    Poll::Ready(told) => break told,
                    Poll::Pending => bell.wait(),
                }
            };
            self.check(position, &told);
        }
    }

    struct Bell {
        rung: Mutex<bool>,
        call: Condvar,
    }

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            *lock(&self.rung) = true;
            self.call.notify_all();
        }
    }

    impl Bell {
        fn wait(&self) {
            let mut rung = lock(&self.rung);
            while !*rung {
                rung = wait(&self.call, rung);
            }
            *rung = false;
        }
    }

    /// Under many schedules: `threads` and `tasks` that each write twice and wait, a committer for
    /// the tasks, and a sync that fails, or none. Shuttle fails if anybody waits for ever.
    fn explore(threads: usize, tasks: usize, fails_at: u64) {
        let set = std::env::var("SHUTTLE_ITERATIONS").ok();
        let iterations = set.and_then(|text| text.parse().ok()).unwrap_or(300);
        let test = move || {
            let store = Store::new(fails_at);
            let start = |work: fn(&Store)| {
                let store = Arc::clone(&store);
                thread::spawn(move || (0..2).for_each(|_| work(&store)))
            };
            let mut workers: Vec<_> = (0..threads).map(|_| start(Store::write_and_wait)).collect();
            workers.extend((0..tasks).map(|_| start(Store::write_as_task)));
            let committer = thread::spawn({
                let store = Arc::clone(&store);
                move || store.watermarks.run()
            });
            for worker in workers {
                worker.join().unwrap();
            }
            store.watermarks.stop();
            committer.join().unwrap();
            let failed = store.watermarks.check().is_err();
            assert!(store.watermarks.durable() <= store.disk.synced.load(Ordering::SeqCst));
            assert!(failed || store.watermarks.durable() == store.watermarks.written());
        };
        shuttle::check_random(test, iterations);
        shuttle::check_pct(test, iterations, 3);
    }

    #[test]
    fn model_threads_that_wait_share_syncs_and_all_go_on() {
        explore(3, 0, 0);
    }

    #[test]
    fn model_tasks_that_wait_are_all_woken() {
        explore(1, 2, 0);
    }

    #[test]
    fn model_a_failed_sync_tells_everybody_who_waits() {
        for fails_at in 1..=3 {
            explore(2, 1, fails_at);
        }
    }
}
