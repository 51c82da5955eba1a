//! The server's counters: work done, and every refusal by its reason.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the server was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Connections that are open.
    pub connections: u64,
    /// Connections accepted, refused ones not included.
    pub connections_accepted: u64,
    /// Connections refused because there were too many.
    pub connections_refused: u64,
    /// Connections that the system could not hand over.
    pub accept_errors: u64,
    /// Requests run.
    pub requests: u64,
    /// Requests refused because they make no sense or break a limit.
    pub requests_invalid: u64,
    /// Requests refused because too many were waiting.
    pub requests_busy: u64,
    /// Requests whose engine call panicked.
    pub requests_panicked: u64,
    /// Connections closed because their input is not the protocol.
    pub sessions_broken: u64,
    /// Connections closed because a request took too long to arrive.
    pub arrivals_timed_out: u64,
    /// Connections closed because they were idle for too long.
    pub idle_timed_out: u64,
    /// Connections closed because the client did not take its replies.
    pub sends_timed_out: u64,
    /// Connections closed because too much input was waiting in all.
    pub input_refused: u64,
}

macro_rules! live_counters {
    ($($name:ident),* $(,)?) => {
        /// The same, live. Each count stands alone, so no order between them is needed.
        #[derive(Debug, Default)]
        pub(crate) struct LiveCounters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl LiveCounters {
            pub(crate) fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

live_counters!(
    connections,
    connections_accepted,
    connections_refused,
    accept_errors,
    requests,
    requests_invalid,
    requests_busy,
    requests_panicked,
    sessions_broken,
    arrivals_timed_out,
    idle_timed_out,
    sends_timed_out,
    input_refused,
);

/// Takes back `n` that were counted before they happened.
pub(crate) fn uncount(counter: &AtomicU64, n: usize) {
    counter.fetch_sub(n as u64, Ordering::Relaxed);
}

/// Adds `n` to a count.
pub(crate) fn count(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}
