//! Reads through mappings: the same answers as by calls, fewer calls, and no answer that a mapping
//! alone could give.
//!
//! The simulated disk panics where a mapping is read beyond the end of its file, as a real one raises
//! SIGBUS; the tests of the real signal stand at the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aryavarth::fs::{Fs, OpenHow, SimFs, Site};
use aryavarth::{Batch, KvStore, KvsEngine, KvsError, Options, Wait};

use crate::workload::lie;

const DIR: &str = "/db";

fn options(fs: &SimFs) -> Options {
    let fs = Arc::new(fs.clone());
    Options { fs, segment_bytes_min: 4096, background: false, ..Options::default() }
}

fn open(fs: &SimFs) -> KvStore {
    KvStore::open_with(Path::new(DIR), options(fs)).unwrap()
}

/// A disk whose files can be mapped.
fn mappable() -> SimFs {
    let fs = SimFs::new();
    fs.map_files(|_, _| {});
    fs
}

fn work(store: &KvStore) {
    while store.step().unwrap() {}
}

fn value(n: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (n * 31 + at) as u8).collect()
}

/// The calls that read records, since the call with number `from`.
fn reads(fs: &SimFs, from: u64) -> usize {
    let trace = fs.trace();
    let trace = &trace[from as usize..];
    trace.iter().filter(|site| [Site::RecordRead, Site::RecordReadNow].contains(site)).count()
}

/// Runs `read`, and says how many reads of records went through a mapping and how many by a call.
fn counted<R>(fs: &SimFs, read: impl FnOnce() -> R) -> (R, u64, usize) {
    let (copies, calls) = (fs.mapped_copies(), fs.calls());
    let result = read();
    (result, fs.mapped_copies() - copies, reads(fs, calls))
}

fn logs(fs: &SimFs) -> Vec<PathBuf> {
    let names = fs.list(Site::DirList, Path::new(DIR)).unwrap();
    let mut ids: Vec<u64> =
        names.iter().filter_map(|name| name.strip_suffix(".log")?.parse().ok()).collect();
    ids.sort_unstable();
    ids.iter().map(|id| Path::new(DIR).join(format!("{id}.log"))).collect()
}

/// Changes a byte of the value that holds `part`.
fn rot(fs: &SimFs, part: &[u8]) {
    for log in logs(fs) {
        let file = fs.open(Site::SegmentOpen, &log, OpenHow::Write).unwrap();
        let mut bytes = vec![0; file.len(Site::SegmentLength).unwrap() as usize];
        file.read_at(Site::SegmentScan, &mut bytes, 0).unwrap();
        if let Some(at) = bytes.windows(part.len()).position(|window| window == part) {
            file.write_at(Site::FrameWrite, &[!part[0]], at as u64).unwrap();
        }
    }
}

#[test]
fn a_mapped_record_is_read_without_a_call() {
    let fs = mappable();
    let store = open(&fs);
    store.put(b"first", b"makes the segment").unwrap();
    work(&store);
    // The active segment: what is appended after it was mapped is seen too, before any sync.
    KvsEngine::write(&store, Batch::new().put("new", "value").delete("first")).unwrap();
    let (found, copies, calls) =
        counted(&fs, || KvsEngine::read(&store, b"new", Wait::No).unwrap());
    assert_eq!((found.0, copies, calls), (Some(b"value".to_vec()), 1, 0));
    assert!(found.1 > aryavarth::Position::ZERO, "the answer waits for its position all the same");
    // An absence and a removal read nothing.
    let (found, copies, calls) = counted(&fs, || store.read(b"first").unwrap());
    assert_eq!((found, copies, calls), (None, 0, 0));
    // A file of an earlier process is populated first.
    store.close().unwrap();
    let store = open(&fs);
    let now = || KvsEngine::read(&store, b"new", Wait::No).unwrap().0;
    let value = || Some(b"value".to_vec());
    assert_eq!(counted(&fs, now), (value(), 0, 1));
    work(&store);
    assert_eq!(counted(&fs, now), (value(), 1, 0));
    assert_eq!(counted(&fs, || store.read(b"new").unwrap()), (value(), 1, 0));
}

