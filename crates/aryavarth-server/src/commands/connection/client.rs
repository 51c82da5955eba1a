//! CLIENT: a connection's figures and settings, and its power over others.

use std::time::Instant;

use aryavarth::Durability;
use aryavarth_protocol::Reply;

use crate::clients::{ClientHandle, Pause};
use crate::commands::connection::handshake::{check_name_length, is_word, set_name};
use crate::commands::kit::args::{Args, parse_integer, timeout};
use crate::commands::kit::context::{AfterReply, Context, PauseChange, Replies};
use crate::commands::kit::failure::{Failure, SYNTAX, refused, refused_quoting};
use crate::commands::kit::help::HELP;
use crate::commands::kit::spec::{Outcome, Run, Spec};

const CACHING_OFF: &str = "ERR CLIENT CACHING can be called only when the client is in tracking \
                           mode with OPTIN or OPTOUT mode enabled";
const NO_TRACKING: &str = "ERR CLIENT TRACKING is not supported: nothing was changed, and no \
                           invalidation will be sent; read without a cache of the client's own";
const BAD_DURABILITY: &str = "ERR a durability is ALWAYS, INTERVAL and 1 to 1000 milliseconds, or \
                              OS, and after it nothing or ONCE";

pub(crate) const SPECS: &[Spec] = &[Spec::new("client", -2, "subcommand", Run::Container(SUBS))
    .since("2.4.0")
    .cost("Depends on subcommand.")
    .says("A container for client connection commands")];

const SUBS: &[Spec] = &[
    Spec::new("caching", 3, "YES | NO", Run::Context(caching))
        .flags("noscript loading stale @connection")
        .since("6.0.0")
        .says("Would choose the keys to track, if this server tracked any"),
    Spec::new(
        "durability",
        -2,
        "[ALWAYS | INTERVAL milliseconds | OS] [ONCE]",
        Run::Context(durability),
    )
    .flags("noscript loading stale @connection")
    .since("0.2.0")
    .says("Shows or sets the durability level of this connection's replies, or of the next one"),
    Spec::new("getname", 2, "", Run::Context(get_name))
        .flags("noscript loading stale @connection")
        .since("2.6.9")
        .says("Gets the current connection name"),
    Spec::new("getredir", 2, "", Run::Context(|_, _| Ok(Reply::Integer(-1))))
        .flags("noscript loading stale @connection")
        .since("6.0.0")
        .says("Returns -1, since no keys are tracked"),
    HELP.flags("@connection"),
    Spec::new("id", 2, "", Run::Context(id))
        .flags("noscript loading stale @connection")
        .since("5.0.0")
        .says("Returns the client ID for the current connection"),
    Spec::new("info", 2, "", Run::Context(info))
        .flags("noscript loading stale @connection")
        .tips(&["nondeterministic_output"])
        .since("6.2.0")
        .says("Returns information about the current client connection"),
    Spec::new(
        "kill",
        -3,
        "ip:port | [ID client-id] [TYPE NORMAL | MASTER | REPLICA | PUBSUB] [USER username] \
         [ADDR ip:port] [LADDR ip:port] [SKIPME YES | NO] [MAXAGE seconds]",
        Run::Context(kill),
    )
    .flags("admin noscript loading stale @connection")
    .since("2.4.0")
    .cost("O(N) where N is the number of client connections")
    .says("Kills the connection of a client"),
    Spec::new(
        "list",
        -2,
        "[TYPE NORMAL | MASTER | REPLICA | PUBSUB] [ID client-id [client-id ...]]",
        Run::Context(list),
    )
    .flags("admin noscript loading stale @connection")
    .tips(&["nondeterministic_output"])
    .since("2.4.0")
    .cost("O(N) where N is the number of client connections")
    .says("Gets the list of client connections"),
    Spec::new("no-evict", 3, "ON | OFF", Run::Context(no_evict))
        .flags("admin noscript loading stale @connection")
        .since("7.0.0")
        .says("Notes whether the connection may be closed for want of memory, which none is"),
    Spec::new("no-touch", 3, "ON | OFF", Run::Context(no_touch))
        .flags("noscript loading stale @connection")
        .since("7.2.0")
        .says("Notes whether the connection's reads count as use of a key, which none do"),
    Spec::new("pause", -3, "timeout [WRITE | ALL]", Run::Context(pause))
        .flags("admin noscript loading stale @connection")
        .since("2.9.50")
        .says("Stops processing commands from clients for some time"),
    Spec::new("reply", 3, "ON | OFF | SKIP", Run::Context(reply))
        .flags("noscript loading stale @connection")
        .since("3.2.0")
        .says("Instructs the server whether to reply to commands"),
    Spec::new("setinfo", 4, "LIB-NAME libname | LIB-VER libver", Run::Context(set_info))
        .flags("noscript loading stale @connection")
        .since("7.2.0")
        .says("Names the library that the client uses"),
    Spec::new("setname", 3, "connection-name", Run::Context(client_set_name))
        .flags("noscript loading stale @connection")
        .since("2.6.9")
        .says("Sets the current connection name"),
    Spec::new("tracking", -3, "ON | OFF", Run::Context(tracking))
        .flags("noscript loading stale @connection")
        .since("6.0.0")
        .says("Would let the server tell of changed keys; only OFF is possible"),
    Spec::new("trackinginfo", 2, "", Run::Context(tracking_info))
        .flags("noscript loading stale @connection")
        .since("6.2.0")
        .says("Says that no keys are tracked"),
    Spec::new("unblock", -3, "client-id [TIMEOUT | ERROR]", Run::Context(unblock))
        .flags("admin noscript loading stale @connection")
        .since("5.0.0")
        .says("Returns 0, since no command waits for a key"),
    Spec::new("unpause", 2, "", Run::Context(unpause))
        .flags("admin noscript loading stale @connection")
        .since("6.2.0")
        .says("Resumes processing of clients that were paused"),
];

