//! Where commands run, by their plans: on the thread of the sockets only if they wait for nothing.

use std::time::{Duration, Instant};

use aryavarth::MemoryEngine;

use super::connections::Connections;
use super::fake_server::FakeServer;
use crate::clients::Pause;
use crate::commands::Plan;
use crate::limits::Limits;

fn connections() -> Connections {
    Connections::new(FakeServer::new(MemoryEngine::new(), Limits::default()))
}

fn plan(connections: &mut Connections, line: &str) -> Plan {
    connections.plan("a", &line.split(' ').collect::<Vec<_>>())
}

fn run(connections: &mut Connections, line: &str) {
    connections.answer("a", &line.split(' ').collect::<Vec<_>>()).expect("no pause holds it");
}

#[test]
fn a_command_that_may_wait_for_the_writer_or_a_disk_runs_on_the_pool() {
    let mut connections = connections();
    for line in [
        "INFO",
        "ROLE",
        "LASTSAVE",
        "WAITAOF 1 0 0",
        "MEMORY STATS",
        "DBSIZE",
        "KEYS *",
        "SCAN 0",
        "RANDOMKEY",
        "INCR n",
        "GETDEL k",
        "FLUSHALL",
        "WATCH k",
        "EXEC",
    ] {
        assert_eq!(plan(&mut connections, line), Plan::Pool, "{line}");
    }
}

#[test]
fn a_command_that_waits_for_nothing_runs_where_it_arrived() {
    let mut connections = connections();
    for line in ["GET k", "TTL k", "PING", "MULTI", "UNWATCH", "CLIENT ID", "GET", "NOTHING k"] {
        assert_eq!(plan(&mut connections, line), Plan::Inline, "{line}");
    }
    for (keys, planned) in [(10, Plan::Inline), (1000, Plan::Pool)] {
        for name in ["EXISTS", "MGET"] {
            let line = format!("{name}{}", " k".repeat(keys));
            assert_eq!(plan(&mut connections, &line), planned, "{name} of {keys}");
        }
    }
}

#[test]
fn a_blind_write_is_appended_with_others_unless_it_is_queued() {
    let mut connections = connections();
    for line in ["SET k v", "SET k v EX 10", "MSET k v l w"] {
        assert_eq!(plan(&mut connections, line), Plan::Append, "{line}");
    }
    run(&mut connections, "MULTI");
    for line in ["SET k v", "INCR n", "INFO", "KEYS *"] {
        assert_eq!(plan(&mut connections, line), Plan::Inline, "{line} is queued");
    }
    assert_eq!(plan(&mut connections, "EXEC"), Plan::Pool);
}

#[test]
fn a_pause_of_writes_holds_the_transaction_that_writes_and_not_its_queueing() {
    let mut connections = connections();
    run(&mut connections, "MULTI");
    run(&mut connections, "SET k v");
    let until = Instant::now() + Duration::from_secs(1000);
    connections.server.clients.set_pause(Pause { until, only_writes: true });
    assert_eq!(plan(&mut connections, "SET k v"), Plan::Inline);
    assert_eq!(plan(&mut connections, "EXEC"), Plan::Held);
    run(&mut connections, "DISCARD");
    assert_eq!(plan(&mut connections, "SET k v"), Plan::Held);
    assert_eq!(plan(&mut connections, "GET k"), Plan::Inline);
    connections.server.clients.set_pause(Pause { until, only_writes: false });
    assert_eq!(plan(&mut connections, "GET k"), Plan::Held);
}

#[test]
fn a_command_that_is_refused_takes_no_thread_of_the_pool() {
    let mut connections = connections();
    connections.server.settings.set_password(b"secret");
    for line in ["SET k v", "INCR n", "KEYS *", "INFO"] {
        assert_eq!(plan(&mut connections, line), Plan::Inline, "{line}");
    }
}
