//! EVAL and its kin: a script as one closure of the engine.
//!
//! ```text
//!   EVAL --> transact( script --> redis.call --> command over the transaction )
//!               |  the closure may run again: everything of the run before it is dropped
//!               v
//!            written --> messages and lines of the log go out, with the position of the write
//! ```
//!
//! Invariants:
//! - A script that is stopped fails the closure, and so writes nothing.
//! - A run whose reads are not all at hand is dropped. Past the first few, it goes on with assumed
//!   replies, only to name more keys: otherwise a script that reads N keys it did not declare takes N
//!   runs.
//! - An error that a script raises keeps what was written before it, as in Redis, unless the script
//!   says `all-or-nothing`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aryavarth::{KvsError, Position, Transaction};
use aryavarth_protocol::{Command, Reply};

use super::{check_keys, run_inside};
use crate::channels::{Kind, NAME_BYTES_MAX, Publication};
use crate::commands::kit::args::{Args, parse_integer};
use crate::commands::kit::context::{ClientState, ServerContext};
use crate::commands::kit::failure::{Failure, NOT_AN_INTEGER, SCRIPT, refused};
use crate::commands::kit::rows::subcommands;
use crate::commands::kit::spec::{Flags, Run, ScriptCall, Spec};
use crate::commands::registry::registry;
use crate::log::log_of_script;
use crate::script::{Hash, Host, Input, Running, Script, Stop};

/// Bytes that the messages of one run may have.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Messages of one run.
const MESSAGES_MAX: usize = 65_536;
/// Runs of a closure that end at the first value that is not at hand; later ones go on and ask for more.
const EXACT_RUNS: u32 = 4;
/// Values that such a run asks for, and the time that it takes for them.
const ASKED_MAX: usize = 1_024;
const ASKING: Duration = Duration::from_millis(50);

/// A call of a script, checked.
pub(super) struct PreparedScript<'a> {
    script: Arc<Script>,
    keys: Vec<&'a [u8]>,
    args: Vec<&'a [u8]>,
    only_reads: bool,
}

impl<'a> PreparedScript<'a> {
    /// The keys that the call names.
    pub(super) fn keys(&self) -> &[&'a [u8]] {
        &self.keys
    }
}

/// Finds the script of a call and takes its arguments apart.
pub(super) fn prepare<'a>(
    call: ScriptCall,
    server: &dyn ServerContext,
    args: &Args<'a>,
) -> Result<PreparedScript<'a>, Failure> {
    const UNKNOWN: &str = "NOSCRIPT No matching script. Please use EVAL.";
    let hash = Hash::parse(args.get(1));
    if call.by_hash && args.get(1).len() != 40 {
        return refused(UNKNOWN);
    }
    let Some(count) = parse_integer(args.get(2)) else { return refused(NOT_AN_INTEGER) };
    let count = match usize::try_from(count) {
        Ok(count) if count <= args.len() - 3 => count,
        Ok(_) => return refused("ERR Number of keys can't be greater than number of args"),
        Err(_) if count > 0 => {
            return refused("ERR Number of keys can't be greater than number of args");
        }
        Err(_) => return refused("ERR Number of keys can't be negative"),
    };
    let scripts = server.scripts();
    let script = if call.by_hash {
        let found = hash.and_then(|hash| scripts.find(hash));
        found.map_or_else(|| refused(UNKNOWN), Ok)?
    } else {
        match scripts.load(args.get(1)) {
            Ok(script) => script,
            Err(problem) => return refused(format!("ERR {problem}")),
        }
    };
    let flags = script.flags;
    if call.only_reads && flags.declared && !flags.no_writes {
        return refused("ERR Can not execute a script with write flag using *_ro command.");
    }
    if flags.declared
        && !flags.allow_oom
        && !flags.no_writes
        && server.settings().is_out_of_memory()
    {
        return refused(
            "OOM allow-oom flag is not set on the script, can not run it when used memory > \
             'maxmemory'",
        );
    }
    let only_reads = call.only_reads || flags.no_writes;
    let keys = args.from(3).take(count).collect();
    Ok(PreparedScript { script, keys, args: args.from(3 + count).collect(), only_reads })
}

/// The error that makes a closure do nothing because a script was stopped.
fn stopped() -> KvsError {
    KvsError::TooLarge { what: SCRIPT, size: 0, limit: 0 }
}

/// The scripts of one closure: what they do once it is written, and why it failed.
#[derive(Default)]
pub(super) struct ScriptEffects {
    messages: Vec<(Kind, Vec<u8>, Vec<u8>)>,
    message_bytes: usize,
    log: Vec<(i64, Vec<u8>)>,
    /// The text of the error of the script that was stopped.
    stop: Option<Vec<u8>>,
    /// Runs of the closure; the only thing that outlives one.
    runs: u32,
}

impl ScriptEffects {
    /// Drops all of a run, before another.
    pub(super) fn reset(&mut self) {
        *self = ScriptEffects { runs: self.runs.saturating_add(1), ..ScriptEffects::default() };
    }

