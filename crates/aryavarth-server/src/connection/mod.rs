//! One client's connection: bytes in, calls to where they run, replies out.
//!
//! ```text
//!   socket --read--> session --calls--> plan --Inline--> answers --------+
//!                                        |                               |
//!            Turn::Ours                  +--Append, Pool--> Turn::Running +--> gates --> socket
//!        (this task has the              |                   (a job has it)|   (each reply waits
//!         client's state)                +--Held----------> Turn::Held ---+    for its position)
//!                                            (a reply is kept back)
//! ```
//!
//! Terms: a *call* is one command or request. A *job* owns the client's state while no
//! other call of the connection runs, and brings it back: calls on the pool, an append, or a reply that
//! comes later. A *gate* is a reply that waits for durability. The *view* is the part of
//! the client's state that the connection needs meanwhile.
//!
//! A single task drives the connection, and waits for the first of: the job's end, the durability of
//! an answer, room to send, input, a deadline, the server's stop.
//!
//! Invariants:
//! - One job at a time, and no call beside it, so the calls of a connection run one after another.
//! - A connection does not keep its thread for more than a batch of calls at a time.
//! - The next job runs while earlier answers wait for durability: a pipeline waits once, not once
//!   per request (but for a write that came alone, which has nothing to go on with). No job runs, and
//!   nothing is read, while too many replies are unsent.
//! - A deadline runs only while the client is the one to move.
//! - After the last reply the connection is closed so that the reply is not lost: the write side
//!   first, then the rest of the input is thrown away for a while.

mod close;
mod deadline;
mod gate;
mod hear;
mod input;
mod job;
mod replies;
mod turn;

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aryavarth::{Durability, KvsEngine};
use aryavarth_protocol::Session;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use crate::budget::{FREE_OUTPUT_BYTES, OutputShare, Share};
use crate::clients::{ClientHandle, Feed, Line};
use crate::requests::{BatchResult, Call, ClientState};
use crate::shared::Shared;
use crate::thread_pool::ThreadPool;
pub(crate) use close::close;
use deadline::Phase;
use gate::Gates;
use hear::Heard;
use input::READ_BYTES_MIN;
use turn::Turn;

/// How often a client is looked for that has sent more than is read.
const GONE_PAUSE: Duration = Duration::from_secs(1);
/// The most calls of one job. More gain nothing, and fewer let others have their turn.
const BATCH_CALLS_MAX: usize = 256;

pub(crate) struct Connection<E: KvsEngine, P: ThreadPool> {
    shared: Arc<Shared<E, P>>,
    stream: TcpStream,
    session: Session,
    gates: Gates,
    /// The connection as other clients see it.
    client: ClientHandle,
    /// The client's state as its last command left it.
    view: View,
    /// The commands of all others, if the client asked to see them.
    feed: Option<Feed>,
    /// Messages that are on their way to the client.
    heard: Heard,
    /// Calls that were decoded and not run.
    calls: VecDeque<Call>,
    /// Bytes to ask the socket for, and how large the buffer for them has grown.
    room: usize,
    allocated: usize,
    /// The share of input and of the running job in the common budget.
    input_share: Share,
    job_bytes: usize,
    /// The share of unsent replies in the budget of all replies, beyond their free part.
    output_share: OutputShare,
    /// The room that was granted to the replies of the next calls.
    granted: Option<OutputShare>,
    /// Bytes of a reply that found no room: it is made when there is.
    room_wanted: Option<usize>,
    /// Bytes that were sent from the first on.
    sent_bytes: u64,
    /// Bytes that the client has taken since the deadline began.
    taken: usize,
    /// The last bytes to send; the input after them is not looked at.
    last_words: Option<Vec<u8>>,
    /// Nothing more will be read.
    input_over: bool,
    /// The client may still be sending input that is not read.
    linger: bool,
    phase: Phase,
    deadline: Option<Instant>,
    /// When the request that has arrived in part began to.
    arrives_since: Option<Instant>,
}

