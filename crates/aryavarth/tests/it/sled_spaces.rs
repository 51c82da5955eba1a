//! Spaces and deadlines in sled's files: the state that a killed process
//! leaves, the keys that a clear leaves and the open after it deletes, and the files that are refused.
//! `spaces.rs` and `deadlines.rs` tell the behaviour that users see.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use aryavarth::{
    Batch, Count, Deadline, Durability, KeyRange, KvsEngine, KvsError, Position, Result,
    SledKvsEngine, Stored, Transaction, Wait,
};

use crate::engines::{OnDisk, get, names, put_until, transact};
use crate::format::seal_first_edit;
use crate::runner::TestClock;

/// The directory in which a test that runs as a child writes until it is killed.
const CHILD_DIR: &str = "SLED_CHILD_DIR";

/// Runs a test of this file as a process of its own, kills it when it has acknowledged `enough`
/// rounds, and returns the last one that it acknowledged.
fn kill_after(test: &str, dir: &Path, enough: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", &format!("sled_spaces::{test}")])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut rounds = lines.map_while(std::io::Result::ok).filter_map(|line| {
        line.strip_prefix("acknowledged ").map(|round| round.parse::<u64>().unwrap())
    });
    let mut last = rounds.nth(enough as usize - 1).expect("the child goes on");
    child.kill().unwrap();
    child.wait().unwrap();
    // Its output before the kill arrived.
    last = rounds.last().unwrap_or(last).max(last);
    last
}

/// The directory, if this process is such a child.
fn as_child() -> Option<PathBuf> {
    std::env::var_os(CHILD_DIR).map(PathBuf::from)
}

/// Waits for a position and says so, as the first thing on a line.
fn acknowledge(engine: &SledKvsEngine, position: Position, round: u64) {
    engine.wait(position, Durability::Always).unwrap();
    println!("\nacknowledged {round}");
}

const KEYS: u64 = 30;

/// Empties space 0 and fills it anew, swaps 1 and 2, and puts off a deadline in 5.
fn write_round(transaction: &mut Transaction<'_>, round: u64) {
    transaction.clear();
    (0..KEYS).for_each(|n| transaction.put(n.to_string(), round.to_string()));
    transaction.swap(1, 2);
    transaction.select(5);
    let deadline = Deadline::At(TestClock::START_MS + 1_000_000 + round);
    let value = round.to_string().into_bytes();
    transaction.store("round", Stored { value, deadline });
}

/// The round of which the store shows all, and of no other anything.
fn round_of(engine: &SledKvsEngine) -> u64 {
    let last = engine.with_space(5).find(b"round", Wait::Yes).unwrap().0.unwrap();
    let round = String::from_utf8(last.value).unwrap().parse::<u64>().unwrap();
    assert_eq!(last.deadline, Deadline::At(TestClock::START_MS + 1_000_000 + round));
    let page = engine.scan(&KeyRange::all(), 1000).unwrap();
    assert_eq!(page.entries.len() as u64, KEYS);
    assert!(page.entries.iter().all(|(_, value)| *value == round.to_string().as_bytes()));
    let named = [1, 2].map(|space| get(&engine.with_space(space), "name").unwrap());
    let expected = if round.is_multiple_of(2) { ["one", "two"] } else { ["two", "one"] };
    assert_eq!(named, expected, "round {round}");
    assert_eq!(engine.count().unwrap().0, Count { keys: KEYS, expiring: 0 });
    assert_eq!(engine.with_space(5).count().unwrap().0, Count { keys: 1, expiring: 1 });
    assert_eq!(engine.stats().keys, KEYS + 3);
    round
}

#[test]
fn a_killed_process_leaves_spaces_and_deadlines_whole() {
    if let Some(dir) = as_child() {
        let engine = SledKvsEngine::open_at(&dir, &TestClock::new());
        for round in round_of(&engine) + 1.. {
            let written = engine.transact(&[], |transaction| {
                write_round(transaction, round);
                Ok(())
            });
            acknowledge(&engine, written.unwrap().1, round);
        }
    }
    let (dir, clock) = (tempfile::tempdir().unwrap(), TestClock::new());
    let engine = SledKvsEngine::open_at(dir.path(), &clock);
    // Without the swap of the rounds, and round 0 is an even one.
    engine.with_space(1).set("name".into(), "two".into()).unwrap();
    engine.with_space(2).set("name".into(), "one".into()).unwrap();
    transact(&engine, |transaction| {
        write_round(transaction, 0);
        Ok(())
    });
    drop(engine);
    for enough in [1, 7, 40] {
        let test = "a_killed_process_leaves_spaces_and_deadlines_whole";
        let acknowledged = kill_after(test, dir.path(), enough);
        let round = round_of(&SledKvsEngine::open_at(dir.path(), &clock));
        assert!(round >= acknowledged, "{round} of {acknowledged}");
        assert!(round <= acknowledged + 1, "{round} of {acknowledged}");
    }
}

