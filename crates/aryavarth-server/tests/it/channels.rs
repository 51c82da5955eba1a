//! Channels over sockets: order, durability before delivery, and subscribers that do not read.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aryavarth_server::Limits;

use crate::support::{Client, Obedient, PATIENCE, Server, eventually};

/// The words of the next array, or push, of bulk strings and integers.
fn words(client: &mut Client) -> Vec<String> {
    let head = client.reply();
    assert!(head.starts_with(['*', '>']), "{head:?} is no message");
    let count: usize = head[1..].trim_end().parse().unwrap();
    let word = |client: &mut Client| {
        let head = client.reply();
        match head.as_bytes()[0] {
            b'$' if head == "$-1\r" => "nil".to_owned(),
            b'$' => client.reply().trim_end().to_owned(),
            _ => head[1..].trim_end().to_owned(),
        }
    };
    (0..count).map(|_| word(client)).collect()
}

fn subscribe(client: &mut Client, channels: &[&str]) {
    client.send(format!("SUBSCRIBE {}\r\n", channels.join(" ")));
    for channel in channels {
        assert_eq!(words(client)[..2], ["subscribe", channel]);
    }
}

/// A figure of INFO, asked for on a connection of its own.
fn figure(server: &Server, name: &str) -> u64 {
    let mut client = server.client();
    client.send("INFO\r\n");
    loop {
        let line = client.reply();
        if let Some(value) = line.trim_end().strip_prefix(&format!("{name}:")) {
            return value.parse().unwrap();
        }
    }
}

#[test]
fn a_message_reaches_channels_patterns_and_shard_channels() {
    let server = Server::start();
    let (mut one, mut two, mut sender) = (server.client(), server.client(), server.client());
    subscribe(&mut one, &["news", "sport"]);
    one.send("PSUBSCRIBE n* *w?\r\n");
    assert_eq!(words(&mut one), ["psubscribe", "n*", "3"]);
    assert_eq!(words(&mut one), ["psubscribe", "*w?", "4"]);
    two.send("SSUBSCRIBE news\r\n");
    assert_eq!(words(&mut two), ["ssubscribe", "news", "1"]);

    assert_eq!(sender.ask("PUBLISH news hello\r\n"), ":3\r");
    assert_eq!(words(&mut one), ["message", "news", "hello"]);
    assert_eq!(words(&mut one), ["pmessage", "*w?", "news", "hello"]);
    assert_eq!(words(&mut one), ["pmessage", "n*", "news", "hello"]);
    assert_eq!(sender.ask("SPUBLISH news shard\r\n"), ":1\r");
    assert_eq!(words(&mut two), ["smessage", "news", "shard"]);
    assert_eq!(sender.ask("PUBLISH other x\r\n"), ":0\r");

    for (name, count) in
        [("pubsub_channels", 2), ("pubsub_patterns", 2), ("pubsubshard_channels", 1)]
    {
        assert_eq!(figure(&server, name), count, "{name}");
    }
    drop(one);
    eventually("the subscriptions end with the client", || figure(&server, "pubsub_channels") == 0);
    assert_eq!(figure(&server, "pubsub_patterns"), 0);
}

#[test]
fn a_subscriber_of_resp2_may_only_change_its_subscriptions() {
    let server = Server::start();
    let mut client = server.client();
    subscribe(&mut client, &["a"]);
    assert_eq!(
        client.ask("GET k\r\n"),
        "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are \
         allowed in this context\r"
    );
    assert!(client.ask("CLIENT ID\r\n").starts_with("-ERR Can't execute 'client|id'"));
    client.send("PING\r\nPING x\r\n");
    assert_eq!(words(&mut client), ["pong", ""]);
    assert_eq!(words(&mut client), ["pong", "x"]);
    client.send("UNSUBSCRIBE\r\n");
    assert_eq!(words(&mut client), ["unsubscribe", "a", "0"]);
    client.send("UNSUBSCRIBE\r\n");
    assert_eq!(words(&mut client), ["unsubscribe", "nil", "0"]);
    assert_eq!(client.ask("GET k\r\n"), "$-1\r");

    subscribe(&mut client, &["a"]);
    assert_eq!(client.ask("RESET\r\n"), "+RESET\r");
    assert_eq!(client.ask("GET k\r\n"), "$-1\r");
    assert_eq!(server.client().ask("PUBLISH a x\r\n"), ":0\r");
}

