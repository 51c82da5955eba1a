//! Rot: files that are cut short, and files with a changed byte.
//!
//! A store that was closed cleanly knows every byte of its files, so any damage is either refused
//! at the open, by an error that names the file and the remedy, or answered by an error for the
//! record that it hit. In a store that was killed, nothing vouches for the last write: that one alone may go,
//! and its bytes are counted. A wrong value, or a value that is silently absent, is never right.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aryavarth::fs::{Crash, Fs, FsFile, OpenHow, SimFs, Site, read_full, write_full};
use aryavarth::{Batch, KeyRange, KvStore, KvsError};

use crate::runner::{DIR, options};

const SITE: Site = Site::SegmentOpen;

/// A store's disk, and the contents of the store.
struct Disk {
    fs: SimFs,
    /// Whether the store was closed.
    closed: bool,
    /// Every key ever written, with its value if it has one.
    state: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// The same before the last write.
    before_last: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Disk {
    /// A store with `writes` writes of about `value_bytes` bytes, segments of 4 KiB, hints.
    fn made(writes: u32, value_bytes: u32, closed: bool) -> Disk {
        let fs = SimFs::new();
        let store = KvStore::open_with(Path::new(DIR), options(&fs)).unwrap();
        let mut state = BTreeMap::new();
        let mut before_last = BTreeMap::new();
        for n in 0..writes {
            before_last.clone_from(&state);
            let key = format!("key-{:03}", n * 7 % (writes * 2 / 3)).into_bytes();
            if n % 11 == 10 {
                store.delete(&key).unwrap();
                state.insert(key, None);
            } else if n % 13 == 12 {
                let (a, b) = (format!("a-{n}"), format!("b-{n}"));
                let mut batch = Batch::from([(a.as_str(), "1"), (b.as_str(), "2")]);
                store.write(batch.delete(key.as_slice())).unwrap();
                state.insert(a.into_bytes(), Some(b"1".to_vec()));
                state.insert(b.into_bytes(), Some(b"2".to_vec()));
                state.insert(key, None);
            } else {
                let value = vec![n as u8; (value_bytes + n * 37 % 64) as usize];
                store.put(&key, &value).unwrap();
                state.insert(key, Some(value));
            }
            if n == writes / 2 {
                store.compact().unwrap();
            }
            while store.step().unwrap() {}
        }
        let killed = fs.crash(Crash::Everything);
        store.close().unwrap();
        let fs = if closed { fs.crash(Crash::Everything) } else { killed };
        Disk { fs, closed, state, before_last }
    }

    /// The files with their bytes up to the last one that is not zero.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let names = self.fs.list(SITE, Path::new(DIR)).unwrap();
        let files = names.iter().map(|name| {
            let path = Path::new(DIR).join(name);
            let file = self.fs.open(SITE, &path, OpenHow::Read).unwrap();
            let mut bytes = vec![0; file.len(SITE).unwrap() as usize];
            read_full(&*file, SITE, &mut bytes, 0).unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            bytes.truncate(used);
            (path, bytes)
        });
        files.collect()
    }

    /// The newest segment that holds anything but its header.
    fn last_segment(&self) -> (PathBuf, Vec<u8>) {
        let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
        let logs = self.files().into_iter().filter(|(path, bytes)| {
            path.extension().is_some_and(|extension| extension == "log") && bytes.len() > 200
        });
        logs.max_by_key(|(path, _)| number(path)).expect("a store with records")
    }

    /// A copy of the disk with one file changed.
    fn damaged(&self, path: &Path, damage: impl FnOnce(&dyn FsFile)) -> SimFs {
        let fs = self.fs.crash(Crash::Everything);
        let file = fs.open(SITE, path, OpenHow::Write).unwrap();
        damage(&*file);
        file.sync(SITE).unwrap();
        fs
    }

