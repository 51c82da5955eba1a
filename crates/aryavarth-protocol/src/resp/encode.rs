//! Replies as bytes, in the version that the client speaks.
//!
//! Everything is written straight into the buffer that is sent. Invariant: every
//! reply, with any content, is written as one whole reply; an error or a simple text cannot break its line.

use super::reply::Reply;
use crate::parts::{PART_BYTES, Parts};

/// The version of the protocol that a client hears. Every client begins with 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Version {
    #[default]
    Resp2,
    Resp3,
}

impl Reply {
    /// Appends the reply to `out`.
    pub(crate) fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let is_3 = version == Version::Resp3;
        match self {
            Reply::Simple(text) => line(b'+', text.as_bytes(), out),
            Reply::Error(text) => line(b'-', text, out),
            Reply::Integer(number) => integer(b':', *number, out),
            Reply::Bulk(bytes) => bulk(bytes, out),
            Reply::Null | Reply::NullArray if is_3 => out.extend_from_slice(b"_\r\n"),
            Reply::Null => out.extend_from_slice(b"$-1\r\n"),
            Reply::NullArray => out.extend_from_slice(b"*-1\r\n"),
            Reply::Boolean(true) if is_3 => out.extend_from_slice(b"#t\r\n"),
            Reply::Boolean(false) if is_3 => out.extend_from_slice(b"#f\r\n"),
            Reply::Boolean(truth) => integer(b':', i64::from(*truth), out),
            Reply::Double(number) if is_3 => line(b',', double(*number).as_bytes(), out),
            Reply::Double(number) => bulk(double(*number).as_bytes(), out),
            Reply::BigNumber(digits) if is_3 => line(b'(', digits.as_bytes(), out),
            Reply::BigNumber(digits) => bulk(digits.as_bytes(), out),
            Reply::Verbatim(format, text) if is_3 => verbatim(format, text, out),
            Reply::Verbatim(_, text) => bulk(text, out),
            Reply::Array(items) => list(b'*', items, version, out),
            Reply::Set(items) => list(if is_3 { b'~' } else { b'*' }, items, version, out),
            Reply::Push(items) => list(if is_3 { b'>' } else { b'*' }, items, version, out),
            Reply::Several(replies) => {
                for reply in replies {
                    reply.encode(version, out);
                }
            }
            Reply::Map(pairs) if is_3 => map(b'%', pairs.len(), pairs, version, out),
            Reply::Map(pairs) => map(b'*', pairs.len() * 2, pairs, version, out),
            Reply::Attributed(attributes, reply) => {
                if is_3 {
                    map(b'|', attributes.len(), attributes, version, out);
                }
                reply.encode(version, out);
            }
        }
    }
}

impl Reply {
    /// Appends the reply to `out`; values that fill a part move there without a copy.
    pub(crate) fn encode_into(self, version: Version, out: &mut Parts) {
        match self {
            Reply::Bulk(bytes) if bytes.len() >= PART_BYTES => {
                out.write(|out| head(b'$', bytes.len(), out));
                out.push(bytes);
                out.write(|out| out.extend_from_slice(b"\r\n"));
            }
            Reply::Array(items) => {
                out.write(|out| head(b'*', items.len(), out));
                for item in items {
                    item.encode_into(version, out);
                }
            }
            reply => {
                out.write(|out| reply.encode(version, out));
            }
        }
    }
}

/// Appends an error of the kind that has no name of its own.
pub(crate) fn error(message: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"-ERR ");
    rest_of_line(message.as_bytes(), out);
}

fn line(marker: u8, text: &[u8], out: &mut Vec<u8>) {
    out.push(marker);
    rest_of_line(text, out);
}

