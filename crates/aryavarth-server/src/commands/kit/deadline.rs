//! How a deadline is given: in seconds or milliseconds, from now on or since 1970.
//!
//! One that counts from now on is by the store's clock, which counts elapsed time; one that counts
//! since 1970 is by the machine's clock, and stays right when that is set.

use aryavarth::{Deadline, Now};

use crate::commands::kit::args::parse_integer;
use crate::commands::kit::failure::{Failure, NOT_AN_INTEGER, refused};

/// How a deadline is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) seconds: bool,
    /// From now on, instead of since 1970.
    pub(crate) relative: bool,
}

impl Unit {
    /// The unit that an option of SET or GETEX names.
    pub(crate) fn named(word: &[u8]) -> Option<Unit> {
        let (seconds, relative) = match word.to_ascii_uppercase().as_slice() {
            b"EX" => (true, true),
            b"PX" => (false, true),
            b"EXAT" => (true, false),
            b"PXAT" => (false, false),
            _ => return None,
        };
        Some(Unit { seconds, relative })
    }

    /// The deadline that `amount` says; `command` is for the error's text.
    pub(crate) fn deadline(
        self,
        amount: &[u8],
        now: Now,
        command: &str,
    ) -> Result<Deadline, Failure> {
        let Some(amount) = parse_integer(amount) else { return refused(NOT_AN_INTEGER) };
        match self.milliseconds(amount, now).filter(|_| amount > 0) {
            Some(deadline) => Ok(self.by_its_clock(deadline.unsigned_abs())),
            None => refused(format!("ERR invalid expire time in '{command}' command")),
        }
    }

    /// The deadline at a time by the clock that this is about.
    pub(crate) fn by_its_clock(self, ms: u64) -> Deadline {
        if self.relative { Deadline::At(ms) } else { Deadline::Wall(ms) }
    }

    /// The time in milliseconds since 1970 by its clock, unless it overflows.
    pub(crate) fn milliseconds(self, amount: i64, now: Now) -> Option<i64> {
        let amount = amount.checked_mul(if self.seconds { 1000 } else { 1 })?;
        let base = if self.relative { i64::try_from(now.store_ms).ok()? } else { 0 };
        amount.checked_add(base)
    }
}
