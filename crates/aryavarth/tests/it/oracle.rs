//! The oracle: knows what a store may contain after a crash.
//!
//! Whatever a store does is one log of atomic changes, so after a crash it must contain the state
//! after some prefix of that log: a batch cut in half, a lost write or one that came back is a
//! state that no prefix has. The prefix must reach as far as anybody was told:
//!
//! - after a power cut, to whatever was acknowledged or shown at the level always, and to whatever
//!   an explicit flush or a clean close covered;
//! - after the death of the process alone, to whatever was acknowledged at all.
//!
//! It may reach further, up to the write in flight: nobody was told that this one failed.

use std::collections::BTreeMap;

use aryavarth::fs::Crash;
use aryavarth::{Durability, KeyRange};

pub(crate) type Key = Vec<u8>;
/// A key and its new value, or none if it was removed.
pub(crate) type Change = (Key, Option<Vec<u8>>);

type State = BTreeMap<Key, Vec<u8>>;

/// What was asked for and answered.
#[derive(Clone, Default)]
pub(crate) struct Oracle {
    /// Every write, in order, each as changes that happen together. The last one may be in flight.
    log: Vec<Vec<Change>>,
    /// The state after all acknowledged writes.
    newest: State,
    /// How many writes there were when a key was last touched.
    touched: BTreeMap<Key, usize>,
    /// How many writes were acknowledged, at any level.
    acknowledged: usize,
    /// How many writes a power cut must leave.
    synced: usize,
    /// What reads answered after the failure that ended the run.
    shown: Vec<Change>,
}

fn apply(state: &mut State, changes: &[Change]) -> u64 {
    let mut removed = 0;
    for (key, value) in changes {
        match value {
            Some(value) => drop(state.insert(key.clone(), value.clone())),
            None => removed += u64::from(state.remove(key).is_some()),
        }
    }
    removed
}

impl Oracle {
    /// A write is about to be asked for. Returns how many of its removals will find their key.
    pub(crate) fn issued(&mut self, changes: Vec<Change>) -> u64 {
        let removed = apply(&mut self.newest.clone(), &changes);
        self.log.push(changes);
        removed
    }

    /// The write was answered: done.
    ///
    /// A removal that finds nothing writes nothing, so it vouches for no more than a read does.
    pub(crate) fn acknowledged(&mut self, level: Durability) {
        let Some(changes) = self.log.last().cloned() else { return };
        let mut wrote = false;
        for change in &changes {
            let removed = apply(&mut self.newest, std::slice::from_ref(change));
            if change.1.is_some() || removed > 0 {
                self.touched.insert(change.0.clone(), self.log.len());
                wrote = true;
            }
        }
        if wrote {
            self.acknowledged = self.log.len();
        } else {
            self.withdrawn();
        }
        if level == Durability::Always {
            if wrote {
                self.synced_all();
            } else {
                self.saw(|key| changes.iter().any(|(other, _)| other == key));
            }
        }
    }

    /// The write was answered: refused, and nothing was written.
    pub(crate) fn withdrawn(&mut self) {
        self.log.pop();
    }

    /// Everything acknowledged was made durable.
    pub(crate) fn synced_all(&mut self) {
        self.synced = self.acknowledged;
    }

    /// The newest acknowledged value.
    pub(crate) fn newest(&self, key: &[u8]) -> Option<&Vec<u8>> {
        self.newest.get(key)
    }

    /// Every key that was ever written.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.touched.keys()
    }

    /// A read was answered.
    pub(crate) fn shown_read(&mut self, level: Durability, key: &[u8], value: Option<&Vec<u8>>) {
        assert_eq!(value, self.newest.get(key), "a read shows the newest value");
        if level == Durability::Always {
            self.saw(|other| other == key);
        }
    }

    /// A scan was answered, up to `limit` entries.
    pub(crate) fn shown_scan(
        &mut self,
        level: Durability,
        range: &KeyRange,
        limit: usize,
        entries: &[(Key, Vec<u8>)],
    ) {
        let mut expected: Vec<(&Key, &Vec<u8>)> =
            self.newest.iter().filter(|(key, _)| range.contains(key)).collect();
        if range.reverse {
            expected.reverse();
        }
        expected.truncate(limit);
        let found = entries.iter().map(|(key, value)| (key, value));
        assert!(found.eq(expected.iter().copied()), "a scan shows the newest state");
        let last = if entries.len() == limit { entries.last() } else { None };
        if level == Durability::Always {
            let (reverse, last) = (range.reverse, last.map(|(key, _)| key.clone()));
            self.saw(|key| {
                let passed =
                    last.as_ref().is_none_or(|last| key == last || (key > last) == reverse);
                range.contains(key) && passed
            });
        }
    }

    /// The whole state was shown.
    pub(crate) fn shown_all(&mut self, entries: &[(Key, Vec<u8>)]) {
        self.shown_scan(Durability::Always, &KeyRange::all(), usize::MAX, entries);
    }

    /// A power cut must not undo what these keys show.
    fn saw(&mut self, mut seen: impl FnMut(&Key) -> bool) {
        let touched = self.touched.iter().filter(|(key, _)| seen(key)).map(|(_, count)| *count);
        self.synced = touched.fold(self.synced, usize::max);
    }

    /// A read was answered although something had failed.
    pub(crate) fn shown_after_failure(&mut self, key: Key, value: Option<Vec<u8>>) {
        let mut in_flight = self.log[self.acknowledged..].iter().flatten();
        let may_be = in_flight.rfind(|(other, _)| *other == key);
        assert!(
            value.as_ref() == self.newest.get(&key) || Some(&value) == may_be.map(|(_, new)| new),
            "after a failure, a read shows an old value of {}",
            key.escape_ascii()
        );
        self.shown.push((key, value));
    }

    /// Says which prefix of the log the recovered entries are, or what is wrong with them.
    pub(crate) fn check(&self, entries: &[(Key, Vec<u8>)], crash: Crash) -> Result<usize, String> {
        let found: State = entries.iter().cloned().collect();
        for (key, value) in &self.shown {
            if found.get(key) != value.as_ref() {
                return Err(format!("the crash undid a reply: {}", brief(key, value.as_ref())));
            }
        }
        let floor = if crash == Crash::Everything { self.acknowledged } else { self.synced };
        let mut state = State::new();
        let mut closest = None;
        for count in 0..=self.log.len() {
            if count > 0 {
                apply(&mut state, &self.log[count - 1]);
            }
            if state == found {
                if count >= floor {
                    return Ok(count);
                }
                closest = Some(count);
            }
        }
        let all = self.log.len();
        let what = match closest {
            Some(count) => format!("the store is back at write {count}"),
            None => {
                format!("no prefix of the log is\n{}", difference(&found, &self.state_at(floor)))
            }
        };
        Err(format!("{what}, but it must be at {floor} to {all}"))
    }

    fn state_at(&self, count: usize) -> State {
        let mut state = State::new();
        for changes in &self.log[..count] {
            apply(&mut state, changes);
        }
        state
    }

    /// The crash is over: exactly `count` writes happened.
    pub(crate) fn settle(&mut self, count: usize) {
        self.log.truncate(count);
        self.newest = self.state_at(count);
        (self.acknowledged, self.synced) = (count, count);
        self.shown.clear();
        for touched in self.touched.values_mut() {
            *touched = count.min(*touched);
        }
    }
}

