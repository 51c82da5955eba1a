//! The figures of connections, and the commands by which one client holds or silences another, over
//! real sockets.

use std::thread::sleep;
use std::time::Duration;

use aryavarth::KvStore;
use aryavarth_server::Limits;

use crate::support::{Client, Obedient, Server, eventually};

/// The lines of a bulk reply to an inline command.
fn bulk(client: &mut Client, command: &str) -> String {
    let head = client.ask(format!("{command}\r\n"));
    let mut left: usize = head.trim_end().trim_start_matches('$').parse().unwrap();
    let mut text = String::new();
    while left > 0 {
        let line = client.reply() + "\n";
        left -= line.len();
        text += &line;
    }
    client.reply();
    text
}

/// The value of a field of INFO.
fn figure(client: &mut Client, section: &str, name: &str) -> String {
    let text = bulk(client, &format!("INFO {section}"));
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("{name} is not in {text}")).to_owned()
}

fn say(client: &mut Client, command: &str) -> String {
    client.ask(format!("{command}\r\n")).trim_end().to_owned()
}

fn obedient() -> (Server, Obedient) {
    let engine = Obedient::default();
    engine.sync_always();
    (Server::with(engine.clone(), Limits::default()), engine)
}

/// Tools wait for `blocked_clients` before they go on; it stayed 0.
#[test]
fn clients_that_a_pause_holds_are_counted_as_blocked() {
    let (server, engine) = obedient();
    engine.open_gate();
    let (mut one, mut other) = (server.client(), server.client());
    assert_eq!(say(&mut one, "CLIENT PAUSE 600000 WRITE"), "+OK");
    other.send("SET hot v\r\n");
    eventually("it is held", || figure(&mut one, "clients", "blocked_clients") == "1");
    assert!(bulk(&mut one, "CLIENT LIST").contains(" flags=b "));
    assert_eq!(say(&mut one, "CLIENT UNPAUSE"), "+OK");
    assert_eq!(other.reply().trim_end(), "+OK");
    eventually("it goes on", || figure(&mut one, "clients", "blocked_clients") == "0");
}

/// A write that was queued before the pause is in the log when the client hears OK to CLIENT PAUSE.
#[test]
fn a_pause_begins_behind_the_writes_that_are_on_their_way() {
    let (server, engine) = obedient();
    let (mut writer, mut pauser, mut other) = (server.client(), server.client(), server.client());
    writer.send("SET gate v\r\n");
    eventually("it is being written", || engine.together().len() == 1);
    pauser.send("CLIENT PAUSE 600000 WRITE\r\n");
    let has_flag = |client: &mut Client| bulk(client, "CLIENT LIST").contains(" flags=b ");
    eventually("the pause waits for the write", || has_flag(&mut other));
    // Held, though the pause has not been answered.
    let mut later = server.client();
    later.send("SET hot v\r\n");
    engine.open_gate();
    assert_eq!(pauser.reply().trim_end(), "+OK");
    assert_eq!(writer.reply().trim_end(), "+OK");
    assert_eq!(say(&mut other, "GET hot"), "$-1");
    assert_eq!(say(&mut other, "CLIENT UNPAUSE"), "+OK");
    assert_eq!(later.reply().trim_end(), "+OK");
}

/// The keys that expire during a pause stay in the store, and the pause begins at the transaction's
/// end, as in redis: its own writes go on.
#[test]
fn a_pause_holds_the_sweep_and_begins_when_its_transaction_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let store = KvStore::open(directory.path()).unwrap();
    let server = Server::with(store, Limits::default());
    let (mut one, mut other) = (server.client(), server.client());
    for command in
        ["MULTI", "SET a v PX 1", "CLIENT PAUSE 600000 WRITE", "SET b v", "CLIENT ID", "EXEC"]
    {
        one.send(format!("{command}\r\n"));
    }
    for line in ["+OK", "+QUEUED", "+QUEUED", "+QUEUED", "+QUEUED", "*4", "+OK", "+OK", "+OK", ":1"]
    {
        assert_eq!(one.reply().trim_end(), line);
    }
    eventually("the key has expired", || say(&mut one, "EXISTS a") == ":0");
    // More than the sweep rests between two looks.
    sleep(Duration::from_millis(1500));
    assert_eq!(figure(&mut one, "stats", "expired_keys"), "0");
    assert_eq!(say(&mut other, "CLIENT UNPAUSE"), "+OK");
    eventually("the sweep goes on", || figure(&mut one, "stats", "expired_keys") == "1");
}

/// The age in seconds of the client with a name.
fn age(client: &mut Client, name: &str) -> u64 {
    let list = bulk(client, "CLIENT LIST");
    let line = list.lines().find(|line| line.contains(&format!(" name={name} "))).unwrap();
    let age = line.split(' ').find_map(|field| field.strip_prefix("age=")).unwrap();
    age.parse().unwrap()
}

