//! A story: calls on a log, random by a seed, and the log that each prefix of them leaves.
//!
//! Every record of a story is a step of the model, so the log that a crash leaves has to be the model
//! after some step, and not before the last step that was acknowledged.

use std::path::Path;
use std::sync::{Arc, Mutex};

use aryavarth::fs::{Fs, SimFs, Site};
use aryavarth_raft::{
    Answer, EntryKind, Identity, LogEntry, LogId, Node, RaftError, RaftLog, RaftLogOptions, Result,
    Vote,
};
use bytes::Bytes;

pub(crate) const DATA: &str = "/data";
/// Files so small that a story fills several.
pub(crate) const FILE_BYTES: u64 = 1536;

/// A small generator of numbers: the same seed gives the same story.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// One call.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Append(Vec<LogEntry>),
    Vote(Vote),
    Truncate(Option<LogId>),
    Purge(LogId),
    Committed(Option<LogId>),
    /// Writes all that waits.
    Step,
    /// Reads all entries.
    Read,
    Reopen,
}

/// A log as its readers see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    pub(crate) entries: Vec<LogEntry>,
}

impl Model {
    pub(crate) fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.id).or(self.purged)
    }

    /// The models after each record of a call.
    fn after(&self, act: &Act) -> Vec<Model> {
        let mut next = self.clone();
        match act {
            Act::Append(entries) => {
                let mut models = Vec::new();
                for entry in entries {
                    next.entries.push(entry.clone());
                    models.push(next.clone());
                }
                return models;
            }
            Act::Vote(vote) => next.vote = Some(*vote),
            Act::Truncate(to) => {
                let keeps = to.map_or(0, |to| to.index + 1);
                next.entries.retain(|entry| entry.id.index < keeps);
            }
            Act::Purge(to) => {
                next.entries.retain(|entry| entry.id.index > to.index);
                next.purged = Some(*to);
            }
            Act::Committed(to) => next.committed = *to,
            Act::Step | Act::Read | Act::Reopen => return Vec::new(),
        }
        vec![next]
    }

    /// The model of a log.
    pub(crate) fn of(log: &RaftLog) -> Result<Model> {
        let (purged, last) = log.bounds();
        let entries = log.read(0..u64::MAX)?;
        let model = Model { vote: log.vote(), committed: log.committed(), purged, entries };
        assert_eq!(model.last(), last, "the last id is that of the last entry");
        Ok(model)
    }
}

fn body(random: &mut Random) -> Bytes {
    let bytes = match random.below(12) {
        0 => random.below(2000),
        1..4 => random.below(300),
        _ => random.below(40),
    };
    (0..bytes).map(|_| random.below(256) as u8).collect()
}

/// Entries that may follow `last`.
pub(crate) fn entries(random: &mut Random, last: Option<LogId>, term: u64) -> Vec<LogEntry> {
    let first = last.map_or(0, |last| last.index + 1);
    let count = 1 + random.below(4);
    let entry = |n| {
        let id = LogId { term, index: first + n };
        match random.below(6) {
            0 => LogEntry { id, kind: EntryKind::Blank, body: Bytes::new() },
            1 => LogEntry { id, kind: EntryKind::Members, body: body(random) },
            _ => LogEntry { id, kind: EntryKind::Normal, body: body(random) },
        }
    };
    (0..count).map(entry).collect()
}

/// The calls of a story.
pub(crate) fn story(seed: u64, acts: usize) -> Vec<Act> {
    let mut random = Random::new(seed);
    let (mut model, mut term, mut story) = (Model::default(), 1, Vec::new());
    while story.len() < acts {
        let last = model.last();
        let some_index = |random: &mut Random| {
            let first = model.entries.first()?.id.index;
            let at = random.below(model.entries.len() as u64) as usize;
            assert_eq!(model.entries[at].id.index, first + at as u64);
            Some(model.entries[at].id)
        };
        let act = match random.below(20) {
            0..8 => Act::Append(entries(&mut random, last, term)),
            8 | 9 => {
                term += random.below(2);
                let granted = random.below(2) == 0;
                Act::Vote(Vote { term, node: random.below(3), granted })
            }
            10 => {
                term += 1;
                match some_index(&mut random) {
                    Some(to) => Act::Truncate(Some(to)),
                    None => continue,
                }
            }
            11 if model.purged.is_none() => Act::Truncate(None),
            11 | 12 => match some_index(&mut random) {
                Some(to) => Act::Purge(to),
                None => continue,
            },
            13 if random.below(4) == 0 => {
                // A snapshot came, beyond the log's end.
                let index = last.map_or(0, |last| last.index) + random.below(9);
                Act::Purge(LogId { term, index })
            }
            13 => Act::Committed(some_index(&mut random)),
            14 => Act::Reopen,
            15 => Act::Read,
            _ => Act::Step,
        };
        if let Some(after) = model.after(&act).pop() {
            model = after;
        }
        story.push(act);
    }
    story
}

