//! The bytes of one client, sent or left unsent, do no harm to the others.

use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use aryavarth::MemoryEngine;
use aryavarth_server::Limits;

use crate::support::{Obedient, Server, eventually, set};

fn limited(change: impl FnOnce(&mut Limits)) -> Server {
    let mut limits = Limits { linger: Duration::from_millis(50), ..Limits::default() };
    change(&mut limits);
    Server::with(MemoryEngine::new(), limits)
}

/// WAIT for replicas that there are not takes for ever; and nothing was read meanwhile.
#[test]
fn a_client_that_goes_while_its_reply_is_kept_back_is_let_go() {
    let server = limited(|_| {});
    for asked in ["WAIT 1 0\r\n", "WAITAOF 1 1 0\r\n", "DEBUG SLEEP 1000\r\n"] {
        let mut client = server.client();
        client.send(asked);
        let mut other = server.client();
        // Further input is not read before the reply.
        other.send(format!("{asked}PING\r\n"));
        eventually("both are there", || server.handle.counters().connections == 2);
        drop((client, other));
        eventually("both have gone", || server.handle.counters().connections == 0);
    }
}

/// A pause may last for days, and each client that had gone meanwhile kept its place.
#[test]
fn a_client_that_goes_while_a_pause_holds_its_command_is_let_go() {
    let server = limited(|_| {});
    let mut pauser = server.client();
    assert_eq!(pauser.ask("CLIENT PAUSE 100000000 WRITE\r\n"), "+OK\r");
    let mut client = server.client();
    client.send("SET k v\r\nPING\r\n");
    eventually("both are there", || server.handle.counters().connections == 2);
    drop(client);
    eventually("it has gone", || server.handle.counters().connections == 1);
    assert_eq!(pauser.ask("GET k\r\n"), "$-1\r");
}

#[test]
fn who_has_sent_all_hears_what_comes_soon() {
    let server = limited(|limits| limits.linger = Duration::from_secs(20));
    let mut client = server.client();
    client.send("WAIT 1 100\r\nPING\r\n");
    client.end_input();
    assert_eq!(client.rest(), ":0\r\n+PONG\r\n");
}

/// Asking once and shutting down is how the article's client asks, however long the answer takes.
#[test]
fn a_json_client_that_asks_once_is_answered_after_a_pause() {
    let server = limited(|_| {});
    assert_eq!(server.client().ask("CLIENT PAUSE 2500 WRITE\r\n"), "+OK\r");
    let mut client = server.client();
    client.send(set("k", "v"));
    client.end_input();
    assert_eq!(client.rest(), "{\"Ok\":null}\n");
}

#[test]
fn a_client_that_never_stops_sending_can_be_killed() {
    let server = limited(|_| {});
    let mut loud = server.client();
    let id: u64 = loud.ask("CLIENT ID\r\n").trim_matches([':', '\r']).parse().unwrap();
    loud.send("CLIENT REPLY OFF\r\n");
    let mut stream: TcpStream = loud.writer();
    let sender = thread::spawn(move || {
        let pings = "PING\r\n".repeat(10_000);
        while std::io::Write::write_all(&mut stream, pings.as_bytes()).is_ok() {}
    });
    let killed = server.client().ask(format!("CLIENT KILL ID {id}\r\n"));
    assert_eq!(killed, ":1\r");
    eventually("it has gone", || server.handle.counters().connections == 0);
    sender.join().unwrap();
}

/// Each of them may wait for a disk.
#[test]
fn saves_without_end_leave_the_pool_to_others() {
    let engine = Obedient::default();
    engine.let_wait();
    engine.sync_always();
    let server = Server::with(engine.clone(), Limits::default());
    let mut client = server.client();
    client.send("CLIENT REPLY OFF\r\n".to_owned() + &"BGSAVE\r\n".repeat(1000));
    client.send("CLIENT REPLY ON\r\n");
    assert_eq!(client.reply(), "+OK\r");
    assert_eq!(server.client().ask(set("k", "v")), r#"{"Ok":null}"#);
    engine.open_gate();
    eventually("one waits", || engine.waits() > 0);
    assert_eq!(
        server.client().ask("BGSAVE\r\n"),
        "+Background saving started: all acknowledged writes are on disk already, no dump file is made\r"
    );
    eventually("another one waits", || engine.waits() > 1);
    assert!(engine.waits() <= 3, "one more may have covered those that asked during the first");
}

/// The time that a request may take to arrive is that of one request.
#[test]
fn a_client_that_wants_no_replies_may_send_for_as_long_as_it_likes() {
    let server = limited(|limits| limits.request_arrival = Duration::from_millis(400));
    let mut client = server.client();
    client.send("CLIENT REPLY OFF\r\nMULTI\r\nPI");
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(50));
        client.send("NG\r\nPI");
    }
    client.send("NG\r\nDISCARD\r\nCLIENT REPLY ON\r\n");
    assert_eq!(client.reply(), "+OK\r");
    assert_eq!(server.handle.counters().arrivals_timed_out, 0);
}

/// Not only the size of the reply is bounded, but the time of the work.
#[test]
fn writes_without_replies_wait_for_the_disk_in_the_end() {
    let engine = Obedient::default();
    engine.open_gate();
    let server = Server::with(engine.clone(), Limits::default());
    let mut client = server.client();
    client.send("CLIENT REPLY OFF\r\n");
    let mut stream: TcpStream = client.writer();
    let sender = thread::spawn(move || {
        let sets = "SET k v\r\n".repeat(200_000) + "CLIENT REPLY ON\r\n";
        std::io::Write::write_all(&mut stream, sets.as_bytes()).unwrap();
    });
    let run = || server.handle.counters().requests;
    eventually("some have run", || run() > 60_000);
    let mut before = 0;
    eventually("no more are run", || {
        thread::sleep(Duration::from_millis(200));
        std::mem::replace(&mut before, run()) == run()
    });
    assert!(run() < 100_000, "{} wait", run());
    engine.sync_always();
    assert_eq!(client.reply(), "+OK\r");
    sender.join().unwrap();
    assert_eq!(server.client().ask(set("k", "w")), r#"{"Ok":null}"#);
}
