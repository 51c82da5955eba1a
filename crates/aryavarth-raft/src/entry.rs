//! The bytes of an entry: absolute effects of client writes, and members of the cluster.
//!
//! ```text
//! entry    version u8 = 1, stamp_ms u64, count u16, frames
//! frame    flags u8 (1 session, 2 table), [session], [table], count u32, writes
//! session  id u64, number u64, reply (u32 and bytes)
//! table    next u64, count u32, {space u32, generation u64}
//! write    kind u8 (1 put, 2 remove), flags u8 (1 deadline), generation u64, [deadline u64],
//!          payload CRC u32, key (u16 and bytes), value (u32 and bytes; a put alone)
//! members  version u8 = 1, count u16, configurations {count u16, ids u64},
//!          count u16, nodes {id u64, level u16, peer and client address (u16 and text each)}
//! ```
//!
//! A frame is one client's write or one transaction; it is applied whole. Effects are absolute (numbers
//! of generations, values, deadlines), so an entry that is applied twice does no harm.
//!
//! Invariants:
//! - Accepted bytes are those that the encoder writes; a version that is not known is refused.
//! - Keys, values and replies share the bytes that they were decoded from.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::bytes_of::{Reader, put_long, put_short};

const VERSION: u8 = 1;
const SESSION: u8 = 1;
const TABLE: u8 = 2;
const PUT: u8 = 1;
const REMOVE: u8 = 2;
const DEADLINE: u8 = 1;

/// The writes that are replicated together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The replicated clock after this entry, in milliseconds since 1970.
    pub stamp_ms: u64,
    /// At most 65,535.
    pub frames: Vec<Frame>,
}

/// One client's write, or one transaction: applied whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The session for which the reply is kept, if the client has one.
    pub session: Option<Session>,
    /// The spaces after this frame, if it changes which generation a space has.
    pub table: Option<Table>,
    /// Effects on keys, in order.
    pub writes: Vec<Write>,
}

/// A client's session: a retry of the same number gets the reply that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The session, chosen by the client.
    pub id: u64,
    /// The number of the command in its session.
    pub number: u64,
    /// The reply as it was sent.
    pub reply: Bytes,
}

/// The generation of each space, in absolute numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The next number for a generation.
    pub next: u64,
    /// Each space and its generation.
    pub spaces: Vec<(u32, u64)>,
}

/// The effect on one key of one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The generation that the key belongs to.
    pub generation: u64,
    /// The checksum of the engine's payload, computed once, by the leader.
    pub payload_crc: u32,
    /// The key, at most 65,535 bytes.
    pub key: Bytes,
    /// The new value and the word of its deadline; `None` removes the key.
    pub put: Option<(Bytes, Option<u64>)>,
}

/// The members of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// The voters; two sets while a change is under way.
    pub configs: Vec<BTreeSet<u64>>,
    /// All nodes, voters and learners, by their ids.
    pub nodes: BTreeMap<u64, Member>,
}

/// One node as the others know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The newest feature level that it understands.
    pub level: u16,
    /// Its address for other nodes.
    pub peer: String,
    /// Its address for clients.
    pub client: String,
}

impl Entry {
    /// The bytes of the entry.
    pub fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.stamp_ms.to_le_bytes());
        out.extend_from_slice(&(self.frames.len() as u16).to_le_bytes());
        for frame in &self.frames {
            frame.encode(&mut out);
        }
        out.into()
    }

    /// The entry in these bytes; `None` if this version would not have written them.
    pub fn decode(bytes: &Bytes) -> Option<Entry> {
        let mut reader = Reader(bytes.clone());
        if reader.u8()? != VERSION {
            return None;
        }
        let stamp_ms = reader.u64()?;
        let count = reader.u16()?;
        let frames = (0..count).map(|_| Frame::decode(&mut reader)).collect::<Option<_>>()?;
        reader.is_empty().then_some(Entry { stamp_ms, frames })
    }
}

