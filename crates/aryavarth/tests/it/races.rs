//! Races between readers, writers and compaction, each brought about on purpose: while one
//! operation is at a certain call of the file system, the other one happens. `docs/races.md`
//! lists them and the other tests that look for them.

use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use aryavarth::fs::{Crash, SimFs, Site};
use aryavarth::{Batch, Durability, KeyRange, KvStore, KvsEngine, Options, Wait};

use crate::regressions::{open, open_hooked, options};
use crate::runner::TestClock;

type Act = Box<dyn FnOnce() + Send>;
type Call = fn(&KvStore);

/// A store, and an act before its next call at a site, once.
struct Store {
    store: KvStore,
    next: Arc<Mutex<Option<Act>>>,
}

impl Store {
    fn new(fs: &SimFs, site: Site) -> Store {
        let next = Arc::new(Mutex::new(None::<Act>));
        let other = Arc::clone(&next);
        let store = open_hooked(fs, move |call| {
            let act = (call == site).then(|| other.lock().unwrap().take()).flatten();
            if let Some(act) = act {
                act();
            }
            Ok(())
        });
        Store { store, next }
    }

    fn before_the_next_call(&self, act: impl FnOnce(&KvStore) + Send + 'static) {
        let store = self.store.clone();
        *self.next.lock().unwrap() = Some(Box::new(move || act(&store)));
    }
}

fn os(store: &KvStore) -> KvStore {
    store.with_durability(Durability::Os)
}

fn rest(store: &KvStore) {
    for _ in 0..16 {
        store.step().unwrap();
    }
}

#[test]
fn a_record_is_read_although_its_file_is_gone() {
    let fs = SimFs::new();
    let held = Store::new(&fs, Site::RecordRead);
    let store = &held.store;
    store.put(b"k", b"value").unwrap();
    held.before_the_next_call(|store| {
        // Removed, closed as far as may be, and its place in the table taken by others.
        for i in 0..4u8 {
            store.compact().unwrap();
            store.put(&[i], b"other").unwrap();
            rest(store);
        }
    });
    assert_eq!(store.read(b"k").unwrap(), Some(b"value".to_vec()));
    assert_eq!(store.read(b"k").unwrap(), Some(b"value".to_vec()));
}

#[test]
fn a_scan_goes_on_although_its_files_are_gone() {
    let fs = SimFs::new();
    let held = Store::new(&fs, Site::RecordRead);
    let store = &held.store;
    for key in ["a", "b", "c"] {
        store.put(key.as_bytes(), key.as_bytes()).unwrap();
        store.compact().unwrap();
    }
    held.before_the_next_call(|store| {
        store.write(Batch::new().put("b", "new").delete("c")).unwrap();
        store.compact().unwrap();
        rest(store);
    });
    let all: Vec<_> = store.scan(KeyRange::all()).map(|entry| entry.unwrap().1).collect();
    assert_eq!(all, [b"a", b"b", b"c"], "what it found at the beginning");
}

/// A write, or a removal, that comes after compaction's pass and before its copies count.
#[test]
fn what_is_written_during_a_compaction_wins_also_after_a_crash() {
    for site in [Site::CopyWrite, Site::CopySync, Site::CopyDirSync] {
        let fs = SimFs::new();
        let held = Store::new(&fs, site);
        let store = &held.store;
        store.write(Batch::new().put("set", "old").put("gone", "old").put("kept", "old")).unwrap();
        // Ready for the next segment, which then has a lower number than the copy.
        rest(store);
        held.before_the_next_call(|store| {
            let store = os(store);
            store.write(Batch::new().put("set", "new").delete("gone")).unwrap();
        });
        store.compact().unwrap();
        let is_right = |store: &KvStore| {
            assert_eq!(store.read(b"set").unwrap(), Some(b"new".to_vec()), "{site:?}");
            assert_eq!(store.read(b"gone").unwrap(), None, "{site:?}");
            assert_eq!(store.read(b"kept").unwrap(), Some(b"old".to_vec()), "{site:?}");
        };
        is_right(store);
        // Whatever the crash leaves: a compaction may only count durable records.
        for crash in [Crash::Nothing, Crash::Everything, Crash::Some { seed: 1 }] {
            is_right(&open(fs.crash(crash)));
        }
        // Removed from the index, and compacted once more.
        rest(store);
        store.compact().unwrap();
        is_right(store);
        is_right(&open(fs.crash(Crash::Nothing)));
    }
}

#[test]
fn a_key_that_is_set_again_before_it_was_unlinked_stays() {
    let store = open(SimFs::new());
    store.put(b"k", b"1").unwrap();
    os(&store).delete(b"k").unwrap();
    os(&store).put(b"k", b"2").unwrap();
    // The removal is durable now and its turn comes, but the slot has moved on.
    store.flush().unwrap();
    rest(&store);
    assert_eq!(store.read(b"k").unwrap(), Some(b"2".to_vec()));
    assert_eq!(store.scan(KeyRange::all()).count(), 1);
}

