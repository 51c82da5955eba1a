//! `string.find`, `match`, `gmatch`, `gsub` and `rep`: the functions of strings that could run for
//! ever in the library's own form.

use std::cell::Cell;
use std::rc::Rc;

use mlua::{Function, Lua, LuaString, MultiValue, Table, Value};

use super::calls::Arguments;
use super::control::Control;
use super::patterns::{Capture, Extent, Fault, Matcher, Steps};
use super::problem;

/// Bytes that make a text a pattern.
const SPECIALS: &[u8] = b"^$*+?.([%-";

/// The steps of a script.
struct Counted<'a> {
    lua: &'a Lua,
    control: &'a Control,
}

impl Steps for Counted<'_> {
    fn step(&self, steps: u32) -> mlua::Result<()> {
        self.control.step(self.lua, steps)
    }
}

type Body = fn(&Arguments<'_>, &Rc<Control>) -> mlua::Result<MultiValue>;

/// The functions, to be put into `string`.
pub(super) fn table(lua: &Lua, control: &Rc<Control>) -> mlua::Result<Table> {
    let string = lua.create_table()?;
    let functions: [(&'static str, Body); 5] =
        [("find", find), ("match", match_), ("gmatch", gmatch), ("gsub", gsub), ("rep", rep)];
    for (name, body) in functions {
        let own = Rc::clone(control);
        let function =
            lua.create_function(move |lua, values| body(&Arguments { lua, name, values }, &own))?;
        string.raw_set(name, function)?;
    }
    Ok(string)
}

/// The error that a fault is to the script.
fn told(lua: &Lua, fault: Fault) -> mlua::Error {
    match fault {
        Fault::Pattern(text) => problem::complain(lua, text),
        Fault::Stopped(error) => error,
    }
}

/// Where a search begins: a place from 1, or from the end if negative.
fn start_of(args: &Arguments<'_>, at: usize, length: usize) -> mlua::Result<usize> {
    let place = args.integer_or(at, 1)?;
    let length_signed = i64::try_from(length).unwrap_or(i64::MAX);
    let place = if place < 0 { (length_signed + place + 1).max(1) } else { place.max(1) };
    Ok(usize::try_from(place - 1).unwrap_or(length).min(length))
}

fn value_of(lua: &Lua, subject: &[u8], capture: Capture) -> mlua::Result<Value> {
    match capture.extent {
        Extent::Bytes(length) => {
            lua.create_string(&subject[capture.start..capture.start + length]).map(Value::String)
        }
        Extent::Place | Extent::Open => {
            Ok(Value::Integer(i64::try_from(capture.start + 1).unwrap_or(i64::MAX)))
        }
    }
}

/// A match: its start, its end, its captures, and whether the pattern has some.
type Match = (usize, usize, Vec<Capture>, bool);

/// The first match from `from` on.
fn search(
    (subject, pattern): (&[u8], &[u8]),
    from: usize,
    steps: &Counted<'_>,
) -> Result<Option<Match>, Fault> {
    let (is_anchored, pattern) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, pattern),
    };
    let mut matcher = Matcher::new(subject, pattern, steps);
    for at in from..=subject.len() {
        if let Some(end) = matcher.match_at(at)? {
            let has_own = matcher.has_captures();
            return Ok(Some((at, end, matcher.captures(at, end)?, has_own)));
        }
        if is_anchored {
            break;
        }
    }
    Ok(None)
}

fn place(at: usize) -> Value {
    Value::Integer(i64::try_from(at).unwrap_or(i64::MAX))
}

/// Where a text stands in another.
fn position(subject: &[u8], text: &[u8]) -> Option<usize> {
    let Some((first, rest)) = text.split_first() else { return Some(0) };
    let last = subject.len().checked_sub(text.len())?;
    (0..=last).find(|at| subject[*at] == *first && subject[*at + 1..].starts_with(rest))
}

fn find(args: &Arguments<'_>, control: &Rc<Control>) -> mlua::Result<MultiValue> {
    let (subject, pattern) = (args.text(1)?, args.text(2)?);
    let (subject, pattern) = (&*subject.as_bytes(), &*pattern.as_bytes());
    let from = start_of(args, 3, subject.len())?;
    let is_plain = !matches!(args.value(4), Value::Nil | Value::Boolean(false));
    let steps = Counted { lua: args.lua, control };
    if is_plain || !pattern.iter().any(|byte| SPECIALS.contains(byte)) {
        let work = subject.len() / 16 + pattern.len().min(1 << 10);
        steps.step(u32::try_from(work).unwrap_or(u32::MAX))?;
        let found = position(&subject[from..], pattern);
        return Ok(match found.map(|at| from + at) {
            Some(at) => MultiValue::from_iter([place(at + 1), place(at + pattern.len())]),
            None => MultiValue::from_iter([Value::Nil]),
        });
    }
    let found = search((subject, pattern), from, &steps).map_err(|fault| told(args.lua, fault))?;
    let Some((start, end, captures, has_own)) = found else {
        return Ok(MultiValue::from_iter([Value::Nil]));
    };
    let mut values = vec![place(start + 1), place(end)];
    for capture in captures.into_iter().filter(|_| has_own) {
        values.push(value_of(args.lua, subject, capture)?);
    }
    Ok(values.into_iter().collect())
}

fn match_(args: &Arguments<'_>, control: &Rc<Control>) -> mlua::Result<MultiValue> {
    let (subject, pattern) = (args.text(1)?, args.text(2)?);
    let (subject, pattern) = (&*subject.as_bytes(), &*pattern.as_bytes());
    let from = start_of(args, 3, subject.len())?;
    let steps = Counted { lua: args.lua, control };
    let found = search((subject, pattern), from, &steps).map_err(|fault| told(args.lua, fault))?;
    let Some((_, _, captures, _)) = found else {
        return Ok(MultiValue::from_iter([Value::Nil]));
    };
    captures.into_iter().map(|capture| value_of(args.lua, subject, capture)).collect()
}

fn gmatch(args: &Arguments<'_>, control: &Rc<Control>) -> mlua::Result<MultiValue> {
    let (subject, pattern) = (args.text(1)?, args.text(2)?);
    let (from, control) = (Cell::new(0), Rc::clone(control));
    let next = args.lua.create_function(move |lua, _: MultiValue| {
        let (subject, pattern) = (&*subject.as_bytes(), &*pattern.as_bytes());
        let steps = Counted { lua, control: &control };
        // An anchor means nothing here: it is a byte like others.
        let mut matcher = Matcher::new(subject, pattern, &steps);
        for at in from.get()..=subject.len() {
            let found = matcher.match_at(at).map_err(|fault| told(lua, fault))?;
            let Some(end) = found else { continue };
            from.set(if end == at { end + 1 } else { end });
            let captures = matcher.captures(at, end).map_err(|fault| told(lua, fault))?;
            let values = captures.into_iter().map(|capture| value_of(lua, subject, capture));
            return values.collect::<mlua::Result<MultiValue>>();
        }
        from.set(subject.len() + 1);
        Ok(MultiValue::from_iter([Value::Nil]))
    })?;
    Ok(MultiValue::from_iter([Value::Function(next)]))
}

/// The replacement of matches.
enum Replacement {
    Text(LuaString),
    Table(Table),
    Function(Function),
}

impl Replacement {
    fn of(args: &Arguments<'_>) -> mlua::Result<Replacement> {
        match args.value(3) {
            Value::Table(table) => Ok(Replacement::Table(table)),
            Value::Function(function) => Ok(Replacement::Function(function)),
            Value::String(_) | Value::Integer(_) | Value::Number(_) => {
                Ok(Replacement::Text(args.text(3)?))
            }
            _ => Err(args.bad(3, "string/function/table expected")),
        }
    }

    /// Appends the replacement of a match to `output`.
    fn append(
        &self,
        lua: &Lua,
        subject: &[u8],
        (start, end): (usize, usize),
        captures: &[Capture],
        output: &mut Vec<u8>,
    ) -> mlua::Result<()> {
        let capture = |at: usize| captures.get(at).copied();
        let value = match self {
            Replacement::Text(text) => {
                return expand(lua, &text.as_bytes(), subject, (start, end), captures, output);
            }
            Replacement::Table(table) => match capture(0) {
                Some(first) => table.get(value_of(lua, subject, first)?)?,
                None => Value::Nil,
            },
            Replacement::Function(function) => {
                let values = captures.iter().map(|capture| value_of(lua, subject, *capture));
                function.call(values.collect::<mlua::Result<MultiValue>>()?)?
            }
        };
        match value {
            Value::Nil | Value::Boolean(false) => output.extend_from_slice(&subject[start..end]),
            Value::String(text) => output.extend_from_slice(&text.as_bytes()),
            number @ (Value::Integer(_) | Value::Number(_)) => {
                if let Some(text) = lua.coerce_string(number)? {
                    output.extend_from_slice(&text.as_bytes());
                }
            }
            other => {
                let kind = other.type_name();
                return Err(problem::complain(
                    lua,
                    format_args!("invalid replacement value (a {kind})"),
                ));
            }
        }
        Ok(())
    }
}

/// Appends a replacement's text, in which `%1` is a capture and `%0` the match.
fn expand(
    lua: &Lua,
    text: &[u8],
    subject: &[u8],
    (start, end): (usize, usize),
    captures: &[Capture],
    output: &mut Vec<u8>,
) -> mlua::Result<()> {
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            output.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'0') => output.extend_from_slice(&subject[start..end]),
            Some(digit @ b'1'..=b'9') => match captures.get(usize::from(digit - b'1')) {
                Some(Capture { start, extent: Extent::Bytes(length) }) => {
                    output.extend_from_slice(&subject[*start..start + length]);
                }
                Some(Capture { start, .. }) => {
                    output.extend_from_slice((start + 1).to_string().as_bytes());
                }
                None => return Err(problem::complain(lua, "invalid capture index")),
            },
            Some(other) => output.push(other),
            // As the library, which reads the zero after its text.
            None => output.push(0),
        }
    }
    Ok(())
}

