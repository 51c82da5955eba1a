//! The runner: plays a workload on a store and tells the oracle.
//!
//! The store's answers are checked at once against the [`Oracle`]; an answer that is
//! right at the moment but undone by a crash is found by the oracle later.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aryavarth::fs::{Crash, Fault, Fs, SimFs, Site};
use aryavarth::{
    Batch, Clock, Deadline, Durability, KeyRange, KvReader, KvStore, KvsEngine, KvsError, Options,
    Stored, Wait, Write,
};

use crate::engines::at_hand;
use crate::oracle::{Change, Effect, Key, Link, Oracle, Place, State};
use crate::workload::Workload;

/// Where the simulated stores live.
pub(crate) const DIR: &str = "/data/store";

/// A clock that moves only when told to.
#[derive(Debug)]
pub(crate) struct TestClock {
    wall_ms: AtomicU64,
    /// Elapsed time, once the clock counts it.
    elapsed_ms: AtomicU64,
    counts: AtomicBool,
}

impl TestClock {
    /// When the clocks of tests begin, in milliseconds since 1970.
    pub(crate) const START_MS: u64 = 1_700_000_000_000;

    pub(crate) fn new() -> Arc<TestClock> {
        Arc::new(TestClock {
            wall_ms: AtomicU64::new(Self::START_MS),
            elapsed_ms: AtomicU64::new(0),
            counts: AtomicBool::new(false),
        })
    }

    pub(crate) fn set(&self, ms: u64) {
        self.wall_ms.store(ms, Ordering::Relaxed);
    }

    /// Moves the clock on and returns its new time.
    pub(crate) fn advance(&self, ms: u64) -> u64 {
        self.wall_ms.fetch_add(ms, Ordering::Relaxed) + ms
    }

    /// Lets time pass by both clocks; elapsed time is counted from the first call on.
    pub(crate) fn pass(&self, ms: u64) -> u64 {
        self.elapsed_ms.fetch_add(ms, Ordering::Relaxed);
        self.counts.store(true, Ordering::Relaxed);
        self.advance(ms)
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::Relaxed)
    }

    fn elapsed_ms(&self) -> Option<u64> {
        let counts = self.counts.load(Ordering::Relaxed);
        counts.then(|| self.elapsed_ms.load(Ordering::Relaxed))
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

/// The spaces that workloads use: the last one has its slot in the index elsewhere.
const SPACES: [u32; 4] = [0, 1, 2, 300];

/// One step of a workload, in the space that was last chosen: 0 at first.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Set(Durability, Key, Vec<u8>),
    Remove(Durability, Key),
    Batch(Durability, Vec<Change>),
    /// Several batches, one after another, asked for together.
    Chain(Durability, Vec<Link>),
    /// A closure that moves the value of the first key to the second one and makes it longer, or
    /// fails if there is none.
    Move(Durability, Key, Key),
    /// The acts that follow are in this space.
    Use(u32),
    /// Sets a key for so many milliseconds.
    SetFor(Durability, Key, Vec<u8>, u64),
    /// The same until so many milliseconds later by the wall clock.
    SetAt(Durability, Key, Vec<u8>, u64),
    /// Empties the space.
    Clear(Durability),
    /// Swaps two spaces.
    Swap(Durability, u32, u32),
    /// A closure that empties the space, sets a key in it for a while, swaps it with another one
    /// and sets the key there too.
    Mix(Durability, u32, Key, Vec<u8>),
    Read(Durability, Key),
    Scan(Durability, KeyRange, usize),
    Flush,
    Compact,
    /// Background work: at most this many steps.
    Work(usize),
    /// Time passes, in milliseconds.
    Wait(u64),
    /// The wall clock is set so many milliseconds forward or back; more than it may differ by itself.
    Jump(i64),
    /// The same, and a look at everything before the store accepts it.
    JumpAndLook(Durability, i64),
    /// A clean close and an open.
    Reopen,
    /// A clean close, and opens without a reserve, the first of which finds no space for its manifest.
    RefusedOpen,
    /// A clean close, a look at every byte, and an open.
    Verify,
    /// A second open, while the first handle lives.
    OpenTwice,
    /// A reader beside the store opens, and reads all of it.
    Beside,
    /// From now on the disk has only this many more bytes.
    Limit(u64),
    /// The disk has space again.
    Unlimit,
    /// The file system turns out not to know allocation.
    NeverAllocate,
    /// The next call at this site finds no space.
    NoSpaceAt(Site),
    /// The next call at this site writes half of its bytes, and the one after it finds no space.
    HalfAt(Site),
}

