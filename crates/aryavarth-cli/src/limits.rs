//! The limits of `docs/protocol.md` as flags of the server, under names of their own.
//!
//! Invariant: each flag refuses a value that makes no sense before the store is opened, and says which
//! would.

use std::time::Duration;

use aryavarth::{KEY_BYTES_MAX, Options, VALUE_BYTES_MAX};
use aryavarth_server::{Limits, ScriptLimits};

use crate::output::Failure;
use crate::size::{count, size, time, whole_seconds};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// The largest size of a budget.
const BUDGET_MAX: usize = usize::MAX >> 1;
/// The longest command on the wire; its parts are counted in 32 bits.
const REQUEST_MAX: usize = u32::MAX as usize;
/// The deepest nesting that the decoder of JSON takes, less some.
const NESTING_MAX: usize = 100;
/// The longest time limit.
const TIME_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The shortest time of a request or a send.
const TIME_MIN: Duration = Duration::from_millis(10);

/// Limits on the memory, threads and time that clients can take.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits (sizes such as 100mb, times such as 30s or 500ms)")]
pub(crate) struct LimitOptions {
    /// The longest key
    #[arg(long, value_name = "SIZE", default_value = "65535")]
    #[arg(value_parser = size(1, KEY_BYTES_MAX, "65535"))]
    #[arg(env = "ARYAVARTH_KEY_MAX", hide_env_values = true)]
    key_max: usize,

    /// The largest value, and the longest argument of a command
    #[arg(long, value_name = "SIZE", default_value = "64mb")]
    #[arg(value_parser = size(1, VALUE_BYTES_MAX, "64mb"))]
    #[arg(env = "ARYAVARTH_VALUE_MAX", hide_env_values = true)]
    value_max: usize,

    /// The longest request on the wire
    #[arg(long, value_name = "SIZE", default_value = "256mb")]
    #[arg(value_parser = size(KIB, REQUEST_MAX, "256mb"))]
    #[arg(env = "ARYAVARTH_REQUEST_MAX", hide_env_values = true)]
    request_max: usize,

    /// The most arguments of a command
    #[arg(long, value_name = "N", default_value = "1048576")]
    #[arg(value_parser = count(16, 1 << 24, "1048576"))]
    #[arg(env = "ARYAVARTH_ARGUMENTS_MAX", hide_env_values = true)]
    arguments_max: usize,

    /// The longest line of the Redis protocol
    #[arg(long, value_name = "SIZE", default_value = "64kb")]
    #[arg(value_parser = size(64, 64 * MIB, "64kb"))]
    #[arg(env = "ARYAVARTH_LINE_MAX", hide_env_values = true)]
    line_max: usize,

    /// The deepest nesting of JSON
    #[arg(long, value_name = "N", default_value = "64")]
    #[arg(value_parser = count(2, NESTING_MAX, "64"))]
    #[arg(env = "ARYAVARTH_NESTING_MAX", hide_env_values = true)]
    nesting_max: usize,

    /// The most entries that a scan in JSON may ask for
    #[arg(long, value_name = "N", default_value = "10000")]
    #[arg(value_parser = count(1, 1 << 24, "10000"))]
    #[arg(env = "ARYAVARTH_SCAN_MAX", hide_env_values = true)]
    scan_max: usize,

    /// The largest text of a scan's page in JSON
    #[arg(long, value_name = "SIZE", default_value = "16mb")]
    #[arg(value_parser = size(KIB, BUDGET_MAX, "16mb"))]
    #[arg(env = "ARYAVARTH_SCAN_PAGE_MAX", hide_env_values = true)]
    scan_page_max: usize,

    /// Connections at a time; the system's limit of open files may allow fewer
    #[arg(long, value_name = "N", default_value = "10000")]
    #[arg(value_parser = count(1, 1 << 24, "10000"))]
    #[arg(env = "ARYAVARTH_CONNECTIONS_MAX", hide_env_values = true)]
    connections_max: usize,

    /// The time from a request's first byte to its last
    #[arg(long, value_name = "TIME", default_value = "30s")]
    #[arg(value_parser = time(TIME_MIN, TIME_MAX, "30s"))]
    #[arg(env = "ARYAVARTH_REQUEST_TIME", hide_env_values = true)]
    request_time: Duration,

    /// How long a connection may be idle, in whole seconds; 0 is for ever
    #[arg(long, value_name = "TIME", default_value = "0")]
    #[arg(value_parser = whole_seconds(TIME_MAX, "300s"))]
    #[arg(env = "ARYAVARTH_IDLE_TIME", hide_env_values = true)]
    idle_time: Duration,

    /// How long a client may take no byte of its replies
    #[arg(long, value_name = "TIME", default_value = "30s")]
    #[arg(value_parser = time(TIME_MIN, TIME_MAX, "30s"))]
    #[arg(env = "ARYAVARTH_SEND_TIME", hide_env_values = true)]
    send_time: Duration,

