//! The simulated disk keeps and loses the right things.

use std::io::ErrorKind;
use std::path::Path;

use super::{Crash, Fault, SimFs};
use crate::fs::{Fs, FsFile, IoError, OpenHow, Site, read_full, write_full};
use crate::sync::Arc;

pub(super) const SITE: Site = Site::FrameWrite;
pub(super) const ROOT: &str = "/";

fn create(fs: &SimFs, path: &str) -> Arc<dyn FsFile> {
    fs.open(SITE, Path::new(path), OpenHow::CreateNew).unwrap()
}

/// A file that a crash keeps, with its contents.
fn durable(fs: &SimFs, path: &str, bytes: &[u8]) -> Arc<dyn FsFile> {
    let file = create(fs, path);
    write_full(&*file, SITE, bytes, 0).unwrap();
    file.sync(SITE).unwrap();
    fs.sync_dir(SITE, Path::new(ROOT)).unwrap();
    file
}

fn contents(fs: &SimFs, path: &str) -> Option<Vec<u8>> {
    let file = fs.open(SITE, Path::new(path), OpenHow::Read).ok()?;
    let mut bytes = vec![0; file.len(SITE).unwrap() as usize];
    assert_eq!(read_full(&*file, SITE, &mut bytes, 0).unwrap(), bytes.len());
    Some(bytes)
}

fn names(fs: &SimFs) -> Vec<String> {
    fs.list(SITE, Path::new(ROOT)).unwrap()
}

pub(super) fn kind<T>(result: Result<T, IoError>) -> ErrorKind {
    result.err().expect("the call should fail").source.kind()
}

#[test]
fn what_was_not_synced_is_gone_and_the_rest_is_not() {
    let fs = SimFs::new();
    let file = durable(&fs, "/a", b"kept");
    file.write_at(SITE, b"lost", 4).unwrap();
    file.write_at(SITE, b"K", 0).unwrap();
    assert_eq!(contents(&fs, "/a").unwrap(), b"Keptlost");
    assert_eq!(contents(&fs.crash(Crash::Nothing), "/a").unwrap(), b"kept");
    assert_eq!(contents(&fs.crash(Crash::Everything), "/a").unwrap(), b"Keptlost");
    file.sync(SITE).unwrap();
    assert_eq!(contents(&fs.crash(Crash::Nothing), "/a").unwrap(), b"Keptlost");
}

#[test]
fn the_death_of_a_process_syncs_nothing() {
    let fs = SimFs::new();
    let file = durable(&fs, "/a", b"kept");
    file.write_at(SITE, b"more", 4).unwrap();
    create(&fs, "/b");
    fs.remove(SITE, Path::new("/a")).unwrap();
    let after = fs.crash(Crash::Everything);
    assert_eq!(names(&after), ["b"]);
    let back = after.crash(Crash::Nothing);
    assert_eq!(names(&back), ["a"]);
    assert_eq!(contents(&back, "/a").unwrap(), b"kept");
    after.sync_dir(SITE, Path::new(ROOT)).unwrap();
    assert_eq!(names(&after.crash(Crash::Nothing)), ["b"]);
    file.write_at(SITE, b"!", 0).unwrap();
    assert_eq!(names(&fs.crash(Crash::Nothing)), ["a"], "the other one goes on undisturbed");
}

#[test]
fn allocation_and_truncation_are_lost_too() {
    let fs = SimFs::new();
    let file = durable(&fs, "/a", b"abcdef");
    file.allocate(SITE, 10_000).unwrap();
    assert_eq!(contents(&fs.crash(Crash::Nothing), "/a").unwrap(), b"abcdef");
    file.sync(SITE).unwrap();
    file.truncate(SITE, 2).unwrap();
    let after = contents(&fs.crash(Crash::Nothing), "/a").unwrap();
    assert_eq!((&after[..6], after.len()), (&b"abcdef"[..], 10_000));
    file.sync(SITE).unwrap();
    assert_eq!(contents(&fs.crash(Crash::Nothing), "/a").unwrap(), b"ab");
}

#[test]
fn a_synced_file_whose_name_was_not_synced_is_lost() {
    let fs = SimFs::new();
    let file = create(&fs, "/a");
    file.write_at(SITE, b"abc", 0).unwrap();
    file.sync(SITE).unwrap();
    assert_eq!(names(&fs.crash(Crash::Nothing)), [""; 0]);
    fs.sync_dir(SITE, Path::new(ROOT)).unwrap();
    assert_eq!(contents(&fs.crash(Crash::Nothing), "/a").unwrap(), b"abc");
}

