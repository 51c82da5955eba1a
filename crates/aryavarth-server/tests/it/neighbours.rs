//! A neighbour of large work: KEYS over many keys and an EXEC of 10,000 SETs leave a SET of another
//! client its turn. Counted is the work that the neighbour gets done meanwhile; its time is bounded
//! generously.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use aryavarth::{Batch, KvStore, KvsEngine};
use aryavarth_server::Limits;

use crate::support::{Client, PATIENCE, Server};

const KEYS: usize = 100_000;
const SETS: usize = 10_000;

/// How many SETs a neighbour gets done while `large` works.
fn beside(server: &Server, large: impl FnOnce(&mut Client) + Send) -> usize {
    let mut worker = server.client();
    let mut neighbour = server.client();
    assert_eq!(neighbour.ask("SET neighbour v\r\n"), "+OK\r");
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            large(&mut worker);
            is_done.store(true, Ordering::Release);
        });
        let mut sets = 0;
        while !is_done.load(Ordering::Acquire) {
            let begun = Instant::now();
            assert_eq!(neighbour.ask("SET neighbour v\r\n"), "+OK\r");
            assert!(begun.elapsed() < PATIENCE / 3, "a SET took {:?}", begun.elapsed());
            sets += 1;
        }
        sets
    })
}

fn store() -> (tempfile::TempDir, Server) {
    let directory = tempfile::tempdir().unwrap();
    let store = KvStore::open(directory.path()).unwrap();
    let batch: Batch = (0..KEYS).map(|n| (format!("key:{n:06}"), "v")).collect();
    KvsEngine::write(&store, &batch).unwrap();
    (directory, Server::with(store, Limits::default()))
}

/// While a KEYS walks it takes neither the writer's lock nor all threads.
#[test]
fn a_walk_over_many_keys_leaves_a_neighbour_its_writes() {
    let (_directory, server) = store();
    let rounds = 5;
    let sets = beside(&server, |worker| {
        for _ in 0..rounds {
            assert_eq!(worker.ask("KEYS key:*\r\n"), format!("*{KEYS}\r"));
            worker.read_exact(&mut vec![0; KEYS * "$10\r\nkey:000000\r\n".len()]);
        }
    });
    assert!(sets > rounds, "{sets} SETs beside {rounds} KEYS");
}

/// A transaction holds the writer's lock for its own time, and the next one does not come before a
/// neighbour that waits.
#[test]
fn long_transactions_leave_a_neighbour_its_turn() {
    let (_directory, server) = store();
    let rounds = 10;
    let sets: Vec<String> = (0..SETS).map(|n| format!("SET tx:{n:05} v\r\n")).collect();
    let transaction = format!("MULTI\r\n{}EXEC\r\n", sets.concat());
    let done = beside(&server, |worker| {
        for _ in 0..rounds {
            let mut writer = worker.writer();
            thread::scope(|scope| {
                scope.spawn(|| std::io::Write::write_all(&mut writer, transaction.as_bytes()));
                assert_eq!(worker.reply(), "+OK\r");
                for _ in 0..SETS {
                    assert_eq!(worker.reply(), "+QUEUED\r");
                }
                assert_eq!(worker.reply(), format!("*{SETS}\r"));
                for _ in 0..SETS {
                    assert_eq!(worker.reply(), "+OK\r");
                }
            });
        }
    });
    assert!(done >= rounds / 2, "{done} SETs beside {rounds} transactions");
}
