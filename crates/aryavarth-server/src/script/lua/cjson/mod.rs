//! `cjson`: JSON to values and back, as lua-cjson 2.1 has it.
//!
//! Invariants:
//! - Nesting is bounded: 1,000 levels each way, less where the script says so.
//! - An encoding has at most as many bytes as the script may have memory.

mod decode;

use std::cell::Cell;
use std::rc::Rc;

use mlua::{LightUserData, Lua, LuaString, MultiValue, Table, Value};

use super::calls::Arguments;
use super::control::Control;
use super::{convert, problem};
use decode::Decoder;

/// The deepest nesting that a script may ask for.
const NESTING_MAX: usize = 1_000;
/// Bytes of a text that are written between two looks at the memory.
const PART_BYTES: usize = 64 << 10;

/// The settings that a script may change; each run begins with these.
#[derive(Debug)]
pub(super) struct Settings {
    sparse_convert: Cell<bool>,
    sparse_ratio: Cell<i64>,
    sparse_safe: Cell<i64>,
    encode_depth: Cell<usize>,
    decode_depth: Cell<usize>,
    digits: Cell<usize>,
    /// Whether numbers that are none are written, and as null.
    encode_invalid: Cell<Invalid>,
    decode_invalid: Cell<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Invalid {
    Refused,
    Written,
    Null,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            sparse_convert: Cell::new(false),
            sparse_ratio: Cell::new(2),
            sparse_safe: Cell::new(10),
            encode_depth: Cell::new(NESTING_MAX),
            decode_depth: Cell::new(NESTING_MAX),
            digits: Cell::new(14),
            encode_invalid: Cell::new(Invalid::Refused),
            decode_invalid: Cell::new(true),
        }
    }
}

impl Settings {
    /// The settings of a new run.
    pub(super) fn reset(&self) {
        let new = Settings::default();
        self.sparse_convert.swap(&new.sparse_convert);
        self.sparse_ratio.swap(&new.sparse_ratio);
        self.sparse_safe.swap(&new.sparse_safe);
        self.encode_depth.swap(&new.encode_depth);
        self.decode_depth.swap(&new.decode_depth);
        self.digits.swap(&new.digits);
        self.encode_invalid.swap(&new.encode_invalid);
        self.decode_invalid.swap(&new.decode_invalid);
    }
}

/// The table `cjson`.
pub(super) fn table(lua: &Lua, control: &Rc<Control>) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("_NAME", "cjson")?;
    table.raw_set("_VERSION", "2.1.0")?;
    table.raw_set("null", Value::LightUserData(LightUserData(std::ptr::null_mut())))?;
    let own = Rc::clone(control);
    let encode = move |lua: &Lua, values: MultiValue| {
        let only = only(lua, "encode", values)?;
        let mut encoder = Encoder { lua, control: &own, text: Vec::new() };
        encoder.value(&only.value(1), 0)?;
        lua.create_string(encoder.text)
    };
    table.raw_set("encode", lua.create_function(encode)?)?;
    let own = Rc::clone(control);
    let decode = move |lua: &Lua, values: MultiValue| {
        let text = only(lua, "decode", values)?.text(1)?;
        let text = &*text.as_bytes();
        if text.len() >= 2 && (text[0] == 0 || text[1] == 0) {
            let problem = "JSON parser does not support UTF-16 or UTF-32";
            return Err(problem::complain(lua, problem));
        }
        own.pay(lua, text.len())?;
        Decoder::new(lua, &own, text).document()
    };
    table.raw_set("decode", lua.create_function(decode)?)?;
    settings(lua, &table, control)?;
    Ok(table)
}

fn only<'a>(lua: &'a Lua, name: &'static str, values: MultiValue) -> mlua::Result<Arguments<'a>> {
    let args = Arguments { lua, name, values };
    if args.values.len() == 1 { Ok(args) } else { Err(args.bad(1, "expected 1 argument")) }
}

