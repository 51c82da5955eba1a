//! CONFIG: the settings, under the names that Redis has for them.
//!
//! Invariants:
//! - `CONFIG SET` changes all that it names, or nothing.
//! - A setting that cannot be changed can be set to its value, so that a program that insists on a
//!   setting that holds anyway goes on.

use std::sync::atomic::Ordering;

use aryavarth::VALUE_BYTES_MAX;
use aryavarth_protocol::Reply;
use tracing::info;

use super::constants::CONSTANTS;
use crate::commands::kit::args::DATABASES;
use crate::commands::kit::args::{Args, parse_integer};
use crate::commands::kit::context::Context;
use crate::commands::kit::failure::{SYNTAX, refused};
use crate::commands::kit::help::HELP;
use crate::commands::kit::spec::{Outcome, Run, Spec};
use crate::commands::server::info::append_sync;
use crate::glob::Glob;

pub(crate) const SPECS: &[Spec] = &[Spec::new("config", -2, "subcommand", Run::Container(SUBS))
    .since("2.0.0")
    .cost("Depends on subcommand.")
    .says("A container for server configuration commands")];

const SUBS: &[Spec] = &[
    Spec::new("get", -3, "parameter [parameter ...]", Run::Context(get))
        .flags("admin noscript loading stale")
        .since("2.0.0")
        .cost("O(N) when N is the number of configuration parameters provided")
        .says("Gets the values of configuration parameters"),
    HELP,
    Spec::new("resetstat", 2, "", Run::Context(reset_statistics))
        .flags("admin noscript loading stale")
        .since("2.0.0")
        .says("Resets the stats returned by INFO"),
    Spec::new("rewrite", 2, "", Run::Context(rewrite))
        .flags("admin noscript loading stale")
        .since("2.8.0")
        .says("Would write the settings to a file, if the server had read one"),
    Spec::new("set", -4, "parameter value [parameter value ...]", Run::Context(set))
        .flags("admin noscript loading stale")
        .tips(&["request_policy:all_nodes", "response_policy:all_succeeded"])
        .since("2.0.0")
        .cost("O(N) when N is the number of configuration parameters provided")
        .says("Sets configuration parameters to the given values"),
];

/// How a setting is looked up.
type Value = fn(&Context<'_>) -> String;

/// A setting that is looked up; the same while the server runs unless [`change_of`] knows it.
const LIVE: &[(&str, Value)] = &[
    ("appendfsync", |context| append_sync(context.server.settings().durability).to_owned()),
    ("bind", |context| context.server.settings().listen.ip().to_string()),
    ("client-query-buffer-limit", |context| {
        context.server.settings().request_bytes_max().to_string()
    }),
    ("databases", |_| DATABASES.to_string()),
    ("dir", |context| context.server.settings().directory.clone()),
    ("maxclients", |context| context.server.settings().connections_max().to_string()),
    ("maxmemory", |context| context.server.settings().memory_bytes_max().to_string()),
    ("output-bytes-max", |context| context.server.output().whole_bytes.to_string()),
    ("port", |context| context.server.settings().listen.port().to_string()),
    ("proto-max-bulk-len", |context| context.server.settings().value_bytes_max().to_string()),
    ("requirepass", |context| {
        String::from_utf8_lossy(&context.server.settings().password()).into_owned()
    }),
    ("slowlog-log-slower-than", |context| {
        context.server.settings().slow_micros.load(Ordering::Relaxed).to_string()
    }),
    ("slowlog-max-len", |context| {
        context.server.settings().slow_entries_max.load(Ordering::Relaxed).to_string()
    }),
    ("timeout", |context| context.server.settings().idle_seconds().to_string()),
];

/// The new value of a setting.
enum Change<'a> {
    /// Its present value.
    Nothing,
    ConnectionsMax(u64),
    IdleSeconds(u64),
    MemoryBytesMax(u64),
    Password(&'a [u8]),
    RequestBytesMax(usize),
    SlowEntriesMax(u64),
    SlowMicros(i64),
    ValueBytesMax(usize),
}

impl Change<'_> {
    fn apply(&self, context: &Context<'_>) {
        let settings = context.server.settings();
        match self {
            Change::Nothing => {}
            Change::ConnectionsMax(connections) => settings.set_connections_max(*connections),
            Change::IdleSeconds(seconds) => settings.set_idle_seconds(*seconds),
            Change::MemoryBytesMax(bytes) => settings.set_memory_bytes_max(*bytes),
            Change::Password(password) => settings.set_password(password),
            Change::RequestBytesMax(bytes) => settings.set_request_bytes_max(*bytes),
            Change::ValueBytesMax(bytes) => settings.set_value_bytes_max(*bytes),
            Change::SlowEntriesMax(max) => settings.slow_entries_max.store(*max, Ordering::Relaxed),
            Change::SlowMicros(micros) => settings.slow_micros.store(*micros, Ordering::Relaxed),
        }
    }
}

/// The value of a setting.
fn value_of(context: &Context<'_>, name: &str) -> Option<String> {
    let constant = CONSTANTS.iter().find(|(known, _)| *known == name);
    let live = LIVE.iter().find(|(known, _)| *known == name);
    let live = || live.map(|(_, value)| value(context));
    constant.map(|(_, value)| (*value).to_owned()).or_else(live)
}

