//! The server as commands see it.

use aryavarth::{Count, KvsEngine, Stats};

use crate::clients::Clients;
use crate::commands::Host;
use crate::counters::Counters;
use crate::limits::Limits;
use crate::server::Shared;
use crate::settings::ServerSettings;
use crate::thread_pool::ThreadPool;

impl<E: KvsEngine, P: ThreadPool> Host for Shared<E, P> {
    fn engine_name(&self) -> &'static str {
        self.engine.name()
    }

    fn stats(&self) -> Stats {
        self.engine.stats()
    }

    fn count(&self, space: u32) -> aryavarth::Result<Count> {
        self.engine.with_space(space).count().map(|(count, _)| count)
    }

    fn now_ms(&self) -> u64 {
        self.engine.now_ms()
    }

    fn compact(&self) -> bool {
        let Ok(turn) = std::sync::Arc::clone(&self.compaction).try_lock_owned() else {
            return false;
        };
        let engine = self.engine.clone();
        self.pool.spawn(move || {
            // What keeps it from compacting is in the statistics; nobody waits for this one.
            drop(engine.compact());
            drop(turn);
        });
        true
    }

    fn sync(&self) -> aryavarth::Result<()> {
        let written = self.engine.stats().written_position;
        self.engine.wait(aryavarth::Position(written), aryavarth::Durability::Always)
    }

    fn counters(&self) -> Counters {
        self.counters.read()
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn settings(&self) -> &ServerSettings {
        &self.settings
    }

    fn clients(&self) -> &Clients {
        &self.clients
    }
}
