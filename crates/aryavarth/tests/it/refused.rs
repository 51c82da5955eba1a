//! A write that a full disk refused is not there, ever, however much of it was written.
//!
//! A write can find no space when half of it is in the file, and that half may be whole records
//! with good checksums. As long as the next write went over their place no reader saw them. But the
//! next write may go to another segment, if it is too large for this one: then they stood behind the
//! true end of a segment, recovery took them for the log, found that the next segment did not begin
//! where they ended, and cut off acknowledged records. Likewise a manifest's edit of which only
//! zeros were missing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use aryavarth::fs::{Crash, Fault, SimFs, Site};
use aryavarth::{Batch, Durability, KvStore, KvsError, Options};

fn open(fs: &SimFs) -> Result<KvStore, KvsError> {
    let options = Options {
        fs: Arc::new(fs.clone()),
        background: false,
        segment_bytes_min: 4096,
        seed: 1,
        ..Options::default()
    };
    KvStore::open_with(Path::new("/db"), options)
}

/// The known state of each key: its value, or its absence. Other keys are unknown.
type Known = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

fn check(fs: &SimFs, known: &Known, what: &str) {
    let crashes = [Crash::Nothing, Crash::Everything].into_iter();
    for crash in crashes.chain((0..4).map(|seed| Crash::Some { seed })) {
        let store = match open(&fs.crash(crash)) {
            Ok(store) => store,
            Err(error) => panic!("{what}, {crash:?}: {error}"),
        };
        for (key, value) in known {
            let found = store.read(key).unwrap();
            assert_eq!(&found, value, "{what}, {crash:?}: {}", key.escape_ascii());
        }
    }
}

/// From call `at` on, `halves` calls move the half of the rest, and the next finds no space.
fn break_off(fs: &SimFs, at: u64, halves: u64) {
    (0..halves).for_each(|n| fs.fail_call(at + n, Fault::Short));
    fs.fail_call(at + halves, Fault::NoSpace);
}

/// Batches, small ones and such as fit only a segment of their own, keys that come and go, and
/// compaction. Calls `look` after each step. Returns the first error that is not for want of space.
fn story(fs: &SimFs, mut look: impl FnMut(&Known, &str)) -> Option<KvsError> {
    let store = match open(fs) {
        Ok(store) => store.with_durability(Durability::Always),
        Err(error) if error.is_full() => return None,
        Err(error) => return Some(error),
    };
    let mut known = Known::new();
    for n in 0..24_u8 {
        let mut batch = Batch::from([(vec![n, 0], vec![n; 24]), (vec![n, 1], vec![0; 400])]);
        if n % 4 == 3 {
            batch.put(vec![n, 2], vec![n; 4000]);
        }
        if n >= 8 {
            batch.delete(vec![n - 8, 0]);
        }
        match store.write(&batch) {
            Ok(_) => {
                for (key, value) in pairs(&batch) {
                    known.insert(key, value);
                }
            }
            Err(error) if error.is_full() => {
                for (key, _) in pairs(&batch) {
                    known.entry(key).or_default();
                }
            }
            Err(error) => return Some(error),
        }
        look(&known, &format!("after write {n}"));
        let worked = if n % 10 == 9 { store.compact() } else { Ok(()) };
        let worked = worked.and_then(|()| if n % 3 == 0 { idle(&store) } else { Ok(()) });
        match worked {
            Err(error) if !error.is_full() => return Some(error),
            _ => look(&known, &format!("after the work behind write {n}")),
        }
    }
    None
}

fn idle(store: &KvStore) -> Result<(), KvsError> {
    while store.step()? {}
    Ok(())
}

fn pairs(batch: &Batch) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let pair = |write: &aryavarth::Write| (write.key().to_vec(), write.value().map(<[u8]>::to_vec));
    batch.writes().iter().map(pair).collect()
}

#[test]
fn an_append_that_found_no_space_in_part_leaves_no_trace() {
    sweep(Site::FrameWrite);
}

#[test]
fn an_edit_of_the_manifest_that_found_no_space_in_part_leaves_no_trace() {
    sweep(Site::ManifestWrite);
}

/// Lets each call of a kind break off, after none of it, the half, three quarters and so on.
fn sweep(site: Site) {
    let calm = SimFs::new();
    assert!(story(&calm, |_, _| {}).is_none());
    let trace = calm.trace();
    let calls = (0..trace.len()).filter(|call| trace[*call] == site);
    let mut scenes = 0;
    for call in calls {
        for halves in 0..8 {
            let fs = SimFs::new();
            break_off(&fs, call as u64, halves);
            let mut looks = 0;
            let wrong = story(&fs, |known, what| {
                // Before the fault nothing is new.
                if fs.calls() > call as u64 && looks < 4 {
                    looks += 1;
                    check(&fs, known, &format!("{site:?} {call}, {halves} halves, {what}"));
                }
            });
            // Else the call had so few bytes that the fault hit the one behind it.
            if fs.trace().get(call + halves as usize) == Some(&site) {
                assert!(wrong.is_none(), "{site:?} {call}, {halves} halves: {wrong:?}");
                scenes += 1;
            }
        }
    }
    assert!(scenes > 80, "{scenes}");
}
