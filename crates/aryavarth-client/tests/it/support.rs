//! Both clients behind one trait, a real server, and a server that follows a script.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aryavarth::MemoryEngine;
use aryavarth_client::{AsyncKvsClient, KvsClient, Pipeline, Reply, Result, Timeouts};
use aryavarth_server::{
    Config, KvServer, Limits, Listener, ServerHandle, SharedQueueThreadPool, ThreadPool,
};
use tokio::runtime::Runtime;

/// Longer than anything here takes, on a machine however busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs each story on each client.
macro_rules! told_of_both_clients {
    ($($story:ident),+ $(,)?) => {
        mod blocking {
            $(#[test] fn $story() { super::$story::<aryavarth_client::KvsClient>(); })+
        }
        mod on_tokio {
            $(#[test] fn $story() { super::$story::<crate::support::OnRuntime>(); })+
        }
    };
}
pub(crate) use told_of_both_clients;

pub(crate) trait Client: Sized {
    fn connect(addr: SocketAddr, timeouts: Timeouts) -> Result<Self>;
    fn set(&mut self, key: &str, value: &str) -> Result<()>;
    fn get(&mut self, key: &str) -> Result<Option<String>>;
    fn remove(&mut self, key: &str) -> Result<()>;
    fn scan(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: u64,
    ) -> Result<Vec<(String, String)>>;
    fn compact(&mut self) -> Result<()>;
    fn run(&mut self, pipeline: Pipeline) -> Result<Vec<Result<Reply>>>;

    fn to(addr: SocketAddr) -> Self {
        Self::connect(addr, patient()).unwrap()
    }
}

pub(crate) fn patient() -> Timeouts {
    Timeouts { connect: PATIENCE, read: Some(PATIENCE), write: Some(PATIENCE) }
}

impl Client for KvsClient {
    fn connect(addr: SocketAddr, timeouts: Timeouts) -> Result<Self> {
        KvsClient::connect_with(addr, timeouts)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        self.set(key.to_owned(), value.to_owned())
    }

    fn get(&mut self, key: &str) -> Result<Option<String>> {
        self.get(key.to_owned())
    }

    fn remove(&mut self, key: &str) -> Result<()> {
        self.remove(key.to_owned())
    }

    fn scan(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: u64,
    ) -> Result<Vec<(String, String)>> {
        self.scan(prefix.to_owned(), after.map(str::to_owned), limit)
    }

    fn compact(&mut self) -> Result<()> {
        self.compact()
    }

    fn run(&mut self, pipeline: Pipeline) -> Result<Vec<Result<Reply>>> {
        self.run(pipeline)
    }
}

/// The client for tokio, driven from outside.
pub(crate) struct OnRuntime {
    runtime: Runtime,
    client: AsyncKvsClient,
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

impl Client for OnRuntime {
    fn connect(addr: SocketAddr, timeouts: Timeouts) -> Result<Self> {
        let runtime = runtime();
        let client = runtime.block_on(AsyncKvsClient::connect_with(addr, timeouts))?;
        Ok(OnRuntime { runtime, client })
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        self.runtime.block_on(self.client.set(key.to_owned(), value.to_owned()))
    }

    fn get(&mut self, key: &str) -> Result<Option<String>> {
        self.runtime.block_on(self.client.get(key.to_owned()))
    }

    fn remove(&mut self, key: &str) -> Result<()> {
        self.runtime.block_on(self.client.remove(key.to_owned()))
    }

    fn scan(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: u64,
    ) -> Result<Vec<(String, String)>> {
        let after = after.map(str::to_owned);
        self.runtime.block_on(self.client.scan(prefix.to_owned(), after, limit))
    }

    fn compact(&mut self) -> Result<()> {
        self.runtime.block_on(self.client.compact())
    }

    fn run(&mut self, pipeline: Pipeline) -> Result<Vec<Result<Reply>>> {
        self.runtime.block_on(self.client.run(pipeline))
    }
}

/// A running server; stopped on drop.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    handle: ServerHandle,
    thread: Option<JoinHandle<aryavarth_server::Result<()>>>,
}

impl Server {
    pub(crate) fn start() -> Server {
        Server::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Server {
        let pool = SharedQueueThreadPool::new(2).unwrap();
        let listener = Listener::bind("127.0.0.1:0", false).unwrap();
        let config = Config { limits, ..Config::default() };
        let server = KvServer::with_config(listener, MemoryEngine::new(), pool, config);
        let (addr, handle) = (server.local_addr(), server.handle());
        Server { addr, handle, thread: Some(thread::spawn(move || server.run())) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.shutdown();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

/// A scripted server's part in one connection.
pub(crate) struct Act {
    /// Reads so many requests first,
    pub(crate) reads: usize,
    /// says this,
    pub(crate) says: &'static str,
    /// and closes; or says nothing more for as long as the client is there.
    pub(crate) closes: bool,
}

/// A server that treats its connections as a script says, one after another.
pub(crate) struct Scripted {
    pub(crate) addr: SocketAddr,
    /// The bytes read on each connection, sent when the act is over.
    heard: Receiver<String>,
}

impl Scripted {
    pub(crate) fn start(acts: impl IntoIterator<Item = Act> + Send + 'static) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (hear, heard) = mpsc::channel();
        thread::spawn(move || {
            let mut kept = Vec::new();
            for act in acts {
                let (mut stream, _) = listener.accept().unwrap();
                let requests = read_requests(&mut stream, act.reads);
                stream.write_all(act.says.as_bytes()).unwrap();
                // Closed before the act is told to be over.
                if act.closes {
                    drop(stream);
                } else {
                    kept.push(stream);
                }
                hear.send(requests).unwrap();
            }
            // Connections live as long as the test waits for words on them.
            while hear.send(String::new()).is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
            drop(kept);
        });
        Scripted { addr, heard }
    }

    /// The bytes read on the next connection, once its act is over.
    pub(crate) fn heard(&self) -> String {
        self.heard.recv_timeout(PATIENCE).unwrap()
    }
}

/// Reads requests without braces in their texts.
fn read_requests(stream: &mut TcpStream, count: usize) -> String {
    let mut text = String::new();
    while text.matches("}}").count() < count {
        let mut bytes = [0; 4096];
        let read = stream.read(&mut bytes).unwrap();
        assert!(read > 0, "the client closed after {text:?}");
        text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    text
}