#[test]
fn a_client_of_resp3_runs_any_command_and_hears_pushes_between_replies() {
    let server = Server::start();
    let mut client = server.client();
    client.send("HELLO 3\r\nPING end\r\n");
    while client.reply() != "end\r" {}
    client.send("SUBSCRIBE a\r\nSET k v\r\nPUBLISH a self\r\nGET k\r\n");
    assert_eq!(words(&mut client), ["subscribe", "a", "1"]);
    let (mut replies, mut message) = (Vec::new(), Vec::new());
    while replies.len() < 4 || message.is_empty() {
        let line = client.reply();
        if line.starts_with('>') {
            assert_eq!(line, ">3\r");
            message = (0..6).map(|_| client.reply()).collect();
        } else {
            replies.push(line);
        }
    }
    assert_eq!(replies, ["+OK\r", ":1\r", "$1\r", "v\r"]);
    assert_eq!(message[1..], ["message\r", "$1\r", "a\r", "$4\r", "self\r"]);
}

/// A subscriber that hears of a write looks for it; after a power cut it would not be there.
#[test]
fn a_message_does_not_announce_a_write_that_is_not_on_disk() {
    for (commands, count) in [
        ("SET k v\r\nPUBLISH news written\r\n", 2),
        ("INCR k\r\nPUBLISH news written\r\n", 2),
        ("MULTI\r\nSET k v\r\nPUBLISH news written\r\nEXEC\r\n", 4),
        ("SET k v\r\nRESET\r\nPUBLISH news written\r\n", 3),
    ] {
        let engine = Obedient::default();
        let server = Server::with(engine.clone(), Limits::default());
        let mut reader = server.client();
        subscribe(&mut reader, &["news", "other"]);
        let mut sender = server.client();
        sender.send(commands);
        eventually("all are run", || server.handle.counters().requests == 1 + count);
        // Messages that announce nothing do not overtake, and tell that the first one waits.
        assert_eq!(server.client().ask("PUBLISH other x\r\n"), ":1\r");
        engine.poison();
        assert_eq!(words(&mut reader), ["message", "other", "x"], "after {commands:?}");
    }
}

#[test]
fn a_message_leaves_when_the_write_before_it_is_on_disk() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    let mut reader = server.client();
    subscribe(&mut reader, &["news"]);
    let mut sender = server.client();
    sender.send("SET k v\r\nPUBLISH news written\r\n");
    eventually("both are run", || server.handle.counters().requests == 3);
    engine.sync();
    assert_eq!(words(&mut reader), ["message", "news", "written"]);
    assert_eq!([sender.reply(), sender.reply()], ["+OK\r", ":1\r"]);
}

/// Its confirmations would stand among the replies of EXEC, and messages on the wrong side of them.
#[test]
fn a_transaction_changes_no_subscriptions() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.ask("MULTI\r\n"), "+OK\r");
    assert!(client.ask("SUBSCRIBE a\r\n").starts_with("-ERR Command not allowed inside"));
    assert!(client.ask("EXEC\r\n").starts_with("-EXECABORT"));
}

