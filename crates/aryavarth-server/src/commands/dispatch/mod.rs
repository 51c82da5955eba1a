//! From a call to its answer: finds the row, admits the call, runs it, and says how the connection
//! goes on.
//!
//! Invariants:
//! - A command is counted once, when it has run, under its row's number.
//! - A refused command of a transaction breaks the transaction.

pub(crate) mod blind;
mod plan;
mod script;
mod transaction;

use std::time::Instant;

use aryavarth::{Durability, KEY_BYTES_MAX, KvsEngine, KvsError, Position, Wait};
use aryavarth_protocol::{Command, Reply};

use crate::budget::Allowance;
use crate::clients::CommandRun;
use crate::commands::kit::args::Args;
use crate::commands::kit::call::CommandCall;
use crate::commands::kit::context::{
    AfterReply, ClientState, Context, PauseChange, Replies, ServerContext, Settings, Watched,
    hold_sweep,
};
use crate::commands::kit::failure::{self, Failure, error_reply, refused};
use crate::commands::kit::read::Reader;
use crate::commands::kit::spec::{self, Flags, Run, Spec, Step};
use crate::commands::registry::registry;
pub(crate) use plan::{LONG_BYTES, Plan, bytes_shown, is_long, listens, plan};
use script::ScriptEffects;

/// The answer to one command, and the connection's next step.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The reply, if the client wants one.
    pub(crate) reply: Option<Reply>,
    /// The position that must be durable before that, and at which level.
    pub(crate) position: Position,
    pub(crate) level: Durability,
    /// The version of the protocol to say it in.
    pub(crate) version: u8,
    pub(crate) then: AfterReply,
    /// When the command ended.
    pub(crate) ended: Instant,
}

/// The reason for which a call has not run, and had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Later {
    /// It would wait for a disk, which only the pool may.
    Pool,
    /// Its reply has no room among those of all clients; the client's allowance knows its bytes.
    Room,
    /// A pause of the clients began behind the plan: the call is held.
    Pause,
}

/// The row of a command that has arrived.
pub(crate) fn resolve(command: Command) -> CommandCall {
    CommandCall::new(registry(), command)
}

/// Runs a command of a connection, from `began` on; `wait` says whether it may wait for a disk, and is
/// `No` only for calls that [`plan`] lets run inline.
///
/// # Errors
/// The reason for which nothing was done.
pub(crate) fn run<E: KvsEngine>(
    engine: &E,
    server: &dyn ServerContext,
    client: &mut ClientState,
    call: &CommandCall,
    (wait, began): (Wait, Instant),
) -> Result<Answer, Later> {
    let args = Args::new(&call.command).limited(server.limits(), server.settings());
    let row = call.spec.map_or_else(|| registry().find(&args), Ok);
    let (spec, outcome) = match row
        .and_then(|spec| admit(spec, server, client))
        .and_then(|spec| check_keys(spec, server, &args))
    {
        Err(failure) => (None, Err(reject(server, client, &args, failure))),
        Ok(spec) if plan::is_collected(spec, client) => {
            (None, Ok((transaction::collect(client, server, call), Position::ZERO)))
        }
        Ok(spec) => {
            let engine = Spaces { engine, space: client.settings.space, wait };
            let pass = if plan::writes(spec, client) {
                Some(server.clients().begin_write().ok_or(Later::Pause)?)
            } else {
                None
            };
            let outcome = engine.run(spec, server, client, &args);
            drop(pass);
            (Some(spec), outcome)
        }
    };
    let (reply, position) = match outcome {
        Ok(done) => done,
        Err(Failure::WouldBlock) => return Err(Later::Pool),
        Err(Failure::NoRoom) => return Err(Later::Room),
        // The written position may take the writer's lock.
        Err(Failure::Engine(_)) if wait == Wait::No => return Err(Later::Pool),
        Err(Failure::Refused(text)) => (Reply::Error(text), Position::ZERO),
        // A failed command may have seen any write.
        Err(Failure::Engine(error)) => (error_reply(&error), written(server)),
    };
    let answered = Answered { spec, command: &call.command, reply, position };
    let answer = finish(server, client, answered, (began, Instant::now()));
    Ok(answer)
}

