//! The sled engine's additions to sled: durable when acknowledged, in groups; a directory that
//! remembers its engine; one process per directory. The contract itself is told in `contract.rs`.
//!
//! The store runs on the real file system, watched: every call that it makes beside sled's own is
//! noted, and can be made to fail.
#![expect(clippy::disallowed_methods, reason = "a test meddles with the files")]

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use aryavarth::fs::{Fs, FsFile, IoError, OpenHow, RealFs, Site};
use aryavarth::{
    Batch, Durability, KeyRange, KvStore, KvsEngine, KvsError, Options, Position, SledKvsEngine,
    Wait, verify,
};

use crate::format::set_format;

const LEVELS: [Durability; 3] = [Durability::Always, Durability::Interval(5), Durability::Os];

/// The real file system, with a list of the calls and one that fails.
#[derive(Clone, Debug)]
struct Watched {
    watch: Arc<Watch>,
    fs: Arc<dyn Fs>,
}

impl Default for Watched {
    fn default() -> Watched {
        Watched { watch: Arc::default(), fs: Arc::new(RealFs) }
    }
}

#[derive(Debug, Default)]
struct Watch {
    calls: Mutex<Vec<Site>>,
    fails: Mutex<Option<Site>>,
}

impl Watched {
    fn options(&self) -> Options {
        Options { fs: Arc::new(self.clone()), ..Options::default() }
    }

    fn open(&self, dir: &Path) -> aryavarth::Result<SledKvsEngine> {
        SledKvsEngine::open_with(dir, self.options())
    }

    fn fail(&self, site: Option<Site>) {
        *self.watch.fails.lock().unwrap() = site;
    }

    fn count(&self, site: Site) -> usize {
        self.watch.calls.lock().unwrap().iter().filter(|&&call| call == site).count()
    }

    fn note(&self, site: Site, path: &Path) -> Result<(), IoError> {
        self.watch.calls.lock().unwrap().push(site);
        if *self.watch.fails.lock().unwrap() == Some(site) {
            let source = io::Error::other("the test pulls the plug");
            return Err(IoError { site, path: path.to_owned(), source });
        }
        Ok(())
    }

    fn watch(&self, file: Arc<dyn FsFile>) -> Arc<dyn FsFile> {
        Arc::new(WatchedFile { watched: self.clone(), file })
    }
}

#[derive(Debug)]
struct WatchedFile {
    watched: Watched,
    file: Arc<dyn FsFile>,
}

impl Fs for Watched {
    fn create_dir(&self, site: Site, dir: &Path) -> Result<bool, IoError> {
        self.note(site, dir)?;
        self.fs.create_dir(site, dir)
    }

    fn open_dir(&self, site: Site, dir: &Path) -> Result<Arc<dyn Fs>, IoError> {
        self.note(site, dir)?;
        let fs = self.fs.open_dir(site, dir)?;
        Ok(Arc::new(Watched { fs, ..self.clone() }))
    }

    fn list(&self, site: Site, dir: &Path) -> Result<Vec<String>, IoError> {
        self.note(site, dir)?;
        self.fs.list(site, dir)
    }

    fn open(&self, site: Site, path: &Path, how: OpenHow) -> Result<Arc<dyn FsFile>, IoError> {
        self.note(site, path)?;
        Ok(self.watch(self.fs.open(site, path, how)?))
    }

    fn rename(&self, site: Site, from: &Path, to: &Path) -> Result<(), IoError> {
        self.note(site, from)?;
        self.fs.rename(site, from, to)
    }

    fn remove(&self, site: Site, path: &Path) -> Result<(), IoError> {
        self.note(site, path)?;
        self.fs.remove(site, path)
    }

    fn sync_dir(&self, site: Site, dir: &Path) -> Result<(), IoError> {
        self.note(site, dir)?;
        self.fs.sync_dir(site, dir)
    }

    fn try_lock(&self, site: Site, path: &Path) -> Result<Option<Arc<dyn FsFile>>, IoError> {
        self.note(site, path)?;
        Ok(self.fs.try_lock(site, path)?.map(|file| self.watch(file)))
    }
}

impl FsFile for WatchedFile {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn read_at(&self, site: Site, buf: &mut [u8], offset: u64) -> Result<usize, IoError> {
        self.watched.note(site, self.path())?;
        self.file.read_at(site, buf, offset)
    }

    fn write_at(&self, site: Site, buf: &[u8], offset: u64) -> Result<usize, IoError> {
        self.watched.note(site, self.path())?;
        self.file.write_at(site, buf, offset)
    }