/// A client that shares one connection among its tasks always has a command under way. Its messages
/// were never looked at, and it was closed as one that does not read.
#[test]
fn a_client_with_commands_under_way_hears_its_messages() {
    let server = Server::start();
    let mut client = server.client();
    client.send("HELLO 3\r\nPING end\r\n");
    while client.reply() != "end\r" {}
    client.send("SUBSCRIBE a\r\n");
    assert_eq!(words(&mut client), ["subscribe", "a", "1"]);
    let mut writer = client.writer();
    let is_over = Arc::new(AtomicBool::new(false));
    let busy = thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            while !is_over.load(Ordering::Relaxed) {
                writer.write_all("SET k v\r\n".repeat(16).as_bytes()).unwrap();
            }
        }
    });
    let mut sender = server.client();
    sender.send("PUBLISH a one\r\nPUBLISH a two\r\n");
    let began = Instant::now();
    let mut heard = 0;
    while heard < 2 {
        assert!(began.elapsed() < PATIENCE, "it hears its replies only");
        heard += usize::from(client.reply().starts_with('>'));
    }
    is_over.store(true, Ordering::Relaxed);
    drop(client);
    drop(busy.join());
}

/// A client is gone while a job of its commands runs: the subscription at their end stayed for ever.
#[test]
fn a_client_that_goes_leaves_no_subscription_behind() {
    let engine = Obedient::default();
    engine.sync_always();
    let server = Server::with(engine.clone(), Limits::default());
    let mut client = server.client();
    client.send("GET gate\r\nSUBSCRIBE a b c\r\n");
    eventually("it waits", || engine.take_calls().iter().any(|(call, _)| *call == "read"));
    drop(client);
    assert!(server.client().ask("CLIENT KILL TYPE normal\r\n").starts_with(':'));
    eventually("it is gone", || server.handle.counters().connections == 0);
    engine.open_gate();
    assert_eq!(server.client().ask("PUBLISH a x\r\n"), ":0\r");
    assert_eq!(figure(&server, "pubsub_channels"), 0);
}

/// Messages that wait are not copied for a client that reads nothing, whatever it asks for.
#[test]
fn a_client_with_many_messages_waiting_runs_nothing_before_they_are_taken() {
    const MESSAGES: usize = 2_000;
    let server = Server::start();
    let mut client = server.client();
    subscribe(&mut client, &["a"]);
    let mut sender = server.client();
    let publish = format!("PUBLISH a {}\r\n", "x".repeat(10_000));
    for _ in 0..MESSAGES {
        assert_eq!(sender.ask(&publish), ":1\r");
    }
    client.send("UNSUBSCRIBE a\r\n");
    sender.send("PING\r\n");
    assert_eq!(sender.reply(), "+PONG\r");
    assert_eq!(sender.ask("PUBSUB NUMSUB a\r\n"), "*2\r");
    let numsub = [sender.reply(), sender.reply(), sender.reply()];
    assert_eq!(numsub[2], ":1\r", "it is not run before its messages");
    for _ in 0..MESSAGES {
        assert_eq!(words(&mut client)[0], "message");
    }
    assert_eq!(words(&mut client), ["unsubscribe", "a", "0"]);
}

#[test]
fn a_client_without_replies_hears_its_messages() {
    let server = Server::start();
    let mut client = server.client();
    client.send("CLIENT REPLY OFF\r\nSUBSCRIBE a\r\n");
    assert_eq!(words(&mut client), ["subscribe", "a", "1"]);
    assert_eq!(server.client().ask("PUBLISH a x\r\n"), ":1\r");
    assert_eq!(words(&mut client), ["message", "a", "x"]);
}

/// Several senders at once; each subscriber sees the same order, and none misses a message.
#[test]
fn subscribers_hear_all_messages_in_one_order() {
    const SENDERS: usize = 4;
    const MESSAGES: usize = 500;
    let server = Server::start();
    let mut readers: Vec<Client> = (0..20).map(|_| server.client()).collect();
    for reader in &mut readers {
        subscribe(reader, &["a"]);
    }
    let senders: Vec<_> = (0..SENDERS)
        .map(|number| {
            let mut sender = server.client();
            thread::spawn(move || {
                for at in 0..MESSAGES {
                    sender.send(format!("PUBLISH a {number}:{at}\r\n"));
                }
                (0..MESSAGES).for_each(|_| assert_eq!(sender.reply(), ":20\r"));
            })
        })
        .collect();
    let mut order: Option<Vec<Vec<String>>> = None;
    for mut reader in readers {
        let heard: Vec<_> = (0..SENDERS * MESSAGES).map(|_| words(&mut reader)).collect();
        assert!(order.as_ref().is_none_or(|order| *order == heard), "two orders");
        order = Some(heard);
    }
    for sender in senders {
        sender.join().unwrap();
    }
}

