//! Patterns of Lua: a matcher whose work is counted.
//!
//! The library's own matcher runs a pattern like `a?a?a?aaa` with more of each for hours and no hook interrupts it.
//! This one finds the same matches, counts each step, and fails when its steps are used up or when
//! [`Steps`] says that the script is to stop.

/// The most captures of a pattern.
const CAPTURES_MAX: usize = 32;
/// The deepest recursion of a match.
const DEPTH_MAX: usize = 200;
const ESCAPE: u8 = b'%';
/// Bytes of a set that are one step.
const SET_BYTES: usize = 8;

/// Why a match came to no end.
#[derive(Debug)]
pub(super) enum Fault {
    /// The pattern is malformed, or too complex: the text of the error.
    Pattern(&'static str),
    /// The script is to stop.
    Stopped(mlua::Error),
}

/// Counts the steps of a match.
pub(super) trait Steps {
    /// # Errors
    /// The script is to stop.
    fn step(&self, steps: u32) -> mlua::Result<()>;
}

/// A capture: where it begins, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capture {
    pub(super) start: usize,
    pub(super) extent: Extent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Not closed yet.
    Open,
    /// `()`: the place itself.
    Place,
    Bytes(usize),
}

/// A pattern over a subject.
pub(super) struct Matcher<'a, S> {
    subject: &'a [u8],
    pattern: &'a [u8],
    steps: &'a S,
    captures: Vec<Capture>,
    depth: usize,
}

type Found = Result<Option<usize>, Fault>;

impl<'a, S: Steps> Matcher<'a, S> {
    pub(super) fn new(subject: &'a [u8], pattern: &'a [u8], steps: &'a S) -> Self {
        Matcher { subject, pattern, steps, captures: Vec::new(), depth: 0 }
    }

    /// Where a match at `from` ends, if there is one; the pattern is without its anchor.
    pub(super) fn match_at(&mut self, from: usize) -> Found {
        self.captures.clear();
        self.depth = 0;
        self.go(from, 0)
    }

    /// Whether the last match has captures of its own.
    pub(super) fn has_captures(&self) -> bool {
        !self.captures.is_empty()
    }

    /// The captures of the last match, or the whole match if the pattern has none.
    pub(super) fn captures(&self, start: usize, end: usize) -> Result<Vec<Capture>, Fault> {
        if self.captures.is_empty() {
            return Ok(vec![Capture { start, extent: Extent::Bytes(end - start) }]);
        }
        if self.captures.iter().any(|capture| capture.extent == Extent::Open) {
            return Err(Fault::Pattern("unfinished capture"));
        }
        Ok(self.captures.clone())
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.pattern.get(at).copied()
    }

    fn count(&self) -> Result<(), Fault> {
        self.steps.step(1).map_err(Fault::Stopped)
    }

    /// Counts the work of a class: the whole of a set may be compared with one byte.
    fn count_class(&self, p: usize, after: usize) -> Result<(), Fault> {
        let steps = 1 + (after - p) / SET_BYTES;
        self.steps.step(u32::try_from(steps).unwrap_or(u32::MAX)).map_err(Fault::Stopped)
    }

