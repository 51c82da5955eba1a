//! Random commands: every one of tier 1 that redis 7.0 has, right and wrong, on few keys.
//!
//! A seed gives the same commands again, but for the absolute times, which count from the start of
//! the run. Invariants that keep two correct servers equal: deadlines lie far ahead (at least an
//! hour) or in the past, relative ones never repeat (so that GT and LT do not depend on the
//! millisecond), and a key that SET gives a past deadline is touched at once, because DBSIZE may
//! count it until then.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::vocabulary::{
    DATABASES, FLOATS, INTEGERS, KEYS, KNOWN, OFFSETS, PATTERNS, UNITS, UNKNOWN, VALUES,
};

/// How the replies of two servers to a command are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    /// Byte for byte.
    Bytes,
    /// Arrays by their elements in any order.
    Unordered,
    /// A cursor, which must be equal, and elements in any order.
    Page,
    /// Both a key or both none.
    AnyKey,
    /// Integers that may be this far apart.
    Near(i64),
}

/// One command.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) arguments: Vec<Vec<u8>>,
    pub(crate) compare: Compare,
}

/// The next command.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Commands in one write on the first connection.
    Pipeline(Vec<Command>),
    /// One command on the second connection, which is never in a transaction.
    Interfere(Command),
    /// A whole iteration by SCAN on the second connection, with these options.
    Iterate(Vec<Vec<u8>>),
}

/// A small random number generator (`xorshift64*`), so that a seed means the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).expect("an index")]
    }
}

/// Makes a command of one family.
type Family = fn(&mut Generator) -> Command;

/// How often each family of commands is sent, in parts of the sum.
const FAMILIES: &[(u64, Family)] = &[
    (14, Generator::set),
    (10, Generator::read),
    (8, Generator::write),
    (12, Generator::number),
    (7, Generator::part),
    (6, Generator::several),
    (10, Generator::deadline),
    (7, Generator::time_left),
    (7, Generator::keys),
    (5, Generator::listing),
    (6, Generator::moving),
    (3, Generator::database),
    (9, Generator::transaction),
    (2, Generator::longest_common),
    (3, Generator::plain),
    (4, Generator::wrong),
];

pub(crate) struct Generator {
    random: Random,
    now_ms: u64,
    /// The commands that have to follow the last one.
    next: Vec<Command>,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Generator {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(now.as_millis()).expect("a time of this era");
        Generator { random: Random::new(seed), now_ms, next: Vec::new() }
    }

    pub(crate) fn step(&mut self) -> Step {
        match self.random.below(20) {
            0 | 1 => {
                let command = self.interference();
                Step::Interfere(command)
            }
            2 => {
                let mut options = Vec::new();
                if self.random.chance(50) {
                    options.extend([b"MATCH".to_vec(), self.random.pick(PATTERNS).to_vec()]);
                }
                if self.random.chance(50) {
                    let count = self.random.pick::<&[u8]>(&[b"1", b"2", b"3", b"7", b"1000"]);
                    options.extend([b"COUNT".to_vec(), count.to_vec()]);
                }
                if self.random.chance(20) {
                    let kind = self.random.pick::<&[u8]>(&[b"string", b"STRING", b"hash", b"list"]);
                    options.extend([b"TYPE".to_vec(), kind.to_vec()]);
                }
                Step::Iterate(options)
            }
            _ => {
                // Often one command, sometimes many.
                let length = 1 + self.random.below(4) * self.random.below(6);
                let mut commands = Vec::new();
                for _ in 0..length {
                    commands.push(self.command());
                    commands.append(&mut self.next);
                }
                Step::Pipeline(commands)
            }
        }
    }

    fn command(&mut self) -> Command {
        let sum = FAMILIES.iter().map(|(weight, _)| weight).sum();
        let mut at = self.random.below(sum);
        let mut families = FAMILIES.iter();
        let family = families.find(|(weight, _)| {
            let found = at < *weight;
            at = at.saturating_sub(*weight);
            found
        });
        let mut command = family.expect("below the sum").1(self);
        self.spoil(&mut command);
        command
    }

