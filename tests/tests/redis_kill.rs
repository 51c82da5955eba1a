//! `kill -9` under a load of Redis commands: acknowledged writes are there afterwards, no
//! transaction is halved, deadlines are kept to the millisecond, and expired keys stay gone.
//!
//! Eight redis-rs clients send pipelines of SET, INCR, MULTI and SET with deadlines to a real
//! server, each on keys of its own, and know their acknowledged writes and those under way. The
//! server is killed at a random moment. A client's keys on the next one have to show the
//! state after all acknowledged writes and some first part of those under way, in their order:
//! nothing lost, nothing halved, nothing out of order. One directory lives through all kills.
//! `KILLS` says how often, on each engine (default 8), at all levels of durability in turn.
//! `SUBJECT=redis` proves the test against redis with `appendfsync always`.
#![expect(clippy::print_stdout, reason = "a long run says what it did")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aryavarth_tests::parts::redis_tools;
use aryavarth_tests::server::{Kind, Server, subject};
use redis::{Client, Cmd, Connection, Value, cmd};

const WRITERS: u64 = 8;
/// Keys of each kind that a writer has.
const KEYS_PER_KIND: u64 = 10;
const PIPELINE_MAX: u64 = 24;
const LEVELS: [&str; 4] = ["always", "interval:5", "always", "os"];
/// Longer than any reply takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A key's value and its deadline in milliseconds; `None` if there is no such key.
type State = Option<(String, Option<u64>)>;

/// Commands that take effect together, and the right last reply.
struct Unit {
    commands: Vec<Cmd>,
    effects: Vec<(String, State)>,
    expected: Value,
}

/// The state of one client's keys.
#[derive(Default)]
struct Writer {
    number: u64,
    /// The state after all that was acknowledged.
    acknowledged: BTreeMap<String, State>,
    /// Commands sent and not answered when the server died, in order.
    under_way: Vec<Vec<(String, State)>>,
    version: u64,
    random: u64,
    units_acknowledged: u64,
}

impl Writer {
    fn new(number: u64) -> Writer {
        let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Writer { number, random, ..Writer::default() }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % end
    }

    /// Writes until the server is gone.
    fn write(&mut self, addr: SocketAddr) {
        // On a busy machine the server may be dead before this thread runs.
        let Ok(mut connection) = connect(addr) else { return };
        // The keys after all commands sent so far.
        let mut ahead = self.acknowledged.clone();
        loop {
            let length = 1 + self.below(PIPELINE_MAX);
            let units: Vec<Unit> = (0..length).map(|_| self.unit(&mut ahead)).collect();
            let commands = units.iter().flat_map(|unit| &unit.commands);
            let packed: Vec<u8> = commands.flat_map(Cmd::get_packed_command).collect();
            self.under_way = units.iter().map(|unit| unit.effects.clone()).collect();
            if connection.send_packed_command(&packed).is_err() {
                return;
            }
            for unit in units {
                for _queued in 1..unit.commands.len() {
                    if connection.recv_response().is_err() {
                        return;
                    }
                }
                match connection.recv_response() {
                    Ok(reply) => assert_eq!(reply, unit.expected, "{:?}", unit.effects),
                    Err(error) => {
                        assert!(error.is_connection_dropped(), "an error of the server: {error}");
                        return;
                    }
                }
                self.under_way.remove(0);
                self.acknowledged.extend(unit.effects);
                self.units_acknowledged += 1;
            }
        }
    }

    /// The next thing to do; `ahead` is the state that it finds and leaves.
    fn unit(&mut self, ahead: &mut BTreeMap<String, State>) -> Unit {
        self.version += 1;
        let at = self.below(KEYS_PER_KIND);
        let key = |kind: &str| format!("writer:{}:{kind}:{at}", self.number);
        let (text, counter) = (key("text"), key("counter"));
        let (one, other) = (key("one"), key("other"));
        let (soon, late) = (key("soon"), key("late"));
        let length = usize::try_from(self.below(200)).unwrap();
        let value = format!("{}:{}", self.version, "x".repeat(length));
        let set = |key: &str, value: &str| cmd("SET").arg(key).arg(value).to_owned();
        let number_of = |ahead: &BTreeMap<String, State>, key: &str| {
            let state = ahead.get(key).cloned().flatten();
            state.map_or(0, |(value, _)| value.parse::<i64>().unwrap())
        };
        let unit = match self.below(6) {
            0 => Unit {
                commands: vec![set(&text, &value)],
                effects: vec![(text, Some((value, None)))],
                expected: Value::Okay,
            },
            1 => {
                let next = number_of(ahead, &counter) + 1;
                Unit {
                    commands: vec![cmd("INCR").arg(&counter).to_owned()],
                    effects: vec![(counter, Some((next.to_string(), None)))],
                    expected: Value::Int(next),
                }
            }
            2 => {
                // The same number in both keys, by two ways, or neither.
                let next = number_of(ahead, &one) + 1;
                let (incr, set) =
                    (cmd("INCR").arg(&one).to_owned(), set(&other, &next.to_string()));
                let state = Some((next.to_string(), None));
                Unit {
                    commands: vec![cmd("MULTI"), incr, set, cmd("EXEC")],
                    effects: vec![(one, state.clone()), (other, state)],
                    expected: Value::Array(vec![Value::Int(next), Value::Okay]),
                }
            }
            3 => {
                let deadline = now_ms() + 20 + self.below(400);
                Unit {
                    commands: vec![set(&soon, &value).arg("PXAT").arg(deadline).to_owned()],
                    effects: vec![(soon, Some((value, Some(deadline))))],
                    expected: Value::Okay,
                }
            }
            4 => {
                let deadline = now_ms() + 3_600_000 + self.below(1_000_000_000);
                let expire = cmd("PEXPIREAT").arg(&late).arg(deadline).to_owned();
                Unit {
                    commands: vec![cmd("MULTI"), set(&late, &value), expire, cmd("EXEC")],
                    effects: vec![(late, Some((value, Some(deadline))))],
                    expected: Value::Array(vec![Value::Okay, Value::Int(1)]),
                }
            }
            _ => {
                let was = i64::from(ahead.get(&text).cloned().flatten().is_some());
                Unit {
                    commands: vec![cmd("DEL").arg(&text).to_owned()],
                    effects: vec![(text, None)],
                    expected: Value::Int(was),
                }
            }
        };
        ahead.extend(unit.effects.iter().cloned());
        unit
    }

