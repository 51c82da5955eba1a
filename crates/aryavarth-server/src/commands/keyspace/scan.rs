//! SCAN and KEYS: walking the keys, in their order.
//!
//! Keys are walked in order, so a scan that goes on after the last key that it saw returns every
//! key that is there all the time exactly once. A cursor is a number and a key is not, so the
//! server keeps which key a cursor stands for, as long as there is room.
//!
//! Invariants:
//! - The table of cursors is bounded in entries and in bytes; the oldest go first.
//! - A cursor that was dropped is an error, never another place.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aryavarth::KeyRange;
use aryavarth_protocol::Reply;

use crate::commands::kit::args::Args;
use crate::commands::kit::failure::{Failure, SYNTAX, refused};
use crate::commands::kit::glob::Glob;
use crate::commands::kit::read::Read;
use crate::commands::kit::spec::{Outcome, Run, Spec};

pub(crate) const SPECS: &[Spec] = &[
    Spec::new("scan", -2, "cursor [MATCH pattern] [COUNT count] [TYPE type]", Run::Scan(scan))
        .flags("readonly @keyspace")
        .tips(&["nondeterministic_output", "request_policy:special"])
        .since("2.8.0")
        .cost("O(log(K)+N) a call, K being all keys and N the keys that are looked at")
        .says("Incrementally iterates the keys space"),
    Spec::new("keys", 2, "pattern", Run::Read(keys))
        .flags("readonly @keyspace @dangerous")
        .tips(&["request_policy:all_shards", "nondeterministic_output_order"])
        .cost("O(N), N being the keys that begin as the pattern does up to its first wildcard")
        .says("Finds all keys matching the given pattern"),
];

/// Cursors that are kept.
const CURSORS_MAX: usize = 16_384;

/// Bytes of keys that the kept cursors may have in all.
const CURSOR_BYTES_MAX: usize = 16 << 20;

/// Keys that one call of SCAN looks at, whatever it asks for: COUNT is a hint.
const PAGE_KEYS_MAX: u64 = 100_000;

/// Keys that KEYS asks the engine for at a time.
const WALK_KEYS: usize = 4096;

/// Where scans are to go on.
#[derive(Debug)]
pub(crate) struct Cursors(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    /// The number of the first place that is kept; those after it follow without a gap.
    first: u64,
    places: VecDeque<(u32, Vec<u8>)>,
    bytes: usize,
}

impl Default for Cursors {
    fn default() -> Self {
        // Not the same numbers after a restart, or a scan would go on somewhere else; and small
        // enough for clients whose numbers are 64-bit floats.
        Cursors::starting_at((RandomState::new().hash_one(0) >> 16) + 1)
    }
}

impl Cursors {
    /// A table whose cursors are numbered from `first` on.
    pub(crate) fn starting_at(first: u64) -> Self {
        Cursors(Mutex::new(Kept { first, places: VecDeque::new(), bytes: 0 }))
    }

    /// A cursor for what comes after `key`.
    fn keep(&self, space: u32, key: Vec<u8>) -> u64 {
        let mut kept = self.lock();
        kept.bytes += key.len();
        kept.places.push_back((space, key));
        while kept.places.len() > CURSORS_MAX || kept.bytes > CURSOR_BYTES_MAX {
            let Some((_, dropped)) = kept.places.pop_front() else { break };
            kept.bytes -= dropped.len();
            kept.first += 1;
        }
        kept.first + kept.places.len() as u64 - 1
    }

