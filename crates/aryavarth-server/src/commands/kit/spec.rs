//! What the table says of a command.

use aryavarth::{Batch, Transaction};
use aryavarth_protocol::Reply;

use crate::commands::keyspace::scan::Cursors;
use crate::commands::kit::args::Args;
use crate::commands::kit::context::{Context, ServerContext};
use crate::commands::kit::failure::Failure;
use crate::commands::kit::read::Read;

/// What a command comes to: a reply, or why there is none.
pub(crate) type Outcome = Result<Reply, Failure>;

/// One command, or one subcommand of a container: the single place that says what it is called,
/// what it takes, what it does and what people read about it.
#[derive(Debug)]
pub(crate) struct Spec {
    /// In lower case; a subcommand's without that of its container.
    pub(crate) name: &'static str,
    /// How many arguments it takes, names included; negative: at least so many.
    pub(crate) arity: i32,
    pub(crate) flags: Flags,
    pub(crate) keys: Keys,
    /// The version of Redis that first had it, or of Aryavarth for its own.
    pub(crate) since: &'static str,
    pub(crate) complexity: &'static str,
    /// One sentence, without its full stop.
    pub(crate) summary: &'static str,
    /// The arguments as people write them, like `key value [NX | XX]`.
    pub(crate) usage: &'static str,
    pub(crate) run: Run,
    /// What it writes if it is called so that it is blind (see blind.rs).
    pub(crate) blind: Option<Blind>,
}

/// What a call writes, if it needs nothing of what is there and is answered by `+OK`.
pub(crate) type Blind = fn(&Args<'_>, &dyn ServerContext) -> Option<Batch>;

/// How a command is run.
pub(crate) enum Run {
    /// Looks at keys: runs on what is there, or inside a transaction.
    Read(fn(&mut dyn Read, &Args<'_>) -> Outcome),
    /// Looks at keys page by page, and remembers where it stopped.
    Scan(fn(&mut dyn Read, &Cursors, &Args<'_>) -> Outcome),
    /// Changes keys. It writes last: what it returns an error for, it has not changed.
    Write(fn(&mut Transaction<'_>, &Args<'_>) -> Outcome),
    /// Concerns the connection or the server, and no key.
    Context(fn(&mut Context<'_>, &Args<'_>) -> Outcome),
    /// Begins, ends or guards a transaction: the dispatcher itself.
    Transaction(Step),
    /// Has subcommands, which are looked up by the second word.
    Container(&'static [Spec]),
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Run::Read(_) => "Read",
            Run::Scan(_) => "Scan",
            Run::Write(_) => "Write",
            Run::Context(_) => "Context",
            Run::Transaction(_) => "Transaction",
            Run::Container(_) => "Container",
        })
    }
}

/// A step of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
    /// Makes the connection what it was at first.
    Reset,
}

/// Which arguments are keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    None,
    /// The first, the last (negative: from the end, -1 being the last argument), every how many.
    Range(usize, i32, usize),
    /// As many as the argument at this place says, after it; each followed by so many that are not.
    Counted(usize, usize),
}

/// What kind of thing a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Connection,
    Generic,
    Server,
    String,
    Transactions,
    Scripting,
    Cluster,
}

impl Group {
    /// The name that `COMMAND DOCS` gives.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Group::Connection => "connection",
            Group::Generic => "generic",
            Group::Server => "server",
            Group::String => "string",
            Group::Transactions => "transactions",
            Group::Scripting => "scripting",
            Group::Cluster => "cluster",
        }
    }
}

/// What is true of a command, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(u32);

impl Flags {
    pub(crate) const NONE: Flags = Flags(0);
    pub(crate) const WRITE: Flags = Flags(1);
    pub(crate) const READONLY: Flags = Flags(1 << 1);
    /// Refused when there is too little memory.
    pub(crate) const DENYOOM: Flags = Flags(1 << 2);
    pub(crate) const ADMIN: Flags = Flags(1 << 3);
    /// Runs before a password was given.
    pub(crate) const NO_AUTH: Flags = Flags(1 << 4);
    /// Refused inside a transaction.
    pub(crate) const NO_MULTI: Flags = Flags(1 << 5);
    /// Costs the same however much there is.
    pub(crate) const FAST: Flags = Flags(1 << 6);
    pub(crate) const BLOCKING: Flags = Flags(1 << 7);
    pub(crate) const DANGEROUS: Flags = Flags(1 << 8);
    /// Not shown to who watches with MONITOR.
    pub(crate) const SKIP_MONITOR: Flags = Flags(1 << 9);
    /// Runs at once inside a transaction that is being collected.
    pub(crate) const UNQUEUED: Flags = Flags(1 << 10);
    /// Not told apart in Redis's own flags: looks at more than its keys.
    pub(crate) const KEYSPACE: Flags = Flags(1 << 11);
    /// Asks the engine for figures, which may wait for its writer or for a disk.
    pub(crate) const WAITS: Flags = Flags(1 << 12);
    /// Needs no values, only to know which keys there are, and their deadlines.
    pub(crate) const NO_VALUES: Flags = Flags(1 << 13);
    /// What MONITOR does not show.
    pub(crate) const UNSEEN: Flags = Flags::ADMIN.and(Flags::SKIP_MONITOR);

