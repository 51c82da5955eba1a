//! Salvage: of a damaged directory everything that is whole, nothing that never was, and a word on
//! all that is lost. The damaged directory stays as it is, whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use aryavarth::fs::{Crash, Fault, Fs, FsFile, OpenHow, SimFs, Site, read_full, write_full};
use aryavarth::{
    Batch, Damage, Deadline, KeyRange, KvStore, KvsError, Options, SalvageReport, verify,
};

use crate::runner::{DIR, options};

const SITE: Site = Site::SegmentOpen;
const OUT: &str = "/saved";

type Key = Vec<u8>;
type Pairs = BTreeMap<Key, Vec<u8>>;

/// A store's disk, and everything that was ever in the store.
struct Disk {
    fs: SimFs,
    now: Pairs,
    before_last: Pairs,
    /// Every value that a key ever had.
    history: BTreeMap<Key, BTreeSet<Vec<u8>>>,
}

impl Disk {
    /// A store that was overwritten, removed from, compacted once and then closed or killed.
    fn made(writes: u32, closed: bool) -> Disk {
        let fs = SimFs::new();
        let store = KvStore::open_with(DIR, options(&fs)).unwrap();
        let (mut now, mut before_last) = (Pairs::new(), Pairs::new());
        let mut history: BTreeMap<Key, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for n in 0..writes {
            before_last.clone_from(&now);
            let key = format!("key-{:02}", n * 7 % (writes / 2)).into_bytes();
            if n % 9 == 8 {
                store.delete(&key).unwrap();
                now.remove(&key);
            } else if n % 11 == 10 {
                let (a, b) = (format!("a-{}", n % 3), format!("b-{}", n % 3));
                let mut batch = Batch::from([(a.as_str(), [n as u8]), (b.as_str(), [n as u8])]);
                store.write(batch.delete(key.as_slice())).unwrap();
                now.remove(&key);
                for key in [a, b] {
                    history.entry(key.clone().into_bytes()).or_default().insert(vec![n as u8]);
                    now.insert(key.into_bytes(), vec![n as u8]);
                }
            } else {
                let value = vec![n as u8; (5 + n * 37 % 200) as usize];
                store.put(&key, &value).unwrap();
                history.entry(key.clone()).or_default().insert(value.clone());
                now.insert(key, value);
            }
            if n == writes / 2 {
                store.compact().unwrap();
            }
            while store.step().unwrap() {}
        }
        let killed = fs.crash(Crash::Everything);
        store.close().unwrap();
        let fs = if closed { fs.crash(Crash::Everything) } else { killed };
        Disk { fs, now, before_last, history }
    }

    /// A copy of the disk with one file changed.
    fn damaged(&self, path: &Path, damage: impl FnOnce(&dyn FsFile)) -> SimFs {
        let fs = self.fs.crash(Crash::Everything);
        let file = fs.open(SITE, path, OpenHow::Write).unwrap();
        damage(&*file);
        file.sync(SITE).unwrap();
        fs
    }

    fn flipped(&self, path: &Path, at: usize, bits: u8) -> SimFs {
        self.damaged(path, |file| {
            let mut byte = [0];
            read_full(file, SITE, &mut byte, at as u64).unwrap();
            write_full(file, SITE, &[byte[0] ^ bits], at as u64).unwrap();
        })
    }

    fn without(&self, path: &Path) -> SimFs {
        let fs = self.fs.crash(Crash::Everything);
        fs.remove(Site::SegmentRemove, path).unwrap();
        fs
    }

    /// The names of files that end in `suffix`.
    fn paths(&self, suffix: &str) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = files(&self.fs, DIR).into_keys().collect();
        paths.retain(|path| path.to_str().unwrap().ends_with(suffix));
        paths
    }

    /// No value that the key never had, and no key that never was.
    fn check_history(&self, saved: &Pairs) {
        for (key, value) in saved {
            let had = self.history.get(key).is_some_and(|values| values.contains(value));
            assert!(had, "{} never had this value", key.escape_ascii());
        }
    }
}

