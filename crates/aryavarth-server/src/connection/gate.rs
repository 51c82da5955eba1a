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
const IDLE_GATES: usize = 16;

/// The position and level that one reply waits for.
#[derive(Debug)]
struct Gate {
    ticket: u64,
    /// When the reply began to wait; none for a message, which answers nothing.
    since: Option<Instant>,
    position: Position,
    level: Durability,
}

/// The gates of a connection, in the order of its replies.
#[derive(Debug, Default)]
pub(super) struct Gates {
    waiting: VecDeque<Gate>,
    tickets: u64,
    /// The time that the replies of one run have in common, read for the first of them.
    now: Option<Instant>,
    /// The first of the replies was asked for just now, and the task's waker is left with the engine.
    is_asked: bool,
}

impl Gates {
    /// The ticket of a reply that shows writes up to `position`; 0 is always called.
    pub(super) fn ticket(&mut self, position: Position, level: Durability) -> u64 {
        if position == Position::ZERO {
            return 0;
        }
        let since = Some(*self.now.get_or_insert_with(Instant::now));
        self.add(since, position, level)
    }

    /// The same for a message of a channel.
    pub(super) fn message_ticket(&mut self, position: Position, level: Durability) -> u64 {
        if position == Position::ZERO { 0 } else { self.add(None, position, level) }
    }

    fn add(&mut self, since: Option<Instant>, position: Position, level: Durability) -> u64 {
        self.tickets += 1;
        self.waiting.push_back(Gate { ticket: self.tickets, since, position, level });
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

    /// Lets replies go whose positions have been reached, before the task waits for anything: the
    /// next [`poll`](Gates::poll), if it follows at once, does not ask again.
    pub(super) fn ask<E: KvsEngine>(
        &mut self,
        engine: &E,
        session: &mut Session,
        waits: &Waits,
        context: &mut Context<'_>,
    ) {
        self.is_asked = false;
        if self.is_waiting() {
            self.let_go(engine, session, waits, context);
            self.is_asked = self.is_waiting();
        }
        self.now = None;
    }

    /// Lets replies go whose positions have been reached; ready when at least one went.
    pub(super) fn poll<E: KvsEngine>(
        &mut self,
        engine: &E,
        session: &mut Session,
        waits: &Waits,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        let is_asked = std::mem::take(&mut self.is_asked);
        if !is_asked && self.let_go(engine, session, waits, context) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Lets replies go whose positions have been reached; whether at least one went.
    fn let_go<E: KvsEngine>(
        &mut self,
        engine: &E,
        session: &mut Session,
        waits: &Waits,
        context: &mut Context<'_>,
    ) -> bool {
        let now = self.now.take().unwrap_or_else(Instant::now);
        // Replies that leave together are moved together: the ticket of the last, 0 for none.
        let (mut last, mut went) = (0, false);
        while let Some(gate) = self.waiting.front() {
            match engine.on_reached(gate.position, gate.level, context.waker()) {
                Poll::Ready(Ok(())) => last = gate.ticket,
                Poll::Ready(Err(error)) => {
                    session.release(std::mem::take(&mut last));
                    session.fail_awaited(&error.to_string());
                }
                Poll::Pending => break,
            }
            if let Some(since) = gate.since {
                waits.count(now.saturating_duration_since(since));
            }
            self.waiting.pop_front();
            went = true;
        }
        if last > 0 {
            session.release(last);
        }
        went
    }

    /// Frees the room that an idle connection does not need.
    pub(super) fn trim(&mut self) {
        self.waiting.shrink_to(IDLE_GATES);
    }
}
