//! COMMAND: the rows of the registry, in the shapes that clients and their prompts read.

use aryavarth_protocol::{Command, Reply};

use super::usage;
use crate::commands::kit::args::Args;
use crate::commands::kit::context::Context;
use crate::commands::kit::failure::{Failure, SYNTAX, refused};
use crate::commands::kit::help::HELP;
use crate::commands::kit::rows::{Registry, Row, subcommands};
use crate::commands::kit::spec::{Group, Keys, Outcome, Run, Spec};
use crate::glob::Glob;

pub(crate) const SPECS: &[Spec] = &[Spec::new("command", -1, "", Run::Container(SUBS))
    .flags("loading stale @connection")
    .tips(&["nondeterministic_output_order"])
    .since("2.8.13")
    .cost("O(N) where N is the total number of Redis commands")
    .says("Gets array of Redis command details")];

/// The first is the meaning of `COMMAND` alone.
const SUBS: &[Spec] = &[
    Spec::new("info", -2, "[command-name [command-name ...]]", Run::Context(info))
        .flags("loading stale @connection")
        .tips(&["nondeterministic_output_order"])
        .since("2.8.13")
        .cost("O(N) where N is the number of commands to look up")
        .says("Gets array of specific Redis command details, or all when no argument is given"),
    Spec::new("count", 2, "", Run::Context(count))
        .flags("loading stale @connection")
        .since("2.8.13")
        .says("Gets total number of Redis commands"),
    Spec::new("docs", -2, "[command-name [command-name ...]]", Run::Context(docs))
        .flags("loading stale @connection")
        .tips(&["nondeterministic_output_order"])
        .since("7.0.0")
        .cost("O(N) where N is the number of commands to look up")
        .says("Gets array of specific Redis command documentation"),
    Spec::new("getkeys", -4, "command [arg [arg ...]]", Run::Context(get_keys))
        .flags("loading stale @connection")
        .since("2.8.13")
        .cost("O(N) where N is the number of arguments to the command")
        .says("Extracts keys given a full Redis command"),
    Spec::new("getkeysandflags", -4, "command [arg [arg ...]]", Run::Context(get_keys_and_flags))
        .flags("loading stale @connection")
        .since("7.0.0")
        .cost("O(N) where N is the number of arguments to the command")
        .says("Extracts keys and access flags given a full Redis command"),
    HELP.flags("@connection"),
    Spec::new(
        "list",
        -2,
        "[FILTERBY MODULE module-name | ACLCAT category | PATTERN pattern]",
        Run::Context(list),
    )
    .flags("loading stale @connection")
    .tips(&["nondeterministic_output_order"])
    .since("7.0.0")
    .cost("O(N) where N is the total number of Redis commands")
    .says("Gets an array of Redis command names"),
];

fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Reply {
    Reply::Set(words.into_iter().map(|word| Reply::Simple(word.to_owned().into())).collect())
}

fn integer(number: impl TryInto<i64>) -> Reply {
    Reply::Integer(number.try_into().unwrap_or(i64::MAX))
}