    pub(crate) const fn and(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    pub(crate) const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) const fn has_any(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    /// The names that `COMMAND` gives.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        const NAMES: [(Flags, &str); 9] = [
            (Flags::WRITE, "write"),
            (Flags::READONLY, "readonly"),
            (Flags::DENYOOM, "denyoom"),
            (Flags::ADMIN, "admin"),
            (Flags::NO_AUTH, "no_auth"),
            (Flags::NO_MULTI, "no_multi"),
            (Flags::FAST, "fast"),
            (Flags::BLOCKING, "blocking"),
            (Flags::SKIP_MONITOR, "skip_monitor"),
        ];
        NAMES.into_iter().filter(move |(flag, _)| self.has(*flag)).map(|(_, name)| name)
    }
}

impl Spec {
    /// A row of the table: name, arity (names included; negative: at least so many), usage, and
    /// what it does. The rest follows in calls that read like the table's columns.
    pub(crate) const fn new(name: &'static str, arity: i32, usage: &'static str, run: Run) -> Spec {
        Spec {
            name,
            arity,
            flags: Flags::NONE,
            keys: Keys::None,
            since: "1.0.0",
            complexity: "O(1)",
            summary: "",
            usage,
            run,
            blind: None,
        }
    }

    pub(crate) const fn flags(mut self, flags: Flags) -> Spec {
        self.flags = self.flags.and(flags);
        self
    }

    /// The first argument is the key.
    pub(crate) const fn key(self) -> Spec {
        self.keys(1, 1, 1)
    }

    /// The first, the last (negative: from the end) and every how many arguments are keys.
    pub(crate) const fn keys(mut self, first: usize, last: i32, step: usize) -> Spec {
        self.keys = Keys::Range(first, last, step);
        self
    }

    /// The argument at `place` says how many keys follow, each with so many that are none.
    pub(crate) const fn counted_keys(mut self, place: usize, between: usize) -> Spec {
        self.keys = Keys::Counted(place, between);
        self
    }

    pub(crate) const fn since(mut self, version: &'static str) -> Spec {
        self.since = version;
        self
    }

    /// What it costs; O(1) if nothing is said.
    pub(crate) const fn cost(mut self, complexity: &'static str) -> Spec {
        self.complexity = complexity;
        self
    }

    pub(crate) const fn blind(mut self, blind: Blind) -> Spec {
        self.blind = Some(blind);
        self
    }

    pub(crate) const fn says(mut self, summary: &'static str) -> Spec {
        self.summary = summary;
        self
    }

    /// Whether it can be called with so many arguments, names included.
    pub(crate) fn takes(&self, args: usize) -> bool {
        let wanted = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { args >= wanted } else { args == wanted }
    }

    /// The keys whose values a call needs.
    pub(crate) fn keys_read<'a>(&self, args: &Args<'a>) -> Vec<&'a [u8]> {
        // One that may be blind is, if it has no options.
        let is_blind = self.blind.is_some() && args.len() <= self.arity.unsigned_abs() as usize;
        if is_blind || self.flags.has(Flags::NO_VALUES) {
            return Vec::new();
        }
        self.key_places(args).into_iter().map(|place| args.get(place)).collect()
    }

    /// Where the keys are among the arguments of a call, the name being at 0.
    pub(crate) fn key_places(&self, args: &Args<'_>) -> Vec<usize> {
        let len = args.len();
        match self.keys {
            Keys::None => Vec::new(),
            Keys::Range(first, last, step) => {
                let back = last.unsigned_abs() as usize;
                let last = if last < 0 { len.saturating_sub(back) } else { back };
                (first..=last.min(len.saturating_sub(1))).step_by(step).collect()
            }
            Keys::Counted(place, between) => {
                let count = crate::commands::kit::args::parse_integer(args.get(place)).unwrap_or(0);
                let count = usize::try_from(count).unwrap_or(0).min(len);
                let places = (0..count).map(|i| place + 1 + i * (between + 1));
                places.filter(|at| *at < len).collect()
            }
        }
    }
}
