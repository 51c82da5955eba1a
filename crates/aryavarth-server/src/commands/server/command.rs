//! COMMAND: what the table says of the commands, in the shapes that clients and their prompts read.
//! HELP of every command with subcommands is made from it, too.

use aryavarth_protocol::{Command, Reply};

use super::usage;
use crate::commands::kit::args::Args;
use crate::commands::kit::context::Context;
use crate::commands::kit::failure::{Failure, SYNTAX, refused};
use crate::commands::kit::glob::Glob;
use crate::commands::kit::help::HELP;
use crate::commands::kit::rows::{Registry, Row, subcommands};
use crate::commands::kit::spec::{Flags, Group, Keys, Outcome, Run, Spec};

pub(crate) const SPECS: &[Spec] = &[Spec::new("command", -1, "", Run::Container(SUBS))
    .since("2.8.13")
    .cost("O(N), N being the commands")
    .says("Returns what every command takes and does")];

const EACH_NAME: &str = "O(N), N being the names";

/// The first is what `COMMAND` alone means.
const SUBS: &[Spec] = &[
    Spec::new("info", -2, "[command-name [command-name ...]]", Run::Context(info))
        .since("2.8.13")
        .cost(EACH_NAME)
        .says("Returns arity, flags and keys of commands, or of all"),
    Spec::new("count", 2, "", Run::Context(count))
        .since("2.8.13")
        .says("Returns how many commands there are"),
    Spec::new("docs", -2, "[command-name [command-name ...]]", Run::Context(docs))
        .since("7.0.0")
        .cost(EACH_NAME)
        .says("Returns what people read about commands, or about all"),
    Spec::new("getkeys", -4, "command [arg [arg ...]]", Run::Context(get_keys))
        .since("2.8.13")
        .cost("O(N), N being the arguments")
        .says("Returns the keys among the arguments of a call"),
    Spec::new("getkeysandflags", -4, "command [arg [arg ...]]", Run::Context(get_keys_and_flags))
        .since("7.0.0")
        .cost("O(N), N being the arguments")
        .says("Returns the keys among the arguments of a call, and what it does to them"),
    HELP,
    Spec::new(
        "list",
        -2,
        "[FILTERBY MODULE module-name | ACLCAT category | PATTERN pattern]",
        Run::Context(list),
    )
    .since("7.0.0")
    .cost("O(N), N being the commands")
    .says("Returns the names of the commands"),
];

/// The categories that there can be, in Redis's order.
pub(crate) const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// The categories of a command.
pub(crate) fn categories(spec: &Spec, group: Group) -> Vec<&'static str> {
    let flags = spec.flags;
    let is_keyspace = group == Group::Generic || flags.has(Flags::KEYSPACE);
    let is_fast = flags.has(Flags::FAST);
    let known = [
        ("keyspace", is_keyspace),
        ("read", flags.has(Flags::READONLY)),
        ("write", flags.has(Flags::WRITE)),
        ("string", group == Group::String),
        ("admin", flags.has(Flags::ADMIN)),
        ("fast", is_fast),
        ("slow", !is_fast),
        ("blocking", flags.has(Flags::BLOCKING)),
        ("dangerous", flags.has_any(Flags::DANGEROUS.and(Flags::ADMIN))),
        ("connection", group == Group::Connection),
        ("transaction", group == Group::Transactions),
        ("scripting", group == Group::Scripting),
    ];
    known.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect()
}

fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Reply {
    Reply::Set(words.into_iter().map(|word| Reply::Simple(word.to_owned().into())).collect())
}

fn integer(number: impl TryInto<i64>) -> Reply {
    Reply::Integer(number.try_into().unwrap_or(i64::MAX))
}

