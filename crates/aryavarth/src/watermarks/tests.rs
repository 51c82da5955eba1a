//! The hand-over between callers that wait and the one that syncs, under shuttle: see `tests/shuttle.rs`.

use std::io;
use std::path::PathBuf;
use std::task::{Poll, Wake, Waker};

use super::*;
use crate::fs::{IoError, Site};
use crate::sync::{thread, wait};

/// A disk that knows the bytes that it has, and may fail at one of its syncs.
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

    /// Compares an answer for `position` with the disk.
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
        let bell = Arc::new(Bell { rung: Mutex::new(Rank::Chores, false), call: Condvar::new() });
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
    let iterations = set.and_then(|text| text.parse().ok()).unwrap_or(5_000);
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
