//! Damage that a running store met is known after a restart: listed at the open, without a read, until the
//! lost key is written again and compaction has taken the damaged record away.

use std::path::Path;
use std::time::{Duration, Instant};

use aryavarth::fs::{Crash, Fs, OpenHow, SimFs, Site, read_full, write_full};
use aryavarth::{Damage, Event, KvStore, KvsError, Options, Verdict, verify};

use crate::events::listen;
use crate::runner::{DIR, TestClock, options};
use crate::scrub::rot;

const SITE: Site = Site::SegmentOpen;
const PATIENCE: Duration = Duration::from_secs(60);

/// A store of 50 keys in sealed files, two of which have rotted.
fn rotten(fs: &SimFs, options: Options) -> KvStore {
    let store = KvStore::open_with(DIR, options).unwrap();
    let sessions = store.with_space(7);
    for n in 0..50 {
        let store = if n == 31 { &sessions } else { &store };
        store.put(format!("key-{n}").as_bytes(), format!("value-{n}-of-50").as_bytes()).unwrap();
    }
    store.compact().unwrap();
    rot(fs, b"value-31-of-50");
    rot(fs, b"value-40-of-50");
    store
}

/// Opens the store again without a clean close, as after a kill.
fn reopened(fs: &SimFs) -> (SimFs, KvStore) {
    let fs = fs.crash(Crash::Everything);
    let store = KvStore::open_with(DIR, options(&fs)).unwrap();
    (fs, store)
}