/// Writes `text` and the end of its line; line breaks inside it become spaces.
fn rest_of_line(text: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(text);
    for byte in &mut out[start..] {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn integer(marker: u8, number: i64, out: &mut Vec<u8>) {
    out.push(marker);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.extend_from_slice(b"\r\n");
}

pub(super) fn head(marker: u8, count: usize, out: &mut Vec<u8>) {
    out.push(marker);
    out.extend_from_slice(itoa::Buffer::new().format(count).as_bytes());
    out.extend_from_slice(b"\r\n");
}

pub(super) fn bulk(bytes: &[u8], out: &mut Vec<u8>) {
    // Once for the length, the bytes and the line ends.
    out.reserve(bytes.len() + 32);
    head(b'$', bytes.len(), out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn verbatim(format: &str, text: &[u8], out: &mut Vec<u8>) {
    debug_assert_eq!(format.len(), 3, "a format has three letters");
    head(b'=', format.len() + 1 + text.len(), out);
    out.extend_from_slice(format.as_bytes());
    out.push(b':');
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

fn list(marker: u8, items: &[Reply], version: Version, out: &mut Vec<u8>) {
    head(marker, items.len(), out);
    for item in items {
        item.encode(version, out);
    }
}

fn map(marker: u8, count: usize, pairs: &[(Reply, Reply)], version: Version, out: &mut Vec<u8>) {
    head(marker, count, out);
    for (key, value) in pairs {
        key.encode(version, out);
        value.encode(version, out);
    }
}

/// The significant digits that tell every double from every other.
const DIGITS: usize = 17;

/// A double as Redis 7.0 writes it, which is C's `%.17g`: 17 significant digits without the zeros
/// at their end, and an exponent where the number is small or large.
#[expect(clippy::cast_possible_truncation, reason = "checked to be a whole number that fits")]
fn double(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if number.abs() < 1e15 && number.fract() == 0.0 && (number != 0.0 || number.is_sign_positive())
    {
        return itoa::Buffer::new().format(number as i64).to_owned();
    }
    // "-d.dddddddddddddddde-x"
    let scientific = format!("{:.*e}", DIGITS - 1, number.abs());
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits = mantissa.replace('.', "");
    let digits = digits.trim_end_matches('0');
    let digits = if digits.is_empty() { "0" } else { digits };
    let sign = if number.is_sign_negative() { "-" } else { "" };
    match usize::try_from(exponent) {
        _ if !(-4..17).contains(&exponent) => {
            let (first, rest) = digits.split_at(1);
            let point = if rest.is_empty() { "" } else { "." };
            let direction = if exponent < 0 { '-' } else { '+' };
            format!("{sign}{first}{point}{rest}e{direction}{:02}", exponent.abs())
        }
        Ok(whole) if digits.len() > whole + 1 => {
            format!("{sign}{}.{}", &digits[..=whole], &digits[whole + 1..])
        }
        Ok(whole) => format!("{sign}{digits:0<width$}", width = whole + 1),
        Err(_) => {
            let zeros = usize::try_from(-exponent - 1).unwrap_or(0);
            format!("{sign}0.{}{digits}", "0".repeat(zeros))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_double_is_written_as_c_writes_it() {
        for (number, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (0.1, "0.10000000000000001"),
            (-0.1, "-0.10000000000000001"),
            (1.5, "1.5"),
            (100.0, "100"),
            (1e15, "1000000000000000"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (1.234_567_890_123_456_8e17, "1.2345678901234568e+17"),
            (0.0001, "0.0001"),
            (1e-5, "1.0000000000000001e-05"),
            (5e-324, "4.9406564584124654e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (3.25, "3.25"),
            (-1234.5678, "-1234.5678"),
            (9.999_999_999_999_998e16, "99999999999999984"),
            (0.000_123_45, "0.00012344999999999999"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (-f64::NAN, "nan"),
        ] {
            assert_eq!(double(number), text);
        }
    }

    #[test]
    fn a_double_is_read_as_the_same() {
        let mut bits: u64 = 1;
        for _ in 0..10_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = f64::from_bits(bits);
            if number.is_finite() {
                assert_eq!(double(number).parse(), Ok(number));
            }
        }
    }
}
