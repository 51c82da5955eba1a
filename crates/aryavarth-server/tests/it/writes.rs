//! Writes of several connections: appended together, answered one by one.

use aryavarth_server::Limits;

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
        client.send(set(key, "v"));
        others.push(client);
    }
    let asked = 1 + keys.len() as u64;
    eventually("all are queued", || server.handle.counters().requests == asked);
    (first, others)
}

#[test]
fn what_arrives_during_a_write_is_written_together() {
    let engine = Obedient::default();
    engine.sync_always();
    let server = Server::with(engine.clone(), Limits::default());
    let keys: Vec<String> = (0..20).map(|number| format!("hot{number}")).collect();
    let (mut first, others) = queued(&server, &engine, &keys);
    assert_eq!(engine.together(), [1], "one collector is enough for so little");
    engine.open_gate();
    assert_eq!(first.reply(), OK);
    for mut client in others {
        assert_eq!(client.reply(), OK);
    }
    // The last of them is counted a moment before it is queued, so it may come by itself.
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
    engine.sync_always();
    let server = Server::with(engine.clone(), Limits::default());
    let keys = ["hot".to_owned(), "panic".to_owned()];
    let (mut first, mut others) = queued(&server, &engine, &keys);
    engine.open_gate();
    assert_eq!(first.reply(), OK);
    assert!(others[1].reply().contains("outcome of this request is unknown"));
    // What became of the other one is known only if it went by itself.
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
    engine.sync_always();
    let server = Server::with(engine.clone(), Limits::default());
    let mut first = server.client();
    first.send(set("gate", "v"));
    eventually("the first is being written", || engine.together().len() == 1);
    let mut clients: Vec<Client> = (0..8).map(|_| server.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("SELECT {}\r\n", number % 3));
        assert_eq!(client.reply(), "+OK\r");
        client.send(format!("SET hot{number} v\r\n"));
    }
    eventually("all are queued", || server.handle.counters().requests == 17);
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
