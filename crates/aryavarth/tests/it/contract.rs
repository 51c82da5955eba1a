//! The contract of `KvsEngine`, told as stories, each on every engine, and on a store that is
//! reopened before every call.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use aryavarth::{Batch, Deadline, Durability, KEY_BYTES_MAX, KeyRange, KvsEngine, KvsError, Wait};

use crate::engines::at_hand;

stories! { [memory kv_store reopened sled] plain [
    an_engine_says_its_name_and_what_it_waits_for,
    a_value_is_there_until_it_is_overwritten_or_removed,
    removing_what_is_not_there_is_an_error_and_changes_nothing,
    keys_and_values_may_be_empty,
    keys_and_values_are_bytes,
    text_that_is_not_utf8_is_an_error_and_not_another_text,
    a_batch_applies_in_order_and_counts_what_it_removed,
    batches_written_together_are_answered_each_for_itself,
    a_closure_sees_the_newest_state_and_its_own_writes,
    a_closure_may_read_keys_that_it_did_not_announce,
    a_closure_that_announces_its_keys_while_it_runs_runs_twice_at_most,
    a_closure_that_fails_writes_nothing,
    a_closure_that_panics_writes_nothing_and_the_store_goes_on,
    closures_of_many_threads_lose_no_increment,
    a_scan_visits_the_range_in_order_and_back,
    a_scan_in_pages_misses_and_repeats_nothing,
    an_empty_range_has_one_page_that_is_done,
    what_is_too_large_is_refused_whole,
    clones_are_handles_of_one_store,
    stats_count_the_keys,
    what_was_waited_for_is_reached,
    a_task_is_woken_when_its_position_is_reached,
    compaction_changes_nothing_that_can_be_read,
] }

// A store that is reopened before every call cannot be called from inside one.
stories! { [every_unbroken] plain [
    a_call_into_the_store_from_inside_a_closure_is_refused_at_once,
] }

fn put<E: KvsEngine>(engine: &E, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
    let (_, position) = engine.write(Batch::new().put(key, value)).unwrap();
    engine.wait(position, Durability::Always).unwrap();
}

fn read<E: KvsEngine>(engine: &E, key: &[u8]) -> Option<Vec<u8>> {
    let (value, position) = engine.read(key, Wait::Yes).unwrap();
    engine.wait(position, Durability::Always).unwrap();
    if let Some((now, _)) = at_hand(engine.read(key, Wait::No)).unwrap() {
        assert_eq!(now, value);
    }
    value
}

/// The keys that a scan visits, page by page.
fn keys<E: KvsEngine>(engine: &E, range: &KeyRange, limit: usize) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let mut rest = range.clone();
    loop {
        let page = engine.scan(&rest, limit).unwrap();
        assert!(page.entries.len() <= limit);
        assert!(page.done || !page.entries.is_empty(), "a page that is not done makes progress");
        for (key, value) in page.entries {
            assert!(range.contains(&key));
            assert_eq!(read(engine, &key), Some(value));
            keys.push(key);
        }
        if page.done {
            return keys;
        }
        rest = range.clone().after(keys.last().unwrap());
    }
}

fn all_keys<E: KvsEngine>(engine: &E) -> Vec<Vec<u8>> {
    keys(engine, &KeyRange::all(), 1000)
}

fn an_engine_says_its_name_and_what_it_waits_for<E: KvsEngine>(engine: &E) {
    assert!(["kvs", "memory", "sled"].contains(&engine.name()), "{}", engine.name());
    assert_eq!(engine.clone().name(), engine.name());
    assert_eq!(engine.durability(), Durability::Always, "the default promises the most");
}

fn a_value_is_there_until_it_is_overwritten_or_removed<E: KvsEngine>(engine: &E) {
    assert_eq!(engine.get("k".into()).unwrap(), None);
    engine.set("k".into(), "v".into()).unwrap();
    assert_eq!(engine.get("k".into()).unwrap(), Some("v".into()));
    engine.set("k".into(), "w".into()).unwrap();
    assert_eq!(engine.get("k".into()).unwrap(), Some("w".into()));
    engine.remove("k".into()).unwrap();
    assert_eq!(engine.get("k".into()).unwrap(), None);
    engine.set("k".into(), "x".into()).unwrap();
    assert_eq!(engine.get("k".into()).unwrap(), Some("x".into()));
}

