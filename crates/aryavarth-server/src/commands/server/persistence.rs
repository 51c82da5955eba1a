//! The server as a whole: TIME, ROLE, saves, compaction, SHUTDOWN, WAIT and WAITAOF.
//!
//! The log is the database, so a save is a sync, and it waits for no snapshot. A rewrite of the
//! append-only file is a compaction.

use std::time::Duration;

use aryavarth::Durability;
use aryavarth_protocol::Reply;

use crate::commands::kit::args::{Args, timeout};
use crate::commands::kit::context::{AfterReply, Context};
use crate::commands::kit::failure::{SYNTAX, refused};
use crate::commands::kit::spec::{Group, Outcome, Run, Spec};
use crate::process;

pub(crate) const SPECS: &[Spec] = &[
    Spec::new("bgrewriteaof", 1, "", Run::Context(compact))
        .flags("admin noscript no_async_loading")
        .cost("O(N), N being the live bytes, in the background")
        .says("Begins to rewrite the files without their dead records"),
    Spec::new("bgsave", -1, "[SCHEDULE]", Run::Context(sync_soon))
        .flags("admin noscript no_async_loading")
        .says("Begins to sync all writes, which happens anyway"),
    Spec::new("lastsave", 1, "", Run::Context(last_save))
        .flags("loading stale fast @admin @dangerous WAITS")
        .tips(&["nondeterministic_output"])
        .says("Returns when everything written was last known to be on disk, in Unix time"),
    Spec::new("role", 1, "", Run::Context(role))
        .flags("noscript loading stale fast @admin @dangerous WAITS")
        .since("2.8.12")
        .says("Returns that this server has no replicas"),
    // It waits for a disk, and inside a transaction it would wait for itself.
    Spec::new("save", 1, "", Run::Context(save))
        .flags("admin noscript no_async_loading no_multi WAITS")
        .says("Returns when everything that was written is on disk"),
    Spec::new("shutdown", -1, "[NOSAVE | SAVE] [NOW] [FORCE] [ABORT]", Run::Context(shutdown))
        .flags("admin noscript loading stale no_multi allow_busy")
        .says("Stops the server, with everything that was acknowledged on disk"),
    Spec::new("time", 1, "", Run::Context(time))
        .flags("loading stale fast")
        .tips(&["nondeterministic_output"])
        .since("2.6.0")
        .says("Returns the current server time"),
    Spec::new("wait", 3, "numreplicas timeout", Run::Context(wait))
        .flags("noscript @connection")
        .tips(&["request_policy:all_shards", "response_policy:agg_min"])
        .group(Group::Generic)
        .since("3.0.0")
        .says("Returns 0 after the timeout, since there are no replicas to wait for"),
    Spec::new("waitaof", 4, "numlocal numreplicas timeout", Run::Context(wait_for_disk))
        .flags("noscript WAITS @connection")
        .since("7.2.0")
        .says("Waits until all writes are on this server's disk, or the time is over"),
];

fn integer(number: u64) -> Reply {
    Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

fn time(_: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    let now = process::unix_time();
    let parts = [now.as_secs(), u64::from(now.subsec_micros())];
    Ok(Reply::Array(parts.into_iter().map(|part| Reply::bulk(part.to_string())).collect()))
}

fn role(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    let offset = integer(context.written().0);
    Ok(Reply::Array(vec![Reply::bulk("master"), offset, Reply::Array(Vec::new())]))
}

fn last_save(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    let stats = context.server.stats();
    Ok(integer(context.server.settings().saved_at(&stats)))
}

fn save(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    context.server.sync()?;
    context.server.settings().saved();
    Ok(Reply::OK)
}

fn sync_soon(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    if args.len() > 2 || args.len() == 2 && !args.is(1, "SCHEDULE") {
        return refused(SYNTAX);
    }
    context.server.sync_soon();
    Ok(Reply::Simple("Background saving started: all acknowledged writes are on disk already, no dump file is made".into()))
}

fn compact(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    if context.server.compact() {
        Ok(Reply::Simple("Background append only file rewriting started".into()))
    } else {
        refused("ERR Background append only file rewriting already in progress")
    }
}

fn shutdown(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let (mut saves, mut saves_not, mut aborts) = (false, false, false);
    for at in 1..args.len() {
        if args.is(at, "SAVE") {
            saves = true;
        } else if args.is(at, "NOSAVE") {
            saves_not = true;
        } else if args.is(at, "ABORT") {
            aborts = true;
        } else if !args.is(at, "NOW") && !args.is(at, "FORCE") {
            return refused(SYNTAX);
        }
    }
    if saves && saves_not || aborts && args.len() > 2 {
        return refused(SYNTAX);
    }
    if aborts {
        return refused("ERR No shutdown in progress.");
    }
    context.settings.then = AfterReply::Shutdown;
    Ok(Reply::OK)
}

fn wait(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let replicas = args.integer(1)?;
    let mut time = timeout(args, 2)?;
    if time.is_zero() {
        // For ever: there are no replicas.
        time = Duration::from_secs(u64::from(u32::MAX));
    }
    if replicas > 0 && !context.in_transaction {
        context.settings.then = AfterReply::Sleep(time);
    }
    Ok(Reply::Integer(0))
}

fn wait_for_disk(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let (local, replicas) = (args.integer(1)?, args.integer(2)?);
    if !(0..=1).contains(&local) {
        return refused("ERR value is out of range, value must between 0 and 1");
    }
    if replicas < 0 {
        return refused("ERR value is out of range, must be positive");
    }
    let time = timeout(args, 3)?;
    let stats = context.server.stats();
    let both = |local: i64| Reply::Array(vec![Reply::Integer(local), Reply::Integer(0)]);
    let is_there = stats.durable_position >= stats.written_position;
    if context.in_transaction {
        // Its own writes are on disk when its reply leaves, if the reply waits for them.
        let settings = &*context.settings;
        let level = settings.level();
        let waits = level == Durability::Always;
        if waits {
            // Also if a later command of the transaction chooses another level.
            context.settings.durability_once = Some(level);
        }
        return Ok(both(i64::from(waits)));
    }
    if local == 0 && replicas == 0 {
        return Ok(both(i64::from(is_there)));
    }
    // The reply says that everything is on disk, so it leaves when that is true.
    context.settings.durability_once = Some(Durability::Always);
    context.position = context.written();
    let also_replicas = replicas > 0;
    if also_replicas || !is_there {
        let time = (!time.is_zero()).then_some(time);
        context.settings.then = AfterReply::WaitForDisk { time, also_replicas };
    }
    Ok(both(1))
}