fn get(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let names = CONSTANTS.iter().map(|(name, _)| *name).chain(LIVE.iter().map(|(name, _)| *name));
    let mut names: Vec<&str> = names
        .filter(|name| {
            args.from(2).any(|asked| Glob::ignoring_case(asked).matches(name.as_bytes()))
        })
        .collect();
    names.sort_unstable();
    let pair = |name: &str| {
        // A name that was given is given back as it was written.
        let asked = args.from(2).find(|asked| asked.eq_ignore_ascii_case(name.as_bytes()));
        let shown = asked.unwrap_or(name.as_bytes());
        Some((Reply::bulk(shown), Reply::bulk(value_of(context, name)?)))
    };
    Ok(Reply::Map(names.into_iter().filter_map(pair).collect()))
}

fn set(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    if args.len() % 2 == 1 {
        return refused(SYNTAX);
    }
    let mut changes: Vec<(String, Change<'_>)> = Vec::new();
    for at in (2..args.len()).step_by(2) {
        let asked = String::from_utf8_lossy(args.get(at));
        let name = asked.to_ascii_lowercase();
        let Some(current) = value_of(context, &name) else {
            return refused(format!(
                "ERR Unknown option or number of arguments for CONFIG SET - '{asked}'"
            ));
        };
        let failed = |why: &str| {
            refused(format!(
                "ERR CONFIG SET failed (possibly related to argument '{asked}') - {why}"
            ))
        };
        if changes.iter().any(|(known, _)| *known == name) {
            return failed("duplicate parameter");
        }
        match change_of(&name, args.get(at + 1), &current) {
            Ok(change) => changes.push((name, change)),
            Err(why) => return failed(&why),
        }
    }
    for (name, change) in &changes {
        let before = value_of(context, name);
        change.apply(context);
        // A value that stays is no change of state, so a loop of them fills no log.
        if !matches!(change, Change::Nothing) && value_of(context, name) != before {
            let value = match change {
                Change::Password(_) => "(not shown)".to_owned(),
                _ => value_of(context, name).unwrap_or_default(),
            };
            info!(name, value, client = %context.entry.peer(), "setting changed");
        }
    }
    Ok(Reply::OK)
}

/// The change that a value asks for.
///
/// # Errors
/// The value's fault, in redis's words.
fn change_of<'a>(name: &str, value: &'a [u8], current: &str) -> Result<Change<'a>, String> {
    let unsigned = |min, max| number(value, min, max).map(i64::unsigned_abs);
    Ok(match name {
        "client-query-buffer-limit" => {
            Change::RequestBytesMax(size(value, 1 << 20, u32::MAX as usize)?)
        }
        "proto-max-bulk-len" => Change::ValueBytesMax(size(value, 1 << 20, VALUE_BYTES_MAX)?),
        "maxclients" => Change::ConnectionsMax(unsigned(1, i64::from(u32::MAX))?),
        "maxmemory" => Change::MemoryBytesMax(any_size(value)?),
        "requirepass" => Change::Password(value),
        "slowlog-log-slower-than" => Change::SlowMicros(number(value, -1, i64::MAX)?),
        "slowlog-max-len" => Change::SlowEntriesMax(unsigned(0, i64::MAX)?),
        "timeout" => Change::IdleSeconds(unsigned(0, i64::from(i32::MAX))?),
        _ if value == current.as_bytes() => Change::Nothing,
        _ if ["yes", "no"].contains(&current) && value != b"yes" && value != b"no" => {
            return Err("argument must be 'yes' or 'no'".to_owned());
        }
        _ if current.parse::<i64>().is_ok() && parse_integer(value).is_none() => {
            return Err("argument couldn't be parsed into an integer".to_owned());
        }
        _ => return Err("can't set immutable config".to_owned()),
    })
}

fn number(value: &[u8], min: i64, max: i64) -> Result<i64, String> {
    let Some(number) = parse_integer(value) else {
        return Err("argument couldn't be parsed into an integer".to_owned());
    };
    if (min..=max).contains(&number) {
        Ok(number)
    } else {
        Err(format!("argument must be between {min} and {max} inclusive"))
    }
}

fn any_size(value: &[u8]) -> Result<u64, String> {
    memory_bytes(value).ok_or_else(|| "argument must be a memory value".to_owned())
}

fn size(value: &[u8], min: usize, max: usize) -> Result<usize, String> {
    let size = usize::try_from(any_size(value)?).unwrap_or(usize::MAX);
    if (min..=max).contains(&size) {
        Ok(size)
    } else {
        Err(format!("argument must be between {min} and {max} inclusive"))
    }
}

/// Reads a size like `100mb`.
fn memory_bytes(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?.to_ascii_lowercase();
    let digits = text.trim_end_matches(|last: char| last.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| is_number)?.checked_mul(unit)
}

fn reset_statistics(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    context.server.clients().statistics.reset();
    Ok(Reply::OK)
}

fn rewrite(_: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    refused("ERR The server is running without a config file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_redis_reads_them() {
        for (text, expected) in [
            ("0", Some(0)),
            ("100", Some(100)),
            ("1k", Some(1000)),
            ("1Kb", Some(1024)),
            ("100MB", Some(100 << 20)),
            ("2g", Some(2_000_000_000)),
            ("", None),
            ("mb", None),
            ("-1", None),
            ("+1", None),
            ("1tb", None),
            ("99999999999999999999", None),
            ("18446744073709551615gb", None),
        ] {
            assert_eq!(memory_bytes(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn no_setting_stands_in_both_lists() {
        let mut names: Vec<&str> = CONSTANTS.iter().map(|(name, _)| *name).collect();
        names.extend(LIVE.iter().map(|(name, _)| *name));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
