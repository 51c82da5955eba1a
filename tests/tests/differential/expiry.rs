//! Deadlines that pass while one looks: both servers say the same before and after.
//!
//! The only story that waits for a clock, so it asks well before and well after each deadline.

use std::thread;
use std::time::Duration;

use aryavarth_tests::resp::{Connection, shown};
use aryavarth_tests::server::subject;

use crate::Servers;

/// Commands before the deadlines: each key gets one in half a second by another way.
const BEFORE: &[&str] = &[
    "SET set-px v PX 500",
    "PSETEX psetex 500 v",
    "SET pexpire v",
    "PEXPIRE pexpire 500",
    "SET getex v",
    "GETEX getex PX 500",
    "SET keep v PX 500",
    "SET keep w KEEPTTL",
    "APPEND keep x",
    "SET renamed v PX 500",
    "RENAME renamed renamed-to",
    "SET copied v PX 500",
    "COPY copied copied-to",
    "SET moved v PX 500",
    "MOVE moved 1",
    "SET persisted v PX 500",
    "PERSIST persisted",
    "SET overwritten v PX 500",
    "SET overwritten w",
    "SET counter 5 PX 500",
    "INCR counter",
    "SET later v PX 500",
    "PEXPIRE later 3600000 GT",
    "MGET set-px psetex pexpire getex keep renamed-to copied-to persisted overwritten counter",
    "EXISTS set-px psetex pexpire getex keep renamed-to copied-to persisted overwritten later",
];

/// Commands after them.
const AFTER: &[&str] = &[
    "MGET set-px psetex pexpire getex keep renamed-to copied copied-to persisted overwritten",
    "TTL set-px",
    "TTL persisted",
    "TYPE psetex",
    "EXISTS set-px later",
    "INCR counter",
    "TTL counter",
    "SETNX set-px again",
    "APPEND psetex again",
    "GETDEL pexpire",
    "RENAME getex nowhere",
    "COPY keep nowhere",
    "PERSIST renamed-to",
    "EXPIRE copied 100",
    "DEL copied-to",
    "SELECT 1",
    "GET moved",
    "DBSIZE",
    "SELECT 0",
    "DBSIZE",
];

fn replies(connection: &mut Connection, commands: &[&str]) -> Vec<String> {
    let ask = |command: &&str| {
        let words: Vec<&str> = command.split(' ').collect();
        format!("{command} -> {}", shown(&connection.ask(&words).unwrap()))
    };
    commands.iter().map(ask).collect()
}

#[test]
fn deadlines_pass_alike() {
    let servers = match subject("kvs").and_then(|ours| Servers::start(&ours, &[])) {
        Ok(servers) => servers,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    let mut redis = Connection::open(servers.redis.addr()).unwrap();
    let mut ours = Connection::open(servers.ours.addr()).unwrap();
    assert_eq!(replies(&mut redis, BEFORE), replies(&mut ours, BEFORE));
    thread::sleep(Duration::from_millis(1_200));
    assert_eq!(replies(&mut redis, AFTER), replies(&mut ours, AFTER));
}

/// WATCH sees a deadline pass, and a key that another client set and removed again.
#[test]
fn what_is_watched_changes_alike() {
    let servers = match subject("kvs").and_then(|ours| Servers::start(&ours, &[])) {
        Ok(servers) => servers,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    // Commands that change nothing, or leave nothing behind: the key before it, and the command.
    let idle = [
        ("DEL k", "SET k v NX EXAT 1"),
        ("SET k v", "SET k v EXAT 1"),
        ("SET k v", "APPEND k "),
        ("SET k v", "RENAME k k"),
        ("SET k v", "GETEX k PERSIST"),
        ("SET k v", "PERSIST k"),
        ("SET k v", "SETRANGE k 0 "),
        ("SET k 1", "INCRBY k 0"),
        ("SET k v", "COPY nothing k REPLACE"),
        ("SET k v PXAT 99999999999999", "PEXPIREAT k 99999999999999"),
        ("DEL k", "GETDEL k"),
        ("DEL k", "SET k v XX"),
    ];
    let mut told = Vec::new();
    for addr in [servers.redis.addr(), servers.ours.addr()] {
        let (mut one, mut other) =
            (Connection::open(addr).unwrap(), Connection::open(addr).unwrap());
        let mut said = replies(&mut one, &["SET soon v PX 300", "WATCH soon"]);
        thread::sleep(Duration::from_millis(900));
        said.extend(replies(&mut one, &["MULTI", "SET after x", "EXEC", "WATCH absent"]));
        said.extend(replies(&mut other, &["SET absent 1", "DEL absent"]));
        said.extend(replies(&mut one, &["MULTI", "SET after y", "EXEC", "GET after"]));
        said.extend(replies(&mut one, &["SET same v", "WATCH same"]));
        said.extend(replies(&mut other, &["SET same v"]));
        said.extend(replies(&mut one, &["MULTI", "PING", "EXEC", "WATCH same"]));
        said.extend(replies(&mut other, &["GET same", "DEL nothing", "SETNX same w"]));
        said.extend(replies(&mut one, &["MULTI", "PING", "EXEC", "WATCH same"]));
        said.extend(replies(&mut other, &["FLUSHALL"]));
        said.extend(replies(&mut one, &["MULTI", "PING", "EXEC", "WATCH gone"]));
        said.extend(replies(&mut other, &["SWAPDB 0 1", "FLUSHDB"]));
        said.extend(replies(&mut one, &["MULTI", "PING", "EXEC"]));
        for (before, command) in idle {
            said.extend(replies(&mut one, &[before, "WATCH k", command, "MULTI", "PING", "EXEC"]));
        }
        told.push(said);
    }
    assert_eq!(told[0], told[1]);
}
