//! Strings: reading values, whole and in parts, and changing them where they are.
//!
//! Invariant: a value longer than the limit is refused before it is allocated.

use aryavarth::{Stored, Transaction};
use aryavarth_protocol::Reply;

use super::lcs::lcs;
use crate::commands::kit::args::Args;
use crate::commands::kit::failure::refused;
use crate::commands::kit::read::Read;
use crate::commands::kit::spec::{Outcome, Run, Spec};
use crate::commands::string::assign::digest;

pub(crate) const SPECS: &[Spec] = &[
    Spec::new("get", 2, "key", Run::Read(get))
        .flags("readonly fast @string")
        .key("RO access")
        .says("Gets the value of a key"),
    Spec::new("mget", -2, "key [key ...]", Run::Read(mget))
        .flags("readonly fast @string")
        .keys(1, -1, 1, "RO access")
        .tips(&["request_policy:multi_shard"])
        .cost("O(N) where N is the number of keys to retrieve.")
        .says("Gets the values of all the given keys"),
    Spec::new("getdel", 2, "key", Run::Write(getdel))
        .flags("write fast @string")
        .key("RW access delete")
        .since("6.2.0")
        .says("Gets the value of a key and delete the key"),
    Spec::new("strlen", 2, "key", Run::Read(strlen))
        .flags("readonly fast @string")
        .key("RO")
        .since("2.2.0")
        .says("Gets the length of the value stored in a key"),
    Spec::new("getrange", 4, "key start end", Run::Read(getrange))
        .flags("readonly @string")
        .key("RO access")
        .since("2.4.0")
        .cost("O(N), N being the bytes of the part")
        .says("Gets a substring of the string stored at a key"),
    Spec::new("substr", 4, "key start end", Run::Read(getrange))
        .flags("readonly @string")
        .key("RO access")
        .deprecated("2.0.0", "`GETRANGE`")
        .cost("O(N), N being the bytes of the part")
        .says("Gets a substring of the string stored at a key"),
    Spec::new("digest", 2, "key", Run::Read(digest_of))
        .flags("readonly fast @string")
        .key("RO access")
        .since("8.4.0")
        .cost("O(N), N being the bytes of the value")
        .says("Returns the digest of a value: XXH3 of 64 bits, in 16 hexadecimal digits"),
    Spec::new(
        "lcs",
        -3,
        "key1 key2 [LEN] [IDX] [MINMATCHLEN length] [WITHMATCHLEN]",
        Run::Read(lcs),
    )
    .flags("readonly @string")
    .keys(1, 2, 1, "RO access")
    .since("7.0.0")
    .cost("O(N*M) where N and M are the lengths of s1 and s2, respectively")
    .says("Finds longest common substring"),
    Spec::new("append", 3, "key value", Run::Write(append))
        .flags("write denyoom fast @string")
        .key("RW insert")
        .since("2.0.0")
        .cost("O(N), N being the bytes of the value that results")
        .says("Appends a value to a key"),
    Spec::new("setrange", 4, "key offset value", Run::Write(setrange))
        .flags("write denyoom @string")
        .key("RW update")
        .since("2.2.0")
        .cost("O(N), N being the bytes of the value that results")
        .says("Overwrites part of a string at key starting at the specified offset"),
];

fn get(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    Ok(Reply::bulk_or_null(keys.find(args.get(1))?.map(|stored| stored.value)))
}

fn mget(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    let mut values = Vec::with_capacity(args.len() - 1);
    let mut bytes = 0;
    for key in args.from(1) {
        let value = keys.find(key)?.map(|stored| stored.value);
        bytes += value.as_ref().map_or(0, Vec::len);
        values.push(Reply::bulk_or_null(value));
        // A single value always fits.
        if values.len() > 1 {
            args.check_reply(bytes)?;
        }
    }
    Ok(Reply::Array(values))
}

fn getdel(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    let old = transaction.read(args.get(1))?;
    if old.is_some() {
        transaction.delete(args.get(1));
    }
    Ok(Reply::bulk_or_null(old))
}

fn strlen(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    Ok(length(keys.find(args.get(1))?.map_or(0, |stored| stored.value.len())))
}

fn digest_of(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    Ok(Reply::bulk_or_null(keys.find(args.get(1))?.map(|stored| digest(&stored.value))))
}

fn getrange(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    let (start, end) = (args.integer(2)?, args.integer(3)?);
    let value = keys.find(args.get(1))?.map_or_else(Vec::new, |stored| stored.value);
    Ok(Reply::bulk(part(&value, start, end)))
}

/// The bytes from one place to another, both included; places below zero count from the end.
fn part(value: &[u8], start: i64, end: i64) -> &[u8] {
    if start < 0 && end < 0 && start > end {
        return &[];
    }
    let len = i64::try_from(value.len()).unwrap_or(i64::MAX);
    let place = |at: i64| if at < 0 { at.saturating_add(len).max(0) } else { at };
    // An end beyond the start of the value is the start: Redis returns the first byte then.
    let (start, end) = (place(start), place(end).min(len - 1));
    let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
    range.and_then(|(start, end)| value.get(start..=end)).unwrap_or_default()
}

fn append(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    let (key, more) = (args.get(1), args.get(2));
    // Nothing more is a write, too: a client that watches the key hears of it.
    let mut stored = transaction.find(key)?.unwrap_or_default();
    let bytes = stored.value.len() + more.len();
    args.check_value(bytes)?;
    stored.value.extend_from_slice(more);
    transaction.store(key, stored);
    Ok(length(bytes))
}

fn setrange(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    let (key, part) = (args.get(1), args.get(3));
    let offset = args.integer(2)?;
    let Ok(offset) = u64::try_from(offset) else {
        return refused("ERR offset is out of range");
    };
    let old = transaction.find(key)?;
    if part.is_empty() {
        return Ok(length(old.map_or(0, |old| old.value.len())));
    }
    let end = usize::try_from(offset).unwrap_or(usize::MAX).saturating_add(part.len());
    args.check_value(end)?;
    let Stored { mut value, deadline } = old.unwrap_or_default();
    if value.len() < end {
        value.resize(end, 0);
    }
    value[end - part.len()..end].copy_from_slice(part);
    let bytes = value.len();
    transaction.put_with_deadline(key, value, deadline);
    Ok(length(bytes))
}

/// A length as a reply.
pub(super) fn length(bytes: usize) -> Reply {
    Reply::Integer(i64::try_from(bytes).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_cut_where_redis_cuts_it() {
        for (start, end, wanted) in [
            (0, -1, "hello"),
            (1, 3, "ell"),
            (-3, -2, "ll"),
            (-100, 1, "he"),
            (3, 100, "lo"),
            (5, 6, ""),
            (3, 1, ""),
            (-1, -3, ""),
            (0, -100, "h"),
            (i64::MIN, i64::MAX, "hello"),
            (i64::MAX, i64::MIN, ""),
        ] {
            assert_eq!(part(b"hello", start, end), wanted.as_bytes(), "{start} {end}");
        }
        assert_eq!(part(b"", 0, -1), b"");
        assert_eq!(part(b"", 0, 0), b"");
    }
}
