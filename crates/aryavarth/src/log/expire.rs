//! Deadlines and emptied spaces: keys that time or one record makes dead, and their memory.
//!
//! A key whose deadline has passed is gone for everybody at once; nothing was written for that.
//! The *sweep* puts a tombstone behind it later, a few keys at a time, so that its record counts
//! as dead and its entry is given back. A space that was emptied has another generation at once; the
//! *purge* gives the entries of the old one back, a few at a time.
//!
//! Invariants:
//! - No deadline is judged by another clock than the store's, which never goes back.
//! - The sweep removes only what still has the record whose deadline has passed: it compares the
//!   slots under the writer's lock.
//! - A generation is purged only once the record that took it from its space is released, and every
//!   tombstone of it has left the queue of unlinks.
//! - Neither touches a watch.

use std::time::{Duration, Instant};

use crossbeam_epoch as epoch;

use super::writer::Writer;
use super::{Log, ROOM_BYTES};
use crate::clock::{ClockPair, SetBack};
use crate::deadline::Now;
use crate::engine::{Position, Watch};
use crate::error::Result;
use crate::index::{Change, Dropped, EntryId, Found, Slot};
use crate::options::Durability;
use crate::record::{Extra, Frame};
use crate::sync::{MutexGuard, Ordering, lock};

/// Between two turns of the sweep, so that it leaves the writer's lock and the log to others.
const SWEEP_REST: Duration = Duration::from_millis(1);
/// Keys that one turn of the sweep removes: they are one frame, for which readers wait.
const SWEEP_KEYS: usize = 32;
/// Entries that one turn of the purge gives back.
const PURGE_ENTRIES: usize = 1024;
/// Turns of the sweep that a close makes before it leaves a set-back to the next open.
const LAST_TURNS: usize = 4096;

/// A key whose deadline has passed.
struct Due {
    id: EntryId,
    slot: Slot,
    /// The time by which its deadline had passed.
    judged: Now,
    generation: u64,
    key: Vec<u8>,
}

impl Log {
    /// The store's clock, in milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Both clocks.
    pub(crate) fn now(&self) -> Now {
        self.clock.now()
    }

    /// Whether a deadline, if there is one, has passed.
    pub(super) fn has_passed(&self, expires_at: Option<u64>) -> bool {
        expires_at.is_some_and(|word| self.now().has_reached(word))
    }

    /// Whether the key of an entry is there.
    pub(super) fn exists(&self, found: Found<'_>) -> bool {
        let (slot, expires_at) = found.slot_and_deadline();
        !slot.is_tombstone() && !self.has_passed(expires_at)
    }

    /// Begins to watch a key.
    pub(crate) fn watch(&self, space: u32, key: &[u8]) -> Watch {
        let _writer = self.lock_writer();
        let pin = epoch::pin();
        let (_, found) = self.index.find(space, key, &pin);
        let deadline = found.and_then(|found| found.slot_and_deadline().1);
        let expires_at = deadline.filter(|_| !self.has_passed(deadline));
        self.watches.watch(space, key, expires_at)
    }

    /// How long until a key expires, in milliseconds, as far as the clocks tell; `None` if none has a
    /// deadline.
    pub(crate) fn next_deadline_in_ms(&self) -> Option<u64> {
        let next_ms = self.next_deadline_ms.load(Ordering::Relaxed);
        let next_wall_ms = self.next_wall_deadline_ms.load(Ordering::Relaxed);
        let now = self.now();
        let [by_store, by_wall] = [(next_ms, now.store_ms), (next_wall_ms, now.wall_ms)]
            .map(|(next_ms, now_ms)| (next_ms < u64::MAX).then(|| next_ms.saturating_sub(now_ms)));
        by_store.into_iter().chain(by_wall).min()
    }

    /// One turn of the sweep; returns how long it may rest, at most `rest_max`.
    pub(crate) fn sweep_and_rest(&self, rest_max: Duration) -> Duration {
        match self.sweep() {
            Ok(true) => SWEEP_REST,
            // Where nothing was to be done, or could be, the next deadline is worth waking for.
            Ok(false) => match self.next_deadline_in_ms() {
                Some(ms @ 1..) => Duration::from_millis(ms).min(rest_max),
                _ => rest_max,
            },
            Err(_) => rest_max,
        }
    }

    /// Keeps the records of expired keys until then, or no longer.
    pub(crate) fn hold_sweep(&self, until: Option<Instant>) {
        lock(&self.chores).sweep_held = until;
    }