/// The tombstone's segment pays to be compacted, that of the value does not.
#[test]
fn a_tombstone_stays_as_long_as_an_older_value_does() {
    let fs = SimFs::new();
    let store = open(fs.clone());
    let large = vec![1; 1 << 20];
    os(&store).put(b"k", b"back from the dead").unwrap();
    for i in 0..4u8 {
        os(&store).put(&[i], &large).unwrap();
    }
    store.compact().unwrap();
    assert!(store.delete(b"k").unwrap());
    for _ in 0..16 {
        os(&store).put(b"often", &large).unwrap();
    }
    os(&store).delete(b"often").unwrap();
    // Another segment takes over, so that nothing of this is left alone as the active one.
    store.flush().unwrap();
    let before = store.stats();
    for _ in 0..64 {
        store.step().unwrap();
    }
    let after = store.stats();
    assert!(after.compactions > before.compactions, "nothing was compacted");
    for crash in [Crash::Nothing, Crash::Everything] {
        let store = open(fs.crash(crash));
        assert_eq!(store.read(b"k").unwrap(), None);
        assert_eq!(store.stats().keys, 4);
    }
}

#[test]
fn a_write_that_is_not_durable_makes_nothing_garbage() {
    let fs = SimFs::new();
    let store = open(fs.clone());
    store.write(Batch::new().put("set", "old").put("gone", "old")).unwrap();
    store.compact().unwrap();
    os(&store).write(Batch::new().put("set", "new").delete("gone")).unwrap();
    let before = fs.crash(Crash::Nothing);
    assert_eq!(open(before).read(b"set").unwrap(), Some(b"old".to_vec()), "not synced yet");
    store.compact().unwrap();
    let store = open(fs.crash(Crash::Nothing));
    assert_eq!(store.read(b"set").unwrap(), Some(b"new".to_vec()));
    assert_eq!(store.read(b"gone").unwrap(), None);
}