    fn allocate(&self, site: Site, len: u64) -> Result<(), IoError> {
        self.watched.note(site, self.path())?;
        self.file.allocate(site, len)
    }

    fn truncate(&self, site: Site, len: u64) -> Result<(), IoError> {
        self.watched.note(site, self.path())?;
        self.file.truncate(site, len)
    }

    fn sync(&self, site: Site) -> Result<(), IoError> {
        self.watched.note(site, self.path())?;
        self.file.sync(site)
    }

    fn len(&self, site: Site) -> Result<u64, IoError> {
        self.watched.note(site, self.path())?;
        self.file.len(site)
    }

    fn allocated(&self, site: Site) -> Result<u64, IoError> {
        self.watched.note(site, self.path())?;
        self.file.allocated(site)
    }
}

/// Waits for an act of a background thread.
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not happen");
        thread::sleep(Duration::from_millis(2));
    }
}

struct Unpark(Thread, AtomicBool);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.1.store(true, Ordering::Release);
        self.0.unpark();
    }
}

/// Waits for a position as a task would.
fn wait_as_task(engine: &SledKvsEngine, position: Position, level: Durability) {
    loop {
        let woken = Arc::new(Unpark(thread::current(), AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&woken));
        match engine.on_reached(position, level, &waker) {
            Poll::Ready(reached) => return reached.unwrap(),
            Poll::Pending => {
                while !woken.1.load(Ordering::Acquire) {
                    thread::park_timeout(Duration::from_secs(60));
                }
            }
        }
    }
}

#[test]
fn a_directory_remembers_its_engine() {
    let dir = tempfile::tempdir().unwrap();
    let (of_kvs, of_sled) = (dir.path().join("kvs"), dir.path().join("sled"));
    KvStore::open(&of_kvs).unwrap().put(b"k", b"kvs").unwrap();
    SledKvsEngine::open(&of_sled).unwrap().set("k".into(), "sled".into()).unwrap();

    let refused = [
        ("sled", KvStore::open(&of_sled).map(drop).unwrap_err()),
        ("sled", verify(&of_sled, &Options::default(), |_, _| {}).map(drop).unwrap_err()),
        ("kvs", SledKvsEngine::open(&of_kvs).map(drop).unwrap_err()),
    ];
    for (owner, error) in refused {
        assert!(matches!(&error, KvsError::WrongEngine { found, .. } if found == owner));
        assert!(error.to_string().contains(&format!("--engine {owner}")), "{error}");
    }

    assert_eq!(KvStore::open(&of_kvs).unwrap().read(b"k").unwrap(), Some(b"kvs".to_vec()));
    let sled = SledKvsEngine::open(&of_sled).unwrap();
    assert_eq!(sled.get("k".into()).unwrap(), Some("sled".into()));
}

#[test]
fn a_directory_of_another_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    SledKvsEngine::open(dir.path()).unwrap().set("k".into(), "v".into()).unwrap();
    let current = fs::read_to_string(dir.path().join("CURRENT")).unwrap();
    let name = current.split(' ').next().unwrap();
    let number = name.strip_prefix("MANIFEST-").unwrap().parse().unwrap();
    let mut manifest = fs::read(dir.path().join(name)).unwrap();
    set_format(&mut manifest, number, 0);
    fs::write(dir.path().join(name), &manifest).unwrap();

    let error = SledKvsEngine::open(dir.path()).unwrap_err();
    assert!(matches!(error, KvsError::UnknownFormat { found: 0, known: 3, .. }), "{error}");
    assert_eq!(fs::read(dir.path().join(name)).unwrap(), manifest);
}

