//! The simulated disk behaves like a real one: both are told one story, and give the same answers.

use std::path::{Path, PathBuf};

use super::SimFs;
use super::tests::{ROOT, SITE, kind};
use crate::fs::{Fs, FsFile, OpenHow, RealFs, read_full};

/// Tells one story to a file system and writes down everything that it answers.
fn told(fs: &dyn Fs, root: &Path) -> Vec<String> {
    let mut told = Vec::new();
    let mut say = |what: &str, answer: String| told.push(format!("{what}: {answer}"));
    let dir = root.join("./d/e");
    say("create", format!("{:?}", fs.create_dir(SITE, &dir).unwrap()));
    say("again", format!("{:?}", fs.create_dir(SITE, &root.join("d/e")).unwrap()));
    let path = |name: &str| -> PathBuf { dir.join(name) };
    let open = |name: &str, how| fs.open(SITE, &path(name), how);
    say("missing", format!("{:?}", kind(open("a", OpenHow::Write))));
    say("no dir", format!("{:?}", kind(fs.open(SITE, &root.join("z/a"), OpenHow::CreateNew))));
    say("no list", format!("{:?}", kind(fs.list(SITE, &root.join("z")))));
    say("no sync", format!("{:?}", kind(fs.sync_dir(SITE, &root.join("z")))));
    say("no remove", format!("{:?}", kind(fs.remove(SITE, &path("a")))));
    say("no rename", format!("{:?}", kind(fs.rename(SITE, &path("a"), &path("b")))));
    let file = open("a", OpenHow::CreateNew).unwrap();
    say("exists", format!("{:?}", kind(open("a", OpenHow::CreateNew))));
    let show = |file: &dyn FsFile| {
        let mut buf = [9; 6000];
        let bytes = read_full(file, SITE, &mut buf, 0).unwrap();
        let some = buf[..bytes].iter().enumerate().filter(|(_, byte)| **byte != 0);
        format!("{:?} {bytes} {:?}", file.len(SITE).unwrap(), some.collect::<Vec<_>>())
    };
    say("empty", show(&*file));
    say("write", format!("{:?}", file.write_at(SITE, b"abc", 10).unwrap()));
    say("hole", show(&*file));
    file.allocate(SITE, 5000).unwrap();
    say("allocated", format!("{} {}", show(&*file), file.allocated(SITE).unwrap() >= 5000));
    file.allocate(SITE, 20).unwrap();
    say("not shrunk", show(&*file));
    say("nothing", format!("{:?}", kind(file.allocate(SITE, 0))));
    let mut buf = [0; 4];
    say("past the end", format!("{:?}", file.read_at(SITE, &mut buf, 6000).unwrap()));
    file.write_at(SITE, b"xyz", 4995).unwrap();
    file.truncate(SITE, 11).unwrap();
    say("cut", show(&*file));
    file.allocate(SITE, 5000).unwrap();
    say("grown", show(&*file));
    let reader = open("a", OpenHow::Read).unwrap();
    say("read only", format!("{}", reader.write_at(SITE, b"a", 0).is_err()));
    fs.rename(SITE, &path("a"), &path("b")).unwrap();
    open("a", OpenHow::CreateNew).unwrap().write_at(SITE, b"new", 0).unwrap();
    let replaced = open("a", OpenHow::Read).unwrap();
    fs.rename(SITE, &path("b"), &path("a")).unwrap();
    say("replaced", show(&*replaced));
    say("in place", show(&*open("a", OpenHow::Read).unwrap()));
    say("names", format!("{:?}", fs.list(SITE, &dir).unwrap()));
    fs.remove(SITE, &path("a")).unwrap();
    file.write_at(SITE, b"!", 0).unwrap();
    file.sync(SITE).unwrap();
    fs.sync_dir(SITE, &dir).unwrap();
    say("removed", show(&*reader));
    say("names", format!("{:?}", fs.list(SITE, &dir).unwrap()));
    let held = fs.try_lock(SITE, &path("l")).unwrap();
    say("lock", format!("{}", held.is_some()));
    say("locked", format!("{}", fs.try_lock(SITE, &path("l")).unwrap().is_some()));
    drop(held);
    say("free", format!("{}", fs.try_lock(SITE, &path("l")).unwrap().is_some()));
    say("dirs", format!("{:?}", fs.list(SITE, root).unwrap()));
    say_of_a_view(fs, root, &mut say);
    told
}

/// A directory that is held open is moved, and another one takes its name.
fn say_of_a_view(fs: &dyn Fs, root: &Path, say: &mut impl FnMut(&str, String)) {
    let (dir, moved) = (root.join("d"), root.join("moved"));
    let view = fs.open_dir(SITE, &dir).unwrap();
    say("no view", format!("{:?}", kind(fs.open_dir(SITE, &root.join("z")))));
    view.open(SITE, &dir.join("x"), OpenHow::CreateNew).unwrap().write_at(SITE, b"x", 0).unwrap();
    fs.rename(SITE, &dir, &moved).unwrap();
    fs.create_dir(SITE, &dir).unwrap();
    let file = view.open(SITE, &dir.join("y"), OpenHow::CreateNew).unwrap();
    say("path", format!("{:?}", file.path().strip_prefix(root).unwrap()));
    view.rename(SITE, &dir.join("y"), &dir.join("z")).unwrap();
    view.remove(SITE, &dir.join("x")).unwrap();
    view.sync_dir(SITE, &dir).unwrap();
    say("locked", format!("{}", view.try_lock(SITE, &dir.join("l")).unwrap().is_some()));
    say("below", format!("{}", view.create_dir(SITE, &dir.join("f/g")).unwrap()));
    say("below again", format!("{}", view.create_dir(SITE, &dir.join("f")).unwrap()));
    view.open(SITE, &dir.join("f/g/a"), OpenHow::CreateNew).unwrap();
    view.sync_dir(SITE, &dir.join("f/g")).unwrap();
    let below = view.open_dir(SITE, &dir.join("f")).unwrap();
    say("view below", format!("{:?}", below.list(SITE, &dir.join("f/g")).unwrap()));
    say("outside", format!("{:?}", kind(view.open(SITE, &root.join("q"), OpenHow::Read))));
    say("missing", format!("{:?}", kind(view.open(SITE, &dir.join("q"), OpenHow::Read))));
    let sorted = |mut names: Vec<String>| {
        names.sort();
        format!("{names:?}")
    };
    say("in the view", sorted(view.list(SITE, &dir).unwrap()));
    say("moved", sorted(fs.list(SITE, &moved).unwrap()));
    say("new", sorted(fs.list(SITE, &dir).unwrap()));
}

#[test]
fn the_real_file_system_tells_the_same_story() {
    let dir = tempfile::tempdir().unwrap();
    let real = told(&RealFs, dir.path());
    let simulated = told(&SimFs::new(), Path::new(ROOT));
    assert_eq!(real, simulated);
    assert!(real.len() > 20);
}
