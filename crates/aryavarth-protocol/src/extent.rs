//! Where a JSON object ends, found while it arrives.
//!
//! Invariants:
//! - Every byte is looked at once, however small the pieces are in which it arrives.
//! - It decides only where the object ends. Whether it is JSON is decided by the decoder, on the
//!   whole; but a byte that no JSON has outside its strings is refused at once, so that a person
//!   typing nonsense does not wait for a closing brace.

use memchr::memchr2;

/// A scan for the end of one object. It starts at the opening brace.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extent {
    /// Bytes looked at.
    scanned: usize,
    /// Objects and arrays that are open.
    depth: usize,
    in_string: bool,
    /// The last byte was a backslash that escapes the next one.
    escaped: bool,
}

/// The result of a scan.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The object takes this many bytes.
    End(usize),
    /// The end has not arrived.
    More,
    /// This is not JSON.
    Bad(String),
}

impl Extent {
    /// Looks at the bytes of `object` that it has not seen. `object` always begins at the opening
    /// brace and has all that has arrived since. Objects and arrays may be nested `depth_max` deep.
    pub(crate) fn scan(&mut self, object: &[u8], depth_max: usize) -> Found {
        while self.scanned < object.len() {
            if self.in_string {
                self.scan_string(object);
                continue;
            }
            let byte = object[self.scanned];
            self.scanned += 1;
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => {
                    self.depth += 1;
                    if self.depth > depth_max {
                        let reason = format!("it is nested more than {depth_max} levels deep");
                        return Found::Bad(reason);
                    }
                }
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Found::End(self.scanned);
                    }
                }
                _ if stands_outside_strings(byte) => {}
                _ => {
                    let shown = byte.escape_ascii();
                    let at = self.scanned;
                    return Found::Bad(format!("unexpected `{shown}` outside a string, byte {at}"));
                }
            }
        }
        Found::More
    }

    /// Goes on to the end of the string, or of the input so far.
    fn scan_string(&mut self, object: &[u8]) {
        if self.escaped {
            self.escaped = false;
            self.scanned += 1;
            return;
        }
        match memchr2(b'"', b'\\', &object[self.scanned..]) {
            None => self.scanned = object.len(),
            Some(skipped) => {
                let at = self.scanned + skipped;
                self.in_string = object[at] != b'"';
                self.escaped = object[at] == b'\\';
                self.scanned = at + 1;
            }
        }
    }
}

/// Whether JSON has `byte` outside its strings: punctuation, white space, numbers, literals.
fn stands_outside_strings(byte: u8) -> bool {
    matches!(
        byte,
        b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' | b'0'
            ..=b'9'
                | b'-'
                | b'+'
                | b'.'
                | b'E'
                | b'a'
                | b'e'
                | b'f'
                | b'l'
                | b'n'
                | b'r'
                | b's'
                | b't'
                | b'u'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Found {
        Extent::default().scan(text.as_bytes(), 64)
    }

    #[test]
    fn the_end_is_the_brace_that_closes_the_first() {
        assert_eq!(whole(r#"{"a":{"b":[1,2]}} {"#), Found::End(17));
        assert_eq!(whole(r#"{"a":"}"}"#), Found::End(9));
        assert_eq!(whole(r#"{"a":"\"}"}"#), Found::End(11));
        assert_eq!(whole(r#"{"a":"\\"}x"#), Found::End(10));
        assert_eq!(whole(r#"{"a":"}"#), Found::More);
        assert_eq!(whole("{"), Found::More);
    }

    #[test]
    fn pieces_give_the_same_end_as_the_whole() {
        let text = r#"{"Set":{"key":"\\\"{[","value":"\u0041\\"},"x":[[],{}]} "#.as_bytes();
        let Found::End(end) = Extent::default().scan(text, 64) else { panic!("no end") };
        assert_eq!(end, text.len() - 1);
        let mut extent = Extent::default();
        for seen in 1..end {
            assert_eq!(extent.scan(&text[..seen], 64), Found::More, "after {seen} bytes");
        }
        assert_eq!(extent.scan(&text[..end], 64), Found::End(end));
    }

    #[test]
    fn nonsense_is_refused_before_it_ends() {
        assert!(matches!(whole("{hello"), Found::Bad(_)));
        assert!(matches!(whole(&"{[".repeat(40)), Found::Bad(_)));
        assert_eq!(whole(&"[".repeat(64)), Found::More);
    }
}
