//! Every store that a released version wrote can be opened.
//!
//! `tests/fixtures` has a directory for each version of the disk format: a store that was closed
//! (`clean`), one whose process was killed in the middle of a write (`killed`), and `CONTENTS.txt`,
//! which lists their contents. Each is opened here by the version that there is now, compared key
//! by key, and written to. A fixture is never changed: it stands for the disks of users.
//!
//! `MAKE_FIXTURE=v2 cargo test -p aryavarth fixture::` makes the one of a new format version, and
//! refuses to replace one. `LOCK`, which names a process, and `reserve`, which is nothing but
//! space, are left out.

#![expect(clippy::disallowed_methods, reason = "stores are copied from the sources")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use aryavarth::fs::{Crash, Fs, OpenHow, SimFs, Site, read_full};
use aryavarth::{Batch, Deadline, Durability, KeyRange, KvStore, Options, verify};
use crc32c::crc32c;

use crate::runner::TestClock;

const DIR: &str = "/db";
const STORES: [&str; 2] = ["clean", "killed"];
/// The value of the write that the kill interrupts.
const TORN: [u8; 300] = [b't'; 300];

/// Names and bytes.
type Files = BTreeMap<String, Vec<u8>>;
/// By space and key a value and its deadline.
type Pairs = BTreeMap<(u32, Vec<u8>), (Vec<u8>, Option<u64>)>;
/// Deadlines that no clock reaches, and one that has passed.
const FAR_MS: u64 = u64::MAX - 1;

/// A store that is being made, and the contents that it must have.
struct Made {
    store: KvStore,
    pairs: Pairs,
}

impl Made {
    /// Sets a key and does the work that is then due in the background.
    fn set(&mut self, key: &[u8], value: &[u8]) {
        self.set_unsynced(key, value);
        while self.store.step().unwrap() {}
    }

    fn set_unsynced(&mut self, key: &[u8], value: &[u8]) {
        self.store.put(key, value).unwrap();
        self.pairs.insert((0, key.to_owned()), (value.to_owned(), None));
    }

    /// Sets a key in a space, with a deadline; one that has passed at any later time is in there, but
    /// not among the pairs.
    fn set_until(&mut self, space: u32, key: &[u8], value: &[u8], expires_at: Option<u64>) {
        let store = self.store.with_space(space);
        match expires_at {
            Some(expires_at) => store.put_until(key, value, expires_at).unwrap(),
            None => store.put(key, value).unwrap(),
        }
        let pair = (value.to_owned(), expires_at);
        let place = (space, key.to_owned());
        match expires_at {
            Some(deadline) if deadline < FAR_MS => drop(self.pairs.remove(&place)),
            _ => drop(self.pairs.insert(place, pair)),
        }
    }

    /// Spaces that are emptied and swapped, and keys that expire.
    fn fill_spaces(&mut self, round: u8) {
        let soon = TestClock::START_MS + 1;
        for n in 0..6 {
            let key = format!("in a space, {n}").into_bytes();
            for space in [0, 1, 2, 1 << 30] {
                let expires_at = [None, Some(FAR_MS), Some(soon)][n % 3];
                self.set_until(space, &key, &[round, n as u8, space as u8], expires_at);
            }
        }
        self.store.with_space(1).clear().unwrap();
        self.pairs.retain(|(space, _), _| *space != 1);
        self.set_until(1, b"after it was emptied", &[round], Some(FAR_MS));
        self.store
            .transact(&[], |transaction| {
                transaction.swap(1, 2);
                transaction.select(2);
                transaction.put("swapped", [round]);
                Ok(())
            })
            .unwrap();
        let swapped = |space| [0, 2, 1].get(space as usize).copied().unwrap_or(space);
        let pairs = std::mem::take(&mut self.pairs).into_iter();
        self.pairs = pairs.map(|((space, key), pair)| ((swapped(space), key), pair)).collect();
        self.pairs.insert((2, b"swapped".to_vec()), (vec![round], None));
    }

    fn remove(&mut self, key: &[u8]) {
        assert_eq!(
            self.store.delete(key).unwrap(),
            self.pairs.remove(&(0, key.to_owned())).is_some()
        );
    }

    /// A batch that sets some keys and removes one that it has just set.
    fn batch(&mut self, n: u32) {
        let key = |what: &str| format!("batch-{n}-{what}").into_bytes();
        let mut batch = Batch::new();
        batch.put(key("first"), "1").put(key("gone"), "2");
        batch.put(key("last"), "3").delete(key("gone"));
        self.store.write(&batch).unwrap();
        self.pairs.insert((0, key("first")), (b"1".to_vec(), None));
        self.pairs.insert((0, key("last")), (b"3".to_vec(), None));
    }

