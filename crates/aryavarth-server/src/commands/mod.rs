//! The commands of the Redis protocol.
//!
//! One table says of every command what it is called, takes and does; dispatch, `COMMAND`, key
//! extraction and docs/commands.md are made from it. A command is one small function from its
//! arguments to a reply: over what is there, over a transaction, or over its caller.
//!
//! Invariants:
//! - Nothing here waits for durability: an answer says how far the log must be durable before it
//!   may leave, and at which level.
//! - A command that writes is one closure of the engine, and so is a whole transaction: atomic to
//!   readers and across a crash.
//! - A command that fails has changed nothing.

mod args;
pub(crate) mod blind;
mod caller;
#[expect(clippy::unnecessary_wraps, reason = "all commands have one signature")]
mod client;
#[expect(clippy::unnecessary_wraps, reason = "all commands have one signature")]
mod config;
mod counters;
#[expect(clippy::unnecessary_wraps, reason = "all commands have one signature")]
mod debug;
#[expect(clippy::unnecessary_wraps, reason = "all commands have one signature")]
mod docs;
mod expiry;
mod extended;
mod failure;
#[cfg(test)]
mod fake_host;
mod frozen;
mod glob;
#[expect(clippy::unnecessary_wraps, reason = "all commands have one signature")]
mod info;
mod keys;
mod lcs;
mod natural;
#[expect(clippy::unnecessary_wraps, reason = "all commands have one signature")]
mod observe;
mod read;
mod scan;
#[cfg(test)]
mod scripts;
#[expect(clippy::unnecessary_wraps, reason = "all commands have one signature")]
mod server;
#[expect(clippy::unnecessary_wraps, reason = "all commands have one signature")]
mod session;
mod set;
mod spec;
#[expect(clippy::unnecessary_wraps, reason = "all commands have one signature")]
mod standalone;
mod strings;
pub(crate) mod table;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;
mod transaction;
mod usage;

use std::time::Instant;

use aryavarth::{Durability, KvsEngine, KvsError, Position};
use aryavarth_protocol::{Command, Reply};

use crate::clients::Ran;
pub(crate) use args::Args;
pub(crate) use caller::{Caller, Connected, Host, Then};
use caller::{Replies, Settings};
use failure::{Failure, error_reply, refused};
use read::Reader;
pub(crate) use scan::Cursors;
use spec::Run;
pub(crate) use spec::{Flags, Spec};
use transaction::Watched;

/// What a connection is to do for one command.
#[derive(Debug)]
pub(crate) struct Answer {
    /// What the client hears, if it wants to hear anything.
    pub(crate) reply: Option<Reply>,
    /// What must be durable before that, and at which level.
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
    host: &dyn Host,
    connected: &mut Connected,
    command: &Command,
    may_block: bool,
) -> Option<Answer> {
    let began = Instant::now();
    let args = Args::new(command).limited(host.limits());
    let found = table::find(&args).and_then(|spec| admit(spec, host, connected));
    let (spec, outcome) = match found {
        Err(failure) => {
            if let Some(queue) = &mut connected.queue {
                queue.is_broken = true;
            }
            if let Some(spec) = table::known(&args) {
                host.clients().statistics.count_rejected(table::number(spec));
            }
            let failure = if args.is(0, "EXEC") { abort(connected, failure) } else { failure };
            (None, Err(failure))
        }
        Ok(spec) if connected.queue.is_some() && !spec.flags.has(Flags::UNQUEUED) => {
            (None, Ok((transaction::collect(connected, host, command), Position::ZERO)))
        }
        Ok(spec) => {
            let engine = Spaces { engine, space: connected.settings.space };
            (Some(spec), engine.run(spec, host, connected, &args, may_block))
        }
    };
    let (reply, position) = match outcome {
        Ok(done) => done,
        Err(Failure::WouldBlock) => return None,
        // To know what was written may take the writer's lock.
        Err(Failure::Engine(_)) if !may_block => return None,
        Err(Failure::Refused(text)) => (Reply::Error(text), Position::ZERO),
        // What a failed command saw may be anything that was written.
        Err(Failure::Engine(error)) => (error_reply(&error), written(host)),
    };
    if let Some(spec) = spec {
        let ran =
            Ran { spec, command, position, began, ended: Instant::now(), failed: reply.is_error() };
        host.clients().ran(host.settings(), connected, &ran);
    }
    if let Reply::Error(text) = &reply {
        host.clients().statistics.count_error(text);
    }
    Some(finish(connected, reply, position))
}

/// Whether a command has to wait until somebody lets the clients go on, or a time has passed.
pub(crate) fn is_paused(host: &dyn Host, connected: &Connected, command: &Command) -> bool {
    let Some(pause) = host.clients().pause() else { return false };
    let writes = |command: &Command| {
        let spec = table::find(&Args::new(command));
        spec.is_ok_and(|spec| spec.flags.has(Flags::WRITE))
    };
    if !pause.only_writes {
        return true;
    }
    match &connected.queue {
        None => writes(command),
        // What is collected runs later.
        Some(queue) => {
            command.name().eq_ignore_ascii_case(b"exec") && queue.commands.iter().any(writes)
        }
    }
}