/// A client library takes a message that comes after the confirmation for one of nobody.
#[test]
fn messages_keep_their_side_of_a_confirmation() {
    let server = Server::start();
    let mut sender = server.client();
    let sending = thread::spawn(move || {
        for _ in 0..4_000 {
            sender.send("PUBLISH a x\r\n");
            assert!(sender.reply().starts_with(':'));
        }
    });
    let mut client = server.client();
    let mut is_subscribed = false;
    while !sending.is_finished() {
        client.send(if is_subscribed { "UNSUBSCRIBE a\r\n" } else { "SUBSCRIBE a\r\n" });
        loop {
            let heard = words(&mut client);
            if heard[0] == "message" {
                assert!(is_subscribed, "a message outside of the subscription");
                continue;
            }
            is_subscribed = !is_subscribed;
            assert_eq!(heard[0], if is_subscribed { "subscribe" } else { "unsubscribe" });
            break;
        }
    }
    sending.join().unwrap();
}

/// All in one packet, so the message waits when its subscription ends.
#[test]
fn a_message_leaves_before_the_confirmation_of_its_end() {
    let server = Server::start();
    let mut client = server.client();
    client.send("HELLO 3\r\nPING end\r\n");
    while client.reply() != "end\r" {}
    client.send("SUBSCRIBE a\r\nPUBLISH a x\r\nUNSUBSCRIBE a\r\n");
    assert_eq!(words(&mut client), ["subscribe", "a", "1"]);
    assert_eq!(client.reply(), ":1\r");
    assert_eq!(words(&mut client), ["message", "a", "x"]);
    assert_eq!(words(&mut client), ["unsubscribe", "a", "0"]);
}

/// It is closed and counted, and no sender waits for it.
#[test]
fn a_subscriber_that_does_not_read_is_cut_off_at_its_limit() {
    let limits = Limits { subscriber_bytes_max: 2 << 20, ..Limits::default() };
    let server = Server::with(Obedient::default(), limits);
    let (mut idle, mut reader) = (server.client(), server.client());
    subscribe(&mut idle, &["a"]);
    subscribe(&mut reader, &["a"]);
    let mut sender = server.client();
    let publish = format!("PUBLISH a {}\r\n", "x".repeat(60_000));
    let began = Instant::now();
    let mut sent = 0;
    while sender.ask(&publish) == ":2\r" {
        assert_eq!(words(&mut reader)[0], "message");
        sent += 1;
        assert!(began.elapsed() < PATIENCE, "never cut off after {sent} messages");
    }
    // Its limit, and as much as the sockets hold.
    assert!(sent * 60_000 < 32 << 20, "cut off after {sent} messages");
    assert_eq!(words(&mut reader)[0], "message");
    eventually("it is gone", || figure(&server, "client_output_buffer_limit_disconnections") == 1);
    assert_eq!(sender.ask("PUBLISH a on\r\n"), ":1\r");
    assert_eq!(words(&mut reader), ["message", "a", "on"]);
}

