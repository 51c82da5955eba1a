//! redis-cli and redis-benchmark, as people type them.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use aryavarth_tests::parts::{Tools, redis_tools, run_within};

use crate::{STORY_TIME_MAX, Subject, or_skipped};

struct Shell {
    tools: Tools,
    subject: Subject,
}

impl Shell {
    fn start() -> Option<Shell> {
        Some(Shell { tools: or_skipped(redis_tools())?, subject: Subject::start()? })
    }

    /// A program's output; `input` is its standard input.
    fn said(&self, program: &str, arguments: &[&str], input: Option<&[u8]>) -> String {
        let mut command = self.tools.command(program);
        command.args(["-h", "127.0.0.1", "-p", &self.subject.port()]).args(arguments);
        let file = self.subject.data.path().with_extension("input");
        if let Some(input) = input {
            File::create(&file).unwrap().write_all(input).unwrap();
            command.stdin(File::open(&file).unwrap());
        } else {
            command.stdin(Stdio::null());
        }
        let said = run_within(command, STORY_TIME_MAX);
        drop(std::fs::remove_file(file));
        said.unwrap_or_else(|why| panic!("{program} {arguments:?}: {why}"))
    }

    fn cli(&self, arguments: &[&str]) -> String {
        self.said("redis-cli", arguments, None)
    }
}

#[test]
fn redis_cli_works() {
    let Some(shell) = Shell::start() else { return };
    assert_eq!(shell.cli(&["PING"]), "PONG\n");
    assert_eq!(shell.cli(&["SET", "k", "hello world"]), "OK\n");
    assert_eq!(shell.cli(&["GET", "k"]), "hello world\n");
    assert_eq!(shell.cli(&["--no-raw", "GET", "absent"]), "(nil)\n");
    assert_eq!(shell.cli(&["--no-raw", "INCR", "n"]), "(integer) 1\n");
    assert_eq!(shell.cli(&["-3", "--no-raw", "GET", "k"]), "\"hello world\"\n");
    assert!(shell.cli(&["-3", "HELLO"]).contains("proto"));
    assert_eq!(shell.cli(&["-n", "3", "SET", "k", "in three"]), "OK\n");
    assert_eq!(shell.cli(&["-n", "3", "GET", "k"]), "in three\n");
    assert_eq!(shell.cli(&["GET", "k"]), "hello world\n");
    assert!(shell.cli(&["NOSUCH"]).starts_with("ERR unknown command 'NOSUCH'"));
    assert!(shell.cli(&["--json", "MGET", "k", "absent"]).starts_with("[\"hello world\",null]"));
    assert_eq!(shell.cli(&["-r", "3", "INCR", "n"]), "2\n3\n4\n");
    // A line on a terminal gets its help from here.
    let docs = shell.cli(&["COMMAND", "DOCS", "get"]);
    assert!(docs.contains("summary") && docs.contains("group"), "{docs}");
    assert!(shell.cli(&["INFO", "server"]).contains("redis_version:"));
}

#[test]
fn the_commands_of_the_pages_print_what_they_say() {
    let Some(shell) = Shell::start() else { return };
    let pages = [include_str!("../../../README.md"), include_str!("../../../docs/clients.md")];
    for page in pages {
        let commands = page.lines().filter_map(|line| line.split_once(" -p 4000 "));
        let commands = commands.filter(|(program, _)| program.starts_with("redis-"));
        let mut count = 0;
        for (program, line) in commands {
            let (words, prints) = line.split_once("# prints: ").unwrap_or((line, ""));
            let words: Vec<&str> = words.split_whitespace().collect();
            let said = shell.said(program, &words, None);
            assert!(prints.is_empty() || said.trim_end() == prints, "{line}: {said}");
            assert!(!said.is_empty() && !said.contains("ERR"), "{line}: {said}");
            count += 1;
        }
        assert!(count > 0, "the page shows the way in");
    }
}