/// All background work, up to a compaction that needs a damaged record.
fn work(store: &KvStore) {
    loop {
        match store.step() {
            Ok(true) => {}
            Ok(false) | Err(KvsError::Corrupt { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

fn has_note(fs: &SimFs) -> bool {
    fs.list(SITE, Path::new(DIR)).unwrap().iter().any(|name| name == "DAMAGE")
}

fn keys(damage: &[Damage]) -> Vec<&[u8]> {
    damage.iter().filter_map(|damage| damage.key.as_deref()).collect()
}

#[test]
fn damage_stays_known_over_restarts_until_its_record_is_gone() {
    let (fs, clock) = (SimFs::new(), TestClock::new());
    let store = rotten(&fs, Options { clock: clock.clone(), ..options(&fs) });
    clock.pass(5000);
    store.with_space(7).read(b"key-31").unwrap_err();
    assert!(!has_note(&fs), "a read writes nothing");
    work(&store);
    clock.pass(5000);
    store.scrub().unwrap();
    let known = store.damage();
    assert_eq!(keys(&known), [b"key-31", b"key-40"]);
    let first_seen: Vec<u64> =
        known.iter().map(|damage| damage.first_seen_ms - TestClock::START_MS).collect();
    assert_eq!(first_seen, [5000, 10_000]);
    assert_eq!((known[0].space, known[1].space), (Some(7), Some(0)));
    work(&store);

    let (fs, store) = reopened(&fs);
    assert_eq!(store.damage(), known, "before anything was read");
    assert_eq!(store.stats().damaged_records, 2);
    assert_eq!(store.stats().scrubbed_bytes, 0);
    store.with_space(7).put(b"key-31", b"new").unwrap();
    store.put(b"key-40", b"new").unwrap();
    work(&store);

    let (fs, store) = reopened(&fs);
    assert!(store.damage().iter().all(|damage| damage.verdict == Verdict::Dead));
    assert_eq!((store.damage().len(), store.stats().damaged_records), (2, 0));
    store.compact().unwrap();
    assert!(store.damage().is_empty());
    assert!(has_note(&fs));
    work(&store);
    assert!(!has_note(&fs), "there is nothing to remember");

    let (_, store) = reopened(&fs);
    assert!(store.damage().is_empty());
    assert_eq!(store.read(b"key-40").unwrap().as_deref(), Some(&b"new"[..]));
}

#[test]
fn the_background_writes_the_note_and_so_does_the_close() {
    let fs = SimFs::new();
    let store = rotten(&fs, Options { background: true, ..options(&fs) });
    store.read(b"key-40").unwrap_err();
    let start = Instant::now();
    while !has_note(&fs) {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    let (_, other) = reopened(&fs);
    assert_eq!(keys(&other.damage()), [b"key-40"]);
    drop(other);
    store.with_space(7).read(b"key-31").unwrap_err();
    store.close().unwrap();
    let store = KvStore::open_with(DIR, options(&fs)).unwrap();
    assert_eq!(keys(&store.damage()), [b"key-31", b"key-40"]);
}

/// A fault of the disk that has passed, as a cable makes it.
#[test]
fn a_place_that_is_whole_again_is_forgotten() {
    let fs = SimFs::new();
    let store = rotten(&fs, options(&fs));
    store.scrub().unwrap();
    work(&store);
    // The second flip of the same bits takes back the first.
    rot(&fs, b"ralue-31-of-50");
    let (fs, store) = reopened(&fs);
    assert_eq!(keys(&store.damage()), [b"key-40"]);
    rot(&fs, b"ralue-40-of-50");
    store.scrub().unwrap();
    assert!(store.damage().is_empty());
    work(&store);
    assert!(!has_note(&fs));
}

/// The note told of the place, the open found it whole, and it rots again: that is news.
#[test]
fn a_place_that_rots_again_is_told_again() {
    let fs = SimFs::new();
    let store = rotten(&fs, options(&fs));
    store.scrub().unwrap();
    work(&store);
    rot(&fs, b"ralue-31-of-50");
    let fs = fs.crash(Crash::Everything);
    let (events, heard) = listen();
    let store = KvStore::open_with(DIR, Options { events, ..options(&fs) }).unwrap();
    assert_eq!(keys(&store.damage()), [b"key-40"]);
    rot(&fs, b"value-31-of-50");
    store.scrub().unwrap();
    assert_eq!(keys(&store.damage()), [b"key-31", b"key-40"]);
    drop(store);
    let told: Vec<Event> = heard.iter().collect();
    let [Event::Damaged { key, .. }] = &told[..] else {
        panic!("the other one is known since the last run: {told:?}");
    };
    assert_eq!(key.as_deref(), Some(&b"key-31"[..]));
}

#[test]
fn a_note_that_is_damaged_or_anothers_is_no_damage_and_no_error() {
    let fs = SimFs::new();
    let store = rotten(&fs, options(&fs));
    store.scrub().unwrap();
    store.close().unwrap();
    let path = Path::new(DIR).join("DAMAGE");
    let note = |fs: &SimFs| fs.open(SITE, &path, OpenHow::Write).unwrap();
    let mut whole = vec![0; note(&fs).len(SITE).unwrap() as usize];
    read_full(&*note(&fs), SITE, &mut whole, 0).unwrap();
    for (at, byte) in whole.iter().enumerate() {
        let fs = fs.crash(Crash::Everything);
        write_full(&*note(&fs), SITE, &[byte ^ 0x20], at as u64).unwrap();
        let store = KvStore::open_with(DIR, options(&fs)).unwrap();
        assert!(store.damage().is_empty(), "byte {at}");
        store.scrub().unwrap();
        work(&store);
        assert_eq!(store.damage().len(), 2);
    }
    // The note of another store, whose files have the same numbers.
    let other = SimFs::new();
    let options = Options { seed: 43, ..options(&other) };
    let store = KvStore::open_with(DIR, options.clone()).unwrap();
    for n in 0..100 {
        store.put(format!("key-{n}").as_bytes(), b"another length of value").unwrap();
    }
    store.compact().unwrap();
    store.close().unwrap();
    let file = other.open(SITE, &path, OpenHow::CreateNew).unwrap();
    write_full(&*file, SITE, &whole, 0).unwrap();
    let store = KvStore::open_with(DIR, options.clone()).unwrap();
    assert!(store.damage().is_empty(), "{:?}", store.damage());
    store.close().unwrap();
    assert!(verify(DIR, &options, |_, _| {}).unwrap().is_good());
}

/// At every call the power is cut, or the call finds no space: no open fails, and no write.
#[test]
fn a_note_is_a_convenience_at_every_call() {
    let run = |fs: &SimFs| -> Result<(), KvsError> {
        let store = KvStore::open_with(DIR, options(fs))?;
        store.scrub()?;
        // A compaction in it may need a damaged record.
        while store.step().unwrap_or(false) {}
        store.put(b"key-40", b"new")?;
        store.with_space(7).delete(b"key-31")?;
        store.compact()?;
        while store.step()? {}
        store.close()
    };
    let before = SimFs::new();
    drop(rotten(&before, options(&before)));
    let fs = before.crash(Crash::Everything);
    let from = fs.calls();
    run(&fs).unwrap();
    let trace = fs.trace();
    for site in [
        Site::DamageNoteLeftover,
        Site::DamageNoteCreate,
        Site::DamageNoteWrite,
        Site::DamageNoteSync,
        Site::DamageNoteRename,
        Site::DamageNoteRemove,
    ] {
        assert!(trace.contains(&site), "{site:?}");
    }
    for call in from..fs.calls() {
        let site = trace[call as usize];
        let is_note = format!("{site:?}").starts_with("DamageNote");
        let fs = before.crash(Crash::Everything);
        fs.fail_from(call);
        drop(run(&fs));
        for crash in [Crash::Nothing, Crash::Everything, Crash::Some { seed: call }] {
            let fs = fs.crash(crash);
            let store = match KvStore::open_with(DIR, options(&fs)) {
                Ok(store) => store,
                // Without its hint, which is not synced, a rotten file has to be read.
                Err(KvsError::Corrupt { .. }) if crash != Crash::Everything => continue,
                Err(error) => panic!("{site:?}: {error}"),
            };
            assert!(store.damage().len() <= 2, "{site:?}: {:?}", store.damage());
            for n in (0..50).filter(|n| ![31, 40].contains(n)) {
                let value = store.read(format!("key-{n}").as_bytes()).unwrap();
                assert_eq!(value, Some(format!("value-{n}-of-50").into_bytes()), "{site:?}");
            }
            work(&store);
        }
        if is_note {
            let fs = before.crash(Crash::Everything);
            fs.fail_call(call, aryavarth::fs::Fault::NoSpace);
            run(&fs).unwrap_or_else(|error| panic!("{site:?}: {error}"));
        }
    }
}