#[test]
fn a_directory_that_sled_made_by_itself_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("db"), b"of somebody else").unwrap();
    let error = SledKvsEngine::open(dir.path()).unwrap_err();
    assert!(matches!(error, KvsError::NotOurs { .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_second_open_is_refused_with_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let engine = SledKvsEngine::open(dir.path()).unwrap();
    match SledKvsEngine::open(dir.path()) {
        Err(KvsError::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    let other = engine.clone();
    engine.close().unwrap();
    assert!(matches!(other.get("k".into()), Err(KvsError::Closed)));
    drop(other);
    SledKvsEngine::open(dir.path()).unwrap();
}

#[test]
fn everything_is_there_again_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let large = vec![b'l'; 200_000];
    let mut newest = Position::ZERO;
    for round in 0..4_u32 {
        let engine = SledKvsEngine::open(dir.path()).unwrap();
        assert_eq!(engine.stats().keys, u64::from(round) * 20);
        for n in 0..20 {
            let mut batch = Batch::from([(format!("{round}:{n}"), &large[..n * 10_000])]);
            let batch = batch.put("passing", "by").delete("passing");
            let (_, position) = engine.write(batch).unwrap();
            assert!(position > newest, "no position is used again");
            newest = position;
        }
        let (_, removed) = engine.write(Batch::new().put("gone", "soon")).unwrap();
        let (_, absent) = engine.write(Batch::new().delete("gone")).unwrap();
        assert!(removed < absent);
        newest = absent;
        engine.close().unwrap();
    }
    let engine = SledKvsEngine::open(dir.path()).unwrap();
    assert_eq!(engine.stats().keys, 80);
    assert!(engine.stats().written_position > newest.0);
    for round in 0..4 {
        for n in 0..20 {
            let (value, position) =
                engine.read(format!("{round}:{n}").as_bytes(), Wait::Yes).unwrap();
            assert_eq!(value.unwrap(), large[..n * 10_000]);
            assert!(position <= newest, "a value keeps the position of its write");
        }
    }
    assert_eq!(engine.scan(&KeyRange::prefix(b"gone"), 10).unwrap().entries, []);
}

#[test]
fn a_lost_log_is_not_an_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    SledKvsEngine::open(dir.path()).unwrap().set("k".into(), "v".into()).unwrap();
    fs::remove_file(dir.path().join("sled/db")).unwrap();
    let error = SledKvsEngine::open(dir.path()).unwrap_err();
    assert!(matches!(error, KvsError::Corrupt { .. }), "{error}");
    assert!(!dir.path().join("sled/db").exists(), "nothing was changed");
}

#[test]
fn a_store_whose_making_failed_anywhere_can_be_made_again() {
    let sites = |calls: &Watched| calls.watch.calls.lock().unwrap().clone();
    let watched = Watched::default();
    let dir = tempfile::tempdir().unwrap();
    watched.open(dir.path()).unwrap();
    let mut failed = 0;
    let mut tried = Vec::new();
    for site in sites(&watched) {
        if tried.contains(&site) {
            continue;
        }
        tried.push(site);
        let dir = tempfile::tempdir().unwrap();
        let watched = Watched::default();
        watched.fail(Some(site));
        failed += u32::from(watched.open(dir.path()).is_err());
        watched.fail(None);
        let engine = watched.open(dir.path()).unwrap_or_else(|e| panic!("after {site:?}: {e}"));
        engine.set("k".into(), "v".into()).unwrap();
        assert_eq!(engine.get("k".into()).unwrap(), Some("v".into()));
    }
    assert!(failed > 10, "{failed} of {tried:?} failed");
}

#[test]
fn an_acknowledged_write_has_been_synced() {
    let dir = tempfile::tempdir().unwrap();
    let watched = Watched::default();
    let engine = watched.open(dir.path()).unwrap();
    for n in 1..=10 {
        let before = watched.count(Site::SledLogSync);
        engine.set("k".into(), n.to_string()).unwrap();
        assert!(watched.count(Site::SledLogSync) > before);
        assert_eq!(engine.stats().durable_position, engine.stats().written_position);
    }
    let before = watched.count(Site::SledLogSync);
    assert_eq!(engine.get("k".into()).unwrap(), Some("10".into()));
    assert_eq!(engine.get("absent".into()).unwrap(), None);
    assert_eq!(watched.count(Site::SledLogSync), before, "what is durable needs no sync");
}

#[test]
fn a_large_value_is_synced_before_the_log_that_points_at_it() {
    let dir = tempfile::tempdir().unwrap();
    let watched = Watched::default();
    let engine = watched.open(dir.path()).unwrap();
    watched.watch.calls.lock().unwrap().clear();
    engine.set("large".into(), "l".repeat(1 << 20)).unwrap();
    let calls = watched.watch.calls.lock().unwrap().clone();
    let at = |site| calls.iter().position(|&call| call == site).unwrap();
    assert!(at(Site::SledBlobSync) < at(Site::SledBlobDirSync));
    assert!(at(Site::SledBlobDirSync) < at(Site::SledLogSync));

    // Once it was complete when it was synced, it is left alone.
    engine.set("small".into(), "s".into()).unwrap();
    engine.set("small".into(), "t".into()).unwrap();
    watched.watch.calls.lock().unwrap().clear();
    engine.set("small".into(), "u".into()).unwrap();
    assert_eq!(watched.count(Site::SledBlobSync), 0);
}

#[test]
fn waiting_writers_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let watched = Watched::default();
    let engine = watched.open(dir.path()).unwrap();
    let (threads, writes) = (64, 50);
    let (before, groups_before) = (watched.count(Site::SledLogSync), engine.stats().syncs);
    thread::scope(|scope| {
        for thread in 0..threads {
            let engine = &engine;
            scope.spawn(move || {
                for n in 0..writes {
                    engine.set(format!("{thread}:{n}"), "v".repeat(100)).unwrap();
                }
            });
        }
    });
    let syncs = watched.count(Site::SledLogSync) - before;
    assert!(syncs > 0 && syncs * 4 < threads * writes, "{syncs} syncs");
    // The last group may be counted after its writers have gone.
    eventually("one sync of the disk for each group", || {
        engine.stats().syncs - groups_before == (watched.count(Site::SledLogSync) - before) as u64
    });
    assert_eq!(engine.stats().keys, (threads * writes) as u64);
    println!("{syncs} syncs of the disk for {} writes", threads * writes);
}

#[test]
fn every_level_is_reached_by_threads_and_by_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let engine = SledKvsEngine::open(dir.path()).unwrap();
    for level in LEVELS {
        let engine = engine.with_durability(level);
        for n in 0..20 {
            engine.set("k".into(), n.to_string()).unwrap();
            let (_, position) = engine.write(Batch::new().put("t", n.to_string())).unwrap();
            wait_as_task(&engine, position, level);
        }
        let (_, position) = engine.write(Batch::new().delete("t")).unwrap();
        wait_as_task(&engine, position, level);
        // In every level a sync follows by itself.
        eventually("a sync", || engine.stats().durable_position >= position.0);
    }
}

