//! Deadlines, told as stories on every engine: a key is there until its millisecond comes, and from
//! then on for no reader, until it is set again.

use std::thread;
use std::time::{Duration, Instant};

use aryavarth::{Batch, Deadline, KeyRange, KvsEngine, KvsError, Stored, Wait};

use crate::engines::{at_hand, get, names, put_until, transact};
use crate::runner::TestClock;

stories! { [every] timed [
    the_clock_is_the_one_that_was_given,
    a_key_is_there_until_its_millisecond_and_then_for_nobody,
    a_key_tells_its_deadline,
    setting_a_key_removes_or_replaces_its_deadline,
    a_deadline_in_the_past_removes,
    removing_what_has_expired_counts_nothing,
    what_has_expired_can_be_set_again,
    a_closure_finds_what_has_expired_absent,
    time_stands_still_in_a_closure,
    batches_and_closures_mix_deadlines_and_removals,
    the_farthest_deadline_never_comes,
    compaction_keeps_deadlines,
    what_has_expired_is_removed_by_and_by,
] }

stories! { [every_unbroken] timed [
    a_clock_that_is_set_back_revives_nothing,
    what_expired_is_counted_once,
] }

fn far(clock: &TestClock) -> u64 {
    clock.advance(0) + 1_000_000
}

/// Whether a key is there, and that every way to look at it agrees.
fn is_there<E: KvsEngine>(engine: &E, key: &str) -> bool {
    let bytes = key.as_bytes();
    let is_there = get(engine, key).is_some();
    assert_eq!(names(engine).contains(&key.to_owned()), is_there);
    let inside = transact(engine, |transaction| {
        assert_eq!(transaction.find(bytes)?.is_some(), is_there);
        assert_eq!(transaction.read(bytes)?.is_some(), is_there);
        assert_eq!(transaction.deadline(bytes)?.is_some(), is_there);
        transaction.contains(bytes)
    });
    assert_eq!(inside, is_there);
    if let Some((stored, _)) = at_hand(engine.find(bytes, Wait::No)).unwrap() {
        assert_eq!(stored.is_some(), is_there);
    }
    assert_eq!(engine.deadline(bytes, Wait::Yes).unwrap().0.is_some(), is_there);
    if let Some((deadline, _)) = at_hand(engine.deadline(bytes, Wait::No)).unwrap() {
        assert_eq!(deadline.is_some(), is_there);
    }
    assert_eq!(engine.get(key.into()).unwrap().is_some(), is_there);
    is_there
}

fn the_clock_is_the_one_that_was_given<E: KvsEngine>(engine: &E, clock: &TestClock) {
    assert_eq!(engine.now_ms(), TestClock::START_MS);
    let now = clock.advance(5);
    assert_eq!((engine.now_ms(), engine.with_space(3).now_ms()), (now, now));
    assert_eq!(transact(engine, |transaction| Ok(transaction.now_ms())), now);
}

fn a_key_is_there_until_its_millisecond_and_then_for_nobody<E: KvsEngine>(
    engine: &E,
    clock: &TestClock,
) {
    let start = clock.advance(0);
    put_until(engine, "by batch", "v", start + 1000);
    transact(engine, |transaction| {
        transaction.store(
            "by closure",
            Stored { value: b"v".to_vec(), deadline: Deadline::At(start + 1001) },
        );
        Ok(())
    });
    engine.set("without".into(), "v".into()).unwrap();
    for (passed, first, second) in
        [(0, true, true), (999, true, true), (1000, false, true), (1001, false, false)]
    {
        clock.set(start + passed);
        assert_eq!(is_there(engine, "by batch"), first, "after {passed} ms");
        assert_eq!(is_there(engine, "by closure"), second, "after {passed} ms");
        assert!(is_there(engine, "without"));
    }
    clock.advance(1 << 40);
    assert_eq!(names(engine), ["without"]);
    assert!(matches!(engine.remove("by batch".into()), Err(KvsError::KeyNotFound)));
}

