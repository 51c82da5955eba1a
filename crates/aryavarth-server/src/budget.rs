//! Budgets that all connections share: a plain one, which refuses, and one of memory for replies,
//! which lets a connection wait.
//!
//! ```text
//!  call ---> Allowance::fits(bytes) --yes--> reply made ---> queued ---> sent
//!                ^        |                  (share grows)              (share shrinks)
//!                |        no: nothing is done
//!                |        v
//!                +--- OutputBudget::room(bytes): first come, first served
//! ```
//!
//! Terms: a *share* is a part of a budget, given back on drop. An *allowance* is the memory that the
//! replies of one run of calls may take: the rest of the connection's free bytes, and a share.
//!
//! Invariants:
//! - Shares never exceed the whole, also when a holder panics or is cancelled.
//! - A connection that waits for room holds none: its own replies have left before. So each holder
//!   either sends or is closed as a slow client, and room comes back.
//! - Any single reply is granted once nothing else is held, however large it is; so one client can
//!   always get one reply up to the limits.
//! - A reply of known length has its room before it is made, as far as it is long: a value's length is
//!   in the index. So replies take no memory beyond the budget while the pool makes them.
//! - The first [`FREE_OUTPUT_BYTES`] of a connection take nothing, so short replies never wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// An amount to take from, and its taken part.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    taken: Arc<AtomicUsize>,
    whole: usize,
}

impl Budget {
    pub(crate) fn new(whole: usize) -> Self {
        Budget { taken: Arc::default(), whole }
    }

    /// Takes `amount`, or `None` if there is not that much left.
    pub(crate) fn take(&self, amount: usize) -> Option<Share> {
        let mut share = Share { budget: self.clone(), amount: 0 };
        share.resize(amount).then_some(share)
    }

    /// The taken part.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

/// A part of a [`Budget`], given back on drop.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Budget,
    amount: usize,
}

impl Share {
    /// How large the share is.
    pub(crate) fn amount(&self) -> usize {
        self.amount
    }

    /// Makes the share `amount` large; `false`, and no change, if there is not that much left.
    pub(crate) fn resize(&mut self, amount: usize) -> bool {
        if amount <= self.amount {
            self.budget.taken.fetch_sub(self.amount - amount, Ordering::Relaxed);
            self.amount = amount;
            return true;
        }
        let more = amount - self.amount;
        let take = |taken: usize| taken.checked_add(more).filter(|sum| *sum <= self.budget.whole);
        let result = self.budget.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        if result.is_ok() {
            self.amount = amount;
        }
        result.is_ok()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

/// Replies that a connection may have unsent without a share, in bytes.
pub(crate) const FREE_OUTPUT_BYTES: usize = 16 << 10;
/// The unit in which memory for replies is given out, in bytes.
const PAGE_BYTES: usize = 4 << 10;

/// Memory for the replies of all connections. Clones are the same budget.
#[derive(Clone, Debug)]
pub(crate) struct OutputBudget(Arc<Output>);

#[derive(Debug)]
struct Output {
    pages: Arc<Semaphore>,
    whole: u32,
    waiting: AtomicUsize,
    waits: AtomicU64,
}

/// Figures of an [`OutputBudget`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutputFigures {
    /// Bytes that replies may take, and do take.
    pub(crate) whole_bytes: u64,
    pub(crate) taken_bytes: u64,
    /// Connections that wait for room, and how often one has had to.
    pub(crate) waiting: usize,
    pub(crate) waits: u64,
}

impl OutputBudget {
    pub(crate) fn new(bytes: usize) -> Self {
        let whole = pages(bytes).max(1);
        let pages = Arc::new(Semaphore::new(whole as usize));
        let (waiting, waits) = (AtomicUsize::new(0), AtomicU64::new(0));
        OutputBudget(Arc::new(Output { pages, whole, waiting, waits }))
    }

    /// A share of nothing.
    pub(crate) fn none(&self) -> OutputShare {
        OutputShare { budget: self.clone(), permit: None }
    }

    /// Waits for a share of `bytes`, or of the whole if that is less. The longest waiter is served
    /// first; until it is, no later one is.
    pub(crate) async fn room(&self, bytes: usize) -> OutputShare {
        let waiting = Waiting::new(self);
        let wanted = pages(bytes).min(self.0.whole);
        // Nothing closes the semaphore.
        let permit = Arc::clone(&self.0.pages).acquire_many_owned(wanted).await.ok();
        drop(waiting);
        OutputShare { budget: self.clone(), permit }
    }

    pub(crate) fn figures(&self) -> OutputFigures {
        let whole = self.0.whole as usize;
        let taken = whole.saturating_sub(self.0.pages.available_permits());
        OutputFigures {
            whole_bytes: (whole * PAGE_BYTES) as u64,
            taken_bytes: (taken * PAGE_BYTES) as u64,
            waiting: self.0.waiting.load(Ordering::Relaxed),
            waits: self.0.waits.load(Ordering::Relaxed),
        }
    }
}

/// Counts a connection while it waits for room.
struct Waiting<'a>(&'a Output);

