//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.
//!
//! A transaction is collected first and run by EXEC, as one closure of the engine: no other
//! client writes meanwhile, all of its effects are one frame of the log, and a crash keeps all or none.
//!
//! Invariant: the closure may run several times, so only commands about keys run in it. Commands
//! about the connection or the server run afterwards, in their order, each once.

use std::cmp::Reverse;
use std::time::Instant;

use aryavarth::{Durability, KvsEngine, KvsError, Position, Transaction};
use aryavarth_protocol::{Command, Reply};

use super::script::{self, PreparedScript, ScriptEffects};
use super::{count, reply_of, run_inside};
use crate::commands::kit::args::Args;
use crate::commands::kit::call::CommandCall;
use crate::commands::kit::context::{ClientState, Context, Queue, ServerContext, Watched};
use crate::commands::kit::failure::{
    Failure, REPLY, SYNTAX, error_reply, no_room, of_closure, refused,
};
use crate::commands::kit::spec::{Run, Spec, Step};
use crate::commands::registry::registry;
use crate::limits::Limits;
use crate::script::Running;

/// Keeps a command for EXEC.
pub(super) fn collect(
    client: &mut ClientState,
    server: &dyn ServerContext,
    call: &CommandCall,
) -> Reply {
    let Some(queue) = &mut client.queue else { return Reply::OK };
    let limit = server.settings().request_bytes_max().min(server.limits().transaction_bytes_max);
    queue.bytes += call.command.bytes() + size_of::<CommandCall>();
    if queue.bytes > limit {
        queue.is_broken = true;
        return Reply::error(format!(
            "ERR the transaction is too long: the limit is {limit} bytes"
        ));
    }
    queue.commands.push(call.detached());
    Reply::Simple("QUEUED".into())
}

/// Takes a step of a transaction.
pub(super) fn step<E: KvsEngine>(
    step: Step,
    engine: &E,
    server: &dyn ServerContext,
    client: &mut ClientState,
    args: &Args<'_>,
) -> Result<(Reply, Position), Failure> {
    let done = Ok((Reply::OK, Position::ZERO));
    match step {
        Step::Multi if client.queue.is_some() => refused("ERR MULTI calls can not be nested"),
        Step::Multi => {
            client.queue = Some(Queue::default());
            done
        }
        Step::Discard => {
            if client.queue.take().is_none() {
                return refused("ERR DISCARD without MULTI");
            }
            client.watched = Watched::default();
            done
        }
        Step::Unwatch => {
            client.watched = Watched::default();
            done
        }
        Step::Reset => {
            client.reset(server);
            Ok((Reply::Simple("RESET".into()), Position::ZERO))
        }
        // The transaction goes on, as in Redis.
        Step::Watch if client.queue.is_some() => refused("ERR WATCH inside MULTI is not allowed"),
        Step::Watch => {
            watch(engine, server, client, args)?;
            done
        }
        Step::Exec => exec(engine, server, client),
    }
}

fn watch<E: KvsEngine>(
    engine: &E,
    server: &dyn ServerContext,
    client: &mut ClientState,
    args: &Args<'_>,
) -> Result<(), Failure> {
    let Limits { watched_max, watched_bytes_max, .. } = *server.limits();
    let Watched { watches, bytes } = &mut client.watched;
    for key in args.from(1) {
        let place = (engine.space(), key.to_vec());
        if watches.contains_key(&place) {
            continue;
        }
        if watches.len() >= watched_max || *bytes + key.len() > watched_bytes_max {
            return refused(format!(
                "ERR a client may watch {watched_max} keys of {watched_bytes_max} bytes in all"
            ));
        }
        watches.insert(place, engine.watch(key)?);
        *bytes += key.len();
    }
    Ok(())
}

