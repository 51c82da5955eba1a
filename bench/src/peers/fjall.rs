//! fjall, with hash indexes in its blocks and filters that expect keys to exist.

use std::path::Path;

use fjall::config::{CompressionPolicy, HashRatioPolicy};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{CACHE_BYTES, Peer, Result};
use crate::data::Key;

struct Fjall {
    db: Database,
    keys: Keyspace,
}

pub(super) fn open(dir: &Path) -> Result<Box<dyn Peer>> {
    let db = Database::builder(dir).cache_size(CACHE_BYTES as u64).open()?;
    let options = || {
        KeyspaceCreateOptions::default()
            .data_block_hash_ratio_policy(HashRatioPolicy::all(0.75))
            .data_block_compression_policy(CompressionPolicy::disabled())
            .expect_point_read_hits(true)
    };
    let keys = db.keyspace("bench", options)?;
    Ok(Box::new(Fjall { db, keys }))
}

impl Peer for Fjall {
    fn load(&self, entries: &[(Key, &[u8])]) -> Result<()> {
        let mut batch = self.db.batch();
        for (key, value) in entries {
            batch.insert(&self.keys, key.as_slice(), *value);
        }
        Ok(batch.commit()?)
    }

    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        Ok(self.keys.insert(key.as_slice(), value)?)
    }

    fn put_durable(&self, key: &Key, value: &[u8]) -> Result<()> {
        self.put(key, value)?;
        self.sync()
    }

    fn get(&self, key: &Key, value: &mut Vec<u8>) -> Result<bool> {
        let found = self.keys.get(key)?;
        if let Some(found) = &found {
            value.clear();
            value.extend_from_slice(found);
        }
        Ok(found.is_some())
    }

    fn sync(&self) -> Result<()> {
        Ok(self.db.persist(PersistMode::SyncData)?)
    }
}
