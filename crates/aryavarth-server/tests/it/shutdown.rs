//! A server that stops finishes the requests that it has begun.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use aryavarth_server::Limits;

use crate::support::{Obedient, Server, eventually, get, set};

#[test]
fn what_has_arrived_is_answered_and_idle_clients_are_let_go() {
    let engine = Obedient::default();
    let mut server = Server::with(engine.clone(), Limits::default());
    let mut idle = server.client();
    let mut working = server.client();
    working.send(get("gate") + &get("b") + &set("c", "1"));
    let mut durable = server.client();
    durable.send(set("d", "1"));
    eventually("both are run", || server.handle.counters().requests == 2);

    server.handle.shutdown();
    assert_eq!(idle.rest(), "");
    engine.open_gate();
    assert_eq!(working.reply(), r#"{"Ok":null}"#);
    assert_eq!(working.reply(), r#"{"Ok":null}"#);
    engine.sync();
    assert_eq!(durable.rest(), "{\"Ok\":null}\n");
    assert_eq!(working.rest(), "{\"Ok\":null}\n");
    server.join();
    assert!(TcpStream::connect(server.addr).is_err(), "a stopped server listens no more");
}

#[test]
fn half_a_request_does_not_keep_the_server() {
    let mut server = Server::with(Obedient::default(), Limits::default());
    let mut client = server.client();
    client.send(get("a") + r#"{"Set":{"key":"#);
    assert_eq!(client.reply(), r#"{"Ok":null}"#);
    server.handle.shutdown();
    assert_eq!(client.rest(), "");
    server.join();
}

#[test]
fn a_call_that_never_returns_does_not_keep_the_server_beyond_its_limit() {
    let engine = Obedient::default();
    let limits = Limits { drain: Duration::from_millis(200), ..Limits::default() };
    let mut server = Server::with(engine.clone(), limits);
    let mut client = server.client();
    client.send(get("gate"));
    eventually("it is run", || server.handle.counters().requests == 1);
    server.handle.shutdown();
    let start = Instant::now();
    assert_eq!(client.rest(), "");
    assert!(start.elapsed() < Duration::from_secs(20));
    // The pool is joined when the server goes, so the call has to return for that.
    engine.open_gate();
    server.join();
}

/// A job on the pool once kept its handle until after its answer was on the way. So a server could
/// be gone while its directory was still locked, and a program could end in the middle of a close.
#[test]
fn when_the_server_has_gone_nobody_holds_its_engine() {
    for _ in 0..300 {
        let engine = Obedient::default();
        let mut server = Server::with(engine.clone(), Limits::default());
        let mut client = server.client();
        client.send(get("a"));
        while server.handle.counters().requests == 0 {
            std::hint::spin_loop();
        }
        server.handle.shutdown();
        server.join();
        assert_eq!(engine.handles(), 1, "only the test's own is left");
        assert_eq!(client.rest(), "{\"Ok\":null}\n");
    }
}
