//! INFO: figures for people, clients and exporters.
//!
//! A figure has Redis's name where it means the same as in Redis; the server's own figures are in
//! the section `Aryavarth`. A figure of something that there is not
//! (scripts, replicas) is left out, or 0 if clients read it.
//!
//! `rdb_` and `aof_` fields: the log is both. It is always on, a save is a sync, and a rewrite is a
//! compaction; `rdb_changes_since_last_save` counts bytes that wait for a sync.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use aryavarth::Durability;
use aryavarth_protocol::Reply;

use crate::clients::CommandCounts;
use crate::commands::kit::REDIS_VERSION;
use crate::commands::kit::args::Args;
use crate::commands::kit::args::DATABASES;
use crate::commands::kit::context::Context;
use crate::commands::kit::spec::{Outcome, Run, Spec};
use crate::process;

pub(crate) const SPECS: &[Spec] =
    &[Spec::new("info", -1, "[section [section ...]]", Run::Context(info))
        .flags("loading stale @dangerous WAITS")
        .tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"])
        .says("Gets information and statistics about the server")];

/// A section: its name, whether it is shown unasked, and its lines.
type Section = (&'static str, bool, fn(&mut Context<'_>, &mut String));

const SECTIONS: [Section; 13] = [
    ("Server", true, server),
    ("Clients", true, clients),
    ("Memory", true, memory),
    ("Persistence", true, persistence),
    ("Stats", true, stats),
    ("Replication", true, replication),
    ("CPU", true, cpu),
    ("Modules", true, |_, _| {}),
    ("Commandstats", false, command_stats),
    ("Errorstats", true, error_stats),
    ("Cluster", true, cluster),
    ("Keyspace", true, keyspace),
    ("Aryavarth", true, aryavarth),
];

fn info(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let asks = |name: &str| args.from(1).any(|asked| asked.eq_ignore_ascii_case(name.as_bytes()));
    let all = asks("all") || asks("everything");
    let default = args.len() == 1 || asks("default");
    let mut text = String::new();
    for (name, is_default, says) in SECTIONS {
        if all || default && is_default || asks(name) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            line(&mut text, "# ", name);
            says(context, &mut text);
        }
    }
    Ok(Reply::Verbatim("txt", text.into_bytes()))
}

fn line(text: &mut String, name: &str, value: impl std::fmt::Display) {
    // Writing to a string does not fail.
    let _ = write!(text, "{name}{value}\r\n");
}

/// Lines of names and values.
macro_rules! lines {
    ($text:expr; $($name:literal: $value:expr),* $(,)?) => {
        $(line($text, concat!($name, ":"), $value);)*
    };
}

/// A number of bytes as people read it.
fn human(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];
    let unit = UNITS.into_iter().find(|(_, size)| bytes >= *size);
    unit.map_or_else(
        || format!("{bytes}B"),
        |(unit, size)| {
            format!(
                "{}.{:02}{unit}",
                bytes / size,
                u128::from(bytes % size) * 100 / u128::from(size)
            )
        },
    )
}

