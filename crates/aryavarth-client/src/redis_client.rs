//! A blocking client of the Redis protocol, version 2, on the standard library alone.
//!
//! It carries any bytes, knows passwords and databases, and takes every command, which the JSON
//! protocol does not. The price is that it does not know the commands: it sends nothing twice.
//!
//! Invariants:
//! - A connection that an error touched is never used again: a late reply on it would pass for the
//!   answer of the next command.
//! - A connection is used only after the server has answered as one of the Redis protocol.

use std::fmt;
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::Duration;

use crate::client::{SEND_BYTES_MAX, Timeouts, dial, send, shown, unknown};
use crate::error::{ClientError, Result};
use crate::pipeline::{closed, timed_out};
use crate::value::{self, Value};

/// Commands that change nothing: if their reply is lost, the outcome is known.
const READS: &[&str] = &[
    "AUTH",
    "DBSIZE",
    "EXISTS",
    "GET",
    "INFO",
    "MGET",
    "PEXPIRETIME",
    "PING",
    "PTTL",
    "SCAN",
    "SELECT",
    "STRLEN",
    "TTL",
];

/// The beginning of the last words of a server to a client that it cannot go on with.
const PROTOCOL_ERROR: &str = "ERR Protocol error";

/// The login at a server, the database, and the client's patience.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// How long the client waits. The server has to answer a first command within the time for a
    /// connection.
    pub timeouts: Timeouts,
    /// The user; the default one if it is left out. Without a password it is not used.
    pub user: Option<String>,
    /// The password, if the server has one.
    pub password: Option<Vec<u8>>,
    /// The database, counted from 0. Default: 0.
    pub database: u32,
}

/// Commands to send together. They are run one after another, each succeeds or fails by itself,
/// and each has a reply, in order.
///
/// ```
/// use aryavarth_client::Commands;
///
/// let mut commands = Commands::new();
/// commands.push(&["SET", "k", "v"]);
/// commands.push(&[&b"GET"[..], b"\xff"]);
/// assert_eq!(commands.len(), 2);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Commands {
    bytes: Vec<u8>,
    count: usize,
    has_writes: bool,
}

impl Commands {
    /// No commands.
    pub fn new() -> Self {
        Commands::default()
    }

    /// Adds a command: its name and its arguments, which may be any bytes. An empty list adds
    /// nothing.
    pub fn push<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        let Some(name) = args.first() else { return };
        let name = name.as_ref();
        self.has_writes |= !READS.iter().any(|read| name.eq_ignore_ascii_case(read.as_bytes()));
        self.count += 1;
        self.bytes.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
        for arg in args {
            let arg = arg.as_ref();
            self.bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            self.bytes.extend_from_slice(arg);
            self.bytes.extend_from_slice(b"\r\n");
        }
    }

    /// How many commands there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// A connection to a server over the Redis protocol.
///
/// ```
/// # use aryavarth::MemoryEngine;
/// # use aryavarth_server::{KvServer, SharedQueueThreadPool, ThreadPool};
/// # let server = KvServer::new("127.0.0.1:0", MemoryEngine::new(), SharedQueueThreadPool::new(1)?)?;
/// # let (addr, handle) = (server.local_addr(), server.handle());
/// # let thread = std::thread::spawn(move || server.run());
/// use aryavarth_client::{RedisClient, Value};
///
/// let mut client = RedisClient::connect(addr)?; // for example "127.0.0.1:4000"
/// client.command(&["SET", "k", "v", "EX", "60"])?; // on the server's disk from here on
/// assert_eq!(client.command(&["GET", "k"])?, Value::from("v"));
/// # handle.shutdown();
/// # thread.join().expect("no panic")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RedisClient {
    addr: String,
    read_timeout: Option<Duration>,
    connection: Option<BufReader<TcpStream>>,
}