/// Notes that a call is refused, which breaks its transaction; returns the error that the client
/// hears.
fn reject(
    server: &dyn ServerContext,
    client: &mut ClientState,
    args: &Args<'_>,
    failure: Failure,
) -> Failure {
    if let Some(queue) = &mut client.queue {
        queue.is_broken = true;
    }
    if let Some(spec) = registry().known(args) {
        server.clients().statistics.count_rejected(registry().number(spec));
    }
    if args.is(0, "EXEC") { abort(client, failure) } else { failure }
}

/// Begins or ends a pause of all clients.
fn change_pause(server: &dyn ServerContext, settings: &mut Settings, change: PauseChange) {
    match change {
        PauseChange::Begins(pause) => {
            server.clients().set_pause(pause);
            if settings.then == AfterReply::GoOn {
                settings.then = AfterReply::AfterWrites;
            }
        }
        PauseChange::Ends => server.clients().unpause(),
    }
    hold_sweep(server);
}

/// A command that has a reply.
struct Answered<'a> {
    /// Its row, if it has run.
    spec: Option<&'static Spec>,
    command: &'a Command,
    reply: Reply,
    position: Position,
}

/// Counts a command that has run from `began` to `ended`, and shows it to connections in MONITOR
/// mode.
fn count(
    server: &dyn ServerContext,
    client: &ClientState,
    spec: &'static Spec,
    answered: (&Command, &Reply, Position),
    (began, ended): (Instant, Instant),
) {
    let (command, reply, position) = answered;
    let run = CommandRun {
        number: registry().number(spec),
        is_shown: !spec.flags.has_any(Flags::UNSEEN) || matches!(spec.run, Run::Script(_)),
        is_logged: !spec.flags.has(Flags::SKIP_SLOWLOG),
        client: &client.entry,
        space: client.settings.space,
        command,
        position,
        began,
        ended,
        failed: reply.is_error(),
    };
    server.clients().ran(server.settings(), &run);
}

/// Everything that was written so far.
fn written(server: &dyn ServerContext) -> Position {
    Position(server.stats().written_position)
}

/// Whether the client wants the reply of the call that has run, as `CLIENT REPLY` says; a reply
/// that is skipped is skipped once.
pub(crate) fn wants_reply(client: &mut ClientState) -> bool {
    let replies = &mut client.settings.replies;
    let wants = *replies == Replies::On;
    *replies = match *replies {
        Replies::SkipNext => Replies::SkipThis,
        Replies::SkipThis => Replies::On,
        other => other,
    };
    wants
}

/// Counts a command and its error, makes the changes that it asked for, and gives its answer, by
/// the connection's settings.
fn finish(
    server: &dyn ServerContext,
    client: &mut ClientState,
    answered: Answered<'_>,
    times: (Instant, Instant),
) -> Answer {
    let Answered { spec, command, reply, position } = answered;
    if let Some(spec) = spec {
        count(server, client, spec, (command, &reply, position), times);
    }
    if let Reply::Error(text) = &reply {
        server.clients().statistics.count_error(text);
    }
    if let Some(change) = client.settings.pause.take() {
        change_pause(server, &mut client.settings, change);
    }
    client.entry.show(client.shown());
    let wants = wants_reply(client) || reply.is_push();
    let settings = &mut client.settings;
    settings.seen = settings.seen.max(position);
    let level = settings.level();
    // A transaction is one command, which ends with EXEC.
    if client.queue.is_none() {
        settings.durability_once = settings.durability_next.take();
    }
    let then = std::mem::replace(&mut settings.then, AfterReply::GoOn);
    let (reply, version) = (wants.then_some(reply), settings.version);
    Answer { reply, position, level, version, then, ended: times.1 }
}

