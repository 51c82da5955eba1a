//! Readers, writers and compaction at once: no key that exists is ever missing, no value is ever
//! wrong, and no batch is ever seen half.
//!
//! The article's `SkipMap::insert` over a present key let a concurrent `get` miss it (6 in 10,000
//! here), and its compaction could point a key back at an older value or at a file already gone.
//! `CONCURRENT_SECONDS` says how long each test runs (default 3).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aryavarth::{Batch, Durability, KeyRange, KvStore, KvsEngine, KvsError, Options};

const KEYS: u64 = 1_000;

fn seconds() -> Duration {
    let seconds = std::env::var("CONCURRENT_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(3))
}

fn key(i: u64) -> Vec<u8> {
    format!("key:{i:06}").into_bytes()
}

/// A value that says whose it is and how new, and is long enough to be torn.
fn value(key: u64, version: u64) -> Vec<u8> {
    let mut value = [key.to_le_bytes(), version.to_le_bytes()].concat();
    value.resize(16 + (version % 100) as usize, version as u8);
    value
}

fn version(key: u64, bytes: &[u8]) -> u64 {
    let found = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    assert_eq!(bytes, value(key, found), "a wrong value for key {key}");
    found
}

fn numbers(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

fn open(dir: &std::path::Path) -> KvStore {
    let options =
        Options { durability: Durability::Os, segment_bytes_min: 64 << 10, ..Options::default() };
    KvStore::open_with(dir, options).unwrap()
}

/// Eight readers, two writers, and compaction without pause.
#[test]
fn a_key_that_exists_is_never_missing_while_compaction_runs() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for i in 0..KEYS {
        store.put(&key(i), &value(i, 0)).unwrap();
    }
    let stop = AtomicBool::new(false);
    let (reads, writes, rounds) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for reader in 0..8 {
            let (store, stop, reads) = (&store, &stop, &reads);
            scope.spawn(move || {
                let mut next = numbers(reader + 1);
                let mut newest = vec![0; KEYS as usize];
                while !stop.load(Ordering::Relaxed) {
                    let i = next() % KEYS;
                    let bytes = store.read(&key(i)).unwrap();
                    let seen = version(i, &bytes.unwrap_or_else(|| panic!("key {i} is missing")));
                    assert!(seen >= newest[i as usize], "key {i} went back in time");
                    newest[i as usize] = seen;
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for writer in 0..2 {
            let (store, stop, writes) = (&store, &stop, &writes);
            scope.spawn(move || {
                let mut next = numbers(100 + writer);
                let mut versions = vec![0; KEYS as usize];
                while !stop.load(Ordering::Relaxed) {
                    let i = (next() % (KEYS / 2)) * 2 + writer;
                    versions[i as usize] += 1;
                    store.put(&key(i), &value(i, versions[i as usize])).unwrap();
                    writes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                store.compact().unwrap();
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        thread::sleep(seconds());
        stop.store(true, Ordering::Relaxed);
    });
    let all: Vec<_> = store.scan(KeyRange::all()).collect::<Result<_, _>>().unwrap();
    assert_eq!(all.len() as u64, KEYS);
    assert!(rounds.load(Ordering::Relaxed) > 0 && writes.load(Ordering::Relaxed) > 0);
    println!(
        "{reads:?} reads, {writes:?} writes, {rounds:?} compactions: nothing missing, nothing wrong"
    );
}

/// Keys come and go; a reader's answer must be an absence or right, and batches whole.
#[test]
fn a_batch_of_two_keys_is_never_seen_half() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let stop = AtomicBool::new(false);
    let seen_both = AtomicU64::new(0);
    store.write(Batch::new().put("a", value(1, 1)).put("b", value(1, 1))).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut at = 2;
            while !stop.load(Ordering::Relaxed) {
                let batch = |at| Batch::from([("a", value(1, at)), ("b", value(1, at))]);
                store.write(&batch(at)).unwrap();
                // Also if it is one of several that are appended together.
                let outcomes = store.write_each(&(at + 1..at + 8).map(batch).collect::<Vec<_>>());
                assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
                if at % 7 == 0 {
                    store.write(Batch::new().delete("a").delete("b")).unwrap();
                }
                at += 8;
            }
        });
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // One after the other: the second cannot be older than the first.
                    let first = store.read(b"a").unwrap().map(|bytes| version(1, &bytes));
                    let second = store.read(b"b").unwrap().map(|bytes| version(1, &bytes));
                    if let (Some(first), Some(second)) = (first, second) {
                        assert!(second >= first, "half a batch: a is {first}, b is {second}");
                        seen_both.fetch_add(1, Ordering::Relaxed);
                    }
                    // At one moment: both or neither, and the same.
                    let both = |entries: Vec<(Vec<u8>, Vec<u8>)>| match &entries[..] {
                        [] => {}
                        [(_, a), (_, b)] => assert_eq!(a, b, "half a batch in a scan"),
                        other => panic!("half a batch in a scan: {other:?}"),
                    };
                    both(store.scan(KeyRange::all()).collect::<Result<_, _>>().unwrap());
                    let [a, b] = store
                        .transact(&[b"a", b"b"], |tx| Ok([tx.read(b"a")?, tx.read(b"b")?]))
                        .unwrap();
                    assert_eq!(a, b, "half a batch in a closure");
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                store.compact().unwrap();
            }
        });
        thread::sleep(seconds());
        stop.store(true, Ordering::Relaxed);
    });
    assert!(seen_both.load(Ordering::Relaxed) > 0);
}

/// Many threads increment one counter through closures: none is lost, at any level.
#[test]
fn no_increment_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let threads = 8;
    let deadline = Instant::now() + seconds();
    let counts: Vec<u64> = thread::scope(|scope| {
        let count = || {
            let mut done = 0;
            while Instant::now() < deadline {
                store
                    .transact(&[b"counter"], |tx| {
                        let bytes = tx.read(b"counter")?.unwrap_or_else(|| vec![0; 8]);
                        let count = u64::from_le_bytes(bytes.try_into().unwrap());
                        tx.put("counter", (count + 1).to_le_bytes());
                        Ok(())
                    })
                    .unwrap();
                done += 1;
            }
            done
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(count)).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let bytes = store.read(b"counter").unwrap().unwrap();
    assert_eq!(u64::from_le_bytes(bytes.try_into().unwrap()), counts.iter().sum::<u64>());
}

/// The same few keys are removed and set again by several threads: entries are unlinked and reused
/// under the hands of readers, and of writers that found them before they waited for their turn;
/// and still every value belongs to its key.
#[test]
fn entries_are_reused_only_when_nobody_can_see_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in 0..3 {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || {
                let mut next = numbers(7 + writer);
                let mut at = 1;
                while !stop.load(Ordering::Relaxed) {
                    let i = next() % 32;
                    store.put(&key(i), &value(i, at)).unwrap();
                    store.delete(&key(i)).unwrap();
                    at += 1;
                }
            });
        }
        for reader in 0..4 {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || {
                let mut next = numbers(70 + reader);
                while !stop.load(Ordering::Relaxed) {
                    let i = next() % 32;
                    match store.read(&key(i)) {
                        Ok(Some(bytes)) => drop(version(i, &bytes)),
                        Ok(None) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                match store.compact() {
                    Ok(()) | Err(KvsError::Closed) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
        thread::sleep(seconds());
        stop.store(true, Ordering::Relaxed);
    });
    store.flush().unwrap();
    assert_eq!(store.scan(KeyRange::all()).count(), 0);
}
