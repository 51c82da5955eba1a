//! The cost of commands: counts and times of each, errors by their kind, and the slow ones.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aryavarth::Position;
use aryavarth_protocol::Command;

use super::ClientHandle;
use crate::process;

/// Powers of two of a microsecond that times are sorted by; the last is for all that is longer.
const BUCKETS: usize = 32;
/// Kinds of errors that are told apart; clients cannot make up more.
const ERROR_KINDS_MAX: usize = 128;
/// Bytes of the word that tells kinds apart. `DEBUG ERROR` makes up longer ones.
const ERROR_KIND_BYTES_MAX: usize = 64;
/// The arguments that the slow log keeps of a command, as Redis does.
const SLOW_ARGS_MAX: usize = 32;
const SLOW_ARG_BYTES_MAX: usize = 128;
/// How far apart the ends of a sample of the rate are, at least.
const RATE_SPAN_MIN: Duration = Duration::from_millis(100);

/// The cost of a command so far. On cache lines of its own, since each call writes it.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct CommandCounts {
    pub(crate) calls: AtomicU64,
    pub(crate) nanos: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) rejected: AtomicU64,
    /// Calls that took at most 2^i microseconds and more than 2^(i-1).
    pub(crate) buckets: [AtomicU64; BUCKETS],
}

/// How long replies waited for the disk: no time of their commands.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    count: AtomicU64,
    nanos: AtomicU64,
    longest_nanos: AtomicU64,
}

impl Waits {
    /// A reply that has waited.
    pub(crate) fn count(&self, waited: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.add(waited);
    }

    /// A part of the wait of a reply that is counted, or will be.
    pub(crate) fn add(&self, waited: Duration) {
        let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        if nanos > self.longest_nanos.load(Ordering::Relaxed) {
            self.longest_nanos.fetch_max(nanos, Ordering::Relaxed);
        }
    }

    /// Replies that waited, all their waits and the longest, in microseconds.
    pub(crate) fn read(&self) -> (u64, u64, u64) {
        let [count, nanos, longest] = [&self.count, &self.nanos, &self.longest_nanos]
            .map(|figure| figure.load(Ordering::Relaxed));
        (count, nanos / 1000, longest / 1000)
    }

    fn reset(&self) {
        for figure in [&self.count, &self.nanos, &self.longest_nanos] {
            figure.store(0, Ordering::Relaxed);
        }
    }
}

/// A slow command.
#[derive(Clone, Debug)]
pub(crate) struct Slow {
    pub(crate) id: u64,
    /// When it was run, in seconds since 1970.
    pub(crate) at: u64,
    pub(crate) micros: u64,
    pub(crate) args: Vec<Vec<u8>>,
    pub(crate) peer: String,
    pub(crate) name: Vec<u8>,
    /// The position that must be durable before any client hears of it.
    pub(crate) position: Position,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Statistics {
    commands: Vec<CommandCounts>,
    errors: Mutex<BTreeMap<String, u64>>,
    slow: Mutex<SlowLog>,
    rate: Mutex<Rate>,
    pub(crate) waits: Waits,
}

#[derive(Debug, Default)]
struct SlowLog {
    next_id: u64,
    entries: VecDeque<Slow>,
}

/// Calls by then, and the rate that was seen last.
#[derive(Debug)]
struct Rate {
    at: Instant,
    calls: u64,
    per_second: u64,
}

impl Statistics {
    /// Nothing counted yet, of so many commands.
    pub(super) fn new(commands: usize) -> Self {
        Statistics {
            commands: (0..commands).map(|_| CommandCounts::default()).collect(),
            errors: Mutex::default(),
            slow: Mutex::default(),
            rate: Mutex::new(Rate { at: Instant::now(), calls: 0, per_second: 0 }),
            waits: Waits::default(),
        }
    }