fn removing_what_is_not_there_is_an_error_and_changes_nothing<E: KvsEngine>(engine: &E) {
    assert!(matches!(engine.remove("k".into()), Err(KvsError::KeyNotFound)));
    put(engine, "k", "v");
    engine.remove("k".into()).unwrap();
    let error = engine.remove("k".into()).unwrap_err();
    assert!(matches!(error, KvsError::KeyNotFound));
    assert_eq!(error.to_string(), "Key not found");
    assert_eq!(all_keys(engine).len(), 0);
}

fn keys_and_values_may_be_empty<E: KvsEngine>(engine: &E) {
    assert_eq!(engine.get(String::new()).unwrap(), None);
    engine.set(String::new(), String::new()).unwrap();
    assert_eq!(engine.get(String::new()).unwrap(), Some(String::new()));
    assert_eq!(all_keys(engine), [b""]);
    engine.remove(String::new()).unwrap();
    assert_eq!(engine.get(String::new()).unwrap(), None);
    assert!(matches!(engine.remove(String::new()), Err(KvsError::KeyNotFound)));
}

fn keys_and_values_are_bytes<E: KvsEngine>(engine: &E) {
    let every_byte: Vec<u8> = (0..=255).collect();
    for length in [1, 7, 8, 22, 23, 24, 25, 100, 255, 256] {
        put(engine, &every_byte[..length], &every_byte[256 - length..]);
    }
    put(engine, &b"\0"[..], &b"zero"[..]);
    put(engine, &b"\0\0"[..], &b"two zeros"[..]);
    for length in [1, 7, 8, 22, 23, 24, 25, 100, 255, 256] {
        let expected =
            if length == 1 { b"zero".to_vec() } else { every_byte[256 - length..].to_vec() };
        assert_eq!(read(engine, &every_byte[..length]), Some(expected));
    }
    assert_eq!(read(engine, b"\0\0").unwrap(), b"two zeros");
    assert_eq!(read(engine, b"\0\0\0"), None);
}

fn text_that_is_not_utf8_is_an_error_and_not_another_text<E: KvsEngine>(engine: &E) {
    put(engine, "k", &b"\xff\xfe"[..]);
    assert!(matches!(engine.get("k".into()), Err(KvsError::NotUtf8)));
    assert_eq!(read(engine, b"k").unwrap(), b"\xff\xfe");
}

fn a_batch_applies_in_order_and_counts_what_it_removed<E: KvsEngine>(engine: &E) {
    let write = |batch: &Batch| engine.write(batch).unwrap().0;
    assert_eq!(write(&Batch::new()), 0);
    assert_eq!(write(Batch::new().delete("a")), 0);
    assert_eq!(write(Batch::new().put("a", "1").put("a", "2").put("b", "3")), 0);
    assert_eq!(read(engine, b"a").unwrap(), b"2");
    assert_eq!(write(Batch::new().delete("a").delete("a").delete("c")), 1);
    assert_eq!(read(engine, b"a"), None);
    assert_eq!(write(Batch::new().put("a", "4").delete("a").delete("b").put("b", "5")), 2);
    assert_eq!((read(engine, b"a"), read(engine, b"b").unwrap()), (None, b"5".to_vec()));
    assert_eq!(write(Batch::new().delete("b").put("b", "6").delete("b").delete("b")), 2);
    assert_eq!(all_keys(engine).len(), 0);
}

