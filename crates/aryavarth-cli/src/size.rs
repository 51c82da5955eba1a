//! Sizes and numbers as operators write them: `1048576`, `100mb`, `2g`.

use std::time::Duration;

/// Units, the longer ones first; as in the settings of Redis, those with a `b` are powers of 1024.
const UNITS: [(&str, u64); 8] = [
    ("kb", 1 << 10),
    ("mb", 1 << 20),
    ("gb", 1 << 30),
    ("k", 1_000),
    ("m", 1_000_000),
    ("g", 1_000_000_000),
    ("b", 1),
    ("", 1),
];

/// The bytes of a size.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let units = UNITS.iter().filter_map(|(unit, bytes)| Some((lower.strip_suffix(unit)?, bytes)));
    let number = |text: &str| text.trim_end().parse::<u64>().ok();
    let size = units.into_iter().find_map(|(digits, bytes)| number(digits)?.checked_mul(*bytes));
    size.ok_or_else(|| {
        "not a size; write bytes, or a whole number with kb, mb or gb (powers of 1024) or k, m or g \
         (powers of 1000), such as 100mb"
            .to_owned()
    })
}

/// A parser of sizes within bounds.
pub(crate) fn size(
    min: usize,
    max: usize,
    such_as: &'static str,
) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| {
        let bytes = usize::try_from(parse(text)?).unwrap_or(usize::MAX);
        within(bytes, min, max)
            .ok_or_else(|| format!("write a size from {min} to {max} bytes, such as {such_as}"))
    }
}

/// A parser of whole numbers within bounds.
pub(crate) fn count(
    min: usize,
    max: usize,
    such_as: &'static str,
) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().and_then(|number| within(number, min, max));
        number.ok_or_else(|| format!("write a whole number from {min} to {max}, such as {such_as}"))
    }
}

/// A parser of times within bounds: seconds, or a whole number with ms, s, m or h.
pub(crate) fn time(
    min: Duration,
    max: Duration,
    such_as: &'static str,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| {
        let lower = text.trim().to_ascii_lowercase();
        let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("", 1000)];
        let time = units.iter().find_map(|(unit, ms): &(_, u64)| {
            let number: u64 = lower.strip_suffix(unit)?.trim_end().parse().ok()?;
            Some(Duration::from_millis(number.checked_mul(*ms)?))
        });
        time.and_then(|time| within(time, min, max)).ok_or_else(|| {
            format!("write seconds, or a whole number with ms, s, m or h, from {min:?} to {max:?}, such as {such_as}")
        })
    }
}

/// A parser of times in whole seconds, from 0 on.
pub(crate) fn whole_seconds(
    max: Duration,
    such_as: &'static str,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    let parse = time(Duration::ZERO, max, such_as);
    move |text| {
        let time = parse(text)?;
        let is_whole = time.subsec_nanos() == 0;
        is_whole.then_some(time).ok_or_else(|| format!("write whole seconds, such as {such_as}"))
    }
}

fn within<T: PartialOrd + Copy>(value: T, min: T, max: T) -> Option<T> {
    (min <= value && value <= max).then_some(value)
}

/// A whole number above 0, such as that of a time or a limit.
pub(crate) fn parse_positive(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "write a whole number above 0, such as 60".to_owned())
}

/// The number of a database.
pub(crate) fn parse_database(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_not_one| "write the number of a database, such as 0 or 3".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_redis_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("7b", 7),
            ("100mb", 100 << 20),
            ("100 MB", 100 << 20),
            ("2g", 2_000_000_000),
            ("2Gb", 2 << 30),
            ("1k", 1000),
            ("1kb", 1024),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn other_texts_say_what_would_be_a_size() {
        for text in ["", "mb", "-1", "1.5gb", "1tb", "ten", "18446744073709551615kb", "0x10"] {
            assert!(parse(text).unwrap_err().contains("such as 100mb"), "{text}");
        }
    }

    #[test]
    fn times_are_seconds_unless_they_have_a_unit() {
        let parse = time(Duration::from_millis(10), Duration::from_secs(7200), "30s");
        for (text, ms) in
            [("30", 30_000), ("30s", 30_000), ("500ms", 500), ("5 m", 300_000), ("2H", 7_200_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1", "1.5s", "soon", "5ms", "3h", "1d", "99999999999999999999h"] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("from 10ms to 7200s, such as 30s"), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_and_counts_beyond_their_bounds_say_the_bounds() {
        assert_eq!(size(1024, 1 << 20, "64kb")("1mb"), Ok(1 << 20));
        for text in ["1023", "2mb", "ten"] {
            let error = size(1024, 1 << 20, "64kb")(text).unwrap_err();
            assert!(error.contains("such as"), "{text}: {error}");
        }
        assert_eq!(count(2, 100, "64")("2"), Ok(2));
        for text in ["1", "101", "-5", "1kb"] {
            let error = count(2, 100, "64")(text).unwrap_err();
            assert_eq!(error, "write a whole number from 2 to 100, such as 64", "{text}");
        }
    }

    #[test]
    fn numbers_that_make_no_sense_say_which_would() {
        assert_eq!(parse_positive("60"), Ok(60));
        assert_eq!(parse_database("0"), Ok(0));
        for text in ["0", "-1", "soon", "", "1.5", "99999999999999999999"] {
            assert!(parse_positive(text).unwrap_err().contains("such as 60"), "{text}");
        }
        for text in ["-1", "x", "4294967296"] {
            assert!(parse_database(text).unwrap_err().contains("such as 0"), "{text}");
        }
    }
}
