//! The server: accepts connections, bounds them, and drains them when it stops.
//!
//! Invariants:
//! - A stopped server has answered every request that it read, as far as the drain limit allows.
//! - One connection's trouble (too many, gone, broken) never ends the accept loop.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use aryavarth::KvsEngine;
use aryavarth_protocol::Session;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, sleep, timeout};
use tracing::info;

use crate::budget::{Budget, OutputBudget};
use crate::clients::{ClientHandle, Clients};
use crate::commands::registry::registry;
use crate::commands::{ClientState, ServerContext};
use crate::connection::{Connection, close};
use crate::counters::{Counters, LiveCounters, count};
use crate::error::{Result, ServerError};
use crate::limits::Limits;
use crate::script::Scripts;
use crate::settings::ServerSettings;
use crate::shared::Shared;
use crate::signals;
use crate::thread_pool::ThreadPool;
use crate::upkeep::{MemoryHooks, Upkeep};

/// Threads that drive the sockets. Two serve more than one engine's log takes.
const SOCKET_THREADS: usize = 2;
/// Refusals that are being said at a time; above it, connections are closed without a word.
const REFUSALS_MAX: usize = 256;
/// How long a client that is refused has for its first byte, which shows its protocol.
const REFUSAL_WAIT: Duration = Duration::from_secs(1);
/// How much of its input is looked at for that.
const REFUSAL_PEEK_BYTES: usize = 64;
/// The pause after the system could not hand over a connection, for want of descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often memory that is not needed is looked for.
const UPKEEP_PERIOD: Duration = Duration::from_secs(1);

/// How a server runs.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Bounds of the memory, threads and time that strangers can take.
    pub limits: Limits,
    /// The password that clients give first; empty: none. With a password only the Redis
    /// protocol is spoken, since JSON has no way to say it. Default: empty.
    pub password: Vec<u8>,
    /// Memory of the process from which on writes that take more are refused, in bytes; nothing is
    /// ever thrown out to make room. 0 is no limit. Default: 0.
    pub memory_bytes_max: u64,
    /// The data directory, as clients are told that ask for it; empty if there is none.
    pub directory: String,
    /// Whether SIGTERM, SIGINT and a terminal that closes (SIGHUP)
    /// [shut the server down](ServerHandle::shutdown), and other signals that would end the process,
    /// such as SIGUSR1, are ignored. Default: no.
    pub stop_on_signals: bool,
    /// Calls into the allocator of the program. Default: none.
    pub memory: MemoryHooks,
}

/// A server of an engine `E` that runs engine calls on a pool `P`.
///
/// # Swapping the engine
/// The server knows an engine only by its trait, so another one changes one line:
///
/// ```
/// use aryavarth::{KvStore, MemoryEngine};
/// use aryavarth_server::{KvServer, SharedQueueThreadPool, ThreadPool};
///
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// // On disk:
/// let engine = KvStore::open(dir)?;
/// let server = KvServer::new("127.0.0.1:0", engine, SharedQueueThreadPool::new(4)?)?;
///
/// // In memory, gone when the server goes:
/// let engine = MemoryEngine::new();
/// let other = KvServer::new("127.0.0.1:0", engine, SharedQueueThreadPool::new(4)?)?;
/// assert_ne!(server.local_addr(), other.local_addr());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct KvServer<E, P> {
    shared: Arc<Shared<E, P>>,
    /// Taken by the run, so that a server that has stopped listens no more.
    socket: std::sync::Mutex<Option<TcpListener>>,
    local_addr: SocketAddr,
    config: Config,
}

impl<E: KvsEngine, P: ThreadPool> KvServer<E, P> {
    /// A server that listens on `addr`; port 0 lets the system choose one. Clients can connect at
    /// once and are served by [`run`](KvServer::run).
    ///
    /// # Errors
    /// [`ServerError::Listen`] if the address is not to be had, [`ServerError::Exposed`] if it can
    /// be reached from other machines.
    pub fn new(addr: impl ToSocketAddrs + fmt::Debug, engine: E, pool: P) -> Result<Self> {
        let listener = Listener::bind(addr, false)?;
        Ok(KvServer::with_config(listener, engine, pool, Config::default()))
    }

