//! redb: a transaction for each set, as a caller without batches would have it.

use std::path::Path;

use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use super::{CACHE_BYTES, Peer, Result};
use crate::data::Key;

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("bench");

struct Redb {
    db: Database,
}

pub(super) fn open(dir: &Path) -> Result<Box<dyn Peer>> {
    let db = Database::builder().set_cache_size(CACHE_BYTES).create(dir.join("redb"))?;
    let peer = Redb { db };
    // Reads need a table to read from.
    peer.write(Durability::Immediate, &[])?;
    Ok(Box::new(peer))
}

impl Redb {
    fn write(&self, durability: Durability, entries: &[(Key, &[u8])]) -> Result<()> {
        let mut transaction = self.db.begin_write()?;
        transaction.set_durability(durability)?;
        let mut table = transaction.open_table(TABLE)?;
        for (key, value) in entries {
            table.insert(key.as_slice(), *value)?;
        }
        drop(table);
        Ok(transaction.commit()?)
    }
}

impl Peer for Redb {
    fn load(&self, entries: &[(Key, &[u8])]) -> Result<()> {
        self.write(Durability::None, entries)
    }

    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        self.write(Durability::None, &[(*key, value)])
    }

    fn put_durable(&self, key: &Key, value: &[u8]) -> Result<()> {
        self.write(Durability::Immediate, &[(*key, value)])
    }

    fn get(&self, key: &Key, value: &mut Vec<u8>) -> Result<bool> {
        let transaction = self.db.begin_read()?;
        let found = transaction.open_table(TABLE)?.get(key.as_slice())?;
        if let Some(found) = &found {
            value.clear();
            value.extend_from_slice(found.value());
        }
        Ok(found.is_some())
    }

    fn sync(&self) -> Result<()> {
        self.write(Durability::Immediate, &[])
    }
}
