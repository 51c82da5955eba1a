//! How often a transaction runs: the engine asks its clock once for each run of a closure, so a
//! clock that counts tells the number of runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aryavarth::fs::SimFs;
use aryavarth::{Batch, Clock, KvStore, KvsEngine, MemoryEngine, Options};
use aryavarth_protocol::Reply;

use super::connections::{call, connect};
use super::fake_server::FakeServer;
use crate::limits::Limits;

/// A clock that stands still and counts how often it is asked.
#[derive(Debug, Default)]
struct Counting(AtomicU64);

impl Clock for Counting {
    fn now_ms(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed);
        1_000_000
    }
}

fn key(n: usize) -> String {
    format!("key:{n}")
}

/// A reopened store, of whose values none is in memory.
fn reopened(keys: usize, clock: &Arc<Counting>) -> KvStore {
    let fs = Arc::new(SimFs::new());
    let open = || {
        let clock: Arc<Counting> = Arc::clone(clock);
        let options = Options { fs: fs.clone(), background: false, clock, ..Options::default() };
        KvStore::open_with("/store", options).unwrap()
    };
    let store = open();
    let batch: Batch = (0..keys).map(|n| (key(n), n.to_string())).collect();
    KvsEngine::write(&store.with_space(1), &batch).unwrap();
    store.close().unwrap();
    open()
}

/// 4,000 GETs behind a SELECT used to run 4,000 times, each time from the beginning, under the
/// writer's lock: 5.6 seconds instead of 0.03.
#[test]
fn a_transaction_on_keys_of_another_database_runs_twice() {
    const KEYS: usize = 4_000;
    let clock = Arc::new(Counting::default());
    let store = reopened(KEYS, &clock);
    let server = FakeServer::new(MemoryEngine::new(), Limits::default());
    let mut client = connect(&server, 0);
    let mut call = |args: &[&str]| call(&store, &server, &mut client, args).unwrap().reply.unwrap();
    call(&["MULTI"]);
    call(&["SELECT", "1"]);
    (0..KEYS).for_each(|n| drop(call(&["GET", &key(n)])));
    let before = clock.0.load(Ordering::Relaxed);
    let reply = call(&["EXEC"]);
    let asked = clock.0.load(Ordering::Relaxed) - before;
    assert!(asked <= 20, "the clock was asked {asked} times");
    let Reply::Array(replies) = reply else { panic!("{reply:?}") };
    assert_eq!(replies.len(), KEYS + 1);
    assert!(matches!(&replies[0], Reply::Simple(text) if &**text == "OK"));
    let last = &replies[KEYS];
    assert!(matches!(last, Reply::Bulk(value) if value[..] == *b"3999"), "{last:?}");
    // The database stays selected behind the transaction.
    assert!(matches!(call(&["GET", "key:1"]), Reply::Bulk(value) if value[..] == *b"1"));
}
