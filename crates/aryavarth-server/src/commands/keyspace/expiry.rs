//! Deadlines: when a key is gone, set, asked for and taken away.
//!
//! A deadline is a time, not a duration, so it means the same after a restart. Invariant: a
//! command that changes no deadline writes nothing.

use aryavarth::{Deadline, Now, Transaction};
use aryavarth_protocol::Reply;

use crate::commands::kit::args::Args;
use crate::commands::kit::deadline::Unit;
use crate::commands::kit::failure::{Failure, refused, refused_quoting};
use crate::commands::kit::read::Read;
use crate::commands::kit::spec::{Outcome, Run, Spec};

pub(crate) const SPECS: &[Spec] = &[
    Spec::new("expire", -3, "key seconds [NX | XX | GT | LT]", Run::Write(expire))
        .flags("write fast @keyspace")
        .key("RW update")
        .says("Sets a key's time to live in seconds"),
    Spec::new("pexpire", -3, "key milliseconds [NX | XX | GT | LT]", Run::Write(pexpire))
        .flags("write fast @keyspace")
        .key("RW update")
        .since("2.6.0")
        .says("Sets a key's time to live in milliseconds"),
    Spec::new("expireat", -3, "key unix-time-seconds [NX | XX | GT | LT]", Run::Write(expireat))
        .flags("write fast @keyspace")
        .key("RW update")
        .since("1.2.0")
        .says("Sets the expiration for a key as a UNIX timestamp"),
    Spec::new(
        "pexpireat",
        -3,
        "key unix-time-milliseconds [NX | XX | GT | LT]",
        Run::Write(pexpireat),
    )
    .flags("write fast @keyspace")
    .key("RW update")
    .since("2.6.0")
    .says("Sets the expiration for a key as a UNIX timestamp specified in milliseconds"),
    Spec::new("ttl", 2, "key", Run::Read(ttl))
        .flags("readonly fast @keyspace NO_VALUES")
        .key("RO access")
        .tips(&["nondeterministic_output"])
        .says("Gets the time to live for a key in seconds"),
    Spec::new("pttl", 2, "key", Run::Read(pttl))
        .flags("readonly fast @keyspace NO_VALUES")
        .key("RO access")
        .tips(&["nondeterministic_output"])
        .since("2.6.0")
        .says("Gets the time to live for a key in milliseconds"),
    Spec::new("expiretime", 2, "key", Run::Read(expiretime))
        .flags("readonly fast @keyspace NO_VALUES")
        .key("RO access")
        .since("7.0.0")
        .says("Gets the expiration Unix timestamp for a key"),
    Spec::new("pexpiretime", 2, "key", Run::Read(pexpiretime))
        .flags("readonly fast @keyspace NO_VALUES")
        .key("RO access")
        .since("7.0.0")
        .says("Gets the expiration Unix timestamp for a key in milliseconds"),
    Spec::new("persist", 2, "key", Run::Write(persist))
        .flags("write fast @keyspace")
        .key("RW update")
        .since("2.2.0")
        .says("Removes the expiration from a key"),
];

fn expire(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    set_deadline(transaction, args, Unit { seconds: true, relative: true }, "expire")
}

fn pexpire(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    set_deadline(transaction, args, Unit { seconds: false, relative: true }, "pexpire")
}

fn expireat(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    set_deadline(transaction, args, Unit { seconds: true, relative: false }, "expireat")
}

fn pexpireat(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    set_deadline(transaction, args, Unit { seconds: false, relative: false }, "pexpireat")
}

/// On which deadlines a new one is set.
#[expect(clippy::struct_excessive_bools, reason = "each is a word that stands or does not")]
#[derive(Clone, Copy, Debug, Default)]
struct Conditions {
    absent: bool,
    present: bool,
    later: bool,
    earlier: bool,
}

impl Conditions {
    fn parse(args: &Args<'_>) -> Result<Self, Failure> {
        let mut wanted = Conditions::default();
        for place in 3..args.len() {
            let flag = match args.get(place).to_ascii_uppercase().as_slice() {
                b"NX" => &mut wanted.absent,
                b"XX" => &mut wanted.present,
                b"GT" => &mut wanted.later,
                b"LT" => &mut wanted.earlier,
                _ => return refused_quoting("ERR Unsupported option ", args.get(place), ""),
            };
            *flag = true;
        }
        if wanted.absent && (wanted.present || wanted.later || wanted.earlier) {
            return refused("ERR NX and XX, GT or LT options at the same time are not compatible");
        }
        if wanted.later && wanted.earlier {
            return refused("ERR GT and LT options at the same time are not compatible");
        }
        Ok(wanted)
    }

