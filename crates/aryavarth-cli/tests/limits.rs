//! Every limit of docs/protocol.md has a flag, with the default that stands there, and the flag works:
//! a server that is started with another value behaves by it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{PATIENCE, Server, data, run_briefly};

/// A row of the table.
#[derive(Debug)]
struct Row {
    flag: String,
    default: String,
    unit: String,
    config: String,
}

fn table() -> Vec<Row> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().skip_while(|line| !line.starts_with("| limit | flag |")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|')).map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let plain = |at: usize| cells[at].trim_matches('`').to_owned();
        let [flag, default, unit, config] = [2, 3, 4, 5].map(plain);
        Row { flag, default, unit, config }
    });
    rows.collect()
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(&server.addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The replies to a whole conversation, as text.
fn say(server: &Server, text: &str) -> String {
    let mut stream = connect(server);
    // Refused in the middle, the rest is not taken.
    drop(stream.write_all(text.as_bytes()));
    drop(stream.shutdown(Shutdown::Write));
    let mut replies = Vec::new();
    drop(stream.read_to_end(&mut replies));
    String::from_utf8_lossy(&replies).into_owned()
}

fn figure(server: &Server, section: &str, name: &str) -> String {
    let info = say(server, &format!("INFO {section}\r\n"));
    let found = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.unwrap_or_else(|| panic!("no {name} in {info}")).to_owned()
}

fn eventually(wanted: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < PATIENCE, "never: {wanted}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Scripts that take more than 1 MiB, and more than a second.
const GROWS: &str = "EVAL \"local s = 'x' for i = 1, 21 do s = s .. s end return #s\" 0\r\n";
const LOOPS: &str = "EVAL \"while true do end\" 0\r\n";

/// A value of a flag, a conversation, and a part of the replies that the default does not give.
const CONVERSATIONS: &[(&str, &str, &str, &str)] = &[
    ("--key-max", "8", "SET 123456789 v\r\nSET 12345678 v\r\n", "9 bytes, the limit is 8\r\n+OK"),
    ("--key-max", "8", "MULTI\r\nSET 123456789 v\r\nEXEC\r\n", "-EXECABORT"),
    ("--key-max", "8", r#"{"Get":{"key":"123456789"}}"#, "the limit is 8"),
    ("--value-max", "10", "SET k 1234567890\r\nAPPEND k 1\r\n", "-ERR string exceeds"),
    ("--value-max", "10", "*2\r\n$3\r\nGET\r\n$11\r\n12345678901\r\n", "invalid bulk length"),
    ("--value-max", "10", r#"{"Set":{"key":"k","value":"12345678901"}}"#, "the limit is 10"),
    ("--arguments-max", "16", "*17\r\n", "invalid multibulk length"),
    ("--nesting-max", "2", r#"{"Get":{"key":{"k":1}}}"#, "more than 2 levels"),
    ("--scan-max", "5", r#"{"Scan":{"limit":6}}"#, "1 to 5 are possible"),
    ("--watched-max", "2", "WATCH a b c\r\n", "may watch 2 keys"),
    ("--script-memory-max", "1mb", GROWS, "more than 1048576 bytes of memory"),
    ("--scripts-memory-max", "1mb", GROWS, "more than 1048576 bytes of memory"),
    ("--script-time", "100ms", LOOPS, "more than 100 ms"),
    ("--script-lock-time", "200ms", LOOPS, "more than 200 ms"),
    (
        "--scripts-max",
        "1",
        "SCRIPT LOAD \"return 1\"\r\nSCRIPT LOAD \"return 2\"\r\nEVALSHA \
         e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0\r\n",
        "NOSCRIPT",
    ),
];

/// The same with `LONG` in place of 600 bytes.
const LONG_CONVERSATIONS: &[(&str, &str, &str, &str)] = &[
    (
        "--request-max",
        "2kb",
        "*5\r\n$4\r\nMGET\r\n$600\r\nLONG\r\n$600\r\nLONG\r\n$600\r\nLONG\r\n$600\r\nLONG\r\n",
        "too big request",
    ),
    ("--line-max", "64", "GET LONG\r\n", "too big inline request"),
    (
        "--scan-page-max",
        "1kb",
        r#"{"Set":{"key":"a","value":"LONG"}}{"Set":{"key":"b","value":"LONG"}}{"Scan":{}}"#,
        "the page is too large",
    ),
    ("--transaction-max", "1kb", "MULTI\r\nSET a LONG\r\nSET b LONG\r\n", "limit is 1024"),
    ("--watched-bytes-max", "1kb", "WATCH aLONG bLONG\r\n", "of 1024 bytes in all"),
    ("--subscriptions-max", "1kb", "SUBSCRIBE aLONG bLONG\r\n", "take all the memory"),
    (
        "--messages-max",
        "1kb",
        "HELLO 3\r\nSUBSCRIBE a\r\nPUBLISH a LONGLONG\r\n",
        "the message is larger",
    ),
    (
        "--scripts-bytes-max",
        "1kb",
        "SCRIPT LOAD \"return 1\"\r\nSCRIPT LOAD \"--LONG\"\r\nEVALSHA \
         e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0\r\n",
        "NOSCRIPT",
    ),
    (
        "--script-text-max",
        "1kb",
        "*3\r\n$4\r\nEVAL\r\n$1202\r\n--LONGLONG\r\n$1\r\n0\r\n",
        "the script's text is too long: the limit is 1024",
    ),
    ("--reply-max", "1kb", "MSET a LONG b LONG\r\nMGET a b\r\n", "the limit is 1024"),
];

/// Shows that a flag works on a server that was started with it.
type Works = fn(&Server);

/// Flags whose effect takes more than one conversation.
const OTHERS: &[(&str, &str, Works)] = &[
    ("--connections-max", "2", connections_are_refused),
    ("--request-time", "100ms", a_request_is_late),
    ("--idle-time", "1s", an_idle_client_is_closed),
    ("--send-time", "200ms", a_client_that_takes_nothing_is_closed),
    ("--input-max", "64kb", input_is_refused),
    ("--client-output-max", "1gb", replies_are_made_ahead),
    ("--output-max", "1mb", replies_of_all_have_less_room),
    ("--subscriber-max", "64kb", a_slow_subscriber_is_closed),
    ("--jobs-max", "1", jobs_are_refused),
    ("--memory-max", "1mb", memory_is_used_up),
];

fn connections_are_refused(server: &Server) {
    let mut held = [connect(server), connect(server)];
    for stream in &mut held {
        stream.write_all(b"PING\r\n").unwrap();
        stream.read_exact(&mut [0; 7]).unwrap();
    }
    assert!(say(server, "PING\r\n").contains("max number of clients"));
}

fn a_request_is_late(server: &Server) {
    let mut stream = connect(server);
    stream.write_all(b"*1\r\n$4\r\nPI").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.contains("within 0.1 s"), "{said}");
}

fn an_idle_client_is_closed(server: &Server) {
    let mut said = String::new();
    connect(server).read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

/// Sets `large` to so many bytes.
fn set_large(server: &Server, bytes: usize) {
    let command =
        format!("*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n${bytes}\r\n{}\r\n", "x".repeat(bytes));
    assert_eq!(say(server, &command), "+OK\r\n");
}

fn a_client_that_takes_nothing_is_closed(server: &Server) {
    set_large(server, 32 << 20);
    let mut stream = connect(server);
    stream.write_all(b"GET large\r\n").unwrap();
    let name = stream.local_addr().unwrap().to_string();
    eventually("it is closed", || !say(server, "CLIENT LIST\r\n").contains(&name));
}

fn input_is_refused(server: &Server) {
    let half = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n{}", "x".repeat(500_000));
    assert!(say(server, &half).contains("more than 65536 bytes"));
}

fn replies_are_made_ahead(server: &Server) {
    set_large(server, 1 << 20);
    let mut stream = connect(server);
    // More than sockets hold.
    stream.write_all("GET large\r\n".repeat(64).as_bytes()).unwrap();
    eventually("all are made", || {
        say(server, "INFO commandstats\r\n").contains("cmdstat_get:calls=64,")
    });
}

fn replies_of_all_have_less_room(server: &Server) {
    assert_eq!(figure(server, "aryavarth", "output_bytes_max"), "1048576");
}

fn a_slow_subscriber_is_closed(server: &Server) {
    let mut stream = connect(server);
    stream.write_all(b"SUBSCRIBE a\r\n").unwrap();
    let name = stream.local_addr().unwrap().to_string();
    eventually("it listens", || say(server, "PUBSUB CHANNELS\r\n").starts_with("*1"));
    let publish = format!("*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n${}\r\n", 60_000);
    let publish = publish + &"x".repeat(60_000) + "\r\n";
    // Sockets hold some, and the limit's default 32 MiB.
    let mut sent = 0;
    eventually("it is closed", || {
        sent += 10;
        say(server, &publish.repeat(10));
        !say(server, "CLIENT LIST\r\n").contains(&name)
    });
    assert!(sent * 60_000 < 24 << 20, "closed after {sent} messages");
}

fn jobs_are_refused(server: &Server) {
    let is_busy = AtomicBool::new(false);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !is_busy.load(Ordering::Relaxed) && start.elapsed() < PATIENCE {
                    if say(server, &r#"{"Scan":{}}"#.repeat(50)).contains("busy: 1 jobs") {
                        is_busy.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert!(is_busy.into_inner());
}

fn memory_is_used_up(server: &Server) {
    assert!(say(server, "SET k v\r\n").starts_with("-OOM"));
}

fn start(flag: &str, value: &str) -> (tempfile::TempDir, Server) {
    let (dir, data) = data();
    let server = Server::start_with(&data, &["--log-level", "off", flag, value]);
    (dir, server)
}

#[test]
fn every_limit_of_the_page_has_a_flag_that_works() {
    let rows = table();
    assert!(rows.len() > 15, "{rows:?}");
    let mut shown: Vec<&str> = CONVERSATIONS.iter().map(|(flag, ..)| *flag).collect();
    shown.extend(LONG_CONVERSATIONS.iter().map(|(flag, ..)| *flag));
    shown.extend(OTHERS.iter().map(|(flag, ..)| *flag));
    for Row { flag, .. } in &rows {
        assert!(shown.contains(&flag.as_str()), "{flag} is not shown to work");
    }
    for flag in shown {
        assert!(rows.iter().any(|row| row.flag == flag), "{flag} is not in docs/protocol.md");
    }
    let (_dir, by_default) = start("--log-format", "text");
    let long = "x".repeat(600);
    for (flag, value, sent, heard) in CONVERSATIONS.iter().chain(LONG_CONVERSATIONS) {
        let sent = sent.replace("LONG", &long);
        let without = say(&by_default, &sent);
        assert!(!without.contains(heard), "without {flag}: {without}");
        let (_dir, server) = start(flag, value);
        let with = say(&server, &sent);
        assert!(with.contains(heard), "{flag} {value}: {with}");
    }
    for (flag, value, works) in OTHERS {
        let (_dir, server) = start(flag, value);
        works(&server);
    }
}

#[test]
fn the_page_says_the_defaults_and_the_units_of_the_flags() {
    let help = support::run(&["server", "--help"]).stdout;
    let mut lines = help.lines();
    let mut flags = BTreeMap::new();
    while let Some(line) = lines.next() {
        let Some(rest) = line.trim().strip_prefix("--") else { continue };
        let (name, unit) = rest.split_once(' ').unwrap_or((rest, ""));
        let default = lines.clone().find_map(|line| line.trim().strip_prefix("[default: "));
        let default = default.unwrap_or_default().trim_end_matches(']').to_owned();
        flags.insert(format!("--{name}"), (unit.trim_matches(['<', '>']).to_owned(), default));
    }
    for Row { flag, default, unit, .. } in table() {
        let named = match unit.as_str() {
            "number" | "levels" => "N",
            "size" => "SIZE",
            "time" => "TIME",
            other => panic!("{flag} has the unit {other}"),
        };
        assert_eq!(flags.get(&flag), Some(&(named.to_owned(), default)), "{flag}");
    }
}

#[test]
fn settings_that_redis_has_change_while_the_server_runs() {
    let (_dir, server) = start("--log-format", "text");
    let values: BTreeMap<&str, &str> = [
        ("proto-max-bulk-len", "1048576"),
        ("client-query-buffer-limit", "2097152"),
        ("maxclients", "50"),
        ("timeout", "100"),
        ("maxmemory", "1073741824"),
    ]
    .into();
    let named = table().into_iter().map(|row| row.config).filter(|name| !name.is_empty());
    let mut named: Vec<String> = named.collect();
    named.sort_unstable();
    assert!(values.keys().copied().eq(named.iter().map(String::as_str)), "{named:?}");
    // A connection that was there before hears it, too.
    let mut old = connect(&server);
    let mut lines = BufReader::new(old.try_clone().unwrap()).lines();
    old.write_all(b"PING\r\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "+PONG");
    for (name, value) in values {
        assert_eq!(say(&server, &format!("CONFIG SET {name} {value}\r\n")), "+OK\r\n", "{name}");
        assert!(say(&server, &format!("CONFIG GET {name}\r\n")).ends_with(&format!("{value}\r\n")));
    }
    old.write_all(b"*2\r\n$3\r\nGET\r\n$1048577\r\n").unwrap();
    assert!(lines.next().unwrap().unwrap().contains("invalid bulk length"));
    for (name, wrong) in [
        ("proto-max-bulk-len", "1gb"),
        ("proto-max-bulk-len", "1kb"),
        ("client-query-buffer-limit", "0"),
    ] {
        let reply = say(&server, &format!("CONFIG SET {name} {wrong}\r\n"));
        assert!(reply.contains("argument must be between 1048576 and "), "{reply}");
    }
}

#[test]
fn values_that_make_no_sense_are_refused_with_ones_that_do() {
    for (flag, value, would) in [
        ("--key-max", "65536", "from 1 to 65535 bytes, such as 65535"),
        ("--value-max", "0", "such as 64mb"),
        ("--value-max", "1gb", "such as 64mb"),
        ("--output-max", "ten", "such as 100mb"),
        ("--nesting-max", "1000", "from 2 to 100, such as 64"),
        ("--connections-max", "0", "such as 10000"),
        ("--request-time", "soon", "such as 30s"),
        ("--request-time", "0", "such as 30s"),
        ("--idle-time", "500ms", "write whole seconds, such as 300s"),
        ("--value-max", "256mb", "raise --request-max"),
    ] {
        let did = run_briefly(&["server", "--listen", "127.0.0.1:0", flag, value]);
        assert!(did.code == 2 && did.stderr.contains(would), "{flag} {value}: {}", did.stderr);
    }
}
