//! The place where a call runs, decided from its row before it runs.
//!
//! ```text
//!  call, row ---> a pause holds it --------------------------> Held    until the pause ends
//!                 refused, or collected for EXEC -----------> Inline   on the thread of the sockets
//!                 reads few keys, or waits for nothing -----> Inline   (*)
//!                 writes without reading ------------------> Append    together with other writes
//!                 the rest -------------------------------> Pool       may wait for disk and writer
//! ```
//!
//! (*) The one trial: only an attempt tells whether a record is in the page cache. A read that would
//! wait for a disk ends with [`Later::Pool`](super::Later::Pool), without an effect, and runs again
//! on the pool.

use aryavarth::KvsEngine;

use super::admit;
use crate::commands::kit::args::Args;
use crate::commands::kit::call::CommandCall;
use crate::commands::kit::context::{ClientState, ServerContext};
use crate::commands::kit::read::LOOKS_MAX;
use crate::commands::kit::spec::{Flags, Keys, Run, ScriptCall, Spec, Step};
use crate::script::Hash;

/// The place where a call runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// On the thread of the sockets.
    Inline,
    /// In the log, together with the writes of others; on the pool if its options make it read.
    Append,
    /// On the pool.
    Pool,
    /// Nowhere, before the clients' pause ends.
    Held,
}

/// Decides where a command runs.
pub(crate) fn plan(server: &dyn ServerContext, client: &ClientState, call: &CommandCall) -> Plan {
    if is_held(server, client, call) {
        return Plan::Held;
    }
    let Some(spec) = call.spec else { return Plan::Inline };
    if is_collected(spec, client) || admit(spec, server, client).is_err() {
        return Plan::Inline;
    }
    match &spec.run {
        // KEYS, SCAN and their kin walk through the keys.
        Run::Read(_) if spec.keys == Keys::None => Plan::Pool,
        Run::Read(_) if spec.key_count(&Args::new(&call.command)) > LOOKS_MAX => Plan::Pool,
        Run::Context(_) if spec.flags.has(Flags::WAITS) => Plan::Pool,
        Run::Context(_) if spec.flags.has(Flags::PUBLISHES) && matches_long(server, call) => {
            Plan::Pool
        }
        // They wait for the writer that runs.
        Run::Script(_) | Run::Transaction(Step::Exec) => Plan::Pool,
        Run::Transaction(Step::Watch) if client.queue.is_none() => Plan::Pool,
        Run::Read(_) | Run::Context(_) | Run::Transaction(_) | Run::Container(_) => Plan::Inline,
        Run::Write(_) if spec.blind.is_some() && client.queue.is_none() => Plan::Append,
        Run::Write(_) => Plan::Pool,
    }
}

/// Whether a change of subscriptions is called for.
pub(crate) fn listens(call: &CommandCall) -> bool {
    call.spec.is_some_and(|spec| spec.flags.has(Flags::LISTENS))
}

/// Whether the patterns that a message is matched with are many, or its readers.
fn matches_long(server: &dyn ServerContext, call: &CommandCall) -> bool {
    server.clients().channels.is_long(Args::new(&call.command).get(1))
}

/// Whether EXEC runs the command, and not the call itself.
pub(super) fn is_collected(spec: &Spec, client: &ClientState) -> bool {
    client.queue.is_some() && !spec.flags.has(Flags::UNQUEUED)
}

/// Whether a pause of the clients holds a command.
fn is_held(server: &dyn ServerContext, client: &ClientState, call: &CommandCall) -> bool {
    let Some(pause) = server.clients().pause() else { return false };
    if !pause.only_writes {
        return true;
    }
    // A command that is collected runs later.
    call.spec.is_some_and(|spec| !is_collected(spec, client) && writes(spec, client))
}

/// Whether a call that runs now may write keys.
pub(super) fn writes(spec: &Spec, client: &ClientState) -> bool {
    match (&spec.run, &client.queue) {
        (Run::Transaction(Step::Exec), Some(queue)) => {
            queue.commands.iter().any(CommandCall::is_write)
        }
        _ => spec.writes(),
    }
}

