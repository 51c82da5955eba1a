//! SCAN and KEYS: walking the keys.
//!
//! The cursors of SCAN are the engine's, which find a key that stays wherever other clients are in
//! their scans, over a restart too. A small database, and the keys of a pattern with a literal
//! beginning, are one page, looked up in the order of keys instead.

use aryavarth::KeyRange;
use aryavarth_protocol::Reply;

use crate::commands::kit::args::Args;
use crate::commands::kit::failure::{Failure, SYNTAX, refused};
use crate::commands::kit::read::Read;
use crate::commands::kit::spec::{Outcome, Run, Spec};
use crate::glob::Glob;

pub(crate) const SPECS: &[Spec] = &[
    Spec::new("scan", -2, "cursor [MATCH pattern] [COUNT count] [TYPE type]", Run::Read(scan))
        .flags("readonly @keyspace")
        .tips(&["nondeterministic_output", "request_policy:special"])
        .since("2.8.0")
        .cost("O(N) a call, N being the keys that are looked at")
        .says("Incrementally iterates the keys space"),
    Spec::new("keys", 2, "pattern", Run::Read(keys))
        .flags("readonly @keyspace @dangerous")
        .tips(&["request_policy:all_shards", "nondeterministic_output_order"])
        .cost("O(N), N being the keys that begin as the pattern does up to its first wildcard")
        .says("Finds all keys matching the given pattern"),
];

/// Keys that one call of SCAN looks at, whatever it asks for: COUNT is a hint.
const PAGE_KEYS_MAX: u64 = 100_000;

/// Keys that KEYS asks the engine for at a time.
const WALK_KEYS: usize = 4096;

/// A call of SCAN.
struct Page {
    cursor: u64,
    glob: Option<Glob>,
    count: usize,
    /// Whether keys of the type that was asked for can exist.
    has_type: bool,
}

fn scan(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    let page = page(args)?;
    if !page.has_type {
        return Ok(answer(0, Vec::new(), None));
    }
    if page.cursor == 0 {
        // One more shows that the page does not hold them all.
        let found = keys.keys(&range_of(page.glob.as_ref()), page.count + 1)?;
        if found.len() <= page.count {
            return Ok(answer(0, found, page.glob.as_ref()));
        }
    }
    let (found, cursor) = keys.walk(page.cursor, page.count)?;
    Ok(answer(cursor, found, page.glob.as_ref()))
}

fn answer(cursor: u64, found: Vec<Vec<u8>>, glob: Option<&Glob>) -> Reply {
    let matching = found.into_iter().filter(|key| matches(glob, key));
    Reply::Array(vec![
        Reply::bulk(cursor.to_string()),
        Reply::Array(matching.map(Reply::Bulk).collect()),
    ])
}

fn page(args: &Args<'_>) -> Result<Page, Failure> {
    let Some(cursor) = parse_cursor(args.get(1)) else { return refused("ERR invalid cursor") };
    let mut page = Page { cursor, glob: None, count: 10, has_type: true };
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
        keys.reserve(bytes)?;
        match next {
            Some(next) => range = next,
            None => return Ok(Reply::Array(found)),
        }
    }
}
