//! Bugs that a review of the storage engine found, each told as the story that showed it.
//!
//! Most of them need a certain call of the file system to fail, or something else to happen while
//! it runs: [`Hooked`] is a simulated file system that asks a closure before every call.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::thread;
use std::time::Duration;

use aryavarth::fs::{Crash, Fs, FsFile, IoError, OpenHow, SimFs, Site};
use aryavarth::{Batch, Durability, KeyRange, KvStore, KvsEngine, KvsError, Options};

type Hook = Arc<dyn Fn(Site) -> io::Result<()> + Send + Sync>;

/// A simulated file system whose calls can be watched, held up and refused.
#[derive(Clone)]
struct Hooked {
    fs: Arc<dyn Fs>,
    hook: Hook,
}

struct HookedFile {
    file: Arc<dyn FsFile>,
    hook: Hook,
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fs.fmt(f)
    }
}

impl fmt::Debug for HookedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

fn ask(hook: &Hook, site: Site, path: &Path) -> Result<(), IoError> {
    hook(site).map_err(|source| IoError { site, path: path.to_owned(), source })
}

impl Hooked {
    fn file(&self, file: Arc<dyn FsFile>) -> Arc<dyn FsFile> {
        Arc::new(HookedFile { file, hook: Arc::clone(&self.hook) })
    }
}

impl Fs for Hooked {
    fn create_dir(&self, site: Site, dir: &Path) -> Result<bool, IoError> {
        ask(&self.hook, site, dir)?;
        self.fs.create_dir(site, dir)
    }

    fn open_dir(&self, site: Site, dir: &Path) -> Result<Arc<dyn Fs>, IoError> {
        ask(&self.hook, site, dir)?;
        let (fs, hook) = (self.fs.open_dir(site, dir)?, Arc::clone(&self.hook));
        Ok(Arc::new(Hooked { fs, hook }))
    }

    fn list(&self, site: Site, dir: &Path) -> Result<Vec<String>, IoError> {
        ask(&self.hook, site, dir)?;
        self.fs.list(site, dir)
    }

    fn open(&self, site: Site, path: &Path, how: OpenHow) -> Result<Arc<dyn FsFile>, IoError> {
        ask(&self.hook, site, path)?;
        self.fs.open(site, path, how).map(|file| self.file(file))
    }

    fn rename(&self, site: Site, from: &Path, to: &Path) -> Result<(), IoError> {
        ask(&self.hook, site, from)?;
        self.fs.rename(site, from, to)
    }

    fn remove(&self, site: Site, path: &Path) -> Result<(), IoError> {
        ask(&self.hook, site, path)?;
        self.fs.remove(site, path)
    }

    fn sync_dir(&self, site: Site, dir: &Path) -> Result<(), IoError> {
        ask(&self.hook, site, dir)?;
        self.fs.sync_dir(site, dir)
    }

    fn try_lock(&self, site: Site, path: &Path) -> Result<Option<Arc<dyn FsFile>>, IoError> {
        ask(&self.hook, site, path)?;
        Ok(self.fs.try_lock(site, path)?.map(|file| self.file(file)))
    }
}

impl FsFile for HookedFile {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn read_at(&self, site: Site, buf: &mut [u8], offset: u64) -> Result<usize, IoError> {
        ask(&self.hook, site, self.path())?;
        self.file.read_at(site, buf, offset)
    }