    /// Whether the time that a key has left is changed to `new`; without a deadline it lasts for ever.
    fn hold(self, current: Option<i64>, new: i64) -> bool {
        let is_later = |current| new > current;
        let is_earlier = |current| new < current;
        (!self.absent || current.is_none())
            && (!self.present || current.is_some())
            && (!self.later || current.is_some_and(is_later))
            && (!self.earlier || current.is_none_or(is_earlier))
    }
}

fn set_deadline(
    transaction: &mut Transaction<'_>,
    args: &Args<'_>,
    unit: Unit,
    command: &str,
) -> Outcome {
    let key = args.get(1);
    let conditions = Conditions::parse(args)?;
    let amount = args.integer(2)?;
    let now = transaction.now();
    let Some(new) = unit.milliseconds(amount, now) else {
        return refused(format!("ERR invalid expire time in '{command}' command"));
    };
    let Some(current) = transaction.deadline(key)? else { return Ok(Reply::Integer(0)) };
    // Deadlines by two clocks compare by the time that is left.
    let clock_ms = |deadline| match deadline {
        Deadline::Wall(_) => now.wall_ms.cast_signed(),
        _ => now.store_ms.cast_signed(),
    };
    let left_ms =
        |deadline: Deadline| Some(deadline.at()?.cast_signed().saturating_sub(clock_ms(deadline)));
    if !conditions.hold(left_ms(current), new.saturating_sub(clock_ms(unit.by_its_clock(0)))) {
        return Ok(Reply::Integer(0));
    }
    match u64::try_from(new).map(|new| unit.by_its_clock(new)) {
        Ok(new) if !new.has_passed(now) => {
            let value = transaction.read(key)?.unwrap_or_default();
            transaction.put_with_deadline(key, value, new);
        }
        _ => transaction.delete(key),
    }
    Ok(Reply::Integer(1))
}

fn persist(transaction: &mut Transaction<'_>, args: &Args<'_>) -> Outcome {
    let key = args.get(1);
    if transaction.deadline(key)?.and_then(Deadline::at).is_none() {
        return Ok(Reply::Integer(0));
    }
    let value = transaction.read(key)?.unwrap_or_default();
    transaction.put(key, value);
    Ok(Reply::Integer(1))
}

fn ttl(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    let now = keys.now();
    show(keys, args, |deadline| seconds(left_ms(deadline, now)))
}

fn pttl(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    let now = keys.now();
    show(keys, args, |deadline| left_ms(deadline, now))
}

fn expiretime(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    let offset_ms = keys.clock_offset_ms();
    show(keys, args, |deadline| seconds(wall_ms(deadline, offset_ms)))
}

fn pexpiretime(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    let offset_ms = keys.clock_offset_ms();
    show(keys, args, |deadline| wall_ms(deadline, offset_ms))
}

/// How long a key has left.
fn left_ms(deadline: Deadline, now: Now) -> u64 {
    match deadline {
        Deadline::Never => u64::MAX,
        Deadline::At(at) => at.saturating_sub(now.store_ms),
        Deadline::Wall(at) => at.saturating_sub(now.wall_ms),
    }
}

/// A deadline by the machine's clock.
fn wall_ms(deadline: Deadline, offset_ms: i64) -> u64 {
    match deadline {
        Deadline::Never => u64::MAX,
        Deadline::At(at) => at.saturating_add_signed(offset_ms),
        Deadline::Wall(at) => at,
    }
}

/// Milliseconds to the nearest second.
fn seconds(milliseconds: u64) -> u64 {
    milliseconds.saturating_add(500) / 1000
}

fn show(keys: &mut dyn Read, args: &Args<'_>, time: impl FnOnce(Deadline) -> u64) -> Outcome {
    Ok(Reply::Integer(match keys.deadline(args.get(1))? {
        None => -2,
        Some(Deadline::Never) => -1,
        Some(deadline) => i64::try_from(time(deadline)).unwrap_or(i64::MAX),
    }))
}
