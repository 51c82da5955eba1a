//! A reply leaves when all that it shows is durable, and a pipeline does not wait in between.

use std::thread;
use std::time::Duration;

use aryavarth::{KvsEngine, Wait};
use aryavarth_server::Limits;

use crate::support::{Obedient, Server, eventually, get, remove, set};

#[test]
fn a_pipeline_is_run_as_a_whole_and_waits_once() {
    const WRITES: usize = 1000;
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    let mut client = server.client();
    client.send((0..WRITES).map(|i| set("k", &i.to_string())).collect::<String>());
    eventually("all are run", || server.handle.counters().requests == WRITES as u64);
    engine.sync_always();
    for _ in 0..WRITES {
        assert_eq!(client.reply(), r#"{"Ok":null}"#);
    }
}

#[test]
fn nothing_leaves_before_it_is_durable_neither_a_value_nor_an_absence() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    let mut writer = server.client();
    writer.send(set("k", "v"));
    eventually("it is written", || server.handle.counters().requests == 1);

    let mut readers = [server.client(), server.client()];
    readers[0].send(get("k"));
    readers[1].send(remove("absent"));
    eventually("both are run", || server.handle.counters().requests == 3);
    // A waiting connection does not hold up the others.
    assert_eq!(server.client().ask(get("elsewhere")), r#"{"Ok":null}"#);
    thread::sleep(Duration::from_millis(50));
    for client in [&writer, &readers[0], &readers[1]] {
        let stream = client.writer();
        stream.set_nonblocking(true).unwrap();
        assert!(stream.peek(&mut [0]).is_err(), "a reply left early");
        stream.set_nonblocking(false).unwrap();
    }
    engine.sync();
    assert_eq!(writer.reply(), r#"{"Ok":null}"#);
    assert_eq!(readers[0].reply(), r#"{"Ok":"v"}"#);
    assert_eq!(readers[1].reply(), r#"{"Err":"Key not found"}"#);
}

#[test]
fn after_a_failed_sync_waiting_replies_are_errors_and_older_data_is_served() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    let mut client = server.client();
    client.send(set("old", "1"));
    eventually("it is written", || engine.find(b"old", Wait::Yes).unwrap().0.is_some());
    engine.sync();
    assert_eq!(client.reply(), r#"{"Ok":null}"#);

    client.send(set("new", "2") + &get("old") + &get("new"));
    eventually("all are run", || server.handle.counters().requests == 4);
    engine.poison();
    assert!(client.reply().starts_with(r#"{"Err":"a sync failed"#));
    assert_eq!(client.reply(), r#"{"Ok":"1"}"#);
    assert!(client.reply().starts_with(r#"{"Err":"a sync failed"#));
}