/// The functions that change settings, which return them.
fn settings(lua: &Lua, table: &Table, control: &Rc<Control>) -> mlua::Result<()> {
    type Pick = fn(&Settings) -> &Cell<usize>;
    let numbers: [(&'static str, Pick, usize); 3] = [
        ("encode_max_depth", |settings| &settings.encode_depth, NESTING_MAX),
        ("decode_max_depth", |settings| &settings.decode_depth, NESTING_MAX),
        ("encode_number_precision", |settings| &settings.digits, 14),
    ];
    for (name, pick, most) in numbers {
        let own = Rc::clone(control);
        let change = move |lua: &Lua, values: MultiValue| {
            let args = Arguments { lua, name, values };
            let cell = pick(&own.json);
            if !args.value(1).is_nil() {
                let wanted = usize::try_from(args.integer(1)?).unwrap_or(0);
                if wanted == 0 || name == "encode_number_precision" && wanted > most {
                    let text = format!("expected integer between 1 and {most}");
                    return Err(args.bad(1, &text));
                }
                cell.set(wanted.min(most));
            }
            Ok(cell.get())
        };
        table.raw_set(name, lua.create_function(change)?)?;
    }
    let own = Rc::clone(control);
    let sparse = move |lua: &Lua, values: MultiValue| {
        let args = Arguments { lua, name: "encode_sparse_array", values };
        if let Value::Boolean(converts) = args.value(1) {
            own.json.sparse_convert.set(converts);
        }
        own.json.sparse_ratio.set(args.integer_or(2, own.json.sparse_ratio.get())?);
        own.json.sparse_safe.set(args.integer_or(3, own.json.sparse_safe.get())?);
        let json = &own.json;
        Ok((json.sparse_convert.get(), json.sparse_ratio.get(), json.sparse_safe.get()))
    };
    table.raw_set("encode_sparse_array", lua.create_function(sparse)?)?;
    let own = Rc::clone(control);
    let invalid = move |lua: &Lua, value: Value| {
        let chosen = match &value {
            Value::Boolean(true) => Some(Invalid::Written),
            Value::Boolean(false) => Some(Invalid::Refused),
            Value::String(text) if &*text.as_bytes() == b"null" => Some(Invalid::Null),
            Value::String(text) if &*text.as_bytes() == b"on" => Some(Invalid::Written),
            Value::String(text) if &*text.as_bytes() == b"off" => Some(Invalid::Refused),
            _ => None,
        };
        let cell = &own.json.encode_invalid;
        cell.set(chosen.unwrap_or(cell.get()));
        Ok(match cell.get() {
            Invalid::Refused => Value::Boolean(false),
            Invalid::Written => Value::Boolean(true),
            Invalid::Null => Value::String(lua.create_string("null")?),
        })
    };
    table.raw_set("encode_invalid_numbers", lua.create_function(invalid)?)?;
    let own = Rc::clone(control);
    let invalid = move |_: &Lua, value: Value| {
        if let Value::Boolean(takes) = value {
            own.json.decode_invalid.set(takes);
        }
        Ok(own.json.decode_invalid.get())
    };
    table.raw_set("decode_invalid_numbers", lua.create_function(invalid)?)?;
    table.raw_set("encode_keep_buffer", lua.create_function(|_, _: MultiValue| Ok(true))?)?;
    Ok(())
}

/// Writes a value as JSON.
struct Encoder<'a> {
    lua: &'a Lua,
    control: &'a Control,
    text: Vec<u8>,
}

