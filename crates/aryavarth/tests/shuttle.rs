//! The whole store under shuttle: its threads run one at a time, and at every atomic, lock or park
//! of the `sync` step shuttle decides which thread goes on. A few threads, a few operations each, and many
//! thousand schedules, most of which a machine with real threads hardly ever takes.
//!
//! Shuttle does not see the atomics inside the skip list, the epochs and arc-swap, whose
//! steps are taken whole here; and weak memory, since every atomic is sequentially consistent
//! here. Epochs belong to real threads, of which there is one, so an epoch ends only when none of
//! the simulated threads holds a pin: too late, never too early.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p aryavarth --lib --test shuttle model` runs this;
//! `SHUTTLE_ITERATIONS` says how many schedules each test takes (default 300; those of watermarks 5,000).
#![cfg(shuttle)]
#![allow(clippy::cast_possible_truncation, reason = "the numbers of tests are small")]

#[cfg(test)]
#[path = "it/linear.rs"]
mod linear;

#[cfg(test)]
mod model {
    use std::sync::Arc;

    use aryavarth::fs::{Crash, Fault, SimFs, Site};
    use aryavarth::{
        Batch, Durability, KeyRange, KvStore, KvsEngine, KvsError, Options, Transaction,
    };
    use crossbeam_epoch as epoch;
    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    use shuttle::sync::atomic::{AtomicU64, Ordering};
    use shuttle::{Config, Runner, thread};

    use crate::linear::{Answer, Event, Op, check};

    /// Epochs are shared by all real threads, and work that one of them puts off another may do: one
    /// test at a time.
    static ONE_TEST: std::sync::Mutex<()> = std::sync::Mutex::new(());

    /// Runs `test` under many schedules: half of them by chance, half with few preemptions.
    fn explore(test: impl Fn() + Send + Sync + 'static) {
        let _one = ONE_TEST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let set = std::env::var("SHUTTLE_ITERATIONS").ok();
        let iterations = set.and_then(|text| text.parse().ok()).unwrap_or(300);
        let mut config = Config::new();
        config.stack_size = 1 << 20;
        let test = Arc::new(move || {
            test();
            // Work that an epoch put off belongs to this schedule, not to the next one.
            for _ in 0..16 {
                epoch::pin().flush();
            }
        });
        let same = Arc::clone(&test);
        let random = RandomScheduler::new(iterations - iterations / 2);
        Runner::new(random, config.clone()).run(move || same());
        Runner::new(PctScheduler::new(3, iterations / 2), config).run(move || test());
    }

    fn options(fs: &SimFs) -> Options {
        let fs = Arc::new(fs.clone());
        Options { fs, segment_bytes_min: 4096, background: false, seed: 7, ..Options::default() }
    }

    fn open(fs: &SimFs) -> KvStore {
        KvStore::open_with("/store", options(fs)).unwrap()
    }

    /// Runs the threads to their end, each on a handle of its own that does not wait for syncs.
    fn together(store: &KvStore, bodies: Vec<Box<dyn FnOnce(KvStore) + Send>>) {
        let start = |body: Box<dyn FnOnce(KvStore) + Send>| {
            let store = store.with_durability(Durability::Os);
            thread::spawn(move || body(store))
        };
        let threads: Vec<_> = bodies.into_iter().map(start).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }

    fn number(bytes: Option<Vec<u8>>) -> Option<u8> {
        bytes.map(|bytes| bytes[0])
    }

    #[test]
    fn a_reader_never_sees_half_a_batch() {
        explore(|| {
            let store = open(&SimFs::new());
            let batch = |value: u8| Batch::from([("a", [value]), ("b", [value])]);
            store.write(&batch(1)).unwrap();
            together(
                &store,
                vec![
                    Box::new(move |store| {
                        store.write(&batch(2)).unwrap();
                        store.write(Batch::new().delete("a").delete("b")).unwrap();
                        store.write(&batch(3)).unwrap();
                    }),
                    Box::new(|store| {
                        let a = number(store.read(b"a").unwrap());
                        let b = number(store.read(b"b").unwrap());
                        let when = |seen| match seen {
                            Some(1) => 0..=0,
                            Some(2) => 1..=1,
                            None => 2..=2,
                            _ => 3..=3,
                        };
                        assert!(when(b).end() >= when(a).start(), "a is {a:?}, then b {b:?}");
                    }),
                    Box::new(|store| {
                        let all: Vec<_> =
                            store.scan(KeyRange::all()).map(|entry| entry.unwrap().1).collect();
                        assert!(all.is_empty() || all.len() == 2 && all[0] == all[1], "{all:?}");
                    }),
                ],
            );
        });
    }

