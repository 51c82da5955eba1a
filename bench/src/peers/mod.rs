//! The systems that are compared: one trait, one file each.
//!
//! Each is set up as its makers advise for point reads of small values that fit into memory: 256 MiB
//! of cache where there is one, no compression (the values are random). A read returns the newest
//! committed state and copies the value out.

mod bare;
mod fjall;
pub(crate) mod kvs;
mod lmdb;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod seed;
pub(crate) mod sled;

use std::path::Path;

use crate::data::Key;
use crate::outcome::BoxError;

type Result<T> = std::result::Result<T, BoxError>;

/// The cache of systems that have one, in bytes.
const CACHE_BYTES: usize = 256 << 20;

/// A store of one of the systems. Closed when dropped.
pub(crate) trait Peer: Send + Sync {
    /// Sets many keys at once; returns before they are on the disk.
    fn load(&self, entries: &[(Key, &[u8])]) -> Result<()>;

    /// Sets one key; returns before it is on the disk, if the system can do so.
    fn put(&self, key: &Key, value: &[u8]) -> Result<()>;

    /// Sets one key; returns when that is on the disk, as far as the system promises it.
    fn put_durable(&self, key: &Key, value: &[u8]) -> Result<()>;

    /// Copies the value of a key; returns whether there is one.
    fn get(&self, key: &Key, value: &mut Vec<u8>) -> Result<bool>;

    /// Writes the unwritten data of the calls so far to the disk.
    fn sync(&self) -> Result<()>;

    /// Says which kind of sets comes next, while no other call runs.
    fn prepare(&self, durable: bool) -> Result<()> {
        let _ = durable;
        Ok(())
    }
}

/// A measurement of a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Load,
    Reopen,
    Get,
    Overwrite,
    Mix,
    Durable,
    Space,
    Memory,
}

impl Phase {
    pub(crate) const ALL: [Phase; 8] = [
        Phase::Load,
        Phase::Reopen,
        Phase::Get,
        Phase::Overwrite,
        Phase::Mix,
        Phase::Durable,
        Phase::Space,
        Phase::Memory,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Load => "load",
            Phase::Reopen => "reopen",
            Phase::Get => "get",
            Phase::Overwrite => "overwrite",
            Phase::Mix => "mix",
            Phase::Durable => "durable",
            Phase::Space => "space",
            Phase::Memory => "memory",
        }
    }
}

/// A system's part in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Ours,
    /// Someone to measure up to.
    Peer,
    /// Does only the unavoidable: no system can be much faster.
    Limit,
    /// Promises less than the others, so that being slower than it says nothing.
    Weaker,
}

/// One of the systems that can be measured.
pub(crate) struct System {
    pub(crate) name: &'static str,
    pub(crate) role: Role,
    /// The phases of its measurement.
    pub(crate) phases: &'static [Phase],
    /// Opens or creates a store in a directory that exists.
    pub(crate) open: fn(&Path) -> Result<Box<dyn Peer>>,
}

const DURABLE: &[Phase] = &[Phase::Durable];
const ALL_BUT_DURABLE: &[Phase] = &[
    Phase::Load,
    Phase::Reopen,
    Phase::Get,
    Phase::Overwrite,
    Phase::Mix,
    Phase::Space,
    Phase::Memory,
];
/// It gives no space back and finds no key that is being overwritten.
const SEED: &[Phase] = &[Phase::Load, Phase::Reopen, Phase::Get, Phase::Overwrite, Phase::Memory];
/// It gives no space back and keeps the values in memory.
const BARE: &[Phase] =
    &[Phase::Load, Phase::Reopen, Phase::Get, Phase::Overwrite, Phase::Mix, Phase::Durable];

pub(crate) static SYSTEMS: &[System] = &[
    System { name: "bare loop", role: Role::Limit, phases: BARE, open: bare::open },
    System { name: "aryavarth", role: Role::Ours, phases: &Phase::ALL, open: kvs::open },
    System { name: "seed (a file per read)", role: Role::Weaker, phases: SEED, open: seed::open },
    System { name: "sled", role: Role::Peer, phases: ALL_BUT_DURABLE, open: sled::open },
    System { name: "sled (not a sync)", role: Role::Weaker, phases: DURABLE, open: sled::open },
    System { name: "sled (synced)", role: Role::Peer, phases: DURABLE, open: sled::open_synced },
    System { name: "redb", role: Role::Peer, phases: &Phase::ALL, open: redb::open },
    System { name: "fjall", role: Role::Peer, phases: &Phase::ALL, open: fjall::open },
    System { name: "LMDB", role: Role::Peer, phases: &Phase::ALL, open: lmdb::open },
    #[cfg(feature = "rocksdb")]
    System { name: "RocksDB", role: Role::Peer, phases: &Phase::ALL, open: rocksdb::open },
];

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::data::key;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Every system keeps its pairs, overwritten or not, over a reopen.
    #[test]
    fn every_system_is_a_key_value_store() {
        for System { name, open, .. } in SYSTEMS {
            let dir = tempfile::tempdir().unwrap();
            let peer = open(dir.path()).unwrap();
            let entries: Vec<_> = (0..100).map(|n| (key(n), &b"loaded"[..])).collect();
            peer.load(&entries).unwrap();
            peer.put(&key(1), b"put").unwrap();
            peer.sync().unwrap();
            peer.prepare(true).unwrap();
            peer.put_durable(&key(2), b"durable").unwrap();
            peer.prepare(false).unwrap();
            drop(peer);
            // A process that another test is starting may hold a file's lock for a moment.
            let begun = Instant::now();
            let peer = loop {
                match open(dir.path()) {
                    Ok(peer) => break peer,
                    Err(error) => assert!(begun.elapsed() < PATIENCE, "{name}: {error}"),
                }
            };
            let mut value = Vec::new();
            for (number, expected) in [(0, "loaded"), (1, "put"), (2, "durable"), (99, "loaded")] {
                assert!(peer.get(&key(number), &mut value).unwrap(), "{name}");
                assert_eq!(value, expected.as_bytes(), "{name}");
            }
            assert!(!peer.get(&key(100), &mut value).unwrap(), "{name}");
        }
    }
}