fn batches_written_together_are_answered_each_for_itself<E: KvsEngine>(engine: &E) {
    let too_long = vec![0; KEY_BYTES_MAX + 1];
    let outcomes = engine.write_each(&[
        Batch::from([("a", "1")]),
        Batch::from([("a", "2"), ("b", "3"), ("a", "4")]),
        Batch::new().put_with_deadline("b", "gone", Deadline::At(1)).clone(),
        Batch::new(),
        Batch::new().delete("a").delete("absent").clone(),
        Batch::from([(too_long, "")]),
        Batch::from([("c", "5")]),
        Batch::from([("late", "6")]),
    ]);
    let removed: Vec<Option<u64>> =
        outcomes.iter().map(|outcome| outcome.as_ref().ok().map(|(removed, _)| *removed)).collect();
    let expected = [Some(0), Some(0), Some(0), Some(0), Some(1), None, Some(0), Some(0)];
    assert_eq!(removed, expected);
    assert!(matches!(outcomes[5], Err(KvsError::TooLarge { what: "key", .. })));
    for (_, position) in outcomes.into_iter().flatten() {
        engine.wait(position, Durability::Always).unwrap();
    }
    assert_eq!(all_keys(engine), [b"c".to_vec(), b"late".to_vec()]);
    assert_eq!(read(engine, b"c"), Some(b"5".to_vec()));
}

fn a_closure_sees_the_newest_state_and_its_own_writes<E: KvsEngine>(engine: &E) {
    put(engine, "a", "1");
    put(engine, "b", "2");
    let (seen, position) = engine
        .transact(&[b"a", b"b"], |transaction| {
            let before = (transaction.read(b"a")?, transaction.contains(b"c")?);
            transaction.put("a", "3");
            transaction.put("c", "4");
            transaction.delete("b");
            transaction.delete("nothing");
            let during = (transaction.read(b"a")?, transaction.contains(b"c")?);
            Ok((before, during, transaction.read(b"b")?, transaction.contains(b"b")?))
        })
        .unwrap();
    engine.wait(position, Durability::Always).unwrap();
    let some = |text: &str| Some(text.as_bytes().to_vec());
    assert_eq!(seen, ((some("1"), false), (some("3"), true), None, false));
    assert_eq!((read(engine, b"a"), read(engine, b"b")), (some("3"), None));
    assert_eq!(all_keys(engine), [b"a", b"c"]);
    assert_eq!(engine.transact(&[], |_| Ok(7)).unwrap().0, 7, "a closure need not write");
}

fn a_closure_may_read_keys_that_it_did_not_announce<E: KvsEngine>(engine: &E) {
    for n in 0..50_u8 {
        put(engine, [n], vec![n; 1000]);
    }
    let (sum, _) = engine
        .transact(&[], |transaction| {
            let mut sum = 0;
            for n in 0..60_u8 {
                sum += transaction.read(&[n])?.map_or(0, |value| value.len());
            }
            transaction.put("sum", sum.to_string());
            Ok(sum)
        })
        .unwrap();
    assert_eq!(sum, 50_000);
    assert_eq!(read(engine, b"sum").unwrap(), b"50000");
}

/// Such a closure used to run once for each of its keys.
fn a_closure_that_announces_its_keys_while_it_runs_runs_twice_at_most<E: KvsEngine>(engine: &E) {
    let keys: Vec<Vec<u8>> = (0..500).map(|n| format!("key:{n}").into_bytes()).collect();
    let batch: Batch = keys.iter().map(|key| (key.clone(), vec![7; 3000])).collect();
    engine.with_space(1).write(&batch).unwrap();
    let (mut announced, mut collected) = (0, 0);
    let values = engine.transact(&[], |transaction| {
        announced += 1;
        transaction.select(1);
        transaction.fetch(keys.iter().map(Vec::as_slice))?;
        keys.iter().map(|key| transaction.read(key)).collect::<Result<Vec<_>, _>>()
    });
    assert!(values.unwrap().0.iter().all(|value| value.as_ref().is_some_and(|v| v.len() == 3000)));
    let found = engine.transact(&[], |transaction| {
        collected += 1;
        transaction.select(1);
        // Goes on to its end, however much is missing.
        let values: Vec<_> = keys.iter().map(|key| transaction.read(key)).collect();
        values.into_iter().collect::<Result<Vec<_>, _>>().map(|values| values.len())
    });
    assert_eq!((found.unwrap().0, announced <= 2, collected <= 2), (500, true, true));
}

