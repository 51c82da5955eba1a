//! Orders that the crash sweep does not show: another write at the wrong moment, results that are
//! computed, numbers that no caller sees.
//!
//! The sweep runs one call after the other, so nothing is ever written while a compaction runs.
//! Here a hook in the file system writes at a certain step, and looks at a later one at the
//! disk after a power cut.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use aryavarth::fs::{Crash, Fs, OpenHow, SimFs, Site, read_full};
use aryavarth::{Durability, KvStore, KvsEngine, KvsError, Options, Transaction, Wait};

use crate::regressions::{open, open_hooked};

/// The rest after a power cut at `look` of a store in which, during a compaction, `key` was set at
/// `write`, without a sync. The store holds two keys, and both are on disk.
fn left_by_a_cut(write: Site, key: &'static [u8], look: Site) -> KvStore {
    let fs = SimFs::new();
    let (disk, other) = (fs.clone(), Arc::new(Mutex::new(None::<KvStore>)));
    let (stage, left) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None)));
    let (now, writer, seen) = (stage.clone(), other.clone(), left.clone());
    let store = open_hooked(&fs, move |site| {
        if site == write && now.compare_exchange(1, 2, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            let store = writer.lock().unwrap().take().expect("armed with a store");
            store.with_durability(Durability::Os).put(key, b"new").map_err(io::Error::other)?;
            now.store(3, Ordering::SeqCst);
        }
        if site == look && now.compare_exchange(3, 4, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            *seen.lock().unwrap() = Some(disk.crash(Crash::Nothing));
        }
        Ok(())
    });
    store.put(b"a", b"old").unwrap();
    store.put(b"b", b"old").unwrap();
    // The armed one then reads a copy, and it seals nothing.
    store.compact().unwrap();
    *other.lock().unwrap() = Some(store.clone());
    stage.store(1, Ordering::SeqCst);
    store.compact().unwrap();
    let left = left.lock().unwrap().take().expect("the compaction came by");
    open(left)
}

/// The pass found the old value dead, because a newer one had been written; but only a newer one
/// that is on disk makes it garbage.
#[test]
fn a_durable_value_outlives_a_newer_one_that_is_not() {
    let store = left_by_a_cut(Site::SegmentScan, b"a", Site::HintCreate);
    assert!(store.read(b"a").unwrap().is_some(), "both values of a key are gone");
    assert_eq!(store.read(b"b").unwrap().as_deref(), Some(&b"old"[..]));
}

/// A write that is not released knows the place that it replaced, and may have to go back to it:
/// a segment that holds such places is not retired.
#[test]
fn nothing_is_retired_before_what_replaced_it_is_durable() {
    let store = left_by_a_cut(Site::HintCreate, b"a", Site::SegmentRemove);
    assert_eq!(store.read(b"a").unwrap().as_deref(), Some(&b"new"[..]));
    assert_eq!(store.read(b"b").unwrap().as_deref(), Some(&b"old"[..]));
}

/// A sync covers all writes before it began: whether writes that come in meanwhile are covered too
/// is unknown.
#[test]
fn a_sync_vouches_for_nothing_that_was_written_while_it_ran() {
    let fs = SimFs::new();
    let (other, writer) = (Arc::new(Mutex::new(None::<KvStore>)), Arc::new(Mutex::new(None)));
    let (taken, later) = (other.clone(), writer.clone());
    let store = open_hooked(&fs, move |site| {
        if site == Site::LogSync
            && let Some(store) = taken.lock().unwrap().take()
        {
            store.with_durability(Durability::Os).put(b"later", b"v").map_err(io::Error::other)?;
            *later.lock().unwrap() = Some(store.stats().written_position);
        }
        Ok(())
    });
    *other.lock().unwrap() = Some(store.clone());
    store.put(b"k", b"v").unwrap();
    let later = writer.lock().unwrap().expect("the sync came by");
    let durable = store.stats().durable_position;
    assert!(durable > 0 && durable < later, "durable up to {durable}, written up to {later}");
}

/// A closure's result may be computed from anything that it saw: it waits for all of it, be it
/// a result or an error, although the closure itself writes nothing.
#[test]
fn what_a_closure_tells_is_durable() {
    let fs = SimFs::new();
    let store = open(fs.clone());
    store.put(b"gone", b"v").unwrap();
    let unsynced = store.with_durability(Durability::Os);
    unsynced.put(b"k", b"v").unwrap();
    let told = store.transact(&[b"k"], |tx| tx.read(b"k")).unwrap();
    assert_eq!(open(fs.crash(Crash::Nothing)).read(b"k").unwrap(), told);

    assert!(unsynced.delete(b"gone").unwrap());
    let told = store.transact(&[b"gone"], |tx| tx.read(b"gone")?.ok_or(KvsError::KeyNotFound));
    assert!(matches!(told, Err(KvsError::KeyNotFound)), "{told:?}");
    assert_eq!(open(fs.crash(Crash::Nothing)).read(b"gone").unwrap(), None);
}

