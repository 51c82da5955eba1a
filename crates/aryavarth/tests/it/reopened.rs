//! A store that is closed and opened again before every call, as an engine for the contract.
//!
//! The promises of the contract must not depend on how long a store has been open. So each call of
//! the trait finds a store that has just been recovered: every second time after a clean close,
//! the other times from the files of a killed process, which is everything that it wrote and no
//! word that it ended. Background work is done by explicit steps before every third end.
//!
//! The files are simulated, because the stories make thousands of calls. Calls exclude each other,
//! so that no call is under way when the store goes away.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use aryavarth::fs::{Crash, SimFs};
use aryavarth::{
    Batch, Count, Deadline, Durability, KeyPage, KeyRange, KeyWalk, KvStore, KvsEngine, Options,
    Page, Position, Result, Stats, Stored, Transaction, Wait, Watch,
};

use crate::runner::{DIR, TestClock, options};

/// Steps of background work before an end, at most.
const STEPS_MAX: usize = 8;

/// Each life that writes leaves a segment of its own, far too small for compaction to begin by
/// itself. So every so many lives it is asked for.
const COMPACT_EVERY: u64 = 17;

/// `KvStore` with a reopen before every call. Clones are handles of one store.
#[derive(Clone)]
pub(crate) struct Reopened {
    life: Arc<Mutex<Life>>,
    space: u32,
}

struct Life {
    fs: SimFs,
    clock: Arc<TestClock>,
    /// There except during a reopen.
    store: Option<KvStore>,
    opens: u64,
}

impl Reopened {
    pub(crate) fn new(clock: &Arc<TestClock>) -> Reopened {
        let (fs, opens) = (SimFs::new(), 0);
        let mut life = Life { fs, clock: Arc::clone(clock), store: None, opens };
        life.open();
        Reopened { life: Arc::new(Mutex::new(life)), space: 0 }
    }

    /// Reopens the store for one call.
    fn once<R>(&self, call: impl FnOnce(&KvStore) -> R) -> R {
        // A closure that panics is one of the stories.
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        life.end();
        call(&life.open().with_space(self.space))
    }
}

impl Life {
    fn open(&mut self) -> &KvStore {
        self.opens += 1;
        let clock: Arc<TestClock> = Arc::clone(&self.clock);
        let options = Options { seed: self.opens, clock, ..options(&self.fs) };
        let store = KvStore::open_with(Path::new(DIR), options).unwrap();
        assert_eq!(store.recovery().clean, !self.opens.is_multiple_of(2));
        self.store.insert(store)
    }

    fn end(&mut self) {
        let store = self.store.take().unwrap();
        // Not before every end: the first step is a sync, and a killed store may lack one.
        let steps = if self.opens.is_multiple_of(3) { STEPS_MAX } else { 0 };
        for _ in 0..steps {
            if !store.step().unwrap() {
                break;
            }
        }
        if self.opens.is_multiple_of(COMPACT_EVERY) {
            store.compact().unwrap();
        }
        if self.opens.is_multiple_of(2) {
            store.close().unwrap();
        } else {
            // The store itself ends on a disk that is never read again.
            self.fs = self.fs.crash(Crash::Everything);
        }
    }
}

impl KvsEngine for Reopened {
    fn name(&self) -> &'static str {
        self.once(KvsEngine::name)
    }

    fn durability(&self) -> Durability {
        self.once(KvsEngine::durability)
    }

    fn space(&self) -> u32 {
        self.once(KvsEngine::space)
    }

    fn with_space(&self, space: u32) -> Self {
        Reopened { space, ..self.clone() }
    }

    fn now_ms(&self) -> u64 {
        self.once(KvsEngine::now_ms)
    }

    fn clock_offset_ms(&self) -> i64 {
        self.once(KvsEngine::clock_offset_ms)
    }

    fn find(&self, key: &[u8], wait: Wait) -> Result<(Option<Stored>, Position)> {
        self.once(|store| store.find(key, wait))
    }

    fn deadline(&self, key: &[u8], wait: Wait) -> Result<(Option<Deadline>, Position)> {
        self.once(|store| KvsEngine::deadline(store, key, wait))
    }

    fn keys(&self, range: &KeyRange, limit: usize) -> Result<KeyPage> {
        self.once(|store| KvsEngine::keys(store, range, limit))
    }

    fn count(&self) -> Result<(Count, Position)> {
        self.once(KvsEngine::count)
    }

    /// A walk of several steps begins again with each of them.
    fn walk(&self, cursor: u64, limit: usize) -> Result<KeyWalk> {
        self.once(|store| store.walk(cursor, limit))
    }

    /// Ends with the life in which it is made, so it knows nothing.
    fn watch(&self, key: &[u8]) -> Result<Watch> {
        self.once(|store| store.watch(key))
    }

    fn read(&self, key: &[u8], wait: Wait) -> Result<(Option<Vec<u8>>, Position)> {
        self.once(|store| KvsEngine::read(store, key, wait))
    }

    fn write(&self, batch: &Batch) -> Result<(u64, Position)> {
        self.once(|store| KvsEngine::write(store, batch))
    }

    fn write_each(&self, batches: &[Batch]) -> Vec<Result<(u64, Position)>> {
        self.once(|store| store.write_each(batches))
    }

    fn transact<R>(
        &self,
        keys: &[&[u8]],
        body: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<(R, Position)> {
        self.once(|store| KvsEngine::transact(store, keys, body))
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Page> {
        self.once(|store| KvsEngine::scan(store, range, limit))
    }

    fn wait(&self, position: Position, level: Durability) -> Result<()> {
        self.once(|store| store.wait(position, level))
    }

    fn on_reached(&self, position: Position, level: Durability, waker: &Waker) -> Poll<Result<()>> {
        // The writes of an earlier life were made durable when this one began, so none is pending.
        self.once(|store| store.on_reached(position, level, waker))
    }

    fn compact(&self) -> Result<()> {
        self.once(KvStore::compact)
    }

    fn stats(&self) -> Stats {
        self.once(KvStore::stats)
    }
}