#[test]
fn a_killed_process_is_remembered_to_have_been_late() {
    if let Some(dir) = as_child() {
        let clock = TestClock::new();
        let engine = SledKvsEngine::open_at(&dir, &clock);
        put_until(&engine, "k", "v", TestClock::START_MS + 100);
        clock.advance(5000);
        let (_, position) = engine.write(Batch::new().put("other", "v")).unwrap();
        acknowledge(&engine, position, 1);
        thread::sleep(Duration::from_secs(600));
    }
    let dir = tempfile::tempdir().unwrap();
    let test = "a_killed_process_is_remembered_to_have_been_late";
    assert_eq!(kill_after(test, dir.path(), 1), 1);
    // The machine's clock is as it was before.
    let engine = SledKvsEngine::open_at(dir.path(), &TestClock::new());
    assert_eq!(engine.now_ms(), TestClock::START_MS + 5000);
    assert_eq!(names(&engine), ["other"]);
}

/// Nothing is written when a deadline passes: the answer alone makes the time durable.
#[test]
fn a_killed_process_revives_no_key_that_it_showed_as_expired() {
    let test = "a_killed_process_revives_no_key_that_it_showed_as_expired";
    if let Some(dir) = as_child() {
        let clock = TestClock::new();
        let engine = SledKvsEngine::open_at(&dir, &clock);
        // The sweep would remove it.
        engine.hold_sweep(Some(Instant::now() + Duration::from_secs(3600)));
        put_until(&engine, "k", "v", TestClock::START_MS + 100);
        clock.advance(100);
        let (found, position) = engine.find(b"k", Wait::Yes).unwrap();
        assert_eq!(found, None);
        acknowledge(&engine, position, 1);
        thread::sleep(Duration::from_secs(600));
    }
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(kill_after(test, dir.path(), 1), 1);
    // The machine's clock is as it was before.
    let engine = SledKvsEngine::open_at(dir.path(), &TestClock::new());
    assert!(engine.now_ms() >= TestClock::START_MS + 100);
    assert_eq!(engine.find(b"k", Wait::Yes).unwrap().0, None);
}

