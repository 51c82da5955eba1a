//! Scripts that are kept, by the hashes of their texts, and the first line of a script.
//!
//! Invariant: the cache has at most so many scripts and bytes; the least recently used leave.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::sha1::Hash;

/// The bytes that a script is counted for beside its text.
const SCRIPT_COST: usize = 256;
/// A script that has never run longer is short.
const SHORT: Duration = Duration::from_millis(1);

/// A script.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) hash: Hash,
    /// Its text without its first line, if that says the engine; the line break stays.
    pub(crate) source: Arc<[u8]>,
    first_line: Box<[u8]>,
    pub(crate) flags: ScriptFlags,
    /// The longest that it ran, in microseconds, and one; 0 if it has not run.
    longest_us: AtomicU64,
}

impl Script {
    /// The script of a text.
    ///
    /// # Errors
    /// The problem of its first line.
    pub(super) fn new(hash: Hash, text: &[u8]) -> Result<Script, String> {
        let (flags, skipped) = first_line(text)?;
        let (first_line, source) = text.split_at(skipped);
        let (first_line, source) = (first_line.into(), source.into());
        Ok(Script { hash, source, first_line, flags, longest_us: AtomicU64::new(0) })
    }

    /// Its whole text.
    pub(crate) fn text(&self) -> Vec<u8> {
        [&*self.first_line, &*self.source].concat()
    }

    /// The bytes that it is counted for.
    fn cost(&self) -> usize {
        self.first_line.len() + self.source.len() + SCRIPT_COST
    }

    /// Whether it may keep a thread for long: it did before, or has not run yet.
    pub(crate) fn is_long(&self) -> bool {
        let longest = self.longest_us.load(Ordering::Relaxed);
        longest == 0 || Duration::from_micros(longest) > SHORT
    }

    /// Takes note of a run.
    pub(crate) fn ran(&self, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        self.longest_us.fetch_max(time, Ordering::Relaxed);
    }
}

/// The flags of a script's first line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own in a script")]
pub(crate) struct ScriptFlags {
    /// There is a first line: what it does not allow is refused.
    pub(crate) declared: bool,
    pub(crate) no_writes: bool,
    pub(crate) allow_oom: bool,
    /// An error drops all that the script wrote before it.
    pub(crate) all_or_nothing: bool,
}

/// The flags of a text, and how long its first line is if it is one.
fn first_line(text: &[u8]) -> Result<(ScriptFlags, usize), String> {
    let mut flags = ScriptFlags::default();
    if !text.starts_with(b"#!") {
        return Ok((flags, 0));
    }
    let end = text.iter().position(|byte| *byte == b'\n').ok_or("Invalid script shebang")?;
    let line = String::from_utf8_lossy(&text[..end]);
    let mut words = line.split_ascii_whitespace();
    match words.next() {
        Some("#!lua") => {}
        Some(other) => return Err(format!("Unexpected engine in script shebang: {other}")),
        None => return Err("Invalid engine in script shebang".to_owned()),
    }
    flags.declared = true;
    for word in words {
        let Some(names) = word.strip_prefix("flags=") else {
            return Err(format!("Unknown lua shebang option: {word}"));
        };
        for name in names.split(',') {
            match name {
                "no-writes" => flags.no_writes = true,
                "allow-oom" => flags.allow_oom = true,
                "all-or-nothing" => flags.all_or_nothing = true,
                // There is no cluster, and no replica whose data could be old.
                "allow-stale" | "no-cluster" | "allow-cross-slot-keys" => {}
                other => return Err(format!("Unexpected flag in script shebang: {other}")),
            }
        }
    }
    Ok((flags, end))
}

#[derive(Debug, Default)]
struct Kept {
    scripts: HashMap<Hash, (Arc<Script>, u64)>,
    bytes: usize,
    /// Counts uses, to tell the least recent.
    uses: u64,
}

/// Scripts by their hashes.
#[derive(Debug)]
pub(super) struct Cache {
    kept: Mutex<Kept>,
    scripts_max: usize,
    bytes_max: usize,
}

