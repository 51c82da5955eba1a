//! sled 0.34, whose `flush` starts the writing and does not wait for the device.
//!
//! So there are two of it: with `flush` alone, which acknowledges before the data is safe, and
//! through [`SledKvsEngine`], which syncs sled's files before it acknowledges.

use std::path::Path;

use aryavarth::{Batch, Durability, KvsEngine, SledKvsEngine, Wait};

use super::{CACHE_BYTES, Peer, Result};
use crate::data::Key;

struct Sled {
    db: sled::Db,
}

/// sled itself.
pub(super) fn open(dir: &Path) -> Result<Box<dyn Peer>> {
    let db = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES as u64).open()?;
    Ok(Box::new(Sled { db }))
}

impl Peer for Sled {
    fn load(&self, entries: &[(Key, &[u8])]) -> Result<()> {
        let mut batch = sled::Batch::default();
        for (key, value) in entries {
            batch.insert(key, *value);
        }
        Ok(self.db.apply_batch(batch)?)
    }

    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        self.db.insert(key, value)?;
        Ok(())
    }

    fn put_durable(&self, key: &Key, value: &[u8]) -> Result<()> {
        self.put(key, value)?;
        self.sync()
    }

    fn get(&self, key: &Key, value: &mut Vec<u8>) -> Result<bool> {
        let found = self.db.get(key)?;
        if let Some(found) = &found {
            value.clear();
            value.extend_from_slice(found);
        }
        Ok(found.is_some())
    }

    fn sync(&self) -> Result<()> {
        self.db.flush()?;
        Ok(())
    }
}

struct Synced {
    engine: SledKvsEngine,
    /// The same store, without waiting for the disk.
    fast: SledKvsEngine,
}

pub(super) fn open_synced(dir: &Path) -> Result<Box<dyn Peer>> {
    Ok(Box::new(of(SledKvsEngine::open(dir)?)))
}

/// A store that is open already.
pub(crate) fn of(engine: SledKvsEngine) -> impl Peer {
    let fast = engine.with_durability(Durability::Os);
    Synced { engine, fast }
}

/// Writes and waits as long as the handle does.
fn write(engine: &SledKvsEngine, batch: &Batch) -> Result<()> {
    let (_, position) = engine.write(batch)?;
    Ok(engine.wait(position, engine.durability())?)
}

impl Peer for Synced {
    fn load(&self, entries: &[(Key, &[u8])]) -> Result<()> {
        write(&self.fast, &entries.iter().copied().collect())
    }

    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        write(&self.fast, Batch::new().put(*key, value))
    }

    fn put_durable(&self, key: &Key, value: &[u8]) -> Result<()> {
        write(&self.engine, Batch::new().put(*key, value))
    }

    fn get(&self, key: &Key, value: &mut Vec<u8>) -> Result<bool> {
        let (found, position) = self.engine.read(key, Wait::Yes)?;
        self.engine.wait(position, Durability::Always)?;
        let is_found = found.is_some();
        if let Some(found) = found {
            *value = found;
        }
        Ok(is_found)
    }

    fn sync(&self) -> Result<()> {
        Ok(self.engine.flush()?)
    }
}
