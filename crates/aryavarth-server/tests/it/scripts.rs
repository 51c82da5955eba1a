//! Scripts over sockets: a script can always be stopped and then leaves nothing behind, it gets out of
//! its sandbox by no way, and its replies and messages wait for its writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aryavarth::{KvStore, KvsEngine, MemoryEngine, Wait};
use aryavarth_server::{Limits, ScriptLimits};

use crate::support::{Client, Obedient, PATIENCE, Server, eventually};

/// A call of a script, with arguments of which the first is the number of keys.
pub(crate) fn eval(script: &str, args: &[&str]) -> String {
    let parts: Vec<String> = ["EVAL", script]
        .iter()
        .chain(args)
        .map(|part| format!("${}\r\n{part}\r\n", part.len()))
        .collect();
    format!("*{}\r\n{}", parts.len(), parts.concat())
}

pub(crate) fn run(client: &mut Client, script: &str) -> String {
    client.ask(eval(script, &["0"])).trim_end().to_owned()
}

/// A server whose scripts may take long, so that only a kill ends them.
fn patient() -> Server {
    let long = Duration::from_secs(600);
    let scripts = ScriptLimits { time: long, locked_time: long, ..ScriptLimits::default() };
    Server::with(MemoryEngine::new(), Limits { scripts, ..Limits::default() })
}

/// Kills scripts until the one that `client` waits for has ended; returns its reply.
fn killed(server: &Server, client: &mut Client) -> String {
    let mut other = server.client();
    eventually("a script runs", || other.ask("SCRIPT KILL\r\n") == "+OK\r");
    client.reply().trim_end().to_owned()
}

#[test]
fn a_script_that_wrote_can_be_killed_and_its_writes_are_gone() {
    let server = patient();
    let mut client = server.client();
    client.send(eval("redis.call('SET', 'k', 'v') while true do end", &["0"]));
    let reply = killed(&server, &mut client);
    assert!(reply.starts_with("-ERR Script killed by user with SCRIPT KILL."), "{reply}");
    assert_eq!(client.ask("EXISTS k\r\n"), ":0\r");
    assert_eq!(run(&mut client, "return 1"), ":1", "the thread's machine goes on");
    assert_eq!(client.ask("SCRIPT KILL\r\n"), "-NOTBUSY No scripts in execution right now.\r");
}

/// Scripts that catch every error, each in a way of its own.
#[test]
fn no_script_catches_its_kill() {
    let server = patient();
    for script in [
        "while true do pcall(function() while true do end end) end",
        "local function f() while true do end end while true do xpcall(f, function() return f() end) end",
        "while true do pcall(pcall, function() while true do end end) end",
        "local t = setmetatable({}, {__tostring = function() while true do end end}) \
         while true do pcall(tostring, t) end",
        "while true do pcall(string.gsub, ('x'):rep(100), '.', function() while true do end end) end",
        "while true do pcall(table.sort, {3, 1, 2}, function() while true do end end) end",
        "while true do redis.pcall('SET', 'k', 'v') end",
        "while true do pcall(redis.call, 'NOSUCH') end",
        "local s = ('a'):rep(30) while true do pcall(string.find, s, ('a?'):rep(30) .. s) end",
        "while true do pcall(error, setmetatable({}, {__index = function() while true do end end})) end",
    ] {
        let mut client = server.client();
        client.send(eval(script, &["0"]));
        let began = Instant::now();
        let reply = killed(&server, &mut client);
        assert!(reply.starts_with("-ERR Script killed by user"), "{script}: {reply}");
        assert!(began.elapsed() < PATIENCE, "{script}");
    }
}

