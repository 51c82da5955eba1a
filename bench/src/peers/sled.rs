//! sled 0.34, whose `flush` starts the writing and does not wait for the device.
//!
//! So there are two of it: with `flush` alone, which acknowledges before the data is safe, and with
//! a sync of its file on top, which callers share.

use std::fs::File;
use std::path::Path;

use super::{CACHE_BYTES, Peer, Result};
use crate::data::Key;
use crate::group::Group;

struct Sled {
    db: sled::Db,
    /// The file that holds sled's log, if sets are to be synced.
    synced: Option<(File, Group)>,
}

pub(super) fn open(dir: &Path) -> Result<Box<dyn Peer>> {
    Ok(Box::new(Sled { db: open_db(dir)?, synced: None }))
}

pub(super) fn open_synced(dir: &Path) -> Result<Box<dyn Peer>> {
    let db = open_db(dir)?;
    let file = File::open(dir.join("db"))?;
    Ok(Box::new(Sled { db, synced: Some((file, Group::default())) }))
}

fn open_db(dir: &Path) -> Result<sled::Db> {
    Ok(sled::Config::new().path(dir).cache_capacity(CACHE_BYTES as u64).open()?)
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
        let flush = || Ok(self.db.flush().map(drop)?);
        match &self.synced {
            None => flush(),
            Some((file, group)) => group.sync(|| {
                flush()?;
                Ok(file.sync_data()?)
            }),
        }
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
        Ok(self.synced.as_ref().map_or(Ok(()), |(file, _)| file.sync_data())?)
    }
}