/// Plays a workload on a store.
pub(crate) struct Runner {
    fs: SimFs,
    options: Options,
    clock: Arc<TestClock>,
    store: Option<KvStore>,
    space: u32,
    pub(crate) oracle: Oracle,
}

impl Runner {
    /// A runner for a file system, with an oracle that knows its history so far.
    pub(crate) fn new(fs: &SimFs, workload: &Workload, mut oracle: Oracle) -> Runner {
        workload.mapping.set(fs);
        let clock = TestClock::new();
        oracle.now_ms = oracle.now_ms.max(clock.pass(0));
        oracle.accepted_ms = oracle.accepted_ms.max(oracle.now_ms);
        clock.set(oracle.now_ms.saturating_add_signed(oracle.wall.ahead));
        let segment_bytes_min = workload.segment_bytes_min;
        let options = Options { clock: clock.clone(), segment_bytes_min, ..options(fs) };
        Runner { fs: fs.clone(), options, clock, store: None, space: 0, oracle }
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
        self.clock.pass(ms);
    }

    /// Takes over the clock of a store that was opened after a crash.
    pub(crate) fn restarted(&mut self, crash: Crash) -> Result<(), String> {
        let now = self.handle(Durability::Os).now();
        self.oracle.restarted(now, crash)
    }

    /// Closes the store cleanly.
    pub(crate) fn close(&mut self) -> Result<(), KvsError> {
        self.store.take().map_or(Ok(()), KvStore::close)
    }

    /// Reads every byte of the store, which is not open, and finds no damage.
    pub(crate) fn verify(&self) -> Result<(), KvsError> {
        let report = aryavarth::verify(Path::new(DIR), &self.options, |_, _| {})?;
        // A file that cannot be read counts as damaged, and is none of ours.
        let mut rot = report.damage.iter().filter(|damage| !damage.reason.contains("could not"));
        assert!(rot.all(|damage| !damage.is_loss()), "{report:?}");
        Ok(())
    }

    /// The handle that waits as `level` says.
    pub(crate) fn handle(&self, level: Durability) -> KvStore {
        let store = self.store.as_ref().expect("the store is open");
        store.with_durability(level).with_space(self.space)
    }

    fn play(&mut self, act: &Act) -> Result<(), KvsError> {
        self.accept_set_back(matches!(act, Act::SetAt(..)))?;
        let played = self.play_settled(act);
        self.follow_wall();
        played
    }

    /// Lets the store accept a wall clock that was set back, as a write of its own.
    fn accept_set_back(&mut self, is_needed: bool) -> Result<(), KvsError> {
        let (wall_ms, held_ms) = (self.clock.now_ms(), self.oracle.accepted_ms);
        if wall_ms + 1000 >= held_ms || !self.is_open() {
            return Ok(());
        }
        let store = self.handle(Durability::Os);
        if !is_needed && !self.oracle.has_wall_deadlines() {
            self.oracle.accepted_ms = store.now().wall_ms;
            return Ok(());
        }
        self.oracle.issued(vec![Effect::Accept(held_ms)]);
        while store.now().wall_ms == held_ms && store.step()? {}
        if store.now().wall_ms == held_ms {
            self.oracle.withdrawn();
        } else {
            self.oracle.acknowledged(Durability::Os);
            self.oracle.accepted_ms = store.now().wall_ms;
            assert_eq!(self.oracle.accepted_ms, wall_ms, "the wall clock as it is now");
        }
        Ok(())
    }

    /// A close that comes next may accept a wall clock that was set back, or may not: a disk can be full.
    pub(crate) fn expect_last_acceptance(&mut self) {
        let held_ms = self.oracle.accepted_ms;
        if self.is_open() && self.clock.now_ms() + 1000 < held_ms {
            self.oracle.issued(vec![Effect::Accept(held_ms)]);
        }
    }

    /// The accepted wall clock follows the wall clock forward.
    fn follow_wall(&mut self) {
        if let Some(store) = &self.store {
            let accepted_ms = store.now().wall_ms;
            self.oracle.accepted_ms = if self.oracle.has_wall_deadlines() {
                self.oracle.accepted_ms.max(self.clock.now_ms())
            } else {
                accepted_ms
            };
            assert_eq!(accepted_ms, self.oracle.accepted_ms, "the accepted wall clock");
        }
    }

