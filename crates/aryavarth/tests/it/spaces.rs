//! Spaces, as stories on every engine: a key of one is in no other, and emptying or swapping
//! them is one write like any other, whatever they hold.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use aryavarth::{Batch, Count, Deadline, KeyRange, KvsEngine, KvsError, Wait, Write};

use crate::engines::{get, names, names_in, put_until, transact};
use crate::runner::TestClock;

stories! { [every] timed [
    a_handle_works_in_its_space,
    spaces_know_nothing_of_each_other,
    numbers_of_spaces_go_up_to_the_largest,
    keys_come_in_order_in_pages_and_back,
    keys_and_the_expiring_among_them_are_counted,
    a_closure_works_across_spaces,
    a_closure_sees_its_own_writes_in_order_and_counted,
    clear_removes_all_and_what_is_written_later_stays,
    a_space_may_be_cleared_twice,
    a_cleared_space_takes_new_keys_and_no_old_ones_come_back,
    swap_exchanges_what_two_spaces_hold,
    clear_and_swap_follow_each_other_in_any_order,
    spaces_that_were_never_used_can_be_cleared_and_swapped,
    a_closure_that_fails_leaves_the_spaces_as_they_were,
    compaction_keeps_spaces_apart,
    stats_count_the_keys_of_all_spaces,
] }

stories! { [every_unbroken] timed [
    a_swap_and_a_clear_are_seen_wholly,
] }

fn put<E: KvsEngine>(engine: &E, key: &str, value: &str) {
    engine.write(Batch::new().put(key, value)).unwrap();
}

fn counted<E: KvsEngine>(engine: &E) -> (u64, u64) {
    let Count { keys, expiring } = engine.count().unwrap().0;
    let inside = transact(engine, |transaction| Ok(transaction.count()?.keys));
    assert_eq!(inside, keys);
    (keys, expiring)
}

fn clear<E: KvsEngine>(engine: &E) {
    transact(engine, |transaction| {
        transaction.clear();
        Ok(())
    });
}

fn swap<E: KvsEngine>(engine: &E, a: u32, b: u32) {
    transact(engine, |transaction| {
        transaction.swap(a, b);
        Ok(())
    });
}

fn a_handle_works_in_its_space<E: KvsEngine>(engine: &E, _: &TestClock) {
    assert_eq!(engine.space(), 0);
    let third = engine.with_space(3);
    assert_eq!((third.space(), third.clone().space(), engine.space()), (3, 3, 0));
    assert_eq!(third.with_space(0).space(), 0);
    assert_eq!(transact(&third, |transaction| Ok(transaction.space())), 3);
    third.set("k".into(), "v".into()).unwrap();
    assert_eq!(third.get("k".into()).unwrap(), Some("v".into()));
    assert_eq!(engine.get("k".into()).unwrap(), None);
    assert!(matches!(engine.remove("k".into()), Err(KvsError::KeyNotFound)));
    third.clone().remove("k".into()).unwrap();
    assert_eq!(third.get("k".into()).unwrap(), None);
}

fn spaces_know_nothing_of_each_other<E: KvsEngine>(engine: &E, _: &TestClock) {
    let spaces = [0, 1, 2, 15].map(|space| engine.with_space(space));
    for (n, space) in spaces.iter().enumerate() {
        put(space, "same", &n.to_string());
        put(space, &format!("own {n}"), "v");
    }
    for (n, space) in spaces.iter().enumerate() {
        assert_eq!(get(space, "same"), Some(n.to_string()));
        assert_eq!(names(space), [format!("own {n}"), "same".to_owned()]);
        assert_eq!(names_in(space, &KeyRange::all().reversed(), 1)[0], "same");
        assert_eq!(counted(space), (2, 0));
    }
    assert_eq!(spaces[1].write(Batch::new().delete("same").delete("own 2")).unwrap().0, 1);
    assert_eq!(names(&spaces[1]), ["own 1"]);
    assert_eq!(names(&spaces[2]), ["own 2", "same"]);
    assert_eq!(names(&engine.with_space(14)), [""; 0]);
    assert_eq!(counted(&engine.with_space(14)), (0, 0));
}

