//! Blind writes: commands that write without a look at what is there, and always say the same.
//!
//! Those that follow each other in a pipeline go to the engine together, which appends them in one
//! call to the system, each a frame of its own. That is most of what a durable SET in a pipeline
//! costs beside its share of a sync.
//!
//! Invariant: a command that could be refused, wait, or say something else is not blind.

use std::time::Instant;

use aryavarth::{Batch, Position, Result};
use aryavarth_protocol::{Command, Reply};

use super::args::Args;
use super::caller::{Connected, Host};
use super::failure::error_reply;
use super::{Answer, admit, finish, table, written};
use crate::clients::Ran;

/// What a command writes, if it is blind and may run now.
pub(crate) fn batch(host: &dyn Host, connected: &Connected, command: &Command) -> Option<Batch> {
    if connected.queue.is_some() {
        return None;
    }
    let args = Args::new(command).limited(host.limits());
    let spec = table::find(&args).ok()?;
    let blind = spec.blind?;
    admit(spec, host, connected).ok()?;
    blind(&args, host)
}

/// The answer to a blind command, by what the engine made of its batch.
pub(crate) fn answer(
    host: &dyn Host,
    connected: &mut Connected,
    command: &Command,
    (began, ended): (Instant, Instant),
    outcome: Result<(u64, Position)>,
) -> Answer {
    let (reply, position) = match outcome {
        Ok((_, position)) => (Reply::OK, position),
        Err(error) => (error_reply(&error), written(host)),
    };
    if let Ok(spec) = table::find(&Args::new(command)) {
        let ran = Ran { spec, command, position, began, ended, failed: reply.is_error() };
        host.clients().ran(host.settings(), connected, &ran);
    }
    if let Reply::Error(text) = &reply {
        host.clients().statistics.count_error(text);
    }
    finish(connected, reply, position)
}
