//! Sizes as operators write them: `1048576`, `100mb`, `2g`.

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
}
