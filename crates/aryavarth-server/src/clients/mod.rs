//! The connections: the figures of each that all may know, and the ways to act on it.
//!
//! Invariants:
//! - The note after every command ([`Clients::ran`]) is a few atomic stores and additions, unless a
//!   monitor is there or the command was slow.
//! - A connection that was killed stays killed, whenever it looks.

mod monitor;
mod pause;
mod statistics;
mod subscribers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use aryavarth::Position;
use aryavarth_protocol::Command;
use tokio::sync::Notify;

use crate::channels::{Channels, Subscriber, Subscriptions};
use crate::limits::Limits;
use crate::settings::ServerSettings;
pub(crate) use monitor::{Feed, Line};
pub(crate) use pause::{Pause, WritePass};
pub(crate) use statistics::{CommandCounts, Statistics, Waits};

/// A connection as others know it. Clones are the same connection.
#[derive(Clone, Debug)]
pub(crate) struct ClientHandle(Arc<Entry>);

#[derive(Debug)]
struct Entry {
    id: u64,
    peer: SocketAddr,
    local: SocketAddr,
    began: Instant,
    names: Mutex<Names>,
    seen: Seen,
    is_killed: AtomicBool,
    killed: Notify,
    /// Its subscriptions, from the first one on.
    subscriber: OnceLock<Arc<Subscriber>>,
}

/// A client's names for itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub(crate) name: Vec<u8>,
    pub(crate) library: Vec<u8>,
    pub(crate) library_version: Vec<u8>,
}

/// The state of a connection as it was last seen.
#[derive(Debug, Default)]
struct Seen {
    space: AtomicU32,
    version: AtomicU32,
    /// Commands that wait for EXEC; negative: there is no transaction.
    queued: AtomicI64,
    monitors: AtomicBool,
    keeps: AtomicBool,
    touches_not: AtomicBool,
    blocked: AtomicBool,
    /// When the last command ended, in milliseconds since the connection began.
    active_at_ms: AtomicU64,
    /// The number of the last command in the table, plus one.
    command: AtomicUsize,
    input_bytes: AtomicUsize,
    output_bytes: AtomicUsize,
    /// Bytes received and sent, and commands run, since the connection began.
    received: AtomicU64,
    sent: AtomicU64,
    commands: AtomicU64,
}

/// All connections, and their figures.
#[derive(Debug)]
pub(crate) struct Clients {
    last_id: AtomicU64,
    all: Mutex<BTreeMap<u64, ClientHandle>>,
    pub(crate) statistics: Statistics,
    pub(crate) channels: Channels,
    monitors: monitor::Monitors,
    pause: Arc<pause::Gate>,
    /// Clients whose commands are held.
    blocked: AtomicUsize,
    /// Bytes received and sent by all connections that there were.
    received: AtomicU64,
    sent: AtomicU64,
}

/// A command that was run.
#[derive(Debug)]
pub(crate) struct CommandRun<'a> {
    /// Its number in the registry.
    pub(crate) number: usize,
    /// Whether MONITOR shows it.
    pub(crate) is_shown: bool,
    /// Whether the slow log keeps it.
    pub(crate) is_logged: bool,
    pub(crate) client: &'a ClientHandle,
    /// The database that the client has selected.
    pub(crate) space: u32,
    pub(crate) command: &'a Command,
    /// The position that must be durable before any client hears of it.
    pub(crate) position: Position,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    /// Whether the reply is an error.
    pub(crate) failed: bool,
}

/// The part of a connection's state that `CLIENT LIST` shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    pub(crate) space: u32,
    pub(crate) version: u8,
    pub(crate) monitors: bool,
    /// Commands that wait for EXEC; `None` outside a transaction.
    pub(crate) queued: Option<usize>,
}

impl Clients {
    /// No connections; `commands` is the number of rows in the registry.
    pub(crate) fn new(commands: usize, limits: &Limits) -> Self {
        Clients {
            last_id: AtomicU64::new(0),
            all: Mutex::default(),
            statistics: Statistics::new(commands),
            channels: Channels::new(limits),
            monitors: monitor::Monitors::default(),
            pause: Arc::default(),
            blocked: AtomicUsize::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        }
    }

    /// Takes note of a connection.
    pub(crate) fn enter(&self, peer: SocketAddr, local: SocketAddr) -> ClientHandle {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let seen = Seen { queued: AtomicI64::new(-1), version: 2.into(), ..Seen::default() };
        let client = ClientHandle(Arc::new(Entry {
            id,
            peer,
            local,
            began: Instant::now(),
            names: Mutex::default(),
            seen,
            is_killed: AtomicBool::new(false),
            killed: Notify::new(),
            subscriber: OnceLock::new(),
        }));
        self.all().insert(id, client.clone());
        client
    }

