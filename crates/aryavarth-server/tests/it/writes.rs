//! Writes of several connections: appended together, answered one by one.

use aryavarth_server::{Limits, RayonThreadPool, SharedQueueThreadPool, ThreadPool};

use crate::support::{Client, Obedient, Server, eventually, get, set};

const OK: &str = r#"{"Ok":null}"#;

/// A client whose write of `gate` keeps the engine busy, and others whose writes wait behind it.
fn queued(server: &Server, engine: &Obedient, keys: &[String]) -> (Client, Vec<Client>) {
    let mut first = server.client();
    first.send(set("gate", "v"));
    eventually("the first is being written", || engine.together().len() == 1);
    let mut others = Vec::new();
    for key in keys {
        let mut client = server.client();
        // When the first reply comes the second request has been read, too.
        assert_eq!(client.ask(get("hot") + &set(key, "v")), r#"{"Ok":null}"#);
        others.push(client);
    }
    all_are_queued(server);
    (first, others)
}

/// A server that has a job for each of so many clients, and for no others.
fn start(engine: &Obedient, clients: usize) -> Server {
    engine.sync_always();
    Server::with(engine.clone(), Limits { jobs_max: clients, ..Limits::default() })
}

fn all_are_queued(server: &Server) {
    let mut other = server.client();
    eventually("all are queued", || other.ask(get("cold")).contains("busy"));
}

#[test]
fn what_arrives_during_a_write_is_written_together() {
    let engine = Obedient::default();
    let server = start(&engine, 21);
    let keys: Vec<String> = (0..20).map(|number| format!("hot{number}")).collect();
    let (mut first, others) = queued(&server, &engine, &keys);
    assert_eq!(engine.together(), [1], "one collector is enough for so little");
    engine.open_gate();
    assert_eq!(first.reply(), OK);
    for mut client in others {
        assert_eq!(client.reply(), OK);
    }
    // The last of them has its job a moment before it is queued, so it may come by itself.
    let together = engine.together();
    assert_eq!(together.iter().sum::<usize>(), 21);
    assert!(together.len() <= 3, "{together:?}");
    for key in keys {
        assert_eq!(server.client().ask(get(&key)), r#"{"Ok":"v"}"#);
    }
}

#[test]
fn a_panic_costs_the_writes_that_went_together_and_no_later_one() {
    let engine = Obedient::default();
    let server = start(&engine, 3);
    let keys = ["hot".to_owned(), "panic".to_owned()];
    let (mut first, mut others) = queued(&server, &engine, &keys);
    engine.open_gate();
    assert_eq!(first.reply(), OK);
    assert!(others[1].reply().contains("outcome of this request is unknown"));
    // The outcome of the other one is known only if it went by itself.
    let other = others[0].reply();
    assert!(other == OK || other.contains("outcome of this request is unknown"), "{other}");
    for _ in 0..100 {
        assert_eq!(server.client().ask(set("hot", "w")), OK);
    }
    assert_eq!(server.client().ask(get("hot")), r#"{"Ok":"w"}"#);
}

#[test]
fn writes_of_two_databases_do_not_mix() {
    let engine = Obedient::default();
    let server = start(&engine, 9);
    let mut first = server.client();
    first.send(set("gate", "v"));
    eventually("the first is being written", || engine.together().len() == 1);
    let mut clients: Vec<Client> = (0..8).map(|_| server.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let requests = format!("SELECT {}\r\nSET hot{number} v\r\n", number % 3);
        assert_eq!(client.ask(requests), "+OK\r");
    }
    all_are_queued(&server);
    engine.open_gate();
    assert_eq!(first.reply(), OK);
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.reply(), "+OK\r");
        for space in 0..3 {
            client.ask(format!("SELECT {space}\r\n"));
            let found = client.ask(format!("EXISTS hot{number}\r\n"));
            assert_eq!(found, format!(":{}\r", u8::from(space == number % 3)), "{number} {space}");
        }
    }
}

/// Rayon's threads take the jobs that they queued themselves first. While writes kept coming, other
/// jobs of a small pool would have waited for ever.
#[test]
fn writes_let_the_other_jobs_of_a_small_pool_have_their_turn() {
    others_have_their_turn::<SharedQueueThreadPool>();
    others_have_their_turn::<RayonThreadPool>();
}

/// Many more than a collector takes before it queues itself anew.
const WRITES: usize = 40;

fn others_have_their_turn<P: ThreadPool>() {
    // Now and then the read is queued a moment after the test saw that it would be.
    let done = (0..10).any(|_| writes_before_read::<P>() < WRITES / 2);
    assert!(done, "a read had to wait for all writes every time");
}

/// How many of the writes to a server with one thread were made before a read that had been queued
/// before most of them could begin.
fn writes_before_read<P: ThreadPool>() -> usize {
    let engine = Obedient::default();
    engine.sync_always();
    let limits = Limits { jobs_max: WRITES + 2, ..Limits::default() };
    let server = Server::on(P::new(1).unwrap(), engine.clone(), limits);
    let mut first = server.client();
    first.send(set("gate", "v"));
    eventually("the first is being written", || engine.together().len() == 1);
    let mut clients: Vec<Client> = (0..WRITES).map(|_| server.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        // Writes to different databases do not go together.
        let requests = format!("SELECT {}\r\nSET hot v\r\n", number % 2);
        assert_eq!(client.ask(requests), "+OK\r");
    }
    let mut reader = server.client();
    assert_eq!(reader.ask(get("hot") + &get("cold")), r#"{"Ok":null}"#);
    all_are_queued(&server);
    engine.open_gate();
    assert_eq!(reader.reply(), r#"{"Ok":null}"#);
    assert_eq!(first.reply(), OK);
    for client in &mut clients {
        assert_eq!(client.reply(), "+OK\r");
    }
    engine.calls_before_read()
}

#[test]
fn a_panic_of_the_engine_about_the_disk_stops_no_later_write() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    let mut client = server.client();
    engine.panic_when_asked();
    client.send(set("hot", "v"));
    eventually("it is written", || engine.together().len() == 1);
    engine.sync_always();
    assert_eq!(client.reply(), OK);
    for _ in 0..10 {
        assert_eq!(server.client().ask(set("hot", "w")), OK);
    }
}

#[test]
fn what_is_mixed_in_a_pipeline_is_answered_in_order() {
    let engine = Obedient::default();
    engine.sync_always();
    let server = Server::with(engine.clone(), Limits::default());
    let mut client = server.client();
    for round in 0..50 {
        let value = round.to_string();
        // Blind writes first, in the middle and last, small and large.
        let large = "x".repeat(300 << 10);
        let requests =
            [set("hot", &value), get("hot"), set("k", &large), get("k"), set("k", &value)];
        client.send(requests.concat());
        let replies: Vec<String> = requests.iter().map(|_| client.reply()).collect();
        let found = |value: &str| format!(r#"{{"Ok":"{value}"}}"#);
        assert_eq!(replies, [OK, &found(&value), OK, &found(&large), OK]);
    }
}
