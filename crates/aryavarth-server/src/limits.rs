//! Limits of the memory, threads and time that strangers can take: everything that a client can make
//! grow or last is here.

use std::time::Duration;

/// The limits of a server. Every refusal is an error in the client's own protocol and is counted
/// in [`Counters`](crate::Counters).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sizes that one session accepts: keys, values, requests, scans.
    pub session: aryavarth_protocol::Limits,
    /// Connections at a time; one more gets an error and is closed. Default: 10,000.
    pub connections_max: usize,
    /// How long a request may take from its first byte to its last. Default: 30 s.
    pub request_arrival: Duration,
    /// How long a connection may say nothing between requests. Default: for ever.
    pub idle: Option<Duration>,
    /// How long a client may take none of the bytes that are sent to it, or, with more than 16 KiB
    /// unsent, less than 256 KiB of them. Default: 30 s.
    pub send_stall: Duration,
    /// Bytes of input that all connections together may have waiting, beyond the first 16 KiB of
    /// each (which are free, so that small requests always get through). Default: 256 MiB.
    pub input_bytes_max: usize,
    /// Bytes of replies that one client may have waiting before no more of its requests are run;
    /// calls that run already may exceed it by one reply. Default: 1 MiB.
    pub output_bytes_max: usize,
    /// Bytes of replies that all clients together may have waiting, beyond the first 16 KiB of each.
    /// A request whose reply finds no room waits until others have taken theirs; a larger reply than
    /// this is made when no other is held. Default: 256 MiB.
    pub output_bytes_max_total: usize,
    /// Bytes of messages that a subscriber may have unsent, a single message aside; one with more is
    /// closed, and so is one that has had a quarter of it for 60 s. Default: 32 MiB.
    pub subscriber_bytes_max: usize,
    /// Bytes of messages that may wait for all subscribers together, each counted once; if another
    /// finds no room, the slowest subscriber is closed. Default: 256 MiB.
    pub message_bytes_max_total: usize,
    /// Bytes of the names that all clients have subscribed to, with 256 for each. Default: 64 MiB.
    pub subscription_bytes_max_total: usize,
    /// Bytes of keys and values that the page of a scan may have; a larger one is an error, unless
    /// it is a single entry. Default: 16 MiB.
    pub scan_bytes_max: usize,
    /// Bytes of keys and values that one reply of MGET, KEYS or EXEC may have; a larger one is an
    /// error, unless it is a single value, and an EXEC has done nothing. Default: 256 MiB.
    pub reply_bytes_max: usize,
    /// Bytes of commands that one transaction may collect for its EXEC, some for each command
    /// included. Default: 128 MiB.
    pub transaction_bytes_max: usize,
    /// Keys that one client may watch. Default: 4,096.
    pub watched_max: usize,
    /// Their bytes. Default: 1 MiB.
    pub watched_bytes_max: usize,
    /// Jobs that may wait or run in the pool; a JSON request beyond gets a `busy` error and is not
    /// run, a command of the Redis protocol waits with all that its client sends.
    /// A connection has one at a time. Default: 8,192.
    pub jobs_max: usize,
    /// Limits of scripts.
    pub scripts: ScriptLimits,
    /// How long a connection is drained after its last reply, when the client may still be
    /// sending: closed earlier, the reply could be lost. Default: 1 s.
    pub linger: Duration,
    /// How long the connections may take to finish when the server stops. Default: 2.5 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            session: aryavarth_protocol::Limits::default(),
            connections_max: 10_000,
            request_arrival: Duration::from_secs(30),
            idle: None,
            send_stall: Duration::from_secs(30),
            input_bytes_max: 256 << 20,
            output_bytes_max: 1 << 20,
            output_bytes_max_total: 256 << 20,
            subscriber_bytes_max: 32 << 20,
            message_bytes_max_total: 256 << 20,
            subscription_bytes_max_total: 64 << 20,
            scan_bytes_max: 16 << 20,
            reply_bytes_max: 256 << 20,
            transaction_bytes_max: 128 << 20,
            watched_max: 4096,
            watched_bytes_max: 1 << 20,
            jobs_max: 8192,
            scripts: ScriptLimits::default(),
            linger: Duration::from_secs(1),
            drain: Duration::from_millis(2_500),
        }
    }
}

/// The limits of scripts. A script that passes one is stopped, and has done nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScriptLimits {
    /// Memory that one script may take. Default: 64 MiB.
    pub memory_bytes_max: usize,
    /// Memory that all scripts together may take: as many run at once as it holds, the others wait.
    /// Default: 256 MiB.
    pub memory_bytes_max_total: usize,
    /// How long a script may run, its repetitions included; one that waits for others as long hears
    /// `BUSY`. Default: 5 s.
    pub time: Duration,
    /// How long it may run while no other client can write. Default: 1 s.
    pub locked_time: Duration,
    /// The text of a script, and each that it compiles itself. Default: 256 KiB.
    pub text_bytes_max: usize,
    /// Scripts that are kept for EVALSHA; the least recently used leave. Default: 1,000.
    pub cached_max: usize,
    /// Their bytes. Default: 16 MiB.
    pub cached_bytes_max: usize,
}

impl Default for ScriptLimits {
    fn default() -> Self {
        ScriptLimits {
            memory_bytes_max: 64 << 20,
            memory_bytes_max_total: 256 << 20,
            time: Duration::from_secs(5),
            locked_time: Duration::from_secs(1),
            text_bytes_max: 256 << 10,
            cached_max: 1_000,
            cached_bytes_max: 16 << 20,
        }
    }
}