#[test]
fn a_synced_name_does_not_save_the_contents() {
    let fs = SimFs::new();
    create(&fs, "/a").write_at(SITE, b"abc", 0).unwrap();
    fs.sync_dir(SITE, Path::new(ROOT)).unwrap();
    assert_eq!(contents(&fs.crash(Crash::Nothing), "/a").unwrap(), b"");
}

#[test]
fn a_removed_name_is_back_until_its_directory_is_synced() {
    let fs = SimFs::new();
    drop(durable(&fs, "/a", b"abc"));
    fs.remove(SITE, Path::new("/a")).unwrap();
    assert_eq!(contents(&fs, "/a"), None);
    assert_eq!(contents(&fs.crash(Crash::Nothing), "/a").unwrap(), b"abc");
    fs.sync_dir(SITE, Path::new(ROOT)).unwrap();
    assert_eq!(names(&fs.crash(Crash::Nothing)), [""; 0]);
}

#[test]
fn a_rename_is_all_or_nothing() {
    let fs = SimFs::new();
    durable(&fs, "/current", b"old");
    durable(&fs, "/new", b"new");
    fs.rename(SITE, Path::new("/new"), Path::new("/current")).unwrap();
    assert_eq!(names(&fs), ["current"]);
    let back = fs.crash(Crash::Nothing);
    assert_eq!(contents(&back, "/current").unwrap(), b"old");
    assert_eq!(contents(&back, "/new").unwrap(), b"new");
    let mut seen = [false; 2];
    for seed in 0..20 {
        let after = fs.crash(Crash::Some { seed });
        let renamed = names(&after) == ["current"];
        seen[usize::from(renamed)] = true;
        assert_eq!(contents(&after, "/current").unwrap(), if renamed { b"new" } else { b"old" });
    }
    assert_eq!(seen, [true; 2]);
    fs.sync_dir(SITE, Path::new(ROOT)).unwrap();
    let after = fs.crash(Crash::Nothing);
    assert_eq!(names(&after), ["current"]);
    assert_eq!(contents(&after, "/current").unwrap(), b"new");
}

#[test]
fn a_directory_is_lost_with_all_in_it_unless_its_parent_was_synced() {
    let fs = SimFs::new();
    assert!(fs.create_dir(SITE, Path::new("/x/y")).unwrap());
    assert!(!fs.create_dir(SITE, Path::new("/x/y")).unwrap());
    create(&fs, "/x/y/a").sync(SITE).unwrap();
    fs.sync_dir(SITE, Path::new("/x/y")).unwrap();
    fs.sync_dir(SITE, Path::new("/x")).unwrap();
    assert_eq!(kind(fs.crash(Crash::Nothing).list(SITE, Path::new("/x/y"))), ErrorKind::NotFound);
    fs.sync_dir(SITE, Path::new("/")).unwrap();
    assert_eq!(fs.crash(Crash::Nothing).list(SITE, Path::new("/x/y")).unwrap(), ["a"]);
}

#[test]
fn some_of_the_unsynced_survives_in_sectors() {
    let fs = SimFs::new();
    let file = durable(&fs, "/a", &[1; 2048]);
    file.write_at(SITE, &[2; 1536], 256).unwrap();
    let mut kept = [0; 5];
    for seed in 0..200 {
        let after = contents(&fs.crash(Crash::Some { seed }), "/a").unwrap();
        assert_eq!(Some(&after), contents(&fs.crash(Crash::Some { seed }), "/a").as_ref());
        assert_eq!(after.len(), 2048);
        // The write covers half of the first sector, two whole ones, and half of the last.
        let parts = [256..512, 512..1024, 1024..1536, 1536..1792];
        let new = parts.iter().filter(|part| after[(*part).clone()].iter().all(|byte| *byte == 2));
        let old = parts.iter().filter(|part| after[(*part).clone()].iter().all(|byte| *byte == 1));
        let new = new.count();
        assert_eq!(new + old.count(), 4, "a sector is old or new");
        assert!(after[..256].iter().chain(&after[1792..]).all(|byte| *byte == 1));
        kept[new] += 1;
    }
    assert!(kept.iter().all(|count| *count > 0), "every number of sectors occurs: {kept:?}");
}