    /// A call of the command with this number.
    pub(super) fn count(&self, number: usize, took: Duration, failed: bool) {
        let Some(counts) = self.commands.get(number) else { return };
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        counts.calls.fetch_add(1, Ordering::Relaxed);
        counts.nanos.fetch_add(nanos, Ordering::Relaxed);
        counts.buckets[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
        if failed {
            counts.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A call that was refused before it ran.
    pub(crate) fn count_rejected(&self, number: usize) {
        if let Some(counts) = self.commands.get(number) {
            counts.rejected.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An error that a client hears.
    pub(crate) fn count_error(&self, text: &[u8]) {
        let kind = text.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let kind = if kind.len() <= ERROR_KIND_BYTES_MAX { kind } else { b"OTHER" };
        let kind = &*String::from_utf8_lossy(kind);
        let mut errors = lock(&self.errors);
        if let Some(count) = errors.get_mut(kind) {
            *count += 1;
        } else if errors.len() < ERROR_KINDS_MAX {
            errors.insert(kind.to_owned(), 1);
        }
    }

    /// Errors by the first word of their text.
    pub(crate) fn errors(&self) -> BTreeMap<String, u64> {
        lock(&self.errors).clone()
    }

    /// The cost of each command, by its number.
    pub(crate) fn commands(&self) -> &[CommandCounts] {
        &self.commands
    }

    /// Calls in all.
    pub(crate) fn calls(&self) -> u64 {
        self.commands.iter().map(|counts| counts.calls.load(Ordering::Relaxed)).sum()
    }

    /// Calls per second since this was last asked, or over the last 100 ms that were asked for.
    pub(crate) fn calls_per_second(&self) -> u64 {
        let calls = self.calls();
        let mut rate = lock(&self.rate);
        let span = rate.at.elapsed();
        if span >= RATE_SPAN_MIN {
            let more = u128::from(calls.saturating_sub(rate.calls));
            let per_second = more * 1000 / span.as_millis().max(1);
            rate.per_second = u64::try_from(per_second).unwrap_or(u64::MAX);
            (rate.at, rate.calls) = (Instant::now(), calls);
        }
        rate.per_second
    }

    /// Forgets all but the slow commands.
    pub(crate) fn reset(&self) {
        for counts in &self.commands {
            let CommandCounts { calls, nanos, failed, rejected, buckets } = counts;
            for count in [calls, nanos, failed, rejected].into_iter().chain(buckets) {
                count.store(0, Ordering::Relaxed);
            }
        }
        lock(&self.errors).clear();
        self.waits.reset();
        *lock(&self.rate) = Rate { at: Instant::now(), calls: 0, per_second: 0 };
    }

    /// Keeps a command that took long, and as many before it as may be kept.
    pub(super) fn keep_slow(
        &self,
        client: &ClientHandle,
        (command, position): (&Command, Position),
        took: Duration,
        entries_max: u64,
    ) {
        let entries_max = usize::try_from(entries_max).unwrap_or(usize::MAX);
        let args = shortened(command);
        let name = client.names().name.clone();
        let mut slow = lock(&self.slow);
        let id = slow.next_id;
        slow.next_id += 1;
        slow.entries.push_front(Slow {
            id,
            at: process::unix_time().as_secs(),
            micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            args,
            peer: client.peer().to_string(),
            name,
            position,
        });
        slow.entries.truncate(entries_max);
    }

    /// The slow commands, the newest first, at most so many.
    pub(crate) fn slow(&self, entries_max: usize) -> Vec<Slow> {
        lock(&self.slow).entries.iter().take(entries_max).cloned().collect()
    }

    /// How many slow commands are kept.
    pub(crate) fn slow_count(&self) -> usize {
        lock(&self.slow).entries.len()
    }

    pub(crate) fn forget_slow(&self) {
        lock(&self.slow).entries.clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bucket of a time: the first power of two of a microsecond that is not below it.
fn bucket(nanos: u64) -> usize {
    let micros = nanos.div_ceil(1000).max(1);
    let bits = u64::BITS - (micros - 1).leading_zeros();
    (bits as usize).min(BUCKETS - 1)
}

/// A command's arguments as the slow log keeps them.
fn shortened(command: &Command) -> Vec<Vec<u8>> {
    let len = command.len();
    let secrets = secrets(command);
    let kept = if len > SLOW_ARGS_MAX { SLOW_ARGS_MAX - 1 } else { len };
    let mut args: Vec<Vec<u8>> = (0..kept)
        .map(|at| {
            let arg = command.get(at).unwrap_or_default();
            if secrets.contains(&at) {
                return b"(redacted)".to_vec();
            }
            let mut kept = arg[..arg.len().min(SLOW_ARG_BYTES_MAX)].to_vec();
            if arg.len() > SLOW_ARG_BYTES_MAX {
                let more = arg.len() - SLOW_ARG_BYTES_MAX;
                kept.extend_from_slice(format!("... ({more} more bytes)").as_bytes());
            }
            kept
        })
        .collect();
    if kept < len {
        args.push(format!("... ({} more arguments)", len - kept).into_bytes());
    }
    args
}

/// The arguments of a command that no other client may see.
pub(super) fn secrets(command: &Command) -> Vec<usize> {
    let len = command.len();
    let is =
        |at: usize, word: &[u8]| command.get(at).is_some_and(|arg| arg.eq_ignore_ascii_case(word));
    if is(0, b"auth") {
        return (1..len).collect();
    }
    if is(0, b"hello") {
        let auth = (2..len).find(|at| is(*at, b"auth"));
        return auth.map_or(Vec::new(), |at| (at + 1..len.min(at + 3)).collect());
    }
    if is(0, b"config") && is(1, b"set") {
        let named = (2..len).step_by(2).filter(|at| is(*at, b"requirepass"));
        return named.map(|at| at + 1).filter(|at| *at < len).collect();
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_sorted_by_powers_of_two() {
        for (nanos, expected) in
            [(0, 0), (1000, 0), (1001, 1), (2000, 1), (2001, 2), (4000, 2), (4001, 3)]
        {
            assert_eq!(bucket(nanos), expected, "{nanos} ns");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn the_slow_log_keeps_32_arguments_of_128_bytes() {
        let args = (0..40).map(|at| if at == 1 { "x".repeat(130) } else { at.to_string() });
        let kept = shortened(&Command::from_args(args));
        assert_eq!(kept.len(), 32);
        assert_eq!(kept[1], format!("{}... (2 more bytes)", "x".repeat(128)).into_bytes());
        assert_eq!(kept[31], b"... (9 more arguments)");
        let all = shortened(&Command::from_args((0..32).map(|at| at.to_string())));
        assert_eq!(all[31], b"31");
    }

    #[test]
    fn errors_are_counted_by_their_first_word_and_cannot_grow_without_end() {
        let statistics = Statistics::new(1);
        statistics.count_error(b"ERR this");
        statistics.count_error(b"ERR that");
        for at in 0..1000 {
            statistics.count_error(format!("E{at}").as_bytes());
        }
        assert_eq!(statistics.errors()["ERR"], 2);
        assert_eq!(statistics.errors().len(), ERROR_KINDS_MAX);
        // DEBUG ERROR says whatever the client wants.
        statistics.reset();
        statistics.count_error("\u{20ac}".repeat(1 << 20).as_bytes());
        assert!(statistics.errors().keys().all(|kind| kind.len() <= ERROR_KIND_BYTES_MAX));
    }
}
