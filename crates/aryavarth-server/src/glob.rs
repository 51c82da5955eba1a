//! Glob patterns, as KEYS and SCAN take them.
//!
//! `*` is any bytes, `?` one byte, `[a-c]` one of these and `[^a-c]` one that is not; a backslash
//! takes the next byte as it is. Broken patterns match as they do in Redis.
//!
//! Invariant: matching takes no more steps than the pattern times the text is long; there is no
//! pattern that takes exponentially many.

/// A pattern, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Glob {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// Any bytes, or none.
    Any,
    /// Any byte.
    One,
    Byte(u8),
    /// A byte that is in the set, a bit for each.
    Of(Box<[u64; 4]>),
}

impl Glob {
    pub(crate) fn new(pattern: &[u8]) -> Self {
        let mut parts = Vec::new();
        let mut rest = pattern;
        while let [first, after @ ..] = rest {
            rest = after;
            let part = match first {
                b'*' => Part::Any,
                b'?' => Part::One,
                b'[' => {
                    let (set, after) = set(rest);
                    rest = after;
                    Part::Of(Box::new(set))
                }
                b'\\' if !rest.is_empty() => {
                    let escaped = rest[0];
                    rest = &rest[1..];
                    Part::Byte(escaped)
                }
                byte => Part::Byte(*byte),
            };
            parts.push(part);
        }
        Glob { parts }
    }

    /// The same pattern for texts in whatever case.
    pub(crate) fn ignoring_case(pattern: &[u8]) -> Self {
        let mut glob = Glob::new(pattern);
        for part in &mut glob.parts {
            let (Part::Byte(_) | Part::Of(_)) = part else { continue };
            let mut set = [0; 4];
            for byte in 0..=u8::MAX {
                if part.takes(byte.to_ascii_lowercase()) || part.takes(byte.to_ascii_uppercase()) {
                    add(&mut set, byte);
                }
            }
            *part = Part::Of(Box::new(set));
        }
        glob
    }

    /// The bytes that every match begins with.
    pub(crate) fn prefix(&self) -> Vec<u8> {
        let bytes = self.parts.iter().map_while(|part| match part {
            Part::Byte(byte) => Some(*byte),
            _ => None,
        });
        bytes.collect()
    }

    /// Whether everything matches.
    pub(crate) fn is_any(&self) -> bool {
        self.parts == [Part::Any]
    }

    /// Whether all of `text` matches. Nothing but an empty pattern matches an empty text, in Redis
    /// too, whose commands that take `*` alone for everything ask [`Glob::is_any`] first.
    pub(crate) fn matches(&self, text: &[u8]) -> bool {
        if text.is_empty() {
            return self.parts.is_empty();
        }
        let (mut part, mut at) = (0, 0);
        // The last `*`, and the place in the text where its rest was tried. Trying it further on is
        // all that can help: an earlier `*` could only reach places that this one reaches, too.
        let mut star = None;
        loop {
            match self.parts.get(part) {
                Some(Part::Any) => {
                    part += 1;
                    star = Some((part, at));
                    continue;
                }
                Some(wanted) if text.get(at).is_some_and(|byte| wanted.takes(*byte)) => {
                    part += 1;
                    at += 1;
                    continue;
                }
                None if at == text.len() => return true,
                _ => {}
            }
            let Some((after, tried)) = star else { return false };
            if tried == text.len() {
                return false;
            }
            (part, at) = (after, tried + 1);
            star = Some((after, at));
        }
    }
}

impl Part {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Part::Any => false,
            Part::One => true,
            Part::Byte(wanted) => *wanted == byte,
            Part::Of(set) => set[usize::from(byte / 64)] >> (byte % 64) & 1 == 1,
        }
    }
}

fn add(set: &mut [u64; 4], byte: u8) {
    set[usize::from(byte / 64)] |= 1 << (byte % 64);
}

/// The set that begins after a bracket, and the rest. A set that nothing closes ends with
/// the pattern.
fn set(pattern: &[u8]) -> ([u64; 4], &[u8]) {
    let mut set = [0; 4];
    let is_negated = pattern.first() == Some(&b'^');
    let mut rest = &pattern[usize::from(is_negated)..];
    loop {
        rest = match rest {
            [] => break,
            [b'\\', byte, after @ ..] => {
                add(&mut set, *byte);
                after
            }
            [b']', after @ ..] => {
                rest = after;
                break;
            }
            [start, b'-', end, after @ ..] => {
                // Redis compares signed bytes.
                let (start, end) = (start.cast_signed(), end.cast_signed());
                let range = start.min(end)..=start.max(end);
                range.for_each(|byte| add(&mut set, byte.cast_unsigned()));
                after
            }
            [byte, after @ ..] => {
                add(&mut set, *byte);
                after
            }
        };
    }
    (if is_negated { set.map(|bits| !bits) } else { set }, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_redis_lets_them_match() {
        for (pattern, text, wanted) in [
            ("", "", true),
            ("", "a", false),
            ("*", "anything", true),
            ("*", "", false),
            ("**", "", false),
            ("a**", "a", true),
            ("**", "a", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            ("h[a-b]llo", "hcllo", false),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hello", false),
            ("a\\", "a\\", true),
            ("[a\\]b]", "]", true),
            ("[\\-a]", "-", true),
            ("[abc", "c", true),
            ("[abc", "cd", false),
            ("[", "[", false),
            ("[]", "]", false),
            ("[^]", "x", true),
            ("[^", "x", true),
            ("[a-", "-", true),
            ("[a-]", "b", false),
            ("*b*d", "abcd", true),
            ("*b*d", "abcde", false),
            ("a**b", "ab", true),
            ("*?", "", false),
            ("*[^a]", "aab", true),
            ("H*", "hello", false),
        ] {
            let matches = Glob::new(pattern.as_bytes()).matches(text.as_bytes());
            assert_eq!(matches, wanted, "{pattern:?} on {text:?}");
        }
        assert!(Glob::ignoring_case(b"H[A-E]*\\Y").matches(b"hExxxy"));
        assert!(Glob::new(b"[\x7f-\x81]").matches(b"\x00"), "bytes are signed");
    }

    #[test]
    fn the_prefix_is_what_every_match_begins_with() {
        assert_eq!(Glob::new(b"user:\\*1*x").prefix(), b"user:*1");
        assert_eq!(Glob::new(b"*").prefix(), b"");
        assert!(Glob::new(b"*").is_any());
        assert!(!Glob::new(b"**").is_any(), "it does not match the empty key");
    }

    #[test]
    fn many_stars_take_no_longer_than_the_text_times_the_pattern() {
        // With a branch for each star this would not end.
        let pattern = [b"a*".repeat(50), b"b".to_vec()].concat();
        assert!(!Glob::new(&pattern).matches(&b"a".repeat(10_000)));
    }
}