    /// Removes some keys whose deadline has passed; returns whether there were any. While the disk
    /// is full they stay: no reader sees them, and the rest of the space is for others.
    pub(crate) fn sweep(&self) -> Result<bool> {
        let is_set_back = self.clock.set_back().is_some();
        if (self.next_deadline_in_ms() != Some(0) && !is_set_back)
            || self.is_full()
            || self.watermarks.check().is_err()
        {
            return Ok(false);
        }
        if lock(&self.chores).sweep_held.is_some_and(|until| Instant::now() < until) {
            return Ok(false);
        }
        let swept = match self.sweep_some() {
            Ok(false) => self.accept_set_back(),
            swept => swept,
        };
        match swept {
            Err(error) if error.is_full() => Ok(false),
            done => done,
        }
    }

    /// Both clocks, once a wall clock that was set back is accepted, as far as that is possible now:
    /// a deadline that lies between both would be taken for one that has passed.
    pub(super) fn settled_now(&self) -> Now {
        let (now, set_back) = self.clock.now_and_set_back();
        if set_back.is_none() {
            return now;
        }
        // An error comes again where its caller can be told.
        while self.clock.set_back().is_some() && matches!(self.sweep(), Ok(true)) {}
        self.now()
    }

    /// Accepts a wall clock that was set back, as far as that is possible, before the clocks are written
    /// down for the last time: the next open takes a held one for the wall clock's own.
    pub(crate) fn settle_clock(&self) {
        for _ in 0..LAST_TURNS {
            if self.clock.set_back().is_none() || !matches!(self.sweep(), Ok(true)) {
                return;
            }
        }
    }

    /// The writer's lock, and the same time under it.
    pub(super) fn lock_settled(&self) -> (MutexGuard<'_, Writer>, Now) {
        let writer = lock(&self.writer);
        let (now, set_back) = self.clock.now_and_set_back();
        if set_back.is_none() {
            return (writer, now);
        }
        drop(writer);
        self.settled_now();
        let writer = lock(&self.writer);
        let now = self.now();
        (writer, now)
    }

    /// Accepts a wall clock that was set back, if no key is left that the held time shows as expired:
    /// appends a mark with the lower time. Returns whether the sweep has more to do.
    fn accept_set_back(&self) -> Result<bool> {
        let frame = Frame::new(ROOM_BYTES, 0);
        let mut writer = self.lock_writer();
        let Some(set_back) = self.clock.set_back() else { return Ok(false) };
        if writer.index.deadlines.next().wall_ms <= set_back.held_ms {
            return Ok(true);
        }
        (writer.wants_stamp, writer.lowers) = (true, Some(set_back));
        let appended = self.append(&mut writer, frame, &[], None);
        writer.lowers = None;
        // Durations may have ended while dates came first.
        let Err(frame) = appended? else { return Ok(self.next_deadline_in_ms() == Some(0)) };
        drop(writer);
        self.make_room(frame.bytes(), false)?;
        Ok(true)
    }

    /// Lets the accepted wall clock take the lower time that a mark of `store_ms` has brought.
    pub(super) fn accept(&self, writer: &mut Writer, set_back: SetBack, store_ms: u64) {
        // With a later time than the mark's, the manifest would outrank the mark.
        let before = ClockPair { store_ms, wall_ms: set_back.held_ms };
        writer.lowered.push(writer.position, before);
        self.watches.touch_expired(set_back.held_ms);
        // A reader judges a deadline by the clock of the moment at which it loaded the slot.
        self.multi.fetch_add(1, Ordering::AcqRel);
        self.clock.accept(set_back);
        self.multi.fetch_add(1, Ordering::AcqRel);
    }

    /// Both clocks for the manifest, which must not tell a lower wall clock before the log does: it
    /// may be durable first, and the removals that the lower time needs lost.
    pub(super) fn clock_pair(&self) -> ClockPair {
        let mut writer = self.lock_writer();
        let before = writer.lowered.before_first_beyond(self.watermarks.durable());
        before.unwrap_or_else(|| self.clock.pair())
    }

    fn sweep_some(&self) -> Result<bool> {
        // As long as it is held, a slot that looks the same is the same.
        let pin = epoch::pin();
        let due = self.due();
        if due.is_empty() {
            return Ok(false);
        }
        let no_room_for = self.remove_due(&due)?;
        drop(pin);
        if let Some(bytes) = no_room_for {
            self.make_room(bytes, false)?;
        }
        Ok(true)
    }