    /// Opens a damaged copy and reads everything. Says how it ended, or panics.
    fn judge(&self, fs: &SimFs, damaged: &Path) -> Verdict {
        let store = match KvStore::open_with(Path::new(DIR), options(fs)) {
            Ok(store) => store,
            Err(error) => {
                check_refusal(&error, damaged);
                return Verdict::Refused;
            }
        };
        let torn = store.recovery().torn_bytes;
        assert_eq!(torn, store.stats().torn_bytes);
        let mut verdict = Verdict::Unharmed;
        let mut lost = false;
        for (key, value) in &self.state {
            match store.read(key) {
                Ok(found) if found == *value => {}
                Ok(found) => {
                    let old = self.before_last.get(key).cloned().flatten();
                    assert_eq!(found, old, "a wrong value of {}", key.escape_ascii());
                    lost = true;
                }
                Err(error) => {
                    check_refusal(&error, damaged);
                    verdict = Verdict::ReadRefused;
                }
            }
        }
        if lost {
            assert!(!self.closed, "a store that was closed lost its last write");
            assert!(torn > 0, "the last write is gone, and nobody said so");
            verdict = Verdict::LastWriteLost;
        }
        let state = if lost { &self.before_last } else { &self.state };
        let mut expected = state.iter().filter(|(_, value)| value.is_some());
        for entry in store.scan(KeyRange::all()) {
            match entry {
                Ok((key, value)) => {
                    assert_eq!(expected.next(), Some((&key, &Some(value))), "a scan is right");
                }
                Err(error) => {
                    check_refusal(&error, damaged);
                    assert_eq!(verdict, Verdict::ReadRefused, "reads and scans agree");
                    return verdict;
                }
            }
        }
        assert_eq!(expected.next(), None, "a scan is complete");
        // The writes of a close are of no interest, and takes time.
        fs.fail_from(0);
        verdict
    }
}

/// How a damaged store took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// Everything is there.
    Unharmed,
    /// The last write is gone, and it was said.
    LastWriteLost,
    /// The store opened, but some reads fail.
    ReadRefused,
    /// The store did not open.
    Refused,
}

fn check_refusal(error: &KvsError, damaged: &Path) {
    let text = error.to_string();
    let name = damaged.file_name().unwrap().to_str().unwrap();
    // Damage to the manifest's last edit looks as if the edit had been torn, and shows elsewhere.
    let named = text.contains(name) || name.starts_with("MANIFEST") && text.contains("manifest");
    assert!(named, "the error names {name}: {text}");
    let remedies = ["verify", "backup", "newer version", "choose", "Choose"];
    assert!(remedies.iter().any(|remedy| text.contains(remedy)), "a remedy: {text}");
}

type Tally = BTreeMap<(String, Verdict), u64>;

/// Flips a bit of each byte of every file in turn.
fn flip_all(disk: &Disk) -> Tally {
    let mut tally = Tally::new();
    for (path, bytes) in disk.files() {
        for (at, byte) in bytes.iter().enumerate() {
            let flipped = byte ^ 1 << (at % 8);
            let fs = disk.damaged(&path, |file| {
                write_full(file, SITE, &[flipped], at as u64).unwrap();
            });
            let scene = Scene(&path, at);
            let verdict = disk.judge(&fs, &path);
            drop(scene);
            *tally.entry((kind(&path), verdict)).or_default() += 1;
        }
    }
    tally
}

/// Cuts the last segment at each of the last `bytes` bytes that hold records.
fn cut_all(disk: &Disk, bytes: usize) -> Tally {
    let mut tally = Tally::new();
    let (path, contents) = disk.last_segment();
    for end in contents.len().saturating_sub(bytes)..contents.len() {
        let fs = disk.damaged(&path, |file| file.truncate(SITE, end as u64).unwrap());
        let scene = Scene(&path, end);
        let verdict = disk.judge(&fs, &path);
        drop(scene);
        *tally.entry((kind(&path), verdict)).or_default() += 1;
    }
    tally
}