fn a_closure_that_fails_writes_nothing<E: KvsEngine>(engine: &E) {
    put(engine, "a", "1");
    let failed = engine.transact(&[b"a"], |transaction| -> Result<(), KvsError> {
        transaction.put("a", "2");
        transaction.put("b", "2");
        Err(KvsError::KeyNotFound)
    });
    assert!(matches!(failed, Err(KvsError::KeyNotFound)));
    assert_eq!((read(engine, b"a").unwrap(), read(engine, b"b")), (b"1".to_vec(), None));
}

fn a_closure_that_panics_writes_nothing_and_the_store_goes_on<E: KvsEngine>(engine: &E) {
    put(engine, "a", "1");
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        engine.transact(&[b"a"], |transaction| -> Result<(), KvsError> {
            transaction.put("a", "2");
            panic!("a closure that panics");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(read(engine, b"a").unwrap(), b"1");
    put(engine, "a", "3");
    assert_eq!(read(engine, b"a").unwrap(), b"3");
}

/// Every call that needs the lock which the closure holds used to hang for ever.
fn a_call_into_the_store_from_inside_a_closure_is_refused_at_once<E: KvsEngine>(engine: &E) {
    fn refused<T>(done: Result<T, KvsError>) {
        assert!(matches!(done.err(), Some(KvsError::InsideTransaction)));
    }
    put(engine, "a", "1");
    let batch = Batch::from([("a", "2")]);
    let counted = engine.transact(&[b"a"], |transaction| {
        let other = engine.with_space(1);
        refused(engine.write(&batch));
        refused(other.write(&batch));
        engine.write_each(&[batch.clone(), batch.clone()]).into_iter().for_each(refused);
        refused(engine.set("a".into(), "2".into()));
        refused(engine.remove("a".into()));
        refused(engine.watch(b"a"));
        refused(other.transact(&[], |inner| {
            inner.clear();
            Ok(())
        }));
        // A figure needs no lock.
        assert_eq!(engine.stats().keys, 1);
        transaction.put("b", "2");
        transaction.read(b"a")
    });
    assert_eq!(counted.unwrap().0.unwrap(), b"1");
    put(engine, "a", "3");
    assert_eq!(
        (read(engine, b"a").unwrap(), read(engine, b"b").unwrap()),
        (b"3".into(), b"2".into())
    );
}

fn closures_of_many_threads_lose_no_increment<E: KvsEngine>(engine: &E) {
    let increment = |engine: &E| {
        let counted = engine.transact(&[b"n"], |transaction| {
            let text = transaction.read(b"n")?.unwrap_or_else(|| b"0".to_vec());
            let next = String::from_utf8(text).unwrap().parse::<u32>().unwrap() + 1;
            transaction.put("n", next.to_string());
            Ok(())
        });
        counted.unwrap();
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..250).for_each(|_| increment(engine)));
        }
    });
    assert_eq!(read(engine, b"n").unwrap(), b"1000");
}

fn a_scan_visits_the_range_in_order_and_back<E: KvsEngine>(engine: &E) {
    for key in ["b", "", "abc", "a", "ab", "ac", "a\u{7f}", "c"] {
        put(engine, key, key);
    }
    put(engine, &b"\xff"[..], "last but one");
    put(engine, &b"\xff\xff"[..], "last");
    engine.remove("ac".into()).unwrap();
    let visited = |range: KeyRange| {
        let forward = keys(engine, &range, 1000);
        let mut back = keys(engine, &range.reversed(), 1000);
        back.reverse();
        assert_eq!(forward, back);
        forward
    };
    let bytes = |keys: &[&[u8]]| keys.iter().map(|key| key.to_vec()).collect::<Vec<_>>();
    let from = |start, end| KeyRange { start, end, reverse: false };
    let (a, ab, b) = (b"a".to_vec(), b"ab".to_vec(), b"b".to_vec());
    assert_eq!(
        visited(KeyRange::all()),
        bytes(&[b"", b"a", b"ab", b"abc", b"a\x7f", b"b", b"c", b"\xff", b"\xff\xff"])
    );
    assert_eq!(visited(KeyRange::prefix(b"ab")), bytes(&[b"ab", b"abc"]));
    assert_eq!(visited(KeyRange::prefix(b"ac")), bytes(&[]));
    assert_eq!(visited(KeyRange::prefix(b"\xff")), bytes(&[b"\xff", b"\xff\xff"]));
    assert_eq!(visited(KeyRange::prefix(b"")).len(), 9);
    assert_eq!(
        visited(from(Bound::Included(ab.clone()), Bound::Included(b.clone()))),
        bytes(&[b"ab", b"abc", b"a\x7f", b"b"])
    );
    assert_eq!(
        visited(from(Bound::Excluded(ab), Bound::Excluded(b.clone()))),
        bytes(&[b"abc", b"a\x7f"])
    );
    assert_eq!(visited(from(Bound::Unbounded, Bound::Excluded(a))), bytes(&[b""]));
    assert_eq!(
        visited(from(Bound::Excluded(b), Bound::Unbounded)),
        bytes(&[b"c", b"\xff", b"\xff\xff"])
    );
}

