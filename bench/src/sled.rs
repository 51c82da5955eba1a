//! Durable sets on sled: through `SledKvsEngine`, which syncs, beside sled's own `flush`, which
//! does not.
//!
//! `flush` returns when the system has given the bytes to the disk, not when the disk has them for
//! good; it is labelled so. The two take turns, once with one thread and once with 64; the first
//! round warms up and is not counted. The last figures say how many sets shared a sync.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aryavarth::{KvsEngine, KvsError, SledKvsEngine};

use crate::args::Args;
use crate::figure::{Figure, as_f64, per_second, print_machine};
use crate::{Outcome, progress};

const VALUE_BYTES: usize = 100;
/// After so many sets the keys come again, so that a long run does not fill the memory.
const KEYS: u64 = 1_000_000;
const THREADS: [usize; 2] = [1, 64];
const OURS: &str = "SledKvsEngine";
const PLAIN: &str = "plain sled, insert and flush: not a sync";

/// What is measured with one number of threads.
#[derive(Default)]
struct Runs {
    plain: Vec<f64>,
    ours: Vec<f64>,
    sets_per_sync: Vec<f64>,
}

pub(crate) fn run(args: &mut Args) -> Outcome {
    let slice = Duration::from_secs(args.take("seconds", 2)?);
    let rounds: usize = args.take("rounds", 9)?;
    let dir: String = args.take("dir", ".".to_owned())?;
    args.finish()?;

    let dir = tempfile::tempdir_in(dir)?;
    // sled's own flusher would add syncs to the side that is said to have none.
    let plain = ::sled::Config::new().path(dir.path().join("plain")).flush_every_ms(None).open()?;
    let ours = SledKvsEngine::new(dir.path().join("ours"))?;
    let mut all = [Runs::default(), Runs::default()];
    for round in 0..=rounds {
        for (threads, runs) in THREADS.into_iter().zip(&mut all) {
            let plain_rate = sets(threads, slice, |key, value| {
                let done = plain.insert(key, value.into_bytes()).and_then(|_| plain.flush());
                done.map(drop).map_err(|error| KvsError::Engine(Arc::new(error)))
            })?;
            let before = ours.stats().syncs;
            let our_rate = sets(threads, slice, |key, value| ours.set(key, value))?;
            let syncs = ours.stats().syncs - before;
            progress(&format!(
                "round {round} of {rounds}, {threads} threads: plain {plain_rate:.0}/s, \
                 SledKvsEngine {our_rate:.0}/s with {syncs} syncs"
            ));
            if round > 0 {
                runs.plain.push(plain_rate);
                runs.ours.push(our_rate);
                runs.sets_per_sync.push(our_rate * slice.as_secs_f64() / as_f64(syncs));
            }
        }
    }

    print_machine()?;
    for (threads, runs) in THREADS.into_iter().zip(all) {
        let figure = |name: &str, system, unit, runs| Figure {
            name: format!("{name}, {threads} threads"),
            system,
            unit,
            runs,
            ..Figure::default()
        };
        let plain = figure("sets", PLAIN, "1/s", runs.plain);
        plain.print()?;
        figure("durable sets", OURS, "1/s", runs.ours).beside(&plain).print()?;
        figure("sets that shared a sync", OURS, "1", runs.sets_per_sync).print()?;
    }
    Ok(true)
}

/// Sets keys from `threads` threads for as long as `slice` and returns the sets per second.
fn sets(
    threads: usize,
    slice: Duration,
    set: impl Fn(String, String) -> aryavarth::Result<()> + Sync,
) -> aryavarth::Result<f64> {
    static NEXT_KEY: AtomicU64 = AtomicU64::new(0);
    let start = Instant::now();
    let count = thread::scope(|scope| {
        let work = || {
            let mut count = 0;
            while start.elapsed() < slice {
                let key = format!("key{:013}", NEXT_KEY.fetch_add(1, Ordering::Relaxed) % KEYS);
                set(key, "v".repeat(VALUE_BYTES))?;
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
