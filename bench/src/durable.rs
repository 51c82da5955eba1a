//! Durable sets beside the least that a durable set must do.
//!
//! The bare loop is one thread that appends 140 bytes (the record of a 16-byte key and a 100-byte
//! value) to an allocated file and syncs it, again and again. The store does the same work with
//! an index, checksums and a manifest around it, once with one thread and once with 64, which share
//! syncs. The three take turns; the first round warms up and is not counted.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aryavarth::KvStore;
use rustix::fs::{FallocateFlags, fallocate};

use crate::args::Args;
use crate::figure::{Figure, per_second, print_machine};
use crate::{BoxError, Outcome, progress};

const RECORD_BYTES: usize = 140;
const ALLOCATION_BYTES: u64 = 64 << 20;
const VALUE: [u8; 100] = [b'v'; 100];
/// After so many sets the keys come again, so that a long run does not fill the memory.
const KEYS: u64 = 1_000_000;
const THREADS_MANY: usize = 64;

pub(crate) fn run(args: &mut Args) -> Outcome {
    let slice = Duration::from_secs(args.take("seconds", 2)?);
    let rounds: usize = args.take("rounds", 9)?;
    let dir: String = args.take("dir", ".".to_owned())?;
    args.finish()?;

    let dir = tempfile::tempdir_in(dir)?;
    let mut bare = BareLoop::create(&dir.path().join("bare"))?;
    let store = KvStore::open(dir.path().join("store"))?;
    let next_key = AtomicU64::new(0);
    let (mut bare_runs, mut one_runs, mut many_runs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let bare_rate = bare.slice(slice)?;
        let one_rate = sets(&store, &next_key, 1, slice)?;
        let many_rate = sets(&store, &next_key, THREADS_MANY, slice)?;
        progress(&format!(
            "round {round} of {rounds}: bare {bare_rate:.0}/s, 1 thread {one_rate:.0}/s, \
             {THREADS_MANY} threads {many_rate:.0}/s"
        ));
        if round > 0 {
            bare_runs.push(bare_rate);
            one_runs.push(one_rate);
            many_runs.push(many_rate);
        }
    }

    let figure = |name: &str, system, runs| Figure {
        name: name.to_owned(),
        system,
        unit: "1/s",
        runs,
        ..Figure::default()
    };
    let bare = figure("append and sync, 1 thread", "bare loop", bare_runs);
    let one = figure("durable sets, 1 thread", "aryavarth", one_runs);
    let many = figure("durable sets, 64 threads", "aryavarth", many_runs);
    print_machine()?;
    bare.print()?;
    Figure { limit: Some(bare.value()), ..one.beside(&bare) }.print()?;
    many.beside(&bare).print()?;
    Ok(true)
}

/// Appends and syncs, and nothing else.
struct BareLoop {
    file: File,
    end: u64,
    allocated: u64,
}

impl BareLoop {
    fn create(path: &Path) -> io::Result<BareLoop> {
        Ok(BareLoop { file: File::create_new(path)?, end: 0, allocated: 0 })
    }

    /// Runs for as long as `slice` and returns the appends per second.
    fn slice(&mut self, slice: Duration) -> io::Result<f64> {
        let record = [b'r'; RECORD_BYTES];
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < slice {
            if self.end + RECORD_BYTES as u64 > self.allocated {
                let (from, more) = (self.allocated, ALLOCATION_BYTES);
                fallocate(&self.file, FallocateFlags::empty(), from, more)?;
                self.allocated += more;
            }
            self.file.write_all_at(&record, self.end)?;
            self.file.sync_data()?;
            self.end += RECORD_BYTES as u64;
            count += 1;
        }
        Ok(per_second(count, start.elapsed()))
    }
}

/// Sets keys from `threads` threads for as long as `slice` and returns the sets per second.
fn sets(
    store: &KvStore,
    next_key: &AtomicU64,
    threads: usize,
    slice: Duration,
) -> Result<f64, BoxError> {
    let start = Instant::now();
    let count = thread::scope(|scope| {
        let work = || -> aryavarth::Result<u64> {
            let mut count = 0;
            while start.elapsed() < slice {
                let key = format!("key{:013}", next_key.fetch_add(1, Ordering::Relaxed) % KEYS);
                store.put(key.as_bytes(), &VALUE)?;
                count += 1;
            }
            Ok(count)
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let counts = workers.into_iter().map(|worker| worker.join().expect("no worker panics"));
        counts.sum::<aryavarth::Result<u64>>()
    })?;
    Ok(per_second(count, start.elapsed()))
}
