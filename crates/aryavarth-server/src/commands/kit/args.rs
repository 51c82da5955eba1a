//! A command's arguments, and how numbers among them are read.

use std::time::Duration;

use aryavarth_protocol::Command;

use crate::commands::kit::failure::{Failure, NOT_AN_INTEGER, TOO_LONG, refused};
use crate::limits::Limits;
use crate::settings::ServerSettings;

const NOT_AN_INT: &str = "ERR value is out of range, value must between -2147483648 and 2147483647";

/// How many databases there are: 0 to 15.
pub(crate) const DATABASES: u32 = 16;

/// The arguments of a call. Places count from the command's name, which is at 0; a place that the
/// arity check lets a call leave out reads as empty.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Args<'a> {
    command: &'a Command,
    value_bytes_max: usize,
    reply_bytes_max: usize,
}

impl<'a> Args<'a> {
    pub(crate) fn new(command: &'a Command) -> Self {
        let Limits { session, reply_bytes_max, .. } = Limits::default();
        Args { command, value_bytes_max: session.value_bytes_max, reply_bytes_max }
    }

    /// The same call under the limits of a server.
    pub(crate) fn limited(self, limits: &Limits, settings: &ServerSettings) -> Self {
        let value_bytes_max = settings.value_bytes_max();
        Args { value_bytes_max, reply_bytes_max: limits.reply_bytes_max, ..self }
    }

    /// The most bytes that a value may have.
    pub(crate) fn value_bytes_max(&self) -> usize {
        self.value_bytes_max
    }

    /// Refuses a value of so many bytes, before anything is allocated for it.
    pub(crate) fn check_value(&self, bytes: usize) -> Result<(), Failure> {
        if bytes > self.value_bytes_max { refused(TOO_LONG) } else { Ok(()) }
    }

    /// Refuses a reply that has so many bytes already, before more is gathered for it.
    pub(crate) fn check_reply(&self, bytes: usize) -> Result<(), Failure> {
        let limit = self.reply_bytes_max;
        if bytes <= limit {
            return Ok(());
        }
        refused(format!("ERR the reply is too large: the limit is {limit} bytes; ask for less"))
    }

    /// How many there are, the name included.
    pub(crate) fn len(&self) -> usize {
        self.command.len()
    }

    /// The argument at a place.
    pub(crate) fn get(&self, place: usize) -> &'a [u8] {
        self.command.get(place).unwrap_or_default()
    }

    /// The arguments from a place on.
    pub(crate) fn from(&self, place: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let command = self.command;
        (place.min(command.len())..command.len()).map(|at| command.get(at).unwrap_or_default())
    }

    /// Whether the argument at a place is `word`, in whatever case.
    pub(crate) fn is(&self, place: usize, word: &str) -> bool {
        self.get(place).eq_ignore_ascii_case(word.as_bytes())
    }

    /// The integer at a place.
    pub(crate) fn integer(&self, place: usize) -> Result<i64, Failure> {
        self.integer_or(place, NOT_AN_INTEGER)
    }

    /// The integer at a place, or another error than the usual one.
    pub(crate) fn integer_or(&self, place: usize, error: &'static str) -> Result<i64, Failure> {
        parse_integer(self.get(place)).map_or_else(|| refused(error), Ok)
    }

    /// The database at a place.
    pub(crate) fn database(&self, place: usize) -> Result<u32, Failure> {
        match i32::try_from(self.integer(place)?) {
            Ok(number) => database(number),
            Err(_) => refused(NOT_AN_INT),
        }
    }
}

/// The database of a number.
pub(crate) fn database(number: i32) -> Result<u32, Failure> {
    match u32::try_from(number) {
        Ok(number) if number < DATABASES => Ok(number),
        _ => refused("ERR DB index is out of range"),
    }
}

/// A time in milliseconds that a client gives.
pub(crate) fn timeout(args: &Args<'_>, place: usize) -> Result<Duration, Failure> {
    match args.integer_or(place, "ERR timeout is not an integer or out of range")? {
        // A clock cannot add a time beyond its end.
        ms @ 0.. => Ok(Duration::from_millis(ms.unsigned_abs().min(u64::from(u32::MAX) << 8))),
        _ => refused("ERR timeout is negative"),
    }
}

/// Reads an integer as Redis does: digits and a minus sign, nothing else, no leading zeros.
pub(crate) fn parse_integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    match digits {
        [b'0'] => return (text.len() == 1).then_some(0),
        [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => {}
        _ => return None,
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Reads a float as Redis does: as `strtold` takes it, without spaces, and never a NaN.
pub(crate) fn parse_float(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    let number: f64 = text.parse().ok()?;
    (!number.is_nan()).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_strictly_as_redis_reads_them() {
        for (text, number) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("01", None),
            ("+1", None),
            (" 1", None),
            ("1 ", None),
            ("1.0", None),
        ] {
            assert_eq!(parse_integer(text.as_bytes()), number, "{text:?}");
        }
    }
}
