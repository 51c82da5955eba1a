//! DEBUG: calls of tools that test servers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use aryavarth_protocol::Reply;

use crate::commands::kit::args::{Args, parse_float, parse_integer};
use crate::commands::kit::context::{AfterReply, Context, hold_sweep};
use crate::commands::kit::failure::{NO_SUCH_KEY, refused, refused_quoting};
use crate::commands::kit::help::HELP;
use crate::commands::kit::read::Read;
use crate::commands::kit::spec::{Outcome, Run, Spec};
use crate::glob::Glob;

/// The longest sleep, in seconds.
const SLEEP_SECONDS_MAX: f64 = 86_400.0;
/// The longest value that Redis keeps in one piece with its notes on it, in bytes.
const EMBEDDED_BYTES_MAX: usize = 44;

pub(crate) const SPECS: &[Spec] = &[Spec::new("debug", -2, "subcommand", Run::Container(SUBS))
    .flags("admin noscript loading stale")
    .cost("Depends on subcommand.")
    .says("Does what tools that test servers ask for")];

const SUBS: &[Spec] = &[
    Spec::new("change-repl-id", 2, "", Run::Context(|_, _| Ok(Reply::OK)))
        .flags("admin noscript loading stale")
        .says("Does nothing, since there are no replicas"),
    Spec::new("error", 3, "message", Run::Context(error))
        .flags("admin noscript loading stale")
        .says("Returns the message as an error"),
    HELP.flags("admin noscript").since("1.0.0"),
    Spec::new("jmap", 2, "", Run::Context(|_, _| Ok(Reply::OK)))
        .flags("admin noscript loading stale")
        .says("Does nothing"),
    Spec::new("object", 3, "key", Run::Read(object))
        .flags("admin noscript loading stale")
        .keys(2, 2, 1, "RO access")
        .says("Returns the encoding and length of a key's value"),
    Spec::new("protocol", 3, "type", Run::Context(protocol))
        .flags("admin noscript loading stale")
        .says("Returns a reply of a type of the protocol"),
    // It waits for a disk, and inside a transaction it would wait for itself.
    Spec::new("reload", -2, "[option [option ...]]", Run::Context(reload))
        .flags("admin noscript loading stale WAITS")
        .says("Syncs all writes, and reads nothing back: the log is the data"),
    Spec::new("set-active-expire", 3, "0 | 1", Run::Context(set_active_expire))
        .flags("admin noscript loading stale")
        .says("Turns the sweep of expired keys on or off"),
    Spec::new("sleep", 3, "seconds", Run::Context(sleep))
        .flags("admin noscript loading stale")
        .says("Answers after this time; other connections go on"),
    Spec::new("stringmatch-len", 4, "length pattern", Run::Context(string_match_len))
        .flags("admin noscript loading stale")
        .cost("O(N * M), N being the length and M that of the pattern")
        .says("Matches a pattern with a text of so many letters, to measure the cost"),
];

fn error(_: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    refused_quoting("", args.get(2), "")
}

fn object(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    let Some(stored) = keys.find(args.get(2))? else { return refused(NO_SUCH_KEY) };
    let len = stored.value.len();
    let encoding = match parse_integer(&stored.value) {
        Some(_) => "int",
        None if len <= EMBEDDED_BYTES_MAX => "embstr",
        None => "raw",
    };
    // Values have no address, and their reads are not noted.
    Ok(Reply::Simple(
        format!(
            "Value at:0x0 refcount:1 encoding:{encoding} serializedlength:{len} lru:0 \
             lru_seconds_idle:0"
        )
        .into(),
    ))
}

fn protocol(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let numbers = || (0..3).map(Reply::Integer).collect();
    Ok(match args.get(2).to_ascii_lowercase().as_slice() {
        b"string" => Reply::bulk("Hello World"),
        b"integer" => Reply::Integer(12345),
        b"double" => Reply::Double(3141.0 / 1000.0),
        b"null" => Reply::Null,
        b"array" => Reply::Array(numbers()),
        b"set" => Reply::Set(numbers()),
        b"map" => {
            let pair = |number| (Reply::Integer(number), Reply::Boolean(number == 1));
            Reply::Map((0..3).map(pair).collect())
        }
        b"attrib" => {
            let ttl = vec![Reply::bulk("key:123"), Reply::Integer(90)];
            let said = vec![(Reply::bulk("key-popularity"), Reply::Array(ttl))];
            let reply = Reply::bulk("Some real reply following the attribute");
            Reply::Attributed(said, Box::new(reply))
        }
        b"push" if context.settings.version < 3 => {
            return refused("ERR RESP2 is not supported by this command");
        }
        b"push" => Reply::Push(vec![Reply::bulk("server-cpu-usage"), Reply::Integer(42)]),
        b"verbatim" => Reply::Verbatim("txt", b"This is a verbatim\nstring".to_vec()),
        b"true" => Reply::Boolean(true),
        b"false" => Reply::Boolean(false),
        b"bignum" => Reply::BigNumber("1234567999999999999999999999999999999".into()),
        _ => {
            return refused(
                "ERR Wrong protocol type name. Please use one of the following: \
                 string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|false",
            );
        }
    })
}

fn reload(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    context.server.sync()?;
    context.server.settings().saved();
    Ok(Reply::OK)
}

fn set_active_expire(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let server = context.server;
    server.settings().sweeps.store(args.get(2) != b"0", Ordering::Relaxed);
    hold_sweep(server);
    Ok(Reply::OK)
}

fn sleep(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let seconds = parse_float(args.get(2)).unwrap_or(0.0).clamp(0.0, SLEEP_SECONDS_MAX);
    if !context.in_transaction {
        context.settings.then = AfterReply::Sleep(Duration::from_secs_f64(seconds));
    }
    Ok(Reply::OK)
}

fn string_match_len(_: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let Ok(len @ 0..=1_000_000) = usize::try_from(args.integer(2)?) else {
        return refused(crate::commands::kit::failure::OUT_OF_RANGE);
    };
    let matches = Glob::new(args.get(3)).matches(&vec![b'a'; len]);
    Ok(Reply::Integer(i64::from(matches)))
}
