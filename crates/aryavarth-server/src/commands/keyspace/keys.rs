//! Keys, whatever they hold: whether they are there, removing, renaming, copying and moving them,
//! and the databases that they are in.
//!
//! Invariants:
//! - A key that gets another name or place keeps its deadline.
//! - Emptying and swapping databases costs the same however many keys there are.

use std::hash::{BuildHasher, RandomState};

use aryavarth::{KeyRange, Transaction};
use aryavarth_protocol::Reply;

use crate::commands::kit::args::{Args, DATABASES, database, parse_integer};
use crate::commands::kit::failure::{Failure, NO_SUCH_KEY, SYNTAX, refused};
use crate::commands::kit::read::Read;
use crate::commands::kit::spec::{Group, Outcome, Run, Spec};

pub(crate) const SPECS: &[Spec] = &[
    Spec::new("del", -2, "key [key ...]", Run::Write(del))
        .flags("write @keyspace NO_VALUES")
        .keys(1, -1, 1, "RM delete")
        .tips(&["request_policy:multi_shard", "response_policy:agg_sum"])
        .cost("O(N), N being the number of keys")
        .says("Deletes a key"),
    Spec::new("unlink", -2, "key [key ...]", Run::Write(del))
        .flags("write fast @keyspace NO_VALUES")
        .keys(1, -1, 1, "RM delete")
        .tips(&["request_policy:multi_shard", "response_policy:agg_sum"])
        .since("4.0.0")
        .cost("O(N), N being the number of keys")
        .says("Removes keys, as DEL does: no removal waits for memory here"),
    Spec::new("exists", -2, "key [key ...]", Run::Read(exists))
        .flags("readonly fast @keyspace NO_VALUES")
        .keys(1, -1, 1, "RO")
        .tips(&["request_policy:multi_shard", "response_policy:agg_sum"])
        .cost("O(N) where N is the number of keys to check.")
        .says("Determines if a key exists"),
    Spec::new("touch", -2, "key [key ...]", Run::Read(exists))
        .flags("readonly fast @keyspace NO_VALUES")
        .keys(1, -1, 1, "RO")
        .tips(&["request_policy:multi_shard", "response_policy:agg_sum"])
        .since("3.2.1")
        .cost("O(N) where N is the number of keys that will be touched.")
        .says("Returns how many of the keys exist, for nothing here depends on when one was used"),
    Spec::new("type", 2, "key", Run::Read(type_of))
        .flags("readonly fast @keyspace NO_VALUES")
        .key("RO")
        .says("Determines the type stored at key"),
    Spec::new("rename", 3, "key newkey", Run::Write(rename))
        .flags("write @keyspace")
        .two_keys("RW access delete", "OW update")
        .says("Renames a key"),
    Spec::new("renamenx", 3, "key newkey", Run::Write(renamenx))
        .flags("write fast @keyspace")
        .two_keys("RW access delete", "OW insert")
        .says("Renames a key, only if the new key does not exist"),
    Spec::new("copy", -3, "source destination [DB destination-db] [REPLACE]", Run::Write(copy))
        .flags("write denyoom @keyspace")
        .two_keys("RO access", "OW update")
        .since("6.2.0")
        .cost("O(N), N being the bytes of the value")
        .says("Copies a key"),
    Spec::new("move", 3, "key db", Run::Write(move_key))
        .flags("write fast @keyspace")
        .key("RW access update")
        .says("Moves a key to another database"),
    Spec::new("randomkey", 1, "", Run::Read(randomkey))
        .flags("readonly @keyspace")
        .tips(&["request_policy:all_shards", "nondeterministic_output"])
        .cost("O(log(N)), N being all keys")
        .says("Returns a random key from the keyspace"),
    Spec::new("dbsize", 1, "", Run::Read(dbsize))
        .flags("readonly fast @keyspace")
        .tips(&["request_policy:all_shards", "response_policy:agg_sum"])
        .group(Group::Server)
        .says("Returns the number of keys in the selected database"),
    Spec::new("swapdb", 3, "index1 index2", Run::Write(swapdb))
        .flags("write fast @keyspace @dangerous")
        .group(Group::Server)
        .since("4.0.0")
        .says("Swaps two Redis databases"),
    Spec::new("flushdb", -1, "[ASYNC | SYNC]", Run::Write(flushdb))
        .flags("write @keyspace @dangerous")
        .tips(&["request_policy:all_shards", "response_policy:all_succeeded"])
        .group(Group::Server)
        .says("Removes all keys from the current database"),
    Spec::new("flushall", -1, "[ASYNC | SYNC]", Run::Write(flushall))
        .flags("write @keyspace @dangerous")
        .tips(&["request_policy:all_shards", "response_policy:all_succeeded"])
        .group(Group::Server)
        .says("Removes all keys from all databases"),
    Spec::new("object", -2, "subcommand", Run::Container(OBJECT))
        .since("2.2.3")
        .cost("Depends on subcommand.")
        .says("A container for object introspection commands"),
];

