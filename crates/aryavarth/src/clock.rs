//! The store's clock: deadlines count elapsed time, and a wall clock that jumps moves none of them.
//!
//! ```text
//! wall clock     |----------+1h.....-1h---------->   jumps ahead for a moment, and back
//! elapsed time   |------------------------------->   never jumps
//! store clock    |------------------------------->   wall clock - offset, and never back
//! offset          0        | 1h     | 0
//! ```
//!
//! While the wall clock goes on as elapsed time does, the store clock is the wall clock less an
//! offset of 0, so deadlines read as the machine's time. A wall clock that goes on otherwise by more
//! than a second has *jumped*: the offset takes the difference, and the store clock goes on. A time
//! that a caller gives by the wall clock is moved by the offset of that moment.
//!
//! While no process has the store open, the wall clock alone tells how much time passes. Both clocks
//! are written down together (marks, manifest), and an open goes on from there by the way of the wall
//! clock since then: the offset outlives the process. A wall clock that was set back meanwhile counts
//! as one that stood.
//!
//! # The accepted wall clock
//!
//! ```text
//! wall clock     |-----+1h.......-1h-------------->
//! accepted       |-----+1h.......====|------------>   = held;  | accepted, lower
//! log            | ... | removal of each key with a wall deadline <= held | mark: lower | ...
//! ```
//!
//! A deadline that was given by the wall clock is judged by the *accepted* one. It follows the wall
//! clock forward at once. Where that is set back by more than the tolerance, the accepted one is held,
//! until the log has the removal of every key that it has shown as expired and, behind these, a mark
//! with the lower time (`log/expire.rs`). A crash that loses the mark loses all behind it, and the
//! next open goes on from the held time of the mark before.
//!
//! Invariants:
//! - The store clock never goes back: no key that has expired comes back.
//! - The accepted wall clock goes back only where no key is left that it has shown as expired.
//! - A jump changes the offset alone; each is counted.

use crate::deadline::Now;
use crate::events::{Event, Events};
use crate::options::Clock;
use crate::sync::{Arc, AtomicI64, AtomicU64, Mutex, Ordering, Rank, lock};

/// The wall clock may differ by so much from elapsed time without having jumped, in milliseconds.
const TOLERANCE_MS: i64 = 1000;
/// A reading of the wall clock that is later than the last one by less is not looked at closely.
const STEP_MS: u64 = 1000;
/// Threads read the wall clock in one order and get here in another, by a few milliseconds.
const RACE_MS: u64 = 10;
/// How often the wall clock is looked at again because it was set meanwhile.
const TRIES_MAX: u32 = 8;

/// The clock of one open store.
#[derive(Debug)]
pub(crate) struct StoreClock {
    clock: Arc<dyn Clock>,
    /// The wall clock when it was last read.
    wall_ms: AtomicU64,
    /// By how much the wall clock is ahead of the store clock.
    offset_ms: AtomicI64,
    /// The latest time of the store clock.
    latest_ms: AtomicU64,
    /// The accepted wall clock.
    accepted_ms: AtomicU64,
    jumps: AtomicU64,
    events: Events,
    /// The jump that the open found.
    first_jump_ms: i64,
    last: Mutex<Look>,
}

/// Both clocks as they were written down last, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClockPair {
    /// The store clock; 0 where there is no past.
    pub(crate) store_ms: u64,
    /// The accepted wall clock at that moment; 0 where a version before wrote the store clock alone.
    pub(crate) wall_ms: u64,
}

impl ClockPair {
    /// The later of two, `other` if they are of one millisecond and it has both clocks: it was written
    /// later, and the wall clock may have been set in between. The store clock never goes back.
    pub(crate) fn later(self, other: ClockPair) -> ClockPair {
        let is_as_late = other.store_ms == self.store_ms && other.wall_ms != 0;
        if is_as_late || other.store_ms > self.store_ms { other } else { self }
    }

    /// By how much the wall clock was ahead; 0 for less than a jump.
    fn offset_ms(self) -> i64 {
        if self.wall_ms == 0 { 0 } else { snapped(difference(self.wall_ms, self.store_ms)) }
    }
}

impl From<Now> for ClockPair {
    fn from(now: Now) -> ClockPair {
        ClockPair { store_ms: now.store_ms, wall_ms: now.wall_ms }
    }
}

/// A wall clock that was set back by more than the tolerance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetBack {
    /// The accepted wall clock, which stands still.
    pub(crate) held_ms: u64,
    /// The wall clock now.
    pub(crate) wall_ms: u64,
}

