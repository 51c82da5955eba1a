//! The command line: what can be asked, and what holds if it is not.
//!
//! A flag counts before its `ARYAVARTH_*` variable, and that before the default.

use std::path::PathBuf;

use aryavarth::Durability;
use clap::builder::FalseyValueParser;
use clap::{Parser, Subcommand, ValueEnum};

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

/// Where the server is.
#[derive(Debug, clap::Args)]
pub(crate) struct To {
    /// The server's address
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4000")]
    #[arg(env = "ARYAVARTH_ADDR", hide_env_values = true)]
    pub(crate) addr: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server
    #[command(after_help = "Examples:\n  aryavarth server\n  \
                            aryavarth server --data /var/lib/aryavarth --durability interval:10")]
    Server(ServerOptions),

    /// Print the value of a key; exit code 1 if there is none
    #[command(after_help = "Examples:\n  aryavarth get user:42\n  \
                            aryavarth get user:42 --addr 127.0.0.1:5000 --json")]
    Get {
        /// The key
        key: String,
        #[command(flatten)]
        to: To,
    },

    /// Set a key; returns when it is on the server's disk
    #[command(after_help = "Examples:\n  aryavarth set user:42 Aryavarth\n  \
                            aryavarth set page:1 - < page.html")]
    Set {
        /// The key
        key: String,
        /// The value; `-` reads it from standard input, as it is
        #[arg(allow_negative_numbers = true)]
        value: String,
        #[command(flatten)]
        to: To,
    },

    /// Remove a key; exit code 1 if there is none
    #[command(after_help = "Examples:\n  aryavarth rm user:42\n  \
                            aryavarth rm user:42 --addr 127.0.0.1:5000")]
    Rm {
        /// The key
        key: String,
        #[command(flatten)]
        to: To,
    },

    /// Print keys and values in order, a tab between them
    #[command(after_help = "Examples:\n  aryavarth scan\n  \
                            aryavarth scan user: --limit 10 --json")]
    Scan {
        /// What the keys begin with
        #[arg(default_value = "")]
        prefix: String,
        /// The most keys to print; all if left out
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        #[command(flatten)]
        to: To,
    },

    /// Print all keys and values of database 0 as JSON lines, in order; without deadlines
    #[command(after_help = "Examples:\n  aryavarth export > all.jsonl\n  \
                            aryavarth export user: | aryavarth import --addr 127.0.0.1:5000")]
    Export {
        /// What the keys begin with
        #[arg(default_value = "")]
        prefix: String,
        #[command(flatten)]
        to: To,
    },

    /// Set keys to the values that come as JSON lines; skips what is there already
    #[command(after_help = "Examples:\n  aryavarth import < all.jsonl\n  \
                            aryavarth export | aryavarth import --addr 127.0.0.1:5000")]
    Import {
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

    /// Have the server rewrite its files without what is dead
    #[command(after_help = "Examples:\n  aryavarth compact\n  \
                            aryavarth compact --addr 127.0.0.1:5000")]
    Compact {
        #[command(flatten)]
        to: To,
    },

    /// Read everything in the directory of a stopped server and name what is damaged
    #[command(after_help = "Examples:\n  aryavarth verify ./aryavarth-data\n  \
                            aryavarth verify /var/lib/aryavarth --json")]
    Verify {
        /// The store's directory; nothing in it is changed
        dir: PathBuf,
    },

    /// Save what is whole in the damaged directory of a stopped server as a new store
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

    /// What keeps the data; a directory remembers its engine
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

    /// A file whose first line clients must say as their password; only the Redis protocol is
    /// spoken then, since JSON has no way to say it
    #[arg(long, value_name = "FILE")]
    #[arg(env = "ARYAVARTH_PASSWORD_FILE", hide_env_values = true)]
    pub(crate) password_file: Option<PathBuf>,

    /// Refuse writes that take memory when the process has this many bytes; 0 is no limit.
    /// Nothing is ever thrown out to make room
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    #[arg(env = "ARYAVARTH_MEMORY_MAX", hide_env_values = true)]
    pub(crate) memory_max: u64,

    /// Listen also where other machines can connect, without any authentication
    #[arg(long, env = "ARYAVARTH_INSECURE", hide_env_values = true)]
    #[arg(value_parser = FalseyValueParser::new())]
    pub(crate) insecure: bool,
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
