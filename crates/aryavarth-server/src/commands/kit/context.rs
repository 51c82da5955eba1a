//! The context of a command: the connection's own state, and the server around it.
//!
//! The part of a connection that a transaction may change is one plain value, [`Context::settings`], so that
//! a transaction can run again from where it began.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aryavarth::{Count, Damage, Durability, Position, Stats, Watch};

use crate::budget::{Allowance, OutputFigures};
use crate::channels::Subscriptions;
use crate::clients::{ClientHandle, Clients, Pause, Shown};
use crate::commands::kit::call::CommandCall;
use crate::commands::kit::rows::Registry;
use crate::counters::Counters;
use crate::limits::Limits;
use crate::script::Scripts;
use crate::settings::ServerSettings;
use aryavarth::Now;

/// A connection as the commands know it.
#[derive(Debug)]
pub(crate) struct ClientState {
    pub(crate) settings: Settings,
    /// The commands of the transaction that is being collected.
    pub(crate) queue: Option<Queue>,
    pub(crate) watched: Watched,
    /// The connection as others see it.
    pub(crate) entry: ClientHandle,
    /// Memory that the replies of the calls that run may take.
    pub(crate) room: Allowance,
}

impl ClientState {
    pub(crate) fn new(entry: ClientHandle, authenticated: bool, durability: Durability) -> Self {
        let settings = Settings {
            space: 0,
            version: 2,
            authenticated,
            durability,
            durability_once: None,
            durability_next: None,
            replies: Replies::On,
            monitors: false,
            subscriptions: Subscriptions::default(),
            seen: Position::ZERO,
            then: AfterReply::GoOn,
            pause: None,
        };
        let (watched, room) = (Watched::default(), Allowance::default());
        ClientState { settings, queue: None, watched, entry, room }
    }

    /// The same connection with its settings, and no transaction.
    pub(crate) fn renewed(&self) -> Self {
        let settings = self.settings.clone();
        ClientState {
            settings,
            queue: None,
            watched: Watched::default(),
            entry: self.entry.clone(),
            room: Allowance::default(),
        }
    }

    /// Whether the client has turned all replies off.
    pub(crate) fn is_silent(&self) -> bool {
        self.settings.replies == Replies::Off
    }

    /// The part that `CLIENT LIST` shows.
    pub(crate) fn shown(&self) -> Shown {
        Shown {
            space: self.settings.space,
            version: self.settings.version,
            monitors: self.settings.monitors,
            queued: self.queue.as_ref().map(|queue| queue.commands.len()),
        }
    }

    /// The input that a transaction keeps: commands, and watched keys.
    pub(crate) fn bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.bytes) + self.watched.bytes
    }

    /// Gives the connection its first state.
    pub(crate) fn reset(&mut self, server: &dyn ServerContext) {
        let entry = self.entry.clone();
        entry.names().name.clear();
        entry.set_keeps(false);
        entry.set_touches_not(false);
        server.clients().end_subscriptions(&entry);
        let is_open = !server.settings().has_password();
        let (room, seen) = (std::mem::take(&mut self.room), self.settings.seen);
        *self = ClientState::new(entry, is_open, server.settings().durability);
        self.room = room;
        self.settings.seen = seen;
    }
}

/// The settings of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The database that was selected.
    pub(crate) space: u32,
    /// The version of the protocol, 2 or 3.
    pub(crate) version: u8,
    pub(crate) authenticated: bool,
    /// The level that the connection's replies wait for.
    pub(crate) durability: Durability,
    /// The level for the reply of the command that runs, instead.
    pub(crate) durability_once: Option<Durability>,
    /// The same for the next command, a transaction being one.
    pub(crate) durability_next: Option<Durability>,
    pub(crate) replies: Replies,
    /// Whether the connection hears of all commands.
    pub(crate) monitors: bool,
    pub(crate) subscriptions: Subscriptions,
    /// The newest write that the connection's replies have shown.
    pub(crate) seen: Position,
    /// The step after the reply.
    pub(crate) then: AfterReply,
    /// A change of the clients' pause, made once the command, or its transaction, has run.
    pub(crate) pause: Option<PauseChange>,
}

impl Settings {
    /// Whether only commands about subscriptions may run: in RESP2 a client could not tell the
    /// replies of others from messages.
    pub(crate) fn only_subscribes(&self) -> bool {
        self.version == 2 && self.subscriptions.any()
    }

    /// The level that the reply of the command that runs waits for.
    pub(crate) fn level(&self) -> Durability {
        self.durability_once.unwrap_or(self.durability)
    }
}

