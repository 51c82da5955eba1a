//! A row of the registry: one command.

use aryavarth::{Batch, Transaction};
use aryavarth_protocol::Reply;

use crate::commands::kit::args::Args;
use crate::commands::kit::context::{Context, ServerContext};
use crate::commands::kit::failure::Failure;
pub(crate) use crate::commands::kit::flags::Flags;
use crate::commands::kit::read::Read;

/// The outcome of a command: a reply, or the reason for none.
pub(crate) type Outcome = Result<Reply, Failure>;

/// One command, or one subcommand of a container: the single place for its name,
/// its arguments, its function and its documentation.
#[derive(Debug)]
pub(crate) struct Spec {
    /// In lower case; a subcommand's without that of its container.
    pub(crate) name: &'static str,
    /// How many arguments it takes, names included; negative: at least so many.
    pub(crate) arity: i32,
    pub(crate) flags: Flags,
    pub(crate) keys: Keys,
    /// The access of the command to its keys, in redis's words: to all of them, or to the first and to
    /// the second.
    pub(crate) access: [&'static str; 2],
    pub(crate) key_notes: &'static str,
    /// Hints for clients and proxies: how to route a call, and how to join the replies.
    pub(crate) tips: &'static [&'static str],
    /// The family that redis counts it to, if not the one whose rows it stands in.
    pub(crate) group: Option<Group>,
    /// The version that replaced it, and by which command.
    pub(crate) deprecated: Option<(&'static str, &'static str)>,
    /// The version of Redis that first had it, or of Aryavarth for its own.
    pub(crate) since: &'static str,
    pub(crate) complexity: &'static str,
    /// One sentence, without its full stop.
    pub(crate) summary: &'static str,
    /// The arguments as people write them, like `key value [NX | XX]`.
    pub(crate) usage: &'static str,
    pub(crate) run: Run,
    /// The batch of a blind call (see blind.rs).
    pub(crate) blind: Option<Blind>,
}

/// The batch of a call that reads no key and is answered by `+OK`.
pub(crate) type Blind = fn(&Args<'_>, &dyn ServerContext) -> Option<Batch>;

/// How a command is run.
pub(crate) enum Run {
    /// Looks at keys: runs on the store as it is, or inside a transaction.
    Read(fn(&mut dyn Read, &Args<'_>) -> Outcome),
    /// Changes keys. It writes last: a call that ends in an error has changed nothing.
    Write(fn(&mut Transaction<'_>, &Args<'_>) -> Outcome),
    /// Concerns the connection or the server, and no key.
    Context(fn(&mut Context<'_>, &Args<'_>) -> Outcome),
    /// Begins, ends or guards a transaction: the dispatcher itself.
    Transaction(Step),
    /// Runs a script, which calls other commands: the dispatcher itself.
    Script(ScriptCall),
    /// Has subcommands, which are looked up by the second word.
    Container(&'static [Spec]),
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Run::Read(_) => "Read",
            Run::Write(_) => "Write",
            Run::Context(_) => "Context",
            Run::Transaction(_) => "Transaction",
            Run::Script(_) => "Script",
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
    /// Gives the connection its first state.
    Reset,
}

/// How a script is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScriptCall {
    /// By the hash of its text, and not by the text.
    pub(crate) by_hash: bool,
    /// Without writes.
    pub(crate) only_reads: bool,
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

/// The family of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Connection,
    Generic,
    Server,
    String,
    Transactions,
    PubSub,
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
            Group::PubSub => "pubsub",
            Group::Scripting => "scripting",
            Group::Cluster => "cluster",
        }
    }
}

impl Spec {
    /// A row of the table: name, arity (names included; negative: at least so many), usage, and
    /// its function. The rest follows in calls that read like the table's columns.
    pub(crate) const fn new(name: &'static str, arity: i32, usage: &'static str, run: Run) -> Spec {
        Spec {
            name,
            arity,
            flags: Flags::NONE,
            keys: Keys::None,
            access: ["", ""],
            key_notes: "",
            tips: &[],
            group: None,
            deprecated: None,
            since: "1.0.0",
            complexity: "O(1)",
            summary: "",
            usage,
            run,
            blind: None,
        }
    }

    /// Flags and categories, by their names in flags.rs.
    pub(crate) const fn flags(mut self, names: &str) -> Spec {
        self.flags = self.flags.and(Flags::named(names));
        self
    }

    /// The first argument is the key.
    pub(crate) const fn key(self, access: &'static str) -> Spec {
        self.keys(1, 1, 1, access)
    }

    /// The first, the last (negative: from the end) and every how many arguments are keys.
    pub(crate) const fn keys(
        mut self,
        first: usize,
        last: i32,
        step: usize,
        access: &'static str,
    ) -> Spec {
        self.keys = Keys::Range(first, last, step);
        self.access = [access, ""];
        self
    }

    /// The first two arguments are keys, each with an access of its own.
    pub(crate) const fn two_keys(mut self, first: &'static str, second: &'static str) -> Spec {
        self.keys = Keys::Range(1, 2, 1);
        self.access = [first, second];
        self
    }

    /// The argument at `place` says how many keys follow, each with so many that are none.
    pub(crate) const fn counted_keys(
        mut self,
        place: usize,
        between: usize,
        access: &'static str,
    ) -> Spec {
        self.keys = Keys::Counted(place, between);
        self.access = [access, ""];
        self
    }

    pub(crate) const fn key_notes(mut self, notes: &'static str) -> Spec {
        self.key_notes = notes;
        self
    }

    pub(crate) const fn tips(mut self, tips: &'static [&'static str]) -> Spec {
        self.tips = tips;
        self
    }

    pub(crate) const fn group(mut self, group: Group) -> Spec {
        self.group = Some(group);
        self
    }

    pub(crate) const fn deprecated(mut self, since: &'static str, by: &'static str) -> Spec {
        self.deprecated = Some((since, by));
        self
    }

    pub(crate) const fn since(mut self, version: &'static str) -> Spec {
        self.since = version;
        self
    }

    /// Its cost; O(1) if nothing is said.
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

    /// Whether a call may write keys.
    pub(crate) fn writes(&self) -> bool {
        match self.run {
            Run::Script(call) => !call.only_reads,
            _ => self.flags.has(Flags::WRITE),
        }
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

    /// How many keys a call has.
    pub(crate) fn key_count(&self, args: &Args<'_>) -> usize {
        match self.keys {
            Keys::None => 0,
            Keys::Range(1, 1, _) => 1,
            Keys::Range(..) | Keys::Counted(..) => self.key_places(args).len(),
        }
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
