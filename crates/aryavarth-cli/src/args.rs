//! The command line: commands, flags and their defaults.
//!
//! A flag counts before its `ARYAVARTH_*` variable, and that before the default.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use aryavarth::Durability;
use clap::builder::FalseyValueParser;
use clap::{Parser, Subcommand, ValueEnum};

use crate::limits::LimitOptions;
use crate::log::{Format, Level};
use crate::size;

/// A key-value store that does not say OK until the write is on disk.
#[derive(Debug, Parser)]
#[command(name = "aryavarth", version, arg_required_else_help = true)]
pub(crate) struct Args {
    /// Write data and errors as JSON, one object per line
    #[arg(long, global = true, env = "ARYAVARTH_JSON", hide_env_values = true)]
    #[arg(value_parser = FalseyValueParser::new())]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The server to talk to, and the login.
#[derive(Debug, clap::Args)]
pub(crate) struct To {
    /// The server's address
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4000")]
    #[arg(env = "ARYAVARTH_ADDR", hide_env_values = true)]
    pub(crate) addr: String,

    /// The user to log in as
    #[arg(long, value_name = "NAME", env = "ARYAVARTH_USER", hide_env_values = true)]
    pub(crate) user: Option<String>,

    #[arg(long, value_name = "FILE")]
    #[arg(
        help = "A file whose first line is the password; without one, ARYAVARTH_PASSWORD can hold it"
    )]
    #[arg(env = "ARYAVARTH_PASSWORD_FILE", hide_env_values = true)]
    pub(crate) password_file: Option<PathBuf>,
}

/// A database of a server.
#[derive(Debug, clap::Args)]
pub(crate) struct At {
    #[command(flatten)]
    pub(crate) to: To,

    /// The database, from 0
    #[arg(long, value_name = "N", default_value = "0", value_parser = size::parse_database)]
    #[arg(allow_negative_numbers = true)]
    #[arg(env = "ARYAVARTH_DB", hide_env_values = true)]
    pub(crate) db: u32,
}

/// The keys that a command prints.
#[derive(Debug, clap::Args)]
pub(crate) struct KeysOf {
    /// The beginning of the keys to print; all keys if left out
    #[arg(value_name = "PREFIX")]
    beginning: Option<OsString>,
    /// The same as a flag
    #[arg(long, value_name = "PREFIX", conflicts_with = "beginning", allow_hyphen_values = true)]
    prefix: Option<OsString>,
}

impl KeysOf {
    /// The bytes that the keys begin with.
    pub(crate) fn prefix(&self) -> &[u8] {
        self.beginning.as_ref().or(self.prefix.as_ref()).map_or(b"", |it| it.as_bytes())
    }
}

/// The conditions and the deadline of a value that is set.
#[derive(Debug, clap::Args)]
pub(crate) struct SetOptions {
    /// Remove the key again after this many seconds
    #[arg(long, visible_alias = "ttl", value_name = "SECONDS", conflicts_with = "px", value_parser = size::parse_positive)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) ex: Option<u64>,
    /// Remove the key again after this many milliseconds
    #[arg(long, value_name = "MS", value_parser = size::parse_positive)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) px: Option<u64>,
    /// Set the key only if it does not exist; exit code 1 if it does
    #[arg(long, conflicts_with = "xx")]
    pub(crate) nx: bool,
    /// Set the key only if it exists; exit code 1 if it does not
    #[arg(long)]
    pub(crate) xx: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server
    #[command(after_help = "Examples:\n  aryavarth server\n  \
                            aryavarth server --data /var/lib/aryavarth --durability interval:10")]
    Server(Box<ServerOptions>),

    /// Print the value of a key; exit code 1 if there is none
    #[command(after_help = "Examples:\n  aryavarth get user:42\n  \
                            aryavarth get page:1 --raw > page.html")]
    Get {
        /// The key
        key: OsString,
        /// Print the value's bytes alone, without the end of a line
        #[arg(long, conflicts_with = "json")]
        raw: bool,
        #[command(flatten)]
        at: At,
    },

    /// Set a key; returns when it is on the server's disk
    #[command(after_help = "Examples:\n  aryavarth set user:42 Aryavarth\n  \
                            aryavarth set session:7 token --ex 3600\n  \
                            aryavarth set page:1 - < page.html")]
    Set {
        /// The key
        key: OsString,
        /// The value; `-` reads it from standard input, byte for byte
        #[arg(allow_negative_numbers = true)]
        value: OsString,
        #[command(flatten)]
        options: SetOptions,
        #[command(flatten)]
        at: At,
    },

