//! The rules for every row of the table, and the texts that clients match.

use std::collections::HashSet;

use aryavarth_protocol::Command;

use super::host_scripts::Runner;
use crate::commands::kit::args::Args;
use crate::commands::kit::flags::CATEGORIES;
use crate::commands::kit::rows::subcommands;
use crate::commands::kit::spec::{Keys, Run};
use crate::commands::registry::registry;

#[test]
fn every_row_says_what_people_need_to_know() {
    for row in registry().rows() {
        let (spec, name) = (row.spec, &row.name);
        assert!(!spec.summary.is_empty() && !spec.summary.ends_with('.'), "{name}: its summary");
        assert!(!spec.complexity.is_empty(), "{name}: its cost");
        // Behind the version may stand whose it is.
        let since = spec.since.split(' ').next().unwrap_or_default();
        let since: Vec<&str> = since.split('.').collect();
        let is_version = since.iter().all(|part| part.parse::<u32>().is_ok());
        assert!(since.len() == 3 && is_version, "{name}: since {}", spec.since);
        assert_ne!(spec.arity, 0, "{name}: its arity");
        assert_eq!(*name, name.to_ascii_lowercase());
        for category in spec.flags.categories() {
            assert!(CATEGORIES.contains(&category), "{name}: {category}");
        }
    }
}

#[test]
fn keys_are_where_the_smallest_call_has_arguments() {
    for row in registry().rows() {
        let (arity, name) = (row.spec.arity.unsigned_abs() as usize, &row.name);
        match row.spec.keys {
            Keys::None => {}
            // Without channels it means all of them.
            Keys::Range(..) if name == "sunsubscribe" => {}
            Keys::Range(first, last, step) => {
                assert!(first > 0 && first < arity, "{name}: the first key is at {first}");
                let last = usize::try_from(last).unwrap_or(first);
                assert!(last >= first && last < arity, "{name}: the last key is at {last}");
                assert!(step > 0, "{name}: steps of {step}");
            }
            // A script may have none.
            Keys::Counted(place, _) if matches!(row.spec.run, Run::Script(_)) => {
                assert!(place + 1 == arity, "{name}: {place}");
            }
            Keys::Counted(place, _) => assert!(place > 0 && place + 1 < arity, "{name}: {place}"),
        }
    }
}

#[test]
fn no_two_names_clash_and_every_row_has_a_number_of_its_own() {
    let mut names = HashSet::new();
    for (number, row) in registry().rows().iter().enumerate() {
        assert!(names.insert(&row.name), "{} stands twice", row.name);
        assert_eq!(registry().number(row.spec), number, "{}", row.name);
        let subcommands = subcommands(row.spec);
        let is_container = matches!(row.spec.run, Run::Container(_));
        assert_eq!(is_container, !subcommands.is_empty(), "{}", row.name);
        assert!(subcommands.is_empty() || row.spec.arity < 0, "{}", row.name);
    }
}

#[test]
fn clients_hear_the_texts_that_they_match() {
    let no_password = "-ERR AUTH <password> called without any password configured for the default \
                       user. Are you sure your configuration is correct?";
    let mut runner = Runner::new();
    for (call, text) in [
        ("HELLO 4", "-NOPROTO unsupported protocol version"),
        ("AUTH x", no_password),
        ("AUTH nobody x", "-WRONGPASS invalid username-password pair or user is disabled."),
        ("foo", "-ERR unknown command 'foo', with args beginning with: "),
        ("foo a b", "-ERR unknown command 'foo', with args beginning with: 'a' 'b' "),
        ("CLIENT foo", "-ERR unknown subcommand 'foo'. Try CLIENT HELP."),
        (
            "client MAINT_NOTIFICATIONS ON",
            "-ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP.",
        ),
        ("auth", "-ERR wrong number of arguments for 'auth' command"),
        ("GET", "-ERR wrong number of arguments for 'get' command"),
        ("CLIENT ID x", "-ERR wrong number of arguments for 'client|id' command"),
        ("SELECT x", "-ERR value is not an integer or out of range"),
        ("CLIENT REPLY x", "-ERR syntax error"),
        ("EXEC", "-ERR EXEC without MULTI"),
        ("MULTI", "+OK"),
        ("foo", "-ERR unknown command 'foo', with args beginning with: "),
        ("EXEC", "-EXECABORT Transaction discarded because of previous errors."),
        ("CONFIG SET requirepass secret", "+OK"),
    ] {
        let args: Vec<&str> = call.split(' ').collect();
        assert_eq!(runner.call("a", &args), text, "{call}");
    }
    assert_eq!(runner.call("b", &["PING"]), "-NOAUTH Authentication required.");
}

#[test]
fn what_runs_in_a_transaction_is_counted_and_shown_as_if_it_ran_alone() {
    let mut runner = Runner::new();
    for call in ["MULTI", "PING", "GET k", "EXEC"] {
        runner.call("a", &call.split(' ').collect::<Vec<_>>());
    }
    let text = runner.call("a", &["INFO", "commandstats"]);
    for name in ["multi", "ping", "get", "exec"] {
        assert!(text.contains(&format!("cmdstat_{name}:calls=1,")), "{name} in {text}");
    }
}

#[test]
fn clients_and_exporters_find_the_fields_that_they_read() {
    let text = Runner::new().call("a", &["INFO"]);
    for field in [
        "redis_version:7.2.",
        "aryavarth_version:",
        "server_name:aryavarth",
        "loading:0",
        "role:master",
        "redis_mode:standalone",
        "maxmemory_policy:noeviction",
        "arch_bits:64",
        "cluster_enabled:0",
        "connected_clients:1",
        "used_memory:",
        "used_memory_human:",
        "uptime_in_seconds:",
        "tcp_port:4000",
        "run_id:",
        "process_id:",
        "os:",
        "total_commands_processed:",
        "instantaneous_ops_per_sec:",
        "expired_keys:",
        "clock_jumps:0",
        "clock_offset_ms:0",
        "aof_enabled:1",
        "rdb_last_save_time:",
        "used_cpu_sys:",
        "durability:always",
    ] {
        assert!(text.contains(&format!("\n{field}")), "{field} in {text}");
    }
}

/// A value that is fetched for nothing takes a disk's time, and memory: UNLINK is for large ones.
#[test]
fn only_values_that_are_needed_are_fetched() {
    for (line, keys) in [
        ("UNLINK a b", 0),
        ("EXISTS a", 0),
        ("MSETNX a 1 b 2", 0),
        ("MSET a 1 b 2", 0),
        ("SET a 1", 0),
        ("SET a 1 GET", 1),
        ("TTL a", 0),
        ("INCR a", 1),
        ("MGET a b", 2),
        ("EXPIRE a 1", 1),
    ] {
        let command = Command::from_args(line.split(' '));
        let args = Args::new(&command);
        assert_eq!(registry().find(&args).unwrap().keys_read(&args).len(), keys, "{line}");
    }
}