    /// Keys and values of every shape, overwritten and removed, over several segments.
    fn fill(&mut self, round: u8) {
        for n in 0..24_u8 {
            let value = vec![n ^ round; 40 + usize::from(n) * 7];
            self.set(format!("key-{n:02}").as_bytes(), &value);
            if n % 3 == 0 {
                let long =
                    format!("a key of more bytes than an entry of the index has room for, {n}");
                self.set(long.as_bytes(), format!("round {round}").as_bytes());
            }
            if n % 5 == 4 {
                self.remove(format!("key-{:02}", n - 2).as_bytes());
                self.batch(u32::from(n));
            }
        }
        self.set(b"", b"the empty key");
        self.set(b"the empty value", b"");
        self.set(&[0, 0xff, b'\n', b'"', 0x80, round], &[0xfe, 0, 0xff]);
        self.set("k\u{e9}y".as_bytes(), "v\u{e4}lue".as_bytes());
    }
}

/// Makes one of the stores: its files, and its contents.
fn made(name: &str) -> (Files, Pairs) {
    let fs = SimFs::new();
    let options = Options {
        fs: Arc::new(fs.clone()),
        clock: TestClock::new(),
        seed: u64::from(crc32c(name.as_bytes())),
        background: false,
        segment_bytes_min: 4096,
        ..Options::default()
    };
    let store = KvStore::open_with(DIR, options).unwrap();
    let mut made = Made { store, pairs: Pairs::new() };
    made.fill(1);
    made.fill_spaces(1);
    made.store.compact().unwrap();
    made.fill(2);
    made.fill_spaces(2);
    if name == "clean" {
        made.store.close().unwrap();
        return (files(&fs), made.pairs);
    }
    // Level os waits for no sync, and a kill alone loses nothing.
    made.store = made.store.with_durability(Durability::Os);
    made.set_unsynced(b"not synced", b"kept all the same");
    made.store.put(b"torn", &TORN).unwrap();
    let mut files = files(&fs.crash(Crash::Everything));
    // Half of the last write is all that a power cut left of it.
    let found = files.values_mut().find_map(|bytes| {
        let at = bytes.windows(TORN.len()).position(|part| part == TORN)?;
        Some(&mut bytes[at..at + TORN.len()])
    });
    found.expect("the write is in the log")[TORN.len() / 2..].fill(0);
    (files, made.pairs)
}

fn files(fs: &SimFs) -> Files {
    let mut names = fs.list(Site::VerifyList, Path::new(DIR)).unwrap();
    names.retain(|name| name != "LOCK" && name != "reserve");
    let read = |name: String| {
        let file = fs.open(Site::VerifyOpen, &Path::new(DIR).join(&name), OpenHow::Read).unwrap();
        let mut bytes = vec![0; file.len(Site::VerifyLength).unwrap() as usize];
        read_full(&*file, Site::SegmentScan, &mut bytes, 0).unwrap();
        (name, bytes)
    };
    names.into_iter().map(read).collect()
}

/// A store's pairs as lines of `CONTENTS.txt`, in the order of the spaces and the keys' bytes.
fn lines(name: &str, pairs: &Pairs) -> String {
    let mut out = String::new();
    for ((space, key), (value, expires_at)) in pairs {
        write!(out, "{name} ").unwrap();
        if *space > 0 {
            write!(out, "{space}:").unwrap();
        }
        write!(out, "\"{}\" = ", key.escape_ascii()).unwrap();
        match value.len() {
            0..40 => write!(out, "\"{}\"", value.escape_ascii()).unwrap(),
            bytes => write!(out, "{bytes} bytes, CRC32C {:#010x}", crc32c(value)).unwrap(),
        }
        if let Some(expires_at) = expires_at {
            write!(out, " until {expires_at}").unwrap();
        }
        out.push('\n');
    }
    out
}

fn is_a(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

/// Writes the fixture of a new format version.
fn make(version: &Path) {
    assert!(!version.exists(), "{} is there, and a fixture is never replaced", version.display());
    let mut contents = String::from(
        "# What the stores beside this file hold, and nothing else: every later version must open\n\
         # them and find it. Never edited; a key and its value per line, with its space (if that is\n\
         # not 0) and its deadline (if it has one).\n",
    );
    for name in STORES {
        let (files, pairs) = made(name);
        fs::create_dir_all(version.join(name)).unwrap();
        for (file, bytes) in files {
            if is_a(Path::new(&file), "log") {
                let made = format!("v{}", u16::from_le_bytes([bytes[4], bytes[5]]));
                assert_eq!(version.file_name().unwrap().to_str(), Some(made.as_str()));
            }
            fs::write(version.join(name).join(file), bytes).unwrap();
        }
        contents += &lines(name, &pairs);
    }
    fs::write(version.join("CONTENTS.txt"), contents).unwrap();
}

/// The directories of all format versions; a new one is made first if that is asked for.
fn versions() -> &'static [PathBuf] {
    static VERSIONS: LazyLock<Vec<PathBuf>> = LazyLock::new(|| {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        if let Some(version) = std::env::var_os("MAKE_FIXTURE") {
            make(&fixtures.join(version));
        }
        let entries = fs::read_dir(fixtures).expect("tests/fixtures");
        entries.map(|entry| entry.expect("tests/fixtures").path()).collect()
    });
    assert!(VERSIONS.iter().any(|version| version.ends_with("v1")), "version 1 has a fixture");
    &VERSIONS
}

