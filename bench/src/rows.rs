//! The rows of docs/article.md from the lines of the other commands.
//!
//! A row has figures of one unit and a base, which is our system or the pool by default. It shows the
//! base's values, and for each other system how many times the base's value it reaches: the median over
//! the rounds of the ratio in each. A row without other systems shows its bounds.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};

use serde_json::Value;

use crate::args::Args;
use crate::figure::median;
use crate::outcome::{BoxError, Outcome};

/// A row: its number, its measurement, the base, and the figures in their order. A `*` in a figure stands
/// for each of the row's variants.
struct Row {
    number: u32,
    label: &'static str,
    base: &'static str,
    figure: &'static str,
    variants: &'static [&'static str],
}

const DEPTHS: &[&str] = &["1", "16", "64"];
const POOLS: &[&str] = &[
    "kvs hot, 5 % durable sets, connections: 1",
    "kvs hot, 5 % durable sets, connections: 50",
    "kvs hot, 5 % durable sets, connections: 500",
    "kvs cold, 5 % durable sets, connections: 1",
    "kvs cold, 5 % durable sets, connections: 50",
    "kvs cold, 5 % durable sets, connections: 500",
    "sled, 5 % durable sets, connections: 1",
    "sled, 5 % durable sets, connections: 50",
    "sled, 5 % durable sets, connections: 500",
];
const SPACE: &[&str] = &[
    "10 keys written once",
    "1000000 keys and values of 8 bytes, every other one overwritten",
    "1000000 keys loaded and all removed",
];

const fn row(
    number: u32,
    label: &'static str,
    base: &'static str,
    figure: &'static str,
    variants: &'static [&'static str],
) -> Row {
    Row { number, label, base, figure, variants }
}

/// In one run `server` and `redis` give their figures the same names, so theirs come apart by `JSON: `
/// and `RESP: ` in front.
const ROWS: &[Row] = &[
    row(
        1,
        "gets over JSON, 50 connections, 1 / 16 / 64 under way on each",
        "aryavarth",
        "JSON: requests: GET, 50 connections, pipeline *",
        DEPTHS,
    ),
    row(
        1,
        "server time of each",
        "aryavarth",
        "JSON: server time a request: GET, 50 connections, pipeline *",
        DEPTHS,
    ),
    row(
        2,
        "sets, likewise, each durable",
        "aryavarth",
        "JSON: requests: SET, 50 connections, pipeline *",
        DEPTHS,
    ),
    row(
        3,
        "requests by pool, 5 % durable sets, 1 / 50 / 500 connections: kvs in the page cache, kvs cold, sled",
        "shared-queue",
        "requests over *",
        POOLS,
    ),
    row(4, "server time of each", "shared-queue", "server time a request over *", POOLS),
    row(
        5,
        "durable sets, 1 / 64 threads",
        "aryavarth",
        "durable set, *",
        &["1 thread", "64 threads"],
    ),
    row(
        6,
        "random gets, 1 / 2 / 4 threads",
        "aryavarth",
        "random get, *",
        &["1 thread", "2 threads", "4 threads"],
    ),
    row(7, "open and first get", "aryavarth", "reopen and first get", &[""]),
    row(
        8,
        "overwrites, not synced, 1 thread",
        "aryavarth",
        "overwrite, not synced, 1 thread",
        &[""],
    ),
    row(
        8,
        "95 % gets and 5 % sets, not synced, 4 threads",
        "aryavarth",
        "95 % gets, 5 % sets, not synced, 4 threads",
        &[""],
    ),
    row(
        9,
        "bytes on disk at rest: ten keys / a million of 8 bytes with values of 8, every other one overwritten / a million, all removed",
        "aryavarth",
        "space at rest: *",
        SPACE,
    ),
    row(10, "memory after the load of a million keys", "aryavarth", "memory after the load", &[""]),
    row(
        11,
        "durable SETs over the Redis protocol, 50 connections, 1 / 16 / 64 under way on each",
        "aryavarth",
        "RESP: requests: SET, 50 connections, pipeline *",
        DEPTHS,
    ),
    row(
        11,
        "server time of each",
        "aryavarth",
        "RESP: server time a request: SET, 50 connections, pipeline *",
        DEPTHS,
    ),
    row(
        11,
        "99th percentile of waits",
        "aryavarth",
        "RESP: 99th percentile of waits: SET, 50 connections, pipeline *",
        DEPTHS,
    ),
    row(11, "resident memory afterwards", "aryavarth", "RESP: resident memory after SETs", &[""]),
    row(
        12,
        "GETs, likewise",
        "aryavarth",
        "RESP: requests: GET, 50 connections, pipeline *",
        DEPTHS,
    ),
    row(
        12,
        "server time of each",
        "aryavarth",
        "RESP: server time a request: GET, 50 connections, pipeline *",
        DEPTHS,
    ),
    row(
        12,
        "99th percentile of waits",
        "aryavarth",
        "RESP: 99th percentile of waits: GET, 50 connections, pipeline *",
        DEPTHS,
    ),
];

/// A line of another command.
struct Line {
    figure: String,
    system: String,
    unit: String,
    value: f64,
    runs: Vec<f64>,
    limit: Option<f64>,
}

pub(crate) fn run(args: &mut Args) -> Outcome {
    let from: String = args.take("in", "-".to_owned())?;
    args.finish()?;
    let text =
        if from == "-" { io::read_to_string(io::stdin())? } else { fs::read_to_string(&from)? };
    let lines = read(&text)?;
    let mut out = io::stdout().lock();
    for row in ROWS {
        if let Some(row) = row.text(&lines) {
            writeln!(out, "{row}")?;
        }
    }
    Ok(true)
}

