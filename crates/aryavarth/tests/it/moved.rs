//! Data directories that change their name while a store has them open.
//!
//! `mv data data.bak; mkdir data` beside a running server once sent 4,000 acknowledged writes into
//! segments of the new directory, under a manifest in the old one: neither opened any more. A path
//! that is resolved again after the open may lead elsewhere: because the directory was moved, because
//! it was reached through a link, or because the path is relative and the program has gone to
//! another directory. The store holds its directory open and names everything relative to it.
#![expect(clippy::disallowed_methods, reason = "directories of the real file system")]

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aryavarth::{KvStore, KvsError, Options};

/// Says to this program that it is to run a story as a process of its own, and in which directory.
const CHILD: &str = "ARYAVARTH_TEST_CHDIR";

/// Files so small that every few writes need a new one.
fn options() -> Options {
    Options { segment_bytes_min: 4096, segment_bytes_max: 16 << 10, ..Options::default() }
}

fn key(writer: u64, n: u64) -> Vec<u8> {
    format!("key-{writer}-{n:06}").into_bytes()
}

/// Writes `count` keys, each acknowledged.
fn put(store: &KvStore, writer: u64, from: u64, count: u64) {
    for n in from..from + count {
        store.put(&key(writer, n), &[n as u8; 300]).unwrap();
    }
}

fn check(dir: &Path, written: &[(u64, u64)]) {
    let store = KvStore::open_with(dir, options()).unwrap();
    for &(writer, count) in written {
        for n in 0..count {
            let found = store.read(&key(writer, n)).unwrap();
            assert_eq!(found, Some(vec![n as u8; 300]), "writer {writer}, write {n}");
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_directory_that_is_moved_under_load_keeps_every_acknowledged_write() {
    let top = tempfile::tempdir().unwrap();
    let (data, moved) = (top.path().join("data"), top.path().join("data.bak"));
    let store = KvStore::open_with(&data, options()).unwrap();
    let done: [AtomicU64; 4] = Default::default();
    thread::scope(|scope| {
        for (writer, done) in done.iter().enumerate() {
            let store = &store;
            scope.spawn(move || {
                for n in 0..400 {
                    put(store, writer as u64, n, 1);
                    done.store(n + 1, Ordering::Relaxed);
                }
            });
        }
        while done.iter().any(|done| done.load(Ordering::Relaxed) < 50) {
            thread::yield_now();
        }
        fs::rename(&data, &moved).unwrap();
        fs::create_dir(&data).unwrap();
    });
    store.compact().unwrap();
    store.close().unwrap();
    assert_eq!(names(&data), [""; 0], "the new directory is another one");
    check(&moved, &[0, 1, 2, 3].map(|writer| (writer, 400)));
}

#[test]
fn a_store_that_was_opened_through_a_link_stays_where_the_link_led() {
    let top = tempfile::tempdir().unwrap();
    let [link, old, new] = ["data", "old", "new"].map(|name| top.path().join(name));
    fs::create_dir(&old).unwrap();
    fs::create_dir(&new).unwrap();
    symlink(&old, &link).unwrap();
    let store = KvStore::open_with(&link, options()).unwrap();
    put(&store, 0, 0, 50);
    fs::remove_file(&link).unwrap();
    symlink(&new, &link).unwrap();
    put(&store, 0, 50, 150);
    store.compact().unwrap();
    drop(store);
    assert_eq!(names(&new), [""; 0]);
    check(&old, &[(0, 200)]);
}

#[test]
fn a_relative_path_means_the_directory_of_the_open_wherever_the_program_goes() {
    const NAME: &str = concat!(
        "moved::",
        "a_relative_path_means_the_directory_of_the_open_wherever_the_program_goes"
    );
    if let Some(top) = env::var_os(CHILD) {
        env::set_current_dir(&top).unwrap();
        let store = KvStore::open_with("data", options()).unwrap();
        put(&store, 0, 0, 50);
        env::set_current_dir(Path::new(&top).join("elsewhere")).unwrap();
        put(&store, 0, 50, 150);
        store.compact().unwrap();
        return;
    }
    let top = tempfile::tempdir().unwrap();
    fs::create_dir_all(top.path().join("elsewhere/data")).unwrap();
    // The current directory is the whole process's, so the story needs one of its own.
    let mut child = Command::new(env::current_exe().unwrap());
    let child = child.args(["--exact", NAME]).env(CHILD, top.path()).output().unwrap();
    let told = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && told.contains("1 passed"), "{told}");
    assert_eq!(names(&top.path().join("elsewhere/data")), [""; 0]);
    check(&top.path().join("data"), &[(0, 200)]);
}

#[test]
fn a_directory_that_is_removed_ends_the_writes_by_name_and_not_the_reads() {
    let top = tempfile::tempdir().unwrap();
    let data = top.path().join("data");
    let store = KvStore::open_with(&data, options()).unwrap();
    put(&store, 0, 0, 20);
    let begun = Instant::now();
    // Again if the store has made a file amid the removal.
    while let Err(error) = fs::remove_dir_all(&data) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{error}");
    }
    // A new one of that name is not the store's.
    fs::create_dir(&data).unwrap();
    let error = loop {
        match store.put(b"more", &[0; 300]) {
            Ok(()) => assert!(begun.elapsed() < Duration::from_secs(60), "no file was needed"),
            Err(error) => break error,
        }
    };
    let KvsError::Poisoned { reason } = &error else { panic!("{error}") };
    assert!(reason.contains("the directory was removed"), "{reason}");
    assert!(reason.contains(&*data.to_string_lossy()), "{reason}");
    let refused = store.put(b"small", b"").unwrap_err();
    assert!(matches!(refused, KvsError::Poisoned { .. }), "{refused}");
    assert_eq!(store.read(&key(0, 7)).unwrap(), Some(vec![7; 300]));
    assert_eq!(names(&data), [""; 0]);
}