/// All pairs in sled's tree, visible or not.
fn entries_in_sled(dir: &Path) -> usize {
    let begin = Instant::now();
    loop {
        // The threads of a sled that was just closed may still hold its file.
        match ::sled::open(dir.join("sled")) {
            Ok(db) => return db.len(),
            Err(error) => assert!(begin.elapsed() < Duration::from_secs(60), "{error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_was_cleared_is_deleted_even_after_a_reopen() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), TestClock::new());
    let engine = SledKvsEngine::open_at(dir.path(), &clock);
    let deadline = TestClock::START_MS + 1_000;
    for block in 0..20 {
        let mut batch = Batch::new();
        for n in 0..500 {
            let deadline = if n % 2 == 0 { Deadline::Never } else { Deadline::At(deadline) };
            batch.put_with_deadline(format!("{block}:{n}"), "v", deadline);
        }
        engine.write(&batch).unwrap();
    }
    engine.with_space(1).set("stays".into(), "v".into()).unwrap();
    transact(&engine, |transaction| {
        transaction.clear();
        Ok(())
    });
    drop(engine);
    entries_in_sled(dir.path());
    // After a crash right after another clear: a generation that no space has.
    let db = ::sled::open(dir.path().join("sled")).unwrap();
    for n in 0..1000_u32 {
        let value = [&[1, 1, 0, 0, 0, 0, 0, 0, 0], &deadline.to_le_bytes()[..], b"v"].concat();
        db.insert([[0x80, 0, 0, 7], n.to_be_bytes()].concat(), value).unwrap();
    }
    drop(db);
    assert!(entries_in_sled(dir.path()) >= 1003);
    clock.set(deadline);
    let begin = Instant::now();
    loop {
        let engine = SledKvsEngine::open_at(dir.path(), &clock);
        assert_eq!((names(&engine).len(), engine.stats().keys), (0, 1));
        assert_eq!(names(&engine.with_space(1)), ["stays"]);
        thread::sleep(Duration::from_millis(20));
        assert_eq!(engine.stats().expired_keys, 0, "what was cleared expires no more");
        drop(engine);
        // These stay: the generation of space 0, and the number of the next generation.
        if entries_in_sled(dir.path()) == 3 {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "it is still there");
    }
}

#[test]
fn what_a_swap_shows_waits_for_the_swap() {
    let dir = tempfile::tempdir().unwrap();
    let engine = SledKvsEngine::open(dir.path()).unwrap();
    engine.with_space(1).set("k".into(), "v".into()).unwrap();
    let (_, before) = engine.with_space(1).read(b"k", Wait::Yes).unwrap();
    let ((), swapped) = engine
        .transact(&[], |transaction| {
            transaction.swap(0, 1);
            Ok(())
        })
        .unwrap();
    assert!(before < swapped);
    let (value, seen) = engine.read(b"k", Wait::Yes).unwrap();
    assert_eq!((value, seen), (Some(b"v".to_vec()), swapped));
    assert!(engine.with_space(1).read(b"k", Wait::Yes).unwrap().1 >= swapped, "an absence too");
    assert!(engine.count().unwrap().1 >= swapped);
    assert!(engine.keys(&KeyRange::all(), 1).unwrap().position >= swapped);
}

/// A directory as it was before there were spaces says so in its manifest.
#[test]
fn a_directory_of_the_layout_before_spaces_is_refused_and_left_as_it_was() {
    for (layout, remedy) in [(0_u64, "Export"), (2, "newer version")] {
        let dir = tempfile::tempdir().unwrap();
        SledKvsEngine::open(dir.path()).unwrap().set("k".into(), "v".into()).unwrap();
        let current = fs::read_to_string(dir.path().join("CURRENT")).unwrap();
        let name = current.split(' ').next().unwrap();
        let number = name.strip_prefix("MANIFEST-").unwrap().parse().unwrap();
        let mut manifest = fs::read(dir.path().join(name)).unwrap();
        // Where the log goes on, which is 1 and the layout, and the next sequence number.
        let next = |layout: u64| [(1 + layout).to_le_bytes(), 1_u64.to_le_bytes()].concat();
        let at = manifest.windows(16).position(|bytes| *bytes == next(1)).unwrap();
        manifest[at..at + 16].copy_from_slice(&next(layout));
        seal_first_edit(&mut manifest, number);
        fs::write(dir.path().join(name), &manifest).unwrap();
        let log = fs::read(dir.path().join("sled/db")).unwrap();

        let error = SledKvsEngine::open(dir.path()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(remedy) && text.contains("nothing was changed"), "{text}");
        match error {
            KvsError::UnknownFormat { path, found, known: 1 } => {
                assert_eq!((path, u64::from(found)), (dir.path().join("sled"), layout));
            }
            error => panic!("{error}"),
        }
        assert_eq!(fs::read(dir.path().join(name)).unwrap(), manifest);
        assert_eq!(fs::read(dir.path().join("sled/db")).unwrap(), log);
    }
}

#[test]
fn entries_that_nobody_wrote_are_damage() {
    let entries: [(&[u8], &[u8]); 5] = [
        (b"\0\0\0", b"\0\0\0\0\0\0\0\0\0v"),
        (b"\0\0\0\0k", b"\0\0\0\0\0\0\0\0"),
        (b"\0\0\0\0k", b"\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0v"),
        (b"\xff\xff\xff\xffs\0\0\0", b"\0\0\0\0"),
        (b"\xff\xff\xff\xffnext", b"\0\0\0"),
    ];
    for (key, value) in entries {
        let dir = tempfile::tempdir().unwrap();
        SledKvsEngine::open(dir.path()).unwrap();
        entries_in_sled(dir.path());
        let db = ::sled::open(dir.path().join("sled")).unwrap();
        db.insert(key, value).unwrap();
        drop(db);
        let opened: Result<SledKvsEngine> = SledKvsEngine::open(dir.path());
        assert!(matches!(opened, Err(KvsError::Corrupt { .. })), "{key:?}: {opened:?}");
    }
}