    fn read_at_now(
        &self,
        site: Site,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<Option<usize>, IoError> {
        self.file.read_at_now(site, buf, offset)
    }

    fn write_at(&self, site: Site, buf: &[u8], offset: u64) -> Result<usize, IoError> {
        ask(&self.hook, site, self.path())?;
        self.file.write_at(site, buf, offset)
    }

    fn allocate(&self, site: Site, len: u64) -> Result<(), IoError> {
        ask(&self.hook, site, self.path())?;
        self.file.allocate(site, len)
    }

    fn truncate(&self, site: Site, len: u64) -> Result<(), IoError> {
        ask(&self.hook, site, self.path())?;
        self.file.truncate(site, len)
    }

    fn sync(&self, site: Site) -> Result<(), IoError> {
        ask(&self.hook, site, self.path())?;
        self.file.sync(site)
    }

    fn len(&self, site: Site) -> Result<u64, IoError> {
        ask(&self.hook, site, self.path())?;
        self.file.len(site)
    }

    fn allocated(&self, site: Site) -> Result<u64, IoError> {
        ask(&self.hook, site, self.path())?;
        self.file.allocated(site)
    }
}

fn no_space() -> io::Result<()> {
    Err(io::ErrorKind::StorageFull.into())
}

pub(crate) fn options(fs: impl Fs) -> Options {
    Options { fs: Arc::new(fs), background: false, seed: 7, ..Options::default() }
}

pub(crate) fn open(fs: impl Fs) -> KvStore {
    KvStore::open_with("/store", options(fs)).unwrap()
}

pub(crate) fn open_hooked(
    fs: &SimFs,
    hook: impl Fn(Site) -> io::Result<()> + Send + Sync + 'static,
) -> KvStore {
    open(Hooked { fs: Arc::new(fs.clone()), hook: Arc::new(hook) })
}

/// The result of `work`, which must come to an end.
fn ends<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, end) = channel();
    thread::spawn(move || done.send(work()));
    end.recv_timeout(Duration::from_secs(30)).expect("it hangs, or it panicked")
}

/// Compaction drops the newest sealed segment; the unsealed one that follows it is still found.
#[test]
fn a_crash_after_a_compaction_keeps_what_was_written_since() {
    let fs = SimFs::new();
    let store = open(fs.clone());
    store.put(b"before", b"1").unwrap();
    store.compact().unwrap();
    store.put(b"after", b"2").unwrap();
    let store = open(fs.crash(Crash::Nothing));
    assert_eq!(store.read(b"before").unwrap(), Some(b"1".to_vec()));
    assert_eq!(store.read(b"after").unwrap(), Some(b"2".to_vec()));
}

/// A frame that just fits under the segment's limit, beyond what is allocated: the code that makes
/// room and the code that looks for room must agree that it fits.
#[test]
fn a_record_that_ends_at_the_segments_limit_is_written() {
    for short_of in (0..=160).step_by(8) {
        let store = open(SimFs::new());
        let length = (1 << 20) - 96 - 64 - 24 - 1 - short_of;
        let stored = ends(move || {
            store.put(b"a", b"1").unwrap();
            store.put(b"b", &vec![0; length]).unwrap();
            store.read(b"b").unwrap()
        });
        assert_eq!(stored.map(|value| value.len()), Some(length));
    }
}

/// Without allocation, appends make a file longer by themselves: to any length, not only to those
/// that the next open takes for whole.
#[test]
fn a_store_that_outgrew_its_first_step_opens_again_where_nothing_can_be_allocated() {
    let fs = SimFs::new();
    fs.never_allocate();
    let store = open(fs.clone());
    for i in 0..200 {
        store.put(format!("key {i}").as_bytes(), &[7; 1000]).unwrap();
    }
    for crash in [Crash::Nothing, Crash::Everything] {
        assert_eq!(open(fs.crash(crash)).stats().keys, 200);
    }
}

/// The first write into a new segment finds no space: an empty segment is left behind, which is
/// neither waited for nor sealed as if it were one.
#[test]
fn a_segment_whose_first_write_found_no_space_does_no_harm() {
    for writes_more in [false, true] {
        let fs = SimFs::new();
        let full = AtomicBool::new(true);
        let store = open_hooked(&fs, move |site| match site {
            Site::FrameWrite if full.swap(false, Ordering::Relaxed) => no_space(),
            _ => Ok(()),
        });
        assert!(store.put(b"first", b"1").unwrap_err().is_full());
        while store.step().unwrap() {}
        if writes_more {
            store.put(b"second", b"2").unwrap();
        }
        ends(move || {
            store.compact().unwrap();
            store.close().unwrap();
        });
        let store = open(fs);
        assert!(store.recovery().clean);
        assert_eq!(store.stats().keys, u64::from(writes_more));
    }
}

struct Bell {
    rung: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let _ = self.rung.send(());
        let _ = self.go_on.lock().unwrap().recv_timeout(Duration::from_secs(10));
    }
}

/// A waker, how to learn that it was called, and how to let the call return.
fn bell() -> (Waker, Receiver<()>, Sender<()>) {
    let (rung, is_rung) = channel();
    let (go_on, may_go_on) = channel();
    let bell = Bell { rung, go_on: Mutex::new(may_go_on) };
    (Arc::new(bell).into(), is_rung, go_on)
}