#[test]
fn a_script_that_runs_for_too_long_is_stopped_and_has_done_nothing() {
    let short = Duration::from_millis(100);
    let scripts = ScriptLimits { locked_time: short, ..ScriptLimits::default() };
    let limits = Limits { scripts, ..Limits::default() };
    let server = Server::with(MemoryEngine::new(), limits);
    let mut client = server.client();
    for script in [
        "redis.call('SET', 'k', 'v') while true do end",
        // A pattern that the library's own matcher would try for years.
        "redis.call('SET', 'k', 'v') local s = ('a'):rep(40) return s:find(('a?'):rep(40) .. s)",
        "redis.call('SET', 'k', 'v') local s = ('a'):rep(100000) return s:match('.-.-.-.-b')",
        "redis.call('SET', 'k', 'v') local s = ('x'):rep(5000000) while true do s:find('y', 1, true) end",
        "redis.call('SET', 'k', 'v') local t = {} for i = 1, 1e6 do t[i] = i end \
         while true do table.insert(t, 1, 0) table.remove(t, 1) end",
        "redis.call('SET', 'k', 'v') local s = ('x'):rep(9000000) while true do local t = s .. 'y' end",
        "redis.call('SET', 'k', 'v') local s = ('x'):rep(9000000) while true do s:upper() end",
    ] {
        let reply = run(&mut client, script);
        assert!(reply.starts_with("-ERR the script ran for more than 100 ms"), "{script}: {reply}");
        assert_eq!(client.ask("EXISTS k\r\n"), ":0\r", "{script}");
    }
}

#[test]
fn a_script_that_takes_too_much_memory_is_stopped_and_has_done_nothing() {
    let scripts = ScriptLimits { memory_bytes_max: 4 << 20, ..ScriptLimits::default() };
    let limits = Limits { scripts, ..Limits::default() };
    let server = Server::with(MemoryEngine::new(), limits);
    let mut client = server.client();
    for script in [
        "local s = 'x' while true do s = s .. s end",
        "return ('x'):rep(2000000000)",
        "local t = {} for i = 1, 1e9 do t[i] = {} end",
        "local t = {} for i = 1, 100 do t[i] = ('x'):rep(1000000) end return table.concat(t)",
        "return (('x'):rep(1000000)):gsub('x', ('y'):rep(1000))",
        "return string.format('%s%s%s', ('x'):rep(2000000), ('y'):rep(2000000), ('z'):rep(2000000))",
        "local s = ('x'):rep(1000000) local t = {} for i = 1, 100 do t[i] = s end return cjson.encode(t)",
    ] {
        let reply = run(&mut client, &format!("redis.call('SET', 'k', 'v') {script}"));
        let wanted = "-ERR the script took more than 4194304 bytes of memory";
        assert!(reply.starts_with(wanted), "{script}: {reply}");
        assert_eq!(client.ask("EXISTS k\r\n"), ":0\r", "{script}");
        assert_eq!(run(&mut client, "return #('x'):rep(1000)"), ":1000");
    }
    // A result that names one text again and again.
    let reply = run(&mut client, "local t = {} for i = 1, 40 do t = {t, t} end return t");
    assert!(reply.starts_with("-ERR the script's result is too large"), "{reply}");
}

