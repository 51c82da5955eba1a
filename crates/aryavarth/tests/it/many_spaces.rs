//! Many spaces: the cost of a change is that of its own spaces, however many others there are, and no
//! generation is ever another space's.
//!
//! The story of 20,000 spaces took 48 s to make them and 9 to 20 ms for each clear while the table of
//! spaces was one record, which each change wrote whole. The bounds here are in bytes of the log; the
//! one in time is a hundred times the usual time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aryavarth::{Batch, KvStore, KvsEngine, MemoryEngine, Transaction, Wait};

use crate::engines::{OnDisk, get, names, transact};
use crate::runner::TestClock;
use crate::workload::Dice;

stories! { [every] timed [
    any_changes_of_spaces_come_to_what_maps_say,
] }

stories! { [every_unbroken] timed [
    a_swap_is_never_seen_half,
] }

mod on_disk {
    use super::*;
    stories! { [every_on_disk] on_disk [
        twenty_thousand_spaces_cost_what_changes,
    ] }
}

const SPACES: u32 = 20_000;
/// Bytes of the log that a change of one space may take: a record, a mark, and much room. A table of
/// 20,000 spaces would take 320,000.
const CHANGE_BYTES_MAX: u64 = 300;
/// For the whole story; it takes about a second.
const STORY_MAX: Duration = Duration::from_secs(100);

/// The value of the key of each space, as it should be.
type Model = BTreeMap<u32, u32>;

fn check<E: KvsEngine>(engine: &E, model: &Model) {
    assert_eq!(engine.stats().keys, model.len() as u64);
    for space in 0..=SPACES {
        let space = engine.with_space(space);
        let found = space.find(b"k", Wait::Yes).unwrap().0.map(|stored| stored.value);
        let expected = model.get(&space.space()).map(|value| value.to_be_bytes().to_vec());
        assert_eq!(found, expected, "space {}", space.space());
        assert_eq!(space.count().unwrap().0.keys, u64::from(expected.is_some()));
    }
}

/// Sets the key of each space, alone.
fn make<E: KvsEngine>(engine: &E, model: &mut Model) {
    for space in 0..SPACES {
        engine.with_space(space).write(Batch::new().put("k", space.to_be_bytes())).unwrap();
        model.insert(space, space);
    }
}