fn gsub(args: &Arguments<'_>, control: &Rc<Control>) -> mlua::Result<MultiValue> {
    let lua = args.lua;
    let (subject, pattern) = (args.text(1)?, args.text(2)?);
    let (subject, pattern) = (&*subject.as_bytes(), &*pattern.as_bytes());
    let replacement = Replacement::of(args)?;
    let most = args.integer_or(4, i64::try_from(subject.len() + 1).unwrap_or(i64::MAX))?;
    let (is_anchored, pattern) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, pattern),
    };
    let steps = Counted { lua, control };
    let mut matcher = Matcher::new(subject, pattern, &steps);
    let (mut output, mut at, mut count) = (Vec::new(), 0, 0);
    while count < most {
        let found = matcher.match_at(at).map_err(|fault| told(lua, fault))?;
        if let Some(end) = found {
            count += 1;
            let captures = matcher.captures(at, end).map_err(|fault| told(lua, fault))?;
            replacement.append(lua, subject, (at, end), &captures, &mut output)?;
            if output.len() > control.memory_bytes_max.get() {
                return Err(mlua::Error::MemoryError("not enough memory".to_owned()));
            }
        }
        match found {
            Some(end) if end > at => at = end,
            _ if at < subject.len() => {
                output.push(subject[at]);
                at += 1;
            }
            _ => break,
        }
        if is_anchored {
            break;
        }
    }
    output.extend_from_slice(subject.get(at..).unwrap_or_default());
    let output = Value::String(lua.create_string(output)?);
    Ok(MultiValue::from_iter([output, Value::Integer(count)]))
}

fn rep(args: &Arguments<'_>, control: &Rc<Control>) -> mlua::Result<MultiValue> {
    let (text, times) = (args.text(1)?, args.integer(2)?);
    let text = &*text.as_bytes();
    let times = usize::try_from(times).unwrap_or(0);
    if text.len().checked_mul(times).is_none_or(|bytes| bytes > control.memory_bytes_max.get()) {
        return Err(mlua::Error::MemoryError("not enough memory".to_owned()));
    }
    let times = if text.is_empty() { 0 } else { times };
    Ok(MultiValue::from_iter([Value::String(args.lua.create_string(text.repeat(times))?)]))
}