fn integer(number: u64) -> Reply {
    Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

fn id(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    Ok(integer(context.entry.id()))
}

fn info(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    Ok(Reply::Verbatim("txt", context.entry.line("client|info", true)))
}

/// The kinds of connections that there can be here, and those that there cannot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ClientKind {
    Normal,
    Subscriber,
    Absent,
}

fn client_kind(name: &[u8]) -> Result<ClientKind, Failure> {
    match name.to_ascii_lowercase().as_slice() {
        b"normal" => Ok(ClientKind::Normal),
        b"pubsub" => Ok(ClientKind::Subscriber),
        b"master" | b"replica" | b"slave" => Ok(ClientKind::Absent),
        _ => refused_quoting("ERR Unknown client type '", name, "'"),
    }
}

/// Whether a client is of a kind, if one is asked for.
fn is_of(client: &ClientHandle, kind: Option<ClientKind>) -> bool {
    let subscribes = client.subscriptions().any();
    let own = if subscribes { ClientKind::Subscriber } else { ClientKind::Normal };
    kind.is_none_or(|kind| kind == own)
}

fn list(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let mut ids = Vec::new();
    let mut kind = None;
    match args.len() {
        2 => {}
        4 if args.is(2, "TYPE") => kind = Some(client_kind(args.get(3))?),
        4.. if args.is(2, "ID") => {
            for id in args.from(3) {
                match parse_integer(id).map(u64::try_from) {
                    Some(Ok(id)) => ids.push(id),
                    _ => return refused("ERR Invalid client ID"),
                }
            }
        }
        _ => return refused(SYNTAX),
    }
    let mut lines = Vec::new();
    for client in context.server.clients().list() {
        if is_of(&client, kind) && (ids.is_empty() || ids.contains(&client.id())) {
            let is_own = client.id() == context.entry.id();
            let last = client.last_command().and_then(|number| context.registry.rows().get(number));
            let last = last.map_or("NULL", |row| row.name.as_str());
            lines.extend(client.line(if is_own { "client|list" } else { last }, is_own));
        }
    }
    Ok(Reply::Verbatim("txt", lines))
}

/// The filter of `CLIENT KILL`.
#[derive(Default)]
struct Victims<'a> {
    id: Option<u64>,
    addr: Option<&'a [u8]>,
    local_addr: Option<&'a [u8]>,
    /// Each kind that was named.
    kinds: Vec<ClientKind>,
    /// At least so many seconds old.
    age_min: u64,
    skips_me: bool,
}

impl Victims<'_> {
    fn include(&self, client: &ClientHandle, own: &ClientHandle) -> bool {
        let is = |wanted: Option<&[u8]>, addr: std::net::SocketAddr| {
            wanted.is_none_or(|wanted| wanted == addr.to_string().as_bytes())
        };
        self.kinds.iter().all(|kind| is_of(client, Some(*kind)))
            && client.age().as_secs() >= self.age_min
            && self.id.is_none_or(|id| id == client.id())
            && is(self.addr, client.peer())
            && is(self.local_addr, client.local())
            && !(self.skips_me && client.id() == own.id())
    }
}

fn kill(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let is_old_form = args.len() == 3;
    let victims = if is_old_form {
        Victims { addr: Some(args.get(2)), ..Victims::default() }
    } else {
        victims(args)?
    };
    let mut killed = 0;
    for client in context.server.clients().list() {
        if !victims.include(&client, context.entry) {
            continue;
        }
        killed += 1;
        if client.id() == context.entry.id() {
            // It still hears the reply.
            context.settings.then = AfterReply::Close;
        } else {
            client.kill();
        }
    }
    match killed {
        0 if is_old_form => refused("ERR No such client"),
        _ if is_old_form => Ok(Reply::OK),
        _ => Ok(Reply::Integer(killed)),
    }
}

