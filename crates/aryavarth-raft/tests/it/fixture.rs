//! Every node directory that a released version wrote can be opened.
//!
//! `tests/fixtures` has a directory for each version of the formats: a node that was closed (`clean`), one
//! whose process was killed in the middle of a write (`killed`), and `CONTENTS.txt`, which lists their
//! logs. A fixture is never changed. `MAKE_FIXTURE=v1 cargo test -p aryavarth-raft fixture::` makes the one of a new
//! version, and refuses to replace one. `LOCK` is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use aryavarth::fs::{Crash, Fs, OpenHow, SimFs, Site, read_full};
use aryavarth_raft::{
    Entry, EntryKind, Frame, LogEntry, LogId, Member, Members, Node, RaftLogOptions, Session,
    Table, Vote, Write,
};
use bytes::Bytes;
use crc32c::crc32c;

use crate::story::{Act, DATA, Model, Teller, disk};

const SITE: Site = Site::SegmentOpen;

/// An entry with everything that one can have.
pub(crate) fn full_entry() -> Entry {
    let put = Write {
        generation: 3,
        payload_crc: 0x1234_5678,
        key: Bytes::from_static(b"name"),
        put: Some((Bytes::from_static(b"Alice"), Some(1_700_000_000_000))),
    };
    let plain = Write { put: Some((Bytes::from_static(b""), None)), ..put.clone() };
    let remove = Write { generation: 0, payload_crc: 1, key: Bytes::new(), put: None };
    let session = Session { id: 5, number: 6, reply: Bytes::from_static(b"+OK\r\n") };
    let table = Table { next: 9, spaces: vec![(0, 3), (1, 8)] };
    let whole = Frame { session: Some(session), table: Some(table), writes: vec![put, plain] };
    let small = Frame { writes: vec![remove], ..Frame::default() };
    Entry { stamp_ms: 1_700_000_000_001, frames: vec![whole, small] }
}

pub(crate) fn members() -> Members {
    let member = |n: u64| {
        let (peer, client) = (format!("node{n}:4002"), format!("node{n}:4000"));
        (n, Member { level: 1, peer, client })
    };
    let configs = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3])];
    Members { configs, nodes: (1..=4).map(member).collect() }
}

/// Calls of a node's life: each kind of record, in several files.
fn life() -> Vec<Act> {
    let id = |term, index| LogId { term, index };
    let blank = |id| LogEntry { id, kind: EntryKind::Blank, body: Bytes::new() };
    let entry = |id| LogEntry { id, kind: EntryKind::Normal, body: full_entry().encode() };
    let change = |id| LogEntry { id, kind: EntryKind::Members, body: members().encode() };
    let mut acts = vec![
        Act::Vote(Vote { term: 1, node: 9, granted: true }),
        Act::Append(vec![change(id(0, 0)), blank(id(1, 1))]),
        Act::Step,
    ];
    for index in 2..20 {
        acts.extend([Act::Append(vec![entry(id(1, index))]), Act::Step]);
    }
    acts.extend([
        Act::Truncate(Some(id(1, 17))),
        Act::Append(vec![blank(id(3, 18)), entry(id(3, 19))]),
        Act::Committed(Some(id(3, 18))),
        Act::Purge(id(1, 8)),
        Act::Step,
        Act::Vote(Vote { term: 4, node: 2, granted: false }),
        Act::Step,
    ]);
    acts
}

/// Names and bytes of a node's files, and its log.
fn made(name: &str) -> (BTreeMap<String, Vec<u8>>, Model) {
    let mut teller = Teller::new(&disk());
    teller.tell(&life()).unwrap();
    let model = teller.models.last().unwrap().clone();
    let fs = teller.fs.clone();
    if name == "clean" {
        teller.log.take().unwrap().close().unwrap();
        return (files(&fs), model);
    }
    let whole = files(&fs.crash(Crash::Everything));
    let torn = LogEntry { id: LogId { term: 4, index: 20 }, ..life_entry() };
    teller.act(&Act::Append(vec![torn])).unwrap();
    teller.act(&Act::Step).unwrap();
    let mut files = files(&fs.crash(Crash::Everything));
    // Half of the last group is all that a power cut left of it: its end is lost.
    for (name, bytes) in &mut files {
        let before = whole.get(name).map_or(0, |bytes| used(bytes));
        let now = used(bytes);
        if now > before && before > 64 {
            bytes[before + 60..now].fill(0);
        }
    }
    (files, model)
}

fn life_entry() -> LogEntry {
    let body = Bytes::from(vec![b't'; 200]);
    LogEntry { id: LogId { term: 0, index: 0 }, kind: EntryKind::Normal, body }
}

fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

fn files(fs: &SimFs) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec!["node".to_owned()];
    let dir = Path::new(DATA).join("raft");
    let log = fs.list(SITE, &dir).unwrap();
    names.extend(log.iter().filter(|name| *name != "LOCK").map(|name| format!("raft/{name}")));
    let read = |name: String| {
        let file = fs.open(SITE, &Path::new(DATA).join(&name), OpenHow::Read).unwrap();
        let mut bytes = vec![0; file.len(SITE).unwrap() as usize];
        read_full(&*file, SITE, &mut bytes, 0).unwrap();
        (name, bytes)
    };
    names.into_iter().map(read).collect()
}

/// A log as lines of `CONTENTS.txt`.
fn lines(name: &str, model: &Model) -> String {
    let mut out = String::new();
    let id = |id: Option<LogId>| id.map_or("none".to_owned(), |id| id.to_string());
    writeln!(out, "{name} vote {:?}", model.vote).unwrap();
    let (purged, committed) = (id(model.purged), id(model.committed));
    writeln!(out, "{name} purged {purged}, committed {committed}").unwrap();
    for entry in &model.entries {
        let (bytes, crc) = (entry.body.len(), crc32c(&entry.body));
        writeln!(out, "{name} {} {:?} {bytes} bytes, {crc:#010x}", entry.id, entry.kind).unwrap();
    }
    out
}

const STORIES: [&str; 2] = ["clean", "killed"];

/// Writes the fixture of a new version.
fn make(version: &Path) {
    assert!(!version.exists(), "{} is there, and a fixture is never replaced", version.display());
    let mut contents = String::from(
        "# The logs of the nodes beside this file: every later version must open them and find\n\
         # exactly this. Never edited.\n",
    );
    for name in STORIES {
        let (files, model) = made(name);
        for (file, bytes) in files {
            let path = version.join(name).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        contents += &lines(name, &model);
    }
    fs::write(version.join("CONTENTS.txt"), contents).unwrap();
}

fn versions() -> Vec<PathBuf> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    if let Some(version) = std::env::var_os("MAKE_FIXTURE") {
        make(&fixtures.join(version));
    }
    let entries = fs::read_dir(fixtures).expect("tests/fixtures");
    let versions: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(versions.iter().any(|version| version.ends_with("v1")), "version 1 has a fixture");
    versions
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn nodes_of_every_version_open_and_go_on() {
    for version in versions() {
        let contents = fs::read_to_string(version.join("CONTENTS.txt")).unwrap();
        for name in STORIES {
            let dir = tempfile::tempdir().unwrap();
            copy(&version.join(name), dir.path());
            let options = RaftLogOptions { background: false, ..RaftLogOptions::default() };
            let node = Node::open(dir.path(), &options).unwrap().unwrap();
            assert_eq!(node.identity, crate::story::identity());
            let found = Model::of(&node.log).unwrap();
            let expected = contents.lines().filter(|line| line.starts_with(name));
            let expected: Vec<&str> = expected.collect();
            assert_eq!(lines(name, &found).lines().collect::<Vec<_>>(), expected);
            for entry in &found.entries {
                match entry.kind {
                    EntryKind::Blank => assert!(entry.body.is_empty()),
                    EntryKind::Normal => assert_eq!(Entry::decode(&entry.body), Some(full_entry())),
                    EntryKind::Members => assert_eq!(Members::decode(&entry.body), Some(members())),
                }
            }
            let index = found.last().map_or(0, |last| last.index + 1);
            let next = LogEntry { id: LogId { term: 9, index }, ..life_entry() };
            node.log.append(vec![next.clone()], Box::new(|done| done.unwrap())).unwrap();
            node.log.close().unwrap();
            let node = Node::open(dir.path(), &options).unwrap().unwrap();
            assert_eq!(node.log.read(index..index + 1).unwrap(), [next]);
        }
    }
}

#[test]
fn the_bytes_of_entries_and_members_are_those_of_the_format() {
    // docs/raft-log.md, "Bodies": any change of these bytes is another version.
    let entry = full_entry().encode();
    assert_eq!((entry.len(), crc32c(&entry)), ENTRY_V1);
    let members = members().encode();
    assert_eq!((members.len(), crc32c(&members)), MEMBERS_V1);
}

/// Length and checksum of the entry, as version 1 writes it.
const ENTRY_V1: (usize, u32) = (159, 0x7028_9119);
/// Length and checksum of the members, as version 1 writes them.
const MEMBERS_V1: (usize, u32) = (185, 0xc89d_cd85);