#[test]
fn a_close_leaves_no_task_asleep() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..5 {
        let engine = SledKvsEngine::open(dir.path()).unwrap();
        let wakers = LEVELS.map(|level| {
            let (_, position) = engine.write(Batch::new().put("k", "v")).unwrap();
            let woken = Arc::new(Unpark(thread::current(), AtomicBool::new(false)));
            let polled = engine.on_reached(position, level, &Waker::from(Arc::clone(&woken)));
            woken.1.fetch_or(polled.is_ready(), Ordering::Release);
            woken
        });
        engine.close().unwrap();
        assert!(wakers.iter().all(|woken| woken.1.load(Ordering::Acquire)));
    }
}

#[test]
fn a_failed_sync_poisons_the_store_until_it_is_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let watched = Watched::default();
    let engine = watched.open(dir.path()).unwrap();
    engine.set("old".into(), "v".into()).unwrap();
    watched.fail(Some(Site::SledLogSync));
    let is_poisoned = |result: aryavarth::Result<()>| match result {
        Err(KvsError::Poisoned { reason }) => assert!(reason.contains("sync sled's log")),
        other => panic!("{other:?}"),
    };
    is_poisoned(engine.set("new".into(), "v".into()));
    watched.fail(None);
    is_poisoned(engine.set("newer".into(), "v".into()));
    is_poisoned(engine.transact(&[], |_| Ok(())).map(drop));
    is_poisoned(engine.get("new".into()).map(drop));
    is_poisoned(engine.flush());
    let (_, position) = engine.read(b"new", Wait::Yes).unwrap();
    let reached = engine.on_reached(position, Durability::Always, Waker::noop());
    assert!(matches!(reached, Poll::Ready(Err(KvsError::Poisoned { .. }))));
    assert_eq!(engine.get("old".into()).unwrap(), Some("v".into()));
    drop(engine);

    let engine = watched.open(dir.path()).unwrap();
    assert_eq!(engine.get("old".into()).unwrap(), Some("v".into()));
    engine.get("new".into()).unwrap();
    engine.set("new".into(), "w".into()).unwrap();
}

#[test]
fn a_batch_is_seen_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let engine = SledKvsEngine::open(dir.path()).unwrap().with_durability(Durability::Os);
    let keys: Vec<String> = (0..40).map(|n| format!("key:{n:02}")).collect();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..200_u32 {
                let mut batch = Batch::new();
                for key in &keys {
                    match round % 3 {
                        2 => batch.delete(key.as_str()),
                        _ => batch.put(key.as_str(), round.to_string()),
                    };
                }
                engine.write(&batch).unwrap();
            }
            is_done.store(true, Ordering::Release);
        });
        let mut pages = 0;
        while !is_done.load(Ordering::Acquire) || pages == 0 {
            let page = engine.scan(&KeyRange::prefix(b"key:"), 1000).unwrap();
            let count = page.entries.len();
            assert!(count == 0 || count == keys.len(), "{count} of {} keys", keys.len());
            assert!(page.entries.iter().all(|(_, value)| *value == page.entries[0].1));
            pages += 1;
        }
    });
}
