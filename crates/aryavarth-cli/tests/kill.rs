//! `kill -9` under load: every write acknowledged before the process died is there afterwards,
//! and removed keys stay removed, at every level of durability.
//!
//! The same on every engine. One directory lives through all the kills. Eight clients write to a real server over TCP, each
//! its own keys, and remember acknowledged writes; the server is killed at a random moment; the
//! next one has to show exactly these, or, for the one request of each client that
//! was under way, its effect. `KILLS` says how often (default 10): half of them with
//! `always`, a quarter each with `interval:5` and `os`.
#![expect(clippy::print_stdout, reason = "a long run says what it did")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use aryavarth_client::{ClientError, KvsClient};

const WRITERS: u64 = 8;
const KEYS_PER_WRITER: u64 = 50;
const LEVELS: [&str; 4] = ["always", "interval:5", "always", "os"];

struct Server {
    child: Child,
    addr: String,
}

impl Server {
    fn start(data: &Path, engine: &str, durability: &str) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_aryavarth"))
            .args(["server", "--listen", "127.0.0.1:0", "--durability", durability])
            .args(["--engine", engine, "--data"])
            .arg(data)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut addr = None;
        let mut said = String::new();
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(at) = line.strip_prefix("listening on ") {
                addr = Some(at.to_owned());
            }
            if line == "ready" {
                return Server { child, addr: addr.unwrap() };
            }
            said.push_str(&line);
            said.push('\n');
        }
        child.wait().unwrap();
        panic!("the server did not get ready:\n{said}");
    }

    /// SIGKILL: nothing of the process runs any more.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The state of one client's keys.
#[derive(Default)]
struct Writer {
    /// Acknowledged: a value, or that there is none.
    acknowledged: BTreeMap<String, Option<String>>,
    /// The request that was under way when the server died.
    under_way: Option<(String, Option<String>)>,
    version: u64,
    state: u64,
}

impl Writer {
    fn new(number: u64) -> Writer {
        Writer { state: number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, ..Writer::default() }
    }

    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// Writes until the server is gone; returns how many requests were acknowledged.
    fn write(&mut self, number: u64, addr: &str, stop: &AtomicBool) -> u64 {
        let mut client = KvsClient::connect(addr).unwrap();
        let mut acknowledged = 0;
        while !stop.load(Ordering::Relaxed) {
            let key = format!("writer:{number}:key:{}", self.random() % KEYS_PER_WRITER);
            self.version += 1;
            let length = (self.random() % 200) as usize;
            let value = format!("{}:{}", self.version, "x".repeat(length));
            let value = (!self.random().is_multiple_of(4)).then_some(value);
            self.under_way = Some((key.clone(), value.clone()));
            let done = match value.clone() {
                Some(value) => client.set(key.clone(), value),
                None => match client.remove(key.clone()) {
                    Err(ClientError::KeyNotFound) => Ok(()),
                    done => done,
                },
            };
            if done.is_err() {
                break;
            }
            self.under_way = None;
            self.acknowledged.insert(key, value);
            acknowledged += 1;
        }
        acknowledged
    }

    /// Compares the server's data with the acknowledged writes.
    fn check(&mut self, client: &mut KvsClient, lost: &mut Vec<String>) {
        let under_way = self.under_way.take();
        if let Some((key, value)) = under_way {
            let shown = client.get(key.clone()).unwrap();
            let before = self.acknowledged.get(&key).cloned().flatten();
            if shown != value && shown != before {
                lost.push(format!("{key}: {shown:?}, neither {before:?} nor {value:?}"));
            }
            self.acknowledged.insert(key, shown);
        }
        for (key, value) in &self.acknowledged {
            let shown = client.get(key.clone()).unwrap();
            if shown != *value {
                lost.push(format!("{key}: {shown:?}, acknowledged was {value:?}"));
            }
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_removed_comes_back() {
    kill_again_and_again("kvs");
}

#[cfg(feature = "sled")]
#[test]
fn nothing_acknowledged_is_lost_and_nothing_removed_comes_back_on_sled() {
    kill_again_and_again("sled");
}

fn kill_again_and_again(engine: &str) {
    let kills = std::env::var("KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    let data = tempfile::tempdir().unwrap();
    let mut writers: Vec<Writer> = (1..=WRITERS).map(Writer::new).collect();
    let mut acknowledged = 0;
    let mut lost = Vec::new();
    let mut rng = Writer::new(99);
    for kill in 0..kills {
        let mut server = Server::start(data.path(), engine, LEVELS[kill % LEVELS.len()]);
        let mut client = KvsClient::connect(server.addr.as_str()).unwrap();
        for writer in &mut writers {
            writer.check(&mut client, &mut lost);
        }
        let load = Duration::from_millis(20 + rng.random() % 200);
        let (addr, stop) = (server.addr.clone(), AtomicBool::new(false));
        acknowledged += thread::scope(|scope| {
            let running: Vec<_> = writers
                .iter_mut()
                .zip(1..)
                .map(|(writer, number)| {
                    let (addr, stop) = (addr.as_str(), &stop);
                    scope.spawn(move || writer.write(number, addr, stop))
                })
                .collect();
            thread::sleep(load);
            server.kill();
            stop.store(true, Ordering::Relaxed);
            running.into_iter().map(|writer| writer.join().unwrap()).sum::<u64>()
        });
    }
    let mut server = Server::start(data.path(), engine, "always");
    let mut client = KvsClient::connect(server.addr.as_str()).unwrap();
    for writer in &mut writers {
        writer.check(&mut client, &mut lost);
    }
    server.kill();
    println!(
        "{engine}: {kills} kills, {acknowledged} acknowledged writes, {} lost or back",
        lost.len()
    );
    assert!(acknowledged > 0);
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}