    /// Compares the server's data with the acknowledged writes, and learns the fate of the commands that
    /// were under way.
    fn check(&mut self, connection: &mut Connection, wrong: &mut Vec<String>) {
        let under_way = std::mem::take(&mut self.under_way);
        let mut expected = self.acknowledged.clone();
        expected.extend(under_way.iter().flatten().map(|(key, _)| (key.clone(), None)));
        let keys: Vec<String> = expected.into_keys().collect();
        let before = now_ms();
        let shown: Vec<State> = keys.iter().map(|key| shown(connection, key)).collect();
        let after = now_ms();

        let mut state = self.acknowledged.clone();
        let mut mismatch = None;
        for first in 0..=under_way.len() {
            if first > 0 {
                state.extend(under_way[first - 1].iter().cloned());
            }
            let expected = |key: &String| state.get(key).cloned().flatten();
            let mut pairs = keys.iter().zip(&shown);
            let found = pairs.find(|(key, shown)| !fits(&expected(key), shown, before, after));
            let Some((key, shown)) = found else {
                self.acknowledged = state;
                return;
            };
            let told = format!(
                "{key}: {shown:?}, expected was {:?} after {first} of {} under way",
                expected(key),
                under_way.len()
            );
            mismatch = Some(told).filter(|_| first == 0).or(mismatch);
        }
        wrong.extend(mismatch);
        // Each mismatch is reported once; the present state counts from here on.
        self.acknowledged = keys.into_iter().zip(shown).collect();
    }
}

/// Whether a key may look like this between two moments; a deadline between them may have passed.
/// In the millisecond of its deadline a key is still there on redis, whose clock ticks on its own.
fn fits(expected: &State, shown: &State, before: u64, after: u64) -> bool {
    match expected {
        Some((_, Some(deadline))) if *deadline + 2 <= before => shown.is_none(),
        Some((_, Some(deadline))) if *deadline <= after + 2 => shown.is_none() || shown == expected,
        _ => shown == expected,
    }
}

fn shown(connection: &mut Connection, key: &str) -> State {
    let asked = redis::pipe().atomic().cmd("GET").arg(key).cmd("PEXPIRETIME").arg(key).to_owned();
    let (value, deadline): (Option<String>, i64) = asked.query(connection).unwrap();
    value.map(|value| (value, u64::try_from(deadline).ok()))
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn connect(addr: SocketAddr) -> redis::RedisResult<Connection> {
    let connection = Client::open(format!("redis://{addr}"))?.get_connection()?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

fn start(kind: &Kind, data: &std::path::Path, level: &str) -> Server {
    let arguments = ["--durability", level];
    let is_ours = matches!(kind, Kind::Aryavarth { .. });
    Server::start(kind, data, if is_ours { &arguments } else { &[] }).unwrap()
}

fn kill_again_and_again(engine: &str) {
    let kind = match subject(engine) {
        Ok(kind) => kind,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    let kills = std::env::var("KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let (acknowledged, wrong) = after_kills(&kind, kills);
    let wrong_count = wrong.len();
    println!("{engine}: {kills} kills, {acknowledged} acknowledged writes, {wrong_count} wrong");
    assert!(acknowledged > 0);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// How many writes were acknowledged over all the kills, and the faults afterwards.
fn after_kills(kind: &Kind, kills: usize) -> (u64, Vec<String>) {
    let data = tempfile::tempdir().unwrap();
    let mut writers: Vec<Writer> = (1..=WRITERS).map(Writer::new).collect();
    let (mut wrong, mut moments) = (Vec::new(), Writer::new(99));
    for kill in 0..kills {
        let mut server = start(kind, data.path(), LEVELS[kill % LEVELS.len()]);
        let addr = server.addr();
        let mut connection = connect(addr).unwrap();
        for writer in &mut writers {
            writer.check(&mut connection, &mut wrong);
        }
        let load = Duration::from_millis(20 + moments.below(200));
        thread::scope(|scope| {
            for writer in &mut writers {
                scope.spawn(move || writer.write(addr));
            }
            thread::sleep(load);
            server.kill();
        });
    }
    let mut server = start(kind, data.path(), "always");
    let mut connection = connect(server.addr()).unwrap();
    for writer in &mut writers {
        writer.check(&mut connection, &mut wrong);
    }
    server.kill();
    (writers.iter().map(|writer| writer.units_acknowledged).sum(), wrong)
}

#[test]
fn acknowledged_commands_survive_kills() {
    kill_again_and_again("kvs");
}

#[test]
fn acknowledged_commands_survive_kills_on_sled() {
    kill_again_and_again("sled");
}

/// The test itself: a server that keeps nothing on the disk is found out.
#[test]
fn a_server_that_forgets_is_found_out() {
    let tools = match redis_tools() {
        Ok(tools) => tools,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    let (acknowledged, wrong) = after_kills(&Kind::Redis(tools), 2);
    assert!(acknowledged > 0);
    assert!(!wrong.is_empty());
}
