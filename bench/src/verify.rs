//! Verifying a directory beside only reading its files, both from a cold cache.
//!
//! Whether verify keeps up with the disk depends on its work while the disk works. The plain
//! reader reads each file in pieces of 1 MiB, one after another. Before each slice the files'
//! pages are given back to the system, which works without being its administrator.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use aryavarth::{Batch, Durability, KvStore, Options};
use rustix::fs::{Advice, fadvise};

use crate::args::Args;
use crate::data::Rng;
use crate::figure::Figure;
use crate::outcome::{Outcome, progress};

const PIECE_BYTES: usize = 1 << 20;
const BATCH: u64 = 100;

pub(crate) fn run(args: &mut Args) -> Outcome {
    let keys: u64 = args.take("keys", 1_000_000)?;
    let value_bytes: usize = args.take("value-bytes", 1_000)?;
    let rounds: usize = args.take("rounds", 9)?;
    let parent: String = args.take("dir", ".".to_owned())?;
    args.finish()?;
    let dir = tempfile::tempdir_in(parent)?;
    progress("filling");
    fill(dir.path(), keys, value_bytes)?;

    let figure =
        |system| Figure { name: "verify".to_owned(), system, unit: "s", ..Figure::default() };
    let (mut plain, mut ours) = (figure("read"), figure("aryavarth"));
    for round in 0..rounds {
        progress(&format!("round {} of {rounds}", round + 1));
        for turn in 0..2 {
            forget(dir.path())?;
            let start = Instant::now();
            if (round + turn) % 2 == 0 {
                read(dir.path())?;
                plain.runs.push(start.elapsed().as_secs_f64());
            } else {
                let report = aryavarth::verify(dir.path(), &Options::default(), |_, _| {})?;
                ours.runs.push(start.elapsed().as_secs_f64());
                if !report.is_good() || report.records != keys / BATCH * BATCH {
                    return Err(format!("{report:?}").into());
                }
            }
        }
    }
    plain.print()?;
    ours.beside(&plain).print()?;
    Ok(true)
}

fn fill(dir: &Path, keys: u64, value_bytes: usize) -> Outcome {
    let options = Options { durability: Durability::Os, ..Options::default() };
    let store = KvStore::open_with(dir, options)?;
    let mut rng = Rng::new(1);
    for batch in 0..keys / BATCH {
        let mut writes = Batch::new();
        for n in 0..BATCH {
            let words =
                (0..value_bytes.div_ceil(8)).flat_map(|_| rng.below(u64::MAX).to_le_bytes());
            let value: Vec<u8> = words.take(value_bytes).collect();
            writes.put(format!("key-{:012}", batch * BATCH + n), value);
        }
        store.write(&writes)?;
    }
    store.close()?;
    Ok(true)
}

/// Has the system forget the pages of a directory's files.
fn forget(dir: &Path) -> Outcome {
    for entry in fs::read_dir(dir)? {
        let file = File::open(entry?.path())?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(true)
}

fn read(dir: &Path) -> Outcome {
    let mut piece = vec![0; PIECE_BYTES];
    for entry in fs::read_dir(dir)? {
        let file = File::open(entry?.path())?;
        let mut at = 0;
        loop {
            match file.read_at(&mut piece, at)? {
                0 => break,
                got => at += got as u64,
            }
        }
    }
    Ok(true)
}