impl Frame {
    fn encode(&self, out: &mut Vec<u8>) {
        let session = if self.session.is_some() { SESSION } else { 0 };
        let table = if self.table.is_some() { TABLE } else { 0 };
        out.push(session | table);
        if let Some(session) = &self.session {
            out.extend_from_slice(&session.id.to_le_bytes());
            out.extend_from_slice(&session.number.to_le_bytes());
            put_long(out, &session.reply);
        }
        if let Some(table) = &self.table {
            out.extend_from_slice(&table.next.to_le_bytes());
            out.extend_from_slice(&(table.spaces.len() as u32).to_le_bytes());
            for (space, generation) in &table.spaces {
                out.extend_from_slice(&space.to_le_bytes());
                out.extend_from_slice(&generation.to_le_bytes());
            }
        }
        out.extend_from_slice(&(self.writes.len() as u32).to_le_bytes());
        for write in &self.writes {
            write.encode(out);
        }
    }

    fn decode(reader: &mut Reader) -> Option<Frame> {
        let flags = reader.u8()?;
        if flags & !(SESSION | TABLE) != 0 {
            return None;
        }
        let mut frame = Frame::default();
        if flags & SESSION != 0 {
            let (id, number, reply) = (reader.u64()?, reader.u64()?, reader.long()?);
            frame.session = Some(Session { id, number, reply });
        }
        if flags & TABLE != 0 {
            let mut table = Table { next: reader.u64()?, spaces: Vec::new() };
            for _ in 0..reader.u32()? {
                table.spaces.push((reader.u32()?, reader.u64()?));
            }
            frame.table = Some(table);
        }
        for _ in 0..reader.u32()? {
            frame.writes.push(Write::decode(reader)?);
        }
        Some(frame)
    }
}

impl Write {
    fn encode(&self, out: &mut Vec<u8>) {
        let deadline = self.put.as_ref().and_then(|(_, deadline)| *deadline);
        out.push(if self.put.is_some() { PUT } else { REMOVE });
        out.push(if deadline.is_some() { DEADLINE } else { 0 });
        out.extend_from_slice(&self.generation.to_le_bytes());
        if let Some(deadline) = deadline {
            out.extend_from_slice(&deadline.to_le_bytes());
        }
        out.extend_from_slice(&self.payload_crc.to_le_bytes());
        put_short(out, &self.key);
        if let Some((value, _)) = &self.put {
            put_long(out, value);
        }
    }

    fn decode(reader: &mut Reader) -> Option<Write> {
        let (kind, flags) = (reader.u8()?, reader.u8()?);
        let generation = reader.u64()?;
        let deadline = match flags {
            0 => None,
            DEADLINE => Some(reader.u64()?),
            _ => return None,
        };
        let payload_crc = reader.u32()?;
        let key = reader.short()?;
        let put = match kind {
            PUT => Some((reader.long()?, deadline)),
            REMOVE if deadline.is_none() => None,
            _ => return None,
        };
        Some(Write { generation, payload_crc, key, put })
    }
}

impl Members {
    /// The bytes of the members.
    pub fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        out.extend_from_slice(&(self.configs.len() as u16).to_le_bytes());
        for config in &self.configs {
            out.extend_from_slice(&(config.len() as u16).to_le_bytes());
            for id in config {
                out.extend_from_slice(&id.to_le_bytes());
            }
        }
        out.extend_from_slice(&(self.nodes.len() as u16).to_le_bytes());
        for (id, member) in &self.nodes {
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&member.level.to_le_bytes());
            put_short(&mut out, member.peer.as_bytes());
            put_short(&mut out, member.client.as_bytes());
        }
        out.into()
    }

    /// The members in these bytes; `None` if this version would not have written them.
    pub fn decode(bytes: &Bytes) -> Option<Members> {
        let mut reader = Reader(bytes.clone());
        if reader.u8()? != VERSION {
            return None;
        }
        let mut members = Members::default();
        for _ in 0..reader.u16()? {
            let mut config = BTreeSet::new();
            for _ in 0..reader.u16()? {
                let id = reader.u64()?;
                // In ascending order, as a set is written.
                if config.last().is_some_and(|last| *last >= id) {
                    return None;
                }
                config.insert(id);
            }
            members.configs.push(config);
        }
        for _ in 0..reader.u16()? {
            let id = reader.u64()?;
            if members.nodes.last_key_value().is_some_and(|(last, _)| *last >= id) {
                return None;
            }
            let (level, peer, client) = (reader.u16()?, reader.text()?, reader.text()?);
            members.nodes.insert(id, Member { level, peer, client });
        }
        reader.is_empty().then_some(members)
    }
}
