//! The promises to a client, row by row, on every engine, every thread pool and every client.
//!
//! The rows know nothing of their combination. Each combination has one server, one directory and
//! one table of rows; a row has keys of its own, so that none sees another's. Rows about
//! the wire itself run on the client that is a socket.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "a row that fails is named before it")]

mod clients;
mod rig;

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use aryavarth_client::{ClientError, Reply};

use crate::clients::Ask;
use crate::rig::{PATIENCE, Rig, Severed, VALUE_BYTES_MAX};

macro_rules! combinations {
    ($($engine:ident: $($pool:ident)*;)*) => { $(mod $engine { $(mod $pool {
        #[test] fn blocking() { crate::told_on(stringify!($engine), stringify!($pool), "blocking"); }
        #[test] fn on_tokio() { crate::told_on(stringify!($engine), stringify!($pool), "on_tokio"); }
        #[test] fn socket() { crate::told_on(stringify!($engine), stringify!($pool), "socket"); }
    })* })* };
}

combinations! {
    kvs: shared_queue rayon naive;
    sled: shared_queue rayon naive;
}

/// A row: its name, which begins its keys, and its story.
type Row = (&'static str, fn(&mut Rig, &str));

/// Rows for every client.
const ROWS: [Row; 11] = [
    ("written, overwritten, removed", written_overwritten_removed),
    ("empty keys and any text", empty_keys_and_any_text),
    ("scan in pages", scan_in_pages),
    ("compact", compact),
    ("a value too large", a_value_too_large),
    ("pipeline", pipeline),
    ("clients beside each other", clients_beside_each_other),
    ("a lost reply", a_lost_reply),
    ("restart", restart),
    ("port 0", port_zero),
    ("shutdown", shutdown),
];

/// Rows about the wire.
const WIRE_ROWS: [Row; 4] = [
    ("one request per connection", one_request_per_connection),
    ("many requests on one connection", many_requests_on_one_connection),
    ("unknown fields", unknown_fields),
    ("invalid requests", invalid_requests),
];

fn told_on(engine: &'static str, pool: &'static str, client: &'static str) {
    let mut rig = Rig::start(engine, pool, client);
    let wire_rows = if client == "socket" { &WIRE_ROWS[..] } else { &[] };
    for (name, row) in ROWS.iter().chain(wire_rows) {
        println!("{engine}, {pool}, {client}: {name}");
        row(&mut rig, name);
    }
}

fn written_overwritten_removed(rig: &mut Rig, key: &str) {
    let mut client = rig.client();
    assert_eq!(client.get(key).unwrap(), None);
    assert!(matches!(client.remove(key), Err(ClientError::KeyNotFound)));
    for value in ["first", "second"] {
        client.set(key, value).unwrap();
        assert_eq!(client.get(key).unwrap().as_deref(), Some(value));
    }
    client.remove(key).unwrap();
    assert_eq!(client.get(key).unwrap(), None);
    assert!(matches!(client.remove(key), Err(ClientError::KeyNotFound)));
    client.set(key, "third").unwrap();
    assert_eq!(rig.client().get(key).unwrap().as_deref(), Some("third"), "another client sees it");
}

fn empty_keys_and_any_text(rig: &mut Rig, name: &str) {
    let mut client = rig.client();
    assert_eq!(client.get("").unwrap(), None);
    client.set("", "").unwrap();
    assert_eq!(client.get("").unwrap().as_deref(), Some(""));
    client.remove("").unwrap();
    assert!(matches!(client.remove(""), Err(ClientError::KeyNotFound)));
    for text in [" ", "{\"Get\":{}}", "\"\\", "line\nline\r\n", "\u{0}\u{7f}", "नमस्ते 🦀"]
    {
        let key = format!("{name}: {text}");
        client.set(&key, text).unwrap();
        assert_eq!(client.get(&key).unwrap().as_deref(), Some(text));
    }
}

fn scan_in_pages(rig: &mut Rig, name: &str) {
    let mut client = rig.client();
    let pair = |n: usize| (format!("{name} {n:02}"), format!("value {n}"));
    let sets = (0..25).rev().map(|n| Ask::Set(pair(n).0, pair(n).1)).collect();
    assert!(client.run(sets).into_iter().all(|reply| reply.is_ok()));
    let (mut seen, mut sizes, mut after) = (Vec::new(), Vec::new(), None);
    loop {
        let page = client.scan(name, after.take(), 10).unwrap();
        sizes.push(page.len());
        after = page.last().map(|(key, _)| key.clone());
        let is_last = page.len() < 10;
        seen.extend(page);
        if is_last {
            break;
        }
    }
    assert_eq!(sizes, [10, 10, 5], "a short page is the last");
    assert_eq!(seen, (0..25).map(pair).collect::<Vec<_>>());
    assert_eq!(client.scan(name, Some(pair(24).0), 10).unwrap(), []);
    assert_eq!(client.scan(&pair(7).0, None, 10).unwrap(), [pair(7)]);
}

fn compact(rig: &mut Rig, name: &str) {
    let mut client = rig.client();
    for round in 0..3 {
        let keys = (0..20).map(|n| format!("{name} {n}"));
        let asks = keys.map(|key| match round {
            1 => Ask::Remove(key),
            _ => Ask::Set(key, format!("round {round}")),
        });
        assert!(client.run(asks.collect()).into_iter().all(|reply| reply.is_ok()));
    }
    for _ in 0..2 {
        client.compact().unwrap();
        let page = client.scan(name, None, 100).unwrap();
        assert_eq!(page.len(), 20);
        assert!(page.iter().all(|(_, value)| value == "round 2"));
    }
}

fn a_value_too_large(rig: &mut Rig, key: &str) {
    let mut client = rig.client();
    client.set(key, "before").unwrap();
    let connections = rig.counters().connections_accepted;
    let too_large = "v".repeat(VALUE_BYTES_MAX + 1);
    match client.set(key, &too_large) {
        Err(ClientError::Server(message)) => {
            assert!(message.contains(&VALUE_BYTES_MAX.to_string()), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(client.get(key).unwrap().as_deref(), Some("before"));
    client.set(key, &too_large[1..]).unwrap();
    assert_eq!(client.get(key).unwrap().unwrap().len(), VALUE_BYTES_MAX);
    assert_eq!(rig.counters().connections_accepted, connections, "the connection was kept");
}

fn pipeline(rig: &mut Rig, key: &str) {
    let mut client = rig.client();
    let mut asks = Vec::new();
    for round in 0..100 {
        asks.push(Ask::Set(key.to_owned(), round.to_string()));
        asks.push(Ask::Get(key.to_owned()));
    }
    asks.push(Ask::Scan(key.to_owned(), None, 10));
    asks.push(Ask::Remove(key.to_owned()));
    asks.push(Ask::Remove(key.to_owned()));
    asks.push(Ask::Get(key.to_owned()));
    let mut replies = client.run(asks);
    assert!(matches!(replies.remove(202), Err(ClientError::KeyNotFound)));
    let replies: Vec<Reply> = replies.into_iter().map(Result::unwrap).collect();
    for (round, pair) in replies[..200].chunks(2).enumerate() {
        assert_eq!(pair, [Reply::Done, Reply::Value(Some(round.to_string()))]);
    }
    let entries = Reply::Entries(vec![(key.to_owned(), "99".to_owned())]);
    assert_eq!(replies[200..], [entries, Reply::Done, Reply::Value(None)]);
}

fn clients_beside_each_other(rig: &mut Rig, name: &str) {
    let rig = &*rig;
    thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || {
                let mut client = rig.client();
                let (shared, own) = (format!("{name} shared"), format!("{name} {number}"));
                for round in 0..10 {
                    client.set(&shared, &number.to_string()).unwrap();
                    client.set(&own, &round.to_string()).unwrap();
                    assert_eq!(client.get(&own).unwrap(), Some(round.to_string()));
                    assert!(client.get(&shared).unwrap().unwrap().parse::<u32>().unwrap() < 8);
                }
            });
        }
    });
    assert_eq!(rig.client().scan(name, None, 100).unwrap().len(), 9);
}

