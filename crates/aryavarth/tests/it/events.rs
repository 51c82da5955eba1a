//! Events of a store: each change of state is told once, in order, and a slow listener holds up
//! nothing.

use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use aryavarth::fs::{Fault, SimFs, Site};
use aryavarth::{Event, Events, KvStore, KvsError, Options};

use crate::runner::{DIR, TestClock, options};
use crate::scrub::{rot, rot_each};

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn listen() -> (Events, Receiver<Event>) {
    let (sender, heard) = mpsc::channel();
    (Events::to(move |event| drop(sender.send(event.clone()))).unwrap(), heard)
}

fn open(fs: &SimFs) -> (KvStore, Receiver<Event>) {
    let (events, heard) = listen();
    let options = Options { events, ..options(fs) };
    (KvStore::open_with(DIR, options).unwrap(), heard)
}

fn next(heard: &Receiver<Event>) -> Event {
    heard.recv_timeout(PATIENCE).unwrap()
}

#[test]
fn a_disk_that_is_full_and_writable_again_is_told_once_each() {
    let fs = SimFs::new();
    let (store, heard) = open(&fs);
    while store.step().unwrap() {}
    fs.limit_space(fs.space_used());
    let mut refused = 0;
    for n in 0.. {
        match store.put(format!("{n}").as_bytes(), &[b'v'; 1000]) {
            Ok(()) => {}
            Err(KvsError::Full { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        // It tries again and again, and stays full.
        store.step().unwrap();
        if refused == 20 {
            break;
        }
    }
    assert!(matches!(next(&heard), Event::DiskFull { reason } if reason.contains("space")));
    fs.limit_space(u64::MAX);
    while store.step().unwrap() {}
    store.put(b"k", b"v").unwrap();
    assert!(matches!(next(&heard), Event::DiskWritable { .. }));
    store.close().unwrap();
    assert_eq!(heard.iter().collect::<Vec<_>>(), []);
}

#[test]
fn a_failed_sync_is_told_once() {
    let fs = SimFs::new();
    let (store, heard) = open(&fs);
    store.put(b"k", b"v").unwrap();
    fs.fail_next(Site::LogSync, Fault::LostSync);
    for _ in 0..3 {
        store.put(b"k", b"w").unwrap_err();
    }
    drop(store);
    let told: Vec<Event> = heard.iter().collect();
    assert!(
        matches!(&told[..], [Event::Poisoned { reason }] if reason.contains("sync")),
        "{told:?}"
    );
}

#[test]
fn a_jump_of_the_wall_clock_is_told_with_its_size() {
    let (clock, (events, heard)) = (TestClock::new(), listen());
    let fs = SimFs::new();
    let options = Options { events, clock: clock.clone(), ..options(&fs) };
    let store = KvStore::open_with(DIR, options).unwrap();
    clock.pass(2000);
    store.now_ms();
    clock.advance(3_600_000);
    store.now_ms();
    assert_eq!(next(&heard), Event::ClockJumped { by_ms: 3_600_000, offset_ms: 3_600_000 });
    clock.set(TestClock::START_MS + 2000);
    store.now_ms();
    assert_eq!(next(&heard), Event::ClockJumped { by_ms: -3_600_000, offset_ms: 0 });
}

#[test]
fn damage_that_a_read_meets_is_listed_and_told_once() {
    let fs = SimFs::new();
    let (store, heard) = open(&fs);
    store.put(b"key", b"a value to rot").unwrap();
    store.compact().unwrap();
    rot(&fs, b"a value to rot");
    for _ in 0..3 {
        assert!(matches!(store.read(b"key"), Err(KvsError::Corrupt { .. })));
    }
    let [damage] = &store.damage()[..] else { panic!("one place: {:?}", store.damage()) };
    assert_eq!((damage.key.as_deref(), damage.key_is_certain), (Some(&b"key"[..]), true));
    assert_eq!(store.stats().damaged_records, 1);
    store.scrub().unwrap();
    let offset = damage.offset;
    drop(store);
    let told: Vec<Event> = heard.iter().collect();
    let [Event::Damaged { path, offset: at, key, is_loss, .. }] = &told[..] else {
        panic!("one event: {told:?}")
    };
    assert_eq!((path.as_path(), *at, *is_loss), (damage_path(path), offset, true));
    assert_eq!(key.as_deref(), Some(&b"key"[..]));
}

fn damage_path(path: &Path) -> &Path {
    assert!(path.extension().is_some_and(|extension| extension == "log"));
    path
}

#[test]
fn a_compaction_that_fails_in_the_background_is_told_with_the_damage() {
    let fs = SimFs::new();
    let (events, heard) = listen();
    let options = Options { events, background: true, ..options(&fs) };
    let store = KvStore::open_with(DIR, options).unwrap();
    store.put(b"key", b"a value to rot").unwrap();
    store.compact().unwrap();
    rot_each(&fs, b"a value to rot");
    // More than the slack of dead bytes, so that a round is due.
    let start = Instant::now();
    let mut told = Vec::new();
    while !told.iter().any(|event| matches!(event, Event::CompactionFailed { .. })) {
        store.put(b"other", &vec![b'v'; 100_000]).unwrap();
        told.extend(heard.try_iter());
        assert!(start.elapsed() < PATIENCE, "{told:?}");
    }
    let is_damage = |event: &Event| matches!(event, Event::Damaged { .. });
    assert!(told.iter().any(is_damage) || heard.iter().any(|event| is_damage(&event)), "{told:?}");
}

#[test]
fn a_listener_that_stands_still_holds_up_no_write() {
    let fs = SimFs::new();
    let (go, wait) = mpsc::channel::<()>();
    let events = Events::to(move |_| wait.recv().unwrap_or_default()).unwrap();
    let clock = TestClock::new();
    let options = Options { events, clock: clock.clone(), ..options(&fs) };
    let store = KvStore::open_with(DIR, options).unwrap();
    clock.pass(2000);
    store.now_ms();
    for n in 0..2000_u64 {
        clock.advance(3_600_000);
        store.now_ms();
        store.put(&n.to_le_bytes(), b"v").unwrap();
    }
    assert!(store.stats().clock_jumps >= 2000);
    store.close().unwrap();
    drop(go);
}