fn map<const N: usize>(entries: [(&'static str, Reply); N]) -> Reply {
    Reply::Map(entries.into_iter().map(|(name, value)| (Reply::bulk(name), value)).collect())
}

/// The access of one key of a call, in redis's words.
fn access_words(access: &'static str) -> Reply {
    words(access.split_ascii_whitespace())
}

/// The access of the key at a place among a call's keys.
fn access_of(spec: &Spec, key: usize, call: &Args<'_>) -> &'static str {
    let [first, second] = spec.access;
    if let Some(fixed) = first.strip_suffix(VARIABLE) {
        // SET reads the key only if the call has GET.
        let reads = (3..call.len()).any(|place| call.is(place, "GET"));
        return if reads { fixed } else { "OW update" };
    }
    if key == 1 && !second.is_empty() { second } else { first }
}

/// Ends an access that depends on the arguments.
const VARIABLE: &str = " variable_flags";

fn key_spec(access: &'static str, notes: &'static str, begin: usize, find: (&str, Reply)) -> Reply {
    let begin = map([("index", integer(begin))]);
    let (kind, find) = find;
    let mut parts = vec![
        (Reply::bulk("flags"), access_words(access)),
        (Reply::bulk("begin_search"), map([("type", Reply::bulk("index")), ("spec", begin)])),
        (Reply::bulk("find_keys"), map([("type", Reply::bulk(kind)), ("spec", find)])),
    ];
    if !notes.is_empty() {
        parts.insert(0, (Reply::bulk("notes"), Reply::bulk(notes)));
    }
    Reply::Map(parts)
}

fn key_specs(spec: &Spec) -> Reply {
    let range = |last: i32, step: usize| {
        let find = [("lastkey", integer(last)), ("keystep", integer(step)), ("limit", integer(0))];
        ("range", map(find))
    };
    let [access, second] = spec.access;
    Reply::Set(match spec.keys {
        Keys::None => Vec::new(),
        Keys::Range(first, _, step) if !second.is_empty() => vec![
            key_spec(access, spec.key_notes, first, range(0, step)),
            key_spec(second, "", first + step, range(0, step)),
        ],
        Keys::Range(first, last, step) => {
            let last = if last < 0 { last } else { last - i32::try_from(first).unwrap_or(0) };
            vec![key_spec(access, spec.key_notes, first, range(last, step))]
        }
        Keys::Counted(place, between) => {
            let find = [
                ("keynumidx", integer(0)),
                ("firstkey", integer(1)),
                ("keystep", integer(between + 1)),
            ];
            vec![key_spec(access, spec.key_notes, place, ("keynum", map(find)))]
        }
    })
}

fn info_of(name: &str, spec: &'static Spec) -> Reply {
    let (first, last, step) = match spec.keys {
        Keys::Range(first, last, step) => (first, last, step),
        Keys::None | Keys::Counted(..) => (0, 0, 0),
    };
    let moves = matches!(spec.keys, Keys::Counted(..)).then_some("movablekeys");
    let categories: Vec<String> =
        spec.flags.categories().into_iter().map(|name| format!("@{name}")).collect();
    let subs = subcommands(spec).iter().map(|sub| info_of(&format!("{name}|{}", sub.name), sub));
    Reply::Array(vec![
        Reply::bulk(name),
        integer(spec.arity),
        words(spec.flags.names().chain(moves)),
        integer(first),
        integer(last),
        integer(step),
        words(categories.iter().map(String::as_str)),
        Reply::Set(spec.tips.iter().map(|tip| Reply::bulk(*tip)).collect()),
        key_specs(spec),
        Reply::Set(subs.collect()),
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
        let all = registry.commands().map(|row| info_of(&row.name, row.spec));
        return Ok(Reply::Array(all.collect()));
    }
    let asked = args.from(2).map(|name| match registry.row(name) {
        Some(row) => info_of(&row.name, row.spec),
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
        (Reply::bulk("group"), Reply::bulk(spec.group.unwrap_or(group).name())),
    ];
    if !spec.complexity.is_empty() {
        known.push((Reply::bulk("complexity"), Reply::bulk(spec.complexity)));
    }
    if let Some((since, by)) = spec.deprecated {
        known.push((Reply::bulk("doc_flags"), words(["deprecated"])));
        known.push((Reply::bulk("deprecated_since"), Reply::bulk(since)));
        known.push((Reply::bulk("replaced_by"), Reply::bulk(by)));
    }
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
            let mut all = row.spec.flags.categories().into_iter();
            all.any(|category| value.eq_ignore_ascii_case(category.as_bytes()))
        })),
        5 if args.is(3, "PATTERN") => {
            let matches = |row: &&Row| Glob::ignoring_case(value).matches(row.name.as_bytes());
            names(&mut registry.rows().iter().filter(matches))
        }
        _ => refused(SYNTAX),
    }
}

/// Each key of the call that follows the subcommand, with its access.
fn keys_of(registry: &Registry, args: &Args<'_>) -> Result<Vec<(Vec<u8>, &'static str)>, Failure> {
    let call = Command::from_args(args.from(2));
    let call = Args::new(&call);
    let Some(spec) = registry.known(&call) else {
        return refused("ERR Invalid command specified");
    };
    let is_container = !subcommands(spec).is_empty();
    if is_container && call.len() > 1 {
        return refused("ERR Invalid command specified");
    }
    if spec.keys == Keys::None {
        return refused("ERR The command has no key arguments");
    }
    if !spec.takes(call.len()) {
        return refused("ERR Invalid number of arguments specified for command");
    }
    let places = spec.key_places(&call).into_iter().enumerate();
    let keys = places.map(|(key, at)| (call.get(at).to_vec(), access_of(spec, key, &call)));
    Ok(keys.collect())
}

fn get_keys(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let keys = keys_of(context.registry, args)?;
    Ok(Reply::Array(keys.into_iter().map(|(key, _)| Reply::Bulk(key)).collect()))
}

fn get_keys_and_flags(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let keys = keys_of(context.registry, args)?;
    let pair = |(key, access)| Reply::Array(vec![Reply::Bulk(key), access_words(access)]);
    Ok(Reply::Array(keys.into_iter().map(pair).collect()))
}