/// A close look at both clocks.
#[derive(Clone, Copy, Debug)]
struct Look {
    wall_ms: u64,
    elapsed_ms: Option<u64>,
}

impl StoreClock {
    /// A clock that goes on from its past by the way that the wall clock made since.
    pub(crate) fn new(clock: Arc<dyn Clock>, past: ClockPair) -> StoreClock {
        let look = Look { wall_ms: clock.now_ms(), elapsed_ms: clock.elapsed_ms() };
        let kept_ms = past.offset_ms();
        let ahead_ms = difference(look.wall_ms, past.store_ms);
        let has_jumped = ahead_ms.saturating_sub(kept_ms) < -TOLERANCE_MS;
        StoreClock {
            clock,
            events: Events::default(),
            first_jump_ms: if has_jumped { ahead_ms.saturating_sub(kept_ms) } else { 0 },
            wall_ms: AtomicU64::new(look.wall_ms),
            offset_ms: AtomicI64::new(if has_jumped { snapped(ahead_ms) } else { kept_ms }),
            latest_ms: AtomicU64::new(past.store_ms),
            accepted_ms: AtomicU64::new(past.wall_ms),
            jumps: AtomicU64::new(u64::from(has_jumped)),
            last: Mutex::new(Rank::Clock, look),
        }
    }

    /// The same, with a listener for jumps.
    pub(crate) fn with_events(self, events: Events) -> StoreClock {
        let (by_ms, offset_ms) = (self.first_jump_ms, self.offset_ms());
        if by_ms != 0 {
            events.tell(|| Event::ClockJumped { by_ms, offset_ms });
        }
        StoreClock { events, ..self }
    }

    /// The store clock, in milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> u64 {
        self.times().1
    }

    /// The wall clock and the store clock.
    pub(crate) fn times(&self) -> (u64, u64) {
        let (wall_ms, offset_ms) = self.wall_and_offset();
        let now_ms = wall_ms.saturating_sub_signed(offset_ms);
        let latest_ms = self.latest_ms.load(Ordering::Relaxed);
        if now_ms <= latest_ms {
            return (wall_ms, latest_ms);
        }
        (wall_ms, self.latest_ms.fetch_max(now_ms, Ordering::Relaxed).max(now_ms))
    }

    /// The wall clock and the offset of the same moment: a wall clock that was read before it was set
    /// back, with the offset after that, would be a time that never was.
    fn wall_and_offset(&self) -> (u64, i64) {
        let mut tries = 0;
        loop {
            tries += 1;
            let offset_ms = self.offset_ms();
            let wall_ms = self.clock.now_ms();
            let last_ms = self.wall_ms.load(Ordering::Acquire);
            let went_back = wall_ms.saturating_add(RACE_MS) < last_ms;
            if went_back || wall_ms - last_ms.min(wall_ms) >= STEP_MS {
                self.look_closely();
            } else {
                if wall_ms > last_ms {
                    self.wall_ms.fetch_max(wall_ms, Ordering::Release);
                }
                if offset_ms == self.offset_ms() {
                    return (wall_ms, offset_ms);
                }
            }
            // A clock that jumps at each look has no right time; the store's own stands.
            if tries == TRIES_MAX {
                let latest_ms = self.latest_ms.load(Ordering::Relaxed);
                return (latest_ms.saturating_add_signed(offset_ms), offset_ms);
            }
        }
    }

    /// The store clock and the accepted wall clock.
    pub(crate) fn now(&self) -> Now {
        self.now_and_set_back().0
    }

    /// The same, and how the wall clock was set back if it is to be accepted.
    pub(crate) fn now_and_set_back(&self) -> (Now, Option<SetBack>) {
        loop {
            let held_ms = self.accepted_ms.load(Ordering::Acquire);
            let (wall_ms, store_ms) = self.times();
            if wall_ms <= held_ms {
                let is_set_back = difference(held_ms, wall_ms) > TOLERANCE_MS;
                let set_back = is_set_back.then_some(SetBack { held_ms, wall_ms });
                return (Now { store_ms, wall_ms: held_ms }, set_back);
            }
            // Not over a lower time that was accepted since this one was read.
            let raised = self.accepted_ms.compare_exchange(
                held_ms,
                wall_ms,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if raised.is_ok() {
                return (Now { store_ms, wall_ms }, None);
            }
        }
    }

    /// Whether the wall clock was set back and is not accepted yet, and how.
    pub(crate) fn set_back(&self) -> Option<SetBack> {
        self.now_and_set_back().1
    }

    /// The accepted wall clock, without a look at the machine's.
    pub(crate) fn accepted_ms(&self) -> u64 {
        self.accepted_ms.load(Ordering::Acquire)
    }

    /// Accepts a wall clock that was set back: no key that is there has a deadline by it of `held_ms`
    /// or before. One that has gone on from there meanwhile stays.
    pub(crate) fn accept(&self, SetBack { held_ms, wall_ms }: SetBack) {
        let (release, relaxed) = (Ordering::AcqRel, Ordering::Relaxed);
        let _ = self.accepted_ms.compare_exchange(held_ms, wall_ms, release, relaxed);
    }

    /// Both clocks, to be written down.
    pub(crate) fn pair(&self) -> ClockPair {
        self.now().into()
    }

    /// By how much the wall clock is ahead of the store clock.
    pub(crate) fn offset_ms(&self) -> i64 {
        self.offset_ms.load(Ordering::Acquire)
    }

    /// Jumps of the wall clock since the open.
    pub(crate) fn jumps(&self) -> u64 {
        self.jumps.load(Ordering::Relaxed)
    }

    /// Compares the way of the wall clock with elapsed time since the last look.
    fn look_closely(&self) {
        let mut last = lock(&self.last);
        let look = Look { wall_ms: self.clock.now_ms(), elapsed_ms: self.clock.elapsed_ms() };
        let expected_ms = match (last.elapsed_ms, look.elapsed_ms) {
            (Some(before), Some(after)) => {
                last.wall_ms.saturating_add(after.saturating_sub(before))
            }
            // A clock that knows no elapsed time is believed unless it goes back.
            _ => look.wall_ms.max(last.wall_ms).max(self.wall_ms.load(Ordering::Relaxed)),
        };
        let jump_ms = difference(look.wall_ms, expected_ms);
        if jump_ms.abs() > TOLERANCE_MS {
            let offset_ms = self.offset_ms().saturating_add(jump_ms);
            // Back where it was, but for the time that the looks took.
            let offset_ms = snapped(offset_ms);
            self.offset_ms.store(offset_ms, Ordering::Release);
            self.jumps.fetch_add(1, Ordering::Relaxed);
            self.events.tell(|| Event::ClockJumped { by_ms: jump_ms, offset_ms });
        }
        self.wall_ms.store(look.wall_ms, Ordering::Release);
        *last = look;
    }
}