    /// A server on a socket that listens already, with limits of its own.
    pub fn with_config(listener: Listener, engine: E, pool: P, config: Config) -> Self {
        let Listener { socket, local_addr } = listener;
        let limits = config.limits;
        let directory = config.directory.clone();
        let settings = ServerSettings::new(local_addr, directory, engine.durability(), &limits);
        settings.set_password(&config.password);
        settings.set_memory_bytes_max(config.memory_bytes_max);
        let long_work_max = usize::try_from(pool.threads().saturating_sub(1)).unwrap_or(0).max(1);
        let shared = Shared {
            engine,
            pool,
            limits,
            counters: Arc::default(),
            jobs: Budget::new(limits.jobs_max),
            writes: Arc::default(),
            input: Budget::new(limits.input_bytes_max),
            output: OutputBudget::new(limits.output_bytes_max_total),
            upkeep: Upkeep::new(config.memory),
            long_work: Arc::new(Semaphore::new(long_work_max)),
            compaction: Arc::default(),
            clients: Clients::new(registry().rows().len(), &config.limits),
            scripts: Scripts::new(&limits),
            settings: Arc::new(settings),
            stop: Arc::new(watch::Sender::new(false)),
        };
        let socket = std::sync::Mutex::new(Some(socket));
        KvServer { shared: Arc::new(shared), socket, local_addr, config }
    }

    /// The address that clients connect to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// A handle to stop and watch the server with, from anywhere.
    pub fn handle(&self) -> ServerHandle {
        let Shared { stop, counters, .. } = &*self.shared;
        ServerHandle { stop: Arc::clone(stop), counters: Arc::clone(counters) }
    }

    /// Serves until the server is [shut down](ServerHandle::shutdown) and drained; a server runs
    /// once. Blocks; it has an async runtime of its own and must not be called within another one.
    ///
    /// # Errors
    /// [`ServerError::Runtime`] if the system refuses threads, sockets or signals.
    pub fn run(&self) -> Result<()> {
        self.run_with(|| {})
    }

    /// The same; calls `ready` once connections are served and signals are heard.
    pub fn run_with(&self, ready: impl FnOnce()) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(SOCKET_THREADS)
            .thread_name("sockets")
            .enable_io()
            .enable_time()
            .build()
            .map_err(|source| ServerError::Runtime { what: "start the runtime", source })?;
        let served = runtime.block_on(self.serve(ready));
        runtime.shutdown_background();
        served
    }

    async fn serve(&self, ready: impl FnOnce()) -> Result<()> {
        let refused = |source| ServerError::Runtime { what: "use the listening socket", source };
        let taken = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        let listener = taken.ok_or_else(|| refused(io::ErrorKind::NotConnected.into()))?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(refused)?;
        if self.config.stop_on_signals {
            let asked = signals::stop_asked()
                .map_err(|source| ServerError::Runtime { what: "listen for signals", source })?;
            let handle = self.handle();
            tokio::spawn(async move {
                let signal = asked.await;
                info!(signal, "stopping");
                handle.shutdown();
            });
        }
        info!(address = %self.local_addr, "listening");
        ready();
        let mut stop = self.shared.stop.subscribe();
        let mut tasks = JoinSet::new();
        let mut refusals = JoinSet::new();
        let mut upkeep = tokio::time::interval(UPKEEP_PERIOD);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*stop.borrow() {
            tokio::select! {
                _ = upkeep.tick() => {
                    self.log_incidents();
                    self.look_after_memory();
                }
                _ = stop.changed() => {}
                Some(_) = tasks.join_next() => {}
                Some(_) = refusals.join_next() => {}
                accepted = listener.accept() => {
                    match accepted {
                        Ok((stream, peer)) => {
                            self.admit(stream, peer, &mut tasks, &mut refusals);
                        }
                        Err(error) => {
                            count(&self.shared.counters.accept_errors, 1);
                            self.shared.settings.incidents.accept_errors.note(error);
                            sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            }
        }
        drop(listener);
        self.log_incidents();
        let drained = async { while tasks.join_next().await.is_some() {} };
        // Unfinished calls are cut off: unanswered, so nothing was promised.
        drop(timeout(self.config.limits.drain, drained).await);
        self.log_incidents();
        Ok(())
    }

    fn log_incidents(&self) {
        let settings = &self.shared.settings;
        settings.incidents.log(settings.connections_max());
    }

    fn look_after_memory(&self) {
        let Shared { settings, counters, upkeep, .. } = &*self.shared;
        let (used, has_limit) = (settings.memory().used_bytes, settings.memory_bytes_max() > 0);
        if upkeep.look(used, has_limit, counters.requests.load(Ordering::Relaxed)) {
            self.shared.give_back_memory();
        }
    }

    fn admit(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        tasks: &mut JoinSet<()>,
        refusals: &mut JoinSet<()>,
    ) {
        let Shared { limits, counters, input, .. } = &*self.shared;
        let connections_max = self.shared.settings.connections_max();
        if tasks.len() as u64 >= connections_max {
            count(&counters.connections_refused, 1);
            self.shared.settings.incidents.refused.note(peer);
            if refusals.len() < REFUSALS_MAX {
                let json = !self.shared.settings.has_password();
                refusals.spawn(refuse(stream, *limits, json, connections_max));
            }
            return;
        }
        count(&counters.connections_accepted, 1);
        // Replies are small and awaited; nothing is gained by waiting for more to send.
        drop(stream.set_nodelay(true));
        let Some(share) = input.take(0) else { return };
        let local = stream.local_addr().unwrap_or(self.local_addr);
        let shared = Arc::clone(&self.shared);
        let stop = self.shared.stop.subscribe();
        tasks.spawn(async move {
            // An error here means that the client went away, which is its right.
            let entered = Entered::new(Arc::clone(&shared), peer, local);
            let client = &entered.client;
            let is_open = !shared.settings.has_password();
            let durability = shared.engine.durability();
            let state = Box::new(ClientState::new(client.clone(), is_open, durability));
            let connection = Connection::new(Arc::clone(&shared), stream, share, &state);
            drop(connection.run(state, stop).await);
        });
    }
}

/// A connection in the registry, which it leaves on drop: also if its task panics.
struct Entered<E, P> {
    shared: Arc<Shared<E, P>>,
    client: ClientHandle,
}

impl<E, P> Entered<E, P> {
    fn new(shared: Arc<Shared<E, P>>, peer: SocketAddr, local: SocketAddr) -> Self {
        shared.counters.connections.fetch_add(1, Ordering::Relaxed);
        let client = shared.clients.enter(peer, local);
        Entered { shared, client }
    }
}

impl<E, P> Drop for Entered<E, P> {
    fn drop(&mut self) {
        self.shared.clients.leave(&self.client);
        self.shared.counters.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<E, P> fmt::Debug for KvServer<E, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KvServer({})", self.local_addr)
    }
}

/// Stops and watches a server. Clones are handles of the same server.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    stop: Arc<watch::Sender<bool>>,
    counters: Arc<LiveCounters>,
}

impl ServerHandle {
    /// Tells the server to stop: no new connections, requests that have arrived are answered, and
    /// [`KvServer::run`] returns. Returns at once itself.
    pub fn shutdown(&self) {
        self.stop.send_replace(true);
    }

    /// Counts of the server's work and refusals so far.
    pub fn counters(&self) -> Counters {
        self.counters.read()
    }
}

/// A socket that listens, before there is a server: a wrong address is known before a store is
/// opened, which changes its directory.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    local_addr: SocketAddr,
}

