//! `struct`: values in the layouts of C, as the library of Lua's authors has them, version 0.2.
//!
//! The layout is one line of letters: `>`, `<` and `=` choose the order of bytes, `!` the alignment,
//! `b h i l T` and their capitals integers, `f d` floats, `s c` strings, `x` a byte of padding.

use std::cell::Cell;
use std::rc::Rc;

use mlua::{Lua, MultiValue, Table, Value};

use super::calls::Arguments;
use super::control::Control;
use super::{convert, problem};

/// The widest integer, and the strictest alignment by default.
const INTEGER_MAX: usize = 32;
const ALIGNMENT: usize = 8;

/// The table `struct`.
pub(super) fn table(lua: &Lua, control: &Rc<Control>) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let own = Rc::clone(control);
    let pack = move |lua: &Lua, values: MultiValue| {
        let args = Arguments { lua, name: "pack", values };
        lua.create_string(pack(&args, &own)?)
    };
    table.raw_set("pack", lua.create_function(pack)?)?;
    let own = Rc::clone(control);
    let unpack = move |lua: &Lua, values: MultiValue| {
        unpack(&Arguments { lua, name: "unpack", values }, &own)
    };
    table.raw_set("unpack", lua.create_function(unpack)?)?;
    let own = Rc::clone(control);
    let size =
        move |lua: &Lua, values: MultiValue| size(&Arguments { lua, name: "size", values }, &own);
    table.raw_set("size", lua.create_function(size)?)?;
    Ok(table)
}

/// A layout, read letter by letter.
struct Layout<'a> {
    lua: &'a Lua,
    name: &'a str,
    letters: &'a [u8],
    is_little: Cell<bool>,
    alignment: Cell<usize>,
}

/// An element of a layout.
#[derive(Clone, Copy)]
enum Element {
    Padding,
    Signed(usize),
    Unsigned(usize),
    Float,
    Double,
    /// A string of so many bytes; of all of them, or of the number before, for 0.
    Fixed(usize),
    /// A string up to a zero.
    Terminated,
}

impl Element {
    fn size(self) -> usize {
        match self {
            Element::Padding => 1,
            Element::Signed(size) | Element::Unsigned(size) | Element::Fixed(size) => size,
            Element::Float => 4,
            Element::Double => 8,
            Element::Terminated => 0,
        }
    }

    /// Whether it begins at a multiple of its size.
    fn is_aligned(self) -> bool {
        use Element::{Double, Float, Signed, Unsigned};
        matches!(self, Signed(_) | Unsigned(_) | Float | Double)
    }
}

impl<'a> Layout<'a> {
    fn new(args: &'a Arguments<'_>, letters: &'a [u8]) -> Self {
        let (lua, name) = (args.lua, args.name);
        Layout { lua, name, letters, is_little: Cell::new(true), alignment: Cell::new(1) }
    }