impl Encoder<'_> {
    fn refuse(&self, kind: &str, why: &str) -> mlua::Error {
        problem::complain(self.lua, format_args!("Cannot serialise {kind}: {why}"))
    }

    fn value(&mut self, value: &Value, depth: usize) -> mlua::Result<()> {
        self.control.step(self.lua, 1)?;
        self.control.room(self.lua, self.text.len())?;
        match value {
            Value::Nil => self.text.extend_from_slice(b"null"),
            Value::Boolean(is) => self.text.extend_from_slice(is.to_string().as_bytes()),
            Value::LightUserData(pointer) if pointer.0.is_null() => {
                self.text.extend_from_slice(b"null");
            }
            Value::String(text) => self.string(text)?,
            #[expect(clippy::cast_precision_loss, reason = "it was a double before")]
            Value::Integer(number) => self.number(*number as f64)?,
            Value::Number(number) => self.number(*number)?,
            Value::Table(table) => self.table(table, depth + 1)?,
            other => return Err(self.refuse(other.type_name(), "type not supported")),
        }
        Ok(())
    }

    fn number(&mut self, number: f64) -> mlua::Result<()> {
        if !number.is_finite() {
            match self.control.json.encode_invalid.get() {
                Invalid::Refused => {
                    return Err(self.refuse("number", "must not be NaN or Inf"));
                }
                Invalid::Null => {
                    self.text.extend_from_slice(b"null");
                    return Ok(());
                }
                Invalid::Written => {}
            }
        }
        let text = convert::number_text_of(number, self.control.json.digits.get());
        self.text.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn string(&mut self, text: &LuaString) -> mlua::Result<()> {
        self.text.push(b'"');
        for part in text.as_bytes().chunks(PART_BYTES) {
            self.control.pay(self.lua, part.len())?;
            self.control.room(self.lua, self.text.len() + part.len())?;
            self.escaped(part);
        }
        self.text.push(b'"');
        Ok(())
    }

    fn escaped(&mut self, part: &[u8]) {
        for byte in part {
            let escape: &[u8] = match byte {
                b'"' => b"\\\"",
                b'\\' => b"\\\\",
                b'/' => b"\\/",
                0x08 => b"\\b",
                b'\t' => b"\\t",
                b'\n' => b"\\n",
                0x0c => b"\\f",
                b'\r' => b"\\r",
                0..0x20 | 0x7f => {
                    self.text.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
                    continue;
                }
                other => std::slice::from_ref(other),
            };
            self.text.extend_from_slice(escape);
        }
    }

    /// The length of a table that is an array; `None` if it is an object.
    fn length(&self, table: &Table) -> mlua::Result<Option<i64>> {
        let (mut most, mut count) = (0, 0);
        for pair in table.pairs::<Value, Value>() {
            self.control.step(self.lua, 1)?;
            match pair?.0 {
                Value::Integer(at) if at >= 1 => most = most.max(at),
                _ => return Ok(None),
            }
            count += 1;
        }
        let json = &self.control.json;
        let (ratio, safe) = (json.sparse_ratio.get(), json.sparse_safe.get());
        if ratio > 0 && most > safe && most > ratio.saturating_mul(count) {
            if !json.sparse_convert.get() {
                return Err(self.refuse("table", "excessively sparse array"));
            }
            return Ok(None);
        }
        Ok((most > 0).then_some(most))
    }

    fn table(&mut self, table: &Table, depth: usize) -> mlua::Result<()> {
        if depth > self.control.json.encode_depth.get() {
            let text = format!("Cannot serialise, excessive nesting ({depth})");
            return Err(problem::complain(self.lua, text));
        }
        if let Some(length) = self.length(table)? {
            self.text.push(b'[');
            for at in 1..=length {
                if at > 1 {
                    self.text.push(b',');
                }
                self.value(&table.raw_get(at)?, depth)?;
            }
            self.text.push(b']');
            return Ok(());
        }
        self.text.push(b'{');
        let mut is_first = true;
        for pair in table.pairs::<Value, Value>() {
            let (key, value) = pair?;
            if !std::mem::take(&mut is_first) {
                self.text.push(b',');
            }
            match &key {
                Value::String(key) => self.string(key)?,
                Value::Integer(_) | Value::Number(_) => {
                    self.text.push(b'"');
                    self.value(&key, depth)?;
                    self.text.push(b'"');
                }
                other => {
                    let kind = other.type_name();
                    return Err(self.refuse(kind, "table key must be a number or string"));
                }
            }
            self.text.push(b':');
            self.value(&value, depth)?;
        }
        self.text.push(b'}');
        Ok(())
    }
}
