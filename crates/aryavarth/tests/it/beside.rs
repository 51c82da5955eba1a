//! A reader beside the writer: it sees what was acknowledged before its open, never half of a
//! batch, never a byte that a crash could undo, and it changes nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use aryavarth::fs::{Crash, Fs, OpenHow, SimFs, Site, write_full};
use aryavarth::{Batch, Durability, KvReader, KvStore, KvsError, Options, Result};

const DIR: &str = "/db";

fn options(fs: &SimFs) -> Options {
    Options { fs: Arc::new(fs.clone()), background: false, ..Options::default() }
}

/// A writer that rotates and compacts all the time, so that files come and go under the readers.
#[test]
fn readers_see_all_that_was_acknowledged_while_files_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        Options { segment_bytes_min: 4096, segment_bytes_max: 16 << 10, ..Options::default() };
    let store = KvStore::open_with(dir.path(), options).unwrap();
    store.write(Batch::new().put("a", 0_u64.to_le_bytes()).put("b", 0_u64.to_le_bytes())).unwrap();
    let (acknowledged, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let opens: u64 = thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1_u64.. {
                let bytes = number.to_le_bytes();
                let filler = vec![b'x'; (number % 700) as usize];
                let filled = format!("filler {}", number % 50);
                store
                    .write(Batch::new().put("a", bytes).put(filled, filler).put("b", bytes))
                    .unwrap();
                acknowledged.store(number, Ordering::SeqCst);
                if number % 500 == 0 {
                    store.compact().unwrap();
                }
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        let read = || {
            let mut last = 0;
            for _ in 0..60 {
                let before = acknowledged.load(Ordering::SeqCst);
                let reader = KvReader::open(dir.path()).unwrap();
                let entries: BTreeMap<_, _> = reader.scan(..).map(Result::unwrap).collect();
                let number = u64::from_le_bytes(entries[&b"a"[..]][..].try_into().unwrap());
                assert_eq!(entries[&b"a"[..]], entries[&b"b"[..]], "half of a batch");
                assert!(number >= before.max(last), "{number} after {before} and {last}");
                last = number;
            }
            60
        };
        let readers = [scope.spawn(read), scope.spawn(read)];
        let opens = readers.map(|reader| reader.join().unwrap()).iter().sum();
        is_over.store(true, Ordering::SeqCst);
        opens
    });
    assert_eq!(opens, 120);
}

#[test]
fn a_reader_shows_only_records_that_no_crash_undoes() {
    let fs = SimFs::new();
    let store = KvStore::open_with(DIR, options(&fs)).unwrap();
    store.put(b"synced", b"1").unwrap();
    store.with_durability(Durability::Os).put(b"unsynced", b"2").unwrap();
    let reader = KvReader::open_with(DIR, options(&fs)).unwrap();
    let shown: Vec<_> = reader.scan(..).map(Result::unwrap).collect();
    assert_eq!(shown.len(), 2, "all written records are there");
    let after = fs.crash(Crash::Nothing);
    let store = KvStore::open_with(DIR, options(&after)).unwrap();
    assert_eq!(store.scan(..).map(Result::unwrap).collect::<Vec<_>>(), shown);
}

#[test]
fn a_reader_keeps_its_moment_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = KvStore::open(dir.path()).unwrap();
    store.named("users").unwrap().put(b"k", b"named").unwrap();
    for number in 0..100_u32 {
        store.put(&number.to_le_bytes(), &[7; 1000]).unwrap();
    }
    let listed = |dir: &Path| {
        let entry = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry.unwrap();
            let bytes = std::fs::read(entry.path()).unwrap();
            (entry.file_name(), bytes)
        };
        #[expect(clippy::disallowed_methods, reason = "the files are looked at from outside")]
        std::fs::read_dir(dir).unwrap().map(entry).collect::<BTreeMap<_, _>>()
    };
    let before = listed(dir.path());
    let reader = KvReader::open(dir.path()).unwrap();
    assert_eq!(listed(dir.path()), before);
    for number in 0..100_u32 {
        store.delete(&number.to_le_bytes()).unwrap();
    }
    store.compact().unwrap();
    assert_eq!(reader.count().unwrap().keys, 100);
    assert!(reader.scan(..).all(|entry| entry.unwrap().1 == [7; 1000]));
    let users = reader.named("users").unwrap().expect("it was named before the open");
    assert_eq!(users.read(b"k").unwrap().as_deref(), Some(&b"named"[..]));
    assert!(reader.named("others").unwrap().is_none());
    store.close().unwrap();
    assert_eq!(KvReader::open(dir.path()).unwrap().count().unwrap().keys, 0, "of a closed store");
}

#[test]
fn a_reader_of_no_store_or_of_a_damaged_one_says_so() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(KvReader::open(dir.path()), Err(KvsError::Io(_))));
    assert!(matches!(KvReader::open(dir.path().join("absent")), Err(KvsError::Io(_))));
    let fs = SimFs::new();
    let store = KvStore::open_with(DIR, options(&fs)).unwrap();
    store.put(b"k", b"v").unwrap();
    store.put(b"l", b"v").unwrap();
    store.put(b"m", b"v").unwrap();
    let names = fs.list(Site::ALL[0], Path::new(DIR)).unwrap();
    let logs = names.iter().filter_map(|name| name.strip_suffix(".log")?.parse::<u64>().ok());
    let path = Path::new(DIR).join(format!("{}.log", logs.min().expect("the writer's segment")));
    let file = fs.open(Site::ALL[0], &path, OpenHow::Write).unwrap();
    write_full(&*file, Site::ALL[0], b"rot", 100).unwrap();
    let damaged = KvReader::open_with(DIR, options(&fs));
    assert!(matches!(damaged, Err(KvsError::Corrupt { .. })), "{damaged:?}");
}
