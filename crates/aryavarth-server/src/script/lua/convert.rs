//! Values of scripts as replies, and replies as values of scripts.
//!
//! Invariant: a reply has at most [`NESTING_MAX`] levels, and no more bytes than its limit, however
//! often a value stands in it.

use aryavarth_protocol::Reply;
use mlua::{Lua, Table, Value};

use super::problem;

/// The deepest nesting of a reply.
const NESTING_MAX: usize = 128;
/// Bytes that an element of a reply is counted for, beside its text.
const ELEMENT_COST: usize = 64;

const TOO_DEEP: &str = "ERR the script's result is nested deeper than 128 levels";

/// The reply that a script's value is, as redis has it; `version` is that of the script.
///
/// # Errors
/// The text of an error.
pub(super) fn to_reply(value: &Value, version: u8, bytes_max: usize) -> Result<Reply, String> {
    Conversion { version, left: bytes_max, bytes_max }.reply(value, 0)
}

struct Conversion {
    version: u8,
    left: usize,
    bytes_max: usize,
}

impl Conversion {
    fn take(&mut self, bytes: usize) -> Result<(), String> {
        self.left = self.left.checked_sub(bytes + ELEMENT_COST).ok_or_else(|| {
            format!("ERR the script's result is too large: the limit is {} bytes", self.bytes_max)
        })?;
        Ok(())
    }

    fn reply(&mut self, value: &Value, depth: usize) -> Result<Reply, String> {
        if depth > NESTING_MAX {
            return Err(TOO_DEEP.to_owned());
        }
        let bytes = if let Value::String(text) = value { text.as_bytes().len() } else { 0 };
        self.take(bytes)?;
        Ok(match value {
            Value::String(text) => Reply::Bulk(text.as_bytes().to_vec()),
            Value::Boolean(is) if self.version >= 3 => Reply::Boolean(*is),
            Value::Boolean(true) => Reply::Integer(1),
            Value::Integer(number) => Reply::Integer(*number),
            Value::Number(number) => Reply::Integer(truncated(*number)),
            Value::Table(table) => self.table(table, depth)?,
            _ => Reply::Null,
        })
    }

    fn table(&mut self, table: &Table, depth: usize) -> Result<Reply, String> {
        if let Value::String(text) = raw(table, "err") {
            self.take(text.as_bytes().len())?;
            return Ok(Reply::Error(text.as_bytes().to_vec().into()));
        }
        if let Value::String(text) = raw(table, "ok") {
            self.take(text.as_bytes().len())?;
            let line = text.to_string_lossy().replace(['\r', '\n'], " ");
            return Ok(Reply::Simple(line.into()));
        }
        match raw(table, "double") {
            Value::Number(number) => return Ok(Reply::Double(number)),
            #[expect(clippy::cast_precision_loss, reason = "it was a double before")]
            Value::Integer(number) => return Ok(Reply::Double(number as f64)),
            _ => {}
        }
        if let Value::Table(map) = raw(table, "map") {
            let mut pairs = Vec::new();
            for pair in map.pairs::<Value, Value>() {
                let (key, value) = pair.map_err(|error| problem::first_line(&error))?;
                pairs.push((self.reply(&key, depth + 1)?, self.reply(&value, depth + 1)?));
            }
            return Ok(Reply::Map(pairs));
        }
        if let Value::Table(set) = raw(table, "set") {
            let mut members = Vec::new();
            for pair in set.pairs::<Value, Value>() {
                let (member, _) = pair.map_err(|error| problem::first_line(&error))?;
                members.push(self.reply(&member, depth + 1)?);
            }
            return Ok(Reply::Set(members));
        }
        if let Value::String(digits) = raw(table, "big_number") {
            let digits = digits.to_string_lossy().replace(['\r', '\n'], " ");
            self.take(digits.len())?;
            return Ok(Reply::BigNumber(digits));
        }
        if let Value::Table(verbatim) = raw(table, "verbatim_string")
            && let (Value::String(text), Value::String(format)) =
                (raw(&verbatim, "string"), raw(&verbatim, "format"))
        {
            self.take(text.as_bytes().len())?;
            let format = if &*format.as_bytes() == b"mkd" { "mkd" } else { "txt" };
            return Ok(Reply::Verbatim(format, text.as_bytes().to_vec()));
        }
        self.array(table, depth)
    }

    /// The elements from 1 up to the first nil.
    fn array(&mut self, table: &Table, depth: usize) -> Result<Reply, String> {
        let mut elements = Vec::new();
        for at in 1_i64.. {
            let element = table.raw_get(at).unwrap_or(Value::Nil);
            if element.is_nil() {
                break;
            }
            elements.push(self.reply(&element, depth + 1)?);
        }
        Ok(Reply::Array(elements))
    }
}

fn raw(table: &Table, name: &str) -> Value {
    table.raw_get(name).unwrap_or(Value::Nil)
}

