//! The server's view of itself: SLOWLOG, LATENCY, MEMORY, MONITOR.

use std::sync::atomic::Ordering;

use aryavarth::{Deadline, Position};
use aryavarth_protocol::Reply;

use crate::commands::kit::args::{Args, parse_integer};
use crate::commands::kit::context::Context;
use crate::commands::kit::failure::{SYNTAX, refused, refused_quoting, wrong_subcommand};
use crate::commands::kit::help::HELP;
use crate::commands::kit::read::Read;
use crate::commands::kit::spec::{Outcome, Run, Spec};
use crate::commands::server::info::ratio;

/// The memory of a key's place in the index, beside key and value, in bytes. About.
const INDEX_BYTES: usize = 90;
/// The header of a record, in bytes.
const RECORD_HEADER_BYTES: usize = 24;

pub(crate) const SPECS: &[Spec] = &[
    Spec::new("latency", -2, "subcommand", Run::Container(LATENCY))
        .since("2.8.13")
        .cost("Depends on subcommand.")
        .says("A container for latency diagnostics commands"),
    Spec::new("memory", -2, "subcommand", Run::Container(MEMORY))
        .since("4.0.0")
        .cost("Depends on subcommand.")
        .says("A container for memory diagnostics commands"),
    Spec::new("monitor", 1, "", Run::Context(monitor))
        .flags("admin noscript loading stale")
        .says("Listens for all requests received by the server in real time"),
    Spec::new("slowlog", -2, "subcommand", Run::Container(SLOWLOG))
        .since("2.2.12")
        .cost("Depends on subcommand.")
        .says("A container for slow log commands"),
];

const SLOWLOG: &[Spec] = &[
    Spec::new("get", -2, "[count]", Run::Context(slow_get))
        .flags("admin loading stale")
        .tips(&["request_policy:all_nodes", "nondeterministic_output"])
        .since("2.2.12")
        .cost("O(N) where N is the number of entries returned")
        .says("Gets the slow log's entries"),
    HELP.since("6.2.0"),
    Spec::new("len", 2, "", Run::Context(slow_len))
        .flags("admin loading stale")
        .tips(&["request_policy:all_nodes", "response_policy:agg_sum", "nondeterministic_output"])
        .since("2.2.12")
        .says("Gets the slow log's length"),
    Spec::new("reset", 2, "", Run::Context(slow_reset))
        .flags("admin loading stale")
        .tips(&["request_policy:all_nodes", "response_policy:all_succeeded"])
        .since("2.2.12")
        .cost("O(N) where N is the number of entries in the slowlog")
        .says("Clears all entries from the slow log"),
];

const LATENCY: &[Spec] = &[
    Spec::new("doctor", 2, "", Run::Context(latency_doctor))
        .flags("admin noscript loading stale")
        .tips(&["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"])
        .since("2.8.13")
        .says("Says where to look, since no events are sampled"),
    Spec::new("graph", 3, "event", Run::Context(latency_graph))
        .flags("admin noscript loading stale")
        .tips(&["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"])
        .since("2.8.13")
        .says("Says that no events are sampled"),
    HELP.since("2.8.13"),
    Spec::new("histogram", -2, "[command [command ...]]", Run::Context(latency_histogram))
        .flags("admin noscript loading stale")
        .tips(&["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"])
        .since("7.0.0")
        .cost("O(N) where N is the number of commands with latency information being retrieved.")
        .says("Returns the cumulative distribution of latencies of a subset of commands or all"),
    Spec::new("history", 3, "event", Run::Context(|_, _| Ok(Reply::Array(Vec::new()))))
        .flags("admin noscript loading stale")
        .tips(&["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"])
        .since("2.8.13")
        .says("Returns nothing, since no events are sampled"),
    Spec::new("latest", 2, "", Run::Context(|_, _| Ok(Reply::Array(Vec::new()))))
        .flags("admin noscript loading stale")
        .tips(&["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"])
        .since("2.8.13")
        .says("Returns nothing, since no events are sampled"),
    Spec::new("reset", -2, "[event [event ...]]", Run::Context(|_, _| Ok(Reply::Integer(0))))
        .flags("admin noscript loading stale")
        .tips(&["request_policy:all_nodes", "response_policy:all_succeeded"])
        .since("2.8.13")
        .says("Returns 0, since no events are sampled"),
];

const MEMORY: &[Spec] = &[
    Spec::new("doctor", 2, "", Run::Context(memory_doctor))
        .tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"])
        .since("4.0.0")
        .says("Shows the memory in use, beside its peak and its limit"),
    HELP.since("4.0.0"),
    Spec::new("malloc-stats", 2, "", Run::Context(malloc_stats))
        .tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"])
        .since("4.0.0")
        .says("Says that the allocator tells nothing"),
    Spec::new("purge", 2, "", Run::Context(memory_purge))
        .tips(&["request_policy:all_shards", "response_policy:all_succeeded"])
        .since("4.0.0")
        .says("Gives memory that the allocator keeps back to the system"),
    Spec::new("stats", 2, "", Run::Context(memory_stats))
        .flags("WAITS")
        .tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"])
        .since("4.0.0")
        .says("Shows memory usage details"),
    Spec::new("usage", -3, "key [SAMPLES count]", Run::Read(memory_usage))
        .flags("readonly")
        .keys(2, 2, 1, "RO")
        .since("4.0.0")
        .says("Estimates the memory usage of a key"),
];

fn integer(number: impl TryInto<i64>) -> Reply {
    Reply::Integer(number.try_into().unwrap_or(i64::MAX))
}

fn monitor(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    if context.in_transaction {
        return refused("ERR MONITOR isn't allowed for DENY BLOCKING client");
    }
    context.settings.monitors = true;
    Ok(Reply::OK)
}