    /// Removes all of some keys, or none if one was written, or moved, meanwhile. Returns the bytes
    /// for which there is no room. The caller has held an epoch since it collected them.
    fn remove_due(&self, due: &[Due]) -> Result<Option<usize>> {
        let mut frame = Frame::new(ROOM_BYTES, 0);
        for due in due {
            let extra = Extra { generation: due.generation, expires_at: None };
            frame.push(extra, &due.key, None);
        }
        let mut writer = self.lock_writer();
        // A removal shows that its time has come, and that stays so.
        self.cover_with_next(
            &mut writer,
            due.iter().map(|due| due.judged).fold(Now::default(), Now::max),
        );
        if !due.iter().all(|due| self.index.slot(due.id) == due.slot) {
            return Ok(None);
        }
        match self.append(&mut writer, frame, &[], None)? {
            Ok(appended) => {
                drop(writer);
                // No caller waits for it, but the entries can go only when it is durable.
                self.watermarks.wait(Position(appended.position), Durability::Os)?;
                Ok(None)
            }
            Err(frame) => Ok(Some(frame.bytes())),
        }
    }

    /// Some keys whose deadline has passed; while a set-back waits, by the wall clock alone.
    fn due(&self) -> Vec<Due> {
        let writer = self.lock_writer();
        let (mut judged, set_back) = self.clock.now_and_set_back();
        if set_back.is_some() {
            // It is not accepted before these are gone; durations that end meanwhile can wait.
            judged.store_ms = 0;
        }
        let due = writer.index.deadlines.due(judged, SWEEP_KEYS);
        let of = |(generation, id)| Due {
            id,
            slot: self.index.slot(id),
            judged,
            generation,
            key: self.index.key(id),
        };
        due.into_iter().map(of).collect()
    }

    /// Gives spaces other generations. The caller publishes a frame that says so.
    pub(super) fn change_spaces(&self, writer: &mut Writer, change: &Change) {
        for dropped in self.index.change(&mut writer.index, change, writer.position) {
            let (keys, live_bytes) = dropped.keys_and_bytes();
            self.keys.fetch_sub(keys, Ordering::Relaxed);
            self.live_bytes.fetch_sub(live_bytes, Ordering::Relaxed);
            writer.dropped.push_back(dropped);
        }
    }

    /// Gives some entries of generations back that no space has any more; returns whether there were
    /// any.
    pub(super) fn purge_some(&self) -> bool {
        let mut done = 0;
        while done < PURGE_ENTRIES
            && let Some(dropped) = self.purgeable()
        {
            let account = |slot| self.account_segment(slot, -1);
            let (entries, is_last) = dropped.purge(PURGE_ENTRIES - done, account);
            // A generation without entries is work, too.
            done += entries.max(1);
            // Another thread may have come to the end of it first.
            let queue = &mut lock(&self.writer).dropped;
            if is_last && queue.front().is_some_and(|first| first.is(&dropped)) {
                queue.pop_front();
            }
        }
        done > 0
    }

    /// Takes removed keys out of the index, once their absence is durable.
    pub(super) fn unlink_released(&self, writer: &mut Writer, max: usize) -> usize {
        let released = self.watermarks.released();
        let mut done = 0;
        while done < max
            && let Some(first) = writer.unlinks.front()
            && first.position <= released
        {
            self.index.unlink(first.generation, first.id, first.slot);
            writer.unlinks.pop_front();
            done += 1;
        }
        done
    }

    /// Takes every removed key out of the index whose absence is durable, a few at a time.
    pub(crate) fn unlink_all_released(&self) -> bool {
        let mut any = false;
        loop {
            let done = self.unlink_released(&mut self.lock_writer(), 256);
            any |= done > 0;
            if done < 256 {
                return any;
            }
        }
    }

    /// Takes all removed keys, and all keys of emptied generations, out of the index whose absence is
    /// durable. Afterwards no slot names a record of theirs.
    pub(crate) fn purge_all_released(&self) {
        self.unlink_all_released();
        while self.purge_some() {}
    }

