//! The rig of a row: a server with one engine and one thread pool, and one kind of client.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aryavarth::{KvStore, KvsEngine, SledKvsEngine};
use aryavarth_client::{AsyncKvsClient, KvsClient, Timeouts};
use aryavarth_server::{
    Config, Counters, KvServer, Limits, Listener, NaiveThreadPool, RayonThreadPool, ServerHandle,
    SharedQueueThreadPool, ThreadPool,
};
use tempfile::TempDir;

use crate::clients::{Client, OnTokio, Socket};

/// Longer than anything here takes, on a machine however busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The largest value that the servers take.
pub(crate) const VALUE_BYTES_MAX: usize = 100_000;
const THREADS: u32 = 3;

pub(crate) struct Rig {
    engine: &'static str,
    pool: &'static str,
    client: &'static str,
    dir: TempDir,
    addr: SocketAddr,
    served: Option<Served>,
}

/// A server that runs.
struct Served {
    handle: ServerHandle,
    thread: JoinHandle<aryavarth_server::Result<()>>,
}

impl Rig {
    pub(crate) fn start(engine: &'static str, pool: &'static str, client: &'static str) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut rig = Rig { engine, pool, client, dir, addr, served: None };
        rig.start_again();
        rig
    }

    /// Starts the server on the directory and the address of the last one.
    pub(crate) fn start_again(&mut self) {
        let (served, addr) = match self.engine {
            "kvs" => self.serve(KvStore::open(self.dir()).unwrap()),
            "sled" => self.serve(SledKvsEngine::open(self.dir()).unwrap()),
            other => panic!("{other} is no engine"),
        };
        (self.served, self.addr) = (Some(served), addr);
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn serve<E: KvsEngine>(&self, engine: E) -> (Served, SocketAddr) {
        match self.pool {
            "shared_queue" => self.serve_on::<E, SharedQueueThreadPool>(engine),
            "rayon" => self.serve_on::<E, RayonThreadPool>(engine),
            "naive" => self.serve_on::<E, NaiveThreadPool>(engine),
            other => panic!("{other} is no pool"),
        }
    }

    fn serve_on<E: KvsEngine, P: ThreadPool>(&self, engine: E) -> (Served, SocketAddr) {
        let mut limits = Limits::default();
        limits.session.value_bytes_max = VALUE_BYTES_MAX;
        let config = Config { limits, ..Config::default() };
        let listener = Listener::bind(self.addr, false).unwrap();
        let server = KvServer::with_config(listener, engine, P::new(THREADS).unwrap(), config);
        let (addr, handle) = (server.local_addr(), server.handle());
        (Served { handle, thread: thread::spawn(move || server.run()) }, addr)
    }

    /// Shuts the server down; returns when it has drained and its directory is free.
    pub(crate) fn stop(&mut self) {
        if let Some(served) = self.served.take() {
            served.handle.shutdown();
            served.thread.join().unwrap().unwrap();
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn counters(&self) -> Counters {
        self.served.as_ref().unwrap().handle.counters()
    }

    pub(crate) fn client(&self) -> Box<dyn Client> {
        self.client_at(self.addr)
    }

    /// A client of the rig's kind for another address.
    pub(crate) fn client_at(&self, addr: SocketAddr) -> Box<dyn Client> {
        let timeouts = Timeouts { connect: PATIENCE, read: Some(PATIENCE), write: Some(PATIENCE) };
        match self.client {
            "blocking" => Box::new(KvsClient::connect_with(addr, timeouts).unwrap()),
            "on_tokio" => {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_all().build().unwrap();
                let client = runtime.block_on(AsyncKvsClient::connect_with(addr, timeouts));
                Box::new(OnTokio { client: client.unwrap(), runtime })
            }
            "socket" => Box::new(Socket::to(addr)),
            other => panic!("{other} is no client"),
        }
    }

    pub(crate) fn is_socket(&self) -> bool {
        self.client == "socket"
    }

    pub(crate) fn socket(&self) -> Socket {
        Socket::to(self.addr)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A row that failed has said so already.
        if let Some(served) = self.served.take() {
            served.handle.shutdown();
            drop(served.thread.join());
        }
    }
}

/// A way to a server on which the first replies are lost: when one comes, the connection ends.
pub(crate) struct Severed {
    pub(crate) addr: SocketAddr,
}

impl Severed {
    /// Loses the replies of the first `connections`, and passes everything on later ones.
    pub(crate) fn before(server: SocketAddr, connections: usize) -> Severed {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            for number in 0.. {
                let Ok((client, _)) = listener.accept() else { return };
                thread::spawn(move || pass(client, server, number < connections));
            }
        });
        Severed { addr }
    }
}

/// Passes bytes on in both directions.
fn pass(client: TcpStream, server: SocketAddr, loses_replies: bool) {
    let mut server = TcpStream::connect(server).unwrap();
    let (mut requests, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || {
        drop(std::io::copy(&mut requests, &mut to_server));
        drop(to_server.shutdown(Shutdown::Write));
    });
    let mut client = client;
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = server.read(&mut bytes) {
        if loses_replies || client.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    drop(client.shutdown(Shutdown::Both));
}