impl RedisClient {
    /// Connects to a server without a password, for example at "127.0.0.1:4000".
    ///
    /// # Errors
    /// As [`connect_with`](RedisClient::connect_with).
    pub fn connect(addr: impl ToSocketAddrs + fmt::Debug) -> Result<Self> {
        RedisClient::connect_with(addr, &RedisOptions::default())
    }

    /// Connects, logs in if there is a password, and selects the database.
    ///
    /// # Errors
    /// [`ClientError::Connect`] if no server is there or none answers within
    /// [`Timeouts::connect`](crate::Timeouts), [`ClientError::Protocol`] if the program
    /// there does not answer as a server of the Redis protocol, [`ClientError::Server`] if the
    /// server refuses the client, the password or the database.
    pub fn connect_with(
        addr: impl ToSocketAddrs + fmt::Debug,
        options: &RedisOptions,
    ) -> Result<Self> {
        let addrs = addr.to_socket_addrs().map_err(|source| unknown(&addr, source))?;
        let addrs: Vec<_> = addrs.collect();
        let failed = |source| ClientError::Connect { addr: shown(&addrs), source };
        let stream = dial(&addrs, &options.timeouts).map_err(failed)?;
        let mut client = RedisClient {
            addr: shown(&addrs),
            read_timeout: options.timeouts.read,
            connection: Some(BufReader::new(stream)),
        };
        client.greet(options)?;
        Ok(client)
    }

    /// Finds out whether the other side is a server that takes us.
    fn greet(&mut self, options: &RedisOptions) -> Result<()> {
        let mut commands = Commands::new();
        match (&options.user, &options.password) {
            (Some(user), Some(password)) => commands.push(&[b"AUTH", user.as_bytes(), password]),
            (None, Some(password)) => commands.push(&[b"AUTH", &**password]),
            // The server's answer tells whether this user needs a password.
            (Some(user), None) => commands.push(&[b"AUTH", user.as_bytes(), b""]),
            (None, None) => {}
        }
        if options.database > 0 {
            commands.push(&["SELECT", &options.database.to_string()]);
        }
        commands.push(&["PING"]);
        let time = self.read_timeout.replace(options.timeouts.connect);
        let replies = self.pipeline(&commands).map_err(|error| match error {
            ClientError::Lost { source } if source.kind() == io::ErrorKind::TimedOut => {
                let seconds = options.timeouts.connect.as_secs_f32();
                let text = format!(
                    "it took the connection and did not answer within {seconds} s: it hangs, or is \
                     not an Aryavarth server"
                );
                let source = io::Error::new(io::ErrorKind::TimedOut, text);
                ClientError::Connect { addr: self.addr.clone(), source }
            }
            ClientError::Lost { source } => ClientError::Protocol(match source.kind() {
                io::ErrorKind::UnexpectedEof => "it closed the connection unanswered".to_owned(),
                _ => source.to_string(),
            }),
            error => error,
        })?;
        self.read_timeout = time;
        for reply in replies {
            match reply {
                Value::Error(text) => return Err(ClientError::Server(text)),
                Value::Status(text) if text == "OK" || text == "PONG" => {}
                other => return Err(ClientError::Protocol(format!("it answered {other:?}"))),
            }
        }
        Ok(())
    }

    /// Runs a command and returns its reply: its name and its arguments, which may be any bytes.
    ///
    /// # Errors
    /// [`ClientError::Server`] if the server refuses it; others as
    /// [`pipeline`](RedisClient::pipeline).
    pub fn command<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Value> {
        let mut commands = Commands::new();
        commands.push(args);
        match self.pipeline(&commands)?.pop() {
            Some(Value::Error(text)) => Err(ClientError::Server(text)),
            Some(value) => Ok(value),
            None => Ok(Value::Null),
        }
    }