    fn play_settled(&mut self, act: &Act) -> Result<(), KvsError> {
        match act {
            Act::Set(level, key, value) => {
                let effect = self.put(key, Some(value));
                self.write(*level, vec![effect], |store| store.put(key, value).map(|()| 0))
            }
            Act::Remove(level, key) => {
                let effect = self.put(key, None);
                self.write(*level, vec![effect], |store| store.delete(key).map(u64::from))
            }
            Act::Batch(level, changes) => {
                let mut batch = Batch::new();
                for (key, value) in changes {
                    match value {
                        Some(value) => batch.put(key.as_slice(), value.as_slice()),
                        None => batch.delete(key.as_slice()),
                    };
                }
                let put = |(key, value): &Change| self.put(key, value.as_ref());
                let effects = changes.iter().map(put).collect();
                self.write(*level, effects, |store| store.write(&batch))
            }
            Act::Chain(level, links) => self.chain(*level, links),
            Act::SetFor(..) | Act::SetAt(..) | Act::Clear(_) | Act::Swap(..) | Act::Mix(..) => {
                self.play_space(act)
            }
            Act::Move(level, from, to) => self.transact(*level, from, to),
            Act::Read(level, key) => {
                let store = self.handle(*level);
                let value = store.read(key)?;
                if let Some((now, _)) = at_hand(KvsEngine::read(&store, key, Wait::No))? {
                    assert_eq!(now, value, "what is at hand is what a read finds");
                }
                let place = (self.space, key.clone());
                self.oracle.shown_read(*level, &place, value.as_ref());
                Ok(())
            }
            Act::Scan(level, range, limit) => {
                let store = self.handle(*level);
                let entries = store.scan(range.clone()).take(*limit);
                let entries = entries.collect::<Result<Vec<_>, _>>()?;
                self.oracle.shown_scan(*level, self.space, range, *limit, &entries);
                Ok(())
            }
            _ => self.play_rest(act),
        }
    }

    /// Acts that concern spaces and deadlines.
    fn play_space(&mut self, act: &Act) -> Result<(), KvsError> {
        let (space, now_ms) = (self.space, self.oracle.now_ms);
        match act {
            Act::SetFor(level, key, value, ms) => {
                let (mut batch, deadline) = (Batch::new(), Deadline::At(now_ms + ms));
                let stored = (*ms > 0).then(|| Stored { value: value.clone(), deadline });
                let effect = Effect::Put((space, key.clone()), stored);
                batch.put_with_deadline(key.as_slice(), value.as_slice(), deadline);
                // A set is no removal, also if it comes too late.
                self.write_counted(*level, vec![effect], Some(0), |store| store.write(&batch))
            }
            Act::SetAt(level, key, value, ms) => {
                let at = Deadline::Wall(self.oracle.accepted_ms + ms);
                let stored = Stored { value: value.clone(), deadline: at };
                let stored = (*ms > 0).then_some(stored);
                let effect = Effect::Put((space, key.clone()), stored);
                self.write_counted(*level, vec![effect], Some(0), |store| {
                    store.put_with_deadline(key, value, at).map(|()| 0)
                })
            }
            Act::Clear(level) => {
                self.write(*level, vec![Effect::Clear(space)], |store| store.clear().map(|()| 0))
            }
            Act::Swap(level, a, b) => self.write(*level, vec![Effect::Swap(*a, *b)], |store| {
                store.transact(&[], |transaction| {
                    transaction.swap(*a, *b);
                    Ok(0)
                })
            }),
            Act::Mix(level, other, key, value) => {
                let stored = Stored { value: value.clone(), deadline: Deadline::At(now_ms + 1500) };
                let more = Stored { value: [value, &b"+"[..]].concat(), deadline: Deadline::Never };
                let place = (space, key.clone());
                let effects = vec![
                    Effect::Clear(space),
                    Effect::Put(place.clone(), Some(stored.clone())),
                    Effect::Swap(space, *other),
                    Effect::Put(place, Some(more.clone())),
                ];
                self.write(*level, effects, |store| {
                    store.transact(&[], |transaction| {
                        transaction.clear();
                        transaction.store(key.as_slice(), stored.clone());
                        transaction.swap(space, *other);
                        transaction.store(key.as_slice(), more.clone());
                        assert_eq!(transaction.find(key)?.as_ref(), Some(&more));
                        Ok(0)
                    })
                })
            }
            _ => unreachable!("played by play"),
        }
    }