#[test]
fn two_compactions_take_turns() {
    let fs = SimFs::new();
    let store = Arc::new(open(fs.clone()));
    let running = Arc::new(AtomicU64::new(0));
    thread::scope(|scope| {
        for thread in 0..3u8 {
            let (store, running) = (&store, &running);
            scope.spawn(move || {
                for i in 0..20u8 {
                    store.put(&[thread, i], &[i]).unwrap();
                    store.compact().unwrap();
                    running.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let all = |store: &KvStore| store.scan(KeyRange::all()).map(Result::unwrap).collect::<Vec<_>>();
    let found = all(&store);
    assert_eq!(found.len(), 60);
    assert_eq!(all(&open(fs.crash(Crash::Nothing))), found);
}

/// A closure's value is read before the lock is taken. By the time it is used, the key may have
/// another value in another segment, at the same place under the same table index.
#[test]
fn a_closure_does_not_take_an_old_value_from_a_place_that_looks_the_same() {
    let fs = SimFs::new();
    let held = Store::new(&fs, Site::RecordRead);
    let store = &held.store;
    store.put(b"k", b"1").unwrap();
    store.compact().unwrap();
    held.before_the_next_call(|store| {
        store.put(b"k", b"2").unwrap();
        // Until every free index was given out again.
        for _ in 0..6 {
            store.compact().unwrap();
            rest(store);
        }
    });
    let seen = store.transact(&[b"k"], |tx| tx.read(b"k")).unwrap();
    assert_eq!(seen, Some(b"2".to_vec()));
}

#[test]
fn the_counts_are_those_that_a_recovery_finds() {
    let fs = SimFs::new();
    let store =
        KvStore::open_with("/store", Options { segment_bytes_min: 4096, ..options(fs.clone()) })
            .unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                store.compact().unwrap();
            }
        });
        let writers: Vec<_> = (0..3u8)
            .map(|thread| {
                let store = os(&store);
                scope.spawn(move || {
                    for i in 0..400_usize {
                        let key = [(i * 7 % 16) as u8];
                        let value = vec![thread; i * 31 % 200];
                        match i % 4 {
                            0 => assert!(store.delete(&key).is_ok()),
                            1 => {
                                let mut batch = Batch::from([(key, value)]);
                                assert_eq!(store.write(batch.delete("k")).unwrap(), 0);
                            }
                            _ => store.put(&key, &value).unwrap(),
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let told = store.stats();
    store.close().unwrap();
    let found = open(fs).stats();
    assert_eq!((told.keys, told.live_bytes), (found.keys, found.live_bytes));
}

#[test]
fn a_clock_that_goes_back_makes_nothing_older() {
    let fs = SimFs::new();
    let clock = TestClock::new();
    for (round, now_ms) in [1_000_000, 1000, 0].into_iter().enumerate() {
        clock.set(now_ms);
        let options = Options { clock: clock.clone(), ..options(fs.clone()) };
        let store = KvStore::open_with("/store", options).unwrap();
        if let Some(last) = round.checked_sub(1) {
            assert_eq!(store.read(b"k").unwrap(), Some(vec![last as u8]));
        }
        store.put(b"k", &[round as u8]).unwrap();
        store.compact().unwrap();
        assert_eq!(KvsEngine::read(&store, b"k", Wait::Yes).unwrap().0, Some(vec![round as u8]));
    }
}

/// Reads take no lock: the locks of threads that are stuck in a call of the disk, a reader does
/// not need.
#[test]
fn reads_go_on_while_a_writer_a_sync_and_a_compaction_are_stuck() {
    // The call that sticks, its caller, and whether the readers outlasted it.
    let stories: [(Site, Call); 4] = [
        // Under the writer's mutex.
        (Site::FrameWrite, |store| drop(store.put(b"new", b"v"))),
        (Site::LogSync, |store| drop(store.put(b"new", b"v"))),
        (Site::CopySync, |store| drop(store.compact())),
        // Under the manifest's mutex.
        (Site::ManifestSync, |store| drop(store.compact())),
    ];
    for (site, stuck) in stories {
        let armed = Arc::new(AtomicBool::new(false));
        let (is_stuck, stuck_now) = channel();
        let (free, freed) = channel::<()>();
        let freed = Mutex::new(freed);
        let hook = armed.clone();
        let store = open_hooked(&SimFs::new(), move |called| {
            if called == site && hook.swap(false, Ordering::SeqCst) {
                is_stuck.send(()).unwrap();
                let _ = freed.lock().unwrap().recv_timeout(Duration::from_secs(60));
            }
            Ok(())
        });
        for i in 0..100_u8 {
            store.put(&[i], &[i; 100]).unwrap();
        }
        armed.store(true, Ordering::SeqCst);
        let other = store.clone();
        let victim = thread::spawn(move || stuck(&other));
        stuck_now.recv_timeout(Duration::from_secs(30)).expect("the call is made");
        let (reader, done) = (store.clone(), channel());
        let readers = thread::spawn(move || {
            for i in 0..100_u8 {
                assert_eq!(reader.read(&[i]).unwrap(), Some(vec![i; 100]));
                assert!(KvsEngine::read(&reader, &[i], Wait::No).is_ok());
            }
            assert_eq!(reader.read(b"never written").unwrap(), None);
            let all = KeyRange { end: Bound::Excluded(vec![100]), ..KeyRange::all() };
            assert_eq!(reader.scan(all).map(Result::unwrap).count(), 100);
            done.0.send(()).unwrap();
        });
        let outlasted = done.1.recv_timeout(Duration::from_secs(30));
        let _ = free.send(());
        readers.join().unwrap();
        victim.join().unwrap();
        assert!(outlasted.is_ok(), "a reader waited for whoever was stuck in {site:?}");
    }
}

/// The entries of an emptied space name records until they are given back, and compaction retires
/// these meanwhile.
#[test]
fn an_emptied_space_is_given_back_beside_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes_min: 4096, ..Options::default() };
    let store = KvStore::open_with(dir.path(), options).unwrap().with_durability(Durability::Os);
    store.put(b"stays", b"here").unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                store.compact().unwrap();
            }
        });
        scope.spawn(|| {
            let emptied = store.with_space(1);
            while !done.load(Ordering::Relaxed) {
                assert_eq!(store.read(b"stays").unwrap().as_deref(), Some(&b"here"[..]));
                for entry in emptied.scan(KeyRange::all()) {
                    let (key, value) = entry.unwrap();
                    assert_eq!(value[..2], key[..2], "the value of another key");
                }
            }
        });
        for round in 0..20_u8 {
            for key in 0..60_u8 {
                let value = [&[key, round][..], &[0; 200]].concat();
                store.with_space(1).put(&[key, round], &value).unwrap();
            }
            store.put(&[round % 3, round], &[0; 200]).unwrap();
            store.with_space(1).clear().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    store.flush().unwrap();
    store.compact().unwrap();
    let stats = store.stats();
    assert_eq!(stats.keys, 21);
    assert!(stats.disk_bytes < 1 << 20, "{stats:?}");
    store.close().unwrap();
    let again = KvStore::open(dir.path()).unwrap().stats();
    assert_eq!((again.keys, again.live_bytes), (stats.keys, stats.live_bytes));
}
