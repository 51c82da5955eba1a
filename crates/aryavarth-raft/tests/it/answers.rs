//! The order of a call, its sync and its answer; full disks, failed syncs, bounds.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use aryavarth::fs::{Crash, Fault, Fs, SimFs, Site};
use aryavarth_raft::{
    Answer, EntryKind, LogEntry, LogId, Node, RaftError, RaftLog, RaftLogOptions, Result, Vote,
};
use bytes::Bytes;

use crate::story::{DATA, FILE_BYTES, Model, disk, identity, open, options};

type Answers = Arc<Mutex<Vec<Result<()>>>>;

/// A log without a thread, on a disk of its own.
fn new_log() -> (SimFs, RaftLog) {
    let fs = disk();
    Node::create(Path::new(DATA), &identity(), &options(&fs)).unwrap();
    let log = open(&fs).unwrap();
    (fs, log)
}

fn noted(answers: &Answers) -> Answer {
    let answers = Arc::clone(answers);
    Box::new(move |done| answers.lock().unwrap().push(done))
}

fn entry(index: u64, bytes: usize) -> LogEntry {
    let body = Bytes::from(vec![index as u8; bytes]);
    LogEntry { id: LogId { term: 1, index }, kind: EntryKind::Normal, body }
}

fn count(fs: &SimFs, site: Site) -> usize {
    fs.trace().iter().filter(|other| **other == site).count()
}

#[test]
fn a_vote_is_answered_after_it_is_on_disk() {
    let (fs, log) = new_log();
    let answers = Answers::default();
    let vote = Vote { term: 4, node: 2, granted: false };
    log.save_vote(vote, noted(&answers)).unwrap();
    assert!(answers.lock().unwrap().is_empty(), "nothing was synced yet");
    log.step().unwrap();
    assert!(matches!(answers.lock().unwrap()[..], [Ok(())]));
    let after = open(&fs.crash(Crash::Nothing)).unwrap();
    assert_eq!(after.vote(), Some(vote));
}

#[test]
fn calls_that_wait_together_take_one_sync_and_keep_their_order() {
    let (fs, log) = new_log();
    let before = count(&fs, Site::RaftSync);
    let answers = Answers::default();
    log.append(vec![entry(0, 20), entry(1, 20)], noted(&answers)).unwrap();
    log.truncate(Some(LogId { term: 1, index: 0 }), noted(&answers)).unwrap();
    log.save_vote(Vote { term: 9, node: 1, granted: true }, noted(&answers)).unwrap();
    let other = LogEntry { id: LogId { term: 9, index: 1 }, ..entry(1, 5) };
    log.append(vec![other.clone()], noted(&answers)).unwrap();
    assert_eq!(log.durable(), None, "an entry counts after its sync");
    assert_eq!(log.read(0..9).unwrap(), [entry(0, 20), other.clone()], "and is readable before");
    log.step().unwrap();
    assert_eq!(count(&fs, Site::RaftSync) - before, 1);
    assert_eq!(answers.lock().unwrap().len(), 4);
    assert_eq!(log.durable(), Some(1));
    let after = open(&fs.crash(Crash::Nothing)).unwrap();
    assert_eq!(after.read(0..9).unwrap(), [entry(0, 20), other]);
}

#[test]
fn an_entry_that_was_truncated_while_it_was_written_does_not_count_for_its_successor() {
    let (_fs, log) = new_log();
    let answers = Answers::default();
    log.append((0..3).map(|n| entry(n, 9)).collect(), noted(&answers)).unwrap();
    log.step().unwrap();
    log.truncate(Some(LogId { term: 1, index: 0 }), noted(&answers)).unwrap();
    let other = LogEntry { id: LogId { term: 2, index: 1 }, ..entry(1, 5) };
    log.append(vec![other], noted(&answers)).unwrap();
    assert_eq!(log.durable(), Some(0));
    log.step().unwrap();
    assert_eq!(log.durable(), Some(1));
}

