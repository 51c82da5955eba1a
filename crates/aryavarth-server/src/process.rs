//! The system's figures of this process: memory, processor time, clock. Zero where the system has none.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Ticks of processor time in a second, as Linux counts them for programs on every machine that
/// this runs on.
const TICKS_PER_SECOND: u64 = 100;

/// The memory that the process takes.
#[expect(clippy::struct_field_names, reason = "the unit stands last in a name")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Memory of its own: without the pages of its files, which the system takes back when it needs them.
    pub(crate) used_bytes: u64,
    /// All that it has in memory.
    pub(crate) resident_bytes: u64,
    /// The most that it had.
    pub(crate) peak_bytes: u64,
}

/// Samples the memory in use.
pub(crate) fn memory() -> Memory {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    Memory {
        used_bytes: kilobytes(&status, "RssAnon:"),
        resident_bytes: kilobytes(&status, "VmRSS:"),
        peak_bytes: kilobytes(&status, "VmHWM:"),
    }
}

/// The memory of the machine, in bytes.
pub(crate) fn machine_memory_bytes() -> u64 {
    kilobytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal:")
}

/// The value of a line like `VmRSS:   1234 kB`, in bytes.
fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let number = line.split_ascii_whitespace().next().unwrap_or_default();
    number.parse::<u64>().unwrap_or(0).saturating_mul(1024)
}

/// Processor time in the system and in the program itself; first of this process, then of the
/// children that it has waited for.
pub(crate) fn processor_times() -> [Duration; 4] {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold anything; the numbers follow its end.
    let numbers = stat.rsplit_once(')').map_or("", |(_, numbers)| numbers);
    let ticks = |place: usize| {
        let number = numbers.split_ascii_whitespace().nth(place).unwrap_or_default();
        let ticks = number.parse::<u64>().unwrap_or(0);
        Duration::from_millis(ticks.saturating_mul(1000) / TICKS_PER_SECOND)
    };
    [ticks(12), ticks(11), ticks(14), ticks(13)]
}

/// The time since 1970 by the machine's clock.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The name and version of the system, as `Linux 6.1.0 x86_64`.
pub(crate) fn system() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut name = std::env::consts::OS.to_owned();
    name[..1].make_ascii_uppercase();
    let arch = std::env::consts::ARCH;
    let words = [&name, release.trim(), arch];
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_system_are_read_in_bytes() {
        let text = "VmHWM:\t    2048 kB\nVmRSS:\t     1024 kB\n";
        assert_eq!(kilobytes(text, "VmRSS:"), 1 << 20);
        assert_eq!(kilobytes(text, "RssAnon:"), 0);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_takes_memory() {
        let memory = memory();
        assert!(memory.used_bytes > 0);
        assert!(memory.resident_bytes <= memory.peak_bytes);
        assert!(machine_memory_bytes() > memory.resident_bytes);
    }
}
