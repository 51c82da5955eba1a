//! Spaces and deadlines after the store was closed and opened again, as stories on
//! every engine that keeps its data.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use aryavarth::{Batch, Count, Deadline, KvsEngine, Wait};

use crate::engines::{OnDisk, get, names, put_until, transact};
use crate::runner::TestClock;

stories! { [every_on_disk] on_disk [
    spaces_and_deadlines_are_there_again,
    a_cleared_space_stays_empty_and_takes_new_keys,
    swapped_spaces_stay_swapped,
    a_clock_that_was_set_back_meanwhile_revives_nothing,
    what_expired_meanwhile_is_gone,
    a_held_sweep_keeps_the_records_of_keys_that_have_expired,
] }

fn until(clock: &TestClock, ms: u64) -> u64 {
    clock.advance(0) + ms
}

fn spaces_and_deadlines_are_there_again<E: OnDisk>(dir: &Path, clock: &Arc<TestClock>) {
    let deadline = until(clock, 1000);
    let spaces = [0, 1, 15, u32::MAX];
    let engine = E::open_at(dir, clock);
    for space in spaces {
        let engine = engine.with_space(space);
        engine.set("k".into(), space.to_string()).unwrap();
        put_until(&engine, "until", "v", deadline);
    }
    drop(engine);
    let engine = E::open_at(dir, clock);
    for space in spaces {
        let engine = engine.with_space(space);
        assert_eq!(names(&engine), ["k", "until"]);
        assert_eq!(get(&engine, "k"), Some(space.to_string()));
        assert_eq!(
            engine.find(b"until", Wait::Yes).unwrap().0.unwrap().deadline,
            Deadline::At(deadline)
        );
        assert_eq!(engine.count().unwrap().0, Count { keys: 2, expiring: 1 });
    }
    assert_eq!(engine.stats().keys, 8);
    clock.set(deadline);
    assert_eq!(names(&engine.with_space(15)), ["k"]);
}

fn a_cleared_space_stays_empty_and_takes_new_keys<E: OnDisk>(dir: &Path, clock: &Arc<TestClock>) {
    for round in 0..4 {
        let engine = E::open_at(dir, clock);
        let left = usize::from(round > 0);
        assert_eq!(names(&engine).len(), left);
        assert_eq!(engine.count().unwrap().0.keys, left as u64);
        for n in 0..300 {
            engine.write(Batch::new().put(format!("{round}:{n}"), "v")).unwrap();
        }
        transact(&engine, |transaction| {
            transaction.clear();
            transaction.put("round", round.to_string());
            Ok(())
        });
        assert_eq!(names(&engine), ["round"]);
        drop(engine);
        let engine = E::open_at(dir, clock);
        assert_eq!((names(&engine), engine.stats().keys), (vec!["round".to_owned()], 1));
        assert_eq!(get(&engine, "round"), Some(round.to_string()));
    }
}

fn swapped_spaces_stay_swapped<E: OnDisk>(dir: &Path, clock: &Arc<TestClock>) {
    let engine = E::open_at(dir, clock);
    engine.set("k".into(), "of 0".into()).unwrap();
    engine.with_space(1).set("k".into(), "of 1".into()).unwrap();
    drop(engine);
    for round in 0..5 {
        let engine = E::open_at(dir, clock);
        let (first, second) = if round % 2 == 0 { ("of 0", "of 1") } else { ("of 1", "of 0") };
        assert_eq!(get(&engine, "k"), Some(first.to_owned()));
        assert_eq!(get(&engine.with_space(1), "k"), Some(second.to_owned()));
        transact(&engine, |transaction| {
            transaction.swap(0, 1);
            Ok(())
        });
    }
}

fn a_clock_that_was_set_back_meanwhile_revives_nothing<E: OnDisk>(
    dir: &Path,
    clock: &Arc<TestClock>,
) {
    let start = until(clock, 0);
    let engine = E::open_at(dir, clock);
    put_until(&engine, "k", "v", start + 100);
    put_until(&engine, "later", "v", start + 200);
    clock.set(start + 100);
    assert_eq!(names(&engine), ["later"]);
    // Something durable that remembers the time.
    engine.set("other".into(), "v".into()).unwrap();
    drop(engine);
    clock.set(start);
    let engine = E::open_at(dir, clock);
    assert!(engine.now_ms() >= start + 100);
    assert_eq!(names(&engine), ["later", "other"]);
    assert_eq!(get(&engine, "k"), None);
}

fn what_expired_meanwhile_is_gone<E: OnDisk>(dir: &Path, clock: &Arc<TestClock>) {
    let deadline = until(clock, 100);
    let engine = E::open_at(dir, clock);
    for n in 0..100 {
        put_until(&engine, &n.to_string(), "v", deadline + n % 2);
    }
    drop(engine);
    clock.set(deadline);
    let engine = E::open_at(dir, clock);
    assert_eq!(names(&engine).len(), 50);
    engine.set("0".into(), "again".into()).unwrap();
    drop(engine);
    clock.set(deadline + 1);
    assert_eq!(names(&E::open_at(dir, clock)), ["0"]);
}

/// CLIENT PAUSE holds the sweep: nobody sees an expired key meanwhile, and its record stays until the
/// hold ends.
fn a_held_sweep_keeps_the_records_of_keys_that_have_expired<E: OnDisk>(
    dir: &Path,
    clock: &Arc<TestClock>,
) {
    let deadline = until(clock, 1000);
    let engine = E::open_at(dir, clock);
    for n in 0..20 {
        put_until(&engine, &n.to_string(), "v", deadline);
    }
    engine.hold_sweep(Some(Instant::now() + Duration::from_secs(3600)));
    clock.set(deadline);
    assert_eq!(names(&engine), [""; 0]);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(engine.count().unwrap().0.keys, 20, "the sweep is held");
    assert_eq!(engine.stats().expired_keys, 0);
    engine.hold_sweep(None);
    let begin = Instant::now();
    while engine.count().unwrap().0.keys > 0 {
        assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", engine.count());
        // A write wakes whoever sweeps.
        engine.write(Batch::new().put("any", "write").delete("any")).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(engine.stats().expired_keys, 20);
}