/// The lines; those of `server` and `redis` with their protocol in front. Only `redis` measures redis.
fn read(text: &str) -> Result<Vec<Line>, BoxError> {
    let mut lines: Vec<Line> = Vec::new();
    let mut run = Vec::new();
    let text_of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for line in text.lines().filter(|line| !line.is_empty()).chain(["{\"machine\":{}}"]) {
        let line: Value = serde_json::from_str(line)?;
        if line.get("machine").is_some() {
            let is_of = |name: &str| run.iter().any(|line: &Line| line.system.starts_with(name));
            let protocol = match (is_of("redis"), is_of("do-nothing") && !is_of("shared-queue")) {
                (true, _) => "RESP: ",
                (false, true) => "JSON: ",
                (false, false) => "",
            };
            for line in &mut run {
                line.figure.insert_str(0, protocol);
            }
            lines.append(&mut run);
            continue;
        }
        let runs = line["runs"].as_array().map(Vec::as_slice).unwrap_or_default();
        run.push(Line {
            figure: text_of(&line["figure"]),
            system: text_of(&line["system"]),
            unit: text_of(&line["unit"]),
            value: line["value"].as_f64().unwrap_or(f64::NAN),
            limit: line["limit"].as_f64(),
            runs: runs.iter().map(|run| run.as_f64().unwrap_or(f64::NAN)).collect(),
        });
    }
    Ok(lines)
}

impl Row {
    /// The row in Markdown; `None` if it was not measured.
    fn text(&self, lines: &[Line]) -> Option<String> {
        let names: Vec<String> =
            self.variants.iter().map(|variant| self.figure.replace('*', variant)).collect();
        let find = |name: &str, system: &str| {
            lines.iter().rev().find(|line| line.figure == name && line.system == system)
        };
        let ours: Vec<&Line> =
            names.iter().map(|name| find(name, self.base)).collect::<Option<_>>()?;
        let mut systems: Vec<&str> = Vec::new();
        for line in lines.iter().filter(|line| names.contains(&line.figure)) {
            if line.system != self.base && !systems.contains(&&*line.system) {
                systems.push(&line.system);
            }
        }
        let values: Vec<String> = ours.iter().map(|line| shown(line.value, &line.unit)).collect();
        let mut text = format!("| {} | {} | {} | ", self.number, self.label, values.join(" / "));
        for (at, system) in systems.iter().enumerate() {
            let ratio = |(name, ours): (&String, &&Line)| {
                let Some(theirs) = find(name, system) else { return "-".to_owned() };
                let ratios = theirs.runs.iter().zip(&ours.runs).map(|(a, b)| a / b);
                two_digits(median(ratios.filter(|ratio| ratio.is_finite()).collect()))
            };
            let ratios: Vec<String> = names.iter().zip(&ours).map(ratio).collect();
            let separator = if at == 0 { "" } else { ", " };
            let _ = write!(text, "{separator}{system} {}", ratios.join(" / "));
        }
        if systems.is_empty() {
            let limit =
                |line: &&Line| line.limit.map_or("-".to_owned(), |at| shown(at, &line.unit));
            let limits: Vec<String> = ours.iter().map(limit).collect();
            let _ = write!(text, "at most {}", limits.join(" / "));
        }
        text.push_str(" |");
        Some(text)
    }
}

/// A value with its unit, in two or three digits.
fn shown(value: f64, unit: &str) -> String {
    let (scaled, unit) = match unit {
        "1/s" if value >= 1e6 => (value / 1e6, "M/s"),
        "1/s" if value >= 1e3 => (value / 1e3, "k/s"),
        "1/s" => (value, "/s"),
        "B" if value >= 1e6 => (value / 1e6, "MB"),
        "B" if value >= 1e3 => (value / 1e3, "KB"),
        "us" if value >= 1e3 => (value / 1e3, "ms"),
        "ms" if value >= 1e3 => (value / 1e3, "s"),
        unit => (value, unit),
    };
    format!("{} {unit}", two_digits(scaled))
}

/// At least two digits that count.
fn two_digits(value: f64) -> String {
    match value {
        value if !value.is_finite() => "-".to_owned(),
        value if value >= 9.95 => format!("{value:.0}"),
        value if value >= 0.995 => format!("{value:.1}"),
        value if value >= 0.0095 => format!("{value:.2}"),
        value => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"machine":{}}
{"figure":"durable set, 1 thread","system":"aryavarth","unit":"1/s","value":7900,"runs":[8000,7900,100]}
{"figure":"durable set, 1 thread","system":"redb","unit":"1/s","value":4000,"runs":[4000,4000,100]}
{"figure":"durable set, 64 threads","system":"aryavarth","unit":"1/s","value":66000,"runs":[66000]}
{"machine":{}}
{"figure":"resident memory after SETs","system":"aryavarth","unit":"B","value":195000000,"runs":[195000000]}
{"figure":"resident memory after SETs","system":"redis (fsync always)","unit":"B","value":1,"runs":[390000000]}
"#;

    #[test]
    fn a_row_has_our_values_and_the_median_ratio_of_each_other_system() {
        let lines = read(LINES).unwrap();
        let rows: Vec<String> = ROWS.iter().filter_map(|row| row.text(&lines)).collect();
        assert_eq!(
            rows,
            [
                "| 5 | durable sets, 1 / 64 threads | 7.9 k/s / 66 k/s | redb 0.51 / - |",
                "| 11 | resident memory afterwards | 195 MB | redis (fsync always) 2.0 |",
            ]
        );
    }
}
