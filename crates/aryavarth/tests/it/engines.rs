//! Every engine, made for a story: the one place that says which there are.
//!
//! A file of stories lists the engines on which they are told:
//! `stories! { [memory kv_store reopened sled] timed [a_story, another_story,] }` makes a module per
//! engine with a test per story. A story is a function generic over the engine; a `plain` one is
//! given the engine, a `timed` one its clock too, which moves only when the story moves it, and an
//! `on_disk` one a directory and a clock, for it opens the engine itself, more than once.

use std::path::Path;
use std::sync::Arc;

use aryavarth::{
    Batch, Deadline, KeyRange, KvStore, KvsEngine, KvsError, Options, Result, Transaction, Wait,
};

use crate::runner::TestClock;

macro_rules! stories {
    ([$($engine:ident)*] $kind:ident $stories:tt) => {
        $(stories!(@$engine $kind $stories);)*
    };
    // Every engine, and a store that is reopened before every call.
    (@every $kind:ident $stories:tt) => {
        stories!([memory kv_store reopened sled] $kind $stories);
    };
    // Every engine, for stories of knowledge that a store loses when it ends.
    (@every_unbroken $kind:ident $stories:tt) => {
        mod unbroken {
            use super::*;
            stories!([memory kv_store sled] $kind $stories);
        }
    };
    // Every engine that keeps its data: for stories that are given its name and open it themselves.
    (@every_on_disk $kind:ident $stories:tt) => {
        stories!([kv_store sled] $kind $stories);
    };
    (@memory $kind:ident [$($story:ident,)*]) => {
        mod memory {
            $(#[test] fn $story() {
                let clock = $crate::runner::TestClock::new();
                let engine = aryavarth::MemoryEngine::with_clock(clock.clone());
                stories!(@tell $kind $story, engine, clock);
            })*
        }
    };
    (@reopened $kind:ident [$($story:ident,)*]) => {
        mod reopened {
            $(#[test] fn $story() {
                let clock = $crate::runner::TestClock::new();
                let engine = $crate::reopened::Reopened::new(&clock);
                stories!(@tell $kind $story, engine, clock);
            })*
        }
    };
    (@kv_store $kind:ident $stories:tt) => {
        mod kv_store { stories!(@on_disk aryavarth::KvStore, $kind $stories); }
    };
    (@sled $kind:ident $stories:tt) => {
        #[cfg(feature = "sled")]
        mod sled { stories!(@on_disk aryavarth::SledKvsEngine, $kind $stories); }
    };
    // `kv_store` or `sled`, the ways of `stories!` to make an engine on a disk.
    (@on_disk $engine:ty, on_disk [$($story:ident,)*]) => {
        $(#[test] fn $story() {
            let dir = tempfile::tempdir().unwrap();
            super::$story::<$engine>(dir.path(), &$crate::runner::TestClock::new());
        })*
    };
    (@on_disk $engine:ty, $kind:ident [$($story:ident,)*]) => {
        $(#[test] fn $story() {
            let dir = tempfile::tempdir().unwrap();
            let clock = $crate::runner::TestClock::new();
            let engine = <$engine as $crate::engines::OnDisk>::open_at(dir.path(), &clock);
            stories!(@tell $kind $story, engine, clock);
        })*
    };
    (@tell plain $story:ident, $engine:ident, $clock:ident) => {
        super::$story(&$engine)
    };
    (@tell timed $story:ident, $engine:ident, $clock:ident) => {
        super::$story(&$engine, &$clock)
    };
}

/// An engine that keeps its data beyond its end. Dropping the last handle closes it.
pub(crate) trait OnDisk: KvsEngine {
    fn open_at(dir: &Path, clock: &Arc<TestClock>) -> Self;
}

fn options(clock: &Arc<TestClock>) -> Options {
    let clock: Arc<TestClock> = Arc::clone(clock);
    Options { clock, ..Options::default() }
}

impl OnDisk for KvStore {
    fn open_at(dir: &Path, clock: &Arc<TestClock>) -> Self {
        KvStore::open_with(dir, options(clock)).unwrap()
    }
}

#[cfg(feature = "sled")]
impl OnDisk for aryavarth::SledKvsEngine {
    fn open_at(dir: &Path, clock: &Arc<TestClock>) -> Self {
        aryavarth::SledKvsEngine::open_with(dir, options(clock)).unwrap()
    }
}

/// Writes a key with a deadline.
pub(crate) fn put_until<E: KvsEngine>(engine: &E, key: &str, value: &str, deadline: u64) {
    engine.write(Batch::new().put_with_deadline(key, value, Deadline::At(deadline))).unwrap();
}

/// Runs a closure that announces nothing.
pub(crate) fn transact<E: KvsEngine, R>(
    engine: &E,
    body: impl FnMut(&mut Transaction<'_>) -> Result<R>,
) -> R {
    engine.transact(&[], body).unwrap().0
}

/// The answer of a read that does not wait, unless it would have to.
pub(crate) fn at_hand<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(KvsError::WouldBlock) => Ok(None),
        read => read.map(Some),
    }
}

/// The value of a key as text, as each way to read it shows it.
pub(crate) fn get<E: KvsEngine>(engine: &E, key: &str) -> Option<String> {
    let (stored, _) = engine.find(key.as_bytes(), Wait::Yes).unwrap();
    let value = stored.map(|stored| stored.value);
    assert_eq!(engine.read(key.as_bytes(), Wait::Yes).unwrap().0, value);
    if let Some((now, _)) = at_hand(engine.read(key.as_bytes(), Wait::No)).unwrap() {
        assert_eq!(now, value);
    }
    value.map(|value| String::from_utf8(value).unwrap())
}

/// The keys of a range, page by page, as text, and the same as a scan and a closure see them.
pub(crate) fn names_in<E: KvsEngine>(engine: &E, range: &KeyRange, limit: usize) -> Vec<String> {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    loop {
        let rest = match keys.last() {
            Some(last) => range.clone().after(last),
            None => range.clone(),
        };
        let page = engine.keys(&rest, limit).unwrap();
        assert!(page.keys.len() <= limit);
        assert!(page.done || !page.keys.is_empty(), "a page that is not done makes progress");
        keys.extend(page.keys);
        if page.done {
            break;
        }
    }
    let scanned = engine.scan(range, usize::MAX).unwrap();
    assert!(scanned.done);
    let scanned: Vec<Vec<u8>> = scanned.entries.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, scanned, "a scan in pages of {limit}");
    assert_eq!(keys, transact(engine, |transaction| transaction.keys(range, usize::MAX)));
    keys.into_iter().map(|key| String::from_utf8(key).unwrap()).collect()
}

/// All keys of the engine's space.
pub(crate) fn names<E: KvsEngine>(engine: &E) -> Vec<String> {
    names_in(engine, &KeyRange::all(), 1000)
}
