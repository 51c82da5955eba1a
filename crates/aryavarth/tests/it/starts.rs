//! Nothing grows with the number of starts: a store that was started two thousand times, with a
//! write each, holds no more files than its data needs, and opens with 64 descriptors.
//!
//! Each start with a write used to leave a segment that nothing ever merged, so after about as many
//! starts as a process may have descriptors the store did not open any more.

use std::process::Command;

use aryavarth::{KvStore, Options};

/// Says to the test's own binary, run again as a child, where the store lies.
const DIR: &str = "ARYAVARTH_STARTS_DIR";
const STARTS: u32 = 2_000;

fn files(dir: &std::path::Path) -> usize {
    dir.read_dir().unwrap().count()
}

#[test]
fn a_store_of_many_starts_opens_with_64_descriptors() {
    if let Some(dir) = std::env::var_os(DIR) {
        let store = KvStore::open(dir).unwrap();
        for start in 0..STARTS {
            assert_eq!(store.read(&start.to_le_bytes()).unwrap().as_deref(), Some(&b"v"[..]));
        }
        store.put(b"still", b"writable").unwrap();
        return store.close().unwrap();
    }
    // In memory where there is such a directory: thousands of syncs are not what this is about.
    let in_memory = tempfile::tempdir_in("/dev/shm");
    let dir = in_memory.or_else(|_| tempfile::tempdir()).unwrap();
    for start in 0..STARTS {
        let options = Options { background: false, ..Options::default() };
        let store = KvStore::open_with(dir.path(), options).unwrap();
        store.put(&start.to_le_bytes(), b"v").unwrap();
        store.close().unwrap();
        assert!(files(dir.path()) < 48, "{} files after {start} starts", files(dir.path()));
    }
    let me = std::env::current_exe().unwrap();
    let mut child = Command::new("sh");
    child.args(["-c", "ulimit -n 64 && exec \"$0\" --exact \"$1\""]).arg(me);
    child.arg("starts::a_store_of_many_starts_opens_with_64_descriptors").env(DIR, dir.path());
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
