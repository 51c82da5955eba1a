//! Scripts over sockets: a run leaves nothing in the machine for the next, is repeated without a second
//! effect, and its errors stay what they are on their way through the library.

use std::time::{Duration, Instant};

use aryavarth::KvStore;
use aryavarth_server::{Limits, ScriptLimits};

use crate::scripts::{eval, run};
use crate::support::{Client, Server};

/// The reply of a script, of so many lines.
fn lines(client: &mut Client, script: &str, count: usize) -> Vec<String> {
    client.send(eval(script, &["0"]));
    (0..count).map(|_| client.reply().trim_end().to_owned()).collect()
}

/// The machine of a thread is kept, and other clients' scripts run in it next. Functions that write
/// without metamethods, and the place of an error, got into the tables that scripts share.
#[test]
fn no_script_leaves_a_value_in_a_table_that_scripts_share() {
    const TABLES: &[&str] = &[
        "_G",
        "redis",
        "string",
        "table",
        "math",
        "cjson",
        "cmsgpack",
        "bit",
        "struct",
        "getmetatable('')",
        "getmetatable('').__index",
    ];
    let server = Server::start();
    let mut client = server.client();
    for table in TABLES {
        for script in [
            format!("table.insert({table}, 'leak')"),
            format!("table.insert({table}, 1, 'leak')"),
            format!("table.remove({table}, 1)"),
            format!("table.sort({table})"),
            format!("table.sort({table}, function() return true end)"),
            format!("rawset({table}, 1, 'leak')"),
            format!("setmetatable({table}, nil)"),
            format!("{table}[1] = 'leak'"),
        ] {
            let reply = run(&mut client, &script);
            let wanted = "Attempt to modify a readonly table";
            assert!(reply.starts_with("-ERR ") && reply.contains(wanted), "{script}: {reply}");
        }
        assert!(run(&mut client, &format!("error({table})")).starts_with("-ERR "), "{table}");
        let script = format!("local n = 0 for _ in next, {table} do n = n + 1 end return n");
        assert_eq!(run(&mut client, &script), ":0", "{table}");
    }
    for name in ["source", "line", "err"] {
        let reply = run(&mut client, &format!("return {name}"));
        assert!(reply.contains("nonexistent global variable"), "{name}: {reply}");
    }
}

/// The settings of one script are not those of the next.
#[test]
fn the_settings_of_a_script_end_with_it() {
    let server = Server::start();
    let mut client = server.client();
    let script =
        "redis.setresp(3) cjson.encode_max_depth(1) cjson.encode_invalid_numbers(true) return 1";
    // Each thread of the pool has a machine of its own.
    for _ in 0..50 {
        assert_eq!(run(&mut client, script), ":1");
    }
    for _ in 0..50 {
        assert_eq!(run(&mut client, "return cjson.encode_max_depth()"), ":1000");
        assert_eq!(run(&mut client, "return redis.call('GET', 'none') == false and 2 or 3"), ":2");
        assert!(run(&mut client, "return cjson.encode(1/0)").contains("must not be NaN or Inf"));
    }
}

#[test]
fn an_error_that_is_raised_inside_gsub_stays_what_it_is() {
    let server = Server::start();
    let mut client = server.client();
    for (script, reply) in [
        (
            "local ok, e = pcall(string.gsub, 'x', 'x', function() error({code = 7}) end) return e.code",
            ":7",
        ),
        ("return (('x'):gsub('x', function() error({err = 'MYERR x'}) end))", "-MYERR x"),
        (
            "local t = setmetatable({}, {__index = function() error({err = 'MYERR y'}) end}) \
             return (('x'):gsub('x', t))",
            "-MYERR y",
        ),
        (
            "local f = function() return (('y'):gsub('y', function() error({err = 'MYERR z'}) end)) end \
             return (('x'):gsub('x', f))",
            "-MYERR z",
        ),
        (
            "return (('x'):gsub('x', function() return redis.call('NOSUCH') end))",
            "-ERR Unknown Redis",
        ),
        ("return (('x'):gsub('x', function() error('a\\nb', 0) end))", "-ERR a b"),
        (
            "local t = setmetatable({}, {__index = function(_, k) return k .. k end}) \
          return #('xy'):gsub('.', t)",
            ":4",
        ),
    ] {
        let given = run(&mut client, script);
        assert!(given.starts_with(reply), "{script}: {given}");
    }
}

