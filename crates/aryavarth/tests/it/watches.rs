//! Watches, told as stories on every engine: a watch knows of every write to its key, and of nothing
//! else.

use std::thread;

use aryavarth::{Batch, Deadline, KvsEngine, KvsError, Stored, Wait, Watch};

use crate::engines::{get, put_until, transact};
use crate::runner::TestClock;

stories! { [every_unbroken] timed [
    a_watch_knows_of_every_write_to_its_key,
    a_watch_knows_of_writes_by_batch_and_closure,
    a_watch_knows_of_batches_written_together,
    a_watch_of_an_absent_key_knows_of_its_making,
    a_watch_knows_nothing_of_other_keys_and_spaces,
    a_watch_begins_when_it_is_made,
    clear_touches_the_keys_that_were_there,
    swap_touches_the_keys_that_are_there_before_or_after,
    reading_and_compaction_touch_nothing,
    what_was_refused_touches_nothing,
    a_key_that_expires_while_it_is_watched_is_touched,
    a_write_that_has_expired_touches,
    a_key_that_had_expired_before_is_not_touched_by_its_sweep,
    watches_and_closures_lose_no_increment,
] }

fn watch<E: KvsEngine>(engine: &E, key: &str) -> Watch {
    engine.watch(key.as_bytes()).unwrap()
}

fn is_touched<E: KvsEngine>(engine: &E, watch: &Watch) -> bool {
    watch.is_touched(engine.now_ms())
}

fn put<E: KvsEngine>(engine: &E, key: &str, value: &str) {
    engine.write(Batch::new().put(key, value)).unwrap();
}

fn a_watch_knows_of_every_write_to_its_key<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let far = clock.advance(0) + 1000;
    let writes: [fn(&E, u64); 5] = [
        |engine, _| put(engine, "k", "w"),
        |engine, _| put(engine, "k", "v"),
        |engine, _| engine.remove("k".into()).unwrap(),
        |engine, far| put_until(engine, "k", "v", far),
        |engine, _| put_until(engine, "k", "v", 1),
    ];
    for (n, write) in writes.into_iter().enumerate() {
        put(engine, "k", "v");
        let before = watch(engine, "k");
        assert!(!is_touched(engine, &before));
        write(engine, far);
        assert!(is_touched(engine, &before), "write {n}");
        assert!(!is_touched(engine, &watch(engine, "k")), "that was before it");
    }
    // Set and removed again: nothing is left of it that could be compared.
    let absent = watch(engine, "absent");
    put(engine, "absent", "v");
    engine.remove("absent".into()).unwrap();
    assert!(is_touched(engine, &absent));
}

fn a_watch_knows_of_writes_by_batch_and_closure<E: KvsEngine>(engine: &E, _: &TestClock) {
    put(engine, "a", "v");
    put(engine, "b", "v");
    let watches = ["a", "b", "c"].map(|key| watch(engine, key));
    engine.write(Batch::new().delete("a").put("b", "v").put("other", "v")).unwrap();
    assert_eq!([0, 1, 2].map(|n| is_touched(engine, &watches[n])), [true, true, false]);

    let watches = ["a", "b", "c"].map(|key| watch(engine, key));
    transact(engine, |transaction| {
        transaction.delete("b");
        transaction.put("c", "v");
        Ok(())
    });
    assert_eq!([0, 1, 2].map(|n| is_touched(engine, &watches[n])), [false, true, true]);

    // From another space.
    let watches = ["b", "c"].map(|key| watch(engine, key));
    transact(&engine.with_space(1), |transaction| {
        transaction.put("b", "in 1");
        transaction.select(0);
        transaction.put("c", "w");
        Ok(())
    });
    assert_eq!([0, 1].map(|n| is_touched(engine, &watches[n])), [false, true]);
}