fn a_lost_reply(rig: &mut Rig, key: &str) {
    let (sets, gets) = (Severed::before(rig.addr(), 1), Severed::before(rig.addr(), 1));
    let unknown = rig.client_at(sets.addr).set(key, "v").unwrap_err();
    assert!(matches!(unknown, ClientError::OutcomeUnknown { .. }), "{unknown:?}");
    // It was done; the same could have been said if it had not been.
    assert_eq!(rig.client().get(key).unwrap().as_deref(), Some("v"));
    let mut reader = rig.client_at(gets.addr);
    match reader.get(key) {
        Ok(value) => assert_eq!(value.as_deref(), Some("v"), "it was asked for again"),
        Err(error) => {
            assert!(rig.is_socket() && matches!(error, ClientError::Lost { .. }), "{error:?}");
        }
    }
    assert_eq!(reader.get(key).unwrap().as_deref(), Some("v"), "the client can be used on");
}

fn restart(rig: &mut Rig, key: &str) {
    let mut client = rig.client();
    client.set(key, "1").unwrap();
    rig.stop();
    let error = client.set(key, "2").unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error:?}");
    rig.start_again();
    assert_eq!(client.get(key).unwrap().as_deref(), Some("1"), "it is on disk");
    client.set(key, "3").unwrap();
    assert_eq!(client.get(key).unwrap().as_deref(), Some("3"));
}

