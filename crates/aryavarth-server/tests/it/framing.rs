//! How requests and replies stand on the wire.

use std::io::Write;
use std::thread;

use aryavarth::{Batch, KvsEngine, MemoryEngine};
use aryavarth_server::Limits;

use crate::support::{Obedient, Server, get, remove, set};

#[test]
fn one_request_per_connection_ended_by_the_end_of_input() {
    let server = Server::start();
    for (request, reply) in [
        (set("k", "v"), "{\"Ok\":null}\n"),
        (get("k"), "{\"Ok\":\"v\"}\n"),
        (remove("k"), "{\"Ok\":null}\n"),
        (get("k"), "{\"Ok\":null}\n"),
        (remove("k"), "{\"Err\":\"Key not found\"}\n"),
    ] {
        let mut client = server.client();
        client.send(&request);
        client.end_input();
        assert_eq!(client.rest(), reply, "after {request}");
    }
}

#[test]
fn many_requests_on_one_connection_each_answered_at_once() {
    let server = Server::start();
    let mut client = server.client();
    for i in 0..100 {
        assert_eq!(client.ask(set("k", &i.to_string())), r#"{"Ok":null}"#);
        assert_eq!(client.ask(get("k") + "\n"), format!(r#"{{"Ok":"{i}"}}"#));
    }
    client.end_input();
    assert_eq!(client.rest(), "");
}

#[test]
fn a_long_pipeline_is_answered_in_order() {
    const REQUESTS: usize = 20_000;
    let server = Server::start();
    let mut client = server.client();
    let mut writer = client.writer();
    let sender = thread::spawn(move || {
        for i in 0..REQUESTS {
            let separator = ["", "\n", " \r\n"][i % 3];
            write!(writer, "{}{separator}{}", set("k", &i.to_string()), get("k")).unwrap();
        }
    });
    for i in 0..REQUESTS {
        assert_eq!(client.reply(), r#"{"Ok":null}"#);
        assert_eq!(client.reply(), format!(r#"{{"Ok":"{i}"}}"#));
    }
    sender.join().unwrap();
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let server = Server::start();
    let mut client = server.client();
    for byte in set("k", "v").bytes() {
        client.send([byte]);
    }
    assert_eq!(client.reply(), r#"{"Ok":null}"#);
}

#[test]
fn a_value_of_a_mebibyte_and_any_text_come_back_as_they_were() {
    let server = Server::start();
    let mut client = server.client();
    let large = "0123456789abcdef".repeat(65_536);
    assert_eq!(client.ask(set("large", &large)), r#"{"Ok":null}"#);
    assert_eq!(client.ask(get("large")), format!(r#"{{"Ok":"{large}"}}"#));

    assert_eq!(client.ask(set("ключ", "значение 🗝")), r#"{"Ok":null}"#);
    assert_eq!(client.ask(get(r"\u043a\u043b\u044e\u0447")), r#"{"Ok":"значение 🗝"}"#);
    assert_eq!(client.ask(set("", r"\u0000\n")), r#"{"Ok":null}"#);
    assert_eq!(client.ask(get("")), r#"{"Ok":"\u0000\n"}"#);
}

#[test]
fn an_invalid_request_gets_an_error_and_the_connection_goes_on() {
    let server = Server::start();
    let mut client = server.client();
    client.send(get("a") + r#"{"Frob":{}}"# + r#"{"Get":{}}"# + &get("b"));
    assert_eq!(client.reply(), r#"{"Ok":null}"#);
    assert!(client.reply().contains("unknown variant `Frob`"));
    assert!(client.reply().contains("missing field `key`"));
    assert_eq!(client.reply(), r#"{"Ok":null}"#);
    assert_eq!(server.handle.counters().requests_invalid, 2);
}

#[test]
fn nonsense_gets_one_error_and_the_end() {
    let server = Server::start();
    for (nonsense, says) in [
        ("{hello", "{\"Err\":\"not JSON"),
        (r#"{"Get":{"key":"a",}}"#, "{\"Err\":\"not JSON"),
        ("\x16\x03\x01", "-ERR Protocol error: expected a command, got '\\x16'\r\n"),
        ("*1\r\nPING\r\n", "-ERR Protocol error: expected '$', got 'P'\r\n"),
    ] {
        let mut client = server.client();
        client.send(nonsense);
        let error = client.rest();
        assert!(error.starts_with(says), "{error}");
        assert_eq!(error.matches('\n').count(), 1, "{error}");
    }
    assert_eq!(server.handle.counters().sessions_broken, 4);
}

#[test]
fn input_that_ends_inside_a_request_gets_an_error() {
    let server = Server::start();
    let mut client = server.client();
    client.send(set("k", "v") + r#"{"Set":{"ke"#);
    client.end_input();
    assert_eq!(client.reply(), r#"{"Ok":null}"#);
    assert!(client.rest().contains("the input ended inside a request"));
}

#[test]
fn the_last_error_reaches_a_client_that_is_still_sending() {
    let server = Server::start();
    let mut client = server.client();
    client.send(get("k") + "garbage");
    for _ in 0..100 {
        if !client.send_if_heard(&[b'x'; 10_000]) {
            break;
        }
    }
    assert_eq!(client.reply(), r#"{"Ok":null}"#);
    assert!(client.reply().contains("unexpected `g`"));
}

#[test]
fn http_is_told_where_it_is_and_nothing_after_it_is_run() {
    let server = Server::start();
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nContent-Length: 40\r\n\r\n".to_owned() + &set("k", "v"));
    let reply = client.rest();
    assert!(reply.starts_with("HTTP/1.0 400 "), "{reply}");
    assert!(reply.contains("aryavarth get"), "{reply}");
    assert_eq!(server.client().ask(get("k")), r#"{"Ok":null}"#);
}

/// A tab before the version once made a request line pass for an unknown command, and the headers
/// behind it were run.
#[test]
fn no_spelling_of_a_request_of_http_gets_its_headers_run() {
    let server = Server::start();
    for line in [
        "OPTIONS /\tHTTP/1.1",
        "GET\t/ HTTP/1.1",
        "propfind / http/1.1",
        "hello\r\nDELETE /",
        "PING\r\nGET / HTTP/1.0",
        "!\r\nHost:localhost",
    ] {
        let mut client = server.client();
        let request = format!("{line}\r\nSET pwn 3\r\n\r\nSET pwn 3\r\n");
        // In two packets, the first of which ends inside the line.
        let (first, second) = request.split_at(line.len() - 2);
        client.send(first);
        client.send(second);
        let replies = client.rest();
        let last = replies.lines().last().unwrap_or_default();
        let is_refused = last.contains("is a part of HTTP") || last.contains("aryavarth get");
        assert!(is_refused, "{line:?}: {replies}");
        assert_eq!(server.client().ask("EXISTS pwn\r\n"), ":0\r", "{line:?}");
    }
}

#[test]
fn a_scan_pages_through_a_prefix_in_order() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    for key in ["a", "p1", "p2", "p3", "p4", "p5", "q"] {
        engine.write(Batch::new().put(key, format!("value of {key}"))).unwrap();
    }
    engine.sync();
    engine.open_gate();
    let mut client = server.client();
    // Larger than the engine's own pages.
    assert_eq!(
        client.ask(r#"{"Scan":{"prefix":"p","after":null,"limit":4}}"#),
        r#"{"Entries":[["p1","value of p1"],["p2","value of p2"],["p3","value of p3"],["p4","value of p4"]]}"#
    );
    assert_eq!(
        client.ask(r#"{"Scan":{"prefix":"p","after":"p4","limit":4}}"#),
        r#"{"Entries":[["p5","value of p5"]]}"#
    );
    // Behind a key that is before the prefix, or after it.
    assert!(client.ask(r#"{"Scan":{"prefix":"p","after":"a","limit":1}}"#).contains("p1"));
    assert_eq!(client.ask(r#"{"Scan":{"prefix":"p","after":"z"}}"#), r#"{"Entries":[]}"#);
    assert_eq!(client.ask(r#"{"Compact":{}}"#), r#"{"Ok":null}"#);
}

#[test]
fn what_is_not_text_is_an_error_and_not_another_text() {
    let engine = MemoryEngine::new();
    engine.write(Batch::new().put("k", vec![0xff]).put(vec![b'p', 0xfe], "v")).unwrap();
    let server = Server::with(engine, Limits::default());
    let mut client = server.client();
    assert!(client.ask(get("k")).starts_with(r#"{"Err":"the value is not UTF-8"#));
    assert!(client.ask(r#"{"Scan":{"prefix":"k"}}"#).contains("the value of `k` is not UTF-8"));
    assert!(client.ask(r#"{"Scan":{"prefix":"p"}}"#).contains(r"the key `p\\xfe` is not UTF-8"));
}
