//! A server to test, a client with scripted input, and an engine that can be stopped.

use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aryavarth::{
    Batch, Count, Durability, KeyPage, KeyRange, KvsEngine, KvsError, MemoryEngine, Page, Position,
    Stats, Stored, Transaction, Wait, Watch,
};
use aryavarth_server::{
    Config, KvServer, Limits, Listener, ServerHandle, SharedQueueThreadPool, ThreadPool,
};

/// Longer than anything here takes, on a machine however busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A running server; stopped on drop.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) handle: ServerHandle,
    thread: Option<JoinHandle<aryavarth_server::Result<()>>>,
}

impl Server {
    pub(crate) fn start() -> Server {
        Server::with(MemoryEngine::new(), Limits::default())
    }

    pub(crate) fn with<E: KvsEngine>(engine: E, limits: Limits) -> Server {
        Server::on(SharedQueueThreadPool::new(2).unwrap(), engine, limits)
    }

    pub(crate) fn on<E: KvsEngine, P: ThreadPool>(pool: P, engine: E, limits: Limits) -> Server {
        Server::configured(pool, engine, Config { limits, ..Config::default() })
    }

    pub(crate) fn with_config<E: KvsEngine>(engine: E, config: Config) -> Server {
        Server::configured(SharedQueueThreadPool::new(2).unwrap(), engine, config)
    }

    fn configured<E: KvsEngine, P: ThreadPool>(pool: P, engine: E, config: Config) -> Server {
        let listener = Listener::bind("127.0.0.1:0", false).unwrap();
        let server = KvServer::with_config(listener, engine, pool, config);
        let (addr, handle) = (server.local_addr(), server.handle());
        Server { addr, handle, thread: Some(thread::spawn(move || server.run())) }
    }

    pub(crate) fn client(&self) -> Client {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    /// Waits until the server has run all that it could.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.shutdown();
        self.join();
    }
}

/// A client that sends and receives bytes.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(text.as_ref()).unwrap();
    }

    /// Sends for as long as the other side takes it.
    pub(crate) fn send_if_heard(&mut self, text: &[u8]) -> bool {
        self.stream.get_mut().write_all(text).is_ok()
    }

    pub(crate) fn end_input(&mut self) {
        self.stream.get_mut().shutdown(Shutdown::Write).unwrap();
    }

    /// The next reply, without its newline.
    pub(crate) fn reply(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the connection was closed after {line:?}");
        line.pop();
        line
    }

    /// Asks and hears the answer.
    pub(crate) fn ask(&mut self, request: impl AsRef<[u8]>) -> String {
        self.send(request);
        self.reply()
    }

    /// As many bytes as `buffer` holds.
    pub(crate) fn read_exact(&mut self, buffer: &mut [u8]) {
        self.stream.read_exact(buffer).unwrap();
    }

    /// Everything until the server closes.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.stream.read_to_string(&mut rest).unwrap();
        rest
    }

    /// The stream, for a second thread.
    pub(crate) fn writer(&self) -> TcpStream {
        self.stream.get_ref().try_clone().unwrap()
    }
}

