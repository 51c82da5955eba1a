//! Measurements of Aryavarth beside bare loops that do only the unavoidable.
//!
//! A disk that is twice as fast in one minute as in the next makes absolute figures worthless, so
//! everything here is a ratio: both sides run in alternating slices of one run, each round gives
//! one ratio, and the median of the rounds counts. One JSON object per line goes to standard
//! output, progress to standard error.

mod args;
mod clients;
mod data;
mod disk;
mod engines;
mod figure;
mod group;
mod idle;
mod load;
mod memory;
mod nothing;
mod outcome;
mod peers;
mod pools;
mod redis;
mod redis_server;
mod report;
mod resp;
mod rows;
mod serve;
mod server;
mod slice;
mod sockets;
mod space;
mod verify;
mod wire;

use std::io::{self, Write};
use std::process::ExitCode;

use args::Args;
use outcome::Outcome;

const USAGE: &str = "\
usage: aryavarth-bench COMMAND [OPTIONS]

  engines [--keys N] [--value-bytes N] [--seconds N] [--rounds N] [--rest N] [--dir DIR]
          [--only PHASE,...] [--systems NAME,...] [--threads N,...]
      the engine beside its peers; phases: load, reopen, get, overwrite, mix, durable, space,
      memory; for a first look: --keys 10000 --seconds 0.1 --rounds 1 --rest 0
  pools [--keys N] [--value-bytes N] [--seconds N] [--rounds N] [--threads N] [--sets PERCENT]
        [--connections N,...] [--stores NAME,...] [--pools NAME,...] [--dir DIR]
      the server's thread pools beside each other, over stores in memory and on the disk
  server [--keys N] [--value-bytes N] [--seconds N] [--rounds N] [--threads N]
         [--connections N] [--pipelines N,...] [--dir DIR]
      the server over loopback, gets and sets at several depths of pipelines
  redis [--keys N] [--value-bytes N] [--seconds N] [--rounds N] [--threads N] [--connections N]
        [--pipelines N,...] [--only OPERATION,...] [--systems NAME,...] [--redis-server PATH]
        [--dir DIR]
      the server over the Redis protocol beside Debian's redis-server, which runs without
      persistence and with a sync before each reply; operations: GET, SET, INCR; for a first look:
      --keys 10000 --seconds 0.2 --rounds 1
  report [--in FILE] [--out FILE]
      draws the lines of other commands (default: standard input) into one page of charts
  rows [--in FILE]
      the rows of docs/article.md from the lines of other commands (default: standard input)
  idle --addr ADDR [--protocol json|redis] [--pid PID] [--connections N] [--busy N]
       [--seconds N] [--rounds N]
      the rate of busy connections to a running server, with and without idle ones beside them;
      with its process, also the memory that an idle one takes; exits with 1 if that is over
      16 KiB or anything went wrong
  space [--keys N] [--dir DIR]
      what a store takes on the disk at rest, after four histories; exits with 1 if over its bound
  verify [--keys N] [--value-bytes N] [--rounds N] [--dir DIR]
      the time that verify takes, beside plain reads of the files, both from a cold cache

DIR is where temporary directories are made (default: here); it must be on the disk to measure.
";

/// That of the command `aryavarth`, so that the servers measured here are those that users run. All
/// engines that are measured in this process have it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Outcome {
    let mut args = Args::parse(std::env::args().skip(1))?;
    match args.command.as_str() {
        "engines" => engines::run(&mut args),
        "idle" => idle::run(&mut args),
        "pools" => pools::run(&mut args),
        "redis" => redis::run(&mut args),
        "report" => report::run(&mut args),
        "rows" => rows::run(&mut args),
        "server" => server::run(&mut args),
        "space" => space::run(&mut args),
        "verify" => verify::run(&mut args),
        // `engines`, `server` and `redis` start these two for each system, in processes of their own.
        "memory" => memory::run(&mut args),
        "serve" => serve::run(&mut args),
        _ => Err(USAGE.into()),
    }
}
