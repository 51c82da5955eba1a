//! The bare loop: the unavoidable work of any log-structured store, and nothing else.
//!
//! A set appends a record of 24 bytes, key and value, and puts the value into a hash map; durable
//! sets share syncs. A get copies the value out of the map. No checksum, no order, no space given
//! back, no recovery worth the name.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{BuildHasherDefault, Hasher};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock};

use rustix::fs::{FallocateFlags, fallocate};

use super::{Peer, Result};
use crate::data::{KEY_BYTES, Key};
use crate::group::Group;

const HEADER_BYTES: usize = 24;
/// Tells a record from the zeros behind the last one.
const RECORD: u8 = 1;
/// How far the file is allocated ahead.
///
/// A sync must find nothing but data to write. On ext4 that is so if the file has
/// its blocks and its length already: then append and sync took as long as overwriting the same
/// place again and again (within 5 %, in whatever steps of 128 KiB to 64 MiB). A file filled with
/// zeros before was no faster. An append that changes the length took 1.5 times as long, and so did
/// blocks allocated beyond the end. The step is small so that no round waits for a large one.
const AHEAD_BYTES: u64 = 1 << 20;
/// So many maps that threads rarely meet at one.
const SHARDS: usize = 64;

/// Takes the first eight bytes of a key, which are random already.
#[derive(Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _: usize) {}
}

type Shard = RwLock<HashMap<Key, Box<[u8]>, BuildHasherDefault<FirstBytes>>>;

struct Log {
    file: File,
    end: u64,
    allocated: u64,
}

struct Bare {
    log: Mutex<Log>,
    /// The same file, so that a sync needs no lock.
    sync_handle: File,
    shards: Vec<Shard>,
    group: Group,
}

pub(super) fn open(dir: &Path) -> Result<Box<dyn Peer>> {
    let path = dir.join("bare.log");
    let file = File::options().create(true).truncate(false).write(true).open(&path)?;
    let sync_handle = file.try_clone()?;
    let shards = (0..SHARDS).map(|_| Shard::default()).collect();
    let records = fs::read(&path)?;
    let log = Log { file, end: 0, allocated: records.len() as u64 };
    let mut bare = Bare { log: Mutex::new(log), sync_handle, shards, group: Group::default() };
    let mut rest = records.as_slice();
    while let Some((header, payload)) = rest.split_first_chunk::<HEADER_BYTES>()
        && header[2] == RECORD
    {
        let value_bytes = usize::from(u16::from_le_bytes([header[0], header[1]]));
        let (payload, behind) = payload.split_at(KEY_BYTES + value_bytes);
        let (key, value) = payload.split_first_chunk().ok_or("a record without key")?;
        bare.insert(key, value);
        rest = behind;
    }
    let end = (records.len() - rest.len()) as u64;
    bare.log.get_mut().unwrap_or_else(PoisonError::into_inner).end = end;
    Ok(Box::new(bare))
}

impl Bare {
    fn shard(&self, key: &Key) -> &Shard {
        &self.shards[usize::from(key[15] ^ (key[14] << 4)) % SHARDS]
    }

    fn insert(&self, key: &Key, value: &[u8]) {
        let mut shard = self.shard(key).write().unwrap_or_else(PoisonError::into_inner);
        match shard.get_mut(key) {
            Some(old) if old.len() == value.len() => old.copy_from_slice(value),
            _ => drop(shard.insert(*key, value.into())),
        }
    }
}

impl Peer for Bare {
    fn load(&self, entries: &[(Key, &[u8])]) -> Result<()> {
        let mut records = Vec::new();
        for (key, value) in entries {
            let mut header = [0; HEADER_BYTES];
            header[..2].copy_from_slice(&u16::try_from(value.len())?.to_le_bytes());
            header[2] = RECORD;
            records.extend_from_slice(&header);
            records.extend_from_slice(key);
            records.extend_from_slice(value);
        }
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let end = log.end + records.len() as u64;
        while end > log.allocated {
            // No flag: the length grows too.
            fallocate(&log.file, FallocateFlags::empty(), log.allocated, AHEAD_BYTES)?;
            log.allocated += AHEAD_BYTES;
        }
        log.file.write_all_at(&records, log.end)?;
        log.end = end;
        drop(log);
        for (key, value) in entries {
            self.insert(key, value);
        }
        Ok(())
    }

    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        self.load(&[(*key, value)])
    }

    fn put_durable(&self, key: &Key, value: &[u8]) -> Result<()> {
        self.put(key, value)?;
        self.group.sync(|| Ok(self.sync_handle.sync_data()?))
    }

    fn get(&self, key: &Key, value: &mut Vec<u8>) -> Result<bool> {
        let shard = self.shard(key).read().unwrap_or_else(PoisonError::into_inner);
        let found = shard.get(key);
        if let Some(found) = found {
            value.clear();
            value.extend_from_slice(found);
        }
        Ok(found.is_some())
    }

    fn sync(&self) -> Result<()> {
        Ok(self.sync_handle.sync_data()?)
    }
}
