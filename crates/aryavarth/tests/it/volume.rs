//! A data directory that is the root of a volume.
//!
//! `--dir /data` on a fresh file system was refused as "not an Aryavarth store: it holds lost+found
//! but no CURRENT". Entries that file systems, desktops and storage boxes make by themselves belong
//! to nobody's data: a directory that holds only these is empty, and they are left alone.
#![expect(clippy::disallowed_methods, reason = "directories of the real file system")]

use std::fs;
use std::path::Path;

#[cfg(feature = "sled")]
use aryavarth::KvsEngine;
use aryavarth::{KvStore, KvsError, Options, salvage, verify};

/// Entries of a volume, the directories first.
const DIRS: [&str; 10] = [
    "lost+found",
    ".snapshot",
    ".snapshots",
    ".zfs",
    ".Trash-1000",
    ".Trashes",
    ".Spotlight-V100",
    ".fseventsd",
    "@eaDir",
    "System Volume Information",
];
const FILES: [&str; 5] = [".DS_Store", "._CURRENT", ".nfs000000000a3f", "aquota.user", "Thumbs.db"];

/// A directory as the system leaves the root of a volume.
fn volume(root: &Path) {
    fs::create_dir_all(root).unwrap();
    for name in DIRS {
        fs::create_dir(root.join(name)).unwrap();
    }
    for name in FILES {
        fs::write(root.join(name), name).unwrap();
    }
}

fn check_volume(root: &Path) {
    assert!(DIRS.iter().all(|name| root.join(name).is_dir()));
    assert!(FILES.iter().all(|name| fs::read(root.join(name)).unwrap() == name.as_bytes()));
}

#[test]
fn the_root_of_a_volume_takes_a_store_and_what_is_salvaged() {
    let top = tempfile::tempdir().unwrap();
    let (root, saved) = (top.path().join("root"), top.path().join("saved"));
    volume(&root);
    volume(&saved);
    let refused = verify(&root, &Options::default(), |_, _| {}).unwrap_err();
    assert!(matches!(refused, KvsError::NotOurs { .. }), "there is no store yet: {refused}");
    let store = KvStore::open(&root).unwrap();
    store.put(b"k", b"v").unwrap();
    store.close().unwrap();
    assert_eq!(KvStore::open(&root).unwrap().read(b"k").unwrap(), Some(b"v".to_vec()));
    let report = verify(&root, &Options::default(), |_, _| {}).unwrap();
    assert_eq!((report.records, report.damaged), (1, 0));
    let report = salvage(&root, &saved, &Options::default(), |_, _| {}).unwrap();
    assert_eq!((report.keys, report.read.damaged), (1, 0));
    assert_eq!(KvStore::open(&saved).unwrap().read(b"k").unwrap(), Some(b"v".to_vec()));
    check_volume(&root);
    check_volume(&saved);
}

#[cfg(feature = "sled")]
#[test]
fn a_store_over_sled_lives_at_the_root_of_a_volume_too() {
    let top = tempfile::tempdir().unwrap();
    volume(top.path());
    let open = || aryavarth::SledKvsEngine::open(top.path()).unwrap();
    // A value of this size gets a file of its own.
    let large = "v".repeat(100_000);
    open().set("k".into(), large.clone()).unwrap();
    // Snapshots show up in every directory, and desktops leave their marks where they were opened.
    for dir in ["sled", "sled/blobs"] {
        fs::create_dir(top.path().join(dir).join(".snapshot")).unwrap();
        fs::write(top.path().join(dir).join(".DS_Store"), b"").unwrap();
    }
    let again = open();
    again.set("l".into(), large.clone()).unwrap();
    assert_eq!(again.get("k".into()).unwrap(), Some(large));
    check_volume(top.path());
}

#[test]
fn names_that_only_look_like_those_of_the_system_are_data_of_somebody() {
    for name in ["lost", "lost+found.old", ".bashrc", "CURRENT.bak", "snapshot"] {
        let top = tempfile::tempdir().unwrap();
        volume(top.path());
        fs::write(top.path().join(name), b"mine").unwrap();
        let error = KvStore::open(top.path()).unwrap_err();
        let told = error.to_string();
        assert!(matches!(error, KvsError::NotOurs { .. }) && told.contains(name), "{told}");
        assert_eq!(fs::read(top.path().join(name)).unwrap(), b"mine");
    }
}