/// The committer lets go of its lock while it wakes tasks; a close in that moment is not missed.
#[test]
fn a_store_closes_while_its_committer_wakes_a_task() {
    let options = Options { background: true, ..options(SimFs::new()) };
    let store = KvStore::open_with("/store", options).unwrap();
    let (waker, is_rung, go_on) = bell();
    let (_, position) = KvsEngine::write(&store, Batch::new().put("k", "v")).unwrap();
    if store.on_reached(position, Durability::Always, &waker).is_ready() {
        return;
    }
    is_rung.recv_timeout(Duration::from_secs(10)).unwrap();
    let closing = thread::spawn(move || ends(move || store.close()));
    // Long enough for the close to ask the committer to stop.
    thread::sleep(Duration::from_millis(200));
    go_on.send(()).unwrap();
    closing.join().unwrap().unwrap();
}

/// A task that waits when the store is closed learns that its write is durable.
#[test]
fn a_task_that_waits_when_the_store_closes_is_woken() {
    let (syncing, is_syncing) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let held = AtomicBool::new(false);
    let hook: Hook = Arc::new(move |site| {
        if site == Site::LogSync && !held.swap(true, Ordering::Relaxed) {
            let _ = syncing.send(());
            let _ = may_go_on.lock().unwrap().recv_timeout(Duration::from_secs(10));
        }
        Ok(())
    });
    let options =
        Options { background: true, ..options(Hooked { fs: Arc::new(SimFs::new()), hook }) };
    let store = KvStore::open_with("/store", options).unwrap();
    let (first, _, go_on_first) = bell();
    let (_, position) = KvsEngine::write(&store, Batch::new().put("a", "1")).unwrap();
    assert!(store.on_reached(position, Durability::Always, &first).is_pending());
    is_syncing.recv_timeout(Duration::from_secs(10)).unwrap();
    // The sync that runs does not cover this one.
    let (second, is_rung, go_on_second) = bell();
    let (_, position) = KvsEngine::write(&store, Batch::new().put("b", "2")).unwrap();
    assert!(store.on_reached(position, Durability::Always, &second).is_pending());
    drop((go_on_first, go_on_second));
    let closing = thread::spawn(move || ends(move || store.close()));
    thread::sleep(Duration::from_millis(200));
    go_on.send(()).unwrap();
    closing.join().unwrap().unwrap();
    is_rung.recv_timeout(Duration::from_secs(10)).expect("nobody woke the task");
}

struct LastHandle(Mutex<Option<KvStore>>);

impl Wake for LastHandle {
    fn wake(self: Arc<Self>) {}
}

/// A task that no other thread knows any more takes the last handle with it when it was woken, and so
/// the store is closed by its own committer.
#[test]
fn the_last_handle_may_go_away_with_the_task_that_the_committer_woke() {
    let fs = SimFs::new();
    let options = Options { background: true, ..options(fs.clone()) };
    let store = KvStore::open_with("/store", options).unwrap();
    let (_, position) = KvsEngine::write(&store, Batch::new().put("k", "v")).unwrap();
    let task = Arc::new(LastHandle(Mutex::default()));
    let waker = Waker::from(task.clone());
    let pending = store.on_reached(position, Durability::Always, &waker).is_pending();
    *task.0.lock().unwrap() = Some(store);
    drop((task, waker));
    let store = ends(move || {
        loop {
            match KvStore::open_with("/store", self::options(fs.clone())) {
                Err(KvsError::Locked { .. }) => thread::sleep(Duration::from_millis(5)),
                opened => return opened.unwrap(),
            }
        }
    });
    assert!(store.recovery().clean, "the committer died of it ({pending})");
}