/// A log that tells a story, and the models that it may be found as.
pub(crate) struct Teller {
    pub(crate) fs: SimFs,
    pub(crate) log: Option<RaftLog>,
    /// The models after each record, the first one of the empty log.
    pub(crate) models: Vec<Model>,
    /// How many records were acknowledged, and how many failed, by their answers.
    answers: Arc<Mutex<(usize, Vec<RaftError>)>>,
}

pub(crate) fn options(fs: &SimFs) -> RaftLogOptions {
    let fs: Arc<dyn Fs> = Arc::new(fs.clone());
    RaftLogOptions { fs, file_bytes: FILE_BYTES, memory_bytes: 400, background: false }
}

/// The node of all stories.
pub(crate) fn identity() -> Identity {
    Identity { cluster: 7, node: 9, name: "a".to_owned() }
}

/// A disk with a data directory.
pub(crate) fn disk() -> SimFs {
    let fs = SimFs::new();
    fs.create_dir(Site::DirCreate, Path::new(DATA)).unwrap();
    fs.sync_dir(Site::DirParentSync, Path::new("/")).unwrap();
    fs
}

pub(crate) fn open(fs: &SimFs) -> Result<RaftLog> {
    let node = Node::open(Path::new(DATA), &options(fs))?;
    Ok(node.expect("the directory is a node").log)
}

impl Teller {
    pub(crate) fn new(fs: &SimFs) -> Teller {
        let answers = Arc::default();
        Teller { fs: fs.clone(), log: None, models: vec![Model::default()], answers }
    }

    /// How many records were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.answers.lock().unwrap().0
    }

    /// An answer that counts `records` as acknowledged.
    fn answer(&self, records: usize) -> Answer {
        let answers = Arc::clone(&self.answers);
        Box::new(move |done| {
            let mut answers = answers.lock().unwrap();
            match done {
                Ok(()) => answers.0 = answers.0.max(records),
                Err(error) => answers.1.push(error),
            }
        })
    }

    /// Tells a story from its beginning, a new node.
    pub(crate) fn tell(&mut self, story: &[Act]) -> Result<()> {
        Node::create(Path::new(DATA), &identity(), &options(&self.fs))?;
        self.log = Some(open(&self.fs)?);
        story.iter().try_for_each(|act| self.act(act))
    }

    pub(crate) fn act(&mut self, act: &Act) -> Result<()> {
        let log = self.log.as_ref().expect("the log is open");
        let after = self.models.last().map(|model| model.after(act)).unwrap_or_default();
        // Noted before the call: a call that fails may have happened all the same.
        self.models.extend(after);
        let answer = self.answer(self.models.len() - 1);
        match act.clone() {
            Act::Append(entries) => log.append(entries, answer),
            Act::Vote(vote) => log.save_vote(vote, answer),
            Act::Truncate(to) => log.truncate(to, answer),
            Act::Purge(to) => log.purge(to, answer),
            Act::Committed(to) => log.save_committed(to),
            Act::Step => {
                while log.step()? {}
                Ok(())
            }
            Act::Read => {
                let found = Model::of(log)?;
                assert_eq!(Some(&found), self.models.last(), "readers see all that was taken");
                Ok(())
            }
            Act::Reopen => {
                self.log.take().map_or(Ok(()), RaftLog::close)?;
                // All that was taken is on disk now, committed ids included.
                let records = self.models.len() - 1;
                let mut answers = self.answers.lock().unwrap();
                answers.0 = records;
                drop(answers);
                self.log = Some(open(&self.fs)?);
                Ok(())
            }
        }
    }

    /// Checks a log that was found after a crash: it is the model after some record, and none that was
    /// acknowledged is missing. Returns which.
    pub(crate) fn check(&self, found: &Model) -> Result<usize, String> {
        let least = self.acknowledged();
        if let Some(at) = self.models.iter().skip(least).position(|model| model == found) {
            return Ok(least + at);
        }
        if let Some(at) = self.models.iter().position(|model| model == found) {
            return Err(format!("acknowledged up to record {least}, found as after {at}"));
        }
        let ids = found.entries.first().zip(found.entries.last());
        let ids = ids.map(|(first, last)| format!("{} to {}", first.id, last.id));
        Err(format!(
            "found as it never was: vote {:?}, committed {:?}, purged {:?}, entries {ids:?}",
            found.vote, found.committed, found.purged
        ))
    }
}