fn exec<E: KvsEngine>(
    engine: &E,
    server: &dyn ServerContext,
    client: &mut ClientState,
) -> Result<(Reply, Position), Failure> {
    let Some(queue) = client.queue.take() else {
        return refused("ERR EXEC without MULTI");
    };
    let watched = std::mem::take(&mut client.watched);
    if queue.is_broken {
        return refused("EXECABORT Transaction discarded because of previous errors.");
    }
    let calls = resolve(&queue.commands, server, client.settings.space);
    let own = calls.iter().filter(|call| call.space == engine.space());
    let keys: Vec<&[u8]> = own.flat_map(Resolved::keys).collect();
    let level = client.settings.level();
    let mut scripts = Scripts::begin(server, &calls)?;
    let room = &mut client.room;
    let done = engine.transact(&keys, |transaction| {
        if watched.watches.values().any(|watch| transaction.is_touched(watch)) {
            return Ok(None);
        }
        let (replies, bytes) = run_on_keys(transaction, server, &calls, &mut scripts)?;
        if room.fits(bytes) { Ok(Some(replies)) } else { Err(no_room(bytes)) }
    });
    let done = done.map_err(|error| scripts.effects.failure(of_closure(error)));
    let (done, mut position) = match done {
        Ok(done) => done,
        // The transaction runs when there is room for its replies.
        Err(Failure::NoRoom) => {
            (client.queue, client.watched) = (Some(queue), watched);
            return Err(Failure::NoRoom);
        }
        Err(failed) => return Err(failed),
    };
    let Some(on_keys) = done else {
        return Ok((Reply::NullArray, position));
    };
    scripts.effects.happen(server, client, position);
    let limit = server.limits().reply_bytes_max;
    let (mut replies, mut bytes) = (Vec::with_capacity(calls.len()), 0);
    for (call, done) in calls.iter().zip(on_keys) {
        let is_beside = done.is_none();
        let (reply, began, ended) = match done {
            Some(done) => done,
            None => run_beside(call, server, client, &mut position),
        };
        bytes += reply.text_bytes();
        // All has happened by now; only a reply can still be too large.
        let is_large = is_beside && bytes > limit && !replies.is_empty();
        let reply = if is_large { error_reply(&too_large(bytes, limit)) } else { reply };
        replies.push((reply, began, ended));
    }
    // The reply is that of the commands before a change of the level, too.
    if strength(level) > strength(client.settings.level()) {
        client.settings.durability_once = Some(level);
    }
    let mut all = Vec::with_capacity(replies.len());
    for (call, (reply, began, ended)) in calls.iter().zip(replies) {
        if let Some(spec) = call.spec {
            count(server, client, spec, (call.command, &reply, position), (began, ended));
        }
        if let Reply::Error(text) = &reply {
            server.clients().statistics.count_error(text);
        }
        all.push(reply);
    }
    Ok((Reply::Array(all), position))
}

/// A queued command with its row, and the database that it is about.
struct Resolved<'a> {
    command: &'a Command,
    args: Args<'a>,
    spec: Option<&'static Spec>,
    space: u32,
    script: Option<Result<PreparedScript<'a>, Failure>>,
}

/// The scripts of a transaction: their place among those that run, if there are any, and the effects
/// that wait until it is written.
struct Scripts<'a> {
    running: Option<Running<'a>>,
    effects: ScriptEffects,
}

impl<'a> Scripts<'a> {
    fn begin(server: &'a dyn ServerContext, calls: &[Resolved<'_>]) -> Result<Self, Failure> {
        let has_scripts = calls.iter().any(|call| call.script.is_some());
        let running = has_scripts.then(|| server.scripts().begin()).transpose().or_else(refused)?;
        Ok(Scripts { running, effects: ScriptEffects::default() })
    }

    /// Runs the script of a call; `None` if it is none.
    fn run(
        &mut self,
        transaction: &mut Transaction<'_>,
        server: &dyn ServerContext,
        call: &Resolved<'_>,
    ) -> Option<Result<Reply, KvsError>> {
        let running = self.running.as_ref()?;
        Some(match call.script.as_ref()? {
            Ok(script) => script::run(transaction, server, script, running, &mut self.effects),
            Err(Failure::Refused(text)) => Ok(Reply::Error(text.clone())),
            Err(_) => Ok(Reply::error(SYNTAX)),
        })
    }
}