/// A copy of a fixture's store, which may be written to.
fn copy(version: &Path, name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(version.join(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

/// The part of `CONTENTS.txt` about one store.
fn expected(version: &Path, name: &str) -> String {
    let contents = fs::read_to_string(version.join("CONTENTS.txt")).expect("CONTENTS.txt");
    let lines = contents.lines().filter(|line| line.split(' ').next() == Some(name));
    let expected = lines.fold(String::new(), |all, line| all + line + "\n");
    assert!(expected.lines().count() > 30, "{}: {name} holds something", version.display());
    expected
}

fn found(store: &KvStore, name: &str) -> String {
    let mut found = Pairs::new();
    for space in [0, 1, 2, 1 << 30] {
        let store = store.with_space(space);
        let pairs = store.scan(KeyRange::all()).collect::<Result<Vec<_>, _>>().unwrap();
        for (key, value) in pairs {
            assert_eq!(store.read(&key).unwrap().as_ref(), Some(&value), "a scan and a read agree");
            // As in the file: the top bit of a deadline by the machine's clock is set.
            let word = match store.deadline(&key).unwrap().expect("it is there") {
                Deadline::Never => None,
                Deadline::At(at) => Some(at),
                Deadline::Wall(at) => Some(1 << 63 | at),
            };
            found.insert((space, key), (value, word));
        }
    }
    lines(name, &found)
}

#[test]
fn every_version_s_stores_are_opened_compared_and_written_to() {
    for version in versions() {
        for name in STORES {
            let what = format!("{} {name}", version.display());
            let dir = copy(version, name);
            let expected = expected(version, name);
            let store = KvStore::open(dir.path()).expect(&what);
            let recovery = store.recovery().clone();
            assert_eq!(found(&store, name), expected, "{what}");
            assert!(recovery.segments >= 3 && recovery.hints_used >= 2, "{what}: {recovery:?}");
            let was_killed = name == "killed";
            assert_eq!(recovery.clean, !was_killed, "{what}");
            assert_eq!(recovery.kept_records > 0, was_killed, "{what}: {recovery:?}");
            assert_eq!(recovery.torn_bytes > 0, was_killed, "{what}: {recovery:?}");

            store.put(b"~ appended", b"by a later version").unwrap();
            store.close().unwrap();
            let store = KvStore::open(dir.path()).expect(&what);
            let key = (0, b"~ appended".to_vec());
            let appended = Pairs::from([(key, (b"by a later version".to_vec(), None))]);
            let mut all: Vec<String> =
                (expected + &lines(name, &appended)).lines().map(str::to_owned).collect();
            let mut found: Vec<String> = found(&store, name).lines().map(str::to_owned).collect();
            all.sort();
            found.sort();
            assert_eq!(found, all, "{what}, reopened");
        }
    }
}

#[test]
fn every_version_s_logs_alone_hold_the_same() {
    for version in versions() {
        for name in STORES {
            let dir = copy(version, name);
            for entry in fs::read_dir(dir.path()).unwrap() {
                let path = entry.unwrap().path();
                if is_a(&path, "hint") {
                    fs::remove_file(path).unwrap();
                }
            }
            let store = KvStore::open(dir.path()).unwrap();
            assert_eq!(store.recovery().hints_used, 0);
            assert_eq!(
                found(&store, name),
                expected(version, name),
                "{} {name}",
                version.display()
            );
        }
    }
}

#[test]
fn no_version_s_stores_are_called_damaged() {
    for version in versions() {
        for name in STORES {
            let dir = copy(version, name);
            let report = verify(dir.path(), &Options::default(), |_, _| {}).unwrap();
            assert_eq!(report.damage, [], "{} {name}", version.display());
            assert_eq!(report.torn_bytes > 0, name == "killed");
        }
    }
}

/// The kinds of the segments: pieces of the log and copies.
#[test]
fn version_1_s_stores_have_copies_and_logs() {
    let version = versions().iter().find(|version| version.ends_with("v1")).unwrap();
    for name in STORES {
        let logs = fs::read_dir(version.join(name)).unwrap().map(|entry| entry.unwrap().path());
        let logs = logs.filter(|path| is_a(path, "log"));
        let kinds: Vec<u8> = logs.map(|path| fs::read(path).unwrap()[6]).collect();
        assert!(kinds.contains(&0) && kinds.contains(&1), "{name}: {kinds:?}");
    }
}
