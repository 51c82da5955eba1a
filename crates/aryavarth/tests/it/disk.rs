//! The store on a disk that does not do its part: a sync that fails, a disk that is full.
//!
//! The rules are those of the guarantees: after a failed sync nothing above the last good one is
//! ever shown or acknowledged again until the store is reopened; a full disk stops writes and
//! nothing else, and writes resume by themselves.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::task::{Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use aryavarth::fs::{Crash, Fault, Fs, OpenHow, SimFs, Site};
use aryavarth::{Batch, Durability, KeyRange, KvStore, KvsEngine, KvsError, Options};

fn options(fs: &SimFs) -> Options {
    Options {
        fs: Arc::new(fs.clone()),
        background: false,
        segment_bytes_min: 4096,
        seed: 1,
        ..Options::default()
    }
}

fn open(fs: &SimFs) -> KvStore {
    KvStore::open_with(Path::new("/db"), options(fs)).unwrap()
}

fn after(fs: &SimFs, crash: Crash) -> KvStore {
    open(&fs.crash(crash))
}

/// Batches that were appended in one call share no fate: a crash leaves the first ones, each whole.
#[test]
fn a_torn_call_keeps_the_first_of_its_batches() {
    let fs = SimFs::new();
    let store = open(&fs).with_durability(Durability::Os);
    store.put(b"before", b"").unwrap();
    store.flush().unwrap();
    let calls = fs.calls() as usize;
    // Each is longer than a sector, so that a crash can come between any two.
    let value = vec![7; 300];
    let pair =
        |n: u8| Batch::from([(vec![n, 0], value.as_slice()), (vec![n, 1], value.as_slice())]);
    let outcomes = store.write_each(&[0, 1, 2, 3].map(pair));
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(fs.trace()[calls..], [Site::FrameWrite], "one call");
    let mut kept = [0; 5];
    for seed in 0..300 {
        let left = after(&fs, Crash::Some { seed });
        let keys: Vec<_> = left.scan(KeyRange::all()).map(|entry| entry.unwrap().0).collect();
        let whole = (keys.len() - 1) / 2;
        let pairs = (0..whole as u8).flat_map(|n| [vec![n, 0], vec![n, 1]]);
        assert!(keys.iter().cloned().eq(pairs.chain([b"before".to_vec()])), "{keys:?}");
        kept[whole] += 1;
    }
    assert!(kept.iter().all(|count| *count > 0), "every number of batches occurs: {kept:?}");
}

#[test]
fn after_a_failed_sync_the_new_value_is_unknown_and_the_old_one_is_not_shown() {
    let fs = SimFs::new();
    let store = open(&fs);
    store.put(b"k", b"old").unwrap();
    store.put(b"other", b"kept").unwrap();
    fs.fail_next(Site::LogSync, Fault::LostSync);
    let error = store.put(b"k", b"new").unwrap_err();
    assert!(matches!(error, KvsError::Poisoned { .. }), "{error}");
    // Neither the value that may be lost nor the one that may be overwritten.
    assert!(matches!(store.read(b"k"), Err(KvsError::Poisoned { .. })));
    // Durable values are still readable, at every level.
    assert_eq!(store.read(b"other").unwrap().as_deref(), Some(&b"kept"[..]));
    let os = store.with_durability(Durability::Os);
    assert_eq!(os.read(b"other").unwrap().as_deref(), Some(&b"kept"[..]));
    assert!(matches!(os.read(b"k"), Err(KvsError::Poisoned { .. })));
    // No retry: the next sync would succeed, and say nothing about the pages that were dropped.
    assert!(matches!(store.put(b"x", b"y"), Err(KvsError::Poisoned { .. })));
    assert!(matches!(os.put(b"x", b"y"), Err(KvsError::Poisoned { .. })));
    assert!(matches!(store.flush(), Err(KvsError::Poisoned { .. })));
    assert!(matches!(store.compact(), Err(KvsError::Poisoned { .. })));
    assert!(matches!(store.close(), Err(KvsError::Poisoned { .. })));
    let store = after(&fs, Crash::Nothing);
    assert!(!store.recovery().clean);
    assert_eq!(store.read(b"other").unwrap().as_deref(), Some(&b"kept"[..]));
    let value = store.read(b"k").unwrap().unwrap();
    assert!(value == b"old" || value == b"new");
}