    /// Now and then an argument too few, too many or nonsense, and names in odd cases.
    fn spoil(&mut self, command: &mut Command) {
        let is_whole = command.arguments.len() > 1;
        if is_whole && command.compare == Compare::Bytes && self.random.chance(3) {
            match self.random.below(3) {
                0 => drop(command.arguments.pop()),
                1 => command.arguments.push(self.value()),
                _ => command.arguments.push(b"nonsense".to_vec()),
            }
        }
        if self.random.chance(20) {
            for byte in &mut command.arguments[0] {
                if self.random.chance(50) {
                    byte.make_ascii_lowercase();
                }
            }
        }
    }

    /// A write on the second connection, which may break a WATCH of the first.
    fn interference(&mut self) -> Command {
        let key = self.key();
        match self.random.below(8) {
            0 => bytes([b"SELECT".to_vec(), self.random.pick(&DATABASES[..8]).to_vec()]),
            1 => bytes([b"DEL".to_vec(), key]),
            2 => bytes([b"APPEND".to_vec(), key, b"!".to_vec()]),
            3 => bytes([b"PERSIST".to_vec(), key]),
            4 => bytes([b"EXPIREAT".to_vec(), key, self.at_seconds()]),
            5 => bytes([b"GET".to_vec(), key]),
            _ => bytes([b"SET".to_vec(), key, self.value()]),
        }
    }

    fn key(&mut self) -> Vec<u8> {
        self.random.pick(KEYS).to_vec()
    }

    fn value(&mut self) -> Vec<u8> {
        if self.random.chance(2) {
            // LCS makes a table of the product of two lengths, so nothing really long here.
            let length = usize::try_from(self.random.below(1_000)).expect("small");
            return vec![b'v'; length];
        }
        self.random.pick(VALUES).to_vec()
    }

    /// Seconds that no other command of the run has, more than an hour.
    fn seconds(&mut self) -> Vec<u8> {
        (10_000 + self.random.below(1 << 30)).to_string().into_bytes()
    }

    /// One of few absolute times, so that equal ones meet.
    fn at_seconds(&mut self) -> Vec<u8> {
        let ahead = self.random.pick(&[100_000, 100_001, 200_000, 5_000_000]);
        (self.now_ms / 1_000 + ahead).to_string().into_bytes()
    }

    /// A unit of time and an amount of it that lies far ahead.
    fn far(&mut self) -> [Vec<u8>; 2] {
        let unit = self.random.pick(UNITS);
        let mut amount = if unit.ends_with(b"AT") { self.at_seconds() } else { self.seconds() };
        if unit.starts_with(b"P") {
            amount.extend_from_slice(b"000");
        }
        [unit.to_vec(), amount]
    }

    /// A unit of time and an amount that is refused, or so far ahead that it never comes.
    fn refused(&mut self) -> [Vec<u8>; 2] {
        let amount = self.random.pick::<&[u8]>(&[
            b"0",
            b"-1",
            b"abc",
            b"",
            b"9223372036854775807",
            b"-9223372036854775808",
            b"1.5",
            b"99999999999999999999",
        ]);
        [self.random.pick(UNITS).to_vec(), amount.to_vec()]
    }

    fn set(&mut self) -> Command {
        if self.random.chance(1) {
            let length = usize::try_from(self.random.below(200_000)).expect("small");
            return bytes([b"SET".to_vec(), b"long".to_vec(), vec![b'l'; length]]);
        }
        let key = self.key();
        let mut command = bytes([b"SET".to_vec(), key.clone(), self.value()]);
        let options = &mut command.arguments;
        if self.random.chance(25) {
            options.push(self.random.pick::<&[u8]>(&[b"NX", b"XX", b"nx"]).to_vec());
        }
        if self.random.chance(20) {
            options.push(b"GET".to_vec());
        }
        match self.random.below(10) {
            0..3 => options.extend(self.far()),
            3 => options.push(b"KEEPTTL".to_vec()),
            4 if self.random.chance(40) => options.extend(self.refused()),
            5 if self.random.chance(30) => {
                options.extend([b"EXAT".to_vec(), b"1".to_vec()]);
                self.next.push(bytes([b"EXISTS".to_vec(), key]));
            }
            6 if self.random.chance(30) => {
                let more = self.random.pick::<&[u8]>(&[
                    b"NX", b"XX", b"KEEPTTL", b"EX", b"PERSIST", b"GET", b"nothing",
                ]);
                options.push(more.to_vec());
            }
            _ => {}
        }
        command
    }