fn port_zero(rig: &mut Rig, key: &str) {
    assert_ne!(rig.addr().port(), 0);
    rig.client_at(rig.addr()).set(key, "v").unwrap();
    assert_eq!(rig.client().get(key).unwrap().as_deref(), Some("v"));
}

fn shutdown(rig: &mut Rig, name: &str) {
    const WRITES: usize = 200;
    let before = rig.counters().requests;
    let mut client = rig.client();
    let key = |n: usize| format!("{name} {n:03}");
    let asks = (0..WRITES).map(|n| Ask::Set(key(n), n.to_string())).collect();
    let pipeline = thread::spawn(move || client.run(asks));
    let start = Instant::now();
    while rig.counters().requests < before + WRITES as u64 {
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(1));
    }
    rig.stop();
    for reply in pipeline.join().unwrap() {
        assert_eq!(reply.unwrap(), Reply::Done, "what had arrived is answered");
    }
    assert!(TcpStream::connect(rig.addr()).is_err(), "a stopped server listens no more");
    rig.start_again();
    let page = rig.client().scan(name, None, 1000).unwrap();
    assert_eq!(page, (0..WRITES).map(|n| (key(n), n.to_string())).collect::<Vec<_>>());
}

fn one_request_per_connection(rig: &mut Rig, key: &str) {
    for (request, reply) in [
        (format!(r#"{{"Set":{{"key":"{key}","value":"v"}}}}"#), "{\"Ok\":null}\n"),
        (format!(r#"{{"Get":{{"key":"{key}"}}}}"#), "{\"Ok\":\"v\"}\n"),
        (format!(r#"{{"Remove":{{"key":"{key}"}}}}"#), "{\"Ok\":null}\n"),
        (format!(r#"{{"Get":{{"key":"{key}"}}}}"#), "{\"Ok\":null}\n"),
        (format!(r#"{{"Remove":{{"key":"{key}"}}}}"#), "{\"Err\":\"Key not found\"}\n"),
    ] {
        let mut socket = rig.socket();
        socket.send(&request);
        socket.end_input();
        assert_eq!(socket.rest(), reply, "after {request}");
    }
}

fn many_requests_on_one_connection(rig: &mut Rig, key: &str) {
    let mut socket = rig.socket();
    let get = format!(r#"{{"Get":{{"key":"{key}"}}}}"#);
    for (n, separator) in ["", "\n", "\r\n", " \t"].iter().enumerate() {
        // Each is answered before the next is sent, with nothing to say that it has ended.
        socket.send(&format!(r#"{{"Set":{{"key":"{key}","value":"{n}"}}}}"#));
        assert_eq!(socket.line(), r#"{"Ok":null}"#);
        socket.send(&format!("{separator}{get}{separator}{get}"));
        for _ in 0..2 {
            assert_eq!(socket.line(), format!(r#"{{"Ok":"{n}"}}"#));
        }
    }
    socket.end_input();
    assert_eq!(socket.rest(), "");
}

fn unknown_fields(rig: &mut Rig, key: &str) {
    let mut socket = rig.socket();
    socket.send(&format!(r#"{{"Set":{{"ttl":[1,{{}}],"key":"{key}","value":"v","more":null}}}}"#));
    assert_eq!(socket.line(), r#"{"Ok":null}"#);
    socket.send(&format!(r#"{{"Get":{{"key":"{key}","version":7}}}}"#));
    assert_eq!(socket.line(), r#"{"Ok":"v"}"#);
    socket.send(&format!(r#"{{"Scan":{{"prefix":"{key}","order":"any"}}}}"#));
    assert_eq!(socket.line(), format!(r#"{{"Entries":[["{key}","v"]]}}"#));
    socket.send(r#"{"Compact":{"all":true}}"#);
    assert_eq!(socket.line(), r#"{"Ok":null}"#);
}

fn invalid_requests(rig: &mut Rig, key: &str) {
    let mut socket = rig.socket();
    for invalid in [r#"{"Set":{"key":"k"}}"#, r#"{"Get":{"key":7}}"#, r#"{"Drop":{}}"#] {
        socket.send(&format!(r#"{invalid}{{"Get":{{"key":"{key}"}}}}"#));
        assert!(socket.line().starts_with(r#"{"Err":""#), "{invalid}");
        assert_eq!(socket.line(), r#"{"Ok":null}"#, "the connection goes on");
    }
    socket.send("]");
    assert!(socket.rest().starts_with(r#"{"Err":""#), "one error, and the end");
}
