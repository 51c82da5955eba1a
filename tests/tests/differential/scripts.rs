//! Scripts beside redis's own: written cases, one on each line of `scripts.txt`, and generated programs.
//!
//! A case is one EVAL with two keys and two arguments in an emptied server; `\n` in it is a line break.
//! Its reply is the same, byte for byte, in RESP2 and in RESP3, and so is the key that it may have
//! written. `DIFFERENTIAL_PROGRAMS` says how many programs are generated (default 400),
//! `DIFFERENTIAL_SEED` repeats a run.

use aryavarth_tests::resp::{Connection, shown};
use aryavarth_tests::server::subject;

use crate::{Servers, number};

/// Conversations beside the scripts of the file: commands with single blanks between their words, `_`
/// for a blank inside a word.
const CONVERSATIONS: &[&[&str]] = &[
    &["EVAL return_1 0", "EVAL return_1 -1", "EVAL return_1 5", "EVAL return_1 x", "EVAL return_1"],
    &[
        "EVALSHA x 0",
        "EVALSHA ffffffffffffffffffffffffffffffffffffffff 0",
        "EVALSHA ffffffffffffffffffffffffffffffffffffffff -1",
        "EVALSHA_RO x 0",
        "EVAL return_1 0",
        "EVALSHA E0E1F9FABFC9D4800C877A703B823AC0578FF8DB 0",
        "EVALSHA_RO e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0",
    ],
    &[
        "SCRIPT FLUSH",
        "SCRIPT LOAD return_2",
        "SCRIPT EXISTS 7f923f79fe76194c868d7e1d0820de36700eb649 xx",
        "EVALSHA 7f923f79fe76194c868d7e1d0820de36700eb649 0",
        "SCRIPT FLUSH ASYNC",
        "SCRIPT EXISTS 7f923f79fe76194c868d7e1d0820de36700eb649",
        "SCRIPT FLUSH NOW",
        "SCRIPT KILL",
        "SCRIPT LOAD return_#",
        "SCRIPT LOAD",
        "SCRIPT NOPE",
    ],
    &[
        "EVAL_RO return_redis.call('set','a','b') 0",
        "EVAL_RO return_redis.call('get',KEYS[1]) 1 a",
        "EVAL redis.call('set','a','b')_error('after') 0",
        "GET a",
        "EVAL redis.call('set','a','c')_return_redis.call('nosuch') 0",
        "GET a",
        "EVAL redis.call('select',1)_redis.call('set','x','y') 0",
        "GET x",
        "SELECT 1",
        "GET x",
    ],
    &[
        "MULTI",
        "SET a 1",
        "EVAL return_redis.call('incr','a') 1 a",
        "EVAL return_nope 0",
        "GET a",
        "EXEC",
        "GET a",
    ],
];

/// One reply of each server, after both were emptied.
struct Sides {
    redis: Connection,
    ours: Connection,
}

impl Sides {
    fn ask(&mut self, arguments: &[impl AsRef<[u8]>]) -> (Vec<u8>, Vec<u8>) {
        (self.redis.ask(arguments).unwrap(), self.ours.ask(arguments).unwrap())
    }

    /// Runs a script on both; returns what differs.
    fn compare(&mut self, script: &str) -> Option<String> {
        self.ask(&["FLUSHALL"]);
        let (redis, ours) = self.ask(&["EVAL", script, "2", "k1", "k2", "a1", "a2"]);
        if redis != ours {
            return Some(format!("{script}\n  redis {}\n  ours  {}", shown(&redis), shown(&ours)));
        }
        let (redis, ours) = self.ask(&["MGET", "k1", "k2"]);
        (redis != ours)
            .then(|| format!("after {script}\n  redis {}\n  ours  {}", shown(&redis), shown(&ours)))
    }
}

fn sides(servers: &Servers, version: u8) -> Sides {
    let open = |addr| {
        let mut connection = Connection::open(addr).unwrap();
        connection.ask(&["HELLO", &version.to_string()]).unwrap();
        connection
    };
    Sides { redis: open(servers.redis.addr()), ours: open(servers.ours.addr()) }
}

fn servers() -> Option<Servers> {
    match subject("kvs").and_then(|ours| Servers::start(&ours, &[])) {
        Ok(servers) => Some(servers),
        Err(why) => {
            println!("SKIPPED: {why}");
            None
        }
    }
}

