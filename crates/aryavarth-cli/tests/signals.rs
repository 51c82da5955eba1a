//! The real program under real signals: those that stop it, and those that it must survive.
//!
//! HUP, USR1 and USR2 once ended the server at once and in silence; closing the terminal of the quick
//! start was enough.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use support::{Server, data, did, program};

/// Lets a command begin a session of its own, which has no terminal, or the one that is its
/// standard input.
fn in_new_session(command: &mut Command, with_terminal: bool) {
    let begin = move || {
        rustix::process::setsid()?;
        if with_terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        Ok(())
    };
    #[expect(unsafe_code, reason = "the standard library has no safe call for a new session")]
    // SAFETY: both calls are system calls without memory of ours, which are allowed after a fork.
    unsafe {
        command.pre_exec(begin);
    }
}

/// A server in a session of its own, started by `wrapper` if there is one.
fn server_in_session(data: &Path, terminal: Option<&File>, wrapper: &[&str]) -> Server {
    let ours = program();
    let mut words = wrapper.iter().map(OsStr::new).chain([ours.get_program()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(["server", "--listen", "127.0.0.1:0", "--data"]).arg(data);
    command.stdin(terminal.map_or_else(Stdio::null, |file| file.try_clone().unwrap().into()));
    in_new_session(&mut command, terminal.is_some());
    Server::spawn(command.stdout(Stdio::null()))
}

/// A terminal: the side that a window holds, and the side of the programs in it.
fn terminal() -> (OwnedFd, File) {
    let window = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&window).unwrap();
    unlockpt(&window).unwrap();
    let name = ptsname(&window, Vec::new()).unwrap();
    let inside = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (window, inside)
}

/// Sends a signal again and again; a server that it stops has no time to answer all of the clients.
fn assert_survives(server: &Server, signal: Signal) {
    for _ in 0..10 {
        server.signal(signal);
        assert_eq!(server.run(&["set", "k", "v"]), did(0, "", ""), "after {signal:?}");
    }
}

#[test]
fn signals_that_are_not_for_the_server_do_nothing() {
    let (_dir, data) = data();
    let mut server = Server::start(&data);
    for signal in [
        Signal::USR1,
        Signal::USR2,
        Signal::PIPE,
        Signal::ALARM,
        Signal::VTALARM,
        Signal::PROF,
        Signal::IO,
        Signal::POWER,
        Signal::XFSZ,
    ] {
        assert_survives(&server, signal);
    }
    server.signal(Signal::TERM);
    server.assert_closes();
}

#[test]
fn a_terminal_that_closes_stops_the_server_cleanly() {
    let (_dir, data) = data();
    let (window, inside) = terminal();
    // The tests themselves may run under nohup, and the server would inherit that.
    let wrapper = ["env", "--default-signal=HUP"];
    let mut server = server_in_session(&data, Some(&inside), &wrapper);
    drop((window, inside));
    server.assert_closes();
}

#[test]
fn hangup_does_nothing_to_a_daemon() {
    let (_dir, data) = data();
    let mut server = server_in_session(&data, None, &[]);
    assert_survives(&server, Signal::HUP);
    server.signal(Signal::TERM);
    server.assert_closes();
}

#[test]
fn a_hangup_that_nohup_ignores_stays_ignored() {
    let (_dir, data) = data();
    let (window, inside) = terminal();
    let mut server = server_in_session(&data, Some(&inside), &["nohup"]);
    assert_survives(&server, Signal::HUP);
    drop((window, inside));
    assert_survives(&server, Signal::HUP);
    server.signal(Signal::TERM);
    server.assert_closes();
}

#[test]
fn a_warning_about_processor_time_stops_the_server_cleanly() {
    let (_dir, data) = data();
    let mut server = Server::start(&data);
    server.signal(Signal::XCPU);
    server.assert_closes();
}

/// The system sends XFSZ at such a limit, which once ended the program, also while it opened a store.
#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_no_end() {
    let (_dir, data) = data();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 8; exec \"$0\" \"$@\""]).arg(program().get_program());
    limited.args(["server", "--listen", "127.0.0.1:0", "--data"]).arg(&data);
    let output = limited.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("cannot open"), "{stderr}");
    drop(Server::start(&data));
}