/// An EXEC that cannot run ends its transaction, and says why in the words of Redis.
fn abort(client: &mut ClientState, failure: Failure) -> Failure {
    client.queue = None;
    client.watched = Watched::default();
    let Failure::Refused(text) = failure else { return failure };
    let why = text.strip_prefix(b"ERR ").unwrap_or(&text);
    let text = [b"EXECABORT Transaction discarded because of: ", why].concat();
    Failure::Refused(text.into())
}

/// Refuses a command that may not run now.
fn admit(
    spec: &'static Spec,
    server: &dyn ServerContext,
    client: &ClientState,
) -> Result<&'static Spec, Failure> {
    if !client.settings.authenticated && !spec.flags.has(Flags::NO_AUTH) {
        return refused("NOAUTH Authentication required.");
    }
    if spec.flags.has(Flags::DENYOOM) && server.settings().is_out_of_memory() {
        return refused("OOM command not allowed when used memory > 'maxmemory'.");
    }
    if client.settings.only_subscribes() && !spec.flags.has(Flags::SUBSCRIBED) {
        let name = registry().rows().get(registry().number(spec)).map_or("", |row| &row.name);
        return refused(format!(
            "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / \
             RESET are allowed in this context"
        ));
    }
    if client.queue.is_some() && spec.flags.has_any(Flags::NO_MULTI.and(Flags::LISTENS)) {
        return refused("ERR Command not allowed inside a transaction");
    }
    Ok(spec)
}

/// Refuses a command with a key that is longer than the server's limit, where that is shorter than
/// the engine's.
fn check_keys(
    spec: &'static Spec,
    server: &dyn ServerContext,
    args: &Args<'_>,
) -> Result<&'static Spec, Failure> {
    let limit = server.limits().session.key_bytes_max;
    if limit < KEY_BYTES_MAX {
        let lengths = spec.key_places(args).into_iter().map(|place| args.get(place).len());
        if let Some(size) = lengths.max().filter(|size| *size > limit) {
            return refused(format!(
                "ERR the key is too large: {size} bytes, the limit is {limit}"
            ));
        }
    }
    Ok(spec)
}

/// An engine, the space that a connection has selected, and whether a read may wait for a disk.
struct Spaces<'a, E> {
    engine: &'a E,
    space: u32,
    wait: Wait,
}

impl<E: KvsEngine> Spaces<'_, E> {
    /// Calls `work` with a handle for the selected space.
    fn selected<R>(&self, work: impl FnOnce(&E) -> R) -> R {
        if self.space == self.engine.space() {
            work(self.engine)
        } else {
            work(&self.engine.with_space(self.space))
        }
    }

    /// Lets a command look at the store as it is.
    fn read(
        &self,
        room: &mut Allowance,
        run: impl FnOnce(&mut Reader<'_, E>) -> spec::Outcome,
    ) -> Result<(Reply, Position), Failure> {
        self.selected(|engine| {
            let mut reader = Reader::new(engine, self.wait, room);
            let reply = match run(&mut reader) {
                // An error shows data, too.
                Err(Failure::Refused(text)) => Reply::Error(text),
                outcome => outcome?,
            };
            Ok((reply, reader.position))
        })
    }

    fn run(
        &self,
        spec: &'static Spec,
        server: &dyn ServerContext,
        client: &mut ClientState,
        args: &Args<'_>,
    ) -> Result<(Reply, Position), Failure> {
        match &spec.run {
            Run::Read(run) => {
                let shown = self.read(&mut client.room, |reader| run(reader, args))?;
                fitting(client, shown)
            }
            Run::Context(run) => {
                let ClientState { settings, entry, .. } = client;
                let mut context = Context::new(settings, entry, server, registry());
                let reply = run(&mut context, args)?;
                Ok((reply, context.position))
            }
            Run::Script(call) => self.run_script(*call, server, client, args),
            Run::Transaction(step) => {
                self.selected(|engine| transaction::step(*step, engine, server, client, args))
            }
            // A call that was to be refused, and whose limit has moved since it was planned.
            Run::Write(_) if self.wait == Wait::No => Err(Failure::WouldBlock),
            Run::Write(run) => self.selected(|engine| {
                let keys = spec.keys_read(args);
                let room = &mut client.room;
                let done = engine.transact(&keys, |transaction| {
                    let reply = reply_of(run(transaction, args))?;
                    let bytes = reply.text_bytes();
                    if room.fits(bytes) { Ok(reply) } else { Err(failure::no_room(bytes)) }
                });
                done.map_err(failure::of_closure)
            }),
            Run::Container(_) => refused(failure::SYNTAX),
        }
    }
}