    fn read(&mut self) -> Command {
        let key = if self.random.chance(2) { b"long".to_vec() } else { self.key() };
        let name = self.random.pick(&["GET", "GET", "STRLEN", "TYPE", "EXISTS", "TOUCH", "GETEX"]);
        let mut command = bytes([name.as_bytes().to_vec(), key]);
        if matches!(name, "EXISTS" | "TOUCH") && self.random.chance(50) {
            let more = [self.key(), self.key()];
            command.arguments.extend(more);
        }
        if name == "GETEX" {
            match self.random.below(8) {
                0..3 => command.arguments.extend(self.far()),
                3 => command.arguments.push(b"PERSIST".to_vec()),
                4 => command.arguments.extend([b"PXAT".to_vec(), b"1".to_vec()]),
                5 => command.arguments.extend(self.refused()),
                6 => command.arguments.extend([b"PERSIST".to_vec(), b"EX".to_vec(), b"9".to_vec()]),
                _ => {}
            }
        }
        command
    }

    fn write(&mut self) -> Command {
        let (key, value) = (self.key(), self.value());
        match self.random.below(7) {
            0 => bytes([b"SETNX".to_vec(), key, value]),
            1 => bytes([b"GETSET".to_vec(), key, value]),
            2 => bytes([b"GETDEL".to_vec(), key]),
            3 => bytes([b"APPEND".to_vec(), key, value]),
            4 | 5 => {
                let name = self.random.pick::<&[u8]>(&[b"SETEX", b"PSETEX"]);
                let amount = if self.random.chance(20) {
                    let [_, amount] = self.refused();
                    amount
                } else if name == b"SETEX" {
                    self.seconds()
                } else {
                    [self.seconds(), b"000".to_vec()].concat()
                };
                bytes([name.to_vec(), key, amount, value])
            }
            _ => bytes([b"SET".to_vec(), key, value]),
        }
    }

    fn number(&mut self) -> Command {
        let key = if self.random.chance(50) { b"counter".to_vec() } else { self.key() };
        match self.random.below(8) {
            0 | 1 => bytes([b"INCR".to_vec(), key]),
            2 => bytes([b"DECR".to_vec(), key]),
            3 => bytes([b"INCRBY".to_vec(), key, self.random.pick(INTEGERS).to_vec()]),
            4 => bytes([b"DECRBY".to_vec(), key, self.random.pick(INTEGERS).to_vec()]),
            5 => bytes([b"SET".to_vec(), key, self.random.pick(INTEGERS).to_vec()]),
            _ => bytes([b"INCRBYFLOAT".to_vec(), key, self.random.pick(FLOATS).to_vec()]),
        }
    }

    fn part(&mut self) -> Command {
        let key = self.key();
        let (from, to) = (self.random.pick(OFFSETS).to_vec(), self.random.pick(OFFSETS).to_vec());
        match self.random.below(5) {
            0 | 1 => bytes([b"GETRANGE".to_vec(), key, from, to]),
            2 => bytes([b"SUBSTR".to_vec(), key, from, to]),
            _ => {
                // The longest string is 512 MiB; half a gigabyte of zeros proves nothing more.
                let offset = match from.as_slice() {
                    b"100" if self.random.chance(20) => b"536870912".to_vec(),
                    _ => from,
                };
                bytes([b"SETRANGE".to_vec(), key, offset, self.value()])
            }
        }
    }

    fn several(&mut self) -> Command {
        let name = self.random.pick::<&[u8]>(&[b"MGET", b"MSET", b"MSETNX"]);
        let mut arguments = vec![name.to_vec()];
        for _ in 0..=self.random.below(4) {
            arguments.push(self.key());
            if name != b"MGET" {
                arguments.push(self.value());
            }
        }
        bytes(arguments)
    }