#[test]
fn clients_are_killed_by_their_age_and_younger_ones_and_oneself_are_not() {
    let (server, _) = obedient();
    let (mut old, mut asker) = (server.client(), server.client());
    for (client, name) in [(&mut old, "old"), (&mut asker, "asker")] {
        assert_eq!(say(client, &format!("CLIENT SETNAME {name}")), "+OK");
    }
    eventually("both are old", || age(&mut asker, "old") >= 4 && age(&mut asker, "asker") >= 4);
    let mut young = server.client();
    assert_eq!(say(&mut young, "PING"), "+PONG");
    for none in ["MAXAGE 1000", "MAXAGE 4 TYPE pubsub", "MAXAGE 4 ID 1000"] {
        assert_eq!(say(&mut asker, &format!("CLIENT KILL {none}")), ":0", "{none}");
    }
    assert_eq!(say(&mut asker, "CLIENT KILL MAXAGE 4"), ":1");
    assert_eq!(old.rest(), "");
    assert_eq!(say(&mut young, "PING"), "+PONG");
    // With oneself, which still hears the reply.
    assert_eq!(say(&mut asker, "CLIENT KILL MAXAGE 4 SKIPME no"), ":1");
    assert_eq!(asker.rest(), "");
    assert_eq!(say(&mut young, "PING"), "+PONG");
    for (wrong, says) in [
        ("0", "maxage should be greater than 0"),
        ("-1", "maxage should be greater than 0"),
        ("soon", "maxage is not an integer or out of range"),
    ] {
        assert_eq!(say(&mut young, &format!("CLIENT KILL MAXAGE {wrong}")), format!("-ERR {says}"));
    }
}

#[test]
fn the_client_list_counts_bytes_and_commands() {
    let (server, _) = obedient();
    let mut client = server.client();
    assert_eq!(say(&mut client, "PING"), "+PONG");
    let line = bulk(&mut client, "CLIENT LIST");
    let sent = "PING\r\nCLIENT LIST\r\n".len();
    assert!(line.contains(&format!(" tot-net-in={sent} tot-net-out=7 tot-cmds=1\n")), "{line}");
    let received: usize = figure(&mut client, "stats", "total_net_input_bytes").parse().unwrap();
    assert!(received > sent, "{received}");
}

#[test]
fn a_protocol_error_is_counted_among_the_errors() {
    let (server, _) = obedient();
    let (mut broken, mut other) = (server.client(), server.client());
    broken.send("*1\r\n$x\r\n");
    assert!(broken.rest().starts_with("-ERR Protocol error"));
    assert_eq!(figure(&mut other, "errorstats", "errorstat_ERR"), "count=1");
}

#[test]
fn a_store_that_is_poisoned_is_told_by_the_status_that_tools_for_redis_read() {
    let (server, engine) = obedient();
    let mut client = server.client();
    assert_eq!(figure(&mut client, "persistence", "aof_last_write_status"), "ok");
    engine.poison();
    assert_eq!(figure(&mut client, "persistence", "aof_last_write_status"), "err");
}

/// Redis counts the errors inside a transaction's reply, too.
#[test]
fn each_error_of_a_transaction_is_counted_by_its_kind() {
    let (server, _) = obedient();
    let (mut one, mut other) = (server.client(), server.client());
    for command in ["SET hot text", "MULTI", "INCR hot", "PING", "INCRBY hot 1", "EXEC"] {
        one.send(format!("{command}\r\n"));
    }
    let error = "-ERR value is not an integer or out of range";
    for line in ["+OK", "+OK", "+QUEUED", "+QUEUED", "+QUEUED", "*3", error, "+PONG", error] {
        assert_eq!(one.reply().trim_end(), line);
    }
    assert_eq!(figure(&mut other, "errorstats", "errorstat_ERR"), "count=2");
    assert_eq!(figure(&mut other, "stats", "total_error_replies"), "2");
}

/// Errors that no command gives are replies, too.
#[test]
fn a_client_that_wants_no_replies_hears_no_error_of_the_protocol() {
    let (server, _) = obedient();
    let lost = "SET panic v\r\n";
    let mut client = server.client();
    assert!(client.ask(lost).starts_with("-ERR internal error"));
    client.send("CLIENT REPLY OFF\r\n");
    client.send(lost);
    assert_eq!(say(&mut client, "CLIENT REPLY ON"), "+OK");
    client.send("CLIENT REPLY SKIP\r\n");
    client.send(lost);
    assert_eq!(say(&mut client, "PING"), "+PONG");
    client.send("CLIENT REPLY OFF\r\n*1\r\n$x\r\n");
    assert_eq!(client.rest(), "");
}

/// A SET that waits behind the slow write of another client is not slow itself; its wait for the disk
/// has a figure of its own.
#[test]
fn the_slow_log_counts_no_time_in_a_queue_and_no_wait_for_the_disk() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    let (mut one, mut other) = (server.client(), server.client());
    assert_eq!(say(&mut one, "CONFIG SET slowlog-log-slower-than 1000000"), "+OK");
    one.send("SET gate v\r\n");
    eventually("it is being written", || engine.together().len() == 1);
    let mut third = server.client();
    third.send("SET hot v\r\n");
    eventually("it is queued", || bulk(&mut other, "CLIENT LIST").contains(" cmd=NULL "));
    sleep(Duration::from_millis(1500));
    engine.open_gate();
    eventually("both are written", || engine.together().iter().sum::<usize>() == 2);
    sleep(Duration::from_millis(1200));
    engine.sync();
    assert_eq!(one.reply().trim_end(), "+OK");
    assert_eq!(third.reply().trim_end(), "+OK");
    let slow = say(&mut other, "SLOWLOG LEN");
    assert_eq!(slow, ":1", "the write that the engine was busy with");
    let wait: u64 = figure(&mut other, "aryavarth", "durability_wait_usec_max").parse().unwrap();
    assert!(wait >= 1_000_000, "{wait}");
}
