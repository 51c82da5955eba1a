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
use crate::figures::{Kind, Section, Value, integer};
use crate::process;

pub(crate) const SPECS: &[Spec] =
    &[Spec::new("info", -1, "[section [section ...]]", Run::Context(info))
        .flags("loading stale @dangerous WAITS")
        .tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"])
        .says("Gets information and statistics about the server")];

/// A section: its name, whether it is shown unasked, and its figures.
type Row = (&'static str, bool, fn(&mut Context<'_>, &mut Section));

const SECTIONS: [Row; 13] = [
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
    for (name, is_default, figures) in SECTIONS {
        if all || default && is_default || asks(name) {
            let mut section = Section::new(name);
            figures(context, &mut section);
            let between = if text.is_empty() { "" } else { "\r\n" };
            // Writing to a string does not fail.
            let _ = write!(text, "{between}{section}");
        }
    }
    Ok(Reply::Verbatim("txt", text.into_bytes()))
}

/// Figures of a section: kind, name and value of each.
macro_rules! figures {
    ($section:expr; $($kind:ident $name:literal: $value:expr),* $(,)?) => {
        $($section.$kind($name, $value);)*
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
#[expect(clippy::cast_precision_loss, reason = "figures are read with few digits")]
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn percent(part: u64, whole: u64) -> String {
    let hundredths = u128::from(part) * 10_000 / u128::from(whole.max(1));
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

fn server(context: &mut Context<'_>, section: &mut Section) {
    let settings = context.server.settings();
    let now = process::unix_time();
    let up = settings.began.elapsed().as_secs();
    let executable = std::env::current_exe().unwrap_or_default();
    figures!(section;
        text "redis_version": REDIS_VERSION,
        text "redis_git_sha1": "00000000",
        gauge "redis_git_dirty": 0,
        text "redis_build_id": "0",
        text "redis_mode": "standalone",
        text "server_name": "aryavarth",
        text "aryavarth_version": env!("CARGO_PKG_VERSION"),
        text "os": process::system(),
        gauge "arch_bits": usize::BITS,
        text "monotonic_clock": "POSIX clock_gettime",
        text "multiplexing_api": "tokio",
        gauge "process_id": std::process::id(),
        text "process_supervised": "no",
        text "run_id": &settings.run_id,
        gauge "tcp_port": settings.listen.port(),
        counter "server_time_usec": now.as_micros(),
        counter "uptime_in_seconds": up,
        counter "uptime_in_days": up / 86_400,
        gauge "hz": 10,
        gauge "configured_hz": 10,
        gauge "lru_clock": now.as_secs() & 0xff_ffff,
        text "executable": executable.display(),
        text "config_file": "",
        gauge "io_threads_active": 0,
    );
}

fn clients(context: &mut Context<'_>, section: &mut Section) {
    let clients = context.server.clients();
    let all = clients.list();
    let input = all.iter().map(crate::clients::ClientHandle::input_bytes).max().unwrap_or(0);
    let output = all.iter().map(crate::clients::ClientHandle::output_bytes).max().unwrap_or(0);
    figures!(section;
        gauge "connected_clients": all.len(),
        gauge "cluster_connections": 0,
        gauge "maxclients": context.server.settings().connections_max(),
        gauge "client_recent_max_input_buffer": input,
        gauge "client_recent_max_output_buffer": output,
        gauge "blocked_clients": clients.blocked(),
        gauge "tracking_clients": 0,
        gauge "clients_in_timeout_table": 0,
    );
}

fn memory(context: &mut Context<'_>, section: &mut Section) {
    let settings = context.server.settings();
    let (memory, scripts) = (settings.memory(), context.server.scripts().kept());
    let machine = process::machine_memory_bytes();
    let limit = settings.memory_bytes_max();
    let ratio = ratio(memory.resident_bytes, memory.used_bytes);
    figures!(section;
        gauge "used_memory": memory.used_bytes,
        text "used_memory_human": human(memory.used_bytes),
        gauge "used_memory_rss": memory.resident_bytes,
        text "used_memory_rss_human": human(memory.resident_bytes),
        gauge "used_memory_peak": memory.peak_bytes,
        text "used_memory_peak_human": human(memory.peak_bytes),
        text "used_memory_peak_perc": percent(memory.used_bytes, memory.peak_bytes),
        gauge "total_system_memory": machine,
        text "total_system_memory_human": human(machine),
        gauge "used_memory_lua": scripts.1,
        gauge "number_of_cached_scripts": scripts.0,
        gauge "number_of_functions": 0,
        gauge "number_of_libraries": 0,
        gauge "maxmemory": limit,
        text "maxmemory_human": human(limit),
        text "maxmemory_policy": "noeviction",
    );
    section.push("mem_fragmentation_ratio", Kind::Gauge, Value::Float(ratio, 2));
    figures!(section;
        gauge "mem_fragmentation_bytes": memory.resident_bytes.saturating_sub(memory.used_bytes),
        gauge "mem_not_counted_for_evict": 0,
        gauge "mem_replication_backlog": 0,
        gauge "mem_clients_slaves": 0,
        gauge "mem_aof_buffer": 0,
        gauge "active_defrag_running": 0,
        gauge "lazyfree_pending_objects": 0,
        counter "lazyfreed_objects": 0,
    );
}

fn persistence(context: &mut Context<'_>, section: &mut Section) {
    let stats = context.server.stats();
    let pending = stats.written_position.saturating_sub(stats.durable_position);
    let compaction_error = context.server.settings().compaction_error();
    let write_status = if stats.full || stats.poisoned { "err" } else { "ok" };
    figures!(section;
        gauge "loading": 0,
        gauge "async_loading": 0,
        gauge "rdb_changes_since_last_save": pending,
        gauge "rdb_bgsave_in_progress": 0,
        gauge "rdb_last_save_time": context.server.settings().saved_at(&stats),
        text "rdb_last_bgsave_status": "ok",
        gauge "rdb_last_bgsave_time_sec": 0,
        gauge "rdb_current_bgsave_time_sec": -1,
        counter "rdb_saves": stats.syncs,
        gauge "aof_enabled": 1,
        gauge "aof_rewrite_in_progress": u8::from(context.server.is_compacting()),
        gauge "aof_rewrite_scheduled": 0,
        gauge "aof_last_rewrite_time_sec": -1,
        gauge "aof_current_rewrite_time_sec": -1,
        text "aof_last_bgrewrite_status": if compaction_error.is_some() { "err" } else { "ok" },
        text "aof_last_bgrewrite_error": one_line(&compaction_error.unwrap_or_default()),
        counter "aof_rewrites": stats.compactions,
        text "aof_last_write_status": write_status,
        gauge "aof_current_size": stats.disk_bytes,
        gauge "aof_base_size": stats.live_bytes,
        gauge "aof_pending_rewrite": 0,
        gauge "aof_buffer_length": pending,
        gauge "aof_pending_bio_fsync": 0,
        counter "aof_delayed_fsync": 0,
    );
}

/// A text as the value of a figure, which ends with its line.
fn one_line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}

fn stats(context: &mut Context<'_>, section: &mut Section) {
    let stats = context.server.stats();
    let counters = context.server.counters();
    let statistics = &context.server.clients().statistics;
    let errors: u64 = statistics.errors().values().sum();
    let (received, sent) = context.server.clients().traffic();
    let channels = &context.server.clients().channels;
    let subscriptions = channels.counts();
    let (_, subscribers_dropped) = channels.figures();
    figures!(section;
        counter "total_connections_received": counters.connections_accepted,
        counter "total_commands_processed": statistics.calls(),
        gauge "instantaneous_ops_per_sec": statistics.calls_per_second(),
        counter "total_net_input_bytes": received,
        counter "total_net_output_bytes": sent,
        counter "rejected_connections": counters.connections_refused,
        counter "sync_full": 0,
        counter "sync_partial_ok": 0,
        counter "sync_partial_err": 0,
        counter "expired_keys": stats.expired_keys,
        counter "clock_jumps": stats.clock_jumps,
        gauge "clock_offset_ms": stats.clock_offset_ms,
        counter "evicted_keys": 0,
        counter "evicted_clients": 0,
        gauge "pubsub_channels": subscriptions.channels,
        gauge "pubsub_patterns": subscriptions.patterns,
        gauge "pubsubshard_channels": subscriptions.shards,
        gauge "latest_fork_usec": 0,
        counter "total_forks": 0,
        gauge "migrate_cached_sockets": 0,
        gauge "tracking_total_keys": 0,
        counter "total_error_replies": errors,
        counter "client_query_buffer_limit_disconnections": counters.input_refused,
        counter "client_output_buffer_limit_disconnections":
            counters.sends_timed_out
                + context.server.clients().watching_dropped()
                + subscribers_dropped,
    );
}

fn replication(context: &mut Context<'_>, section: &mut Section) {
    let stats = context.server.stats();
    figures!(section;
        text "role": "master",
        gauge "connected_slaves": 0,
        text "master_failover_state": "no-failover",
        text "master_replid": &context.server.settings().run_id,
        text "master_replid2": "0000000000000000000000000000000000000000",
        counter "master_repl_offset": stats.written_position,
        gauge "second_repl_offset": -1,
        gauge "repl_backlog_active": 0,
        gauge "repl_backlog_size": 0,
        gauge "repl_backlog_first_byte_offset": 0,
        gauge "repl_backlog_histlen": 0,
    );
}

fn cpu(_: &mut Context<'_>, section: &mut Section) {
    let names =
        ["used_cpu_sys", "used_cpu_user", "used_cpu_sys_children", "used_cpu_user_children"];
    for (name, time) in names.into_iter().zip(process::processor_times()) {
        section.push(name, Kind::Counter, Value::Float(time.as_secs_f64(), 6));
    }
}

fn command_stats(context: &mut Context<'_>, section: &mut Section) {
    let all = context.server.clients().statistics.commands();
    for (row, counts) in context.registry.rows().iter().zip(all) {
        let CommandCounts { calls, nanos, failed, rejected, .. } = counts;
        let [calls, nanos, failed, rejected] =
            [calls, nanos, failed, rejected].map(|count| count.load(Ordering::Relaxed));
        if calls + rejected == 0 {
            continue;
        }
        let per_call = ratio(nanos, calls.saturating_mul(1000));
        let fields = vec![
            ("calls", integer(calls)),
            ("usec", integer(nanos / 1000)),
            ("usec_per_call", Value::Float(per_call, 2)),
            ("rejected_calls", integer(rejected)),
            ("failed_calls", integer(failed)),
        ];
        section.push(format!("cmdstat_{}", row.name), Kind::Counter, Value::Fields(fields));
    }
}

fn error_stats(context: &mut Context<'_>, section: &mut Section) {
    for (kind, count) in context.server.clients().statistics.errors() {
        let fields = Value::Fields(vec![("count", integer(count))]);
        section.push(format!("errorstat_{kind}"), Kind::Counter, fields);
    }
}

fn cluster(_: &mut Context<'_>, section: &mut Section) {
    figures!(section; gauge "cluster_enabled": 0);
}

fn keyspace(context: &mut Context<'_>, section: &mut Section) {
    for space in 0..DATABASES {
        let Ok(count) = context.server.count(space) else { continue };
        if count.keys > 0 {
            let (keys, expires) = (count.keys, count.expiring);
            let fields = vec![
                ("keys", integer(keys)),
                ("expires", integer(expires)),
                ("avg_ttl", integer(0)),
            ];
            section.push(format!("db{space}"), Kind::Gauge, Value::Fields(fields));
        }
    }
    // A count shows keys, so they have to be durable before the reply leaves. Asked for last:
    // others write meanwhile.
    context.position = context.written();
}

fn aryavarth(context: &mut Context<'_>, section: &mut Section) {
    let server = context.server;
    let (stats, counters, output) = (server.stats(), server.counters(), server.output());
    let (waits, wait_micros, longest_micros) = server.clients().statistics.waits.read();
    let (published, subscribers_dropped) = server.clients().channels.figures();
    figures!(section;
        text "version": env!("CARGO_PKG_VERSION"),
        text "engine": server.engine_name(),
        text "durability": server.settings().durability,
        counter "syncs": stats.syncs,
        gauge "segments": stats.segments,
        gauge "live_bytes": stats.live_bytes,
        gauge "disk_bytes": stats.disk_bytes,
        counter "appended_bytes": stats.appended_bytes,
        counter "written_position": stats.written_position,
        counter "durable_position": stats.durable_position,
        counter "compactions": stats.compactions,
        gauge "full": u8::from(stats.full),
        gauge "poisoned": u8::from(stats.poisoned),
        counter "torn_bytes": stats.torn_bytes,
        counter "recovered_records": stats.recovered_records,
        gauge "damaged_records": stats.damaged_records,
        counter "durability_waits": waits,
        counter "durability_wait_usec": wait_micros,
        gauge "durability_wait_usec_max": longest_micros,
        counter "requests": counters.requests,
        counter "requests_busy": counters.requests_busy,
        gauge "output_bytes": output.taken_bytes,
        gauge "output_bytes_max": output.whole_bytes,
        gauge "output_waiting": output.waiting,
        counter "output_waits": output.waits,
        gauge "monitors": server.clients().watching(),
        counter "monitors_dropped": server.clients().watching_dropped(),
        counter "messages_published": published,
        counter "subscribers_dropped": subscribers_dropped,
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
