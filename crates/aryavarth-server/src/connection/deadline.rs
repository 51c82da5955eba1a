//! Deadlines of a connection: each runs while the client is the one to move.

use std::ops::ControlFlow;

use aryavarth::KvsEngine;
use tokio::time::Instant;

use super::Connection;
use super::turn::Turn;
use crate::counters::count;
use crate::shared::Shared;
use crate::thread_pool::ThreadPool;

/// Room for calls that an idle connection keeps.
const CALLS_KEPT: usize = 16;

/// The side whose move it is, and so the deadline that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Ours.
    Working,
    /// The client has to take bytes.
    Sending,
    /// The client has begun a request and has to end it.
    Arriving,
    /// The client may begin a request.
    Idle,
}

impl<E: KvsEngine, P: ThreadPool> Connection<E, P> {
    /// Takes note of a passed deadline; breaks if the connection is to be closed at once.
    pub(super) fn late(&mut self) -> ControlFlow<()> {
        let Shared { limits, counters, .. } = &*self.shared;
        match self.phase {
            Phase::Working => ControlFlow::Continue(()),
            Phase::Sending => {
                count(&counters.sends_timed_out, 1);
                ControlFlow::Break(())
            }
            // Said to a client between two requests, an error would pass for the next reply.
            Phase::Idle => {
                count(&counters.idle_timed_out, 1);
                ControlFlow::Break(())
            }
            Phase::Arriving => {
                count(&counters.arrivals_timed_out, 1);
                let seconds = limits.request_arrival.as_secs_f32();
                self.give_up(&format!("the request did not arrive within {seconds} s"));
                ControlFlow::Continue(())
            }
        }
    }

    /// Sets the deadline of the side whose move it is; it runs on while that is the same.
    pub(super) fn set_deadline(&mut self, turn: &Turn) {
        let limits = &self.shared.limits;
        let (phase, allowed) = if !self.session.output().is_empty() {
            (Phase::Sending, Some(limits.send_stall))
        } else if turn.is_busy() || self.input_over || self.session.output_bytes() > 0 {
            (Phase::Working, None)
        } else if self.session.is_partial() {
            (Phase::Arriving, Some(limits.request_arrival))
        } else {
            // A subscriber listens.
            let idle = self.shared.settings.idle();
            (Phase::Idle, idle.filter(|_| !self.view.is_subscribed))
        };
        // Messages in between give a request no more time.
        let listens = self.view.is_subscribed || self.feed.is_some();
        let since = self.arrives_since.filter(|_| listens);
        self.arrives_since = match phase {
            Phase::Arriving => Some(since.unwrap_or_else(Instant::now)),
            Phase::Sending => since,
            // While a message waits for its position the client may send on; else we do not read.
            Phase::Working if !turn.is_busy() && !self.is_full() => since,
            Phase::Working | Phase::Idle => None,
        };
        if phase != self.phase {
            self.client.show_buffers(self.session.input_bytes(), self.session.output_bytes());
            if phase == Phase::Idle {
                self.trim_input();
                self.gates.trim();
                self.calls.shrink_to(CALLS_KEPT);
            }
            self.phase = phase;
            let since = self.arrives_since.filter(|_| phase == Phase::Arriving);
            self.deadline = allowed.map(|allowed| since.unwrap_or_else(Instant::now) + allowed);
        }
    }
}
