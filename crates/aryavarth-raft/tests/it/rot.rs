//! Rot: files of a node with a changed byte, files that are cut, and files that are gone.
//!
//! A log that was closed knows every byte that it acknowledged, so damage is refused, by an error that
//! says to join as a new node, or it hit a byte that meant nothing. In a log that was killed nothing
//! vouches for the last group: that one alone may go. An entry or vote that is silently another one is
//! never right.

use std::path::{Path, PathBuf};

use aryavarth::fs::{Crash, Fs, OpenHow, SimFs, Site, read_full, write_full};
use aryavarth_raft::{Node, RaftError};

use crate::story::{Act, DATA, FILE_BYTES, Model, Random, Teller, disk, entries, open, options};

const SITE: Site = Site::SegmentOpen;
/// Bytes between changed ones, so that each field is hit in some record.
const STRIDE: usize = 3;

/// A node's disk, and its log before and after the last group.
struct Disk {
    fs: SimFs,
    before_last: Model,
    model: Model,
}

impl Disk {
    fn made(closed: bool) -> Disk {
        let fs = disk();
        let mut teller = Teller::new(&fs);
        teller.tell(&[]).unwrap();
        let mut random = Random::new(3);
        let mut before_last = Model::default();
        for term in 1..30 {
            before_last.clone_from(teller.models.last().unwrap());
            let model = &before_last;
            let act = match term % 7 {
                3 => Act::Vote(aryavarth_raft::Vote { term, node: 5, granted: term > 9 }),
                5 => {
                    Act::Truncate(model.entries.get(model.entries.len() - 2).map(|entry| entry.id))
                }
                6 => Act::Purge(model.entries[0].id),
                _ => Act::Append(entries(&mut random, model.last(), term)),
            };
            teller.act(&act).unwrap();
            teller.act(&Act::Step).unwrap();
        }
        let model = teller.models.last().unwrap().clone();
        let killed = fs.crash(Crash::Everything);
        teller.log.take().unwrap().close().unwrap();
        let fs = if closed { fs } else { killed };
        Disk { fs, before_last, model }
    }

    fn files(&self) -> Vec<PathBuf> {
        let dir = Path::new(DATA).join("raft");
        let mut names = self.fs.list(SITE, &dir).unwrap();
        names.retain(|name| name != "LOCK");
        assert!(names.len() > 3, "the log has several files: {names:?}");
        let files = names.into_iter().map(|name| dir.join(name));
        files.chain([Path::new(DATA).join("node")]).collect()
    }

    /// Opens a damaged copy; an error has to be one that forbids the node to take part.
    fn outcome(&self, fs: &SimFs, closed: bool, scene: &str) -> bool {
        match open(fs).and_then(|log| Model::of(&log)) {
            Ok(found) if found == self.model => true,
            Ok(found) => {
                let is_near = self.is_in_last_group(&found);
                assert!(!closed && is_near, "{scene}: found {found:?}");
                true
            }
            Err(
                RaftError::Corrupt { .. }
                | RaftError::Lost { .. }
                | RaftError::Foreign { .. }
                | RaftError::UnknownFormat { .. },
            ) => false,
            Err(error) => panic!("{scene}: {error}"),
        }
    }

    /// Whether a model lies between those before and after the last group.
    fn is_in_last_group(&self, found: &Model) -> bool {
        let (before, after) = (&self.before_last, &self.model);
        let is_prefix = after.entries.starts_with(&found.entries)
            && found.entries.len() >= before.entries.len();
        is_prefix && found.purged == after.purged && found.vote == after.vote
    }
}

fn bytes(fs: &SimFs, path: &Path) -> Vec<u8> {
    let file = fs.open(SITE, path, OpenHow::Read).unwrap();
    let mut bytes = vec![0; file.len(SITE).unwrap() as usize];
    read_full(&*file, SITE, &mut bytes, 0).unwrap();
    bytes
}

