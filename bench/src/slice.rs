//! One slice: the same operation again and again, by some threads, for some time.

use std::thread;
use std::time::{Duration, Instant};

use crate::data::Rng;
use crate::figure::per_second;
use crate::outcome::BoxError;

/// The work of a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    pub(crate) threads: usize,
    pub(crate) time: Duration,
    /// Operations between two looks at the clock, which costs as much as a fast operation.
    pub(crate) stride: u64,
    /// Seeds the threads' random numbers; the same for all systems of a round.
    pub(crate) seed: u64,
}

impl Slice {
    /// Runs `operation`, which gets its thread's random numbers and buffer; returns how often per
    /// second it ran. The first error ends its thread and, in the end, the run.
    pub(crate) fn rate(
        self,
        operation: impl Fn(&mut Rng, &mut Vec<u8>) -> Result<(), BoxError> + Sync,
    ) -> Result<f64, BoxError> {
        let start = Instant::now();
        let work = |thread: u64| -> Result<u64, BoxError> {
            let mut rng = Rng::new(self.seed << 16 | thread);
            let mut buffer = Vec::new();
            let mut count = 0;
            while start.elapsed() < self.time {
                for _ in 0..self.stride {
                    operation(&mut rng, &mut buffer)?;
                }
                count += self.stride;
            }
            Ok(count)
        };
        let count = thread::scope(|scope| {
            let threads = 0..self.threads as u64;
            let threads: Vec<_> = threads.map(|thread| scope.spawn(move || work(thread))).collect();
            let counts = threads.into_iter().map(|thread| thread.join().expect("it panics not"));
            counts.sum::<Result<u64, BoxError>>()
        })?;
        Ok(per_second(count, start.elapsed()))
    }
}

/// The order of those that are measured in a round: it begins elsewhere each time, and runs backwards in every
/// other round.
pub(crate) fn turn(round: usize, systems: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..systems).map(|at| (at + round) % systems).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const SLICE: Slice = Slice { threads: 3, time: Duration::from_millis(20), stride: 2, seed: 1 };

    #[test]
    fn a_rate_counts_what_all_threads_did() {
        let ran = AtomicU64::new(0);
        let operation = |_: &mut Rng, _: &mut Vec<u8>| {
            ran.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(1));
            Ok(())
        };
        assert!(SLICE.rate(operation).unwrap() > 0.0);
        assert!(ran.into_inner() >= 3);
    }

    #[test]
    fn an_error_is_passed_on() {
        assert!(SLICE.rate(|_, _| Err("gone".into())).is_err());
    }

    #[test]
    fn everyone_has_a_turn_and_neighbours_change() {
        assert_eq!(turn(0, 4), [0, 1, 2, 3]);
        assert_eq!(turn(1, 4), [0, 3, 2, 1]);
        assert_eq!(turn(2, 4), [2, 3, 0, 1]);
    }
}
