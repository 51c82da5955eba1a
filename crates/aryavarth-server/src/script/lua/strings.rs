//! `string.find`, `match`, `gmatch`, `gsub`, `rep`, `upper`, `lower` and `reverse`: the functions of
//! strings that could run for ever, or for long in one call, in the library's own form.

use std::cell::Cell;
use std::rc::Rc;

use memchr::memmem;
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
    lua.set_named_registry_value(GUARD, lua.globals().raw_get::<Function>("pcall")?)?;
    let index = lua.load("local t, k = ... return t[k]").set_name("=sandbox").into_function()?;
    lua.set_named_registry_value(INDEX, index)?;
    let string = lua.create_table()?;
    let functions: [(&'static str, Body); 8] = [
        ("find", find),
        ("match", match_),
        ("gmatch", gmatch),
        ("gsub", gsub),
        ("rep", rep),
        ("upper", |args, control| changed(args, control, <[u8]>::make_ascii_uppercase)),
        ("lower", |args, control| changed(args, control, <[u8]>::make_ascii_lowercase)),
        ("reverse", |args, control| changed(args, control, <[u8]>::reverse)),
    ];
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

fn value_of(steps: &Counted<'_>, subject: &[u8], capture: Capture) -> mlua::Result<Value> {
    let lua = steps.lua;
    match capture.extent {
        Extent::Bytes(length) => {
            steps.control.pay(lua, length)?;
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

fn find(args: &Arguments<'_>, control: &Rc<Control>) -> mlua::Result<MultiValue> {
    let (subject, pattern) = (args.text(1)?, args.text(2)?);
    let (subject, pattern) = (&*subject.as_bytes(), &*pattern.as_bytes());
    let from = start_of(args, 3, subject.len())?;
    let is_plain = !matches!(args.value(4), Value::Nil | Value::Boolean(false));
    let steps = Counted { lua: args.lua, control };
    control.pay(args.lua, subject.len() + pattern.len())?;
    if is_plain || !pattern.iter().any(|byte| SPECIALS.contains(byte)) {
        let found = memmem::find(&subject[from..], pattern);
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
        values.push(value_of(&steps, subject, capture)?);
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
    captures.into_iter().map(|capture| value_of(&steps, subject, capture)).collect()
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
            let values = captures.into_iter().map(|capture| value_of(&steps, subject, capture));
            return values.collect::<mlua::Result<MultiValue>>();
        }
        from.set(subject.len() + 1);
        Ok(MultiValue::from_iter([Value::Nil]))
    })?;
    Ok(MultiValue::from_iter([Value::Function(next)]))
}

/// The names of Lua's own `pcall` and of a function that indexes a table.
const GUARD: &str = "guard";
const INDEX: &str = "index";

/// Calls a function of the script. Its error stays the value that it is: at the border to Rust it would
/// become a text.
fn guarded(lua: &Lua, function: Function, args: Vec<Value>) -> mlua::Result<Value> {
    let guard: Function = lua.named_registry_value(GUARD)?;
    let mut args = MultiValue::from_vec(args);
    args.push_front(Value::Function(function));
    match guard.call(args)? {
        (true, value) => Ok(value),
        (false, Value::Error(error)) => Err(*error),
        (false, Value::String(text)) if &*text.as_bytes() == b"not enough memory" => {
            Err(problem::out_of_memory())
        }
        (false, value) => Err(problem::value(lua, &value)?),
    }
}

/// The text that `gsub` makes: the script pays for its bytes before they are there.
struct Output<'a> {
    steps: &'a Counted<'a>,
    bytes: Vec<u8>,
}

impl Output<'_> {
    fn push(&mut self, part: &[u8]) -> mlua::Result<()> {
        let Counted { lua, control } = self.steps;
        control.pay(lua, part.len())?;
        if self.bytes.capacity() - self.bytes.len() < part.len() {
            control.room(lua, self.bytes.len() + part.len())?;
        }
        self.bytes.extend_from_slice(part);
        Ok(())
    }
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
        subject: &[u8],
        (start, end): (usize, usize),
        captures: &[Capture],
        output: &mut Output<'_>,
    ) -> mlua::Result<()> {
        let lua = output.steps.lua;
        let capture = |at: usize| captures.get(at).copied();
        let value = match self {
            Replacement::Text(text) => {
                return expand(&text.as_bytes(), subject, (start, end), captures, output);
            }
            Replacement::Table(table) => match capture(0) {
                Some(first) if table.metatable().is_none() => {
                    table.raw_get(value_of(output.steps, subject, first)?)?
                }
                Some(first) => {
                    let index: Function = lua.named_registry_value(INDEX)?;
                    let key = value_of(output.steps, subject, first)?;
                    guarded(lua, index, vec![Value::Table(table.clone()), key])?
                }
                None => Value::Nil,
            },
            Replacement::Function(function) => {
                let values = captures.iter().map(|it| value_of(output.steps, subject, *it));
                guarded(lua, function.clone(), values.collect::<mlua::Result<Vec<Value>>>()?)?
            }
        };
        match value {
            Value::Nil | Value::Boolean(false) => output.push(&subject[start..end]),
            Value::String(text) => output.push(&text.as_bytes()),
            number @ (Value::Integer(_) | Value::Number(_)) => match lua.coerce_string(number)? {
                Some(text) => output.push(&text.as_bytes()),
                None => Ok(()),
            },
            other => {
                let kind = other.type_name();
                Err(problem::complain(lua, format_args!("invalid replacement value (a {kind})")))
            }
        }
    }
}

