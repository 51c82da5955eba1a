//! The oracle: the states that a store may have after a crash.
//!
//! Whatever a store does is one log of atomic changes, so after a crash it must contain the state
//! after some prefix of that log: a batch cut in half, a lost write or one that came back is a
//! state that no prefix has. The prefix must reach as far as anybody was told:
//!
//! - after a power cut, to whatever was acknowledged or shown at the level always, and to whatever
//!   an explicit flush or a clean close covered;
//! - after the death of the process alone, to whatever was acknowledged at all.
//!
//! It may reach further, up to the writes in flight (batches that were asked for together are
//! several): no caller has heard that these failed.
//!
//! Spaces are emptied and swapped by changes like others. Keys that have expired are in no state that
//! anybody is shown: states are compared as they are at the oracle's time, the store's clock. A crash may
//! turn it back by what nothing durable told, but not behind the deadline of a key that was shown as
//! expired; nor may a restart move it by more than the wall clock was set.

use std::collections::BTreeMap;

use aryavarth::fs::Crash;
use aryavarth::{Deadline, Durability, KeyRange, Now, Stored};

pub(crate) type Key = Vec<u8>;
/// A key and its new value, or none if it was removed.
pub(crate) type Change = (Key, Option<Vec<u8>>);
/// One of several batches: for how many milliseconds its keys are set, if not for ever, in which
/// case it removes none; and its changes.
pub(crate) type Link = (Option<u64>, Vec<Change>);
/// A space and a key in it.
pub(crate) type Place = (u32, Key);
/// The contents of the store.
pub(crate) type State = BTreeMap<Place, Stored>;

/// A change of the state.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    Put(Place, Option<Stored>),
    Clear(u32),
    Swap(u32, u32),
    /// A wall clock that was set back is accepted: keys that had expired by this time are gone.
    Accept(u64),
}

/// The requests and their answers.
#[derive(Clone, Default)]
pub(crate) struct Oracle {
    /// Every write, in order, each as changes that happen together. The last ones may be in flight.
    log: Vec<Vec<Effect>>,
    /// The state after all acknowledged writes.
    newest: State,
    /// How many writes there were when a key was last touched, and a space as a whole.
    touched: BTreeMap<Place, usize>,
    spaces_touched: BTreeMap<u32, usize>,
    /// How many writes were acknowledged, at any level.
    acknowledged: usize,
    /// How many writes a power cut must leave.
    synced: usize,
    /// The answers of reads after the failure that ended the run, each with the value's deadline.
    shown: Vec<(Place, Option<Vec<u8>>, Deadline)>,
    /// The store's clock, and the accepted wall clock.
    pub(crate) now_ms: u64,
    pub(crate) accepted_ms: u64,
    pub(crate) wall: Wall,
    /// The latest deadline of a key that was shown as expired, and of one for which the answer waited
    /// until a power cut could not undo it.
    told_ms: u64,
    told_synced_ms: u64,
    /// The same for deadlines by the wall clock, by how often one was accepted that was set back.
    told_wall: BTreeMap<usize, u64>,
    told_wall_synced: BTreeMap<usize, u64>,
}

/// By how many milliseconds the wall clock is ahead of the store's: now, and at least and at most so
/// far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wall {
    pub(crate) ahead: i64,
    least: i64,
    most: i64,
}

impl Wall {
    /// The wall clock is set.
    pub(crate) fn jump(&mut self, ms: i64) {
        self.ahead += ms;
        self.least = self.least.min(self.ahead);
        self.most = self.most.max(self.ahead);
    }
}

/// Applies changes at some time; returns how many of the removals found their key.
fn apply(state: &mut State, effects: &[Effect], now: Now) -> u64 {
    let mut removed = 0;
    for effect in effects {
        match effect {
            Effect::Put(place, Some(stored)) => drop(state.insert(place.clone(), stored.clone())),
            Effect::Put(place, None) => {
                let old = state.remove(place);
                removed += u64::from(old.is_some_and(|old| !old.is_expired(now)));
            }
            Effect::Clear(space) => state.retain(|(other, _), _| other != space),
            Effect::Accept(held_ms) => {
                let held = Now { store_ms: 0, wall_ms: *held_ms };
                state.retain(|_, stored| !stored.is_expired(held));
            }
            Effect::Swap(a, b) => {
                let swapped = |space| match space {
                    _ if space == *a => *b,
                    _ if space == *b => *a,
                    _ => space,
                };
                let all = std::mem::take(state).into_iter();
                *state = all.map(|((space, key), v)| ((swapped(space), key), v)).collect();
            }
        }
    }
    removed
}

