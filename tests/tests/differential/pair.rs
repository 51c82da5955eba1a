//! Two servers side by side: the same commands to both, and the first replies that differ.

use std::io;
use std::net::SocketAddr;

use aryavarth_tests::resp::{Connection, elements, encode, shown};

use crate::differences::is_deliberate;
use crate::generator::{Command, Compare, Step};

/// A command on which the servers disagree.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    pub(crate) arguments: Vec<Vec<u8>>,
    pub(crate) redis: Vec<u8>,
    pub(crate) ours: Vec<u8>,
}

impl Difference {
    /// The kind of a difference: the command, and the shapes of both replies.
    pub(crate) fn kind(&self) -> String {
        let name = self.arguments[0].to_ascii_uppercase();
        format!("{} | {} | {}", shown(&name), shape(&self.redis), shape(&self.ours))
    }
}

/// The text of an error or a status, or only the type of data.
fn shape(reply: &[u8]) -> String {
    match reply.first() {
        Some(b'-' | b'+') => {
            // An error's quotation is not part of its kind.
            let text = shown(reply);
            text.split("\\'").next().unwrap_or_default().trim_end_matches("\\r\\n").to_owned()
        }
        Some(b'$' | b'*') if reply.get(1) == Some(&b'-') => "null".to_owned(),
        Some(b'$') => "bulk".to_owned(),
        Some(b':') => "integer".to_owned(),
        Some(b'_') => "null".to_owned(),
        Some(kind) => format!("type {}", char::from(*kind)),
        None => "nothing".to_owned(),
    }
}

/// Two connections to each of two servers.
pub(crate) struct Pair {
    redis: Side,
    ours: Side,
    /// How the commands that wait for EXEC are compared.
    queued: Vec<Command>,
}

struct Side {
    addr: SocketAddr,
    main: Connection,
    other: Connection,
}

impl Side {
    fn open(addr: SocketAddr, version: u8) -> io::Result<Side> {
        let open = || {
            let mut connection = Connection::open(addr)?;
            let hello = connection.ask(&["HELLO", &version.to_string()])?;
            if hello.starts_with(b"-") {
                return Err(io::Error::other(format!("HELLO: {}", shown(&hello))));
            }
            Ok(connection)
        };
        Ok(Side { addr, main: open()?, other: open()? })
    }
}

impl Pair {
    pub(crate) fn open(redis: SocketAddr, ours: SocketAddr, version: u8) -> io::Result<Pair> {
        let (redis, ours) = (Side::open(redis, version)?, Side::open(ours, version)?);
        let mut pair = Pair { redis, ours, queued: Vec::new() };
        for side in [&mut pair.redis, &mut pair.ours] {
            let done = side.other.ask(&["FLUSHALL"])?;
            if done != b"+OK\r\n" {
                return Err(io::Error::other(format!("FLUSHALL: {}", shown(&done))));
            }
            let left = side.other.ask(&["DBSIZE"])?;
            if left != b":0\r\n" {
                return Err(io::Error::other(format!("FLUSHALL left {}", shown(&left))));
            }
        }
        Ok(pair)
    }

    /// The same servers with nothing in them, over new connections.
    pub(crate) fn again(&self, version: u8) -> io::Result<Pair> {
        Pair::open(self.redis.addr, self.ours.addr, version)
    }

    /// Sends a step to both servers and returns the first difference.
    pub(crate) fn run(&mut self, step: &Step) -> io::Result<Option<Difference>> {
        match step {
            Step::Pipeline(commands) => {
                let bytes: Vec<u8> =
                    commands.iter().flat_map(|command| encode(&command.arguments)).collect();
                self.redis.main.send(&bytes)?;
                self.ours.main.send(&bytes)?;
                let mut first = None;
                for command in commands {
                    let redis = self.redis.main.receive()?;
                    let ours = self.ours.main.receive().map_err(|error| {
                        let command = told(&command.arguments);
                        io::Error::new(error.kind(), format!("at {command}: {error}"))
                    })?;
                    let found = self.compare(command, redis, ours);
                    first = first.or(found);
                }
                Ok(first)
            }
            Step::Interfere(command) => {
                let redis = self.redis.other.ask(&command.arguments)?;
                let ours = self.ours.other.ask(&command.arguments)?;
                Ok(compared(command, redis, ours))
            }
            Step::Iterate(options) => {
                let redis = iterate(&mut self.redis.other, options)?;
                let ours = iterate(&mut self.ours.other, options)?;
                let mut arguments = vec![b"SCAN to the end".to_vec()];
                arguments.extend(options.iter().cloned());
                let is_equal = redis == ours;
                let join = |keys: Vec<Vec<u8>>| keys.join(&b", "[..]);
                let difference = || Difference { arguments, redis: join(redis), ours: join(ours) };
                Ok((!is_equal).then(difference))
            }
        }
    }

