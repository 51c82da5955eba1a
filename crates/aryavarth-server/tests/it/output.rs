//! Memory for replies: bounded over all clients, shared in turn, and never a deadlock.
//!
//! Forty clients once asked for four values of 60 MiB each and read none: each was within its own
//! limit, all together took 9 GB, and a neighbour's write waited 11 seconds for a thread.

use std::io::Read;
use std::time::{Duration, Instant};

use aryavarth::{Batch, KvsEngine, MemoryEngine};
use aryavarth_server::{Limits, SharedQueueThreadPool, ThreadPool};

use crate::support::{Client, Obedient, PATIENCE, Server, eventually, get};

/// A value that no socket buffers wholly.
const LARGE: usize = 16 << 20;

fn with_large_values(change: impl FnOnce(&mut Limits)) -> Server {
    let engine = MemoryEngine::new();
    for key in ["a", "b"] {
        engine.write(Batch::new().put(key, "x".repeat(LARGE))).unwrap();
    }
    let mut limits = Limits::default();
    change(&mut limits);
    Server::with(engine, limits)
}

/// A figure of INFO, asked for on a connection of its own.
fn figure(server: &Server, name: &str) -> u64 {
    let mut client = server.client();
    client.send("INFO aryavarth\r\n");
    loop {
        let line = client.reply();
        if let Some(value) = line.trim_end().strip_prefix(&format!("{name}:")) {
            return value.parse().unwrap();
        }
    }
}

/// Takes a reply that is one large value.
fn take_large(client: &mut Client) {
    assert_eq!(client.reply(), format!("${LARGE}\r"));
    let mut value = vec![0; LARGE + 2];
    client.read_exact(&mut value);
    assert!(value.ends_with(b"x\r\n"));
}

#[test]
fn clients_that_do_not_read_take_no_more_than_the_budget_together() {
    let server = with_large_values(|limits| limits.output_bytes_max_total = 40 << 20);
    let clients: Vec<Client> = (0..10)
        .map(|_| {
            let mut client = server.client();
            client.send("GET a\r\nGET b\r\nGET a\r\nGET b\r\n");
            client
        })
        .collect();
    // Two have room; the others wait for it.
    eventually("eight wait", || figure(&server, "output_waiting") == 8);
    assert!(figure(&server, "output_bytes") <= 40 << 20);
    assert_eq!(figure(&server, "output_bytes_max"), 40 << 20);
    assert_eq!(server.client().ask("SET k v\r\n"), "+OK\r", "a neighbour writes");
    assert_eq!(server.client().ask("GET k\r\n"), "$1\r", "a neighbour reads");

    // All get all of it in turn, whoever reads first.
    for mut client in clients {
        let reader = move || (0..4).for_each(|_| take_large(&mut client));
        std::thread::spawn(reader);
    }
    eventually("all is taken", || figure(&server, "output_bytes") == 0);
    eventually("none waits", || figure(&server, "output_waiting") == 0);
}

#[test]
fn a_reply_larger_than_the_budget_is_made_when_no_other_is_held() {
    let server = with_large_values(|limits| limits.output_bytes_max_total = 1 << 20);
    let mut client = server.client();
    for command in ["GET a\r\n", "MULTI\r\n", "GET a\r\n", "SET n 1\r\n", "EXEC\r\n"] {
        client.send(command);
    }
    take_large(&mut client);
    assert_eq!((client.reply(), client.reply()), ("+OK\r".into(), "+QUEUED\r".into()));
    assert_eq!((client.reply(), client.reply()), ("+QUEUED\r".into(), "*2\r".into()));
    take_large(&mut client);
    assert_eq!(client.reply(), "+OK\r");
    assert_eq!(server.client().ask("GET n\r\n"), "$1\r");
    client.send("GETDEL a\r\n");
    take_large(&mut client);
    assert_eq!(client.ask("EXISTS a\r\n"), ":0\r");
}