    /// The failure of the closure, in which a stopped script has its own words.
    pub(super) fn failure(&mut self, failure: Failure) -> Failure {
        match (failure, self.stop.take()) {
            (Failure::Engine(KvsError::TooLarge { what: SCRIPT, .. }), Some(text)) => {
                Failure::Refused(text.into())
            }
            (failure, _) => failure,
        }
    }

    /// Sends the messages and writes the lines, after the closure was written up to `position`.
    pub(super) fn happen(
        self,
        server: &dyn ServerContext,
        client: &ClientState,
        position: Position,
    ) {
        let position = position.max(client.settings.seen);
        let level = client.settings.level();
        for (kind, channel, message) in &self.messages {
            let publication = Publication { channel, message, position, level };
            // A message without room is lost: no client hears an error for it.
            let _ = server.clients().publish(*kind, &publication);
        }
        for (level, line) in &self.log {
            log_of_script(*level, line);
        }
    }
}

/// Runs a script inside a closure.
///
/// # Errors
/// The closure is to fail: the engine wants it to, or the script was stopped.
pub(super) fn run(
    transaction: &mut Transaction<'_>,
    server: &dyn ServerContext,
    prepared: &PreparedScript<'_>,
    running: &Running<'_>,
    effects: &mut ScriptEffects,
) -> Result<Reply, KvsError> {
    let PreparedScript { script, keys, args, only_reads } = prepared;
    let limits = server.limits();
    let input = Input { keys, args, reply_bytes_max: limits.reply_bytes_max };
    let space = transaction.space();
    let allow_oom = script.flags.allow_oom;
    let began = Instant::now();
    let mut calls = Calls {
        transaction,
        server,
        only_reads: *only_reads,
        allow_oom,
        written_bytes: 0,
        asked: 0,
        asks_since: None,
        effects,
    };
    let ended = crate::script::run(script, input, (running, server.scripts().limits()), &mut calls);
    let lacks = calls.asked > 0;
    transaction.select(space);
    script.ran(began.elapsed());
    match ended {
        _ if lacks => Err(KvsError::WouldBlock),
        Ok(reply) => Ok(reply),
        Err(Stop::Engine(error)) => Err(error),
        Err(Stop::Refused(text)) => {
            effects.stop = Some(text.into_owned());
            Err(stopped())
        }
    }
}

/// The commands that a script calls.
struct Calls<'t, 'a, 'e> {
    transaction: &'t mut Transaction<'a>,
    server: &'t dyn ServerContext,
    only_reads: bool,
    allow_oom: bool,
    /// About how many bytes the transaction has to write.
    written_bytes: usize,
    /// Reads of values that were not at hand, and the time of the first.
    asked: usize,
    asks_since: Option<Instant>,
    effects: &'e mut ScriptEffects,
}

impl Host for Calls<'_, '_, '_> {
    fn call(&mut self, command: &Command) -> Result<Reply, Stop> {
        let args = Args::new(command).limited(self.server.limits(), self.server.settings());
        let spec = match self.admit(&args) {
            Ok(spec) => spec,
            Err(text) => return Ok(Reply::error(text)),
        };
        match self.check(spec, &args) {
            Ok(()) => {}
            Err(Failure::Refused(text)) => return Ok(Reply::Error(text)),
            Err(_) => return Ok(Reply::error("ERR refused")),
        }
        if let Run::Context(_) = spec.run {
            return Ok(self.beside(spec, &args));
        }
        let reply = match run_inside(self.transaction, Some(spec), &args) {
            Err(KvsError::WouldBlock) => {
                return self.assumed().ok_or(Stop::Engine(KvsError::WouldBlock));
            }
            reply => reply.map_err(Stop::Engine)?,
        };
        if spec.flags.has(Flags::WRITE) {
            self.count_written(spec, &args)?;
        }
        Ok(reply)
    }

    fn knows(&self) -> fn(&Command) -> bool {
        |command| registry().known(&Args::new(command)).is_some()
    }

    fn log(&mut self, level: i64, line: Vec<u8>) {
        self.effects.log.push((level, line));
    }
}

