//! `redis.call`, `redis.pcall` and the other functions of `redis`.

use std::cell::RefCell;
use std::rc::Rc;

use aryavarth_protocol::{Command, Reply};
use mlua::{Lua, LuaString, MultiValue, Table, Value};

use super::super::{Hash, Host};
use super::control::{Control, LOG_LINE_BYTES_MAX};
use super::convert::{number_text, to_value, truncated};
use super::problem::{self, error_table, raised};

/// Constants of `redis`.
const CONSTANTS: &[(&str, i64)] = &[
    ("LOG_DEBUG", 0),
    ("LOG_VERBOSE", 1),
    ("LOG_NOTICE", 2),
    ("LOG_WARNING", 3),
    ("REPL_NONE", 0),
    ("REPL_AOF", 1),
    ("REPL_SLAVE", 2),
    ("REPL_REPLICA", 2),
    ("REPL_ALL", 3),
];

const NO_ARGUMENT: &str = "Please specify at least one argument for this redis lib call";

/// Runs a command of a script. An error of it is raised, or returned as a table.
pub(super) fn call(
    lua: &Lua,
    control: &Control,
    host: &RefCell<&mut dyn Host>,
    args: &MultiValue,
    raises: bool,
) -> mlua::Result<Value> {
    control.look(lua)?;
    let problem = |text: &str| -> mlua::Result<Value> {
        let text = format!("ERR {text}").into_bytes();
        if raises {
            return Err(raised(text));
        }
        // Nothing was run, and redis leaves the other field out.
        let table = error_table(lua, &text)?;
        table.raw_set("ignore_error_stats_update", Value::Nil)?;
        Ok(Value::Table(table))
    };
    if args.is_empty() {
        return problem(NO_ARGUMENT);
    }
    let Some(parts) = arguments(lua, control, args)? else {
        return problem("Lua redis lib command arguments must be strings or integers");
    };
    let command = Command::from_args(parts);
    let reply = host.borrow_mut().call(&command).map_err(|stop| control.stop(stop))?;
    match reply {
        Reply::Error(text) if raises => Err(raised(text.into_owned())),
        reply => to_value(lua, &reply, control.version.get()),
    }
}

/// The arguments of a command; `None` if one is neither a string nor a number. Their bytes are
/// counted before they are copied: a call may name one text thousands of times.
fn arguments(
    lua: &Lua,
    control: &Control,
    args: &MultiValue,
) -> mlua::Result<Option<Vec<Vec<u8>>>> {
    let bytes = |value: &Value| value.as_string().map_or(0, |text| text.as_bytes().len());
    let bytes = args.iter().map(bytes).fold(0, usize::saturating_add);
    if bytes > control.memory_bytes_max.get() {
        return Err(problem::out_of_memory());
    }
    control.pay(lua, bytes)?;
    Ok(args.iter().map(argument).collect())
}

/// An argument of a command.
fn argument(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.as_bytes().to_vec()),
        #[expect(clippy::cast_precision_loss, reason = "it was a double before")]
        Value::Integer(number) => Some(number_text(*number as f64).into_bytes()),
        Value::Number(number) => Some(number_text(*number).into_bytes()),
        _ => None,
    }
}

/// The one text of a call: a string, or a number as Lua writes it.
fn only_text(lua: &Lua, args: &MultiValue) -> mlua::Result<Option<LuaString>> {
    let mut args = args.iter();
    match (args.next(), args.next()) {
        (Some(value @ (Value::String(_) | Value::Integer(_) | Value::Number(_))), None) => {
            lua.coerce_string(value.clone())
        }
        _ => Ok(None),
    }
}

fn err(text: &str) -> mlua::Error {
    raised(format!("ERR {text}").into_bytes())
}

