//! A real file system of 64 MiB, filled to the brim.
//!
//! The simulated disk has the effect of a full disk on each call; this one shows that a real one is no
//! worse. It is an image in a file, mounted through a loop device, which takes privileges that not
//! every machine gives: where it cannot be mounted, the test says so and is skipped.
#![expect(clippy::disallowed_methods, reason = "files of somebody else")]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use aryavarth::{KvStore, KvsError, Options, verify};
use tempfile::TempDir;

const DISK_BYTES: u64 = 64 << 20;
/// The part that another program takes, and later frees.
const BALLAST_BYTES: usize = 12 << 20;
/// Frees more than the store's reserve needs, which comes first when writes resume.
const CUSHION_BYTES: usize = 4 << 20;
const WRITERS: u64 = 8;
/// A write is small enough to be sure that the disk is full when it is refused.
const VALUE_BYTES: [usize; 4] = [16_000, 2_000, 100, 0];

type Entry = (Vec<u8>, Vec<u8>);
type Entries = Vec<Entry>;

/// A mounted image; unmounted when dropped.
struct Disk {
    dir: TempDir,
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

impl Disk {
    fn mount() -> Result<Disk, String> {
        let disk = Disk { dir: tempfile::tempdir().unwrap() };
        let image = disk.dir.path().join("image");
        File::create(&image).and_then(|file| file.set_len(DISK_BYTES)).unwrap();
        fs::create_dir(disk.root()).unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.root()))?;
        Ok(disk)
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Not mounted, if mounting failed; the directory then goes with the rest.
        if let Err(error) = run(Command::new("umount").arg(self.root())) {
            println!("{error}");
        }
    }
}

fn key(writer: u64, number: u64) -> Vec<u8> {
    format!("key:{writer}:{number:06}").into_bytes()
}

fn value(key: &[u8], bytes: usize) -> Vec<u8> {
    key.iter().copied().cycle().take(bytes).collect()
}

/// Writes until even the smallest value is refused; returns the acknowledged pairs.
fn fill(store: &KvStore, writer: u64) -> Entries {
    let mut acknowledged = Vec::new();
    for bytes in VALUE_BYTES {
        loop {
            let key = key(writer, acknowledged.len() as u64);
            let value = value(&key, bytes);
            match store.put(&key, &value) {
                Ok(()) => acknowledged.push((key, value)),
                Err(KvsError::Full { .. }) => break,
                Err(error) => panic!("a full disk is no reason for: {error}"),
            }
        }
    }
    acknowledged
}

fn check(store: &KvStore, there: &[Entry], gone: &[Entry]) {
    for (key, value) in there {
        assert_eq!(store.read(key).unwrap().as_ref(), Some(value), "acknowledged and lost");
    }
    for (key, _) in gone {
        assert_eq!(store.read(key).unwrap(), None, "removed and back");
    }
}

/// How long it takes until a write is taken again.
fn until_written(store: &KvStore, key: &[u8]) -> Duration {
    let freed = Instant::now();
    while let Err(error) = store.put(key, b"v") {
        assert!(matches!(error, KvsError::Full { .. }), "{error}");
        assert!(freed.elapsed() < Duration::from_secs(30), "writes did not resume: {error}");
        thread::sleep(Duration::from_millis(10));
    }
    freed.elapsed()
}

/// Removes keys until a removal is refused, or all are gone.
fn remove(store: &KvStore, keys: &mut Entries, max: usize) -> Entries {
    let mut removed = Vec::new();
    while removed.len() < max
        && let Some(last) = keys.last()
    {
        match store.delete(&last.0) {
            Ok(found) => assert!(found),
            Err(KvsError::Full { .. }) => break,
            Err(error) => panic!("a full disk is no reason for: {error}"),
        }
        removed.extend(keys.pop());
    }
    removed
}

fn story(root: &Path) {
    let dir = root.join("store");
    let store = KvStore::open(&dir).unwrap();
    fs::write(root.join("ballast"), vec![1; BALLAST_BYTES]).unwrap();

    let mut there: Vec<_> = thread::scope(|scope| {
        let store = &store;
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| scope.spawn(move || fill(store, writer))).collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    let bytes: usize = there.iter().map(|(key, value)| key.len() + value.len()).sum();
    println!("full after {} writes of {} MiB in all", there.len(), bytes >> 20);
    assert!(bytes as u64 > DISK_BYTES / 2, "the disk is not full");
    assert!(store.stats().full);
    check(&store, &there, &[]);

    // From the reserve.
    let mut gone = remove(&store, &mut there, 500);
    assert_eq!(gone.len(), 500, "removals are refused although there is a reserve");
    check(&store, &there, &gone);

    // Compaction gives their space back; then removals and writes go on.
    let most = there.len() / 2;
    gone.extend(remove(&store, &mut there, most));
    println!("{} removals on the full disk", gone.len());
    store.compact().unwrap();
    let more = remove(&store, &mut there, 500);
    assert_eq!(more.len(), 500, "removals are refused after compaction");
    gone.extend(more);
    println!("writes resumed {:?} after compaction", until_written(&store, b"compacted"));
    check(&store, &there, &gone);

    // A store that is opened on a disk without a free block serves reads and removals.
    fs::write(root.join("cushion"), vec![1; CUSHION_BYTES]).unwrap();
    let mut again = fill(&store, WRITERS);
    drop(store);
    let mut rest = File::create(root.join("rest")).unwrap();
    while rest.write_all(&[1; 4096]).is_ok() {}
    let store = KvStore::open(&dir).unwrap();
    check(&store, &there, &gone);
    check(&store, &again, &[]);
    gone.extend(remove(&store, &mut again, 200));
    println!("{} keys are left of the second filling", again.len());
    there.extend(again);
    check(&store, &there, &gone);
    fs::remove_file(root.join("rest")).unwrap();
    fs::remove_file(root.join("cushion")).unwrap();
    until_written(&store, b"opened on a full disk");

    // Full again, until another program frees space.
    let again = fill(&store, WRITERS + 1);
    println!("full again after {} writes", again.len());
    fs::remove_file(root.join("ballast")).unwrap();
    let took = until_written(&store, b"freed");
    println!("writes resumed {took:?} after space was freed");
    assert!(took < Duration::from_secs(10), "by themselves, within about 2 s");
    there.extend(again);
    check(&store, &there, &gone);
    drop(store);

    assert!(verify(&dir, &Options::default(), |_, _| {}).unwrap().damage.is_empty());
    check(&KvStore::open(&dir).unwrap(), &there, &gone);
}

#[test]
fn a_small_disk_filled_to_the_brim_loses_nothing_and_gets_going_again() {
    match Disk::mount() {
        Ok(disk) => story(&disk.root()),
        Err(reason) => println!("skipped: no small file system could be mounted: {reason}"),
    }
}