/// The files of a directory with their bytes up to the last one that is not zero, and lengths.
fn files(fs: &SimFs, dir: &str) -> BTreeMap<PathBuf, (u64, Vec<u8>)> {
    let names = fs.list(SITE, Path::new(dir)).unwrap();
    let files = names.iter().map(|name| {
        let path = Path::new(dir).join(name);
        let file = fs.open(SITE, &path, OpenHow::Read).unwrap();
        let length = file.len(SITE).unwrap();
        let mut bytes = vec![0; length as usize];
        read_full(&*file, SITE, &mut bytes, 0).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(used);
        (path, (length, bytes))
    });
    files.collect()
}

/// Salvages the store, opens the copy, and sees that the input is as it was.
fn salvage(fs: &SimFs) -> (Pairs, SalvageReport) {
    let before = files(fs, DIR);
    let report = aryavarth::salvage(DIR, OUT, &options(fs), |done, all| assert!(done <= all));
    let report = report.unwrap();
    assert_eq!(files(fs, DIR), before, "the damaged directory is not touched");
    // Unsynced writes do not count.
    let fs = fs.crash(Crash::Nothing);
    let store = KvStore::open_with(OUT, options(&fs)).unwrap();
    assert!(store.recovery().clean, "the new store is a closed one");
    let saved: Pairs = store.scan(KeyRange::all()).collect::<Result<_, _>>().unwrap();
    assert_eq!(saved.len() as u64, report.keys);
    for stale in &report.stale {
        assert!(saved.contains_key(&stale.key) && stale.seq < stale.lost_seq);
    }
    fs.fail_from(0);
    (saved, report)
}

/// How many damaged directories the longest test salvages.
fn salvages() -> usize {
    std::env::var("SALVAGES").map_or(2_000, |number| number.parse().expect("a number"))
}

fn certain_keys(damage: &[Damage]) -> BTreeSet<&[u8]> {
    damage.iter().filter(|d| d.key_is_certain).filter_map(|d| d.key.as_deref()).collect()
}

#[test]
fn a_whole_store_is_saved_as_it_is() {
    for closed in [true, false] {
        let disk = Disk::made(60, closed);
        let (saved, report) = salvage(&disk.fs);
        assert_eq!(saved, disk.now);
        let good = report.read.damage.is_empty() && report.manifest_is_whole;
        assert!(good && report.stale.is_empty() && report.doubtful == 0, "{report:?}");
        // The copy can be written to.
        let store = KvStore::open_with(OUT, options(&disk.fs)).unwrap();
        store.put(b"key-00", b"new").unwrap();
        store.compact().unwrap();
        store.close().unwrap();
        let store = KvStore::open_with(OUT, options(&disk.fs)).unwrap();
        assert_eq!(store.read(b"key-00").unwrap(), Some(b"new".to_vec()));
    }
}

