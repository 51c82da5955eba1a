//! Closures: every read-modify-write is one closure that runs in the serialised writer.
//!
//! It sees the newest state and its own writes, and its effects are logged as one frame. Under the
//! writer's lock no file may be read, so the values of the keys that it announced are fetched
//! beforehand; what has changed since is found among the newest frames, which the writer keeps in
//! memory; if it needs anything else, it says so, the key is fetched and it runs again.
//!
//! Invariants:
//! - A closure that fails or panics appends nothing, and its panic goes on to the caller.
//! - What a closure saw is what its frame is appended upon: nobody writes in between.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crossbeam_epoch as epoch;

use super::read::Seen;
use super::{Log, ROOM_BYTES, Recent};
use crate::engine::{Newest, Position, Transaction};
use crate::error::{KvsError, Result};
use crate::index::Slot;
use crate::record::{Frame, check_key, check_size, check_value, record_bytes};
use crate::sync::lock;

type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Values read before the lock was taken, each with what its slot said then.
type Fetched = HashMap<Vec<u8>, (Seen, Option<Vec<u8>>)>;

/// The newest state as a closure sees it under the writer's lock.
struct UnderLock<'a> {
    log: &'a Log,
    recent: &'a Recent,
    fetched: &'a Fetched,
    missing: Vec<Vec<u8>>,
}

impl UnderLock<'_> {
    fn slot(&self, key: &[u8]) -> Option<Slot> {
        let pin = epoch::pin();
        let slot = self.log.index.find(key, &pin)?.slot();
        (!slot.is_tombstone()).then_some(slot)
    }
}

impl Newest for UnderLock<'_> {
    fn now_ms(&self) -> u64 {
        self.log.options.clock.now_ms()
    }

    fn keys(&mut self, _: u32, _: &crate::KeyRange, _: usize) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }

    fn count(&mut self, _: u32) -> Result<crate::Count> {
        Ok(crate::Count::default())
    }

    fn find(&mut self, _: u32, key: &[u8]) -> Result<Option<crate::Stored>> {
        let value = self.value(key)?;
        Ok(value.map(|value| crate::Stored { value, expires_at: None }))
    }

    fn deadline(&mut self, _: u32, key: &[u8]) -> Result<Option<Option<u64>>> {
        Ok(self.slot(key).is_some().then_some(None))
    }
}

impl UnderLock<'_> {
    fn value(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(slot) = self.slot(key) else {
            return Ok(None);
        };
        if let Some((seen, value)) = self.fetched.get(key)
            && self.log.is_still(seen, slot)
        {
            return Ok(value.clone());
        }
        if let Some(value) = self.recent.value(slot) {
            return Ok(Some(value.to_vec()));
        }
        self.missing.push(key.to_vec());
        Err(KvsError::Again)
    }
}

impl Log {
    /// Runs a closure in the writer and appends its effects as one frame.
    pub(crate) fn commit<R>(
        &self,
        keys: &[&[u8]],
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<(R, Position)> {
        let mut fetched = Fetched::new();
        let mut wanted: Vec<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
        loop {
            self.commit.check()?;
            self.wait_for_disk()?;
            for key in wanted.drain(..) {
                self.fetch(&mut fetched, key)?;
            }
            let mut writer = lock(&self.writer);
            let mut newest = UnderLock {
                log: self,
                recent: &writer.recent,
                fetched: &fetched,
                missing: Vec::new(),
            };
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let mut transaction = Transaction::new(&mut newest, 0);
                body(&mut transaction).map(|result| {
                    (
                        result,
                        transaction
                            .into_effects()
                            .writes
                            .into_iter()
                            .map(|((_, key), stored)| (key, stored.map(|stored| stored.value)))
                            .collect::<Writes>(),
                    )
                })
            }));
            wanted = newest.missing;
            let (result, writes) = match outcome {
                Err(panic) => {
                    drop(writer);
                    resume_unwind(panic);
                }
                // A closure that swallowed the error has seen less than it asked for.
                Ok(_) if !wanted.is_empty() => continue,
                Ok(outcome) => outcome?,
            };
            let (frame, only_removes) = self.frame_of(&writes)?;
            if frame.records().is_empty() {
                return Ok((result, Position(self.last_position())));
            }
            self.check_full(only_removes)?;
            match self.append(&mut writer, frame, None)? {
                Ok(appended) => return Ok((result, Position(appended.position))),
                Err(frame) => {
                    drop(writer);
                    self.make_room(frame.bytes(), only_removes)?;
                }
            }
        }
    }

    fn fetch(&self, fetched: &mut Fetched, key: Vec<u8>) -> Result<()> {
        if let Some(seen) = self.see(&key) {
            let value = seen.value(&key)?;
            fetched.insert(key, (seen, value));
        }
        Ok(())
    }

    /// The frame of a closure's effects, and whether they only remove. Removals of keys that do
    /// not exist are no effects. The caller holds the writer's lock.
    fn frame_of(&self, writes: &Writes) -> Result<(Frame, bool)> {
        let mut bytes = 0;
        for (key, value) in writes {
            check_key(key)?;
            check_value(value.as_deref().unwrap_or_default(), self.options.value_bytes_max)?;
            bytes += record_bytes(key.len(), value.as_ref().map_or(0, Vec::len));
        }
        check_size("batch", bytes, self.options.batch_bytes_max)?;
        let pin = epoch::pin();
        let mut frame = Frame::new(ROOM_BYTES, bytes);
        for (key, value) in writes {
            let exists =
                || self.index.find(key, &pin).is_some_and(|found| !found.slot().is_tombstone());
            if value.is_some() || exists() {
                frame.push(key, value.as_deref());
            }
        }
        Ok((frame, writes.values().all(Option::is_none)))
    }
}
