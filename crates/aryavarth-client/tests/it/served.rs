//! Against a real server: each request is run and answered.

use aryavarth_client::{ClientError, Pipeline, Reply};
use aryavarth_server::Limits;

use crate::support::{Client, Server, told_of_both_clients};

told_of_both_clients!(
    keys_are_set_read_and_removed,
    a_scan_goes_through_the_keys_in_order,
    what_the_server_refuses_keeps_its_message_and_the_connection_goes_on,
    a_pipeline_is_answered_in_order_each_request_by_itself,
    a_pipeline_larger_than_any_buffer_arrives,
    a_pipeline_without_requests_is_answered_without_a_server,
    texts_of_all_kinds_come_back_as_they_were,
);

fn keys_are_set_read_and_removed<C: Client>() {
    let server = Server::start();
    let mut client = C::to(server.addr);
    assert_eq!(client.get("k").unwrap(), None);
    client.set("k", "first").unwrap();
    client.set("k", "second").unwrap();
    assert_eq!(client.get("k").unwrap().as_deref(), Some("second"));
    client.remove("k").unwrap();
    assert!(matches!(client.remove("k"), Err(ClientError::KeyNotFound)));
    assert_eq!(client.get("k").unwrap(), None);
    client.compact().unwrap();
}

fn a_scan_goes_through_the_keys_in_order<C: Client>() {
    let server = Server::start();
    let mut client = C::to(server.addr);
    for key in ["b", "a:2", "a:1", "a:3"] {
        client.set(key, "v").unwrap();
    }
    let keys = |page: Vec<(String, String)>| -> Vec<String> {
        page.into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys(client.scan("a:", None, 2).unwrap()), ["a:1", "a:2"]);
    assert_eq!(keys(client.scan("a:", Some("a:2"), 2).unwrap()), ["a:3"]);
}

fn what_the_server_refuses_keeps_its_message_and_the_connection_goes_on<C: Client>() {
    let mut limits = Limits::default();
    limits.session.value_bytes_max = 10;
    let server = Server::with(limits);
    let mut client = C::to(server.addr);
    match client.set("k", "a value that is too long") {
        Err(ClientError::Server(message)) => assert!(message.contains("10"), "{message}"),
        other => panic!("{other:?}"),
    }
    client.set("k", "short").unwrap();
    let pipeline = Pipeline::new().set("l", "a value that is too long").get("k");
    let results = client.run(pipeline).unwrap();
    assert!(matches!(&results[0], Err(ClientError::Server(message)) if message.contains("10")));
    assert_eq!(results[1].as_ref().unwrap(), &Reply::Value(Some("short".into())));
}

fn a_pipeline_is_answered_in_order_each_request_by_itself<C: Client>() {
    let server = Server::start();
    let mut client = C::to(server.addr);
    let pipeline = Pipeline::new()
        .get("k")
        .set("k", "v")
        .get("k")
        .scan("k", None, 10)
        .remove("k")
        .remove("k")
        .get("k");
    let mut results = client.run(pipeline).unwrap();
    assert!(matches!(results.remove(5), Err(ClientError::KeyNotFound)));
    let replies: Vec<Reply> = results.into_iter().map(Result::unwrap).collect();
    let value = || Some("v".to_owned());
    assert_eq!(
        replies,
        [
            Reply::Value(None),
            Reply::Done,
            Reply::Value(value()),
            Reply::Entries(vec![("k".into(), "v".into())]),
            Reply::Done,
            Reply::Value(None),
        ]
    );
}

fn a_pipeline_larger_than_any_buffer_arrives<C: Client>() {
    let server = Server::start();
    let mut client = C::to(server.addr);
    let value = "v".repeat(100_000);
    let mut pipeline = Pipeline::new().set("large", &value);
    // The replies are far more than a server keeps for a client that does not take them, and the
    // requests are more than both ends buffer.
    for number in 0..300 {
        pipeline = pipeline.get("large").set(format!("k{number}"), &value);
    }
    let results = client.run(pipeline).unwrap();
    assert_eq!(results.len(), 601);
    for pair in results[1..].chunks(2) {
        assert!(matches!(&pair[0], Ok(Reply::Value(Some(found))) if *found == value));
        assert!(matches!(&pair[1], Ok(Reply::Done)));
    }
    assert_eq!(client.get("k299").unwrap(), Some(value));
}

fn a_pipeline_without_requests_is_answered_without_a_server<C: Client>() {
    let server = Server::start();
    let mut client = C::to(server.addr);
    drop(server);
    assert!(client.run(Pipeline::new()).unwrap().is_empty());
}

fn texts_of_all_kinds_come_back_as_they_were<C: Client>() {
    let server = Server::start();
    let mut client = C::to(server.addr);
    let long = "long ".repeat(1 << 18);
    for text in ["", " ", "{\"Get\":{}}", "line\nline\r\n", "\u{0}\u{7f}", "नमस्ते 🦀", &long]
    {
        client.set(text.get(..100).unwrap_or(text), text).unwrap();
        let found = client.get(text.get(..100).unwrap_or(text)).unwrap();
        assert_eq!(found.as_deref(), Some(text));
    }
}
