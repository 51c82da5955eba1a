//! Walks through all keys, told as stories on every engine: each key that stays from the beginning
//! of a walk to its end is in it, whatever other walks and writers do meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use aryavarth::{Batch, KeyWalk, KvsEngine, Write};

use crate::engines::{OnDisk, put_until, transact};
use crate::runner::TestClock;
use crate::workload::Dice;

stories! { [every] timed [
    a_transaction_walks_its_own_writes_too,
    no_cursor_is_an_error,
] }

stories! { [every_unbroken] timed [
    a_walk_returns_all_keys_of_its_space,
    a_walk_keeps_its_place_beside_twenty_thousand_pages_of_another,
    random_writes_hide_no_key_that_stays,
    a_walk_in_a_space_that_is_swapped_or_cleared_misses_nothing,
    keys_that_leave_and_come_back_hide_no_key_that_stays,
    walks_beside_writers_see_each_key_that_stays,
] }

mod restarted {
    use super::*;
    stories! { [every_on_disk] on_disk [
        a_restart_in_the_middle_of_a_walk_hides_no_key,
    ] }
}

/// More steps than any of these walks takes: one that begins again and again fails.
const STEPS_MAX: usize = 200_000;

fn put_numbers<E: KvsEngine>(engine: &E, numbers: std::ops::Range<u32>) {
    let batch: Batch = numbers.map(|n| (format!("{n:06}"), "v")).collect();
    engine.write(&batch).unwrap();
}

/// The rest of a walk from a cursor on.
fn rest_of<E: KvsEngine>(engine: &E, mut cursor: u64, limit: usize) -> BTreeSet<Vec<u8>> {
    let mut keys = BTreeSet::new();
    for _ in 0..STEPS_MAX {
        let step = engine.walk(cursor, limit).unwrap();
        assert!(step.keys.len() <= limit.max(1) && step.cursor < 1 << 53);
        keys.extend(step.keys);
        cursor = step.cursor;
        if cursor == 0 {
            return keys;
        }
    }
    panic!("a walk without an end");
}

fn walked<E: KvsEngine>(engine: &E, limit: usize) -> Vec<String> {
    let keys = rest_of(engine, 0, limit);
    keys.into_iter().map(|key| String::from_utf8(key).unwrap()).collect()
}

fn a_walk_returns_all_keys_of_its_space<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let spaces = [engine.clone(), engine.with_space(1), engine.with_space(u32::MAX)];
    assert_eq!(walked(engine, 10), [""; 0]);
    for (n, space) in spaces.iter().enumerate() {
        put_numbers(space, n as u32..70 + n as u32);
        space.write(Batch::new().delete("000007").delete("000069")).unwrap();
    }
    put_until(&spaces[1], "until", "v", clock.advance(0) + 10);
    clock.advance(10);
    for (n, space) in spaces.iter().enumerate() {
        let numbers = (n..70 + n).filter(|n| *n != 7 && *n != 69);
        let wanted: Vec<String> = numbers.map(|n| format!("{n:06}")).collect();
        for limit in [0, 1, 7, 68, 1000] {
            assert_eq!(walked(space, limit), wanted, "{limit} keys a step");
        }
    }
}

