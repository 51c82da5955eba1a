//! The signals that a running server hears, and the effect of each.
//!
//! TERM and INT stop it. HUP means one of two things: a terminal that closes sends it to the
//! programs that were started there, which should end; operators of a daemon, which has no terminal,
//! send it to have logs and settings read again. The server has nothing to read again, so with a
//! terminal HUP stops it, and without one it does nothing. A HUP that was ignored when the program
//! began (`nohup`) stays ignored. XCPU, the system's warning before it kills, stops the server.
//!
//! All others that end a program by default, and that a slip or a tool may send, do nothing. One of
//! them comes from the system: XFSZ, when a write would exceed the limit of a file's size. With the
//! signal out of the way that write fails, as on a full disk, and the server goes on.
//!
//! Invariant: once the server is ready, only KILL, QUIT and the signals of a crash (SEGV, BUS, ABRT
//! and the like) end it without a clean stop.

use std::fs::{self, File};
use std::future::{Future, poll_fn};
use std::io;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

/// Numbers of signals that the runtime has no name for, on Linux.
const XCPU: i32 = 24;
const XFSZ: i32 = 25;
const VTALRM: i32 = 26;
const PROF: i32 = 27;
const PWR: i32 = 30;

/// Takes the default action of stray signals away, for the rest of the process: from now on USR1,
/// XFSZ and the like do nothing, and HUP does nothing if there is no terminal. A server that
/// [stops on signals](crate::Config::stop_on_signals) does the same when it runs; call this before a
/// store is opened, so that its recovery is not cut short.
///
/// # Errors
/// The system's, if it refuses a handler.
pub fn ignore_stray_signals() -> io::Result<()> {
    // The handlers stay when the runtime goes.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async { ignore_strays() })
}

/// Listens for signals from now on; the future that is returned ends with the first one that asks
/// for a stop, whose name it returns. Others that a person may send are lines in the log. Call it
/// within a runtime.
///
/// # Errors
/// The system's, if it refuses a handler.
pub(crate) fn stop_asked() -> io::Result<impl Future<Output = &'static str> + Send + 'static> {
    let has_hangup = !is_ignored(SignalKind::hangup()) && has_terminal();
    ignore_strays()?;
    let mut stops = Named::listen(&[
        ("SIGTERM", SignalKind::terminate()),
        ("SIGINT", SignalKind::interrupt()),
        ("SIGXCPU", from_raw(XCPU)),
    ])?;
    let mut others = Named::listen(&[
        ("SIGUSR1", SignalKind::user_defined1()),
        ("SIGUSR2", SignalKind::user_defined2()),
    ])?;
    if !is_ignored(SignalKind::hangup()) {
        let hangup = Named::listen(&[("SIGHUP", SignalKind::hangup())])?;
        if has_hangup { stops.extend(hangup) } else { others.extend(hangup) }
    }
    Ok(poll_fn(move |context| {
        for Named { name, signal } in &mut others {
            while signal.poll_recv(context).is_ready() {
                info!(signal = name, "signal ignored");
            }
        }
        let came = stops.iter_mut().find_map(|Named { name, signal }| {
            signal.poll_recv(context).is_ready().then_some(*name)
        });
        came.map_or(Poll::Pending, Poll::Ready)
    }))
}

/// A signal with its name.
struct Named {
    name: &'static str,
    signal: Signal,
}

impl Named {
    fn listen(kinds: &[(&'static str, SignalKind)]) -> io::Result<Vec<Named>> {
        let listen = |&(name, kind)| Ok(Named { name, signal: signal(kind)? });
        kinds.iter().map(listen).collect()
    }
}

fn ignore_strays() -> io::Result<()> {
    for kind in [
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
        SignalKind::pipe(),
        SignalKind::alarm(),
        SignalKind::io(),
        from_raw(XFSZ),
        from_raw(VTALRM),
        from_raw(PROF),
        from_raw(PWR),
    ] {
        ignore(kind)?;
    }
    let is_daemon = !is_ignored(SignalKind::hangup()) && !has_terminal();
    if is_daemon { ignore(SignalKind::hangup()) } else { Ok(()) }
}

fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

fn from_raw(number: i32) -> SignalKind {
    SignalKind::from_raw(number)
}

/// Takes a signal's default action away. The runtime's handler stays when its listener goes.
fn ignore(kind: SignalKind) -> io::Result<()> {
    signal(kind).map(drop)
}

/// Whether the process ignores a signal, as it inherited it; `false` where the system does not say.
fn is_ignored(kind: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or_default();
    let mask = u64::from_str_radix(mask.trim(), 16).unwrap_or(0);
    mask >> (kind.as_raw_value() - 1) & 1 == 1
}