fn a_key_tells_its_deadline<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let deadline = far(clock);
    put_until(engine, "until", "v", deadline);
    engine.set("for good".into(), "w".into()).unwrap();
    let stored = |value: &str, deadline| Some(Stored { value: value.into(), deadline });
    assert_eq!(engine.find(b"until", Wait::Yes).unwrap().0, stored("v", Deadline::At(deadline)));
    assert_eq!(engine.find(b"for good", Wait::Yes).unwrap().0, stored("w", Deadline::Never));
    if let Some((found, _)) = at_hand(engine.find(b"until", Wait::No)).unwrap() {
        assert_eq!(found, stored("v", Deadline::At(deadline)));
    }
    let wanted = [
        ("until", Some(Deadline::At(deadline))),
        ("for good", Some(Deadline::Never)),
        ("absent", None),
    ];
    for (key, wanted) in wanted {
        assert_eq!(engine.deadline(key.as_bytes(), Wait::Yes).unwrap().0, wanted, "{key}");
    }
    transact(engine, |transaction| {
        assert_eq!(transaction.find(b"until")?, stored("v", Deadline::At(deadline)));
        assert_eq!(transaction.deadline(b"until")?, Some(Deadline::At(deadline)));
        assert_eq!(transaction.deadline(b"for good")?, Some(Deadline::Never));
        assert_eq!(transaction.deadline(b"absent")?, None);
        transaction.store("own", Stored { value: b"x".to_vec(), deadline: Deadline::At(deadline) });
        assert_eq!(transaction.deadline(b"own")?, Some(Deadline::At(deadline)));
        transaction.put_for("own", "x", Duration::from_nanos(2_000_001));
        let soon = Deadline::At(transaction.now_ms() + 3);
        assert_eq!(transaction.deadline(b"own")?, Some(soon), "rounded up");
        transaction.put_until("own", "x", deadline);
        assert_eq!(transaction.deadline(b"own")?, Some(Deadline::Wall(deadline)));
        transaction.put_for("own", "x", Duration::ZERO);
        assert_eq!(transaction.deadline(b"own")?, None);
        Ok(())
    });
}

fn setting_a_key_removes_or_replaces_its_deadline<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let deadline = clock.advance(0) + 100;
    for key in ["set", "closure", "sooner", "later", "left"] {
        put_until(engine, key, "v", deadline);
    }
    engine.set("set".into(), "w".into()).unwrap();
    transact(engine, |transaction| {
        transaction.put("closure", "w");
        Ok(())
    });
    put_until(engine, "sooner", "w", deadline - 50);
    put_until(engine, "later", "w", deadline + 50);
    clock.set(deadline - 50);
    assert_eq!(names(engine), ["closure", "later", "left", "set"]);
    clock.set(deadline);
    assert_eq!(names(engine), ["closure", "later", "set"]);
    clock.set(deadline + 50);
    assert_eq!(names(engine), ["closure", "set"]);
    assert_eq!(get(engine, "set"), Some("w".into()));
    assert_eq!(engine.count().unwrap().0.keys, 2 + left_behind(engine, 2));
}

/// Keys that a count has beyond those that are there: expired ones that were not removed yet.
fn left_behind<E: KvsEngine>(engine: &E, there: u64) -> u64 {
    engine.count().unwrap().0.keys.checked_sub(there).unwrap()
}

fn a_deadline_in_the_past_removes<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let now = clock.advance(0);
    for (key, deadline) in [("a", 0), ("b", 1), ("c", now - 1), ("d", now)] {
        engine.set(key.into(), "v".into()).unwrap();
        put_until(engine, key, "w", deadline);
        assert!(!is_there(engine, key), "until {deadline}");
    }
    put_until(engine, "new", "v", now);
    engine.set("e".into(), "v".into()).unwrap();
    let during = transact(engine, |transaction| {
        transaction.store("e", Stored { value: b"w".to_vec(), deadline: Deadline::At(now) });
        transaction.contains(b"e")
    });
    assert!(!during && !is_there(engine, "e"));
    assert_eq!(engine.count().unwrap().0, aryavarth::Count::default());
    assert_eq!(engine.stats().keys, 0);
}