/// The part of a client's state that its connection needs while a job has the state.
#[derive(Clone, Copy, Debug)]
struct View {
    authenticated: bool,
    /// The client has turned its replies off.
    is_silent: bool,
    level: Durability,
    /// The client has subscribed to channels.
    is_subscribed: bool,
    /// The version of the protocol that it speaks.
    version: u8,
    /// Bytes of input that a transaction keeps.
    collected: usize,
}

impl View {
    fn of(client: &ClientState) -> Self {
        View {
            authenticated: client.settings.authenticated,
            is_silent: client.is_silent(),
            level: client.settings.durability,
            is_subscribed: client.settings.subscriptions.any(),
            version: client.settings.version,
            collected: client.bytes(),
        }
    }
}

/// The event that woke a connection's task.
enum Woken {
    Job(BatchResult, Box<ClientState>),
    Released,
    CanSend,
    CanRead,
    Late,
    Stop,
    /// The next of the commands that the client asked to see; none if it did not keep up.
    Shown(Option<Arc<Line>>),
    /// Messages of channels wait.
    Heard,
    /// Another client, or the server, wants the connection closed.
    Killed,
    /// The client has closed its side, or the connection, while its reply is kept back.
    Gone,
}

impl<E: KvsEngine, P: ThreadPool> Connection<E, P> {
    pub(crate) fn new(
        shared: Arc<Shared<E, P>>,
        stream: TcpStream,
        input_share: Share,
        state: &ClientState,
    ) -> Self {
        let has_password = !state.settings.authenticated;
        let mut session = Session::new(shared.limits.session).with_json(!has_password);
        session.set_authenticated(!has_password);
        let output_share = shared.output.none();
        Connection {
            shared,
            stream,
            session,
            gates: Gates::default(),
            client: state.entry.clone(),
            view: View::of(state),
            feed: None,
            heard: Heard::default(),
            calls: VecDeque::new(),
            room: READ_BYTES_MIN,
            allocated: 0,
            input_share,
            job_bytes: 0,
            output_share,
            granted: None,
            room_wanted: None,
            sent_bytes: 0,
            taken: 0,
            last_words: None,
            input_over: false,
            linger: false,
            phase: Phase::Working,
            deadline: None,
            arrives_since: None,
        }
    }

    /// Serves the client until one of the two is done, or `stop` says that the server is. An error
    /// means that the client is gone.
    pub(crate) async fn run(
        mut self,
        state: Box<ClientState>,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let client = self.client.clone();
        // Both stay in the lists of their wakers from the first request to the last: a request that
        // enters and leaves them pays for four locks.
        let (mut killed, mut stopped) = (pin!(client.killed()), pin!(stopped(&mut stop)));
        let mut turn = Turn::Ours(state);
        loop {
            let goes_on;
            (turn, goes_on) = self.advance(turn);
            let was_full = self.is_full();
            poll_fn(|context| self.release(context)).await;
            self.send()?;
            if goes_on || was_full && !self.is_full() {
                yield_now().await;
                continue;
            }
            if self.is_done(&turn) {
                break;
            }
            self.set_deadline(&turn);
            self.spare_input();
            match self.wait(&mut turn, killed.as_mut(), stopped.as_mut()).await {
                Woken::Job(result, state) => turn = self.take_result(result, state),
                Woken::Released | Woken::CanSend => {}
                Woken::CanRead => self.read()?,
                Woken::Late => {
                    if self.late().is_break() {
                        return Ok(());
                    }
                }
                Woken::Stop => self.stop(&turn)?,
                Woken::Shown(Some(line)) => self.show(&line),
                Woken::Heard => self.hear(),
                Woken::Shown(None) | Woken::Killed | Woken::Gone => return Ok(()),
            }
        }
        self.close().await
    }

