//! The runner: plays a workload on a store and tells the oracle.
//!
//! What the store answers is checked at once against what the [`Oracle`] knows; an answer that is
//! right at the moment but undone by a crash is found by the oracle later.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aryavarth::fs::{Fault, SimFs, Site};
use aryavarth::{Batch, Clock, Durability, KeyRange, KvStore, KvsEngine, KvsError, Options};

use crate::oracle::{Change, Key, Oracle};
use crate::workload::Workload;

/// Where the simulated stores live.
pub(crate) const DIR: &str = "/data/store";

/// A clock that moves only when told to.
#[derive(Debug)]
pub(crate) struct TestClock(AtomicU64);

impl TestClock {
    /// When the clocks of tests begin, in milliseconds since 1970.
    pub(crate) const START_MS: u64 = 1_700_000_000_000;

    pub(crate) fn new() -> Arc<TestClock> {
        Arc::new(TestClock(AtomicU64::new(Self::START_MS)))
    }

    pub(crate) fn set(&self, ms: u64) {
        self.0.store(ms, Ordering::Relaxed);
    }

    /// Moves the clock on and returns what it says then.
    pub(crate) fn advance(&self, ms: u64) -> u64 {
        self.0.fetch_add(ms, Ordering::Relaxed) + ms
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Options that make a run repeatable.
pub(crate) fn options(fs: &SimFs) -> Options {
    Options {
        fs: Arc::new(fs.clone()),
        background: false,
        segment_bytes_min: 4096,
        clock: TestClock::new(),
        seed: 42,
        ..Options::default()
    }
}

/// One step of a workload.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Set(Durability, Key, Vec<u8>),
    Remove(Durability, Key),
    Batch(Durability, Vec<Change>),
    /// A closure that moves the value of the first key to the second one and makes it longer, or
    /// fails if there is none.
    Move(Durability, Key, Key),
    Read(Durability, Key),
    Scan(Durability, KeyRange, usize),
    Flush,
    Compact,
    /// Background work: at most this many steps.
    Work(usize),
    /// Time passes, in milliseconds.
    Wait(u64),
    /// A clean close and an open.
    Reopen,
    /// A clean close, a look at every byte, and an open.
    Verify,
    /// A second open, while the first handle lives.
    OpenTwice,
    /// From now on the disk has only this many more bytes.
    Limit(u64),
    /// The disk has space again.
    Unlimit,
    /// The file system turns out not to know allocation.
    NeverAllocate,
    /// The next call at this site finds no space.
    NoSpaceAt(Site),
}

/// Plays a workload on a store.
pub(crate) struct Runner {
    fs: SimFs,
    options: Options,
    clock: Arc<TestClock>,
    store: Option<KvStore>,
    pub(crate) oracle: Oracle,
}

impl Runner {
    /// A runner for a file system, with an oracle that knows what happened there so far.
    pub(crate) fn new(fs: &SimFs, workload: &Workload, oracle: Oracle) -> Runner {
        let clock = TestClock::new();
        let segment_bytes_min = workload.segment_bytes_min;
        let options = Options { clock: clock.clone(), segment_bytes_min, ..options(fs) };
        Runner { fs: fs.clone(), options, clock, store: None, oracle }
    }

    /// Opens the store and plays the acts until one fails.
    pub(crate) fn run(&mut self, acts: &[Act]) -> Result<(), KvsError> {
        self.open()?;
        acts.iter().try_for_each(|act| self.play(act))
    }

    /// The same, and a last look at everything before a clean close.
    pub(crate) fn run_whole(&mut self, acts: &[Act]) -> Result<(), KvsError> {
        self.run(acts)?;
        let found = self.state()?;
        self.oracle.shown_all(&found);
        self.close()?;
        self.oracle.synced_all();
        Ok(())
    }

    /// Opens the store.
    pub(crate) fn open(&mut self) -> Result<(), KvsError> {
        self.store = Some(KvStore::open_with(Path::new(DIR), self.options.clone())?);
        Ok(())
    }

    /// Whether a store was opened and not closed.
    pub(crate) fn is_open(&self) -> bool {
        self.store.is_some()
    }

    /// Time passes, in milliseconds.
    pub(crate) fn pass(&self, ms: u64) {
        self.clock.0.fetch_add(ms, Ordering::Relaxed);
    }

    /// Closes the store cleanly.
    pub(crate) fn close(&mut self) -> Result<(), KvsError> {
        self.store.take().map_or(Ok(()), KvStore::close)
    }

    /// Reads every byte of the store, which nobody has open, and finds no damage.
    pub(crate) fn verify(&self) -> Result<(), KvsError> {
        let report = aryavarth::verify(Path::new(DIR), &self.options, |_, _| {})?;
        // A file that cannot be read counts as damaged, and is none of ours.
        let mut rot = report.damage.iter().filter(|damage| !damage.reason.contains("could not"));
        assert!(rot.all(|damage| damage.harmless), "{report:?}");
        Ok(())
    }

    /// The handle that waits as `level` says.
    pub(crate) fn handle(&self, level: Durability) -> KvStore {
        self.store.as_ref().expect("the store is open").with_durability(level)
    }

