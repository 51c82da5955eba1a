//! Where commands run, by their plans: on the thread of the sockets only if they wait for nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aryavarth::fs::SimFs;
use aryavarth::{Batch, KvStore, KvsEngine, MemoryEngine, Options, Wait};
use aryavarth_protocol::{Command, Reply};

use super::connections::{Connections, connect};
use super::fake_server::FakeServer;
use crate::clients::Pause;
use crate::commands::{self, ClientState, LONG_BYTES, Later, Plan, resolve};
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

/// Transactions of scripts that ran for ever took every thread of the pool.
#[test]
fn a_transaction_is_long_if_a_script_of_it_may_be() {
    let server = FakeServer::new(MemoryEngine::new(), Limits::default());
    let mut client = connect(&server, 0);
    let exec = resolve(Command::from_args(["EXEC"]));
    let mut queue = |parts: &[&str]| {
        let call = resolve(Command::from_args(parts.iter().copied()));
        let how = (Wait::Yes, Instant::now());
        let ran = commands::run(&server.engine, &server, &mut client, &call, how);
        assert!(ran.is_ok());
        commands::is_long(&server.engine, &server, &client, &exec, &mut 0)
    };
    queue(&["MULTI"]);
    assert!(!queue(&["GET", "k"]));
    assert!(queue(&["EVAL", "return 1", "0"]), "it has never run");
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

/// A write that is to be refused is planned inline, since its error waits for nothing. If the limit
/// moves before it runs, it would wait for the writer there.
#[test]
fn a_write_that_was_to_be_refused_and_is_not_goes_to_the_pool_without_an_effect() {
    let server = FakeServer::new(MemoryEngine::new(), Limits::default());
    let mut client = connect(&server, 0);
    let call = resolve(Command::from_args(["INCR", "n"]));
    server.settings.set_memory_bytes_max(1);
    assert_eq!(commands::plan(&server, &client, &call), Plan::Inline);
    server.settings.set_memory_bytes_max(0);
    let mut run =
        |wait| commands::run(&server.engine, &server, &mut client, &call, (wait, Instant::now()));
    assert_eq!(run(Wait::No).map(|answer| answer.reply), Err(Later::Pool));
    let ran = run(Wait::Yes).map(|answer| answer.reply);
    assert_eq!(ran, Ok(Some(Reply::Integer(1))), "the first attempt had no effect");
}

/// A large value in another database than the client's was read by a thread that was kept for short
/// work.
#[test]
fn a_read_is_long_by_the_database_that_the_commands_before_it_select() {
    let options = Options { fs: Arc::new(SimFs::new()), background: false, ..Options::default() };
    let store = KvStore::open_with("/store", options).unwrap();
    let large = Batch::from([("k", "x".repeat(LONG_BYTES + 1))]);
    KvsEngine::write(&store.with_space(3), &large).unwrap();
    let server = FakeServer::new(MemoryEngine::new(), Limits::default());
    let mut client = connect(&server, 0);
    let are_long = |client: &ClientState, lines: &[&str]| -> Vec<bool> {
        let mut space = client.settings.space;
        let call = |line: &&str| resolve(Command::from_args(line.split(' ')));
        let calls = lines.iter().map(call);
        calls.map(|call| commands::is_long(&store, &server, client, &call, &mut space)).collect()
    };
    assert_eq!(are_long(&client, &["GET k", "SELECT 3", "GET k"]), [false, false, true]);
    assert_eq!(are_long(&client, &["SELECT 3", "SELECT 0", "GET k"]), [false; 3]);
    assert_eq!(are_long(&client, &["SELECT 99", "GET k"]), [false; 2]);
    client.settings.space = 3;
    assert_eq!(are_long(&client, &["GET k", "SELECT 0", "GET k"]), [true, false, false]);
}

#[test]
fn a_command_that_is_refused_takes_no_thread_of_the_pool() {
    let mut connections = connections();
    connections.server.settings.set_password(b"secret");
    for line in ["SET k v", "INCR n", "KEYS *", "INFO"] {
        assert_eq!(plan(&mut connections, line), Plan::Inline, "{line}");
    }
}
