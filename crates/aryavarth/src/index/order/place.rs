//! The place of a leaf: where a node of the directory keeps its present leaf.
//!
//! Invariant: a place always has a leaf. A leaf that was replaced is destroyed an epoch later, so that
//! readers which have it read on.

use crossbeam_epoch::{Atomic, Guard, Owned};

use crate::index::leaf::Leaf;
use crate::sync::Ordering;

/// The present leaf of a node.
pub(super) struct Place(Atomic<Leaf>);

impl Place {
    pub(super) fn new(leaf: Leaf) -> Place {
        Place(Atomic::new(leaf))
    }

    pub(super) fn leaf<'g>(&self, pin: &'g Guard) -> &'g Leaf {
        // SAFETY: a place always has a leaf; one that was replaced is destroyed after an epoch, and
        // the pin is older than that.
        #[expect(unsafe_code, reason = "a pointer that an epoch protects")]
        unsafe {
            self.0.load(Ordering::Acquire, pin).deref()
        }
    }

    /// Shows another leaf.
    pub(super) fn replace(&self, leaf: Leaf, pin: &Guard) {
        let old = self.0.swap(Owned::new(leaf), Ordering::AcqRel, pin);
        // SAFETY: the old leaf is out of reach for new readers, and only the writer replaces leaves,
        // so it is destroyed once.
        #[expect(unsafe_code, reason = "an epoch protects the readers that have it")]
        unsafe {
            pin.defer_destroy(old);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let leaf = std::mem::replace(&mut self.0, Atomic::null());
        // SAFETY: the node is dropped an epoch after it left the list, or with the list, so no
        // thread reads its leaf.
        #[expect(unsafe_code, reason = "the end of the owner of the leaf")]
        unsafe {
            drop(leaf.try_into_owned());
        }
    }
}
