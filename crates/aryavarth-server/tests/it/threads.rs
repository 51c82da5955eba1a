//! Where engine calls run: what may wait for a disk on the pool's threads, what cannot where the
//! bytes arrived.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;

use aryavarth::{
    Batch, Count, Durability, KeyPage, KeyRange, KvsEngine, MemoryEngine, Page, Position, Result,
    Stats, Stored, Transaction, Watch,
};
use aryavarth_server::Limits;

use crate::support::{Server, get, remove, set};

/// An engine in memory that notes who calls it. Keys that begin with `cold` take patience; reading
/// `panic` panics.
#[derive(Clone, Default)]
struct Witness {
    memory: MemoryEngine,
    seen: Arc<Mutex<BTreeSet<(&'static str, String)>>>,
}

impl Witness {
    fn note(&self, call: &'static str) {
        let thread = thread::current().name().unwrap_or_default().to_owned();
        // Threads of a pool are numbered.
        let pool = thread.split('-').next().unwrap_or_default().to_owned();
        self.seen.lock().unwrap().insert((call, pool));
    }

    fn take(&self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut *self.seen.lock().unwrap()).into_iter().collect()
    }
}

impl KvsEngine for Witness {
    fn name(&self) -> &'static str {
        "witness"
    }

    fn durability(&self) -> Durability {
        Durability::Always
    }

    fn space(&self) -> u32 {
        self.memory.space()
    }

    fn with_space(&self, space: u32) -> Self {
        let memory = self.memory.with_space(space);
        Self { memory, ..self.clone() }
    }

    fn now_ms(&self) -> u64 {
        self.memory.now_ms()
    }

    fn keys(&self, range: &KeyRange, limit: usize) -> Result<KeyPage> {
        self.memory.keys(range, limit)
    }

    fn count(&self) -> Result<(Count, Position)> {
        self.memory.count()
    }

    fn watch(&self, key: &[u8]) -> Result<Watch> {
        self.memory.watch(key)
    }

    fn find(&self, key: &[u8]) -> Result<(Option<Stored>, Position)> {
        self.note("read");
        self.memory.find(key)
    }

    fn find_now(&self, key: &[u8]) -> Result<Option<(Option<Stored>, Position)>> {
        assert!(key != b"panic", "the engine panics, as this test wants");
        if key.starts_with(b"cold") {
            return Ok(None);
        }
        self.note("read now");
        self.memory.find_now(key)
    }

    fn write(&self, batch: Batch) -> Result<(u64, Position)> {
        self.note("write");
        self.memory.write(batch)
    }

    fn commit<R>(
        &self,
        keys: &[&[u8]],
        body: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<(R, Position)> {
        self.note("commit");
        self.memory.commit(keys, body)
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Page> {
        self.note("scan");
        self.memory.scan(range, limit)
    }

    fn wait(&self, _position: Position, _level: Durability) -> Result<()> {
        panic!("the server waits without blocking");
    }

    fn on_reached(&self, position: Position, level: Durability, waker: &Waker) -> Poll<Result<()>> {
        self.memory.on_reached(position, level, waker)
    }

    fn compact(&self) -> Result<()> {
        self.note("compact");
        self.memory.compact()
    }

    fn stats(&self) -> Stats {
        self.memory.stats()
    }
}

fn start() -> (Server, Witness) {
    let engine = Witness::default();
    (Server::with(engine.clone(), Limits::default()), engine)
}

#[test]
fn what_can_block_runs_on_the_pool() {
    let (server, engine) = start();
    let mut client = server.client();
    for (request, call) in [
        (set("k", "v"), "write"),
        (remove("k"), "write"),
        (get("cold"), "read"),
        (r#"{"Scan":{"prefix":"","after":null,"limit":10}}"#.to_owned(), "scan"),
        (r#"{"Compact":{}}"#.to_owned(), "compact"),
    ] {
        client.ask(&request);
        assert_eq!(engine.take(), [(call, "pool".to_owned())], "{request}");
    }
}

#[test]
fn what_is_at_hand_is_read_where_its_bytes_arrived() {
    let (server, engine) = start();
    let mut client = server.client();
    assert_eq!(client.ask(get("absent")), r#"{"Ok":null}"#);
    assert_eq!(engine.take(), [("read now", "sockets".to_owned())]);
}

#[test]
fn what_follows_a_call_that_can_block_waits_for_its_turn() {
    let (server, engine) = start();
    let mut client = server.client();
    // Whatever pieces the requests arrive in, each sees what those before it did.
    for round in 0..100 {
        let value = round.to_string();
        let requests =
            [get("k"), set("k", &value), get("k"), get("cold"), get("k"), remove("k"), get("k")];
        client.send(requests.concat());
        let replies: Vec<String> = requests.iter().map(|_| client.reply()).collect();
        let (null, found) = (r#"{"Ok":null}"#, format!(r#"{{"Ok":"{value}"}}"#));
        assert_eq!(replies, [null, null, &found, null, &found, null, null]);
    }
    assert!(engine.take().contains(&("write", "pool".to_owned())));
}

#[test]
fn a_long_pipeline_of_reads_is_answered_in_order() {
    let (server, engine) = start();
    let mut client = server.client();
    for number in 0..10 {
        client.ask(set(&format!("k{number}"), &number.to_string()));
    }
    let requests: String = (0..5000).map(|number| get(&format!("k{}", number % 10))).collect();
    let mut writer = client.writer();
    let sender = thread::spawn(move || std::io::Write::write_all(&mut writer, requests.as_bytes()));
    for number in 0..5000 {
        assert_eq!(client.reply(), format!(r#"{{"Ok":"{}"}}"#, number % 10));
    }
    sender.join().unwrap().unwrap();
    assert!(!engine.take().iter().any(|(call, _)| *call == "read"));
}

#[test]
fn a_panic_where_the_bytes_arrived_is_an_error_and_the_connection_goes_on() {
    let (server, _engine) = start();
    let mut client = server.client();
    assert!(client.ask(get("panic")).contains("internal error"));
    assert_eq!(client.ask(get("absent")), r#"{"Ok":null}"#);
    assert_eq!(server.handle.counters().requests_panicked, 1);
}
