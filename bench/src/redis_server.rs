//! Debian's redis-server: where it is, and how it is started.
//!
//! It is taken from the `PATH`, or from where the tests of real clients unpack it. It gets no
//! configuration but the one that its name here says, listens on loopback, and ends with its handle.

use std::env;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::outcome::BoxError;
use crate::resp;

/// Keeps its data in memory alone.
pub(crate) const REDIS: &str = "redis (no persistence)";
/// Acknowledges after a sync, as we do.
pub(crate) const REDIS_SYNCED: &str = "redis (fsync always)";

const START_TIME_MAX: Duration = Duration::from_secs(30);
/// Redis takes no port 0, so another process may take the port that was free.
const START_ATTEMPTS: usize = 5;

/// The arguments of a system of that name; none if it is not redis.
fn persistence(system: &str) -> Option<&'static [&'static str]> {
    match system {
        REDIS => Some(&["--appendonly", "no"]),
        // A rewrite of its log would run in the slices of others.
        REDIS_SYNCED => Some(&[
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--auto-aof-rewrite-percentage",
            "0",
        ]),
        _ => None,
    }
}

/// The program at `path`; with an empty path the one in the `PATH`, or else the unpacked one.
/// Also says its version.
pub(crate) fn find(path: &str) -> Result<(PathBuf, String), BoxError> {
    let places = if path.is_empty() {
        let unpacked = env::current_exe()?;
        let output = unpacked.parent().and_then(Path::parent).unwrap_or(Path::new("."));
        vec!["redis-server".into(), output.join("real-parts/debian/usr/bin/redis-server")]
    } else {
        vec![PathBuf::from(path)]
    };
    let found = places.iter().find_map(|place| {
        let output = command(place).arg("--version").output().ok()?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then(|| (place.clone(), version))
    });
    Ok(found.ok_or_else(|| {
        let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        format!(
            "no redis-server runs as {}; install it (Debian: apt-get install redis-server), unpack \
             it there, or name another with --redis-server PATH",
            places.join(" or ")
        )
    })?)
}

/// The program, with the libraries that were unpacked beside it.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    let root = program.ancestors().nth(3).filter(|root| root.ends_with("real-parts/debian"));
    if let Some(root) = root {
        let libraries = root.join("usr/lib");
        let folders = fs::read_dir(&libraries).into_iter().flatten().flatten();
        let folders = folders.map(|entry| entry.path()).filter(|path| path.is_dir());
        let folders = folders.chain([libraries.clone()]).map(|path| path.display().to_string());
        command.env("LD_LIBRARY_PATH", folders.collect::<Vec<_>>().join(":"));
    }
    command
}

/// A redis-server that runs; it is killed when dropped.
pub(crate) struct RedisServer {
    pub(crate) addr: SocketAddr,
    child: Child,
}

impl RedisServer {
    /// Starts the program on an empty directory and waits until it answers.
    pub(crate) fn start(
        system: &str,
        program: &Path,
        dir: &Path,
    ) -> Result<Option<RedisServer>, BoxError> {
        let Some(persistence) = persistence(system) else { return Ok(None) };
        for _ in 0..START_ATTEMPTS {
            let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            let child = command(program)
                .args(["--bind", "127.0.0.1", "--port", &addr.port().to_string()])
                .args(["--save", "", "--dir"])
                .arg(dir)
                .args(persistence)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()?;
            let mut server = RedisServer { addr, child };
            if server.answers()? {
                return Ok(Some(server));
            }
        }
        Err(format!("{system} ended {START_ATTEMPTS} times when it was started").into())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it answers; false if it has ended.
    fn answers(&mut self) -> Result<bool, BoxError> {
        // Another redis may have taken the port meanwhile.
        let itself = format!("process_id:{}\r\n", self.pid());
        let start = Instant::now();
        while start.elapsed() < START_TIME_MAX {
            if self.child.try_wait()?.is_some() {
                return Ok(false);
            }
            if resp::info(self.addr).is_ok_and(|info| info.contains(&itself)) {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err("redis-server does not answer".into())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