/// A full disk in the moment in which the manifest is written anew stops that edit, not the store.
#[test]
fn a_full_disk_does_not_poison_a_store_that_writes_its_manifest_anew() {
    let last = [Site::ManifestCreate, Site::ManifestAllocate, Site::ManifestWrite];
    for refused in last.into_iter().chain([Site::CurrentCreate, Site::CurrentWrite]) {
        let fs = SimFs::new();
        let (rotating, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let opened = Arc::new(AtomicBool::new(false));
        let (is_open, is_rotating, count) = (opened.clone(), rotating, failed.clone());
        let store = open_hooked(&fs, move |site| {
            if is_open.load(Ordering::Relaxed) && site == Site::ManifestCreate {
                is_rotating.store(true, Ordering::Relaxed);
            }
            let first = || count.fetch_add(1, Ordering::Relaxed) == 0;
            if site == refused && is_rotating.load(Ordering::Relaxed) && first() {
                return no_space();
            }
            Ok(())
        });
        opened.store(true, Ordering::Relaxed);
        let mut puts = 0u32;
        while failed.load(Ordering::Relaxed) < 2 && puts < 2000 {
            puts += 1;
            match store.put(b"k", &puts.to_le_bytes()) {
                Ok(()) => {}
                Err(error) if error.is_full() => puts -= 1,
                Err(error) => panic!("refused {refused:?}: {error}"),
            }
            match store.compact() {
                Err(error) if !error.is_full() => panic!("refused {refused:?}: {error}"),
                _ => {}
            }
            let _ = store.step();
        }
        assert!(failed.load(Ordering::Relaxed) >= 2, "{refused:?} was never tried again");
        let store = open(fs.crash(Crash::Nothing));
        assert_eq!(store.read(b"k").unwrap(), Some(puts.to_le_bytes().to_vec()));
    }
}

/// A compaction that finds no space leaves nothing of its output.
#[test]
fn a_compaction_that_finds_no_space_leaves_no_copy_behind() {
    let fs = SimFs::new();
    let store = open_hooked(&fs, |site| if site == Site::CopyWrite { no_space() } else { Ok(()) });
    store.put(b"k", &[1; 5000]).unwrap();
    let logs = || {
        let names = fs.list(Site::DirList, Path::new("/store")).unwrap();
        names
            .into_iter()
            .filter(|name| Path::new(name).extension().is_some_and(|what| what == "log"))
            .count()
    };
    let before = logs();
    for _ in 0..3 {
        assert!(store.compact().unwrap_err().is_full());
    }
    assert!(logs() <= before, "copies that nobody knows of stayed");
}

/// A sealed segment that cannot be cut to its end is sealed all the same.
#[test]
fn a_segment_that_cannot_be_cut_is_sealed_all_the_same() {
    let fs = SimFs::new();
    let store = open_hooked(&fs, |site| match site {
        Site::SegmentTruncate | Site::SpaceMeasure => Err(io::ErrorKind::PermissionDenied.into()),
        _ => Ok(()),
    });
    store.put(b"k", b"v").unwrap();
    store.compact().unwrap();
    store.close().unwrap();
    assert!(open(fs).recovery().clean);
}

/// Space that compaction gave back is free at once: nothing keeps the files open that it removed.
#[test]
fn a_compacted_segment_does_not_stay_open() {
    let fs = SimFs::new();
    let store = open(fs.clone());
    store.put(b"k", &vec![1; 900 << 10]).unwrap();
    store.delete(b"k").unwrap();
    store.compact().unwrap();
    for _ in 0..8 {
        store.step().unwrap();
    }
    assert!(fs.space_used() < 600 << 10, "{} bytes are still taken", fs.space_used());
}

/// At rest a store that lost all its keys gives the active segment's space back as well.
#[test]
fn the_active_segment_of_a_store_at_rest_is_not_kept_for_its_dead_bytes() {
    let fs = SimFs::new();
    let options = Options { segment_bytes_min: 16 << 20, ..options(fs.clone()) };
    let store = KvStore::open_with("/store", options).unwrap();
    let key = |i: u32| format!("key {i}");
    for i in 0..12 {
        store.put(key(i).as_bytes(), &vec![1; 1 << 20]).unwrap();
    }
    for i in 0..12 {
        assert!(store.delete(key(i).as_bytes()).unwrap());
    }
    for _ in 0..100 {
        store.step().unwrap();
    }
    assert!(fs.space_used() <= 8 << 20, "{} bytes are still taken", fs.space_used());
}

/// Another handle's write is on its way when the store is closed: it is either in the store or
/// refused, never acknowledged and lost.
#[test]
fn a_write_that_races_with_the_close_is_refused_or_kept() {
    let fs = SimFs::new();
    let (fetching, is_fetching) = channel();
    let (closing, is_closing) = channel::<()>();
    let (written, is_written) = channel();
    let is_closing = Mutex::new(is_closing);
    let is_written = Mutex::new(is_written);
    let armed = Arc::new(AtomicU64::new(0));
    let stage = armed.clone();
    let store = open_hooked(&fs, move |site| {
        match (site, stage.load(Ordering::SeqCst)) {
            // The writer is past the check whether the store is open.
            (Site::RecordRead, 1) => {
                stage.store(2, Ordering::SeqCst);
                let _ = fetching.send(());
                let _ = is_closing.lock().unwrap().recv_timeout(Duration::from_secs(10));
            }
            // The last edit of the manifest: the closer made up its mind.
            (Site::ManifestWrite, 3) => {
                stage.store(4, Ordering::SeqCst);
                let _ = closing.send(());
                let _ = is_written.lock().unwrap().recv_timeout(Duration::from_secs(10));
            }
            _ => {}
        }
        Ok(())
    });
    store.put(b"k", b"1").unwrap();
    store.compact().unwrap();
    // Makes the next segment ready, so that the writer needs no edit of its own.
    while store.step().unwrap() {}
    armed.store(1, Ordering::SeqCst);
    let other = store.clone();
    let writer = thread::spawn(move || {
        let outcome = other.transact(&[b"k"], |tx| {
            let old = tx.read(b"k")?;
            tx.put("k", "2");
            Ok(old)
        });
        written.send(()).unwrap();
        outcome
    });
    is_fetching.recv_timeout(Duration::from_secs(10)).unwrap();
    armed.store(3, Ordering::SeqCst);
    ends(move || store.close()).unwrap();
    let outcome = writer.join().unwrap();
    let store = open(fs);
    match outcome {
        Ok(_) => assert_eq!(store.read(b"k").unwrap(), Some(b"2".to_vec())),
        Err(KvsError::Closed) => assert_eq!(store.read(b"k").unwrap(), Some(b"1".to_vec())),
        Err(error) => panic!("{error}"),
    }
}

/// An error whose text takes its time.
#[derive(Debug)]
struct Slow;

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        thread::sleep(Duration::from_millis(50));
        f.write_str("the disk lost it")
    }
}