fn a_scan_in_pages_misses_and_repeats_nothing<E: KvsEngine>(engine: &E) {
    let mut model = BTreeMap::new();
    for n in 0..300_u32 {
        let key = (n * 7919 % 300).to_be_bytes().to_vec();
        put(engine, key.clone(), n.to_string());
        model.insert(key, n);
    }
    for n in (0..300_u32).step_by(3) {
        engine.write(Batch::new().delete(n.to_be_bytes())).unwrap();
        model.remove(n.to_be_bytes().as_slice());
    }
    let expected: Vec<Vec<u8>> = model.into_keys().collect();
    for limit in [1, 2, 7, 199, 200, 201, 1000] {
        assert_eq!(keys(engine, &KeyRange::all(), limit), expected, "pages of {limit}");
        let mut back = keys(engine, &KeyRange::all().reversed(), limit);
        back.reverse();
        assert_eq!(back, expected, "pages of {limit}, back");
    }
    let first = engine.scan(&KeyRange::all(), 10).unwrap();
    assert_eq!((first.entries.len(), first.done), (10, false));
}

fn an_empty_range_has_one_page_that_is_done<E: KvsEngine>(engine: &E) {
    let none = |range: KeyRange| {
        let page = engine.scan(&range, 10).unwrap();
        assert!(page.entries.is_empty() && page.done, "{range:?}");
        let page = engine.scan(&range.reversed(), 10).unwrap();
        assert!(page.entries.is_empty() && page.done);
    };
    none(KeyRange::all());
    put(engine, "a", "1");
    put(engine, "b", "2");
    none(KeyRange::prefix(b"c"));
    none(KeyRange::all().after(b"b"));
    let (a, b) = (b"a".to_vec(), b"b".to_vec());
    let range = |start, end| KeyRange { start, end, reverse: false };
    none(range(Bound::Included(b.clone()), Bound::Included(a.clone())));
    none(range(Bound::Excluded(a.clone()), Bound::Excluded(a.clone())));
    none(range(Bound::Excluded(a), Bound::Excluded(b)));
}

fn what_is_too_large_is_refused_whole<E: KvsEngine>(engine: &E) {
    let largest = vec![b'k'; KEY_BYTES_MAX];
    let too_large = vec![b'k'; KEY_BYTES_MAX + 1];
    put(engine, largest.clone(), "v");
    assert_eq!(read(engine, &largest).unwrap(), b"v");
    let mut batch = Batch::from([("a", "1")]);
    match engine.write(batch.put(too_large.clone(), "v").delete(largest.clone())) {
        Err(KvsError::TooLarge { what, size, limit }) => {
            assert_eq!((what, size, limit), ("key", 65_536, 65_535));
        }
        other => panic!("a key of 65,536 bytes: {other:?}"),
    }
    let committed = engine.transact(&[], |transaction| {
        transaction.put("b", "2");
        transaction.put(too_large.clone(), "v");
        Ok(())
    });
    assert!(matches!(committed, Err(KvsError::TooLarge { what: "key", .. })));
    let value = vec![0; (64 << 20) + 1];
    let refused = engine.write(Batch::new().put("c", "3").put("d", value));
    assert!(matches!(refused, Err(KvsError::TooLarge { what: "value", .. })));
    assert_eq!(all_keys(engine), [largest]);
    match engine.read(&too_large, Wait::Yes) {
        Ok((value, _)) => assert_eq!(value, None),
        Err(error) => assert!(matches!(error, KvsError::TooLarge { .. })),
    }
}