#[test]
fn what_survives_beyond_the_surviving_length_is_clipped() {
    let fs = SimFs::new();
    let file = durable(&fs, "/a", b"head");
    file.allocate(SITE, 8192).unwrap();
    file.write_at(SITE, &[7; 4096], 0).unwrap();
    let mut lens = [0; 2];
    for seed in 0..100 {
        let after = contents(&fs.crash(Crash::Some { seed }), "/a").unwrap();
        match after.len() {
            4 => lens[0] += 1,
            8192 => lens[1] += 1,
            other => panic!("a length that nobody asked for: {other}"),
        }
        assert!(after.iter().skip(4).all(|byte| [0, 7].contains(byte)));
        assert!(after[..4] == [7; 4] || after[..4] == *b"head");
    }
    assert!(lens.iter().all(|count| *count > 0));
}

#[test]
fn a_later_name_may_survive_an_earlier_one() {
    let fs = SimFs::new();
    create(&fs, "/a");
    create(&fs, "/b");
    let left = (0..50).map(|seed| names(&fs.crash(Crash::Some { seed })).concat());
    let mut left: Vec<String> = left.collect();
    left.sort();
    left.dedup();
    assert_eq!(left, ["", "a", "ab", "b"]);
}

#[test]
fn after_a_power_cut_nothing_works_and_nothing_changes() {
    let fs = SimFs::new();
    let file = durable(&fs, "/a", b"abc");
    let calls = fs.calls();
    fs.fail_from(calls + 1);
    file.write_at(SITE, b"A", 0).unwrap();
    let error = file.sync(Site::LogSync).unwrap_err();
    assert_eq!(error.source.kind(), ErrorKind::Other);
    assert_eq!(error.source.to_string(), "simulated power cut");
    assert!(file.write_at(SITE, b"B", 1).is_err());
    assert!(fs.remove(SITE, Path::new("/a")).is_err());
    assert!(fs.open(SITE, Path::new("/b"), OpenHow::CreateNew).is_err());
    assert!(fs.try_lock(SITE, Path::new("/a")).is_err());
    assert_eq!(fs.calls(), calls + 6);
    assert_eq!(fs.trace()[calls as usize..][..2], [SITE, Site::LogSync]);
    let after = fs.crash(Crash::Everything);
    assert_eq!((after.calls(), contents(&after, "/a").unwrap()), (0, b"Abc".to_vec()));
    assert_eq!(contents(&fs.crash(Crash::Nothing), "/a").unwrap(), b"abc");
}

#[test]
fn a_single_call_goes_wrong_in_five_ways() {
    let fs = SimFs::new();
    let file = durable(&fs, "/a", b"");
    fs.fail_call(fs.calls(), Fault::Io);
    assert!(file.write_at(SITE, b"abcd", 0).is_err());
    fs.fail_call(fs.calls(), Fault::NoSpace);
    assert!(file.write_at(SITE, b"abcd", 0).unwrap_err().is_no_space());
    assert_eq!(contents(&fs, "/a").unwrap(), b"");

    fs.fail_call(fs.calls(), Fault::Interrupted);
    fs.fail_call(fs.calls() + 1, Fault::Short);
    write_full(&*file, SITE, b"abcd", 0).unwrap();
    assert_eq!(contents(&fs, "/a").unwrap(), b"abcd");

    fs.fail_next(Site::LogSync, Fault::Io);
    file.sync(SITE).unwrap();
    file.sync(Site::LogSync).unwrap_err();
    file.sync(Site::LogSync).unwrap();

    let mut buf = [0; 5];
    fs.fail_call(fs.calls(), Fault::Short);
    assert_eq!(file.read_at(SITE, &mut buf, 0).unwrap(), 3);
    fs.fail_call(fs.calls(), Fault::Short);
    assert_eq!(read_full(&*file, SITE, &mut buf, 0).unwrap(), 4);
    assert_eq!(&buf[..4], b"abcd");
}

#[test]
fn a_lost_sync_never_comes_back() {
    let fs = SimFs::new();
    let file = durable(&fs, "/a", b"old.");
    file.write_at(SITE, b"lost", 0).unwrap();
    fs.fail_call(fs.calls(), Fault::LostSync);
    assert!(file.sync(SITE).is_err());
    file.write_at(SITE, b"new", 4).unwrap();
    file.sync(SITE).unwrap();
    assert_eq!(contents(&fs, "/a").unwrap(), b"lostnew");
    assert_eq!(contents(&fs.crash(Crash::Nothing), "/a").unwrap(), b"old.new");

    let other = fs.open(SITE, Path::new("/a"), OpenHow::Read).unwrap();
    fs.fail_call(fs.calls(), Fault::LostSync);
    assert!(other.sync(SITE).is_err());
    assert!(file.sync(SITE).is_err(), "each handle reports a loss");
    file.sync(SITE).unwrap();

    create(&fs, "/b").sync(SITE).unwrap();
    fs.fail_call(fs.calls(), Fault::LostSync);
    assert!(fs.sync_dir(SITE, Path::new(ROOT)).is_err());
    assert_eq!(names(&fs.crash(Crash::Nothing)), ["a"]);
    fs.sync_dir(SITE, Path::new(ROOT)).unwrap();
    assert_eq!(names(&fs.crash(Crash::Nothing)), ["a", "b"], "names are not forgotten");
}