/// Changes each byte of a node's files, a few at a time, and counts the opens that were refused.
fn flip(closed: bool) -> (usize, usize) {
    let disk = Disk::made(closed);
    let (mut refused, mut opened) = (0, 0);
    for path in disk.files() {
        let whole = bytes(&disk.fs, &path);
        for at in (0..whole.len()).step_by(STRIDE) {
            let fs = disk.fs.crash(Crash::Everything);
            let file = fs.open(SITE, &path, OpenHow::Write).unwrap();
            write_full(&*file, SITE, &[whole[at] ^ (1 << (at % 8))], at as u64).unwrap();
            drop(file);
            let scene = format!("byte {at} of {} changed", path.display());
            let is_open = disk.outcome(&fs, closed, &scene);
            opened += usize::from(is_open);
            refused += usize::from(!is_open);
        }
    }
    (refused, opened)
}

#[test]
fn a_byte_that_flips_in_a_closed_log_is_refused_or_meant_nothing() {
    let (refused, opened) = flip(true);
    assert!(refused > 500 && opened > 50, "{refused} refused, {opened} opened");
}

#[test]
fn a_byte_that_flips_in_a_killed_log_costs_the_last_group_at_most() {
    let (refused, opened) = flip(false);
    assert!(refused > 500 && opened > 50, "{refused} refused, {opened} opened");
}

#[test]
fn a_file_that_is_cut_or_gone_is_refused() {
    let disk = Disk::made(true);
    let files = disk.files();
    for path in &files {
        let whole = bytes(&disk.fs, path);
        let is_unused = whole.get(64..).is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
        // A group that is larger than a file extends it, and its header does not know.
        let length = (whole.len() as u64).min(FILE_BYTES);
        for left in (0..length).step_by(64) {
            let fs = disk.fs.crash(Crash::Everything);
            let file = fs.open(SITE, path, OpenHow::Write).unwrap();
            file.truncate(SITE, left).unwrap();
            drop(file);
            let scene = format!("{} cut to {left}", path.display());
            assert_eq!(disk.outcome(&fs, true, &scene), is_unused, "{scene}");
        }
        let fs = disk.fs.crash(Crash::Everything);
        fs.remove(SITE, path).unwrap();
        if path.ends_with("node") {
            let gone = Node::open(Path::new(DATA), &options(&fs)).unwrap();
            assert!(gone.is_none(), "a directory without the node file is no node");
            let anew = Node::create(Path::new(DATA), &crate::story::identity(), &options(&fs));
            assert!(matches!(anew, Err(RaftError::Lost { .. })), "its log is not taken for new");
            continue;
        }
        let scene = format!("{} gone", path.display());
        assert_eq!(disk.outcome(&fs, true, &scene), is_unused, "{scene}");
    }
}

#[test]
fn a_node_without_its_log_never_starts_as_if_it_were_new() {
    let disk = Disk::made(true);
    let fs = disk.fs.crash(Crash::Everything);
    for path in disk.files().iter().filter(|path| !path.ends_with("node")) {
        fs.remove(SITE, path).unwrap();
    }
    let error = open(&fs).unwrap_err();
    assert!(matches!(error, RaftError::Lost { .. }));
    assert!(error.to_string().contains("join as a new node"), "{error}");
}

#[test]
fn a_log_of_another_node_is_refused() {
    let (one, other) = (Disk::made(true), disk());
    let identity = aryavarth_raft::Identity::new(7, "b");
    Node::create(Path::new(DATA), &identity, &options(&other)).unwrap();
    let node = bytes(&other, &Path::new(DATA).join("node"));
    let file = one.fs.open(SITE, &Path::new(DATA).join("node"), OpenHow::Write).unwrap();
    file.truncate(SITE, 0).unwrap();
    write_full(&*file, SITE, &node, 0).unwrap();
    assert!(matches!(open(&one.fs).unwrap_err(), RaftError::Foreign { .. }));
}