fn slow_get(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let count = match args.len() {
        2 => Some(10),
        3 => parse_integer(args.get(2)).filter(|count| *count >= -1),
        _ => return wrong_subcommand(args),
    };
    let Some(count) = count else {
        return refused("ERR count should be greater than or equal to -1");
    };
    // The one that is negative asks for all.
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let slow = context.server.clients().statistics.slow(count);
    // The write of one of them may not be on disk yet.
    let positions = slow.iter().map(|slow| slow.position);
    context.position = positions.fold(context.position, Position::max);
    let slow = slow.into_iter().map(|slow| {
        Reply::Array(vec![
            integer(slow.id),
            integer(slow.at),
            integer(slow.micros),
            Reply::Array(slow.args.into_iter().map(Reply::Bulk).collect()),
            Reply::bulk(slow.peer),
            Reply::Bulk(slow.name),
        ])
    });
    Ok(Reply::Array(slow.collect()))
}

fn slow_len(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    Ok(integer(context.server.clients().statistics.slow_count()))
}

fn slow_reset(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    context.server.clients().statistics.forget_slow();
    Ok(Reply::OK)
}

fn latency_doctor(_: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    let text = "No events are sampled. LATENCY HISTOGRAM has the times of every command, SLOWLOG \
                GET the calls that took long.\n";
    Ok(Reply::Verbatim("txt", text.into()))
}

fn latency_graph(_: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    refused_quoting("ERR No samples available for event '", args.get(2), "'")
}

fn latency_histogram(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let is_asked = |name: &str| {
        args.len() == 2
            || args.from(2).any(|asked| {
                let container = name.split('|').next().unwrap_or_default();
                [name, container].iter().any(|name| asked.eq_ignore_ascii_case(name.as_bytes()))
            })
    };
    let mut histograms = Vec::new();
    let all = context.server.clients().statistics.commands();
    for (row, counts) in context.registry.rows().iter().zip(all) {
        let calls = counts.calls.load(Ordering::Relaxed);
        if calls == 0 || !is_asked(&row.name) {
            continue;
        }
        let mut buckets = Vec::new();
        let mut sum = 0;
        for (bits, bucket) in counts.buckets.iter().enumerate() {
            let more = bucket.load(Ordering::Relaxed);
            sum += more;
            if more > 0 {
                buckets.push((integer(1_u64 << bits), integer(sum)));
            }
        }
        let histogram = vec![
            (Reply::bulk("calls"), integer(calls)),
            (Reply::bulk("histogram_usec"), Reply::Map(buckets)),
        ];
        histograms.push((Reply::bulk(row.name.as_str()), Reply::Map(histogram)));
    }
    Ok(Reply::Map(histograms))
}

fn memory_doctor(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    let settings = context.server.settings();
    let (memory, limit) = (settings.memory(), settings.memory_bytes_max());
    let (used, peak) = (memory.used_bytes, memory.peak_bytes);
    let limit = if limit == 0 { "no limit is set".into() } else { format!("the limit is {limit}") };
    let text = format!(
        "{used} bytes are in use beside the pages of files, at most {peak} were; {limit}. Every \
         key takes about {INDEX_BYTES} bytes and its own length, values stay on disk.\n"
    );
    Ok(Reply::Verbatim("txt", text.into()))
}

fn malloc_stats(_: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    Ok(Reply::bulk("Stats not supported for the current allocator"))
}

fn memory_purge(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    context.server.give_back_memory();
    Ok(Reply::OK)
}

fn memory_stats(context: &mut Context<'_>, _: &Args<'_>) -> Outcome {
    let memory = context.server.settings().memory();
    let stats = context.server.stats();
    // Keys are counted, which is to see them; others write meanwhile.
    context.position = context.written();
    let clients = context.server.clients().list();
    let buffered: usize =
        clients.iter().map(|client| client.input_bytes() + client.output_bytes()).sum();
    // An estimate: long keys, which the index holds elsewhere, are not counted.
    let index_bytes = stats.keys * INDEX_BYTES as u64;
    let other = memory.used_bytes.saturating_sub(index_bytes + buffered as u64);
    let ratio = ratio(memory.resident_bytes, memory.used_bytes);
    let known = [
        ("peak.allocated", integer(memory.peak_bytes)),
        ("total.allocated", integer(memory.used_bytes)),
        ("replication.backlog", integer(0)),
        ("clients.slaves", integer(0)),
        ("clients.normal", integer(buffered)),
        ("aof.buffer", integer(0)),
        ("aryavarth.index", integer(index_bytes)),
        ("aryavarth.replies", integer(context.server.output().taken_bytes)),
        ("aryavarth.other", integer(other)),
        ("keys.count", integer(stats.keys)),
        ("keys.bytes-per-key", integer(memory.used_bytes / stats.keys.max(1))),
        ("dataset.bytes", integer(stats.live_bytes)),
        ("fragmentation", Reply::Double(ratio)),
        ("fragmentation.bytes", integer(memory.resident_bytes.saturating_sub(memory.used_bytes))),
    ];
    Ok(Reply::Map(known.into_iter().map(|(name, value)| (Reply::bulk(name), value)).collect()))
}

fn memory_usage(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    match args.len() {
        3 => {}
        // There is nothing to take samples of.
        5 if args.is(3, "SAMPLES") && args.integer(4)? >= 0 => {}
        _ => return refused(SYNTAX),
    }
    let key = args.get(2);
    let Some(stored) = keys.find(key)? else { return Ok(Reply::Null) };
    let deadline = if stored.deadline == Deadline::Never { 0 } else { 8 };
    let record = RECORD_HEADER_BYTES + deadline + key.len() + stored.value.len();
    Ok(integer(record.next_multiple_of(8) + INDEX_BYTES + key.len()))
}
