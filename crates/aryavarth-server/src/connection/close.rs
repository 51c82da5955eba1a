//! The end of a connection, such that the last reply arrives.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

/// How much is thrown away at once, in bytes.
const SCRATCH_BYTES: usize = 16 << 10;

/// Shuts the write side and throws input away until the client closes, for as long as
/// `linger` says: a socket closed with unread input is reset, which can destroy the last reply.
pub(crate) async fn close(stream: TcpStream, linger: Option<Duration>) -> io::Result<()> {
    let stream = stream.into_std()?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let Some(linger) = linger else { return Ok(()) };
    let stream = TcpStream::from_std(stream)?;
    let drain = async {
        let mut scratch = vec![0; SCRATCH_BYTES];
        loop {
            stream.readable().await?;
            match stream.try_read(&mut scratch) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    timeout(linger, drain).await.unwrap_or(Ok(()))
}
