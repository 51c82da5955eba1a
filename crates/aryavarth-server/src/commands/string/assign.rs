//! Strings: the commands that set values under conditions and with deadlines.
//!
//! SET, GETEX and MSETEX share their options, which are parsed here once; options that contradict each
//! other are a syntax error. Invariant: a condition that does not hold writes nothing.

use aryavarth::{Batch, Deadline, Now, Stored, Transaction, Write};
use aryavarth_protocol::Reply;
use xxhash_rust::xxh3::xxh3_64;

use crate::commands::kit::args::Args;
use crate::commands::kit::context::ServerContext;
use crate::commands::kit::deadline::Unit;
use crate::commands::kit::failure::{Failure, SYNTAX, refused, wrong_arity};
use crate::commands::kit::spec::{Outcome, Run, Spec};

pub(crate) const SPECS: &[Spec] = &[
    Spec::new("set", -3, SET_USAGE, Run::Write(set))
        .flags("write denyoom @string")
        .key("RW access update variable_flags")
        .key_notes("RW and ACCESS due to the optional `GET` argument")
        .blind(blind_set)
        .says("Sets the string value of a key"),
    Spec::new("setnx", 3, "key value", Run::Write(setnx))
        .flags("write denyoom fast @string NO_VALUES")
        .key("OW insert")
        .says("Sets the value of a key, only if the key does not exist"),
    Spec::new("setex", 4, "key seconds value", Run::Write(setex))
        .flags("write denyoom @string NO_VALUES")
        .key("OW update")
        .since("2.0.0")
        .says("Sets the value and expiration of a key"),
    Spec::new("psetex", 4, "key milliseconds value", Run::Write(psetex))
        .flags("write denyoom @string NO_VALUES")
        .key("OW update")
        .since("2.6.0")
        .says("Sets the value and expiration in milliseconds of a key"),
    Spec::new("getset", 3, "key value", Run::Write(getset))
        .flags("write denyoom fast @string")
        .key("RW access update")
        .deprecated("6.2.0", "`SET` with the `!GET` argument")
        .says("Sets the string value of a key and return its old value"),
    Spec::new("getex", -2, GETEX_USAGE, Run::Write(getex))
        .flags("write fast @string")
        .key("RW access update")
        .key_notes("RW and UPDATE because it changes the TTL")
        .since("6.2.0")
        .says("Gets the value of a key and optionally set its expiration"),
    Spec::new("mset", -3, "key value [key value ...]", Run::Write(mset))
        .flags("write denyoom @string NO_VALUES")
        .keys(1, -1, 2, "OW update")
        .tips(&["request_policy:multi_shard", "response_policy:all_succeeded"])
        .since("1.0.1")
        .cost("O(N) where N is the number of keys to set.")
        .blind(blind_mset)
        .says("Sets multiple keys to multiple values"),
    Spec::new("msetnx", -3, "key value [key value ...]", Run::Write(msetnx))
        .flags("write denyoom @string NO_VALUES")
        .keys(1, -1, 2, "OW insert")
        .tips(&["request_policy:multi_shard", "response_policy:agg_min"])
        .since("1.0.1")
        .cost("O(N) where N is the number of keys to set.")
        .says("Sets multiple keys to multiple values, only if none of the keys exist"),
    Spec::new("msetex", -4, MSETEX_USAGE, Run::Write(msetex))
        .flags("write denyoom @string NO_VALUES")
        .counted_keys(1, 1, "OW update")
        .since("8.4.0")
        .cost("O(N), N being the number of keys")
        .says("Sets several keys at once with one deadline, if all or none of them exist"),
    Spec::new("delex", -2, DELEX_USAGE, Run::Write(delex))
        .flags("write fast @string")
        .key("RM delete")
        .since("8.4.0")
        .cost("O(1), O(N) for a digest of N bytes")
        .says("Removes a key, if its value or the digest of its value is as asked"),
    Spec::new("delifeq", 3, "key value", Run::Write(delifeq))
        .flags("write fast @string")
        .key("RM delete")
        .since("9.0.0 of Valkey")
        .says("Removes a key that has this value"),
];