    /// The number at the front, or `default`.
    fn number(&mut self, default: usize) -> mlua::Result<usize> {
        let count = self.letters.iter().take_while(|letter| letter.is_ascii_digit()).count();
        if count == 0 {
            return Ok(default);
        }
        let (digits, rest) = self.letters.split_at(count);
        self.letters = rest;
        let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<i32>().ok());
        let number = number.and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| problem::complain(self.lua, "integral size overflow"))
    }

    fn integer_size(&mut self, default: usize) -> mlua::Result<usize> {
        let size = self.number(default)?;
        if size == 0 || size > INTEGER_MAX {
            let text = format!("integral size {size} is larger than limit of {INTEGER_MAX}");
            return Err(problem::complain(self.lua, text));
        }
        Ok(size)
    }

    /// The next element; changes of order and alignment are made on the way.
    fn next(&mut self) -> mlua::Result<Option<Element>> {
        loop {
            let Some((letter, rest)) = self.letters.split_first() else { return Ok(None) };
            self.letters = rest;
            return Ok(Some(match letter {
                b' ' => continue,
                b'>' => {
                    self.is_little.set(false);
                    continue;
                }
                b'<' | b'=' => {
                    self.is_little.set(true);
                    continue;
                }
                b'!' => {
                    let alignment = self.number(ALIGNMENT)?;
                    if alignment == 0 || !alignment.is_power_of_two() {
                        let text = format!("alignment {alignment} is not a power of 2");
                        return Err(problem::complain(self.lua, text));
                    }
                    self.alignment.set(alignment);
                    continue;
                }
                b'x' => Element::Padding,
                b'b' => Element::Signed(1),
                b'B' => Element::Unsigned(1),
                b'h' => Element::Signed(2),
                b'H' => Element::Unsigned(2),
                b'l' => Element::Signed(8),
                b'L' | b'T' => Element::Unsigned(8),
                b'i' => Element::Signed(self.integer_size(4)?),
                b'I' => Element::Unsigned(self.integer_size(4)?),
                b'f' => Element::Float,
                b'd' => Element::Double,
                b's' => Element::Terminated,
                b'c' => Element::Fixed(self.number(1)?),
                other => {
                    let text = format!("invalid format option '{}'", char::from(*other));
                    return Err(problem::bad_argument(self.lua, 1, self.name, text));
                }
            }));
        }
    }

    /// Bytes of padding before an element at `at`.
    fn padding(&self, at: usize, element: Element) -> usize {
        let alignment = self.alignment.get().min(element.size());
        if !element.is_aligned() || alignment <= 1 || !alignment.is_power_of_two() {
            return 0;
        }
        at.wrapping_neg() & (alignment - 1)
    }
}

/// Values that one call returns at most: they lie on the machine's stack.
const VALUES_MAX: usize = 7_000;

/// A number to be packed; none at all is nil, as in the library.
fn number_of(args: &Arguments<'_>, at: usize) -> mlua::Result<f64> {
    if args.values.len() < at {
        return Err(args.bad(at, "number expected, got nil"));
    }
    args.number(at)
}

fn pack(args: &Arguments<'_>, control: &Control) -> mlua::Result<Vec<u8>> {
    let letters = args.text(1)?;
    let letters = &*letters.as_bytes();
    let mut layout = Layout::new(args, letters);
    let (mut bytes, mut at) = (Vec::new(), 2);
    control.pay(args.lua, letters.len())?;
    while let Some(element) = layout.next()? {
        control.step(args.lua, 1)?;
        control.room(args.lua, bytes.len())?;
        let padding = layout.padding(bytes.len(), element);
        bytes.resize(bytes.len() + padding, 0);
        match element {
            Element::Padding => bytes.push(0),
            Element::Signed(size) | Element::Unsigned(size) => {
                let number = convert::truncated(number_of(args, at)?);
                let sign =
                    if number < 0 && matches!(element, Element::Signed(_)) { 0xff } else { 0 };
                let mut digits = number.to_le_bytes().to_vec();
                digits.resize(size, sign);
                if !layout.is_little.get() {
                    digits.reverse();
                }
                bytes.extend(digits);
            }
            Element::Float | Element::Double => {
                let number = number_of(args, at)?;
                #[expect(clippy::cast_possible_truncation, reason = "a float is asked for")]
                let mut digits = match element {
                    Element::Float => (number as f32).to_le_bytes().to_vec(),
                    _ => number.to_le_bytes().to_vec(),
                };
                if !layout.is_little.get() {
                    digits.reverse();
                }
                bytes.extend(digits);
            }
            Element::Fixed(size) => {
                let text = args.text(at)?;
                let text = &*text.as_bytes();
                let size = if size == 0 { text.len() } else { size };
                let Some(text) = text.get(..size) else {
                    return Err(args.bad(at + 1, "string too short"));
                };
                control.pay(args.lua, text.len())?;
                control.room(args.lua, bytes.len() + text.len())?;
                bytes.extend_from_slice(text);
            }
            Element::Terminated => {
                let text = args.text(at)?;
                let text = &*text.as_bytes();
                control.pay(args.lua, text.len())?;
                control.room(args.lua, bytes.len() + text.len())?;
                bytes.extend_from_slice(text);
                bytes.push(0);
            }
        }
        at += usize::from(!matches!(element, Element::Padding));
    }
    Ok(bytes)
}

