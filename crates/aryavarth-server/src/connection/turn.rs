//! A connection's turn: the calls that have arrived go to where they run.
//!
//! ```text
//!                 +--------- the job ends: its answers, the calls that it left ---------+
//!                 v                                                                     |
//!   advance: Ours(state) --- Append, Pool ---> Running(job) ----------------------------+
//!            ^   |   |                                                                  |
//!            |   |   +------ a pause, a reply without room or kept back ---> Held(job) -+
//!            |   |
//!            +---+ Inline: answered here, a batch of calls at a time
//! ```
//!
//! Invariant: the client's state is in one place, the connection's hands or the job's.

use std::sync::Arc;
use std::task::{Context, Poll};

use aryavarth::KvsEngine;

use super::job::{self, Job};
use super::{BATCH_CALLS_MAX, Connection};
use crate::counters::count;
use crate::requests::{self, Call, ClientState, Plan};
use crate::thread_pool::ThreadPool;
use crate::writes::queue::TOGETHER_BYTES_MAX;

/// The place of the client's state, which decides whether calls may run.
pub(super) enum Turn {
    /// Here: calls may run.
    Ours(Box<ClientState>),
    /// With a job that runs calls, or waits to.
    Running(Job),
    /// With a job that keeps a reply back, or calls: the client may go meanwhile.
    Held(Job),
}

impl Turn {
    /// Whether a job has the client's state.
    pub(super) fn is_busy(&self) -> bool {
        !matches!(self, Turn::Ours(_))
    }

    /// The end of the job; never, if there is none.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<job::End> {
        match self {
            Turn::Ours(_) => Poll::Pending,
            Turn::Running(job) | Turn::Held(job) => job.as_mut().poll(context),
        }
    }
}

impl<E: KvsEngine, P: ThreadPool> Connection<E, P> {
    /// Runs the calls that the session has understood, as far as this is our turn. Returns the turn
    /// after them, and whether to go on when others have had theirs.
    pub(super) fn advance(&mut self, turn: Turn) -> (Turn, bool) {
        let mut state = match turn {
            Turn::Ours(state) => state,
            busy => return (busy, false),
        };
        let mut answered = 0;
        while !self.is_full() {
            // Messages that wait come before the calls behind them.
            if self.view.is_subscribed && (!self.input_over || !self.calls.is_empty()) {
                self.hear();
            }
            if answered >= BATCH_CALLS_MAX {
                return (Turn::Ours(state), true);
            }
            self.collect_calls();
            let Some(call) = self.calls.front() else {
                self.say_last_words();
                break;
            };
            let next = if let Some(bytes) = self.room_wanted.take() {
                let calls = std::mem::take(&mut self.calls);
                Turn::Held(job::room(Arc::clone(&self.shared), bytes, calls, state))
            } else {
                match requests::plan(&self.shared, &state, call) {
                    Plan::Inline => self.answer_inline(state, &mut answered),
                    Plan::Append => self.start(state, true),
                    Plan::Pool => self.start(state, false),
                    Plan::Held => self.hold_calls(state),
                }
            };
            match next {
                Turn::Ours(back) => state = back,
                busy => return (busy, false),
            }
        }
        (Turn::Ours(state), false)
    }

    /// Answers the calls that run inline, up to the first that does not, and adds their number to
    /// `answered`.
    fn answer_inline(&mut self, mut state: Box<ClientState>, answered: &mut usize) -> Turn {
        state.room = self.allowance();
        let calls = std::mem::take(&mut self.calls);
        let (result, is_for_pool) = requests::run_inline(&self.shared, &mut state, calls);
        *answered += result.answers.len();
        match self.take_result(result, state) {
            Turn::Ours(state) if is_for_pool && !self.has_many_replies() => {
                self.start(state, false)
            }
            turn => turn,
        }
    }

    /// Holds the calls until the clients' pause is another.
    fn hold_calls(&mut self, state: Box<ClientState>) -> Turn {
        // A pause may be long, and a holder of room has to send: the calls ask for it again.
        self.granted = None;
        let calls = std::mem::take(&mut self.calls);
        Turn::Held(job::pause(Arc::clone(&self.shared), calls, state))
    }

    /// Starts a job for the calls; `appends` says that the first of them may be blind.
    fn start(&mut self, mut state: Box<ClientState>, appends: bool) -> Turn {
        let permit = self.shared.jobs.take(1);
        // Refused in the middle of a transaction, a command would leave half of it; so those of the
        // Redis protocol wait, and with them all that the client sends.
        if permit.is_none() && !self.session.is_resp() {
            self.refuse_calls();
            return Turn::Ours(state);
        }
        state.room = self.allowance();
        let (shared, mut calls) = (Arc::clone(&self.shared), std::mem::take(&mut self.calls));
        let Some(permit) = permit else {
            return Turn::Running(job::later(calls, state));
        };
        // Copying large values takes the pool's time, not that of the other connections.
        let blind = if appends && self.job_bytes <= TOGETHER_BYTES_MAX {
            requests::take_blind(&shared, &state, &mut calls)
        } else {
            None
        };
        Turn::Running(match blind {
            Some(blind) if calls.is_empty() => {
                // A client that sends on is heard while its writes wait for the disk.
                let is_last = self.session.input_bytes() == 0;
                job::write(shared, permit, blind, state, is_last)
            }
            blind => {
                let is_long = self.job_bytes > TOGETHER_BYTES_MAX
                    || requests::are_long(&shared, &state, &calls);
                job::run(shared, permit, blind, calls, state, is_long)
            }
        })
    }

    /// Answers every call that was to run with the error that there are too many.
    fn refuse_calls(&mut self) {
        let jobs = self.shared.limits.jobs_max;
        for call in self.calls.drain(..) {
            let message = match call {
                Call::Refused(message) => message,
                Call::Request(_) | Call::Command(_) => {
                    count(&self.shared.counters.requests_busy, 1);
                    format!("busy: {jobs} jobs are waiting already; nothing was done, try again")
                }
            };
            self.session.reply_error(&message, 0);
        }
        self.job_bytes = 0;
        // An idle client would keep the room that the calls had waited for.
        self.granted = None;
    }
}
