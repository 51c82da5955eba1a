//! `Scan`: the entries of a range as an iterator, a page at a time, each page durable before it is
//! shown.

use std::collections::VecDeque;

use super::KvStore;
use crate::engine::{Entry, KeyRange, KvsEngine};
use crate::error::Result;

/// Entries that a scan asks for at a time.
const SCAN_ENTRIES: usize = 256;

/// The entries of a range, in order; made by [`KvStore::scan`].
#[derive(Debug)]
pub struct Scan {
    store: KvStore,
    rest: Option<KeyRange>,
    page: VecDeque<Entry>,
}

impl Scan {
    pub(super) fn new(store: KvStore, range: KeyRange) -> Scan {
        Scan { store, rest: Some(range), page: VecDeque::new() }
    }

    fn next_page(&mut self) -> Result<()> {
        let Some(range) = self.rest.take() else {
            return Ok(());
        };
        let page = KvsEngine::scan(&self.store, &range, SCAN_ENTRIES)?;
        self.store.wait(page.position, self.store.durability)?;
        if let Some((last, _)) = page.entries.last()
            && !page.done
        {
            self.rest = Some(range.after(last));
        }
        self.page = page.entries.into();
        Ok(())
    }
}

impl Iterator for Scan {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        while self.page.is_empty() && self.rest.is_some() {
            if let Err(error) = self.next_page() {
                return Some(Err(error));
            }
        }
        self.page.pop_front().map(Ok)
    }
}
