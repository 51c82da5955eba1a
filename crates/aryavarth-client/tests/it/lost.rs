//! Against servers that break off: errors report the known part of the outcome, and no write is repeated.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use aryavarth_client::{AsyncKvsClient, ClientError, Pipeline, Reply, Timeouts};

use crate::support::{Act, Client, Scripted, patient, runtime, told_of_both_clients};

told_of_both_clients!(
    a_write_whose_reply_is_lost_has_an_unknown_outcome_and_is_not_sent_again,
    a_read_whose_reply_is_lost_is_sent_again_once,
    a_connection_that_was_closed_meanwhile_is_renewed,
    a_server_that_says_nothing_is_waited_for_only_so_long,
    nobody_there_is_an_error_that_names_the_address,
    a_late_reply_does_not_pass_for_the_next_one,
    what_answers_nonsense_is_not_asked_again_on_the_same_connection,
    an_unasked_word_costs_the_connection,
    a_pipeline_of_reads_goes_on_where_it_was_broken_off,
    a_pipeline_with_writes_says_of_each_request_what_is_known,
);

const GET: &str = r#"{"Get":{"key":"k"}}"#;
const SET: &str = r#"{"Set":{"key":"k","value":"v"}}"#;
const OK: &str = "{\"Ok\":null}\n";

/// Reads, answers and goes.
fn answers(reads: usize, says: &'static str) -> Act {
    Act { reads, says, closes: true }
}

fn stays(reads: usize, says: &'static str) -> Act {
    Act { reads, says, closes: false }
}

fn a_write_whose_reply_is_lost_has_an_unknown_outcome_and_is_not_sent_again<C: Client>() {
    let server = Scripted::start([answers(1, ""), answers(1, "{\"O"), answers(1, OK)]);
    let mut client = C::to(server.addr);
    let error = client.set("k", "v").unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error}");
    assert_eq!(server.heard(), SET);
    let error = client.remove("k").unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error}");
    assert_eq!(server.heard(), r#"{"Remove":{"key":"k"}}"#);
    // The next call has a connection of its own.
    client.set("k", "v").unwrap();
    assert_eq!(server.heard(), SET);
}

fn a_read_whose_reply_is_lost_is_sent_again_once<C: Client>() {
    let lost = || answers(1, "");
    let server = Scripted::start([lost(), answers(1, "{\"Ok\":\"v\"}\n"), lost(), lost()]);
    let mut client = C::to(server.addr);
    assert_eq!(client.get("k").unwrap().as_deref(), Some("v"));
    assert_eq!((server.heard().as_str(), server.heard().as_str()), (GET, GET));
    let error = client.get("k").unwrap_err();
    assert!(matches!(error, ClientError::Lost { .. }), "{error}");
}

fn a_connection_that_was_closed_meanwhile_is_renewed<C: Client>() {
    let server = Scripted::start([answers(1, OK), answers(1, OK)]);
    let mut client = C::to(server.addr);
    client.set("k", "v").unwrap();
    // As after a restart of the server: without a look first, this write would be lost.
    server.heard();
    client.set("k", "v").unwrap();
    assert_eq!(server.heard(), SET);
}

fn a_server_that_says_nothing_is_waited_for_only_so_long<C: Client>() {
    let server = Scripted::start([stays(1, ""), stays(1, ""), stays(1, "")]);
    let read = Some(Duration::from_millis(50));
    let mut client = C::connect(server.addr, Timeouts { read, ..patient() }).unwrap();
    match client.set("k", "v").unwrap_err() {
        ClientError::OutcomeUnknown { source } => {
            assert_eq!(source.kind(), io::ErrorKind::TimedOut);
        }
        other => panic!("{other}"),
    }
    match client.get("k").unwrap_err() {
        ClientError::Lost { source } => assert_eq!(source.kind(), io::ErrorKind::TimedOut),
        other => panic!("{other}"),
    }
}

/// An address without a listener, or will as long as the connection is there that has it.
fn nowhere() -> (SocketAddr, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (connection.local_addr().unwrap(), connection)
}