#[test]
fn after_a_flipped_byte_all_but_the_damaged_record_is_saved() {
    let disk = Disk::made(44, true);
    let (mut stale, mut lost, mut flips) = (0, 0, 0);
    let all: usize = files(&disk.fs, DIR).values().map(|(_, bytes)| bytes.len()).sum();
    let every = (all / salvages()).max(1);
    for (path, (_, bytes)) in files(&disk.fs, DIR) {
        for at in (0..bytes.len()).step_by(every) {
            let _scene = Scene(&path, at);
            let (saved, report) = salvage(&disk.flipped(&path, at, 1 << (at / every % 8)));
            disk.check_history(&saved);
            flips += 1;
            // All hints but a damaged one are whole, so that the lost record's key is known.
            let named = certain_keys(&report.read.damage);
            let is_log = path.extension().is_some_and(|extension| extension == "log");
            if path.ends_with("LOCK") || report.read.damage.is_empty() {
                assert_eq!(saved, disk.now, "a bit that means nothing");
                continue;
            }
            if path.ends_with("MANIFEST-1") {
                // The edit that dropped a segment may be gone: then that is called missing.
                assert_eq!(saved, disk.now, "the logs are whole");
                assert!(!report.manifest_is_whole);
                continue;
            }
            assert!(report.read.damage.iter().all(|d| d.path == path), "{report:?}");
            assert!(named.len() <= usize::from(is_log), "one record is damaged: {report:?}");
            for key in disk.now.keys().chain(saved.keys()) {
                let (old, new) = (disk.now.get(key), saved.get(key));
                if old == new {
                    continue;
                }
                assert!(named.contains(key.as_slice()), "{} is not named", key.escape_ascii());
                lost += u64::from(new.is_none());
                let said = report.stale.iter().any(|stale| stale.key == *key);
                assert_eq!(said, new.is_some(), "an older value is said to be one");
                stale += u64::from(said);
            }
        }
    }
    println!("{flips} flips, {stale} older values, {lost} lost");
    assert!(flips > 1_000 && stale > 100 && lost > 50);
}

#[test]
fn without_hints_what_may_be_old_is_counted() {
    let disk = Disk::made(44, true);
    let hints = disk.paths(".hint");
    let mut differ = 0;
    for path in disk.paths(".log") {
        let bytes = files(&disk.fs, DIR)[&path].1.len();
        for at in (0..bytes).step_by(5) {
            let _scene = Scene(&path, at);
            let fs = disk.flipped(&path, at, 0x10);
            for hint in &hints {
                fs.remove(Site::HintRemove, hint).unwrap();
            }
            let (saved, report) = salvage(&fs);
            disk.check_history(&saved);
            assert!(certain_keys(&report.read.damage).is_empty() && report.stale.is_empty());
            let wrong = saved.iter().filter(|&(key, value)| disk.now.get(key) != Some(value));
            let wrong = wrong.count() as u64;
            assert!(wrong <= report.doubtful, "{wrong} wrong, {report:?}");
            differ += u64::from(saved != disk.now);
        }
    }
    assert!(differ > 100, "{differ}");
}

#[test]
fn a_killed_store_loses_what_is_damaged_and_its_last_write_at_most() {
    let disk = Disk::made(30, false);
    let mut torn = 0;
    for (path, (_, bytes)) in files(&disk.fs, DIR) {
        for at in (0..bytes.len()).step_by(3) {
            let _scene = Scene(&path, at);
            let fs = disk.flipped(&path, at, 0x81);
            let opened = KvStore::open_with(DIR, options(&fs.crash(Crash::Everything)));
            let (saved, report) = salvage(&fs);
            disk.check_history(&saved);
            if report.read.damage.is_empty() && saved != disk.now {
                assert!(report.read.torn_bytes > 0, "{report:?}");
                assert_eq!(saved, disk.before_last);
                torn += 1;
            }
            // Where an open takes the log's end as it is, so does salvage.
            if let Ok(store) = opened
                && report.read.is_good()
            {
                let open: Pairs = store.scan(KeyRange::all()).collect::<Result<_, _>>().unwrap();
                assert_eq!(saved, open);
            }
        }
    }
    assert!(torn > 10);
}