#[test]
fn redis_cli_gives_a_password() {
    let Some(shell) = Shell::start() else { return };
    assert_eq!(shell.cli(&["SET", "k", "v"]), "OK\n");
    assert_eq!(shell.cli(&["CONFIG", "SET", "requirepass", "secret"]), "OK\n");
    assert!(shell.cli(&["GET", "k"]).starts_with("NOAUTH Authentication required."));
    let quiet = |arguments: &[&str]| shell.cli(&[&["--no-auth-warning"], arguments].concat());
    assert_eq!(quiet(&["-a", "secret", "GET", "k"]), "v\n");
    assert_eq!(quiet(&["--user", "default", "--pass", "secret", "-3", "GET", "k"]), "v\n");
    assert!(quiet(&["-a", "wrong", "GET", "k"]).contains("NOAUTH "));
    let lines = b"AUTH wrong\nGET k\nAUTH default secret\nGET k\n";
    let said = shell.said("redis-cli", &[], Some(lines));
    let begins = ["WRONGPASS ", "NOAUTH ", "OK", "v"];
    let said: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    assert!(said.iter().zip(begins).all(|(line, begin)| line.starts_with(begin)), "{said:?}");
    assert_eq!(said.len(), begins.len(), "{said:?}");
}

#[test]
fn redis_cli_reads_its_input() {
    let Some(shell) = Shell::start() else { return };
    let lines = b"SET a 1\nINCR a\nMULTI\nGET a\nSET b 2\nEXEC\nSELECT 3\nDBSIZE\n";
    let said = shell.said("redis-cli", &[], Some(lines));
    assert_eq!(said, "OK\n2\nOK\nQUEUED\nQUEUED\n2\nOK\nOK\n0\n");
    let value = shell.said("redis-cli", &["-x", "SET", "from:input"], Some(b"two\nlines"));
    assert_eq!(value, "OK\n");
    assert_eq!(shell.cli(&["GET", "from:input"]), "two\nlines\n");
    let bulk: Vec<u8> = (0..2_000)
        .flat_map(|i| aryavarth_tests::resp::encode(&["SET", &format!("bulk:{i}"), "value"]))
        .collect();
    let said = shell.said("redis-cli", &["--pipe"], Some(&bulk));
    assert!(said.contains("errors: 0, replies: 2000"), "{said}");
    let keys = shell.cli(&["--scan", "--pattern", "bulk:*"]);
    assert_eq!(keys.lines().count(), 2_000);
}

#[test]
fn redis_cli_looks_around() {
    let Some(shell) = Shell::start() else { return };
    let bulk: Vec<u8> = (0..300)
        .flat_map(|i| aryavarth_tests::resp::encode(&["SET", &format!("k:{i}"), &"x".repeat(i)]))
        .collect();
    shell.said("redis-cli", &["--pipe"], Some(&bulk));
    let said = shell.cli(&["--bigkeys"]);
    assert!(said.contains("Sampled 300 keys"), "{said}");
    assert!(said.contains("Biggest string found '\"k:299\"' has 299 bytes"), "{said}");
    let said = shell.cli(&["--memkeys"]);
    assert!(said.contains("Sampled 300 keys"), "{said}");
    // This one goes on for ever, so it is stopped after its first lines.
    let mut stat = shell.tools.command("redis-cli");
    stat.args(["-p", &shell.subject.port(), "-i", "0.1", "--stat"]).stdout(Stdio::piped());
    let mut stat = stat.spawn().unwrap();
    let lines = BufReader::new(stat.stdout.take().unwrap()).lines().map_while(Result::ok);
    let said: Vec<String> = lines.take(4).collect();
    stat.kill().unwrap();
    stat.wait().unwrap();
    assert!(said.iter().any(|line| line.starts_with("300 ")), "{said:?}");
    let said = shell.cli(&["--latency", "--raw", "-i", "1"]);
    assert_eq!(said.split_whitespace().count(), 4, "{said}");
}

#[test]
fn redis_benchmark_works() {
    let Some(shell) = Shell::start() else { return };
    for version in [&[][..], &["-3"]] {
        let load = ["-t", "ping,set,get,incr,mset", "-n", "2000", "-P", "16", "-c", "20", "--csv"];
        let said = shell.said("redis-benchmark", &[&load, version].concat(), None);
        assert!(!said.to_lowercase().contains("error"), "{said}");
        for test in ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET (10 keys)"] {
            let line = said.lines().find(|line| line.starts_with(&format!("\"{test}\",\"")));
            let rate = line.and_then(|line| line.split('"').nth(3)?.parse::<f64>().ok());
            assert!(rate.is_some_and(|rate| rate > 0.0), "{test}: {said}");
        }
    }
}