/// `redis` without `call` and `pcall`, which each run brings.
pub(super) fn table(lua: &Lua, control: &Rc<Control>) -> mlua::Result<Table> {
    let redis = lua.create_table()?;
    for (name, value) in CONSTANTS {
        redis.raw_set(*name, *value)?;
    }
    redis.raw_set("REDIS_VERSION", crate::settings::REDIS_VERSION)?;
    redis.raw_set("REDIS_VERSION_NUM", version_number())?;
    redis.raw_set("error_reply", lua.create_function(|lua, args| error_reply(lua, &args))?)?;
    redis.raw_set("status_reply", lua.create_function(|lua, args| status_reply(lua, &args))?)?;
    redis.raw_set("replicate_commands", lua.create_function(|_, _: MultiValue| Ok(true))?)?;
    redis.raw_set("set_repl", lua.create_function(|_, args| set_repl(&args))?)?;
    redis.raw_set("breakpoint", lua.create_function(|_, _: MultiValue| Ok(false))?)?;
    redis.raw_set("debug", lua.create_function(|_, _: MultiValue| Ok(()))?)?;
    let own = Rc::clone(control);
    redis.raw_set("sha1hex", lua.create_function(move |lua, args| sha1hex(lua, &own, &args))?)?;
    let own = Rc::clone(control);
    redis.raw_set("setresp", lua.create_function(move |_, args| set_version(&own, &args))?)?;
    let own = Rc::clone(control);
    let knows = move |lua: &Lua, args: MultiValue| knows_command(lua, &own, &args);
    redis.raw_set("acl_check_cmd", lua.create_function(knows)?)?;
    let own = Rc::clone(control);
    redis.raw_set("log", lua.create_function(move |lua, args| log(lua, &own, &args))?)?;
    Ok(redis)
}

/// The version as `redis.REDIS_VERSION_NUM` has it: a byte for each part.
fn version_number() -> i64 {
    let parts = crate::settings::REDIS_VERSION.split('.');
    parts.fold(0, |number, part| number << 8 | part.parse().unwrap_or(0))
}

fn error_reply(lua: &Lua, args: &MultiValue) -> mlua::Result<Table> {
    let (Some(Value::String(text)), 1) = (args.front(), args.len()) else {
        return error_table(lua, b"ERR wrong number or type of arguments");
    };
    let text = &*text.as_bytes();
    let text = text.strip_prefix(b"-").unwrap_or(text);
    // A text of one word has no kind.
    let has_kind = text.contains(&b' ');
    let kind: &[u8] = if has_kind { b"" } else { b"ERR " };
    let text = [kind, text.trim_ascii_end()].concat();
    error_table(lua, &text)
}

fn status_reply(lua: &Lua, args: &MultiValue) -> mlua::Result<Table> {
    let (Some(Value::String(text)), 1) = (args.front(), args.len()) else {
        return error_table(lua, b"ERR wrong number or type of arguments");
    };
    let table = lua.create_table_with_capacity(0, 1)?;
    table.raw_set("ok", text)?;
    Ok(table)
}

fn sha1hex(lua: &Lua, control: &Control, args: &MultiValue) -> mlua::Result<String> {
    if args.len() != 1 {
        return Err(err("wrong number of arguments"));
    }
    let Some(text) = only_text(lua, args)? else { return Ok(Hash::of(b"").to_string()) };
    let text = &*text.as_bytes();
    control.pay(lua, text.len())?;
    Ok(Hash::of(text).to_string())
}

fn set_repl(args: &MultiValue) -> mlua::Result<()> {
    if args.len() != 1 {
        return Err(err("redis.set_repl() requires two arguments."));
    }
    match args.front().and_then(Value::as_i64) {
        Some(0..=3) => Ok(()),
        _ => Err(err("Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or \
                      REPL_NONE.")),
    }
}

fn set_version(control: &Control, args: &MultiValue) -> mlua::Result<()> {
    if args.len() != 1 {
        return Err(err("redis.setresp() requires one argument."));
    }
    match args.front().and_then(Value::as_i64) {
        Some(version @ 2..=3) => {
            control.version.set(if version == 3 { 3 } else { 2 });
            Ok(())
        }
        _ => Err(err("RESP version must be 2 or 3.")),
    }
}

