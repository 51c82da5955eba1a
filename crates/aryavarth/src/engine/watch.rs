//! Watches: a key's watch says whether the key was written since it was made, whatever its value is
//! by now.
//!
//! It is how `WATCH` notices a key that was set and removed again, which leaves nothing behind that
//! could be compared. Engines keep one [`Watches`] and tell it of each key that they publish.
//!
//! Invariants:
//! - A watch is made, and touched, while the engine's writers are kept out: a closure, which is a
//!   writer, knows of every write since its watches were made.
//! - A store without watches pays one load per write.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::deadline::{Deadline, Now, WALL};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, Rank, lock};

/// Says whether a key was written since the watch was made, see
/// [`KvsEngine::watch`](crate::KvsEngine::watch). Ends when it is dropped.
#[derive(Debug)]
pub struct Watch {
    watches: Arc<Shared>,
    place: Place,
    number: u64,
    touched: Arc<AtomicBool>,
    expires_at: Option<u64>,
}

impl Watch {
    /// The deadline that the key had.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::of(self.expires_at)
    }

    /// Whether the key was set or removed since the watch was made, be it to the same value, or
    /// has expired by `now`. Compaction, and a sweep of keys that had expired before, touch nothing.
    pub fn is_touched(&self, now: impl Into<Now>) -> bool {
        self.touched.load(Ordering::Acquire)
            || self.expires_at.is_some_and(|word| now.into().has_reached(word))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watches.forget(&self.place, self.number);
    }
}

/// A space and a key in it.
type Place = (u32, Vec<u8>);

/// The watches of a key: the number of each, its flag, and the key's deadline when it was made.
type Watchers = Vec<(u64, Arc<AtomicBool>, Option<u64>)>;

/// Every watch of a store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watches {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    count: AtomicU64,
    keys: Mutex<Keys>,
}

#[derive(Debug, Default)]
struct Keys {
    next: u64,
    watched: BTreeMap<Place, Watchers>,
}

impl Watches {
    /// Begins to watch a key whose deadline, if it has one that has not passed, is `expires_at`. The
    /// caller keeps the engine's writers out.
    pub(crate) fn watch(&self, space: u32, key: &[u8], expires_at: Option<u64>) -> Watch {
        let place = (space, key.to_vec());
        let touched = Arc::new(AtomicBool::new(false));
        let mut keys = lock(&self.shared.keys);
        let number = keys.next;
        keys.next += 1;
        let watchers = keys.watched.entry(place.clone()).or_default();
        watchers.push((number, Arc::clone(&touched), expires_at));
        self.shared.count.fetch_add(1, Ordering::Relaxed);
        Watch { watches: Arc::clone(&self.shared), place, number, touched, expires_at }
    }

    /// Whether there is any.
    pub(crate) fn any(&self) -> bool {
        self.shared.count.load(Ordering::Relaxed) > 0
    }

    /// A key is written. The caller keeps the engine's writers out.
    pub(crate) fn touch(&self, space: u32, key: &[u8]) {
        if !self.any() {
            return;
        }
        if let Some(watchers) = lock(&self.shared.keys).watched.get(&(space, key.to_vec())) {
            touch_all(watchers);
        }
    }

    /// The wall clock goes back from `held_ms`: keys that have expired by then are gone, although
    /// their deadline lies ahead again. The caller keeps the engine's writers out.
    pub(crate) fn touch_expired(&self, held_ms: u64) {
        if !self.any() {
            return;
        }
        let held = Now { store_ms: 0, wall_ms: held_ms };
        for (_, touched, expires_at) in lock(&self.shared.keys).watched.values().flatten() {
            if expires_at.is_some_and(|word| word & WALL != 0 && held.has_reached(word)) {
                touched.store(true, Ordering::Release);
            }
        }
    }

    /// A space gets another generation. `is_affected` says whether a key is there before or after.
    pub(crate) fn touch_space(&self, space: u32, mut is_affected: impl FnMut(&[u8]) -> bool) {
        if !self.any() {
            return;
        }
        let keys = lock(&self.shared.keys);
        let from_here = keys.watched.range((space, Vec::new())..);
        for ((_, key), watchers) in from_here.take_while(|((at, _), _)| *at == space) {
            if is_affected(key) {
                touch_all(watchers);
            }
        }
    }
}

impl Default for Shared {
    fn default() -> Shared {
        Shared { count: AtomicU64::new(0), keys: Mutex::new(Rank::Watches, Keys::default()) }
    }
}

impl Shared {
    fn forget(&self, place: &Place, number: u64) {
        let mut keys = lock(&self.keys);
        if let Entry::Occupied(mut watchers) = keys.watched.entry(place.clone()) {
            watchers.get_mut().retain(|(other, ..)| *other != number);
            if watchers.get().is_empty() {
                watchers.remove();
            }
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

fn touch_all(watchers: &Watchers) {
    for (_, touched, _) in watchers {
        touched.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_knows_of_its_own_key_and_no_other() {
        let watches = Watches::default();
        let watch = watches.watch(1, b"k", None);
        let twin = watches.watch(1, b"k", None);
        watches.touch(0, b"k");
        watches.touch(1, b"kk");
        watches.touch_space(0, |_| true);
        watches.touch_space(2, |_| true);
        watches.touch_space(1, |_| false);
        assert!(!watch.is_touched(0));
        watches.touch(1, b"k");
        assert!(watch.is_touched(0) && twin.is_touched(0));
        assert!(!watches.watch(1, b"k", None).is_touched(0), "that was before it");
        drop((watch, twin));
        assert!(!watches.any());
    }

    #[test]
    fn a_key_that_expires_is_touched() {
        let watches = Watches::default();
        let watch = watches.watch(0, b"k", Some(100));
        assert!(!watch.is_touched(99));
        assert!(watch.is_touched(100));
    }
}
