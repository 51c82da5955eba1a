//! The Redis protocol over real sockets: effects that only a connection has. The commands themselves are
//! told in scripts beside them.

use aryavarth::{Batch, KvsEngine, MemoryEngine, Wait};
use aryavarth_server::Limits;

use crate::support::{Client, Obedient, Server, eventually};

fn start() -> (Server, MemoryEngine) {
    let engine = MemoryEngine::new();
    (Server::with(engine.clone(), Limits::default()), engine)
}

/// Sends inline commands in one piece and requires these lines in answer.
fn conversation(client: &mut Client, commands: &[&str], lines: &[&str]) {
    client.send(commands.join("\r\n") + "\r\n");
    for line in lines {
        assert_eq!(client.reply().trim_end(), *line, "{commands:?}");
    }
}

#[test]
fn a_transaction_is_collected_and_run_by_exec() {
    let (server, engine) = start();
    engine.write(Batch::new().put("k", "v")).unwrap();
    let mut client = server.client();
    conversation(
        &mut client,
        &["MULTI", "GET k", "GET absent", "EXEC"],
        &["+OK", "+QUEUED", "+QUEUED", "*2", "$1", "v", "$-1"],
    );
    conversation(
        &mut client,
        &["MULTI", "MULTI", "DISCARD"],
        &["+OK", "-ERR MULTI calls can not be nested", "+OK"],
    );
    conversation(
        &mut client,
        &["MULTI", "GET", "EXEC", "EXEC"],
        &[
            "+OK",
            "-ERR wrong number of arguments for 'get' command",
            "-EXECABORT Transaction discarded because of previous errors.",
            "-ERR EXEC without MULTI",
        ],
    );
}

#[test]
fn exec_is_refused_when_a_watched_key_was_set_and_removed_again() {
    let (server, engine) = start();
    let mut client = server.client();
    conversation(&mut client, &["WATCH k", "GET k"], &["+OK", "$-1"]);
    engine.write(Batch::new().put("k", "v")).unwrap();
    engine.write(Batch::new().delete("k")).unwrap();
    conversation(&mut client, &["MULTI", "GET k", "EXEC"], &["+OK", "+QUEUED", "*-1"]);
    conversation(&mut client, &["MULTI", "GET k", "EXEC"], &["+OK", "+QUEUED", "*1", "$-1"]);
}

#[test]
fn a_watch_can_be_given_up() {
    let (server, engine) = start();
    let mut client = server.client();
    conversation(&mut client, &["WATCH k", "UNWATCH"], &["+OK", "+OK"]);
    engine.write(Batch::new().put("k", "v")).unwrap();
    conversation(
        &mut client,
        &["MULTI", "EXEC", "MULTI", "GET k"],
        &["+OK", "*0", "+OK", "+QUEUED"],
    );
}

#[test]
fn what_a_transaction_shows_is_durable_before_it_leaves() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    let mut client = server.client();
    client.send("MULTI\r\nGET k\r\nEXEC\r\n");
    assert_eq!((client.reply(), client.reply()), ("+OK\r".into(), "+QUEUED\r".into()));
    eventually("it runs", || server.handle.counters().requests == 3);
    engine.sync_always();
    assert_eq!((client.reply(), client.reply()), ("*1\r".into(), "$-1\r".into()));
}

#[test]
fn after_a_failed_sync_a_waiting_reply_is_an_error() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    let mut client = server.client();
    client.send("MULTI\r\nEXEC\r\n");
    assert_eq!(client.reply(), "+OK\r");
    engine.poison();
    assert!(client.reply().starts_with("-MISCONF "));
}

#[test]
fn a_connection_speaks_one_protocol() {
    let (server, _engine) = start();
    let mut client = server.client();
    conversation(
        &mut client,
        &["GET k", "{\"Get\":{\"key\":\"k\"}}"],
        &["$-1", "-ERR Protocol error: unbalanced quotes in request"],
    );
}