fn numbers_of_spaces_go_up_to_the_largest<E: KvsEngine>(engine: &E, _: &TestClock) {
    // Neighbours, bytes that could be mistaken for others, and both ends.
    let numbers = [0, 1, 255, 256, 65_535, (1 << 31) - 1, 1 << 31, (1 << 31) + 1, u32::MAX];
    for number in numbers {
        put(&engine.with_space(number), "k", &number.to_string());
        put(&engine.with_space(number), "", "empty");
    }
    for number in numbers {
        assert_eq!(get(&engine.with_space(number), "k"), Some(number.to_string()));
        assert_eq!(names(&engine.with_space(number)), ["", "k"]);
    }
    swap(engine, 0, u32::MAX);
    clear(&engine.with_space(1 << 31));
    assert_eq!(get(engine, "k"), Some(u32::MAX.to_string()));
    assert_eq!(get(&engine.with_space(u32::MAX), "k"), Some("0".into()));
    assert_eq!(names(&engine.with_space(1 << 31)), [""; 0]);
    assert_eq!(get(&engine.with_space(255), "k"), Some("255".into()));
}

fn keys_come_in_order_in_pages_and_back<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let space = engine.with_space(1);
    let deadline = clock.advance(0) + 100;
    let mut batch = Batch::new();
    for n in 0..60 {
        let deadline = if n % 3 == 0 { Deadline::At(deadline) } else { Deadline::Never };
        batch.put_with_deadline(format!("{n:02}"), "v", deadline);
    }
    space.write(&batch).unwrap();
    put(&engine.with_space(0), "before", "v");
    put(&engine.with_space(2), "after", "v");
    let removals = (10..20).map(|n| Write::Delete { key: n.to_string().into() });
    space.write(&removals.collect()).unwrap();
    let mut expected: Vec<String> =
        (0..60).filter(|n| !(10..20).contains(n)).map(|n| format!("{n:02}")).collect();
    for _ in 0..2 {
        for limit in [1, 2, 7, expected.len() - 1, expected.len(), 1000] {
            assert_eq!(names_in(&space, &KeyRange::all(), limit), expected, "pages of {limit}");
            let mut back = names_in(&space, &KeyRange::all().reversed(), limit);
            back.reverse();
            assert_eq!(back, expected, "pages of {limit}, back");
        }
        let in_20s = expected.iter().filter(|key| key.starts_with('2')).cloned();
        assert_eq!(names_in(&space, &KeyRange::prefix(b"2"), 3), in_20s.collect::<Vec<_>>());
        assert_eq!(names_in(&space, &KeyRange::prefix(b"9"), 3), [""; 0]);
        clock.set(deadline);
        expected.retain(|key| !key.parse::<u32>().unwrap().is_multiple_of(3));
    }
    let first = space.keys(&KeyRange::all(), 10).unwrap();
    assert_eq!((first.keys.len(), first.done), (10, false));
    let none = KeyRange { start: KeyRange::all().after(b"b").start, ..KeyRange::prefix(b"a") };
    assert_eq!(space.keys(&none, 10).unwrap().keys.len(), 0);
}

fn keys_and_the_expiring_among_them_are_counted<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let deadline = clock.advance(0) + 1000;
    let space = engine.with_space(5);
    put(&space, "a", "v");
    put_until(&space, "b", "v", deadline);
    put_until(&space, "c", "v", deadline);
    assert_eq!(counted(&space), (3, 2));
    put(&space, "b", "stays now");
    assert_eq!(counted(&space), (3, 1));
    put_until(&space, "a", "v", deadline);
    put_until(&space, "a", "v", deadline + 1);
    assert_eq!(counted(&space), (3, 2));
    space.write(Batch::new().delete("a").delete("b").delete("z")).unwrap();
    assert_eq!(counted(&space), (1, 1));
    put_until(&space, "c", "past", 1);
    assert_eq!((counted(&space), counted(engine)), ((0, 0), (0, 0)));
}