fn a_watch_knows_of_batches_written_together<E: KvsEngine>(engine: &E, _clock: &TestClock) {
    let watches = ["a", "b", "c"].map(|key| watch(engine, key));
    let batches = [Batch::from([("a", "1")]), Batch::from([("b", "2"), ("a", "3")])];
    assert!(engine.write_each(&batches).iter().all(Result::is_ok));
    assert_eq!(watches.each_ref().map(|watch| is_touched(engine, watch)), [true, true, false]);
}

fn a_watch_of_an_absent_key_knows_of_its_making<E: KvsEngine>(engine: &E, _: &TestClock) {
    let (first, second) = (watch(engine, "k"), watch(engine, "k"));
    drop(first);
    assert!(!is_touched(engine, &second));
    put(engine, "k", "v");
    assert!(is_touched(engine, &second));
}

fn a_watch_knows_nothing_of_other_keys_and_spaces<E: KvsEngine>(engine: &E, _: &TestClock) {
    let spaces = [engine.clone(), engine.with_space(1), engine.with_space(u32::MAX)];
    for space in &spaces {
        put(space, "k", "v");
    }
    for (n, space) in spaces.iter().enumerate() {
        let watch = watch(space, "k");
        put(space, "", "v");
        put(space, "kk", "v");
        space.remove("kk".into()).unwrap();
        for other in (0..3).filter(|other| *other != n) {
            put(&spaces[other], "k", "w");
            spaces[other].remove("k".into()).unwrap();
            put(&spaces[other], "k", "v");
        }
        assert!(!is_touched(space, &watch));
    }
}

fn a_watch_begins_when_it_is_made<E: KvsEngine>(engine: &E, _: &TestClock) {
    put(engine, "k", "v");
    let early = watch(engine, "k");
    put(engine, "k", "w");
    let late = watch(engine, "k");
    assert!(is_touched(engine, &early) && !is_touched(engine, &late));
    put(engine, "k", "x");
    assert!(is_touched(engine, &late));
}

fn clear_touches_the_keys_that_were_there<E: KvsEngine>(engine: &E, _: &TestClock) {
    put(engine, "there", "v");
    put(&engine.with_space(1), "there", "v");
    put(&engine.with_space(1), "elsewhere", "v");
    let watches = ["there", "absent", "elsewhere", "made"].map(|key| watch(engine, key));
    let other = watch(&engine.with_space(1), "there");
    transact(engine, |transaction| {
        transaction.clear();
        transaction.put("made", "v");
        Ok(())
    });
    let touched = [0, 1, 2, 3].map(|n| is_touched(engine, &watches[n]));
    assert_eq!(touched, [true, false, false, true]);
    assert!(!is_touched(engine, &other));
}

fn swap_touches_the_keys_that_are_there_before_or_after<E: KvsEngine>(engine: &E, _: &TestClock) {
    let other = engine.with_space(1);
    put(engine, "of 0", "v");
    put(engine, "of both", "v");
    put(&other, "of 1", "v");
    put(&other, "of both", "v");
    let keys = ["of 0", "of 1", "of both", "of none"];
    let watches =
        [engine, &other, &engine.with_space(2)].map(|space| keys.map(|k| watch(space, k)));
    transact(engine, |transaction| {
        transaction.swap(0, 1);
        Ok(())
    });
    let touched = watches.map(|of_space| of_space.map(|watch| is_touched(engine, &watch)));
    let present = [true, true, true, false];
    assert_eq!(touched, [present, present, [false; 4]]);
}

fn reading_and_compaction_touch_nothing<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let far = clock.advance(0) + 1000;
    for n in 0..50 {
        put_until(engine, &n.to_string(), &"v".repeat(1000), far);
        put(engine, &n.to_string(), &"w".repeat(1000));
    }
    put_until(engine, "1", "v", far);
    let watches: Vec<Watch> = (0..50).map(|n| watch(engine, &n.to_string())).collect();
    engine.compact().unwrap();
    engine.compact().unwrap();
    clock.advance(10);
    for n in 0..50 {
        get(engine, &n.to_string());
    }
    transact(engine, |transaction| {
        transaction.read(b"3")?;
        transaction.select(1);
        transaction.clear();
        transaction.put("3", "elsewhere");
        Ok(())
    });
    assert!(watches.iter().all(|watch| !is_touched(engine, watch)));
}

