//! The client against servers that behave, go away, or misbehave.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aryavarth::MemoryEngine;
use aryavarth_client::{ClientError, KvsClient, Timeouts};
use aryavarth_server::{
    Config, KvServer, Limits, Listener, ServerHandle, SharedQueueThreadPool, ThreadPool,
};

struct Server {
    addr: SocketAddr,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(engine: MemoryEngine) -> Server {
        Server::start_at("127.0.0.1:0".parse().unwrap(), engine)
    }

    fn start_at(addr: SocketAddr, engine: MemoryEngine) -> Server {
        let pool = SharedQueueThreadPool::new(2).unwrap();
        Server::run(KvServer::new(addr, engine, pool).unwrap())
    }

    fn start_with(limits: Limits) -> Server {
        let pool = SharedQueueThreadPool::new(2).unwrap();
        let listener = Listener::bind("127.0.0.1:0", false).unwrap();
        let config = Config { limits, ..Config::default() };
        Server::run(KvServer::with_config(listener, MemoryEngine::new(), pool, config))
    }

    fn run(server: KvServer<MemoryEngine, SharedQueueThreadPool>) -> Server {
        let (addr, handle) = (server.local_addr(), server.handle());
        Server { addr, handle, thread: Some(thread::spawn(move || server.run().unwrap())) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.shutdown();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// A server that treats each connection as the next of its scripts says.
fn scripted(scripts: Vec<fn(TcpStream)>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        for script in scripts {
            script(listener.accept().unwrap().0);
        }
    });
    (addr, thread)
}

/// Reads a request and closes without an answer.
fn forget(mut stream: TcpStream) {
    let read = stream.read(&mut [0; 1000]).unwrap();
    assert!(read > 0, "a request was sent");
}

/// Answers one request with a value.
fn answer(mut stream: TcpStream) {
    let read = stream.read(&mut [0; 1000]).unwrap();
    assert!(read > 0, "a request was sent");
    stream.write_all(b"{\"Ok\":\"v\"}\n").unwrap();
    // Until the client is done.
    drop(stream.read(&mut [0; 1000]));
}

#[test]
fn each_call_sends_its_request_and_returns_its_reply() {
    let server = Server::start(MemoryEngine::new());
    let mut client = KvsClient::connect(server.addr).unwrap();
    assert_eq!(client.get("k".into()).unwrap(), None);
    client.set("k".into(), "значение \"1\"\n\0".into()).unwrap();
    assert_eq!(client.get("k".into()).unwrap().unwrap(), "значение \"1\"\n\0");
    client.set("k2".into(), "x".repeat(3 << 20)).unwrap();
    assert_eq!(client.get("k2".into()).unwrap().unwrap().len(), 3 << 20);

    let page = client.scan("k".into(), None, 1).unwrap();
    assert_eq!(page[0].0, "k");
    let page = client.scan("k".into(), Some("k".into()), 10).unwrap();
    assert_eq!((page.len(), page[0].0.as_str()), (1, "k2"));
    client.compact().unwrap();

    client.remove("k".into()).unwrap();
    assert!(matches!(client.remove("k".into()), Err(ClientError::KeyNotFound)));
    assert_eq!(server.handle.counters().connections_accepted, 1, "the connection was kept");
}

#[test]
fn the_servers_message_is_kept_and_the_connection_too() {
    let server = Server::start(MemoryEngine::new());
    let mut client = KvsClient::connect(server.addr).unwrap();
    let error = client.get("k".repeat(70_000)).unwrap_err();
    assert!(matches!(error, ClientError::Server(_)), "{error:?}");
    assert_eq!(error.to_string(), "the key is too large: 70000 bytes, the limit is 65535");
    assert_eq!(client.get("k".into()).unwrap(), None);
    assert_eq!(server.handle.counters().connections_accepted, 1);
}

#[test]
fn a_restart_between_two_calls_goes_unnoticed_even_by_a_write() {
    let engine = MemoryEngine::new();
    let server = Server::start(engine.clone());
    let addr = server.addr;
    let mut client = KvsClient::connect(addr).unwrap();
    client.set("k".into(), "1".into()).unwrap();
    drop(server);
    let error = client.set("k".into(), "2".into()).unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error:?}");

    let _server = Server::start_at(addr, engine);
    client.set("k".into(), "3".into()).unwrap();
    assert_eq!(client.get("k".into()).unwrap().unwrap(), "3");
}

#[test]
fn a_lost_reply_to_a_read_is_asked_for_again() {
    let (addr, server) = scripted(vec![forget, answer]);
    let mut client = KvsClient::connect(addr).unwrap();
    assert_eq!(client.get("k".into()).unwrap().unwrap(), "v");
    drop(client);
    server.join().unwrap();

    let (addr, server) = scripted(vec![forget, forget]);
    let error = KvsClient::connect(addr).unwrap().get("k".into()).unwrap_err();
    assert!(matches!(error, ClientError::Lost { .. }), "{error:?}");
    server.join().unwrap();
}

#[test]
fn a_lost_reply_to_a_write_is_an_unknown_outcome_and_nothing_is_sent_again() {
    // A second attempt would be answered, and so be seen.
    let (addr, server) = scripted(vec![forget, answer]);
    let mut client = KvsClient::connect(addr).unwrap();
    let error = client.set("k".into(), "v".into()).unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error:?}");
    assert_eq!(client.get("k".into()).unwrap().unwrap(), "v", "the client can be used on");

    // The server that answered takes this request, too, and closes.
    let error = client.remove("k".into()).unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error:?}");
    server.join().unwrap();
}

#[test]
fn a_reply_that_does_not_come_is_not_waited_for_for_ever() {
    fn keep_silent(mut stream: TcpStream) {
        // Until the client gives up.
        drop(stream.read_to_end(&mut Vec::new()));
    }
    let (addr, server) = scripted(vec![keep_silent]);
    let timeouts = Timeouts { read: Some(Duration::from_millis(50)), ..Timeouts::default() };
    let mut client = KvsClient::connect_with(addr, timeouts).unwrap();
    let error = client.set("k".into(), "v".into()).unwrap_err();
    let ClientError::OutcomeUnknown { source } = &error else { panic!("{error:?}") };
    assert_eq!(source.kind(), std::io::ErrorKind::TimedOut);
    server.join().unwrap();
}

#[test]
fn what_is_no_reply_of_ours_is_told_so() {
    fn greet(mut stream: TcpStream) {
        drop(stream.read(&mut [0; 1000]));
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    }
    let (addr, server) = scripted(vec![greet]);
    let error = KvsClient::connect(addr).unwrap().get("k".into()).unwrap_err();
    assert!(matches!(error, ClientError::Protocol(_)), "{error:?}");
    server.join().unwrap();
}

#[test]
fn a_request_refused_while_it_is_sent_has_the_servers_reason() {
    let mut limits = Limits::default();
    limits.session.request_bytes_max = 1 << 20;
    let server = Server::start_with(limits);
    let mut client = KvsClient::connect(server.addr).unwrap();
    // More than the buffers between the two take, so that the server closes before all is sent.
    let error = client.set("k".into(), "x".repeat(30 << 20)).unwrap_err();
    assert!(error.to_string().contains("the limit is 1048576 bytes"), "{error:?}");
    assert_eq!(client.get("k".into()).unwrap(), None);
}

#[test]
fn nobody_there_is_an_error_that_names_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let error = KvsClient::connect(addr).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot reach a server at {addr}: ")));
    assert!(KvsClient::connect("nonsense").unwrap_err().to_string().contains("at nonsense: "));
}
