//! From a call to its answer: finds the row, admits the call, runs it, and says how the connection
//! goes on.
//!
//! Invariants:
//! - A command is counted once, when it has run, under its row's number.
//! - A refused command of a transaction breaks the transaction.

pub(crate) mod blind;
mod transaction;

use std::time::Instant;

use aryavarth::{Durability, KvsEngine, KvsError, Position};
use aryavarth_protocol::{Command, Reply};

use crate::clients::Ran;
use crate::commands::kit::args::Args;
use crate::commands::kit::context::{
    ClientState, Context, PauseChange, Replies, ServerContext, Settings, Then, Watched, hold_sweep,
};
use crate::commands::kit::failure::{self, Failure, error_reply, refused};
use crate::commands::kit::read::Reader;
use crate::commands::kit::spec::{self, Flags, Run, Spec, Step};
use crate::commands::registry::registry;

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
    pub(crate) then: Then,
}

/// Runs a command of a connection; `None`, and nothing was done, if it may block and `may_block`
/// says that it must not.
pub(crate) fn run<E: KvsEngine>(
    engine: &E,
    server: &dyn ServerContext,
    connected: &mut ClientState,
    command: &Command,
    may_block: bool,
) -> Option<Answer> {
    let began = Instant::now();
    let args = Args::new(command).limited(server.limits());
    let found = registry().find(&args).and_then(|spec| admit(spec, server, connected));
    let (spec, outcome) = match found {
        Err(failure) => {
            if let Some(queue) = &mut connected.queue {
                queue.is_broken = true;
            }
            if let Some(spec) = registry().known(&args) {
                server.clients().statistics.count_rejected(registry().number(spec));
            }
            let failure = if args.is(0, "EXEC") { abort(connected, failure) } else { failure };
            (None, Err(failure))
        }
        Ok(spec) if connected.queue.is_some() && !spec.flags.has(Flags::UNQUEUED) => {
            (None, Ok((transaction::collect(connected, server, command), Position::ZERO)))
        }
        Ok(spec) => {
            let engine = Spaces { engine, space: connected.settings.space };
            // Only on the pool, so a command that goes there is not counted twice.
            let pass = if may_block && writes(spec, connected) {
                // The pause began behind the look at it: the call is held.
                Some(server.clients().begin_write()?)
            } else {
                None
            };
            let outcome = engine.run(spec, server, connected, &args, may_block);
            drop(pass);
            (Some(spec), outcome)
        }
    };
    let (reply, position) = match outcome {
        Ok(done) => done,
        Err(Failure::WouldBlock | Failure::NoRoom) => return None,
        // The written position may take the writer's lock.
        Err(Failure::Engine(_)) if !may_block => return None,
        Err(Failure::Refused(text)) => (Reply::Error(text), Position::ZERO),
        // A failed command may have seen any write.
        Err(Failure::Engine(error)) => (error_reply(&error), written(server)),
    };
    if let Some(spec) = spec {
        let times = (began, Instant::now());
        count(
            server,
            connected,
            &Counted { spec, command, position, times, failed: reply.is_error() },
        );
    }
    if let Reply::Error(text) = &reply {
        server.clients().statistics.count_error(text);
    }
    if let Some(change) = connected.settings.pause.take() {
        change_pause(server, &mut connected.settings, change);
    }
    Some(finish(connected, reply, position))
}

/// Whether a pause of the clients holds a command.
pub(crate) fn is_paused(
    server: &dyn ServerContext,
    connected: &ClientState,
    command: &Command,
) -> bool {
    let Some(pause) = server.clients().pause() else { return false };
    if !pause.only_writes {
        return true;
    }
    let spec = registry().find(&Args::new(command));
    spec.is_ok_and(|spec| {
        // A command that is collected runs later.
        let is_collected = connected.queue.is_some() && !spec.flags.has(Flags::UNQUEUED);
        !is_collected && writes(spec, connected)
    })
}

/// Whether a call that runs now may write keys.
fn writes(spec: &Spec, connected: &ClientState) -> bool {
    let is_write = |command: &Command| {
        let spec = registry().find(&Args::new(command));
        spec.is_ok_and(|spec| spec.flags.has(Flags::WRITE))
    };
    match (&spec.run, &connected.queue) {
        (Run::Transaction(Step::Exec), Some(queue)) => queue.commands.iter().any(is_write),
        _ => spec.flags.has(Flags::WRITE),
    }
}