#[test]
fn a_script_has_no_way_out_of_its_sandbox() {
    let server = Server::start();
    let mut client = server.client();
    for (script, part) in [
        ("return io", "nonexistent global variable 'io'"),
        ("return os", "nonexistent global variable 'os'"),
        ("return debug", "nonexistent global variable 'debug'"),
        ("return require", "nonexistent global variable 'require'"),
        ("return package", "nonexistent global variable 'package'"),
        ("return dofile", "nonexistent global variable 'dofile'"),
        ("return loadfile", "nonexistent global variable 'loadfile'"),
        ("return print", "nonexistent global variable 'print'"),
        ("return newproxy", "nonexistent global variable 'newproxy'"),
        ("return getfenv", "nonexistent global variable 'getfenv'"),
        ("return setfenv", "nonexistent global variable 'setfenv'"),
        ("return collectgarbage", "nonexistent global variable 'collectgarbage'"),
        ("return coroutine", "nonexistent global variable 'coroutine'"),
        ("x = 1", "Attempt to modify a readonly table"),
        ("_G.x = 1", "Attempt to modify a readonly table"),
        ("rawset(_G, 'x', 1)", "Attempt to modify a readonly table"),
        ("setmetatable(_G, {})", "Attempt to modify a readonly table"),
        ("string.rep = nil", "Attempt to modify a readonly table"),
        ("rawset(string, 'rep', 1)", "Attempt to modify a readonly table"),
        ("redis.call = nil", "Attempt to modify a readonly table"),
        ("cjson.encode = nil", "Attempt to modify a readonly table"),
        ("getmetatable('').__index = nil", "Attempt to modify a readonly table"),
        ("getmetatable('').__index.upper = nil", "Attempt to modify a readonly table"),
        ("KEYS.x.y = 1", "attempt to index field 'x'"),
        ("string.dump(function() end)", "attempt to call field 'dump'"),
        ("return ('').dump(function() end)", "attempt to call field 'dump'"),
        ("return ('x'):gfind('x')", "attempt to call method 'gfind'"),
    ] {
        let reply = run(&mut client, script);
        assert!(reply.starts_with("-ERR ") && reply.contains(part), "{script}: {reply}");
    }
    assert_eq!(run(&mut client, "return tostring(getmetatable(_G))"), "$5");
    assert_eq!(client.reply(), "false\r");
    // One script leaves nothing for the next.
    assert_eq!(run(&mut client, "KEYS[1] = 'mine' ARGV.x = 1 return 1"), ":1");
    assert_eq!(run(&mut client, "return #KEYS + #ARGV + (ARGV.x or 0)"), ":0");
}

/// Compiled chunks can break the memory of the machine that loads them.
#[test]
fn compiled_chunks_are_not_accepted() {
    let server = Server::start();
    let mut client = server.client();
    let compiled = "\x1bLuaQ\0\x01\x04\x08\x04\x08\0";
    let reply = run(&mut client, compiled);
    assert!(reply.contains("compiled chunks are not accepted"), "{reply}");
    for script in [
        "local f, problem = loadstring('\\27LuaQ') return {tostring(f), problem}",
        "local n = 0 local f, problem = load(function() n = n + 1 \
         return n == 1 and '\\27' or n == 2 and 'LuaQ' or nil end) return {tostring(f), problem}",
    ] {
        client.send(eval(script, &["0"]));
        let lines: Vec<String> = (0..5).map(|_| client.reply().trim_end().to_owned()).collect();
        assert_eq!(lines[2], "nil", "{script}");
        assert!(lines[4].contains("compiled chunks are not accepted"), "{script}: {lines:?}");
    }
}

#[test]
fn recursion_of_every_kind_ends_in_an_error() {
    let server = Server::start();
    let mut client = server.client();
    for script in [
        "local function f() return 1 + f() end return f()",
        "local function f() return (('x'):gsub('x', f)) end return f()",
        "local function f() local ok, problem = pcall(f) error(problem) end return f()",
        "local t = {} setmetatable(t, {__index = function(_, k) return t[k .. 'x'] end}) return t.x",
        "local t = setmetatable({}, {__lt = function(a, b) return a < b end}) return t < t",
        "local t = {} for i = 1, 2000 do t = {t} end return t",
        "local t = {} for i = 1, 2000 do t = {t} end return cjson.encode(t)",
        "return cjson.decode(('['):rep(2000))",
        "return ('x'):find(('('):rep(1000))",
        "return loadstring('return ' .. ('('):rep(1000) .. '1' .. (')'):rep(1000))()",
        "local f f = function(a, b) table.sort({1, 2, 3}, f) return a < b end f(1, 2)",
    ] {
        let reply = run(&mut client, script);
        assert!(reply.starts_with("-ERR "), "{script}: {reply}");
        assert_eq!(run(&mut client, "return 1"), ":1", "{script}");
    }
}

