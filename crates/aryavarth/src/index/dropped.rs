//! A dropped generation: the keys of a space that was emptied, until their entries are given back.

use crossbeam_epoch as epoch;

use super::deadlines::Set;
use super::slot::Slot;
use super::spaces::ListCell;
use crate::sync::{Arc, Ordering};

/// A generation that no space has any more. Its keys do not count from then on; the entries are given
/// back later, see [`purge`](Dropped::purge).
#[derive(Clone, Debug)]
pub(crate) struct Dropped {
    list: Arc<ListCell>,
    /// Given back with the last of these, not under the writer's lock.
    _deadlines: Arc<[Set; 2]>,
    /// The place of the record that took it from its space.
    pub(crate) position: u64,
}

impl Dropped {
    pub(super) fn new(list: Arc<ListCell>, deadlines: Arc<[Set; 2]>, position: u64) -> Dropped {
        Dropped { list, _deadlines: deadlines, position }
    }

    /// Whether this is the same generation.
    pub(crate) fn is(&self, other: &Dropped) -> bool {
        Arc::ptr_eq(&self.list, &other.list)
    }

    /// Keys that it had, and bytes of their records.
    pub(crate) fn keys_and_bytes(&self) -> (i64, i64) {
        let load = |count: &crate::sync::AtomicI64| count.load(Ordering::Relaxed);
        self.list.get().map_or((0, 0), |list| (load(&list.keys), load(&list.live_bytes)))
    }

    /// Gives `max` entries back, up to a leaf more, and calls `each` with what their slots held, if that was
    /// a value's record. Returns how many these were, and whether none is left. Any thread may, several
    /// at a time.
    pub(crate) fn purge(&self, max: usize, mut each: impl FnMut(Slot)) -> (usize, bool) {
        let Some(list) = self.list.get() else { return (0, true) };
        let pin = epoch::pin();
        let mut done = 0;
        while done < max {
            let Some(slots) = list.pop(&pin) else { return (done, true) };
            // A leaf without entries is work, too.
            done += slots.len().max(1);
            slots.into_iter().filter(|slot| !slot.is_tombstone()).for_each(&mut each);
        }
        (done, false)
    }
}