#[test]
fn however_much_is_damaged_no_value_is_made_up() {
    for seed in 0..salvages() as u64 / 10 {
        let disk = Disk::made(24 + seed as u32 % 20, seed % 2 == 0);
        let fs = disk.fs.crash(Crash::Everything);
        // Knuth's generator; its high bits are random enough to spread damage.
        let mut state = seed;
        let mut below = |end: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % end
        };
        let paths: Vec<PathBuf> = files(&fs, DIR).into_keys().collect();
        for _ in 0..=below(12) {
            let path = &paths[below(paths.len())];
            let Ok(file) = fs.open(SITE, path, OpenHow::Write) else { continue };
            let used = files(&fs, DIR)[path].1.len().max(1);
            let at = below(used) as u64;
            match below(10) {
                0 => file.truncate(SITE, at).unwrap(),
                1 => fs.remove(Site::SegmentRemove, path).unwrap(),
                2 => write_full(&*file, SITE, &vec![0; below(600) + 1], at).unwrap(),
                _ => write_full(&*file, SITE, &[below(256) as u8], at).unwrap(),
            }
        }
        let _scene = Scene(Path::new(DIR), seed as usize);
        let before = files(&fs, DIR);
        match aryavarth::salvage(DIR, OUT, &options(&fs), |_, _| {}) {
            Ok(_) => {
                let store = KvStore::open_with(OUT, options(&fs)).unwrap();
                let saved: Pairs = store.scan(KeyRange::all()).collect::<Result<_, _>>().unwrap();
                disk.check_history(&saved);
            }
            Err(error) => assert!(matches!(error, KvsError::NotOurs { .. }), "{error}"),
        }
        assert_eq!(files(&fs, DIR), before);
    }
}

#[test]
fn a_missing_segment_is_named_key_by_key() {
    let disk = Disk::made(60, true);
    for path in disk.paths(".log") {
        let (saved, report) = salvage(&disk.without(&path));
        disk.check_history(&saved);
        assert!(!report.manifest_is_whole && !report.read.is_good());
        let named = certain_keys(&report.read.damage);
        for key in disk.now.keys().filter(|key| saved.get(*key) != disk.now.get(*key)) {
            assert!(named.contains(key.as_slice()), "{} is not named", key.escape_ascii());
        }
        assert!(saved.keys().all(|key| disk.now.contains_key(key)), "nothing removed is back");
    }
}

#[test]
fn without_a_manifest_the_logs_speak_for_themselves() {
    for closed in [true, false] {
        let disk = Disk::made(60, closed);
        let manifest = disk.paths("MANIFEST-1");
        assert_eq!(manifest.len(), 1);
        for lost in [Path::new("/data/store/CURRENT"), manifest[0].as_path()] {
            let (saved, report) = salvage(&disk.without(lost));
            assert_eq!(saved, disk.now);
            assert!(!report.manifest_is_whole && !report.read.is_good());
        }
        let zeroed = disk.damaged(&manifest[0], |file| file.truncate(SITE, 0).unwrap());
        zeroed.remove(Site::SegmentRemove, Path::new("/data/store/CURRENT")).unwrap();
        assert_eq!(salvage(&zeroed).0, disk.now);
    }
}

#[test]
fn a_segment_that_was_cut_is_read_up_to_the_cut() {
    let disk = Disk::made(60, true);
    for path in disk.paths(".log") {
        let length = files(&disk.fs, DIR)[&path].0;
        for end in [0, 63, 64, 100, length / 2, length - 1] {
            let _scene = Scene(&path, end as usize);
            let fs = disk.damaged(&path, |file| file.truncate(SITE, end).unwrap());
            let (saved, report) = salvage(&fs);
            disk.check_history(&saved);
            let named = certain_keys(&report.read.damage);
            for key in disk.now.keys().filter(|key| saved.get(*key) != disk.now.get(*key)) {
                assert!(named.contains(key.as_slice()), "{} is not named", key.escape_ascii());
            }
        }
    }
}

#[test]
fn verify_and_salvage_see_the_same_damage() {
    let disk = Disk::made(44, true);
    for path in disk.paths(".log").into_iter().chain(disk.paths("MANIFEST-1")) {
        let fs = disk.flipped(&path, 128, 0xff);
        let report = verify(DIR, &options(&fs), |_, _| {}).unwrap();
        assert!(
            report.damaged == 1 && report.is_good() != report.damage[0].is_loss(),
            "{report:?}"
        );
        assert_eq!(salvage(&fs).1.read, report);
    }
}

