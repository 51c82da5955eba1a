//! Strings: reading values, whole and in parts, and changing them where they are.
//!
//! Invariant: what would be longer than the limit is refused before it is allocated.

use aryavarth::{Stored, Transaction};
use aryavarth_protocol::Reply;

use super::lcs::lcs;
use crate::commands::kit::args::Args;
use crate::commands::kit::failure::refused;
use crate::commands::kit::read::Read;
use crate::commands::kit::spec::{Flags, Outcome, Run, Spec};
use crate::commands::string::assign::digest;

const FAST_READ: Flags = Flags::READONLY.and(Flags::FAST);
const WRITE: Flags = Flags::WRITE.and(Flags::DENYOOM);
const PART: &str = "O(N), N being the bytes of the part";

pub(crate) const SPECS: &[Spec] = &[
    Spec::new("get", 2, "key", Run::Read(get))
        .key()
        .flags(FAST_READ)
        .says("Returns the value of a key"),
    Spec::new("mget", -2, "key [key ...]", Run::Read(mget))
        .keys(1, -1, 1)
        .flags(FAST_READ)
        .cost("O(N), N being the number of keys")
        .says("Returns the values of several keys"),
    Spec::new("getdel", 2, "key", Run::Write(getdel))
        .key()
        .flags(Flags::WRITE.and(Flags::FAST))
        .since("6.2.0")
        .says("Removes a key and returns what it held"),
    Spec::new("strlen", 2, "key", Run::Read(strlen))
        .key()
        .flags(FAST_READ)
        .since("2.2.0")
        .says("Returns how many bytes a value has"),
    Spec::new("getrange", 4, "key start end", Run::Read(getrange))
        .key()
        .flags(Flags::READONLY)
        .since("2.4.0")
        .cost(PART)
        .says("Returns a part of a value; places below zero count from its end"),
    Spec::new("substr", 4, "key start end", Run::Read(getrange))
        .key()
        .flags(Flags::READONLY)
        .cost(PART)
        .says("Does what GETRANGE does, under its older name"),
    Spec::new("digest", 2, "key", Run::Read(digest_of))
        .key()
        .flags(FAST_READ)
        .since("8.4.0")
        .cost("O(N), N being the bytes of the value")
        .says("Returns the digest of a value: XXH3 of 64 bits, in 16 hexadecimal digits"),
    Spec::new(
        "lcs",
        -3,
        "key1 key2 [LEN] [IDX] [MINMATCHLEN length] [WITHMATCHLEN]",
        Run::Read(lcs),
    )
    .keys(1, 2, 1)
    .flags(Flags::READONLY)
    .since("7.0.0")
    .cost("O(N*M), N and M being the bytes of the values")
    .says("Returns the longest sequence of bytes that two values have in common"),
    Spec::new("append", 3, "key value", Run::Write(append))
        .key()
        .flags(WRITE.and(Flags::FAST))
        .since("2.0.0")
        .cost("O(N), N being the bytes of the value that results")
        .says("Appends to a value and returns how many bytes it has then"),
    Spec::new("setrange", 4, "key offset value", Run::Write(setrange))
        .key()
        .flags(WRITE)
        .since("2.2.0")
        .cost("O(N), N being the bytes of the value that results")
        .says("Overwrites a part of a value, with zero bytes between its end and the part"),
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
    let old = transaction.get(args.get(1))?;
    if old.is_some() {
        transaction.remove(args.get(1));
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
    // Nothing more is a write, too: who watches the key hears of it.
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
    let Stored { mut value, expires_at } = old.unwrap_or_default();
    if value.len() < end {
        value.resize(end, 0);
    }
    value[end - part.len()..end].copy_from_slice(part);
    let bytes = value.len();
    transaction.store(key, Stored { value, expires_at });
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
