//! Export: every key of a server with its value, its deadline and its database, one JSON object a
//! line.
//!
//! The keys are collected first and exported in order, one database after the other; a key that is
//! gone when its turn comes is left out. Value and deadline of a key are read in one transaction, so
//! they belong together. The export as a whole is not one moment of a store that is written to.
//!
//! A key whose value cannot be read does not keep the others from being saved: it is named at the end,
//! and the exit code says that the export is not whole.

use aryavarth_client::{ClientError, Commands, RedisClient, Value};
use serde::Serialize;

use crate::args::To;
use crate::connect::connect;
use crate::keys;
use crate::line::Entry;
use crate::output::{Failure, Lines, Output, counted, say};
use crate::progress::Progress;

/// Keys that are asked for together.
const BATCH_KEYS: usize = 128;
/// Replies to the commands of one key: MULTI, GET, PEXPIRETIME, EXEC.
const REPLIES_PER_KEY: usize = 4;

/// Keys without a value that are named; those beyond are counted.
const NAMED_MAX: usize = 1000;

/// The last words of an export.
#[derive(Default, Serialize)]
struct Summary {
    exported: u64,
    bytes: u64,
    /// Keys whose values could not be read.
    lost: u64,
    /// These keys and the reasons, in words.
    #[serde(skip)]
    named: Vec<String>,
}

/// Prints all entries whose keys begin with `prefix`, of one database or of all.
pub(crate) fn run(to: &To, prefix: &[u8], db: Option<u32>, output: &Output) -> Result<(), Failure> {
    let mut client = connect(to, db.unwrap_or(0))?;
    let databases = databases(&mut client)?.into_iter();
    let databases: Vec<_> = databases.filter(|(name, _)| db.is_none_or(|db| db == *name)).collect();
    let total = databases.iter().map(|(_, keys)| keys).sum();
    let mut export = Export {
        client,
        lines: Lines::default(),
        progress: Progress::of_keys("exported", prefix.is_empty().then_some(total)),
        done: Summary::default(),
    };
    for (db, _) in databases {
        export.database(db, prefix)?;
    }
    export.progress.end();
    export.done.print(output)
}

impl Summary {
    /// Prints the counts and the lost keys, which are a failure.
    fn print(&self, output: &Output) -> Result<(), Failure> {
        let Summary { exported, bytes, lost, named } = self;
        for line in named {
            output.error(line);
        }
        if output.is_json() {
            say(serde_json::json!(self));
        } else {
            say(format_args!(
                "{}, {bytes} bytes",
                counted(*exported, "key exported", "keys exported")
            ));
        }
        if *lost == 0 {
            return Ok(());
        }
        Err(Failure::Other(format!(
            "{} without a value in the export; all others are in it. Write each of them again from \
             its source, or remove it: `aryavarth damage` names the lost ones",
            counted(*lost, "key is", "keys are")
        )))
    }

    /// Notes a key whose value the server refuses.
    fn lose(&mut self, db: u32, key: &[u8], text: &str) {
        self.lost += 1;
        if self.named.len() < NAMED_MAX {
            let key = key.escape_ascii();
            self.named.push(format!("cannot export the key {key} of database {db}: {text}"));
        }
    }
}

/// The databases that have keys, and how many.
fn databases(client: &mut RedisClient) -> Result<Vec<(u32, u64)>, Failure> {
    let info = client.command(&["INFO", "keyspace"])?.into_bytes().unwrap_or_default();
    let info = String::from_utf8_lossy(&info).into_owned();
    let database = |line: &str| {
        let (name, figures) = line.strip_prefix("db")?.split_once(":keys=")?;
        let keys = figures.split(',').next()?;
        Some((name.parse().ok()?, keys.parse().ok()?))
    };
    Ok(info.lines().filter_map(database).collect())
}

struct Export {
    client: RedisClient,
    lines: Lines,
    progress: Progress,
    done: Summary,
}

impl Export {
    fn database(&mut self, db: u32, prefix: &[u8]) -> Result<(), Failure> {
        self.client.command(&["SELECT", &db.to_string()])?;
        let keys = keys::collect(&mut self.client, prefix, None)?;
        for batch in keys.chunks(BATCH_KEYS) {
            self.batch(db, batch)?;
        }
        Ok(())
    }

    fn batch(&mut self, db: u32, keys: &[Vec<u8>]) -> Result<(), Failure> {
        let mut commands = Commands::new();
        for key in keys {
            commands.push(&["MULTI"]);
            commands.push(&[b"GET", &**key]);
            commands.push(&[b"PEXPIRETIME", &**key]);
            commands.push(&["EXEC"]);
        }
        let (mut at, mut printed) = (0, Ok(()));
        let Export { client, lines, progress, done } = self;
        client.pipeline_each(&commands, |reply| {
            let key = &keys[at / REPLIES_PER_KEY];
            at += 1;
            if printed.is_ok() && at % REPLIES_PER_KEY == 0 {
                printed = entry(db, key, reply).and_then(|entry| {
                    let entry = match entry {
                        Read::Entry(entry) => entry,
                        Read::Gone => return Ok(()),
                        Read::Refused(text) => {
                            done.lose(db, key, &text);
                            return Ok(());
                        }
                    };
                    let bytes = lines.add(&entry.key, &entry.value, entry.deadline_ms, db)?;
                    done.exported += 1;
                    done.bytes += bytes;
                    progress.add_key(bytes);
                    Ok(())
                });
            }
        })?;
        printed?;
        self.lines.flush()
    }
}

/// The outcome of reading a key.
enum Read {
    Entry(Entry),
    Gone,
    /// The server's reason for no value, such as damage.
    Refused(String),
}

/// The value and the deadline in the reply to EXEC.
fn entry(db: u32, key: &[u8], reply: Value) -> Result<Read, Failure> {
    let results = match reply {
        Value::Array(results) => results,
        Value::Error(text) => return Ok(Read::Refused(text)),
        other => return Err(ClientError::Protocol(format!("it answered {other:?}")).into()),
    };
    match <[Value; 2]>::try_from(results) {
        Ok([Value::Null, _]) => Ok(Read::Gone),
        Ok([Value::Bytes(value), Value::Integer(deadline)]) => {
            let deadline_ms = u64::try_from(deadline).ok();
            Ok(Read::Entry(Entry { key: key.to_vec(), value, deadline_ms, db }))
        }
        Ok([Value::Error(text), _] | [_, Value::Error(text)]) => Ok(Read::Refused(text)),
        _ => Ok(Read::Refused("the server answered something else".to_owned())),
    }
}
