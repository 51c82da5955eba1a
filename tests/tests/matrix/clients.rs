//! The clients behind one trait: the blocking one, the one for tokio, and a bare socket that
//! speaks JSON and knows nothing but the wire format.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use aryavarth_client::{AsyncKvsClient, ClientError, KvsClient, Pipeline, Reply, Result};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::rig::PATIENCE;

/// A request.
pub(crate) enum Ask {
    Set(String, String),
    Get(String),
    Remove(String),
    Scan(String, Option<String>, u64),
    Compact,
}

pub(crate) trait Client: Send {
    /// One request.
    fn ask(&mut self, ask: Ask) -> Result<Reply>;
    /// Many at once, each with its reply.
    fn run(&mut self, asks: Vec<Ask>) -> Vec<Result<Reply>>;
}

impl dyn Client {
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<()> {
        self.ask(Ask::Set(key.to_owned(), value.to_owned())).map(|reply| done(&reply))
    }

    pub(crate) fn get(&mut self, key: &str) -> Result<Option<String>> {
        match self.ask(Ask::Get(key.to_owned()))? {
            Reply::Value(value) => Ok(value),
            other => panic!("{other:?} is no value"),
        }
    }

    pub(crate) fn remove(&mut self, key: &str) -> Result<()> {
        self.ask(Ask::Remove(key.to_owned())).map(|reply| done(&reply))
    }

    pub(crate) fn scan(
        &mut self,
        prefix: &str,
        after: Option<String>,
        limit: u64,
    ) -> Result<Vec<(String, String)>> {
        match self.ask(Ask::Scan(prefix.to_owned(), after, limit))? {
            Reply::Entries(entries) => Ok(entries),
            other => panic!("{other:?} is no page"),
        }
    }

    pub(crate) fn compact(&mut self) -> Result<()> {
        self.ask(Ask::Compact).map(|reply| done(&reply))
    }
}

fn done(reply: &Reply) {
    assert_eq!(*reply, Reply::Done);
}

fn pipeline(asks: Vec<Ask>) -> Pipeline {
    asks.into_iter().fold(Pipeline::new(), |pipeline, ask| match ask {
        Ask::Set(key, value) => pipeline.set(key, value),
        Ask::Get(key) => pipeline.get(key),
        Ask::Remove(key) => pipeline.remove(key),
        Ask::Scan(prefix, after, limit) => pipeline.scan(prefix, after, limit),
        Ask::Compact => panic!("a pipeline does not compact"),
    })
}

impl Client for KvsClient {
    fn ask(&mut self, ask: Ask) -> Result<Reply> {
        match ask {
            Ask::Set(key, value) => self.set(key, value).map(|()| Reply::Done),
            Ask::Get(key) => self.get(key).map(Reply::Value),
            Ask::Remove(key) => self.remove(key).map(|()| Reply::Done),
            Ask::Scan(prefix, after, limit) => self.scan(prefix, after, limit).map(Reply::Entries),
            Ask::Compact => self.compact().map(|()| Reply::Done),
        }
    }

    fn run(&mut self, asks: Vec<Ask>) -> Vec<Result<Reply>> {
        KvsClient::run(self, pipeline(asks)).unwrap()
    }
}

/// The client for tokio, driven from outside.
pub(crate) struct OnTokio {
    pub(crate) runtime: Runtime,
    pub(crate) client: AsyncKvsClient,
}

impl Client for OnTokio {
    fn ask(&mut self, ask: Ask) -> Result<Reply> {
        let client = &mut self.client;
        self.runtime.block_on(async {
            match ask {
                Ask::Set(key, value) => client.set(key, value).await.map(|()| Reply::Done),
                Ask::Get(key) => client.get(key).await.map(Reply::Value),
                Ask::Remove(key) => client.remove(key).await.map(|()| Reply::Done),
                Ask::Scan(prefix, after, limit) => {
                    client.scan(prefix, after, limit).await.map(Reply::Entries)
                }
                Ask::Compact => client.compact().await.map(|()| Reply::Done),
            }
        })
    }

    fn run(&mut self, asks: Vec<Ask>) -> Vec<Result<Reply>> {
        self.runtime.block_on(self.client.run(pipeline(asks))).unwrap()
    }
}

