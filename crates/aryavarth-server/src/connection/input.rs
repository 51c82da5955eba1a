//! Input: read as far as there is room, decoded into calls.
//!
//! Invariants:
//! - Bytes that wait are counted in the budget that all connections share, those that a transaction
//!   collects included; beyond it a client is refused.
//! - A buffer that was large for one request is not kept for the small ones behind it.

use std::io;

use aryavarth::KvsEngine;
use aryavarth_protocol::{Event, Request};
use tokio::io::Interest;

use super::deadline::Phase;
use super::{BATCH_CALLS_MAX, Connection};
use crate::commands;
use crate::counters::count;
use crate::requests::Call;
use crate::shared::Shared;
use crate::thread_pool::ThreadPool;

/// The text of one job's requests at which no further one is added, in bytes.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// How much is read at once, at least, in bytes; an idle connection keeps room for as much.
pub(super) const READ_BYTES_MIN: usize = 4 << 10;
/// How much is read at once, at most, in bytes.
const READ_BYTES_MAX: usize = 1 << 20;
/// Input that a connection may have waiting without taking it from the common budget, in bytes.
const FREE_BYTES: usize = 16 << 10;
/// A buffer that is larger than this and mostly empty is given back, in bytes.
const SPARE_BYTES_MAX: usize = 64 << 10;

impl<E: KvsEngine, P: ThreadPool> Connection<E, P> {
    /// Decodes requests until there are enough for a job.
    pub(super) fn collect_calls(&mut self) {
        if !self.calls.is_empty() || self.last_words.is_some() {
            return;
        }
        let counters = &self.shared.counters;
        let before = self.session.input_bytes();
        while self.calls.len() < BATCH_CALLS_MAX
            && before - self.session.input_bytes() < BATCH_BYTES_MAX
        {
            match self.session.next_event() {
                Some(Event::Request(request)) => {
                    let alone = matches!(request, Request::Compact {});
                    self.calls.push_back(Call::Request(request));
                    if alone {
                        break;
                    }
                }
                Some(Event::Command(command)) => {
                    self.calls.push_back(Call::Command(commands::resolve(command)));
                    // A password changes how the bytes after it are read.
                    if !self.view.authenticated {
                        break;
                    }
                }
                Some(Event::Invalid(message)) => {
                    count(&counters.requests_invalid, 1);
                    self.count_protocol_error();
                    self.calls.push_back(Call::Refused(message));
                }
                Some(Event::Broken(bytes)) => {
                    count(&counters.sessions_broken, 1);
                    self.count_protocol_error();
                    self.break_off(bytes);
                    break;
                }
                Some(Event::End) => {
                    self.input_over = true;
                    break;
                }
                None => break,
            }
        }
        self.job_bytes = before - self.session.input_bytes();
        if !self.calls.is_empty() {
            self.arrives_since = None;
        }
        if !self.calls.is_empty() && self.phase != Phase::Sending {
            // The time that the next one may take begins anew, also if the client hears nothing. A
            // client that takes no byte of its replies gets no more time for them by sending.
            self.phase = Phase::Working;
        }
    }

    /// Counts an error that no command answers, in the figures of the Redis protocol.
    fn count_protocol_error(&self) {
        if self.session.is_resp() {
            self.shared.clients.statistics.count_error(b"ERR");
        }
    }

    /// Reads the bytes that have arrived, as far as there is room.
    pub(super) fn read(&mut self) -> io::Result<()> {
        let room = self.room;
        let Shared { settings, limits, .. } = &*self.shared;
        self.session.set_limits(settings.session_limits(&limits.session));
        let buffer = self.session.input_buffer();
        buffer.reserve(room);
        // The capacity shrinks as bytes are taken from the front; the allocation does not.
        self.allocated = self.allocated.max(buffer.capacity());
        // A read that does not fill the buffer has emptied the socket. Saying so (as tokio's own
        // `AsyncRead` does) spares the read that would find nothing, and lets the others have
        // their turn before a client that has sent more meanwhile.
        let mut done = Err(io::ErrorKind::WouldBlock.into());
        let emptied = self.stream.try_io(Interest::READABLE, || {
            done = self.stream.try_read_buf(buffer);
            let is_all = matches!(done, Ok(bytes @ 1..) if bytes < room);
            if is_all { Err(io::Error::from(io::ErrorKind::WouldBlock)) } else { Ok(()) }
        });
        drop(emptied);
        // Grows while reads fill the buffer.
        self.room = match done {
            Ok(bytes) if bytes >= room => (room * 4).min(READ_BYTES_MAX),
            Ok(bytes) if bytes < room / 16 => READ_BYTES_MIN,
            _ => room,
        };
        match done {
            Ok(0) => self.session.end_of_input(),
            Ok(bytes) => {
                self.shared.clients.count_received(&self.client, bytes);
                let bytes = self.counted_bytes();
                if !self.input_share.resize(bytes) {
                    // If the request is too long by itself, that is the better thing to say.
                    self.collect_calls();
                    if self.last_words.is_some() {
                        return Ok(());
                    }
                    count(&self.shared.counters.input_refused, 1);
                    let limit = self.shared.limits.input_bytes_max;
                    self.give_up(&format!(
                        "busy: more than {limit} bytes of requests are waiting; try again"
                    ));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Bytes of input to take from the common budget, a transaction that is collected included.
    pub(super) fn counted_bytes(&self) -> usize {
        (self.session.input_bytes() + self.job_bytes + self.view.collected)
            .saturating_sub(FREE_BYTES)
    }

    /// Ends the conversation with an error.
    pub(super) fn give_up(&mut self, message: &str) {
        let bytes = self.session.give_up(message);
        self.break_off(bytes);
    }

    fn break_off(&mut self, last_words: Vec<u8>) {
        self.last_words = Some(last_words);
        self.input_over = true;
        self.linger = true;
        // Input that is not read is no reason to refuse others.
        self.input_share.resize(self.job_bytes.min(self.input_share.amount()));
    }

    /// Gives back a buffer that was large for input that has left it.
    pub(super) fn spare_input(&mut self) {
        let kept = self.session.input_bytes();
        if self.allocated > SPARE_BYTES_MAX && kept < self.allocated / 4 {
            self.session.shrink_input();
            self.allocated = kept;
        }
    }

    /// Frees the buffers that an idle connection does not need.
    pub(super) fn trim_input(&mut self) {
        let is_large = self.allocated > 2 * READ_BYTES_MIN;
        self.session.trim(is_large);
        if is_large {
            self.allocated = 0;
        }
    }
}
