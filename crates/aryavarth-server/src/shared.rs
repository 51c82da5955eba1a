//! The parts of a server that all of its connections share, and the server as commands see it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use aryavarth::{Count, Damage, Durability, KvsEngine, Now, Position, Result, Stats};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore, watch};

use crate::budget::{Budget, OutputBudget, OutputFigures};
use crate::clients::Clients;
use crate::commands::ServerContext;
use crate::counters::{Counters, LiveCounters};
use crate::limits::Limits;
use crate::script::Scripts;
use crate::settings::ServerSettings;
use crate::thread_pool::ThreadPool;
use crate::upkeep::Upkeep;
use crate::writes::queue::Writes;

/// Tasks that ask the threads of the sockets for memory; some may run on the same thread.
const SOCKET_TASKS: usize = 4;

/// The parts of a server that all of its connections share.
pub(crate) struct Shared<E, P> {
    pub(crate) engine: E,
    pub(crate) pool: P,
    pub(crate) limits: Limits,
    pub(crate) counters: Arc<LiveCounters>,
    pub(crate) jobs: Budget,
    pub(crate) writes: Arc<Writes>,
    pub(crate) input: Budget,
    pub(crate) output: OutputBudget,
    pub(crate) upkeep: Upkeep,
    /// Work of the pool that may keep a thread for long, which leaves a thread to the rest.
    pub(crate) long_work: Arc<Semaphore>,
    /// Held by the compaction that runs.
    pub(crate) compaction: Arc<Mutex<()>>,
    pub(crate) clients: Clients,
    pub(crate) scripts: Scripts,
    pub(crate) settings: Arc<ServerSettings>,
    /// Set when the server is to stop.
    pub(crate) stop: Arc<watch::Sender<bool>>,
}

impl<E: KvsEngine, P: ThreadPool> ServerContext for Shared<E, P> {
    fn engine_name(&self) -> &'static str {
        self.engine.name()
    }

    fn stats(&self) -> Stats {
        self.engine.stats()
    }

    fn damage(&self) -> Option<Vec<Damage>> {
        self.engine.damage()
    }

    fn count(&self, space: u32) -> Result<Count> {
        self.engine.with_space(space).count().map(|(count, _)| count)
    }

    fn now(&self) -> Now {
        self.engine.now()
    }

    fn compact(&self) -> bool {
        let Ok(turn) = Arc::clone(&self.compaction).try_lock_owned() else {
            return false;
        };
        let engine = self.engine.clone();
        let settings = Arc::clone(&self.settings);
        self.pool.spawn(move || {
            settings.compacted(&engine.compact());
            drop(turn);
        });
        true
    }

    fn hold_sweep(&self, until: Option<Instant>) {
        self.engine.hold_sweep(until);
    }

    fn is_compacting(&self) -> bool {
        self.compaction.try_lock().is_err()
    }

    fn sync_soon(&self) {
        // One at a time: else a client that asks without end would fill the pool with them.
        if self.settings.saves_asked.fetch_add(1, Ordering::AcqRel) > 0 {
            return;
        }
        let engine = self.engine.clone();
        let settings = Arc::clone(&self.settings);
        self.pool.spawn(move || {
            loop {
                let asked = settings.saves_asked.load(Ordering::Acquire);
                // A failed sync is heard of by every write from then on.
                if sync(&engine).is_ok() {
                    settings.saved();
                }
                // A client that asked meanwhile may have written more.
                if settings.saves_asked.fetch_sub(asked, Ordering::AcqRel) == asked {
                    break;
                }
            }
        });
    }

    fn sync(&self) -> Result<()> {
        sync(&self.engine)
    }

    fn counters(&self) -> Counters {
        self.counters.read()
    }

    fn give_back_memory(&self) {
        let Some(give_back) = self.upkeep.hooks.give_back else { return };
        give_back(true);
        for _ in 0..self.pool.threads() {
            self.pool.spawn(move || give_back(true));
        }
        if let Ok(sockets) = Handle::try_current() {
            for _ in 0..SOCKET_TASKS {
                sockets.spawn(async move { give_back(true) });
            }
        }
    }

    fn output(&self) -> OutputFigures {
        self.output.figures()
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

/// Returns when everything that was written is on disk.
fn sync<E: KvsEngine>(engine: &E) -> Result<()> {
    engine.wait(Position(engine.stats().written_position), Durability::Always)
}
