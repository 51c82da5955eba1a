//! One line of an export: a key, its value, its deadline and its database, as a JSON object.
//!
//! ```text
//! {"key":"user:1","value":"Alice"}
//! {"key_base64":"/w==","value_base64":"AAE=","deadline_ms":1798761600000,"db":3}
//! ```
//!
//! Invariant: a line is read as the entry that it was written of, to the byte.

use std::borrow::Cow;
use std::str;

use serde::{Deserialize, Serialize};

use crate::base64;

/// The fields of a line. Text stands as text, other bytes as base64.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    db: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(db: &u32) -> bool {
    *db == 0
}

/// An entry of a store.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    /// Milliseconds since 1970 from which on the key is gone; never if it is left out.
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) db: u32,
}

/// Appends the line of an entry to `out`, with its end.
pub(crate) fn write(
    key: &[u8],
    value: &[u8],
    deadline_ms: Option<u64>,
    db: u32,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    let (key, key_base64) = split(key);
    let (value, value_base64) = split(value);
    let line = Line { key, key_base64, value, value_base64, deadline_ms, db };
    serde_json::to_writer(&mut *out, &line)?;
    out.push(b'\n');
    Ok(())
}

/// Reads a line; the error says why it is not one of an export.
pub(crate) fn read(line: &[u8]) -> Result<Entry, String> {
    // serde takes the fields of an array by their places, too.
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err("a line is a JSON object".to_owned());
    }
    let line: Line<'_> = serde_json::from_slice(line).map_err(|error| reason(&error))?;
    let bytes =
        |name: &str, text: Option<Cow<'_, str>>, base64: Option<String>| match (text, base64) {
            (Some(text), None) => Ok(text.into_owned().into_bytes()),
            (None, Some(text)) => {
                base64::decode(&text).ok_or_else(|| format!("`{name}_base64` is not base64"))
            }
            (None, None) => Err(format!("neither `{name}` nor `{name}_base64` is there")),
            (Some(_), Some(_)) => Err(format!("both `{name}` and `{name}_base64` are there")),
        };
    if i64::try_from(line.deadline_ms.unwrap_or(1)).map_or(true, |deadline| deadline < 1) {
        return Err("`deadline_ms` is not a time in milliseconds since 1970".to_owned());
    }
    Ok(Entry {
        key: bytes("key", line.key, line.key_base64)?,
        value: bytes("value", line.value, line.value_base64)?,
        deadline_ms: line.deadline_ms,
        db: line.db,
    })
}

/// An error of JSON by its column: the number of the line is the caller's to say.
fn reason(error: &serde_json::Error) -> String {
    let (text, place) = (error.to_string(), format!(" at line {} column ", error.line()));
    match text.rsplit_once(&place) {
        Some((reason, column)) => format!("{reason} at byte {column} of the line"),
        None => text,
    }
}

/// Bytes as text, or else as base64.
pub(crate) fn split(bytes: &[u8]) -> (Option<Cow<'_, str>>, Option<String>) {
    match str::from_utf8(bytes) {
        Ok(text) => (Some(Cow::Borrowed(text)), None),
        Err(_not_text) => (None, Some(base64::encode(bytes))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(entry: &Entry) -> String {
        let mut out = Vec::new();
        write(&entry.key, &entry.value, entry.deadline_ms, entry.db, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_is_read_as_the_entry_it_was_written_of() {
        for (key, value, deadline_ms, db, line) in [
            (&b"k"[..], &b"v"[..], None, 0, r#"{"key":"k","value":"v"}"#),
            (b"", b"\n\"", Some(7), 0, r#"{"key":"","value":"\n\"","deadline_ms":7}"#),
            (b"\xff", b"\0", None, 3, r#"{"key_base64":"/w==","value":"\u0000","db":3}"#),
            (b"k", b"\xc3", None, 0, r#"{"key":"k","value_base64":"ww=="}"#),
        ] {
            let entry = Entry { key: key.into(), value: value.into(), deadline_ms, db };
            assert_eq!(written(&entry), format!("{line}\n"));
            assert_eq!(read(line.as_bytes()).unwrap(), entry);
        }
    }

    #[test]
    fn other_lines_are_refused_with_the_reason() {
        for (line, reason) in [
            (r#"{"key":"k"}"#, "neither `value`"),
            (r#"{"key":"k","key_base64":"","value":""}"#, "both `key`"),
            (r#"{"key_base64":"x","value":""}"#, "not base64"),
            (r#"{"key":"k","value":"v","ttl":1}"#, "unknown field"),
            (r#"{"key":"k","value":"v","deadline_ms":0}"#, "`deadline_ms`"),
            (r#"{"key":"k","value":"v","deadline_ms":-5}"#, "-5"),
            (r#"{"key":"k","value":"v","deadline_ms":18446744073709551615}"#, "`deadline_ms`"),
            (r#"{"key":7}"#, "7"),
            (r#"["k",null,"v",null]"#, "object"),
            ("key,value", "object"),
            ("{", "EOF"),
        ] {
            let error = read(line.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}