    fn play(&mut self, act: &Act) -> Result<(), KvsError> {
        match act {
            Act::Set(level, key, value) => {
                let change = vec![(key.clone(), Some(value.clone()))];
                self.write(*level, change, |store| store.put(key, value).map(|()| 0))
            }
            Act::Remove(level, key) => {
                let change = vec![(key.clone(), None)];
                self.write(*level, change, |store| store.delete(key).map(u64::from))
            }
            Act::Batch(level, changes) => {
                let batch = changes.iter().fold(Batch::new(), |batch, (key, value)| match value {
                    Some(value) => batch.set(key.as_slice(), value.as_slice()),
                    None => batch.remove(key.as_slice()),
                });
                self.write(*level, changes.clone(), |store| store.write(batch))
            }
            Act::Move(level, from, to) => self.commit(*level, from, to),
            Act::Read(level, key) => {
                let store = self.handle(*level);
                let value = store.read(key)?;
                if let Some((at_hand, _)) = KvsEngine::read_now(&store, key)? {
                    assert_eq!(at_hand, value, "what is at hand is what a read finds");
                }
                self.oracle.shown_read(*level, key, value.as_ref());
                Ok(())
            }
            Act::Scan(level, range, limit) => {
                let store = self.handle(*level);
                let entries = store.scan(range.clone()).take(*limit);
                let entries = entries.collect::<Result<Vec<_>, _>>()?;
                self.oracle.shown_scan(*level, range, *limit, &entries);
                Ok(())
            }
            _ => self.play_rest(act),
        }
    }

    fn play_rest(&mut self, act: &Act) -> Result<(), KvsError> {
        match act {
            Act::Flush => {
                self.handle(Durability::Os).flush()?;
                self.oracle.synced_all();
            }
            Act::Compact => match self.handle(Durability::Always).compact() {
                Err(error) if error.is_full() => {}
                done => done?,
            },
            Act::Work(steps) => {
                let store = self.handle(Durability::Always);
                for _ in 0..*steps {
                    match store.step() {
                        Ok(true) => {}
                        Err(error) if !error.is_full() => return Err(error),
                        _ => break,
                    }
                }
            }
            Act::Wait(ms) => self.pass(*ms),
            Act::Reopen => {
                self.close()?;
                self.oracle.synced_all();
                self.open()?;
                let found = self.state()?;
                self.oracle.shown_all(&found);
            }
            Act::Verify => {
                self.close()?;
                self.oracle.synced_all();
                self.verify()?;
                self.open()?;
            }
            Act::OpenTwice => match KvStore::open_with(Path::new(DIR), self.options.clone()) {
                Err(KvsError::Locked { .. }) => {}
                Err(error) => return Err(error),
                Ok(_) => panic!("a second open of a store that is open"),
            },
            Act::Limit(bytes) => self.fs.limit_space(self.fs.space_used() + bytes),
            Act::NoSpaceAt(site) => self.fs.fail_next(*site, Fault::NoSpace),
            Act::NeverAllocate => self.fs.never_allocate(),
            Act::Unlimit => self.fs.limit_space(u64::MAX),
            _ => unreachable!("played by play"),
        }
        Ok(())
    }

    fn write(
        &mut self,
        level: Durability,
        changes: Vec<Change>,
        body: impl FnOnce(KvStore) -> Result<u64, KvsError>,
    ) -> Result<(), KvsError> {
        let removed = self.oracle.issued(changes);
        match body(self.handle(level)) {
            Ok(found) => {
                assert_eq!(found, removed, "removals that found their key");
                self.oracle.acknowledged(level);
                Ok(())
            }
            Err(KvsError::Full { .. }) => {
                self.oracle.withdrawn();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn commit(&mut self, level: Durability, from: &Key, to: &Key) -> Result<(), KvsError> {
        let before = self.oracle.newest(from).cloned();
        let after = before.clone().map(|value| [value, b"+".to_vec()].concat());
        self.oracle.issued(match &after {
            Some(after) => vec![(from.clone(), None), (to.clone(), Some(after.clone()))],
            None => Vec::new(),
        });
        let done = self.handle(level).commit(&[from], |transaction| {
            let mut value = transaction.get(from)?.ok_or(KvsError::KeyNotFound)?;
            value.push(b'+');
            transaction.remove(from.as_slice());
            transaction.set(to.as_slice(), value.as_slice());
            assert_eq!(transaction.get(to)?.as_ref(), Some(&value));
            Ok(value)
        });
        match done {
            Ok(value) => {
                assert_eq!(Some(value), after);
                self.oracle.acknowledged(level);
                Ok(())
            }
            Err(KvsError::KeyNotFound) if before.is_none() => {
                self.oracle.withdrawn();
                Ok(())
            }
            Err(KvsError::Full { .. }) => {
                self.oracle.withdrawn();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Everything in the store, looked at from all sides.
    pub(crate) fn state(&self) -> Result<Vec<(Key, Vec<u8>)>, KvsError> {
        let store = self.handle(Durability::Always);
        let entries = store.scan(KeyRange::all()).collect::<Result<Vec<_>, _>>()?;
        let back = store.scan(KeyRange::all().reversed()).collect::<Result<Vec<_>, _>>()?;
        assert!(entries.iter().eq(back.iter().rev()), "a scan back visits the same entries");
        for (key, value) in &entries {
            assert_eq!(store.read(key)?.as_ref(), Some(value), "a read agrees with the scan");
        }
        for key in self.oracle.keys() {
            if entries.binary_search_by(|(other, _)| other.cmp(key)).is_err() {
                assert_eq!(store.read(key)?, None, "a read agrees with the scan");
            }
        }
        assert_eq!(store.stats().keys, entries.len() as u64, "the count of keys");
        Ok(entries)
    }

    /// Reads every key after a failure: what is answered even then must hold too.
    pub(crate) fn look_after_failure(&mut self) {
        if self.store.is_none() {
            return;
        }
        let store = self.handle(Durability::Always);
        let keys: Vec<Key> = self.oracle.keys().cloned().collect();
        for key in keys {
            if let Ok(value) = store.read(&key) {
                self.oracle.shown_after_failure(key, value);
            }
        }
    }
}
