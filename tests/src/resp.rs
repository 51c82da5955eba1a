//! The client's side of the Redis protocol, as plain as it gets: commands to bytes, and where a
//! reply ends.
//!
//! Not the project's codec, on purpose: the check of the server must not share its mistakes. A
//! reply stays the bytes that it came as, so that two servers can be compared byte for byte.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// A server that takes longer than this for one reply is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command as an array of bulk strings.
pub fn encode<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        let argument = argument.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// The length of the first reply in `bytes`; `None` if it is not complete.
///
/// # Errors
/// If no reply begins like this.
pub fn reply_bytes(bytes: &[u8]) -> Result<Option<usize>, String> {
    let (mut at, mut missing) = (0, 1);
    while missing > 0 {
        let Some(line) = bytes[at..].windows(2).position(|pair| pair == b"\r\n") else {
            return Ok(None);
        };
        let head = &bytes[at..at + line];
        at += line + 2;
        missing -= 1;
        let number = || {
            let text = std::str::from_utf8(head.get(1..).unwrap_or_default()).unwrap_or_default();
            let number = text.parse::<i64>();
            // A null has the length -1 and nothing behind it.
            number.map(|number| usize::try_from(number).ok()).map_err(|error| error.to_string())
        };
        match head.first() {
            Some(b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(') => {}
            Some(b'$' | b'=' | b'!') => at += number()?.map_or(0, |length| length + 2),
            Some(b'*' | b'~' | b'>') => missing += number()?.unwrap_or(0),
            Some(b'%') => missing += 2 * number()?.unwrap_or(0),
            Some(b'|') => missing += 2 * number()?.unwrap_or(0) + 1,
            _ => return Err(format!("no reply begins with {:?}", shown(head))),
        }
        if at > bytes.len() {
            return Ok(None);
        }
    }
    Ok(Some(at))
}

/// The elements of an array, each as its bytes; `None` if the reply is not an array.
pub fn elements(reply: &[u8]) -> Option<Vec<&[u8]>> {
    let kind = *reply.first()?;
    if !b"*~>".contains(&kind) || reply.starts_with(b"*-1") {
        return None;
    }
    let mut rest = &reply[reply.windows(2).position(|pair| pair == b"\r\n")? + 2..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (element, tail) = rest.split_at(reply_bytes(rest).ok()??);
        found.push(element);
        rest = tail;
    }
    Some(found)
}

/// Bytes as a person can read them, cut when long.
pub fn shown(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string();
    if text.len() <= 400 { text } else { format!("{}... ({} bytes)", &text[..400], bytes.len()) }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    arrived: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// If the address has no listener.
    pub fn open(addr: impl ToSocketAddrs) -> io::Result<Connection> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Connection { stream, arrived: Vec::new() })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next reply, as its bytes.
    ///
    /// # Errors
    /// If the connection broke or the bytes are no reply.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(length) = reply_bytes(&self.arrived).map_err(io::Error::other)? {
                let rest = self.arrived.split_off(length);
                return Ok(std::mem::replace(&mut self.arrived, rest));
            }
            let read = match self.stream.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if read == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed"));
            }
            self.arrived.extend_from_slice(&chunk[..read]);
        }
    }

    /// Sends a command and waits for its reply.
    ///
    /// # Errors
    /// If the connection broke or the bytes are no reply.
    pub fn ask<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> io::Result<Vec<u8>> {
        self.send(&encode(arguments))?;
        self.receive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_ends_where_its_last_element_ends() {
        let whole: &[&[u8]] = &[
            b"+OK\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"_\r\n",
            b"$4\r\na\r\nb\r\n",
            b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
            b"%1\r\n+a\r\n*0\r\n",
            b"|1\r\n+a\r\n+b\r\n:1\r\n",
            b"=5\r\ntxt:a\r\n",
        ];
        for reply in whole {
            for end in 0..reply.len() {
                assert_eq!(reply_bytes(&reply[..end]), Ok(None), "{}", shown(reply));
            }
            let followed = [*reply, b"+next\r\n"].concat();
            assert_eq!(reply_bytes(&followed), Ok(Some(reply.len())), "{}", shown(reply));
        }
        assert!(reply_bytes(b"what\r\n").is_err());
    }

    #[test]
    fn an_array_comes_apart() {
        let array = b"*3\r\n$1\r\na\r\n*1\r\n:1\r\n_\r\n";
        let parts: Vec<&[u8]> = vec![b"$1\r\na\r\n", b"*1\r\n:1\r\n", b"_\r\n"];
        assert_eq!(elements(array), Some(parts));
        assert_eq!(elements(b"*-1\r\n"), None);
        assert_eq!(elements(b"+OK\r\n"), None);
    }
}
