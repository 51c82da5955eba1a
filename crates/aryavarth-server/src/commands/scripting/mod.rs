//! EVAL and its kin, and SCRIPT. The dispatcher runs scripts (`dispatch/script.rs`), because they call
//! every command.

use aryavarth_protocol::Reply;

use crate::commands::kit::args::Args;
use crate::commands::kit::context::Context;
use crate::commands::kit::failure::{refused, wrong_subcommand};
use crate::commands::kit::help::HELP;
use crate::commands::kit::spec::{Outcome, Run, ScriptCall, Spec};
use crate::script::Hash;

const EVAL: ScriptCall = ScriptCall { by_hash: false, only_reads: false };
const BY_HASH: ScriptCall = ScriptCall { by_hash: true, ..EVAL };
const ONLY_READS: ScriptCall = ScriptCall { only_reads: true, ..EVAL };
const BY_HASH_ONLY_READS: ScriptCall = ScriptCall { by_hash: true, only_reads: true };

const ACCESS: &str = "RW access update";
const ACCESS_RO: &str = "RO access";
const NOTES: &str =
    "We cannot tell how the keys will be used so we assume the worst, RW and UPDATE";
const NOTES_RO: &str =
    "We cannot tell how the keys will be used so we assume the worst, RO and ACCESS";
const COST: &str = "Depends on the script that is executed.";
const OF_TEXT: &str = "script numkeys [key [key ...]] [arg [arg ...]]";
const OF_HASH: &str = "sha1 numkeys [key [key ...]] [arg [arg ...]]";

pub(crate) const SPECS: &[Spec] = &[
    Spec::new("eval", -3, OF_TEXT, Run::Script(EVAL))
        .flags("noscript stale skip_monitor no_mandatory_keys @scripting")
        .counted_keys(2, 0, ACCESS)
        .key_notes(NOTES)
        .since("2.6.0")
        .cost(COST)
        .says("Executes a Lua script server side"),
    Spec::new("evalsha", -3, OF_HASH, Run::Script(BY_HASH))
        .flags("noscript stale skip_monitor no_mandatory_keys @scripting")
        .counted_keys(2, 0, ACCESS)
        .since("2.6.0")
        .cost(COST)
        .says("Executes a Lua script server side"),
    Spec::new("evalsha_ro", -3, OF_HASH, Run::Script(BY_HASH_ONLY_READS))
        .flags("readonly noscript stale skip_monitor no_mandatory_keys @scripting")
        .counted_keys(2, 0, ACCESS_RO)
        .since("7.0.0")
        .cost(COST)
        .says("Executes a read-only Lua script server side"),
    Spec::new("eval_ro", -3, OF_TEXT, Run::Script(ONLY_READS))
        .flags("readonly noscript stale skip_monitor no_mandatory_keys @scripting")
        .counted_keys(2, 0, ACCESS_RO)
        .key_notes(NOTES_RO)
        .since("7.0.0")
        .cost(COST)
        .says("Executes a read-only Lua script server side"),
    Spec::new("script", -2, "subcommand", Run::Container(SUBS))
        .since("2.6.0")
        .cost("Depends on subcommand.")
        .says("A container for Lua scripts management commands"),
];

const SUBS: &[Spec] = &[
    Spec::new("debug", 3, "YES | SYNC | NO", Run::Context(debug))
        .flags("noscript @scripting")
        .since("3.2.0")
        .says("Is refused: there is no debugger of scripts"),
    Spec::new(
        "exists",
        -3,
        "sha1 [sha1 ...]",
        Run::Context(|context, args| Ok(exists(context, args))),
    )
    .flags("noscript @scripting")
    .tips(&["request_policy:all_shards", "response_policy:agg_logical_and"])
    .since("2.6.0")
    .cost(
        "O(N) with N being the number of scripts to check (so checking a single script is an \
             O(1) operation).",
    )
    .says("Checks existence of scripts in the script cache"),
    Spec::new("flush", -2, "[ASYNC | SYNC]", Run::Context(flush))
        .flags("noscript @scripting")
        .tips(&["request_policy:all_nodes", "response_policy:all_succeeded"])
        .since("2.6.0")
        .cost("O(N) with N being the number of scripts in cache")
        .says("Removes all the scripts from the script cache"),
    HELP.flags("@scripting"),
    Spec::new("kill", 2, "", Run::Context(kill))
        .flags("noscript allow_busy @scripting")
        .tips(&["request_policy:all_shards", "response_policy:one_succeeded"])
        .since("2.6.0")
        .says("Kills the script currently in execution"),
    Spec::new("load", 3, "script", Run::Context(load))
        .flags("noscript stale @scripting WAITS")
        .tips(&["request_policy:all_nodes", "response_policy:all_succeeded"])
        .since("2.6.0")
        .cost("O(N) with N being the length in bytes of the script body.")
        .says("Loads the specified Lua script into the script cache"),
    Spec::new("show", 3, "sha1", Run::Context(show))
        .flags("noscript @scripting")
        .since("8.0.0")
        .says("Returns the text of a script that is kept"),
];

fn debug(_: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    refused("ERR SCRIPT DEBUG is not supported: the server has no debugger of scripts")
}

fn exists(context: &Context<'_>, args: &Args<'_>) -> Reply {
    let scripts = context.server.scripts();
    let has = |digits| Hash::parse(digits).is_some_and(|hash| scripts.has(hash));
    Reply::Array(args.from(2).map(|digits| Reply::Integer(i64::from(has(digits)))).collect())
}

fn flush(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    if args.len() > 3 || args.len() == 3 && !(args.is(2, "SYNC") || args.is(2, "ASYNC")) {
        return refused("ERR SCRIPT FLUSH only support SYNC|ASYNC option");
    }
    context.server.scripts().flush();
    Ok(Reply::OK)
}

fn kill(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    if context.server.scripts().kill() {
        return Ok(Reply::OK);
    }
    refused("NOTBUSY No scripts in execution right now.")
}

fn load(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    match context.server.scripts().load(args.get(2)) {
        Ok(script) => Ok(Reply::bulk(script.hash.to_string())),
        Err(problem) => refused(format!("ERR {problem}")),
    }
}

fn show(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let found = Hash::parse(args.get(2)).and_then(|hash| context.server.scripts().find(hash));
    match found {
        Some(script) => Ok(Reply::bulk(script.text())),
        None if args.len() == 3 => refused("NOSCRIPT No matching script. Please use EVAL."),
        None => wrong_subcommand(args),
    }
}