impl<'a> Resolved<'a> {
    /// The keys whose values the command needs.
    fn keys(&self) -> Vec<&'a [u8]> {
        self.spec.map_or_else(Vec::new, |spec| spec.keys_read(&self.args))
    }

    /// Whether the command is about the connection or the server, and no key.
    fn is_beside(&self) -> bool {
        self.spec.is_some_and(|spec| matches!(spec.run, Run::Context(_)))
    }
}

/// The databases of the commands of a transaction that begins in the database `space`.
fn resolve<'a>(
    calls: &'a [CommandCall],
    server: &dyn ServerContext,
    mut space: u32,
) -> Vec<Resolved<'a>> {
    let resolved = calls.iter().map(|CommandCall { command, spec }| {
        let args = Args::new(command).limited(server.limits(), server.settings());
        if spec.is_some_and(|spec| spec.name == "select") {
            space = args.database(1).unwrap_or(space);
        }
        let script = spec.and_then(|spec| match spec.run {
            Run::Script(call) => Some(script::prepare(call, server, &args)),
            _ => None,
        });
        Resolved { command, args, spec: *spec, space, script }
    });
    resolved.collect()
}

/// A command's reply, when it began and when it ended.
type Timed = (Reply, Instant, Instant);

/// Runs the commands that are about keys, inside the closure; `None` for the others, and the bytes
/// of the replies. The closure may run again, so nothing here has an effect beside the
/// transaction's.
fn run_on_keys(
    transaction: &mut Transaction<'_>,
    server: &dyn ServerContext,
    calls: &[Resolved<'_>],
    scripts: &mut Scripts<'_>,
) -> Result<(Vec<Option<Timed>>, usize), KvsError> {
    let mut is_short = false;
    scripts.effects.reset();
    for call in calls {
        transaction.select(call.space);
        is_short |= transaction.fetch(call.keys()).is_err();
    }
    if is_short {
        return Err(KvsError::WouldBlock);
    }
    let mut replies = Vec::with_capacity(calls.len());
    let (mut bytes, limit) = (0, server.limits().reply_bytes_max);
    for call in calls {
        if call.is_beside() {
            replies.push(None);
            continue;
        }
        transaction.select(call.space);
        let began = Instant::now();
        let ran = scripts.run(transaction, server, call);
        let ran = ran.unwrap_or_else(|| run_inside(transaction, call.spec, &call.args));
        let reply = match ran {
            // The other commands name their missing keys in the same run.
            Err(KvsError::WouldBlock) => {
                is_short = true;
                continue;
            }
            reply => reply?,
        };
        bytes += reply.text_bytes();
        if bytes > limit && !replies.is_empty() {
            return Err(too_large(bytes, limit));
        }
        replies.push(Some((reply, began, Instant::now())));
    }
    if is_short { Err(KvsError::WouldBlock) } else { Ok((replies, bytes)) }
}

/// Runs a command about the connection or the server, once the transaction is written: so its
/// effects happen once, and only if the others' do.
fn run_beside(
    call: &Resolved<'_>,
    server: &dyn ServerContext,
    client: &mut ClientState,
    position: &mut Position,
) -> Timed {
    let began = Instant::now();
    let ClientState { settings, entry, .. } = client;
    // A message that is sent here announces the transaction.
    settings.seen = settings.seen.max(*position);
    let mut context = Context::new(settings, entry, server, registry());
    context.in_transaction = true;
    let reply = match call.spec.map(|spec| &spec.run) {
        Some(Run::Context(run)) => reply_of(run(&mut context, &call.args)),
        _ => Ok(Reply::error(SYNTAX)),
    };
    *position = (*position).max(context.position);
    (reply.unwrap_or_else(|error| error_reply(&error)), began, Instant::now())
}

fn too_large(bytes: usize, limit: usize) -> KvsError {
    KvsError::TooLarge { what: REPLY, size: bytes as u64, limit: limit as u64 }
}

/// How much a reply waits for, to be compared.
fn strength(level: Durability) -> (u8, Reverse<u32>) {
    let (rank, ms) = match level {
        Durability::Always => (2, 0),
        Durability::Interval(ms) => (1, ms),
        Durability::Os => (0, 0),
    };
    (rank, Reverse(ms))
}
