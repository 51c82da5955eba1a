//! Wall clocks that jump, told as stories on every engine: deadlines go on with elapsed time, and a
//! deadline that is given by the wall clock is kept by it.

use std::path::Path;
use std::sync::Arc;

use aryavarth::{Batch, Deadline, KvsEngine, Stored, Wait};

use crate::engines::{OnDisk, get, names, put_until, transact};
use crate::runner::TestClock;

stories! { [every_unbroken] timed [
    a_wall_clock_ahead_for_a_moment_moves_no_deadline,
    a_deadline_by_the_wall_clock_is_kept_by_it_after_a_jump,
    a_jump_is_counted_and_an_idle_hour_is_none,
] }

// sled keeps deadlines by elapsed time alone.
mod by_the_wall_clock {
    use super::*;
    stories! { [memory kv_store] timed [
        a_deadline_that_a_wrong_wall_clock_was_given_is_right_once_the_clock_is,
        a_key_that_a_wrong_wall_clock_has_shown_as_expired_stays_gone,
        a_watch_knows_a_key_that_a_wrong_wall_clock_has_shown_as_expired,
        each_way_to_write_a_deadline_keeps_its_clock,
        many_keys_are_removed_before_a_lower_wall_clock_is_accepted,
    ] }
}

mod restarted {
    use super::*;
    stories! { [every_on_disk] on_disk [
        a_restart_after_a_jump_keeps_each_deadline,
        a_restart_right_after_a_set_back_keeps_each_duration,
    ] }
}

const HOUR_MS: u64 = 3_600_000;

fn put_for<E: KvsEngine>(engine: &E, key: &str, ms: u64) {
    put_until(engine, key, "v", engine.now_ms() + ms);
}

/// Sets a deadline by the wall clock, as EXPIREAT does.
fn put_until_wall<E: KvsEngine>(engine: &E, key: &str, wall_ms: u64) {
    engine.write(Batch::new().put_until(key, "v", wall_ms)).unwrap();
}

fn a_wall_clock_ahead_for_a_moment_moves_no_deadline<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let start = clock.pass(2000);
    put_for(engine, "before", 5000);
    put_until_wall(engine, "at", start + HOUR_MS + 5000);
    clock.advance(HOUR_MS);
    assert_eq!(names(engine), ["at", "before"]);
    put_for(engine, "meanwhile", 5000);
    assert_eq!(engine.stats().clock_offset_ms, HOUR_MS.cast_signed());
    clock.set(start);
    put_for(engine, "after", 5000);
    put_until_wall(engine, "at, after", start + 5000);
    assert_eq!(engine.clock_offset_ms(), 0);
    clock.pass(4999);
    assert_eq!(names(engine).len(), 5);
    clock.pass(1);
    assert_eq!(names(engine), ["at"], "each after five seconds");
    clock.pass(HOUR_MS);
    assert_eq!(names(engine), [""; 0]);
    assert_eq!(engine.stats().clock_jumps, 2);
}

fn a_deadline_by_the_wall_clock_is_kept_by_it_after_a_jump<E: KvsEngine>(
    engine: &E,
    clock: &TestClock,
) {
    clock.pass(2000);
    put_for(engine, "relative", 10_000);
    // The wall clock was wrong by an hour, and is set right.
    let right = clock.advance(0) - HOUR_MS;
    clock.set(right);
    assert_eq!(engine.now_ms(), right + HOUR_MS);
    put_until_wall(engine, "at", right + 10_000);
    put_until_wall(engine, "past", right);
    assert_eq!(names(engine), ["at", "relative"], "what the wall clock calls the future stays");
    clock.pass(9999);
    assert_eq!(get(engine, "at"), Some("v".into()));
    clock.pass(1);
    assert_eq!(names(engine), [""; 0]);
}

fn a_deadline_that_a_wrong_wall_clock_was_given_is_right_once_the_clock_is<E: KvsEngine>(
    engine: &E,
    clock: &TestClock,
) {
    let start = clock.pass(2000);
    clock.advance(HOUR_MS);
    put_until_wall(engine, "at", start + HOUR_MS + 10_000);
    put_for(engine, "for", HOUR_MS + 20_000);
    // Right again: the deadline is an hour away, as it was asked for.
    clock.set(start);
    put_until_wall(engine, "soon", start + 10_000);
    assert_eq!(names(engine), ["at", "for", "soon"], "what the wall clock calls the future stays");
    assert_eq!(engine.now().wall_ms, start);
    clock.pass(10_000);
    assert_eq!(names(engine), ["at", "for"]);
    clock.pass(HOUR_MS - 1);
    assert_eq!(names(engine), ["at", "for"]);
    clock.pass(1);
    assert_eq!(names(engine), ["for"]);
    clock.pass(10_000);
    assert_eq!(names(engine), [""; 0]);
}

fn a_key_that_a_wrong_wall_clock_has_shown_as_expired_stays_gone<E: KvsEngine>(
    engine: &E,
    clock: &TestClock,
) {
    let start = clock.pass(2000);
    put_until_wall(engine, "at", start + 10_000);
    put_until_wall(engine, "far", start + 2 * HOUR_MS);
    put_for(engine, "for", 10_000);
    clock.advance(HOUR_MS);
    assert_eq!(names(engine), ["far", "for"], "the clock says so");
    clock.set(start);
    assert_eq!(names(engine), ["far", "for"], "before the lower clock is accepted");
    put_until_wall(engine, "new", start + 10_000);
    assert_eq!(names(engine), ["far", "for", "new"], "and after it");
    put_until_wall(engine, "at", start + 10_000);
    assert_eq!(names(engine), ["at", "far", "for", "new"], "set again, it is there");
    clock.pass(9999);
    assert_eq!(names(engine), ["at", "far", "for", "new"]);
    clock.pass(1);
    assert_eq!(names(engine), ["far"]);
}

