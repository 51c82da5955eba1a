//! Reads that do not wait for a disk: the same answers as other reads, or none.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aryavarth::fs::{Fault, Fs, OpenHow, SimFs, Site};
use aryavarth::{Batch, KvStore, KvsEngine, KvsError, Options, Position, Result, Wait};

use crate::engines::at_hand;

fn open(dir: &Path, fs: &SimFs) -> KvStore {
    let options = Options { fs: Arc::new(fs.clone()), background: false, ..Options::default() };
    KvStore::open_with(dir, options).unwrap()
}

/// A read of bytes that does not wait.
fn read_now(store: &KvStore, key: &[u8]) -> Result<(Option<Vec<u8>>, Position)> {
    KvsEngine::read(store, key, Wait::No)
}

#[test]
fn what_is_at_hand_is_read_at_once_with_its_position() {
    let store = open(Path::new("/db"), &SimFs::new());
    store.put(b"kept", b"value").unwrap();
    store.put(b"removed", b"value").unwrap();
    store.delete(b"removed").unwrap();
    // Not durable yet: a caller that hands it out has to wait for its position.
    let (_, position) = KvsEngine::write(&store, Batch::new().put("new", "value")).unwrap();
    for key in [&b"kept"[..], b"removed", b"new", b"absent"] {
        let waited = KvsEngine::read(&store, key, Wait::Yes).unwrap();
        assert_eq!(read_now(&store, key).unwrap(), waited);
    }
    let (value, seen) = read_now(&store, b"new").unwrap();
    assert_eq!(value.as_deref(), Some(&b"value"[..]));
    assert!(seen <= position && seen > read_now(&store, b"kept").unwrap().1);
}

#[test]
fn a_real_disk_gives_the_same_or_asks_for_patience() {
    let dir = tempfile::tempdir().unwrap();
    let store = KvStore::open(dir.path()).unwrap();
    for size in [0, 1, 4096, 100_000] {
        let value = vec![7; size];
        store.put(b"k", &value).unwrap();
        let now = at_hand(read_now(&store, b"k")).unwrap();
        assert!(now.is_none_or(|(found, _)| found == Some(value)), "{size} bytes");
    }
}

#[test]
fn what_is_at_hand_in_part_takes_patience() {
    let fs = SimFs::new();
    let store = open(Path::new("/db"), &fs);
    store.put(b"k", b"a value that lies on two pages").unwrap();
    fs.fail_next(Site::RecordReadNow, Fault::Short);
    assert!(matches!(read_now(&store, b"k"), Err(KvsError::WouldBlock)));
    assert!(read_now(&store, b"k").unwrap().0.is_some());
}

#[test]
fn what_takes_long_to_copy_takes_patience() {
    let store = open(Path::new("/db"), &SimFs::new());
    store.put(b"k", &vec![7; 300 << 10]).unwrap();
    assert!(matches!(read_now(&store, b"k"), Err(KvsError::WouldBlock)));
    assert_eq!(store.read(b"k").unwrap().map(|value| value.len()), Some(300 << 10));
}

#[test]
fn damage_is_an_error_here_too() {
    let fs = SimFs::new();
    let dir = Path::new("/db");
    let store = open(dir, &fs);
    store.put(b"k", &[7; 1000]).unwrap();
    let names = fs.list(Site::DirList, dir).unwrap();
    let logs = names.iter().filter(|name| Path::new(name).extension().is_some_and(|e| e == "log"));
    let logs: Vec<PathBuf> = logs.map(|name| dir.join(name)).collect();
    for log in &logs {
        let file = fs.open(Site::SegmentOpen, log, OpenHow::Write).unwrap();
        let mut bytes = vec![0; 4096];
        let got = file.read_at(Site::SegmentScan, &mut bytes, 0).unwrap();
        if let Some(at) = bytes[..got].windows(9).position(|window| window == [7; 9]) {
            file.write_at(Site::FrameWrite, &[8], at as u64).unwrap();
        }
    }
    assert!(matches!(store.read(b"k"), Err(KvsError::Corrupt { .. })));
    assert!(matches!(read_now(&store, b"k"), Err(KvsError::Corrupt { .. })));
}
