//! Aryavarth's engine.

use std::path::Path;

use aryavarth::{Batch, Durability, KvStore};

use super::{Peer, Result};
use crate::data::Key;

struct Kvs {
    store: KvStore,
    /// The same store, without waiting for the disk.
    fast: KvStore,
}

pub(super) fn open(dir: &Path) -> Result<Box<dyn Peer>> {
    drop(aryavarth::fs::install_sigbus_guard());
    Ok(Box::new(of(KvStore::open(dir)?)))
}

/// A store that is open already.
pub(crate) fn of(store: KvStore) -> impl Peer {
    let fast = store.with_durability(Durability::Os);
    Kvs { store, fast }
}

impl Peer for Kvs {
    fn load(&self, entries: &[(Key, &[u8])]) -> Result<()> {
        self.fast.write(&entries.iter().copied().collect::<Batch>())?;
        Ok(())
    }

    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        Ok(self.fast.put(key, value)?)
    }

    fn put_durable(&self, key: &Key, value: &[u8]) -> Result<()> {
        Ok(self.store.put(key, value)?)
    }

    fn get(&self, key: &Key, value: &mut Vec<u8>) -> Result<bool> {
        let found = self.store.read(key)?;
        let is_found = found.is_some();
        if let Some(found) = found {
            *value = found;
        }
        Ok(is_found)
    }

    fn sync(&self) -> Result<()> {
        Ok(self.store.flush()?)
    }
}