impl Cache {
    pub(super) fn new(scripts_max: usize, bytes_max: usize) -> Self {
        Cache { kept: Mutex::default(), scripts_max, bytes_max }
    }

    /// Keeps a script that compiles.
    pub(super) fn keep(&self, script: &Arc<Script>) {
        let cost = script.cost();
        if cost > self.bytes_max {
            return;
        }
        let mut kept = self.lock();
        kept.uses += 1;
        let uses = kept.uses;
        if kept.scripts.insert(script.hash, (Arc::clone(script), uses)).is_none() {
            kept.bytes += cost;
        }
        while kept.scripts.len() > self.scripts_max || kept.bytes > self.bytes_max {
            let oldest = kept.scripts.iter().min_by_key(|(_, (_, used))| *used);
            let Some(hash) = oldest.map(|(hash, _)| *hash) else { break };
            if let Some((gone, _)) = kept.scripts.remove(&hash) {
                kept.bytes -= gone.cost();
            }
        }
    }

    pub(super) fn find(&self, hash: Hash) -> Option<Arc<Script>> {
        let mut kept = self.lock();
        kept.uses += 1;
        let uses = kept.uses;
        let (script, used) = kept.scripts.get_mut(&hash)?;
        *used = uses;
        Some(Arc::clone(script))
    }

    pub(super) fn has(&self, hash: Hash) -> bool {
        self.lock().scripts.contains_key(&hash)
    }

    pub(super) fn flush(&self) {
        let mut kept = self.lock();
        kept.scripts.clear();
        kept.bytes = 0;
    }

    pub(super) fn size(&self) -> (usize, usize) {
        let kept = self.lock();
        (kept.scripts.len(), kept.bytes)
    }

    /// Nothing panics under the lock, so a poisoned one is whole.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(cache: &Cache, text: &str) -> Hash {
        let hash = Hash::of(text.as_bytes());
        let script = Script::new(hash, text.as_bytes()).expect("it has no first line");
        cache.keep(&Arc::new(script));
        hash
    }

    #[test]
    fn the_least_recently_used_script_leaves() {
        let cache = Cache::new(2, 1 << 20);
        let (one, two) = (keep(&cache, "return 1"), keep(&cache, "return 2"));
        assert!(cache.find(one).is_some());
        let three = keep(&cache, "return 3");
        assert!(cache.has(one) && !cache.has(two) && cache.has(three));
        cache.flush();
        assert_eq!(cache.size(), (0, 0));
    }

    #[test]
    fn the_cache_counts_bytes_too() {
        let cache = Cache::new(1000, 4096);
        let large = keep(&cache, &"-".repeat(5000));
        assert!(!cache.has(large), "it would take more than all");
        let one = keep(&cache, &"-".repeat(2000));
        let two = keep(&cache, &"=".repeat(2000));
        assert!(!cache.has(one) && cache.has(two));
        assert_eq!(cache.size(), (1, 2000 + SCRIPT_COST));
        // The first line is kept too, and was not counted.
        keep(&cache, &format!("#!lua{}\n", " ".repeat(3000)));
        assert_eq!(cache.size(), (1, 3006 + SCRIPT_COST));
    }

    #[test]
    fn the_first_line_says_the_flags() {
        let flags = |line: &str| first_line(line.as_bytes());
        let no_writes = ScriptFlags { declared: true, no_writes: true, ..ScriptFlags::default() };
        assert_eq!(flags("#!lua flags=no-writes,allow-stale\nreturn 1"), Ok((no_writes, 33)));
        assert_eq!(flags("return 1"), Ok((ScriptFlags::default(), 0)));
        assert_eq!(flags("#!lua"), Err("Invalid script shebang".to_owned()));
        for (line, error) in [
            ("#!js\n", "Unexpected engine in script shebang: #!js"),
            ("#!lua flags=no\n", "Unexpected flag in script shebang: no"),
            ("#!lua name=x\n", "Unknown lua shebang option: name=x"),
        ] {
            assert_eq!(flags(line), Err(error.to_owned()));
        }
    }
}
