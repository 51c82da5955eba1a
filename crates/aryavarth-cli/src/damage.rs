//! The damage command: the damaged places that a running server knows of, one line each.
//!
//! As of `verify`, damage is data and goes to standard output. The exit code is 0 only if nothing is
//! lost.

use std::collections::BTreeMap;

use aryavarth_client::{ClientError, Value};
use serde::Serialize;

use crate::args::To;
use crate::base64;
use crate::connect::connect;
use crate::output::{Failure, Output, counted, read_or_not, say};

/// Places that are asked for: the most that a server lists.
const PLACES: &str = "1000";

pub(crate) fn run(to: &To, output: &Output) -> Result<(), Failure> {
    let reply = connect(to, 0)?.command(&["ARYAVARTH", "DAMAGE", "COUNT", PLACES])?;
    let report = Report::of(reply).ok_or_else(unexpected)?;
    read_or_not(report.print(output))?;
    let summary = serde_json::json!({ "places": report.places, "losses": report.losses, "good": report.losses == 0 });
    read_or_not(output.summary(&summary))?;
    let unlisted = report.places.saturating_sub(report.listed.len() as u64);
    if unlisted > 0 {
        say(format_args!("and {}", counted(unlisted, "more damaged place", "more damaged places")));
    }
    let dead = report.places.saturating_sub(report.losses);
    if dead > 0 {
        say(format_args!(
            "{}: the keys were written again, and `aryavarth compact` takes the damage away",
            counted(dead, "damaged record is dead", "damaged records are dead")
        ));
    }
    if report.places == 0 {
        say("no damage is known; the server reads its sealed files once a day");
    }
    if report.losses == 0 {
        return Ok(());
    }
    Err(Failure::Other(format!(
        "{}; all others are served. Write the keys named above again from their \
         source, or remove them; `aryavarth compact` then takes the damage away. To restore files from \
         a backup, or to save the whole records elsewhere, stop the server, and see `aryavarth verify` \
         and `aryavarth salvage`",
        counted(report.losses, "record is lost", "records are lost")
    )))
}

/// The reply of a server.
struct Report {
    places: u64,
    losses: u64,
    listed: Vec<Place>,
}

/// A damaged place, as `--json` writes it.
#[derive(Serialize)]
struct Place {
    path: String,
    offset: u64,
    bytes: u64,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_is_certain: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    db: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removal: Option<bool>,
    first_seen_ms: u64,
    lost: bool,
    #[serde(skip)]
    shown_key: Option<String>,
}

impl Report {
    fn of(reply: Value) -> Option<Report> {
        let mut fields = fields(reply)?;
        let listed = fields.remove("listed")?.into_array()?;
        Some(Report {
            places: number(&fields, "places")?,
            losses: number(&fields, "losses")?,
            listed: listed.into_iter().map(Place::of).collect::<Option<_>>()?,
        })
    }

    fn print(&self, output: &Output) -> Result<(), Failure> {
        self.listed.iter().try_for_each(|place| output.line(&place.text(), place))
    }
}

impl Place {
    fn of(reply: Value) -> Option<Place> {
        let mut fields = fields(reply)?;
        let mut bytes = |name: &str| fields.remove(name).and_then(Value::into_bytes);
        let mut text = |name: &str| Some(String::from_utf8_lossy(&bytes(name)?).into_owned());
        let (path, reason, verdict) = (text("file")?, text("reason")?, text("verdict")?);
        let key_bytes = bytes("key");
        let key = key_bytes.clone().and_then(|key| String::from_utf8(key).ok());
        let key_base64 = key_bytes.as_deref().filter(|_| key.is_none()).map(base64::encode);
        let is_certain = number(&fields, "key-is-certain").map(|is| is == 1);
        Some(Place {
            path,
            offset: number(&fields, "offset")?,
            bytes: number(&fields, "bytes")?,
            reason,
            key,
            key_base64,
            key_is_certain: key_bytes.is_some().then_some(is_certain).flatten(),
            db: number(&fields, "db"),
            removal: number(&fields, "removal").map(|is| is == 1),
            first_seen_ms: number(&fields, "first-seen-ms")?,
            lost: verdict == "loss",
            shown_key: key_bytes.map(|key| key.escape_ascii().to_string()),
        })
    }

    fn text(&self) -> String {
        let mut line = vec![format!("{}: byte {}: {}", self.path, self.offset, self.reason)];
        if self.bytes > 0 {
            line.push(format!("{} bytes", self.bytes));
        }
        if let Some(key) = &self.shown_key {
            let likely = if self.key_is_certain == Some(true) { "" } else { "likely " };
            let database = self.db.map_or(String::new(), |db| format!(" of database {db}"));
            line.push(format!("{likely}key {key}{database}"));
        }
        if self.removal == Some(true) {
            line.push("a removal".to_owned());
        }
        let verdict = if self.lost { "lost" } else { "nothing is lost by it" };
        line.push(verdict.to_owned());
        line.join("; ")
    }
}

/// The fields of a reply that is a list of names and values.
fn fields(reply: Value) -> Option<BTreeMap<String, Value>> {
    let mut items = reply.into_array()?.into_iter();
    let mut fields = BTreeMap::new();
    while let Some(name) = items.next() {
        fields.insert(String::from_utf8(name.into_bytes()?).ok()?, items.next()?);
    }
    Some(fields)
}

fn number(fields: &BTreeMap<String, Value>, name: &str) -> Option<u64> {
    u64::try_from(fields.get(name)?.as_integer()?).ok()
}

fn unexpected() -> Failure {
    ClientError::Protocol("it answered ARYAVARTH DAMAGE with something else".to_owned()).into()
}