const OBJECT: &[Spec] = &[
    Spec::new("encoding", 3, "key", Run::Read(object_encoding))
        .flags("readonly @keyspace")
        .keys(2, 2, 1, "RO")
        .tips(&["nondeterministic_output"])
        .since("2.2.3")
        .says("Inspects the internal encoding of a Redis object"),
    Spec::new("freq", 3, "key", Run::Read(object_freq))
        .flags("readonly @keyspace")
        .keys(2, 2, 1, "RO")
        .tips(&["nondeterministic_output"])
        .since("4.0.0")
        .says("Refuses: the server does not count how often a key is used"),
    Spec::new("idletime", 3, "key", Run::Read(object_idletime))
        .flags("readonly @keyspace")
        .keys(2, 2, 1, "RO")
        .tips(&["nondeterministic_output"])
        .since("2.2.3")
        .says("Refuses: the server does not note when a key is used"),
    Spec::new("refcount", 3, "key", Run::Read(object_refcount))
        .flags("readonly @keyspace")
        .keys(2, 2, 1, "RO")
        .tips(&["nondeterministic_output"])
        .since("2.2.3")
        .says("Returns 1, for no value is shared"),
    Spec::new("help", 2, "", Run::Read(object_help))
        .flags("loading stale @keyspace")
        .since("6.2.0")
        .says("Shows helpful text about the different subcommands"),
];

fn del(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    let mut removed = 0;
    for key in args.from(1) {
        if transaction.contains(key)? {
            transaction.delete(key);
            removed += 1;
        }
    }
    Ok(Reply::Integer(removed))
}

fn exists(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    let mut found = 0;
    for key in args.from(1) {
        found += i64::from(keys.deadline(key)?.is_some());
    }
    Ok(Reply::Integer(found))
}

fn type_of(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    let found = keys.deadline(args.get(1))?.is_some();
    Ok(Reply::Simple(if found { "string" } else { "none" }.into()))
}

fn rename(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    rename_if(transaction, args, true)?;
    Ok(Reply::OK)
}

fn renamenx(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    Ok(Reply::Integer(rename_if(transaction, args, false)?.into()))
}

/// Renames a key, unless another has the name and must keep it.
fn rename_if(
    transaction: &mut Transaction<'_>,
    args: &Args<'_>,
    replace: bool,
) -> Result<bool, Failure> {
    let (from, to) = (args.get(1), args.get(2));
    if !transaction.contains(from)? {
        return refused(NO_SUCH_KEY);
    }
    if from == to || (!replace && transaction.contains(to)?) {
        return Ok(false);
    }
    if let Some(stored) = transaction.find(from)? {
        transaction.delete(from);
        transaction.store(to, stored);
    }
    Ok(true)
}

/// Whether a key exists in a database; the selected one stays selected.
fn exists_in(transaction: &mut Transaction<'_>, space: u32, key: &[u8]) -> Result<bool, Failure> {
    let selected = transaction.space();
    transaction.select(space);
    let found = transaction.contains(key);
    transaction.select(selected);
    Ok(found?)
}