/// Appends a replacement's text, in which `%1` is a capture and `%0` the match.
fn expand(
    mut text: &[u8],
    subject: &[u8],
    (start, end): (usize, usize),
    captures: &[Capture],
    output: &mut Output<'_>,
) -> mlua::Result<()> {
    while let Some(plain) = memchr::memchr(b'%', text) {
        output.push(&text[..plain])?;
        // As the library, which reads the zero after its text.
        let escaped = text.get(plain + 1).copied().unwrap_or(0);
        text = text.get(plain + 2..).unwrap_or_default();
        output.steps.step(1)?;
        match escaped {
            b'0' => output.push(&subject[start..end])?,
            digit @ b'1'..=b'9' => match captures.get(usize::from(digit - b'1')) {
                Some(Capture { start, extent: Extent::Bytes(length) }) => {
                    output.push(&subject[*start..start + length])?;
                }
                Some(Capture { start, .. }) => output.push((start + 1).to_string().as_bytes())?,
                None => return Err(problem::complain(output.steps.lua, "invalid capture index")),
            },
            other => output.push(&[other])?,
        }
    }
    output.push(text)
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
    control.pay(lua, subject.len() + pattern.len())?;
    let mut output = Output { steps: &steps, bytes: Vec::new() };
    let (mut at, mut count) = (0, 0);
    while count < most {
        let found = matcher.match_at(at).map_err(|fault| told(lua, fault))?;
        if let Some(end) = found {
            count += 1;
            let captures = matcher.captures(at, end).map_err(|fault| told(lua, fault))?;
            replacement.append(subject, (at, end), &captures, &mut output)?;
        }
        match found {
            Some(end) if end > at => at = end,
            _ if at < subject.len() => {
                output.push(&subject[at..=at])?;
                at += 1;
            }
            _ => break,
        }
        if is_anchored {
            break;
        }
    }
    output.push(subject.get(at..).unwrap_or_default())?;
    let output = Value::String(lua.create_string(output.bytes)?);
    Ok(MultiValue::from_iter([output, Value::Integer(count)]))
}

/// A text of the same length.
fn changed(
    args: &Arguments<'_>,
    control: &Control,
    change: fn(&mut [u8]),
) -> mlua::Result<MultiValue> {
    let text = args.text(1)?;
    let text = &*text.as_bytes();
    control.room(args.lua, text.len())?;
    control.pay(args.lua, text.len())?;
    let mut text = text.to_vec();
    change(&mut text);
    Ok(MultiValue::from_iter([Value::String(args.lua.create_string(text)?)]))
}

fn rep(args: &Arguments<'_>, control: &Rc<Control>) -> mlua::Result<MultiValue> {
    let (text, times) = (args.text(1)?, args.integer(2)?);
    let text = &*text.as_bytes();
    let times = usize::try_from(times).unwrap_or(0);
    let bytes = text.len().saturating_mul(times);
    control.room(args.lua, bytes)?;
    control.pay(args.lua, bytes)?;
    let times = if text.is_empty() { 0 } else { times };
    Ok(MultiValue::from_iter([Value::String(args.lua.create_string(text.repeat(times))?)]))
}