impl Oracle {
    /// Both clocks.
    pub(crate) fn now(&self) -> Now {
        Now { store_ms: self.now_ms, wall_ms: self.accepted_ms }
    }

    /// How often a wall clock that was set back was accepted in the first writes.
    fn accepts(&self, count: usize) -> usize {
        let effects = self.log[..count].iter().flatten();
        effects.filter(|effect| matches!(effect, Effect::Accept(_))).count()
    }

    /// Whether a key has a deadline by the wall clock.
    pub(crate) fn has_wall_deadlines(&self) -> bool {
        self.newest.values().any(|stored| matches!(stored.deadline, Deadline::Wall(_)))
    }

    /// A write is about to be asked for. Returns how many of its removals will find their key.
    pub(crate) fn issued(&mut self, effects: Vec<Effect>) -> u64 {
        let removed = apply(&mut self.newest.clone(), &effects, self.now());
        self.log.push(effects);
        removed
    }

    /// The write was answered: done.
    ///
    /// A removal that finds nothing writes nothing, nor does emptying an empty space, so these vouch
    /// for no more than a read does.
    pub(crate) fn acknowledged(&mut self, level: Durability) {
        let Some(effects) = self.log.last().cloned() else { return };
        let mut wrote = false;
        for effect in &effects {
            let cleared = match effect {
                Effect::Clear(space) => self.visible(*space).next().is_some(),
                _ => false,
            };
            let now = self.now();
            let removed = apply(&mut self.newest, std::slice::from_ref(effect), now);
            match effect {
                Effect::Put(place, new) if new.is_some() || removed > 0 => {
                    self.touched.insert(place.clone(), self.log.len());
                    wrote = true;
                }
                Effect::Clear(space) if cleared => {
                    self.spaces_touched.insert(*space, self.log.len());
                    wrote = true;
                }
                Effect::Swap(a, b) if a != b => {
                    self.spaces_touched.extend([(*a, self.log.len()), (*b, self.log.len())]);
                    wrote = true;
                }
                Effect::Accept(_) => wrote = true,
                _ => {}
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
                for effect in &effects {
                    if let Effect::Put(place, _) = effect {
                        self.saw(place.0, |key| *key == place.1);
                    }
                }
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
    pub(crate) fn newest(&self, place: &Place) -> Option<&Vec<u8>> {
        let stored = self.newest.get(place).filter(|stored| !stored.is_expired(self.now()));
        stored.map(|stored| &stored.value)
    }

    /// The newest acknowledged keys of a space that have not expired.
    fn visible(&self, space: u32) -> impl Iterator<Item = (&Key, &Stored)> {
        let all = self.newest.iter().filter(move |((other, _), _)| *other == space);
        all.map(|((_, key), stored)| (key, stored)).filter(|(_, s)| !s.is_expired(self.now()))
    }

    /// Every key that was ever written.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Place> {
        self.touched.keys()
    }

    /// A read was answered.
    pub(crate) fn shown_read(&mut self, level: Durability, place: &Place, value: Option<&Vec<u8>>) {
        assert_eq!(value, self.newest(place), "a read shows the newest value");
        self.told_expired(level, place.0, |other| *other == place.1);
        if level == Durability::Always {
            self.saw(place.0, |other| *other == place.1);
        }
    }

    /// A scan of a space was answered, up to `limit` entries.
    pub(crate) fn shown_scan(
        &mut self,
        level: Durability,
        space: u32,
        range: &KeyRange,
        limit: usize,
        entries: &[(Key, Vec<u8>)],
    ) {
        let expected = self.visible(space).filter(|(key, _)| range.contains(key));
        let mut expected: Vec<_> = expected.map(|(key, stored)| (key, &stored.value)).collect();
        if range.reverse {
            expected.reverse();
        }
        expected.truncate(limit);
        let found = entries.iter().map(|(key, value)| (key, value));
        assert!(found.eq(expected.iter().copied()), "a scan shows the newest state");
        let last = if entries.len() == limit { entries.last() } else { None };
        let (reverse, last) = (range.reverse, last.map(|(key, _)| key.clone()));
        let is_seen = |key: &Key| {
            let passed = last.as_ref().is_none_or(|last| key == last || (key > last) == reverse);
            range.contains(key) && passed
        };
        self.told_expired(level, space, is_seen);
        if level == Durability::Always {
            self.saw(space, is_seen);
        }
    }

    /// The whole state was shown.
    pub(crate) fn shown_all(&mut self, found: &State) {
        let expected = self.visible_state(&self.newest);
        assert!(*found == expected, "the state is the newest\n{}", difference(found, &expected));
        let spaces: Vec<u32> = self.touched.keys().map(|(space, _)| *space).collect();
        for space in spaces.into_iter().chain([0, 1, 2, 300]) {
            self.told_expired(Durability::Always, space, |_| true);
            self.saw(space, |_| true);
        }
    }

    fn visible_state(&self, state: &State) -> State {
        let visible = state.iter().filter(|(_, stored)| !stored.is_expired(self.now()));
        visible.map(|(place, stored)| (place.clone(), stored.clone())).collect()
    }

    /// Those of these keys of a space that have expired were shown to be gone.
    fn told_expired(&mut self, level: Durability, space: u32, seen: impl Fn(&Key) -> bool) {
        let all = self.newest.iter().filter(|((of, key), _)| *of == space && seen(key));
        let (mut latest_ms, mut latest_wall_ms) = (0, 0);
        for (_, stored) in all.filter(|(_, stored)| stored.is_expired(self.now())) {
            match stored.deadline {
                Deadline::Wall(at) => latest_wall_ms = at.max(latest_wall_ms),
                at => latest_ms = at.at().unwrap_or(0).max(latest_ms),
            }
        }
        let accepts = self.accepts(self.log.len());
        let note = |told: &mut BTreeMap<usize, u64>| {
            let told = told.entry(accepts).or_default();
            *told = latest_wall_ms.max(*told);
        };
        self.told_ms = self.told_ms.max(latest_ms);
        note(&mut self.told_wall);
        if level == Durability::Always {
            self.told_synced_ms = self.told_synced_ms.max(latest_ms);
            note(&mut self.told_wall_synced);
        }
    }

    /// Whether the accepted wall clock takes nothing back, if exactly `count` writes are left.
    fn check_wall(&self, count: usize, crash: Crash) -> Result<(), String> {
        let is_kill = crash == Crash::Everything;
        let told = if is_kill { &self.told_wall } else { &self.told_wall_synced };
        let accepts = self.accepts(count);
        for (&at, &told_ms) in told.range(accepts..) {
            // A time of 0 was told by no key.
            if told_ms > 0 && (at > accepts || told_ms > self.accepted_ms) {
                let now_ms = self.accepted_ms;
                return Err(format!(
                    "a key expired at {told_ms} by the wall clock and was shown so, which is at \
                     {now_ms} after {accepts} of {at} sets back"
                ));
            }
        }
        Ok(())
    }

    /// Takes over the store's clock after a crash and an open, or says what is wrong with it.
    pub(crate) fn restarted(&mut self, now: Now, crash: Crash) -> Result<(), String> {
        let now_ms = now.store_ms;
        self.accepted_ms = now.wall_ms;
        let told_ms = if crash == Crash::Everything { self.told_ms } else { self.told_synced_ms };
        let early_ms = (self.wall.ahead - self.wall.least).max(0).unsigned_abs();
        let late_ms = (self.wall.most - self.wall.ahead).max(0).unsigned_abs();
        let before_ms = self.now_ms;
        self.wall.jump(before_ms.cast_signed() - now_ms.cast_signed());
        self.now_ms = now_ms;
        if now_ms < told_ms {
            return Err(format!("a key expired at {told_ms} and was shown so, now it is {now_ms}"));
        }
        if now_ms < before_ms - late_ms || now_ms > before_ms + early_ms {
            let range = format!("{late_ms} before to {early_ms} behind {before_ms}");
            return Err(format!("the clock is at {now_ms}, not {range}"));
        }
        Ok(())
    }

    /// A power cut must not undo the state of these keys of a space.
    fn saw(&mut self, space: u32, mut seen: impl FnMut(&Key) -> bool) {
        let touched = self.touched.iter().filter(|((of, key), _)| *of == space && seen(key));
        let touched =
            touched.map(|(_, count)| *count).chain(self.spaces_touched.get(&space).copied());
        self.synced = touched.fold(self.synced, usize::max);
    }

    /// A read was answered although something had failed.
    pub(crate) fn shown_after_failure(&mut self, place: Place, value: Option<Vec<u8>>) {
        let mut after = self.newest.clone();
        let mut may_be = value.as_ref() == self.newest(&place);
        let deadline_in =
            |stored: Option<&Stored>| stored.map_or(Deadline::Never, |it| it.deadline);
        let mut deadline = deadline_in(after.get(&place));
        for effects in &self.log[self.acknowledged..] {
            apply(&mut after, effects, self.now());
            let after = after.get(&place).filter(|stored| !stored.is_expired(self.now()));
            if value.as_ref() == after.map(|stored| &stored.value) {
                may_be = true;
                deadline = deadline_in(after);
            }
        }
        let key = place.1.escape_ascii();
        assert!(may_be, "after a failure, a read shows an old value of {key}");
        self.shown.push((place, value, deadline));
    }

    /// Says which prefix of the log the recovered state is, or its fault.
    pub(crate) fn check(&self, found: &State, crash: Crash) -> Result<usize, String> {
        for (place, value, deadline) in &self.shown {
            let has_expired = deadline.has_passed(self.now());
            let value = value.as_ref().filter(|_| !has_expired);
            if found.get(place).map(|stored| &stored.value) != value {
                let value = value.cloned().map(|value| Stored { value, deadline: Deadline::Never });
                return Err(format!("the crash undid a reply: {}", brief(place, value.as_ref())));
            }
        }
        let floor = if crash == Crash::Everything { self.acknowledged } else { self.synced };
        let mut state = State::new();
        let (mut closest, mut taken_back) = (None, None);
        for count in 0..=self.log.len() {
            if count > 0 {
                apply(&mut state, &self.log[count - 1], self.now());
            }
            if self.visible_state(&state) == *found {
                if count >= floor {
                    match self.check_wall(count, crash) {
                        Ok(()) => return Ok(count),
                        Err(what) => taken_back = Some(what),
                    }
                }
                closest = Some(count);
            }
        }
        if let Some(what) = taken_back {
            return Err(what);
        }
        let all = self.log.len();
        let what = if let Some(count) = closest {
            format!("the store is back at write {count}")
        } else {
            let expected = self.visible_state(&self.state_at(floor));
            format!("no prefix of the log is\n{}", difference(found, &expected))
        };
        Err(format!("{what}, but it must be at {floor} to {all}"))
    }

    fn state_at(&self, count: usize) -> State {
        let mut state = State::new();
        for effects in &self.log[..count] {
            apply(&mut state, effects, self.now());
        }
        state
    }

    /// The crash is over: exactly `count` writes happened.
    pub(crate) fn settle(&mut self, count: usize) {
        self.log.truncate(count);
        self.newest = self.state_at(count);
        (self.acknowledged, self.synced) = (count, count);
        self.shown.clear();
        // The look at the state has shown each key that has expired.
        (self.told_ms, self.told_synced_ms) = (0, 0);
        (self.told_wall, self.told_wall_synced) = (BTreeMap::new(), BTreeMap::new());
        let spaces: Vec<u32> = self.newest.keys().map(|(space, _)| *space).collect();
        for space in spaces {
            self.told_expired(Durability::Always, space, |_| true);
        }
        for touched in self.touched.values_mut().chain(self.spaces_touched.values_mut()) {
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

fn brief((space, key): &Place, stored: Option<&Stored>) -> String {
    let value = stored.map_or("nothing".to_owned(), |Stored { value, deadline }| {
        let until = deadline.at().map_or(String::new(), |_| format!(" until {deadline:?}"));
        format!("{} ({} bytes){until}", value[..value.len().min(16)].escape_ascii(), value.len())
    });
    format!("{} in space {space} = {value}", key.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(key: &str) -> Place {
        (0, key.as_bytes().to_vec())
    }

    fn put(key: &str, value: Option<&str>) -> Effect {
        let stored = |value: &str| Stored { value: value.into(), deadline: Deadline::Never };
        Effect::Put(place(key), value.map(stored))
    }

    fn state(pairs: &[(u32, &str, &str)]) -> State {
        let pair = |&(space, key, value): &(u32, &str, &str)| {
            let stored = Stored { value: value.into(), deadline: Deadline::Never };
            ((space, key.as_bytes().to_vec()), stored)
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn the_oracle_knows_what_a_crash_may_take() {
        let mut oracle = Oracle::default();
        oracle.issued(vec![put("a", Some("1"))]);
        oracle.acknowledged(Durability::Os);
        assert_eq!(oracle.check(&state(&[]), Crash::Nothing), Ok(0), "os may lose");
        assert!(oracle.check(&state(&[]), Crash::Everything).is_err(), "but not with the process");

        oracle.issued(vec![put("b", Some("1")), put("a", None)]);
        let (a, b) = (state(&[(0, "a", "1")]), state(&[(0, "b", "1")]));
        assert_eq!(oracle.check(&b, Crash::Nothing), Ok(2), "a write in flight may be there");
        assert_eq!(oracle.check(&a, Crash::Nothing), Ok(1), "or not");
        let both = state(&[(0, "a", "1"), (0, "b", "1")]);
        assert!(oracle.check(&both, Crash::Nothing).is_err(), "but not half of it");

        oracle.acknowledged(Durability::Always);
        assert_eq!(oracle.check(&b, Crash::Nothing), Ok(2));
        assert!(oracle.check(&a, Crash::Nothing).is_err(), "always may not lose");
        assert!(oracle.check(&state(&[]), Crash::Nothing).is_err());
    }

    #[test]
    fn the_oracle_remembers_what_was_shown() {
        let mut oracle = Oracle::default();
        for (key, value) in [("a", Some("1")), ("b", Some("2")), ("a", None), ("b", Some("3"))] {
            oracle.issued(vec![put(key, value)]);
            oracle.acknowledged(Durability::Os);
        }
        let (none, old) = (state(&[]), state(&[(0, "b", "2")]));
        assert_eq!(oracle.check(&none, Crash::Nothing), Ok(0));
        oracle.shown_read(Durability::Os, &place("b"), Some(&b"3".to_vec()));
        assert_eq!(oracle.check(&none, Crash::Nothing), Ok(0), "os shows what may go");
        oracle.shown_read(Durability::Always, &place("a"), None);
        assert!(oracle.check(&none, Crash::Nothing).is_err(), "an absence was shown");
        assert_eq!(oracle.check(&old, Crash::Nothing), Ok(3));
        oracle.shown_after_failure(place("b"), Some(b"3".to_vec()));
        assert!(oracle.check(&old, Crash::Nothing).is_err());
        assert_eq!(oracle.check(&state(&[(0, "b", "3")]), Crash::Nothing), Ok(4));
    }

    #[test]
    fn the_oracle_knows_of_spaces_and_of_time() {
        let mut oracle = Oracle { now_ms: 10, ..Oracle::default() };
        let stored = Stored { value: b"1".to_vec(), deadline: Deadline::At(20) };
        oracle.issued(vec![put("a", Some("1")), Effect::Put((1, b"b".to_vec()), Some(stored))]);
        oracle.acknowledged(Durability::Always);
        oracle.issued(vec![Effect::Swap(0, 1), Effect::Clear(2)]);
        oracle.acknowledged(Durability::Os);
        oracle.now_ms = 20;
        assert_eq!(oracle.check(&state(&[(0, "a", "1")]), Crash::Nothing), Ok(1), "os may lose");
        assert_eq!(oracle.check(&state(&[(1, "a", "1")]), Crash::Nothing), Ok(2));
        oracle.shown_read(Durability::Always, &place("zzz"), None);
        let undone = oracle.check(&state(&[(0, "a", "1")]), Crash::Nothing);
        assert!(undone.is_err(), "an absence depends on what the space was given");
    }
}
