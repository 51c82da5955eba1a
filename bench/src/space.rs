//! A store's size on the disk at rest, after histories that leave much behind.
//!
//! The bound is the README's: 2 x the live data + 8 MiB ten seconds after the last write, and less
//! than 1 MiB for ten keys. Live data is counted here, from the history alone; the directory's size is counted
//! in allocated blocks of all its files, as `du` does.

use std::thread;
use std::time::{Duration, Instant};

use aryavarth::{Durability, KvStore, Options, record_bytes};

use crate::args::Args;
use crate::disk::allocated_bytes;
use crate::figure::{Figure, as_f64, print_machine};
use crate::outcome::{Outcome, progress};

const REST: Duration = Duration::from_secs(10);
const MIB: u64 = 1 << 20;

/// A history of writes, and the size that it must not exceed.
struct History {
    name: String,
    /// Bytes of the encoded records of the keys that live at the end.
    live: u64,
    limit: u64,
    /// Writes the history, whose length is the second argument.
    write: fn(&KvStore, u64) -> aryavarth::Result<()>,
}

pub(crate) fn run(args: &mut Args) -> Outcome {
    let keys: u64 = args.take("keys", 1_000_000)?;
    let dir: String = args.take("dir", ".".to_owned())?;
    args.finish()?;

    print_machine()?;
    let mut kept = true;
    for history in histories(keys) {
        let dir = tempfile::tempdir_in(&dir)?;
        let options = Options { durability: Durability::Os, ..Options::default() };
        let store = KvStore::open_with(dir.path().join("store"), options)?;
        let start = Instant::now();
        (history.write)(&store, keys)?;
        let (name, elapsed) = (&history.name, start.elapsed());
        progress(&format!("{name}: written in {elapsed:.1?}, resting for {REST:?}"));
        thread::sleep(REST);
        let taken = allocated_bytes(&dir.path().join("store"))?;
        if taken > history.limit {
            progress(&format!("{name}: {taken} bytes are over the bound of {}", history.limit));
            kept = false;
        }
        let ratio = (history.live > 0).then(|| as_f64(taken) / as_f64(history.live));
        Figure {
            name: format!("space at rest: {name}"),
            system: "aryavarth",
            unit: "B",
            runs: vec![as_f64(taken)],
            peer: Some("live data"),
            ratio,
            limit: Some(as_f64(history.limit)),
        }
        .print()?;
    }
    Ok(kept)
}

fn histories(keys: u64) -> Vec<History> {
    let record = |key, value| record_bytes(key, value) as u64;
    let bound = |live| 2 * live + 8 * MIB;
    let few = 10 * record(16, 100);
    let overwritten = keys.min(1000) * record(16, 100);
    let small = keys * record(8, 8);
    vec![
        History {
            name: "10 keys written once".to_owned(),
            live: few,
            limit: MIB - 1,
            write: |store, _| put_all(store, 10, 10),
        },
        History {
            name: format!("{keys} overwrites of 1000 keys"),
            live: overwritten,
            limit: bound(overwritten),
            write: |store, keys| put_all(store, keys, 1000),
        },
        History {
            name: format!("{keys} keys and values of 8 bytes, every other one overwritten"),
            live: small,
            limit: bound(small),
            write: |store, keys| {
                (0..keys).try_for_each(|n| store.put(&n.to_be_bytes(), b"a value!"))?;
                let mut every_other = (0..keys).step_by(2);
                every_other.try_for_each(|n| store.put(&n.to_be_bytes(), b"another!"))
            },
        },
        History {
            name: format!("{keys} keys loaded and all removed"),
            live: 0,
            limit: bound(0),
            write: |store, keys| {
                put_all(store, keys, keys)?;
                (0..keys).try_for_each(|n| store.delete(key(n).as_bytes()).map(drop))
            },
        },
    ]
}

/// Sets keys `count` times; after `distinct` of them they come again.
fn put_all(store: &KvStore, count: u64, distinct: u64) -> aryavarth::Result<()> {
    (0..count).try_for_each(|n| store.put(key(n % distinct).as_bytes(), &[b'v'; 100]))
}

/// A key of 16 bytes.
fn key(number: u64) -> String {
    format!("key{number:013}")
}