/// Runs a change of two spaces at most, which may not take more of the log than that.
fn change<E: KvsEngine>(
    engine: &E,
    body: impl FnMut(&mut Transaction<'_>) -> aryavarth::Result<()>,
) {
    let before = engine.stats().appended_bytes;
    transact(engine, body);
    let bytes = engine.stats().appended_bytes - before;
    assert!(bytes <= CHANGE_BYTES_MAX, "a change wrote {bytes} bytes");
}

/// Each space is cleared or swapped by a transaction of its own, then all by one.
fn clear_and_swap<E: KvsEngine>(engine: &E, model: &mut Model) {
    for space in (0..SPACES).step_by(3) {
        change(&engine.with_space(space), |transaction| {
            transaction.clear();
            Ok(())
        });
        model.remove(&space);
    }
    let swap_in_model = |model: &mut Model, a: u32, b: u32| {
        let (of_a, of_b) = (model.remove(&a), model.remove(&b));
        model.extend(of_b.map(|value| (a, value)));
        model.extend(of_a.map(|value| (b, value)));
    };
    for space in (0..SPACES).step_by(5) {
        change(engine, |transaction| {
            transaction.swap(space, space + 1);
            Ok(())
        });
        swap_in_model(model, space, space + 1);
    }
    transact(engine, |transaction| {
        for space in (0..SPACES).step_by(2) {
            transaction.swap(space, SPACES - space);
        }
        for space in (0..SPACES).step_by(7) {
            transaction.select(space);
            transaction.clear();
        }
        Ok(())
    });
    for space in (0..SPACES).step_by(2) {
        swap_in_model(model, space, SPACES - space);
    }
    model.retain(|space, _| !space.is_multiple_of(7));
}

fn is_quick(begun: Instant) {
    assert!(begun.elapsed() < STORY_MAX, "the story took {:?}", begun.elapsed());
}

fn twenty_thousand_spaces_cost_what_changes<E: OnDisk>(dir: &Path, clock: &Arc<TestClock>) {
    let (mut model, begun) = (Model::new(), Instant::now());
    let engine = E::open_at(dir, clock);
    make(&engine, &mut model);
    clear_and_swap(&engine, &mut model);
    check(&engine, &model);
    drop(engine);
    let engine = E::open_at(dir, clock);
    check(&engine, &model);
    // Generations are given again after a restart, and none that a space has.
    clear_and_swap(&engine, &mut model);
    make(&engine, &mut model);
    check(&engine, &model);
    engine.compact().unwrap();
    drop(engine);
    check(&E::open_at(dir, clock), &model);
    is_quick(begun);
}

#[test]
fn twenty_thousand_spaces_in_memory_cost_what_changes() {
    let (engine, mut model, begun) = (MemoryEngine::new(), Model::new(), Instant::now());
    make(&engine, &mut model);
    clear_and_swap(&engine, &mut model);
    make(&engine, &mut model);
    check(&engine, &model);
    is_quick(begun);
}

/// Numbers of spaces: low ones, the ends of the low ones, and high ones.
const NUMBERS: [u32; 10] = [0, 1, 2, 15, 16, 17, 300, (1 << 31) - 1, 1 << 31, u32::MAX];

/// The keys of each space and their values.
type Maps = BTreeMap<u32, BTreeMap<String, String>>;

fn any_changes_of_spaces_come_to_what_maps_say<E: KvsEngine>(engine: &E, _: &TestClock) {
    let steps = std::env::var("SPACES_STEPS").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    let mut dice = Dice::new(11);
    let mut maps = Maps::new();
    for step in 0..steps {
        // A closure may run again.
        (dice, maps) = transact(engine, |transaction| {
            let (mut dice, mut maps) = (dice.clone(), maps.clone());
            for n in 0..=dice.below(4) {
                one_change(transaction, &mut dice, &mut maps, &format!("{step}.{n}"));
            }
            Ok((dice, maps))
        });
        if step % 97 == 96 {
            engine.compact().unwrap();
        }
        if step % 40 == 39 || step + 1 == steps {
            for number in NUMBERS {
                let space = engine.with_space(number);
                let map = maps.entry(number).or_default();
                assert!(names(&space).iter().eq(map.keys()), "space {number}, step {step}");
                for (key, value) in &*map {
                    assert_eq!(get(&space, key).as_ref(), Some(value), "space {number}");
                }
            }
        }
    }
}

/// Sets, removes, clears or swaps, in a transaction and in maps.
fn one_change(transaction: &mut Transaction<'_>, dice: &mut Dice, maps: &mut Maps, value: &str) {
    let mut number = || NUMBERS[dice.below(NUMBERS.len() as u64) as usize];
    let (a, b) = (number(), number());
    let key = format!("key {}", dice.below(5));
    transaction.select(a);
    match dice.below(8) {
        0 => {
            transaction.clear();
            maps.remove(&a);
        }
        1 => {
            transaction.swap(a, b);
            let (of_a, of_b) = (maps.remove(&a), maps.remove(&b));
            maps.extend(of_a.map(|map| (b, map)));
            maps.extend(of_b.map(|map| (a, map)));
        }
        2 => {
            transaction.delete(key.as_str());
            maps.entry(a).or_default().remove(&key);
        }
        _ => {
            transaction.put(key.as_str(), value);
            maps.entry(a).or_default().insert(key, value.to_owned());
        }
    }
}

/// A reader that has seen one space after a swap never sees the other one before it.
fn a_swap_is_never_seen_half<E: KvsEngine>(engine: &E, _: &TestClock) {
    const ROUNDS: u32 = 300;
    // A low space and a high one, which have slots of different kinds.
    let (low, high) = (engine.with_space(3), engine.with_space(300));
    low.write(Batch::new().put("k", "0")).unwrap();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // The value is the number of swaps, and is in the low space after an even number.
            for round in 1..=ROUNDS {
                transact(engine, |transaction| {
                    transaction.select(if round % 2 == 1 { 3 } else { 300 });
                    transaction.put("k", round.to_string());
                    transaction.swap(3, 300);
                    Ok(())
                });
            }
            is_done.store(true, Ordering::Release);
        });
        let seen = |space: &E| -> Option<u32> {
            let stored = space.find(b"k", Wait::Yes).unwrap().0?;
            Some(String::from_utf8(stored.value).unwrap().parse().unwrap())
        };
        let mut last = 0;
        while !is_done.load(Ordering::Acquire) {
            for (first, second) in [(&low, &high), (&high, &low)] {
                let seen = [seen(first), seen(second)];
                for round in seen.into_iter().flatten() {
                    assert!(round >= last, "a swap was undone: {round} after {last}");
                    last = round;
                }
                // The key is in one space at a time, and every swap gives it another value.
                if let [Some(first), Some(second)] = seen {
                    assert!(second > first, "half a swap: {first}, then {second} in the other");
                }
            }
        }
    });
    assert_eq!(seen_at_end(&low, &high), (Some(ROUNDS.to_string()), None));
}

fn seen_at_end<E: KvsEngine>(low: &E, high: &E) -> (Option<String>, Option<String>) {
    (get(low, "k"), get(high, "k"))
}

/// Emptied spaces are given back although there are many, and none has a key left in the index.
#[test]
fn the_generations_of_many_emptied_spaces_are_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = KvStore::open(dir.path()).unwrap().with_durability(aryavarth::Durability::Os);
    let mut model = Model::new();
    for _ in 0..3 {
        make(&store, &mut model);
        for space in 0..SPACES {
            store.with_space(space).clear().unwrap();
        }
    }
    store.compact().unwrap();
    assert_eq!(store.stats().keys, 0);
    // The records of 20,000 spaces, and their hints; those of the cleared keys are gone.
    let bytes = store.stats().disk_bytes;
    assert!(bytes < 4 << 20, "{bytes} bytes for spaces without keys");
}
