//! Wall clocks that jump, told as stories on every engine: deadlines go on with elapsed time, and a
//! deadline that is given by the wall clock is kept by it.

use std::path::Path;
use std::sync::Arc;

use aryavarth::KvsEngine;

use crate::engines::{OnDisk, get, names, put_until};
use crate::runner::TestClock;

stories! { [every_unbroken] timed [
    a_wall_clock_ahead_for_a_moment_moves_no_deadline,
    a_deadline_by_the_wall_clock_is_kept_by_it_after_a_jump,
    a_jump_is_counted_and_an_idle_hour_is_none,
] }

mod restarted {
    use super::*;
    stories! { [every_on_disk] on_disk [
        a_restart_after_a_jump_keeps_each_deadline,
    ] }
}

const HOUR_MS: u64 = 3_600_000;

fn put_for<E: KvsEngine>(engine: &E, key: &str, ms: u64) {
    put_until(engine, key, "v", engine.now_ms() + ms);
}

/// Sets a deadline by the wall clock, as EXPIREAT does.
fn put_until_wall<E: KvsEngine>(engine: &E, key: &str, wall_ms: u64) {
    put_until(engine, key, "v", wall_ms.saturating_add_signed(-engine.clock_offset_ms()));
}

fn a_wall_clock_ahead_for_a_moment_moves_no_deadline<E: KvsEngine>(engine: &E, clock: &TestClock) {
    let start = clock.pass(2000);
    put_for(engine, "before", 5000);
    put_until_wall(engine, "at", start + 5000);
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
    assert_eq!(names(engine), [""; 0], "each after five seconds");
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
