//! The server's settings, and those of them that can change while it runs.
//!
//! Invariants:
//! - Reading a setting takes no lock, but for the password, which only `AUTH` and `CONFIG` read.
//! - The memory in use is sampled when it is asked for, at most every 100 ms; no thread does it.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aryavarth::{Durability, Result, Stats};

use crate::limits::Limits;
use crate::log::Incidents;
use crate::process::{self, Memory};

/// The version of Redis whose commands clients may expect; some refuse to work with less than 6.2.
pub(crate) const REDIS_VERSION: &str = "7.2.4";

/// How old a sample of the memory in use may be, in milliseconds.
const SAMPLE_AGE_MAX_MS: u64 = 100;

/// The server's settings, live.
#[derive(Debug)]
pub(crate) struct ServerSettings {
    /// The address that clients connect to.
    pub(crate) listen: SocketAddr,
    /// Where the data is; empty if that is nowhere.
    pub(crate) directory: String,
    /// The level that replies wait for unless a connection says otherwise.
    pub(crate) durability: Durability,
    /// 40 hexadecimal digits, others in every run.
    pub(crate) run_id: String,
    pub(crate) began: Instant,
    password: Mutex<Vec<u8>>,
    has_password: AtomicBool,
    memory_bytes_max: AtomicU64,
    sample: Mutex<Option<(Instant, Memory)>>,
    /// The newest sample, in bytes, and the age of the server when it was taken, in milliseconds.
    memory_bytes: AtomicU64,
    sampled_at_ms: AtomicU64,
    idle_seconds: AtomicU64,
    connections_max: AtomicU64,
    value_bytes_max: AtomicUsize,
    request_bytes_max: AtomicUsize,
    /// A command that takes at least so many microseconds is slow; negative: none is.
    pub(crate) slow_micros: AtomicI64,
    /// How many slow commands are remembered.
    pub(crate) slow_entries_max: AtomicU64,
    /// Whether keys are removed when their deadline has passed, without a client that asks for them.
    pub(crate) sweeps: AtomicBool,
    /// When all that was written was last known to be on disk, in seconds since 1970.
    saved_at: AtomicU64,
    /// Incidents that the log has not told yet.
    pub(crate) incidents: Incidents,
    /// The error of the last compaction that a client asked for; `None` if it was done.
    compaction_error: Mutex<Option<String>>,
    /// How many saves were asked for and are not done.
    pub(crate) saves_asked: AtomicU64,
}

impl ServerSettings {
    pub(crate) fn new(
        listen: SocketAddr,
        directory: String,
        durability: Durability,
        limits: &Limits,
    ) -> Self {
        let idle_seconds = limits.idle.map_or(0, |idle| idle.as_secs().max(1));
        ServerSettings {
            listen,
            directory,
            durability,
            run_id: run_id(),
            began: Instant::now(),
            password: Mutex::default(),
            has_password: AtomicBool::new(false),
            memory_bytes_max: AtomicU64::new(0),
            sample: Mutex::default(),
            memory_bytes: AtomicU64::new(0),
            sampled_at_ms: AtomicU64::new(0),
            idle_seconds: AtomicU64::new(idle_seconds),
            connections_max: AtomicU64::new(limits.connections_max as u64),
            value_bytes_max: AtomicUsize::new(limits.session.value_bytes_max),
            request_bytes_max: AtomicUsize::new(limits.session.request_bytes_max),
            slow_micros: AtomicI64::new(10_000),
            slow_entries_max: AtomicU64::new(128),
            sweeps: AtomicBool::new(true),
            compaction_error: Mutex::default(),
            saves_asked: AtomicU64::new(0),
            incidents: Incidents::default(),
            saved_at: AtomicU64::new(process::unix_time().as_secs()),
        }
    }