fn removing_what_has_expired_counts_nothing<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let deadline = clock.advance(0) + 10;
    put_until(engine, "a", "v", deadline);
    put_until(engine, "b", "v", deadline);
    clock.set(deadline);
    let removed = |batch: &Batch| engine.write(batch).unwrap().0;
    assert_eq!(removed(Batch::new().delete("a").delete("a")), 0);
    assert!(matches!(engine.remove("b".into()), Err(KvsError::KeyNotFound)));
    let set_and_removed = |deadline| {
        removed(Batch::new().put_with_deadline("c", "v", Deadline::At(deadline)).delete("c"))
    };
    assert_eq!(set_and_removed(deadline), 0);
    assert_eq!(set_and_removed(deadline + 1), 1);
}

fn what_has_expired_can_be_set_again<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let deadline = clock.advance(0) + 10;
    for key in ["a", "b", "c"] {
        put_until(engine, key, "old", deadline);
    }
    clock.set(deadline);
    engine.set("a".into(), "new".into()).unwrap();
    put_until(engine, "b", "new", deadline + 10);
    assert_eq!(names(engine), ["a", "b"]);
    assert_eq!(get(engine, "b"), Some("new".into()));
    assert_eq!(engine.find(b"a", Wait::Yes).unwrap().0.unwrap().deadline, Deadline::Never);
    clock.set(deadline + 10);
    assert_eq!(names(engine), ["a"]);
}

fn a_closure_finds_what_has_expired_absent<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let deadline = clock.advance(0) + 10;
    for n in 0..30 {
        put_until(engine, &format!("{n:02}"), "v", deadline);
    }
    put_until(engine, "05", "v", deadline + 1);
    engine.set("20".into(), "v".into()).unwrap();
    clock.set(deadline);
    let (keys, back, first) = transact(engine, |transaction| {
        let keys = transaction.keys(&KeyRange::all(), 100)?;
        let back = transaction.keys(&KeyRange::all().reversed(), 1)?;
        transaction.put("29", "again");
        assert_eq!(transaction.read(b"29")?, Some(b"again".to_vec()));
        Ok((keys, back, transaction.keys(&KeyRange::all().after(b"06"), 1)?))
    });
    assert_eq!(
        (keys.concat(), back.concat(), first.concat()),
        (b"0520".to_vec(), b"20".to_vec(), b"20".to_vec())
    );
    assert_eq!(names(engine), ["05", "20", "29"]);
}

fn time_stands_still_in_a_closure<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let deadline = clock.advance(0) + 10;
    put_until(engine, "a", "v", deadline);
    transact(engine, |transaction| {
        let before = transaction.now_ms();
        assert!(transaction.contains(b"a")?);
        clock.set(deadline);
        assert!(transaction.contains(b"a")?, "by the time at which the closure began");
        assert_eq!(transaction.keys(&KeyRange::all(), 10)?, [b"a"]);
        assert_eq!(transaction.now_ms(), before);
        // For a closure that runs again.
        clock.set(before);
        Ok(())
    });
    clock.set(deadline);
    assert!(!is_there(engine, "a"));
}

fn batches_and_closures_mix_deadlines_and_removals<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let now = clock.advance(0);
    let soon = Deadline::At(now + 10);
    let mut batch = Batch::new();
    batch.put_with_deadline("a", "1", soon).put("a", "2");
    batch.put("b", "1").put_with_deadline("b", "2", soon);
    batch.put_with_deadline("c", "1", soon).delete("c");
    batch.put("d", "1").put_with_deadline("d", "2", Deadline::At(now));
    assert_eq!(engine.write(&batch).unwrap().0, 1);
    assert_eq!(names(engine), ["a", "b"]);
    transact(engine, |transaction| {
        let until = |value: &str| Stored { value: value.into(), deadline: Deadline::At(now + 10) };
        transaction.put("b", "3");
        transaction.store("e", until("1"));
        transaction.delete("e");
        transaction.store("f", until("1"));
        assert_eq!(transaction.count()?.expiring, 1);
        Ok(())
    });
    assert_eq!(engine.count().unwrap().0, aryavarth::Count { keys: 3, expiring: 1 });
    clock.set(now + 10);
    assert_eq!(names(engine), ["a", "b"]);
    assert_eq!((get(engine, "a"), get(engine, "b")), (Some("2".into()), Some("3".into())));
}

