//! Scrubbing a running store: rot is found while everything goes on, told by file, offset and key,
//! and nothing that compaction takes away passes for damage.

use std::path::Path;
use std::thread;

use aryavarth::fs::{Crash, Fs, OpenHow, SimFs, Site, read_full, write_full};
use aryavarth::{KvStore, KvsError, Options, Verdict, verify};

use crate::runner::{DIR, TestClock, options};

const SITE: Site = Site::SegmentOpen;

/// Flips a bit of the first place in the store's logs that holds `bytes`.
pub(crate) fn rot(fs: &SimFs, bytes: &[u8]) {
    assert!(rot_some(fs, bytes, 1) > 0, "no log holds these bytes");
}

/// The same in each log.
pub(crate) fn rot_each(fs: &SimFs, bytes: &[u8]) {
    assert!(rot_some(fs, bytes, usize::MAX) > 0, "no log holds these bytes");
}

fn rot_some(fs: &SimFs, bytes: &[u8], logs_max: usize) -> usize {
    let mut logs = 0;
    for name in fs.list(SITE, Path::new(DIR)).unwrap() {
        let path = Path::new(DIR).join(&name);
        let file = fs.open(SITE, &path, OpenHow::Write).unwrap();
        let mut contents = vec![0; file.len(SITE).unwrap() as usize];
        read_full(&*file, SITE, &mut contents, 0).unwrap();
        let at = contents.windows(bytes.len()).position(|part| part == bytes);
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        if let Some(at) = at.filter(|_| is_log && logs < logs_max) {
            write_full(&*file, SITE, &[contents[at] ^ 4], at as u64).unwrap();
            logs += 1;
        }
    }
    logs
}

/// Cuts the store's only sealed log to its header and `kept` bytes of records; returns how many
/// records of 1024 bytes it held.
fn cut(fs: &SimFs, kept: u64) -> u64 {
    let names = fs.list(SITE, Path::new(DIR)).unwrap();
    let id = names.iter().find_map(|name| name.strip_suffix(".hint")).unwrap();
    let path = Path::new(DIR).join(format!("{id}.log"));
    let file = fs.open(SITE, &path, OpenHow::Write).unwrap();
    let length = file.len(SITE).unwrap();
    file.truncate(SITE, 64 + kept).unwrap();
    (length - 64) / 1024
}

#[test]
fn a_flip_under_a_running_store_is_found_and_named() {
    let fs = SimFs::new();
    let store = KvStore::open_with(DIR, options(&fs)).unwrap();
    for n in 0..50 {
        store.put(format!("key-{n}").as_bytes(), format!("value-{n}-of-50").as_bytes()).unwrap();
    }
    store.compact().unwrap();
    let report = store.scrub().unwrap();
    assert_eq!((report.records, report.damaged), (50, 0));
    assert!(store.damage().is_empty());

    rot(&fs, b"value-31-of-50");
    let report = store.scrub().unwrap();
    assert_eq!((report.records, report.damaged), (49, 1));
    let [damage] = &store.damage()[..] else { panic!("one place: {:?}", store.damage()) };
    assert_eq!((&report.damage[0], damage.key_is_certain), (damage, true));
    assert_eq!(damage.key.as_deref(), Some(b"key-31".as_slice()));
    assert_eq!(store.stats().damaged_records, 1);
    assert!(store.stats().scrubbed_bytes >= report.bytes);

    // The store goes on, and the same damage is counted once.
    assert!(store.read(b"key-31").is_err());
    store.scrub().unwrap();
    assert_eq!(store.stats().damaged_records, 1);
    // A key that is written again has lost nothing any more; the damaged file is still there.
    store.put(b"key-31", b"new").unwrap();
    assert_eq!(store.read(b"key-31").unwrap(), Some(b"new".to_vec()));
    let [damage] = &store.damage()[..] else { panic!("one place: {:?}", store.damage()) };
    assert!(damage.verdict == Verdict::Dead && !damage.is_loss());
    let report = store.scrub().unwrap();
    assert!(report.is_good() && report.damaged == 1, "{report:?}");
    assert_eq!(store.stats().damaged_records, 0);
}

