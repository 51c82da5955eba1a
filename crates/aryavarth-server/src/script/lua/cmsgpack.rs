//! `cmsgpack`: `MessagePack` to values and back, as lua-cmsgpack 0.4 has it.
//!
//! Invariant: tables nest at most [`NESTING_MAX`] levels: deeper ones are written as nil, and refused
//! when they are read.

use std::rc::Rc;

use mlua::{Lua, MultiValue, Table, Value};

use super::calls::Arguments;
use super::control::Control;
use super::{convert, problem};

/// The deepest nesting of tables.
const NESTING_MAX: usize = 16;
const BAD: &str = "Bad data format in input.";
const MISSING: &str = "Missing bytes in input.";

/// The table `cmsgpack`.
pub(super) fn table(lua: &Lua, control: &Rc<Control>) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("_NAME", "cmsgpack")?;
    table.raw_set("_VERSION", "lua-cmsgpack 0.4.0")?;
    table.raw_set("_COPYRIGHT", "Copyright (C) 2012, Salvatore Sanfilippo")?;
    table.raw_set("_DESCRIPTION", "MessagePack C implementation for Lua")?;
    let own = Rc::clone(control);
    let pack = move |lua: &Lua, values: MultiValue| {
        if values.is_empty() {
            let text = "bad argument #0 to 'pack' (MessagePack pack needs input.)";
            return Err(problem::complain(lua, text));
        }
        let mut packer = Packer { lua, control: &own, bytes: Vec::new() };
        for value in &values {
            packer.value(value, 0)?;
        }
        lua.create_string(packer.bytes)
    };
    table.raw_set("pack", lua.create_function(pack)?)?;
    let readers: [(&'static str, Reading); 3] = [
        ("unpack", |_| Ok((i64::MAX, 0, false))),
        ("unpack_one", |args| Ok((1, args.integer_or(2, 0)?, true))),
        ("unpack_limit", |args| {
            let limit = args.integer(2)?;
            Ok((limit, args.integer_or(3, 0)?, limit != 0))
        }),
    ];
    for (name, reading) in readers {
        let own = Rc::clone(control);
        let unpack = move |lua: &Lua, values: MultiValue| {
            let args = Arguments { lua, name, values };
            unpack(&args, &own, reading(&args)?)
        };
        table.raw_set(name, lua.create_function(unpack)?)?;
    }
    Ok(table)
}

/// How many values to read, from which place on, and whether to return the place after them.
type Reading = fn(&Arguments<'_>) -> mlua::Result<(i64, i64, bool)>;

fn unpack(
    args: &Arguments<'_>,
    control: &Control,
    (limit, offset, returns_place): (i64, i64, bool),
) -> mlua::Result<MultiValue> {
    let lua = args.lua;
    let text = args.text(1)?;
    let bytes = &*text.as_bytes();
    if limit < 0 || offset < 0 {
        let text = format!(
            "Invalid request to unpack with offset of {offset} and limit of {}.",
            bytes.len()
        );
        return Err(problem::complain(lua, text));
    }
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let Some(rest) = bytes.get(from..) else {
        let text = format!("Start offset {offset} greater than input length {}.", bytes.len());
        return Err(problem::complain(lua, text));
    };
    let limit = if limit == 0 { i64::MAX } else { limit };
    let (mut reader, mut values) = (Unpacker { lua, control, rest }, Vec::new());
    while !reader.rest.is_empty() && i64::try_from(values.len()).unwrap_or(i64::MAX) < limit {
        if values.len() >= VALUES_MAX {
            return Err(problem::complain(lua, "too many values to unpack"));
        }
        values.push(reader.value(0)?);
    }
    if returns_place {
        let at = bytes.len() - reader.rest.len();
        let place = if reader.rest.is_empty() { -1 } else { i64::try_from(at).unwrap_or(-1) };
        values.insert(0, Value::Integer(place));
    }
    Ok(values.into_iter().collect())
}

/// Values that one call returns at most: they lie on the machine's stack.
const VALUES_MAX: usize = 7_000;

/// Writes values.
struct Packer<'a> {
    lua: &'a Lua,
    control: &'a Control,
    bytes: Vec<u8>,
}

