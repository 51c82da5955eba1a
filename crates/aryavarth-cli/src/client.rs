//! The commands that talk to a server about keys: get, set, rm, ttl, scan, and compact.
//!
//! They speak the Redis protocol, which carries any bytes, deadlines, databases and passwords.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::thread;
use std::time::Duration;

use aryavarth_client::{ClientError, Commands, RedisClient, Value};
use serde::Serialize;

use crate::args::{At, SetOptions, To};
use crate::connect::{connect, refused};
use crate::keys;
use crate::output::{Failure, Lines, Output};
use crate::progress::Progress;
use crate::status::figures;

/// The most that is read from standard input: the largest value that any store takes.
const VALUE_BYTES_MAX: usize = aryavarth::VALUE_BYTES_MAX;
/// Values that are asked for together.
const BATCH_KEYS: usize = 256;
/// How often a compaction is looked at.
const COMPACTION_LOOK: Duration = Duration::from_millis(100);

pub(crate) fn get(at: &At, key: &OsStr, raw: bool, output: &Output) -> Result<(), Failure> {
    let mut client = connect(&at.to, at.db)?;
    match client.command(&[b"GET", key.as_bytes()])? {
        Value::Null => Err(Failure::KeyNotFound),
        Value::Bytes(value) => output.value(key.as_bytes(), &value, raw),
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn set(
    at: &At,
    key: &OsStr,
    value: &OsStr,
    options: &SetOptions,
) -> Result<(), Failure> {
    let value = if value == "-" { read_value()? } else { value.as_bytes().to_vec() };
    let SetOptions { ex, px, nx, xx } = options;
    let time = ex.map(|s| (&b"EX"[..], s)).or(px.map(|ms| (&b"PX"[..], ms)));
    let time = time.map(|(unit, number)| (unit, number.to_string()));
    let mut args: Vec<&[u8]> = vec![b"SET", key.as_bytes(), &value];
    if let Some((unit, number)) = &time {
        args.extend([unit, number.as_bytes()]);
    }
    args.extend(nx.then_some(&b"NX"[..]).or(xx.then_some(b"XX")));
    let reply = connect(&at.to, at.db)?.command(&args).map_err(|error| match error {
        ClientError::Server(text) => Failure::Other(refused(&at.to, &text)),
        error => error.into(),
    });
    match reply? {
        Value::Null if *nx => Err(Failure::NotSet("the key exists already")),
        Value::Null => Err(Failure::NotSet("Key not found")),
        _ => Ok(()),
    }
}

pub(crate) fn remove(at: &At, key: &OsStr) -> Result<(), Failure> {
    let removed = connect(&at.to, at.db)?.command(&[b"DEL", key.as_bytes()])?;
    if removed == Value::Integer(0) { Err(Failure::KeyNotFound) } else { Ok(()) }
}

#[derive(Serialize)]
struct TimeLeft {
    ttl_ms: Option<i64>,
}

/// Prints the seconds until a key is gone, to the millisecond.
pub(crate) fn ttl(at: &At, key: &OsStr, output: &Output) -> Result<(), Failure> {
    let left = connect(&at.to, at.db)?.command(&[b"PTTL", key.as_bytes()])?;
    match left.as_integer().ok_or_else(|| unexpected(&left))? {
        -2 => Err(Failure::KeyNotFound),
        -1 => output.line("none", &TimeLeft { ttl_ms: None }),
        ms => {
            let text = format!("{}.{:03}", ms / 1000, ms % 1000);
            output.line(&text, &TimeLeft { ttl_ms: Some(ms) })
        }
    }
}

pub(crate) fn scan(
    at: &At,
    prefix: &[u8],
    limit: Option<u64>,
    output: &Output,
) -> Result<(), Failure> {
    let mut client = connect(&at.to, at.db)?;
    let keys = keys::collect(&mut client, prefix, limit)?;
    let mut lines = Lines::default();
    for batch in keys.chunks(BATCH_KEYS) {
        print_entries(&mut client, batch, output, &mut lines)?;
    }
    lines.flush()
}

/// Prints keys with their values; a key that is gone meanwhile is left out.
fn print_entries(
    client: &mut RedisClient,
    keys: &[Vec<u8>],
    output: &Output,
    lines: &mut Lines,
) -> Result<(), Failure> {
    let mut commands = Commands::new();
    for key in keys {
        commands.push(&[b"GET", &**key]);
    }
    let (mut at, mut printed) = (0, Ok(()));
    client.pipeline_each(&commands, |reply| {
        let key = &keys[at];
        at += 1;
        if printed.is_ok() {
            printed = match reply {
                Value::Null => Ok(()),
                Value::Bytes(value) if output.is_json() => {
                    lines.add(key, &value, None, 0).map(drop)
                }
                Value::Bytes(value) => lines.add_text(key, &value),
                other => Err(unexpected(&other)),
            };
        }
    })?;
    printed
}

#[derive(Serialize)]
struct Compacted {
    disk_bytes_before: u64,
    disk_bytes: u64,
}

/// Has the server compact its files, and waits for the end.
pub(crate) fn compact(to: &To, output: &Output) -> Result<(), Failure> {
    let mut client = connect(to, 0)?;
    let disk_bytes = |client: &mut RedisClient| -> Result<u64, Failure> {
        Ok(figures(client)?.get("disk_bytes").and_then(|bytes| bytes.parse().ok()).unwrap_or(0))
    };
    let before = disk_bytes(&mut client)?;
    let progress = Progress::of_time("compacting");
    begin_compaction(&mut client)?;
    let error = end_of_compaction(&mut client)?;
    progress.end();
    if let Some(error) = error {
        return Err(Failure::Other(format!("the server could not compact: {error}")));
    }
    let disk_bytes = disk_bytes(&mut client)?;
    output.summary(&Compacted { disk_bytes_before: before, disk_bytes })
}

/// Has the server begin; a compaction that another client asked for ends first.
fn begin_compaction(client: &mut RedisClient) -> Result<(), Failure> {
    loop {
        match client.command(&["BGREWRITEAOF"]) {
            Err(ClientError::Server(text)) if text.contains("already in progress") => {
                end_of_compaction(client)?;
            }
            done => return Ok(done.map(drop)?),
        }
    }
}

/// Waits until no compaction runs that a client asked for; returns the error of the last one.
fn end_of_compaction(client: &mut RedisClient) -> Result<Option<String>, Failure> {
    loop {
        let mut figures = figures(client)?;
        if figures.get("aof_rewrite_in_progress").is_some_and(|n| n == "1") {
            thread::sleep(COMPACTION_LOOK);
            continue;
        }
        let has_failed = figures.get("aof_last_bgrewrite_status").is_some_and(|how| how == "err");
        let error = figures.remove("aof_last_bgrewrite_error").unwrap_or_default();
        return Ok(has_failed.then_some(error));
    }
}

fn unexpected(reply: &Value) -> Failure {
    match reply {
        Value::Error(text) => ClientError::Server(text.clone()).into(),
        other => ClientError::Protocol(format!("it answered {other:?}")).into(),
    }
}

/// The value on standard input, byte for byte.
fn read_value() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let limit = VALUE_BYTES_MAX as u64 + 1;
    io::stdin()
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::Other(format!("cannot read the value: {error}")))?;
    if bytes.len() > VALUE_BYTES_MAX {
        let message = format!("the value is too large: the limit is {VALUE_BYTES_MAX} bytes");
        return Err(Failure::Other(message));
    }
    Ok(bytes)
}
