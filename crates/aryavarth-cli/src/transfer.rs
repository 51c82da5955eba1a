//! Export and import: all keys of a server as JSON lines, and back.
//!
//! This is how data moves between engines and machines: `aryavarth export | aryavarth import
//! --addr ...`. Each line is one pair and is imported by itself; a pair that the server has already
//! is skipped, and another value of its key overwritten. So an import that was cut short is simply
//! run again.

use std::collections::HashSet;
use std::io::{self, BufRead, Read};
use std::time::Duration;

use aryavarth_client::{ClientError, KvsClient, Pipeline, Reply};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::args::To;
use crate::client::{Pages, connect};
use crate::output::{Failure, Output};

/// Pairs of one pipeline, at most.
const BATCH_PAIRS: usize = 4096;
/// Bytes of one pipeline's pairs at which no further one is added.
const BATCH_BYTES: usize = 1 << 20;
/// The longest line: the largest value and key with every byte escaped.
const LINE_BYTES_MAX: u64 = 6 * (aryavarth::VALUE_BYTES_MAX as u64 + (64 << 10)) + 64;

#[derive(Deserialize)]
struct Pair {
    key: String,
    value: String,
}

/// What an import did.
#[derive(Default, Serialize)]
struct Imported {
    set: u64,
    equal: u64,
}

/// Prints all pairs whose keys begin with `prefix`, whatever `--json` says.
pub(crate) fn export(to: &To, prefix: &str) -> Result<(), Failure> {
    let output = Output::new(true);
    let progress = progress("exported");
    let mut pages = Pages::new(connect(to)?, prefix, None);
    while let Some(page) = pages.next_page()? {
        output.entries(&page)?;
        progress.inc(page.len() as u64);
    }
    progress.finish();
    Ok(())
}

/// Sets the pairs that come as JSON lines on standard input.
pub(crate) fn import(to: &To, output: &Output) -> Result<(), Failure> {
    let mut import = Import {
        client: connect(to)?,
        done: Imported::default(),
        batch: Vec::new(),
        batch_bytes: 0,
        batch_keys: HashSet::new(),
        progress: progress("imported"),
    };
    let mut stdin = io::stdin().lock();
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = stdin.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line);
        let read = read.map_err(|error| {
            Failure::Other(format!("cannot read line {number}: {error}; {RUN_AGAIN}"))
        })?;
        if read == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let pair = serde_json::from_slice(&line);
        let too_long = line.len() as u64 > LINE_BYTES_MAX;
        match pair {
            Ok(pair) if !too_long => import.add(pair)?,
            result => {
                // What stands before it counts all the same.
                import.send()?;
                let reason = match result {
                    Err(error) if !too_long => error.to_string(),
                    _ => format!("it is longer than {LINE_BYTES_MAX} bytes"),
                };
                return Err(Failure::Other(format!(
                    "line {number} is not {{\"key\":...,\"value\":...}}: {reason}. The lines before it \
                     were imported; correct it and run the import again"
                )));
            }
        }
    }
    import.send()?;
    import.progress.finish();
    let Imported { set, equal } = import.done;
    output.line(&format!("{set} set, {equal} equal already"), &import.done)
}

const RUN_AGAIN: &str =
    "what was imported so far is on disk; run the same import again, it skips what is there";

struct Import {
    client: KvsClient,
    done: Imported,
    batch: Vec<Pair>,
    batch_bytes: usize,
    /// So that a key comes once in a batch: what is compared is what was there before it.
    batch_keys: HashSet<String>,
    progress: ProgressBar,
}

impl Import {
    fn add(&mut self, pair: Pair) -> Result<(), Failure> {
        let full = self.batch.len() == BATCH_PAIRS || self.batch_bytes >= BATCH_BYTES;
        if full || self.batch_keys.contains(&pair.key) {
            self.send()?;
        }
        self.batch_bytes += pair.key.len() + pair.value.len();
        self.batch_keys.insert(pair.key.clone());
        self.batch.push(pair);
        Ok(())
    }

    /// Compares the batch with what the server has and sets what differs.
    fn send(&mut self) -> Result<(), Failure> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        self.batch_keys.clear();
        let count = batch.len() as u64;
        let gets = batch.iter().fold(Pipeline::new(), |all, pair| all.get(pair.key.as_str()));
        let mut sets = Pipeline::new();
        for (pair, reply) in batch.into_iter().zip(self.run(gets)?) {
            match reply {
                Ok(Reply::Value(Some(value))) if value == pair.value => self.done.equal += 1,
                // A value that is no text is overwritten like any other.
                Ok(_) | Err(ClientError::Server(_)) => sets = sets.set(pair.key, pair.value),
                Err(error) => return Err(stopped(&error)),
            }
        }
        for reply in self.run(sets)? {
            reply.map_err(|error| stopped(&error))?;
            self.done.set += 1;
        }
        self.progress.inc(count);
        Ok(())
    }

    fn run(&mut self, pipeline: Pipeline) -> Result<Vec<Result<Reply, ClientError>>, Failure> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        self.client.run(pipeline).map_err(|error| stopped(&error))
    }
}

fn stopped(error: &ClientError) -> Failure {
    Failure::Other(format!("{error}. {RUN_AGAIN}"))
}

/// How far it is, on a terminal; nothing elsewhere. How much will come is not known.
fn progress(verb: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    let template = format!("{{spinner}} {verb} {{human_pos}} ({{per_sec}}, {{elapsed}})");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