/// Keys of a read, or commands of a transaction, with which it is long work.
const LONG_COUNT: usize = 64;
/// Bytes to read, or of a transaction's commands, with which it is.
pub(crate) const LONG_BYTES: usize = 256 << 10;

/// Whether a command may keep a thread for long, beside waiting for a disk once: it reads large
/// values or many, walks the keys, or is a long transaction. `space` is the one that the calls before
/// it have selected, and a SELECT changes it.
pub(crate) fn is_long<E: KvsEngine>(
    engine: &E,
    server: &dyn ServerContext,
    client: &ClientState,
    call: &CommandCall,
    space: &mut u32,
) -> bool {
    let Some(spec) = call.spec else { return false };
    if spec.name == "select" && client.queue.is_none() {
        *space = Args::new(&call.command).database(1).unwrap_or(*space);
    }
    match (&spec.run, &client.queue) {
        (Run::Transaction(Step::Exec), Some(queue)) => {
            queue.commands.len() > LONG_COUNT
                || queue.bytes > LONG_BYTES
                || queue.commands.iter().any(|call| match call.spec.map(|spec| &spec.run) {
                    Some(Run::Script(call_of)) => is_long_script(server, *call_of, call),
                    _ => false,
                })
                || bytes_of_call(engine, client, call, *space, |_| true) > LONG_BYTES
        }
        (Run::Read(_) | Run::Write(_), None) => {
            let walks = matches!(spec.run, Run::Read(_)) && spec.keys == Keys::None;
            walks
                || spec.key_count(&Args::new(&call.command)) > LONG_COUNT
                || bytes_of_call(engine, client, call, *space, |_| true) > LONG_BYTES
        }
        (Run::Script(call_of), None) => is_long_script(server, *call_of, call),
        (Run::Context(_), None) => spec.flags.has(Flags::PUBLISHES) && matches_long(server, call),
        _ => false,
    }
}

/// Whether a script may keep a thread for long: it did before, or never ran.
fn is_long_script(server: &dyn ServerContext, how: ScriptCall, call: &CommandCall) -> bool {
    let name = call.command.get(1).unwrap_or_default();
    let hash = if how.by_hash { Hash::parse(name) } else { Some(Hash::of(name)) };
    let script = hash.and_then(|hash| server.scripts().find(hash));
    script.is_none_or(|script| script.is_long())
}

/// About how many bytes of values the reply of a call shows, by the lengths in the index; 0 for one
/// that walks the keys. Reads nothing.
pub(crate) fn bytes_shown<E: KvsEngine>(
    engine: &E,
    client: &ClientState,
    call: &CommandCall,
) -> usize {
    let shows = |spec: &Spec| spec.access.iter().any(|access| access.contains("access"));
    bytes_of_call(engine, client, call, client.settings.space, shows)
}

/// The bytes of values that a call in `space` reads by commands which `counts` names, those in the
/// queue of an EXEC included.
fn bytes_of_call<E: KvsEngine>(
    engine: &E,
    client: &ClientState,
    call: &CommandCall,
    mut space: u32,
    counts: impl Fn(&Spec) -> bool,
) -> usize {
    let Some(spec) = call.spec else { return 0 };
    match (&spec.run, &client.queue) {
        (Run::Read(_) | Run::Write(_), None) if counts(spec) => {
            bytes_of_values(engine, space, spec, &Args::new(&call.command))
        }
        (Run::Transaction(Step::Exec), Some(queue)) => {
            let mut bytes = 0;
            for call in &queue.commands {
                let Some(spec) = call.spec else { continue };
                let args = Args::new(&call.command);
                if spec.name == "select" {
                    space = args.database(1).unwrap_or(space);
                }
                if counts(spec) {
                    bytes += bytes_of_values(engine, space, spec, &args);
                }
            }
            bytes
        }
        _ => 0,
    }
}

fn bytes_of_values<E: KvsEngine>(
    engine: &E,
    space: u32,
    spec: &'static Spec,
    args: &Args<'_>,
) -> usize {
    let keys = spec.keys_read(args);
    if keys.is_empty() {
        return 0;
    }
    let bytes = |engine: &E| keys.iter().map(|key| engine.size_hint(key)).sum::<usize>();
    if space == engine.space() { bytes(engine) } else { bytes(&engine.with_space(space)) }
}
