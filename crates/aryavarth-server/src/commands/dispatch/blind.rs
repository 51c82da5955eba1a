//! Blind writes: commands that write without reading, and always say the same.
//!
//! Those that follow each other in a pipeline go to the engine together, which appends them in one
//! call to the system, each a frame of its own. That is most of what a durable SET in a pipeline
//! costs beside its share of a sync.
//!
//! Invariant: a command that could be refused, wait, or say something else is not blind.

use std::time::Instant;

use aryavarth::{Batch, Position, Result};
use aryavarth_protocol::{Command, Reply};

use super::{Answer, Counted, admit, count, finish, written};
use crate::commands::kit::args::Args;
use crate::commands::kit::context::{ClientState, ServerContext};
use crate::commands::kit::failure::error_reply;
use crate::commands::registry::registry;

/// The batch of a command, if it is blind and may run now.
pub(crate) fn batch(
    server: &dyn ServerContext,
    connected: &ClientState,
    command: &Command,
) -> Option<Batch> {
    if connected.queue.is_some() {
        return None;
    }
    let args = Args::new(command).limited(server.limits());
    let spec = registry().find(&args).ok()?;
    let blind = spec.blind?;
    admit(spec, server, connected).ok()?;
    blind(&args, server)
}

/// The answer to a blind command, by the engine's result for its batch.
pub(crate) fn answer(
    server: &dyn ServerContext,
    connected: &mut ClientState,
    command: &Command,
    times: (Instant, Instant),
    outcome: Result<(u64, Position)>,
) -> Answer {
    let (reply, position) = match outcome {
        Ok((_, position)) => (Reply::OK, position),
        Err(error) => (error_reply(&error), written(server)),
    };
    if let Ok(spec) = registry().find(&Args::new(command)) {
        count(
            server,
            connected,
            &Counted { spec, command, position, times, failed: reply.is_error() },
        );
    }
    if let Reply::Error(text) = &reply {
        server.clients().statistics.count_error(text);
    }
    finish(connected, reply, position)
}