#[test]
fn written_scripts_have_the_replies_of_redis() {
    let Some(servers) = servers() else { return };
    let mut differences = Vec::new();
    for version in [2, 3] {
        let mut sides = sides(&servers, version);
        for line in include_str!("scripts.txt").lines() {
            differences.extend(sides.compare(&line.replace("\\n", "\n")));
        }
        for conversation in CONVERSATIONS {
            sides.ask(&["FLUSHALL"]);
            for command in *conversation {
                let words: Vec<String> =
                    command.split(' ').map(|word| word.replace('_', " ")).collect();
                let name = command.split(' ').next().unwrap_or_default();
                let words: Vec<String> =
                    std::iter::once(name.to_owned()).chain(words.into_iter().skip(1)).collect();
                let (redis, ours) = sides.ask(&words);
                if redis != ours {
                    let (redis, ours) = (shown(&redis), shown(&ours));
                    differences.push(format!("{command}\n  redis {redis}\n  ours  {ours}"));
                }
            }
            sides.ask(&["SELECT", "0"]);
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Numbers without an end, from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % sides
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.roll(all.len())]
    }

    /// An expression; deeper ones are shorter.
    fn expression(&mut self, depth: usize) -> String {
        const LEAVES: &[&str] = &[
            "1",
            "0",
            "-3",
            "2.5",
            "1e3",
            "nil",
            "true",
            "false",
            "'x'",
            "''",
            "'12'",
            "'a b'",
            "{}",
            "KEYS[1]",
            "ARGV[2]",
            "a",
            "b",
            "#ARGV",
            "KEYS",
            "cjson.null",
            "1e17",
            "'\\n'",
        ];
        if depth == 0 {
            return self.of(LEAVES).to_owned();
        }
        let (one, two) = (self.expression(depth - 1), self.expression(depth - 1));
        match self.roll(15) {
            0 => format!("({one} {} {two})", self.of(&["+", "-", "*", "/", "%", "^", ".."])),
            1 => format!("({one} {} {two})", self.of(&["==", "~=", "<", "<=", "and", "or"])),
            2 => format!("({} {one})", self.of(&["not", "-", "#"])),
            3 => format!("{{{one}, {two}}}"),
            4 => format!("{{{} = {one}}}", self.of(&["ok", "err", "map", "set", "double", "z"])),
            5 => format!("tostring({one})"),
            6 => format!("tonumber({one})"),
            7 => format!("cjson.encode({one})"),
            8 => format!("cjson.decode({})", self.of(&["'[1,{\"a\":2}]'", "'x'", "'null'", "a"])),
            9 => format!("cmsgpack.unpack(cmsgpack.pack({one}, {two}))"),
            10 => format!(
                "{}({one}, {two})",
                self.of(&[
                    "bit.band",
                    "bit.bxor",
                    "bit.lshift",
                    "math.max",
                    "math.min",
                    "string.find"
                ])
            ),
            11 => format!(
                "string.gsub({one}, {}, {two})",
                self.of(&["'.'", "'%w+'", "'x*'", "'(a)'"])
            ),
            12 => format!(
                "string.format({}, {one}, {two})",
                self.of(&["'%s'", "'%d'", "'%5.2f'", "'%q'"])
            ),
            13 => format!("redis.call({})", self.command(&one, &two)),
            _ => format!("redis.pcall({})", self.command(&one, &two)),
        }
    }

    fn command(&mut self, one: &str, two: &str) -> String {
        match self.roll(8) {
            0 => format!("'set', KEYS[1], {one}"),
            1 => "'get', KEYS[1]".to_owned(),
            2 => format!("'incrby', KEYS[2], {one}"),
            3 => format!("'append', KEYS[1], {one}"),
            4 => "'mget', KEYS[1], KEYS[2]".to_owned(),
            5 => format!("'getrange', KEYS[1], {one}, {two}"),
            6 => format!("{one}, {two}"),
            _ => "'del', KEYS[1]".to_owned(),
        }
    }

    fn program(&mut self) -> String {
        let mut lines = vec!["local a, b = 1, 'x'".to_owned()];
        for _ in 0..self.roll(4) {
            let (depth, name) = (self.roll(3), self.of(&["a", "b"]));
            let value = self.expression(depth);
            lines.push(match self.roll(5) {
                0 => format!("if {value} then {name} = 1 else {name} = 'no' end"),
                1 => format!("for i = 1, 3 do {name} = {value} end"),
                2 => format!("local ok, e = pcall(function() return {value} end) {name} = e"),
                _ => format!("{name} = {value}"),
            });
        }
        let depth = self.roll(3);
        lines.push(format!("return {}", self.expression(depth)));
        lines.join("\n")
    }
}

#[test]
fn generated_programs_have_the_replies_of_redis() {
    let Some(servers) = servers() else { return };
    let programs = number("DIFFERENTIAL_PROGRAMS", 400);
    let seed = number("DIFFERENTIAL_SEED", 1);
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut differences = Vec::new();
    let (mut two, mut three) = (sides(&servers, 2), sides(&servers, 3));
    for at in 0..programs {
        let program = dice.program();
        // An address differs in each run.
        let sides = if at % 2 == 0 { &mut two } else { &mut three };
        let found = sides.compare(&program);
        differences.extend(found.filter(|found| !found.contains(": 0x")));
    }
    let count = differences.len();
    println!("{programs} programs, seed {seed}: {count} differences");
    differences.truncate(20);
    assert!(count == 0, "{count} differences:\n{}", differences.join("\n"));
}