    /// Remove a key; exit code 1 if there is none
    #[command(after_help = "Examples:\n  aryavarth rm user:42\n  \
                            aryavarth rm user:42 --addr 127.0.0.1:5000")]
    Rm {
        /// The key
        key: OsString,
        #[command(flatten)]
        at: At,
    },

    /// Print the seconds until a key is gone, or `none`; exit code 1 if there is no such key
    #[command(after_help = "Examples:\n  aryavarth ttl session:7\n  \
                            aryavarth ttl session:7 --json")]
    Ttl {
        /// The key
        key: OsString,
        #[command(flatten)]
        at: At,
    },

    /// Print keys and values in order, a tab between them
    #[command(after_help = "Examples:\n  aryavarth scan\n  \
                            aryavarth scan user: --limit 10 --json")]
    Scan {
        #[command(flatten)]
        keys: KeysOf,
        /// The most keys to print; all if left out
        #[arg(long, value_name = "N", value_parser = size::parse_positive)]
        #[arg(allow_negative_numbers = true)]
        limit: Option<u64>,
        #[command(flatten)]
        at: At,
    },

    /// Print PONG if the server answers
    #[command(after_help = "Examples:\n  aryavarth ping\n  \
                            aryavarth ping --addr 127.0.0.1:5000")]
    Ping {
        #[command(flatten)]
        to: To,
    },

    /// Print the server's figures
    #[command(after_help = "Examples:\n  aryavarth info\n  \
                            aryavarth info memory --json")]
    Info {
        /// The section: server, clients, memory, persistence, stats, keyspace, aryavarth, ...
        section: Option<String>,
        #[command(flatten)]
        to: To,
    },

    /// Print the server's state on one screen; exit code 0 if it is healthy, else 2
    #[command(after_help = "Examples:\n  aryavarth status\n  \
                            aryavarth status --json")]
    Status {
        #[command(flatten)]
        to: To,
    },

    /// Print all keys of all databases with values and deadlines, one JSON object a line, in order
    #[command(after_help = "Examples:\n  aryavarth export > all.jsonl\n  \
                            aryavarth export user: --db 0 | aryavarth import --addr 127.0.0.1:5000")]
    Export {
        #[command(flatten)]
        keys: KeysOf,
        /// The only database to print; all if left out
        #[arg(long, value_name = "N", value_parser = size::parse_database)]
        #[arg(allow_negative_numbers = true)]
        db: Option<u32>,
        #[command(flatten)]
        to: To,
    },

    /// Set keys from the lines of an export on standard input, in the databases that they name
    ///
    /// A key that has the line's value and deadline already is skipped, so an import that was cut
    /// short can be run again. A line whose deadline has passed removes its key, as the deadline would
    /// have done; with --keep it is skipped. Keys that no line names stay.
    #[command(after_help = "Examples:\n  aryavarth import < all.jsonl\n  \
                            aryavarth export | aryavarth import --keep --addr 127.0.0.1:5000")]
    Import {
        /// Leave a key that exists as it is
        #[arg(long, conflicts_with = "overwrite")]
        keep: bool,
        /// Give a key that exists the line's value and deadline, or remove it if the deadline has
        /// passed; so it is without a flag
        #[arg(long)]
        overwrite: bool,
        #[command(flatten)]
        to: To,
    },

    /// Print a script that completes commands and options in a shell
    #[command(after_help = "Examples:\n  aryavarth completion bash > \
                            /etc/bash_completion.d/aryavarth\n  \
                            aryavarth completion zsh > _aryavarth")]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },

    /// Write a man page for every command into a directory
    #[command(hide = true)]
    Man {
        /// The directory
        dir: PathBuf,
    },

    /// Have the server rewrite its files without dead records; returns at the end
    #[command(after_help = "Examples:\n  aryavarth compact\n  \
                            aryavarth compact --addr 127.0.0.1:5000")]
    Compact {
        #[command(flatten)]
        to: To,
    },

    /// Print the damage that a running server knows of in its files; exit code 0 if nothing is lost, else 2
    #[command(after_help = "Examples:\n  aryavarth damage\n  \
                            aryavarth damage --json")]
    Damage {
        #[command(flatten)]
        to: To,
    },

