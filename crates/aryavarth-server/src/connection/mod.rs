//! One client's connection: bytes in, jobs to the pool, replies out.
//!
//! Reads of what is at hand are answered where their bytes arrived; whatever may wait for a disk
//! goes to the pool, and with it all that follows in the same batch.
//!
//! A single task drives it, and waits for whatever comes first: the job that runs, the durability
//! of an answer, room to send, input, a deadline, the server's stop.
//!
//! Invariants:
//! - One job at a time, and nothing beside it, so the requests of a connection run one after
//!   another.
//! - A connection does not keep its thread for more than a batch of calls at a time.
//! - The next job runs while earlier answers wait for durability: a pipeline waits once, not once
//!   per request (but for a write that came alone, which has nothing to go on with). It does not run, and nothing is read, while too many replies are unsent.
//! - A deadline runs only while the client is the one to move.
//! - After the last reply the connection is closed so that the reply is not lost: the write side
//!   first, then what still arrives is thrown away for a while.

mod close;
mod gate;
mod input;
mod job;

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use aryavarth::{Durability, KvsEngine};
use aryavarth_protocol::{Reply, Session};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use crate::budget::{Allowance, FREE_OUTPUT_BYTES, OutputShare, Share};
use crate::clients::{ClientHandle, Feed, Line};
use crate::commands::{ClientState, Then};
use crate::counters::count;
use crate::execute::{self, Answer, Call, Done, Said};
use crate::shared::Shared;
use crate::thread_pool::ThreadPool;
use crate::writes::queue::TOGETHER_BYTES_MAX;
pub(crate) use close::close;
use gate::Gates;
use input::READ_BYTES_MIN;
use job::{Job, poll_job};

/// Answers that may wait for the disk. Those that a client does not want have no bytes.
const WAITING_MAX: usize = 64 << 10;
/// How often is looked whether a client is there that has sent more than is read.
const GONE_PAUSE: Duration = Duration::from_secs(1);
/// The most calls of one job. More gain nothing, and fewer let others have their turn.
const BATCH_CALLS_MAX: usize = 256;
/// Bytes that a client with much unsent has to take within the time of a stalled send.
const TAKEN_BYTES_MIN: usize = 256 << 10;
/// Room for calls that an idle connection keeps.
const CALLS_KEPT: usize = 4;
/// Whose move it is, and so which deadline runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Ours.
    Working,
    /// The client has to take bytes.
    Sending,
    /// The client has begun a request and has to end it.
    Arriving,
    /// The client may begin a request.
    Idle,
}

pub(crate) struct Connection<E: KvsEngine, P: ThreadPool> {
    shared: Arc<Shared<E, P>>,
    stream: TcpStream,
    stop: watch::Receiver<bool>,
    session: Session,
    gates: Gates,
    /// What the commands know of the connection; away while a job runs.
    connected: Option<Box<ClientState>>,
    /// What others know of the connection.
    client: ClientHandle,
    /// The commands of all others, if the client asked to see them, and at which level.
    feed: Option<Feed>,
    feed_level: Durability,
    /// Calls that were decoded and not run.
    calls: VecDeque<Call>,
    job: Option<Job>,
    /// The job is a reply that comes later, and nothing of the client is being run.
    is_held: bool,
    /// Bytes to ask the socket for, and how large the buffer for them has grown.
    room: usize,
    allocated: usize,
    /// What input and the running job take from the common budget.
    input_share: Share,
    job_bytes: usize,
    /// The share of unsent replies in the budget of all replies, beyond their free part.
    output_share: OutputShare,
    /// The room that was granted to the replies of the next calls.
    granted: Option<OutputShare>,
    /// Bytes of a reply that found no room: it is made when there is.
    room_wanted: Option<usize>,
    /// Bytes that the client has taken since the deadline began.
    taken: usize,
    /// The last bytes to send; the input after them is not looked at.
    last_words: Option<Vec<u8>>,
    /// Nothing more will be read.
    input_over: bool,
    /// The client may still be sending what nobody will read.
    linger: bool,
    phase: Phase,
    deadline: Option<Instant>,
}

/// What a connection's task was woken by.
enum Woken {
    Job(Done, Box<ClientState>),
    Released,
    CanSend,
    CanRead,
    Late,
    Stop,
    /// The next of the commands that the client asked to see; none if it did not keep up.
    Shown(Option<Arc<Line>>),
    /// Somebody wants the connection closed.
    Killed,
    /// The client has closed its side, or the connection, while its reply is kept back.
    Gone,
}