    fn deadline(&mut self) -> Command {
        let key = self.key();
        if self.random.chance(15) {
            return bytes([b"PERSIST".to_vec(), key]);
        }
        let name = self.random.pick::<&[u8]>(&[b"EXPIRE", b"PEXPIRE", b"EXPIREAT", b"PEXPIREAT"]);
        let mut amount = if name.ends_with(b"AT") { self.at_seconds() } else { self.seconds() };
        if name.starts_with(b"P") {
            amount.extend_from_slice(b"000");
        }
        if self.random.chance(15) {
            amount = self.random.pick::<&[u8]>(&[b"-1", b"0", b"1", b"-100"]).to_vec();
            if !name.ends_with(b"AT") && amount == b"1" {
                amount = b"-1".to_vec();
            }
        } else if self.random.chance(10) {
            amount = self
                .random
                .pick::<&[u8]>(&[
                    b"abc",
                    b"",
                    b"1.5",
                    b"9223372036854775807",
                    b"-9223372036854775808",
                    b"99999999999999999999",
                ])
                .to_vec();
        }
        let mut command = bytes([name.to_vec(), key, amount]);
        if self.random.chance(50) {
            let option =
                self.random.pick::<&[u8]>(&[b"NX", b"XX", b"GT", b"LT", b"gt", b"LT", b"YY", b""]);
            command.arguments.push(option.to_vec());
            if self.random.chance(15) {
                let option = self.random.pick::<&[u8]>(&[b"NX", b"XX", b"GT", b"LT"]);
                command.arguments.push(option.to_vec());
            }
        }
        command
    }

    fn time_left(&mut self) -> Command {
        let key = self.key();
        let (name, near) = self.random.pick(&[
            ("TTL", 2),
            ("PTTL", 2_000),
            ("EXPIRETIME", 2),
            ("PEXPIRETIME", 2_000),
        ]);
        let arguments = vec![name.as_bytes().to_vec(), key];
        Command { arguments, compare: Compare::Near(near) }
    }

    fn keys(&mut self) -> Command {
        let name = self.random.pick::<&[u8]>(&[
            b"DEL",
            b"UNLINK",
            b"DEL",
            b"EXISTS",
            b"RENAME",
            b"RENAMENX",
        ]);
        let mut arguments = vec![name.to_vec(), self.key()];
        if name.starts_with(b"RENAME") {
            arguments.push(self.key());
        } else {
            for _ in 0..self.random.below(3) {
                arguments.push(self.key());
            }
        }
        bytes(arguments)
    }

    fn listing(&mut self) -> Command {
        match self.random.below(8) {
            0 | 1 => {
                let arguments = vec![b"KEYS".to_vec(), self.random.pick(PATTERNS).to_vec()];
                Command { arguments, compare: Compare::Unordered }
            }
            2 => Command { arguments: vec![b"RANDOMKEY".to_vec()], compare: Compare::AnyKey },
            3 | 4 => bytes([b"DBSIZE".to_vec()]),
            5 | 6 => {
                let mut arguments: Vec<Vec<u8>> =
                    ["SCAN", "0", "COUNT", "1000"].map(|word| word.as_bytes().to_vec()).to_vec();
                if self.random.chance(60) {
                    arguments.extend([b"MATCH".to_vec(), self.random.pick(PATTERNS).to_vec()]);
                }
                Command { arguments, compare: Compare::Page }
            }
            _ => {
                let wrong = self.random.pick::<&[&str]>(&[
                    &["SCAN", "x"],
                    &["SCAN", "0", "COUNT", "0"],
                    &["SCAN", "0", "COUNT", "-5"],
                    &["SCAN", "0", "COUNT", "x"],
                    &["SCAN", "0", "MATCH"],
                    &["SCAN", "0", "LIMIT", "5"],
                ]);
                let arguments = wrong.iter().map(|word| word.as_bytes().to_vec()).collect();
                Command { arguments, compare: Compare::Page }
            }
        }
    }

