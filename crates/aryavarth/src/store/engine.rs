//! The contract of engines, kept by `KvStore`: each call returns at once, with a position to wait for.

use std::task::{Poll, Waker};
use std::time::Instant;

use super::KvStore;
use crate::damage::Damage;
use crate::engine::{
    Count, Deadline, KeyPage, KeyRange, KeyWalk, KvsEngine, Now, Page, Position, Stored,
    Transaction, Wait, Watch, check_outside,
};
use crate::error::Result;
use crate::options::Durability;
use crate::record::Batch;
use crate::recovery;
use crate::stats::Stats;

impl KvsEngine for KvStore {
    fn name(&self) -> &'static str {
        recovery::ENGINE
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn space(&self) -> u32 {
        self.space
    }

    fn with_space(&self, space: u32) -> Self {
        KvStore::with_space(self, space)
    }

    fn now(&self) -> Now {
        self.inner.log.now()
    }

    fn now_ms(&self) -> u64 {
        KvStore::now_ms(self)
    }

    fn clock_offset_ms(&self) -> i64 {
        self.inner.log.clock.offset_ms()
    }

    fn find(&self, key: &[u8], wait: Wait) -> Result<(Option<Stored>, Position)> {
        self.noted(self.log()?.find(self.space, key, wait))
    }

    fn size_hint(&self, key: &[u8]) -> usize {
        self.log().map_or(0, |log| log.size_hint(self.space, key))
    }

    fn deadline(&self, key: &[u8], wait: Wait) -> Result<(Option<Deadline>, Position)> {
        self.log()?.deadline(self.space, key, wait)
    }

    fn keys(&self, range: &KeyRange, limit: usize) -> Result<KeyPage> {
        self.log()?.keys(self.space, range, limit)
    }

    fn walk(&self, cursor: u64, limit: usize) -> Result<KeyWalk> {
        self.log()?.walk_keys(self.space, cursor, limit)
    }

    fn count(&self) -> Result<(Count, Position)> {
        Ok(self.log()?.count(self.space))
    }

    fn watch(&self, key: &[u8]) -> Result<Watch> {
        Ok(self.outside()?.watch(self.space, key))
    }

    fn write(&self, batch: &Batch) -> Result<(u64, Position)> {
        let appended = self.outside()?.write(self.space, batch)?;
        Ok((appended.removed, Position(appended.position)))
    }

    fn write_each(&self, batches: &[Batch]) -> Vec<Result<(u64, Position)>> {
        match self.outside() {
            Ok(log) => log.write_each(self.space, batches),
            Err(_) => batches.iter().map(|batch| KvsEngine::write(self, batch)).collect(),
        }
    }

    fn transact<R>(
        &self,
        keys: &[&[u8]],
        body: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<(R, Position)> {
        self.noted(self.outside()?.transact(self.space, keys, body))
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Page> {
        self.noted(self.log()?.scan(self.space, range, limit))
    }

    fn wait(&self, position: Position, level: Durability) -> Result<()> {
        let watermarks = &self.inner.log.watermarks;
        if position > Position(watermarks.released()) {
            check_outside(&*self.inner.log)?;
        }
        watermarks.wait(position, level)
    }

    fn on_reached(&self, position: Position, level: Durability, waker: &Waker) -> Poll<Result<()>> {
        self.inner.log.watermarks.on_reached(position, level, waker)
    }

    fn compact(&self) -> Result<()> {
        KvStore::compact(self)
    }

    fn stats(&self) -> Stats {
        KvStore::stats(self)
    }

    fn damage(&self) -> Option<Vec<Damage>> {
        Some(KvStore::damage(self))
    }

    fn hold_sweep(&self, until: Option<Instant>) {
        self.inner.log.hold_sweep(until);
    }
}