impl Packer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> mlua::Result<()> {
        self.control.step(self.lua, 1)?;
        self.control.room(self.lua, self.bytes.len())?;
        match value {
            Value::String(text) => self.text(&text.as_bytes())?,
            Value::Boolean(is) => self.bytes.push(if *is { 0xc3 } else { 0xc2 }),
            Value::Integer(number) => self.integer(*number),
            Value::Number(number) => self.number(*number),
            Value::Table(table) if depth < NESTING_MAX => self.table(table, depth + 1)?,
            _ => self.bytes.push(0xc0),
        }
        Ok(())
    }

    /// A head: short ones in one byte, longer ones as a kind and a length in 8 bits (if there is such
    /// a kind), 16 or 32.
    fn head(&mut self, length: usize, short: (u8, usize), kinds: (Option<u8>, u8, u8)) {
        let (base, most) = short;
        let (byte, word, long) = kinds;
        if length <= most {
            self.bytes.push(base | u8::try_from(length).unwrap_or(0));
        } else if let (Some(kind), Ok(length)) = (byte, u8::try_from(length)) {
            self.bytes.extend_from_slice(&[kind, length]);
        } else if let Ok(length) = u16::try_from(length) {
            self.bytes.push(word);
            self.bytes.extend_from_slice(&length.to_be_bytes());
        } else {
            self.bytes.push(long);
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            self.bytes.extend_from_slice(&length.to_be_bytes());
        }
    }

    fn text(&mut self, text: &[u8]) -> mlua::Result<()> {
        self.control.pay(self.lua, text.len())?;
        self.control.room(self.lua, self.bytes.len() + text.len())?;
        self.head(text.len(), (0xa0, 31), (Some(0xd9), 0xda, 0xdb));
        self.bytes.extend_from_slice(text);
        Ok(())
    }

    fn number(&mut self, number: f64) {
        let whole = convert::truncated(number);
        #[expect(clippy::cast_precision_loss, clippy::float_cmp, reason = "a loss is seen")]
        if whole as f64 == number {
            return self.integer(whole);
        }
        #[expect(clippy::cast_possible_truncation, reason = "the comparison sees a loss")]
        let short = number as f32;
        if f64::from(short).to_bits() == number.to_bits() {
            self.bytes.push(0xca);
            self.bytes.extend_from_slice(&short.to_be_bytes());
        } else {
            self.bytes.push(0xcb);
            self.bytes.extend_from_slice(&number.to_be_bytes());
        }
    }

    fn integer(&mut self, number: i64) {
        let bytes = &mut self.bytes;
        let mut kind = |kind: u8, digits: &[u8]| {
            bytes.push(kind);
            bytes.extend_from_slice(digits);
        };
        match number {
            -32..=0x7f => kind(number.to_le_bytes()[0], &[]),
            0x80..=0xff => kind(0xcc, &number.to_be_bytes()[7..]),
            0x100..=0xffff => kind(0xcd, &number.to_be_bytes()[6..]),
            0x1_0000..=0xffff_ffff => kind(0xce, &number.to_be_bytes()[4..]),
            0x1_0000_0000.. => kind(0xcf, &number.to_be_bytes()),
            -128..=-33 => kind(0xd0, &number.to_be_bytes()[7..]),
            -32_768..=-129 => kind(0xd1, &number.to_be_bytes()[6..]),
            -2_147_483_648..=-32_769 => kind(0xd2, &number.to_be_bytes()[4..]),
            _ => kind(0xd3, &number.to_be_bytes()),
        }
    }

    fn table(&mut self, table: &Table, depth: usize) -> mlua::Result<()> {
        let (mut most, mut count, mut is_array) = (0, 0, true);
        for pair in table.pairs::<Value, Value>() {
            self.control.step(self.lua, 1)?;
            match pair?.0 {
                Value::Integer(at) if at >= 1 => most = most.max(at),
                _ => is_array = false,
            }
            count += 1_usize;
        }
        if is_array && usize::try_from(most) == Ok(count) {
            self.head(count, (0x90, 15), (None, 0xdc, 0xdd));
            for at in 1..=most {
                self.value(&table.raw_get(at)?, depth)?;
            }
            return Ok(());
        }
        self.head(count, (0x80, 15), (None, 0xde, 0xdf));
        for pair in table.pairs::<Value, Value>() {
            let (key, value) = pair?;
            self.value(&key, depth)?;
            self.value(&value, depth)?;
        }
        Ok(())
    }
}

