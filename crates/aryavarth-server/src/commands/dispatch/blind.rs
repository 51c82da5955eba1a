//! Blind writes: commands that write without reading, and always say the same.
//!
//! Those that follow each other in a pipeline go to the engine together, which appends them in one
//! call to the system, each a frame of its own. That is most of the cost of a durable SET in a
//! pipeline, beside its share of a sync.
//!
//! Invariant: a command that could be refused, wait, or say something else is not blind.

use std::time::Instant;

use aryavarth::{Batch, Position, Result};
use aryavarth_protocol::Reply;

use super::{Answer, Answered, admit, check_keys, finish, written};
use crate::commands::kit::args::Args;
use crate::commands::kit::call::CommandCall;
use crate::commands::kit::context::{ClientState, ServerContext};
use crate::commands::kit::failure::error_reply;

/// The batch of a command, if it is blind and may run now.
pub(crate) fn batch(
    server: &dyn ServerContext,
    client: &ClientState,
    call: &CommandCall,
) -> Option<Batch> {
    if client.queue.is_some() {
        return None;
    }
    let spec = call.spec?;
    let blind = spec.blind?;
    admit(spec, server, client).ok()?;
    let args = Args::new(&call.command).limited(server.limits(), server.settings());
    check_keys(spec, server, &args).ok()?;
    blind(&args, server)
}

/// The answer to a blind command, by the engine's result for its batch.
pub(crate) fn answer(
    server: &dyn ServerContext,
    client: &mut ClientState,
    call: &CommandCall,
    times: (Instant, Instant),
    outcome: Result<(u64, Position)>,
) -> Answer {
    let (reply, position) = match outcome {
        Ok((_, position)) => (Reply::OK, position),
        Err(error) => (error_reply(&error), written(server)),
    };
    let CommandCall { command, spec } = call;
    finish(server, client, Answered { spec: *spec, command, reply, position }, times)
}
