//! The memory of a running server is that of its data, and goes back when it is not needed.
//!
//! A client that set 20,000 small keys in pipelines of 1,000 took the server to 60 to 74 MB, which
//! stayed, where a restart took 25; half of that were huge pages of which a part was used, the rest was
//! kept by threads. With `--memory-max 40000000` writes were refused long before the data took that.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use support::{PATIENCE, Server, data};

const KEYS: usize = 20_000;
const DEPTH: usize = 1_000;

/// The memory of a server that is not of its files, in bytes.
fn anonymous(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_ascii_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

fn connect(server: &Server) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(&server.addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(stream)
}

/// Sets all keys, so many at a time; each is answered by OK.
fn set_all(client: &mut BufReader<TcpStream>, round: usize) {
    for first in (0..KEYS).step_by(DEPTH) {
        let mut commands = String::new();
        for key in first..first + DEPTH {
            write!(commands, "SET key:{key} {round:064}\r\n").unwrap();
        }
        client.get_mut().write_all(commands.as_bytes()).unwrap();
        for _ in 0..DEPTH {
            let mut line = String::new();
            client.read_line(&mut line).unwrap();
            assert_eq!(line, "+OK\r\n");
        }
    }
}

/// The least memory that a server comes to within the time that it has.
fn at_rest(server: &Server, wanted: u64) -> u64 {
    let begin = Instant::now();
    while anonymous(server) > wanted && begin.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(100));
    }
    anonymous(server)
}

#[test]
fn a_server_at_rest_takes_about_the_memory_that_it_takes_after_a_restart() {
    let (_dir, data) = data();
    let server = Server::start(&data);
    let mut client = connect(&server);
    for round in 0..3 {
        set_all(&mut client, round);
    }
    client.get_mut().write_all(b"MEMORY PURGE\r\n").unwrap();
    drop(client);
    let kept = at_rest(&server, 24 << 20);
    drop(server);
    let restarted = anonymous(&Server::start(&data));
    // 8 MiB for threads that have never run in the other.
    assert!(kept <= restarted * 3 / 2 + (8 << 20), "{kept} bytes, {restarted} after a restart");
}

#[test]
fn a_limit_on_memory_refuses_no_write_of_a_store_that_is_far_from_it() {
    let (_dir, data) = data();
    let server = Server::start_with(&data, &["--memory-max", "40000000"]);
    set_all(&mut connect(&server), 0);
}
