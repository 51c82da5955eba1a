//! The anonymous memory of one system: measured in a process of its own, which `engines` starts.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::args::Args;
use crate::data::{Rng, Values, key};
use crate::load::load_all;
use crate::outcome::{BoxError, Outcome};
use crate::peers::{SYSTEMS, System};

/// Starts the process and waits for its answer: the bytes that it has taken since it began. In an
/// empty directory it loads all keys; in one that is not empty it opens the store and gets keys at
/// random.
pub(crate) fn measure(
    system: &System,
    keys: u64,
    value_bytes: usize,
    dir: &Path,
) -> Result<f64, BoxError> {
    let output = Command::new(std::env::current_exe()?)
        .args(["memory", "--system", system.name])
        .args(["--keys", &keys.to_string(), "--value-bytes", &value_bytes.to_string()])
        .arg("--dir")
        .arg(dir)
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let wrong = |_| format!("the process of {} said `{text}`", system.name);
    Ok(text.trim().parse().map_err(wrong)?)
}

/// The process itself.
pub(crate) fn run(args: &mut Args) -> Outcome {
    let name: String = args.take("system", String::new())?;
    let keys: u64 = args.take("keys", 0)?;
    let value_bytes: usize = args.take("value-bytes", 0)?;
    let dir: String = args.take("dir", String::new())?;
    args.finish()?;
    let system = SYSTEMS.iter().find(|system| system.name == name).ok_or("no such system")?;
    let dir = Path::new(&dir);

    let values = Values::new(value_bytes);
    let is_new = fs::read_dir(dir)?.next().is_none();
    let before = anonymous_bytes()?;
    let peer = (system.open)(dir)?;
    if is_new {
        load_all(&*peer, keys, &values)?;
    } else {
        let (mut rng, mut value) = (Rng::new(1), Vec::new());
        for _ in 0..keys {
            peer.get(&key(rng.below(keys)), &mut value)?;
        }
    }
    let taken = anonymous_bytes()?.saturating_sub(before);
    writeln!(io::stdout(), "{taken}")?;
    Ok(true)
}

/// The resident memory of this process that is no file's.
fn anonymous_bytes() -> Result<u64, BoxError> {
    status_bytes("self", "RssAnon:")
}

/// A field of the system's report on a process, in bytes.
pub(crate) fn status_bytes(process: &str, field: &str) -> Result<u64, BoxError> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.ok_or_else(|| format!("no {field} of {process}"))?.trim().parse::<u64>()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_touched_is_counted() {
        let before = anonymous_bytes().unwrap();
        let touched = vec![1_u8; 32 << 20];
        assert!(anonymous_bytes().unwrap() >= before + (16 << 20));
        drop(touched);
    }
}