impl Listener {
    /// Listens on the first of the addresses that can be had; on one that other machines can
    /// reach only if `guarded`: there is a password, or the caller takes it on himself.
    ///
    /// # Errors
    /// As [`KvServer::new`].
    pub fn bind(addr: impl ToSocketAddrs + fmt::Debug, guarded: bool) -> Result<Listener> {
        let failed = |source| {
            let addr = format!("{addr:?}").trim_matches('"').to_owned();
            ServerError::Listen { addr, source }
        };
        let addrs: Vec<SocketAddr> = addr.to_socket_addrs().map_err(failed)?.collect();
        if !guarded && let Some(addr) = addrs.iter().find(|addr| !is_loopback(addr)) {
            return Err(ServerError::Exposed { addr: *addr });
        }
        let socket = TcpListener::bind(addrs.as_slice()).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let local_addr = socket.local_addr().map_err(failed)?;
        Ok(Listener { socket, local_addr })
    }
}

fn is_loopback(addr: &SocketAddr) -> bool {
    addr.ip().to_canonical().is_loopback()
}

/// Refuses a client because there are too many, in its own protocol. A client of JSON has begun to
/// speak by now or does so soon; a client that says nothing hears Redis's error.
async fn refuse(stream: TcpStream, limits: Limits, json: bool, max: u64) {
    let mut session = Session::new(limits.session).with_json(json);
    let mut first = [0; REFUSAL_PEEK_BYTES];
    if let Ok(Ok(bytes)) = timeout(REFUSAL_WAIT, stream.peek(&mut first)).await {
        session.feed(&first[..bytes]);
        drop(session.next_event());
    }
    let line = if session.is_json() {
        session.give_up(&format!("busy: {max} clients are connected already; try again later"))
    } else {
        session.give_up("max number of clients reached")
    };
    // One line fits the buffer of a new connection; if not, closing it says enough.
    drop(stream.writable().await);
    drop(stream.try_write(&line));
    drop(close(stream, Some(limits.linger)).await);
}
