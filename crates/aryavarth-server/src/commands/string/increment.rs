//! Counters: values that are numbers, written as decimal digits.
//!
//! INCRBYFLOAT computes as Redis does on x86, in 80-bit floats (`extended.rs`), so that the digits
//! are the same. A counter keeps its deadline.

use aryavarth::{Deadline, Transaction};
use aryavarth_protocol::Reply;

use super::extended::Extended;
use crate::commands::kit::args::{Args, parse_integer};
use crate::commands::kit::failure::{NOT_A_FLOAT, NOT_AN_INTEGER, refused};
use crate::commands::kit::spec::{Outcome, Run, Spec};

pub(crate) const SPECS: &[Spec] = &[
    Spec::new("incr", 2, "key", Run::Write(incr))
        .flags("write denyoom fast @string")
        .key("RW access update")
        .says("Increments the integer value of a key by one"),
    Spec::new("decr", 2, "key", Run::Write(decr))
        .flags("write denyoom fast @string")
        .key("RW access update")
        .says("Decrements the integer value of a key by one"),
    Spec::new("incrby", 3, "key increment", Run::Write(incrby))
        .flags("write denyoom fast @string")
        .key("RW access update")
        .says("Increments the integer value of a key by the given amount"),
    Spec::new("decrby", 3, "key decrement", Run::Write(decrby))
        .flags("write denyoom fast @string")
        .key("RW access update")
        .says("Decrements the integer value of a key by the given number"),
    Spec::new("incrbyfloat", 3, "key increment", Run::Write(incrbyfloat))
        .flags("write denyoom fast @string")
        .key("RW access update")
        .since("2.6.0")
        .says("Increments the float value of a key by the given amount"),
];

fn incr(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    add(transaction, args.get(1), 1)
}

fn decr(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    add(transaction, args.get(1), -1)
}

fn incrby(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    add(transaction, args.get(1), args.integer(2)?)
}

fn decrby(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    match args.integer(2)?.checked_neg() {
        Some(by) => add(transaction, args.get(1), by),
        None => refused("ERR decrement would overflow"),
    }
}

fn add(transaction: &mut Transaction<'_>, key: &[u8], by: i64) -> Outcome {
    let old = transaction.find(key)?;
    let number = match &old {
        Some(old) => parse_integer(&old.value),
        None => Some(0),
    };
    let Some(number) = number else { return refused(NOT_AN_INTEGER) };
    let Some(sum) = number.checked_add(by) else {
        return refused("ERR increment or decrement would overflow");
    };
    let deadline = old.map_or(Deadline::Never, |old| old.deadline);
    transaction.put_with_deadline(key, sum.to_string(), deadline);
    Ok(Reply::Integer(sum))
}

fn incrbyfloat(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    let old = transaction.find(args.get(1))?;
    let number = match &old {
        Some(old) => Extended::parse(&old.value),
        None => Some(Extended::ZERO),
    };
    let Some((number, by)) = number.zip(Extended::parse(args.get(2))) else {
        return refused(NOT_A_FLOAT);
    };
    let Some(text) = number.plus(by).to_decimal() else {
        return refused("ERR increment would produce NaN or Infinity");
    };
    let deadline = old.map_or(Deadline::Never, |old| old.deadline);
    transaction.put_with_deadline(args.get(1), text.clone(), deadline);
    Ok(Reply::Bulk(text))
}