    fn purgeable(&self) -> Option<Dropped> {
        let released = self.watermarks.released();
        let writer = self.lock_writer();
        let first = writer.dropped.front().filter(|dropped| dropped.position <= released)?;
        let unlinked = writer.unlinks.front().is_none_or(|next| next.position > first.position);
        unlinked.then(|| first.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deadline::Deadline;
    use crate::engine::Wait;
    use crate::fs::SimFs;
    use crate::manifest::{Manifest, State};
    use crate::options::{Clock, Options};
    use crate::record::Batch;
    use crate::segment::SegmentTable;
    use crate::sync::{Arc, AtomicU64};

    /// A clock that goes on when it is told to.
    #[derive(Debug)]
    struct Told(AtomicU64);

    impl Clock for Told {
        fn now_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// A log without a past.
    fn log(clock: Arc<impl Clock + 'static>) -> Log {
        let fs = Arc::new(SimFs::new());
        let options = Options { fs: fs.clone(), clock, background: false, ..Options::default() };
        let dir = std::path::Path::new("/store");
        crate::fs::Fs::create_dir(&*fs, crate::fs::Site::DirCreate, dir).unwrap();
        let state = State { seq: 1, ..State::default() };
        let table = crate::index::SpaceTable::default();
        let (index, index_writer) = crate::index::Index::of_table(&table, 7);
        let found = crate::log::Recovered {
            manifest: Manifest::create(&*fs, dir, 1, state).unwrap(),
            index,
            index_writer,
            table: SegmentTable::new(),
            live_bytes: 0,
            keys: 0,
            reserves: [0; 2],
        };
        Log::new(dir.to_owned(), options, found)
    }

    /// A wall clock that goes on by a millisecond with each look.
    #[derive(Debug)]
    struct Restless(AtomicU64);

    impl Clock for Restless {
        fn now_ms(&self) -> u64 {
            self.0.fetch_add(1, Ordering::Relaxed)
        }
    }

    /// A millisecond passes while the low mark is written. The manifest may be durable before it, and
    /// an open that found both has to go by the mark: keys behind it are acknowledged.
    #[test]
    fn the_clocks_before_a_low_mark_never_outrank_it() {
        let clock = Arc::new(Restless(AtomicU64::new(100_000)));
        let log = log(Arc::<Restless>::clone(&clock));
        log.write(1, Batch::new().put("key", "value")).unwrap();
        let held_ms = log.now().wall_ms;
        clock.0.store(50_000, Ordering::Relaxed);
        let lower_ms = log.settled_now().wall_ms;
        assert!(lower_ms < held_ms, "{lower_ms} was accepted");
        let mark = Position(lock(&log.writer).position);
        let [store_ms, wall_ms] = [&log.stamp.store_ms, &log.stamp.wall_ms]
            .map(|clock_ms| clock_ms.load(Ordering::Relaxed));
        let [of_manifest, of_mark] = [log.clock_pair(), ClockPair { store_ms, wall_ms }];
        assert!(of_manifest.wall_ms >= held_ms, "the mark is not durable");
        assert_eq!(of_manifest.later(of_mark), of_mark);
        log.watermarks.wait(mark, Durability::Always).unwrap();
        assert!(log.clock_pair().wall_ms < held_ms, "the mark is durable");
    }

    /// A steady stream of durations that end keeps no set-back waiting.
    #[test]
    fn a_set_back_waits_for_no_duration() {
        let clock = Arc::new(Told(AtomicU64::new(100_000)));
        let log = log(Arc::clone(&clock));
        let keys = SWEEP_KEYS * 3;
        for key in 0..keys {
            let key = key.to_be_bytes();
            log.write(1, Batch::new().put_with_deadline(key, "v", Deadline::At(100_001))).unwrap();
        }
        clock.0.store(200_000, Ordering::Relaxed);
        log.now();
        clock.0.store(150_000, Ordering::Relaxed);
        assert!(log.clock.set_back().is_some());
        log.sweep().unwrap();
        assert_eq!((log.clock.set_back().is_none(), log.now().wall_ms), (true, 150_000));
        assert_eq!(log.count(1).0.keys, keys as u64);
        while log.sweep().unwrap() {}
        assert_eq!(log.expired_keys.load(Ordering::Relaxed), keys as u64);
    }

    /// Between the two halves of a turn of the sweep lie a few microseconds.
    #[test]
    fn what_is_set_anew_is_not_swept() {
        let clock = Arc::new(Told(AtomicU64::new(1000)));
        let log = log(Arc::clone(&clock));
        let deadline = Deadline::At(1001);
        for key in ["kept", "renewed", "swept"] {
            log.write(1, Batch::new().put_with_deadline(key, "old", deadline)).unwrap();
        }
        clock.0.store(1001, Ordering::Relaxed);
        let pin = epoch::pin();
        let due = log.due();
        assert_eq!(due.len(), 3);
        log.write(1, Batch::new().put("kept", "new")).unwrap();
        log.write(1, Batch::new().put_until("renewed", "new", u64::MAX)).unwrap();
        assert_eq!(log.remove_due(&due).unwrap(), None);
        drop(pin);
        for key in ["kept", "renewed"] {
            let stored = log.find(1, key.as_bytes(), Wait::Yes).unwrap().0;
            assert_eq!(stored.expect("it was set anew").value, b"new");
        }
        while log.sweep().unwrap() {}
        assert_eq!(log.count(1).0.keys, 2);
        assert_eq!(log.expired_keys.load(Ordering::Relaxed), 3, "swept, or replaced when expired");
    }
}
