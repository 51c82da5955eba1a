//! Numbers at the beginning of a text, as C's `strtod` reads them.

/// The number that a text begins with, and its length. Hexadecimal numbers, infinities and NaN only
/// if `all`.
pub(super) fn prefix(text: &[u8], all: bool) -> Option<(f64, usize)> {
    let sign = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let is_negative = text.first() == Some(&b'-');
    let signed = |number: f64| if is_negative { -number } else { number };
    let rest = &text[sign..];
    let word =
        |word: &[u8]| rest.len() >= word.len() && rest[..word.len()].eq_ignore_ascii_case(word);
    if word(b"infinity") || word(b"inf") || word(b"nan") {
        let number = if word(b"nan") { f64::NAN } else { f64::INFINITY };
        let length = if word(b"infinity") { 8 } else { 3 };
        return all.then_some((signed(number), sign + length));
    }
    let digits = |from: usize, is: fn(&u8) -> bool| {
        rest.get(from..).unwrap_or_default().iter().take_while(|byte| is(byte)).count()
    };
    if word(b"0x") {
        let count = digits(2, u8::is_ascii_hexdigit);
        if !all {
            return None;
        }
        if count > 0 {
            let value = |number: f64, digit: &u8| {
                number.mul_add(16.0, f64::from(char::from(*digit).to_digit(16).unwrap_or(0)))
            };
            return Some((signed(rest[2..2 + count].iter().fold(0.0, value)), sign + 2 + count));
        }
    }
    let whole = digits(0, u8::is_ascii_digit);
    let mut length = whole;
    if rest.get(length) == Some(&b'.') {
        let decimals = digits(length + 1, u8::is_ascii_digit);
        if whole + decimals > 0 {
            length += 1 + decimals;
        }
    }
    if length == 0 {
        return None;
    }
    if matches!(rest.get(length), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(rest.get(length + 1), Some(b'-' | b'+')));
        let exponent = digits(length + 1 + sign, u8::is_ascii_digit);
        if exponent > 0 {
            length += 1 + sign + exponent;
        }
    }
    let number: f64 = std::str::from_utf8(&rest[..length]).ok()?.parse().ok()?;
    Some((signed(number), sign + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_number_is_read() {
        for (text, number) in [
            ("1", Some((1.0, 1))),
            ("-1.5e3,", Some((-1500.0, 6))),
            ("01", Some((1.0, 2))),
            ("1.", Some((1.0, 2))),
            ("1e", Some((1.0, 1))),
            ("0x1F", Some((31.0, 4))),
            ("-", None),
            ("-inf", Some((f64::NEG_INFINITY, 4))),
            ("x", None),
        ] {
            assert_eq!(prefix(text.as_bytes(), true), number, "{text}");
        }
        assert_eq!(prefix(b"inf", false), None);
    }
}
