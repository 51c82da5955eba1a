//! Engines of three methods: the trait of the article, and the adapter that lets a server have one.
//!
//! An engine that can only set, get and remove is a [`KvsEngine`]; [`Plain`] makes of it an engine
//! with the whole [contract](engine::KvsEngine). Gets, sets and removals of single keys that are text
//! go through; other calls are refused with an error that names the call.
//!
//! Invariant: a refused call has changed nothing.

use std::fmt;
use std::task::{Poll, Waker};

use crate::engine::{
    self, Count, Deadline, KeyPage, KeyRange, Page, Position, Stored, Transaction, Wait, Watch,
};
use crate::error::{KvsError, Result};
use crate::options::{Clock, Durability, SystemClock};
use crate::record::{Batch, Write};
use crate::stats::Stats;
use crate::sync::{Apart, Arc, Mutex, Rank, lock};

/// An engine of three methods. Each returns when its effect is as durable as the engine makes it.
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::{Arc, Mutex};
///
/// use aryavarth::plain::{KvsEngine, Plain};
/// use aryavarth::{KvsError, Result};
///
/// #[derive(Clone, Default)]
/// struct Shelf(Arc<Mutex<HashMap<String, String>>>);
///
/// impl KvsEngine for Shelf {
///     fn set(&self, key: String, value: String) -> Result<()> {
///         self.0.lock().unwrap().insert(key, value);
///         Ok(())
///     }
///     fn get(&self, key: String) -> Result<Option<String>> {
///         Ok(self.0.lock().unwrap().get(&key).cloned())
///     }
///     fn remove(&self, key: String) -> Result<()> {
///         self.0.lock().unwrap().remove(&key).map(drop).ok_or(KvsError::KeyNotFound)
///     }
/// }
///
/// let engine = Plain::new(Shelf::default()); // fit for `KvServer::new`
/// aryavarth::KvsEngine::set(&engine, "k".into(), "v".into())?;
/// assert_eq!(aryavarth::KvsEngine::get(&engine, "k".into())?, Some("v".into()));
/// # Ok::<(), KvsError>(())
/// ```
pub trait KvsEngine: Clone + Send + 'static {
    /// Sets a key.
    ///
    /// # Errors
    /// The engine's own; [`KvsError::Engine`] takes any error.
    fn set(&self, key: String, value: String) -> Result<()>;

    /// The value of a key, if there is one.
    ///
    /// # Errors
    /// The engine's own.
    fn get(&self, key: String) -> Result<Option<String>>;

    /// Removes a key.
    ///
    /// # Errors
    /// [`KvsError::KeyNotFound`] if there is none, where the engine can tell, or the engine's own.
    fn remove(&self, key: String) -> Result<()>;
}

/// A [`KvsEngine`] of three methods as an engine with the whole contract.
pub struct Plain<E> {
    /// Cloned for each call, so that calls do not wait for each other.
    engine: Arc<Mutex<E>>,
    space: u32,
}

impl<E> Clone for Plain<E> {
    fn clone(&self) -> Self {
        Plain { engine: Arc::clone(&self.engine), space: self.space }
    }
}

impl<E> fmt::Debug for Plain<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plain")
    }
}

/// A call that an engine of three methods does not have.
#[derive(Debug)]
struct Missing(&'static str);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let call = self.0;
        write!(
            f,
            "this engine sets, gets and removes single keys and cannot {call}; nothing was changed. \
             Use another engine for that"
        )
    }
}

impl std::error::Error for Missing {}

fn cannot<T>(call: &'static str) -> Result<T> {
    Err(KvsError::Engine(Arc::new(Missing(call))))
}

/// Text of bytes, which is all that such an engine takes.
fn text(bytes: impl Into<Vec<u8>>) -> Result<String> {
    String::from_utf8(bytes.into()).map_err(|_bytes| KvsError::NotUtf8)
}

impl<E: KvsEngine> Plain<E> {
    /// The engine with the whole contract.
    pub fn new(engine: E) -> Plain<E> {
        Plain { engine: Arc::new(Mutex::new(Rank::Plain, engine)), space: 0 }
    }

    /// A handle of the engine, for a call in space 0.
    fn engine(&self) -> Result<E> {
        if self.space != 0 {
            return cannot("keep other spaces than 0");
        }
        let engine = lock(&self.engine);
        let _apart = Apart::begin();
        Ok(engine.clone())
    }
}

impl<E: KvsEngine> engine::KvsEngine for Plain<E> {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn durability(&self) -> Durability {
        Durability::Always
    }

    fn space(&self) -> u32 {
        self.space
    }

    fn with_space(&self, space: u32) -> Self {
        Plain { space, ..self.clone() }
    }

    fn now_ms(&self) -> u64 {
        SystemClock.now_ms()
    }

    fn find(&self, key: &[u8], wait: Wait) -> Result<(Option<Stored>, Position)> {
        if wait == Wait::No {
            return Err(KvsError::WouldBlock);
        }
        let value = self.engine()?.get(text(key)?)?;
        let stored =
            value.map(|value| Stored { value: value.into_bytes(), deadline: Deadline::Never });
        Ok((stored, Position::ZERO))
    }

    fn keys(&self, _range: &KeyRange, _limit: usize) -> Result<KeyPage> {
        cannot("list its keys")
    }

    fn count(&self) -> Result<(Count, Position)> {
        cannot("count its keys")
    }

    fn watch(&self, _key: &[u8]) -> Result<Watch> {
        cannot("watch a key")
    }

    fn write(&self, batch: &Batch) -> Result<(u64, Position)> {
        let engine = self.engine()?;
        let write = match batch.writes() {
            [] => return Ok((0, Position::ZERO)),
            [write] => write,
            _ => return cannot("write several keys at once"),
        };
        let removed = match write {
            Write::Put { key, value, deadline: Deadline::Never } => {
                engine.set(text(key.as_slice())?, text(value.as_slice())?)?;
                0
            }
            Write::Put { .. } => return cannot("keep a deadline"),
            Write::Delete { key } => match engine.remove(text(key.as_slice())?) {
                Ok(()) => 1,
                Err(KvsError::KeyNotFound) => 0,
                Err(error) => return Err(error),
            },
        };
        Ok((removed, Position::ZERO))
    }

    fn transact<R>(
        &self,
        _keys: &[&[u8]],
        _body: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<(R, Position)> {
        cannot("run a transaction")
    }

    fn scan(&self, _range: &KeyRange, _limit: usize) -> Result<Page> {
        cannot("scan a range")
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
        cannot("compact")
    }

    fn stats(&self) -> Stats {
        Stats::default()
    }
}
