//! Data moves between the engines: exported from one, imported into the other, and back, equal to
//! the byte; and an import that was killed half-way is simply run again.
//!
//! `TRANSFER_KEYS` says how many keys (default 20,000, of which a half is more than an import sends
//! at once). Whatever their number, no process holds them all: texts are compared by their digests, and
//! flow from one program to the next through pipes.
#![expect(clippy::print_stdout, reason = "a long run says what it did")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything here takes, on a machine however busy.
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    child: Child,
    addr: String,
}

impl Server {
    fn start(data: &Path, engine: &str) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_aryavarth"))
            .args(["server", "--listen", "127.0.0.1:0", "--engine", engine, "--data"])
            .arg(data)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut addr = String::new();
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(at) = line.strip_prefix("listening on ") {
                at.clone_into(&mut addr);
            }
            if line == "ready" {
                return Server { child, addr };
            }
        }
        child.wait().unwrap();
        panic!("the server did not get ready");
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aryavarth"));
        command.args([name, "--addr", &self.addr]);
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

    fn start_import(&self) -> Child {
        let mut import = self.command("import");
        import.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        import.spawn().unwrap()
    }

    /// Imports the lines that `write` writes.
    fn import(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Output {
        let mut child = self.start_import();
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
        let mut import = self.start_import();
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
}

impl Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.write(bytes);
        self.bytes += bytes.len() as u64;
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