#[test]
fn a_committed_id_rides_along_and_is_never_synced_for() {
    let (fs, log) = new_log();
    log.append(vec![entry(0, 9)], noted(&Answers::default())).unwrap();
    log.step().unwrap();
    let before = fs.calls();
    let id = Some(LogId { term: 1, index: 0 });
    log.save_committed(id).unwrap();
    assert!(!log.step().unwrap());
    assert_eq!(fs.calls(), before);
    log.append(vec![entry(1, 9)], noted(&Answers::default())).unwrap();
    log.step().unwrap();
    assert_eq!(open(&fs.crash(Crash::Nothing)).unwrap().committed(), id);
}

#[test]
fn a_failed_sync_poisons_the_log_for_good() {
    for site in [Site::RaftSync, Site::RaftAppend] {
        let (fs, log) = new_log();
        let answers = Answers::default();
        log.append(vec![entry(0, 9)], noted(&answers)).unwrap();
        let fault = if site == Site::RaftSync { Fault::LostSync } else { Fault::Io };
        fs.fail_next(site, fault);
        log.append(vec![entry(1, 9)], noted(&answers)).unwrap();
        assert!(matches!(log.step(), Err(RaftError::Poisoned { .. })), "{site:?}");
        let all = std::mem::take(&mut *answers.lock().unwrap());
        assert!(matches!(all[..], [Err(RaftError::Poisoned { .. }), Err(_)]), "{all:?}");
        assert_eq!(log.durable(), None);
        let again = log.append(vec![entry(2, 9)], noted(&answers));
        assert!(matches!(again, Err(RaftError::Poisoned { .. })));
        let again = log.save_vote(Vote { term: 1, node: 1, granted: true }, noted(&answers));
        assert!(matches!(again, Err(RaftError::Poisoned { .. })));
        assert!(matches!(log.step(), Err(RaftError::Poisoned { .. })));
        drop(log);
        // The process starts again and reads its log anew.
        let log = open(&fs.crash(Crash::Everything)).unwrap();
        assert!(log.durable() <= Some(1));
        log.append(vec![entry(log.durable().map_or(0, |last| last + 1), 9)], noted(&answers))
            .unwrap();
        log.step().unwrap();
    }
}

#[test]
fn a_full_disk_holds_calls_until_there_is_space() {
    for allocates in [true, false] {
        let fs = disk();
        if !allocates {
            fs.never_allocate();
        }
        Node::create(Path::new(DATA), &identity(), &options(&fs)).unwrap();
        let log = open(&fs).unwrap();
        fs.limit_space(fs.space_used());
        let answers = Answers::default();
        let mut model = Vec::new();
        let mut index = 0;
        let error = loop {
            log.append(vec![entry(index, 300)], noted(&answers)).unwrap();
            model.push(entry(index, 300));
            index += 1;
            if let Err(error) = log.step() {
                break error;
            }
        };
        assert!(matches!(error, RaftError::Full(_)), "{error}");
        assert!(error.to_string().contains("nothing is lost"), "{error}");
        let answered = answers.lock().unwrap().len();
        assert_eq!(answered as u64, index - 1);
        log.save_vote(Vote { term: 3, node: 1, granted: false }, noted(&answers)).unwrap();
        assert!(matches!(log.step(), Err(RaftError::Full(_))));
        assert_eq!(answers.lock().unwrap().len(), answered, "what waits goes on waiting");
        fs.limit_space(u64::MAX);
        log.step().unwrap();
        assert_eq!(answers.lock().unwrap().len(), answered + 2);
        assert!(answers.lock().unwrap().iter().all(Result::is_ok));
        let after = open(&fs.crash(Crash::Nothing)).unwrap();
        assert_eq!(after.read(0..u64::MAX).unwrap(), model);
        assert_eq!(after.vote().map(|vote| vote.term), Some(3));
    }
}

#[test]
fn a_purge_leaves_few_files_and_a_log_that_grows_is_cut_into_files() {
    let (fs, log) = new_log();
    let dir = Path::new(DATA).join("raft");
    let files = || fs.list(Site::RaftDirList, &dir).unwrap().len() - 1;
    let answers = Answers::default();
    for index in 0..200 {
        log.append(vec![entry(index, 100)], noted(&answers)).unwrap();
        while log.step().unwrap() {}
    }
    // A record of 136 bytes in a group of its own, and a seal in the end.
    let most = 200 / ((FILE_BYTES as usize - 64 - 40) / (136 + 48)) + 3;
    assert!((10..=most).contains(&files()), "{} files, at most {most}", files());
    log.purge(LogId { term: 1, index: 190 }, noted(&answers)).unwrap();
    while log.step().unwrap() {}
    assert!(files() <= 4, "{} files after the purge", files());
    assert_eq!(log.read(0..u64::MAX).unwrap().len(), 9);
    assert_eq!(open(&fs.crash(Crash::Nothing)).unwrap().read(0..u64::MAX).unwrap().len(), 9);
}

