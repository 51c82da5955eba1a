//! Sizes and numbers as operators write them: `1048576`, `100mb`, `2g`.

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