impl<E: KvsEngine> Spaces<'_, E> {
    /// Runs a script as one closure.
    fn run_script(
        &self,
        call: spec::ScriptCall,
        server: &dyn ServerContext,
        client: &mut ClientState,
        args: &Args<'_>,
    ) -> Result<(Reply, Position), Failure> {
        if self.wait == Wait::No {
            return Err(Failure::WouldBlock);
        }
        let prepared = script::prepare(call, server, args)?;
        let running = server.scripts().begin().or_else(refused)?;
        let mut effects = ScriptEffects::default();
        let room = &mut client.room;
        let done = self.selected(|engine| {
            engine.transact(prepared.keys(), |transaction| {
                effects.reset();
                let reply = script::run(transaction, server, &prepared, &running, &mut effects)?;
                let bytes = reply.text_bytes();
                if room.fits(bytes) { Ok(reply) } else { Err(failure::no_room(bytes)) }
            })
        });
        drop(running);
        let done = done.map_err(|error| effects.failure(failure::of_closure(error)));
        let (reply, position) = done?;
        effects.happen(server, client, position);
        Ok((reply, position))
    }
}

/// A reply that only shows something, if there is room for it.
fn fitting(
    client: &mut ClientState,
    (reply, position): (Reply, Position),
) -> Result<(Reply, Position), Failure> {
    if client.room.fits(reply.text_bytes()) { Ok((reply, position)) } else { Err(Failure::NoRoom) }
}

/// The reply of a command inside a closure: an error that the client hears is one, and only
/// an error that the engine needs to know fails the closure.
fn reply_of(outcome: spec::Outcome) -> Result<Reply, KvsError> {
    match outcome {
        Ok(reply) => Ok(reply),
        Err(Failure::Refused(text)) => Ok(Reply::Error(text)),
        Err(Failure::Engine(error)) => Err(error),
        // A transaction always may wait.
        Err(Failure::WouldBlock | Failure::NoRoom) => Err(KvsError::WouldBlock),
    }
}

/// Runs a command about keys inside a transaction of several.
fn run_inside(
    transaction: &mut aryavarth::Transaction<'_>,
    spec: Option<&'static Spec>,
    args: &Args<'_>,
) -> Result<Reply, KvsError> {
    let spec = match spec.map_or_else(|| registry().find(args), Ok) {
        Ok(spec) => spec,
        Err(failure) => return reply_of(Err(failure)),
    };
    let reply = match &spec.run {
        Run::Read(run) => reply_of(run(transaction, args)),
        Run::Write(run) => reply_of(run(transaction, args)),
        // EXEC has forgotten the watched keys already.
        Run::Transaction(Step::Unwatch) => Ok(Reply::OK),
        Run::Context(_) | Run::Transaction(_) | Run::Container(_) | Run::Script(_) => {
            Ok(Reply::error(failure::SYNTAX))
        }
    };
    match reply {
        Err(KvsError::WouldBlock) => Err(KvsError::WouldBlock),
        Err(error) => Ok(error_reply(&error)),
        Ok(reply) => Ok(reply),
    }
}