    #[test]
    fn an_overwrite_wins_against_a_compaction_that_moves_the_key() {
        explore(|| {
            let fs = SimFs::new();
            let store = open(&fs);
            for key in ["set", "gone", "kept"] {
                store.put(key.as_bytes(), &[1]).unwrap();
            }
            together(
                &store,
                vec![
                    Box::new(|store| store.compact().unwrap()),
                    Box::new(|store| {
                        store.put(b"set", &[2]).unwrap();
                        assert_eq!(number(store.read(b"set").unwrap()), Some(2));
                        assert!(store.delete(b"gone").unwrap());
                        assert_eq!(store.read(b"gone").unwrap(), None);
                    }),
                ],
            );
            let is_right = |store: &KvStore| {
                assert_eq!(number(store.read(b"set").unwrap()), Some(2));
                assert_eq!(number(store.read(b"gone").unwrap()), None);
                assert_eq!(number(store.read(b"kept").unwrap()), Some(1));
            };
            is_right(&store);
            store.flush().unwrap();
            is_right(&open(&fs.crash(Crash::Nothing)));
        });
    }

    #[test]
    fn a_reader_finds_its_record_while_segments_are_retired() {
        explore(|| {
            let store = open(&SimFs::new());
            store.put(b"kept", &[1]).unwrap();
            store.put(b"moves", &[1]).unwrap();
            together(
                &store,
                vec![
                    Box::new(|store| {
                        store.compact().unwrap();
                        store.put(b"moves", &[2]).unwrap();
                        // Its copies may get the table indexes that the first one gave back.
                        store.compact().unwrap();
                    }),
                    Box::new(|store| {
                        for _ in 0..2 {
                            assert_eq!(number(store.read(b"kept").unwrap()), Some(1));
                        }
                    }),
                    Box::new(|store| {
                        let first = number(store.read(b"moves").unwrap()).unwrap();
                        let second = number(store.read(b"moves").unwrap()).unwrap();
                        assert!(second >= first, "it went back from {first} to {second}");
                    }),
                ],
            );
        });
    }

    #[test]
    fn an_entry_belongs_to_its_key_while_anybody_can_see_it() {
        explore(|| {
            let store = open(&SimFs::new());
            store.put(b"a", b"a1").unwrap();
            together(
                &store,
                vec![
                    Box::new(|store| {
                        for key in [b"b", b"c", b"a"] {
                            assert!(store.delete(if key == b"b" { b"a" } else { b"b" }).is_ok());
                            store.flush().unwrap();
                            // The next write takes removed keys out of the index, and an entry
                            // is free once no thread holds an epoch.
                            store.put(key, &[key[0], b'2']).unwrap();
                            epoch::pin().flush();
                        }
                    }),
                    Box::new(|store| {
                        for key in [b"a", b"b", b"a"] {
                            let value = store.read(key).unwrap();
                            assert!(value.is_none_or(|value| value[0] == key[0]));
                        }
                    }),
                    Box::new(|store| {
                        for entry in store.scan(KeyRange::all()) {
                            let (key, value) = entry.unwrap();
                            assert_eq!(key[0], value[0]);
                        }
                    }),
                ],
            );
        });
    }