fn the_farthest_deadline_never_comes<E: KvsEngine>(engine: &E, clock: &TestClock) {
    put_until(engine, "k", "v", u64::MAX);
    clock.set(u64::MAX - 1);
    assert!(is_there(engine, "k"));
    assert_eq!(
        engine.find(b"k", Wait::Yes).unwrap().0.unwrap().deadline,
        Deadline::At(u64::MAX >> 1)
    );
}

fn compaction_keeps_deadlines<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let start = clock.advance(0);
    for round in 0..4 {
        for n in 0..40_u64 {
            let (key, value) = (format!("{n:02}"), round.to_string().repeat(200));
            engine
                .write(Batch::new().put_with_deadline(key, value, Deadline::At(start + 1000 + n)))
                .unwrap();
        }
        engine.compact().unwrap();
    }
    clock.set(start + 1020);
    engine.compact().unwrap();
    engine.compact().unwrap();
    assert_eq!(names(engine), (21..40).map(|n| n.to_string()).collect::<Vec<_>>());
    for n in 21..40 {
        let stored = engine.find(n.to_string().as_bytes(), Wait::Yes).unwrap().0.unwrap();
        assert_eq!(stored.deadline, Deadline::At(start + 1000 + n));
        assert_eq!(stored.value, b"3".repeat(200));
    }
}

/// Gives an engine reasons and time to remove expired keys, until its count says so.
fn wait_for_the_sweep<E: KvsEngine>(engine: &E, left: u64) {
    let begin = Instant::now();
    while engine.count().unwrap().0.keys != left {
        assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", engine.count());
        engine.write(Batch::new().put("any", "write").delete("any")).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
}

fn what_has_expired_is_removed_by_and_by<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let start = clock.advance(0);
    let spaces = [engine.clone(), engine.with_space(4)];
    for n in 0..200 {
        put_until(&spaces[0], &n.to_string(), "v", start + 10 + n % 5);
        put_until(&spaces[1], &n.to_string(), "v", start + 10 + n % 50);
    }
    spaces[1].set("stays".into(), "v".into()).unwrap();
    clock.set(start + 14);
    wait_for_the_sweep(&spaces[0], 0);
    wait_for_the_sweep(&spaces[1], 1 + 200 - 20);
    assert_eq!(engine.stats().keys, 181);
    clock.advance(1000);
    wait_for_the_sweep(&spaces[1], 1);
    assert_eq!(names(&spaces[1]), ["stays"]);
}

fn what_expired_is_counted_once<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let deadline = clock.advance(0) + 10;
    for n in 0..50 {
        put_until(engine, &n.to_string(), "v", deadline);
        put_until(&engine.with_space(1), &n.to_string(), "v", deadline);
    }
    // Neither of these expires.
    engine.set("0".into(), "v".into()).unwrap();
    engine.remove("1".into()).unwrap();
    assert_eq!(engine.stats().expired_keys, 0);
    clock.set(deadline);
    wait_for_the_sweep(engine, 1);
    wait_for_the_sweep(&engine.with_space(1), 0);
    assert_eq!(engine.stats().expired_keys, 98);
}

fn a_clock_that_is_set_back_revives_nothing<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let deadline = clock.advance(0) + 100;
    for n in 0..100 {
        put_until(engine, &n.to_string(), "v", deadline);
    }
    put_until(engine, "later", "v", deadline + 50);
    clock.set(deadline);
    assert!(!is_there(engine, "0"));
    clock.set(deadline - 100);
    assert!(!is_there(engine, "0") && !is_there(engine, "99"));
    assert_eq!(names(engine), ["later"]);
    assert_eq!(engine.now_ms(), deadline);
    assert_eq!(transact(engine, |transaction| Ok(transaction.now_ms())), deadline);
    // A deadline is by the clock that did not go back.
    put_until(engine, "past", "v", deadline);
    assert_eq!(names(engine), ["later"]);
    clock.set(deadline + 50);
    assert!(!is_there(engine, "later"));
}
