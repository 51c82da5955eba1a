//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.
//!
//! A transaction is collected first and run by EXEC, as one closure of the engine: nobody else
//! writes meanwhile, all of its effects are one frame of the log, and a crash keeps all or none.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Instant;

use aryavarth::{Durability, KvsEngine, KvsError, Position, Watch};
use aryavarth_protocol::{Command, Reply};

use super::args::Args;
use super::caller::{Connected, Host, Queue};
use super::failure::{Failure, REPLY, refused};
use super::frozen::Frozen;
use super::spec::{Flags, Run, Spec, Step};
use super::{run_inside, table};
use crate::clients::Ran;

/// The keys that EXEC depends on.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    watches: BTreeMap<(u32, Vec<u8>), Watch>,
    /// Bytes of the keys.
    pub(crate) bytes: usize,
}

/// Bytes of commands that one connection may collect; larger effects than this are refused by the
/// engine anyway.
const QUEUE_BYTES_MAX: usize = 128 << 20;
/// Keys that one connection may watch, and their bytes.
const WATCHED_MAX: usize = 4096;
const WATCHED_BYTES_MAX: usize = 1 << 20;

const STEP: Flags = Flags::FAST.and(Flags::UNQUEUED);

pub(super) const SPECS: &[Spec] = &[
    Spec::new("multi", 1, "", Run::Transaction(Step::Multi))
        .flags(STEP)
        .since("1.2.0")
        .says("Starts a transaction: the commands that follow are collected, and run by EXEC"),
    Spec::new("exec", 1, "", Run::Transaction(Step::Exec))
        .flags(Flags::UNQUEUED)
        .since("1.2.0")
        .cost("Depends on the commands of the transaction")
        .says("Runs all commands of a transaction, atomic to readers and across a crash"),
    Spec::new("discard", 1, "", Run::Transaction(Step::Discard))
        .flags(STEP)
        .since("2.0.0")
        .cost("O(N), N being the commands of the transaction")
        .says("Drops a transaction"),
    Spec::new("watch", -2, "key [key ...]", Run::Transaction(Step::Watch))
        .flags(STEP)
        .keys(1, -1, 1)
        .since("2.2.0")
        .cost("O(1) for every key")
        .says("Lets the next EXEC run only if none of the keys was written by then"),
    Spec::new("unwatch", 1, "", Run::Transaction(Step::Unwatch))
        .flags(Flags::FAST)
        .since("2.2.0")
        .says("Forgets the watched keys"),
];

/// Keeps a command for EXEC.
pub(super) fn collect(connected: &mut Connected, host: &dyn Host, command: &Command) -> Reply {
    let Some(queue) = &mut connected.queue else { return Reply::OK };
    let limit = host.limits().session.request_bytes_max.min(QUEUE_BYTES_MAX);
    queue.bytes += command.bytes() + size_of::<Command>();
    if queue.bytes > limit {
        queue.is_broken = true;
        return Reply::error(format!(
            "ERR the transaction is too long: the limit is {limit} bytes"
        ));
    }
    queue.commands.push(command.detached());
    Reply::Simple("QUEUED".into())
}

/// Takes a step of a transaction.
pub(super) fn step<E: KvsEngine>(
    step: Step,
    engine: &E,
    host: &dyn Host,
    connected: &mut Connected,
    args: &Args<'_>,
    may_block: bool,
) -> Result<(Reply, Position), Failure> {
    let done = Ok((Reply::OK, Position::ZERO));
    match step {
        Step::Multi if connected.queue.is_some() => refused("ERR MULTI calls can not be nested"),
        Step::Multi => {
            connected.queue = Some(Queue::default());
            done
        }
        Step::Discard => {
            if connected.queue.take().is_none() {
                return refused("ERR DISCARD without MULTI");
            }
            connected.watched = Watched::default();
            done
        }
        Step::Unwatch => {
            connected.watched = Watched::default();
            done
        }
        Step::Reset => {
            connected.reset(host);
            Ok((Reply::Simple("RESET".into()), Position::ZERO))
        }
        // The transaction goes on, as in Redis.
        Step::Watch if connected.queue.is_some() => {
            refused("ERR WATCH inside MULTI is not allowed")
        }
        // Both wait for the writer that runs.
        Step::Watch | Step::Exec if !may_block => Err(Failure::WouldBlock),
        Step::Watch => {
            watch(engine, connected, args)?;
            done
        }
        Step::Exec => exec(engine, host, connected),
    }
}

