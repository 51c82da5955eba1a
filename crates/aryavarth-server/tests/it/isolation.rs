//! One client's trouble is not another's.

use std::thread;

use aryavarth::{Batch, KvsEngine};
use aryavarth_server::Limits;

use crate::support::{Obedient, Server, eventually, get, set};

#[test]
fn silent_and_slow_clients_hold_up_nobody() {
    let server = Server::start();
    let _silent: Vec<_> = (0..50).map(|_| server.client()).collect();
    let _slow: Vec<_> = (0..50)
        .map(|_| {
            let mut client = server.client();
            client.send(r#"{"Set":{"key":"k","#);
            client
        })
        .collect();
    eventually("all are connected", || server.handle.counters().connections == 100);
    let mut client = server.client();
    for _ in 0..100 {
        assert_eq!(client.ask(get("k")), r#"{"Ok":null}"#);
    }
}

#[test]
fn a_request_that_waits_for_the_disk_holds_up_its_own_connection_only() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    let mut waiting = server.client();
    waiting.send(get("gate") + &get("other"));
    for _ in 0..10 {
        assert_eq!(server.client().ask(get("k")), r#"{"Ok":null}"#);
    }
    engine.open_gate();
    assert_eq!(waiting.reply(), r#"{"Ok":null}"#);
    assert_eq!(waiting.reply(), r#"{"Ok":null}"#);
}

#[test]
fn compactions_take_one_thread_whoever_asks_and_goes() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    let mut patient = server.client();
    patient.send(r#"{"Compact":{}}"#);
    eventually("one runs", || server.handle.counters().requests == 1);
    for _ in 0..5 {
        server.client().send(r#"{"Compact":{}}"#);
    }
    for _ in 0..10 {
        assert_eq!(server.client().ask(get("k")), r#"{"Ok":null}"#);
    }
    engine.open_gate();
    assert_eq!(patient.reply(), r#"{"Ok":null}"#);
}

#[test]
fn a_client_that_takes_no_replies_is_not_served_beyond_its_limit() {
    const REQUESTS: usize = 2000;
    let engine = Obedient::default();
    engine.write(Batch::new().put("large", "x".repeat(100_000))).unwrap();
    engine.sync();
    let server = Server::with(engine, Limits::default());
    let mut greedy = server.client();
    let mut writer = greedy.writer();
    let sender = thread::spawn(move || {
        std::io::Write::write_all(&mut writer, get("large").repeat(REQUESTS).as_bytes()).unwrap();
    });
    eventually("some are run", || server.handle.counters().requests > 0);
    let mut client = server.client();
    for _ in 0..100 {
        assert_eq!(client.ask(get("k")), r#"{"Ok":null}"#);
    }
    // 200 MB of replies do not fit the buffers of two sockets and the limit of 1 MiB.
    let run = server.handle.counters().requests;
    assert!(run < 1000, "{run} requests were run");
    for _ in 0..REQUESTS {
        assert_eq!(greedy.reply().len(), 100_000 + r#"{"Ok":""}"#.len());
    }
    sender.join().unwrap();
}

#[test]
fn a_panicking_engine_call_is_an_error_and_the_server_goes_on() {
    let server = Server::with(Obedient::default(), Limits::default());
    let mut client = server.client();
    for _ in 0..10 {
        client.send(get("panic") + &get("k"));
        assert!(client.reply().contains("the engine panicked"));
        assert_eq!(client.reply(), r#"{"Ok":null}"#);
    }
    assert_eq!(server.handle.counters().requests_panicked, 10);
}

#[test]
fn a_client_that_goes_in_the_middle_is_no_trouble() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    for _ in 0..20 {
        let mut client = server.client();
        client.send(set("k", "v") + &get("gate"));
        drop(client);
    }
    engine.open_gate();
    let mut client = server.client();
    assert_eq!(client.ask(get("missing")), r#"{"Ok":null}"#);
    drop(client);
    eventually("all are gone", || {
        engine.sync();
        server.handle.counters().connections == 0
    });
}
