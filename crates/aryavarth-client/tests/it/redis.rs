//! The client of the Redis protocol: against a real server, and against programs that are none.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use aryavarth::MemoryEngine;
use aryavarth_client::{ClientError, Commands, RedisClient, RedisOptions, Timeouts, Value};
use aryavarth_server::{Config, KvServer, Listener, SharedQueueThreadPool, ThreadPool};

/// Runs `work` beside a server with a password.
fn with_server(password: &str, work: impl FnOnce(SocketAddr)) {
    let listener = Listener::bind("127.0.0.1:0", false).unwrap();
    let pool = SharedQueueThreadPool::new(2).unwrap();
    let config = Config { password: password.into(), ..Config::default() };
    let server = KvServer::with_config(listener, MemoryEngine::new(), pool, config);
    let (addr, handle) = (server.local_addr(), server.handle());
    thread::scope(|scope| {
        scope.spawn(|| server.run().unwrap());
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(addr)));
        handle.shutdown();
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A program that says `greeting` to its first client, and `answer` to the first input.
fn stranger(greeting: &'static [u8], answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(greeting).unwrap();
        let mut input = [0; 1024];
        while stream.read(&mut input).is_ok_and(|bytes| bytes > 0) {
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    });
    addr
}

fn options(password: &str) -> RedisOptions {
    RedisOptions { password: Some(password.into()), ..RedisOptions::default() }
}

#[test]
fn any_bytes_go_there_and_back_in_any_database() {
    with_server("", |addr| {
        let every: Vec<u8> = (0..=255).collect();
        let mut third =
            RedisClient::connect_with(addr, &RedisOptions { database: 3, ..Default::default() })
                .unwrap();
        assert_eq!(third.command(&[b"SET", &*every, &*every]).unwrap(), Value::Status("OK".into()));
        assert_eq!(third.command(&[b"GET", &*every]).unwrap(), Value::Bytes(every.clone()));
        let mut first = RedisClient::connect(addr).unwrap();
        assert_eq!(first.command(&[b"GET", &*every]).unwrap(), Value::Null);
        let refused = first.command(&["INCR"]).unwrap_err();
        assert!(matches!(refused, ClientError::Server(text) if text.starts_with("ERR wrong")));
        assert_eq!(first.command(&["INCR", "n"]).unwrap().as_integer(), Some(1), "it goes on");
    });
}

#[test]
fn large_commands_with_large_replies_do_not_block_each_other() {
    with_server("", |addr| {
        let mut client = RedisClient::connect(addr).unwrap();
        let large = vec![b'x'; 1 << 20];
        let mut commands = Commands::new();
        for _ in 0..40 {
            commands.push(&[b"SET", &b"k"[..], &large]);
            commands.push(&["GET", "k"]);
        }
        let replies = client.pipeline(&commands).unwrap();
        assert_eq!(replies.len(), 80);
        assert!(replies.chunks(2).all(|pair| pair[1] == Value::Bytes(large.clone())));
    });
}

#[test]
fn a_password_is_said_and_a_wrong_one_is_the_servers_error() {
    with_server("secret", |addr| {
        let mut client = RedisClient::connect_with(addr, &options("secret")).unwrap();
        assert_eq!(client.command(&["GET", "k"]).unwrap(), Value::Null);
        let named = RedisOptions { user: Some("default".into()), ..options("secret") };
        RedisClient::connect_with(addr, &named).unwrap();
        for (options, kind) in [(options("wrong"), "WRONGPASS"), (options(""), "WRONGPASS")] {
            let error = RedisClient::connect_with(addr, &options).unwrap_err();
            assert!(matches!(&error, ClientError::Server(text) if text.starts_with(kind)));
        }
        let error = RedisClient::connect(addr).unwrap_err();
        assert!(matches!(&error, ClientError::Server(text) if text.starts_with("NOAUTH")));
    });
}

/// A client of JSON once waited 62 s for a program that never answers.
#[test]
fn a_program_that_is_no_such_server_is_found_out_at_once() {
    let timeouts = Timeouts { connect: Duration::from_millis(300), ..Timeouts::default() };
    let options = RedisOptions { timeouts, ..RedisOptions::default() };
    for (greeting, answer, shown) in [
        (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], &b""[..], "SSH-2.0"),
        (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1.1 400"),
        (b"", b"+HELLO\r\n", "HELLO"),
        (b"", b"", "did not answer within 0.3 s: it hangs, or is not an Aryavarth server"),
    ] {
        let start = Instant::now();
        let error = RedisClient::connect_with(stranger(greeting, answer), &options).unwrap_err();
        // A server that hangs does not answer either.
        let has_answered = !greeting.is_empty() || !answer.is_empty();
        assert_eq!(matches!(error, ClientError::Protocol(_)), has_answered, "{error:?}");
        assert!(error.to_string().contains(shown), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
}

#[test]
fn a_lost_reply_says_whether_something_may_have_been_written() {
    for (command, is_write) in [(["GET", "k"], false), (["DEL", "k"], true)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut input = [0; 1024];
            assert!(stream.read(&mut input).unwrap() > 0);
            stream.write_all(b"+PONG\r\n").unwrap();
            stream.read(&mut input).unwrap()
        });
        let mut client = RedisClient::connect(addr).unwrap();
        let error = client.command(&command).unwrap_err();
        server.join().unwrap();
        assert_eq!(matches!(error, ClientError::OutcomeUnknown { .. }), is_write, "{error:?}");
        assert_eq!(matches!(error, ClientError::Lost { .. }), !is_write, "{error:?}");
        let again = client.command(&command).unwrap_err();
        assert!(matches!(again, ClientError::Connect { .. }), "nothing is sent twice: {again:?}");
    }
}