fn a_closure_works_across_spaces<E: KvsEngine>(engine: &E, _: &TestClock) {
    put(engine, "k", "in 0");
    put(&engine.with_space(1), "k", "in 1");
    let seen = transact(&engine.with_space(1), |transaction| {
        let mut seen = vec![transaction.read(b"k")?];
        transaction.put("k", "new in 1");
        transaction.select(0);
        seen.push(transaction.read(b"k")?);
        transaction.delete("k");
        transaction.select(7);
        seen.push(transaction.read(b"k")?);
        transaction.put("k", "new in 7");
        transaction.select(1);
        seen.push(transaction.read(b"k")?);
        assert_eq!(transaction.space(), 1);
        Ok(seen)
    });
    let seen: Vec<_> = seen.into_iter().map(|v| v.map(|v| String::from_utf8(v).unwrap())).collect();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(seen, [some("in 1"), some("in 0"), None, some("new in 1")]);
    assert_eq!(get(engine, "k"), None);
    assert_eq!(get(&engine.with_space(1), "k"), some("new in 1"));
    assert_eq!(get(&engine.with_space(7), "k"), some("new in 7"));
}

fn a_closure_sees_its_own_writes_in_order_and_counted<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let now = clock.advance(0);
    for key in ["b", "d", "f", "h"] {
        put(engine, key, "v");
    }
    put_until(engine, "e", "v", now + 1000);
    let (keys, back, first, count) = transact(engine, |transaction| {
        for key in ["a", "c", "g", "i"] {
            transaction.put(key, "v");
        }
        transaction.delete("d");
        transaction.delete("nothing");
        transaction.put("e", "for good");
        let keys = transaction.keys(&KeyRange::all(), 100)?;
        let back = transaction.keys(&KeyRange::all().reversed(), 3)?;
        let first = transaction.keys(&KeyRange::prefix(b"").after(b"c"), 2)?;
        Ok((keys, back, first, transaction.count()?))
    });
    assert_eq!(keys.concat(), b"abcefghi");
    assert_eq!(back.concat(), b"ihg");
    assert_eq!(first.concat(), b"ef");
    assert_eq!(count, Count { keys: 8, expiring: 0 });
    assert_eq!(names(engine).concat(), "abcefghi");
    assert_eq!(counted(engine), (8, 0));
}

fn clear_removes_all_and_what_is_written_later_stays<E: KvsEngine>(engine: &E, _: &TestClock) {
    for n in 0..100 {
        put(&engine.with_space(1), &n.to_string(), "old");
        put(&engine.with_space(2), &n.to_string(), "old");
    }
    let during = transact(&engine.with_space(1), |transaction| {
        transaction.put("before", "goes");
        transaction.put("7", "goes");
        transaction.clear();
        let empty = (transaction.count()?, transaction.read(b"7")?, transaction.contains(b"8")?);
        transaction.put("7", "stays");
        transaction.put("after", "stays");
        transaction.delete("8");
        Ok((empty, transaction.keys(&KeyRange::all(), 10)?, transaction.count()?.keys))
    });
    let after: Vec<Vec<u8>> = vec![b"7".to_vec(), b"after".to_vec()];
    assert_eq!(during, ((Count::default(), None, false), after, 2));
    assert_eq!(names(&engine.with_space(1)), ["7", "after"]);
    assert_eq!(get(&engine.with_space(1), "7"), Some("stays".into()));
    assert_eq!(get(&engine.with_space(1), "8"), None);
    assert_eq!(counted(&engine.with_space(1)), (2, 0));
    assert_eq!(counted(&engine.with_space(2)), (100, 0));
}

fn a_space_may_be_cleared_twice<E: KvsEngine>(engine: &E, _: &TestClock) {
    put(engine, "a", "1");
    clear(engine);
    clear(engine);
    assert_eq!((names(engine).len(), counted(engine)), (0, (0, 0)));
    transact(engine, |transaction| {
        transaction.put("b", "2");
        transaction.clear();
        transaction.put("c", "3");
        transaction.clear();
        transaction.put("d", "4");
        Ok(())
    });
    assert_eq!(names(engine), ["d"]);
}

