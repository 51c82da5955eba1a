//! Requests on their way: their bytes, the meaning of each reply, and which may be sent again.
//!
//! Nothing here touches a socket, so both clients keep the same promises. A single call is a
//! pipeline of one.
//!
//! Invariants:
//! - A request is sent a second time only if that cannot do anything twice: if it only reads, or
//!   if the first attempt did not leave whole.
//! - Requests are sent again only from the first one without a reply on, so their order stands.

use std::io;

use aryavarth_protocol::{KEY_NOT_FOUND, Request, Response};

use crate::error::{ClientError, Result};

/// Requests to send at once. They are run one after another and answered in their order; the
/// writes among them become durable together, which is much faster than one by one. They are not
/// a transaction: each of them succeeds or fails by itself.
///
/// ```
/// use aryavarth_client::Pipeline;
///
/// let pipeline = Pipeline::new().set("a", "1").get("a").remove("b");
/// assert_eq!(pipeline.len(), 3);
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a pipeline does nothing until a client runs it"]
pub struct Pipeline {
    requests: Vec<Request>,
}

impl Pipeline {
    /// A pipeline without requests.
    pub fn new() -> Self {
        Pipeline::default()
    }

    /// Adds: set a key. Answered by [`Reply::Done`].
    pub fn set(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.with(Request::Set { key: key.into(), value: value.into() })
    }

    /// Adds: the value of a key. Answered by [`Reply::Value`].
    pub fn get(self, key: impl Into<String>) -> Self {
        self.with(Request::Get { key: key.into() })
    }

    /// Adds: remove a key. Answered by [`Reply::Done`], or [`ClientError::KeyNotFound`].
    pub fn remove(self, key: impl Into<String>) -> Self {
        self.with(Request::Remove { key: key.into() })
    }

    /// Adds: a page of a scan. Answered by [`Reply::Entries`].
    pub fn scan(self, prefix: impl Into<String>, after: Option<String>, limit: u64) -> Self {
        self.with(Request::Scan { prefix: prefix.into(), after, limit })
    }

    pub(crate) fn with(mut self, request: Request) -> Self {
        self.requests.push(request);
        self
    }

    /// How many requests it has.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

/// The server's answer to a request that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To a write: it is on the server's disk.
    Done,
    /// To a get: the value, if the key exists.
    Value(Option<String>),
    /// To a scan: keys and values.
    Entries(Vec<(String, String)>),
}

impl Reply {
    pub(crate) fn done(self) -> Result<()> {
        match self {
            Reply::Done => Ok(()),
            _ => Err(unexpected()),
        }
    }

    pub(crate) fn value(self) -> Result<Option<String>> {
        match self {
            Reply::Value(value) => Ok(value),
            _ => Err(unexpected()),
        }
    }

    pub(crate) fn entries(self) -> Result<Vec<(String, String)>> {
        match self {
            Reply::Entries(entries) => Ok(entries),
            _ => Err(unexpected()),
        }
    }
}

/// The outcome of one attempt to send requests and hear their replies.
#[derive(Default)]
pub(crate) struct Attempt {
    /// The replies, without their newlines.
    pub(crate) replies: Vec<Vec<u8>>,
    /// Bytes of the requests that left.
    pub(crate) sent_bytes: usize,
    /// Whether more came than was asked for.
    pub(crate) said_more: bool,
    /// Why there are no more replies, if some are missing.
    pub(crate) failure: Option<io::Error>,
}

/// The requests of a pipeline and their results so far.
pub(crate) struct Course {
    requests: Vec<Request>,
    bytes: Vec<u8>,
    /// Where each request ends in `bytes`.
    ends: Vec<usize>,
    /// The results of the first requests.
    results: Vec<Result<Reply>>,
    sent_again: bool,
}

impl Course {
    pub(crate) fn new(pipeline: Pipeline) -> Result<Course> {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for request in &pipeline.requests {
            // No newline behind it: only so does a request that did not leave whole lack its brace.
            serde_json::to_writer(&mut bytes, request).map_err(|error| not_ours(&error))?;
            ends.push(bytes.len());
        }
        let requests = pipeline.requests;
        Ok(Course { requests, bytes, ends, results: Vec::new(), sent_again: false })
    }

    /// Whether no request was ever sent.
    pub(crate) fn is_new(&self) -> bool {
        !self.sent_again
    }

    /// Whether every request has its result.
    pub(crate) fn is_done(&self) -> bool {
        self.results.len() == self.requests.len()
    }

    /// How many requests wait for their replies.
    pub(crate) fn replies_left(&self) -> usize {
        self.requests.len() - self.results.len()
    }

    /// The bytes of the requests that wait for their replies.
    pub(crate) fn bytes_left(&self) -> &[u8] {
        &self.bytes[self.settled_bytes()..]
    }

    /// Whether the replies may take as long as they want.
    pub(crate) fn is_patient(&self) -> bool {
        self.requests.iter().any(|request| matches!(request, Request::Compact {}))
    }

    fn settled_bytes(&self) -> usize {
        self.results.len().checked_sub(1).map_or(0, |last| self.ends[last])
    }

    /// Takes the results of an attempt. Requests without one have to be sent again. Returns
    /// whether the connection may be used again.
    pub(crate) fn take(&mut self, attempt: Attempt, addr: &str) -> bool {
        let sent_bytes = self.settled_bytes() + attempt.sent_bytes;
        for reply in &attempt.replies {
            self.results.push(decode(&self.requests[self.results.len()], reply));
        }
        let Some(failure) = attempt.failure else {
            // A server that answers another question is not trusted with the next one.
            let is_strange = |result: &Result<_>| matches!(result, Err(ClientError::Protocol(_)));
            let is_whole = sent_bytes == self.bytes.len() && !attempt.said_more;
            return is_whole && !self.results.iter().any(is_strange);
        };
        let sent = self.ends.iter().take_while(|end| **end <= sent_bytes).count();
        let answered = self.results.len();
        let unclear = self.requests.get(answered..sent).unwrap_or_default();
        if self.sent_again || !unclear.iter().all(only_reads) {
            self.settle(sent, &failure, addr);
        }
        self.sent_again = true;
        false
    }

