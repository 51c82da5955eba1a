//! Locks that a caller could wait for without end: its own, inside a transaction's closure, and those
//! that are held while a disk works.

use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use aryavarth::fs::SimFs;
use aryavarth::{Batch, Durability, KvStore, KvsError, Options, verify};

use crate::regressions::{open, open_hooked};

/// Every blocking call of the store from inside its closure used to hang for ever.
#[test]
fn a_blocking_call_from_inside_a_closure_is_refused_at_once() {
    fn refused<T>(done: Result<T, KvsError>) {
        assert!(matches!(done.err(), Some(KvsError::InsideTransaction)));
    }
    let store = open(SimFs::new());
    store.put(b"durable", b"1").unwrap();
    let unsynced = store.with_durability(Durability::Os);
    unsynced.put(b"unsynced", b"1").unwrap();
    let done = store.transact(&[], |transaction| {
        refused(store.put(b"k", b"v"));
        refused(store.put_until(b"k", b"v", u64::MAX));
        refused(store.delete(b"durable"));
        refused(store.write(Batch::new().put("k", "v")));
        refused(store.transact(&[], |_| Ok(())));
        refused(store.clear());
        refused(store.with_space(3).clear());
        refused(store.flush());
        refused(store.compact());
        refused(store.scrub());
        refused(store.step());
        refused(store.clone().close());
        // A read takes no lock, but must not wait for the disk under the writer's.
        assert_eq!(store.read(b"durable")?, Some(b"1".to_vec()));
        refused(store.read(b"unsynced"));
        refused(store.scan(aryavarth::KeyRange::all()).next().unwrap());
        assert_eq!(store.stats().keys, 2);
        transaction.put("k", "from inside");
        Ok(())
    });
    done.unwrap();
    assert_eq!(store.read(b"k").unwrap(), Some(b"from inside".to_vec()));
    assert_eq!(store.read(b"unsynced").unwrap(), Some(b"1".to_vec()));
    store.close().unwrap();
}

/// A closure of one store may use another one, and the refusal ends with the closure, however the
/// closure ends.
#[test]
fn only_the_closures_own_store_refuses_and_only_while_it_runs() {
    let (one, other) = (open(SimFs::new()), open(SimFs::new()));
    one.transact(&[], |_| {
        other.put(b"k", b"v")?;
        other.transact(&[], |_| {
            assert!(matches!(one.put(b"k", b"v"), Err(KvsError::InsideTransaction)));
            Ok(())
        })
    })
    .unwrap();
    let failed = one.transact(&[], |_| -> Result<(), _> { Err(KvsError::KeyNotFound) });
    assert!(failed.is_err());
    let panicking = || one.transact(&[], |_| -> Result<(), _> { panic!("a closure that panics") });
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panicking)).is_err());
    one.put(b"k", b"v").unwrap();
    other.put(b"k", b"w").unwrap();
}

/// The figures took the locks of the manifest, of growth and of the writer, each of which is held
/// while a disk works. Here every call to the disk asks for them on another thread, and waits.
#[test]
fn figures_wait_for_no_call_to_the_disk() {
    let held: Arc<OnceLock<KvStore>> = Arc::default();
    let in_hook = Arc::clone(&held);
    let store = open_hooked(&SimFs::new(), move |site| {
        if let Some(store) = in_hook.get().cloned() {
            let (answer, answered) = channel();
            thread::spawn(move || answer.send(store.stats().disk_bytes));
            let disk_bytes = answered.recv_timeout(Duration::from_secs(30));
            assert!(disk_bytes.is_ok(), "the figures wait while the disk is busy with {site:?}");
        }
        Ok(())
    });
    held.set(store.clone()).unwrap();
    for n in 0..40_u32 {
        store.put(&n.to_le_bytes(), &vec![7; 60_000]).unwrap();
        while store.step().unwrap() {}
    }
    store.compact().unwrap();
    assert!(store.stats().disk_bytes > 40 * 60_000);
    store.close().unwrap();
}

#[test]
fn the_figures_are_those_of_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { background: false, ..Options::default() };
    let store = KvStore::open_with(dir.path(), options).unwrap();
    for n in 0..100_u32 {
        store.put(&n.to_le_bytes(), &vec![7; 60_000]).unwrap();
        while store.step().unwrap() {}
    }
    let files = dir.path().read_dir().unwrap();
    let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    let told = store.stats().disk_bytes;
    assert!(told.abs_diff(bytes) < 1 << 20, "{told} bytes are told, {bytes} are there");
}

/// The check of the locks' order panicked there in debug builds.
#[test]
fn a_callback_of_progress_may_verify_another_store() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    for dir in &dirs {
        KvStore::open(dir.path()).unwrap().put(b"k", b"v").unwrap();
    }
    let options = Options::default();
    let mut inner = 0;
    let report = verify(dirs[0].path(), &options, |_, _| {
        inner += verify(dirs[1].path(), &options, |_, _| {}).unwrap().records;
    });
    assert!(report.unwrap().damage.is_empty() && inner > 0);
}
