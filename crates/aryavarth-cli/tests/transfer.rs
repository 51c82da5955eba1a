//! Data moves between the engines: exported from one, imported into the other, and back, equal to
//! the byte; and an import that was killed half-way is simply run again.
//!
//! `TRANSFER_KEYS` says how many keys (default 3,000).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

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

    fn export(&self) -> Vec<u8> {
        let output = self.command("export").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn import(&self, lines: &[u8]) -> Output {
        let mut child = self
            .command("import")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The import may end before it has read everything.
        drop(child.stdin.take().unwrap().write_all(lines));
        child.wait_with_output().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn lines(keys: u64) -> Vec<u8> {
    let mut lines = Vec::new();
    for i in 0..keys {
        let filler = "v".repeat(usize::try_from(i % 97).unwrap());
        writeln!(lines, "{{\"key\":\"key:{i:08}\",\"value\":\"{i} \\u00e9 \\\"{filler}\"}}")
            .unwrap();
    }
    lines
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn all_pairs_go_from_one_engine_to_the_other_and_back() {
    let keys = std::env::var("TRANSFER_KEYS").ok().and_then(|n| n.parse().ok()).unwrap_or(3_000);
    let dir = tempfile::tempdir().unwrap();
    let first = Server::start(&dir.path().join("first"), "kvs");
    assert_eq!(said(&first.import(&lines(keys))), format!("{keys} set, 0 equal already\n"));
    let exported = first.export();
    assert_eq!(exported.split(|&byte| byte == b'\n').count() as u64, keys + 1);

    // Half-way into sled, then killed; run again, it sets what is missing and skips the rest.
    let sled = Server::start(&dir.path().join("sled"), "sled");
    let mut killed = sled.command("import").stdin(Stdio::piped()).spawn().unwrap();
    let half = &exported[..exported.len() / 2];
    killed.stdin.as_mut().unwrap().write_all(half).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let began = Instant::now();
    let again = said(&sled.import(&exported));
    println!("{keys} keys; the second import into sled: {} in {:?}", again.trim(), began.elapsed());
    assert_eq!(said(&sled.import(&exported)), format!("0 set, {keys} equal already\n"));
    assert_eq!(digest(&sled.export()), digest(&exported));

    let back = Server::start(&dir.path().join("back"), "kvs");
    said(&back.import(&sled.export()));
    assert_eq!(digest(&back.export()), digest(&exported));
}

#[test]
fn a_bad_line_is_named_and_what_stands_before_it_counts() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), "kvs");
    let text = "{\"key\":\"a\",\"value\":\"1\"}\n\n{\"key\":\"a\",\"value\":\"2\"}\n{\"key\":7}\n";
    let output = server.import(text.as_bytes());
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("line 4") && error.contains("run the import again"), "{error}");
    assert_eq!(server.export(), b"{\"key\":\"a\",\"value\":\"2\"}\n");
}

#[test]
fn a_shell_gets_its_completions() {
    let program = env!("CARGO_BIN_EXE_aryavarth");
    let output = Command::new(program).args(["completion", "bash"]).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("import"));
}