fn clones_are_handles_of_one_store<E: KvsEngine>(engine: &E) {
    let other = engine.clone();
    put(engine, "a", "1");
    assert_eq!(read(&other, b"a").unwrap(), b"1");
    thread::spawn(move || other.remove("a".into()).unwrap()).join().unwrap();
    assert_eq!(read(engine, b"a"), None);
}

fn stats_count_the_keys<E: KvsEngine>(engine: &E) {
    assert_eq!(engine.stats().keys, 0);
    for key in ["a", "b", "c", "a"] {
        put(engine, key, "v");
    }
    assert_eq!(engine.stats().keys, 3);
    engine.write(Batch::new().delete("a").delete("a").delete("z").put("d", "v")).unwrap();
    assert_eq!(engine.stats().keys, 3);
    engine
        .transact(&[], |transaction| {
            for key in ["b", "c", "d"] {
                transaction.delete(key);
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(engine.stats().keys, 0);
}

fn what_was_waited_for_is_reached<E: KvsEngine>(engine: &E) {
    let mut before = None;
    for n in 0..10 {
        let (_, position) = engine.write(Batch::new().put("k", n.to_string())).unwrap();
        assert!(before.is_none_or(|before| before <= position));
        before = Some(position);
        let (_, seen) = engine.read(b"k", Wait::Yes).unwrap();
        assert!(seen <= position);
        assert!(engine.scan(&KeyRange::all(), 10).unwrap().position <= position);
        let ((), computed) = engine.transact(&[], |_| Ok(())).unwrap();
        assert!(computed >= position, "a closure may have looked at everything");
        engine.wait(position, Durability::Always).unwrap();
        for level in [Durability::Always, Durability::Interval(5), Durability::Os] {
            engine.wait(position, level).unwrap();
            let reached = engine.on_reached(position, level, Waker::noop());
            assert!(matches!(reached, Poll::Ready(Ok(()))));
        }
    }
}

/// Wakes a thread that waits as a task would.
struct Unpark(Thread, AtomicBool);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.1.store(true, Ordering::Release);
        self.0.unpark();
    }
}

fn a_task_is_woken_when_its_position_is_reached<E: KvsEngine>(engine: &E) {
    for level in [Durability::Always, Durability::Interval(5), Durability::Os] {
        for n in 0..10 {
            let (_, position) = engine.write(Batch::new().put("k", n.to_string())).unwrap();
            loop {
                let task = Arc::new(Unpark(thread::current(), AtomicBool::new(false)));
                match engine.on_reached(position, level, &Waker::from(Arc::clone(&task))) {
                    Poll::Ready(reached) => break reached.unwrap(),
                    Poll::Pending => {
                        while !task.1.load(Ordering::Acquire) {
                            thread::park_timeout(Duration::from_secs(60));
                        }
                    }
                }
            }
        }
    }
    assert_eq!(read(engine, b"k").unwrap(), b"9");
}

fn compaction_changes_nothing_that_can_be_read<E: KvsEngine>(engine: &E) {
    let mut model = BTreeMap::new();
    for round in 0..20_u8 {
        for key in 0..20_u8 {
            let (key, value) = (vec![b'k', key], vec![round; 500]);
            if (round + key[1]) % 7 == 0 {
                engine.write(Batch::new().delete(key.clone())).unwrap();
                model.remove(&key);
            } else {
                engine.write(Batch::new().put(key.clone(), value.clone())).unwrap();
                model.insert(key, value);
            }
        }
        if round % 8 == 7 {
            engine.compact().unwrap();
        }
    }
    engine.compact().unwrap();
    engine.compact().unwrap();
    for n in 0..20 {
        assert_eq!(read(engine, &[b'k', n]), model.get([b'k', n].as_slice()).cloned());
    }
    assert_eq!(all_keys(engine), model.into_keys().collect::<Vec<_>>());
}