fn map<const N: usize>(entries: [(&'static str, Reply); N]) -> Reply {
    Reply::Map(entries.into_iter().map(|(name, value)| (Reply::bulk(name), value)).collect())
}

/// What a command does to its keys.
fn key_flags(spec: &Spec) -> Reply {
    let is_write = spec.flags.has(Flags::WRITE);
    words(if is_write { vec!["RW", "access", "update"] } else { vec!["RO", "access"] })
}

fn key_specs(spec: &Spec) -> Reply {
    let (begin, kind, find) = match spec.keys {
        Keys::None => return Reply::Set(Vec::new()),
        Keys::Range(first, last, step) => {
            let last = if last < 0 { last } else { last - i32::try_from(first).unwrap_or(0) };
            let find =
                [("lastkey", integer(last)), ("keystep", integer(step)), ("limit", integer(0))];
            (first, "range", map(find))
        }
        Keys::Counted(place, between) => {
            let find = [
                ("keynumidx", integer(0)),
                ("firstkey", integer(1)),
                ("keystep", integer(between + 1)),
            ];
            (place, "keynum", map(find))
        }
    };
    let begin = map([("index", integer(begin))]);
    Reply::Set(vec![map([
        ("flags", key_flags(spec)),
        ("begin_search", map([("type", Reply::bulk("index")), ("spec", begin)])),
        ("find_keys", map([("type", Reply::bulk(kind)), ("spec", find)])),
    ])])
}

fn info_of(name: &str, spec: &'static Spec, group: Group) -> Reply {
    let (first, last, step) = match spec.keys {
        Keys::Range(first, last, step) => (first, last, step),
        Keys::None | Keys::Counted(..) => (0, 0, 0),
    };
    let moves = matches!(spec.keys, Keys::Counted(..)).then_some("movablekeys");
    let categories: Vec<String> =
        categories(spec, group).into_iter().map(|name| format!("@{name}")).collect();
    let subcommands =
        subcommands(spec).iter().map(|sub| info_of(&format!("{name}|{}", sub.name), sub, group));
    Reply::Array(vec![
        Reply::bulk(name),
        integer(spec.arity),
        words(spec.flags.names().chain(moves)),
        integer(first),
        integer(last),
        integer(step),
        words(categories.iter().map(String::as_str)),
        Reply::Set(Vec::new()),
        key_specs(spec),
        Reply::Set(subcommands.collect()),
    ])
}

/// Refuses more names than there are: each makes far more than it takes to say it.
fn check_names(registry: &Registry, args: &Args<'_>) -> Result<(), Failure> {
    let rows = registry.rows().len();
    if args.len() > rows + 2 {
        return refused(format!("ERR there are {rows} commands; ask for each of them once"));
    }
    Ok(())
}

fn info(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let registry = context.registry;
    check_names(registry, args)?;
    if args.len() <= 2 {
        let all = registry.commands().map(|row| info_of(&row.name, row.spec, row.group));
        return Ok(Reply::Array(all.collect()));
    }
    let asked = args.from(2).map(|name| match registry.row(name) {
        Some(row) => info_of(&row.name, row.spec, row.group),
        None => Reply::NullArray,
    });
    Ok(Reply::Array(asked.collect()))
}

fn count(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    Ok(integer(context.registry.commands().count()))
}

fn docs_of(name: &str, spec: &'static Spec, group: Group) -> (Reply, Reply) {
    let mut known = vec![
        (Reply::bulk("summary"), Reply::bulk(spec.summary)),
        (Reply::bulk("since"), Reply::bulk(spec.since)),
        (Reply::bulk("group"), Reply::bulk(group.name())),
        (Reply::bulk("complexity"), Reply::bulk(spec.complexity)),
    ];
    let arguments = usage::arguments(spec);
    if !arguments.is_empty() {
        known.push((Reply::bulk("arguments"), Reply::Array(arguments)));
    }
    let subcommands: Vec<(Reply, Reply)> = subcommands(spec)
        .iter()
        .map(|sub| docs_of(&format!("{name}|{}", sub.name), sub, group))
        .collect();
    if !subcommands.is_empty() {
        known.push((Reply::bulk("subcommands"), Reply::Map(subcommands)));
    }
    (Reply::bulk(name), Reply::Map(known))
}

fn docs(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let registry = context.registry;
    check_names(registry, args)?;
    let of = |row: &Row| docs_of(&row.name, row.spec, row.group);
    if args.len() == 2 {
        return Ok(Reply::Map(registry.commands().map(of).collect()));
    }
    Ok(Reply::Map(args.from(2).filter_map(|name| registry.row(name)).map(of).collect()))
}

fn list(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let registry = context.registry;
    let names = |rows: &mut dyn Iterator<Item = &Row>| {
        Ok(Reply::Array(rows.map(|row| Reply::bulk(row.name.as_str())).collect()))
    };
    let value = args.get(4);
    match args.len() {
        2 => names(&mut registry.commands()),
        5 if !args.is(2, "FILTERBY") => refused(SYNTAX),
        5 if args.is(3, "MODULE") => Ok(Reply::Array(Vec::new())),
        5 if args.is(3, "ACLCAT") => names(&mut registry.rows().iter().filter(|row| {
            let mut all = categories(row.spec, row.group).into_iter();
            all.any(|category| value.eq_ignore_ascii_case(category.as_bytes()))
        })),
        5 if args.is(3, "PATTERN") => {
            let matches = |row: &&Row| Glob::ignoring_case(value).matches(row.name.as_bytes());
            names(&mut registry.rows().iter().filter(matches))
        }
        _ => refused(SYNTAX),
    }
}

/// The keys of the call that the arguments after the subcommand are.
fn keys_of(registry: &Registry, args: &Args<'_>) -> Result<(&'static Spec, Vec<Vec<u8>>), Failure> {
    let call = Command::from_args(args.from(2));
    let call = Args::new(&call);
    let Some(spec) = registry.known(&call) else {
        return refused("ERR Invalid command specified");
    };
    if spec.keys == Keys::None {
        return refused("ERR The command has no key arguments");
    }
    if !spec.takes(call.len()) {
        return refused("ERR Invalid number of arguments specified for command");
    }
    let keys = spec.key_places(&call).into_iter().map(|place| call.get(place).to_vec());
    Ok((spec, keys.collect()))
}

fn get_keys(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let (_, keys) = keys_of(context.registry, args)?;
    Ok(Reply::Array(keys.into_iter().map(Reply::Bulk).collect()))
}

fn get_keys_and_flags(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let (spec, keys) = keys_of(context.registry, args)?;
    let pair = |key| Reply::Array(vec![Reply::Bulk(key), key_flags(spec)]);
    Ok(Reply::Array(keys.into_iter().map(pair).collect()))
}