    /// A connection is gone.
    pub(crate) fn leave(&self, client: &ClientHandle) {
        self.all().remove(&client.0.id);
        if let Some(subscriber) = client.subscriber() {
            self.channels.leave(subscriber);
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, ClientHandle>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connections that there are, the oldest first.
    pub(crate) fn list(&self) -> Vec<ClientHandle> {
        self.all().values().cloned().collect()
    }

    /// A command was run: counts it, shows it to monitors, and keeps it if it was slow.
    pub(crate) fn ran(&self, settings: &ServerSettings, ran: &CommandRun<'_>) {
        let took = ran.ended.saturating_duration_since(ran.began);
        self.statistics.count(ran.number, took, ran.failed);
        let Entry { began, seen, .. } = &*ran.client.0;
        let age = ran.ended.saturating_duration_since(*began);
        seen.active_at_ms.store(millis(age), Ordering::Relaxed);
        seen.commands.fetch_add(1, Ordering::Relaxed);
        seen.command.store(ran.number + 1, Ordering::Relaxed);
        if self.monitors.are_there() && ran.is_shown {
            self.monitors.show(ran.client.peer(), ran.space, ran.command, ran.position);
        }
        let slow_micros = settings.slow_micros.load(Ordering::Relaxed);
        if ran.is_logged
            && slow_micros >= 0
            && took.as_micros() >= u128::from(slow_micros.unsigned_abs())
        {
            let entries_max = settings.slow_entries_max.load(Ordering::Relaxed);
            let what = (ran.command, ran.position);
            self.statistics.keep_slow(ran.client, what, took, entries_max);
        }
    }

    /// Lines for a connection that has asked to see every command.
    pub(crate) fn watch_commands(&self) -> Feed {
        self.monitors.add()
    }

    /// Connections that see every command.
    pub(crate) fn watching(&self) -> usize {
        self.monitors.count()
    }

    /// Connections that wanted to see every command, and were cut off because they did not read.
    pub(crate) fn watching_dropped(&self) -> u64 {
        self.monitors.dropped()
    }

    /// The pause that holds now, if any. Costs one load if there is none.
    pub(crate) fn pause(&self) -> Option<Pause> {
        self.pause.now()
    }

    /// Lets commands wait.
    pub(crate) fn set_pause(&self, pause: Pause) {
        self.pause.close(pause);
    }

    /// A pass for writes, kept until they are in the log; `None` while a pause holds.
    pub(crate) fn begin_write(&self) -> Option<WritePass> {
        self.pause.begin_write()
    }

    /// Returns when no write is on its way to the log, or no pause holds.
    pub(crate) async fn writes_done(&self) {
        self.pause.writes_done().await;
    }

    /// Counts bytes that a client has sent.
    pub(crate) fn count_received(&self, client: &ClientHandle, bytes: usize) {
        client.0.seen.received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes that a client was sent.
    pub(crate) fn count_sent(&self, client: &ClientHandle, bytes: usize) {
        client.0.seen.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes received and sent by all connections that there were.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }

    /// Counts a client as blocked until the drop.
    pub(crate) fn block<'a>(&'a self, client: &'a ClientHandle) -> Blocked<'a> {
        self.blocked.fetch_add(1, Ordering::Relaxed);
        client.0.seen.blocked.store(true, Ordering::Relaxed);
        Blocked { clients: self, client }
    }

    /// Clients whose commands are held.
    pub(crate) fn blocked(&self) -> usize {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Lets them go on.
    pub(crate) fn unpause(&self) {
        self.pause.open();
    }

    /// Returns when nothing waits any more, or something else may run.
    pub(crate) async fn pause_changed(&self) {
        self.pause.changed().await;
    }
}

/// A client whose command is held.
#[derive(Debug)]
pub(crate) struct Blocked<'a> {
    clients: &'a Clients,
    client: &'a ClientHandle,
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        self.client.0.seen.blocked.store(false, Ordering::Relaxed);
        self.clients.blocked.fetch_sub(1, Ordering::Relaxed);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl ClientHandle {
    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    /// How long the connection has been open.
    pub(crate) fn age(&self) -> Duration {
        self.0.began.elapsed()
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.0.local
    }

    /// The client's names, to be read or changed.
    pub(crate) fn names(&self) -> MutexGuard<'_, Names> {
        self.0.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connection, wherever it is.
    pub(crate) fn kill(&self) {
        self.0.is_killed.store(true, Ordering::Release);
        self.0.killed.notify_one();
    }

    /// Returns when the connection has been killed.
    pub(crate) async fn killed(&self) {
        while !self.0.is_killed.load(Ordering::Acquire) {
            self.0.killed.notified().await;
        }
    }

    /// Takes note of the connection's settings.
    pub(crate) fn show(&self, shown: Shown) {
        let seen = &self.0.seen;
        seen.space.store(shown.space, Ordering::Relaxed);
        seen.version.store(u32::from(shown.version), Ordering::Relaxed);
        seen.monitors.store(shown.monitors, Ordering::Relaxed);
        let queued = shown.queued.map_or(-1, |count| i64::try_from(count).unwrap_or(i64::MAX));
        seen.queued.store(queued, Ordering::Relaxed);
    }

    /// Takes note of the bytes that wait to be understood and to be sent.
    pub(crate) fn show_buffers(&self, input_bytes: usize, output_bytes: usize) {
        self.0.seen.input_bytes.store(input_bytes, Ordering::Relaxed);
        self.0.seen.output_bytes.store(output_bytes, Ordering::Relaxed);
    }

    /// Takes note that the client asked not to be closed for want of memory.
    pub(crate) fn set_keeps(&self, keeps: bool) {
        self.0.seen.keeps.store(keeps, Ordering::Relaxed);
    }

    /// Takes note that the client asked not to be counted as a user of keys.
    pub(crate) fn set_touches_not(&self, touches_not: bool) {
        self.0.seen.touches_not.store(touches_not, Ordering::Relaxed);
    }

    /// Bytes that wait to be understood.
    pub(crate) fn input_bytes(&self) -> usize {
        self.0.seen.input_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that wait to be sent.
    pub(crate) fn output_bytes(&self) -> usize {
        self.0.seen.output_bytes.load(Ordering::Relaxed)
    }

    /// The number of the last command that ran.
    pub(crate) fn last_command(&self) -> Option<usize> {
        self.0.seen.command.load(Ordering::Relaxed).checked_sub(1)
    }

    /// The line that `CLIENT LIST` has for the connection. `command` is the name of the last
    /// command, which is the one that asks if `is_running`.
    pub(crate) fn line(&self, command: &str, is_running: bool) -> Vec<u8> {
        let Entry { id, peer, local, began, seen, .. } = &*self.0;
        let age = began.elapsed();
        let age_ms = millis(age);
        let idle_ms = if is_running {
            0
        } else {
            age_ms.saturating_sub(seen.active_at_ms.load(Ordering::Relaxed))
        };
        let (input, output) = (self.input_bytes(), self.output_bytes());
        let names = self.names().clone();
        let Subscriptions { channels, patterns, shards } = self.subscriptions();
        let mut line = format!("id={id} addr={peer} laddr={local} fd=-1 name=").into_bytes();
        line.extend_from_slice(&names.name);
        let rest = format!(
            " age={} idle={} flags={} db={} sub={channels} psub={patterns} ssub={shards} multi={} qbuf={input} qbuf-free=0 \
             argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl={output} oll=0 omem={output} tot-mem={} \
             events=r cmd={command} user=default redir=-1 resp={} lib-name=",
            age.as_secs(),
            idle_ms / 1000,
            self.flags(),
            seen.space.load(Ordering::Relaxed),
            seen.queued.load(Ordering::Relaxed),
            input + output + size_of::<Entry>(),
            seen.version.load(Ordering::Relaxed),
        );
        line.extend_from_slice(rest.as_bytes());
        line.extend_from_slice(&names.library);
        line.extend_from_slice(b" lib-ver=");
        line.extend_from_slice(&names.library_version);
        let [received, sent, commands] =
            [&seen.received, &seen.sent, &seen.commands].map(|count| count.load(Ordering::Relaxed));
        let totals = format!(" tot-net-in={received} tot-net-out={sent} tot-cmds={commands}\n");
        line.extend_from_slice(totals.as_bytes());
        line
    }

    fn flags(&self) -> String {
        let seen = &self.0.seen;
        let mut flags = String::new();
        let known = [
            (seen.monitors.load(Ordering::Relaxed), 'O'),
            (self.subscriptions().any(), 'P'),
            (seen.queued.load(Ordering::Relaxed) >= 0, 'x'),
            (seen.blocked.load(Ordering::Relaxed), 'b'),
            (self.0.is_killed.load(Ordering::Relaxed), 'A'),
            (seen.keeps.load(Ordering::Relaxed), 'e'),
            (seen.touches_not.load(Ordering::Relaxed), 'T'),
        ];
        flags.extend(known.into_iter().filter(|(is, _)| *is).map(|(_, flag)| flag));
        if flags.is_empty() { "N".to_owned() } else { flags }
    }
}
