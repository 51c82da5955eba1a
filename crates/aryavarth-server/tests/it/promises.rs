//! The server's promises at the places where it adds to the engine's: order of replies, the level
//! that a transaction waits for, silence, passwords and pauses. Each has a planted bug.

use aryavarth::{KvsEngine, MemoryEngine, Wait};
use aryavarth_server::{Config, Limits};

use crate::support::{Obedient, Server, eventually, get, set};

/// Runs a client's commands up to the last and returns when the server has counted them.
fn runs(server: &Server, requests: u64) {
    eventually("all are run", || server.handle.counters().requests == requests);
}

#[test]
fn a_reply_that_has_nothing_to_wait_for_does_not_overtake_one_that_waits() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    let mut client = server.client();
    client.send("INCR k\r\nGET hot\r\nPING\r\n");
    runs(&server, 3);
    engine.sync();
    let replies = [client.reply(), client.reply(), client.reply()];
    assert_eq!(replies, [":1\r", "$-1\r", "+PONG\r"]);
}

#[test]
fn a_write_is_not_acknowledged_before_its_position_is_durable() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    let mut client = server.client();
    client.send("SET k v\r\nINCR n\r\n");
    runs(&server, 2);
    // A reply that had left early would be an OK that is not true.
    engine.poison();
    assert!(client.reply().starts_with("-MISCONF"));
    assert!(client.reply().starts_with("-MISCONF"));
}

/// A command inside a transaction asks for less. The commands before it were sent at the level of
/// the connection, and theirs is the one reply.
#[test]
fn a_transaction_waits_at_the_level_that_its_connection_had_before_it() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    let mut client = server.client();
    client.send("MULTI\r\nSET k v\r\nCLIENT DURABILITY OS\r\nEXEC\r\n");
    for reply in ["+OK\r", "+QUEUED\r", "+QUEUED\r"] {
        assert_eq!(client.reply(), reply);
    }
    runs(&server, 4);
    engine.poison();
    assert!(client.reply().starts_with("-MISCONF"), "the reply is that of the level ALWAYS");
    // From now on the connection has what it asked for.
    assert_eq!(client.ask("SET k w\r\n"), "+OK\r");
}

#[test]
fn a_watch_notices_that_its_key_expired() {
    let engine = MemoryEngine::new();
    let server = Server::with(engine.clone(), Limits::default());
    let mut client = server.client();
    assert_eq!(client.ask("SET k v PX 30\r\n"), "+OK\r");
    client.send("WATCH k\r\n");
    assert_eq!(client.reply(), "+OK\r");
    eventually("it has expired", || engine.find(b"k", Wait::Yes).unwrap().0.is_none());
    client.send("MULTI\r\nSET other v\r\nEXEC\r\n");
    let replies = [client.reply(), client.reply(), client.reply()];
    assert_eq!(replies, ["+OK\r", "+QUEUED\r", "*-1\r"]);
    assert_eq!(engine.read(b"other", Wait::Yes).unwrap().0, None);
}

/// It would take the error for the answer to its next question.
#[test]
fn a_client_that_wants_no_replies_hears_no_error_of_the_disk_either() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    let mut client = server.client();
    client.send("CLIENT REPLY OFF\r\nINCR k\r\n");
    runs(&server, 2);
    engine.poison();
    client.send("CLIENT REPLY ON\r\nPING\r\n");
    assert_eq!([client.reply(), client.reply()], ["+OK\r", "+PONG\r"]);
}

#[test]
fn with_a_password_no_request_in_json_is_run() {
    let engine = MemoryEngine::new();
    let config = Config { password: b"secret".to_vec(), ..Config::default() };
    let server = Server::with_config(engine.clone(), config);
    let mut client = server.client();
    client.send(set("k", "v") + &get("k"));
    assert!(!client.rest().contains("\"Ok\""), "JSON has no way to say a password");
    let mut client = server.client();
    assert!(client.ask("SET k v\r\n").starts_with("-NOAUTH"));
    assert_eq!(engine.read(b"k", Wait::Yes).unwrap().0, None);
    assert_eq!(client.ask("AUTH secret\r\n"), "+OK\r");
    assert_eq!(client.ask("SET k v\r\n"), "+OK\r");
}

/// The same for a password that is set while the server runs.
#[test]
fn with_a_password_set_later_no_new_connection_speaks_json() {
    let engine = MemoryEngine::new();
    let server = Server::with(engine.clone(), Limits::default());
    assert_eq!(server.client().ask("CONFIG SET requirepass secret\r\n"), "+OK\r");
    let mut client = server.client();
    client.send(set("k", "v"));
    assert!(!client.rest().contains("\"Ok\""));
    assert_eq!(engine.read(b"k", Wait::Yes).unwrap().0, None);
}

#[test]
fn a_pause_of_writes_lets_no_write_through_in_either_protocol() {
    let engine = MemoryEngine::new();
    let server = Server::with(engine.clone(), Limits::default());
    assert_eq!(server.client().ask("CLIENT PAUSE 60000 WRITE\r\n"), "+OK\r");
    let mut writers = [server.client(), server.client(), server.client()];
    writers[0].send(set("json", "v"));
    writers[1].send("SET resp v\r\n");
    writers[2].send("MULTI\r\nINCR transaction\r\nEXEC\r\n");
    // Reads go on, and answer after all that came before them could have been run.
    for key in ["json", "resp", "transaction"] {
        for _ in 0..20 {
            assert_eq!(server.client().ask(get(key)), r#"{"Ok":null}"#, "{key} waits");
        }
    }
    assert_eq!(server.client().ask("CLIENT UNPAUSE\r\n"), "+OK\r");
    assert_eq!(writers[0].reply(), r#"{"Ok":null}"#);
    assert_eq!(writers[1].reply(), "+OK\r");
    let replies: Vec<String> = (0..4).map(|_| writers[2].reply()).collect();
    assert_eq!(replies, ["+OK\r", "+QUEUED\r", "*1\r", ":1\r"]);
}