/// Each is within its own limit; all together are not.
#[test]
fn the_slowest_subscriber_is_cut_off_when_all_messages_take_too_much() {
    let limits = Limits { message_bytes_max_total: 4 << 20, ..Limits::default() };
    let server = Server::with(Obedient::default(), limits);
    let mut slow: Vec<Client> = (0..4).map(|_| server.client()).collect();
    for (number, client) in slow.iter_mut().enumerate() {
        subscribe(client, &[&format!("c{number}")]);
    }
    let mut reader = server.client();
    subscribe(&mut reader, &["r"]);
    let mut sender = server.client();
    let began = Instant::now();
    let text = "x".repeat(60_000);
    let cut = || figure(&server, "client_output_buffer_limit_disconnections");
    while cut() == 0 {
        for channel in ["c0", "c1", "c2", "c3", "r"] {
            sender.ask(format!("PUBLISH {channel} {text}\r\n"));
        }
        assert_eq!(words(&mut reader)[1], "r");
        assert!(began.elapsed() < PATIENCE, "never cut off");
    }
    assert_eq!(sender.ask("PUBLISH r on\r\n"), ":1\r", "who reads stays");
    assert_eq!(words(&mut reader), ["message", "r", "on"]);
    sender.send(format!("*3\r\n$7\r\nPUBLISH\r\n$1\r\nr\r\n${}\r\n", 5 << 20));
    sender.send("y".repeat(5 << 20) + "\r\n");
    assert!(sender.reply().starts_with("-ERR the message is larger"));
}

#[test]
fn names_are_bounded_for_one_client_and_for_all() {
    let limits = Limits { subscription_bytes_max_total: 4096, ..Limits::default() };
    let server = Server::with(Obedient::default(), limits);
    let mut client = server.client();
    assert!(
        client.ask(format!("SUBSCRIBE ok {}\r\n", "n".repeat(4097))).starts_with("-ERR the name")
    );
    let many: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    let refusal = client.ask(format!("SUBSCRIBE {}\r\n", many.join(" ")));
    assert!(refusal.starts_with("-ERR the subscriptions of all clients"), "{refusal}");
    assert_eq!(figure(&server, "pubsub_channels"), 0, "all or none");
    assert_eq!(client.ask("GET hot\r\n"), "$-1\r", "it has not subscribed");
    let mut other = server.client();
    let few: Vec<&str> = many[..15].iter().map(String::as_str).collect();
    subscribe(&mut other, &few);
    assert!(client.ask("SUBSCRIBE a b\r\n").starts_with("-ERR the subscriptions"));
    drop(other);
    eventually("the names are given back", || figure(&server, "pubsub_channels") == 0);
    subscribe(&mut client, &few);
}

/// Each part of a request that ends inside the next one began its time anew, or did not end it.
#[test]
fn a_subscriber_that_sends_on_is_not_late() {
    let limits = Limits { request_arrival: Duration::from_millis(300), ..Limits::default() };
    let server = Server::with(Obedient::default(), limits);
    let mut client = server.client();
    client.send("HELLO 3\r\nPING end\r\n");
    while client.reply() != "end\r" {}
    client.send("SUBSCRIBE a\r\n");
    assert_eq!(words(&mut client), ["subscribe", "a", "1"]);
    let began = Instant::now();
    client.send("PI");
    // Each read ends inside a command.
    while began.elapsed() < Duration::from_millis(900) {
        client.send("NG\r\nPI");
        assert_eq!(client.reply(), "+PONG\r");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(client.ask("NG\r\n"), "+PONG\r");
    // One that does not come is late, whatever the client hears meanwhile.
    client.send("PI");
    let sender = thread::spawn({
        let mut sender = server.client();
        move || {
            let began = Instant::now();
            while sender.ask("PUBLISH a x\r\n") == ":1\r" {
                assert!(began.elapsed() < PATIENCE, "never late");
                thread::sleep(Duration::from_millis(20));
            }
        }
    });
    assert!(client.rest().contains("did not arrive within 0.3 s"));
    sender.join().unwrap();
}

#[test]
fn a_thousand_subscribers_that_read_miss_nothing() {
    let server = Server::start();
    let mut readers: Vec<Client> = (0..1_000).map(|_| server.client()).collect();
    for reader in &mut readers {
        subscribe(reader, &["a"]);
    }
    let mut sender = server.client();
    for at in 0..20 {
        assert_eq!(sender.ask(format!("PUBLISH a {at}\r\n")), ":1000\r");
    }
    for mut reader in readers {
        for at in 0..20 {
            assert_eq!(words(&mut reader), ["message", "a", &at.to_string()]);
        }
    }
}
