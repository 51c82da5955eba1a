//! The client's side of the Redis protocol: commands, their replies, and a store loaded with them.
//!
//! Commands of one kind are all of one length, because keys and values are. A reply is believed only
//! if it is the one that its command must get: an error, an absent value or one of another length ends the
//! run, so nothing is counted that was not done.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::data::{KEY_BYTES, Rng, Values, key};
use crate::outcome::BoxError;
use crate::sockets::PATIENCE;

/// Commands that are sent at once while a store is loaded.
const LOAD_COMMANDS: u64 = 1000;
/// Counters that INCR counts in, beside the keys that were loaded. Few, so that they are all made
/// while the run warms up.
const COUNTERS: u64 = 1000;

/// A command that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Get,
    Set,
    Incr,
}

impl Operation {
    pub(crate) const ALL: [Operation; 3] = [Operation::Get, Operation::Set, Operation::Incr];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Get => "GET",
            Operation::Set => "SET",
            Operation::Incr => "INCR",
        }
    }

    pub(crate) fn writes(self) -> bool {
        self != Operation::Get
    }

    /// Adds the command for a key at random, of those that were loaded or of the counters.
    pub(crate) fn add(self, keys: u64, values: &Values, rng: &mut Rng, commands: &mut Vec<u8>) {
        match self {
            Operation::Get => {
                commands.extend_from_slice(b"*2\r\n$3\r\nGET\r\n");
                add_bulk(&key(rng.below(keys)), commands);
            }
            Operation::Set => add_set(rng.below(keys), values, rng, commands),
            Operation::Incr => {
                commands.extend_from_slice(b"*2\r\n$4\r\nINCR\r\n");
                add_bulk(&key(keys + rng.below(COUNTERS)), commands);
            }
        }
    }

    /// How long each of its commands is.
    pub(crate) fn command_bytes(self, values: &Values) -> usize {
        let mut command = Vec::new();
        self.add(1, values, &mut Rng::new(0), &mut command);
        command.len()
    }

    /// The reply of a server that does nothing.
    pub(crate) fn least_reply(self, value_bytes: usize) -> String {
        match self {
            Operation::Get => format!("${value_bytes}\r\n{}\r\n", "v".repeat(value_bytes)),
            Operation::Set => "+OK\r\n".to_owned(),
            Operation::Incr => ":1\r\n".to_owned(),
        }
    }

    /// The length of the first reply, if all of it is there. An error if it is not the reply that
    /// the command must get.
    pub(crate) fn reply_bytes(
        self,
        value_bytes: usize,
        replies: &[u8],
    ) -> io::Result<Option<usize>> {
        let Some(end) = replies.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let line = &replies[..=end];
        let is_right = match self {
            Operation::Get => number(line, b'$').is_some_and(|bytes| bytes == value_bytes),
            Operation::Set => line == b"+OK\r\n",
            Operation::Incr => number(line, b':').is_some(),
        };
        if !is_right {
            return Err(unexpected(line));
        }
        if self != Operation::Get {
            return Ok(Some(line.len()));
        }
        let bytes = line.len() + value_bytes + b"\r\n".len();
        match replies.get(..bytes) {
            None => Ok(None),
            Some(reply) if reply.ends_with(b"\r\n") => Ok(Some(bytes)),
            Some(reply) => Err(unexpected(reply)),
        }
    }
}

fn unexpected(reply: &[u8]) -> io::Error {
    let reply = String::from_utf8_lossy(reply);
    io::Error::other(format!("the server answered `{}`", reply.trim_end()))
}

/// The number of a line of that kind.
fn number(line: &[u8], kind: u8) -> Option<usize> {
    let (first, digits) = line.strip_suffix(b"\r\n")?.split_first()?;
    let digits = std::str::from_utf8(digits).ok()?;
    if *first == kind { digits.parse().ok() } else { None }
}

fn add_set(number: u64, values: &Values, rng: &mut Rng, commands: &mut Vec<u8>) {
    commands.extend_from_slice(b"*3\r\n$3\r\nSET\r\n");
    add_bulk(&key(number), commands);
    add_bulk(values.any(rng), commands);
}

fn add_bulk(bytes: &[u8], commands: &mut Vec<u8>) {
    if bytes.len() == KEY_BYTES {
        commands.extend_from_slice(b"$16\r\n");
    } else {
        commands.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
    }
    commands.extend_from_slice(bytes);
    commands.extend_from_slice(b"\r\n");
}

/// Sets the keys of all numbers below `keys`, in their order.
pub(crate) fn load(addr: SocketAddr, keys: u64, values: &Values) -> Result<(), BoxError> {
    let mut stream = connect(addr)?;
    let mut rng = Rng::new(keys);
    let (mut commands, mut replies) = (Vec::new(), Vec::new());
    for first in (0..keys).step_by(usize::try_from(LOAD_COMMANDS)?) {
        commands.clear();
        let numbers = first..keys.min(first + LOAD_COMMANDS);
        let count = usize::try_from(numbers.end - numbers.start)?;
        numbers.for_each(|number| add_set(number, values, &mut rng, &mut commands));
        stream.write_all(&commands)?;
        replies.resize(count * Operation::Set.least_reply(0).len(), 0);
        stream.read_exact(&mut replies)?;
        let mut rest = replies.as_slice();
        while let Some(bytes) = Operation::Set.reply_bytes(0, rest)? {
            rest = &rest[bytes..];
        }
    }
    Ok(())
}

/// A server's report of itself.
pub(crate) fn info(addr: SocketAddr) -> io::Result<String> {
    let mut stream = connect(addr)?;
    // It closes the connection after its answers.
    stream.write_all(b"INFO server\r\nQUIT\r\n")?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_bulks() {
        let (values, mut commands) = (Values::new(3), Vec::new());
        for operation in Operation::ALL {
            let before = commands.len();
            operation.add(1, &values, &mut Rng::new(1), &mut commands);
            assert_eq!(commands.len() - before, operation.command_bytes(&values));
        }
        let text = String::from_utf8(commands).unwrap();
        let commands: Vec<_> = text.split('*').skip(1).collect();
        let key = String::from_utf8(key(0).to_vec()).unwrap();
        assert_eq!(commands[0], format!("2\r\n$3\r\nGET\r\n$16\r\n{key}\r\n"));
        let set = format!("3\r\n$3\r\nSET\r\n$16\r\n{key}\r\n$3\r\n");
        assert!(commands[1].starts_with(&set), "{}", commands[1]);
        assert!(commands[2].starts_with("2\r\n$4\r\nINCR\r\n$16\r\n"));
        assert!(!commands[2].contains(&key), "a counter is none of the keys");
    }

    #[test]
    fn only_the_reply_of_its_command_is_taken() {
        for operation in Operation::ALL {
            let reply = operation.least_reply(4);
            let bytes = |text: &str| operation.reply_bytes(4, text.as_bytes());
            assert_eq!(bytes(&format!("{reply}+next")).unwrap(), Some(reply.len()));
            for end in 0..reply.len() {
                assert_eq!(bytes(&reply[..end]).unwrap(), None, "{operation:?} {end}");
            }
            for wrong in ["-ERR no\r\n", "$-1\r\n", "$5\r\nvalue\r\n", "*0\r\n", "_\r\n", "\n"] {
                assert!(bytes(wrong).is_err(), "{operation:?} {wrong}");
            }
            for other in Operation::ALL.iter().filter(|other| **other != operation) {
                assert!(bytes(&other.least_reply(4)).is_err(), "{operation:?} {other:?}");
            }
        }
    }
}