    fn put(&self, key: &Key, value: Option<&Vec<u8>>) -> Effect {
        let stored = |value: &Vec<u8>| Stored { value: value.clone(), deadline: Deadline::Never };
        Effect::Put((self.space, key.clone()), value.map(stored))
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
            Act::Wait(ms) => {
                self.pass(*ms);
                self.oracle.now_ms += ms;
                let now_ms = self.handle(Durability::Os).now_ms();
                assert_eq!(now_ms, self.oracle.now_ms, "a deadline counts elapsed time");
            }
            Act::Jump(ms) => {
                self.clock.set(self.clock.now_ms().saturating_add_signed(*ms));
                self.oracle.wall.jump(*ms);
            }
            Act::JumpAndLook(level, ms) => {
                self.play_rest(&Act::Jump(*ms))?;
                self.follow_wall();
                self.play_settled(&Act::Scan(*level, KeyRange::all(), usize::MAX))?;
            }
            Act::Use(space) => self.space = *space,
            Act::Reopen => {
                self.close()?;
                self.oracle.synced_all();
                self.open()?;
                let now_ms = self.handle(Durability::Os).now_ms();
                assert_eq!(now_ms, self.oracle.now_ms, "a clean close keeps both clocks");
                let found = self.state()?;
                self.oracle.shown_all(&found);
            }
            Act::RefusedOpen => self.open_refused()?,
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
            Act::Beside => self.beside()?,
            Act::Limit(bytes) => self.fs.limit_space(self.fs.space_used() + bytes),
            Act::NoSpaceAt(site) => self.fs.fail_next(*site, Fault::NoSpace),
            Act::HalfAt(site) => {
                self.fs.fail_next(*site, Fault::Short);
                self.fs.fail_next(*site, Fault::NoSpace);
            }
            Act::NeverAllocate => self.fs.never_allocate(),
            Act::Unlimit => self.fs.limit_space(u64::MAX),
            _ => unreachable!("played by play"),
        }
        Ok(())
    }

    fn open_refused(&mut self) -> Result<(), KvsError> {
        self.close()?;
        self.oracle.synced_all();
        for reserve in ["reserve", "reserve.open"] {
            drop(self.fs.remove(Site::ReserveRemove, &Path::new(DIR).join(reserve)));
        }
        self.fs.fail_next(Site::ManifestCreate, Fault::NoSpace);
        match self.open() {
            Err(error) if error.is_full() => self.open(),
            done => done,
        }
    }

    fn write(
        &mut self,
        level: Durability,
        effects: Vec<Effect>,
        body: impl FnOnce(KvStore) -> Result<u64, KvsError>,
    ) -> Result<(), KvsError> {
        self.write_counted(level, effects, None, body)
    }

    fn write_counted(
        &mut self,
        level: Durability,
        effects: Vec<Effect>,
        count: Option<u64>,
        body: impl FnOnce(KvStore) -> Result<u64, KvsError>,
    ) -> Result<(), KvsError> {
        let store = self.handle(level);
        let only_puts = effects.iter().all(|effect| matches!(effect, Effect::Put(..)));
        let bystander = store.watch(b"written by nobody")?;
        let watch = match effects.first() {
            Some(Effect::Put((_, key), _)) if only_puts => Some(store.watch(key)?),
            _ => None,
        };
        let sets = matches!(effects.first(), Some(Effect::Put(_, Some(_))));
        let removed = self.oracle.issued(effects);
        let done = body(store);
        assert!(!bystander.is_touched(self.oracle.now()), "nobody wrote to that key");
        match done {
            Ok(found) => {
                assert_eq!(found, count.unwrap_or(removed), "removals that found their key");
                let touched = watch.is_some_and(|watch| watch.is_touched(self.oracle.now()));
                assert!(touched || !sets || !only_puts, "a key that is set is touched");
                self.oracle.acknowledged(level);
                Ok(())
            }
            Err(KvsError::Full { .. }) => {
                let touched = watch.is_some_and(|watch| watch.is_touched(self.oracle.now()));
                assert!(!touched, "what was refused touches nothing");
                self.oracle.withdrawn();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Writes batches together. The oracle gets the answers one by one; from the first
    /// one on whose outcome is unknown, they are in flight.
    fn chain(&mut self, level: Durability, links: &[Link]) -> Result<(), KvsError> {
        let (now_ms, space, store) = (self.oracle.now_ms, self.space, self.handle(level));
        let batch = |(ms, changes): &Link| {
            let write = |(key, value): &Change| match value.clone() {
                Some(value) => {
                    let deadline = ms.map_or(Deadline::Never, |ms| Deadline::At(now_ms + ms));
                    Write::Put { key: key.clone(), value, deadline }
                }
                None => Write::Delete { key: key.clone() },
            };
            changes.iter().map(write).collect()
        };
        let outcomes = store.write_each(&links.iter().map(batch).collect::<Vec<Batch>>());
        assert_eq!(outcomes.len(), links.len(), "each has an outcome");
        let mut failed = None;
        let mut unknown = false;
        for (outcome, (ms, changes)) in outcomes.into_iter().zip(links) {
            let effect = |(key, value): &Change| {
                let stored = |value: &Vec<u8>| {
                    let deadline = ms.map_or(Deadline::Never, |ms| Deadline::At(now_ms + ms));
                    Stored { value: value.clone(), deadline }
                };
                let value = value.as_ref().filter(|_| *ms != Some(0));
                Effect::Put((space, key.clone()), value.map(stored))
            };
            let removed = self.oracle.issued(changes.iter().map(effect).collect());
            let done = outcome.and_then(|(found, position)| {
                KvsEngine::wait(&store, position, level).map(|()| found)
            });
            match done {
                _ if unknown => {}
                Ok(found) => {
                    let removed = if ms.is_some() { 0 } else { removed };
                    assert_eq!(found, removed, "removals that found their key");
                    self.oracle.acknowledged(level);
                }
                Err(error) => {
                    unknown = matches!(error, KvsError::Poisoned { .. });
                    if !unknown {
                        self.oracle.withdrawn();
                    }
                    if !error.is_full() {
                        failed.get_or_insert(error);
                    }
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn transact(&mut self, level: Durability, from: &Key, to: &Key) -> Result<(), KvsError> {
        let before = self.oracle.newest(&(self.space, from.clone())).cloned();
        let after = before.clone().map(|value| [value, b"+".to_vec()].concat());
        self.oracle.issued(match &after {
            Some(after) => vec![self.put(from, None), self.put(to, Some(after))],
            None => Vec::new(),
        });
        let done = self.handle(level).transact(&[from], |transaction| {
            let mut value = transaction.read(from)?.ok_or(KvsError::KeyNotFound)?;
            value.push(b'+');
            transaction.delete(from.as_slice());
            transaction.put(to.as_slice(), value.as_slice());
            assert_eq!(transaction.read(to)?.as_ref(), Some(&value));
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

    /// A second process shows everything that was written, and what it showed stays.
    fn beside(&mut self) -> Result<(), KvsError> {
        let reader = KvReader::open_with(Path::new(DIR), self.options.clone())?;
        for space in SPACES {
            let entries = reader.with_space(space).scan(..).collect::<Result<Vec<_>, _>>()?;
            let all = KeyRange::all();
            self.oracle.shown_scan(Durability::Always, space, &all, usize::MAX, &entries);
        }
        Ok(())
    }

    /// Everything in the store, looked at from all sides.
    pub(crate) fn state(&self) -> Result<State, KvsError> {
        let (mut state, mut counted) = (State::new(), 0);
        for space in SPACES {
            let store = self.handle(Durability::Always).with_space(space);
            let entries = store.scan(KeyRange::all()).collect::<Result<Vec<_>, _>>()?;
            let back = store.scan(KeyRange::all().reversed()).collect::<Result<Vec<_>, _>>()?;
            assert!(entries.iter().eq(back.iter().rev()), "a scan back visits the same entries");
            let page = KvsEngine::keys(&store, &KeyRange::all(), usize::MAX)?;
            let keys = entries.iter().map(|(key, _)| key);
            assert!(page.done && page.keys.iter().eq(keys), "the keys are those of the scan");
            let count = store.count()?;
            assert!(count.keys >= entries.len() as u64, "the count of keys");
            counted += count.keys;
            for (key, value) in entries {
                assert_eq!(store.read(&key)?.as_ref(), Some(&value), "a read agrees with the scan");
                let deadline = store.deadline(&key)?.expect("the key is there");
                state.insert((space, key), Stored { value, deadline });
            }
            for place in self.oracle.keys().filter(|place| place.0 == space) {
                if !state.contains_key(place) {
                    assert_eq!(store.read(&place.1)?, None, "a read agrees with the scan");
                }
            }
        }
        assert_eq!(self.handle(Durability::Os).stats().keys, counted, "the count of keys");
        Ok(state)
    }

    /// Reads every key after a failure: answers even then must hold too.
    pub(crate) fn look_after_failure(&mut self) {
        if self.store.is_none() {
            return;
        }
        let store = self.handle(Durability::Always);
        let places: Vec<Place> = self.oracle.keys().cloned().collect();
        for place in places {
            if let Ok(value) = store.with_space(place.0).read(&place.1) {
                self.oracle.shown_after_failure(place, value);
            }
        }
    }
}
