//! CONFIG SET beside a live redis: several settings, all of them or none, and the words of each
//! refusal.

use aryavarth_tests::resp::{Connection, shown};
use aryavarth_tests::server::subject;

use crate::Servers;

const COMMANDS: &[&str] = &[
    "CONFIG SET timeout 100 maxclients 50",
    "CONFIG GET timeout",
    "CONFIG GET maxclients",
    // One of them is refused: none changes.
    "CONFIG SET timeout 200 maxclients nonsense",
    "CONFIG GET timeout",
    "CONFIG SET maxclients 60 timeout -1",
    "CONFIG GET maxclients",
    "CONFIG SET timeout 300 no-such-setting 1",
    "CONFIG SET no-such-setting 1 timeout 300",
    "CONFIG SET timeout 300 timeout 400",
    "CONFIG SET timeout 300 TIMEOUT 400",
    "CONFIG SET timeout 300 databases 5",
    "CONFIG SET databases 5 timeout 300",
    "CONFIG GET timeout",
    "CONFIG GET databases",
    "CONFIG SET TimeOut 5",
    "CONFIG GET TIMEOUT",
    "CONFIG SET",
    "CONFIG SET timeout",
    "CONFIG SET timeout 1 maxclients",
    "CONFIG GET",
    "CONFIG SET timeout abc",
    "CONFIG SET timeout 1.5",
    "CONFIG SET timeout 99999999999",
    "CONFIG SET maxclients 0",
    "CONFIG SET maxclients 99999999999",
    "CONFIG SET maxmemory 100mb",
    "CONFIG GET maxmemory",
    "CONFIG SET maxmemory 1gb timeout 7",
    "CONFIG GET maxmemory",
    "CONFIG SET maxmemory lots",
    "CONFIG SET maxmemory -1",
    "CONFIG SET maxmemory 0",
    "CONFIG SET slowlog-log-slower-than -1 slowlog-max-len 3",
    "CONFIG GET slowlog-log-slower-than",
    "CONFIG GET slowlog-max-len",
    "CONFIG SET slowlog-log-slower-than -2",
    "CONFIG SET slowlog-max-len -1",
    "CONFIG SET slowlog-max-len x",
    "CONFIG SET proto-max-bulk-len 1mb client-query-buffer-limit 2mb",
    "CONFIG GET proto-max-bulk-len",
    "CONFIG GET client-query-buffer-limit",
    "CONFIG SET proto-max-bulk-len large",
    "CONFIG SET client-query-buffer-limit large",
    "CONFIG GET no-such-setting",
    "CONFIG SET port nonsense",
    "CONFIG SET appendonly maybe",
    "CONFIG SET cluster-enabled yes",
    "CONFIG RESETSTAT",
    "CONFIG REWRITE",
    "CONFIG NOTHING",
];

#[test]
fn settings_change_alike_and_are_refused_in_the_same_words() {
    let servers = match subject("kvs").and_then(|ours| Servers::start(&ours, &[])) {
        Ok(servers) => servers,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    let mut redis = Connection::open(servers.redis.addr()).unwrap();
    let mut ours = Connection::open(servers.ours.addr()).unwrap();
    let mut differ = Vec::new();
    for command in COMMANDS {
        let words: Vec<&str> = command.split(' ').collect();
        let (one, other) = (redis.ask(&words).unwrap(), ours.ask(&words).unwrap());
        if one != other {
            differ.push(format!("{command}\n  redis {}\n  ours  {}", shown(&one), shown(&other)));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}