#[test]
fn scans_closures_spaces_and_deadlines_read_the_same_through_a_mapping() {
    let all = |fs: &SimFs| {
        let store = open(fs);
        for n in 0..200 {
            store.put(format!("k{n:03}").as_bytes(), &value(n, n * 11)).unwrap();
            if n % 40 == 7 {
                work(&store);
            }
        }
        store.with_space(3).put(b"k007", b"another space's").unwrap();
        let deadline = store.now().wall_ms + 1_000_000;
        store.put_until(b"k008", b"for a while", deadline).unwrap();
        store.compact().unwrap();
        work(&store);
        store.delete(b"k009").unwrap();
        let entries: Vec<_> = store.scan(..).map(Result::unwrap).collect();
        let closure = store.transact(&[b"k010"], |tx| Ok((tx.read(b"k010")?, tx.read(b"k011")?)));
        let single: Vec<_> =
            (0..200).map(|n| store.read(format!("k{n:03}").as_bytes()).unwrap()).collect();
        (entries, closure.unwrap(), single, store.with_space(3).read(b"k007").unwrap())
    };
    let by_calls = all(&SimFs::new());
    let fs = mappable();
    assert!(all(&fs) == by_calls);
    assert!(fs.mapped_copies() > 300);
    let fs = SimFs::new();
    fs.map_files(lie);
    assert!(all(&fs) == by_calls, "copies that do not hold are no answers");
    assert!(fs.mapped_copies() > 300);
}

/// The last record of the data, and the active segment's mapping, which goes on behind the end of its file.
#[test]
fn the_last_record_is_mapped_up_to_its_end_in_every_kind_of_segment() {
    let fs = mappable();
    let store = open(&fs);
    let last = value(1, 60_001);
    store.put(b"last", &last).unwrap();
    work(&store);
    let read =
        |store: &KvStore| counted(&fs, || store.read(b"last").unwrap() == Some(last.clone()));
    assert_eq!(read(&store), (true, 1, 0), "in the active segment");
    store.compact().unwrap();
    assert_eq!(read(&store), (true, 1, 0), "in a sealed one");
    store.close().unwrap();
    let store = open(&fs);
    work(&store);
    assert_eq!(read(&store), (true, 1, 0), "in a store that was opened anew");
}

#[test]
fn large_records_are_read_by_calls() {
    let fs = mappable();
    let store = open(&fs);
    store.put(b"large", &value(1, 70_000)).unwrap();
    store.put(b"middle", &value(2, 20_000)).unwrap();
    work(&store);
    let read = |key: &[u8], wait| {
        counted(&fs, || KvsEngine::read(&store, key, wait).unwrap().0.map(|value| value.len()))
    };
    assert_eq!(read(b"large", Wait::Yes), (Some(70_000), 0, 1));
    assert_eq!(read(b"middle", Wait::Yes), (Some(20_000), 1, 0));
    assert_eq!(read(b"middle", Wait::No), (Some(20_000), 0, 1));
}

#[test]
fn a_copy_that_does_not_hold_is_read_again_by_a_call() {
    for change in [
        |_: u64, bytes: &mut [u8]| bytes.fill(0),
        |_: u64, bytes: &mut [u8]| bytes[24 + 3 + 5] ^= 1, // in the value
        |_: u64, bytes: &mut [u8]| bytes[24] ^= 1,         // in the key
        |_: u64, bytes: &mut [u8]| bytes[9] ^= 1,          // in the header
    ] {
        for size in [20, 5_000] {
            let fs = SimFs::new();
            fs.map_files(change);
            let store = open(&fs);
            store.put(b"one", &value(1, size)).unwrap();
            work(&store);
            let (found, copies, calls) = counted(&fs, || store.read(b"one").unwrap());
            assert!(found == Some(value(1, size)), "{size} bytes");
            assert_eq!((copies, calls), (1, 1), "{size} bytes");
        }
    }
}