fn victims<'a>(args: &Args<'a>) -> Result<Victims<'a>, Failure> {
    let mut victims = Victims { skips_me: true, ..Victims::default() };
    for at in (2..args.len()).step_by(2) {
        let value = args.get(at + 1);
        if at + 1 >= args.len() {
            return refused(SYNTAX);
        } else if args.is(at, "ID") {
            match parse_integer(value) {
                Some(id @ 1..) => victims.id = Some(id.unsigned_abs()),
                _ => return refused("ERR client-id should be greater than 0"),
            }
        } else if args.is(at, "MAXAGE") {
            match parse_integer(value) {
                Some(age @ 1..) => victims.age_min = age.unsigned_abs(),
                Some(_) => return refused("ERR maxage should be greater than 0"),
                None => return refused("ERR maxage is not an integer or out of range"),
            }
        } else if args.is(at, "TYPE") {
            victims.kinds.push(client_kind(value)?);
        } else if args.is(at, "ADDR") {
            victims.addr = Some(value);
        } else if args.is(at, "LADDR") {
            victims.local_addr = Some(value);
        } else if args.is(at, "USER") {
            if value != b"default" {
                return refused_quoting("ERR No such user '", value, "'");
            }
        } else if args.is(at, "SKIPME") && args.is(at + 1, "yes") {
            victims.skips_me = true;
        } else if args.is(at, "SKIPME") && args.is(at + 1, "no") {
            victims.skips_me = false;
        } else {
            return refused(SYNTAX);
        }
    }
    Ok(victims)
}

fn get_name(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    let name = context.entry.names().name.clone();
    Ok(Reply::bulk_or_null((!name.is_empty()).then_some(name)))
}

fn client_set_name(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    set_name(context, args.get(2))?;
    Ok(Reply::OK)
}

fn set_info(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let is_name = args.is(2, "LIB-NAME");
    if !is_name && !args.is(2, "LIB-VER") {
        return refused_quoting("ERR Unrecognized option '", args.get(2), "'");
    }
    let value = args.get(3);
    if !is_word(value) {
        let what = if is_name { "lib-name" } else { "lib-ver" };
        return refused(format!(
            "ERR {what} cannot contain spaces, newlines or special characters."
        ));
    }
    check_name_length(value)?;
    let mut names = context.entry.names();
    let kept = if is_name { &mut names.library } else { &mut names.library_version };
    *kept = value.to_vec();
    Ok(Reply::OK)
}

fn reply(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let replies = &mut context.settings.replies;
    if args.is(2, "ON") {
        *replies = Replies::On;
    } else if args.is(2, "OFF") {
        *replies = Replies::Off;
    } else if !args.is(2, "SKIP") {
        return refused(SYNTAX);
    } else if *replies != Replies::Off {
        *replies = Replies::SkipNext;
    }
    Ok(Reply::OK)
}

fn on_or_off(args: &Args<'_>) -> Result<bool, Failure> {
    if args.is(2, "ON") {
        Ok(true)
    } else if args.is(2, "OFF") {
        Ok(false)
    } else {
        refused(SYNTAX)
    }
}

fn no_evict(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    context.entry.set_keeps(on_or_off(args)?);
    Ok(Reply::OK)
}

fn no_touch(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    context.entry.set_touches_not(on_or_off(args)?);
    Ok(Reply::OK)
}

fn pause(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let only_writes = match args.len() {
        3 => false,
        4 if args.is(3, "WRITE") => true,
        4 if args.is(3, "ALL") => false,
        4 => return refused("ERR CLIENT PAUSE mode must be WRITE or ALL"),
        _ => return refused(SYNTAX),
    };
    let until = Instant::now() + timeout(args, 2)?;
    context.settings.pause = Some(PauseChange::Begins(Pause { until, only_writes }));
    Ok(Reply::OK)
}

fn unpause(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    context.settings.pause = Some(PauseChange::Ends);
    Ok(Reply::OK)
}

fn unblock(_: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let is_known = args.len() == 3 || args.is(3, "TIMEOUT") || args.is(3, "ERROR");
    if args.len() > 4 || !is_known {
        return refused("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
    }
    args.integer(2)?;
    Ok(Reply::Integer(0))
}

fn caching(_: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    refused(CACHING_OFF)
}

fn tracking(_: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    if args.is(2, "ON") {
        return refused(NO_TRACKING);
    }
    on_or_off(args)?;
    Ok(Reply::OK)
}

fn tracking_info(_: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    Ok(Reply::Map(vec![
        (Reply::bulk("flags"), Reply::Set(vec![Reply::bulk("off")])),
        (Reply::bulk("redirect"), Reply::Integer(-1)),
        (Reply::bulk("prefixes"), Reply::Array(Vec::new())),
    ]))
}

fn durability(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    if args.len() == 2 {
        return Ok(Reply::bulk(context.settings.durability.to_string()));
    }
    let (level, rest) = if args.is(2, "ALWAYS") {
        (Durability::Always, 3)
    } else if args.is(2, "OS") {
        (Durability::Os, 3)
    } else if args.is(2, "INTERVAL") {
        match parse_integer(args.get(3)).map(u32::try_from) {
            Some(Ok(ms @ 1..=1000)) => (Durability::Interval(ms), 4),
            _ => return refused(BAD_DURABILITY),
        }
    } else {
        return refused(BAD_DURABILITY);
    };
    match args.len() - rest {
        0 => context.settings.durability = level,
        1 if args.is(rest, "ONCE") => context.settings.durability_next = Some(level),
        _ => return refused(BAD_DURABILITY),
    }
    Ok(Reply::OK)
}