#[test]
fn a_torn_batch_is_kept_and_said_to_be_torn() {
    let fs = SimFs::new();
    let store = KvStore::open_with(DIR, options(&fs)).unwrap();
    store.write(Batch::new().put("from", "90").put("to", "110").put("memo", "rent")).unwrap();
    store.close().unwrap();
    let disk = Disk { fs, now: Pairs::new(), before_last: Pairs::new(), history: BTreeMap::new() };
    let log = &disk.paths("0.log")[0];
    let at = files(&disk.fs, DIR)[log].1.windows(3).position(|part| part == b"110").unwrap();
    let (saved, report) = salvage(&disk.flipped(log, at, 1));
    let names: Vec<&[u8]> = saved.keys().map(Vec::as_slice).collect();
    assert_eq!(names, [b"from".as_slice(), b"memo"]);
    let [damage] = &report.read.damage[..] else { panic!("{report:?}") };
    assert!(damage.tears_batch && damage.key_is_certain);
    assert_eq!(damage.key.as_deref(), Some(b"to".as_slice()));
    assert_eq!((damage.removal, damage.seqs.clone()), (Some(false), Some(2..=2)));
}

#[test]
fn a_block_that_the_disk_cannot_read_is_stepped_over() {
    let disk = Disk::made(60, true);
    // The window cannot be read, and then one of its blocks; the other blocks can.
    disk.fs.fail_next(Site::SegmentScan, Fault::Io);
    disk.fs.fail_next(Site::SegmentScanPiece, Fault::Io);
    let report = verify(DIR, &options(&disk.fs), |_, _| {}).unwrap();
    assert!(report.damaged > 0 && report.records > 0, "{report:?}");
    assert!(report.damage.iter().all(|d| d.reason == "the disk could not read it"), "{report:?}");
    assert_eq!(verify(DIR, &options(&disk.fs), |_, _| {}).unwrap().damaged, 0);
}

#[test]
fn salvage_refuses_what_it_must_not_touch() {
    let disk = Disk::made(10, true);
    let with = |dir: &str, out: &str| {
        aryavarth::salvage(dir, out, &options(&disk.fs), |_, _| {}).unwrap_err()
    };
    let before = files(&disk.fs, DIR);
    assert!(matches!(with(DIR, DIR), KvsError::InvalidOption(_)));
    assert!(matches!(with(DIR, "/data/store/saved"), KvsError::InvalidOption(_)));
    let empty = Path::new("/empty");
    disk.fs.create_dir(Site::DirCreate, empty).unwrap();
    assert!(matches!(with("/empty", OUT), KvsError::NotOurs { .. }));
    let file = empty.join("note");
    disk.fs.open(SITE, &file, OpenHow::CreateNew).unwrap();
    assert!(matches!(with(DIR, "/empty"), KvsError::InvalidOption(_)));
    assert_eq!(files(&disk.fs, DIR), before);
    let store = KvStore::open_with(DIR, options(&disk.fs)).unwrap();
    assert!(matches!(with(DIR, OUT), KvsError::Locked { .. }));
    drop(store);
}

#[test]
fn a_salvage_that_is_cut_short_leaves_no_store() {
    let disk = Disk::made(20, true);
    let calls = {
        let fs = disk.fs.crash(Crash::Everything);
        salvage(&fs);
        fs.calls()
    };
    for call in 0..calls {
        let fs = disk.fs.crash(Crash::Everything);
        let before = files(&fs, DIR);
        fs.fail_from(call);
        let whole = aryavarth::salvage(DIR, OUT, &options(&fs), |_, _| {}).is_ok();
        let after = fs.crash(Crash::Everything);
        assert_eq!(files(&after, DIR), before);
        let options = Options { ..options(&after) };
        match KvStore::open_with(OUT, options) {
            Ok(store) => {
                let keys = store.scan(KeyRange::all()).count();
                assert!(keys == disk.now.len() || keys == 0, "{keys} keys, call {call}");
                assert!(keys > 0 || !whole);
            }
            Err(error) => assert!(!whole, "{error}"),
        }
    }
}

