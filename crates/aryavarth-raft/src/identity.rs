//! A node's identity: the file `node` in its data directory.
//!
//! ```text
//! 0 "ARYN"   4 version u16   6 reserved u16   8 cluster id u128   24 node id u64
//! 32 length of the name u16, the name in UTF-8        then CRC32C of everything before it
//! ```
//!
//! The file is written once, when the directory becomes a node, and never changed: a node id is the
//! name under which votes were given, so it belongs to these files and to no others.
//!
//! Invariants:
//! - The file is whole or absent: it is written beside its place, synced, renamed, and its directory
//!   synced.
//! - Node ids are random, 63 bits, and so never used twice; 0 is no id.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use aryavarth::fs::{Fs, OpenHow, Site, read_full, write_full};
use bytes::Bytes;

use crate::bytes_of::{Reader, put_short};
use crate::error::{RaftError, Result};

/// The file's name.
pub(crate) const NODE_FILE: &str = "node";
const NODE_FILE_NEXT: &str = "node.next";
const MAGIC: [u8; 4] = *b"ARYN";
const VERSION: u16 = 1;
/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// The longest file that is looked at.
const FILE_BYTES_MAX: u64 = 4096;

/// Which node of which cluster a data directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; a node serves in no other one.
    pub cluster: u128,
    /// The node: random, never used twice.
    pub node: u64,
    /// The name by which people call it, at most [`NAME_BYTES_MAX`] bytes.
    pub name: String,
}

impl Identity {
    /// A new node of `cluster`, with a random id.
    pub fn new(cluster: u128, name: &str) -> Identity {
        Identity { cluster, node: random() >> 1 | 1, name: name.to_owned() }
    }

    /// The first node of a new cluster, with random ids.
    pub fn of_new_cluster(name: &str) -> Identity {
        let cluster = u128::from(random()) << 64 | u128::from(random());
        Identity::new(cluster, name)
    }

    /// The bytes of the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::from(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&self.cluster.to_le_bytes());
        bytes.extend_from_slice(&self.node.to_le_bytes());
        put_short(&mut bytes, self.name.as_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The identity in the bytes of a file; the error is the version, if that alone is unknown.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Identity, Option<u16>> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(None)?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) || !body.starts_with(&MAGIC) {
            return Err(None);
        }
        let mut reader = Reader(Bytes::copy_from_slice(&body[MAGIC.len()..]));
        match reader.u16() {
            Some(VERSION) => {}
            version => return Err(version),
        }
        let read = |mut reader: Reader| {
            let reserved = reader.u16()?;
            let cluster = reader.u128()?;
            let node = reader.u64()?;
            let name = reader.text()?;
            let fits = name.len() <= NAME_BYTES_MAX && reserved == 0 && node != 0;
            (fits && reader.is_empty()).then_some(Identity { cluster, node, name })
        };
        read(reader).ok_or(None)
    }

    /// Reads the identity of the data directory `data`; `None` if it is no node.
    ///
    /// # Errors
    /// [`RaftError::Corrupt`] if the file is damaged; [`RaftError::UnknownFormat`] if a newer version
    /// wrote it.
    pub fn read(fs: &dyn Fs, data: &Path) -> Result<Option<Identity>> {
        let path = data.join(NODE_FILE);
        let file = match fs.open(Site::RaftNodeOpen, &path, OpenHow::Read) {
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let damaged = |reason: &str| {
            Err(RaftError::Corrupt { path: path.clone(), offset: 0, reason: reason.to_owned() })
        };
        let length = file.len(Site::RaftNodeLength)?;
        if length > FILE_BYTES_MAX {
            return damaged("it is too long to be a node's file");
        }
        let mut bytes = vec![0; length as usize];
        let got = read_full(&*file, Site::RaftNodeRead, &mut bytes, 0)?;
        match Identity::decode(&bytes[..got]) {
            Ok(identity) => Ok(Some(identity)),
            Err(Some(version)) => Err(RaftError::UnknownFormat { path, version }),
            Err(None) => damaged("its checksum or its fields are wrong"),
        }
    }

    /// Writes the identity into the data directory `data`, which has none yet. Two syncs.
    ///
    /// # Errors
    /// [`RaftError::Order`] if the name is too long; otherwise the file system's. The directory is
    /// then no node yet, or is one: [`Identity::read`] tells.
    pub fn write(&self, fs: &dyn Fs, data: &Path) -> Result<()> {
        if self.name.len() > NAME_BYTES_MAX {
            let reason = format!("a node's name has at most {NAME_BYTES_MAX} bytes");
            return Err(RaftError::Order { reason });
        }
        let (next, path) = (data.join(NODE_FILE_NEXT), data.join(NODE_FILE));
        match fs.remove(Site::RaftNodeLeftover, &next) {
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed?,
        }
        let file = fs.open(Site::RaftNodeCreate, &next, OpenHow::CreateNew)?;
        write_full(&*file, Site::RaftNodeWrite, &self.encode(), 0)?;
        file.sync(Site::RaftNodeSync)?;
        fs.rename(Site::RaftNodeRename, &next, &path)?;
        fs.sync_dir(Site::RaftNodeDirSync, data)?;
        Ok(())
    }
}

/// A random number from the system.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0x5eed)
}
