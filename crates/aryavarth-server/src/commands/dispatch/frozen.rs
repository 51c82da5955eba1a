//! The server as a transaction's commands see it: with the figures of the store as they were just
//! before.
//!
//! Inside a transaction the writer is held, and an engine may need it to answer for the whole store;
//! asked then, it would wait for itself.

use std::time::Instant;

use aryavarth::{Count, Stats};

use crate::budget::OutputFigures;
use crate::clients::Clients;
use crate::commands::kit::args::DATABASES;
use crate::commands::kit::context::ServerContext;
use crate::commands::kit::deadline::Now;
use crate::counters::Counters;
use crate::limits::Limits;
use crate::settings::ServerSettings;

/// A server whose store is not asked any more.
pub(super) struct Frozen<'a> {
    server: &'a dyn ServerContext,
    stats: Stats,
    now: Now,
    counts: Vec<Count>,
}

impl<'a> Frozen<'a> {
    /// Asks the store for everything that a command may want to know.
    pub(super) fn new(server: &'a dyn ServerContext) -> aryavarth::Result<Self> {
        let counts = (0..DATABASES).map(|space| server.count(space)).collect::<Result<_, _>>()?;
        Ok(Frozen { server, stats: server.stats(), now: server.now(), counts })
    }
}

impl ServerContext for Frozen<'_> {
    fn engine_name(&self) -> &'static str {
        self.server.engine_name()
    }

    fn stats(&self) -> Stats {
        self.stats
    }

    fn count(&self, space: u32) -> aryavarth::Result<Count> {
        Ok(self.counts.get(space as usize).copied().unwrap_or_default())
    }

    fn now(&self) -> Now {
        self.now
    }

    fn compact(&self) -> bool {
        self.server.compact()
    }

    fn hold_sweep(&self, until: Option<Instant>) {
        self.server.hold_sweep(until);
    }

    fn is_compacting(&self) -> bool {
        self.server.is_compacting()
    }

    fn sync_soon(&self) {
        self.server.sync_soon();
    }

    /// Does not wait, which nothing may inside a transaction.
    fn sync(&self) -> aryavarth::Result<()> {
        self.server.sync_soon();
        Ok(())
    }

    fn counters(&self) -> Counters {
        self.server.counters()
    }

    fn output(&self) -> OutputFigures {
        self.server.output()
    }

    fn limits(&self) -> &Limits {
        self.server.limits()
    }

    fn settings(&self) -> &ServerSettings {
        self.server.settings()
    }

    fn clients(&self) -> &Clients {
        self.server.clients()
    }
}