/// A disk that was full half way through kept half a copy, which `verify` took for a damaged store.
#[test]
fn a_salvage_that_finds_no_space_leaves_nothing_and_says_so() {
    let disk = Disk::made(60, true);
    let all = {
        let fs = disk.fs.crash(Crash::Everything);
        salvage(&fs);
        fs.space_used()
    };
    let mut refused = 0;
    for bytes in (disk.fs.space_used()..all).step_by(4096) {
        let fs = disk.fs.crash(Crash::Everything);
        let before = files(&fs, DIR);
        fs.limit_space(bytes);
        let Err(error) = aryavarth::salvage(DIR, OUT, &options(&fs), |_, _| {}) else { continue };
        refused += 1;
        assert!(error.is_full(), "{error}");
        assert!(error.to_string().contains("copy in /saved was removed"), "{error}");
        assert_eq!(fs.list(SITE, Path::new(OUT)).unwrap(), [""; 0]);
        assert_eq!(files(&fs, DIR), before);
        let error = verify(OUT, &options(&fs), |_, _| {}).unwrap_err();
        assert!(matches!(error, KvsError::NotOurs { .. }), "{error}");
        fs.limit_space(u64::MAX);
        assert_eq!(salvage(&fs).0, disk.now, "the same directory can be used again");
    }
    assert!(refused > 3, "the disk was never full");
}

/// Says where the damage was, should anything panic.
struct Scene<'a>(&'a Path, usize);

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the damage was in {} at {}", self.0.display(), self.1);
        }
    }
}

/// The directory of the copy may lie in the damaged one although its name does not say so.
#[test]
#[expect(clippy::disallowed_methods, reason = "links are made by others")]
fn salvage_sees_through_links_and_detours() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("damaged");
    KvStore::open(&dir).unwrap().put(b"k", b"v").unwrap();
    std::fs::create_dir(root.path().join("other")).unwrap();
    std::os::unix::fs::symlink(&dir, root.path().join("link")).unwrap();
    let names = || std::fs::read_dir(&dir).unwrap().count();
    let before = names();
    let to =
        |out: &str| aryavarth::salvage(&dir, root.path().join(out), &Options::default(), |_, _| {});
    for out in ["link/out", "other/../damaged/out", "link", "none/../damaged/out"] {
        assert!(matches!(to(out), Err(KvsError::InvalidOption(_))), "{out}");
        assert_eq!(names(), before, "{out}");
    }
    assert_eq!(to("damaged/../saved").unwrap().keys, 1);
    assert_eq!(names(), before);
}

/// Replaces a byte of the first record that holds `part`, which is found in 0.log.
fn damage_record(fs: &SimFs, part: &[u8]) {
    let file = fs.open(Site::TailOpen, Path::new("/damaged/0.log"), OpenHow::Write).unwrap();
    let mut bytes = vec![0; file.len(Site::VerifyLength).unwrap() as usize];
    read_full(&*file, Site::SegmentScan, &mut bytes, 0).unwrap();
    let at = bytes.windows(part.len()).position(|bytes| bytes == part).unwrap();
    let last = at + part.len() - 1;
    file.write_at(Site::FrameWrite, &[bytes[last] ^ 0x40], last as u64).unwrap();
}

/// The payload of the record of a space: the generation of the table, the space, its generation.
fn table_record(space: u32, generation: u64) -> Vec<u8> {
    [&[0xff; 8][..], &space.to_be_bytes(), &generation.to_le_bytes()].concat()
}