    /// Gives up on the requests without a reply, of which none can have been run.
    pub(crate) fn unreachable(&mut self, error: &io::Error, addr: &str) {
        self.settle(0, error, addr);
    }

    /// Gives up on the requests without a reply, of which the first `sent` left.
    fn settle(&mut self, sent: usize, error: &io::Error, addr: &str) {
        for at in self.results.len()..self.requests.len() {
            let source = same(error);
            let result = match &self.requests[at] {
                _ if at >= sent => ClientError::Connect { addr: addr.to_owned(), source },
                request if only_reads(request) => ClientError::Lost { source },
                _ => ClientError::OutcomeUnknown { source },
            };
            self.results.push(Err(result));
        }
    }

    pub(crate) fn into_results(self) -> Vec<Result<Reply>> {
        self.results
    }
}

/// The result of a pipeline of one.
pub(crate) fn single(results: Vec<Result<Reply>>) -> Result<Reply> {
    results.into_iter().next().unwrap_or_else(|| Err(unexpected()))
}

fn only_reads(request: &Request) -> bool {
    matches!(request, Request::Get { .. } | Request::Scan { .. })
}

fn decode(request: &Request, reply: &[u8]) -> Result<Reply> {
    // A server with a password speaks no JSON, and says so as it speaks.
    if let Some(error) = reply.strip_prefix(b"-") {
        let text = String::from_utf8_lossy(error);
        return Err(ClientError::Server(text.trim_end().to_owned()));
    }
    let response = serde_json::from_slice(reply).map_err(|error| not_ours(&error))?;
    match (request, response) {
        (_, Response::Err(message)) if message == KEY_NOT_FOUND => Err(ClientError::KeyNotFound),
        (_, Response::Err(message)) => Err(ClientError::Server(message)),
        (Request::Get { .. }, Response::Ok(value)) => Ok(Reply::Value(value)),
        (Request::Scan { .. }, Response::Entries(entries)) => Ok(Reply::Entries(entries)),
        (
            Request::Set { .. } | Request::Remove { .. } | Request::Compact {},
            Response::Ok(None),
        ) => Ok(Reply::Done),
        _ => Err(unexpected()),
    }
}

fn not_ours(error: &serde_json::Error) -> ClientError {
    ClientError::Protocol(error.to_string())
}

fn unexpected() -> ClientError {
    ClientError::Protocol("it answered another question".to_owned())
}

/// The same error once more, for each request that it concerns.
fn same(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// The error of a read that took too long, which systems name differently.
pub(crate) fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "timed out")
}

/// The error of a connection that ends before its replies.
pub(crate) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed it")
}

/// A reply beyond the limit.
pub(crate) fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a reply is too long")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course() -> Course {
        Course::new(Pipeline::new().set("a", "1").get("b").remove("c")).unwrap()
    }

    /// An attempt that ended after so many bytes, with these replies.
    fn broken(sent_bytes: usize, replies: &[&str]) -> Attempt {
        let replies = replies.iter().map(|reply| reply.as_bytes().to_vec()).collect();
        Attempt { replies, sent_bytes, failure: Some(closed()), said_more: false }
    }

    #[test]
    fn what_did_not_leave_whole_is_sent_again_once() {
        let mut course = course();
        let first = course.ends[0];
        assert!(!course.take(broken(first - 1, &[]), "addr"));
        assert_eq!((course.is_done(), course.replies_left()), (false, 3));
        assert!(!course.take(broken(first - 1, &[]), "addr"));
        let results = course.into_results();
        assert!(results.iter().all(|result| matches!(result, Err(ClientError::Connect { .. }))));
    }

    #[test]
    fn what_comes_after_a_lost_write_is_known_not_to_have_been_run_if_it_did_not_leave() {
        let mut course = course();
        let second = course.ends[1];
        course.take(broken(second + 1, &[]), "addr");
        let results = course.into_results();
        assert!(matches!(results[0], Err(ClientError::OutcomeUnknown { .. })));
        assert!(matches!(results[1], Err(ClientError::Lost { .. })));
        assert!(matches!(results[2], Err(ClientError::Connect { .. })));
    }

    #[test]
    fn an_answered_write_is_not_sent_again_with_what_follows_it() {
        let mut course = course();
        let second = course.ends[1];
        course.take(broken(second, &["{\"Ok\":null}"]), "addr");
        let rest = r#"{"Get":{"key":"b"}}{"Remove":{"key":"c"}}"#;
        assert_eq!(course.bytes_left(), rest.as_bytes());
        course.unreachable(&closed(), "addr");
        let results = course.into_results();
        assert!(matches!(results[0], Ok(Reply::Done)));
        assert!(matches!(results[1], Err(ClientError::Connect { .. })));
    }

    #[test]
    fn a_connection_is_kept_only_if_it_is_in_step() {
        let whole = || Attempt {
            replies: vec![b"{\"Ok\":null}".to_vec(); 3],
            sent_bytes: course().bytes.len(),
            ..Attempt::default()
        };
        assert!(course().take(whole(), "addr"));
        assert!(!course().take(Attempt { said_more: true, ..whole() }, "addr"));
        assert!(!course().take(Attempt { sent_bytes: 1, ..whole() }, "addr"));
    }
}