fn a_cleared_space_takes_new_keys_and_no_old_ones_come_back<E: KvsEngine>(
    engine: &E,
    clock: &TestClock,
) {
    let deadline = clock.advance(0) + 50;
    for round in 0..5 {
        for n in 0..20 {
            put(engine, &format!("{round}:{n}"), "v");
            put_until(engine, &format!("until {round}:{n}"), "v", deadline + round);
        }
        assert_eq!(counted(engine), (40, 20));
        clear(engine);
        put(engine, "new", &round.to_string());
        assert_eq!(names(engine), ["new"]);
        assert_eq!(counted(engine), (1, 0));
        assert_eq!(get(engine, "0:0"), None);
        engine.write(Batch::new().delete("new")).unwrap();
    }
    // A cleared key with a deadline is not counted, and its deadline reaches no other key.
    put(engine, "until 0:0", "for good");
    clock.advance(1000);
    put(engine, "other", "v");
    assert_eq!(names(engine), ["other", "until 0:0"]);
    assert_eq!(counted(engine), (2, 0));
}

fn swap_exchanges_what_two_spaces_hold<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let deadline = clock.advance(0) + 100;
    let (first, second) = (engine.with_space(1), engine.with_space(2));
    put(&first, "a", "of 1");
    put_until(&first, "b", "of 1", deadline);
    put(&second, "a", "of 2");
    let during = transact(&first, |transaction| {
        transaction.put("c", "of 1");
        transaction.swap(1, 2);
        let seen = transaction.read(b"a")?;
        transaction.put("d", "of 2");
        transaction.select(2);
        Ok((seen, transaction.count()?, transaction.read(b"c")?))
    });
    let count = Count { keys: 3, expiring: 1 };
    assert_eq!(during, (Some(b"of 2".to_vec()), count, Some(b"of 1".to_vec())));
    assert_eq!((names(&first), counted(&first)), (vec!["a".into(), "d".into()], (2, 0)));
    assert_eq!(names(&second), ["a", "b", "c"]);
    assert_eq!((get(&second, "a"), counted(&second)), (Some("of 1".into()), (3, 1)));
    // And on: a deadline moves with its key.
    put(&second, "a", "new");
    swap(engine, 2, 9);
    swap(engine, 1, 1);
    assert_eq!((names(&second).len(), get(&engine.with_space(9), "a")), (0, Some("new".into())));
    clock.set(deadline);
    assert_eq!(names(&engine.with_space(9)), ["a", "c"]);
    swap(engine, 9, 1);
    assert_eq!(names(&first), ["a", "c"]);
    assert_eq!(names(&engine.with_space(9)), ["a", "d"]);
}

fn clear_and_swap_follow_each_other_in_any_order<E: KvsEngine>(engine: &E, _: &TestClock) {
    let spaces = [0, 1, 2].map(|space| engine.with_space(space));
    let held = || [0, 1, 2].map(|space| names(&spaces[space]).concat());
    for (space, key) in spaces.iter().zip(["a", "b", "c"]) {
        put(space, key, "v");
    }
    // Cleared and swapped away.
    transact(engine, |transaction| {
        transaction.clear();
        transaction.put("d", "v");
        transaction.swap(0, 1);
        transaction.put("e", "v");
        Ok(())
    });
    assert_eq!(held(), ["be", "d", "c"]);
    // Swapped and cleared.
    transact(engine, |transaction| {
        transaction.swap(0, 2);
        transaction.clear();
        transaction.select(2);
        transaction.put("f", "v");
        Ok(())
    });
    assert_eq!(held(), ["", "d", "bef"]);
    // Round, and the writes before it move along.
    transact(engine, |transaction| {
        transaction.put("g", "v");
        transaction.swap(0, 1);
        transaction.swap(1, 2);
        transaction.select(1);
        transaction.delete("b");
        Ok(())
    });
    assert_eq!(held(), ["d", "ef", "g"]);
    // There and back is nothing.
    transact(engine, |transaction| {
        transaction.swap(0, 1);
        transaction.put("h", "v");
        transaction.swap(1, 0);
        Ok(())
    });
    assert_eq!(held(), ["d", "efh", "g"]);
}

fn spaces_that_were_never_used_can_be_cleared_and_swapped<E: KvsEngine>(engine: &E, _: &TestClock) {
    clear(&engine.with_space(40));
    swap(engine, 41, 42);
    put(engine, "k", "v");
    swap(engine, 0, 43);
    assert_eq!((names(engine).len(), names(&engine.with_space(43))), (0, vec!["k".to_owned()]));
    for space in 40..43 {
        assert_eq!(counted(&engine.with_space(space)), (0, 0));
    }
}

