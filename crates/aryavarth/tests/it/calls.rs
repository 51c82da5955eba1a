//! Calls of `KvStore` that are made of others: ranges from both ends, conditional writes, errors of
//! the caller's own, named spaces.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aryavarth::fs::SimFs;
use aryavarth::{Batch, Deadline, KeyRange, KvStore, KvsEngine, KvsError, Options, Result};

fn open(fs: &SimFs) -> KvStore {
    let options = Options { fs: Arc::new(fs.clone()), background: false, ..Options::default() };
    KvStore::open_with(Path::new("/db"), options).unwrap()
}

/// Numbers that look random, the same in each run.
fn numbers(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

#[test]
fn a_range_is_read_from_both_ends_until_they_meet() {
    let store = open(&SimFs::new());
    let mut batch = Batch::new();
    let mut model = BTreeMap::new();
    for number in 0..1500_u32 {
        let key = format!("{number:05}");
        batch.put(key.as_str(), number.to_string());
        model.insert(key.into_bytes(), number.to_string().into_bytes());
    }
    store.write(&batch).unwrap();
    let mut random = numbers(7);
    for round in 0..40 {
        let range =
            KeyRange::from(format!("{:05}", random(900))..format!("{:05}", 600 + random(900)));
        let range = if round % 2 == 0 { range } else { range.reversed() };
        let mut expected: Vec<_> = model
            .iter()
            .filter(|(key, _)| range.contains(key))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        if range.reverse {
            expected.reverse();
        }
        let (mut scan, mut keys) = (store.scan(range.clone()), store.keys(range));
        let (mut front, mut back) = (Vec::new(), Vec::new());
        loop {
            let from_back = random(3) == 0;
            let entry = if from_back { scan.next_back() } else { scan.next() };
            let key = if from_back { keys.next_back() } else { keys.next() };
            assert_eq!(
                key.map(Result::unwrap),
                entry.as_ref().map(|e| e.as_ref().unwrap().0.clone())
            );
            let Some(entry) = entry else { break };
            if from_back { back.push(entry.unwrap()) } else { front.push(entry.unwrap()) }
        }
        back.reverse();
        front.extend(back);
        assert_eq!(front, expected, "round {round}");
    }
}

#[test]
fn of_many_that_swap_a_value_one_succeeds_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = KvStore::open(dir.path()).unwrap();
    let won: u64 = thread::scope(|scope| {
        let swap = |_| {
            scope.spawn(|| {
                let mut won = 0;
                while won < 50 {
                    let before = store.read(b"n").unwrap();
                    let number = before
                        .as_ref()
                        .map_or(0, |n| u64::from_le_bytes(n[..].try_into().unwrap()));
                    let after = (number + 1).to_le_bytes();
                    match store.compare_and_swap(b"n", before.as_deref(), Some(&after)).unwrap() {
                        Ok(()) => won += 1,
                        Err(current) => assert_ne!(current, before, "a refusal shows the value"),
                    }
                }
                won
            })
        };
        let threads: Vec<_> = (0..4).map(swap).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(store.read(b"n").unwrap(), Some(won.to_le_bytes().to_vec()));
    assert_eq!(
        store.compare_and_swap(b"n", Some(b"other"), None).unwrap().unwrap_err().unwrap(),
        won.to_le_bytes()
    );
}

#[test]
fn an_update_keeps_the_deadline_and_a_swap_ends_it() {
    let store = open(&SimFs::new());
    store.put_for(b"k", b"1", Duration::from_secs(100)).unwrap();
    let deadline = store.deadline(b"k").unwrap();
    assert!(matches!(deadline, Some(Deadline::At(_))));
    assert_eq!(store.fetch_update(b"k", |_| Some(b"2".to_vec())).unwrap(), Some(b"1".to_vec()));
    assert_eq!(store.deadline(b"k").unwrap(), deadline);
    assert_eq!(store.compare_and_swap(b"k", Some(b"2"), Some(b"3")).unwrap(), Ok(()));
    assert_eq!(store.deadline(b"k").unwrap(), Some(Deadline::Never));
    assert_eq!(store.fetch_update(b"k", |_| None).unwrap(), Some(b"3".to_vec()));
    assert_eq!((store.deadline(b"k").unwrap(), store.contains(b"k").unwrap()), (None, false));
    store.put_for(b"gone", b"", Duration::ZERO).unwrap();
    assert!(!store.contains(b"gone").unwrap());
    assert!(store.insert_if_absent(b"gone", b"1").unwrap());
    assert_eq!(store.count().unwrap().keys, 1);
}

#[derive(Debug, PartialEq)]
enum Refusal {
    TooPoor(u8),
    Store(String),
}

impl From<KvsError> for Refusal {
    fn from(error: KvsError) -> Refusal {
        Refusal::Store(error.to_string())
    }
}

/// The closure reads a key that it did not announce, so it runs again after its first error, which
/// is the store's and arrives converted: it must not be taken for a refusal.
#[test]
fn an_error_of_the_callers_own_writes_nothing_and_arrives_as_it_is() {
    let fs = SimFs::new();
    open(&fs).put(b"purse", &[3]).unwrap();
    let store = open(&fs);
    let pay = |price: u8| {
        store.try_transact(&[], |transaction| {
            transaction.put("seen", "yes");
            let purse = transaction.read(b"purse")?.map_or(0, |purse| purse[0]);
            let left = purse.checked_sub(price).ok_or(Refusal::TooPoor(purse))?;
            transaction.put("purse", [left]);
            Ok(left)
        })
    };
    assert_eq!(pay(4), Err(Refusal::TooPoor(3)));
    assert!(!store.contains(b"seen").unwrap());
    assert_eq!(pay(2), Ok(1));
    let large = store.try_transact(&[], |transaction| {
        transaction.put(vec![0; 70_000], "");
        Ok::<_, Refusal>(())
    });
    assert!(matches!(large, Err(Refusal::Store(_))), "{large:?}");
}

#[test]
fn a_named_space_is_reached_by_its_name_alone() {
    let fs = SimFs::new();
    let store = open(&fs);
    let names = ["b", "a", "ß", &"x".repeat(255)];
    for name in names {
        store.named(name).unwrap().put(b"name", name.as_bytes()).unwrap();
    }
    assert_eq!(store.count().unwrap().keys, 0);
    for space in 0..100 {
        assert_eq!(store.with_space(space).count().unwrap().keys, 0);
    }
    drop(store);
    let store = open(&fs);
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    assert_eq!(store.space_names().unwrap(), sorted);
    for name in names {
        let read = store.named(name).unwrap().read(b"name").unwrap();
        assert_eq!(read.as_deref(), Some(name.as_bytes()));
    }
    let before = store.named("a").unwrap();
    assert!(store.delete_named("a").unwrap());
    assert_eq!(before.read(b"name").unwrap(), None);
    before.put(b"name", b"late").unwrap();
    let again = store.named("a").unwrap();
    assert_eq!(again.read(b"name").unwrap(), None, "its number is not given out again");
    assert_ne!(KvsEngine::space(&again), KvsEngine::space(&before));
    assert!(matches!(store.named(""), Err(KvsError::InvalidOption(_))));
    assert!(matches!(store.named(&"x".repeat(256)), Err(KvsError::TooLarge { .. })));
}

#[test]
fn threads_that_name_a_space_at_once_get_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = KvStore::open(dir.path()).unwrap();
    let spaces: Vec<Vec<u32>> = thread::scope(|scope| {
        let name = |number: usize| KvsEngine::space(&store.named(&format!("{number}")).unwrap());
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(move || (0..20).map(name).collect())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(spaces.iter().all(|of_one| *of_one == spaces[0]));
    let mut all = spaces[0].clone();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 20);
}