/// Everything that was written so far.
fn written(host: &dyn Host) -> Position {
    Position(host.stats().written_position)
}

/// What the connection does with a reply, by what it has set for itself.
fn finish(connected: &mut Connected, reply: Reply, position: Position) -> Answer {
    connected.entry.show(connected);
    let settings = &mut connected.settings;
    let wants = settings.replies == Replies::On;
    settings.replies = match settings.replies {
        Replies::SkipNext => Replies::SkipThis,
        Replies::SkipThis => Replies::On,
        other => other,
    };
    let level = settings.level();
    // A transaction is one command, which ends with EXEC.
    if connected.queue.is_none() {
        settings.durability_once = settings.durability_next.take();
    }
    let then = std::mem::replace(&mut settings.then, Then::GoOn);
    Answer { reply: wants.then_some(reply), position, level, version: settings.version, then }
}

/// An EXEC that cannot run ends its transaction, and says why in the words of Redis.
fn abort(connected: &mut Connected, failure: Failure) -> Failure {
    connected.queue = None;
    connected.watched = Watched::default();
    let Failure::Refused(text) = failure else { return failure };
    let why = text.strip_prefix(b"ERR ").unwrap_or(&text);
    let text = [b"EXECABORT Transaction discarded because of: ", why].concat();
    Failure::Refused(text.into())
}

/// Refuses what may not run now.
fn admit(
    spec: &'static Spec,
    host: &dyn Host,
    connected: &Connected,
) -> Result<&'static Spec, Failure> {
    if !connected.settings.authenticated && !spec.flags.has(Flags::NO_AUTH) {
        return refused("NOAUTH Authentication required.");
    }
    if spec.flags.has(Flags::DENYOOM) && host.settings().is_out_of_memory() {
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
                // The client hears of what was seen, too.
                Err(Failure::Refused(text)) => Reply::Error(text),
                outcome => outcome?,
            };
            Ok((reply, reader.position))
        })
    }

    fn run(
        &self,
        spec: &'static Spec,
        host: &dyn Host,
        connected: &mut Connected,
        args: &Args<'_>,
        may_block: bool,
    ) -> Result<(Reply, Position), Failure> {
        match &spec.run {
            Run::Read(run) => self.read(may_block, |reader| run(reader, args)),
            Run::Scan(run) => self.read(may_block, |reader| run(reader, host.cursors(), args)),
            Run::Caller(run) => {
                if spec.flags.has_any(Flags::BLOCKING.and(Flags::WAITS)) && !may_block {
                    return Err(Failure::WouldBlock);
                }
                let Connected { settings, entry, .. } = connected;
                let mut caller = Caller::new(settings, entry, host);
                let reply = run(&mut caller, args)?;
                Ok((reply, caller.position))
            }
            Run::Transaction(step) => self.selected(|engine| {
                transaction::step(*step, engine, host, connected, args, may_block)
            }),
            Run::Write(_) | Run::Container(_) if !may_block => Err(Failure::WouldBlock),
            Run::Write(run) => self.selected(|engine| {
                let keys = spec.keys_read(args);
                let (reply, position) =
                    engine.commit(&keys, |transaction| reply_of(run(transaction, args)))?;
                Ok((reply, position))
            }),
            Run::Container(_) => refused(failure::SYNTAX),
        }
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
        Err(Failure::WouldBlock) => Err(KvsError::Again),
    }
}

/// Runs a command inside a transaction of several.
fn run_inside(
    transaction: &mut aryavarth::Transaction<'_>,
    settings: &mut Settings,
    entry: &crate::clients::Client,
    host: &dyn Host,
    args: &Args<'_>,
) -> Result<Reply, KvsError> {
    transaction.select(settings.space);
    let spec = match table::find(args) {
        Ok(spec) => spec,
        Err(failure) => return reply_of(Err(failure)),
    };
    let reply = match &spec.run {
        Run::Read(run) => reply_of(run(transaction, args)),
        Run::Scan(run) => reply_of(run(transaction, host.cursors(), args)),
        Run::Write(run) => reply_of(run(transaction, args)),
        Run::Caller(run) => {
            let mut caller = Caller::new(settings, entry, host);
            caller.in_transaction = true;
            reply_of(run(&mut caller, args))
        }
        // EXEC has forgotten the watched keys already.
        Run::Transaction(spec::Step::Unwatch) => Ok(Reply::OK),
        Run::Transaction(_) | Run::Container(_) => Ok(Reply::error(failure::SYNTAX)),
    };
    match reply {
        Err(KvsError::Again) => Err(KvsError::Again),
        Err(error) => Ok(error_reply(&error)),
        Ok(reply) => Ok(reply),
    }
}
