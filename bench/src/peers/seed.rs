//! The way in which many a key-value store begins: records in JSON, one skip list, and a file that
//! is opened anew for each read.
//!
//! Nothing is synced and no space is given back; it stands here to show the cost of those choices.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crossbeam_skiplist::SkipMap;
use serde_json::{Deserializer, Value, json};

use super::{Peer, Result};
use crate::data::Key;

#[derive(Clone, Copy)]
struct LogPointer {
    offset: u64,
    length: usize,
}

struct Seed {
    path: PathBuf,
    index: SkipMap<String, LogPointer>,
    /// The log and its length.
    writer: Mutex<(File, u64)>,
}

pub(super) fn open(dir: &Path) -> Result<Box<dyn Peer>> {
    let path = dir.join("1.log");
    let file = File::options().create(true).append(true).open(&path)?;
    let index = SkipMap::new();
    let mut records = Deserializer::from_reader(BufReader::new(File::open(&path)?)).into_iter();
    let mut offset = 0;
    while let Some(record) = records.next() {
        let record: Value = record?;
        let end = records.byte_offset();
        let length = end - offset;
        index.insert(text(&record, "key")?, LogPointer { offset: offset as u64, length });
        offset = end;
    }
    Ok(Box::new(Seed { path, index, writer: Mutex::new((file, offset as u64)) }))
}

/// A field of the record of a set.
fn text(record: &Value, field: &str) -> Result<String> {
    let text = record["Set"][field].as_str();
    Ok(text.ok_or_else(|| format!("a record without {field}"))?.to_owned())
}

impl Peer for Seed {
    fn load(&self, entries: &[(Key, &[u8])]) -> Result<()> {
        entries.iter().try_for_each(|(key, value)| self.put(key, value))
    }

    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        let (key, value) = (str::from_utf8(key)?, str::from_utf8(value)?);
        let record = serde_json::to_vec(&json!({"Set": {"key": key, "value": value}}))?;
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let pointer = LogPointer { offset: writer.1, length: record.len() };
        writer.0.write_all(&record)?;
        writer.1 += record.len() as u64;
        self.index.insert(key.to_owned(), pointer);
        Ok(())
    }

    fn put_durable(&self, key: &Key, value: &[u8]) -> Result<()> {
        self.put(key, value)
    }

    fn get(&self, key: &Key, value: &mut Vec<u8>) -> Result<bool> {
        let Some(entry) = self.index.get(str::from_utf8(key)?) else { return Ok(false) };
        let LogPointer { offset, length } = *entry.value();
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut record = vec![0; length];
        file.read_exact(&mut record)?;
        let record: Value = serde_json::from_slice(&record)?;
        *value = text(&record, "value")?.into_bytes();
        Ok(true)
    }

    fn sync(&self) -> Result<()> {
        Ok(self.writer.lock().unwrap_or_else(PoisonError::into_inner).0.sync_data()?)
    }
}
