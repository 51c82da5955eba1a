//! Data moves between the engines: exported from one, imported into the other, and back, equal to
//! the byte; and an import that was killed half-way is simply run again.
//!
//! `TRANSFER_KEYS` says how many keys (default 20,000, of which a half is more than an import sends
//! at once). Whatever their number, no process holds them all: texts are compared by their digests, and
//! flow from one program to the next through pipes.
#![expect(clippy::print_stdout, reason = "a long run says what it did")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here takes, on a machine however busy.
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    child: Child,
    addr: String,
    password_file: Option<PathBuf>,
}

impl Server {
    fn start(data: &Path, engine: &str) -> Server {
        Server::start_with(data, engine, None)
    }

    /// A server with a password.
    fn start_guarded(data: &Path, password_file: &Path) -> Server {
        Server::start_with(data, "kvs", Some(password_file))
    }

    fn start_with(data: &Path, engine: &str, password_file: Option<&Path>) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aryavarth"));
        command.args(["server", "--listen", "127.0.0.1:0", "--engine", engine, "--data"]).arg(data);
        if let Some(file) = password_file {
            command.arg("--password-file").arg(file);
        }
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut addr = String::new();
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(at) = line.strip_prefix("listening on ") {
                at.clone_into(&mut addr);
            }
            if line == "ready" {
                let password_file = password_file.map(Path::to_owned);
                return Server { child, addr, password_file };
            }
        }
        child.wait().unwrap();
        panic!("the server did not get ready");
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aryavarth"));
        command.args([name, "--addr", &self.addr]);
        if let Some(file) = &self.password_file {
            command.arg("--password-file").arg(file);
        }
        command
    }

    /// The output of an export, as it comes.
    fn digest(&self) -> Digest {
        let mut export = self.command("export").stdout(Stdio::piped()).spawn().unwrap();
        let mut digest = Digest::default();
        io::copy(&mut export.stdout.take().unwrap(), &mut digest).unwrap();
        assert!(export.wait().unwrap().success());
        digest
    }

    fn start_import(&self, args: &[&str]) -> Child {
        let mut import = self.command("import");
        import.args(args);
        import.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        import.spawn().unwrap()
    }

    /// Imports the lines that `write` writes.
    fn import(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Output {
        self.import_with(&[], write)
    }

    fn import_with(
        &self,
        args: &[&str],
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Output {
        let mut child = self.start_import(args);
        let mut stdin = BufWriter::new(child.stdin.take().unwrap());
        // The import may end before it has read everything.
        drop(write(&mut stdin).and_then(|()| stdin.flush()));
        drop(stdin);
        child.wait_with_output().unwrap()
    }

    /// `export | import`, through a pipe that this process has no part in.
    fn import_from(&self, source: &Server) -> String {
        let mut export = source.command("export").stdout(Stdio::piped()).spawn().unwrap();
        let pipe = export.stdout.take().unwrap();
        let output = self.command("import").stdin(pipe).output().unwrap();
        assert!(export.wait().unwrap().success());
        said(&output)
    }

    /// The same, killed when half of the bytes have gone through and something has been imported.
    fn import_half_from(&self, source: &Server, whole: &Digest) {
        let mut export = source.command("export").stdout(Stdio::piped()).spawn().unwrap();
        let mut import = self.start_import(&[]);
        let mut half = export.stdout.take().unwrap().take(whole.bytes / 2);
        io::copy(&mut half, import.stdin.as_mut().unwrap()).unwrap();
        let (first, began) = (key(0), Instant::now());
        while !self.command("get").arg(&first).output().unwrap().status.success() {
            assert!(import.try_wait().unwrap().is_none(), "the import ended by itself");
            assert!(began.elapsed() < PATIENCE, "half of the keys are not enough to send");
        }
        import.kill().unwrap();
        import.wait().unwrap();
        export.kill().unwrap();
        export.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn key(i: u64) -> String {
    format!("key:{i:08}")
}

/// The line of a pair, with this text for a letter that JSON may write in two ways.
fn line(i: u64, letter: &str) -> String {
    let filler = "v".repeat(usize::try_from(i % 97).unwrap());
    format!("{{\"key\":\"{}\",\"value\":\"{i} {letter} \\\"{filler}\"}}\n", key(i))
}

/// Text that is too long to keep.
#[derive(Debug, Default)]
struct Digest {
    hasher: DefaultHasher,
    bytes: u64,
    lines: u64,
}

impl Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.write(bytes);
        self.bytes += bytes.len() as u64;
        self.lines += bytes.split(|byte| *byte == b'\n').count() as u64 - 1;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Digest) -> bool {
        (self.hasher.finish(), self.bytes) == (other.hasher.finish(), other.bytes)
    }
}

/// Says how long something took.
fn timed<R>(what: &str, work: impl FnOnce() -> R) -> R {
    let began = Instant::now();
    let result = work();
    println!("{what}: {:.1?}", began.elapsed());
    result
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn all_pairs_go_from_one_engine_to_the_other_and_back() {
    let keys = std::env::var("TRANSFER_KEYS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let dir = tempfile::tempdir().unwrap();
    let start = |name: &str, engine: &str| Server::start(&dir.path().join(name), engine);
    println!("{keys} keys");

    let first = start("first", "kvs");
    let loaded = timed("import into kvs", || {
        first.import(|import| {
            (0..keys).try_for_each(|i| import.write_all(line(i, "\\u00e9").as_bytes()))
        })
    });
    assert_eq!(said(&loaded), format!("{keys} set, 0 equal already\n"));
    let mut whole = Digest::default();
    (0..keys).try_for_each(|i| whole.write_all(line(i, "\u{e9}").as_bytes())).unwrap();
    assert_eq!(timed("export from kvs", || first.digest()), whole);

    // Half-way into sled, then killed; run again, it sets the missing pairs and skips the rest.
    let sled = start("sled", "sled");
    timed("half of export | import from kvs into sled", || sled.import_half_from(&first, &whole));
    let again = timed("the same, run again", || sled.import_from(&first));
    print!("{again}");
    let numbers: Vec<u64> = again.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers.iter().sum::<u64>(), keys, "{again}");
    assert!(numbers[0] > 0 && numbers[1] > 0, "it was killed half-way: {again}");
    let nothing = timed("the same, with nothing to do", || sled.import_from(&first));
    assert_eq!(nothing, format!("0 set, {keys} equal already\n"));
    assert_eq!(timed("export from sled", || sled.digest()), whole);

    let back = start("back", "kvs");
    timed("export | import from sled into kvs", || back.import_from(&sled));
    assert_eq!(back.digest(), whole);
}

/// The commands that make a store of bytes, deadlines and three databases, as one input.
fn mixed(keys: u64) -> Vec<u8> {
    let mut commands = Vec::new();
    let mut push = |args: &[&[u8]]| {
        write!(commands, "*{}\r\n", args.len()).unwrap();
        for arg in args {
            write!(commands, "${}\r\n", arg.len()).unwrap();
            commands.extend_from_slice(arg);
            commands.extend_from_slice(b"\r\n");
        }
    };
    for i in 0..keys {
        if i % 100 == 0 {
            push(&[b"SELECT", ["0", "3", "15"][usize::try_from(i / 100 % 3).unwrap()].as_bytes()]);
        }
        let (key, value) = (key(i), vec![u8::try_from(i % 256).unwrap(); 40]);
        let key = [key.as_bytes(), if i % 2 == 0 { b"" } else { b"\xff\x00" }].concat();
        match i % 3 {
            0 => push(&[b"SET", &key, &value]),
            1 => push(&[b"SET", &key, b"text", b"PXAT", b"4102444800123"]),
            _ => push(&[b"SET", &key, &value, b"EX", b"100000"]),
        }
    }
    commands
}

/// Sends commands and waits until each is answered.
fn load(server: &Server, commands: &[u8]) {
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    let mut replies = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            stream.write_all(commands).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let mut all = Vec::new();
        replies.read_to_end(&mut all).unwrap();
        assert!(!all.contains(&b'-'), "{}", String::from_utf8_lossy(&all[..all.len().min(200)]));
    });
}