impl<E: KvsEngine, P: ThreadPool> Connection<E, P> {
    pub(crate) fn new(
        shared: Arc<Shared<E, P>>,
        stream: TcpStream,
        stop: watch::Receiver<bool>,
        input_share: Share,
        connected: ClientState,
    ) -> Self {
        let has_password = !connected.settings.authenticated;
        let mut session = Session::new(shared.limits.session).with_json(!has_password);
        session.set_authenticated(!has_password);
        let output_share = shared.output.none();
        Connection {
            shared,
            stream,
            stop,
            session,
            gates: Gates::default(),
            client: connected.entry.clone(),
            feed: None,
            feed_level: connected.settings.durability,
            connected: Some(Box::new(connected)),
            calls: VecDeque::new(),
            room: READ_BYTES_MIN,
            allocated: 0,
            job: None,
            is_held: false,
            input_share,
            job_bytes: 0,
            output_share,
            granted: None,
            room_wanted: None,
            taken: 0,
            last_words: None,
            input_over: false,
            linger: false,
            phase: Phase::Working,
            deadline: None,
        }
    }

    /// Serves the client until one of the two is done. An error means that the client is gone.
    pub(crate) async fn run(mut self) -> io::Result<()> {
        loop {
            let goes_on = self.advance();
            let was_full = self.is_full();
            self.send()?;
            if goes_on || was_full && !self.is_full() {
                yield_now().await;
                continue;
            }
            if self.is_done() {
                break;
            }
            self.set_deadline();
            self.spare_input();
            match self.wait().await {
                Woken::Job(done, connected) => self.finish_job(done, connected),
                Woken::Released | Woken::CanSend => {}
                Woken::CanRead => self.read()?,
                Woken::Late => {
                    if self.late().is_break() {
                        return Ok(());
                    }
                }
                Woken::Stop => self.stop()?,
                Woken::Shown(Some(line)) => self.show(&line),
                Woken::Shown(None) | Woken::Killed | Woken::Gone => return Ok(()),
            }
        }
        self.close().await
    }

    async fn wait(&mut self) -> Woken {
        // With no job and room for replies, everything that has arrived was looked at.
        let has_room = !self.is_full();
        let Connection { shared, stream, stop, session, gates, job, client, feed, .. } = self;
        let can_read = !self.input_over && job.is_none() && has_room;
        let can_show = !self.input_over
            && feed.is_some()
            && has_room
            && session.output_bytes() < FREE_OUTPUT_BYTES;
        let must_send = !session.output().is_empty();
        let must_release = gates.is_waiting();
        let (deadline, is_held) = (self.deadline, self.is_held);
        tokio::select! {
            biased;
            // First: a client that always has something to say must not keep itself alive.
            () = client.killed() => Woken::Killed,
            done = poll_fn(|context| poll_job(job, context)), if job.is_some()
                => Woken::Job(done.0, done.1),
            () = poll_fn(|context| gates.poll(&shared.engine, session, &shared.clients.statistics.waits, context)), if must_release
                => Woken::Released,
            _ = stream.writable(), if must_send => Woken::CanSend,
            () = stopped(stop), if !self.input_over => Woken::Stop,
            _ = stream.readable(), if can_read => Woken::CanRead,
            line = next_line(feed), if can_show => Woken::Shown(line),
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some()
                => Woken::Late,
            () = gone(stream, shared.limits.linger), if is_held => Woken::Gone,
        }
    }

    /// Whether too many replies are unsent to make more. With a reply that waits for room all
    /// others have left first: a connection that waits holds no room.
    fn is_full(&self) -> bool {
        let unsent = self.session.output_bytes();
        if self.room_wanted.is_some() && unsent > 0 {
            return true;
        }
        unsent >= self.shared.limits.output_bytes_max || self.gates.waiting() >= WAITING_MAX
    }

    /// Takes what the session has understood, answers what is at hand, and starts a job for the
    /// rest if none runs. Returns whether to go on when others have had their turn.
    fn advance(&mut self) -> bool {
        let mut answered = 0;
        while self.job.is_none() && !self.is_full() {
            if answered >= BATCH_CALLS_MAX {
                return true;
            }
            self.collect_calls();
            if self.calls.is_empty() {
                if let Some(bytes) = self.last_words.take()
                    && !self.is_silent()
                {
                    self.session.reply_raw(bytes);
                }
                return false;
            }
            if self.room_wanted.is_none() {
                answered += self.answer_now();
            }
            if !self.calls.is_empty() && !self.is_full() {
                self.start_job();
            }
        }
        false
    }

    /// Answers the calls that cannot block, up to the first that can. Returns how many.
    fn answer_now(&mut self) -> usize {
        let room = self.allowance();
        let Some(connected) = self.connected.as_deref_mut() else { return 0 };
        connected.room = room;
        let calls = std::mem::take(&mut self.calls);
        let Done { answers, rest, then } = execute::run(&self.shared, connected, calls, false);
        let answered = answers.len();
        self.calls = rest;
        self.take_answers(answers, then);
        answered
    }