#[test]
fn a_full_disk_takes_what_fits_and_space_comes_back() {
    let fs = SimFs::new();
    fs.limit_space(8192 + 100);
    let file = create(&fs, "/a");
    assert!(file.allocate(SITE, 8193).unwrap_err().is_no_space());
    assert_eq!(fs.space_used(), 0);
    assert_eq!(file.write_at(SITE, &[1; 10_000], 0).unwrap(), 8192);
    assert_eq!(kind(file.write_at(SITE, b"x", 8192)), ErrorKind::StorageFull);
    assert_eq!(file.write_at(SITE, b"x", 0).unwrap(), 1, "overwriting takes no space");
    fs.remove(SITE, Path::new("/a")).unwrap();
    let other = create(&fs, "/b");
    assert!(other.allocate(SITE, 4096).is_err(), "an open file keeps its space");
    drop(file);
    other.allocate(SITE, 8192).unwrap();
    other.truncate(SITE, 1).unwrap();
    assert_eq!((other.allocated(SITE).unwrap(), fs.space_used()), (4096, 4096));
}

#[test]
fn some_file_systems_never_allocate() {
    let fs = SimFs::new();
    fs.never_allocate();
    let file = create(&fs, "/a");
    file.allocate(SITE, 4096).unwrap();
    assert_eq!((file.len(SITE).unwrap(), fs.space_used()), (0, 0));
    file.write_at(SITE, b"abc", 5).unwrap();
    assert_eq!(contents(&fs, "/a").unwrap(), b"\0\0\0\0\0abc");
}

#[test]
fn a_lock_lasts_as_long_as_its_handle_and_no_longer_than_a_crash() {
    let fs = SimFs::new();
    let path = Path::new("/LOCK");
    let held = fs.try_lock(SITE, path).unwrap().unwrap();
    held.write_at(SITE, b"1", 0).unwrap();
    assert!(fs.try_lock(SITE, path).unwrap().is_none());
    assert!(fs.crash(Crash::Everything).try_lock(SITE, path).unwrap().is_some());
    drop(fs.open(SITE, path, OpenHow::Read).unwrap());
    assert!(fs.try_lock(SITE, path).unwrap().is_none());
    drop(held);
    assert!(fs.try_lock(SITE, path).unwrap().is_some());
}

#[test]
fn contents_that_no_path_reaches_are_forgotten() {
    let fs = SimFs::new();
    let file = durable(&fs, "/a", &[1; 5000]);
    fs.remove(SITE, Path::new("/a")).unwrap();
    fs.sync_dir(SITE, Path::new(ROOT)).unwrap();
    assert_eq!(fs.space_used(), 8192);
    drop(file);
    fs.sync_dir(SITE, Path::new(ROOT)).unwrap();
    assert!(super::lock(&fs.state).inodes.is_empty());
}

#[test]
fn a_view_of_a_directory_survives_a_crash_of_its_name() {
    let fs = SimFs::new();
    fs.create_dir(SITE, Path::new("/data")).unwrap();
    fs.sync_dir(SITE, Path::new("/")).unwrap();
    let view = fs.open_dir(SITE, Path::new("/data")).unwrap();
    fs.rename(SITE, Path::new("/data"), Path::new("/moved")).unwrap();
    let file = view.open(SITE, Path::new("/data/a"), OpenHow::CreateNew).unwrap();
    file.sync(SITE).unwrap();
    view.sync_dir(SITE, Path::new("/data")).unwrap();
    let unmoved = fs.crash(Crash::Nothing);
    assert_eq!(unmoved.list(SITE, Path::new("/data")).unwrap(), ["a"]);
    assert_eq!(kind(unmoved.list(SITE, Path::new("/moved"))), ErrorKind::NotFound);
    fs.sync_dir(SITE, Path::new("/")).unwrap();
    let moved = fs.crash(Crash::Nothing);
    assert_eq!(moved.list(SITE, Path::new("/moved")).unwrap(), ["a"]);
    assert_eq!(names(&moved), ["moved"]);
}
