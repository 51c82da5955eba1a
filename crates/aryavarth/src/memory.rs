//! An engine without a disk: the model that the others are tested against.
//!
//! One lock around one ordered map. Nothing survives the process; everything else of the contract
//! holds, so a test that passes here and fails on another engine has found a difference.

use std::collections::BTreeMap;
use std::task::{Poll, Waker};

use crate::engine::{KeyRange, KvsEngine, Newest, Page, Position, Transaction};
use crate::error::Result;
use crate::options::{Durability, Options};
use crate::record::{Batch, Write, check_key, check_value};
use crate::stats::Stats;
use crate::sync::{Arc, Mutex, lock};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// A store in memory, ordered, behind one lock.
///
/// ```
/// use aryavarth::{KvsEngine, MemoryEngine};
///
/// let engine = MemoryEngine::new();
/// engine.set("k".into(), "v".into())?;
/// assert_eq!(engine.get("k".into())?, Some("v".into()));
/// # Ok::<(), aryavarth::KvsError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryEngine {
    map: Arc<Mutex<Map>>,
}

impl MemoryEngine {
    /// An empty store.
    pub fn new() -> Self {
        MemoryEngine::default()
    }
}

struct NewestInMap<'a>(&'a Map);

impl Newest for NewestInMap<'_> {
    fn value(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.0.get(key).cloned())
    }

    fn contains(&mut self, key: &[u8]) -> Result<bool> {
        Ok(self.0.contains_key(key))
    }
}

fn check(key: &[u8], value: Option<&[u8]>) -> Result<()> {
    check_key(key)?;
    value.map_or(Ok(()), |value| check_value(value, Options::default().value_bytes_max))
}

impl KvsEngine for MemoryEngine {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn durability(&self) -> Durability {
        Durability::Always
    }

    fn read(&self, key: &[u8]) -> Result<(Option<Vec<u8>>, Position)> {
        Ok((lock(&self.map).get(key).cloned(), Position::ZERO))
    }

    fn read_now(&self, key: &[u8]) -> Result<Option<(Option<Vec<u8>>, Position)>> {
        self.read(key).map(Some)
    }

    fn write(&self, batch: Batch) -> Result<(u64, Position)> {
        for write in batch.writes() {
            check(write.key(), write.value())?;
        }
        let mut map = lock(&self.map);
        let mut removed = 0;
        for write in batch.into_writes() {
            match write {
                Write::Set { key, value } => {
                    map.insert(key, value);
                }
                Write::Remove { key } => removed += u64::from(map.remove(&key).is_some()),
            }
        }
        Ok((removed, Position::ZERO))
    }

    fn commit<R>(
        &self,
        _keys: &[&[u8]],
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<(R, Position)> {
        let mut map = lock(&self.map);
        let mut newest = NewestInMap(&map);
        let mut transaction = Transaction::new(&mut newest);
        let result = body(&mut transaction)?;
        let writes = transaction.into_writes();
        for (key, value) in &writes {
            check(key, value.as_deref())?;
        }
        for (key, value) in writes {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok((result, Position::ZERO))
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Page> {
        let mut page = Page { done: true, ..Page::default() };
        if range.is_empty() {
            return Ok(page);
        }
        let map = lock(&self.map);
        let mut ascending = map.range::<[u8], _>(range.bounds());
        while let Some((key, value)) =
            if range.reverse { ascending.next_back() } else { ascending.next() }
        {
            if page.entries.len() == limit {
                page.done = false;
                break;
            }
            page.entries.push((key.clone(), value.clone()));
        }
        Ok(page)
    }

    fn wait(&self, _position: Position, _level: Durability) -> Result<()> {
        Ok(())
    }

    fn on_reached(
        &self,
        _position: Position,
        _level: Durability,
        _waker: &Waker,
    ) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn compact(&self) -> Result<()> {
        Ok(())
    }

    fn stats(&self) -> Stats {
        Stats { keys: lock(&self.map).len() as u64, ..Stats::default() }
    }
}