    /// Memory for input of all clients together that waits to be run
    #[arg(long, value_name = "SIZE", default_value = "256mb")]
    #[arg(value_parser = size(64 * KIB, BUDGET_MAX, "256mb"))]
    #[arg(env = "ARYAVARTH_INPUT_MAX", hide_env_values = true)]
    input_max: usize,

    /// The largest queue of one transaction
    #[arg(long, value_name = "SIZE", default_value = "128mb")]
    #[arg(value_parser = size(KIB, BUDGET_MAX, "128mb"))]
    #[arg(env = "ARYAVARTH_TRANSACTION_MAX", hide_env_values = true)]
    transaction_max: usize,

    /// Keys that a client may watch
    #[arg(long, value_name = "N", default_value = "4096")]
    #[arg(value_parser = count(1, 1 << 24, "4096"))]
    #[arg(env = "ARYAVARTH_WATCHED_MAX", hide_env_values = true)]
    watched_max: usize,

    /// Their bytes
    #[arg(long, value_name = "SIZE", default_value = "1mb")]
    #[arg(value_parser = size(KIB, BUDGET_MAX, "1mb"))]
    #[arg(env = "ARYAVARTH_WATCHED_BYTES_MAX", hide_env_values = true)]
    watched_bytes_max: usize,

    /// The largest reply of MGET, KEYS or EXEC
    #[arg(long, value_name = "SIZE", default_value = "256mb")]
    #[arg(value_parser = size(KIB, BUDGET_MAX, "256mb"))]
    #[arg(env = "ARYAVARTH_REPLY_MAX", hide_env_values = true)]
    reply_max: usize,

    /// Memory for replies that one client has not taken yet
    #[arg(long, value_name = "SIZE", default_value = "1mb")]
    #[arg(value_parser = size(KIB, BUDGET_MAX, "1mb"))]
    #[arg(env = "ARYAVARTH_CLIENT_OUTPUT_MAX", hide_env_values = true)]
    client_output_max: usize,

    /// Memory for replies that all clients together have not taken yet; a request whose reply finds
    /// no room waits until others have taken theirs
    #[arg(long, value_name = "SIZE", default_value = "256mb")]
    #[arg(value_parser = size(64 * KIB, BUDGET_MAX, "256mb"))]
    #[arg(env = "ARYAVARTH_OUTPUT_MAX", hide_env_values = true)]
    output_max: usize,

    /// Memory for messages that one subscriber has not taken yet; one with more is closed
    #[arg(long, value_name = "SIZE", default_value = "32mb")]
    #[arg(value_parser = size(KIB, BUDGET_MAX, "32mb"))]
    #[arg(env = "ARYAVARTH_SUBSCRIBER_MAX", hide_env_values = true)]
    subscriber_max: usize,

    /// Memory for messages that wait for all subscribers together; the slowest one is closed when
    /// another finds no room
    #[arg(long, value_name = "SIZE", default_value = "256mb")]
    #[arg(value_parser = size(KIB, BUDGET_MAX, "256mb"))]
    #[arg(env = "ARYAVARTH_MESSAGES_MAX", hide_env_values = true)]
    messages_max: usize,

    /// Memory for the names that all clients together have subscribed to
    #[arg(long, value_name = "SIZE", default_value = "64mb")]
    #[arg(value_parser = size(KIB, BUDGET_MAX, "64mb"))]
    #[arg(env = "ARYAVARTH_SUBSCRIPTIONS_MAX", hide_env_values = true)]
    subscriptions_max: usize,

    /// Jobs that may wait for a thread
    #[arg(long, value_name = "N", default_value = "8192")]
    #[arg(value_parser = count(1, 1 << 24, "8192"))]
    #[arg(env = "ARYAVARTH_JOBS_MAX", hide_env_values = true)]
    jobs_max: usize,

    /// Memory that one script may take
    #[arg(long, value_name = "SIZE", default_value = "64mb")]
    #[arg(value_parser = size(MIB, BUDGET_MAX, "64mb"))]
    #[arg(env = "ARYAVARTH_SCRIPT_MEMORY_MAX", hide_env_values = true)]
    script_memory_max: usize,

    /// Memory that all scripts together may take; as many run at once as it holds
    #[arg(long, value_name = "SIZE", default_value = "256mb")]
    #[arg(value_parser = size(MIB, BUDGET_MAX, "256mb"))]
    #[arg(env = "ARYAVARTH_SCRIPTS_MEMORY_MAX", hide_env_values = true)]
    scripts_memory_max: usize,

    /// How long a script may run
    #[arg(long, value_name = "TIME", default_value = "5s")]
    #[arg(value_parser = time(TIME_MIN, TIME_MAX, "5s"))]
    #[arg(env = "ARYAVARTH_SCRIPT_TIME", hide_env_values = true)]
    script_time: Duration,

    /// How long a script may run while no other client can write
    #[arg(long, value_name = "TIME", default_value = "1s")]
    #[arg(value_parser = time(TIME_MIN, TIME_MAX, "1s"))]
    #[arg(env = "ARYAVARTH_SCRIPT_LOCK_TIME", hide_env_values = true)]
    script_lock_time: Duration,

