//! The order of the engine's locks, and the check that every thread keeps it.
//!
//! ```text
//! Progress -> Threads -> Compacting -> Sealing -> Growth -> Writer   -> Applying -> leaves -> Clock    -> SimDisk
//!                        ScrubPass                          Spaces      Naming                Segments
//!                        DamageNote                         Manifest                          Lists
//! ```
//!
//! A thread takes locks from left to right. Of a column it holds one lock at most: a thread that
//! holds the writer's lock never takes the manifest's, and under a leaf no thread takes another leaf.
//! Two threads that both keep this order never wait for each other.
//!
//! A build with debug assertions checks each lock against those that its thread holds, before it
//! waits: a wrong order panics in the first test that comes by, without the second thread that a
//! deadlock needs. A release build has neither ranks nor checks.
//!
//! Invariants:
//! - [`Held`] is empty in a release build.
//! - Code of the user that runs under a lock ([`Apart`]) begins with an empty hand: its own stores
//!   and locks have nothing to do with the lock that it runs under.

#[cfg(debug_assertions)]
use std::cell::Cell;

#[cfg(debug_assertions)]
use crate::sync::thread_local;

/// The place of a lock in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rank {
    /// A user's callback of progress, which runs under it.
    Progress,
    /// An engine of three methods, while it is cloned.
    Plain,
    /// The background threads of a store.
    Threads,
    /// One round of compaction.
    Compacting,
    /// The place of a scrubber's pass.
    ScrubPass,
    /// The note of damage, while it is written.
    DamageNote,
    /// One seal of segments.
    Sealing,
    /// The room for the log: allocation and reserves.
    Growth,
    /// The writers of a store.
    Writer,
    /// The maps of the engine in memory.
    Spaces,
    Manifest,
    /// sled's writes between claim and publication.
    #[cfg(feature = "sled")]
    Applying,
    /// One damaged file whose records are named.
    Naming,
    /// The work and the results of a few threads for one call.
    Queue,
    Results,
    /// Facts that salvage has learnt.
    Learnt,
    /// The rest, the call and the end of background threads.
    Chores,
    Retired,
    Watches,
    Waiters,
    Unsynced,
    /// Since when the disk is full.
    FullSince,
    /// Damage that the scrubber found.
    Found,
    /// The end of the scrubber.
    Stopped,
    /// Places of walks.
    Guide,
    /// Large values of sled that were synced.
    #[cfg(feature = "sled")]
    Blobs,
    #[cfg(feature = "sled")]
    SweepHeld,
    #[cfg(feature = "sled")]
    Bell,
    /// The threads behind futures, their queue, and the results that tasks wait for.
    #[cfg(feature = "async")]
    Workers,
    #[cfg(feature = "async")]
    Jobs,
    #[cfg(feature = "async")]
    Answer,
    Clock,
    /// Free numbers of segments in their table. The collector of epochs may take it at any pin.
    Segments,
    /// Free numbers of the index's lists. The same.
    Lists,
    /// The state of a simulated disk.
    SimDisk,
    /// The files of a view, and the bytes of one.
    View,
}

#[cfg(debug_assertions)]
impl Rank {
    /// The column of the drawing.
    fn level(self) -> u32 {
        match self {
            Rank::Progress | Rank::Plain => 0,
            Rank::Threads => 1,
            Rank::Compacting | Rank::ScrubPass | Rank::DamageNote => 2,
            Rank::Sealing => 3,
            Rank::Growth => 4,
            Rank::Writer | Rank::Spaces | Rank::Manifest => 5,
            #[cfg(feature = "sled")]
            Rank::Applying => 6,
            Rank::Naming => 6,
            Rank::Clock | Rank::Segments | Rank::Lists => 8,
            Rank::SimDisk | Rank::View => 9,
            _ => 7,
        }
    }
}

#[cfg(debug_assertions)]
const LEVELS: usize = 10;

#[cfg(debug_assertions)]
type Hand = [Option<Rank>; LEVELS];