    /// Read the whole directory of a stopped server and name every damaged record
    #[command(after_help = "Examples:\n  aryavarth verify ./aryavarth-data\n  \
                            aryavarth verify /var/lib/aryavarth --json")]
    Verify {
        /// The store's directory; nothing in it is changed
        dir: PathBuf,
    },

    /// Save the whole records of a stopped server's damaged directory as a new store
    #[command(after_help = "Examples:\n  aryavarth salvage ./aryavarth-data ./saved\n  \
                            aryavarth salvage /var/lib/aryavarth /mnt/saved --json")]
    Salvage {
        /// The damaged directory; nothing in it is changed
        dir: PathBuf,
        /// The new store's directory: empty, or none yet
        out: PathBuf,
    },
}

/// The engines that a server can run on.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Engine {
    /// The store's own log and index
    Kvs,
    /// sled's files, synced before a write is answered
    #[cfg(feature = "sled")]
    Sled,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ServerOptions {
    /// The store's directory; made if it does not exist
    #[arg(long, value_name = "DIR", default_value = "./aryavarth-data")]
    #[arg(env = "ARYAVARTH_DATA", hide_env_values = true)]
    pub(crate) data: PathBuf,

    /// The address that clients connect to; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4000")]
    #[arg(env = "ARYAVARTH_LISTEN", hide_env_values = true)]
    pub(crate) listen: String,

    /// The engine that keeps the data; a directory remembers its engine
    #[arg(long, value_name = "ENGINE", default_value = "kvs")]
    #[arg(env = "ARYAVARTH_ENGINE", hide_env_values = true)]
    pub(crate) engine: Engine,

    /// When a write is answered: `always` (on disk), `interval:MS` or `os` (a power cut may lose
    /// the last MS milliseconds, or second)
    #[arg(long, value_name = "LEVEL", default_value = "always")]
    #[arg(env = "ARYAVARTH_DURABILITY", hide_env_values = true)]
    pub(crate) durability: Durability,

    /// How engine calls get their threads
    #[arg(long, value_name = "POOL", value_enum, default_value_t = Pool::SharedQueue)]
    #[arg(env = "ARYAVARTH_POOL", hide_env_values = true)]
    pub(crate) pool: Pool,

    /// Threads that engine calls run on [default: two per core, at least four]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    #[arg(env = "ARYAVARTH_THREADS", hide_env_values = true)]
    pub(crate) threads: Option<u32>,

    /// A file whose first line is the password that clients log in with; then the server speaks the
    /// Redis protocol only, since JSON has no login. Others must not be able to read it. The variable
    /// `ARYAVARTH_PASSWORD` can hold the password instead; a file counts before it
    #[arg(long, value_name = "FILE")]
    #[arg(env = "ARYAVARTH_PASSWORD_FILE", hide_env_values = true)]
    pub(crate) password_file: Option<PathBuf>,

    /// Refuse writes that take memory when the process has this much, such as 100mb; 0 is no limit.
    /// No key is ever thrown out to make room
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = size::parse)]
    #[arg(allow_negative_numbers = true)]
    #[arg(env = "ARYAVARTH_MEMORY_MAX", hide_env_values = true)]
    pub(crate) memory_max: u64,

    /// The most of the store's files that is mapped into memory for reading, newest first, such as 4gb;
    /// 0 maps nothing, for file systems over a network. Mapped pages are the system's cache: it takes
    /// them back when it needs memory [default: half of the memory that the process can have]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    #[arg(allow_negative_numbers = true)]
    #[arg(env = "ARYAVARTH_MAP_MAX", hide_env_values = true)]
    pub(crate) map_max: Option<u64>,

    /// Lines of the log on standard error, from the ones about trouble to all
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = Level::Info)]
    #[arg(env = "ARYAVARTH_LOG_LEVEL", hide_env_values = true)]
    pub(crate) log_level: Level,

    /// How these lines are written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    #[arg(env = "ARYAVARTH_LOG_FORMAT", hide_env_values = true)]
    pub(crate) log_format: Format,

    /// Listen also where other machines can connect, without any authentication; take a password
    /// file that others can read
    #[arg(long, env = "ARYAVARTH_INSECURE", hide_env_values = true)]
    #[arg(value_parser = FalseyValueParser::new())]
    pub(crate) insecure: bool,

    #[command(flatten)]
    pub(crate) limits: LimitOptions,
}

/// The thread pools to choose from.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Pool {
    /// Any free thread takes the next job
    SharedQueue,
    /// Rayon's threads, which steal work from one another
    Rayon,
    /// A new thread for each job
    Naive,
}