    /// The text of a script, and each that it compiles itself
    #[arg(long, value_name = "SIZE", default_value = "256kb")]
    #[arg(value_parser = size(KIB, BUDGET_MAX, "256kb"))]
    #[arg(env = "ARYAVARTH_SCRIPT_TEXT_MAX", hide_env_values = true)]
    script_text_max: usize,

    /// Scripts that are kept for EVALSHA; the least recently used leave
    #[arg(long, value_name = "N", default_value = "1000")]
    #[arg(value_parser = count(1, 1 << 24, "1000"))]
    #[arg(env = "ARYAVARTH_SCRIPTS_MAX", hide_env_values = true)]
    scripts_max: usize,

    /// Their bytes
    #[arg(long, value_name = "SIZE", default_value = "16mb")]
    #[arg(value_parser = size(KIB, BUDGET_MAX, "16mb"))]
    #[arg(env = "ARYAVARTH_SCRIPTS_BYTES_MAX", hide_env_values = true)]
    scripts_bytes_max: usize,
}

impl LimitOptions {
    /// The server's limits.
    ///
    /// # Errors
    /// Two flags that make no sense together.
    pub(crate) fn limits(&self) -> Result<Limits, Failure> {
        let raised = self.value_max > Limits::default().session.value_bytes_max;
        if raised && self.value_max >= self.request_max {
            return Err(Failure::Other(format!(
                "--value-max ({} bytes) is not below --request-max ({} bytes), so no value that large \
                 would arrive; raise --request-max, for example to {}mb, or lower --value-max",
                self.value_max,
                self.request_max,
                (self.value_max / MIB + 1) * 2,
            )));
        }
        let mut limits = Limits::default();
        limits.session.key_bytes_max = self.key_max;
        limits.session.value_bytes_max = self.value_max;
        limits.session.request_bytes_max = self.request_max;
        limits.session.arguments_max = self.arguments_max;
        limits.session.line_bytes_max = self.line_max;
        limits.session.nesting_max = self.nesting_max;
        limits.session.scan_entries_max = self.scan_max;
        limits.scan_bytes_max = self.scan_page_max;
        limits.connections_max = self.connections_max;
        limits.request_arrival = self.request_time;
        limits.idle = Some(self.idle_time).filter(|time| !time.is_zero());
        limits.send_stall = self.send_time;
        limits.input_bytes_max = self.input_max;
        limits.transaction_bytes_max = self.transaction_max;
        limits.watched_max = self.watched_max;
        limits.watched_bytes_max = self.watched_bytes_max;
        limits.reply_bytes_max = self.reply_max;
        limits.output_bytes_max = self.client_output_max;
        limits.output_bytes_max_total = self.output_max;
        limits.subscriber_bytes_max = self.subscriber_max;
        limits.message_bytes_max_total = self.messages_max;
        limits.subscription_bytes_max_total = self.subscriptions_max;
        limits.jobs_max = self.jobs_max;
        limits.scripts = ScriptLimits {
            memory_bytes_max: self.script_memory_max,
            memory_bytes_max_total: self.scripts_memory_max,
            time: self.script_time,
            locked_time: self.script_lock_time,
            text_bytes_max: self.script_text_max,
            cached_max: self.scripts_max,
            cached_bytes_max: self.scripts_bytes_max,
        };
        Ok(limits)
    }

    /// Lets a store take the values that the server takes.
    pub(crate) fn widen(&self, options: &mut Options) {
        options.value_bytes_max = options.value_bytes_max.max(self.value_max);
        options.batch_bytes_max = options.batch_bytes_max.max(2 * self.value_max);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn options(flags: &[&str]) -> LimitOptions {
        let args = Args::try_parse_from([&["aryavarth", "server"], flags].concat()).unwrap();
        let Command::Server(options) = args.command else { panic!("{args:?}") };
        options.limits
    }

    #[test]
    fn without_flags_the_limits_are_those_of_the_library() {
        assert_eq!(options(&[]).limits().unwrap(), Limits::default());
    }

    #[test]
    fn a_value_that_no_request_can_carry_is_refused_with_the_remedy() {
        let error = options(&["--value-max", "300mb"]).limits().unwrap_err().to_string();
        assert!(error.contains("raise --request-max, for example to 602mb"), "{error}");
        assert!(options(&["--value-max", "300mb", "--request-max", "602mb"]).limits().is_ok());
    }

    #[test]
    fn a_store_takes_the_values_that_the_server_takes() {
        let mut store = Options::default();
        options(&["--value-max", "1kb"]).widen(&mut store);
        assert_eq!(store.value_bytes_max, Options::default().value_bytes_max);
        options(&["--value-max", "512mb"]).widen(&mut store);
        assert_eq!((store.value_bytes_max, store.batch_bytes_max), (512 * MIB, 1024 * MIB));
    }
}
