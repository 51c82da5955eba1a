//! Messages to the service manager that started the program: ready, stopping.
//!
//! systemd names a socket in `NOTIFY_SOCKET` for a unit of `Type=notify`, and counts the unit as
//! started when `READY=1` arrives there. Without the variable nothing is sent.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::warn;

/// Sends a state to the service manager, if there is one. A failure is a line on standard error:
/// the server serves without its manager's knowledge.
pub(crate) fn state(state: &str) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    if let Err(error) = send(&socket, state) {
        let reason = error.to_string();
        warn!(state, reason, "service manager not told");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    // A name that begins with `@` is one of the kernel's, without a file.
    let addr = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &addr).map(drop)
}