fn what_was_refused_touches_nothing<E: KvsEngine>(engine: &E, _: &TestClock) {
    put(engine, "k", "v");
    let before = watch(engine, "k");
    let failed = engine.transact(&[], |transaction| -> aryavarth::Result<()> {
        transaction.put("k", "w");
        transaction.clear();
        Err(KvsError::KeyNotFound)
    });
    assert!(failed.is_err());
    let too_large = vec![b'k'; aryavarth::KEY_BYTES_MAX + 1];
    assert!(engine.write(Batch::new().put("k", "w").put(too_large, "v")).is_err());
    assert!(!is_touched(engine, &before));
    assert_eq!(get(engine, "k"), Some("v".into()));
}

fn a_key_that_expires_while_it_is_watched_is_touched<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let deadline = clock.advance(0) + 100;
    put_until(engine, "k", "v", deadline);
    put_until(engine, "later", "v", deadline + 1);
    let (k, later) = (watch(engine, "k"), watch(engine, "later"));
    clock.set(deadline - 1);
    assert!(!is_touched(engine, &k));
    clock.set(deadline);
    assert!(is_touched(engine, &k) && !is_touched(engine, &later));
    // Swept by then or not.
    put(engine, "other", "v");
    assert!(is_touched(engine, &k) && !is_touched(engine, &later));
    assert!(transact(engine, |transaction| Ok(k.is_touched(transaction.now_ms()))));
}

/// A set with a deadline in the past leaves no key behind, but it was a write.
fn a_write_that_has_expired_touches<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let now = clock.advance(1);
    let by_batch = watch(engine, "k");
    put_until(engine, "k", "v", now - 1);
    assert!(is_touched(engine, &by_batch));
    let by_closure = watch(engine, "k");
    transact(engine, |transaction| {
        transaction.store("k", Stored { value: b"v".to_vec(), deadline: Deadline::At(now - 1) });
        Ok(())
    });
    assert!(is_touched(engine, &by_closure));
}

fn a_key_that_had_expired_before_is_not_touched_by_its_sweep<E: KvsEngine>(
    engine: &E,
    clock: &TestClock,
) {
    let deadline = clock.advance(0) + 100;
    put_until(engine, "k", "v", deadline);
    clock.set(deadline);
    let watch = watch(engine, "k");
    assert!(!is_touched(engine, &watch), "it was absent when the watch began");
    let begin = std::time::Instant::now();
    while engine.count().unwrap().0.keys > 0 {
        assert!(begin.elapsed().as_secs() < 60, "nobody sweeps");
        engine.write(Batch::new().put("any", "write").delete("any")).unwrap();
    }
    clock.advance(1000);
    assert!(!is_touched(engine, &watch));
    put(engine, "k", "again");
    assert!(is_touched(engine, &watch));
}

fn watches_and_closures_lose_no_increment<E: KvsEngine>(engine: &E, _: &TestClock) {
    const THREADS: u32 = 8;
    const INCREMENTS: u32 = 100;
    let increment = |engine: &E| {
        loop {
            let watch = watch(engine, "n");
            let seen = get_number(engine);
            let is_done = transact(engine, |transaction| {
                if watch.is_touched(transaction.now_ms()) {
                    return Ok(false);
                }
                transaction.put("n", (seen + 1).to_string());
                Ok(true)
            });
            if is_done {
                return;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| (0..INCREMENTS).for_each(|_| increment(engine)));
        }
    });
    assert_eq!(get_number(engine), THREADS * INCREMENTS);
}

fn get_number<E: KvsEngine>(engine: &E) -> u32 {
    let (value, _) = engine.read(b"n", Wait::Yes).unwrap();
    value.map_or(0, |value| String::from_utf8(value).unwrap().parse().unwrap())
}