fn a_transaction_walks_its_own_writes_too<E: KvsEngine>(engine: &E, _: &TestClock) {
    put_numbers(engine, 0..20);
    put_numbers(&engine.with_space(2), 50..53);
    let (all, swapped, emptied) = transact(engine, |transaction| {
        transaction.put("new", "v");
        transaction.put("000003", "other");
        transaction.delete("000004");
        let (mut all, mut cursor) = (Vec::new(), 0);
        loop {
            let KeyWalk { keys, cursor: next, .. } = transaction.walk(cursor, 3)?;
            all.extend(keys);
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        transaction.swap(0, 2);
        let swapped = transaction.walk(0, 100)?.keys;
        transaction.clear();
        transaction.put("last", "v");
        Ok((all, swapped, transaction.walk(0, 100)?.keys))
    });
    let all: BTreeSet<Vec<u8>> = all.into_iter().collect();
    let mut wanted: BTreeSet<Vec<u8>> =
        (0..20).filter(|n| *n != 4).map(|n| format!("{n:06}").into_bytes()).collect();
    wanted.insert(b"new".to_vec());
    assert_eq!(all, wanted);
    assert_eq!(swapped.len(), 3);
    assert_eq!(emptied, [b"last"]);
}

fn no_cursor_is_an_error<E: KvsEngine>(engine: &E, _: &TestClock) {
    put_numbers(engine, 0..30);
    for cursor in [1, 29, 30, 31, 1 << 32, (1 << 53) - 1, 1 << 53, u64::MAX] {
        assert_eq!(engine.walk(cursor, 100).unwrap().keys.len(), 30, "begins again");
    }
}

fn a_walk_keeps_its_place_beside_twenty_thousand_pages_of_another<E: KvsEngine>(
    engine: &E,
    _: &TestClock,
) {
    put_numbers(engine, 0..4000);
    let first = engine.walk(0, 1000).unwrap();
    let mut cursor = 0;
    for _ in 0..20_001 {
        cursor = engine.walk(cursor, 1).unwrap().cursor;
    }
    let second = engine.walk(first.cursor, 1000).unwrap();
    let both: BTreeSet<&Vec<u8>> = first.keys.iter().chain(&second.keys).collect();
    assert_eq!(both.len(), 2000, "it did not begin again");
    let rest = rest_of(engine, second.cursor, 1000);
    assert_eq!(rest.len() + both.len(), 4000);
}

fn random_writes_hide_no_key_that_stays<E: KvsEngine>(engine: &E, _: &TestClock) {
    let mut dice = Dice::new(42);
    let mut model: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for round in 0..30 {
        let mut stays: BTreeSet<Vec<u8>> = model.keys().cloned().collect();
        let (mut seen, mut cursor) = (BTreeSet::new(), 0);
        for step in 0.. {
            assert!(step < STEPS_MAX);
            let limit = 1 + dice.below(9) as usize;
            let page = engine.walk(cursor, limit).unwrap();
            for key in page.keys {
                assert!(model.contains_key(&key), "it is not there");
                seen.insert(key);
            }
            cursor = page.cursor;
            if cursor == 0 {
                break;
            }
            for _ in 0..dice.below(4) {
                let key = format!("{:03}", dice.below(300)).into_bytes();
                if dice.below(2) == 0 {
                    engine.write(Batch::new().put(key.clone(), "v")).unwrap();
                    model.insert(key, round);
                } else {
                    engine.write(Batch::new().delete(key.clone())).unwrap();
                    model.remove(&key);
                    stays.remove(&key);
                }
            }
            match dice.below(40) {
                0 => engine.compact().unwrap(),
                1 => put_numbers(&engine.with_space(1), 0..50),
                2 => transact(&engine.with_space(1), |transaction| {
                    transaction.clear();
                    Ok(())
                }),
                _ => {}
            }
        }
        let missed: Vec<_> = stays.difference(&seen).collect();
        assert!(missed.is_empty(), "round {round}: {missed:?}");
        for n in 0..100 {
            let key = format!("{:03}", n * 3 % 300).into_bytes();
            engine.write(Batch::new().put(key.clone(), "v")).unwrap();
            model.insert(key, round);
        }
    }
}

fn a_walk_in_a_space_that_is_swapped_or_cleared_misses_nothing<E: KvsEngine>(
    engine: &E,
    _: &TestClock,
) {
    // The same names in both spaces, so that each name stays in space 0 all the time; the second
    // space has them in another order.
    put_numbers(engine, 0..100);
    let second = engine.with_space(1);
    for n in (0..100).rev() {
        second.write(Batch::new().put(format!("{n:06}"), "v")).unwrap();
    }
    let first = engine.walk(0, 40).unwrap();
    transact(engine, |transaction| {
        transaction.swap(0, 1);
        Ok(())
    });
    let mut seen: BTreeSet<Vec<u8>> = first.keys.into_iter().collect();
    seen.extend(rest_of(engine, first.cursor, 40));
    assert_eq!(seen.len(), 100);
    // The keys set after a clear stay from then on.
    let first = engine.walk(0, 40).unwrap();
    transact(engine, |transaction| {
        transaction.clear();
        for n in 0..100 {
            transaction.put(format!("new {n}"), "v");
        }
        Ok(())
    });
    let rest = rest_of(engine, first.cursor, 40);
    assert!(rest.iter().all(|key| key.starts_with(b"new ")));
    assert_eq!(rest_of(engine, 0, 40).len(), 100);
}

fn keys_that_leave_and_come_back_hide_no_key_that_stays<E: KvsEngine>(engine: &E, _: &TestClock) {
    put_numbers(engine, 0..500);
    for round in 0..20 {
        let first = engine.walk(0, 100).unwrap();
        // The entries of removed keys go to others, which must not hide the keys that stay.
        let gone = (0..500).filter(|n| n % 20 == round);
        let removals = gone.clone().map(|n| Write::Delete { key: format!("{n:06}").into() });
        engine.write(&removals.collect()).unwrap();
        for other in 0..25 {
            engine.write(Batch::new().put(format!("other {round} {other}"), "v")).unwrap();
        }
        let mut seen: BTreeSet<Vec<u8>> = first.keys.into_iter().collect();
        seen.extend(rest_of(engine, first.cursor, 100));
        let stays = (0..500).filter(|n| n % 20 != round);
        for key in stays.map(|n| format!("{n:06}")) {
            assert!(seen.contains(key.as_bytes()), "{key} in round {round}");
        }
        engine.write(&gone.map(|n| (format!("{n:06}"), "v")).collect()).unwrap();
        assert!(rest_of(engine, 0, 64).len() >= 500);
    }
}

fn walks_beside_writers_see_each_key_that_stays<E: KvsEngine>(engine: &E, _: &TestClock) {
    put_numbers(engine, 0..1000);
    let is_done = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        for writer in 0..2 {
            let is_done = Arc::clone(&is_done);
            scope.spawn(move || {
                let mut n = 0;
                while !is_done.load(Ordering::Relaxed) {
                    n += 1;
                    let (new, old) = (format!("{writer} {n}"), format!("{writer} {}", n - 50));
                    let stays = format!("{:06}", n % 1000);
                    engine.write(Batch::new().put(new, "v").delete(old).put(stays, "w")).unwrap();
                }
            });
        }
        for limit in [3, 10, 33, 100] {
            let seen = rest_of(engine, 0, limit);
            let missed = (0..1000).map(|n| format!("{n:06}").into_bytes());
            let missed: Vec<_> = missed.filter(|key| !seen.contains(key)).collect();
            is_done.store(!missed.is_empty() || limit == 100, Ordering::Relaxed);
            assert!(missed.is_empty(), "{missed:?}");
        }
    });
}

fn a_restart_in_the_middle_of_a_walk_hides_no_key<E: OnDisk>(dir: &Path, clock: &Arc<TestClock>) {
    let engine = E::open_at(dir, clock);
    put_numbers(&engine, 0..300);
    engine
        .wait(engine.write(Batch::new().delete("000000")).unwrap().1, engine.durability())
        .unwrap();
    let mut seen = BTreeSet::new();
    let mut cursor = 0;
    for _ in 0..3 {
        let step = engine.walk(cursor, 50).unwrap();
        seen.extend(step.keys);
        cursor = step.cursor;
    }
    drop(engine);
    let engine = E::open_at(dir, clock);
    // The index has the keys in other places now.
    put_numbers(&engine, 300..310);
    seen.extend(rest_of(&engine, cursor, 50));
    assert!((1..300).all(|n| seen.contains(format!("{n:06}").as_bytes())));
}
