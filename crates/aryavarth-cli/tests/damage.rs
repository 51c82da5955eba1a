//! Rot under a running server: a read or the scrubber meets it, `aryavarth damage` lists it, `status` is not
//! healthy, a restart warns of it, and it is gone when the lost key was written again and compacted.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;
use support::{Did, PATIENCE, Server, data, did, write_secret};

/// Flips a bit of each place in the store's logs that holds these bytes.
fn rot(data: &Path, bytes: &[u8]) {
    let mut places = 0;
    for entry in fs::read_dir(data).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let content = fs::read(&path).unwrap();
        let Some(at) = content.windows(bytes.len()).position(|part| part == bytes) else {
            continue;
        };
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[content[at] ^ 4], at as u64).unwrap();
        places += 1;
    }
    assert!(places > 0, "no log holds these bytes");
}

/// A server with a sealed segment, two of whose records have rotted.
fn rotten(data: &Path, args: &[&str], login: &[&str]) -> Server {
    let server = Server::start_with(data, args);
    let set = |args: &[&str]| assert_eq!(server.run(&[args, login].concat()), did(0, "", ""));
    for n in 0..30 {
        set(&["set", &format!("key-{n}"), &format!("value-{n}-of-30")]);
    }
    set(&["set", "session", "a-value-of-3", "--db", "3"]);
    set(&["compact"]);
    rot(data, b"value-7-of-30");
    rot(data, b"a-value-of-3");
    server
}

#[test]
fn damage_is_listed_remembered_and_gone_when_it_is_mended() {
    let (_dir, data) = data();
    let mut server = rotten(&data, &[], &[]);
    let Did { code, stdout, stderr } = server.run(&["damage"]);
    assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    assert!(stderr.contains("no damage is known"), "{stderr}");
    assert_eq!(server.run(&["get", "key-7"]).code, 2);
    assert_eq!(server.run(&["get", "session", "--db", "3"]).code, 2);

    let Did { code, stdout, stderr } = server.run(&["damage"]);
    assert_eq!((code, stdout.lines().count()), (2, 2), "{stdout}{stderr}");
    for part in ["key key-7 of database 0; lost", "key session of database 3; lost", ".log: byte "]
    {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    for part in ["2 records are lost; all others are served", "Write the keys", "verify", "salvage"]
    {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    let listed = stdout;
    let json = server.run(&["damage", "--json"]).stdout;
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (&lines[0]["key"], &lines[0]["db"], &lines[0]["lost"]),
        (&"key-7".into(), &0.into(), &true.into())
    );
    assert!(lines[0]["first_seen_ms"].as_u64().unwrap() > 1_700_000_000_000, "{json}");
    assert_eq!(lines[2], serde_json::json!({ "places": 2, "losses": 2, "good": false }));
    let Did { code, stdout, stderr } = server.run(&["status"]);
    assert_eq!(code, 2, "{stdout}");
    assert!(stderr.contains("2 damaged records are lost") && stderr.contains("aryavarth damage"));
    assert!(server.run(&["info", "aryavarth"]).stdout.contains("\ndamaged_records:2\n"));

    // The note is written by the background, so that a kill does not lose it.
    let start = Instant::now();
    while !data.join("DAMAGE").exists() {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    server.signal(Signal::KILL);
    server.wait();
    let server = Server::start(&data);
    assert!(
        server.has_said(&["ERROR damage known", "places=2", "lost=2", "offset="]),
        "{:?}",
        server.said
    );
    assert_eq!(server.run(&["damage"]).stdout, listed);
    assert_eq!(server.run(&["status"]).code, 2);

    server.run(&["set", "key-7", "written again"]);
    let Did { code, stdout, .. } = server.run(&["damage"]);
    assert_eq!((code, stdout.matches("; lost\n").count()), (2, 1), "{stdout}");
    server.run(&["rm", "session", "--db", "3"]);
    let Did { code, stdout, stderr } = server.run(&["damage"]);
    assert_eq!((code, stdout.matches("nothing is lost by it").count()), (0, 2), "{stdout}");
    assert!(stderr.contains("2 damaged records are dead"), "{stderr}");
    assert_eq!(server.run(&["status"]).code, 0);
    assert_eq!(server.run(&["compact"]), did(0, "", ""));
    assert_eq!(server.run(&["damage"]).stdout, "");
    let mut server = server;
    server.signal(Signal::TERM);
    server.assert_closes();
    let server = Server::start(&data);
    assert!(!server.has_said(&["damage"]), "{:?}", server.said);
    assert_eq!(server.run(&["get", "key-7"]), did(0, "written again\n", ""));
}

/// The stop's error came from the engine's text for an open, and said that nothing was changed.
#[test]
fn a_stop_that_meets_damage_says_that_the_rest_is_on_disk() {
    let (_dir, data) = data();
    let mut server = Server::start(&data);
    for n in 0..30 {
        let (key, value) = (format!("key-{n}"), format!("value-{n}-of-30"));
        assert_eq!(server.run(&["set", &key, &value]), did(0, "", ""));
    }
    rot(&data, b"value-7-of-30");
    server.signal(Signal::TERM);
    let (said, code) = server.wait();
    assert_eq!(code, Some(2), "{said}");
    for part in ["could not be closed", "is damaged at byte", "are on disk", "aryavarth verify"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("othing was changed") && !said.contains(" closed\n"), "{said}");
}

/// The first lost key ended the export, and all behind it stayed behind.
#[test]
fn an_export_goes_on_behind_a_damaged_value_and_names_its_key() {
    let (_dir, data) = data();
    let server = rotten(&data, &[], &[]);
    let Did { code, stdout, stderr } = server.run(&["export"]);
    assert_eq!((code, stdout.lines().count()), (2, 29), "{stdout}");
    for part in [
        "the key key-7 of database 0: ",
        "the key session of database 3: ",
        "29 keys exported",
        "2 keys are without a value",
        "aryavarth damage",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
}

/// With a password the command line asked for a compaction and took its end for a success.
#[test]
fn a_compaction_that_fails_is_an_error_with_and_without_a_password() {
    let (dir, data) = data();
    let file = dir.path().join("password");
    write_secret(&file, "secret\n");
    let login = ["--password-file", file.to_str().unwrap()];
    for (name, login) in [("open", &[][..]), ("guarded", &login)] {
        let data = data.join(name);
        let server = rotten(&data, login, login);
        let compact = [&["compact"], login].concat();
        let Did { code, stdout, stderr } = server.run(&compact);
        assert_eq!((code, stdout.as_str()), (2, ""), "{name}: {stderr}");
        for part in ["could not compact", "is damaged at byte"] {
            assert!(stderr.contains(part), "{name}, {part}: {stderr}");
        }
        for (key, db) in [("key-7", "0"), ("session", "3")] {
            let set = [&["set", key, "again", "--db", db], login].concat();
            assert_eq!(server.run(&set), did(0, "", ""));
        }
        assert_eq!(server.run(&compact), did(0, "", ""), "{name}");
    }
}

#[cfg(feature = "sled")]
#[test]
fn an_engine_that_does_not_look_for_damage_says_so() {
    let (_dir, data) = data();
    let server = Server::start_with(&data, &["--engine", "sled"]);
    let Did { code, stdout, stderr } = server.run(&["damage"]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("the engine sled does not look for damage"), "{stderr}");
}