/// A socket that speaks JSON, and connects again when its connection has gone.
pub(crate) struct Socket {
    addr: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Socket {
    pub(crate) fn to(addr: SocketAddr) -> Socket {
        Socket { addr, stream: None }
    }

    /// The connection, a new one if the server has closed the last one.
    fn stream(&mut self) -> Result<&mut BufReader<TcpStream>> {
        let is_open = self.stream.as_ref().is_some_and(|stream| {
            stream.get_ref().set_nonblocking(true).unwrap();
            let peeked = stream.get_ref().peek(&mut [0]);
            stream.get_ref().set_nonblocking(false).unwrap();
            peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        });
        if !is_open {
            self.stream = None;
            let addr = self.addr.to_string();
            let connected = TcpStream::connect(self.addr);
            let stream = connected.map_err(|source| ClientError::Connect { addr, source })?;
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_nodelay(true).unwrap();
            self.stream = Some(BufReader::new(stream));
        }
        Ok(self.stream.as_mut().unwrap())
    }

    pub(crate) fn send(&mut self, text: &str) {
        // Not `stream()`: replies may be on their way.
        if self.stream.is_none() {
            self.stream().unwrap();
        }
        self.stream.as_mut().unwrap().get_mut().write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn end_input(&mut self) {
        self.stream.as_ref().unwrap().get_ref().shutdown(Shutdown::Write).unwrap();
    }

    /// The next reply, without its newline.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.as_mut().unwrap().read_line(&mut line).unwrap();
        assert_eq!(line.pop(), Some('\n'), "the connection was closed after {line:?}");
        line
    }

    /// Everything until the server closes.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.stream.take().unwrap().read_to_string(&mut rest).unwrap();
        rest
    }
}

fn request(ask: &Ask) -> Value {
    match ask {
        Ask::Set(key, value) => json!({"Set": {"key": key, "value": value}}),
        Ask::Get(key) => json!({"Get": {"key": key}}),
        Ask::Remove(key) => json!({"Remove": {"key": key}}),
        Ask::Scan(prefix, after, limit) => {
            json!({"Scan": {"prefix": prefix, "after": after, "limit": limit}})
        }
        Ask::Compact => json!({"Compact": {}}),
    }
}

/// The meaning of a line of the server's as the answer to a request.
fn reply(ask: &Ask, line: &str) -> Result<Reply> {
    let mut reply: Value = serde_json::from_str(line).unwrap();
    if let Some(message) = reply.get("Err") {
        return Err(match message.as_str().unwrap() {
            "Key not found" => ClientError::KeyNotFound,
            message => ClientError::Server(message.to_owned()),
        });
    }
    let field = |reply: &mut Value, name| reply.get_mut(name).map(Value::take).unwrap();
    Ok(match ask {
        Ask::Get(_) => Reply::Value(field(&mut reply, "Ok").as_str().map(str::to_owned)),
        Ask::Scan(..) => {
            Reply::Entries(serde_json::from_value(field(&mut reply, "Entries")).unwrap())
        }
        _ => {
            assert_eq!(line, r#"{"Ok":null}"#);
            Reply::Done
        }
    })
}

fn lost(ask: &Ask) -> ClientError {
    let source = io::Error::from(io::ErrorKind::UnexpectedEof);
    match ask {
        Ask::Set(..) | Ask::Remove(_) => ClientError::OutcomeUnknown { source },
        _ => ClientError::Lost { source },
    }
}

impl Client for Socket {
    fn ask(&mut self, ask: Ask) -> Result<Reply> {
        self.stream()?;
        self.run(vec![ask]).remove(0)
    }

    fn run(&mut self, asks: Vec<Ask>) -> Vec<Result<Reply>> {
        let requests: String = asks.iter().map(|ask| request(ask).to_string()).collect();
        let stream = self.stream().unwrap();
        stream.get_mut().write_all(requests.as_bytes()).unwrap();
        let mut answer = |ask: &Ask| {
            let mut line = String::new();
            match stream.read_line(&mut line) {
                Ok(1..) => reply(ask, line.trim_end()),
                _ => Err(lost(ask)),
            }
        };
        asks.iter().map(&mut answer).collect()
    }
}