/// Keys of a read, or commands of a transaction, with which it is long work.
const LONG_COUNT: usize = 64;
/// Bytes to read, or of a transaction's commands, with which it is.
pub(crate) const LONG_BYTES: usize = 256 << 10;

/// Whether a command may keep a thread for long, beside waiting for a disk once: it reads large
/// values or many, walks the keys, or is a long transaction.
pub(crate) fn is_long<E: KvsEngine>(
    engine: &E,
    connected: &ClientState,
    command: &Command,
) -> bool {
    let args = Args::new(command);
    let Ok(spec) = registry().find(&args) else { return false };
    match (&spec.run, &connected.queue) {
        (Run::Transaction(Step::Exec), Some(queue)) => {
            queue.commands.len() > LONG_COUNT || queue.bytes > LONG_BYTES
        }
        (Run::Read(_) | Run::Write(_), None) => {
            let walks = matches!(spec.run, Run::Read(_)) && spec.keys == spec::Keys::None;
            let keys = spec.keys_read(&args);
            let spaces = Spaces { engine, space: connected.settings.space };
            let bytes = |engine: &E| keys.iter().map(|key| engine.size_hint(key)).sum::<usize>();
            walks || keys.len() > LONG_COUNT || spaces.selected(bytes) > LONG_BYTES
        }
        _ => false,
    }
}

/// Begins or ends a pause of all clients.
fn change_pause(server: &dyn ServerContext, settings: &mut Settings, change: PauseChange) {
    match change {
        PauseChange::Begins(pause) => {
            server.clients().set_pause(pause);
            if settings.then == Then::GoOn {
                settings.then = Then::AfterWrites;
            }
        }
        PauseChange::Ends => server.clients().unpause(),
    }
    hold_sweep(server);
}

/// A command that has run.
struct Counted<'a> {
    spec: &'static Spec,
    command: &'a Command,
    position: Position,
    /// When it began and ended.
    times: (Instant, Instant),
    failed: bool,
}

/// Counts a command that has run, and shows it to connections in MONITOR mode.
fn count(server: &dyn ServerContext, connected: &ClientState, counted: &Counted<'_>) {
    let Counted { spec, command, position, times: (began, ended), failed } = *counted;
    let ran = Ran {
        number: registry().number(spec),
        is_shown: !spec.flags.has_any(Flags::UNSEEN),
        is_logged: !spec.flags.has(Flags::SKIP_SLOWLOG),
        client: &connected.entry,
        space: connected.settings.space,
        command,
        position,
        began,
        ended,
        failed,
    };
    server.clients().ran(server.settings(), &ran);
}

/// Everything that was written so far.
fn written(server: &dyn ServerContext) -> Position {
    Position(server.stats().written_position)
}

/// Whether the client wants the reply of the call that has run, as `CLIENT REPLY` says; a reply
/// that is skipped is skipped once.
pub(crate) fn wants_reply(connected: &mut ClientState) -> bool {
    let replies = &mut connected.settings.replies;
    let wants = *replies == Replies::On;
    *replies = match *replies {
        Replies::SkipNext => Replies::SkipThis,
        Replies::SkipThis => Replies::On,
        other => other,
    };
    wants
}

/// The answer for a reply, by the connection's settings.
fn finish(connected: &mut ClientState, reply: Reply, position: Position) -> Answer {
    connected.entry.show(connected.shown());
    let wants = wants_reply(connected);
    let settings = &mut connected.settings;
    let level = settings.level();
    // A transaction is one command, which ends with EXEC.
    if connected.queue.is_none() {
        settings.durability_once = settings.durability_next.take();
    }
    let then = std::mem::replace(&mut settings.then, Then::GoOn);
    Answer { reply: wants.then_some(reply), position, level, version: settings.version, then }
}

