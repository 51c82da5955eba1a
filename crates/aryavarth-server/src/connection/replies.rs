//! Replies on their way out: queued behind their gates, within the room of all replies, and sent.

use std::io;
use std::sync::Arc;

use aryavarth::KvsEngine;
use aryavarth_protocol::Reply;
use tracing::info;

use super::deadline::Phase;
use super::turn::Turn;
use super::{Connection, View, job};
use crate::budget::{Allowance, FREE_OUTPUT_BYTES};
use crate::clients::Line;
use crate::requests::{AfterReply, Answer, BatchResult, ClientState, Output};
use crate::thread_pool::ThreadPool;

/// Answers that may wait for the disk. Those that a client does not want have no bytes.
const WAITING_MAX: usize = 64 << 10;
/// Bytes that a client with much unsent has to take within the time of a stalled send.
const TAKEN_BYTES_MIN: usize = 256 << 10;

impl<E: KvsEngine, P: ThreadPool> Connection<E, P> {
    /// Whether too much is unsent to run calls: replies, or messages, which come before them.
    pub(super) fn is_full(&self) -> bool {
        self.heard.is_full() || self.has_many_replies()
    }

    /// Whether too many replies are unsent to make more. With a reply that waits for room all
    /// others have left first: a connection that waits holds no room.
    pub(super) fn has_many_replies(&self) -> bool {
        let unsent = self.session.output_bytes();
        if self.room_wanted.is_some() && unsent > 0 {
            return true;
        }
        unsent >= self.shared.limits.output_bytes_max || self.gates.waiting() >= WAITING_MAX
    }

    /// The room for the replies of the next calls.
    pub(super) fn allowance(&mut self) -> Allowance {
        let share = self.granted.take().unwrap_or_else(|| self.shared.output.none());
        Allowance::new(share, FREE_OUTPUT_BYTES.saturating_sub(self.session.output_memory()))
    }

    /// Takes over the room of the replies of a run; its unused part is given back.
    fn take_room(&mut self, state: &mut ClientState, has_answers: bool) {
        self.room_wanted = state.room.wanted();
        let share = state.room.end();
        if has_answers || self.room_wanted.is_some() || self.calls.is_empty() {
            self.granted = None;
            if let Some(share) = share {
                self.output_share.merge(share);
            }
        } else {
            // Nothing was run: the calls take it along to where they can be.
            self.granted = share;
        }
    }

    /// Gives back the room of replies that have left.
    fn spare_room(&mut self) {
        if !self.output_share.is_empty() {
            let taken = self.session.output_memory().saturating_sub(FREE_OUTPUT_BYTES);
            self.output_share.shrink(taken);
        }
    }

    /// Queues the answers of calls that ran, and takes the step after the last of them.
    pub(super) fn take_result(&mut self, result: BatchResult, mut state: Box<ClientState>) -> Turn {
        let BatchResult { mut answers, rest, then } = result;
        self.calls = rest;
        self.take_room(&mut state, !answers.is_empty());
        self.view = View::of(&state);
        let last = if then == AfterReply::GoOn { None } else { answers.pop() };
        for answer in answers {
            self.queue(answer);
        }
        self.session.set_authenticated(self.view.authenticated);
        // Messages that come unasked are written in it, too.
        self.session.set_resp_version(self.view.version);
        if state.settings.monitors != self.feed.is_some() {
            let clients = &self.shared.clients;
            self.feed = state.settings.monitors.then(|| clients.watch_commands());
        }
        let turn = match last {
            Some(last) => self.follow(last, then, state),
            None => Turn::Ours(state),
        };
        self.spare_room();
        // Calls behind a reply that is held have moved to the job, and count until it ends.
        if self.calls.is_empty() && !turn.is_busy() {
            self.job_bytes = 0;
        }
        self.input_share.resize(self.counted_bytes().min(self.input_share.amount()));
        turn
    }

    /// Queues an answer behind all others.
    fn queue(&mut self, Answer { output, position, level }: Answer) {
        if let Output::Resp(reply, _) = &output
            && reply.is_push()
        {
            self.hear_before_confirmation();
        }
        let ticket = self.gates.ticket(position, level);
        match output {
            Output::Json(response) => self.session.reply(&response, ticket),
            Output::Error(message) => self.session.reply_error(&message, ticket),
            Output::Resp(reply, version) => {
                self.session.set_resp_version(version);
                self.session.reply_resp_owned(reply, ticket);
            }
            Output::Nothing => self.session.reply_nothing(ticket),
        }
    }

    /// Queues the last bytes of the conversation, unless the client has turned its replies off.
    pub(super) fn say_last_words(&mut self) {
        if let Some(bytes) = self.last_words.take()
            && !self.view.is_silent
        {
            self.session.reply_raw(bytes);
        }
    }

    /// Shows the client a command of another client.
    pub(super) fn show(&mut self, line: &Line) {
        if self.view.is_silent {
            return;
        }
        let ticket = self.gates.ticket(line.position, self.view.level);
        self.session.reply_resp(&Reply::Simple(line.text.clone().into()), ticket);
    }

    /// Queues an answer and takes the step after it.
    fn follow(&mut self, answer: Answer, then: AfterReply, state: Box<ClientState>) -> Turn {
        match then {
            AfterReply::GoOn => self.queue(answer),
            AfterReply::Close => {
                self.queue(answer);
                self.drop_calls();
                self.input_over = true;
                self.linger = true;
            }
            AfterReply::Shutdown => {
                self.drop_calls();
                info!(command = "SHUTDOWN", client = %self.client.peer(), "stopping");
                self.shared.stop.send_replace(true);
            }
            AfterReply::AfterWrites | AfterReply::Sleep(_) | AfterReply::WaitForDisk { .. } => {
                let calls = std::mem::take(&mut self.calls);
                let shared = Arc::clone(&self.shared);
                return Turn::Held(job::hold(shared, answer, then, calls, state));
            }
        }
        Turn::Ours(state)
    }

    /// Runs nothing more of the client's input, decoded or not.
    fn drop_calls(&mut self) {
        self.calls.clear();
        self.session.stop_reading();
    }

    /// Sends the replies that may leave, as far as the socket takes them.
    pub(super) fn send(&mut self) -> io::Result<()> {
        while !self.session.output().is_empty() {
            match self.stream.try_write(self.session.output()) {
                Ok(bytes) => {
                    self.session.sent(bytes);
                    self.taken += bytes;
                    self.sent_bytes += bytes as u64;
                    self.shared.clients.count_sent(&self.client, bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        // A client that holds room which others may wait for has to take more than a byte.
        let is_light = self.output_share.is_empty() && !self.heard.is_full();
        let enough = if is_light { 1 } else { TAKEN_BYTES_MIN };
        if self.taken > 0 && (self.taken >= enough || self.session.output().is_empty()) {
            self.taken = 0;
            self.phase = Phase::Working;
        }
        self.spare_room();
        self.forget_heard();
        Ok(())
    }
}