impl<'a> Waiting<'a> {
    fn new(budget: &'a OutputBudget) -> Self {
        budget.0.waiting.fetch_add(1, Ordering::Relaxed);
        budget.0.waits.fetch_add(1, Ordering::Relaxed);
        Waiting(&budget.0)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Memory for replies that was granted; given back on drop.
#[derive(Debug)]
pub(crate) struct OutputShare {
    budget: OutputBudget,
    permit: Option<OwnedSemaphorePermit>,
}

impl OutputShare {
    /// Whether nothing was granted.
    pub(crate) fn is_empty(&self) -> bool {
        self.permit.as_ref().is_none_or(|permit| permit.num_permits() == 0)
    }

    fn pages(&self) -> u32 {
        let pages = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        u32::try_from(pages).unwrap_or(u32::MAX)
    }

    /// Makes the share at least `bytes` large; `false`, and no change, if there is not that much
    /// left, or others wait for it.
    fn grow(&mut self, bytes: usize) -> bool {
        let (has, wanted) = (self.pages(), pages(bytes).min(self.budget.0.whole));
        if wanted <= has {
            return true;
        }
        match Arc::clone(&self.budget.0.pages).try_acquire_many_owned(wanted - has) {
            Ok(more) => {
                self.add(Some(more));
                true
            }
            Err(_none) => false,
        }
    }

    fn add(&mut self, more: Option<OwnedSemaphorePermit>) {
        match (&mut self.permit, more) {
            (Some(permit), Some(more)) => permit.merge(more),
            (none @ None, more) => *none = more,
            (Some(_), None) => {}
        }
    }

    /// Takes another share of the same budget over.
    pub(crate) fn merge(&mut self, mut other: OutputShare) {
        self.add(other.permit.take());
    }

    /// Gives back all but `bytes`.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let over = self.pages().saturating_sub(pages(bytes));
        if over > 0
            && let Some(permit) = &mut self.permit
        {
            drop(permit.split(over as usize));
        }
    }
}

fn pages(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PAGE_BYTES)).unwrap_or(u32::MAX)
}

/// Memory that the replies of one run of calls may take.
#[derive(Debug)]
pub(crate) struct Allowance {
    /// None where nothing is counted.
    share: Option<OutputShare>,
    free: usize,
    used: usize,
    /// Bytes that a reply would have needed; nothing was done for it.
    wanted: Option<usize>,
}

impl Allowance {
    /// An allowance of `free` bytes beside the share.
    pub(crate) fn new(share: OutputShare, free: usize) -> Self {
        Allowance { share: Some(share), free, used: 0, wanted: None }
    }

    /// Whether a reply of `bytes` may be made; takes room for it if there is any.
    pub(crate) fn fits(&mut self, bytes: usize) -> bool {
        let used = self.used.saturating_add(bytes);
        let fits = used <= self.free || self.grow(used - self.free);
        self.wanted = if fits { None } else { Some(bytes) };
        fits
    }

    /// Takes the bytes of a reply that was made: granted by [`fits`](Allowance::fits), or one that
    /// is bounded by other limits and cannot be taken back.
    pub(crate) fn take(&mut self, bytes: usize) {
        self.used = self.used.saturating_add(bytes);
        if self.used > self.free {
            self.grow(self.used - self.free);
        }
    }

    fn grow(&mut self, bytes: usize) -> bool {
        self.share.as_mut().is_none_or(|share| share.grow(bytes))
    }

    /// The bytes that a reply would have needed, once.
    pub(crate) fn wanted(&mut self) -> Option<usize> {
        self.wanted.take()
    }

    /// Ends the run: the share that covers its replies.
    pub(crate) fn end(&mut self) -> Option<OutputShare> {
        std::mem::take(self).share
    }
}

impl Default for Allowance {
    /// An allowance without a bound.
    fn default() -> Self {
        Allowance { share: None, free: 0, used: 0, wanted: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_whole_and_no_more() {
        let budget = Budget::new(10);
        let mut a = budget.take(6).unwrap();
        assert!(budget.take(5).is_none());
        let b = budget.take(4).unwrap();
        assert!(!a.resize(7));
        drop(b);
        assert!(a.resize(10));
        assert!(a.resize(1));
        assert_eq!(budget.taken(), 1);
        drop(a);
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn room_for_replies_is_granted_in_turn_and_given_back() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let budget = OutputBudget::new(10 * PAGE_BYTES);
        let mut first = budget.none();
        assert!(first.grow(8 * PAGE_BYTES) && !budget.none().grow(3 * PAGE_BYTES));
        runtime.block_on(async {
            let large = tokio::spawn({
                let budget = budget.clone();
                async move { budget.room(usize::MAX).await }
            });
            tokio::task::yield_now().await;
            assert_eq!(budget.figures().waiting, 1);
            // The budget has room for a small one, but the large one was there before.
            assert!(!budget.none().grow(PAGE_BYTES));
            first.shrink(PAGE_BYTES);
            tokio::task::yield_now().await;
            assert_eq!(budget.figures().waiting, 1, "all of it is not free yet");
            drop(first);
            let large = large.await.unwrap();
            assert_eq!(budget.figures().taken_bytes, budget.figures().whole_bytes);
            drop(large);
        });
        let figures = budget.figures();
        assert_eq!((figures.taken_bytes, figures.waiting, figures.waits), (0, 0, 1));
    }

    #[test]
    fn an_allowance_takes_what_is_free_first() {
        let budget = OutputBudget::new(10 * PAGE_BYTES);
        let mut allowance = Allowance::new(budget.none(), 100);
        assert!(allowance.fits(100));
        allowance.take(100);
        assert_eq!(budget.figures().taken_bytes, 0);
        assert!(allowance.fits(1));
        allowance.take(1);
        assert_eq!(budget.figures().taken_bytes, PAGE_BYTES as u64);
        let mut other = budget.none();
        assert!(other.grow(5 * PAGE_BYTES) && !allowance.fits(6 * PAGE_BYTES));
        assert_eq!((allowance.wanted(), allowance.wanted()), (Some(6 * PAGE_BYTES), None));
        drop((allowance.end(), other));
        assert_eq!(budget.figures().taken_bytes, 0);
    }
}