#[test]
fn damage_is_the_same_error_through_a_mapping() {
    for size in [40, 5_000] {
        let error = |fs: SimFs| {
            let store = open(&fs);
            store.put(b"good", b"value").unwrap();
            store.put(b"bad", &value(3, size)).unwrap();
            work(&store);
            rot(&fs, &value(3, size)[10..20]);
            assert_eq!(store.read(b"good").unwrap(), Some(b"value".to_vec()));
            match store.read(b"bad") {
                Err(error @ KvsError::Corrupt { .. }) => error.to_string(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(error(mappable()), error(SimFs::new()));
    }
}

#[test]
fn the_newest_segments_are_mapped_within_the_budget() {
    let fs = mappable();
    let store = open(&fs);
    let fill = |store: &KvStore| {
        for n in 0..40 {
            store.put(format!("k{n:02}").as_bytes(), &value(n, 1_000)).unwrap();
            work(store);
        }
    };
    fill(&store);
    let counts = |store: &KvStore, key: &[u8]| {
        let (found, copies, calls) = counted(&fs, || store.read(key).unwrap());
        assert!(found.is_some());
        (copies, calls)
    };
    assert_eq!((counts(&store, b"k00"), counts(&store, b"k39")), ((1, 0), (1, 0)));
    store.close().unwrap();
    let limited = |bytes| {
        let options = Options { map_bytes_max: bytes, ..options(&fs) };
        KvStore::open_with(Path::new(DIR), options).unwrap()
    };
    let store = limited(0);
    work(&store);
    assert_eq!((counts(&store, b"k00"), counts(&store, b"k39")), ((0, 1), (0, 1)));
    store.close().unwrap();
    let store = limited(32 << 10);
    work(&store);
    assert_eq!((counts(&store, b"k00"), counts(&store, b"k39")), ((0, 1), (1, 0)));
    // New segments push old ones out of the budget.
    for n in 0..60 {
        store.put(b"other", &value(n, 1_000)).unwrap();
        work(&store);
    }
    assert_eq!((counts(&store, b"k39"), counts(&store, b"other")), ((0, 1), (1, 0)));
}

/// The signal itself, on real files.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod real {
    use std::ffi::c_int;
    use std::fs;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Output};
    use std::ptr;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use aryavarth::fs::{FsFile, FsMap, RealFs, install_sigbus_guard};
    use rustix::mm::{MapFlags, ProtFlags, mmap};

    use super::*;

    const PAGE: usize = 4096;

    /// Runs a test of this file in a process of its own, where it does what `part` says.
    fn child(test: &str, part: &str) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let test = format!("mapped::real::{test}");
        command.args([&test, "--exact", "--nocapture"]).env("MAPPED_CHILD", part);
        command.output().unwrap()
    }

    /// Runs `body` in a process of its own, whose end by a signal is a failure like any other.
    fn in_a_child(test: &str, body: impl FnOnce()) {
        if part().is_some() {
            body();
            return println!("done in a child");
        }
        let output = child(test, "all of it");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("done in a child"), "{output:?}");
    }

    fn part() -> Option<String> {
        std::env::var("MAPPED_CHILD").ok()
    }

    /// Whether a file under `dir` is mapped.
    fn is_mapped(dir: &Path) -> bool {
        fs::read_to_string("/proc/self/maps").unwrap().contains(dir.to_str().unwrap())
    }

    /// Bytes in memory of the mapping of a file.
    fn resident_bytes(file: &Path) -> u64 {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines().skip_while(|line| !line.ends_with(file.to_str().unwrap()));
        let bytes = lines.find_map(|line| line.strip_prefix("Rss:"));
        bytes.map_or(0, |text| text.trim().trim_end_matches(" kB").parse().unwrap())
    }

    fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn real_options() -> Options {
        Options { segment_bytes_min: 64 << 10, ..Options::default() }
    }

    /// A file of so many pages, and a mapping of it.
    fn mapped_file(dir: &Path, pages: usize) -> (Arc<dyn FsFile>, Box<dyn FsMap>) {
        install_sigbus_guard().unwrap();
        let path = dir.join("file");
        let file = RealFs.open(Site::SegmentOpen, &path, OpenHow::CreateNew).unwrap();
        file.truncate(Site::SegmentFill, (pages * PAGE) as u64).unwrap();
        let map = file.map((pages * PAGE) as u64).expect("the guard stands");
        RealFs.remove(Site::SegmentRemove, &path).unwrap();
        (file, map)
    }

    fn copy(map: &dyn FsMap, offset: usize, bytes: usize) -> Option<Vec<u8>> {
        let mut to = vec![1; bytes];
        map.copy(offset as u64, &mut to).then_some(to)
    }

    #[test]
    fn a_mapping_shows_what_is_written_until_a_page_is_cut_off() {
        install_sigbus_guard().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (file, map) = mapped_file(dir.path(), 8);
        file.truncate(Site::SegmentTruncate, 4 * PAGE as u64).unwrap();
        file.write_at(Site::FrameWrite, &vec![7; 4 * PAGE], 0).unwrap();
        assert_eq!(copy(&*map, 0, 4 * PAGE), Some(vec![7; 4 * PAGE]));
        // The file grows under the mapping.
        file.write_at(Site::FrameWrite, &vec![9; 8 * PAGE], 0).unwrap();
        assert_eq!(copy(&*map, 3 * PAGE, 5 * PAGE), Some(vec![9; 5 * PAGE]));
        assert_eq!(copy(&*map, 7 * PAGE + 1, PAGE), None, "not all of it is mapped");
        assert_eq!(copy(&*map, usize::MAX, 2), None);
        assert!(map.populate(0, 8 * PAGE as u64) && !map.populate(1, 8 * PAGE as u64));
        file.truncate(Site::SegmentTruncate, PAGE as u64).unwrap();
        assert_eq!(copy(&*map, 0, PAGE), Some(vec![9; PAGE]));
        assert_eq!(copy(&*map, 0, 3 * PAGE), None);
        assert_eq!(copy(&*map, 0, 1), None, "one fault ends the mapping");
    }

    /// A page of zeros for each would split the mapping until the process could have no more of them.
    #[test]
    fn however_many_pages_are_bad_the_process_lives() {
        in_a_child("however_many_pages_are_bad_the_process_lives", || {
            let dir = tempfile::tempdir().unwrap();
            let (file, map) = mapped_file(dir.path(), 140_000);
            assert_eq!(copy(&*map, 0, 1), Some(vec![0]));
            file.truncate(Site::SegmentTruncate, 0).unwrap();
            for page in (0..140_000).step_by(2) {
                assert_eq!(copy(&*map, page * PAGE, 1), None);
            }
        });
    }

    #[test]
    fn every_one_of_many_mappings_is_guarded_also_from_two_threads() {
        in_a_child("every_one_of_many_mappings_is_guarded_also_from_two_threads", || {
            let dirs: Vec<_> = (0..200).map(|_| tempfile::tempdir().unwrap()).collect();
            let mut files: Vec<_> = dirs.iter().map(|dir| mapped_file(dir.path(), 64)).collect();
            // Places that are free again are taken anew.
            files.drain(..50);
            files.extend(dirs.iter().take(50).map(|dir| mapped_file(dir.path(), 64)));
            for (file, map) in &files {
                assert_eq!(copy(&**map, 0, PAGE), Some(vec![0; PAGE]));
                file.truncate(Site::SegmentTruncate, 0).unwrap();
            }
            std::thread::scope(|scope| {
                for from in [0, 32] {
                    let files = &files;
                    scope.spawn(move || {
                        for (_, map) in files {
                            assert_eq!(copy(&**map, from * PAGE, 32 * PAGE), None);
                        }
                    });
                }
            });
        });
    }

    #[test]
    fn a_file_that_another_process_cuts_is_an_error_of_its_own_records_alone() {
        install_sigbus_guard().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = KvStore::open_with(dir.path(), real_options()).unwrap();
        let key = |n: usize| format!("k{n:02}").into_bytes();
        for n in 0..30 {
            store.put(&key(n), &value(n, 1_000)).unwrap();
        }
        store.close().unwrap();
        let names = RealFs.list(Site::DirList, dir.path()).unwrap();
        let logs = names.iter().filter(|name| name.strip_suffix(".log").is_some());
        let logs: Vec<PathBuf> = logs.map(|name| dir.path().join(name)).collect();
        let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
        let log = logs.iter().max_by_key(|path| size(path)).unwrap();
        let store = KvStore::open_with(dir.path(), real_options()).unwrap();
        wait_until("the file is populated", || resident_bytes(log) > 0);
        let whole = fs::read(log).unwrap();
        let good = |n: usize| match store.read(&key(n)) {
            Ok(found) => {
                assert!(found == Some(value(n, 1_000)), "key {n}");
                true
            }
            Err(KvsError::Corrupt { path, .. }) => {
                assert_eq!(&path, log);
                false
            }
            Err(error) => panic!("{error}"),
        };
        let other = RealFs.open(Site::SegmentOpen, log, OpenHow::Write).unwrap();
        other.truncate(Site::SegmentTruncate, 2 * PAGE as u64).unwrap();
        let kept = (0..30).filter(|n| good(*n)).count();
        assert!((6..10).contains(&kept), "{kept} of 30 records lie in front of the cut");
        assert!(!is_mapped(log), "zeros stand in its place");
        // The bytes are back: calls read the records.
        fs::write(log, whole).unwrap();
        assert!((0..30).all(good));
        store.put(b"new", b"value").unwrap();
        assert_eq!(store.read(b"new").unwrap(), Some(b"value".to_vec()));
    }

    #[test]
    fn readers_of_mapped_files_meet_writers_and_compaction() {
        install_sigbus_guard().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let options = Options { durability: aryavarth::Durability::Os, ..real_options() };
        let store = KvStore::open_with(dir.path(), options).unwrap();
        store.put(b"first", b"value").unwrap();
        wait_until("the active segment is mapped", || is_mapped(dir.path()));
        let key = |n: u64| n.to_le_bytes();
        let bytes = |n: u64, version: u64| {
            let mut bytes = [n.to_le_bytes(), version.to_le_bytes()].concat();
            bytes.resize(16 + (n * 97 + version * 13) as usize % 2_000, version as u8);
            bytes
        };
        for n in 0..100 {
            store.put(&key(n), &bytes(n, 0)).unwrap();
        }
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for version in 1..60 {
                    for n in 0..100 {
                        store.put(&key(n), &bytes(n, version)).unwrap();
                    }
                    if version % 8 == 0 {
                        store.compact().unwrap();
                    }
                }
                done.store(true, Ordering::Relaxed);
            });
            for from in 0..2 {
                let (store, done) = (&store, &done);
                scope.spawn(move || {
                    let mut newest = [0; 100];
                    while !done.load(Ordering::Relaxed) {
                        for n in from * 31..100 {
                            let found = store.read(&key(n)).unwrap().expect("it always exists");
                            let version = u64::from_le_bytes(*found[8..].first_chunk().unwrap());
                            assert!(found == bytes(n, version), "key {n}, version {version}");
                            assert!(version >= newest[n as usize], "key {n} went back");
                            newest[n as usize] = version;
                        }
                    }
                });
            }
        });
        store.close().unwrap();
    }

    #[test]
    fn without_the_guard_nothing_is_mapped() {
        in_a_child("without_the_guard_nothing_is_mapped", || {
            let dir = tempfile::tempdir().unwrap();
            let store = KvStore::open_with(dir.path(), real_options()).unwrap();
            store.put(b"k", b"v").unwrap();
            store.close().unwrap();
            let store = KvStore::open_with(dir.path(), real_options()).unwrap();
            assert_eq!(store.read(b"k").unwrap(), Some(b"v".to_vec()));
            assert!(!is_mapped(dir.path()));
        });
    }

    extern "C" fn leave(_: c_int) {
        // SAFETY: the one call that a handler of signals may make to end its process.
        #[expect(unsafe_code, reason = "the end of a process out of a handler")]
        unsafe {
            libc::_exit(42);
        }
    }

    #[test]
    fn a_signal_for_another_address_is_passed_on() {
        const NAME: &str = "a_signal_for_another_address_is_passed_on";
        let Some(part) = part() else {
            let ended = ["foreign address", "sent"].map(|part| child(NAME, part).status.signal());
            assert_eq!(ended, [Some(libc::SIGBUS); 2]);
            let handled = ["foreign address, handled", "sent, handled"];
            assert_eq!(handled.map(|part| child(NAME, part).status.code()), [Some(42); 2]);
            return;
        };
        if part.ends_with("handled") {
            let handler: extern "C" fn(c_int) = leave;
            // SAFETY: the handler is a function for one argument.
            #[expect(unsafe_code, reason = "the program's own handler")]
            unsafe {
                libc::signal(libc::SIGBUS, handler as libc::sighandler_t);
            }
        }
        install_sigbus_guard().unwrap();
        let ours = tempfile::NamedTempFile::new().unwrap();
        fs::write(ours.path(), [7; 2 * PAGE]).unwrap();
        let file = RealFs.open(Site::SegmentOpen, ours.path(), OpenHow::Write).unwrap();
        let _map = file.map(2 * PAGE as u64).unwrap();
        // SAFETY: a mapping of its own for reading, and a read of it that ends the process.
        #[expect(unsafe_code, reason = "a mapping that the guard does not know")]
        unsafe {
            let (read, shared) = (ProtFlags::READ, MapFlags::SHARED);
            let other = mmap(ptr::null_mut(), 2 * PAGE, read, shared, ours.as_file(), 0).unwrap();
            file.truncate(Site::SegmentTruncate, 0).unwrap();
            if part.starts_with("sent") {
                libc::raise(libc::SIGBUS);
            } else {
                ptr::read_volatile(other.cast::<u8>().add(PAGE));
            }
        }
        unreachable!("the signal ends the process");
    }
}
