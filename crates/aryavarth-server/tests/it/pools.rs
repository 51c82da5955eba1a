//! One contract, told on every thread pool: a spawned job runs, whatever its neighbours do.

use std::cell::RefCell;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;

use aryavarth_server::{NaiveThreadPool, RayonThreadPool, SharedQueueThreadPool, ThreadPool};

use crate::support::PATIENCE;

macro_rules! told_on_every_pool {
    ($($story:ident),+ $(,)?) => {
        mod shared_queue {
            $(#[test] fn $story() { super::$story::<super::SharedQueueThreadPool>(); })+
        }
        mod rayon {
            $(#[test] fn $story() { super::$story::<super::RayonThreadPool>(); })+
        }
        mod naive {
            $(#[test] fn $story() { super::$story::<super::NaiveThreadPool>(); })+
        }
    };
}

told_on_every_pool!(
    a_thousand_panics_cost_no_worker,
    dropping_the_pool_runs_what_is_queued_and_joins_the_threads,
    every_job_runs_once_whatever_thread_spawned_it,
    a_job_can_spawn_a_job,
    a_job_may_drop_the_pool_that_runs_it,
    no_threads_are_no_pool,
);

const THREADS: u32 = 4;

/// Waits until `count` jobs run at the same time, which takes as many workers.
fn workers_meet(pool: &impl ThreadPool, count: usize) {
    let room = Arc::new((Mutex::new(0), Condvar::new()));
    let (met, meetings) = mpsc::channel();
    for _ in 0..count {
        let (room, met) = (Arc::clone(&room), met.clone());
        pool.spawn(move || {
            let (present, changed) = &*room;
            let mut guard = present.lock().unwrap();
            *guard += 1;
            changed.notify_all();
            let (guard, late) =
                changed.wait_timeout_while(guard, PATIENCE, |present| *present < count).unwrap();
            drop(guard);
            met.send(!late.timed_out()).unwrap();
        });
    }
    for _ in 0..count {
        assert!(meetings.recv().unwrap(), "there were no {count} workers");
    }
}

fn a_thousand_panics_cost_no_worker<P: ThreadPool>() {
    let pool = P::new(THREADS).unwrap();
    workers_meet(&pool, THREADS as usize);
    for _ in 0..1000 {
        // Without the panic hook, which would print a thousand reports.
        pool.spawn(|| resume_unwind(Box::new("a job that fails, as this test wants")));
    }
    workers_meet(&pool, THREADS as usize);
}

/// Counts a thread from its first job until it ends.
struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

thread_local! {
    static ALIVE: RefCell<Option<Alive>> = const { RefCell::new(None) };
}

fn count_this_thread(alive: &Arc<AtomicUsize>) {
    ALIVE.with_borrow_mut(|counted| {
        counted.get_or_insert_with(|| {
            alive.fetch_add(1, Ordering::SeqCst);
            Alive(Arc::clone(alive))
        });
    });
}

fn dropping_the_pool_runs_what_is_queued_and_joins_the_threads<P: ThreadPool>() {
    let (ran, alive) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let pool = P::new(THREADS).unwrap();
    let mut gates = Vec::new();
    for _ in 0..THREADS {
        let (open, gate) = mpsc::channel::<()>();
        gates.push(open);
        pool.spawn(move || gate.recv().unwrap());
    }
    for _ in 0..10_000 {
        let (ran, alive) = (Arc::clone(&ran), Arc::clone(&alive));
        pool.spawn(move || {
            count_this_thread(&alive);
            ran.fetch_add(1, Ordering::SeqCst);
        });
    }
    for open in gates {
        open.send(()).unwrap();
    }
    drop(pool);
    assert_eq!(ran.load(Ordering::SeqCst), 10_000, "jobs were lost");
    assert_eq!(alive.load(Ordering::SeqCst), 0, "threads were not joined");
}

fn every_job_runs_once_whatever_thread_spawned_it<P: ThreadPool>() {
    let pool = P::new(THREADS).unwrap();
    let (done, results) = mpsc::channel();
    thread::scope(|scope| {
        for spawner in 0..4 {
            let (pool, done) = (&pool, done.clone());
            scope.spawn(move || {
                for number in 0..250 {
                    let done = done.clone();
                    pool.spawn(move || done.send(spawner * 250 + number).unwrap());
                }
            });
        }
    });
    drop(done);
    let mut numbers: Vec<u32> = results.iter().collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
}

fn a_job_can_spawn_a_job<P: ThreadPool>() {
    let pool = Arc::new(P::new(1).unwrap());
    let (done, result) = mpsc::channel();
    let within = Arc::clone(&pool);
    pool.spawn(move || within.spawn(move || done.send("second").unwrap()));
    assert_eq!(result.recv_timeout(PATIENCE), Ok("second"));
}

fn a_job_may_drop_the_pool_that_runs_it<P: ThreadPool>() {
    let pool = Arc::new(P::new(2).unwrap());
    let (done, results) = mpsc::channel();
    let (to_job, from_test) = mpsc::channel::<()>();
    let (last, dropped) = (Arc::clone(&pool), done.clone());
    pool.spawn(move || {
        from_test.recv().unwrap();
        drop(last);
        dropped.send("dropped").unwrap();
    });
    for _ in 0..10 {
        let done = done.clone();
        pool.spawn(move || done.send("queued").unwrap());
    }
    drop(pool);
    to_job.send(()).unwrap();
    drop(done);
    let mut said: Vec<&str> = Vec::new();
    while let Ok(word) = results.recv_timeout(PATIENCE) {
        said.push(word);
    }
    said.sort_unstable();
    assert_eq!((said.len(), said[0], said[10]), (11, "dropped", "queued"));
}

fn no_threads_are_no_pool<P: ThreadPool>() {
    assert!(P::new(0).is_err());
}