/// An offset, or 0 for one that is no jump: the next open would take it for none.
fn snapped(offset_ms: i64) -> i64 {
    if offset_ms.abs() <= TOLERANCE_MS { 0 } else { offset_ms }
}

/// How much later `a` is than `b`.
fn difference(a: u64, b: u64) -> i64 {
    a.wrapping_sub(b).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_MS: u64 = 1_700_000_000_000;
    const HOUR_MS: u64 = 3_600_000;

    /// A wall clock that can be set, and elapsed time that cannot.
    #[derive(Debug, Default)]
    struct TwoHands {
        ahead_ms: AtomicI64,
        /// How far the wall clock is set right after the next look at it.
        next_set: AtomicI64,
        elapsed_ms: AtomicU64,
    }

    impl TwoHands {
        fn pass(&self, ms: u64) {
            self.elapsed_ms.fetch_add(ms, Ordering::Relaxed);
        }

        fn set_ahead(&self, ms: i64) {
            self.ahead_ms.store(ms, Ordering::Relaxed);
        }
    }

    impl Clock for TwoHands {
        fn now_ms(&self) -> u64 {
            let elapsed_ms = self.elapsed_ms.load(Ordering::Relaxed);
            let sets_ms = self.next_set.swap(0, Ordering::Relaxed);
            let ahead_ms = self.ahead_ms.fetch_add(sets_ms, Ordering::Relaxed);
            (START_MS + elapsed_ms).saturating_add_signed(ahead_ms)
        }

        fn elapsed_ms(&self) -> Option<u64> {
            Some(self.elapsed_ms.load(Ordering::Relaxed))
        }
    }

    fn past(store_ms: u64, wall_ms: u64) -> ClockPair {
        ClockPair { store_ms, wall_ms }
    }

    #[test]
    fn a_wall_clock_that_stays_wrong_over_a_restart_moves_no_deadline() {
        let hour_ms = HOUR_MS.cast_signed();
        for offset_ms in [hour_ms, -hour_ms, 0] {
            let hands = Arc::new(TwoHands::default());
            hands.set_ahead(offset_ms);
            let wall_ms = hands.now_ms();
            // A minute passes while the store is closed.
            hands.pass(60_000);
            let clock = StoreClock::new(Arc::<TwoHands>::clone(&hands), past(START_MS, wall_ms));
            assert_eq!(clock.now_ms(), START_MS + 60_000, "{offset_ms} ms ahead");
            assert_eq!((clock.offset_ms(), clock.jumps()), (offset_ms, 0));
        }
    }

    #[test]
    fn time_goes_on_as_elapsed_time_does_whatever_the_wall_clock_does() {
        let hands = Arc::new(TwoHands::default());
        let clock = StoreClock::new(Arc::<TwoHands>::clone(&hands), past(0, 0));
        let mut passed = 0;
        for (ahead_ms, jumps) in [
            (0, 0),
            (HOUR_MS.cast_signed(), 1),
            (HOUR_MS.cast_signed(), 1),
            (0, 2),
            (-2 * HOUR_MS.cast_signed(), 3),
            (0, 4),
        ] {
            hands.set_ahead(ahead_ms);
            for ms in [1, 500, 3000, 20 * HOUR_MS] {
                hands.pass(ms);
                passed += ms;
                assert_eq!(clock.now_ms(), START_MS + passed, "{ahead_ms} ms ahead");
                assert_eq!((clock.offset_ms(), clock.jumps()), (ahead_ms, jumps));
            }
        }
    }

    #[test]
    fn a_wall_clock_that_is_behind_at_the_open_stops_no_time() {
        let hands = Arc::new(TwoHands::default());
        let clock = StoreClock::new(Arc::<TwoHands>::clone(&hands), past(START_MS + HOUR_MS, 0));
        assert_eq!(clock.now_ms(), START_MS + HOUR_MS);
        hands.pass(5000);
        assert_eq!(clock.now_ms(), START_MS + HOUR_MS + 5000);
        assert_eq!((clock.offset_ms(), clock.jumps()), (-HOUR_MS.cast_signed(), 1));
        // The wall clock is mended; the store clock stays where elapsed time has it.
        hands.set_ahead(HOUR_MS.cast_signed());
        hands.pass(5000);
        assert_eq!(clock.now_ms(), START_MS + HOUR_MS + 10_000);
        assert_eq!((clock.offset_ms(), clock.jumps()), (0, 2));
    }

    /// The wall clock is set between the two looks at it that belong to one moment of the store.
    #[test]
    fn a_wall_clock_that_is_set_amid_a_look_moves_no_time() {
        let hour_ms = HOUR_MS.cast_signed();
        for by_ms in [-hour_ms, hour_ms] {
            let hands = Arc::new(TwoHands::default());
            let clock = StoreClock::new(Arc::<TwoHands>::clone(&hands), past(0, 0));
            for ms in [2000, 1, 2000] {
                let before_ms = clock.now_ms();
                hands.pass(ms);
                hands.next_set.store(by_ms, Ordering::Relaxed);
                for _ in 0..2 {
                    let passed_ms = difference(clock.now_ms(), before_ms + ms);
                    assert!(passed_ms.abs() <= TOLERANCE_MS, "{passed_ms} ms after {by_ms}");
                }
            }
        }
    }

    #[test]
    fn of_two_pairs_of_one_moment_the_one_that_was_written_later_counts() {
        let (before, after) = (past(START_MS, START_MS), past(START_MS, START_MS + HOUR_MS));
        assert_eq!(before.later(after), after);
        assert_eq!(after.later(past(START_MS - 1, START_MS)), after);
        assert_eq!(after.later(past(START_MS, 0)), after, "it has the store clock alone");
    }

    #[test]
    fn small_differences_are_no_jumps_and_never_turn_time_back() {
        let hands = Arc::new(TwoHands::default());
        let clock = StoreClock::new(Arc::<TwoHands>::clone(&hands), past(0, 0));
        let mut latest_ms = 0;
        for step in 0..1000_i64 {
            hands.set_ahead(step * 7 % 200 - 100);
            hands.pass(50);
            let now_ms = clock.now_ms();
            assert!(now_ms >= latest_ms);
            latest_ms = now_ms;
        }
        assert_eq!((clock.offset_ms(), clock.jumps()), (0, 0));
    }
}