/// A pause of all clients that begins or ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PauseChange {
    Begins(Pause),
    Ends,
}

/// Whether the client wants replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replies {
    On,
    Off,
    /// Not to the command that runs, and not to the next.
    SkipNext,
    /// Not to the command that runs.
    SkipThis,
}

/// The connection's step once a command is answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum AfterReply {
    GoOn,
    /// Answers when the writes that the clients' pause let through are in the log.
    AfterWrites,
    /// Answers only after this long, without keeping a thread.
    Sleep(Duration),
    /// The answer says how far the log must be durable, as every answer does. If that takes longer
    /// than the time given, the client hears `[0, 0]` instead: nothing is known to be on disk. For
    /// replicas, of which there are none, it waits as long as it may.
    WaitForDisk {
        time: Option<Duration>,
        also_replicas: bool,
    },
    /// Closes when the reply has left.
    Close,
    /// Stops the server, without a reply.
    Shutdown,
}

/// A transaction that is being collected.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) commands: Vec<CommandCall>,
    /// Bytes that the commands keep.
    pub(crate) bytes: usize,
    /// A command was refused, so that EXEC will be.
    pub(crate) is_broken: bool,
}

/// The keys that EXEC depends on.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    pub(crate) watches: BTreeMap<(u32, Vec<u8>), Watch>,
    /// Bytes of the keys.
    pub(crate) bytes: usize,
}

/// The server around a connection, whatever its engine is.
pub(crate) trait ServerContext: Send + Sync {
    fn engine_name(&self) -> &'static str;
    fn stats(&self) -> Stats;
    /// The damaged places that the engine knows of; `None` if it does not look for damage.
    fn damage(&self) -> Option<Vec<Damage>>;
    /// How many keys a database has.
    fn count(&self, space: u32) -> aryavarth::Result<Count>;
    /// The store's clock.
    fn now(&self) -> Now;
    /// Begins a compaction in the background, unless one runs.
    fn compact(&self) -> bool;
    /// Whether a compaction runs that a client asked for.
    fn is_compacting(&self) -> bool;
    /// Begins to sync all writes in the background, and tells [`ServerSettings::saved`].
    fn sync_soon(&self);
    /// Keeps the records of expired keys until then, or no longer.
    fn hold_sweep(&self, until: Option<Instant>);
    /// Returns when everything that was written is on disk.
    fn sync(&self) -> aryavarth::Result<()>;
    fn counters(&self) -> Counters;
    /// Lets the allocator give memory back to the system, soon.
    fn give_back_memory(&self);
    /// Figures of the memory for replies.
    fn output(&self) -> OutputFigures;
    fn limits(&self) -> &Limits;
    fn settings(&self) -> &ServerSettings;
    fn clients(&self) -> &Clients;
    fn scripts(&self) -> &Scripts;
}

/// The surroundings of a command of the connection or the server.
pub(crate) struct Context<'a> {
    pub(crate) settings: &'a mut Settings,
    pub(crate) entry: &'a ClientHandle,
    pub(crate) server: &'a dyn ServerContext,
    /// Every command, for those that describe commands.
    pub(crate) registry: &'static Registry,
    /// Whether the command stands in a transaction.
    pub(crate) in_transaction: bool,
    /// The newest data that the reply shows: it leaves when that is durable.
    pub(crate) position: Position,
}

impl Context<'_> {
    /// Everything that was written so far.
    pub(crate) fn written(&self) -> Position {
        Position(self.server.stats().written_position)
    }
}

impl<'a> Context<'a> {
    pub(crate) fn new(
        settings: &'a mut Settings,
        entry: &'a ClientHandle,
        server: &'a dyn ServerContext,
        registry: &'static Registry,
    ) -> Self {
        Context {
            settings,
            entry,
            server,
            registry,
            in_transaction: false,
            position: Position::ZERO,
        }
    }
}

/// How long the records of expired keys are kept when `DEBUG SET-ACTIVE-EXPIRE` turns the sweep off.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// Tells the engine until when expired keys keep their records: while a pause holds writes, or the
/// sweep is turned off.
pub(crate) fn hold_sweep(server: &dyn ServerContext) {
    let is_off = !server.settings().sweeps.load(Ordering::Relaxed);
    let pause = server.clients().pause().map(|pause| pause.until);
    server.hold_sweep(if is_off { Some(Instant::now() + FOR_EVER) } else { pause });
}