/// A number without its fraction; as on the processors that redis runs on, the lowest if it is none or
/// too large.
#[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
pub(super) fn truncated(number: f64) -> i64 {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if (-LIMIT..LIMIT).contains(&number) { number as i64 } else { i64::MIN }
}

/// The value that a reply is to a script.
pub(super) fn to_value(lua: &Lua, reply: &Reply, version: u8) -> mlua::Result<Value> {
    let field = |name: &str, value: Value| -> mlua::Result<Value> {
        let table = lua.create_table_with_capacity(0, 1)?;
        table.raw_set(name, value)?;
        Ok(Value::Table(table))
    };
    let text = |bytes: &[u8]| lua.create_string(bytes).map(Value::String);
    let is_3 = version >= 3;
    match reply {
        Reply::Integer(number) => Ok(Value::Integer(*number)),
        Reply::Simple(line) => field("ok", text(line.as_bytes())?),
        Reply::Error(line) => Ok(Value::Table(problem::error_table(lua, line)?)),
        Reply::Null | Reply::NullArray if is_3 => Ok(Value::Nil),
        Reply::Null | Reply::NullArray => Ok(Value::Boolean(false)),
        Reply::Boolean(is) if is_3 => Ok(Value::Boolean(*is)),
        Reply::Boolean(is) => Ok(Value::Integer(i64::from(*is))),
        Reply::Double(number) if is_3 => field("double", Value::Number(*number)),
        Reply::Double(number) => text(number_text(*number).as_bytes()),
        Reply::BigNumber(digits) if is_3 => field("big_number", text(digits.as_bytes())?),
        Reply::BigNumber(digits) => text(digits.as_bytes()),
        Reply::Verbatim(format, bytes) if is_3 => {
            let table = lua.create_table_with_capacity(0, 2)?;
            table.raw_set("string", text(bytes)?)?;
            table.raw_set("format", *format)?;
            field("verbatim_string", Value::Table(table))
        }
        Reply::Bulk(bytes) | Reply::Verbatim(_, bytes) => text(bytes),
        Reply::Map(pairs) if is_3 => {
            let map = lua.create_table_with_capacity(0, pairs.len())?;
            for (key, value) in pairs {
                map.raw_set(to_value(lua, key, version)?, to_value(lua, value, version)?)?;
            }
            field("map", Value::Table(map))
        }
        Reply::Set(members) if is_3 => {
            let set = lua.create_table_with_capacity(0, members.len())?;
            for member in members {
                set.raw_set(to_value(lua, member, version)?, true)?;
            }
            field("set", Value::Table(set))
        }
        Reply::Map(pairs) => {
            let flat = pairs.iter().flat_map(|(key, value)| [key, value]);
            array(lua, flat, version)
        }
        Reply::Array(parts) | Reply::Set(parts) | Reply::Push(parts) | Reply::Several(parts) => {
            array(lua, parts.iter(), version)
        }
        Reply::Attributed(_, reply) => to_value(lua, reply, version),
    }
}

fn array<'r>(
    lua: &Lua,
    parts: impl Iterator<Item = &'r Reply>,
    version: u8,
) -> mlua::Result<Value> {
    let table = lua.create_table()?;
    for (at, part) in parts.enumerate() {
        // Nothing in the middle of an array is a hole in RESP3.
        table.raw_set(at + 1, to_value(lua, part, version)?)?;
    }
    Ok(Value::Table(table))
}

/// A number as C's `%.17g` writes it.
pub(super) fn number_text(number: f64) -> String {
    number_text_of(number, 17)
}

/// A number as C's `%g` writes it, with so many digits.
pub(super) fn number_text_of(number: f64, digits: usize) -> String {
    let precision = digits.clamp(1, 17);
    if number.is_nan() {
        return if number.is_sign_negative() { "-nan" } else { "nan" }.to_owned();
    }
    if number.is_infinite() {
        return if number < 0.0 { "-inf" } else { "inf" }.to_owned();
    }
    let scientific = format!("{number:.0$e}", precision - 1);
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| {
        let text = if text.contains('.') { text.trim_end_matches('0') } else { text };
        text.trim_end_matches('.').to_owned()
    };
    let last = i32::try_from(precision).unwrap_or(17) - 1;
    if (-4..=last).contains(&exponent) {
        let decimals = usize::try_from(last - exponent).unwrap_or(0);
        return trim(&format!("{number:.decimals$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim(digits), exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_c_writes_them() {
        for (number, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-3.5, "-3.5"),
            (0.1, "0.10000000000000001"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (1.5e300, "1.5000000000000001e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1.0000000000000001e-05"),
            (123_456_789.125, "123456789.125"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(number_text(number), text);
        }
    }

    #[test]
    fn numbers_lose_their_fraction() {
        assert_eq!([3.99, -3.99, 0.0].map(truncated), [3, -3, 0]);
        assert_eq!([f64::NAN, f64::INFINITY, 1e19].map(truncated), [i64::MIN; 3]);
    }
}