    /// The key that a cursor stands for.
    fn find(&self, space: u32, cursor: u64) -> Option<Vec<u8>> {
        let kept = self.lock();
        let at = usize::try_from(cursor.checked_sub(kept.first)?).ok()?;
        let (of, key) = kept.places.get(at)?;
        (*of == space).then(|| key.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call of SCAN.
struct Page {
    range: KeyRange,
    glob: Option<Glob>,
    count: usize,
    /// Whether keys of the type that was asked for can exist.
    has_type: bool,
}

fn scan(keys: &mut dyn Read, cursors: &Cursors, args: &Args<'_>) -> Outcome {
    let page = page(keys.space(), cursors, args)?;
    let is_empty = !page.has_type || page.range.is_empty();
    let found = if is_empty { Vec::new() } else { keys.keys(&page.range, page.count)? };
    // A page that is not full is the last.
    let last = found.last().filter(|_| found.len() == page.count).cloned();
    let cursor = last.map_or(0, |last| cursors.keep(keys.space(), last));
    let matching = found.into_iter().filter(|key| matches(page.glob.as_ref(), key));
    Ok(Reply::Array(vec![
        Reply::bulk(cursor.to_string()),
        Reply::Array(matching.map(Reply::Bulk).collect()),
    ]))
}

fn page(space: u32, cursors: &Cursors, args: &Args<'_>) -> Result<Page, Failure> {
    let Some(cursor) = parse_cursor(args.get(1)) else { return refused("ERR invalid cursor") };
    let mut page = Page { range: KeyRange::all(), glob: None, count: 10, has_type: true };
    for place in (2..args.len()).step_by(2) {
        if place + 1 >= args.len() {
            return refused(SYNTAX);
        } else if args.is(place, "MATCH") {
            page.glob = Some(Glob::new(args.get(place + 1)));
        } else if args.is(place, "COUNT") {
            match u64::try_from(args.integer(place + 1)?) {
                Ok(count @ 1..) => {
                    page.count = usize::try_from(count.min(PAGE_KEYS_MAX)).unwrap_or(usize::MAX);
                }
                _ => return refused(SYNTAX),
            }
        } else if args.is(place, "TYPE") {
            page.has_type = args.is(place + 1, "string");
        } else {
            return refused(SYNTAX);
        }
    }
    page.range = range_of(page.glob.as_ref());
    if cursor != 0 {
        let Some(last) = cursors.find(space, cursor) else {
            return refused("ERR the cursor is not known any more: begin the scan again with 0");
        };
        // A cursor of another pattern may stand before the keys of this one.
        if !matches!(&page.range.start, Bound::Included(start) if last < *start) {
            page.range = page.range.after(&last);
        }
    }
    Ok(page)
}

/// Reads a cursor as `strtoul` does, which Redis lets say nothing, or something below zero.
fn parse_cursor(text: &[u8]) -> Option<u64> {
    let digits = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
    if text.is_empty() {
        return Some(0);
    }
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(if text[0] == b'-' { number.wrapping_neg() } else { number })
}

/// The keys that can match.
fn range_of(glob: Option<&Glob>) -> KeyRange {
    let prefix = glob.map(Glob::prefix).unwrap_or_default();
    if prefix.is_empty() { KeyRange::all() } else { KeyRange::prefix(&prefix) }
}

fn matches(glob: Option<&Glob>, key: &[u8]) -> bool {
    glob.is_none_or(|glob| glob.is_any() || glob.matches(key))
}

fn keys(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    keys.begin_long()?;
    let glob = Glob::new(args.get(1));
    let mut range = range_of(Some(&glob));
    let (mut found, mut bytes) = (Vec::new(), 0);
    loop {
        let page = keys.keys(&range, WALK_KEYS)?;
        let next =
            page.last().filter(|_| page.len() == WALK_KEYS).map(|last| range.clone().after(last));
        for key in page.into_iter().filter(|key| matches(Some(&glob), key)) {
            bytes += key.len();
            found.push(Reply::Bulk(key));
        }
        args.check_reply(bytes)?;
        match next {
            Some(next) => range = next,
            None => return Ok(Reply::Array(found)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_bounded_and_the_oldest_go_first() {
        let cursors = Cursors::starting_at(1);
        for number in 1..=CURSORS_MAX as u64 {
            assert_eq!(cursors.keep(0, number.to_string().into_bytes()), number);
        }
        assert_eq!(cursors.find(0, 1), Some(b"1".to_vec()));
        assert_eq!(cursors.find(1, 1), None, "it is of another database");
        cursors.keep(0, b"one more".to_vec());
        assert_eq!(cursors.find(0, 1), None);
        assert_eq!(cursors.find(0, 2), Some(b"2".to_vec()));

        let long = vec![b'x'; CURSOR_BYTES_MAX / 4];
        let last = (0..8).map(|_| cursors.keep(0, long.clone())).last().expect("there are eight");
        assert_eq!(cursors.find(0, last), Some(long));
        assert_eq!(cursors.find(0, last - 4), None);
        assert_eq!(cursors.find(0, last + 1), None);
    }

    #[test]
    fn cursors_do_not_mean_the_same_in_another_run() {
        let cursor = Cursors::default().keep(0, b"k".to_vec());
        assert_eq!(Cursors::default().find(0, cursor), None);
        assert!(cursor < 1 << 53, "a client may keep it in a float");
    }
}
