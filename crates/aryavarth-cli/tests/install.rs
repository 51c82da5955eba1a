//! The files for installing: the unit of systemd, man pages, the container's command line.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use support::{Server, program, run};

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)).unwrap()
}

/// The words of a command line in the files, behind the name of the program, with a data directory
/// and an address of the test's own.
fn server(words: &[&str], data: &Path) -> Command {
    let replaced = |at: usize| match words[at.saturating_sub(1)] {
        "--data" => data.to_str().unwrap(),
        "--listen" => "127.0.0.1:0",
        _ => words[at],
    };
    let mut command = program();
    command.args((0..words.len()).map(replaced)).env("ARYAVARTH_LISTEN", "127.0.0.1:0");
    command
}

/// The next message on a socket.
fn message(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 64];
    let length = socket.recv(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

#[test]
fn the_service_says_when_it_is_ready_and_when_it_stops() {
    let unit = file("dist/aryavarth.service");
    assert!(unit.contains("\nType=notify\n"));
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let words: Vec<&str> = start.split(' ').skip(1).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let name = format!("@aryavarth-test-{}", std::process::id());
    let kernel = SocketAddr::from_abstract_name(&name[1..]).unwrap();
    for (socket, name) in [
        (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap()),
        (UnixDatagram::bind_addr(&kernel).unwrap(), &*name),
    ] {
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut command = server(&words, &dir.path().join("data"));
        let mut server = Server::spawn(command.env("NOTIFY_SOCKET", name));
        assert_eq!(message(&socket), "READY=1");
        server.signal(Signal::TERM);
        let (said, code) = server.wait();
        assert!(code == Some(0) && said.trim_end().ends_with("INFO closed"), "{code:?} {said}");
        assert_eq!(message(&socket), "STOPPING=1");
    }
}

/// Skipped where there is no systemd to ask.
#[test]
fn systemd_finds_no_fault_in_the_unit() {
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("aryavarth.service");
    let program = env!("CARGO_BIN_EXE_aryavarth");
    let text = file("dist/aryavarth.service").replace("/usr/local/bin/aryavarth", program);
    fs::write(&unit, text).unwrap();
    let mut verify = Command::new("systemd-analyze");
    let Ok(output) = verify.args(["verify", "--man=no"]).arg(&unit).output() else {
        println!("skipped: no systemd-analyze");
        return;
    };
    // The machine's own units may have faults.
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("aryavarth"), "{said}");
}

#[test]
fn the_container_starts_with_a_password_in_the_environment() {
    let text = file("Dockerfile");
    let command = text.lines().find_map(|line| line.strip_prefix("CMD ")).unwrap();
    let words: Vec<&str> =
        command.trim_matches(['[', ']']).split(", ").map(|word| word.trim_matches('"')).collect();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut command = server(&words, &data);
    let server = Server::spawn(command.env("ARYAVARTH_PASSWORD", "secret"));
    let status = |password: &str| {
        let mut command = server.command(&["status"]);
        command.env("ARYAVARTH_PASSWORD", password).output().unwrap().status.code()
    };
    assert_eq!((status("secret"), status("wrong")), (Some(0), Some(2)));
    let refused = run(&[words[0], "--data", "nowhere", words[3], words[4]]);
    assert!(refused.code == 2 && refused.stderr.contains("password"), "{refused:?}");
}

#[test]
fn every_command_has_a_man_page() {
    let dir = tempfile::tempdir().unwrap();
    // A machine without man pages of its own has no such directory yet.
    let pages = dir.path().join("share/man/man1");
    let done = run(&["man", pages.to_str().unwrap()]);
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    let page = |name: &str| fs::read_to_string(pages.join(name)).unwrap();
    let help = run(&["--help"]).stdout;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let mut count = 0;
    for line in commands.take_while(|line| !line.is_empty()) {
        // Long descriptions go on in lines that are indented further.
        let name = line[2..].split(' ').next().unwrap();
        if !["", "help"].contains(&name) {
            assert!(page(&format!("aryavarth-{name}.1")).contains(".SH SYNOPSIS"), "{name}");
            count += 1;
        }
    }
    assert!(count > 10, "{help}");
    assert!(page("aryavarth-server.1").contains("ARYAVARTH_MEMORY_MAX"));
    assert!(page("aryavarth.1").contains("aryavarth\\-server(1)"));
}