/// A task that goes on at once, on the thread that wakes it.
struct Inline {
    store: KvStore,
    told: Sender<Result<(), KvsError>>,
}

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        // A watch takes the writer's lock, which a write does not come to any more.
        let watched = self.store.watch(b"x").map(drop);
        let _ = self.told.send(watched.and_then(|()| self.store.put(b"x", b"y")));
    }
}

/// A write that fails gives the store up under the writer's lock, and woke the tasks that wait there
/// and then: one that went on at once, and came to that lock, hung.
#[test]
fn a_task_that_a_failed_write_wakes_may_go_on_at_once() {
    let fs = SimFs::new();
    let store = open(&fs);
    let (_, position) = KvsEngine::write(&store, Batch::new().put("k", "v")).unwrap();
    let (told, is_told) = channel();
    let waker = Waker::from(Arc::new(Inline { store: store.clone(), told }));
    assert!(store.on_reached(position, Durability::Always, &waker).is_pending());
    fs.fail_next(Site::FrameWrite, Fault::Io);
    let writer = thread::spawn(move || (store.put(b"a", b"b"), store.step()));
    let put = is_told.recv_timeout(Duration::from_secs(30)).expect("the task is woken and ends");
    assert!(matches!(put, Err(KvsError::Poisoned { .. })), "{put:?}");
    let (put, step) = writer.join().unwrap();
    assert!(matches!(put, Err(KvsError::Poisoned { .. })), "{put:?}");
    assert!(matches!(step, Err(KvsError::Poisoned { .. })), "{step:?}");
}

#[test]
fn a_removal_that_was_not_synced_is_not_shown_as_an_absence_either() {
    let fs = SimFs::new();
    let store = open(&fs);
    store.put(b"k", b"v").unwrap();
    fs.fail_next(Site::LogSync, Fault::LostSync);
    assert!(matches!(store.delete(b"k"), Err(KvsError::Poisoned { .. })));
    assert!(matches!(store.read(b"k"), Err(KvsError::Poisoned { .. })));
    let scanned: Result<Vec<_>, _> = store.scan(KeyRange::all()).collect();
    assert!(matches!(scanned, Err(KvsError::Poisoned { .. })));
}

/// Each append takes removed keys out of the index; not those whose removal is not on disk, since
/// nothing would then say how young their absence is.
#[test]
fn an_absence_is_not_shown_before_it_is_durable_although_the_log_went_on() {
    let asked: [fn(&KvStore) -> Option<KvsError>; 2] =
        [|store| store.read(b"k").err(), |store| store.delete(b"k").err()];
    for (ask, goes_on) in asked.into_iter().flat_map(|ask| [(ask, false), (ask, true)]) {
        let fs = SimFs::new();
        let store = open(&fs);
        store.put(b"k", b"v").unwrap();
        let os = store.with_durability(Durability::Os);
        assert!(os.delete(b"k").unwrap());
        if goes_on {
            os.put(b"other", b"v").unwrap();
        }
        fs.fail_next(Site::LogSync, Fault::LostSync);
        assert!(matches!(ask(&store), Some(KvsError::Poisoned { .. })));
    }
}

