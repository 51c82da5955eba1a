//! Answers to questions about clusters, functions, modules and users: the server has none of the first
//! three, and one user. Clients ask before they begin.

use aryavarth_protocol::Reply;

use crate::commands::kit::args::Args;
use crate::commands::kit::context::Context;
use crate::commands::kit::failure::{refused, refused_quoting, wrong_subcommand};
use crate::commands::kit::flags::CATEGORIES;
use crate::commands::kit::help::HELP;
use crate::commands::kit::rows::Row;
use crate::commands::kit::spec::{Outcome, Run, Spec};

const NO_CLUSTER: &str = "ERR This instance has cluster support disabled";
const SAYS_NO_CLUSTER: &str = "Says that this server is no cluster";

pub(crate) const CLUSTER: &[Spec] = &[
    Spec::new("cluster", -2, "subcommand", Run::Container(CLUSTER_SUBS))
        .since("3.0.0")
        .cost("Depends on subcommand.")
        .says(SAYS_NO_CLUSTER),
    no_cluster("readonly", 1, "").flags("loading stale fast @connection"),
    no_cluster("readwrite", 1, "").flags("loading stale fast @connection"),
];

pub(crate) const SCRIPTING: &[Spec] =
    &[Spec::new("function", -2, "subcommand", Run::Container(FUNCTION))
        .since("7.0.0")
        .cost("Depends on subcommand.")
        .says("Says that there are no functions")];

pub(crate) const SERVER: &[Spec] = &[
    Spec::new("acl", -2, "subcommand", Run::Container(ACL))
        .since("6.0.0")
        .cost("Depends on subcommand.")
        .says("Shows the rights of the only user"),
    Spec::new("module", -2, "subcommand", Run::Container(MODULE))
        .since("4.0.0")
        .cost("Depends on subcommand.")
        .says("Says that there are no modules"),
];

/// A command that only a cluster could answer.
const fn no_cluster(name: &'static str, arity: i32, usage: &'static str) -> Spec {
    Spec::new(name, arity, usage, Run::Context(|_, _| refused(NO_CLUSTER)))
        .since("3.0.0")
        .says(SAYS_NO_CLUSTER)
}

const CLUSTER_SUBS: &[Spec] = &[
    no_cluster("countkeysinslot", 3, "slot").flags("stale"),
    no_cluster("getkeysinslot", 4, "slot count").flags("stale").tips(&["nondeterministic_output"]),
    no_cluster("help", 2, "").flags("loading stale").since("5.0.0"),
    no_cluster("info", 2, "").flags("stale").tips(&["nondeterministic_output"]),
    no_cluster("keyslot", 3, "key").flags("stale"),
    no_cluster("myid", 2, "").flags("stale"),
    no_cluster("nodes", 2, "").flags("stale").tips(&["nondeterministic_output"]),
    no_cluster("shards", 2, "").flags("stale").tips(&["nondeterministic_output"]).since("7.0.0"),
    no_cluster("slots", 2, "")
        .flags("stale")
        .tips(&["nondeterministic_output"])
        .deprecated("7.0.0", "`CLUSTER SHARDS`"),
];

const FUNCTION: &[Spec] = &[
    Spec::new("flush", -2, "[ASYNC | SYNC]", Run::Context(function_flush))
        .flags("write noscript @scripting")
        .tips(&["request_policy:all_shards", "response_policy:all_succeeded"])
        .since("7.0.0")
        .says("Does nothing, since there are no functions"),
    HELP.flags("@scripting").since("7.0.0"),
    Spec::new(
        "list",
        -2,
        "[LIBRARYNAME pattern] [WITHCODE]",
        Run::Context(|_, _| Ok(Reply::Array(Vec::new()))),
    )
    .flags("noscript @scripting")
    .tips(&["nondeterministic_output_order"])
    .since("7.0.0")
    .says("Returns nothing, since there are no functions"),
    Spec::new("stats", 2, "", Run::Context(function_stats))
        .flags("noscript allow_busy @scripting")
        .tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"])
        .since("7.0.0")
        .says("Says that no function runs"),
];

const MODULE: &[Spec] = &[
    HELP,
    Spec::new("list", 2, "", Run::Context(|_, _| Ok(Reply::Array(Vec::new()))))
        .flags("admin noscript")
        .tips(&["nondeterministic_output_order"])
        .since("4.0.0")
        .says("Returns nothing, since there are no modules"),
];

const ACL: &[Spec] = &[
    Spec::new("cat", -2, "[categoryname]", Run::Context(acl_cat))
        .flags("noscript loading stale")
        .since("6.0.0")
        .cost("O(N), N being the commands")
        .says("Lists the ACL categories or the commands inside a category"),
    HELP.since("6.0.0"),
    Spec::new("list", 2, "", Run::Context(acl_list))
        .flags("admin noscript loading stale")
        .since("6.0.0")
        .says("Returns the rights of the only user, without the password"),
    Spec::new("users", 2, "", Run::Context(|_, _| Ok(Reply::Array(vec![Reply::bulk("default")]))))
        .flags("admin noscript loading stale")
        .since("6.0.0")
        .says("Returns the name of the one user"),
    Spec::new("whoami", 2, "", Run::Context(|_, _| Ok(Reply::bulk("default"))))
        .flags("noscript loading stale")
        .since("6.0.0")
        .says("Returns the name of the one user"),
];

fn function_flush(_: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    if args.len() == 2 || args.len() == 3 && (args.is(2, "SYNC") || args.is(2, "ASYNC")) {
        return Ok(Reply::OK);
    }
    refused("ERR FUNCTION FLUSH only supports SYNC|ASYNC option")
}

fn function_stats(_: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    Ok(Reply::Map(vec![
        (Reply::bulk("running_script"), Reply::Null),
        (Reply::bulk("engines"), Reply::Map(Vec::new())),
    ]))
}

fn acl_cat(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let category = args.get(2).to_ascii_lowercase();
    match args.len() {
        2 => Ok(Reply::Array(CATEGORIES.into_iter().map(Reply::bulk).collect())),
        3 if CATEGORIES.iter().any(|known| known.as_bytes() == category) => {
            let has =
                |row: &&Row| row.spec.flags.categories().iter().any(|is| is.as_bytes() == category);
            let names = context.registry.rows().iter().filter(has);
            Ok(Reply::Array(names.map(|row| Reply::bulk(row.name.as_str())).collect()))
        }
        3 => refused_quoting("ERR Unknown category '", args.get(2), "'"),
        _ => wrong_subcommand(args),
    }
}

fn acl_list(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    let pass = if context.server.settings().has_password() { "" } else { "nopass " };
    Ok(Reply::Array(vec![Reply::bulk(format!("user default on {pass}~* &* +@all"))]))
}
