//! Options of an open: the price of each choice, and the loss that a crash then brings.
//!
//! File system, clock and seed are options too, so that a test can replace everything outside the
//! engine and repeat a run exactly.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{KvsError, Result};
use crate::events::Events;
use crate::fs::{Fs, RealFs};
use crate::sync::Arc;

/// The longest key in bytes.
pub const KEY_BYTES_MAX: usize = 65_535;

/// The largest value that the format can hold, in bytes.
pub const VALUE_BYTES_MAX: usize = 512 << 20;

/// When a write (or a read that saw it) may be answered.
///
/// The data has no level: handles of different levels can share a store. In every level a crash of
/// the process alone (`kill -9`) loses nothing acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After a sync that covers it. Costs one sync per group of waiting callers; a power cut loses
    /// nothing acknowledged.
    #[default]
    Always,
    /// As soon as it is in the system's page cache, with a sync at most this many milliseconds
    /// later (1 to 1,000). A power cut loses at most that much, always from the end.
    Interval(u32),
    /// As soon as it is in the system's page cache, with a sync every second or 8 MiB. A power cut
    /// loses at most that, always from the end.
    Os,
}

impl Durability {
    /// The longest time until a sync starts, in milliseconds.
    pub(crate) fn delay_ms(self) -> u64 {
        match self {
            Durability::Always => 0,
            Durability::Interval(ms) => u64::from(ms.clamp(1, 1000)),
            Durability::Os => 1000,
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Durability::Always => f.write_str("always"),
            Durability::Interval(ms) => write!(f, "interval:{ms}"),
            Durability::Os => f.write_str("os"),
        }
    }
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("`{text}` is not one of always, interval:MS (1 to 1000), os");
        match text {
            "always" => Ok(Durability::Always),
            "os" => Ok(Durability::Os),
            _ => {
                let ms = text.strip_prefix("interval:").and_then(|ms| ms.parse().ok());
                match ms {
                    Some(ms @ 1..=1000) => Ok(Durability::Interval(ms)),
                    _ => Err(wanted()),
                }
            }
        }
    }
}

/// Where the store takes the time from.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Milliseconds since 1970, by a clock that people and programs may set.
    fn now_ms(&self) -> u64;

    /// Milliseconds since any moment, by a clock that is never set and counts on while the machine
    /// sleeps. By it a store sees that the other clock was set, and its deadlines stay right. `None`
    /// if there is none: then the other clock is believed wherever it goes on, and stands where it
    /// goes back.
    fn elapsed_ms(&self) -> Option<u64> {
        None
    }
}

/// The system's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn elapsed_ms(&self) -> Option<u64> {
        #[cfg(target_os = "linux")]
        let clock = rustix::time::ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let clock = rustix::time::ClockId::Monotonic;
        let time = rustix::time::clock_gettime(clock);
        let (seconds, nanoseconds) = (time.tv_sec, time.tv_nsec);
        Some(seconds.cast_unsigned() * 1000 + nanoseconds.cast_unsigned() / 1_000_000)
    }
}

/// How to open a [`KvStore`](crate::KvStore).
///
/// ```
/// use aryavarth::{Durability, Options};
///
/// let options = Options { durability: Durability::Interval(10), ..Options::default() };
/// assert_eq!(options.value_bytes_max, 64 << 20);
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    /// When calls of this handle return. Default: [`Durability::Always`].
    pub durability: Durability,
    /// The largest value accepted, in bytes; at most 512 MiB. Default: 64 MiB.
    pub value_bytes_max: usize,
    /// The largest batch accepted, in bytes of its encoded records: one batch is one append, and
    /// writers wait for each other's appends. Default: 128 MiB.
    pub batch_bytes_max: usize,
    /// The smallest size at which the active segment is sealed, in bytes. The limit grows with the
    /// live data (a sixteenth of it). Default: 1 MiB. Small values are for tests.
    pub segment_bytes_min: u64,
    /// The largest size at which the active segment is sealed, in bytes, at most 1 GiB. Default:
    /// 1 GiB.
    pub segment_bytes_max: u64,
    /// The most that the store maps of its files into memory, newest first, in bytes; 0 maps nothing.
    /// Reads of mapped records make no call of the system. Mapped pages belong to the system's cache, which
    /// takes them back when it needs memory. Nothing is mapped without
    /// [`install_sigbus_guard`](crate::fs::install_sigbus_guard), which says why, and never more than half
    /// of the memory that the process can have. Orchestrators that count active file pages count mapped ones.
    /// Choose 0 where the directory lies on a file system
    /// whose mappings do not show written bytes at once, as some over a network do. Default: no other limit
    /// than that.
    pub map_bytes_max: u64,
    /// How fast the store reads its sealed files in the background to compare their checksums, in
    /// bytes per second; 0 does not. A pass begins a minute after the open and
    /// a day after the last one. Default: 4 MiB, which reads a terabyte in three days and takes
    /// less than a fiftieth of a slow disk's rate.
    pub scrub_bytes_per_second: u64,
    /// Whether the store runs its own threads for syncs, allocation, compaction and scrubbing. Off,
    /// the caller runs [`KvStore::step`](crate::KvStore::step), which tests use to repeat a run.
    pub background: bool,
    /// A listener for changes of the store's state, such as a full disk. Default: none.
    pub events: Events,
    /// The file system.
    pub fs: Arc<dyn Fs>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The seed of everything random: the salts of files.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            durability: Durability::Always,
            value_bytes_max: 64 << 20,
            batch_bytes_max: 128 << 20,
            segment_bytes_min: 1 << 20,
            segment_bytes_max: 1 << 30,
            map_bytes_max: u64::MAX,
            scrub_bytes_per_second: 4 << 20,
            background: true,
            events: Events::default(),
            fs: Arc::new(RealFs),
            clock: Arc::new(SystemClock),
            seed: RandomState::new().hash_one(0x5eed),
        }
    }
}

impl Options {
    /// Says which option makes no sense, if any.
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(KvsError::InvalidOption(what));
        if self.value_bytes_max > VALUE_BYTES_MAX {
            return wrong(format!("value_bytes_max is over {VALUE_BYTES_MAX}"));
        }
        if self.batch_bytes_max < self.value_bytes_max {
            return wrong("batch_bytes_max is under value_bytes_max".to_owned());
        }
        if self.batch_bytes_max > 2 * VALUE_BYTES_MAX {
            return wrong(format!("batch_bytes_max is over {}", 2 * VALUE_BYTES_MAX));
        }
        if self.segment_bytes_min < 4096 || self.segment_bytes_max > 1 << 30 {
            return wrong(
                "segment_bytes_min is under 4 KiB or segment_bytes_max over 1 GiB".into(),
            );
        }
        if self.segment_bytes_min > self.segment_bytes_max {
            return wrong("segment_bytes_min is over segment_bytes_max".to_owned());
        }
        if let Durability::Interval(ms) = self.durability
            && !(1..=1000).contains(&ms)
        {
            return wrong(format!("an interval of {ms} ms; 1 to 1000 are possible"));
        }
        Ok(())
    }
}