/// A record that had rotted and was then replaced kept `verify` at "damaged" for ever, because
/// compaction left its file alone.
#[test]
fn a_damaged_record_whose_key_was_written_again_is_no_loss() {
    let fs = SimFs::new();
    let verified = || {
        let report = verify(DIR, &options(&fs.crash(Crash::Everything)), |_, _| {}).unwrap();
        (report.is_good(), report.damaged, report.losses())
    };
    let store = KvStore::open_with(DIR, options(&fs)).unwrap();
    for key in ["replaced", "removed", "needed"] {
        store.put(key.as_bytes(), format!("the old value of {key}").as_bytes()).unwrap();
        store.put(format!("beside {key}").as_bytes(), &[7; 500]).unwrap();
    }
    store.compact().unwrap();
    for key in ["replaced", "removed", "needed"] {
        rot(&fs, format!("the old value of {key}").as_bytes());
    }
    assert_eq!(verified(), (false, 3, 3));
    store.put(b"replaced", b"new").unwrap();
    assert_eq!(verified(), (false, 3, 2));
    store.delete(b"removed").unwrap();
    assert_eq!(verified(), (false, 3, 1));
    store.put(b"needed", b"new").unwrap();
    assert_eq!(verified(), (true, 3, 0), "all three records are dead");
    store.compact().unwrap();
    assert_eq!(verified(), (true, 0, 0), "compaction takes them away");
    store.close().unwrap();
    let store = KvStore::open_with(DIR, options(&fs)).unwrap();
    assert_eq!(store.read(b"replaced").unwrap(), Some(b"new".to_vec()));
    assert_eq!(store.read(b"removed").unwrap(), None);
    assert_eq!(store.read(b"needed").unwrap(), Some(b"new".to_vec()));
}

/// A closure announces its keys, and one that removes a key does not need the value.
#[test]
fn a_closure_removes_and_replaces_what_is_damaged_and_does_not_read_it() {
    let fs = SimFs::new();
    let store = KvStore::open_with(DIR, options(&fs)).unwrap();
    store.put(b"removed", b"value-1-of-2").unwrap();
    store.put(b"replaced", b"value-2-of-2").unwrap();
    store.compact().unwrap();
    rot(&fs, b"value-1-of-2");
    rot(&fs, b"value-2-of-2");
    let read = store.transact(&[b"removed"], |tx| tx.read(b"removed"));
    assert!(matches!(read, Err(KvsError::Corrupt { .. })), "{read:?}");
    let done = store.transact(&[b"removed", b"replaced"], |tx| {
        assert!(tx.contains(b"removed")?);
        tx.delete("removed");
        tx.put("replaced", "new");
        Ok(())
    });
    done.unwrap();
    assert_eq!(store.read(b"removed").unwrap(), None);
    assert_eq!(store.read(b"replaced").unwrap(), Some(b"new".to_vec()));
}

/// The scrubber went on behind the end of the file, and stayed there for ever.
#[test]
fn a_file_that_was_cut_short_is_named_and_the_pass_ends() {
    // In a record, behind one, in the header, and at the end of a slice.
    for kept in [6 * 1024 + 500, 6 * 1024, 0, 30, 1 << 20] {
        let fs = SimFs::new();
        let options = Options { segment_bytes_min: 4 << 20, ..options(&fs) };
        let store = KvStore::open_with(DIR, options).unwrap();
        let records = if kept == 1 << 20 { 2 << 10 } else { 10 };
        for n in 0..records {
            // With its header, 1024 bytes.
            store.put(&u64::to_be_bytes(n), &[1; 992]).unwrap();
        }
        store.compact().unwrap();
        let whole = cut(&fs, kept);
        assert_eq!(whole, records, "one copy holds everything");
        let report = store.scrub().unwrap();
        let left = kept / 1024;
        assert_eq!(report.records, left, "{kept} bytes are left");
        assert_eq!(report.damaged, whole - left, "{:?}", report.damage.first());
        assert_eq!(store.damage().len() as u64, whole - left);
    }
}

/// A file that ends with a whole record was taken for complete: the round dropped it with all that
/// was missing, the keys were gone after the next open without a word, and until then a reader of one
/// of them looked for ever for a segment that was no more.
#[test]
fn compaction_leaves_a_file_alone_that_was_cut_short_behind_a_record() {
    let fs = SimFs::new();
    let options = Options { segment_bytes_min: 1 << 20, ..options(&fs) };
    let store = KvStore::open_with(DIR, options.clone()).unwrap();
    for n in 0..10_u64 {
        store.put(&n.to_be_bytes(), &[1; 992]).unwrap();
    }
    store.compact().unwrap();
    cut(&fs, 7 * 1024);
    let error = store.compact().unwrap_err();
    assert!(matches!(error, KvsError::Corrupt { offset: 7232, .. }), "{error}");
    for n in 0..10_u64 {
        let read = store.read(&n.to_be_bytes());
        assert_eq!(read.is_ok(), n < 7, "key {n}: {read:?}");
    }
    store.close().unwrap();
    let error = KvStore::open_with(DIR, options).unwrap_err();
    assert!(matches!(error, KvsError::Corrupt { .. }), "{error}");
}