fn unpack(args: &Arguments<'_>, control: &Control) -> mlua::Result<MultiValue> {
    let (letters, data) = (args.text(1)?, args.text(2)?);
    let (letters, data) = (&*letters.as_bytes(), &*data.as_bytes());
    let lua = args.lua;
    let from = args.integer_or(3, 1)?;
    let Some(mut at) = usize::try_from(from).ok().and_then(|from| from.checked_sub(1)) else {
        return Err(args.bad(3, "offset must be 1 or greater"));
    };
    let mut layout = Layout::new(args, letters);
    let mut values: Vec<Value> = Vec::new();
    let short = || args.bad(2, "data string too short");
    control.pay(lua, letters.len())?;
    while let Some(element) = layout.next()? {
        control.step(lua, 1)?;
        if values.len() >= VALUES_MAX {
            return Err(problem::complain(lua, "too many results to unpack"));
        }
        at = at.saturating_add(layout.padding(at, element));
        let mut size = element.size();
        if let Element::Fixed(0) = element {
            // The number before says the length.
            let length = values.pop().and_then(|value| value.as_f64());
            let length = length.map(convert::truncated).and_then(|it| usize::try_from(it).ok());
            let text = "format 'c0' needs a previous size";
            size = length.ok_or_else(|| problem::complain(lua, text))?;
        }
        if let Element::Terminated = element {
            let rest = data.get(at..).ok_or_else(short)?;
            control.pay(lua, rest.len())?;
            let end = rest.iter().position(|byte| *byte == 0);
            let text = "unfinished string in data";
            size = end.ok_or_else(|| problem::complain(lua, text))?;
        }
        let end = at.checked_add(size).ok_or_else(short)?;
        let part = data.get(at..end).ok_or_else(short)?;
        control.pay(lua, part.len())?;
        at = end;
        match element {
            Element::Padding => {}
            Element::Fixed(_) => values.push(Value::String(lua.create_string(part)?)),
            Element::Terminated => {
                at += 1;
                values.push(Value::String(lua.create_string(part)?));
            }
            number => {
                let mut part = part.to_vec();
                if !layout.is_little.get() {
                    part.reverse();
                }
                values.push(Value::Number(value_of(number, &part)));
            }
        }
    }
    values.push(Value::Integer(i64::try_from(at + 1).unwrap_or(i64::MAX)));
    Ok(values.into_iter().collect())
}

/// A number of little-endian bytes.
fn value_of(element: Element, part: &[u8]) -> f64 {
    let sign = if part.last().is_some_and(|top| *top >= 0x80) { 0xff } else { 0 };
    let is_signed = matches!(element, Element::Signed(_));
    let mut digits = [if is_signed { sign } else { 0 }; 8];
    for (digit, byte) in digits.iter_mut().zip(part) {
        *digit = *byte;
    }
    #[expect(clippy::cast_precision_loss, reason = "numbers of Lua are doubles")]
    match element {
        Element::Float => {
            let [a, b, c, d, ..] = digits;
            f64::from(f32::from_le_bytes([a, b, c, d]))
        }
        Element::Double => f64::from_le_bytes(digits),
        Element::Signed(_) => i64::from_le_bytes(digits) as f64,
        _ => u64::from_le_bytes(digits) as f64,
    }
}

fn size(args: &Arguments<'_>, control: &Control) -> mlua::Result<usize> {
    let letters = args.text(1)?;
    let letters = &*letters.as_bytes();
    let mut layout = Layout::new(args, letters);
    let mut size = 0_usize;
    control.pay(args.lua, letters.len())?;
    while let Some(element) = layout.next()? {
        control.step(args.lua, 1)?;
        match element {
            Element::Terminated => {
                return Err(args.bad(1, "option 's' has no fixed size"));
            }
            Element::Fixed(0) => {
                return Err(args.bad(1, "option 'c0' has no fixed size"));
            }
            element => size = size + layout.padding(size, element) + element.size(),
        }
    }
    Ok(size)
}