    /// Compares two replies on the first connection, which may be in a transaction.
    fn compare(&mut self, command: &Command, redis: Vec<u8>, ours: Vec<u8>) -> Option<Difference> {
        let is = |name: &str| command.arguments[0].eq_ignore_ascii_case(name.as_bytes());
        if redis == b"+QUEUED\r\n" {
            self.queued.push(command.clone());
        } else if is("EXEC") && !redis.starts_with(b"-ERR wrong number") {
            let queued = std::mem::take(&mut self.queued);
            let (Some(one), Some(other)) = (elements(&redis), elements(&ours)) else {
                return compared(command, redis, ours);
            };
            if one.len() != queued.len() || other.len() != queued.len() {
                return compared(command, redis, ours);
            }
            let replies = one.into_iter().zip(other);
            let mut found = queued.iter().zip(replies).filter_map(|(command, (one, other))| {
                compared(command, one.to_vec(), other.to_vec())
            });
            return found.next();
        } else if is("DISCARD") && redis.starts_with(b"+OK") {
            self.queued.clear();
        }
        compared(command, redis, ours)
    }
}

fn compared(command: &Command, redis: Vec<u8>, ours: Vec<u8>) -> Option<Difference> {
    let is_equal = redis == ours
        || alike(command.compare, &redis, &ours).unwrap_or(false)
        || is_deliberate(&command.arguments[0], &redis, &ours);
    (!is_equal).then(|| Difference { arguments: command.arguments.clone(), redis, ours })
}

/// Whether replies that are not equal mean the same; `None` if they are not of the right type.
fn alike(compare: Compare, redis: &[u8], ours: &[u8]) -> Option<bool> {
    let integer = |reply: &[u8]| -> Option<i64> {
        std::str::from_utf8(reply).ok()?.strip_prefix(':')?.trim_end().parse().ok()
    };
    match compare {
        Compare::Bytes => None,
        Compare::Unordered => Some(sorted(redis)? == sorted(ours)?),
        Compare::Page => {
            let (one, other) = (elements(redis)?, elements(ours)?);
            let keys = |page: &[&[u8]]| sorted(page.get(1)?).map(|keys| keys.len());
            keys(&one)?;
            Some(one[0] == other[0] && sorted(one[1])? == sorted(other[1])?)
        }
        Compare::AnyKey => Some(redis.starts_with(b"$") && ours.starts_with(b"$"))
            .filter(|_| redis.get(1) != Some(&b'-') && ours.get(1) != Some(&b'-')),
        Compare::Near(distance) => {
            let (one, other) = (integer(redis)?, integer(ours)?);
            // Below zero an answer says that there is no key or no deadline.
            Some(one >= 0 && other >= 0 && one.abs_diff(other) <= distance.unsigned_abs())
        }
    }
}

fn sorted(reply: &[u8]) -> Option<Vec<&[u8]>> {
    let mut found = elements(reply)?;
    found.sort_unstable();
    Some(found)
}

/// All keys that SCAN returns until its cursor is 0 again, each once, in order.
fn iterate(connection: &mut Connection, options: &[Vec<u8>]) -> io::Result<Vec<Vec<u8>>> {
    let mut cursor = b"0".to_vec();
    let mut found: Vec<Vec<u8>> = Vec::new();
    for _page in 0..10_000 {
        let mut arguments = vec![b"SCAN".to_vec(), cursor];
        arguments.extend(options.iter().cloned());
        let reply = connection.ask(&arguments)?;
        let Some([next, page]) =
            elements(&reply).and_then(|parts| <[&[u8]; 2]>::try_from(parts).ok())
        else {
            return Ok(vec![reply]);
        };
        found.extend(elements(page).unwrap_or_default().into_iter().map(<[u8]>::to_vec));
        // A bulk string: its length, then itself.
        cursor = next.split(|byte| *byte == b'\n').nth(1).unwrap_or(b"0\r").trim_ascii().to_vec();
        if cursor == b"0" {
            found.sort_unstable();
            found.dedup();
            return Ok(found);
        }
    }
    Err(io::Error::other("SCAN does not come to an end"))
}

/// Arguments as a person would type them.
pub(crate) fn told(arguments: &[Vec<u8>]) -> String {
    let words: Vec<String> = arguments
        .iter()
        .map(|argument| {
            let word = shown(argument);
            let is_plain = !word.is_empty() && !word.contains([' ', '\\', '"', '\'']);
            if is_plain { word } else { format!("\"{word}\"") }
        })
        .collect();
    words.join(" ")
}
