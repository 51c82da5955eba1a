//! Scripts over sockets: no function of the library takes memory or time beyond the limits of its
//! script, in one call or in many, and none reaches past the machine's stack.

use std::time::{Duration, Instant};

use aryavarth::MemoryEngine;
use aryavarth_server::{Limits, ScriptLimits};

use crate::scripts::run;
use crate::support::{Client, Server};

/// A server whose scripts are stopped after `time`.
fn hasty(time: Duration) -> Server {
    let scripts = ScriptLimits { locked_time: time, ..ScriptLimits::default() };
    Server::with(MemoryEngine::new(), Limits { scripts, ..Limits::default() })
}

/// The library's `unpack` counts in 32 bits, and its check is lost to the compiler: one call wrote over
/// the heap and ended the process.
#[test]
fn unpack_takes_only_a_range_that_fits_the_stack() {
    let server = Server::start();
    let mut client = server.client();
    for range in [
        "0, 2147483647",
        "-2147483648, 2147483647",
        "-2147483648, -1",
        "-2147483647, 2147483646",
        "1, 8000",
        "'1', '8000'",
        "1, 2147483648",
        "1, 4294967296",
        "-4294967296, 4294967296",
        "2147483646, 4294967295",
        "-1/0, 1/0",
        "1, 1/0",
        "0/0, 5",
        "1, 0/0",
    ] {
        let reply = run(&mut client, &format!("return {{unpack({{1}}, {range})}}"));
        assert!(reply.contains("too many results to unpack"), "{range}: {reply}");
    }
    for (script, value) in [
        ("return select('#', unpack({}, 1, 7000))", ":7000"),
        ("return select('#', unpack({1, 2, 3}))", ":3"),
        ("return select('#', unpack({1, 2, 3}, 2))", ":2"),
        ("return select('#', unpack({}, 2147483647, -2147483648))", ":0"),
        ("return select('#', unpack({}, 5, 4))", ":0"),
        ("return (unpack({7, 8}, '2'))", ":8"),
        ("return select('#', pcall(unpack, {}, 1, 7000))", ":7001"),
    ] {
        assert_eq!(run(&mut client, script), value, "{script}");
    }
    let reply = run(&mut client, "return unpack(nil)");
    assert!(reply.contains("bad argument #1 to 'unpack' (table expected, got nil)"), "{reply}");
}

/// The most memory that this process has had, where the system says it.
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<usize>().ok());
    kib.unwrap_or(0) * 1024
}

/// Each of these made a buffer of gigabytes outside the memory that Lua counts.
#[test]
fn no_function_makes_a_buffer_beyond_the_memory_of_its_script() {
    const MANY: &str = "local s = ('x'):rep(1e6) local t = {} for i = 1, 7000 do t[i] = s end ";
    let server = hasty(Duration::from_secs(60));
    let mut client = server.client();
    let before = peak_bytes();
    for script in [
        &format!("{MANY} return redis.call('DEL', unpack(t))"),
        &format!("{MANY} return redis.acl_check_cmd('DEL', unpack(t))"),
        &format!("{MANY} return cmsgpack.pack(unpack(t))"),
        &format!("{MANY} return cjson.encode(t)"),
        &format!("{MANY} return struct.pack(('s'):rep(7000), unpack(t))"),
        "return #string.gsub(('a'):rep(1e6), '.+', ('%0'):rep(20000))",
        "return #string.gsub(('a'):rep(1e6), '.+', ('%1'):rep(20000))",
        "return #string.gsub(('a'):rep(1e6), 'a', ('b'):rep(1e6))",
        "return cjson.encode(('\\1'):rep(2e7))",
        "return #('x'):rep(2e9)",
    ] {
        let reply = run(&mut client, &format!("redis.call('SET', 'k', 'v') {script}"));
        let wanted = "-ERR the script took more than 67108864 bytes of memory";
        assert!(reply.starts_with(wanted), "{script}: {reply}");
        assert_eq!(client.ask("EXISTS k\r\n"), ":0\r", "{script}");
    }
    let reply = run(&mut client, "return struct.unpack(('b'):rep(2e7), ('a'):rep(2e7))");
    assert!(reply.contains("too many results to unpack"), "{reply}");
    assert_eq!(run(&mut client, &format!("{MANY} redis.log(3, unpack(t)) return 1")), ":1");
    let grown = peak_bytes() - before;
    assert!(grown < 1 << 30, "{grown} bytes");
}

fn is_stopped_in_time(client: &mut Client, limit: Duration, script: &str) {
    let began = Instant::now();
    let reply = run(client, &format!("redis.call('SET', 'k', 'v') {script}"));
    let took = began.elapsed();
    assert!(reply.starts_with("-ERR the script ran for more than"), "{script}: {reply}");
    assert!(took < 10 * limit, "{script}: {took:?}");
    assert_eq!(client.ask("EXISTS k\r\n"), ":0\r", "{script}");
}

