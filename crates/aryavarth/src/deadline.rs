//! Deadlines and the two clocks that they may mean.
//!
//! ```text
//! EX, put_for      "in a minute"    At(S)     the store's clock: elapsed time, never set
//! EXAT, put_until  "at noon"        Wall(A)   the accepted wall clock, see clock.rs
//!
//! word   | 1 bit: by the wall clock | 63 bits: milliseconds since 1970 |
//! ```
//!
//! A deadline is one word wherever it is kept: in records, beside entries, in the ordered tables. A
//! time to compare it with is a [`Now`], which has both clocks, so that no deadline is compared with
//! the other one's time.
//!
//! Invariants:
//! - A word is never 0: a deadline that has passed is written as a removal.
//! - A deadline of [`FAR_MS`] never comes, so a word of an earlier version that has the top bit, and
//!   meant a time by the store's clock which no clock will see, still means such a time.

use std::time::Duration;

/// The bit of a word whose deadline is by the wall clock.
pub(crate) const WALL: u64 = 1 << 63;
/// The last time, which never comes.
pub(crate) const FAR_MS: u64 = !WALL;

/// When a key goes, in milliseconds since 1970.
///
/// ```
/// use aryavarth::{Deadline, Now};
///
/// let now = Now { store_ms: 5_000, wall_ms: 9_000 };
/// assert!(!Deadline::Never.has_passed(now) && Deadline::At(5_000).has_passed(now));
/// assert!(!Deadline::At(7_000).has_passed(now) && Deadline::Wall(7_000).has_passed(now));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Deadline {
    /// The key stays until it is removed.
    #[default]
    Never,
    /// The key is gone from this moment on by the store's clock, which counts elapsed time.
    At(u64),
    /// The key is gone from this moment on by the machine's clock, as far as the store accepts it.
    Wall(u64),
}

impl Deadline {
    /// The deadline of a word.
    pub(crate) fn of(word: Option<u64>) -> Deadline {
        match word {
            None => Deadline::Never,
            Some(word) if word & WALL != 0 => Deadline::Wall(word & !WALL),
            Some(word) => Deadline::At(word),
        }
    }

    /// The moment at which a lifetime that begins at `store_ms` by the store's clock has passed.
    pub(crate) fn after(store_ms: u64, lifetime: Duration) -> Deadline {
        let lifetime_ms = u64::try_from(lifetime.as_nanos().div_ceil(1_000_000));
        Deadline::At(store_ms.saturating_add(lifetime_ms.unwrap_or(u64::MAX)))
    }

    /// The moment by its clock, if there is one.
    pub fn at(self) -> Option<u64> {
        match self {
            Deadline::Never => None,
            Deadline::At(at) | Deadline::Wall(at) => Some(at),
        }
    }

    /// The word that is kept for it: the milliseconds, with the top bit set if they are by the
    /// machine's clock.
    pub(crate) fn word(self) -> Option<u64> {
        match self {
            Deadline::Never => None,
            Deadline::At(at) => Some(at.min(FAR_MS)),
            Deadline::Wall(at) => Some(WALL | at.min(FAR_MS)),
        }
    }

    /// Whether a key with this deadline is gone at `now`.
    pub fn has_passed(self, now: impl Into<Now>) -> bool {
        let now = now.into();
        match self {
            Deadline::Never => false,
            Deadline::At(at) => at < FAR_MS && at <= now.store_ms,
            Deadline::Wall(at) => at < FAR_MS && at <= now.wall_ms,
        }
    }
}

/// Both clocks at one moment, in milliseconds since 1970. As a set of deadlines that have passed: the
/// latest of each clock, 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// The store's clock, which counts elapsed time and never goes back.
    pub store_ms: u64,
    /// The machine's clock, as far as the store accepts it.
    pub wall_ms: u64,
}

impl Now {
    /// Whether the deadline of this word has passed.
    pub(crate) fn has_reached(self, word: u64) -> bool {
        Deadline::of(Some(word)).has_passed(self)
    }

    /// The moment at which the deadline of a word passes; the other clock is 0.
    pub(crate) fn of(word: u64) -> Now {
        match Deadline::of(Some(word)) {
            Deadline::Wall(wall_ms) => Now { wall_ms, store_ms: 0 },
            at => Now { store_ms: at.at().unwrap_or(0), wall_ms: 0 },
        }
    }

    /// The later time of each clock.
    #[must_use]
    pub(crate) fn max(self, other: Now) -> Now {
        Now {
            store_ms: self.store_ms.max(other.store_ms),
            wall_ms: self.wall_ms.max(other.wall_ms),
        }
    }

    /// Whether both clocks are as late as those of `other`.
    pub(crate) fn covers(self, other: Now) -> bool {
        self.store_ms >= other.store_ms && self.wall_ms >= other.wall_ms
    }
}

/// The moment at which both clocks say the same.
impl From<u64> for Now {
    fn from(ms: u64) -> Now {
        Now { store_ms: ms, wall_ms: ms }
    }
}
