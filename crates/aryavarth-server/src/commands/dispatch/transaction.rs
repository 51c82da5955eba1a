//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.
//!
//! A transaction is collected first and run by EXEC, as one closure of the engine: no other
//! client writes meanwhile, all of its effects are one frame of the log, and a crash keeps all or none.

use std::cmp::Reverse;
use std::time::Instant;

use aryavarth::{Durability, KvsEngine, KvsError, Position};
use aryavarth_protocol::{Command, Reply};

use super::{Counted, count, run_inside};
use crate::commands::dispatch::frozen::Frozen;
use crate::commands::kit::args::Args;
use crate::commands::kit::context::{ClientState, Queue, ServerContext, Watched};
use crate::commands::kit::failure::{Failure, REPLY, no_room, of_closure, refused};
use crate::commands::kit::spec::{Run, Step};
use crate::commands::registry::registry;

/// Bytes of commands that one connection may collect; larger effects than this are refused by the
/// engine anyway.
const QUEUE_BYTES_MAX: usize = 128 << 20;
/// Keys that one connection may watch, and their bytes.
const WATCHED_MAX: usize = 4096;
const WATCHED_BYTES_MAX: usize = 1 << 20;

/// Keeps a command for EXEC.
pub(super) fn collect(
    connected: &mut ClientState,
    server: &dyn ServerContext,
    command: &Command,
) -> Reply {
    let Some(queue) = &mut connected.queue else { return Reply::OK };
    let limit = server.limits().session.request_bytes_max.min(QUEUE_BYTES_MAX);
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
    server: &dyn ServerContext,
    connected: &mut ClientState,
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
            connected.reset(server);
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
        Step::Exec => exec(engine, server, connected),
    }
}

fn watch<E: KvsEngine>(
    engine: &E,
    connected: &mut ClientState,
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
    server: &dyn ServerContext,
    connected: &mut ClientState,
) -> Result<(Reply, Position), Failure> {
    let Some(queue) = connected.queue.take() else {
        return refused("ERR EXEC without MULTI");
    };
    let watched = std::mem::take(&mut connected.watched);
    if queue.is_broken {
        return refused("EXECABORT Transaction discarded because of previous errors.");
    }
    let keys = keys_of(&queue.commands);
    let server: &dyn ServerContext =
        if queue.commands.iter().any(asks_server) { &Frozen::new(server)? } else { server };
    let ClientState { settings, entry, room, .. } = connected;
    let level = settings.level();
    let done = engine.commit(&keys, |transaction| {
        let now_ms = transaction.now_ms();
        if watched.watches.values().any(|watch| watch.is_touched(now_ms)) {
            return Ok(None);
        }
        // The closure may run again, from where it began.
        let mut settings = settings.clone();
        let mut replies = Vec::with_capacity(queue.commands.len());
        let (mut bytes, limit) = (0, server.limits().reply_bytes_max);
        for command in &queue.commands {
            let args = Args::new(command).limited(server.limits());
            let began = Instant::now();
            let reply = run_inside(transaction, &mut settings, entry, server, &args)?;
            bytes += reply.text_bytes();
            if bytes > limit && !replies.is_empty() {
                let (size, limit) = (bytes as u64, limit as u64);
                return Err(KvsError::TooLarge { what: REPLY, size, limit });
            }
            replies.push((reply, began, Instant::now()));
        }
        if room.fits(bytes) { Ok(Some((replies, settings))) } else { Err(no_room(bytes)) }
    });
    let (done, position) = match done.map_err(of_closure) {
        Ok(done) => done,
        // The transaction runs when there is room for its replies.
        Err(Failure::NoRoom) => {
            (connected.queue, connected.watched) = (Some(queue), watched);
            return Err(Failure::NoRoom);
        }
        Err(failed) => return Err(failed),
    };
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
        if let Ok(spec) = registry().find(&Args::new(command)) {
            let failed = reply.is_error();
            let times = (began, ended);
            count(server, connected, &Counted { spec, command, position, times, failed });
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
    registry().find(&Args::new(command)).is_ok_and(|spec| matches!(spec.run, Run::Context(_)))
}

/// The keys whose values a transaction's commands need, as far as they are of the database that is selected.
fn keys_of(commands: &[Command]) -> Vec<&[u8]> {
    let mut keys = Vec::new();
    for command in commands {
        let args = Args::new(command);
        let Ok(spec) = registry().find(&args) else { continue };
        if spec.name == "select" {
            break;
        }
        keys.extend(spec.keys_read(&args));
    }
    keys
}