    /// Matches the pattern from `p` on at `s`.
    fn go(&mut self, mut s: usize, mut p: usize) -> Found {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Fault::Pattern("pattern too complex"));
        }
        let found = loop {
            self.count()?;
            let Some(byte) = self.byte(p) else { break Some(s) };
            match (byte, self.byte(p + 1)) {
                (b'(', Some(b')')) => break self.open(s, p + 2, Extent::Place)?,
                (b'(', _) => break self.open(s, p + 1, Extent::Open)?,
                (b')', _) => break self.close(s, p + 1)?,
                (b'$', None) => break (s == self.subject.len()).then_some(s),
                (ESCAPE, Some(b'b')) => match self.balanced(s, p + 2)? {
                    Some(end) => (s, p) = (end, p + 4),
                    None => break None,
                },
                (ESCAPE, Some(b'f')) => match self.frontier(s, p + 2)? {
                    Some(after) => p = after,
                    None => break None,
                },
                (ESCAPE, Some(digit @ b'0'..=b'9')) => match self.again(s, digit)? {
                    Some(end) => (s, p) = (end, p + 2),
                    None => break None,
                },
                _ => {
                    let after = self.class_end(p)?;
                    self.count_class(p, after)?;
                    let is_here = s < self.subject.len() && self.single(s, p, after);
                    match self.byte(after) {
                        Some(b'?') => {
                            if is_here && let Some(end) = self.go(s + 1, after + 1)? {
                                break Some(end);
                            }
                            p = after + 1;
                        }
                        Some(b'*') => break self.most(s, p, after, 0)?,
                        Some(b'+') => break self.most(s, p, after, 1)?,
                        Some(b'-') => break self.fewest(s, p, after)?,
                        _ if is_here => (s, p) = (s + 1, after),
                        _ => break None,
                    }
                }
            }
        };
        self.depth -= 1;
        Ok(found)
    }

    /// The most repetitions of a class, at least `least`, after which the rest matches.
    fn most(&mut self, s: usize, p: usize, after: usize, least: usize) -> Found {
        let mut times = 0;
        while s + times < self.subject.len() && self.single(s + times, p, after) {
            self.count_class(p, after)?;
            times += 1;
        }
        while times >= least {
            if let Some(end) = self.go(s + times, after + 1)? {
                return Ok(Some(end));
            }
            if times == 0 {
                break;
            }
            times -= 1;
        }
        Ok(None)
    }

    /// The fewest repetitions of a class after which the rest matches.
    fn fewest(&mut self, mut s: usize, p: usize, after: usize) -> Found {
        loop {
            if let Some(end) = self.go(s, after + 1)? {
                return Ok(Some(end));
            }
            self.count_class(p, after)?;
            if s >= self.subject.len() || !self.single(s, p, after) {
                return Ok(None);
            }
            s += 1;
        }
    }

    fn open(&mut self, s: usize, p: usize, extent: Extent) -> Found {
        if self.captures.len() >= CAPTURES_MAX {
            return Err(Fault::Pattern("too many captures"));
        }
        let level = self.captures.len();
        self.captures.push(Capture { start: s, extent });
        let found = self.go(s, p)?;
        if found.is_none() {
            self.captures.truncate(level);
        }
        Ok(found)
    }

    fn close(&mut self, s: usize, p: usize) -> Found {
        let open = self.captures.iter().rposition(|capture| capture.extent == Extent::Open);
        let Some(at) = open else { return Err(Fault::Pattern("invalid pattern capture")) };
        self.captures[at].extent = Extent::Bytes(s - self.captures[at].start);
        let found = self.go(s, p)?;
        if found.is_none() {
            self.captures[at].extent = Extent::Open;
        }
        Ok(found)
    }

    /// `%bxy`: from an x to the y that balances it.
    fn balanced(&self, s: usize, p: usize) -> Found {
        let (Some(open), Some(close)) = (self.byte(p), self.byte(p + 1)) else {
            return Err(Fault::Pattern("unbalanced pattern"));
        };
        if self.subject.get(s) != Some(&open) {
            return Ok(None);
        }
        let mut level = 1;
        for (at, byte) in self.subject.iter().enumerate().skip(s + 1) {
            self.count()?;
            if *byte == close {
                level -= 1;
                if level == 0 {
                    return Ok(Some(at + 1));
                }
            } else if *byte == open {
                level += 1;
            }
        }
        Ok(None)
    }

    /// `%f[set]`: between a byte out of the set and one in it; returns the place after the set.
    fn frontier(&self, s: usize, p: usize) -> Found {
        if self.byte(p) != Some(b'[') {
            return Err(Fault::Pattern("missing '[' after '%f' in pattern"));
        }
        let after = self.class_end(p)?;
        self.count_class(p, after)?;
        let before = s.checked_sub(1).and_then(|at| self.subject.get(at)).copied().unwrap_or(0);
        let here = self.subject.get(s).copied().unwrap_or(0);
        let is_between = !self.in_set(before, p, after - 1) && self.in_set(here, p, after - 1);
        Ok(is_between.then_some(after))
    }

    /// `%1`: the text of a capture again.
    fn again(&self, s: usize, digit: u8) -> Found {
        let index = usize::from(digit - b'0');
        let capture = index.checked_sub(1).and_then(|at| self.captures.get(at));
        let Some(Capture { start, extent: Extent::Bytes(length) }) = capture.copied() else {
            return match capture {
                // A place is longer than any subject.
                Some(Capture { extent: Extent::Place, .. }) => Ok(None),
                _ => Err(Fault::Pattern("invalid capture index")),
            };
        };
        self.steps.step(u32::try_from(length / 16).unwrap_or(u32::MAX)).map_err(Fault::Stopped)?;
        let text = &self.subject[start..start + length];
        Ok(self.subject[s..].starts_with(text).then_some(s + length))
    }

    /// The place after the class at `p`.
    fn class_end(&self, p: usize) -> Result<usize, Fault> {
        match self.byte(p) {
            Some(ESCAPE) if p + 1 >= self.pattern.len() => {
                Err(Fault::Pattern("malformed pattern (ends with '%')"))
            }
            Some(ESCAPE) => Ok(p + 2),
            Some(b'[') => {
                let mut at = p + 1;
                if self.byte(at) == Some(b'^') {
                    at += 1;
                }
                // A bracket that comes first stands for itself.
                loop {
                    let Some(byte) = self.byte(at) else {
                        return Err(Fault::Pattern("malformed pattern (missing ']')"));
                    };
                    at += 1;
                    if byte == ESCAPE && at < self.pattern.len() {
                        at += 1;
                    }
                    if self.byte(at) == Some(b']') {
                        return Ok(at + 1);
                    }
                }
            }
            _ => Ok(p + 1),
        }
    }

    fn single(&self, s: usize, p: usize, after: usize) -> bool {
        let Some(byte) = self.subject.get(s).copied() else { return false };
        match self.pattern[p] {
            b'.' => true,
            ESCAPE => in_class(byte, self.pattern[p + 1]),
            b'[' => self.in_set(byte, p, after - 1),
            literal => literal == byte,
        }
    }

    /// Whether a byte is in the set that begins at `p` and whose bracket closes at `close`.
    fn in_set(&self, byte: u8, p: usize, close: usize) -> bool {
        let is_negated = self.byte(p + 1) == Some(b'^');
        let mut at = p + 1 + usize::from(is_negated);
        while at < close {
            let is_range = at + 2 < close && self.byte(at + 1) == Some(b'-');
            if self.pattern[at] == ESCAPE && at + 1 < close {
                if in_class(byte, self.pattern[at + 1]) {
                    return !is_negated;
                }
                at += 2;
            } else if is_range {
                if (self.pattern[at]..=self.pattern[at + 2]).contains(&byte) {
                    return !is_negated;
                }
                at += 3;
            } else {
                if self.pattern[at] == byte {
                    return !is_negated;
                }
                at += 1;
            }
        }
        is_negated
    }
}

/// Whether a byte is in the class of a letter, whose upper case is the opposite.
fn in_class(byte: u8, class: u8) -> bool {
    let is_in = match class.to_ascii_lowercase() {
        b'a' => byte.is_ascii_alphabetic(),
        b'c' => byte.is_ascii_control(),
        b'd' => byte.is_ascii_digit(),
        b'l' => byte.is_ascii_lowercase(),
        b'p' => byte.is_ascii_punctuation(),
        b's' => byte.is_ascii_whitespace() || byte == 0x0b,
        b'u' => byte.is_ascii_uppercase(),
        b'w' => byte.is_ascii_alphanumeric(),
        b'x' => byte.is_ascii_hexdigit(),
        b'z' => byte == 0,
        _ => return class == byte,
    };
    is_in != class.is_ascii_uppercase()
}