#[test]
fn waiting_threads_are_told_and_none_hangs() {
    let fs = SimFs::new();
    let store = open(&fs);
    store.put(b"k", b"v").unwrap();
    fs.fail_next(Site::LogSync, Fault::LostSync);
    let failed = thread::scope(|scope| {
        let threads: Vec<_> = (0..16u8)
            .map(|i| {
                let store = &store;
                scope.spawn(move || store.put(&[i], b"v").is_err())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).filter(|&failed| failed).count()
    });
    // Those whose write a good sync covered before the bad one were acknowledged, rightly.
    assert!(failed > 0);
}

#[test]
fn a_full_disk_stops_writes_and_nothing_else() {
    let fs = SimFs::new();
    let store = open(&fs);
    while store.step().unwrap() {}
    fs.limit_space(600 << 10);
    let mut acknowledged = Vec::new();
    let error = loop {
        let key = format!("key:{:05}", acknowledged.len()).into_bytes();
        match store.put(&key, &[7; 500]) {
            Ok(()) => acknowledged.push(key),
            Err(error) => break error,
        }
        store.step().unwrap();
        assert!(acknowledged.len() < 5_000, "the disk never got full");
    };
    assert!(matches!(error, KvsError::Full { .. }), "{error}");
    assert!(store.stats().full);
    // Reads go on.
    for key in &acknowledged {
        assert!(store.read(key).unwrap().is_some());
    }
    // So do removals, from the reserve, and compaction gives their space back.
    let removed = acknowledged.split_off(acknowledged.len() / 4);
    for key in &removed {
        assert!(store.delete(key).unwrap(), "a removal was refused on a full disk");
    }
    store.compact().unwrap();
    // Writes resume by themselves.
    for _ in 0..4 {
        store.step().unwrap();
    }
    store.put(b"again", b"v").unwrap();
    drop(store);
    let store = after(&fs, Crash::Nothing);
    for key in &acknowledged {
        assert!(store.read(key).unwrap().is_some());
    }
    for key in &removed {
        assert_eq!(store.read(key).unwrap(), None);
    }
}

/// The reserve is for removals, as long as it lasts.
#[test]
fn removals_go_on_when_not_a_byte_is_free() {
    let fs = SimFs::new();
    let store = open(&fs);
    let key = |i: u32| format!("key:{i:05}").into_bytes();
    for i in 0..400 {
        store.put(&key(i), &[7; 100]).unwrap();
    }
    while store.step().unwrap() {}
    fs.limit_space(fs.space_used());
    let more = (400..1000).position(|i| store.put(&key(i), &[7; 100]).is_err());
    assert!(more.is_some(), "the disk never got full");
    for i in 0..400 {
        assert!(store.delete(&key(i)).unwrap(), "removal {i} was refused");
    }
}

#[test]
fn writes_resume_within_two_seconds_when_there_is_space_again() {
    let fs = SimFs::new();
    let store =
        KvStore::open_with(Path::new("/db"), Options { background: true, ..options(&fs) }).unwrap();
    fs.limit_space(700 << 10);
    let mut i = 0_u32;
    while store.put(&i.to_be_bytes(), &[1; 2000]).is_ok() {
        i += 1;
        assert!(i < 5_000, "the disk never got full");
    }
    assert!(store.put(b"k", b"v").is_err());
    fs.limit_space(u64::MAX);
    let freed = Instant::now();
    while store.put(b"k", b"v").is_err() {
        assert!(freed.elapsed() < Duration::from_secs(10), "writes did not resume");
        thread::sleep(Duration::from_millis(20));
    }
    println!("writes resumed after {:?}", freed.elapsed());
    assert!(!store.stats().full);
}

#[test]
fn a_large_value_goes_through_the_log_whatever_the_segments_size() {
    let fs = SimFs::new();
    let store = open(&fs);
    for size in [0, 1, 4096, 65_536, 524_264, 524_265, 524_288, 1 << 20, (3 << 20) + 5] {
        let value: Vec<u8> = (0..=250).cycle().take(size).collect();
        let key = format!("size:{size}").into_bytes();
        store.put(&key, &value).unwrap();
        assert_eq!(store.read(&key).unwrap().as_deref(), Some(&value[..]), "{size} bytes");
        store.compact().unwrap();
        assert_eq!(store.read(&key).unwrap().as_deref(), Some(&value[..]), "{size} bytes, moved");
    }
    let before = store.stats();
    store.close().unwrap();
    let store = open(&fs);
    let (keys, live) = (store.stats().keys, store.stats().live_bytes);
    assert_eq!((keys, live), (before.keys, before.live_bytes));
}

#[test]
fn at_rest_the_directory_takes_twice_the_live_data_and_eight_mebibytes_at_most() {
    let fs = SimFs::new();
    let options =
        Options { segment_bytes_min: 1 << 20, durability: Durability::Os, ..options(&fs) };
    let store = KvStore::open_with(Path::new("/db"), options).unwrap();
    let settle = || {
        while store.step().unwrap() {}
        (fs.space_used(), 2 * store.stats().live_bytes + (8 << 20))
    };
    for i in 0..10_u32 {
        store.put(&i.to_be_bytes(), &[7; 100]).unwrap();
    }
    let (used, _) = settle();
    assert!(used < 1 << 20, "ten keys take {used} bytes");
    for i in 0..60_000_u32 {
        store.put(&(i % 100).to_be_bytes(), &[7; 250]).unwrap();
    }
    let (used, allowed) = settle();
    assert!(used <= allowed, "overwritten: {used} bytes, {allowed} are promised");
    for i in 0..100_u32 {
        assert!(store.delete(&i.to_be_bytes()).unwrap());
    }
    let (used, allowed) = settle();
    assert!(used <= allowed, "all removed: {used} bytes, {allowed} are promised");
}

/// At the levels that do not wait, a power cut takes no more than the last moments.
#[test]
fn what_nobody_waits_for_is_synced_all_the_same() {
    for level in [Durability::Interval(10), Durability::Os] {
        let options = Options { background: true, durability: level, ..options(&SimFs::new()) };
        let store = KvStore::open_with(Path::new("/db"), options).unwrap();
        store.put(b"k", b"v").unwrap();
        let written = store.stats().written_position;
        let began = Instant::now();
        while store.stats().durable_position < written {
            assert!(began.elapsed() < Duration::from_secs(20), "never synced at {level:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Space does not help a poisoned store, so it must not be told that space would.
#[test]
fn a_store_that_is_full_and_poisoned_says_poisoned() {
    let fs = SimFs::new();
    let store = open(&fs);
    fs.limit_space(600 << 10);
    let error = loop {
        if let Err(error) = store.put(b"k", &[7; 9_000]) {
            break error;
        }
    };
    assert!(matches!(error, KvsError::Full { .. }), "{error}");
    // Removals still go to the log.
    fs.fail_next(Site::LogSync, Fault::LostSync);
    assert!(matches!(store.delete(b"k"), Err(KvsError::Poisoned { .. })));
    assert!(matches!(store.put(b"k", b"v"), Err(KvsError::Poisoned { .. })));
    fs.limit_space(u64::MAX);
    assert!(matches!(store.put(b"k", b"v"), Err(KvsError::Poisoned { .. })));
    assert!(matches!(store.compact(), Err(KvsError::Poisoned { .. })));
}

/// The live part of a segment has to be copied before the whole is freed, and the freed files must
/// be closed before its space is there: a round over all segments at once found no space for that,
/// again and again.
#[test]
fn a_full_disk_is_compacted_segment_by_segment() {
    let fs = SimFs::new();
    let store = open(&fs);
    while store.step().unwrap() {}
    fs.limit_space(4 << 20);
    let mut keys = 0_u32;
    while store.put(&keys.to_be_bytes(), &[1; 2000]).is_ok() {
        keys += 1;
        store.step().unwrap();
        assert!(keys < 5_000, "the disk never got full");
    }
    // Of each segment something is left.
    for key in (0..keys).filter(|key| key % 2 == 0) {
        assert!(store.delete(&key.to_be_bytes()).unwrap(), "removal {key} of {keys} was refused");
    }
    store.compact().unwrap();
    while store.step().unwrap() {}
    assert!(!store.stats().full);
    for key in 0..keys / 4 {
        store.put(&key.to_be_bytes(), &[2; 2000]).unwrap();
        store.step().unwrap();
    }
    drop(store);
    let store = after(&fs, Crash::Nothing);
    for key in 0..keys {
        let value = store.read(&key.to_be_bytes()).unwrap();
        let expected = if key < keys / 4 {
            Some(vec![2; 2000])
        } else {
            (key % 2 == 1).then(|| vec![1; 2000])
        };
        assert_eq!(value, expected, "key {key} of {keys}");
    }
}

/// The reserve was given up after a round, and made again before the next one, which found no space
/// again: round after round was written and thrown away.
#[test]
fn a_compaction_that_needs_the_reserve_gets_it() {
    let fs = SimFs::new();
    let bytes = 64 << 10;
    let options = Options { segment_bytes_min: bytes, segment_bytes_max: bytes, ..options(&fs) };
    let store = KvStore::open_with(Path::new("/db"), options).unwrap();
    for key in 0..2000_u32 {
        store.put(&key.to_be_bytes(), &[1; 2000]).unwrap();
        store.step().unwrap();
    }
    for key in (0..2000_u32).filter(|key| key % 2 == 0) {
        assert!(store.delete(&key.to_be_bytes()).unwrap());
    }
    // Too little is dead for a compaction; then another program takes all the rest of the disk.
    while store.step().unwrap() {}
    fs.limit_space(fs.space_used());
    let refused = (2000..4000_u32).find(|key| store.put(&key.to_be_bytes(), &[1; 2000]).is_err());
    assert!(refused.is_some() && store.stats().full);
    let before = store.stats().compactions;
    let mut steps = 0;
    while store.step().unwrap() {
        steps += 1;
        assert!(steps < 100, "{:?}", store.stats());
    }
    assert!(store.stats().compactions > before);
    assert!(!store.stats().full);
    for key in 0..2000_u32 {
        assert_eq!(store.read(&key.to_be_bytes()).unwrap().is_some(), key % 2 == 1);
    }
}

/// Hint files take most of the space beyond the live data where values are small, and no
/// compaction gives it back. It was tried all the same after every write that a rest followed: up
/// to 256 MiB written for one key.
#[test]
fn at_rest_nothing_is_rewritten_that_gives_nothing_back() {
    let fs = SimFs::new();
    let options =
        Options { segment_bytes_min: 1 << 20, durability: Durability::Os, ..options(&fs) };
    let store = KvStore::open_with(Path::new("/db"), options).unwrap();
    let put = |keys: std::ops::Range<u64>| {
        for first in keys.step_by(500) {
            let keys = first..first + 500;
            let batch: Batch = keys.map(|key| (format!("key:{key:016}"), [7; 8])).collect();
            store.write(&batch).unwrap();
            store.step().unwrap();
        }
    };
    put(0..300_000);
    while store.step().unwrap() {}
    let copied = || fs.trace().iter().filter(|site| **site == Site::CopyWrite).count();
    let before = copied();
    for _ in 0..3 {
        store.put(b"one", b"more").unwrap();
        while store.step().unwrap() {}
    }
    assert_eq!(copied(), before, "rewritten for three keys");
    // Dead bytes come back all the same.
    put(0..150_000);
    while store.step().unwrap() {}
    assert!(copied() > before);
    let stats = store.stats();
    assert!(stats.disk_bytes <= 2 * stats.live_bytes + (8 << 20), "{stats:?}");
}

/// Space is bounded by the live data: a store that lost its keys keeps no reserve for them.
#[test]
fn the_reserve_shrinks_with_the_store() {
    let fs = SimFs::new();
    let reserve_bytes = || {
        let file = fs.open(Site::VerifyOpen, Path::new("/db/reserve"), OpenHow::Read).unwrap();
        file.len(Site::VerifyLength).unwrap()
    };
    let store = open(&fs);
    for key in 0..200_u32 {
        store.put(&key.to_be_bytes(), &vec![1; 50_000]).unwrap();
        store.step().unwrap();
    }
    assert!(reserve_bytes() > 256 << 10, "about as large as a segment");
    for key in 0..200_u32 {
        store.delete(&key.to_be_bytes()).unwrap();
    }
    while store.step().unwrap() {}
    assert_eq!(reserve_bytes(), 128 << 10);
}

/// Writes resumed only when the whole reserve had space again, although a smaller one is enough to
/// copy the live half of a segment.
#[test]
fn writes_resume_with_a_smaller_reserve_where_the_whole_has_no_space() {
    let fs = SimFs::new();
    let bytes = 1 << 20;
    let options = Options { segment_bytes_min: bytes, segment_bytes_max: bytes, ..options(&fs) };
    let store = KvStore::open_with(Path::new("/db"), options).unwrap();
    for key in 0..6_000_u32 {
        store.put(&key.to_be_bytes(), &[1; 1000]).unwrap();
        while store.step().unwrap() {}
    }
    let reserve_bytes = || {
        let file = fs.open(Site::VerifyOpen, Path::new("/db/reserve"), OpenHow::Read);
        file.map_or(0, |file| file.len(Site::VerifyLength).unwrap())
    };
    assert!(reserve_bytes() >= bytes / 2);
    fs.limit_space(fs.space_used());
    let refused = (6_000..9_000_u32).find(|key| store.put(&key.to_be_bytes(), &[1; 1000]).is_err());
    assert!(refused.is_some() && store.stats().full);
    let given_up = (0..3_000_u32).find(|key| {
        assert!(store.delete(&key.to_be_bytes()).unwrap());
        reserve_bytes() == 0
    });
    assert!(given_up.is_some_and(|removals| removals < 100), "{given_up:?}");
    // Another program leaves less than the whole reserve.
    fs.limit_space(fs.space_used() + (900 << 10));
    while store.step().unwrap() {}
    assert_eq!((store.stats().full, reserve_bytes()), (false, bytes / 8 * 5));
    store.put(b"k", b"v").unwrap();
}

/// The reserve is too small for the segments of today, and another program leaves no space for the
/// whole of a larger one: the least that the guarantee names is made in its place.
#[test]
fn a_reserve_that_is_too_small_grows_to_five_eighths_where_the_whole_has_no_space() {
    let fs = SimFs::new();
    let limited = |bytes: u64| {
        let limits = Options { segment_bytes_min: bytes, segment_bytes_max: bytes, ..options(&fs) };
        KvStore::open_with(Path::new("/db"), limits).unwrap()
    };
    let store = limited(256 << 10);
    for key in 0..6_000_u32 {
        store.put(&key.to_be_bytes(), &[1; 1000]).unwrap();
        while store.step().unwrap() {}
    }
    store.close().unwrap();
    let reserve_bytes = || {
        let file = fs.open(Site::VerifyOpen, Path::new("/db/reserve"), OpenHow::Read);
        file.map_or(0, |file| file.len(Site::VerifyLength).unwrap())
    };
    let bytes = 1 << 20;
    assert!((1..bytes / 2).contains(&reserve_bytes()));
    let store = limited(bytes);
    fs.limit_space(fs.space_used() + (900 << 10));
    while store.step().unwrap() {}
    assert_eq!((store.stats().full, reserve_bytes()), (false, bytes / 8 * 5));
}

/// A write that found no space left its first half in the file, whose zeros make it whole. A
/// shorter write goes over its beginning; behind that the rest must not pass for the log.
#[test]
fn what_a_full_disk_refused_does_not_come_back() {
    let fs = SimFs::new();
    let store = open(&fs);
    store.put(b"a", b"1").unwrap();
    while store.step().unwrap() {}
    let next = fs.calls();
    fs.fail_call(next, Fault::Short);
    fs.fail_call(next + 1, Fault::NoSpace);
    let refused = store.write(Batch::new().put("x", "refused").put("y", vec![0; 400]));
    assert!(refused.unwrap_err().is_full());
    let calls = [Site::FrameWrite, Site::FrameWrite, Site::FrameErase, Site::FrameEraseSync];
    assert_eq!(fs.trace()[next as usize..], calls);
    while store.step().unwrap() {}
    store.put(b"x", b"written").unwrap();
    for crash in [Crash::Nothing, Crash::Everything] {
        let store = after(&fs, crash);
        assert_eq!(store.read(b"x").unwrap().as_deref(), Some(&b"written"[..]));
        assert_eq!(store.read(b"y").unwrap(), None);
    }
}