/// An EXEC that cannot run ends its transaction, and says why in the words of Redis.
fn abort(connected: &mut ClientState, failure: Failure) -> Failure {
    connected.queue = None;
    connected.watched = Watched::default();
    let Failure::Refused(text) = failure else { return failure };
    let why = text.strip_prefix(b"ERR ").unwrap_or(&text);
    let text = [b"EXECABORT Transaction discarded because of: ", why].concat();
    Failure::Refused(text.into())
}

/// Refuses a command that may not run now.
fn admit(
    spec: &'static Spec,
    server: &dyn ServerContext,
    connected: &ClientState,
) -> Result<&'static Spec, Failure> {
    if !connected.settings.authenticated && !spec.flags.has(Flags::NO_AUTH) {
        return refused("NOAUTH Authentication required.");
    }
    if spec.flags.has(Flags::DENYOOM) && server.settings().is_out_of_memory() {
        return refused("OOM command not allowed when used memory > 'maxmemory'.");
    }
    if connected.queue.is_some() && spec.flags.has(Flags::NO_MULTI) {
        return refused("ERR Command not allowed inside a transaction");
    }
    Ok(spec)
}

/// An engine, and the space that a connection has selected.
struct Spaces<'a, E> {
    engine: &'a E,
    space: u32,
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
        may_block: bool,
        run: impl FnOnce(&mut Reader<'_, E>) -> spec::Outcome,
    ) -> Result<(Reply, Position), Failure> {
        self.selected(|engine| {
            let mut reader = Reader::new(engine, may_block);
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
        connected: &mut ClientState,
        args: &Args<'_>,
        may_block: bool,
    ) -> Result<(Reply, Position), Failure> {
        match &spec.run {
            Run::Read(run) => fitting(connected, self.read(may_block, |reader| run(reader, args))?),
            Run::Context(run) => {
                if spec.flags.has_any(Flags::WAITS) && !may_block {
                    return Err(Failure::WouldBlock);
                }
                let ClientState { settings, entry, .. } = connected;
                let mut context = Context::new(settings, entry, server, registry());
                let reply = run(&mut context, args)?;
                Ok((reply, context.position))
            }
            Run::Transaction(step) => self.selected(|engine| {
                transaction::step(*step, engine, server, connected, args, may_block)
            }),
            Run::Write(_) | Run::Container(_) if !may_block => Err(Failure::WouldBlock),
            Run::Write(run) => self.selected(|engine| {
                let keys = spec.keys_read(args);
                let room = &mut connected.room;
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

/// A reply that only shows something, if there is room for it.
fn fitting(
    connected: &mut ClientState,
    (reply, position): (Reply, Position),
) -> Result<(Reply, Position), Failure> {
    if connected.room.fits(reply.text_bytes()) {
        Ok((reply, position))
    } else {
        Err(Failure::NoRoom)
    }
}

/// The reply of a command inside a closure: an error that the client hears is one, and only what
/// the engine needs to know fails the closure.
fn reply_of(outcome: spec::Outcome) -> Result<Reply, KvsError> {
    match outcome {
        Ok(reply) => Ok(reply),
        Err(Failure::Refused(text)) => Ok(Reply::Error(text)),
        Err(Failure::Engine(error)) => Err(error),
        // A transaction always may wait.
        Err(Failure::WouldBlock | Failure::NoRoom) => Err(KvsError::Again),
    }
}

/// Runs a command about keys inside a transaction of several.
fn run_inside(
    transaction: &mut aryavarth::Transaction<'_>,
    args: &Args<'_>,
) -> Result<Reply, KvsError> {
    let spec = match registry().find(args) {
        Ok(spec) => spec,
        Err(failure) => return reply_of(Err(failure)),
    };
    let reply = match &spec.run {
        Run::Read(run) => reply_of(run(transaction, args)),
        Run::Write(run) => reply_of(run(transaction, args)),
        // EXEC has forgotten the watched keys already.
        Run::Transaction(Step::Unwatch) => Ok(Reply::OK),
        Run::Context(_) | Run::Transaction(_) | Run::Container(_) => {
            Ok(Reply::error(failure::SYNTAX))
        }
    };
    match reply {
        Err(KvsError::Again) => Err(KvsError::Again),
        Err(error) => Ok(error_reply(&error)),
        Ok(reply) => Ok(reply),
    }
}