fn log(lua: &Lua, control: &Control, args: &MultiValue) -> mlua::Result<()> {
    if args.len() < 2 {
        return Err(err("redis.log() requires two arguments or more."));
    }
    let level = match args.front() {
        Some(Value::Integer(level)) => *level,
        Some(Value::Number(level)) => truncated(*level),
        _ => return Err(err("First argument must be a number (log level).")),
    };
    if !(0..=3).contains(&level) {
        return Err(err("Invalid debug level."));
    }
    let mut line = Vec::new();
    let mut is_first = true;
    for value in args.iter().skip(1) {
        let Some(word) = lua.coerce_string(value.clone())? else { continue };
        if !std::mem::take(&mut is_first) {
            line.push(b' ');
        }
        let left = LOG_LINE_BYTES_MAX.saturating_sub(line.len());
        line.extend(word.as_bytes().iter().take(left));
        if left == 0 {
            break;
        }
    }
    line.truncate(LOG_LINE_BYTES_MAX);
    control.note(level, line);
    Ok(())
}

/// `redis.acl_check_cmd`: the one user may call every command.
fn knows_command(lua: &Lua, control: &Control, args: &MultiValue) -> mlua::Result<bool> {
    if args.is_empty() {
        return Err(err(NO_ARGUMENT));
    }
    let Some(parts) = arguments(lua, control, args)? else {
        return Err(err("Lua redis lib command arguments must be strings or integers"));
    };
    let command = Command::from_args(parts);
    if control.knows.get().is_some_and(|knows| knows(&command)) {
        return Ok(true);
    }
    Err(err("Invalid command passed to redis.acl_check_cmd()"))
}

/// A list of arguments as a function of the library takes them.
pub(super) struct Arguments<'a> {
    pub(super) lua: &'a Lua,
    pub(super) name: &'static str,
    pub(super) values: MultiValue,
}

impl Arguments<'_> {
    /// The argument at a place, from 1.
    pub(super) fn value(&self, at: usize) -> Value {
        self.values.get(at - 1).cloned().unwrap_or(Value::Nil)
    }

    pub(super) fn wrong(&self, at: usize, wanted: &str) -> mlua::Error {
        let got = match self.values.get(at - 1) {
            None => "no value",
            Some(value) => value.type_name(),
        };
        let got = match got {
            "integer" => "number",
            "lightuserdata" => "userdata",
            other => other,
        };
        problem::bad_argument(self.lua, at, self.name, format_args!("{wanted} expected, got {got}"))
    }

    /// A string, or a number as Lua writes it.
    pub(super) fn text(&self, at: usize) -> mlua::Result<LuaString> {
        match self.value(at) {
            Value::String(text) => Ok(text),
            value @ (Value::Integer(_) | Value::Number(_)) => {
                self.lua.coerce_string(value)?.ok_or_else(|| self.wrong(at, "string"))
            }
            _ => Err(self.wrong(at, "string")),
        }
    }

    /// A number, or a string that is one.
    pub(super) fn number(&self, at: usize) -> mlua::Result<f64> {
        let number = match self.value(at) {
            #[expect(clippy::cast_precision_loss, reason = "it was a double before")]
            Value::Integer(number) => Some(number as f64),
            Value::Number(number) => Some(number),
            value @ Value::String(_) => self.lua.coerce_number(value)?,
            _ => None,
        };
        number.ok_or_else(|| self.wrong(at, "number"))
    }

    /// An integer, or `default` if there is no such argument.
    pub(super) fn integer_or(&self, at: usize, default: i64) -> mlua::Result<i64> {
        if self.value(at).is_nil() { Ok(default) } else { self.number(at).map(truncated) }
    }

    pub(super) fn integer(&self, at: usize) -> mlua::Result<i64> {
        self.number(at).map(truncated)
    }

    pub(super) fn bad(&self, at: usize, text: &str) -> mlua::Error {
        problem::bad_argument(self.lua, at, self.name, text)
    }
}