fn a_watch_knows_a_key_that_a_wrong_wall_clock_has_shown_as_expired<E: KvsEngine>(
    engine: &E,
    clock: &TestClock,
) {
    let start = clock.pass(2000);
    put_until_wall(engine, "at", start + 10_000);
    put_until_wall(engine, "far", start + 2 * HOUR_MS);
    let [at, far] = [b"at".as_slice(), b"far"].map(|key| engine.watch(key).unwrap());
    clock.advance(HOUR_MS);
    assert!(at.is_touched(engine.now()) && !far.is_touched(engine.now()));
    clock.set(start);
    put_until_wall(engine, "new", start + 10_000);
    assert_eq!(engine.now().wall_ms, start);
    assert!(at.is_touched(engine.now()), "it is gone, although its time is to come");
    assert!(!far.is_touched(engine.now()));
}

fn each_way_to_write_a_deadline_keeps_its_clock<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let start = clock.pass(2000);
    put_until_wall(engine, "batch", start + 5000);
    let chain = ["chain 1", "chain 2"].map(|key| {
        let mut batch = Batch::new();
        batch.put_until(key, "v", start + 5000);
        batch
    });
    for done in engine.write_each(&chain) {
        done.unwrap();
    }
    transact(engine, |transaction| {
        let deadline = Deadline::Wall(start + 5000);
        transaction.store("closure", Stored { value: b"v".to_vec(), deadline });
        let copy = transaction.find(b"batch")?.expect("it is there");
        transaction.store("copy", copy);
        Ok(())
    });
    let all = ["batch", "chain 1", "chain 2", "closure", "copy"];
    for key in all {
        let deadline = engine.deadline(key.as_bytes(), Wait::Yes).unwrap().0;
        assert_eq!(deadline, Some(Deadline::Wall(start + 5000)), "{key}");
    }
    engine.compact().unwrap();
    assert_eq!(names(engine), all);
    clock.pass(5000);
    assert_eq!(names(engine), [""; 0]);
}

/// More than one turn of the sweep: none of them is back when the lower clock is accepted.
fn many_keys_are_removed_before_a_lower_wall_clock_is_accepted<E: KvsEngine>(
    engine: &E,
    clock: &TestClock,
) {
    let start = clock.pass(2000);
    for n in 0..200 {
        put_until_wall(engine, &format!("{n:03}"), start + 10_000);
    }
    clock.advance(HOUR_MS);
    assert_eq!(names(engine), [""; 0]);
    clock.set(start);
    put_until_wall(engine, "new", start + 10_000);
    assert_eq!((names(engine), engine.now().wall_ms), (vec!["new".to_owned()], start));
}

fn a_jump_is_counted_and_an_idle_hour_is_none<E: KvsEngine>(engine: &E, clock: &TestClock) {
    for _ in 0..10 {
        clock.pass(HOUR_MS);
        engine.now_ms();
    }
    assert_eq!((engine.stats().clock_jumps, engine.stats().clock_offset_ms), (0, 0));
    clock.set(clock.advance(0) - 5000);
    engine.now_ms();
    assert_eq!((engine.stats().clock_jumps, engine.stats().clock_offset_ms), (1, -5000));
}

fn a_restart_after_a_jump_keeps_each_deadline<E: OnDisk>(dir: &Path, clock: &Arc<TestClock>) {
    let engine = E::open_at(dir, clock);
    let start = clock.pass(2000);
    put_for(&engine, "soon", 3000);
    put_for(&engine, "later", 60_000);
    clock.pass(3000);
    assert_eq!(names(&engine), ["later"]);
    let now_ms = engine.now_ms();
    // Closed, and opened by a clock that was set back an hour.
    drop(engine);
    clock.set(start + 3000 - HOUR_MS);
    let engine = E::open_at(dir, clock);
    assert_eq!(names(&engine), ["later"], "it stays gone");
    assert!(engine.now_ms() >= now_ms);
    clock.pass(56_000);
    assert_eq!(names(&engine), ["later"]);
    put_until_wall(&engine, "at", clock.advance(0) + 500);
    assert_eq!(names(&engine), ["at", "later"]);
    clock.pass(1000);
    assert_eq!(names(&engine), [""; 0], "time did not stand");
}

/// The clock was ahead for a moment, and the store is closed before the background has accepted that it
/// was set back.
fn a_restart_right_after_a_set_back_keeps_each_duration<E: OnDisk>(
    dir: &Path,
    clock: &Arc<TestClock>,
) {
    const MINUTE_MS: u64 = 60_000;
    let engine = E::open_at(dir, clock);
    let start = clock.pass(2000);
    put_for(&engine, "for", 20 * MINUTE_MS);
    // More than one turn of the sweep is due first.
    for n in 0..100 {
        put_until_wall(&engine, &format!("at {n}"), start + MINUTE_MS);
    }
    clock.advance(HOUR_MS);
    engine.now();
    // sled writes the clocks down when it shows a key as expired.
    put_for(&engine, "gone", 1);
    clock.pass(1);
    assert_eq!(get(&engine, "gone"), None);
    clock.set(start + 1);
    clock.pass(1);
    engine.now();
    drop(engine);
    clock.pass(10 * MINUTE_MS);
    let engine = E::open_at(dir, clock);
    assert_eq!((engine.clock_offset_ms(), engine.stats().clock_jumps), (0, 0));
    clock.pass(10 * MINUTE_MS - 3);
    assert_eq!(names(&engine), ["for"]);
    clock.pass(1);
    assert_eq!(names(&engine), [""; 0]);
}
