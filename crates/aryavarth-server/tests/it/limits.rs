//! Limits on the cost of strangers, and the errors beyond them.

use std::time::Duration;

use aryavarth::{Batch, KvsEngine, MemoryEngine};
use aryavarth_server::{
    KvServer, Limits, Listener, ServerError, SharedQueueThreadPool, ThreadPool,
};

use crate::support::{Obedient, Server, eventually, get, set};

fn limited(change: impl FnOnce(&mut Limits)) -> Server {
    let mut limits = Limits::default();
    change(&mut limits);
    Server::with(MemoryEngine::new(), limits)
}

#[test]
fn one_connection_too_many_gets_an_error_in_its_protocol_and_is_closed() {
    let server = limited(|limits| limits.connections_max = 2);
    let mut first = server.client();
    let mut second = server.client();
    assert_eq!(first.ask(get("k")), r#"{"Ok":null}"#);
    assert_eq!(second.ask(get("k")), r#"{"Ok":null}"#);
    let busy = "{\"Err\":\"busy: 2 clients are connected already; try again later\"}\n";
    // Clients of the Redis protocol know this text, also before they have said anything.
    let too_many = "-ERR max number of clients reached\r\n";
    for (sent, hears) in [(get("k").as_str(), busy), ("PING\r\n", too_many), ("", too_many)] {
        let mut third = server.client();
        third.send(sent);
        assert_eq!(third.rest(), hears, "after {sent:?}");
    }
    assert_eq!(server.handle.counters().connections_refused, 3);

    drop(first);
    eventually("one has gone", || server.handle.counters().connections == 1);
    assert_eq!(server.client().ask(get("k")), r#"{"Ok":null}"#);
}

#[test]
fn a_request_that_does_not_arrive_in_time_gets_an_error() {
    let server = limited(|limits| limits.request_arrival = Duration::from_millis(100));
    let mut client = server.client();
    client.send(get("k") + r#"{"Get":"#);
    assert_eq!(client.reply(), r#"{"Ok":null}"#);
    assert_eq!(client.rest(), "{\"Err\":\"the request did not arrive within 0.1 s\"}\n");
    assert_eq!(server.handle.counters().arrivals_timed_out, 1);
}

#[test]
fn the_time_for_a_request_is_not_prolonged_by_its_pieces() {
    let server = limited(|limits| limits.request_arrival = Duration::from_millis(300));
    let mut client = server.client();
    client.send(r#"{"Set":{"key":"k","value":""#);
    eventually("the server has enough", || {
        client.send_if_heard(b"x");
        server.handle.counters().arrivals_timed_out == 1
    });
}

#[test]
fn an_idle_connection_is_closed_without_a_word_that_could_pass_for_a_reply() {
    let server = limited(|limits| limits.idle = Some(Duration::from_millis(100)));
    let mut client = server.client();
    assert_eq!(client.ask(get("k")), r#"{"Ok":null}"#);
    assert_eq!(client.rest(), "");
    assert_eq!(server.handle.counters().idle_timed_out, 1);
}

#[test]
fn keys_and_values_over_their_limits_are_errors_and_the_connection_goes_on() {
    let server = limited(|limits| limits.session.value_bytes_max = 100);
    let mut client = server.client();
    assert!(client.ask(set("k", &"v".repeat(101))).contains("101 bytes, the limit is 100"));
    assert!(client.ask(get(&"k".repeat(65_536))).contains("65536 bytes, the limit is 65535"));
    assert_eq!(client.ask(set("k", &"v".repeat(100))), r#"{"Ok":null}"#);
}

#[test]
fn a_request_over_the_limit_gets_its_error_while_it_is_still_sent() {
    let server = limited(|limits| limits.session.request_bytes_max = 100_000);
    let mut client = server.client();
    client.send(r#"{"Set":{"key":"k","value":""#);
    while client.send_if_heard(&[b'x'; 10_000]) {
        if server.handle.counters().sessions_broken == 1 {
            break;
        }
    }
    assert!(client.reply().contains("the request is too long: the limit is 100000 bytes"));
}

#[test]
fn too_much_input_in_all_is_refused_and_small_requests_still_get_through() {
    let server = limited(|limits| limits.input_bytes_max = 100_000);
    let half_a_request = r#"{"Set":{"key":"k","value":""#.to_owned() + &"x".repeat(90_000);
    let mut first = server.client();
    first.send(&half_a_request);
    // The two arrive in pieces side by side, so either may be refused, or both.
    let mut second = server.client();
    second.send(&half_a_request);
    eventually("one is refused", || server.handle.counters().input_refused >= 1);
    assert_eq!(server.client().ask(get("k")), r#"{"Ok":null}"#);

    drop((first, second));
    eventually("both have gone", || server.handle.counters().connections == 0);
    assert_eq!(server.client().ask(half_a_request + r#""}}"#), r#"{"Ok":null}"#);
}

/// A transaction's queue would else be free, as its commands leave the input when they come.
#[test]
fn what_transactions_collect_is_input_too() {
    let server = limited(|limits| limits.input_bytes_max = 100_000);
    let mut first = server.client();
    assert_eq!(first.ask("MULTI\r\n"), "+OK\r");
    let command = format!("SET k {}\r\n", "x".repeat(10_000));
    let mut replies = (0..).map(|_| first.ask(&command));
    let queued = replies.by_ref().take_while(|reply| reply == "+QUEUED\r").count();
    assert!((9..=13).contains(&queued), "{queued} commands of 10,000 bytes");
    eventually("it has gone", || server.handle.counters().connections == 0);
    assert_eq!(server.handle.counters().input_refused, 1);

    // A transaction that ends gives its share back.
    let mut second = server.client();
    for _ in 0..3 {
        second.send("MULTI\r\n".to_owned() + &command.repeat(8) + "DISCARD\r\n");
        let replies: Vec<_> = (0..10).map(|_| second.reply()).collect();
        assert_eq!(replies[8..], ["+QUEUED\r", "+OK\r"]);
    }
}

/// Commands behind a reply that is kept back wait in memory, however long that takes.
#[test]
fn commands_behind_a_reply_that_is_kept_back_are_input_too() {
    let engine = Obedient::default();
    let limits = Limits { input_bytes_max: 45_000, ..Limits::default() };
    let server = Server::with(engine.clone(), limits);
    let mut first = server.client();
    first.send("GET gate\r\n");
    eventually("it is being read", || server.handle.counters().requests == 1);
    // All has arrived before it is read; the first command makes the reads large enough for the others.
    let set = |bytes: usize| format!("SET k {}\r\n", "x".repeat(bytes));
    first.send(set(20_480) + "WAITAOF 1 0 0\r\n" + &set(30_000));
    engine.open_gate();
    eventually("WAITAOF waits", || server.handle.counters().requests == 3);
    let mut second = server.client();
    second.send(format!("SET k {}", "x".repeat(30_000)));
    eventually("the second is refused", || server.handle.counters().input_refused == 1);
    engine.sync_always();
    let replies = [first.reply(), first.reply(), first.reply(), first.reply()];
    assert_eq!(replies, ["$-1\r", "+OK\r", "*2\r", ":1\r"]);
}

#[test]
fn requests_beyond_the_jobs_that_may_wait_are_busy() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits { jobs_max: 1, ..Limits::default() });
    let mut waiting = server.client();
    waiting.send(get("gate"));
    eventually("the first is run", || server.handle.counters().requests == 1);

    let mut refused = server.client();
    assert!(refused.ask(set("k", "v")).contains("busy: 1 jobs are waiting already"));
    engine.open_gate();
    assert_eq!(waiting.reply(), r#"{"Ok":null}"#);
    assert_eq!(refused.ask(get("k")), r#"{"Ok":null}"#, "nothing was done");
    assert_eq!(server.handle.counters().requests_busy, 1);
}

#[test]
fn commands_beyond_the_jobs_that_may_wait_wait_themselves() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits { jobs_max: 1, ..Limits::default() });
    let mut waiting = server.client();
    waiting.send(get("gate"));
    eventually("the first is run", || server.handle.counters().requests == 1);

    // Refused, it would leave the transaction without one of its ends.
    let mut client = server.client();
    client.send("MULTI\r\nGET k\r\nEXEC\r\n");
    assert_eq!((client.reply(), client.reply()), ("+OK\r".into(), "+QUEUED\r".into()));
    engine.open_gate();
    assert_eq!(waiting.reply(), r#"{"Ok":null}"#);
    eventually("it is run", || server.handle.counters().requests == 4);
    engine.sync_always();
    assert_eq!(client.reply(), "*1\r");
    assert_eq!(server.handle.counters().requests_busy, 0);
}

#[test]
fn a_pause_of_writes_holds_json_too() {
    let engine = MemoryEngine::new();
    let server = Server::with(engine.clone(), Limits::default());
    assert_eq!(server.client().ask("CLIENT PAUSE 60000 WRITE\r\n"), "+OK\r");
    let mut writer = server.client();
    writer.send(get("k") + &set("k", "v"));
    assert_eq!(writer.reply(), r#"{"Ok":null}"#);
    assert_eq!(server.client().ask(get("k")), r#"{"Ok":null}"#, "it waits");
    assert_eq!(server.client().ask("CLIENT UNPAUSE\r\n"), "+OK\r");
    assert_eq!(writer.reply(), r#"{"Ok":null}"#);
    assert_eq!(server.client().ask(get("k")), r#"{"Ok":"v"}"#);
}

#[test]
fn a_client_that_takes_nothing_for_too_long_is_closed() {
    let engine = MemoryEngine::new();
    engine.write(Batch::new().put("large", "x".repeat(16 << 20))).unwrap();
    let limits = Limits { send_stall: Duration::from_millis(200), ..Limits::default() };
    let server = Server::with(engine, limits);
    let mut client = server.client();
    client.send(get("large"));
    eventually("it is closed", || server.handle.counters().sends_timed_out == 1);
}

/// The time of a stalled send began anew with each command that the client sent, so a slow reader with
/// a heartbeat held its part of the room for replies for ever.
#[test]
fn a_client_that_takes_nothing_is_closed_also_if_it_goes_on_sending() {
    let engine = MemoryEngine::new();
    engine.write(Batch::new().put("large", "x".repeat(32 << 20))).unwrap();
    let limits = Limits {
        send_stall: Duration::from_millis(500),
        output_bytes_max: 64 << 20,
        ..Limits::default()
    };
    let server = Server::with(engine, limits);
    let mut client = server.client();
    client.send("GET large\r\n");
    let mut writer = client.writer();
    eventually("it is closed", || {
        // Refused once the connection is closed.
        drop(std::io::Write::write_all(&mut writer, b"PING\r\n"));
        std::thread::sleep(Duration::from_millis(50));
        server.handle.counters().sends_timed_out == 1
    });
}

#[test]
fn a_page_of_a_scan_has_a_limit_but_a_single_entry_always_fits() {
    let engine = MemoryEngine::new();
    for key in ["a", "b", "c"] {
        engine.write(Batch::new().put(key, "x".repeat(1000))).unwrap();
    }
    let server = Server::with(engine, Limits { scan_bytes_max: 500, ..Limits::default() });
    let mut client = server.client();
    assert!(client.ask(r#"{"Scan":{"limit":3}}"#).contains("ask with a smaller limit"));
    assert!(client.ask(r#"{"Scan":{"limit":1}}"#).starts_with(r#"{"Entries":[["a","xxx"#));
}

#[test]
fn a_reply_has_a_limit_but_a_single_value_always_fits() {
    let engine = MemoryEngine::new();
    for key in ["a", "b"] {
        engine.write(Batch::new().put(key, "x".repeat(600))).unwrap();
    }
    for n in 0..300 {
        engine.write(Batch::new().put(format!("key:{n}"), "")).unwrap();
    }
    let server = Server::with(engine, Limits { reply_bytes_max: 1000, ..Limits::default() });
    let mut client = server.client();
    let refusal = "-ERR the reply is too large: the limit is 1000 bytes; ask for less";
    for (command, reply) in [
        ("MGET a b", refusal),
        ("KEYS key:*", refusal),
        ("MULTI", "+OK"),
        ("MGET a b", "+QUEUED"),
        ("EXEC", "*1"),
    ] {
        client.send(format!("{command}\r\n"));
        assert_eq!(client.reply().trim_end(), reply, "{command}");
    }
    assert_eq!(client.reply().trim_end(), refusal);
    for (command, reply) in [
        ("MULTI", "+OK"),
        ("SET c done", "+QUEUED"),
        ("GET a", "+QUEUED"),
        ("GET b", "+QUEUED"),
        (
            "EXEC",
            "-ERR the reply is too large: 1226 bytes, the limit is 1000; nothing was done, ask for less",
        ),
        ("EXISTS c", ":0"),
    ] {
        client.send(format!("{command}\r\n"));
        assert_eq!(client.reply().trim_end(), reply, "{command}");
    }
    client.send("KEYS key:1?\r\n");
    assert_eq!(client.reply().trim_end(), "*10");
}

#[test]
fn an_address_that_others_can_reach_takes_a_word() {
    let pool = SharedQueueThreadPool::new(1).unwrap();
    let exposed = KvServer::new("0.0.0.0:0", MemoryEngine::new(), pool);
    assert!(matches!(exposed, Err(ServerError::Exposed { .. })));
    assert!(Listener::bind("[::]:0", false).is_err());
    assert!(Listener::bind("0.0.0.0:0", true).is_ok());
    assert!(Listener::bind("localhost:0", false).is_ok());
}

#[test]
fn a_wrong_address_is_named() {
    let error = Listener::bind("nonsense", false).unwrap_err().to_string();
    assert!(error.starts_with("cannot listen on nonsense: "), "{error}");
    let taken = Server::start();
    let error = Listener::bind(taken.addr, false).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {}: ", taken.addr)), "{error}");
}