#[cfg(debug_assertions)]
thread_local! {
    // Without a destructor, so that locks can be taken while a thread ends.
    /// The lock that the thread holds of each column.
    static HAND: Cell<Hand> = const { Cell::new([None; LEVELS]) };
}

/// A lock's rank where it is checked, and nothing elsewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    #[cfg(debug_assertions)]
    rank: Rank,
}

impl Place {
    #[cfg(debug_assertions)]
    pub(super) fn of(rank: Rank) -> Place {
        Place { rank }
    }

    #[cfg(not(debug_assertions))]
    pub(super) fn of(_: Rank) -> Place {
        Place {}
    }
}

/// A lock that this thread holds or is about to take, from its making to its drop.
pub(super) struct Held(Place);

impl Held {
    /// Checks a lock that is about to be taken, and notes it.
    pub(super) fn take(place: Place) -> Held {
        #[cfg(debug_assertions)]
        note(place.rank);
        Held(place)
    }

    /// The same for a lock that a wait gave back meanwhile.
    pub(super) fn again(self) -> Held {
        let place = self.0;
        drop(self);
        Held::take(place)
    }
}

#[cfg(debug_assertions)]
fn note(rank: Rank) {
    let level = rank.level() as usize;
    let mut hand = HAND.with(Cell::get);
    // A second panic would end the process, and the name of the test with it.
    if let Some(held) = hand[level..].iter().rev().flatten().next()
        && !std::thread::panicking()
    {
        panic!("wrong order of locks: {rank:?} is taken under {held:?}; see sync/order.rs");
    }
    hand[level] = Some(rank);
    HAND.with(|all| all.set(hand));
}

impl Drop for Held {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        HAND.with(|all| {
            let mut hand = all.get();
            hand[self.0.rank.level() as usize] = None;
            all.set(hand);
        });
    }
}

/// The time in which a user's code runs under a lock: locks that the thread took before are not
/// compared with those that it takes now.
pub(crate) struct Apart {
    #[cfg(debug_assertions)]
    before: Hand,
}

impl Apart {
    #[cfg(debug_assertions)]
    pub(crate) fn begin() -> Apart {
        Apart { before: HAND.with(|all| all.replace([None; LEVELS])) }
    }

    #[cfg(not(debug_assertions))]
    pub(crate) fn begin() -> Apart {
        Apart {}
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        HAND.with(|all| all.set(self.before));
    }
}

#[cfg(not(debug_assertions))]
const _: () = assert!(size_of::<Held>() == 0 && size_of::<Apart>() == 0);

#[cfg(all(test, debug_assertions, not(shuttle)))]
mod tests {
    use super::*;
    use crate::sync::{Mutex, lock};

    #[test]
    #[should_panic(expected = "Writer is taken under Chores")]
    fn a_lock_that_is_taken_in_the_wrong_order_panics() {
        let (writer, chores) = (Mutex::new(Rank::Writer, ()), Mutex::new(Rank::Chores, ()));
        drop((lock(&writer), lock(&chores)));
        let _chores = lock(&chores);
        let _writer = lock(&writer);
    }

    #[test]
    #[should_panic(expected = "Manifest is taken under Writer")]
    fn locks_of_one_column_are_not_held_together() {
        let (writer, manifest) = (Mutex::new(Rank::Writer, ()), Mutex::new(Rank::Manifest, ()));
        drop(lock(&manifest));
        let _writer = lock(&writer);
        let _manifest = lock(&manifest);
    }

    #[test]
    #[should_panic(expected = "Writer is taken under Writer")]
    fn a_lock_that_a_thread_takes_twice_panics_in_place_of_a_hang() {
        let writer = Mutex::new(Rank::Writer, ());
        let _one = lock(&writer);
        let _two = lock(&writer);
    }

    #[test]
    fn a_users_code_has_an_order_of_its_own() {
        let (ours, theirs) = (Mutex::new(Rank::Writer, ()), Mutex::new(Rank::Writer, ()));
        let one = lock(&ours);
        {
            let _apart = Apart::begin();
            drop(lock(&theirs));
        }
        drop(one);
        drop(lock(&ours));
    }
}