/// A byte now and then would else hold the room of others for ever.
#[test]
fn a_client_that_holds_room_and_takes_a_little_is_closed_and_others_go_on() {
    let server = with_large_values(|limits| {
        limits.output_bytes_max_total = 1 << 20;
        limits.send_stall = Duration::from_millis(500);
    });
    let mut slow = server.client();
    slow.send("GET a\r\n");
    eventually("it holds room", || figure(&server, "output_bytes") > 0);
    let mut next = server.client();
    next.send("GET b\r\n");
    let begin = Instant::now();
    while server.handle.counters().sends_timed_out == 0 {
        assert!(begin.elapsed() < PATIENCE, "it is never closed");
        slow.writer().read_exact(&mut [0; 1]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    take_large(&mut next);
}

#[test]
fn a_client_that_goes_while_it_waits_for_room_is_not_waited_for() {
    let server = with_large_values(|limits| limits.output_bytes_max_total = 1 << 20);
    let mut first = server.client();
    first.send("GET a\r\n");
    eventually("it holds room", || figure(&server, "output_bytes") > 0);
    let mut gone = server.client();
    gone.send("GET b\r\n");
    eventually("it waits", || figure(&server, "output_waiting") == 1);
    drop(gone);
    eventually("it has gone", || figure(&server, "output_waiting") == 0);
    take_large(&mut first);
}

#[test]
fn reads_of_large_values_leave_a_thread_to_writes() {
    let engine = Obedient::default();
    engine.sync_always();
    let pool = SharedQueueThreadPool::new(2).unwrap();
    let server = Server::on(pool, engine.clone(), Limits::default());
    let mut readers: Vec<Client> = (0..5).map(|_| server.client()).collect();
    for reader in &mut readers {
        reader.send("GET large:gate\r\n");
    }
    eventually("one is read", || server.handle.counters().requests >= 1);
    let mut writer = server.client();
    assert_eq!(writer.ask("SET k v\r\n"), "+OK\r");
    assert_eq!(writer.ask("INCR n\r\n"), ":1\r");
    engine.open_gate();
    for reader in &mut readers {
        assert_eq!(reader.reply(), "$-1\r");
    }
}

/// A client that is told to try again may be idle for ever, and room that was granted to it would be
/// gone for as long.
#[test]
fn room_that_a_request_has_waited_for_is_given_back_if_there_is_no_job_for_it() {
    let engine = Obedient::default();
    engine.sync_always();
    engine.write(Batch::new().put("large", "x".repeat(LARGE))).unwrap();
    let limits = Limits { jobs_max: 1, output_bytes_max_total: 1 << 20, ..Limits::default() };
    let server = Server::with(engine.clone(), limits);
    let mut first = server.client();
    first.send("GET large\r\n");
    eventually("it holds all room", || figure(&server, "output_bytes") > 0);
    let mut refused = server.client();
    refused.send(get("large2"));
    eventually("another waits for room", || figure(&server, "output_waiting") == 1);
    let before = server.handle.counters().requests;
    let mut busy = server.client();
    busy.send("GET gate\r\n");
    eventually("the only job is taken", || server.handle.counters().requests > before);
    take_large(&mut first);
    assert!(refused.reply().contains("busy: 1 jobs are waiting already"));
    engine.open_gate();
    assert_eq!(busy.reply(), "$-1\r");
    eventually("all is given back", || figure(&server, "output_bytes") == 0);
    assert_eq!(refused.ask(get("hot")), r#"{"Ok":null}"#, "it is there still");
}

/// A reply without room is made anew later; each try was counted as a request.
#[test]
fn a_command_that_runs_again_for_want_of_room_is_counted_once() {
    let server = with_large_values(|limits| limits.output_bytes_max_total = 1 << 20);
    let mut first = server.client();
    first.send("GET a\r\n");
    eventually("it holds room", || figure(&server, "output_bytes") > 0);
    let mut others: Vec<Client> = (0..3).map(|_| server.client()).collect();
    others[0].send("GET b\r\n");
    others[1].send("MULTI\r\nGET b\r\nEXEC\r\n");
    others[2].send(get("b"));
    eventually("three wait", || figure(&server, "output_waiting") == 3);
    let mut asker = server.client();
    asker.send("CONFIG RESETSTAT\r\n");
    assert_eq!(asker.reply(), "+OK\r");
    let before = figure(&server, "requests");
    let readers = others
        .into_iter()
        .map(|mut client| std::thread::spawn(move || client.read_exact(&mut vec![0; LARGE])));
    let readers: Vec<_> = readers.collect();
    take_large(&mut first);
    for reader in readers {
        reader.join().unwrap();
    }
    // GET, EXEC, the request in JSON, and the command that asks for the figure.
    assert_eq!(figure(&server, "requests"), before + 4);
    asker.send("INFO commandstats\r\n");
    let lines: Vec<String> = std::iter::repeat_with(|| asker.reply())
        .take_while(|line| line != "\r")
        .filter(|line| line.starts_with("cmdstat_get:") || line.starts_with("cmdstat_exec:"))
        .collect();
    assert!(lines.iter().any(|line| line.starts_with("cmdstat_get:calls=2,")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("cmdstat_exec:calls=1,")), "{lines:?}");
}

/// Each thread of the pool once read a large value before its reply asked for room: memory of all of
/// them at once, which no budget counted.
#[test]
fn a_large_value_is_read_only_when_its_reply_has_room() {
    let engine = Obedient::default();
    engine.sync_always();
    let pool = SharedQueueThreadPool::new(4).unwrap();
    let limits = Limits { output_bytes_max_total: 3 << 19, ..Limits::default() };
    let server = Server::on(pool, engine.clone(), limits);
    let mut readers: Vec<Client> = (0..3).map(|_| server.client()).collect();
    readers[0].send("GET large:gate\r\n");
    eventually("one is being read", || figure(&server, "output_bytes") > 0);
    readers[1].send("MGET small large:gate\r\n");
    readers[2].send("MULTI\r\nGET large\r\nEXEC\r\n");
    eventually("two wait for room", || figure(&server, "output_waiting") == 2);
    engine.open_gate();
    assert_eq!(readers[0].reply(), "$-1\r");
    for line in ["*2\r", "$-1\r", "$-1\r"] {
        assert_eq!(readers[1].reply(), line);
    }
    for line in ["+OK\r", "+QUEUED\r", "*1\r", "$-1\r"] {
        assert_eq!(readers[2].reply(), line);
    }
    eventually("all is given back", || figure(&server, "output_bytes") == 0);
}
