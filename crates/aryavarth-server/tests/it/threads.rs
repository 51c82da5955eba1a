//! Where engine calls run: those that may wait for a disk on the pool's threads, the others where the
//! bytes arrived.

use std::thread;

use aryavarth_server::Limits;

use crate::support::{Obedient, Server, get, remove, set};

/// A server over an engine without waits.
fn start() -> (Server, Obedient) {
    let engine = Obedient::default();
    engine.open_gate();
    engine.sync_always();
    (Server::with(engine.clone(), Limits::default()), engine)
}

#[test]
fn what_can_block_runs_on_the_pool() {
    let (server, engine) = start();
    let mut client = server.client();
    for (request, call) in [
        (set("k", "v"), "write"),
        (remove("k"), "write"),
        (get("k"), "read"),
        (r#"{"Scan":{"prefix":"","after":null,"limit":10}}"#.to_owned(), "scan"),
        (r#"{"Compact":{}}"#.to_owned(), "compact"),
    ] {
        client.ask(&request);
        assert_eq!(engine.take_calls(), [(call, "pool".to_owned())], "{request}");
    }
}

#[test]
fn what_is_at_hand_is_read_where_its_bytes_arrived() {
    let (server, engine) = start();
    let mut client = server.client();
    assert_eq!(client.ask(get("hot")), r#"{"Ok":null}"#);
    assert_eq!(engine.take_calls(), [("read now", "sockets".to_owned())]);
}

#[test]
fn what_follows_a_call_that_can_block_waits_for_its_turn() {
    let (server, engine) = start();
    let mut client = server.client();
    // Whatever pieces the requests arrive in, each sees the effects of those before it.
    for round in 0..100 {
        let value = round.to_string();
        let requests = [
            get("hot"),
            set("hot", &value),
            get("hot"),
            get("cold"),
            get("hot"),
            remove("hot"),
            get("hot"),
        ];
        client.send(requests.concat());
        let replies: Vec<String> = requests.iter().map(|_| client.reply()).collect();
        let (null, found) = (r#"{"Ok":null}"#, format!(r#"{{"Ok":"{value}"}}"#));
        assert_eq!(replies, [null, null, &found, null, &found, null, null]);
    }
    assert!(engine.take_calls().contains(&("write", "pool".to_owned())));
}

#[test]
fn a_long_pipeline_of_reads_is_answered_in_order() {
    let (server, engine) = start();
    let mut client = server.client();
    for number in 0..10 {
        client.ask(set(&format!("hot{number}"), &number.to_string()));
    }
    let requests: String = (0..5000).map(|number| get(&format!("hot{}", number % 10))).collect();
    let mut writer = client.writer();
    let sender = thread::spawn(move || std::io::Write::write_all(&mut writer, requests.as_bytes()));
    for number in 0..5000 {
        assert_eq!(client.reply(), format!(r#"{{"Ok":"{}"}}"#, number % 10));
    }
    sender.join().unwrap().unwrap();
    assert!(!engine.take_calls().iter().any(|(call, _)| *call == "read"));
}

#[test]
fn a_panic_where_the_bytes_arrived_is_an_error_and_the_connection_goes_on() {
    let (server, _engine) = start();
    let mut client = server.client();
    assert!(client.ask(get("hot panic")).contains("internal error"));
    assert_eq!(client.ask(get("absent")), r#"{"Ok":null}"#);
    assert_eq!(server.handle.counters().requests_panicked, 1);
}
