//! The commands that ask a server about itself: ping, info, status.
//!
//! `status` is one screen for people, and an exit code for scripts: 0 if the server is healthy.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use aryavarth_client::{ClientError, RedisClient};
use indicatif::HumanBytes;
use serde::Serialize;

use crate::args::To;
use crate::connect::connect;
use crate::output::{Failure, Output, counted, read_or_not};

/// The figures of INFO by their names.
pub(crate) type Figures = BTreeMap<String, String>;

pub(crate) fn ping(to: &To, output: &Output) -> Result<(), Failure> {
    connect(to, 0)?;
    output.line("PONG", &serde_json::json!({ "ping": "PONG" }))
}

/// Prints the figures of a section, or of the usual ones.
pub(crate) fn info(to: &To, section: Option<&str>, output: &Output) -> Result<(), Failure> {
    let mut client = connect(to, 0)?;
    let text = ask(&mut client, section.unwrap_or("default"))?;
    if text.trim().is_empty() {
        let section = section.unwrap_or_default();
        return Err(Failure::Other(format!("the server has no figures of the section {section}")));
    }
    output.line(text.replace("\r\n", "\n").trim_end(), &parsed(&text))
}

/// All figures of a server.
pub(crate) fn figures(client: &mut RedisClient) -> Result<Figures, Failure> {
    Ok(parsed(&ask(client, "everything")?))
}

fn ask(client: &mut RedisClient, section: &str) -> Result<String, Failure> {
    let reply = client.command(&["INFO", section])?.into_bytes();
    let unexpected = || ClientError::Protocol("it answered INFO with something else".to_owned());
    Ok(String::from_utf8_lossy(&reply.ok_or_else(unexpected)?).into_owned())
}

fn parsed(text: &str) -> Figures {
    let figures = text.lines().filter_map(|line| line.trim_end().split_once(':'));
    figures.map(|(name, figure)| (name.to_owned(), figure.to_owned())).collect()
}

/// The state of a server, from its figures.
#[derive(Debug, Serialize)]
struct Status {
    healthy: bool,
    /// Findings that need an operator, in words.
    problems: Vec<String>,
    addr: String,
    version: String,
    engine: String,
    durability: String,
    uptime_seconds: u64,
    keys: u64,
    keys_with_deadline: u64,
    databases: u64,
    live_bytes: u64,
    disk_bytes: u64,
    segments: u64,
    memory_bytes: u64,
    memory_bytes_max: u64,
    clients: u64,
    commands_per_second: u64,
    damaged_records: u64,
}

/// Prints the state of a server on one screen.
///
/// # Errors
/// The problems, if there are some.
pub(crate) fn status(to: &To, output: &Output) -> Result<(), Failure> {
    let figures = figures(&mut connect(to, 0)?)?;
    if figures.get("server_name").is_none_or(|name| name != "aryavarth") {
        let name = "it speaks the Redis protocol, but says that it is another server";
        return Err(ClientError::Protocol(name.to_owned()).into());
    }
    let status = Status::of(&to.addr, &figures);
    read_or_not(output.line(&status.text(), &status))?;
    if status.healthy {
        return Ok(());
    }
    Err(Failure::Other(status.problems.join("; ")))
}

