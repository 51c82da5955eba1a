//! Patterns as Redis has them: `*`, `?`, `[a-z]`, `[^a]`, and `\` before what is meant literally.

/// Whether a text matches a pattern, in the case that it has or in any. Takes at most
/// O(pattern x text) steps and no memory.
pub(crate) fn matches(pattern: &[u8], text: &[u8], any_case: bool) -> bool {
    let same = |a: u8, b: u8| if any_case { a.eq_ignore_ascii_case(&b) } else { a == b };
    let (mut p, mut t) = (0, 0);
    // Where the last star stands, and where the text went on after it.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, t));
            p += 1;
            continue;
        }
        if let Some(next) = step(&pattern[p..], text[t], same) {
            p += next;
            t += 1;
            continue;
        }
        // The last star takes one byte more. Earlier ones need not: what they matched is as good.
        let Some((after, from)) = star else { return false };
        star = Some((after, from + 1));
        (p, t) = (after, from + 1);
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Matches one byte with the head of a pattern that is no star: how long that head is.
fn step(pattern: &[u8], byte: u8, same: impl Fn(u8, u8) -> bool) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', rest @ ..] => class(rest, byte, same).map(|len| len + 1),
        [b'\\', literal, ..] => same(*literal, byte).then_some(2),
        [literal, ..] => same(*literal, byte).then_some(1),
    }
}

/// Matches one byte with a class, whose text begins after the bracket: how long that text is. One
/// without its end goes to the end of the pattern.
fn class(text: &[u8], byte: u8, same: impl Fn(u8, u8) -> bool) -> Option<usize> {
    let negated = text.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    loop {
        match &text[at.min(text.len())..] {
            [] => break,
            [b'\\', literal, ..] => {
                found |= same(*literal, byte);
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [from, b'-', to, ..] => {
                let (from, to) = (*from.min(to), *from.max(to));
                // Each byte of the range, so that case is treated as everywhere.
                found |= (from..=to).any(|literal| same(literal, byte));
                at += 3;
            }
            [literal, ..] => {
                found |= same(*literal, byte);
                at += 1;
            }
        }
    }
    (found != negated).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("*a*b", "xaxbxab", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hbllo", true),
            ("[a", "a", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a[\\]]", "a]", true),
            ("MAX*", "maxmemory", false),
        ] {
            let found = matches(pattern.as_bytes(), text.as_bytes(), false);
            assert_eq!(found, expected, "{pattern} on {text}");
        }
        assert!(matches(b"MAX*", b"maxmemory", true));
        assert!(matches(b"[A-C]x", b"bX", true));
    }

    #[test]
    fn many_stars_take_no_long_time() {
        // Tried star by star, this would be more steps than there is time.
        let pattern = "a*".repeat(100) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(1000).as_bytes(), false));
    }
}