fn kind(path: &Path) -> String {
    match path.extension() {
        Some(extension) => extension.to_string_lossy().into_owned(),
        None => path.file_name().unwrap().to_string_lossy()[..4].to_owned(),
    }
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

fn count(tally: &Tally, wanted: Verdict) -> u64 {
    tally.iter().filter(|((_, verdict), _)| *verdict == wanted).map(|(_, count)| count).sum()
}

#[test]
fn a_byte_that_flips_in_a_closed_store_is_refused_or_harmless() {
    let disk = Disk::made(140, 560, true);
    let bytes: usize = disk.files().iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(bytes >= 64 << 10, "only {bytes} bytes to flip");
    let tally = flip_all(&disk);
    println!("{tally:?}");
    assert!(count(&tally, Verdict::Refused) + count(&tally, Verdict::ReadRefused) > 50_000);
}

#[test]
fn a_byte_that_flips_in_a_killed_store_costs_the_last_write_at_most() {
    let disk = Disk::made(30, 300, false);
    let tally = flip_all(&disk);
    println!("{tally:?}");
    assert!(count(&tally, Verdict::LastWriteLost) > 300);
}

#[test]
fn a_closed_store_whose_log_was_cut_is_refused() {
    for value_bytes in [20, 3000] {
        let disk = Disk::made(60, value_bytes, true);
        let tally = cut_all(&disk, 4096);
        println!("{tally:?}");
        assert_eq!(count(&tally, Verdict::Unharmed), 0, "every byte counts");
    }
}

#[test]
fn a_killed_store_whose_log_was_cut_is_refused() {
    let disk = Disk::made(40, 300, false);
    let tally = cut_all(&disk, 4096);
    println!("{tally:?}");
    assert_eq!(count(&tally, Verdict::Unharmed), 0, "every byte counts");
}

#[test]
fn a_killed_store_whose_last_write_was_torn_says_so() {
    let disk = Disk::made(40, 300, false);
    let (path, contents) = disk.last_segment();
    for start in contents.len() - 320..contents.len() {
        let zeros = vec![0; contents.len() - start];
        let fs = disk.damaged(&path, |file| write_full(file, SITE, &zeros, start as u64).unwrap());
        let _scene = Scene(&path, start);
        assert_eq!(disk.judge(&fs, &path), Verdict::LastWriteLost);
    }
}

/// Offset and key of every value in a hint file, with the length of its record.
fn values_of(hint: &[u8]) -> Vec<(usize, u32, Vec<u8>)> {
    let mut values = Vec::new();
    let mut at = 40;
    while at < hint.len() - 4 {
        let key_bytes = usize::from(u16::from_le_bytes([hint[at + 16], hint[at + 17]]));
        let record_bytes = u32::from_le_bytes(hint[at + 12..at + 16].try_into().unwrap());
        let key = hint[at + 18..at + 18 + key_bytes].to_vec();
        if hint[at] == 1 {
            values.push((at + 8, record_bytes, key));
        }
        at += 18 + key_bytes;
    }
    values
}

/// Two keys change places, and every checksum is right: only the key in the record still tells.
#[test]
fn a_place_that_is_another_keys_is_an_error() {
    let disk = Disk::made(140, 560, true);
    let hints = disk.files().into_iter().filter(|(path, _)| kind(path) == "hint");
    let mut pairs = 0;
    for (path, mut hint) in hints {
        let values = values_of(&hint);
        let Some((a, b)) = values.windows(2).find_map(|two| match two {
            [a, b] if a.1 == b.1 && a.2 != b.2 => Some((a.clone(), b.clone())),
            _ => None,
        }) else {
            continue;
        };
        for i in 0..4 {
            hint.swap(a.0 + i, b.0 + i);
        }
        let footer = hint.len() - 4;
        let crc = crc32c::crc32c(&hint[..footer]);
        hint[footer..].copy_from_slice(&crc.to_le_bytes());
        let fs = disk.damaged(&path, |file| write_full(file, SITE, &hint, 0).unwrap());
        let store = KvStore::open_with(Path::new(DIR), options(&fs)).unwrap();
        for (key, value) in &disk.state {
            match store.read(key) {
                Ok(found) => assert_eq!(found, *value, "a wrong value of {}", key.escape_ascii()),
                Err(error) => {
                    assert!(error.to_string().contains("another key"), "{error}");
                    pairs += 1;
                }
            }
        }
    }
    assert!(pairs > 0, "no hint was of use");
}
