//! A number that many may take from, and that gets back what was taken.
//!
//! Invariant: what is taken never exceeds the whole, and whoever took gives back, also when it
//! panics or is cancelled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What there is to take, in all.
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

    /// What is taken.
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
}
