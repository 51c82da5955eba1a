//! A key that was shown as expired stays gone after a power cut, although nothing was written when
//! its deadline passed and the wall clock was set back meanwhile.
//!
//! Each way to see that a key is not there is tried by itself, on a key that the sweep has not
//! removed: the power is cut as soon as the answer is out, and only synced bytes are left.

use std::sync::Arc;

use aryavarth::fs::{Crash, SimFs};
use aryavarth::{
    Batch, Deadline, Durability, KeyRange, KvStore, KvsEngine, KvsError, Options, Wait,
};

use crate::engines::at_hand;
use crate::runner::{DIR, TestClock, options};

const HOUR_MS: u64 = 3_600_000;
const KEY: &[u8] = b"session";

fn open(fs: &SimFs, clock: &Arc<TestClock>) -> KvStore {
    let clock: Arc<TestClock> = Arc::clone(clock);
    KvStore::open_with(DIR, Options { clock, ..options(fs) }).unwrap()
}

/// Shows a key as expired in one way, cuts the power, sets the wall clock back, and looks again.
fn told_and_cut(way: &str, tell: impl Fn(&KvStore)) {
    told_and_cut_by(way, Deadline::At, &tell);
    told_and_cut_by(way, Deadline::Wall, &tell);
}

fn told_and_cut_by(way: &str, deadline: fn(u64) -> Deadline, tell: &impl Fn(&KvStore)) {
    let (fs, clock) = (SimFs::new(), TestClock::new());
    let start = clock.pass(0);
    let store = open(&fs, &clock);
    store.put_with_deadline(KEY, b"Alice", deadline(start + 5000)).unwrap();
    store.put(b"other", b"stays").unwrap();
    clock.pass(5000);
    tell(&store);
    let left = fs.crash(Crash::Nothing);
    clock.set(start - HOUR_MS);
    let store = open(&left, &clock);
    assert_eq!(store.read(KEY).unwrap(), None, "told by {way}, it came back");
    assert!(store.now_ms() >= start + 5000, "told by {way}, time went back");
    assert_eq!(store.read(b"other").unwrap().unwrap(), b"stays");
    // The lower wall clock is accepted.
    store.put_until(b"new", b"by it", start).unwrap();
    assert_eq!(store.read(KEY).unwrap(), None, "told by {way}, it came back");
    assert_eq!(store.read(b"new").unwrap().unwrap(), b"by it");
}

#[test]
fn a_key_that_was_shown_as_expired_stays_gone_after_a_power_cut() {
    told_and_cut("read", |store| assert_eq!(store.read(KEY).unwrap(), None));
    told_and_cut("deadline", |store| assert_eq!(store.deadline(KEY).unwrap(), None));
    told_and_cut("keys", |store| {
        let page = KvsEngine::keys(store, &KeyRange::all(), 10).unwrap();
        assert_eq!(page.keys, [b"other"]);
        store.wait(page.position, Durability::Always).unwrap();
    });
    told_and_cut("scan", |store| assert_eq!(store.scan(KeyRange::all()).count(), 1));
    told_and_cut("scan back", |store| {
        assert_eq!(store.scan(KeyRange::all().reversed()).count(), 1);
    });
    told_and_cut("removal", |store| assert!(!store.delete(KEY).unwrap()));
    told_and_cut("removal of two", |store| {
        assert_eq!(store.write(Batch::new().delete(KEY).delete("absent")).unwrap(), 0);
    });
}

#[test]
fn a_walk_and_a_closure_that_pass_over_an_expired_key_show_it_too() {
    told_and_cut("walk", |store| {
        let step = KvsEngine::walk(store, 0, 10).unwrap();
        assert_eq!(step.keys, [b"other"]);
        store.wait(step.position, Durability::Always).unwrap();
    });
    told_and_cut("closure that reads", |store| {
        let value = store.transact(&[KEY], |transaction| transaction.read(KEY)).unwrap();
        assert_eq!(value, None);
    });
    told_and_cut("closure that lists", |store| {
        let keys =
            |transaction: &mut aryavarth::Transaction<'_>| transaction.keys(&KeyRange::all(), 10);
        assert_eq!(store.transact(&[], keys).unwrap(), [b"other"]);
    });
    told_and_cut("closure that writes another key", |store| {
        store
            .transact(&[], |transaction| {
                let is_there = transaction.contains(KEY)?;
                transaction.put("was there", is_there.to_string());
                Ok(())
            })
            .unwrap();
    });
    told_and_cut("closure that fails", |store| {
        let failed = store
            .transact(&[KEY], |transaction| transaction.read(KEY)?.ok_or(KvsError::KeyNotFound));
        assert!(matches!(failed, Err(KvsError::KeyNotFound)));
        // An error has no position: whoever lets it out waits for all that was written.
        store.flush().unwrap();
    });
}