impl std::error::Error for Slow {}

/// After a failed sync none is tried again: the kernel would say yes to a second one, though the
/// pages of the first one are gone.
#[test]
fn nobody_syncs_after_a_failed_sync() {
    for _ in 0..3 {
        let fs = SimFs::new();
        let (failed, again) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (has_failed, count) = (failed.clone(), again.clone());
        let syncs = AtomicU64::new(0);
        let store = open_hooked(&fs, move |site| {
            if site != Site::LogSync {
                return Ok(());
            }
            if has_failed.load(Ordering::SeqCst) {
                count.fetch_add(1, Ordering::SeqCst);
            } else if syncs.fetch_add(1, Ordering::SeqCst) == 20 {
                has_failed.store(true, Ordering::SeqCst);
                return Err(io::Error::other(Slow));
            }
            Ok(())
        });
        thread::scope(|scope| {
            for i in 0..8u32 {
                let store = &store;
                scope.spawn(move || while store.put(&i.to_le_bytes(), b"v").is_ok() {});
            }
        });
        assert!(failed.load(Ordering::SeqCst));
        assert_eq!(again.load(Ordering::SeqCst), 0, "a sync after the failed one");
    }
}

/// A scan looks for keys, reads their values, and looked again behind the last key: a batch that
/// came in between was seen by half, its new key beside the old value of the other.
#[test]
fn a_scan_that_found_the_end_does_not_look_behind_it() {
    let fs = SimFs::new();
    let between = Arc::new(Mutex::new(None::<KvStore>));
    let other = Arc::clone(&between);
    let store = open_hooked(&fs, move |site| {
        let writer = (site == Site::RecordRead).then(|| other.lock().unwrap().take());
        if let Some(store) = writer.flatten() {
            store.write(Batch::new().put("a", "new").put("b", "new")).unwrap();
        }
        Ok(())
    });
    store.put(b"a", b"old").unwrap();
    *between.lock().unwrap() = Some(store.clone());
    let page = KvsEngine::scan(&store, &KeyRange::all(), 10).unwrap();
    assert_eq!(page.entries, [(b"a".to_vec(), b"old".to_vec())]);
    assert!(page.done);
    let page = KvsEngine::scan(&store, &KeyRange::all(), 10).unwrap();
    assert_eq!(page.entries.len(), 2);
}
