//! `Scan` and `Keys`: the entries of a range, or its keys alone, as iterators from both ends, a page
//! at a time, each page durable before it is shown.
//!
//! ```text
//!   front page  |  rest of the range, not asked for yet  |  back page
//!   next() ->                                               <- next_back()
//! ```
//!
//! Invariant: the rest lies between the pages, so no key comes twice and none is left out; after an
//! error there is nothing more.

use std::collections::VecDeque;

use super::KvStore;
use crate::engine::{Entry, KeyRange, KvsEngine, Position};
use crate::error::Result;

/// Entries that a scan asks for at a time.
const PAGE_ENTRIES: usize = 256;

/// The entries of a range, in order; made by [`KvStore::scan`].
#[derive(Debug)]
pub struct Scan(Pages<Entry>);

/// The keys of a range, in order; made by [`KvStore::keys`].
#[derive(Debug)]
pub struct Keys(Pages<Vec<u8>>);

#[derive(Debug)]
struct Pages<T> {
    store: KvStore,
    front: VecDeque<T>,
    rest: Option<KeyRange>,
    back: VecDeque<T>,
}

/// A page of a store: what it holds, the position to wait for, whether the range ends with it.
trait Item: Sized {
    fn page(store: &KvStore, range: &KeyRange) -> Result<(Vec<Self>, Position, bool)>;
    fn key(&self) -> &[u8];
}

impl Item for Entry {
    fn page(store: &KvStore, range: &KeyRange) -> Result<(Vec<Entry>, Position, bool)> {
        let page = KvsEngine::scan(store, range, PAGE_ENTRIES)?;
        Ok((page.entries, page.position, page.done))
    }

    fn key(&self) -> &[u8] {
        &self.0
    }
}

impl Item for Vec<u8> {
    fn page(store: &KvStore, range: &KeyRange) -> Result<(Vec<Vec<u8>>, Position, bool)> {
        let page = KvsEngine::keys(store, range, PAGE_ENTRIES)?;
        Ok((page.keys, page.position, page.done))
    }

    fn key(&self) -> &[u8] {
        self
    }
}

impl<T: Item> Pages<T> {
    fn new(store: KvStore, range: KeyRange) -> Pages<T> {
        Pages { store, front: VecDeque::new(), rest: Some(range), back: VecDeque::new() }
    }

    /// The next page from the end where `range` begins, and the range behind it, if there is more.
    fn page(&self, range: KeyRange) -> Result<(VecDeque<T>, Option<KeyRange>)> {
        let (items, position, is_end) = T::page(&self.store, &range)?;
        self.store.wait(position, self.store.durability)?;
        let rest = items.last().filter(|_| !is_end).map(|last| range.after(last.key()));
        Ok((items.into(), rest))
    }

    fn next(&mut self) -> Result<Option<T>> {
        while self.front.is_empty()
            && let Some(range) = self.rest.take()
        {
            (self.front, self.rest) = self.page(range).inspect_err(|_| self.back.clear())?;
        }
        Ok(self.front.pop_front().or_else(|| self.back.pop_back()))
    }

    fn next_back(&mut self) -> Result<Option<T>> {
        while self.back.is_empty()
            && let Some(range) = self.rest.take()
        {
            let page = self.page(range.reversed());
            let (page, rest) = page.inspect_err(|_| self.front.clear())?;
            (self.back, self.rest) = (page, rest.map(KeyRange::reversed));
        }
        Ok(self.back.pop_front().or_else(|| self.front.pop_back()))
    }
}

macro_rules! iterate {
    ($name:ident, $item:ty) => {
        impl $name {
            pub(super) fn new(store: KvStore, range: KeyRange) -> $name {
                $name(Pages::new(store, range))
            }
        }

        impl Iterator for $name {
            type Item = Result<$item>;

            fn next(&mut self) -> Option<Result<$item>> {
                self.0.next().transpose()
            }
        }

        impl DoubleEndedIterator for $name {
            fn next_back(&mut self) -> Option<Result<$item>> {
                self.0.next_back().transpose()
            }
        }
    };
}

iterate!(Scan, Entry);
iterate!(Keys, Vec<u8>);