    /// Sends all commands and returns their replies, in order. A command that the server refuses
    /// has a [`Value::Error`] in its place.
    ///
    /// # Errors
    /// If the connection is lost: [`ClientError::Lost`] if all commands only read,
    /// [`ClientError::OutcomeUnknown`] otherwise. [`ClientError::Protocol`] for bytes that are not
    /// a reply. [`ClientError::Connect`] if an earlier call lost the connection: connect again.
    /// [`ClientError::Server`] if the server refuses a command that it cannot read, such as one with
    /// an argument beyond its limit, and closes the connection: the commands before it were run, it
    /// and those behind it were not.
    pub fn pipeline(&mut self, commands: &Commands) -> Result<Vec<Value>> {
        let mut replies = Vec::with_capacity(commands.len());
        self.pipeline_each(commands, |reply| replies.push(reply))?;
        Ok(replies)
    }

    /// The same; hands each reply over as it arrives, so that one of them is in memory at a time.
    ///
    /// # Errors
    /// As [`pipeline`](RedisClient::pipeline).
    pub fn pipeline_each(
        &mut self,
        commands: &Commands,
        mut on_reply: impl FnMut(Value),
    ) -> Result<()> {
        let Some(mut connection) = self.connection.take() else {
            let source = io::Error::from(io::ErrorKind::NotConnected);
            return Err(ClientError::Connect { addr: self.addr.clone(), source });
        };
        let mut refusal = None;
        let mut hear = |reply: Value| {
            if let Value::Error(text) = &reply
                && text.starts_with(PROTOCOL_ERROR)
            {
                refusal = Some(text.clone());
            }
            on_reply(reply);
        };
        let exchanged = exchange(&mut connection, commands, self.read_timeout, &mut hear);
        match (exchanged, refusal) {
            // The server closes the connection behind it.
            (Ok(()), Some(_)) => Ok(()),
            (Err(_), Some(text)) => Err(ClientError::Server(text)),
            (exchanged, None) => self.end(exchanged, connection, commands),
        }
    }

    /// Keeps the connection of an exchange that succeeded, or says which failure it was.
    fn end(
        &mut self,
        exchanged: io::Result<()>,
        connection: BufReader<TcpStream>,
        commands: &Commands,
    ) -> Result<()> {
        match exchanged {
            Ok(()) => {
                self.connection = Some(connection);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(ClientError::Protocol(error.to_string()))
            }
            Err(source) if commands.has_writes => Err(ClientError::OutcomeUnknown { source }),
            Err(source) => Err(ClientError::Lost { source }),
        }
    }
}

/// Sends the commands and reads their replies, which may come before the last command has left.
fn exchange(
    connection: &mut BufReader<TcpStream>,
    commands: &Commands,
    timeout: Option<Duration>,
    on_reply: &mut dyn FnMut(Value),
) -> io::Result<()> {
    connection.get_ref().set_read_timeout(timeout)?;
    let mut writer = connection.get_ref().try_clone()?;
    if commands.len() == 1 || commands.bytes.len() <= SEND_BYTES_MAX {
        send(&mut writer, &commands.bytes);
        return read_replies(connection, commands.len(), on_reply);
    }
    // A server that has to get rid of replies first takes no more commands, so they are read while
    // the commands leave.
    thread::scope(|scope| {
        let sender = thread::Builder::new().spawn_scoped(scope, || {
            send(&mut writer, &commands.bytes);
            drop(writer.flush());
        })?;
        let read = read_replies(connection, commands.len(), on_reply);
        if read.is_err() {
            // A command that the server has not taken by now will never be answered.
            drop(connection.get_ref().shutdown(Shutdown::Both));
        }
        drop(sender.join());
        read
    })
}

fn read_replies(
    connection: &mut BufReader<TcpStream>,
    count: usize,
    on_reply: &mut dyn FnMut(Value),
) -> io::Result<()> {
    for _ in 0..count {
        let reply = value::read(connection).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => timed_out(),
            io::ErrorKind::UnexpectedEof => closed(),
            _ => error,
        })?;
        on_reply(reply);
    }
    Ok(())
}