#[test]
fn a_group_larger_than_a_file_is_written_and_read() {
    let (fs, log) = new_log();
    let answers = Answers::default();
    let large = entry(0, 3 * FILE_BYTES as usize);
    log.append(vec![large.clone()], noted(&answers)).unwrap();
    log.step().unwrap();
    log.append(vec![entry(1, 5)], noted(&answers)).unwrap();
    log.step().unwrap();
    assert_eq!(log.read(0..9).unwrap(), [large.clone(), entry(1, 5)], "from the disk");
    let after = open(&fs.crash(Crash::Nothing)).unwrap();
    assert_eq!(after.read(0..9).unwrap(), [large, entry(1, 5)]);
}

#[test]
fn a_call_that_would_leave_a_hole_changes_nothing() {
    let (_fs, log) = new_log();
    let answers = Answers::default();
    log.append(vec![entry(0, 9), entry(1, 9)], noted(&answers)).unwrap();
    log.purge(LogId { term: 1, index: 0 }, noted(&answers)).unwrap();
    log.step().unwrap();
    let before = Model::of(&log).unwrap();
    let earlier = LogEntry { id: LogId { term: 0, index: 2 }, ..entry(2, 1) };
    for wrong in
        [vec![entry(3, 9)], vec![entry(1, 9)], vec![entry(2, 9), entry(4, 9)], vec![earlier]]
    {
        let refused = log.append(wrong, noted(&answers));
        assert!(matches!(refused, Err(RaftError::Order { .. })));
    }
    assert!(matches!(log.truncate(None, noted(&answers)), Err(RaftError::Order { .. })));
    assert_eq!(Model::of(&log).unwrap(), before);
    assert_eq!(answers.lock().unwrap().len(), 2, "a refused call has no answer");
}

#[test]
fn two_handles_of_one_log_are_refused_and_the_first_goes_on() {
    let (fs, log) = new_log();
    assert!(matches!(open(&fs), Err(RaftError::Locked { .. })));
    log.append(vec![entry(0, 9)], noted(&Answers::default())).unwrap();
    log.close().unwrap();
    assert_eq!(open(&fs).unwrap().durable(), Some(0));
}

#[test]
fn the_thread_answers_every_call_with_fewer_syncs_than_calls() {
    let dir = tempfile::tempdir().unwrap();
    let options = RaftLogOptions { file_bytes: 64 << 10, ..RaftLogOptions::default() };
    Node::create(dir.path(), &identity(), &options).unwrap();
    let log = Node::open(dir.path(), &options).unwrap().unwrap().log;
    let left = Arc::new((Mutex::new(500_u64), Condvar::new()));
    let last = Arc::new(AtomicU64::new(0));
    for index in 0..500 {
        let (left, last) = (Arc::clone(&left), Arc::clone(&last));
        let answer = move |done: Result<()>| {
            done.unwrap();
            assert!(last.fetch_max(index, Ordering::Relaxed) <= index, "answers are in order");
            *left.0.lock().unwrap() -= 1;
            left.1.notify_one();
        };
        log.append(vec![entry(index, 400)], Box::new(answer)).unwrap();
    }
    let deadline = Duration::from_secs(60);
    let waiting = left.0.lock().unwrap();
    let (waiting, late) = left.1.wait_timeout_while(waiting, deadline, |left| *left > 0).unwrap();
    assert!(!late.timed_out(), "{} calls have no answer", *waiting);
    drop(waiting);
    assert_eq!(log.durable(), Some(499));
    log.close().unwrap();
    let log = Node::open(dir.path(), &options).unwrap().unwrap().log;
    assert_eq!(log.read(0..u64::MAX).unwrap().len(), 500);
}
