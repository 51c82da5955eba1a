//! A store that is opened while its disk is full.
//!
//! Each open writes a new manifest, so a disk without a free block kept a store from starting: what
//! was to be removed to make room could not be reached. One reserve is kept for the open alone, and
//! the one for removals and compaction outlives it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use aryavarth::fs::{Crash, Fault, Fs, SimFs, Site};
use aryavarth::{KvStore, KvsError, Options, verify};

type Known = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

const DIR: &str = "/db";
const DISK_BYTES: u64 = 4 << 20;

fn options(fs: &SimFs) -> Options {
    Options {
        fs: Arc::new(fs.clone()),
        background: false,
        segment_bytes_min: 64 << 10,
        segment_bytes_max: 256 << 10,
        seed: 7,
        ..Options::default()
    }
}

fn open(fs: &SimFs) -> KvStore {
    KvStore::open_with(DIR, options(fs)).unwrap_or_else(|error| panic!("on a full disk: {error}"))
}

fn work(store: &KvStore) {
    while store.step().unwrap() {}
}

/// Writes until the disk is full; returns everything that was acknowledged.
fn fill(store: &KvStore, name: &str) -> Known {
    let mut known = Known::new();
    for n in 0_u32.. {
        let (key, value) = (format!("{name}-{n:05}").into_bytes(), vec![n as u8; 900]);
        match store.put(&key, &value) {
            Ok(()) => drop(known.insert(key, Some(value))),
            Err(KvsError::Full { .. }) => return known,
            Err(error) => panic!("a full disk is no reason for: {error}"),
        }
        if n % 16 == 0 {
            work(store);
        }
    }
    known
}

/// Removes up to `max` keys, until a removal is refused; returns how many went.
fn remove(store: &KvStore, known: &mut Known, max: usize) -> usize {
    let keys: Vec<_> = known.iter().filter(|(_, value)| value.is_some()).map(|(k, _)| k).collect();
    let keys: Vec<_> = keys.into_iter().take(max).cloned().collect();
    for (done, key) in keys.iter().enumerate() {
        match store.delete(key) {
            Ok(found) => assert!(found),
            Err(KvsError::Full { .. }) => return done,
            Err(error) => panic!("a full disk is no reason for: {error}"),
        }
        known.insert(key.clone(), None);
    }
    keys.len()
}

fn check(store: &KvStore, known: &Known) {
    for (key, value) in known {
        assert_eq!(&store.read(key).unwrap(), value, "{}", key.escape_ascii());
    }
}

/// The disk after a crash, without a free block.
fn crashed(fs: &SimFs, crash: Crash) -> SimFs {
    let left = fs.crash(crash);
    left.limit_space(left.space_used());
    left
}

#[test]
fn a_full_disk_keeps_no_store_from_starting() {
    let fs = SimFs::new();
    fs.limit_space(DISK_BYTES);
    let store = open(&fs);
    let mut known = fill(&store, "key");
    assert!(known.len() > 1000);
    for crash in [Crash::Nothing, Crash::Everything, Crash::Some { seed: 3 }] {
        let left = crashed(&fs, crash);
        let mut known = known.clone();
        let store = open(&left);
        check(&store, &known);
        assert!(remove(&store, &mut known, 300) > 100, "{crash:?}: removals have the reserve");
        store.compact().unwrap();
        work(&store);
        store.put(b"after", b"compaction").unwrap();
        check(&store, &known);
    }
    // The reserve goes to removals; what the open needs is still there.
    let all = known.len();
    let removed = remove(&store, &mut known, all);
    assert!(removed > 100 && removed < all, "{removed} of {all}: the reserve was not used up");
    for crash in [Crash::Nothing, Crash::Everything, Crash::Some { seed: 4 }] {
        let left = crashed(&fs, crash);
        let store = open(&left);
        check(&store, &known);
        store.compact().unwrap();
        work(&store);
        store.put(b"after", b"compaction").unwrap();
        check(&store, &known);
        store.close().unwrap();
        assert!(verify(DIR, &options(&left), |_, _| {}).unwrap().is_good());
    }
    // Closed, and opened again and again, with never a block to spare.
    drop(store);
    for _ in 0..3 {
        fs.limit_space(fs.space_used());
        let store = open(&fs);
        check(&store, &known);
        work(&store);
    }
}

/// What an open takes for itself it gives back: a failed one, and one that found its reserve emptied
/// by a crash.
#[test]
fn an_open_that_finds_no_space_at_all_leaves_the_store_as_it_was() {
    let fs = SimFs::new();
    let store = open(&fs);
    store.put(b"k", b"v").unwrap();
    work(&store);
    let left = fs.crash(Crash::Everything);
    for reserve in ["reserve", "reserve.open"] {
        left.remove(Site::ReserveRemove, &Path::new(DIR).join(reserve)).unwrap();
    }
    left.limit_space(left.space_used());
    let error = KvStore::open_with(DIR, options(&left)).unwrap_err();
    assert!(error.is_full(), "{error}");
    left.limit_space(u64::MAX);
    let store = open(&left);
    assert_eq!(store.read(b"k").unwrap(), Some(b"v".to_vec()));
}

/// A reserve that has to grow was removed before the larger one was made: a crash, or a disk that was
/// full for the larger one, left the next open without any.
#[test]
fn a_reserve_that_grows_is_never_missing() {
    let run = |fs: &SimFs| {
        let (segment_bytes_min, segment_bytes_max) = (1 << 20, 4 << 20);
        let options = Options { segment_bytes_min, segment_bytes_max, ..options(fs) };
        let Ok(store) = KvStore::open_with(DIR, options) else { return };
        for n in 0..8_u8 {
            if store.put(&[n], &vec![n; 200 << 10]).is_err() || store.step().is_err() {
                return;
            }
            while store.step().unwrap_or(false) {}
        }
    };
    let fs = SimFs::new();
    run(&fs);
    let trace = fs.trace();
    let grown = trace.iter().position(|site| *site == Site::ReserveRename).expect("it has grown");
    for call in grown - 4..grown + 4 {
        for crash in [Crash::Nothing, Crash::Everything] {
            let fs = SimFs::new();
            fs.fail_from(call as u64);
            run(&fs);
            let left = crashed(&fs, crash);
            let store = open(&left);
            let names = left.list(Site::DirList, Path::new(DIR)).unwrap();
            assert!(!names.iter().any(|name| name == "reserve.next"), "{names:?}");
            assert_eq!(store.read(&[0]).unwrap().unwrap(), vec![0; 200 << 10]);
        }
    }
    // No space for the larger one: the smaller one stays.
    let fs = SimFs::new();
    fs.fail_call(grown as u64 - 2, Fault::NoSpace);
    run(&fs);
    let names = fs.list(Site::DirList, Path::new(DIR)).unwrap();
    assert!(names.iter().any(|name| name == "reserve"), "{names:?}");
    assert!(!names.iter().any(|name| name == "reserve.next"), "{names:?}");
}
