//! Limits of the sockets that all commands use: how many, and how long one waits for a reply.

use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A server that takes longer than this for one reply is not measured but broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Lets this process open as many connections as the system allows it.
pub(crate) fn raise_open_files() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    Ok(())
}
