//! Inline commands: a line as a person types it, cut into arguments.
//!
//! Arguments stand between white space. Double quotes keep white space and know escapes (`\n`,
//! `\r`, `\t`, `\b`, `\a`, `\xHH`, and a backslash before anything else); single quotes know `\'`
//! only. A closing quote ends its argument, so white space or nothing has to follow.
//!
//! Invariant: arguments are decoded in place, which works because no argument is longer than its
//! written form; so an inline command is a part of the input like any other.

use super::command::Parts;

/// Cuts `line` into arguments. The parts begin `base` bytes before it. `None` if a quote is not
/// closed, or closed inside an argument.
pub(super) fn split(line: &mut [u8], base: usize, parts: &mut Parts) -> Option<()> {
    let mut read = 0;
    loop {
        read += line[read..].iter().take_while(|byte| is_space(**byte)).count();
        if read == line.len() {
            return Some(());
        }
        let start = read;
        let mut written = read;
        while let Some(&byte) = line.get(read) {
            read += 1;
            match byte {
                b' ' | b'\t' | b'\r' => break,
                b'"' | b'\'' => {
                    read = unquote(line, byte, read, &mut written)?;
                    break;
                }
                _ => {
                    line[written] = byte;
                    written += 1;
                }
            }
        }
        parts.push(base + start, base + written);
    }
}

/// Decodes the text behind the opening `quote`, up to and with the closing one. Returns its end.
fn unquote(line: &mut [u8], quote: u8, mut read: usize, written: &mut usize) -> Option<usize> {
    loop {
        let (byte, bytes) = match line.get(read..)? {
            [b'\\', b'x', high, low, ..]
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex(*high) << 4 | hex(*low), 4)
            }
            [b'\\', escaped, ..] if quote == b'"' => (unescaped(*escaped), 2),
            [b'\\', b'\'', ..] if quote == b'\'' => (b'\'', 2),
            [byte, rest @ ..] if *byte == quote => {
                let ends = rest.first().is_none_or(|next| is_space(*next));
                return ends.then_some(read + 1);
            }
            [byte, ..] => (*byte, 1),
            [] => return None,
        };
        line[*written] = byte;
        *written += 1;
        read += bytes;
    }
}

/// The byte that a backslash before `byte` stands for.
fn unescaped(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// White space as C knows it, which has a vertical tab and a form feed.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::Command;
    use super::*;

    /// The arguments, shown; `None` for quotes that do not match.
    fn args(line: &str) -> Option<String> {
        let mut line = line.as_bytes().to_vec();
        let mut parts = Parts::default();
        split(&mut line, 0, &mut parts)?;
        if parts.is_empty() {
            return Some("nothing".to_owned());
        }
        let command = Command::new(Bytes::from(line), parts);
        Some(format!("{command:?}").replace('"', ""))
    }

    #[test]
    fn arguments_stand_between_white_space() {
        assert_eq!(args("SET k v").unwrap(), "[SET, k, v]");
        assert_eq!(args("  a\t\tb \x0b c ").unwrap(), "[a, b, c]");
        assert_eq!(args("").unwrap(), "nothing");
        assert_eq!(args(" \t\r\x0c").unwrap(), "nothing");
        // A vertical tab between arguments is skipped, but does not end one.
        assert_eq!(args("a\x0bb").unwrap(), r"[a\x0bb]");
    }

    #[test]
    fn double_quotes_know_escapes() {
        assert_eq!(args(r#"a "b c" """#).unwrap(), "[a, b c, ]");
        assert_eq!(args(r#""\n\r\t\b\a\q\x4a\x4A\xfF""#).unwrap(), r"[\n\r\t\x08\x07qJJ\xff]");
        // An incomplete hexadecimal escape is a backslash before an x.
        assert_eq!(args(r#""\x4""#).unwrap(), "[x4]");
        assert_eq!(args(r#""\x4g""#).unwrap(), "[x4g]");
        assert_eq!(args(r#"a"b c""#).unwrap(), "[ab c]");
    }

    #[test]
    fn single_quotes_know_their_own_only() {
        assert_eq!(args(r"'a b' c").unwrap(), "[a b, c]");
        assert_eq!(args(r"'it\'s' x").unwrap(), r"[it\'s, x]");
        assert_eq!(args(r"'a\nb'").unwrap(), r"[a\\nb]");
    }

    #[test]
    fn quotes_have_to_match() {
        for line in [r#""a"#, r#"""#, "'", r"'a\'", r#""a\""#, r#""a"b"#, "'a'b", r#""a"'b'"#] {
            assert_eq!(args(line), None, "{line}");
        }
    }
}