const SET_USAGE: &str = "key value [NX | XX | IFEQ value | IFNE value | IFDEQ digest | IFDNE \
    digest] [GET] [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT \
    unix-time-milliseconds | KEEPTTL]";
const GETEX_USAGE: &str = "key [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT \
    unix-time-milliseconds | PERSIST]";
const MSETEX_USAGE: &str = "numkeys key value [key value ...] [NX | XX] [EX seconds | PX \
    milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL]";
const DELEX_USAGE: &str = "key [IFEQ value | IFNE value | IFDEQ digest | IFDNE digest]";

/// The condition on a key for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition<'a> {
    Absent,
    Present,
    Value { is: bool, value: &'a [u8] },
    Digest { is: bool, digest: &'a [u8] },
}

impl<'a> Condition<'a> {
    /// The condition that begins at a place, and how many arguments it takes.
    fn at(args: &Args<'a>, place: usize) -> Result<Option<(Self, usize)>, Failure> {
        if args.is(place, "NX") {
            return Ok(Some((Condition::Absent, 1)));
        }
        if args.is(place, "XX") {
            return Ok(Some((Condition::Present, 1)));
        }
        if place + 1 >= args.len() {
            return Ok(None);
        }
        let operand = args.get(place + 1);
        let is = args.is(place, "IFEQ") || args.is(place, "IFDEQ");
        if args.is(place, "IFEQ") || args.is(place, "IFNE") {
            return Ok(Some((Condition::Value { is, value: operand }, 2)));
        }
        if args.is(place, "IFDEQ") || args.is(place, "IFDNE") {
            if operand.len() != 16 || !operand.iter().all(u8::is_ascii_hexdigit) {
                return refused("ERR the digest must be exactly 16 hexadecimal characters");
            }
            return Ok(Some((Condition::Digest { is, digest: operand }, 2)));
        }
        Ok(None)
    }

    /// Whether the condition is about the value, and not only about whether there is one.
    fn wants_value(self) -> bool {
        matches!(self, Condition::Value { .. } | Condition::Digest { .. })
    }

    /// Whether it holds. A key that does not exist equals nothing.
    fn holds(self, value: Option<&[u8]>) -> bool {
        match self {
            Condition::Absent => value.is_none(),
            Condition::Present => value.is_some(),
            Condition::Value { is, value: wanted } => is == (value == Some(wanted)),
            Condition::Digest { is, digest: wanted } => {
                is == value.is_some_and(|value| digest(value).eq_ignore_ascii_case(wanted))
            }
        }
    }
}

/// The digest that conditions and DIGEST are by: XXH3 of 64 bits, in 16 hexadecimal digits.
pub(super) fn digest(value: &[u8]) -> Vec<u8> {
    format!("{:016x}", xxh3_64(value)).into_bytes()
}

/// The deadline that a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expiry<'a> {
    /// Nothing: a new value has none.
    Unsaid,
    Keep,
    Persist,
    Given {
        unit: Unit,
        amount: &'a [u8],
    },
}

/// Which options a command has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Set,
    GetEx,
    MSetEx,
}

/// The options of a call.
#[derive(Clone, Copy, Debug)]
struct Options<'a> {
    condition: Option<Condition<'a>>,
    get: bool,
    expiry: Expiry<'a>,
}

impl<'a> Options<'a> {
    /// The options from a place on.
    fn parse(args: &Args<'a>, from: usize, takes: Takes) -> Result<Self, Failure> {
        let mut options = Options { condition: None, get: false, expiry: Expiry::Unsaid };
        let mut place = from;
        while place < args.len() {
            place += options.take(args, place, takes)?;
        }
        Ok(options)
    }

