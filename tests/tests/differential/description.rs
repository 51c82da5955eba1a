//! `COMMAND` beside redis's own: arity, flags, keys, categories, tips, documentation, and the keys of
//! calls, for every command and subcommand that both servers have.
//!
//! Clients and proxies route calls by these. The differences that stay are the lists below, which
//! docs/clients.md tells; an entry that no longer differs is an error, too.

use aryavarth_tests::resp::{Connection, elements, shown};
use aryavarth_tests::server::subject;

use crate::Servers;

/// Commands that do something else than redis's of that name, and so have a summary of their own.
const OWN_SUMMARIES: &[&str] = &[
    // One user, without rules.
    "acl",
    "acl|list",
    "acl|users",
    "acl|whoami",
    // The log is the database: a save is a sync, a rewrite is a compaction.
    "bgrewriteaof",
    "bgsave",
    "lastsave",
    "save",
    "shutdown",
    // No eviction, no tracking, no command that waits for a key.
    "client|caching",
    "client|getredir",
    "client|no-evict",
    "client|tracking",
    "client|trackinginfo",
    "client|unblock",
    // No file of settings.
    "config|rewrite",
    // No cluster, functions, modules, replicas or debugger of scripts.
    "cluster",
    "cluster|countkeysinslot",
    "cluster|getkeysinslot",
    "cluster|help",
    "cluster|info",
    "cluster|keyslot",
    "cluster|myid",
    "cluster|nodes",
    "cluster|shards",
    "cluster|slots",
    "function",
    "function|flush",
    "function|list",
    "function|stats",
    "module",
    "module|list",
    "readonly",
    "readwrite",
    "role",
    "script|debug",
    "wait",
    // Tools for tests.
    "debug",
    // Redis is not what is greeted here.
    "hello",
    // No events are sampled.
    "latency|doctor",
    "latency|graph",
    "latency|history",
    "latency|latest",
    "latency|reset",
    // Another allocator.
    "memory|doctor",
    "memory|malloc-stats",
    "memory|purge",
    // No use of a key is noted, no value is shared, no removal waits for memory.
    "object|freq",
    "object|idletime",
    "object|refcount",
    "touch",
    "unlink",
];

/// Commands whose cost is not redis's, or is the same in fewer words.
const OWN_COSTS: &[&str] = &[
    "acl|cat",
    "acl|list",
    "acl|users",
    "append",
    "auth",
    "bgrewriteaof",
    "client|tracking",
    "client|unblock",
    "client|unpause",
    "cluster|getkeysinslot",
    "cluster|keyslot",
    "cluster|nodes",
    "cluster|shards",
    "cluster|slots",
    "copy",
    "del",
    "flushall",
    "flushdb",
    "function|flush",
    "function|list",
    "getrange",
    "keys",
    "memory|malloc-stats",
    "memory|purge",
    "memory|usage",
    "module|list",
    "monitor",
    "randomkey",
    "save",
    "scan",
    "setrange",
    "shutdown",
    "substr",
    "swapdb",
    "unlink",
];

/// Calls whose keys are asked for; the last one has many.
const CALLS: &[&str] = &[
    "GET k",
    "GET a b",
    "MGET a b c",
    "SET k v",
    "SET k v GET",
    "SET k v EX 10 get",
    "GETEX k",
    "COPY a b",
    "RENAME a b",
    "LCS a b",
    "MSET a 1 b 2",
    "MSETNX a 1 b 2",
    "UNLINK a b",
    "SETEX k 1 v",
    "MEMORY USAGE k",
    "OBJECT ENCODING k",
    "OBJECT HELP",
    "OBJECT unknown k",
    "WATCH a b",
    "PING x",
    "CONFIG GET x",
    "unknown k",
];

/// The parts of an array; none of anything else.
fn parts(reply: &[u8]) -> Vec<Vec<u8>> {
    elements(reply).unwrap_or_default().into_iter().map(<[u8]>::to_vec).collect()
}

fn sorted(reply: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = parts(reply);
    parts.sort_unstable();
    parts
}

/// The text of a bulk or simple string.
fn text(reply: &[u8]) -> String {
    let body = match reply.first() {
        Some(b'$') => reply.splitn(2, |byte| *byte == b'\n').nth(1).unwrap_or_default(),
        _ => reply.get(1..).unwrap_or_default(),
    };
    String::from_utf8_lossy(body).trim_end_matches("\r\n").to_owned()
}

/// The names of all commands and subcommands of a server.
fn names(connection: &mut Connection) -> Vec<String> {
    let all = connection.ask(&["COMMAND"]).unwrap();
    let mut names = Vec::new();
    for command in parts(&all) {
        let fields = parts(&command);
        names.push(text(&fields[0]));
        names.extend(parts(&fields[9]).iter().map(|sub| text(&parts(sub)[0])));
    }
    names
}