fn a_closure_that_fails_leaves_the_spaces_as_they_were<E: KvsEngine>(engine: &E, _: &TestClock) {
    put(engine, "k", "v");
    put(&engine.with_space(1), "l", "v");
    let failed = engine.transact(&[], |transaction| -> aryavarth::Result<()> {
        transaction.swap(0, 1);
        transaction.clear();
        transaction.put("m", "v");
        Err(KvsError::KeyNotFound)
    });
    assert!(matches!(failed, Err(KvsError::KeyNotFound)));
    let too_large = engine.transact(&[], |transaction| {
        transaction.clear();
        transaction.put(vec![b'k'; aryavarth::KEY_BYTES_MAX + 1], "v");
        Ok(())
    });
    assert!(matches!(too_large, Err(KvsError::TooLarge { .. })));
    assert_eq!((names(engine), names(&engine.with_space(1))), (vec!["k".into()], vec!["l".into()]));
}

fn compaction_keeps_spaces_apart<E: KvsEngine>(engine: &E, _: &TestClock) {
    let spaces = [0, 1, 2].map(|space| engine.with_space(space));
    for round in 0..10 {
        for (n, space) in spaces.iter().enumerate() {
            for key in 0..10 {
                put(space, &format!("{key}"), &format!("{n}:{round}").repeat(100));
            }
        }
        match round {
            3 => clear(&spaces[1]),
            5 => swap(engine, 0, 2),
            7 => engine.compact().unwrap(),
            8 => clear(&spaces[2]),
            _ => {}
        }
    }
    clear(&spaces[1]);
    swap(engine, 0, 1);
    for _ in 0..2 {
        engine.compact().unwrap();
        assert_eq!(counted(&spaces[0]), (0, 0));
        assert_eq!((counted(&spaces[1]), counted(&spaces[2])), ((10, 0), (10, 0)));
        assert_eq!(get(&spaces[1], "3"), Some("0:9".repeat(100)));
        assert_eq!(get(&spaces[2], "3"), Some("2:9".repeat(100)));
    }
}

fn stats_count_the_keys_of_all_spaces<E: KvsEngine>(engine: &E, _: &TestClock) {
    for space in 0..4 {
        for n in 0..=space {
            put(&engine.with_space(space), &n.to_string(), "v");
        }
    }
    assert_eq!(engine.stats().keys, 10);
    swap(engine, 0, 3);
    assert_eq!(engine.stats().keys, 10);
    clear(&engine.with_space(2));
    assert_eq!(engine.with_space(7).stats().keys, 7);
}

fn a_swap_and_a_clear_are_seen_wholly<E: KvsEngine>(engine: &E, _: &TestClock) {
    // Among more keys, a scan that commits keep interrupting may see parts of two (decision 0007).
    const KEYS: usize = 16;
    let spaces = [engine.clone(), engine.with_space(1)];
    let fill = |space: &E, value: &str| {
        space.write(&(0..KEYS).map(|n| (format!("{n:02}"), value)).collect()).unwrap();
    };
    fill(&spaces[0], "zero");
    fill(&spaces[1], "one");
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..200 {
                swap(engine, 0, 1);
                // Emptied and filled in one write: no reader finds it empty.
                transact(engine, |transaction| {
                    transaction.clear();
                    (0..KEYS).for_each(|n| transaction.put(format!("{n:02}"), round.to_string()));
                    Ok(())
                });
            }
            is_done.store(true, Ordering::Release);
        });
        let mut looks = 0;
        while !is_done.load(Ordering::Acquire) || looks == 0 {
            let space = &spaces[looks % 2];
            let page = space.scan(&KeyRange::all(), 100).unwrap();
            assert_eq!(page.entries.len(), KEYS);
            assert!(page.entries.iter().all(|(_, value)| *value == page.entries[0].1));
            assert_eq!(space.keys(&KeyRange::all(), 100).unwrap().keys.len(), KEYS);
            assert_eq!(space.count().unwrap().0.keys, KEYS as u64);
            assert!(space.read(b"00", Wait::Yes).unwrap().0.is_some());
            let both = transact(engine, |transaction| {
                let zero = transaction.read(b"00")?;
                transaction.select(1);
                Ok((zero, transaction.read(b"15")?))
            });
            assert_ne!(both.0, both.1);
            looks += 1;
        }
    });
}