/// A compaction that needs a damaged record fails, and later ones leave its file alone instead of reading
/// it in vain. Once the lost key is written again they take the file up, without a reopen.
#[test]
fn a_damaged_file_is_compacted_again_once_the_lost_keys_are_written_again() {
    let fs = SimFs::new();
    let options = Options { segment_bytes_min: 1 << 20, ..options(&fs) };
    let store = KvStore::open_with(DIR, options).unwrap();
    for n in 0..40_u8 {
        store.put(&[n], &vec![n + 100; 1000]).unwrap();
    }
    store.compact().unwrap();
    let whole = store.stats().disk_bytes;
    rot(&fs, &[107; 100]);
    rot(&fs, &[117; 100]);
    assert!(matches!(store.compact(), Err(KvsError::Corrupt { .. })));
    for n in (0..40).filter(|n| ![7, 17].contains(n)) {
        store.delete(&[n]).unwrap();
    }
    store.compact().expect("the file is left alone");
    assert!(store.stats().disk_bytes >= whole, "it still holds what was removed");
    store.put(&[7], b"again").unwrap();
    assert!(matches!(store.compact(), Err(KvsError::Corrupt { .. })), "the second loss is found");
    store.compact().expect("and the file is left alone again");
    store.delete(&[17]).unwrap();
    store.compact().unwrap();
    assert!(store.stats().disk_bytes < whole, "{:?}", store.stats());
    assert_eq!(store.scrub().unwrap().damaged, 0);
    assert_eq!(store.read(&[7]).unwrap().unwrap(), b"again");
}

#[test]
fn a_store_without_threads_scrubs_in_its_steps_as_the_clock_allows() {
    let (fs, clock) = (SimFs::new(), TestClock::new());
    let rate = 1 << 20;
    let options = Options { clock: clock.clone(), scrub_bytes_per_second: rate, ..options(&fs) };
    let store = KvStore::open_with(DIR, options).unwrap();
    for n in 0..10 {
        store.put(&[n], &vec![n + 100; 300 << 10]).unwrap();
    }
    store.compact().unwrap();
    rot(&fs, &[107; 100]);
    while store.step().unwrap() {}
    assert_eq!(store.stats().scrubbed_bytes, 0, "not right after an open");
    clock.set(TestClock::START_MS + 60_000);
    while store.step().unwrap() {}
    let slice = store.stats().scrubbed_bytes;
    assert!(slice > 0 && slice < 2 << 20, "one slice, then a rest: {slice}");
    for second in 61..75 {
        clock.set(TestClock::START_MS + second * 1000);
        while store.step().unwrap() {}
    }
    let pass = store.stats().scrubbed_bytes;
    assert!(pass > 3_000_000, "{pass}");
    assert_eq!(store.damage().len(), 1);
    clock.set(TestClock::START_MS + 3_600_000);
    while store.step().unwrap() {}
    assert_eq!(store.stats().scrubbed_bytes, pass, "a pass is followed by a day of rest");
    clock.set(TestClock::START_MS + 2 * 86_400_000);
    while store.step().unwrap() {}
    assert!(store.stats().scrubbed_bytes > pass);
}

#[test]
fn a_segment_that_compaction_takes_away_in_the_middle_is_left() {
    let (fs, clock) = (SimFs::new(), TestClock::new());
    let store = KvStore::open_with(DIR, Options { clock: clock.clone(), ..options(&fs) }).unwrap();
    for n in 0..10 {
        store.put(&[n], &vec![n + 100; 300 << 10]).unwrap();
    }
    store.compact().unwrap();
    clock.set(TestClock::START_MS + 60_000);
    assert!(store.step().unwrap(), "the pass has begun");
    while store.step().unwrap() {}
    let before = store.stats().scrubbed_bytes;
    store.compact().unwrap();
    for second in 61..75 {
        clock.set(TestClock::START_MS + second * 1000);
        while store.step().unwrap() {}
    }
    // The copies did not exist when the pass began; the next one reads them.
    assert_eq!(store.stats().scrubbed_bytes, before);
    for second in 86_500..86_520 {
        clock.set(TestClock::START_MS + second * 1000);
        while store.step().unwrap() {}
    }
    assert!(store.stats().scrubbed_bytes >= before + 3_000_000);
    assert!(store.damage().is_empty());
}

#[test]
fn a_rate_of_zero_is_off() {
    let (fs, clock) = (SimFs::new(), TestClock::new());
    let options = Options { clock: clock.clone(), scrub_bytes_per_second: 0, ..options(&fs) };
    let store = KvStore::open_with(DIR, options).unwrap();
    store.put(b"k", b"v").unwrap();
    store.compact().unwrap();
    clock.set(TestClock::START_MS + 86_400_000);
    while store.step().unwrap() {}
    assert_eq!(store.stats().scrubbed_bytes, 0);
    assert_eq!(store.scrub().unwrap().records, 1);
}

#[test]
fn scrubbing_beside_writers_and_compaction_finds_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes_min: 64 << 10, ..Options::default() };
    let store = KvStore::open_with(dir.path(), options).unwrap();
    let store = store.with_durability(aryavarth::Durability::Os);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..20_000u32 {
                store.put(&(n % 500).to_be_bytes(), &[n as u8; 100]).unwrap();
                if n % 2_000 == 0 {
                    store.compact().unwrap();
                }
            }
        });
        let mut records = 0;
        while !writer.is_finished() {
            let report = store.scrub().unwrap();
            assert_eq!(report.damaged, 0, "{:?}", report.damage);
            records += report.records;
        }
        assert!(records > 0);
    });
    assert!(store.damage().is_empty());
}