#[test]
fn bytes_deadlines_and_databases_arrive_as_they_were() {
    let keys = std::env::var("TRANSFER_KEYS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    support::write_secret(&password, "secret\n");
    let first = Server::start(&dir.path().join("first"), "kvs");
    load(&first, &mixed(keys));
    let whole = timed("export", || first.digest());
    assert_eq!(whole.lines, keys);

    let second = Server::start(&dir.path().join("second"), "kvs");
    timed("half of export | import", || second.import_half_from(&first, &whole));
    let again = timed("the same, run again", || second.import_from(&first));
    let numbers: Vec<u64> = again.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers.iter().sum::<u64>(), keys, "{again}");
    assert_eq!(second.digest(), whole);

    // Once more over a password, which JSON has no word for.
    let guarded = Server::start_guarded(&dir.path().join("guarded"), &password);
    guarded.import_from(&second);
    assert_eq!(guarded.digest(), whole);
}

#[test]
fn an_import_keeps_or_overwrites_as_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), "kvs");
    let import = |args: &[&str], text: &str| {
        let output = server.import_with(args, |import| import.write_all(text.as_bytes()));
        said(&output)
    };
    let export = || String::from_utf8(server.command("export").output().unwrap().stdout).unwrap();
    let first = "{\"key\":\"a\",\"value\":\"1\"}\n";
    assert_eq!(import(&[], first), "1 set, 0 equal already\n");
    let second = "{\"key\":\"a\",\"value\":\"2\"}\n{\"key\":\"b\",\"value\":\"2\",\"db\":1}\n";
    assert_eq!(import(&["--keep"], second), "1 set, 1 kept\n");
    assert_eq!(export(), format!("{first}{}", "{\"key\":\"b\",\"value\":\"2\",\"db\":1}\n"));
    assert_eq!(import(&["--overwrite"], second), "1 set, 1 equal already\n");
    assert_eq!(export(), second);
    // The deadline is a part of the entry, and one that has passed is no entry.
    let deadline = "{\"key\":\"a\",\"value\":\"2\",\"deadline_ms\":4102444800123}\n";
    assert_eq!(
        import(&["--json"], deadline),
        "{\"set\":1,\"equal\":0,\"kept\":0,\"expired\":0,\"removed\":0}\n"
    );
    let passed = "{\"key\":\"c\",\"value\":\"2\",\"deadline_ms\":1}\n";
    assert_eq!(import(&[], passed), "0 set, 0 equal already, 1 expired\n");
    assert!(export().starts_with(deadline) && !export().contains("\"c\""));
    // A key that is there goes as the deadline would have taken it, in the order of the lines.
    let passed = "{\"key\":\"a\",\"value\":\"2\",\"deadline_ms\":1}\n";
    assert_eq!(import(&["--keep"], passed), "0 set, 0 kept, 1 expired\n");
    assert!(export().starts_with(deadline));
    assert_eq!(import(&[], passed), "0 set, 0 equal already, 1 expired, 1 of them removed\n");
    assert_eq!(import(&[], passed), "0 set, 0 equal already, 1 expired\n");
    assert!(!export().contains("\"a\""));
    let both = format!("{passed}{first}{passed}{first}");
    assert_eq!(import(&[], &both), "2 set, 0 equal already, 2 expired, 1 of them removed\n");
    assert!(export().starts_with(first));
}

