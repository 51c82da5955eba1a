//! A server in a process of its own, so that its time and memory are told apart from its clients'.
//!
//! The process loads its store, says in one line where it listens and which process serves, and ends
//! with its standard input, which ends when the process that started it goes away, too. Redis serves
//! in a process below it, so that this holds for redis as well.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use aryavarth::{Durability, KvStore, Options};
use aryavarth_server::{KvServer, SharedQueueThreadPool, ThreadPool};
use rustix::param::clock_ticks_per_second;
use tempfile::TempDir;

use crate::args::Args;
use crate::data::Values;
use crate::disk::sync_files;
use crate::figure::as_f64;
use crate::load::load_all;
use crate::memory::status_bytes;
use crate::nothing::{Each, Nothing};
use crate::outcome::{BoxError, Outcome};
use crate::peers::kvs;
use crate::redis_server::RedisServer;
use crate::resp;
use crate::wire::{DONE, Wire, found};

pub(crate) const NOTHING: &str = "do-nothing server";
pub(crate) const OURS: &str = "aryavarth";
/// Acknowledges before a sync, and so shows the cost of the syncs.
pub(crate) const UNSYNCED: &str = "aryavarth (not synced)";

/// The options of all servers.
pub(crate) struct Setup {
    pub(crate) keys: u64,
    pub(crate) value_bytes: usize,
    /// Of the pool.
    pub(crate) threads: u32,
    /// Where temporary directories are made.
    pub(crate) dir: String,
    /// The redis-server that is started as redis.
    pub(crate) redis: PathBuf,
}

/// A server that runs; it is stopped when dropped.
pub(crate) struct ServerProcess {
    pub(crate) name: &'static str,
    pub(crate) addr: SocketAddr,
    /// Of the process that serves.
    pub(crate) pid: u32,
    child: Child,
    // Removed after the process has ended.
    dir: TempDir,
}

impl ServerProcess {
    /// Starts a server and waits until it has loaded its store. One that does nothing answers as
    /// such requests are answered.
    pub(crate) fn start(
        name: &'static str,
        wire: Wire,
        setup: &Setup,
    ) -> Result<ServerProcess, BoxError> {
        let dir = tempfile::tempdir_in(&setup.dir)?;
        let (reply, request_bytes) = match wire {
            Wire::Json { sets: 0 } => (found(setup.value_bytes), 0),
            Wire::Json { .. } => (DONE.to_owned(), 0),
            Wire::Resp(operation) => {
                let values = Values::new(setup.value_bytes);
                (operation.least_reply(setup.value_bytes), operation.command_bytes(&values))
            }
        };
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", "--server", name])
            .args(["--reply", &reply, "--request-bytes", &request_bytes.to_string()])
            .args(["--keys", &setup.keys.to_string()])
            .args(["--value-bytes", &setup.value_bytes.to_string()])
            .args(["--threads", &setup.threads.to_string(), "--dir"])
            .arg(dir.path())
            .arg("--redis-server")
            .arg(&setup.redis)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if let Some((addr, pid)) = line.trim().split_once(' ')
            && let (Ok(addr), Ok(pid)) = (addr.parse(), pid.parse())
        {
            return Ok(ServerProcess { name, addr, pid, child, dir });
        }
        drop(child.stdin.take());
        let ended = child.wait()?;
        Err(format!("{name} said `{}` and ended with {ended}", line.trim()).into())
    }

    /// Processor time that the process has taken so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration, BoxError> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // The name, in parentheses, may contain anything. User and system time are the 14th and
        // 15th field, the 12th and 13th behind it.
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace());
        let ticks = fields.ok_or("no name in stat")?.skip(11).take(2).map(str::parse::<u64>);
        let ticks = ticks.sum::<Result<u64, _>>()?;
        Ok(Duration::from_secs_f64(as_f64(ticks) / as_f64(clock_ticks_per_second())))
    }

    /// Memory of the process that is in use now, pages of files that it maps included.
    pub(crate) fn resident_bytes(&self) -> Result<u64, BoxError> {
        status_bytes(&self.pid.to_string(), "VmRSS:")
    }

    /// Writes the server's unwritten data to the disk, so that it is not written in another's slice.
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
    let reply: String = args.take("reply", String::new())?;
    let request_bytes: usize = args.take("request-bytes", 0)?;
    let keys: u64 = args.take("keys", 0)?;
    let value_bytes: usize = args.take("value-bytes", 0)?;
    let threads: u32 = args.take("threads", 4)?;
    let dir: String = args.take("dir", String::new())?;
    let redis: String = args.take("redis-server", String::new())?;
    args.finish()?;

    if name == NOTHING {
        let each = if request_bytes == 0 { Each::Line } else { Each::Bytes(request_bytes) };
        let server = Nothing::start(reply, each)?;
        say(server.addr, process::id())?;
        wait_for_the_end();
        return Ok(true);
    }
    let values = Values::new(value_bytes);
    if let Some(server) = RedisServer::start(&name, Path::new(&redis), Path::new(&dir))? {
        resp::load(server.addr, keys, &values)?;
        say(server.addr, server.pid())?;
        wait_for_the_end();
        return Ok(true);
    }
    let durability = if name == UNSYNCED { Durability::Os } else { Durability::Always };
    let options = Options { durability, ..Options::default() };
    drop(aryavarth::fs::install_sigbus_guard());
    let store = KvStore::open_with(Path::new(&dir), options)?;
    load_all(&kvs::of(store.clone()), keys, &values)?;
    store.flush()?;
    let server = KvServer::new("127.0.0.1:0", store, SharedQueueThreadPool::new(threads)?)?;
    let handle = server.handle();
    thread::spawn(move || {
        wait_for_the_end();
        handle.shutdown();
    });
    say(server.local_addr(), process::id())?;
    server.run()?;
    Ok(true)
}

/// Says where a process serves.
fn say(addr: SocketAddr, pid: u32) -> io::Result<()> {
    writeln!(io::stdout(), "{addr} {pid}")
}

fn wait_for_the_end() {
    // Whatever ends the input ends the server.
    drop(io::stdin().read_to_end(&mut Vec::new()));
}