impl Status {
    fn of(addr: &str, figures: &Figures) -> Status {
        let text = |name: &str| figures.get(name).cloned().unwrap_or_default();
        let number = |name: &str| figures.get(name).and_then(|n| n.parse().ok()).unwrap_or(0);
        let databases: Vec<_> =
            figures.iter().filter_map(|(name, at)| database(name, at)).collect();
        let problems = problems(figures);
        Status {
            healthy: problems.is_empty(),
            problems,
            addr: addr.to_owned(),
            version: text("aryavarth_version"),
            engine: text("engine"),
            durability: text("durability"),
            uptime_seconds: number("uptime_in_seconds"),
            keys: databases.iter().map(|(keys, _)| keys).sum(),
            keys_with_deadline: databases.iter().map(|(_, expiring)| expiring).sum(),
            databases: databases.len() as u64,
            live_bytes: number("live_bytes"),
            disk_bytes: number("disk_bytes"),
            segments: number("segments"),
            memory_bytes: number("used_memory"),
            memory_bytes_max: number("maxmemory"),
            clients: number("connected_clients"),
            commands_per_second: number("instantaneous_ops_per_sec"),
            damaged_records: number("damaged_records"),
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, content: String| {
            let _ = writeln!(text, "{name:<11}{content}");
        };
        let limit = match self.memory_bytes_max {
            0 => "no limit".to_owned(),
            bytes => format!("limit {}", HumanBytes(bytes)),
        };
        line("server", format!("aryavarth {} at {}", self.version, self.addr));
        line("up", uptime(self.uptime_seconds));
        line("engine", format!("{}, durability {}", self.engine, self.durability));
        line(
            "keys",
            format!(
                "{}, {} of them with a deadline, in {}",
                self.keys,
                self.keys_with_deadline,
                counted(self.databases, "database", "databases")
            ),
        );
        line(
            "data",
            format!(
                "{} live, {} on disk in {}",
                HumanBytes(self.live_bytes),
                HumanBytes(self.disk_bytes),
                counted(self.segments, "segment", "segments")
            ),
        );
        line("memory", format!("{}, {limit}", HumanBytes(self.memory_bytes)));
        line(
            "clients",
            format!("{}, {} commands per second", self.clients, self.commands_per_second),
        );
        let health = if self.healthy { "healthy".to_owned() } else { self.problems.join("; ") };
        line("health", health);
        text.truncate(text.trim_end().len());
        text
    }
}

/// The keys of a database and those with a deadline, if this is the figure of one.
fn database(name: &str, figure: &str) -> Option<(u64, u64)> {
    name.strip_prefix("db")?.parse::<u32>().ok()?;
    let field = |name: &str| {
        let field = figure.split(',').find_map(|field| field.strip_prefix(name))?;
        field.strip_prefix('=')?.parse().ok()
    };
    Some((field("keys")?, field("expires")?))
}

/// The findings that need an operator.
fn problems(figures: &Figures) -> Vec<String> {
    let number = |name: &str| figures.get(name).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let is_set = |name: &str| figures.get(name).is_some_and(|figure| figure != "0");
    let mut problems = Vec::new();
    if is_set("full") {
        problems.push(
            "the disk is full: writes are refused until there is space; reads and removals go on"
                .to_owned(),
        );
    }
    if is_set("poisoned") {
        problems.push(
            "a sync failed: writes are refused until the server is started again; nothing \
             acknowledged is lost"
                .to_owned(),
        );
    }
    let (memory, memory_max) = (number("used_memory"), number("maxmemory"));
    if memory_max > 0 && memory > memory_max {
        problems.push(
            "the memory is above its limit: writes that take more are refused; reads and removals go \
             on. Remove keys, or raise the limit: `--memory-max`, or `CONFIG SET maxmemory` while \
             the server runs"
                .to_owned(),
        );
    }
    if is_set("damaged_records") {
        let lost = counted(
            number("damaged_records"),
            "damaged record is lost",
            "damaged records are lost",
        );
        problems.push(format!(
            "{lost}, all others are served: `aryavarth damage` names the damage, and the remedy"
        ));
    }
    problems
}

fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_names_each_problem() {
        let healthy = "engine:kvs\r\nfull:0\r\ndamaged_records:0\r\nused_memory:7\r\nmaxmemory:";
        for limit in ["0", "7"] {
            assert!(Status::of("addr", &parsed(&format!("{healthy}{limit}"))).healthy, "{limit}");
        }
        for (figure, says) in [
            ("full:1", "full"),
            ("poisoned:1", "sync"),
            ("damaged_records:1", "1 damaged record is lost"),
            ("damaged_records:3", "3 damaged records are lost"),
            ("used_memory:7\r\nmaxmemory:6", "writes that take more are refused"),
        ] {
            let status = Status::of("addr", &parsed(figure));
            assert!(!status.healthy && status.text().contains(says), "{}", status.text());
        }
    }

    #[test]
    fn keys_are_counted_over_all_databases() {
        let figures =
            parsed("db0:keys=3,expires=1,avg_ttl=0\r\ndb12:keys=4,expires=0,avg_ttl=0\r\n");
        let status = Status::of("addr", &figures);
        assert_eq!((status.keys, status.keys_with_deadline, status.databases), (7, 1, 2));
    }
}