/// The highest sequence number in the log files of a store.
fn seq_max(fs: &SimFs) -> u64 {
    let dir = Path::new("/store");
    let names = fs.list(Site::DirList, dir).unwrap();
    let logs = names.iter().filter(|name| Path::new(name).extension().is_some_and(|e| e == "log"));
    let mut highest = 0;
    for name in logs {
        let file = fs.open(Site::SegmentOpen, &dir.join(name), OpenHow::Read).unwrap();
        let mut bytes = vec![0; file.len(Site::SegmentLength).unwrap() as usize];
        read_full(&*file, Site::SegmentScan, &mut bytes, 0).unwrap();
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let mut at = 64;
        // A record begins with its checksums, which are not both zero; see docs/format.md.
        while at + 24 <= bytes.len() && word(at) != 0 {
            highest = highest.max(word(at + 8) >> 8);
            let payload = (word(at + 16) & 0xffff_ffff) + (word(at + 16) >> 32 & 0xffff);
            at += (24 + payload as usize).next_multiple_of(8);
        }
    }
    highest
}

/// A crash took writes that a reader may have seen: their numbers and places stay theirs.
#[test]
fn numbers_that_a_crash_took_are_not_given_again() {
    let fs = SimFs::new();
    let store = open(fs.clone());
    store.put(b"a", b"1").unwrap();
    for i in 0..50_u8 {
        store.with_durability(Durability::Os).put(&[i], b"lost").unwrap();
    }
    let (seq, position) = (seq_max(&fs), store.stats().written_position);
    assert!(seq > 50);
    let fs = fs.crash(Crash::Nothing);
    let store = open(fs.clone());
    assert_eq!(store.stats().keys, 1);
    assert!(store.stats().written_position > position);
    let before = seq_max(&fs);
    store.put(b"a", b"2").unwrap();
    let after = seq_max(&fs);
    assert!(after > before && after > seq, "{before}, {after}, before the crash {seq}");
}

/// Whether a key is there is told from the index, and is as young as the index's record.
#[test]
fn a_deadline_is_no_more_durable_than_the_value_it_belongs_to() {
    let fs = SimFs::new();
    let store = open(fs).with_durability(Durability::Os);
    let look = || {
        let (found, deadline) =
            (store.find(b"k", Wait::Yes).unwrap(), KvsEngine::deadline(&store, b"k", Wait::Yes));
        let deadline = deadline.unwrap();
        assert_eq!((found.0.is_some(), found.1), (deadline.0.is_some(), deadline.1));
        deadline.1
    };
    let mut before = look();
    for step in ["set", "removed", "set again", "emptied"] {
        match step {
            "removed" => drop(store.delete(b"k").unwrap()),
            "emptied" => {
                let clear = |transaction: &mut Transaction<'_>| {
                    transaction.clear();
                    Ok(())
                };
                KvsEngine::transact(&store, &[], clear).unwrap();
            }
            _ => store.put(b"k", b"v").unwrap(),
        }
        let now = look();
        assert!(now > before, "{step}");
        before = now;
    }
}

/// UNLINK of keys that fill a disk must not fill the memory.
#[test]
fn a_closure_is_given_so_much_and_no_more() {
    let fs = SimFs::new();
    let options = Options {
        fs: Arc::new(fs),
        background: false,
        value_bytes_max: 1 << 20,
        batch_bytes_max: 1 << 20,
        ..Options::default()
    };
    let open = || KvStore::open_with(Path::new("/db"), options.clone()).unwrap();
    let store = open();
    let keys: Vec<[u8; 1]> = (0..9).map(|n| [n]).collect();
    for key in &keys {
        store.put(key, &vec![0; 300_000]).unwrap();
    }
    // The newest values are in memory anyway.
    drop(store);
    let store = open();
    let named: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    let read = |count: usize| {
        KvsEngine::transact(&store, &named, |transaction| {
            named[..count].iter().try_for_each(|key| transaction.read(key).map(drop))
        })
    };
    assert!(read(6).is_ok(), "2 MiB fit");
    let refused = read(9).unwrap_err();
    assert!(matches!(refused, KvsError::TooLarge { size: 2_100_000.., .. }), "{refused}");
    // A value that is only removed is not read.
    let removed = KvsEngine::transact(&store, &[], |transaction| {
        for key in &named {
            transaction.delete(*key);
        }
        Ok(())
    });
    removed.unwrap();
    assert_eq!(store.stats().keys, 0);
}