fn copy(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    let (from, to) = (args.get(1), args.get(2));
    let selected = transaction.space();
    let (mut space, mut replace) = (selected, false);
    let mut place = 3;
    while place < args.len() {
        if args.is(place, "REPLACE") {
            replace = true;
        } else if args.is(place, "DB") && place + 1 < args.len() {
            place += 1;
            space = args.database(place)?;
        } else {
            return refused(SYNTAX);
        }
        place += 1;
    }
    if space == selected && from == to {
        return refused("ERR source and destination objects are the same");
    }
    if !transaction.contains(from)? || (!replace && exists_in(transaction, space, to)?) {
        return Ok(Reply::Integer(0));
    }
    if let Some(stored) = transaction.find(from)? {
        transaction.select(space);
        transaction.store(to, stored);
        transaction.select(selected);
    }
    Ok(Reply::Integer(1))
}

fn move_key(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    let key = args.get(1);
    let selected = transaction.space();
    let space = args.database(2)?;
    if space == selected {
        return refused("ERR source and destination objects are the same");
    }
    if !transaction.contains(key)? || exists_in(transaction, space, key)? {
        return Ok(Reply::Integer(0));
    }
    if let Some(stored) = transaction.find(key)? {
        transaction.delete(key);
        transaction.select(space);
        transaction.store(key, stored);
        transaction.select(selected);
    }
    Ok(Reply::Integer(1))
}

fn swapdb(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    // Both are numbers before either is looked at.
    let number = |place, error| {
        i32::try_from(args.integer_or(place, error)?).map_or_else(|_| refused(error), Ok)
    };
    let a = number(1, "ERR invalid first DB index")?;
    let b = number(2, "ERR invalid second DB index")?;
    let (a, b) = (database(a)?, database(b)?);
    if a != b {
        transaction.swap(a, b);
    }
    Ok(Reply::OK)
}

fn flushdb(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    check_flush(args)?;
    clear(transaction)?;
    Ok(Reply::OK)
}

fn flushall(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    check_flush(args)?;
    let selected = transaction.space();
    let mut done = Ok(());
    for space in 0..DATABASES {
        transaction.select(space);
        done = done.and_then(|()| clear(transaction));
    }
    transaction.select(selected);
    done?;
    Ok(Reply::OK)
}

/// Both ways to flush are the same: nothing is removed key by key.
fn check_flush(args: &Args<'_>) -> Result<(), Failure> {
    let known = args.len() == 1 || (args.len() == 2 && (args.is(1, "ASYNC") || args.is(1, "SYNC")));
    if known { Ok(()) } else { refused(SYNTAX) }
}

/// Empties the selected database, if there is anything in it.
fn clear(transaction: &mut Transaction<'_>) -> Result<(), Failure> {
    if transaction.count()?.keys > 0 {
        transaction.clear();
    }
    Ok(())
}

fn dbsize(keys: &mut dyn Read, _args: &Args<'_>) -> Outcome {
    Ok(Reply::Integer(i64::try_from(keys.count()?.keys).unwrap_or(i64::MAX)))
}

/// Keys among which RANDOMKEY is fair.
const FAIR_KEYS: usize = 256;