fn nobody_there_is_an_error_that_names_the_address<C: Client>() {
    let (addr, _taken) = nowhere();
    let error = C::connect(addr, patient()).err().unwrap();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
}

fn a_late_reply_does_not_pass_for_the_next_one<C: Client>() {
    let late = "{\"Ok\":\"half of it\"";
    let value = || answers(1, "{\"Ok\":\"v\"}\n");
    let server = Scripted::start([stays(1, late), stays(1, late), value(), value()]);
    let read = Some(Duration::from_millis(300));
    let mut client = C::connect(server.addr, Timeouts { read, ..patient() }).unwrap();
    assert!(client.get("other").is_err());
    assert_eq!(client.get("k").unwrap().as_deref(), Some("v"));
}

fn what_answers_nonsense_is_not_asked_again_on_the_same_connection<C: Client>() {
    let server = Scripted::start([stays(1, "nonsense\n"), answers(1, OK)]);
    let mut client = C::to(server.addr);
    let error = client.set("k", "v").unwrap_err();
    assert!(matches!(error, ClientError::Protocol(_)), "{error}");
    client.set("k", "v").unwrap();
    assert_eq!((server.heard().as_str(), server.heard().as_str()), (SET, SET));
}

fn an_unasked_word_costs_the_connection<C: Client>() {
    let server = Scripted::start([stays(1, "{\"Ok\":null}\n{\"Ok\":\"?\"}\n"), answers(1, OK)]);
    let mut client = C::to(server.addr);
    client.set("k", "v").unwrap();
    server.heard();
    assert_eq!(client.get("k").unwrap(), None);
}

fn a_pipeline_of_reads_goes_on_where_it_was_broken_off<C: Client>() {
    let values = "{\"Ok\":\"b\"}\n{\"Ok\":\"c\"}\n";
    let server = Scripted::start([answers(3, "{\"Ok\":\"a\"}\n{\"O"), answers(2, values)]);
    let mut client = C::to(server.addr);
    let results = client.run(Pipeline::new().get("a").get("b").get("c")).unwrap();
    let found: Vec<Reply> = results.into_iter().map(Result::unwrap).collect();
    assert_eq!(found, ["a", "b", "c"].map(|value| Reply::Value(Some(value.into()))));
    server.heard();
    assert_eq!(server.heard(), r#"{"Get":{"key":"b"}}{"Get":{"key":"c"}}"#);
}

fn a_pipeline_with_writes_says_of_each_request_what_is_known<C: Client>() {
    let server = Scripted::start([answers(4, OK), answers(1, OK)]);
    let mut client = C::to(server.addr);
    let results = client.run(Pipeline::new().set("a", "1").set("b", "2").get("c").remove("d"));
    let results = results.unwrap();
    assert!(matches!(results[0], Ok(Reply::Done)));
    assert!(matches!(results[1], Err(ClientError::OutcomeUnknown { .. })));
    assert!(matches!(results[2], Err(ClientError::Lost { .. })));
    assert!(matches!(results[3], Err(ClientError::OutcomeUnknown { .. })));
    server.heard();
    client.set("k", "v").unwrap();
    assert_eq!(server.heard(), SET);
}

#[test]
fn a_call_that_is_dropped_takes_its_connection_along() {
    let server = Scripted::start([stays(1, ""), answers(1, "{\"Ok\":\"v\"}\n")]);
    runtime().block_on(async {
        let mut client = AsyncKvsClient::connect(server.addr).await.unwrap();
        // A call may move between the threads of a runtime.
        let call: Box<dyn Future<Output = _> + Send> = Box::new(client.get("dropped".into()));
        let call = Box::into_pin(call);
        assert!(tokio::time::timeout(Duration::from_millis(50), call).await.is_err());
        assert_eq!(client.get("k".into()).await.unwrap().as_deref(), Some("v"));
    });
    assert_eq!(server.heard(), r#"{"Get":{"key":"dropped"}}"#);
    assert_eq!(server.heard(), GET);
}
