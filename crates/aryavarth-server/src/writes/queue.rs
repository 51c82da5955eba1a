//! The queue of blind writes: which of them go to the engine together, and how many collectors
//! they need. Knows no engine and no pool.
//!
//! Invariants:
//! - While the queue holds anything, a collector runs or is queued.
//! - Batches leave the queue in the order in which they came.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use aryavarth::{Batch, Position};
use tokio::sync::oneshot;

use crate::budget::Share;
use crate::clients::WritePass;

/// Bytes of batches that go to the engine together, at least the first of them: others wait.
pub(crate) const TOGETHER_BYTES_MAX: usize = 256 << 10;
/// Batches of several connections that go to the engine together. They are looked at twice, so more
/// of them would be out of the processor's cache the second time; fewer are more calls.
const TOGETHER_BATCHES: usize = 64;
/// Batches in the queue for which one collector is enough; finding their keys takes the time.
const COLLECTOR_BATCHES: usize = 64;
/// More collectors than this would only wait for the engine's lock.
const COLLECTORS_MAX: usize = 4;

/// The outcome of batches that were handed to the engine together.
#[derive(Debug)]
pub(crate) struct Written {
    /// Of each in order; nothing is known if the engine panicked.
    pub(crate) outcomes: Option<Vec<aryavarth::Result<(u64, Position)>>>,
    /// When the engine was called, and when it had written.
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
}

/// A place among the jobs, and a pass of the clients' pause.
pub(crate) type Permits = (Share, Option<WritePass>);

/// The batches of one connection.
pub(crate) struct PendingWrite {
    pub(crate) space: u32,
    pub(crate) batches: Vec<Batch>,
    /// Kept until the batches are in the log.
    pub(crate) permits: Permits,
    /// Whether the answer is of no use before it is on disk.
    pub(crate) is_durable_only: bool,
    pub(crate) answer: oneshot::Sender<Written>,
}

#[derive(Default)]
struct Queue {
    pending: VecDeque<PendingWrite>,
    /// Batches of all of them.
    batches: usize,
    /// Collectors that run or are queued.
    collectors: usize,
}

/// The queue of a server.
#[derive(Default)]
pub(crate) struct Writes {
    queue: Mutex<Queue>,
}

impl Writes {
    /// Nothing that can panic runs under the lock, so a poisoned one is whole.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues batches; returns whether they need another collector.
    pub(crate) fn push(&self, pending: PendingWrite) -> bool {
        let mut queue = self.lock();
        queue.batches += pending.batches.len();
        queue.pending.push_back(pending);
        let wanted = (queue.batches / COLLECTOR_BATCHES).clamp(1, COLLECTORS_MAX);
        let more = queue.collectors < wanted;
        queue.collectors += usize::from(more);
        more
    }

    /// Whether another collector has work to do in the place of this one.
    pub(crate) fn goes_on(&self) -> bool {
        let mut queue = self.lock();
        let goes_on = !queue.pending.is_empty();
        queue.collectors -= usize::from(!goes_on);
        goes_on
    }

    /// The first batches of the queue, as far as they go together; the collector ends if there are
    /// none.
    pub(crate) fn next(&self) -> Vec<PendingWrite> {
        let mut queue = self.lock();
        let (mut batches, mut bytes) = (0, 0);
        let mut together = Vec::new();
        while batches < TOGETHER_BATCHES
            && bytes < TOGETHER_BYTES_MAX
            && let Some(next) = queue.pending.front()
            && together.first().is_none_or(|first: &PendingWrite| first.space == next.space)
            && let Some(pending) = queue.pending.pop_front()
        {
            batches += pending.batches.len();
            bytes += pending.batches.iter().map(Batch::bytes).sum::<usize>();
            together.push(pending);
        }
        queue.batches -= batches;
        queue.collectors -= usize::from(together.is_empty());
        together
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;

    fn pending(space: u32, batches: usize) -> PendingWrite {
        let batches = (0..batches).map(|n| Batch::from([(n.to_string(), "v")])).collect();
        let permits = (Budget::new(1).take(0).unwrap(), None);
        let (answer, _) = oneshot::channel();
        PendingWrite { space, batches, permits, is_durable_only: false, answer }
    }

    #[test]
    fn a_queue_with_batches_has_a_collector_and_an_empty_one_has_none() {
        let writes = Writes::default();
        assert!(writes.push(pending(0, 1)), "the first batch needs a collector");
        assert!(!writes.push(pending(0, 1)), "one is enough for two");
        assert_eq!(writes.next().len(), 2);
        // A batch arrives while the collector writes.
        assert!(!writes.push(pending(0, 1)));
        assert_eq!(writes.next().len(), 1);
        assert!(writes.next().is_empty());
        assert_eq!(writes.lock().collectors, 0);
        assert!(writes.push(pending(0, 1)), "its collector has ended");
    }

    #[test]
    fn batches_of_one_space_go_together_in_their_order() {
        let writes = Writes::default();
        for (space, batches) in [(0, 1), (0, 2), (1, 3), (0, 4)] {
            writes.push(pending(space, batches));
        }
        let mut taken = Vec::new();
        loop {
            let together = writes.next();
            if together.is_empty() {
                break;
            }
            taken.push(together.iter().map(|one| one.batches.len()).collect::<Vec<_>>());
        }
        assert_eq!(taken, [vec![1, 2], vec![3], vec![4]]);
    }

    #[test]
    fn many_batches_get_more_collectors_up_to_four() {
        let writes = Writes::default();
        let started = (0..1000).filter(|_| writes.push(pending(0, 2))).count();
        assert_eq!(started, COLLECTORS_MAX);
        // A collector that gives its thread back leaves its work to the next.
        assert!(writes.goes_on());
        assert_eq!(writes.lock().collectors, COLLECTORS_MAX);
    }
}