fn watch<E: KvsEngine>(
    engine: &E,
    connected: &mut Connected,
    args: &Args<'_>,
) -> Result<(), Failure> {
    let Watched { watches, bytes } = &mut connected.watched;
    for key in args.from(1) {
        let place = (engine.space(), key.to_vec());
        if watches.contains_key(&place) {
            continue;
        }
        if watches.len() >= WATCHED_MAX || *bytes + key.len() > WATCHED_BYTES_MAX {
            return refused(format!(
                "ERR a client may watch {WATCHED_MAX} keys of {WATCHED_BYTES_MAX} bytes in all"
            ));
        }
        watches.insert(place, engine.watch(key)?);
        *bytes += key.len();
    }
    Ok(())
}

fn exec<E: KvsEngine>(
    engine: &E,
    host: &dyn Host,
    connected: &mut Connected,
) -> Result<(Reply, Position), Failure> {
    let Some(queue) = connected.queue.take() else {
        return refused("ERR EXEC without MULTI");
    };
    let watched = std::mem::take(&mut connected.watched);
    if queue.is_broken {
        return refused("EXECABORT Transaction discarded because of previous errors.");
    }
    let keys = keys_of(&queue.commands);
    let host: &dyn Host =
        if queue.commands.iter().any(asks_server) { &Frozen::new(host)? } else { host };
    let Connected { settings, entry, .. } = connected;
    let level = settings.level();
    let (done, position) = engine.commit(&keys, |transaction| {
        let now_ms = transaction.now_ms();
        if watched.watches.values().any(|watch| watch.is_touched(now_ms)) {
            return Ok(None);
        }
        // The closure may run again, from where it began.
        let mut settings = settings.clone();
        let mut replies = Vec::with_capacity(queue.commands.len());
        let (mut bytes, limit) = (0, host.limits().reply_bytes_max);
        for command in &queue.commands {
            let args = Args::new(command).limited(host.limits());
            let began = Instant::now();
            let reply = run_inside(transaction, &mut settings, entry, host, &args)?;
            bytes += reply.text_bytes();
            if bytes > limit && !replies.is_empty() {
                let (size, limit) = (bytes as u64, limit as u64);
                return Err(KvsError::TooLarge { what: REPLY, size, limit });
            }
            replies.push((reply, began, Instant::now()));
        }
        Ok(Some((replies, settings)))
    })?;
    let Some((replies, changed)) = done else {
        return Ok((Reply::NullArray, position));
    };
    *settings = changed;
    // The reply is that of the commands before a change of the level, too.
    if strength(level) > strength(settings.level()) {
        settings.durability_once = Some(level);
    }
    let mut all = Vec::with_capacity(replies.len());
    for (command, (reply, began, ended)) in queue.commands.iter().zip(replies) {
        if let Ok(spec) = table::find(&Args::new(command)) {
            let failed = reply.is_error();
            let ran = Ran { spec, command, position, began, ended, failed };
            host.clients().ran(host.settings(), connected, &ran);
        }
        all.push(reply);
    }
    Ok((Reply::Array(all), position))
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

/// Whether a command is about the connection or the server.
fn asks_server(command: &Command) -> bool {
    table::find(&Args::new(command)).is_ok_and(|spec| matches!(spec.run, Run::Caller(_)))
}

/// The keys whose values a transaction's commands need, as far as they are of the database that is selected.
fn keys_of(commands: &[Command]) -> Vec<&[u8]> {
    let mut keys = Vec::new();
    for command in commands {
        let args = Args::new(command);
        let Ok(spec) = table::find(&args) else { continue };
        if spec.name == "select" {
            break;
        }
        keys.extend(spec.keys_read(&args));
    }
    keys
}
