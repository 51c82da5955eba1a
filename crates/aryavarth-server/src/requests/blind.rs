//! Blind calls of a connection: writes that need no look at the keys, appended together.

use std::collections::VecDeque;

use aryavarth::{Batch, KvsEngine};
use aryavarth_protocol::{Request, Response};

use super::{Answer, Call, Output, answer_of, heard, json, panicked};
use crate::clients::WritePass;
use crate::commands::{self, ClientState};
use crate::shared::Shared;
use crate::thread_pool::ThreadPool;
use crate::writes::collector;
use crate::writes::queue::{TOGETHER_BYTES_MAX, Written};

/// Calls that write without a look at the keys, and their batches.
pub(crate) struct Blind {
    calls: Vec<Call>,
    pub(crate) batches: Vec<Batch>,
    /// Kept until the batches are in the log.
    pub(crate) pass: Option<WritePass>,
}

impl Blind {
    /// How many answers are owed.
    pub(crate) fn owed(&self) -> usize {
        self.calls.len()
    }
}

/// Takes the first calls as far as they are blind, to be written together; none while a pause of the
/// clients holds.
pub(crate) fn take_blind<E: KvsEngine, P: ThreadPool>(
    shared: &Shared<E, P>,
    client: &ClientState,
    calls: &mut VecDeque<Call>,
) -> Option<Blind> {
    let pass = shared.clients.begin_write()?;
    let mut bytes = 0;
    let mut batches = Vec::new();
    for call in calls.iter_mut() {
        let batch = match call {
            Call::Request(Request::Set { key, value }) if !shared.settings.is_out_of_memory() => {
                Some(Batch::from([(std::mem::take(key), std::mem::take(value))]))
            }
            Call::Command(call) => commands::blind::batch(shared, client, call),
            _ => None,
        };
        let Some(batch) = batch else { break };
        bytes += batch.bytes();
        batches.push(batch);
        if bytes >= TOGETHER_BYTES_MAX {
            break;
        }
    }
    let calls: Vec<Call> = calls.drain(..batches.len()).collect();
    (!calls.is_empty()).then_some(Blind { calls, batches, pass: Some(pass) })
}

/// Writes the batches of blind calls, and answers the calls.
pub(crate) fn run_blind<E: KvsEngine, P: ThreadPool>(
    shared: &Shared<E, P>,
    client: &mut ClientState,
    blind: Blind,
) -> Vec<Answer> {
    let written = collector::write_each(shared, client.settings.space, &blind.batches);
    answer_blind(shared, client, blind, written)
}

/// The answers of blind calls, by the outcome of their batches.
pub(crate) fn answer_blind<E: KvsEngine, P: ThreadPool>(
    shared: &Shared<E, P>,
    client: &mut ClientState,
    Blind { calls, .. }: Blind,
    written: Written,
) -> Vec<Answer> {
    let Some(outcomes) = written.outcomes else {
        return calls.iter().map(|_| heard(client, panicked(shared))).collect();
    };
    // Each took its share.
    let parts = u32::try_from(calls.len()).unwrap_or(u32::MAX);
    // Time in the queue is no time in the engine.
    let Written { began, ended, .. } = written;
    let ended = began + ended.saturating_duration_since(began) / parts;
    let answered = calls.iter().zip(outcomes).map(|(call, outcome)| match call {
        Call::Command(call) => {
            answer_of(commands::blind::answer(shared, client, call, (began, ended), outcome))
        }
        Call::Request(_) | Call::Refused(_) => {
            let (response, position) = match outcome {
                Ok((_, position)) => (Response::Ok(None), position),
                Err(failed) => json::error(failed.to_string()),
            };
            let level = shared.engine.durability();
            Answer { output: Output::Json(response), position, level }
        }
    });
    answered.collect()
}