/// A quotient to be read, 0 where there is nothing to divide by.
#[expect(clippy::cast_precision_loss, reason = "nobody reads so many digits")]
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn percent(part: u64, whole: u64) -> String {
    let hundredths = u128::from(part) * 10_000 / u128::from(whole.max(1));
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

fn server(context: &mut Context<'_>, text: &mut String) {
    let settings = context.server.settings();
    let now = process::unix_time();
    let up = settings.began.elapsed().as_secs();
    let executable = std::env::current_exe().unwrap_or_default();
    lines!(text;
        "redis_version": REDIS_VERSION,
        "redis_git_sha1": "00000000",
        "redis_git_dirty": 0,
        "redis_build_id": "0",
        "redis_mode": "standalone",
        "server_name": "aryavarth",
        "aryavarth_version": env!("CARGO_PKG_VERSION"),
        "os": process::system(),
        "arch_bits": usize::BITS,
        "monotonic_clock": "POSIX clock_gettime",
        "multiplexing_api": "tokio",
        "process_id": std::process::id(),
        "process_supervised": "no",
        "run_id": &settings.run_id,
        "tcp_port": settings.listen.port(),
        "server_time_usec": now.as_micros(),
        "uptime_in_seconds": up,
        "uptime_in_days": up / 86_400,
        "hz": 10,
        "configured_hz": 10,
        "lru_clock": now.as_secs() & 0xff_ffff,
        "executable": executable.display(),
        "config_file": "",
        "io_threads_active": 0,
    );
}

fn clients(context: &mut Context<'_>, text: &mut String) {
    let clients = context.server.clients();
    let all = clients.list();
    let input = all.iter().map(crate::clients::ClientHandle::input_bytes).max().unwrap_or(0);
    let output = all.iter().map(crate::clients::ClientHandle::output_bytes).max().unwrap_or(0);
    lines!(text;
        "connected_clients": all.len(),
        "cluster_connections": 0,
        "maxclients": context.server.settings().connections_max(),
        "client_recent_max_input_buffer": input,
        "client_recent_max_output_buffer": output,
        "blocked_clients": clients.blocked(),
        "tracking_clients": 0,
        "clients_in_timeout_table": 0,
    );
}

fn memory(context: &mut Context<'_>, text: &mut String) {
    let settings = context.server.settings();
    let memory = settings.memory();
    let machine = process::machine_memory_bytes();
    let limit = settings.memory_bytes_max();
    let ratio = ratio(memory.resident_bytes, memory.used_bytes);
    lines!(text;
        "used_memory": memory.used_bytes,
        "used_memory_human": human(memory.used_bytes),
        "used_memory_rss": memory.resident_bytes,
        "used_memory_rss_human": human(memory.resident_bytes),
        "used_memory_peak": memory.peak_bytes,
        "used_memory_peak_human": human(memory.peak_bytes),
        "used_memory_peak_perc": percent(memory.used_bytes, memory.peak_bytes),
        "total_system_memory": machine,
        "total_system_memory_human": human(machine),
        "used_memory_lua": 0,
        "number_of_cached_scripts": 0,
        "number_of_functions": 0,
        "number_of_libraries": 0,
        "maxmemory": limit,
        "maxmemory_human": human(limit),
        "maxmemory_policy": "noeviction",
        "mem_fragmentation_ratio": format_args!("{ratio:.2}"),
        "mem_fragmentation_bytes": memory.resident_bytes.saturating_sub(memory.used_bytes),
        "mem_not_counted_for_evict": 0,
        "mem_replication_backlog": 0,
        "mem_clients_slaves": 0,
        "mem_aof_buffer": 0,
        "active_defrag_running": 0,
        "lazyfree_pending_objects": 0,
        "lazyfreed_objects": 0,
    );
}

fn persistence(context: &mut Context<'_>, text: &mut String) {
    let stats = context.server.stats();
    let pending = stats.written_position.saturating_sub(stats.durable_position);
    let write_status = if stats.full { "err" } else { "ok" };
    lines!(text;
        "loading": 0,
        "async_loading": 0,
        "rdb_changes_since_last_save": pending,
        "rdb_bgsave_in_progress": 0,
        "rdb_last_save_time": context.server.settings().saved_at(&stats),
        "rdb_last_bgsave_status": "ok",
        "rdb_last_bgsave_time_sec": 0,
        "rdb_current_bgsave_time_sec": -1,
        "rdb_saves": stats.syncs,
        "aof_enabled": 1,
        "aof_rewrite_in_progress": u8::from(context.server.is_compacting()),
        "aof_rewrite_scheduled": 0,
        "aof_last_rewrite_time_sec": -1,
        "aof_current_rewrite_time_sec": -1,
        "aof_last_bgrewrite_status": "ok",
        "aof_rewrites": stats.compactions,
        "aof_last_write_status": write_status,
        "aof_current_size": stats.disk_bytes,
        "aof_base_size": stats.live_bytes,
        "aof_pending_rewrite": 0,
        "aof_buffer_length": pending,
        "aof_pending_bio_fsync": 0,
        "aof_delayed_fsync": 0,
    );
}

fn stats(context: &mut Context<'_>, text: &mut String) {
    let stats = context.server.stats();
    let counters = context.server.counters();
    let statistics = &context.server.clients().statistics;
    let errors: u64 = statistics.errors().values().sum();
    let (received, sent) = context.server.clients().traffic();
    lines!(text;
        "total_connections_received": counters.connections_accepted,
        "total_commands_processed": statistics.calls(),
        "instantaneous_ops_per_sec": statistics.calls_per_second(),
        "total_net_input_bytes": received,
        "total_net_output_bytes": sent,
        "rejected_connections": counters.connections_refused,
        "sync_full": 0,
        "sync_partial_ok": 0,
        "sync_partial_err": 0,
        "expired_keys": stats.expired_keys,
        "clock_jumps": stats.clock_jumps,
        "clock_offset_ms": stats.clock_offset_ms,
        "evicted_keys": 0,
        "evicted_clients": 0,
        "pubsub_channels": 0,
        "pubsub_patterns": 0,
        "latest_fork_usec": 0,
        "total_forks": 0,
        "migrate_cached_sockets": 0,
        "tracking_total_keys": 0,
        "total_error_replies": errors,
        "client_query_buffer_limit_disconnections": counters.input_refused,
        "client_output_buffer_limit_disconnections":
            counters.sends_timed_out + context.server.clients().watching_dropped(),
    );
}

fn replication(context: &mut Context<'_>, text: &mut String) {
    let stats = context.server.stats();
    lines!(text;
        "role": "master",
        "connected_slaves": 0,
        "master_failover_state": "no-failover",
        "master_replid": &context.server.settings().run_id,
        "master_replid2": "0000000000000000000000000000000000000000",
        "master_repl_offset": stats.written_position,
        "second_repl_offset": -1,
        "repl_backlog_active": 0,
        "repl_backlog_size": 0,
        "repl_backlog_first_byte_offset": 0,
        "repl_backlog_histlen": 0,
    );
}

fn cpu(_: &mut Context<'_>, text: &mut String) {
    let [system, user, system_children, user_children] =
        process::processor_times().map(|time| format!("{:.6}", time.as_secs_f64()));
    lines!(text;
        "used_cpu_sys": system,
        "used_cpu_user": user,
        "used_cpu_sys_children": system_children,
        "used_cpu_user_children": user_children,
    );
}

fn command_stats(context: &mut Context<'_>, text: &mut String) {
    let all = context.server.clients().statistics.commands();
    for (row, counts) in context.registry.rows().iter().zip(all) {
        let CommandCounts { calls, nanos, failed, rejected, .. } = counts;
        let [calls, nanos, failed, rejected] =
            [calls, nanos, failed, rejected].map(|count| count.load(Ordering::Relaxed));
        if calls + rejected == 0 {
            continue;
        }
        let per_call = ratio(nanos, calls.saturating_mul(1000));
        let figures = format_args!(
            "calls={calls},usec={},usec_per_call={per_call:.2},rejected_calls={rejected},\
             failed_calls={failed}",
            nanos / 1000
        );
        line(text, &format!("cmdstat_{}:", row.name), figures);
    }
}

fn error_stats(context: &mut Context<'_>, text: &mut String) {
    for (kind, count) in context.server.clients().statistics.errors() {
        line(text, &format!("errorstat_{kind}:count="), count);
    }
}

fn cluster(_: &mut Context<'_>, text: &mut String) {
    lines!(text; "cluster_enabled": 0);
}

fn keyspace(context: &mut Context<'_>, text: &mut String) {
    for space in 0..DATABASES {
        let Ok(count) = context.server.count(space) else { continue };
        if count.keys > 0 {
            let (keys, expires) = (count.keys, count.expiring);
            let figures = format_args!("keys={keys},expires={expires},avg_ttl=0");
            line(text, &format!("db{space}:"), figures);
        }
    }
    // A count shows keys, so they have to be durable before the reply leaves. Asked for last:
    // others write meanwhile.
    context.position = context.written();
}

fn aryavarth(context: &mut Context<'_>, text: &mut String) {
    let server = context.server;
    let (stats, counters, output) = (server.stats(), server.counters(), server.output());
    let (waits, wait_micros, longest_micros) = server.clients().statistics.waits.read();
    lines!(text;
        "version": env!("CARGO_PKG_VERSION"),
        "engine": server.engine_name(),
        "durability": server.settings().durability,
        "syncs": stats.syncs,
        "segments": stats.segments,
        "live_bytes": stats.live_bytes,
        "disk_bytes": stats.disk_bytes,
        "appended_bytes": stats.appended_bytes,
        "written_position": stats.written_position,
        "durable_position": stats.durable_position,
        "compactions": stats.compactions,
        "full": u8::from(stats.full),
        "torn_bytes": stats.torn_bytes,
        "recovered_records": stats.recovered_records,
        "damaged_records": stats.damaged_records,
        "durability_waits": waits,
        "durability_wait_usec": wait_micros,
        "durability_wait_usec_max": longest_micros,
        "requests": counters.requests,
        "requests_busy": counters.requests_busy,
        "output_bytes": output.taken_bytes,
        "output_bytes_max": output.whole_bytes,
        "output_waiting": output.waiting,
        "output_waits": output.waits,
        "monitors": server.clients().watching(),
        "monitors_dropped": server.clients().watching_dropped(),
    );
}

/// Redis's name for a level of durability.
pub(super) fn append_sync(durability: Durability) -> &'static str {
    match durability {
        Durability::Always => "always",
        Durability::Interval(_) => "everysec",
        Durability::Os => "no",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_people_read_them() {
        for (bytes, expected) in
            [(0, "0B"), (1023, "1023B"), (1536, "1.50K"), (5 << 20, "5.00M"), (3 << 40, "3.00T")]
        {
            assert_eq!(human(bytes), expected);
        }
        assert_eq!(percent(1, 3), "33.33%");
        assert_eq!(percent(1, 0), "100.00%");
    }
}