    /// Takes the option at a place; returns how many arguments it is.
    fn take(&mut self, args: &Args<'a>, place: usize, takes: Takes) -> Result<usize, Failure> {
        if let Some((condition, taken)) = Condition::at(args, place)? {
            let fits = match takes {
                Takes::Set => true,
                Takes::MSetEx => !condition.wants_value(),
                Takes::GetEx => false,
            };
            let again = self.condition.is_none_or(|known| known == condition);
            self.condition = Some(condition);
            return if fits && again { Ok(taken) } else { refused(SYNTAX) };
        }
        if takes == Takes::Set && args.is(place, "GET") {
            self.get = true;
            return Ok(1);
        }
        let (expiry, taken) = if takes != Takes::GetEx && args.is(place, "KEEPTTL") {
            (Expiry::Keep, 1)
        } else if takes == Takes::GetEx && args.is(place, "PERSIST") {
            (Expiry::Persist, 1)
        } else if let Some(unit) = Unit::named(args.get(place)).filter(|_| place + 1 < args.len()) {
            (Expiry::Given { unit, amount: args.get(place + 1) }, 2)
        } else {
            return refused(SYNTAX);
        };
        // The same kind may be said again, and the last one counts.
        let again = match (self.expiry, expiry) {
            (Expiry::Unsaid, _) => true,
            (Expiry::Given { unit: known, .. }, Expiry::Given { unit, .. }) => known == unit,
            (known, _) => known == expiry,
        };
        self.expiry = expiry;
        if again { Ok(taken) } else { refused(SYNTAX) }
    }

    /// The deadline, if one is given.
    fn deadline(&self, now: Now, command: &str) -> Result<Option<Deadline>, Failure> {
        match self.expiry {
            Expiry::Given { unit, amount } => unit.deadline(amount, now, command).map(Some),
            _ => Ok(None),
        }
    }
}

/// SET without a condition, and without a look at the old value.
fn blind_set(args: &Args<'_>, server: &dyn ServerContext) -> Option<Batch> {
    let (key, value) = (args.get(1), args.get(2));
    if args.len() == 3 {
        return Some(Batch::from([(key, value)]));
    }
    let options = Options::parse(args, 3, Takes::Set).ok()?;
    if options.condition.is_some() || options.get || options.expiry == Expiry::Keep {
        return None;
    }
    let deadline = options.deadline(server.now(), "set").ok()??;
    let write = Write::Put { key: key.to_vec(), value: value.to_vec(), deadline };
    Some(Batch::from_iter([write]))
}

/// MSET.
fn blind_mset(args: &Args<'_>, _: &dyn ServerContext) -> Option<Batch> {
    let mut pairs = args.from(1);
    let mut batch = Batch::new();
    while let Some(key) = pairs.next() {
        batch.put(key, pairs.next()?);
    }
    Some(batch)
}

fn set(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    let key = args.get(1);
    let value = args.get(2);
    if args.len() == 3 {
        transaction.put(key, value);
        return Ok(Reply::OK);
    }
    let options = Options::parse(args, 3, Takes::Set)?;
    let mut deadline = options.deadline(transaction.now(), "set")?.unwrap_or_default();
    let wants_value = options.get || options.condition.is_some_and(Condition::wants_value);
    // Whether there is a key, and its deadline, is known without a disk.
    let old = match transaction.deadline(key)? {
        Some(_) if wants_value => transaction.find(key)?,
        held => held.map(|deadline| Stored { value: Vec::new(), deadline }),
    };
    let held = old.as_ref().map(|old| old.value.as_slice());
    let holds = options.condition.is_none_or(|condition| condition.holds(held));
    if holds {
        if options.expiry == Expiry::Keep {
            deadline = old.as_ref().map_or(Deadline::Never, |old| old.deadline);
        }
        transaction.put_with_deadline(key, value, deadline);
    }
    Ok(match (options.get, holds) {
        (true, _) => Reply::bulk_or_null(old.map(|old| old.value)),
        (false, true) => Reply::OK,
        (false, false) => Reply::Null,
    })
}

fn setnx(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    let absent = !transaction.contains(args.get(1))?;
    if absent {
        transaction.put(args.get(1), args.get(2));
    }
    Ok(Reply::Integer(absent.into()))
}

fn setex(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    set_for(transaction, args, Unit { seconds: true, relative: true }, "setex")
}