/// Each of these kept the writer's lock for many times the limit: for hours the first four, which no
/// kill stopped either.
#[test]
fn a_script_is_stopped_in_time_whatever_function_it_is_in() {
    let limit = Duration::from_millis(300);
    let server = hasty(limit);
    let mut client = server.client();
    for script in [
        "return (('a'):rep(1e5)):find('[' .. ('b'):rep(1e5) .. ']')",
        "return (('a'):rep(1e5)):find('[^' .. ('b'):rep(1e5) .. ']-[' .. ('b'):rep(1e5) .. ']')",
        "return (('a'):rep(1e5)):find('%f[' .. ('b'):rep(1e5) .. ']')",
        "local a, b = ('a'):rep(1e7) .. '1', ('a'):rep(1e7) .. '2' local t = {} \
         for i = 1, 20000 do t[i] = i % 2 == 0 and a or b end table.sort(t)",
        "local s = ('x'):rep(1e7) while true do redis.sha1hex(s) end",
        "local s = ('x'):rep(1e7) while true do cjson.encode(s) end",
        "local s = '\"' .. ('x'):rep(1e7) .. '\"' while true do cjson.decode(s) end",
        "local s = (' '):rep(1e7) .. '1' while true do cjson.decode(s) end",
        "local s = ('x'):rep(1e7) while true do cmsgpack.pack(s) end",
        "local s = cmsgpack.pack(('x'):rep(1e7)) while true do cmsgpack.unpack(s) end",
        "local s = ('x'):rep(1e7) while true do struct.pack('s', s) end",
        "local s = ('x'):rep(1e7) .. '\\0' while true do struct.unpack('s', s) end",
        "local s = (' '):rep(1e7) while true do struct.size(s) end",
        "while true do local s = ('x'):rep(1e7) end",
        "local s = ('x'):rep(1e7) while true do s:gsub('y', 'z', 0) end",
        "local s = ('x'):rep(1e7) while true do s:match('.*') end",
        "local s = ('x'):rep(1e7) while true do s:upper() end",
        "local s = ('x'):rep(1e7) while true do s:lower() end",
        "local s = ('x'):rep(1e7) while true do s:reverse() end",
        "local s = ('x'):rep(1e7) while true do local t = s .. 'y' end",
        "local t = {} for i = 1, 1e6 do t[i] = i end while true do table.insert(t, 1, 0) end",
        "local s = 'local a while 1 do ' .. ('if a then break end '):rep(12000) .. ' end' \
         while true do loadstring(s) end",
    ] {
        is_stopped_in_time(&mut client, limit, script);
    }
    let reply = run(&mut client, "table.insert({}, -2147483648, 1)");
    assert!(reply.contains("position out of bounds"), "{reply}");
}

/// A search of one text in another compared millions of bytes at millions of places.
#[test]
fn a_plain_search_takes_a_time_that_is_linear() {
    let server = hasty(Duration::from_secs(60));
    let mut client = server.client();
    let began = Instant::now();
    let script = "return tostring((('a'):rep(2e7)):find(('a'):rep(5e6) .. 'b', 1, true))";
    assert_eq!(run(&mut client, script), "$3");
    assert_eq!(client.reply(), "nil\r");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

/// One long function of the library kept the hook waiting until the script had returned: its writes
/// were kept, although it was too late.
#[test]
fn a_script_that_is_late_at_its_end_has_done_nothing() {
    let server = hasty(Duration::from_millis(2));
    let mut client = server.client();
    let script = "redis.call('SET', 'k', 'v') local s = ('x'):rep(3e7) return #(s .. 'y')";
    let reply = run(&mut client, script);
    assert!(reply.starts_with("-ERR the script ran for more than 2 ms"), "{reply}");
    assert_eq!(client.ask("EXISTS k\r\n"), ":0\r");
}

/// Some texts compile in a time that grows with the square of their length, and nothing stops it.
#[test]
fn the_text_of_a_script_has_a_limit() {
    let server = Server::start();
    let mut client = server.client();
    let text = format!("return 1 --{}", "x".repeat(256 << 10));
    let wanted = "script's text is too long: the limit is 262144 bytes";
    let reply = run(&mut client, &text);
    assert!(reply.starts_with("-ERR ") && reply.contains(wanted), "{reply}");
    let load = format!("*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n${}\r\n{text}\r\n", text.len());
    assert!(client.ask(load).contains(wanted));
    for script in [
        "local f, problem = loadstring('--' .. ('x'):rep(262144)) return redis.error_reply(problem)",
        "local n = 0 local f, problem = load(function() n = n + 1 \
         return n < 10 and (' '):rep(30000) or nil end) return redis.error_reply(problem)",
    ] {
        let reply = run(&mut client, script);
        assert!(reply.contains(wanted), "{script}: {reply}");
    }
    let short = "return loadstring('return 7 --' .. ('x'):rep(100000))()";
    assert_eq!(run(&mut client, short), ":7");
}
