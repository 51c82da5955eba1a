//! A server in a process of its own, so that its time and memory are told apart from its clients'.
//!
//! The process loads its store, says its address in one line, and serves until its standard input
//! ends, which it does when the process that started it goes away, too.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use aryavarth::{Durability, KvStore, Options};
use aryavarth_server::{KvServer, SharedQueueThreadPool, ThreadPool};
use rustix::param::clock_ticks_per_second;
use tempfile::TempDir;

use crate::args::Args;
use crate::data::Values;
use crate::disk::sync_files;
use crate::engines::load_all;
use crate::figure::as_f64;
use crate::memory::status_bytes;
use crate::nothing::Nothing;
use crate::peers::kvs;
use crate::wire::{DONE, found};
use crate::{BoxError, Outcome};

pub(crate) const NOTHING: &str = "do-nothing server";
const OURS: &str = "aryavarth";
/// Acknowledges before a sync, and so shows what the syncs cost.
const UNSYNCED: &str = "aryavarth (not synced)";
pub(crate) const SERVERS: [&str; 3] = [NOTHING, OURS, UNSYNCED];

/// What all servers are started with.
pub(crate) struct Setup {
    pub(crate) keys: u64,
    pub(crate) value_bytes: usize,
    /// Of the pool.
    pub(crate) threads: u32,
    /// Where temporary directories are made.
    pub(crate) dir: String,
}

/// A server that runs; it is stopped when dropped.
pub(crate) struct ServerProcess {
    pub(crate) name: &'static str,
    pub(crate) addr: SocketAddr,
    child: Child,
    // Removed after the process has ended.
    dir: TempDir,
}

impl ServerProcess {
    /// Starts a server and waits until it has loaded its store. One that does nothing answers as
    /// sets are answered if `sets`, otherwise as gets.
    pub(crate) fn start(
        name: &'static str,
        sets: bool,
        setup: &Setup,
    ) -> Result<ServerProcess, BoxError> {
        let dir = tempfile::tempdir_in(&setup.dir)?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", "--server", name, "--sets", &sets.to_string()])
            .args(["--keys", &setup.keys.to_string()])
            .args(["--value-bytes", &setup.value_bytes.to_string()])
            .args(["--threads", &setup.threads.to_string(), "--dir"])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if let Ok(addr) = line.trim().parse() {
            return Ok(ServerProcess { name, addr, child, dir });
        }
        drop(child.stdin.take());
        let ended = child.wait()?;
        Err(format!("{name} said `{}` and ended with {ended}", line.trim()).into())
    }

    /// Processor time that the process has taken so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration, BoxError> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name, in parentheses, may contain anything. User and system time are the 14th and
        // 15th field, the 12th and 13th behind it.
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace());
        let ticks = fields.ok_or("no name in stat")?.skip(11).take(2).map(str::parse::<u64>);
        let ticks = ticks.sum::<Result<u64, _>>()?;
        Ok(Duration::from_secs_f64(as_f64(ticks) / as_f64(clock_ticks_per_second())))
    }

    /// Memory of the process that is in use now, pages of files that it maps included.
    pub(crate) fn resident_bytes(&self) -> Result<u64, BoxError> {
        status_bytes(&self.child.id().to_string(), "VmRSS:")
    }

    /// Writes to the disk what the server has left, so that it is not written in another's slice.
    pub(crate) fn sync(&self) -> io::Result<()> {
        sync_files(self.dir.path())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// The process itself.
pub(crate) fn run(args: &mut Args) -> Outcome {
    let name: String = args.take("server", String::new())?;
    let sets: bool = args.take("sets", false)?;
    let keys: u64 = args.take("keys", 0)?;
    let value_bytes: usize = args.take("value-bytes", 0)?;
    let threads: u32 = args.take("threads", 4)?;
    let dir: String = args.take("dir", String::new())?;
    args.finish()?;

    if name == NOTHING {
        let reply = if sets { DONE.to_owned() } else { found(value_bytes) };
        let server = Nothing::start(reply)?;
        writeln!(io::stdout(), "{}", server.addr)?;
        wait_for_the_end();
        return Ok(true);
    }
    let durability = if name == UNSYNCED { Durability::Os } else { Durability::Always };
    let options = Options { durability, ..Options::default() };
    let store = KvStore::open_with(Path::new(&dir), options)?;
    load_all(&kvs::of(store.clone()), keys, &Values::new(value_bytes))?;
    store.flush()?;
    let server = KvServer::new("127.0.0.1:0", store, SharedQueueThreadPool::new(threads)?)?;
    let handle = server.handle();
    thread::spawn(move || {
        wait_for_the_end();
        handle.shutdown();
    });
    writeln!(io::stdout(), "{}", server.local_addr())?;
    server.run()?;
    Ok(true)
}

fn wait_for_the_end() {
    // Whatever ends the input ends the server.
    drop(io::stdin().read_to_end(&mut Vec::new()));
}
