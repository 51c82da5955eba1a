//! The server as a transaction's commands see it: with the figures of the store as they were just
//! before.
//!
//! Inside a transaction the writer is held, and an engine may need it to answer for the whole store;
//! asked then, it would wait for itself.

use aryavarth::{Count, Stats};

use super::args::DATABASES;
use super::caller::Host;
use super::scan::Cursors;
use crate::clients::Clients;
use crate::counters::Counters;
use crate::limits::Limits;
use crate::settings::ServerSettings;

/// A server whose store is not asked any more.
pub(super) struct Frozen<'a> {
    host: &'a dyn Host,
    stats: Stats,
    now_ms: u64,
    counts: Vec<Count>,
}

impl<'a> Frozen<'a> {
    /// Asks the store for everything that a command may want to know.
    pub(super) fn new(host: &'a dyn Host) -> aryavarth::Result<Self> {
        let counts = (0..DATABASES).map(|space| host.count(space)).collect::<Result<_, _>>()?;
        Ok(Frozen { host, stats: host.stats(), now_ms: host.now_ms(), counts })
    }
}

impl Host for Frozen<'_> {
    fn engine_name(&self) -> &'static str {
        self.host.engine_name()
    }

    fn stats(&self) -> Stats {
        self.stats
    }

    fn count(&self, space: u32) -> aryavarth::Result<Count> {
        Ok(self.counts.get(space as usize).copied().unwrap_or_default())
    }

    fn now_ms(&self) -> u64 {
        self.now_ms
    }

    fn compact(&self) -> bool {
        self.host.compact()
    }

    fn is_compacting(&self) -> bool {
        self.host.is_compacting()
    }

    fn sync_soon(&self) {
        self.host.sync_soon();
    }

    /// Does not wait, which nothing may inside a transaction.
    fn sync(&self) -> aryavarth::Result<()> {
        self.host.sync_soon();
        Ok(())
    }

    fn counters(&self) -> Counters {
        self.host.counters()
    }

    fn limits(&self) -> &Limits {
        self.host.limits()
    }

    fn settings(&self) -> &ServerSettings {
        self.host.settings()
    }

    fn clients(&self) -> &Clients {
        self.host.clients()
    }

    fn cursors(&self) -> &Cursors {
        self.host.cursors()
    }
}