/// Spaces and deadlines are saved as they were; and where the record of a space is lost, no
/// other record is, and no other space has other keys.
#[test]
fn spaces_and_deadlines_are_saved_and_keys_without_a_space_too() {
    for is_table_lost in [false, true] {
        let fs = SimFs::new();
        let options = options(&fs);
        let store = KvStore::open_with("/damaged", options.clone()).unwrap();
        for space in [1, 2] {
            let space = store.with_space(space);
            space.put(b"emptied", b"away").unwrap();
            space.clear().unwrap();
            space.put_until(b"until", b"later", u64::MAX).unwrap();
        }
        store.put(b"k", b"v").unwrap();
        store.close().unwrap();
        if is_table_lost {
            damage_record(&fs, &table_record(1, 1 << 32));
            let refused = KvStore::open_with("/damaged", options.clone()).unwrap_err().to_string();
            assert!(refused.contains("of the generation of space 1"), "{refused}");
            let report = verify("/damaged", &options, |_, _| {}).unwrap();
            assert!(report.damage[0].reason.contains("of the generation of space 1"));
            assert_eq!(report.damage.len(), 1);
        }
        let report = aryavarth::salvage("/damaged", "/saved", &options, |_, _| {}).unwrap();
        let saved = KvStore::open_with("/saved", options).unwrap();
        assert_eq!(saved.read(b"k").unwrap().as_deref(), Some(&b"v"[..]));
        // Whether the lost record had emptied space 1 is unknown.
        let old = is_table_lost.then(|| b"away".to_vec());
        assert_eq!(saved.with_space(1).read(b"emptied").unwrap(), old);
        assert_eq!(saved.with_space(2).read(b"emptied").unwrap(), None);
        for space in [if is_table_lost { u32::MAX } else { 1 }, 2] {
            let until = saved.with_space(space);
            assert_eq!(until.read(b"until").unwrap().as_deref(), Some(&b"later"[..]));
            assert_eq!(until.deadline(b"until").unwrap(), Some(Deadline::Wall(u64::MAX >> 1)));
        }
        // And nothing says whether the keys that space 2 was emptied of are those of space 1.
        assert_eq!(saved.with_space(u32::MAX - 1).read(b"emptied").unwrap(), old);
        assert_eq!(report.keys, if is_table_lost { 5 } else { 3 });
        let told = report.read.damage.iter().any(|damage| damage.reason.contains("4294967295"));
        assert_eq!(told, is_table_lost, "{report:?}");
        // The next number is new, whatever was lost.
        let third = saved.with_space(3);
        third.put(b"third", b"").unwrap();
        third.clear().unwrap();
        assert!(third.scan(KeyRange::all()).next().is_none());
    }
}

/// Two spaces were swapped, and one of the two records is lost: the space is empty, and the keys that
/// it had are in a space of their own.
#[test]
fn a_space_whose_generation_another_one_has_is_empty_after_a_salvage() {
    for lost in [1, 300] {
        let fs = SimFs::new();
        let options = options(&fs);
        let store = KvStore::open_with("/damaged", options.clone()).unwrap();
        for space in [1, 2, 300] {
            store.with_space(space).put(b"k", &[space as u8]).unwrap();
        }
        let swap = |transaction: &mut aryavarth::Transaction<'_>| {
            transaction.swap(1, 300);
            Ok(())
        };
        store.transact(&[], swap).unwrap();
        store.close().unwrap();
        let kept = 301 - lost;
        damage_record(&fs, &table_record(lost, kept.into()));
        let report = aryavarth::salvage("/damaged", "/saved", &options, |_, _| {}).unwrap();
        let saved = KvStore::open_with("/saved", options).unwrap();
        let read = |space: u32| saved.with_space(space).read(b"k").unwrap();
        assert_eq!(read(kept), Some(vec![lost as u8]), "its record is whole");
        assert_eq!(read(lost), None);
        assert_eq!(read(u32::MAX), Some(vec![kept as u8]), "{report:?}");
        assert_eq!((read(2), report.keys), (Some(vec![2]), 3));
        let is_told = |what: String| report.read.damage.iter().any(|d| d.reason.contains(&what));
        assert!(is_told(format!("space {lost} is lost")) && is_told(u32::MAX.to_string()));
    }
}