    #[test]
    fn what_was_acknowledged_or_seen_survives_a_power_cut() {
        explore(|| {
            let fs = SimFs::new();
            let store = open(&fs);
            let acknowledged = |value: Option<u8>, fs: &SimFs| {
                let found = open(&fs.crash(Crash::Nothing)).read(b"k").unwrap();
                assert!(number(found) >= value, "{value:?} was shown");
            };
            let threads: Vec<_> = (1..=3)
                .map(|i| {
                    let (store, fs) = (store.clone(), fs.clone());
                    thread::spawn(move || {
                        let value = if i == 3 {
                            number(store.read(b"k").unwrap())
                        } else {
                            let add = |held: Option<Vec<u8>>| number(held).unwrap_or(0) + 1;
                            let add = |tx: &mut Transaction<'_>| {
                                let value = add(tx.read(b"k")?);
                                tx.put("k", [value]);
                                Ok(value)
                            };
                            Some(store.transact(&[b"k"], add).unwrap())
                        };
                        acknowledged(value, &fs);
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }

    #[test]
    fn a_failed_sync_leaves_nobody_waiting() {
        explore(|| {
            let fs = SimFs::new();
            let store = open(&fs);
            store.put(b"k", &[0]).unwrap();
            fs.fail_next(Site::LogSync, Fault::LostSync);
            let threads: Vec<_> = (1..=3)
                .map(|i| {
                    let store = store.clone();
                    thread::spawn(move || match store.put(&[i], &[i]) {
                        Err(KvsError::Poisoned { .. }) => {}
                        other => panic!("nothing after {other:?} was synced"),
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(number(store.read(b"k").unwrap()), Some(0));
        });
    }

    /// Three threads on two keys, with compaction: whatever the schedule, there is an order that
    /// explains their answers.
    #[test]
    fn every_schedule_has_an_order_that_explains_it() {
        let seeds = Arc::new(std::sync::Mutex::new(1));
        explore(move || {
            let mut seed = seeds.lock().unwrap();
            let mut random: u64 = *seed;
            *seed += 1;
            drop(seed);
            let mut below = move |end: u64| {
                random =
                    random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                (random >> 33) % end
            };
            let store = open(&SimFs::new());
            let clock = Arc::new(AtomicU64::new(1));
            let threads: Vec<_> = (0..3u64)
                .map(|i| {
                    let (store, clock) =
                        (store.with_durability(Durability::Os), Arc::clone(&clock));
                    let ops: Vec<_> = (0..3).map(|n| (below(8), below(2), 10 * i + n)).collect();
                    thread::spawn(move || {
                        let run = |&(what, key, fresh): &(u64, u64, u64)| {
                            let call = clock.fetch_add(1, Ordering::SeqCst);
                            let (op, answer) = run(&store, what, key as usize, fresh);
                            let end = clock.fetch_add(1, Ordering::SeqCst);
                            Event { op, answer: Some(answer), call, end }
                        };
                        ops.iter().map(run).collect::<Vec<_>>()
                    })
                })
                .collect();
            let compactor = thread::spawn({
                let store = store.clone();
                move || store.compact().unwrap()
            });
            let mut events: Vec<Event> =
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
            compactor.join().unwrap();
            for key in 0..2 {
                let call = clock.fetch_add(2, Ordering::SeqCst);
                let (op, answer) = run(&store, 0, key, 0);
                events.push(Event { op, answer: Some(answer), call, end: call + 1 });
            }
            if let Err(story) = check(&vec![None; 2], &events) {
                panic!("{story}");
            }
        });
    }

    const KEYS: [&str; 2] = ["a", "b"];

    fn run(store: &KvStore, what: u64, key: usize, fresh: u64) -> (Op, Answer) {
        let value = |read: Option<Vec<u8>>| number(read).map(u64::from);
        let byte = [fresh as u8];
        match what {
            0..=2 => {
                let read = value(store.read(KEYS[key].as_bytes()).unwrap());
                (Op::Read(vec![key]), Answer::Values(vec![read]))
            }
            3 => {
                store.put(KEYS[key].as_bytes(), &byte).unwrap();
                (Op::Write(vec![(key, Some(fresh))]), Answer::Removed(0))
            }
            4 => {
                let found = store.delete(KEYS[key].as_bytes()).unwrap();
                (Op::Write(vec![(key, None)]), Answer::Removed(found.into()))
            }
            5 => {
                store.write(Batch::new().put("a", byte).put("b", byte)).unwrap();
                (Op::Write(vec![(0, Some(fresh)), (1, Some(fresh))]), Answer::Removed(0))
            }
            6 => {
                let removed = store.write(Batch::new().delete("a").delete("b")).unwrap();
                (Op::Write(vec![(0, None), (1, None)]), Answer::Removed(removed))
            }
            _ => {
                let (held, _) = KvsEngine::transact(store, &[], |tx| {
                    let held = value(tx.read(KEYS[key].as_bytes())?);
                    tx.put(KEYS[key], [held.unwrap_or(0) as u8 + 1]);
                    Ok(held)
                })
                .unwrap();
                (Op::Increment(vec![key]), Answer::Values(vec![held]))
            }
        }
    }
}