/// A key by chance. The keys are only known in their order, so this goes down from the bytes that
/// all keys begin with, at each step to one of the bytes that follow, until few keys are left.
fn randomkey(keys: &mut dyn Read, _args: &Args<'_>) -> Outcome {
    let die = RandomState::new();
    let mut prefix = Vec::new();
    loop {
        let range = KeyRange::prefix(&prefix);
        let few = keys.keys(&range, FAIR_KEYS + 1)?;
        let Some(first) = few.first() else {
            if prefix.is_empty() {
                return Ok(Reply::Null);
            }
            // They were removed meanwhile.
            prefix.clear();
            continue;
        };
        if few.len() <= FAIR_KEYS {
            let place = below(&die, &prefix, few.len());
            return Ok(Reply::bulk(few[place].clone()));
        }
        let last = keys.keys(&range.clone().reversed(), 1)?.pop().unwrap_or_default();
        let shared = first.iter().zip(&last).take_while(|(a, b)| a == b).count();
        // A key that is the beginning of all the others is not reached further down.
        if first.len() == shared && below(&die, &prefix, FAIR_KEYS) == 0 {
            return Ok(Reply::bulk(first.clone()));
        }
        let low = first.get(shared).copied().unwrap_or(0);
        let high = last.get(shared).copied().unwrap_or(u8::MAX);
        prefix = last[..shared].to_vec();
        // The two reads are of different moments, so that the last may even be below the first.
        prefix.push(low.saturating_add(byte_below(&die, &prefix, high.saturating_sub(low))));
        // From that byte on, there is always a key: the last one.
        let from = KeyRange { start: KeyRange::prefix(&prefix).start, ..KeyRange::all() };
        let next = keys.keys(&from, 1)?.pop().unwrap_or(last);
        prefix.truncate(shared);
        prefix.extend(next.get(shared));
    }
}

/// A number below `limit` by chance.
fn below(die: &RandomState, seed: &[u8], limit: usize) -> usize {
    let thrown = u128::from(die.hash_one(seed)) * limit as u128;
    usize::try_from(thrown >> 64).unwrap_or(0)
}

/// A byte up to `limit` by chance.
fn byte_below(die: &RandomState, seed: &[u8], limit: u8) -> u8 {
    u8::try_from(below(die, seed, usize::from(limit) + 1)).unwrap_or(0)
}

/// A value of up to this many bytes stands beside its key in Redis.
const EMBEDDED_BYTES_MAX: usize = 44;

fn encoding(value: &[u8]) -> &'static str {
    if parse_integer(value).is_some() {
        "int"
    } else if value.len() <= EMBEDDED_BYTES_MAX {
        "embstr"
    } else {
        "raw"
    }
}

fn object_encoding(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    Ok(Reply::bulk_or_null(keys.find(args.get(2))?.map(|stored| encoding(&stored.value))))
}

fn object_freq(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    if keys.deadline(args.get(2))?.is_none() {
        return Ok(Reply::Null);
    }
    refused(
        "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note \
         that when switching between policies at runtime LRU and LFU data will take some time to \
         adjust.",
    )
}

fn object_idletime(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    if keys.deadline(args.get(2))?.is_none() {
        return Ok(Reply::Null);
    }
    refused(
        "ERR OBJECT IDLETIME is not supported: the server does not note when a key is used, and \
         nothing depends on it",
    )
}

fn object_refcount(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    let found = keys.deadline(args.get(2))?;
    Ok(found.map_or(Reply::Null, |_| Reply::Integer(1)))
}

#[expect(clippy::unnecessary_wraps, reason = "it stands in the table, beside those that can fail")]
fn object_help(_keys: &mut dyn Read, _args: &Args<'_>) -> Outcome {
    let lines = OBJECT.iter().flat_map(|spec| {
        let name = format!("{} {}", spec.name.to_ascii_uppercase(), spec.usage);
        [name.trim_end().to_owned(), format!("    {}.", spec.summary)]
    });
    let head = "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:".to_owned();
    let lines = std::iter::once(head).chain(lines);
    Ok(Reply::Array(lines.map(|line| Reply::Simple(line.into())).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_by_content_and_length() {
        for (value, wanted) in [
            ("1", "int"),
            ("-9223372036854775808", "int"),
            ("9223372036854775808", "embstr"),
            ("01", "embstr"),
            ("", "embstr"),
            (&"x".repeat(44), "embstr"),
            (&"x".repeat(45), "raw"),
        ] {
            assert_eq!(encoding(value.as_bytes()), wanted, "{value:?}");
        }
    }
}