/// The field of a command's documentation.
fn field(docs: &[Vec<u8>], name: &str) -> Option<String> {
    docs.chunks(2).find(|pair| text(&pair[0]) == name).map(|pair| text(&pair[1]))
}

/// A summary of redis 7.0 in the words of later versions: "Get the value" is "Gets the value".
fn third_person(summary: &str) -> String {
    let summary = summary.trim().trim_end_matches('.');
    let (verb, rest) = summary.split_once(' ').unwrap_or((summary, ""));
    match verb {
        "A" | "Alters" | "Disables" | "Enables" | "Outputs" | "Provides" | "Returns" | "Swaps" => {
            summary.to_owned()
        }
        "Incrementally" => format!("{verb} {}", third_person(rest)),
        "Copy" => format!("Copies {rest}"),
        _ if verb.ends_with("ch") || verb == "Echo" => format!("{verb}es {rest}"),
        _ => format!("{verb}s {rest}"),
    }
}

/// Everything that is described otherwise than by redis, one line each.
fn differences(redis: &mut Connection, ours: &mut Connection) -> Vec<String> {
    const FIELDS: [&str; 9] =
        ["name", "arity", "flags", "first key", "last key", "step", "categories", "tips", "keys"];
    let known = names(redis);
    let mut found = Vec::new();
    for name in names(ours).into_iter().filter(|name| known.contains(name)) {
        let mut ask = |subcommand: &str| {
            let asked = ["COMMAND", subcommand, &name];
            (parts(&redis.ask(&asked).unwrap()), parts(&ours.ask(&asked).unwrap()))
        };
        let (one, other) = ask("INFO");
        let (one, other) = (parts(&one[0]), parts(&other[0]));
        for (at, field) in FIELDS.into_iter().enumerate() {
            let is_set = ["flags", "categories", "tips"].contains(&field);
            let (one, other) = (&one[at], &other[at]);
            if one != other && !(is_set && sorted(one) == sorted(other)) {
                found.push(format!("{name}, {field}: {} and {}", shown(one), shown(other)));
            }
        }
        let (one, other) = ask("DOCS");
        let (one, other) = (parts(&one[1]), parts(&other[1]));
        for name_of in ["since", "group", "deprecated_since", "replaced_by"] {
            let (one, other) = (field(&one, name_of), field(&other, name_of));
            if one != other {
                found.push(format!("{name}, {name_of}: {one:?} and {other:?}"));
            }
        }
        let summary = |docs: &[Vec<u8>]| field(docs, "summary").unwrap_or_default();
        let is_same = third_person(&summary(&one)) == summary(&other);
        if is_same == OWN_SUMMARIES.contains(&name.as_str()) {
            found.push(format!("{name}: {:?} and {:?}", summary(&one), summary(&other)));
        }
        let is_same = field(&one, "complexity") == field(&other, "complexity");
        if is_same == OWN_COSTS.contains(&name.as_str()) {
            let cost = |docs: &[Vec<u8>]| field(docs, "complexity").unwrap_or_default();
            found.push(format!("{name}: {:?} and {:?}", cost(&one), cost(&other)));
        }
    }
    for call in CALLS {
        for subcommand in ["GETKEYS", "GETKEYSANDFLAGS"] {
            let words = ["COMMAND", subcommand].into_iter().chain(call.split(' '));
            found.extend(compared(redis, ours, &words.map(str::to_owned).collect::<Vec<_>>()));
        }
    }
    let many = (0..1000).map(|number| format!("key:{number}"));
    let many = ["COMMAND", "GETKEYS", "MGET"].into_iter().map(str::to_owned).chain(many);
    found.extend(compared(redis, ours, &many.collect::<Vec<_>>()));
    found
}

fn compared(redis: &mut Connection, ours: &mut Connection, call: &[String]) -> Option<String> {
    let (one, other) = (redis.ask(call).unwrap(), ours.ask(call).unwrap());
    (one != other).then(|| format!("{}: {} and {}", call.join(" "), shown(&one), shown(&other)))
}

#[test]
fn commands_are_described_as_redis_describes_them() {
    let servers = match subject("kvs").and_then(|ours| Servers::start(&ours, &[])) {
        Ok(servers) => servers,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    if std::env::var("SUBJECT").is_ok_and(|subject| subject == "redis") {
        return println!("SKIPPED: redis says its own words");
    }
    let mut redis = Connection::open(servers.redis.addr()).unwrap();
    let mut ours = Connection::open(servers.ours.addr()).unwrap();
    let found = differences(&mut redis, &mut ours);
    assert!(found.is_empty(), "{}", found.join("\n"));
}
