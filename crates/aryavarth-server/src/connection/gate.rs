//! Gates: the positions that the replies of a connection wait for.
//!
//! A reply leaves when the log is durable up to the newest thing that it shows, as the reply's own
//! level has it: levels can differ from one reply to the next, so each one that waits gets a ticket,
//! and the session holds it back until its ticket is called.
//!
//! Invariants:
//! - Tickets are called in order, so no reply overtakes another.
//! - A reply whose position can never be reached becomes an error.

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Instant;

use aryavarth::{Durability, KvsEngine, Position};
use aryavarth_protocol::Session;

use crate::clients::Waits;

/// Replies that an idle connection keeps room for.
const IDLE_GATES: usize = 4;

/// The position and level that one reply waits for.
#[derive(Debug)]
struct Gate {
    ticket: u64,
    /// When the reply began to wait.
    since: Instant,
    position: Position,
    level: Durability,
}

/// The gates of a connection, in the order of its replies.
#[derive(Debug, Default)]
pub(super) struct Gates {
    waiting: VecDeque<Gate>,
    tickets: u64,
}

impl Gates {
    /// The ticket of a reply that shows writes up to `position`; 0 is always called.
    pub(super) fn ticket(&mut self, position: Position, level: Durability) -> u64 {
        if position == Position::ZERO {
            return 0;
        }
        self.tickets += 1;
        self.waiting.push_back(Gate {
            ticket: self.tickets,
            since: Instant::now(),
            position,
            level,
        });
        self.tickets
    }

    /// How many replies wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether any reply waits.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Lets replies go whose positions have been reached; ready when at least one went.
    pub(super) fn poll<E: KvsEngine>(
        &mut self,
        engine: &E,
        session: &mut Session,
        waits: &Waits,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        let mut released = Poll::Pending;
        let now = Instant::now();
        while let Some(gate) = self.waiting.front() {
            match engine.on_reached(gate.position, gate.level, context.waker()) {
                Poll::Ready(Ok(())) => session.release(gate.ticket),
                Poll::Ready(Err(error)) => session.fail_awaited(&error.to_string()),
                Poll::Pending => return released,
            }
            waits.count(now.saturating_duration_since(gate.since));
            self.waiting.pop_front();
            released = Poll::Ready(());
        }
        released
    }

    /// Frees the room that an idle connection does not need.
    pub(super) fn trim(&mut self) {
        self.waiting.shrink_to(IDLE_GATES);
    }
}
