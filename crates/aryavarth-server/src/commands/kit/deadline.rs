//! How a deadline is given: in seconds or milliseconds, from now on or since 1970.

use aryavarth::Transaction;

use crate::commands::kit::args::parse_integer;
use crate::commands::kit::failure::{Failure, NOT_AN_INTEGER, refused};

/// How a deadline is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) seconds: bool,
    /// From now on, instead of since 1970.
    pub(crate) relative: bool,
}

/// The time: by the store's clock, and by how much the machine's is ahead of that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) ms: u64,
    pub(crate) offset_ms: i64,
}

impl Now {
    /// The time of a transaction.
    pub(crate) fn of(transaction: &Transaction<'_>) -> Now {
        Now { ms: transaction.now_ms(), offset_ms: transaction.clock_offset_ms() }
    }
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
    pub(crate) fn deadline(self, amount: &[u8], now: Now, command: &str) -> Result<u64, Failure> {
        let Some(amount) = parse_integer(amount) else { return refused(NOT_AN_INTEGER) };
        match self.milliseconds(amount, now).filter(|_| amount > 0) {
            Some(deadline) => Ok(deadline.unsigned_abs()),
            None => refused(format!("ERR invalid expire time in '{command}' command")),
        }
    }

    /// The time in milliseconds since 1970 by the store's clock, unless it overflows.
    pub(crate) fn milliseconds(self, amount: i64, now: Now) -> Option<i64> {
        let amount = amount.checked_mul(if self.seconds { 1000 } else { 1 })?;
        let base = if self.relative { i64::try_from(now.ms).ok()? } else { -now.offset_ms };
        amount.checked_add(base)
    }
}