/// Waits until something becomes true.
pub(crate) fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn set(key: &str, value: &str) -> String {
    format!(r#"{{"Set":{{"key":"{key}","value":"{value}"}}}}"#)
}

pub(crate) fn get(key: &str) -> String {
    format!(r#"{{"Get":{{"key":"{key}"}}}}"#)
}

pub(crate) fn remove(key: &str) -> String {
    format!(r#"{{"Remove":{{"key":"{key}"}}}}"#)
}

#[derive(Default)]
struct Control {
    /// Reads of the key `gate` and compactions wait until it is open.
    open: bool,
    written: u64,
    durable: u64,
    poisoned: bool,
    positions: HashMap<Vec<u8>, u64>,
    wakers: Vec<Waker>,
    /// Whether the next question about the watermark panics.
    panics_when_asked: bool,
    /// How many batches came together, call by call.
    together: Vec<usize>,
    /// How many such calls there had been at the last read.
    calls_before_read: usize,
    /// How many calls waited for the disk, if any may; they wait until the gate is open.
    waits: Option<usize>,
    /// Which calls there were, and on which threads.
    calls: BTreeSet<(&'static str, String)>,
}

/// An engine in memory whose disk obeys: writes are durable when the test says so, but at the level
/// `Os`, which waits for no disk. Reading or writing a key like `gate` and compacting wait for the
/// test, reading or writing a key that ends with `panic` panics, keys that begin with `large` are
/// said to have large values, and only keys that begin with `hot` are at hand. It notes the calling
/// threads.
#[derive(Clone, Default)]
pub(crate) struct Obedient {
    memory: MemoryEngine,
    control: Arc<(Mutex<Control>, Condvar)>,
}

impl Obedient {
    fn change(&self, change: impl FnOnce(&mut Control)) {
        let wakers = {
            let mut control = self.control.0.lock().unwrap();
            change(&mut control);
            std::mem::take(&mut control.wakers)
        };
        self.control.1.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn open_gate(&self) {
        self.change(|control| control.open = true);
    }

    /// How many handles of this engine there are.
    pub(crate) fn handles(&self) -> usize {
        Arc::strong_count(&self.control)
    }

    /// Makes all writes so far durable.
    pub(crate) fn sync(&self) {
        self.change(|control| control.durable = control.written);
    }

    /// Makes durable whatever is written, from now on.
    pub(crate) fn sync_always(&self) {
        self.change(|control| control.durable = u64::MAX);
    }

    /// The calls since this was asked last, each with the kind of thread that it ran on.
    pub(crate) fn take_calls(&self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut self.control.0.lock().unwrap().calls).into_iter().collect()
    }

    pub(crate) fn panic_when_asked(&self) {
        self.change(|control| control.panics_when_asked = true);
    }

    /// How many batches came together, for each call that wrote so far.
    pub(crate) fn together(&self) -> Vec<usize> {
        self.control.0.lock().unwrap().together.clone()
    }

    /// How many calls waited for the disk.
    pub(crate) fn let_wait(&self) {
        self.change(|control| control.waits = Some(0));
    }

    pub(crate) fn waits(&self) -> usize {
        self.control.0.lock().unwrap().waits.unwrap_or(0)
    }

    /// How many calls had written when a key was read last that was not at hand.
    pub(crate) fn calls_before_read(&self) -> usize {
        self.control.0.lock().unwrap().calls_before_read
    }

    /// Makes the outcome of everything that is not durable yet unknown.
    pub(crate) fn poison(&self) {
        self.change(|control| control.poisoned = true);
    }

    fn note(&self, call: &'static str) {
        let thread = thread::current().name().unwrap_or_default().to_owned();
        // Threads of a pool are numbered.
        let kind = thread.split('-').next().unwrap_or_default().to_owned();
        self.control.0.lock().unwrap().calls.insert((call, kind));
    }

    fn look_up(&self, key: &[u8]) -> aryavarth::Result<(Option<Stored>, Position)> {
        assert!(!key.ends_with(b"panic"), "the engine panics, as this test wants");
        let mut control = self.control.0.lock().unwrap();
        while key.ends_with(b"gate") && !control.open {
            control = self.control.1.wait(control).unwrap();
        }
        let position = control.positions.get(key).copied().unwrap_or(0);
        Ok((self.memory.find(key, Wait::Yes)?.0, Position(position)))
    }
}

impl KvsEngine for Obedient {
    fn name(&self) -> &'static str {
        "obedient"
    }

    fn durability(&self) -> Durability {
        Durability::Always
    }

    fn space(&self) -> u32 {
        self.memory.space()
    }

    fn with_space(&self, space: u32) -> Self {
        let memory = self.memory.with_space(space);
        Self { memory, ..self.clone() }
    }

    fn now_ms(&self) -> u64 {
        self.memory.now_ms()
    }

    fn keys(&self, range: &KeyRange, limit: usize) -> aryavarth::Result<KeyPage> {
        self.memory.keys(range, limit)
    }

    fn count(&self) -> aryavarth::Result<(Count, Position)> {
        self.memory.count()
    }

    fn watch(&self, key: &[u8]) -> aryavarth::Result<Watch> {
        self.memory.watch(key)
    }

    fn size_hint(&self, key: &[u8]) -> usize {
        if key.starts_with(b"large") { 1 << 20 } else { 0 }
    }

    fn find(&self, key: &[u8], wait: Wait) -> aryavarth::Result<(Option<Stored>, Position)> {
        match wait {
            Wait::Yes => {
                self.note("read");
                self.change(|control| control.calls_before_read = control.together.len());
            }
            Wait::No if key.starts_with(b"hot") => self.note("read now"),
            Wait::No => return Err(KvsError::WouldBlock),
        }
        self.look_up(key)
    }

    fn write(&self, batch: &Batch) -> aryavarth::Result<(u64, Position)> {
        self.note("write");
        let has = |key: &[u8]| batch.writes().iter().any(|write| write.key().ends_with(key));
        assert!(!has(b"panic"), "the engine panics, as this test wants");
        let mut control = self.control.0.lock().unwrap();
        while has(b"gate") && !control.open {
            control = self.control.1.wait(control).unwrap();
        }
        control.written += 10;
        let position = control.written;
        for write in batch.writes() {
            control.positions.insert(write.key().to_vec(), position);
        }
        Ok((self.memory.write(batch)?.0, Position(position)))
    }

    fn write_each(&self, batches: &[Batch]) -> Vec<aryavarth::Result<(u64, Position)>> {
        self.control.0.lock().unwrap().together.push(batches.len());
        batches.iter().map(|batch| self.write(batch)).collect()
    }

    fn transact<R>(
        &self,
        keys: &[&[u8]],
        body: impl FnMut(&mut Transaction<'_>) -> aryavarth::Result<R>,
    ) -> aryavarth::Result<(R, Position)> {
        self.note("commit");
        let (result, _) = self.memory.transact(keys, body)?;
        let mut control = self.control.0.lock().unwrap();
        control.written += 10;
        Ok((result, Position(control.written)))
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> aryavarth::Result<Page> {
        self.note("scan");
        // Small pages, as an engine with large values gives.
        self.memory.scan(range, limit.min(3))
    }

    fn wait(&self, _position: Position, _level: Durability) -> aryavarth::Result<()> {
        let mut control = self.control.0.lock().unwrap();
        *control.waits.as_mut().expect("the server waits without blocking") += 1;
        while !control.open {
            control = self.control.1.wait(control).unwrap();
        }
        Ok(())
    }

    fn on_reached(
        &self,
        position: Position,
        level: Durability,
        waker: &Waker,
    ) -> Poll<aryavarth::Result<()>> {
        let mut control = self.control.0.lock().unwrap();
        if std::mem::take(&mut control.panics_when_asked) {
            drop(control);
            panic!("the engine panics, as this test wants");
        }
        if position.0 <= control.durable || level == Durability::Os {
            return Poll::Ready(Ok(()));
        }
        if control.poisoned {
            return Poll::Ready(Err(KvsError::Poisoned { reason: "a sync failed".into() }));
        }
        control.wakers.push(waker.clone());
        Poll::Pending
    }

    fn compact(&self) -> aryavarth::Result<()> {
        self.note("compact");
        let mut control = self.control.0.lock().unwrap();
        while !control.open {
            control = self.control.1.wait(control).unwrap();
        }
        Ok(())
    }

    fn stats(&self) -> Stats {
        let control = self.control.0.lock().unwrap();
        let mut stats = self.memory.stats();
        (stats.written_position, stats.durable_position) = (control.written, control.durable);
        stats.poisoned = control.poisoned;
        stats
    }
}
