//! LMDB, through heed: a transaction for each get and each set.
//!
//! Outside the durable sets it runs with `NO_SYNC`. The flag is changed between the phases, because
//! a sync after the commit is not LMDB's way: it syncs before and after it writes its root.

use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, FlagSetMode};

use super::{Peer, Result};
use crate::data::Key;

const MAP_BYTES: usize = 16 << 30;
const READERS_MAX: u32 = 256;

struct Lmdb {
    env: Env,
    keys: Database<'static, Bytes, Bytes>,
}

#[expect(unsafe_code, reason = "LMDB maps its file; nothing else touches it here")]
pub(super) fn open(dir: &Path) -> Result<Box<dyn Peer>> {
    let mut options = EnvOpenOptions::new();
    options.map_size(MAP_BYTES).max_readers(READERS_MAX);
    // SAFETY: the directory is this process's own, so that no one else changes the file under the
    // mapping, and its state after a crash of the system is of no concern to a measurement.
    let env = unsafe { options.flags(EnvFlags::NO_SYNC).open(dir)? };
    let keys = env
        .create_databases_and_commit(env.write_txn()?, |opener, transaction| {
            let keys = opener.create_database(transaction, None)?;
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(keys))
        })?
        .unwrap_commit();
    Ok(Box::new(Lmdb { env, keys }))
}

impl Peer for Lmdb {
    fn load(&self, entries: &[(Key, &[u8])]) -> Result<()> {
        let mut transaction = self.env.write_txn()?;
        for (key, value) in entries {
            self.keys.put(&mut transaction, key, value)?;
        }
        Ok(transaction.commit()?)
    }

    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        self.load(&[(*key, value)])
    }

    fn put_durable(&self, key: &Key, value: &[u8]) -> Result<()> {
        self.put(key, value)
    }

    fn get(&self, key: &Key, value: &mut Vec<u8>) -> Result<bool> {
        let transaction = self.env.read_txn()?;
        let found = self.keys.get(&transaction, key)?;
        if let Some(found) = found {
            value.clear();
            value.extend_from_slice(found);
        }
        Ok(found.is_some())
    }

    fn sync(&self) -> Result<()> {
        Ok(self.env.force_sync()?)
    }

    #[expect(unsafe_code, reason = "the flag has no other interface")]
    fn prepare(&self, durable: bool) -> Result<()> {
        let mode = if durable { FlagSetMode::Disable } else { FlagSetMode::Enable };
        // SAFETY: no other call runs meanwhile, as the trait says.
        unsafe { self.env.set_flags(EnvFlags::NO_SYNC, mode)? };
        Ok(())
    }
}