/// Reads values.
struct Unpacker<'a> {
    lua: &'a Lua,
    control: &'a Control,
    rest: &'a [u8],
}

impl<'a> Unpacker<'a> {
    fn take(&mut self, count: usize) -> mlua::Result<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(problem::complain(self.lua, MISSING));
        };
        self.rest = rest;
        Ok(taken)
    }

    /// An unsigned number of so many bytes.
    fn number(&mut self, count: usize) -> mlua::Result<u64> {
        Ok(self.take(count)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn length(&mut self, count: usize) -> mlua::Result<usize> {
        Ok(usize::try_from(self.number(count)?).unwrap_or(usize::MAX))
    }

    fn text(&mut self, length: usize) -> mlua::Result<Value> {
        let text = self.take(length)?;
        self.control.pay(self.lua, length)?;
        Ok(Value::String(self.lua.create_string(text)?))
    }

    /// A signed number of so many bytes.
    fn signed(&mut self, count: usize) -> mlua::Result<Value> {
        let shift = 64 - 8 * count;
        Ok(Value::Integer((self.number(count)? << shift).cast_signed() >> shift))
    }

    fn value(&mut self, depth: usize) -> mlua::Result<Value> {
        self.control.step(self.lua, 1)?;
        let kind = self.take(1)?[0];
        Ok(match kind {
            0..=0x7f => Value::Integer(i64::from(kind)),
            0xe0..=0xff => Value::Integer(i64::from(kind.cast_signed())),
            0x80..=0x8f => self.map(usize::from(kind & 0x0f), depth)?,
            0x90..=0x9f => self.array(usize::from(kind & 0x0f), depth)?,
            0xa0..=0xbf => self.text(usize::from(kind & 0x1f))?,
            0xc0 => Value::Nil,
            0xc2 => Value::Boolean(false),
            0xc3 => Value::Boolean(true),
            0xca => {
                let bits = u32::try_from(self.number(4)?).unwrap_or(0);
                Value::Number(f64::from(f32::from_bits(bits)))
            }
            0xcb => Value::Number(f64::from_bits(self.number(8)?)),
            #[expect(clippy::cast_precision_loss, reason = "numbers of Lua are doubles")]
            0xcc..=0xcf => Value::Number(self.number(1 << (kind - 0xcc))? as f64),
            0xd0..=0xd3 => self.signed(1 << (kind - 0xd0))?,
            0xd9..=0xdb => {
                let length = self.length(1 << (kind - 0xd9))?;
                self.text(length)?
            }
            0xdc | 0xdd => {
                let length = self.length(2 << (kind - 0xdc))?;
                self.array(length, depth)?
            }
            0xde | 0xdf => {
                let length = self.length(2 << (kind - 0xde))?;
                self.map(length, depth)?
            }
            _ => return Err(problem::complain(self.lua, BAD)),
        })
    }

    /// Bounds the work of a table that says it is long.
    fn begin(&self, length: usize, depth: usize) -> mlua::Result<Table> {
        if length > self.rest.len() {
            return Err(problem::complain(self.lua, MISSING));
        }
        if depth > 4 * NESTING_MAX {
            return Err(problem::complain(self.lua, BAD));
        }
        self.lua.create_table()
    }

    fn array(&mut self, length: usize, depth: usize) -> mlua::Result<Value> {
        let table = self.begin(length, depth)?;
        for at in 1..=length {
            table.raw_set(at, self.value(depth + 1)?)?;
        }
        Ok(Value::Table(table))
    }

    fn map(&mut self, length: usize, depth: usize) -> mlua::Result<Value> {
        let table = self.begin(length, depth)?;
        for _ in 0..length {
            let (key, value) = (self.value(depth + 1)?, self.value(depth + 1)?);
            // As the library raises it.
            let is_nan = matches!(key, Value::Number(number) if number.is_nan());
            if key.is_nil() || is_nan {
                let what = if is_nan { "NaN" } else { "nil" };
                return Err(problem::complain(self.lua, format_args!("table index is {what}")));
            }
            table.raw_set(key, value)?;
        }
        Ok(Value::Table(table))
    }
}
