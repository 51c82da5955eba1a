//! A server without sockets and disk, for the tests of the commands: an engine in memory, and
//! whatever a test wants its store to say of itself.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use aryavarth::{Count, Damage, Durability, KvsEngine, MemoryEngine, Stats};

use crate::budget::OutputFigures;
use crate::clients::Clients;
use crate::commands::ServerContext;
use crate::commands::registry::registry;
use crate::counters::Counters;
use crate::limits::Limits;
use crate::script::Scripts;
use crate::settings::ServerSettings;
use aryavarth::Now;

/// The address that it says it listens on.
const LISTEN: ([u8; 4], u16) = ([127, 0, 0, 1], 4000);

pub(super) struct FakeServer {
    pub(super) engine: MemoryEngine,
    /// Where the log is written, and where it is durable.
    pub(super) positions: Mutex<(u64, u64)>,
    pub(super) limits: Limits,
    pub(super) settings: ServerSettings,
    pub(super) clients: Clients,
    scripts: Scripts,
    compactions: AtomicU64,
}

impl FakeServer {
    pub(super) fn new(engine: MemoryEngine, limits: Limits) -> Self {
        let directory = "/data".to_owned();
        FakeServer {
            engine,
            positions: Mutex::default(),
            settings: ServerSettings::new(LISTEN.into(), directory, Durability::Always, &limits),
            scripts: Scripts::new(&limits),
            limits,
            clients: Clients::new(registry().rows().len(), &limits),
            compactions: AtomicU64::new(0),
        }
    }
}

impl ServerContext for FakeServer {
    fn engine_name(&self) -> &'static str {
        self.engine.name()
    }

    /// Asks the engine too, as a server's does: one that would wait here is found.
    fn stats(&self) -> Stats {
        let mut stats = self.engine.stats();
        (stats.written_position, stats.durable_position) = *self.positions.lock().unwrap();
        stats
    }

    fn damage(&self) -> Option<Vec<Damage>> {
        self.engine.damage()
    }

    fn count(&self, space: u32) -> aryavarth::Result<Count> {
        Ok(self.engine.with_space(space).count()?.0)
    }

    fn now(&self) -> Now {
        self.engine.now()
    }

    fn compact(&self) -> bool {
        self.compactions.fetch_add(1, Ordering::Relaxed) == 0
    }

    fn hold_sweep(&self, _until: Option<Instant>) {}

    fn is_compacting(&self) -> bool {
        self.compactions.load(Ordering::Relaxed) > 0
    }

    fn sync_soon(&self) {
        drop(self.sync());
    }

    fn sync(&self) -> aryavarth::Result<()> {
        let mut positions = self.positions.lock().unwrap();
        positions.1 = positions.0;
        Ok(())
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }

    fn give_back_memory(&self) {}

    fn output(&self) -> OutputFigures {
        OutputFigures::default()
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

    fn scripts(&self) -> &Scripts {
        &self.scripts
    }
}