    fn moving(&mut self) -> Command {
        let (from, to) = (self.key(), self.key());
        match self.random.below(4) {
            0 => bytes([b"MOVE".to_vec(), from, self.random.pick(DATABASES).to_vec()]),
            1 if self.random.chance(30) => {
                let (one, other) = (self.random.pick(DATABASES), self.random.pick(DATABASES));
                bytes([b"SWAPDB".to_vec(), one.to_vec(), other.to_vec()])
            }
            _ => {
                let mut arguments = vec![b"COPY".to_vec(), from, to];
                if self.random.chance(40) {
                    arguments.extend([b"DB".to_vec(), self.random.pick(DATABASES).to_vec()]);
                }
                if self.random.chance(40) {
                    arguments.push(b"REPLACE".to_vec());
                }
                bytes(arguments)
            }
        }
    }

    fn database(&mut self) -> Command {
        match self.random.below(12) {
            0 => {
                let name = self.random.pick::<&[u8]>(&[b"FLUSHDB", b"FLUSHALL"]);
                let option =
                    self.random.pick::<&[&[u8]]>(&[&[], &[], &[b"SYNC"], &[b"ASYNC"], &[b"NOW"]]);
                let options = option.iter().map(|option| option.to_vec());
                bytes(std::iter::once(name.to_vec()).chain(options))
            }
            _ => bytes([b"SELECT".to_vec(), self.random.pick(DATABASES).to_vec()]),
        }
    }

    fn transaction(&mut self) -> Command {
        match self.random.below(10) {
            0..3 => bytes([b"MULTI".to_vec()]),
            3..7 => bytes([b"EXEC".to_vec()]),
            7 => match self.random.below(3) {
                0 => bytes([b"DISCARD".to_vec()]),
                _ => bytes([b"UNWATCH".to_vec()]),
            },
            _ => {
                let mut arguments = vec![b"WATCH".to_vec(), self.key()];
                if self.random.chance(30) {
                    arguments.push(self.key());
                }
                bytes(arguments)
            }
        }
    }

    fn longest_common(&mut self) -> Command {
        let mut arguments = vec![b"LCS".to_vec(), self.key(), self.key()];
        for option in ["LEN", "IDX", "WITHMATCHLEN"] {
            if self.random.chance(30) {
                arguments.push(option.as_bytes().to_vec());
            }
        }
        if self.random.chance(30) {
            let length = self.random.pick::<&[u8]>(&[b"0", b"1", b"4", b"-3", b"x"]);
            arguments.extend([b"MINMATCHLEN".to_vec(), length.to_vec()]);
        }
        bytes(arguments)
    }

    fn plain(&mut self) -> Command {
        match self.random.below(5) {
            0 => bytes([b"PING".to_vec()]),
            1 => bytes([b"PING".to_vec(), self.value()]),
            2 | 3 => bytes([b"ECHO".to_vec(), self.value()]),
            _ => bytes([b"ECHO".to_vec()]),
        }
    }

    /// Commands that no server knows, and known ones with the wrong number of arguments.
    fn wrong(&mut self) -> Command {
        match self.random.below(3) {
            0 => {
                let arguments = self.random.pick(UNKNOWN);
                bytes(arguments.iter().map(|argument| argument.to_vec()))
            }
            1 => {
                let long = vec![b'n'; 20 + usize::try_from(self.random.below(300)).expect("small")];
                bytes([long.clone(), long.clone(), b"x".to_vec(), long])
            }
            _ => {
                let name = self.random.pick(KNOWN).as_bytes().to_vec();
                let mut arguments = vec![name];
                // Some are right with one argument: they read or write the key alone.
                if self.random.chance(30) {
                    arguments.push(self.key());
                }
                let compare = match arguments[0].as_slice() {
                    b"RANDOMKEY" => Compare::AnyKey,
                    b"KEYS" => Compare::Unordered,
                    b"TTL" | b"EXPIRETIME" => Compare::Near(2),
                    b"PTTL" | b"PEXPIRETIME" => Compare::Near(2_000),
                    // Some keys are cursors, and a cursor that no server gave has no meaning.
                    b"SCAN" => return bytes([b"GET".to_vec()]),
                    _ => Compare::Bytes,
                };
                Command { arguments, compare }
            }
        }
    }
}

fn bytes(arguments: impl IntoIterator<Item = Vec<u8>>) -> Command {
    Command { arguments: arguments.into_iter().collect(), compare: Compare::Bytes }
}
