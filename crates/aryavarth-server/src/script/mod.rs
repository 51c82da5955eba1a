//! Scripts in Lua: their cache, those that run, and the machine that runs them.
//!
//! ```text
//!   EVAL text | EVALSHA hash
//!      |
//!   cache         the script by the hash of its text: flags of its first line, its source
//!      |
//!   running       a place among those that run, so that SCRIPT KILL finds it
//!      |
//!   lua/          a machine of the thread: sandbox, libraries, limits
//!      |   ^
//!      v   |      redis.call, redis.pcall
//!   Host          the commands, over the transaction of the script (commands/dispatch/script.rs)
//! ```
//!
//! Invariants:
//! - A script has no effect but through its [`Host`], so a run can be thrown away and repeated: time
//!   and random numbers are the same in each run of a call.
//! - A script that is stopped, by a limit or by SCRIPT KILL, leaves nothing behind.
//! - A script cannot catch its stop.

#![cfg_attr(
    not(feature = "lua"),
    expect(dead_code, reason = "a server without Lua refuses scripts")
)]

mod cache;
#[cfg(feature = "lua")]
mod lua;
#[cfg(not(feature = "lua"))]
mod none;
mod running;
mod sha1;

use std::borrow::Cow;
use std::sync::Arc;

use aryavarth::KvsError;
use aryavarth_protocol::{Command, Reply};

use crate::limits::{Limits, ScriptLimits};
pub(crate) use cache::Script;
#[cfg(feature = "lua")]
use lua::check;
#[cfg(feature = "lua")]
pub(crate) use lua::run;
#[cfg(not(feature = "lua"))]
use none::check;
#[cfg(not(feature = "lua"))]
pub(crate) use none::run;
pub(crate) use running::Running;
pub(crate) use sha1::Hash;

/// The problem of a text that is longer than scripts may be.
fn too_long(bytes_max: usize) -> String {
    format!("the script's text is too long: the limit is {bytes_max} bytes")
}

/// The surroundings of a script.
pub(crate) trait Host {
    /// Runs a command of the script; an error of the command is a reply.
    ///
    /// # Errors
    /// The reason to stop the script.
    fn call(&mut self, command: &Command) -> Result<Reply, Stop>;

    /// A function that says whether there is a command.
    fn knows(&self) -> fn(&Command) -> bool;

    /// Keeps a line for the log until the script's effects are written.
    fn log(&mut self, level: i64, line: Vec<u8>);
}

/// The reason for which a script was stopped, with nothing done.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The engine needs the run repeated, or has failed.
    Engine(KvsError),
    /// A limit or SCRIPT KILL: the text of the error.
    Refused(Cow<'static, [u8]>),
}

/// The keys and arguments of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a> {
    pub(crate) keys: &'a [&'a [u8]],
    pub(crate) args: &'a [&'a [u8]],
    /// The most bytes that its result may have.
    pub(crate) reply_bytes_max: usize,
}

/// The scripts of a server.
#[derive(Debug)]
pub(crate) struct Scripts {
    cache: cache::Cache,
    running: running::RunningScripts,
    limits: ScriptLimits,
}

impl Scripts {
    pub(crate) fn new(limits: &Limits) -> Self {
        let mut limits = limits.scripts;
        // One script has no more than all.
        limits.memory_bytes_max = limits.memory_bytes_max.min(limits.memory_bytes_max_total);
        Scripts {
            cache: cache::Cache::new(limits.cached_max, limits.cached_bytes_max),
            running: running::RunningScripts::new(&limits),
            limits,
        }
    }

    /// The script of a text, which is kept from now on.
    ///
    /// # Errors
    /// The text is too long, its first line names an engine or a flag that there is not, or it does not
    /// compile.
    pub(crate) fn load(&self, text: &[u8]) -> Result<Arc<Script>, String> {
        let hash = Hash::of(text);
        if let Some(script) = self.cache.find(hash) {
            return Ok(script);
        }
        if text.len() > self.limits.text_bytes_max {
            return Err(too_long(self.limits.text_bytes_max));
        }
        let script = Arc::new(Script::new(hash, text)?);
        check(&script, &self.limits)?;
        self.cache.keep(&script);
        Ok(script)
    }

    /// The script of a hash, if it is kept.
    pub(crate) fn find(&self, hash: Hash) -> Option<Arc<Script>> {
        self.cache.find(hash)
    }

    /// Whether the script of a hash is kept; it is no use of it.
    pub(crate) fn has(&self, hash: Hash) -> bool {
        self.cache.has(hash)
    }

    /// The limits of each script.
    pub(crate) fn limits(&self) -> &ScriptLimits {
        &self.limits
    }

    /// Forgets all scripts.
    pub(crate) fn flush(&self) {
        self.cache.flush();
    }

    /// Scripts that are kept, and their bytes.
    pub(crate) fn kept(&self) -> (usize, usize) {
        self.cache.size()
    }

    /// A place among the scripts that run; waits for memory.
    ///
    /// # Errors
    /// The text of an error: others have kept all memory for scripts for too long.
    pub(crate) fn begin(&self) -> Result<Running<'_>, &'static str> {
        self.running.begin()
    }

    /// Stops the script that has run for longest. `false` if none runs.
    pub(crate) fn kill(&self) -> bool {
        self.running.kill()
    }
}