fn psetex(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    set_for(transaction, args, Unit { seconds: false, relative: true }, "psetex")
}

fn set_for(
    transaction: &mut Transaction<'_>,
    args: &Args<'_>,
    unit: Unit,
    command: &str,
) -> Outcome {
    let deadline = unit.deadline(args.get(2), transaction.now(), command)?;
    transaction.put_with_deadline(args.get(1), args.get(3), deadline);
    Ok(Reply::OK)
}

fn getset(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    let old = transaction.read(args.get(1))?;
    transaction.put(args.get(1), args.get(2));
    Ok(Reply::bulk_or_null(old))
}

fn getex(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    let key = args.get(1);
    let options = Options::parse(args, 2, Takes::GetEx)?;
    let Some(stored) = transaction.find(key)? else { return Ok(Reply::Null) };
    let deadline = match options.expiry {
        Expiry::Given { .. } => options.deadline(transaction.now(), "getex")?.unwrap_or_default(),
        Expiry::Persist => Deadline::Never,
        Expiry::Unsaid | Expiry::Keep => stored.deadline,
    };
    if deadline != stored.deadline {
        transaction.put_with_deadline(key, stored.value.clone(), deadline);
    }
    Ok(Reply::Bulk(stored.value))
}

fn mset(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    if args.len().is_multiple_of(2) {
        return refused(wrong_arity("mset"));
    }
    for place in (1..args.len()).step_by(2) {
        transaction.put(args.get(place), args.get(place + 1));
    }
    Ok(Reply::OK)
}

fn msetnx(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    if args.len().is_multiple_of(2) {
        return refused(wrong_arity("msetnx"));
    }
    for place in (1..args.len()).step_by(2) {
        if transaction.contains(args.get(place))? {
            return Ok(Reply::Integer(0));
        }
    }
    mset(transaction, args)?;
    Ok(Reply::Integer(1))
}

fn msetex(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    const BAD_COUNT: &str = "ERR invalid numkeys value";
    let count = usize::try_from(args.integer_or(1, BAD_COUNT)?).unwrap_or(0);
    if count == 0 {
        return refused(BAD_COUNT);
    }
    if count > (args.len() - 2) / 2 {
        return refused("ERR wrong number of key-value pairs");
    }
    let end = 2 + 2 * count;
    let options = Options::parse(args, end, Takes::MSetEx)?;
    let given = options.deadline(transaction.now(), "msetex")?.unwrap_or_default();
    // The condition is asked of the keys as they are before any of them is set.
    let mut deadlines = Vec::with_capacity(count);
    for place in (2..end).step_by(2) {
        let deadline = transaction.deadline(args.get(place))?;
        let held = deadline.map(|_| &b""[..]);
        if !options.condition.is_none_or(|condition| condition.holds(held)) {
            return Ok(Reply::Integer(0));
        }
        deadlines.push(match options.expiry {
            Expiry::Keep => deadline.unwrap_or_default(),
            _ => given,
        });
    }
    for (place, deadline) in (2..end).step_by(2).zip(deadlines) {
        transaction.put_with_deadline(args.get(place), args.get(place + 1), deadline);
    }
    Ok(Reply::Integer(1))
}

fn delex(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    let condition = match args.len() {
        2 => Condition::Present,
        4 => match Condition::at(args, 2)? {
            Some((condition, 2)) => condition,
            _ => return refused("ERR Invalid condition. Use IFEQ, IFNE, IFDEQ, or IFDNE"),
        },
        _ => return refused(wrong_arity("delex")),
    };
    remove_if(transaction, args.get(1), condition)
}

fn delifeq(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    remove_if(transaction, args.get(1), Condition::Value { is: true, value: args.get(2) })
}

fn remove_if(transaction: &mut Transaction<'_>, key: &[u8], condition: Condition<'_>) -> Outcome {
    if !transaction.contains(key)? {
        return Ok(Reply::Integer(0));
    }
    let holds = !condition.wants_value() || condition.holds(transaction.read(key)?.as_deref());
    if holds {
        transaction.delete(key);
    }
    Ok(Reply::Integer(holds.into()))
}