/// The words of the machine's error, said by a script, dropped its writes.
#[test]
fn only_the_machine_says_that_there_is_no_memory() {
    let server = Server::start();
    let mut client = server.client();
    for script in [
        "error('not enough memory')",
        "error('not enough memory', 0)",
        "error({err = 'not enough memory'})",
    ] {
        client.ask("DEL k\r\n");
        let reply = run(&mut client, &format!("redis.call('SET', 'k', 'v') {script}"));
        assert!(reply.contains("not enough memory"), "{script}: {reply}");
        assert_eq!(client.ask("EXISTS k\r\n"), ":1\r", "{script}");
    }
    let script = "redis.call('SET', 'l', 'v') \
                  return (('x'):gsub('x', function() local s = 'x' while true do s = s .. s end end))";
    assert!(run(&mut client, script).starts_with("-ERR the script took more than"));
    assert_eq!(client.ask("EXISTS l\r\n"), ":0\r");
}

/// The library pushes one value more than it made room for: in a build with assertions, a call with
/// thirty results ended the process.
#[test]
fn a_protected_call_returns_as_many_values_as_it_likes() {
    let server = Server::start();
    let mut client = server.client();
    for (script, value) in [
        ("local t = {} for i = 1, 30 do t[i] = i end return select('#', pcall(unpack, t))", ":31"),
        ("return select('#', xpcall(function() return unpack({}, 1, 5000) end, error))", ":5001"),
        ("return select('#', struct.unpack(('b'):rep(6990), ('a'):rep(6990)))", ":6991"),
    ] {
        assert_eq!(run(&mut client, script), value, "{script}");
    }
}

/// A store of keys `u0`, `u1`..., opened anew: no value of it is at hand.
fn opened_anew(keys: usize) -> (tempfile::TempDir, Server) {
    let directory = tempfile::tempdir().unwrap();
    let store = KvStore::open(directory.path()).unwrap();
    let server = Server::with(store, Limits::default());
    let mut client = server.client();
    let value = "x".repeat(2_000);
    for at in 0..keys {
        client.send(format!("SET u{at} {value}\r\n"));
    }
    for _ in 0..keys {
        assert_eq!(client.reply(), "+OK\r");
    }
    drop((client, server));
    let store = KvStore::open(directory.path()).unwrap();
    let long = Duration::from_secs(60);
    let scripts = ScriptLimits { time: long, locked_time: long, ..ScriptLimits::default() };
    let limits = Limits { scripts, ..Limits::default() };
    (directory, Server::with(store, limits))
}

/// Each read of a key that was not declared ended the run, and the next began at the front: the time
/// grew with the square of the keys.
#[test]
fn a_script_reads_thousands_of_keys_that_it_did_not_declare() {
    const KEYS: usize = 5_000;
    let (_directory, server) = opened_anew(KEYS);
    let mut client = server.client();
    let sum = |add: &str| format!("local n = 0 for i = 0, {} do {add} end return n", KEYS - 1);
    let scripts = [
        sum("n = n + #redis.call('GET', 'u' .. i)"),
        sum(
            "local v = redis.call('GET', 'u' .. i) if v then v = cjson.decode('\"' .. v .. '\"') n = n + #v end",
        ),
        sum("n = n + redis.call('STRLEN', 'u' .. i)"),
    ];
    for script in scripts {
        let began = Instant::now();
        assert_eq!(run(&mut client, &script), format!(":{}", KEYS * 2_000), "{script}");
        println!("{KEYS} keys that were not declared: {:?}", began.elapsed());
    }
}

/// A run that lacks values goes on with others in their place: none of its errors and effects is seen.
#[test]
fn a_script_that_is_repeated_has_its_effects_once() {
    let (_directory, server) = opened_anew(40);
    let mut reader = server.client();
    reader.send("SUBSCRIBE c\r\n");
    for line in ["*3\r", "$9\r", "subscribe\r", "$1\r", "c\r", ":1\r"] {
        assert_eq!(reader.reply(), line);
    }
    let mut client = server.client();
    let script = "redis.call('PUBLISH', 'c', 'once') redis.call('INCR', 'n') local n = 0 \
                  for i = 0, 39 do n = n + redis.call('GET', 'u' .. i):len() end return n";
    assert_eq!(lines(&mut client, script, 1), [":80000"]);
    assert_eq!(client.ask("GET n\r\n"), "$1\r");
    assert_eq!(client.reply(), "1\r");
    assert_eq!(client.ask("PUBLISH c next\r\n"), ":1\r");
    for line in ["*3\r", "$7\r", "message\r", "$1\r", "c\r", "$4\r", "once\r"] {
        assert_eq!(reader.reply(), line);
    }
    for line in ["*3\r", "$7\r", "message\r", "$1\r", "c\r", "$4\r", "next\r"] {
        assert_eq!(reader.reply(), line);
    }
}
