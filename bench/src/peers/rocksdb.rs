//! RocksDB, set up by its own profile for point lookups, with pipelined writes.

use std::path::Path;

use rocksdb::{DB, DBCompressionType, Options, WriteBatch, WriteOptions};

use super::{CACHE_BYTES, Peer, Result};
use crate::data::Key;

struct RocksDb {
    db: DB,
    synced: WriteOptions,
}

pub(super) fn open(dir: &Path) -> Result<Box<dyn Peer>> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::None);
    options.optimize_for_point_lookup(CACHE_BYTES as u64 >> 20);
    options.set_enable_pipelined_write(true);
    options.set_max_background_jobs(2);
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    Ok(Box::new(RocksDb { db: DB::open(&options, dir)?, synced }))
}

impl Peer for RocksDb {
    fn load(&self, entries: &[(Key, &[u8])]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in entries {
            batch.put(key, value);
        }
        Ok(self.db.write(batch)?)
    }

    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        Ok(self.db.put(key, value)?)
    }

    fn put_durable(&self, key: &Key, value: &[u8]) -> Result<()> {
        Ok(self.db.put_opt(key, value, &self.synced)?)
    }

    fn get(&self, key: &Key, value: &mut Vec<u8>) -> Result<bool> {
        let found = self.db.get_pinned(key)?;
        if let Some(found) = &found {
            value.clear();
            value.extend_from_slice(found);
        }
        Ok(found.is_some())
    }

    fn sync(&self) -> Result<()> {
        Ok(self.db.flush_wal(true)?)
    }
}