/// A read in passing may not wait for a disk, so it gives up where it would have to write.
#[test]
fn a_read_in_passing_shows_no_expired_key_that_nothing_covers() {
    told_and_cut("read in passing", |store| {
        assert_eq!(at_hand(store.find(KEY, Wait::No)).unwrap(), None, "it would block");
        let deadline = KvsEngine::deadline(store, KEY, Wait::No);
        assert_eq!(at_hand(deadline).unwrap(), None, "it would block");
        let (found, position) = store.find(KEY, Wait::Yes).unwrap();
        assert_eq!(found, None);
        store.wait(position, Durability::Always).unwrap();
        let (found, _) = store.find(KEY, Wait::No).expect("it is covered now");
        assert_eq!(found, None);
    });
}

/// One answer covers all deadlines up to its time: the next ones write nothing.
#[test]
fn readers_of_expired_keys_share_a_stamp_and_others_write_none() {
    let (fs, clock) = (SimFs::new(), TestClock::new());
    let start = clock.pass(0);
    let store = open(&fs, &clock);
    for n in 0..100_u64 {
        store.put_until(&n.to_le_bytes(), b"v", start + 1000 + n).unwrap();
    }
    store.put(b"other", b"stays").unwrap();
    clock.pass(2000);
    let written = store.stats().written_position;
    assert_eq!(store.read(b"other").unwrap().unwrap(), b"stays");
    assert_eq!(store.stats().written_position, written, "a read of another key writes nothing");
    for n in 0..100_u64 {
        assert_eq!(store.read(&n.to_le_bytes()).unwrap(), None);
    }
    let stamped = store.stats().written_position - written;
    assert!((1..=128).contains(&stamped), "one mark, not one for each key: {stamped} bytes");
}

/// A segment may hold nothing but stamps: it is sealed, merged and opened like others.
#[test]
fn segments_with_nothing_but_stamps_are_opened_and_merged() {
    let (fs, clock) = (SimFs::new(), TestClock::new());
    let store = open(&fs, &clock);
    store.put(b"other", b"stays").unwrap();
    let start = clock.pass(0);
    let deadlines = (1..=40).map(|n| start + n * 1000);
    for deadline in deadlines.clone() {
        store.put_until(&deadline.to_le_bytes(), b"v", deadline).unwrap();
    }
    store.close().unwrap();
    for deadline in deadlines {
        let store = open(&fs, &clock);
        clock.pass(1000);
        assert_eq!(store.read(&deadline.to_le_bytes()).unwrap(), None);
        store.close().unwrap();
    }
    let store = open(&fs, &clock);
    store.compact().unwrap();
    assert_eq!(store.read(b"other").unwrap().unwrap(), b"stays");
    assert!(store.stats().segments <= 20, "{:?}", store.stats());
}

/// EXEC refused because a watched key has expired shows that it has.
#[test]
fn a_watch_that_is_touched_by_a_deadline_shows_it() {
    for deadline in [Deadline::At, Deadline::Wall] {
        let (fs, clock) = (SimFs::new(), TestClock::new());
        let start = clock.pass(0);
        let store = open(&fs, &clock);
        store.put_with_deadline(KEY, b"Alice", deadline(start + 5000)).unwrap();
        let watch = store.watch(KEY).unwrap();
        clock.pass(5000);
        assert!(store.transact(&[], |transaction| Ok(transaction.is_touched(&watch))).unwrap());
        let left = fs.crash(Crash::Nothing);
        clock.set(start - HOUR_MS);
        let store = open(&left, &clock);
        assert_eq!(store.read(KEY).unwrap(), None, "it came back");
    }
}

/// Time stands still in a closure, in a walk too.
#[test]
fn a_walk_in_a_closure_judges_by_the_time_of_the_closure() {
    let (fs, clock) = (SimFs::new(), TestClock::new());
    let start = clock.pass(0);
    let store = open(&fs, &clock);
    store.put_with_deadline(KEY, b"Alice", Deadline::At(start + 5000)).unwrap();
    let keys = store.transact(&[], |transaction| {
        clock.pass(5000);
        Ok((transaction.contains(KEY)?, transaction.walk(0, 10)?.keys))
    });
    assert_eq!(keys.unwrap(), (true, vec![KEY.to_vec()]));
}