#[test]
fn an_import_begins_with_a_byte_order_mark_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), "kvs");
    let text = "\u{feff}{\"key\":\"a\",\"value\":\"1\"}\r\n\r\n{\"key\":\"b\",\"value\":\"2\"}";
    let output = server.import(|import| import.write_all(text.as_bytes()));
    assert_eq!(said(&output), "2 set, 0 equal already\n");
}

#[test]
fn an_export_whose_reader_goes_ends_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), "kvs");
    load(&server, &mixed(5000));
    let mut export = server.command("export");
    let mut export = export.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(export.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let output = export.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn a_bad_line_is_named_and_what_stands_before_it_counts() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), "kvs");
    let text = "{\"key\":\"a\",\"value\":\"1\"}\n\n{\"key\":\"a\",\"value\":\"2\"}\n{\"key\":7}\n";
    let output = server.import(|import| import.write_all(text.as_bytes()));
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("line 4") && error.contains("run the import again"), "{error}");
    let export = server.command("export").output().unwrap();
    assert_eq!(export.stdout, b"{\"key\":\"a\",\"value\":\"2\"}\n");
}

#[test]
fn a_shell_gets_its_completions() {
    let program = env!("CARGO_BIN_EXE_aryavarth");
    let output = Command::new(program).args(["completion", "bash"]).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("import"));
}
