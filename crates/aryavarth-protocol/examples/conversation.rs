//! A server of both protocols without a network: requests come by standard input, replies go to
//! standard output, and the keys live in a map.
//!
//! `printf '{"Set":{"key":"k","value":"v"}} {"Get":{"key":"k"}}' | cargo run --example conversation`
//! `printf 'SET k v\r\nGET k\r\n' | cargo run --example conversation`

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use aryavarth_protocol::{Command, Event, Limits, Reply, Request, Response, Session};

#[derive(Default)]
struct Map(BTreeMap<Vec<u8>, Vec<u8>>);

impl Map {
    /// Answers a request in JSON.
    fn request(&mut self, request: Request) -> Response {
        match request {
            Request::Set { key, value } => {
                self.0.insert(key.into(), value.into());
                Response::Ok(None)
            }
            Request::Get { key } => {
                let value = self.0.get(key.as_bytes());
                Response::Ok(value.map(|value| String::from_utf8_lossy(value).into_owned()))
            }
            _ => Response::Err("not supported here".to_owned()),
        }
    }

    /// Answers a command of the Redis protocol.
    fn command(&mut self, command: &Command) -> Reply {
        let args: Vec<&[u8]> = command.args().collect();
        match (&*command.name().to_ascii_uppercase(), &*args) {
            (b"SET", [key, value]) => {
                self.0.insert(key.to_vec(), value.to_vec());
                Reply::OK
            }
            (b"GET", [key]) => Reply::bulk_or_null(self.0.get(*key).cloned()),
            _ => Reply::error("ERR not supported here"),
        }
    }
}

fn main() -> io::Result<()> {
    let mut session = Session::new(Limits::default());
    let mut map = Map::default();
    let mut bytes = [0; 4096];
    loop {
        let count = io::stdin().read(&mut bytes)?;
        session.feed(&bytes[..count]);
        if count == 0 {
            session.end_of_input();
        }
        let mut is_over = false;
        while let Some(event) = session.next_event() {
            is_over = matches!(event, Event::Broken(_) | Event::End);
            // Position 0: a reply that waits for no disk.
            match event {
                Event::Request(request) => session.reply(&map.request(request), 0),
                Event::Command(command) => session.reply_resp(&map.command(&command), 0),
                Event::Invalid(message) => session.reply_error(&message, 0),
                Event::Broken(last_bytes) => session.reply_raw(last_bytes),
                Event::End => {}
            }
        }
        while !session.output().is_empty() {
            let sent = io::stdout().write(session.output())?;
            session.sent(sent);
        }
        if is_over {
            return io::stdout().flush();
        }
    }
}