    /// Lets the replies go that wait for no sync any more.
    fn release(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Connection { shared, session, gates, .. } = self;
        gates.ask(&shared.engine, session, &shared.clients.statistics.waits, context);
        Poll::Ready(())
    }

    async fn wait(
        &mut self,
        turn: &mut Turn,
        killed: Pin<&mut impl Future<Output = ()>>,
        stopped: Pin<&mut impl Future<Output = ()>>,
    ) -> Woken {
        // On our turn, and with room for replies, all that has arrived was looked at.
        let has_room = !self.is_full();
        let (is_busy, is_held) = (turn.is_busy(), matches!(turn, Turn::Held(_)));
        let Connection { shared, stream, session, gates, client, feed, heard, .. } = self;
        let can_read = !self.input_over && !is_busy && has_room;
        let can_show = !self.input_over
            && feed.is_some()
            && has_room
            && session.output_bytes() < FREE_OUTPUT_BYTES;
        let can_hear = self.view.is_subscribed && !self.input_over && !heard.is_full();
        let must_send = !session.output().is_empty();
        let must_release = gates.is_waiting();
        let deadline = self.deadline;
        tokio::select! {
            biased;
            // First: a client that always has something to say must not keep itself alive.
            () = killed => Woken::Killed,
            (result, state) = poll_fn(|context| turn.poll(context)), if is_busy
                => Woken::Job(result, state),
            () = poll_fn(|context| gates.poll(&shared.engine, session, &shared.clients.statistics.waits, context)), if must_release
                => Woken::Released,
            // These two keep one place each for the connection's waker, and no list.
            _ = poll_fn(|context| stream.poll_write_ready(context)), if must_send => Woken::CanSend,
            () = stopped, if !self.input_over => Woken::Stop,
            _ = poll_fn(|context| stream.poll_read_ready(context)), if can_read => Woken::CanRead,
            line = next_line(feed), if can_show => Woken::Shown(line),
            () = next_message(client), if can_hear => Woken::Heard,
            () = passed(deadline), if deadline.is_some() => Woken::Late,
            // In JSON the end of the input is how a client that asks once says that it asked.
            () = gone(stream, shared.limits.linger), if is_held && session.is_resp() => Woken::Gone,
        }
    }

    /// The server stops: input that has arrived is still answered, nothing more is read.
    fn stop(&mut self, turn: &Turn) -> io::Result<()> {
        if !turn.is_busy() && self.calls.is_empty() {
            self.read()?;
        }
        self.input_over = true;
        // A client that is silent will send no input that could destroy a reply.
        self.linger |=
            turn.is_busy() || self.session.input_bytes() > 0 || self.session.output_bytes() > 0;
        Ok(())
    }

    /// Whether all that was understood is answered and sent, and nothing more will be.
    fn is_done(&self, turn: &Turn) -> bool {
        self.input_over
            && !turn.is_busy()
            && self.calls.is_empty()
            && self.last_words.is_none()
            && self.session.output_bytes() == 0
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

/// Returns when a deadline has passed; never, if there is none. Makes its timer when it is polled, and
/// not for each wait.
async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// Returns when the client has closed its side, and some time to hear the replies to come has passed.
async fn gone(stream: &TcpStream, linger: Duration) {
    loop {
        match stream.ready(Interest::READABLE).await {
            Ok(ready) if !ready.is_read_closed() => sleep(GONE_PAUSE).await,
            Ok(_) | Err(_) => break,
        }
    }
    sleep(linger).await;
}

/// Returns when a message waits for a subscriber.
async fn next_message(client: &ClientHandle) {
    match client.subscriber() {
        Some(subscriber) => subscriber.inbox.arrived().await,
        None => pending().await,
    }
}

/// The next command of another client; never, if the client did not ask to see them.
async fn next_line(feed: &mut Option<Feed>) -> Option<Arc<Line>> {
    match feed {
        Some(feed) => feed.next().await,
        None => pending().await,
    }
}
