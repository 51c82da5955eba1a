//! The connection itself: HELLO, AUTH, PING, ECHO, SELECT, RESET, QUIT.

use aryavarth_protocol::Reply;

use crate::commands::kit::REDIS_VERSION;
use crate::commands::kit::args::Args;
use crate::commands::kit::context::{AfterReply, Context};
use crate::commands::kit::failure::{Failure, SYNTAX, refused, refused_quoting, wrong_arity};
use crate::commands::kit::spec::{Outcome, Run, Spec, Step};

const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the \
                           default user. Are you sure your configuration is correct?";
const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_PROTOCOL: &str = "NOPROTO unsupported protocol version";
const HELLO_FIRST: &str = "NOAUTH HELLO must be called with the client already authenticated, \
                           otherwise the HELLO AUTH <user> <pass> option can be used to \
                           authenticate the client and select the RESP protocol version at the \
                           same time";
const NOT_A_VERSION: &str = "ERR Protocol version is not an integer or out of range";
pub(super) const BAD_NAME: &str =
    "ERR Client names cannot contain spaces, newlines or special characters.";

/// The longest name of a connection, a library or its version, in bytes.
const NAME_BYTES_MAX: usize = 1024;

pub(crate) const SPECS: &[Spec] = &[
    Spec::new("auth", -2, "[username] password", Run::Context(auth))
        .flags("noscript loading stale fast no_auth allow_busy @connection")
        .says("Authenticates to the server"),
    Spec::new("echo", 2, "message", Run::Context(echo))
        .flags("loading stale fast @connection")
        .says("Echoes the given string"),
    Spec::new(
        "hello",
        -1,
        "[protover [AUTH username password] [SETNAME clientname]]",
        Run::Context(hello),
    )
    .flags("noscript loading stale fast no_auth allow_busy @connection")
    .since("6.0.0")
    .says("Chooses the version of the protocol and describes the server"),
    Spec::new("ping", -1, "[message]", Run::Context(ping))
        .flags("fast @connection SUBSCRIBED")
        .tips(&["request_policy:all_shards", "response_policy:all_succeeded"])
        .says("Pings the server"),
    Spec::new("quit", -1, "", Run::Context(quit))
        .flags("noscript loading stale fast no_auth allow_busy @connection UNQUEUED SUBSCRIBED")
        .says("Closes the connection"),
    Spec::new("reset", 1, "", Run::Transaction(Step::Reset))
        .flags("noscript loading stale fast no_auth allow_busy @connection UNQUEUED SUBSCRIBED")
        .since("6.2.0")
        .says("Resets the connection"),
    Spec::new("select", 2, "index", Run::Context(select))
        .flags("loading stale fast @connection")
        .says("Changes the selected database for the current connection"),
];

fn auth(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let (user, password) = match args.len() {
        2 if !context.server.settings().has_password() => return refused(NO_PASSWORD),
        2 => (&b"default"[..], args.get(1)),
        3 => (args.get(1), args.get(2)),
        _ => return refused(SYNTAX),
    };
    authenticate(context, user, password)?;
    Ok(Reply::OK)
}

fn authenticate(context: &mut Context<'_>, user: &[u8], password: &[u8]) -> Result<(), Failure> {
    let settings = context.server.settings();
    // Without a password, the one user there is needs none.
    let is_right = !settings.has_password() || settings.is_password(password);
    if user != b"default" || !is_right {
        settings.incidents.wrong_passwords.note(context.entry.peer());
        return refused(WRONG_PASSWORD);
    }
    context.settings.authenticated = true;
    Ok(())
}

fn hello(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let mut version = context.settings.version;
    if args.len() > 1 {
        version = match args.integer_or(1, NOT_A_VERSION)? {
            2 => 2,
            3 => 3,
            _ => return refused(NO_PROTOCOL),
        };
    }
    let (mut login, mut name) = (None, None);
    let mut at = 2;
    while at < args.len() {
        let left = args.len() - at - 1;
        if args.is(at, "AUTH") && left >= 2 {
            login = Some((args.get(at + 1), args.get(at + 2)));
            at += 3;
        } else if args.is(at, "SETNAME") && left >= 1 {
            name = Some(args.get(at + 1));
            at += 2;
        } else {
            return refused_quoting("ERR Syntax error in HELLO option '", args.get(at), "'");
        }
    }
    if let Some((user, password)) = login {
        authenticate(context, user, password)?;
    }
    if !context.settings.authenticated {
        return refused(HELLO_FIRST);
    }
    if let Some(name) = name {
        set_name(context, name)?;
    }
    context.settings.version = version;
    let id = i64::try_from(context.entry.id()).unwrap_or(i64::MAX);
    let text = |text: &str| Reply::bulk(text);
    Ok(Reply::Map(vec![
        (text("server"), text("redis")),
        (text("version"), text(REDIS_VERSION)),
        (text("proto"), Reply::Integer(version.into())),
        (text("id"), Reply::Integer(id)),
        (text("mode"), text("standalone")),
        (text("role"), text("master")),
        (text("modules"), Reply::Array(Vec::new())),
    ]))
}

/// Names the connection.
pub(super) fn set_name(context: &mut Context<'_>, name: &[u8]) -> Result<(), Failure> {
    if !is_word(name) {
        return refused(BAD_NAME);
    }
    check_name_length(name)?;
    context.entry.names().name = name.to_vec();
    Ok(())
}

/// Refuses a name that is kept for as long as the connection, and is too long for that.
pub(super) fn check_name_length(name: &[u8]) -> Result<(), Failure> {
    if name.len() > NAME_BYTES_MAX {
        return refused(format!("ERR names are at most {NAME_BYTES_MAX} bytes long"));
    }
    Ok(())
}

/// Whether something can stand in a line of `CLIENT LIST`.
pub(super) fn is_word(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_graphic)
}

fn ping(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    if context.settings.only_subscribes() && args.len() <= 2 {
        return Ok(Reply::Array(vec![Reply::bulk("pong"), Reply::bulk(args.get(1))]));
    }
    match args.len() {
        1 => Ok(Reply::Simple("PONG".into())),
        2 => Ok(Reply::bulk(args.get(1))),
        _ => refused(wrong_arity("ping")),
    }
}

fn echo(_: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    Ok(Reply::bulk(args.get(1)))
}

fn quit(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    context.settings.then = AfterReply::Close;
    Ok(Reply::OK)
}

fn select(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    context.settings.space = args.database(1)?;
    Ok(Reply::OK)
}