    /// The room for the replies of the next calls.
    fn allowance(&mut self) -> Allowance {
        let share = self.granted.take().unwrap_or_else(|| self.shared.output.none());
        Allowance::new(share, FREE_OUTPUT_BYTES.saturating_sub(self.session.output_memory()))
    }

    /// Takes the room over that the replies of a run have; what is not used is given back.
    fn take_room(&mut self, has_answers: bool) {
        let Some(connected) = &mut self.connected else { return };
        self.room_wanted = connected.room.wanted();
        let share = connected.room.end();
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

    /// Whether the first of the calls has to wait until somebody lets the clients go on.
    fn is_paused(&self) -> bool {
        match (self.calls.front(), &self.connected) {
            (Some(call), Some(connected)) => execute::is_paused(&self.shared, connected, call),
            _ => false,
        }
    }

    fn start_job(&mut self) {
        if self.is_paused() {
            // A pause may be long, and a holder of room has to send: the calls ask for it again.
            self.granted = None;
            let Some(connected) = self.connected.take() else { return };
            let calls = std::mem::take(&mut self.calls);
            self.job = Some(job::pause(Arc::clone(&self.shared), calls, connected));
            return;
        }
        if let Some(bytes) = self.room_wanted.take() {
            let Some(connected) = self.connected.take() else { return };
            let calls = std::mem::take(&mut self.calls);
            self.is_held = true;
            self.job = Some(job::room(Arc::clone(&self.shared), bytes, calls, connected));
            return;
        }
        let permit = self.shared.jobs.take(1);
        // Refused in the middle of a transaction, a command would leave half of it; so those of the
        // Redis protocol wait, and with them all that the client sends.
        if permit.is_none() && !self.session.is_resp() {
            self.refuse_calls();
            return;
        }
        let room = self.allowance();
        let Some(mut connected) = self.connected.take() else { return };
        connected.room = room;
        let (shared, mut calls) = (Arc::clone(&self.shared), std::mem::take(&mut self.calls));
        let Some(permit) = permit else {
            self.job = Some(job::later(calls, connected));
            return;
        };
        // Copying what is large takes the pool's time, not that of the other connections.
        let blind = if self.job_bytes <= TOGETHER_BYTES_MAX {
            execute::take_blind(&shared, &connected, &mut calls)
        } else {
            None
        };
        self.job = Some(match blind {
            Some(blind) if calls.is_empty() => {
                // A client that sends on is heard while its writes wait for the disk.
                let is_last = self.session.input_bytes() == 0;
                job::write(shared, permit, blind, connected, is_last)
            }
            blind => {
                let is_long = self.job_bytes > TOGETHER_BYTES_MAX
                    || execute::are_long(&shared, &connected, &calls);
                job::run(shared, permit, blind, calls, connected, is_long)
            }
        });
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
    }

    fn finish_job(&mut self, done: Done, connected: Box<ClientState>) {
        self.job = None;
        self.is_held = false;
        self.connected = Some(connected);
        self.calls = done.rest;
        self.take_answers(done.answers, done.then);
    }

    /// Queues answers, and does what comes after the last of them.
    fn take_answers(&mut self, mut answers: Vec<Answer>, then: Then) {
        self.take_room(!answers.is_empty());
        let last = if then == Then::GoOn { None } else { answers.pop() };
        for answer in answers {
            self.queue(answer);
        }
        if let Some(last) = last {
            self.follow(last, then);
        }
        if let Some(connected) = &self.connected {
            self.session.set_authenticated(connected.settings.authenticated);
            self.feed_level = connected.settings.durability;
            if connected.settings.monitors != self.feed.is_some() {
                let clients = &self.shared.clients;
                self.feed = connected.settings.monitors.then(|| clients.watch_commands());
            }
        }
        self.spare_room();
        if self.calls.is_empty() {
            self.job_bytes = 0;
        }
        self.input_share.resize(self.counted_bytes().min(self.input_share.amount()));
    }

    /// Queues an answer behind all others.
    fn queue(&mut self, Answer { said, position, level }: Answer) {
        let ticket = self.gates.ticket(position, level);
        match said {
            Said::Json(response) => self.session.reply(&response, ticket),
            Said::Error(message) => self.session.reply_error(&message, ticket),
            Said::Resp(reply, version) => {
                self.session.set_resp_version(version);
                self.session.reply_resp_owned(reply, ticket);
            }
            Said::Nothing => self.session.reply_nothing(ticket),
        }
    }

    /// Whether the client has turned its replies off.
    fn is_silent(&self) -> bool {
        self.connected.as_ref().is_some_and(|connected| connected.is_silent())
    }

    /// Shows the client a command of another client.
    fn show(&mut self, line: &Line) {
        if self.is_silent() {
            return;
        }
        let ticket = self.gates.ticket(line.position, self.feed_level);
        self.session.reply_resp(&Reply::Simple(line.text.clone().into()), ticket);
    }

    /// Queues an answer and does what comes after it.
    fn follow(&mut self, answer: Answer, then: Then) {
        match then {
            Then::GoOn => self.queue(answer),
            Then::Close => {
                self.queue(answer);
                self.drop_calls();
                self.input_over = true;
                self.linger = true;
            }
            Then::Shutdown => {
                self.drop_calls();
                self.shared.stop.send_replace(true);
            }
            Then::AfterWrites | Then::Sleep(_) | Then::WaitForDisk { .. } => {
                let Some(connected) = self.connected.take() else { return };
                let calls = std::mem::take(&mut self.calls);
                let shared = Arc::clone(&self.shared);
                self.is_held = true;
                self.job = Some(job::hold(shared, answer, then, calls, connected));
            }
        }
    }

    /// Runs nothing more of what the client has sent, decoded or not.
    fn drop_calls(&mut self) {
        self.calls.clear();
        self.session.stop_reading();
    }

    /// Sends what may be sent, as far as the socket takes it.
    fn send(&mut self) -> io::Result<()> {
        while !self.session.output().is_empty() {
            match self.stream.try_write(self.session.output()) {
                Ok(bytes) => {
                    self.session.sent(bytes);
                    self.taken += bytes;
                    self.shared.clients.count_sent(&self.client, bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        // A client that holds room which others may wait for has to take more than a byte.
        let enough = if self.output_share.is_empty() { 1 } else { TAKEN_BYTES_MIN };
        if self.taken > 0 && (self.taken >= enough || self.session.output().is_empty()) {
            self.taken = 0;
            self.phase = Phase::Working;
        }
        self.spare_room();
        Ok(())
    }

    /// Takes note of a passed deadline; breaks if the connection is to be closed at once.
    fn late(&mut self) -> ControlFlow<()> {
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

    /// The server stops: what has arrived is still answered, nothing more is read.
    fn stop(&mut self) -> io::Result<()> {
        if self.job.is_none() && self.calls.is_empty() {
            self.read()?;
        }
        self.input_over = true;
        // A client that is silent will not send what could destroy a reply.
        self.linger |=
            self.job.is_some() || self.session.input_bytes() > 0 || self.session.output_bytes() > 0;
        Ok(())
    }

    /// Whether all that was understood is answered and sent, and nothing more will be.
    fn is_done(&self) -> bool {
        self.input_over
            && self.job.is_none()
            && self.calls.is_empty()
            && self.last_words.is_none()
            && self.session.output_bytes() == 0
    }

    fn set_deadline(&mut self) {
        let limits = &self.shared.limits;
        let (phase, allowed) = if !self.session.output().is_empty() {
            (Phase::Sending, Some(limits.send_stall))
        } else if self.job.is_some() || self.input_over || self.session.output_bytes() > 0 {
            (Phase::Working, None)
        } else if self.session.is_partial() {
            (Phase::Arriving, Some(limits.request_arrival))
        } else {
            (Phase::Idle, self.shared.settings.idle())
        };
        if phase != self.phase {
            self.client.show_buffers(self.session.input_bytes(), self.session.output_bytes());
            if phase == Phase::Idle {
                self.trim_input();
                self.gates.trim();
                self.calls.shrink_to(CALLS_KEPT);
            }
            self.phase = phase;
            self.deadline = allowed.map(|allowed| Instant::now() + allowed);
        }
    }

    async fn close(self) -> io::Result<()> {
        let Connection { shared, stream, linger, .. } = self;
        close(stream, linger.then_some(shared.limits.linger)).await
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A server that is gone has stopped, too.
    drop(stop.wait_for(|stopped| *stopped).await);
}

/// Returns when the client has closed its side, and some time to hear what else there is has passed.
async fn gone(stream: &TcpStream, linger: Duration) {
    loop {
        match stream.ready(Interest::READABLE).await {
            Ok(ready) if !ready.is_read_closed() => sleep(GONE_PAUSE).await,
            Ok(_) | Err(_) => break,
        }
    }
    sleep(linger).await;
}

/// The next command of somebody else; never, if the client did not ask to see them.
async fn next_line(feed: &mut Option<Feed>) -> Option<Arc<Line>> {
    match feed {
        Some(feed) => feed.next().await,
        None => pending().await,
    }
}