#[test]
fn the_reply_of_a_script_waits_until_its_writes_are_durable() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    let mut client = server.client();
    client.send(eval("redis.call('SET', KEYS[1], 'v') return 1", &["1", "k"]));
    eventually("it has run", || engine.read(b"k", Wait::Yes).unwrap().0.is_some());
    // A reply that had left early would be a lie.
    engine.poison();
    let reply = client.reply();
    assert!(reply.starts_with("-MISCONF"), "{reply}");
}

#[test]
fn a_message_of_a_script_leaves_once_and_after_its_writes_are_durable() {
    let engine = Obedient::default();
    let server = Server::with(engine.clone(), Limits::default());
    let mut reader = server.client();
    reader.send("SUBSCRIBE c\r\n");
    for line in ["*3\r", "$9\r", "subscribe\r", "$1\r", "c\r", ":1\r"] {
        assert_eq!(reader.reply(), line);
    }
    let mut client = server.client();
    let script = "redis.call('SET', 'k', 'v') return redis.call('PUBLISH', 'c', 'written')";
    client.send(eval(script, &["0"]));
    eventually("it has run", || engine.read(b"k", Wait::Yes).unwrap().0.is_some());
    engine.sync_always();
    assert_eq!(client.reply(), ":1\r");
    for line in ["*3\r", "$7\r", "message\r", "$1\r", "c\r", "$7\r", "written\r"] {
        assert_eq!(reader.reply(), line);
    }
    // A script that is stopped sends nothing: the next message is that of the next script.
    client.send(eval("redis.call('PUBLISH', 'c', 'never') while true do end", &["0"]));
    assert!(client.reply().starts_with("-ERR the script ran for more than"));
    client.send(eval("return redis.call('PUBLISH', 'c', 'next')", &["0"]));
    assert_eq!(client.reply(), ":1\r");
    for line in ["*3\r", "$7\r", "message\r", "$1\r", "c\r", "$4\r", "next\r"] {
        assert_eq!(reader.reply(), line);
    }
}

#[test]
fn a_script_that_is_stopped_in_a_transaction_fails_all_of_it() {
    let server = patient();
    let mut client = server.client();
    client.send("MULTI\r\nSET a 1\r\n");
    client.send(eval("redis.call('SET', 'b', '1') while true do end", &["0"]));
    client.send("EXEC\r\n");
    for reply in ["+OK\r", "+QUEUED\r", "+QUEUED\r"] {
        assert_eq!(client.reply(), reply);
    }
    let reply = killed(&server, &mut client);
    assert!(reply.starts_with("-ERR Script killed by user"), "{reply}");
    assert_eq!(client.ask("EXISTS a b\r\n"), ":0\r");
}

/// The writer's lock may be held meanwhile, so neighbours only read.
#[test]
fn neighbours_read_on_while_a_pattern_explodes() {
    let directory = tempfile::tempdir().unwrap();
    let store = KvStore::open(directory.path()).unwrap();
    let server = Server::with(store, Limits::default());
    let mut neighbour = server.client();
    assert_eq!(neighbour.ask("SET k v\r\n"), "+OK\r");
    let stop = Arc::new(AtomicBool::new(false));
    let bombs: Vec<_> = (0..2)
        .map(|_| {
            let (mut client, stop) = (server.client(), Arc::clone(&stop));
            thread::spawn(move || {
                let bomb = "local s = ('a'):rep(40) return s:find(('a?'):rep(40) .. s)";
                while !stop.load(Ordering::Relaxed) {
                    assert!(run(&mut client, bomb).starts_with("-ERR the script ran for more"));
                }
            })
        })
        .collect();
    let mut times: Vec<Duration> = (0..500)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(neighbour.ask("GET k\r\n"), "$1\r");
            assert_eq!(neighbour.reply(), "v\r");
            began.elapsed()
        })
        .collect();
    stop.store(true, Ordering::Relaxed);
    for bomb in bombs {
        bomb.join().unwrap();
    }
    times.sort();
    println!("GET beside two pattern bombs: p50 {:?}, p99 {:?}", times[250], times[495]);
    assert!(times[495] < Duration::from_millis(900), "p99 {:?}", times[495]);
}
