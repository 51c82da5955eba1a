//! The least that a durable set must do.
//!
//! The bare loop is one thread that appends 140 bytes (the record of a 16-byte key and a 100-byte
//! value) to an allocated file and syncs it, again and again. The first round warms up and is not
//! counted.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};

use crate::args::Args;
use crate::figure::{Figure, per_second, print_machine};
use crate::{Outcome, progress};

const RECORD_BYTES: usize = 140;
const ALLOCATION_BYTES: u64 = 64 << 20;

pub(crate) fn run(args: &mut Args) -> Outcome {
    let slice = Duration::from_secs(args.take("seconds", 2)?);
    let rounds: usize = args.take("rounds", 9)?;
    let dir: String = args.take("dir", ".".to_owned())?;
    args.finish()?;

    let dir = tempfile::tempdir_in(dir)?;
    let mut bare = BareLoop::create(&dir.path().join("bare"))?;
    let mut runs = Vec::new();
    for round in 0..=rounds {
        let rate = bare.slice(slice)?;
        progress(&format!("round {round} of {rounds}: bare {rate:.0}/s"));
        if round > 0 {
            runs.push(rate);
        }
    }
    print_machine()?;
    let name = "append and sync, 1 thread".to_owned();
    Figure { name, system: "bare loop", unit: "1/s", runs, ..Figure::default() }.print()?;
    Ok(true)
}

/// Appends and syncs, and nothing else.
struct BareLoop {
    file: File,
    end: u64,
    allocated: u64,
}

impl BareLoop {
    fn create(path: &Path) -> io::Result<BareLoop> {
        Ok(BareLoop { file: File::create_new(path)?, end: 0, allocated: 0 })
    }

    /// Runs for as long as `slice` and returns the appends per second.
    fn slice(&mut self, slice: Duration) -> io::Result<f64> {
        let record = [b'r'; RECORD_BYTES];
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < slice {
            if self.end + RECORD_BYTES as u64 > self.allocated {
                let (from, more) = (self.allocated, ALLOCATION_BYTES);
                fallocate(&self.file, FallocateFlags::empty(), from, more)?;
                self.allocated += more;
            }
            self.file.write_all_at(&record, self.end)?;
            self.file.sync_data()?;
            self.end += RECORD_BYTES as u64;
            count += 1;
        }
        Ok(per_second(count, start.elapsed()))
    }
}