fn difference(found: &State, expected: &State) -> String {
    let mut lines = Vec::new();
    for (key, value) in found {
        if expected.get(key) != Some(value) {
            lines.push(format!("  found    {}", brief(key, Some(value))));
        }
    }
    for (key, value) in expected {
        if found.get(key) != Some(value) {
            lines.push(format!("  expected {}", brief(key, Some(value))));
        }
    }
    lines.join("\n")
}

fn brief(key: &[u8], value: Option<&Vec<u8>>) -> String {
    let value = value.map_or("nothing".to_owned(), |value| {
        format!("{} ({} bytes)", value[..value.len().min(16)].escape_ascii(), value.len())
    });
    format!("{} = {value}", key.escape_ascii())
}

#[test]
fn the_oracle_knows_what_a_crash_may_take() {
    let (a, b) = (b"a".to_vec(), b"b".to_vec());
    let one = |key: &Key| (key.clone(), b"1".to_vec());
    let mut oracle = Oracle::default();
    oracle.issued(vec![(a.clone(), Some(b"1".to_vec()))]);
    oracle.acknowledged(Durability::Os);
    assert_eq!(oracle.check(&[], Crash::Nothing), Ok(0), "os may lose");
    assert!(oracle.check(&[], Crash::Everything).is_err(), "but not with the process");

    oracle.issued(vec![(b.clone(), Some(b"1".to_vec())), (a.clone(), None)]);
    let all = [one(&b)];
    assert_eq!(oracle.check(&all, Crash::Nothing), Ok(2), "a write in flight may be there");
    assert_eq!(oracle.check(&[one(&a)], Crash::Nothing), Ok(1), "or not");
    assert!(oracle.check(&[one(&a), one(&b)], Crash::Nothing).is_err(), "but not half of it");

    oracle.acknowledged(Durability::Always);
    assert_eq!(oracle.check(&all, Crash::Nothing), Ok(2));
    assert!(oracle.check(&[one(&a)], Crash::Nothing).is_err(), "always may not lose");
    assert!(oracle.check(&[], Crash::Nothing).is_err());
}

#[test]
fn the_oracle_remembers_what_was_shown() {
    let (a, b) = (b"a".to_vec(), b"b".to_vec());
    let mut oracle = Oracle::default();
    for (key, value) in [(&a, Some("1")), (&b, Some("2")), (&a, None), (&b, Some("3"))] {
        oracle.issued(vec![(key.clone(), value.map(|value| value.as_bytes().to_vec()))]);
        oracle.acknowledged(Durability::Os);
    }
    assert_eq!(oracle.check(&[], Crash::Nothing), Ok(0));
    oracle.shown_read(Durability::Os, &b, Some(&b"3".to_vec()));
    assert_eq!(oracle.check(&[], Crash::Nothing), Ok(0), "os shows what a power cut may take");
    oracle.shown_read(Durability::Always, &a, None);
    assert!(oracle.check(&[], Crash::Nothing).is_err(), "an absence was shown");
    assert_eq!(oracle.check(&[(b.clone(), b"2".to_vec())], Crash::Nothing), Ok(3));
    oracle.shown_after_failure(b.clone(), Some(b"3".to_vec()));
    assert!(oracle.check(&[(b.clone(), b"2".to_vec())], Crash::Nothing).is_err());
    assert_eq!(oracle.check(&[(b, b"3".to_vec())], Crash::Nothing), Ok(4));
}