/// More calls than one job takes, so that the rest is not decoded when QUIT is run.
#[test]
fn nothing_runs_after_quit_however_much_was_sent() {
    let (server, engine) = start();
    let mut client = server.client();
    let many = "PING\r\n".repeat(255) + "QUIT\r\nSET k v\r\nPING\r\n";
    client.send(many);
    assert_eq!(client.rest(), "+PONG\r\n".repeat(255) + "+OK\r\n");
    assert_eq!(engine.read(b"k", Wait::Yes).unwrap().0, None);
}

/// A disk that hangs must not keep the answer that it hangs.
#[test]
fn waitaof_answers_in_time_when_the_disk_does_not() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    let mut client = server.client();
    client.send("CLIENT REPLY SKIP\r\n");
    engine.write(Batch::new().put("k", "v")).unwrap();
    client.send("PING\r\nWAITAOF 1 0 50\r\n");
    let lines = [client.reply(), client.reply(), client.reply()];
    assert_eq!(lines, ["*2\r", ":0\r", ":0\r"]);
    client.send("WAITAOF 1 1 50\r\n");
    let lines = [client.reply(), client.reply(), client.reply()];
    assert_eq!(lines, ["*2\r", ":0\r", ":0\r"], "there are no replicas, and no disk");
    client.send("WAITAOF 1 0 0\r\n");
    engine.sync();
    let lines = [client.reply(), client.reply(), client.reply()];
    assert_eq!(lines, ["*2\r", ":1\r", ":0\r"]);
    client.send("WAITAOF 1 1 50\r\n");
    let lines = [client.reply(), client.reply(), client.reply()];
    assert_eq!(lines, ["*2\r", ":1\r", ":0\r"], "there are no replicas");
}

/// As MONITOR does not: it may be undone.
#[test]
fn the_slow_log_shows_nothing_that_is_not_on_disk() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    assert_eq!(server.client().ask("CONFIG SET slowlog-log-slower-than 0\r\n"), "+OK\r");
    let mut writer = server.client();
    writer.send("INCR k\r\nPING\r\n");
    eventually("the first is logged", || server.handle.counters().requests == 3);
    let mut reader = server.client();
    reader.send("SLOWLOG GET\r\n");
    eventually("it is read", || server.handle.counters().requests == 4);
    engine.poison();
    assert!(reader.reply().starts_with("-MISCONF"));
    assert!(writer.reply().starts_with("-MISCONF"));
}

/// A line carries the position of its command and waits for it, as the reply does.
#[test]
fn monitor_shows_no_write_that_is_not_on_disk() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    let mut monitor = server.client();
    assert_eq!(monitor.ask("MONITOR\r\n"), "+OK\r");
    let (mut by_closure, mut blind) = (server.client(), server.client());
    by_closure.send("INCR k\r\n");
    blind.send("SET k v\r\n");
    eventually("both are run", || server.handle.counters().requests == 3);
    engine.poison();
    assert!(by_closure.reply().starts_with("-MISCONF"));
    assert!(blind.reply().starts_with("-MISCONF"));
    assert!(monitor.reply().starts_with("-MISCONF"));
}

/// While a call ran on the pool the connection did not know that its client wanted no replies, and
/// sent the lines of MONITOR.
#[test]
fn a_monitor_without_replies_hears_no_line_while_its_call_runs() {
    let engine = Obedient::default();
    engine.sync_always();
    let server = Server::with(engine.clone(), Limits::default());
    let mut monitor = server.client();
    assert_eq!(monitor.ask("MONITOR\r\n"), "+OK\r");
    monitor.send("CLIENT REPLY OFF\r\nGET gate\r\n");
    eventually("it is read", || server.handle.counters().requests == 3);
    let mut other = server.client();
    for _ in 0..10 {
        assert_eq!(other.ask("PING\r\n"), "+PONG\r");
    }
    // Its lines have been taken from the feed, or are dropped with it when it reads on.
    monitor.send("CLIENT REPLY ON\r\n");
    engine.open_gate();
    assert_eq!(monitor.reply(), "+OK\r");
}
