//! A server that reads lines and answers each with the same line: what any server must do.

use std::io;
use std::net::{SocketAddr, TcpListener};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

/// As many as the server has for its sockets.
const THREADS: usize = 2;
const READ_BYTES: usize = 16 << 10;

/// Serves until it is dropped.
pub(crate) struct Nothing {
    pub(crate) addr: SocketAddr,
    runtime: Option<Runtime>,
}

impl Nothing {
    /// A server whose every reply is that line.
    pub(crate) fn start(reply: String) -> io::Result<Nothing> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_io().build()?;
        runtime.spawn(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, reply.clone()));
            }
        });
        Ok(Nothing { addr, runtime: Some(runtime) })
    }
}

impl Drop for Nothing {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Ends with the connection.
async fn answer(mut stream: TcpStream, reply: String) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buf = vec![0; READ_BYTES];
    loop {
        let read = stream.read(&mut buf).await?;
        if read == 0 {
            return Ok(());
        }
        let requests = buf[..read].split(|byte| *byte == b'\n').count() - 1;
        stream.write_all(reply.repeat(requests).as_bytes()).await?;
    }
}
