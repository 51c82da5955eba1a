//! Requests and responses of the JSON protocol.
//!
//! Both are JSON objects with one field that names the variant, which is the external form of
//! serde's enums: `{"Get":{"key":"k"}}` is answered by `{"Ok":"v"}`. Fields that are not known are
//! ignored, so that a newer client can talk to an older server.

use serde::{Deserialize, Serialize};

use crate::limits::Limits;

/// The message of the error for a key that does not exist; clients recognise it by its text.
pub const KEY_NOT_FOUND: &str = "Key not found";

/// A request in JSON.
///
/// ```
/// use aryavarth_protocol::Request;
///
/// let set = Request::Set { key: "user:1".into(), value: "Alice".into() };
/// let json = serde_json::to_string(&set)?;
/// assert_eq!(json, r#"{"Set":{"key":"user:1","value":"Alice"}}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Give a key a value. Answered by `{"Ok":null}` once it is durable.
    Set {
        /// The key; it may be empty.
        key: String,
        /// Its value.
        value: String,
    },
    /// The value of a key. Answered by `{"Ok":"v"}`, or `{"Ok":null}` for a key that is absent.
    Get {
        /// The key.
        key: String,
    },
    /// Remove a key. Answered by `{"Ok":null}`, or `{"Err":"Key not found"}` if it was absent.
    Remove {
        /// The key.
        key: String,
    },
    /// A page of keys and values, in the order of the keys' bytes. Answered by
    /// `{"Entries":[["k","v"],...]}`; a page with fewer entries than `limit` is the last.
    Scan {
        /// The beginning of the keys to list; all keys if it is empty or left out.
        #[serde(default)]
        prefix: String,
        /// Start behind this key; from the beginning if it is null or left out.
        #[serde(default)]
        after: Option<String>,
        /// The most entries that the page may have; 1,000 if it is left out.
        #[serde(default = "limit_default")]
        limit: u64,
    },
    /// Rewrite the files without dead records. Answered by `{"Ok":null}` when it is done.
    Compact {},
}

fn limit_default() -> u64 {
    1000
}

impl Request {
    /// Says which limit the request breaks, if any.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), String> {
        match self {
            Request::Set { key, value } => {
                check_bytes("key", key, limits.key_bytes_max)?;
                check_bytes("value", value, limits.value_bytes_max)
            }
            Request::Get { key } | Request::Remove { key } => {
                check_bytes("key", key, limits.key_bytes_max)
            }
            Request::Scan { prefix, after, limit } => {
                check_bytes("prefix", prefix, limits.key_bytes_max)?;
                check_bytes("after", after.as_deref().unwrap_or(""), limits.key_bytes_max)?;
                let most = limits.scan_entries_max as u64;
                if (1..=most).contains(limit) {
                    return Ok(());
                }
                Err(format!("a scan's limit is {limit}; 1 to {most} are possible"))
            }
            Request::Compact {} => Ok(()),
        }
    }
}

fn check_bytes(what: &str, text: &str, limit: usize) -> Result<(), String> {
    if text.len() <= limit {
        return Ok(());
    }
    Err(format!("the {what} is too large: {} bytes, the limit is {limit}", text.len()))
}

/// A reply in JSON.
///
/// ```
/// use aryavarth_protocol::Response;
///
/// assert_eq!(serde_json::to_string(&Response::Ok(None))?, r#"{"Ok":null}"#);
/// assert_eq!(serde_json::to_string(&Response::Ok(Some("v".into())))?, r#"{"Ok":"v"}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Done; with the value, if there is one.
    Ok(Option<String>),
    /// Not done, and why, in words for a person.
    Err(String),
    /// A page of a scan.
    Entries(Vec<(String, String)>),
}

impl Response {
    /// Bytes of text in the response: about its length on the wire.
    pub fn text_bytes(&self) -> usize {
        match self {
            Response::Ok(value) => value.as_deref().map_or(0, str::len),
            Response::Err(message) => message.len(),
            Response::Entries(entries) => entries.iter().map(|(k, v)| k.len() + v.len() + 6).sum(),
        }
    }

    /// Appends the response's line to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        if let Err(error) = serde_json::to_writer(&mut *out, self) {
            // Text always has a JSON form and memory takes it; should that ever change, the
            // client still gets one whole line.
            out.truncate(start);
            out.extend_from_slice(b"{\"Err\":\"the reply has no JSON form\"}");
            drop(error);
        }
        out.push(b'\n');
    }
}