    /// Notes how a compaction ended that a client asked for.
    pub(crate) fn compacted(&self, done: &Result<()>) {
        let error = done.as_ref().err().map(ToString::to_string);
        *self.compaction_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// The error of the last compaction that a client asked for, if it failed.
    pub(crate) fn compaction_error(&self) -> Option<String> {
        self.compaction_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether clients must give a password.
    pub(crate) fn has_password(&self) -> bool {
        self.has_password.load(Ordering::Acquire)
    }

    pub(crate) fn password(&self) -> Vec<u8> {
        self.password.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the password; an empty one is none.
    pub(crate) fn set_password(&self, password: &[u8]) {
        let mut kept = self.password.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = password.to_vec();
        self.has_password.store(!password.is_empty(), Ordering::Release);
    }

    /// Whether this is the password. How long it takes tells nothing but the length of the
    /// guess.
    pub(crate) fn is_password(&self, given: &[u8]) -> bool {
        let kept = self.password.lock().unwrap_or_else(PoisonError::into_inner);
        let mut differs = u8::from(kept.len() != given.len());
        for (at, byte) in given.iter().enumerate() {
            let expected = kept.get(at % kept.len().max(1)).copied().unwrap_or(0);
            differs |= byte ^ expected;
        }
        std::hint::black_box(differs) == 0
    }

    /// The memory at which writes that take more are refused, in bytes; 0 is no limit.
    pub(crate) fn memory_bytes_max(&self) -> u64 {
        self.memory_bytes_max.load(Ordering::Relaxed)
    }

    pub(crate) fn set_memory_bytes_max(&self, bytes: u64) {
        self.memory_bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// Whether writes that take memory are refused. Costs one load if there is no limit.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        let limit = self.memory_bytes_max();
        if limit == 0 {
            return false;
        }
        let age_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let sampled_at_ms = self.sampled_at_ms.load(Ordering::Relaxed);
        let is_old = age_ms - sampled_at_ms.min(age_ms) >= SAMPLE_AGE_MAX_MS;
        let in_use = match self.memory_bytes.load(Ordering::Relaxed) {
            bytes if bytes > 0 && !is_old => bytes,
            _ => {
                self.sampled_at_ms.store(age_ms, Ordering::Relaxed);
                self.memory().used_bytes
            }
        };
        in_use > limit
    }

    /// The memory in use, as it was at most 100 ms ago.
    pub(crate) fn memory(&self) -> Memory {
        let mut sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        match *sample {
            Some((at, memory)) if at.elapsed() < Duration::from_millis(SAMPLE_AGE_MAX_MS) => memory,
            _ => {
                let memory = process::memory();
                *sample = Some((Instant::now(), memory));
                self.memory_bytes.store(memory.used_bytes, Ordering::Relaxed);
                memory
            }
        }
    }

    /// How long a connection may say nothing, in seconds; 0 is for ever.
    pub(crate) fn idle_seconds(&self) -> u64 {
        self.idle_seconds.load(Ordering::Relaxed)
    }

    /// The same as a duration.
    pub(crate) fn idle(&self) -> Option<Duration> {
        let seconds = self.idle_seconds();
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    pub(crate) fn set_idle_seconds(&self, seconds: u64) {
        self.idle_seconds.store(seconds, Ordering::Relaxed);
    }

    /// Connections at a time.
    pub(crate) fn connections_max(&self) -> u64 {
        self.connections_max.load(Ordering::Relaxed)
    }

    pub(crate) fn set_connections_max(&self, connections: u64) {
        self.connections_max.store(connections, Ordering::Relaxed);
    }

    /// The largest value, in bytes.
    pub(crate) fn value_bytes_max(&self) -> usize {
        self.value_bytes_max.load(Ordering::Relaxed)
    }

    pub(crate) fn set_value_bytes_max(&self, bytes: usize) {
        self.value_bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// The longest request on the wire, in bytes.
    pub(crate) fn request_bytes_max(&self) -> usize {
        self.request_bytes_max.load(Ordering::Relaxed)
    }

    pub(crate) fn set_request_bytes_max(&self, bytes: usize) {
        self.request_bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// The limits of a conversation, with the ones that have changed while the server runs.
    pub(crate) fn session_limits(
        &self,
        limits: &aryavarth_protocol::Limits,
    ) -> aryavarth_protocol::Limits {
        aryavarth_protocol::Limits {
            value_bytes_max: self.value_bytes_max(),
            request_bytes_max: self.request_bytes_max(),
            ..*limits
        }
    }

    /// Takes note that everything that was written by now is on disk.
    pub(crate) fn saved(&self) {
        self.saved_at.fetch_max(process::unix_time().as_secs(), Ordering::Relaxed);
    }

    /// When all that was written was last known to be on disk, in seconds since 1970. That is now
    /// if nothing waits for a sync.
    pub(crate) fn saved_at(&self, stats: &Stats) -> u64 {
        if stats.durable_position >= stats.written_position {
            self.saved();
        }
        self.saved_at.load(Ordering::Relaxed)
    }
}

/// 160 bits that no other run has.
fn run_id() -> String {
    let state = RandomState::new();
    let [a, b, c] = [0_u32, 1, 2].map(|part| state.hash_one(part));
    format!("{a:016x}{b:016x}{:08x}", c >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ServerSettings {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        ServerSettings::new(listen, String::new(), Durability::Always, &Limits::default())
    }

    #[test]
    fn a_password_is_itself_and_nothing_else() {
        let settings = settings();
        assert!(!settings.has_password());
        settings.set_password(b"secret");
        assert!(settings.has_password());
        assert!(settings.is_password(b"secret"));
        for wrong in [&b""[..], b"secre", b"secretsecret", b"secreT", b"s"] {
            assert!(!settings.is_password(wrong), "{wrong:?}");
        }
        settings.set_password(b"");
        assert!(!settings.has_password());
    }

    #[test]
    fn a_limit_on_memory_is_compared_with_what_is_in_use() {
        let settings = settings();
        assert!(!settings.is_out_of_memory());
        settings.set_memory_bytes_max(u64::MAX);
        assert!(!settings.is_out_of_memory());
        settings.set_memory_bytes_max(1);
        assert_eq!(settings.is_out_of_memory(), settings.memory().used_bytes > 1);
    }

    #[test]
    fn every_run_has_an_id_of_its_own() {
        let (one, other) = (settings().run_id, settings().run_id);
        assert_eq!(one.len(), 40);
        assert!(one.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(one, other);
    }
}