impl Calls<'_, '_, '_> {
    /// The row of a command that a script may call now.
    ///
    /// # Errors
    /// The text of the error, as redis words it.
    fn admit(&self, args: &Args<'_>) -> Result<&'static Spec, &'static str> {
        let Some(spec) = registry().known(args) else {
            return Err("ERR Unknown Redis command called from script");
        };
        if !subcommands(spec).is_empty() && args.len() > 1 {
            return Err("ERR Unknown Redis command called from script");
        }
        if !spec.takes(args.len()) {
            return Err("ERR Wrong number of args calling Redis command from script");
        }
        if spec.flags.has(Flags::NO_SCRIPT) || !may_run(spec) {
            return Err("ERR This Redis command is not allowed from script");
        }
        if self.only_reads && spec.flags.has_any(Flags::WRITE.and(Flags::PUBLISHES)) {
            return Err("ERR Write commands are not allowed from read-only scripts.");
        }
        if spec.flags.has(Flags::DENYOOM)
            && !self.allow_oom
            && self.written_bytes == 0
            && self.server.settings().is_out_of_memory()
        {
            return Err("OOM command not allowed when used memory > 'maxmemory'.");
        }
        Ok(spec)
    }

    /// A reply in place of one whose values are not at hand, in a run that goes on to ask for more;
    /// `None` if it ends here. By turns nothing and a number: some scripts fail at the one and some at
    /// the other, and a run that fails asks for little.
    fn assumed(&mut self) -> Option<Reply> {
        if self.effects.runs <= EXACT_RUNS {
            return None;
        }
        self.asked += 1;
        let since = *self.asks_since.get_or_insert_with(Instant::now);
        let is_number = self.effects.runs.is_multiple_of(2);
        let reply = if is_number { Reply::bulk("0") } else { Reply::Null };
        (self.asked < ASKED_MAX && since.elapsed() < ASKING).then_some(reply)
    }

    /// Refuses arguments that no client could send.
    fn check(&self, spec: &'static Spec, args: &Args<'_>) -> Result<(), Failure> {
        for part in args.from(0) {
            args.check_value(part.len())?;
        }
        check_keys(spec, self.server, args).map(|_| ())
    }

    /// Counts the bytes that a command has left in the transaction.
    fn count_written(&mut self, spec: &'static Spec, args: &Args<'_>) -> Result<(), Stop> {
        let limit = self.server.limits().transaction_bytes_max;
        let mut bytes: usize = args.from(0).map(<[u8]>::len).sum();
        // The others write no more than their arguments.
        if GROWING.contains(&spec.name) {
            for place in spec.key_places(args) {
                let stored = self.transaction.find(args.get(place)).map_err(Stop::Engine)?;
                bytes += stored.map_or(0, |stored| stored.value.len());
            }
        }
        self.written_bytes = self.written_bytes.saturating_add(bytes);
        if self.written_bytes <= limit {
            return Ok(());
        }
        let text = format!(
            "ERR the script writes too much: the limit is {limit} bytes; it was stopped and nothing \
             was done"
        );
        Err(Stop::Refused(text.into_bytes().into()))
    }

    /// Runs a command that is about no key.
    fn beside(&mut self, spec: &'static Spec, args: &Args<'_>) -> Reply {
        match spec.name {
            "ping" if args.len() > 2 => {
                Reply::error("ERR wrong number of arguments for 'ping' command")
            }
            "ping" if args.len() == 2 => Reply::bulk(args.get(1)),
            "ping" => Reply::Simple("PONG".into()),
            "echo" => Reply::bulk(args.get(1)),
            "time" => {
                let ms = self.transaction.now().wall_ms;
                let parts = [ms / 1000, ms % 1000 * 1000].map(|part| Reply::bulk(part.to_string()));
                Reply::Array(parts.to_vec())
            }
            "select" => match args.database(1) {
                Ok(space) => {
                    self.transaction.select(space);
                    Reply::OK
                }
                Err(Failure::Refused(text)) => Reply::Error(text),
                Err(_) => Reply::error(NOT_AN_INTEGER),
            },
            "publish" => self.publish(Kind::Channel, args),
            "spublish" => self.publish(Kind::Shard, args),
            _ => Reply::error("ERR This Redis command is not allowed from script"),
        }
    }

    /// Keeps a message until the transaction is written. The reply is the number of subscribers at
    /// this moment.
    fn publish(&mut self, kind: Kind, args: &Args<'_>) -> Reply {
        let (channel, message) = (args.get(1), args.get(2));
        if channel.len() > NAME_BYTES_MAX {
            return Reply::error(format!(
                "ERR the name of a channel or pattern is at most {NAME_BYTES_MAX} bytes long"
            ));
        }
        let bytes = channel.len() + message.len();
        let effects = &mut *self.effects;
        if effects.messages.len() >= MESSAGES_MAX
            || effects.message_bytes + bytes > MESSAGE_BYTES_MAX
        {
            return Reply::error(format!(
                "ERR a script sends {MESSAGES_MAX} messages of {MESSAGE_BYTES_MAX} bytes in all"
            ));
        }
        effects.message_bytes += bytes;
        effects.messages.push((kind, channel.to_vec(), message.to_vec()));
        let receivers = self.server.clients().channels.receivers(kind, channel);
        Reply::Integer(i64::try_from(receivers).unwrap_or(i64::MAX))
    }
}

/// Commands that can leave a value longer than their arguments.
const GROWING: &[&str] = &["append", "copy", "rename", "renamenx", "setrange"];

/// Commands without keys that a script may call.
const BESIDE: &[&str] = &["echo", "ping", "publish", "select", "spublish", "time"];

/// Whether a script may call a command at all.
fn may_run(spec: &Spec) -> bool {
    match spec.run {
        Run::Read(_) | Run::Write(_) => true,
        Run::Context(_) => BESIDE.contains(&spec.name),
        Run::Transaction(_) | Run::Container(_) | Run::Script(_) => false,
    }
}
