//! Errors of scripts: raised by our functions, seen by scripts, told to clients.
//!
//! A function of ours raises a [`Problem`]. A script that catches it sees the value that the library
//! of Redis raises: a table with the field `err`, or a text that begins with its place.

use std::fmt;

use aryavarth_protocol::Reply;
use mlua::{Error, Lua, Table, Value};

use super::super::Hash;
use super::Ending;
use super::control::Control;

/// The chunk that a script is.
const SCRIPT: &str = "@user_script";
/// The name of a raised value on its way through a function of ours: one is on its way at a time.
const VALUE: &str = "value";
/// Frames that are searched for the place of an error.
const FRAMES_MAX: usize = 8;

/// An error that a function of ours raises.
#[derive(Clone, Debug)]
pub(super) enum Problem {
    /// A text, which begins with its place.
    Text(String),
    /// The text of a table `{err = text}`.
    Reply(Vec<u8>),
    /// A value that the script raised, which lies in the registry as [`VALUE`].
    Value,
    /// The script stops.
    Stopped,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Text(text) => f.write_str(text),
            Problem::Reply(text) => f.write_str(&String::from_utf8_lossy(text)),
            Problem::Value => f.write_str("a value of the script"),
            Problem::Stopped => f.write_str("the script is stopped"),
        }
    }
}

impl std::error::Error for Problem {}

/// The error of a script on its way out.
pub(super) fn stopped() -> Error {
    Error::external(Problem::Stopped)
}

/// An error reply, raised.
pub(super) fn raised(text: Vec<u8>) -> Error {
    Error::external(Problem::Reply(text))
}

/// The error of a function for which the script has no memory left.
pub(super) fn out_of_memory() -> Error {
    Error::MemoryError("not enough memory".to_owned())
}

/// A value that the script raised, on its way through a function of ours.
pub(super) fn value(lua: &Lua, value: &Value) -> mlua::Result<Error> {
    lua.set_named_registry_value(VALUE, value)?;
    Ok(Error::external(Problem::Value))
}

/// Whether an error says that the machine has no memory left.
pub(super) fn is_out_of_memory(error: &Error) -> bool {
    match error {
        Error::MemoryError(_) => true,
        Error::CallbackError { cause, .. } => is_out_of_memory(cause),
        _ => false,
    }
}

/// An error without a place.
pub(super) fn text(text: &str) -> Error {
    Error::external(Problem::Text(text.to_owned()))
}

/// An error of a function of the library, with the place of its call.
pub(super) fn complain(lua: &Lua, text: impl fmt::Display) -> Error {
    let place = lua.inspect_stack(1, |frame| {
        let source = frame.source();
        let (name, line) = (source.short_src.unwrap_or_default(), frame.current_line());
        line.map_or_else(String::new, |line| format!("{name}:{line}: "))
    });
    Error::external(Problem::Text(format!("{}{text}", place.unwrap_or_default())))
}

/// A wrong argument of a function of the library.
pub(super) fn bad_argument(lua: &Lua, at: usize, name: &str, text: impl fmt::Display) -> Error {
    complain(lua, format_args!("bad argument #{at} to '{name}' ({text})"))
}

/// The value of an error for a script that catches it; `None` if it stops the script. An error reply is
/// its text, or with `as_table` a table.
pub(super) fn seen(lua: &Lua, value: Value, as_table: bool) -> mlua::Result<Option<Value>> {
    let Value::Error(error) = value else { return Ok(Some(value)) };
    let text = match error.downcast_ref::<Problem>() {
        Some(Problem::Stopped) => return Ok(None),
        Some(Problem::Reply(text)) if as_table => {
            return Ok(Some(Value::Table(error_table(lua, text)?)));
        }
        Some(Problem::Reply(text)) => return Ok(Some(Value::String(lua.create_string(text)?))),
        Some(Problem::Value) => {
            let value = lua.named_registry_value(VALUE)?;
            lua.set_named_registry_value(VALUE, Value::Nil)?;
            return Ok(Some(value));
        }
        Some(Problem::Text(text)) => text.clone(),
        None => first_line(&error),
    };
    Ok(Some(Value::String(lua.create_string(text)?)))
}

/// The table that an error reply is to a script.
pub(super) fn error_table(lua: &Lua, text: &[u8]) -> mlua::Result<Table> {
    let table = lua.create_table_with_capacity(0, 2)?;
    table.raw_set("err", lua.create_string(text)?)?;
    // Redis has the field, and scripts may show it.
    table.raw_set("ignore_error_stats_update", true)?;
    Ok(table)
}

/// An error of the machine as one line.
pub(super) fn first_line(error: &Error) -> String {
    let innermost = error.chain().last().map_or_else(|| error.to_string(), ToString::to_string);
    if matches!(error, Error::MemoryError(_)) || innermost.contains("not enough memory") {
        return "not enough memory".to_owned();
    }
    if let Some(Error::RuntimeError(text)) = error.chain().last().and_then(|it| it.downcast_ref()) {
        return text.clone();
    }
    innermost.lines().next().unwrap_or_default().to_owned()
}

/// The source and line of the function that raised an error, from inside the handler of errors: ours
/// are passed over.
pub(super) fn blamed(lua: &Lua) -> Option<(String, usize)> {
    (1..=FRAMES_MAX).find_map(|level| {
        lua.inspect_stack(level, |frame| {
            let source = frame.source().source.unwrap_or_default().into_owned();
            let line = frame.current_line()?;
            (source == SCRIPT || source.starts_with("@user")).then_some((source, line))
        })?
    })
}

/// The place of the script that runs, as errors end with it.
pub(super) fn place_of_script(lua: &Lua) -> String {
    let place = (0..=FRAMES_MAX).find_map(|level| {
        lua.inspect_stack(level, |frame| {
            let is_script = frame.source().source.as_deref() == Some(SCRIPT);
            frame.current_line().filter(|_| is_script)
        })?
    });
    place.map_or_else(String::new, |line| format!(" script: on {SCRIPT}:{line}."))
}

/// The error of a script that has used all of its memory.
pub(super) fn no_memory(bytes_max: usize) -> String {
    format!(
        "ERR the script took more than {bytes_max} bytes of memory and was stopped; nothing was done; \
         let it do less at a time"
    )
}

/// The end of a script that did not catch an error.
pub(super) fn uncaught(problem: &Value, hash: Hash, control: &Control) -> Ending {
    let memory_bytes_max = control.memory_bytes_max.get();
    if control.is_out_of_memory.get() {
        return Ending::OutOfMemory(no_memory(memory_bytes_max));
    }
    let Value::Table(table) = problem else {
        // The handler did not run.
        let text = match problem {
            Value::String(text) => text.to_string_lossy(),
            Value::Error(error) => first_line(error),
            _ => "execution failure".to_owned(),
        };
        // Lua's own error of memory comes without the handler.
        if text.contains("not enough memory") {
            return Ending::OutOfMemory(no_memory(memory_bytes_max));
        }
        return Ending::Failed(Reply::error(format!("ERR Error running script {hash}, {text}")));
    };
    let mut text = match table.raw_get("err") {
        Ok(Value::String(text)) => text.as_bytes().to_vec(),
        _ => b"ERR unknown error".to_vec(),
    };
    let source: Option<mlua::LuaString> = table.raw_get("source").ok();
    let line: Option<i64> = table.raw_get("line").ok();
    if let (Some(source), Some(line)) = (source, line) {
        let source = source.to_string_lossy();
        text.extend_from_slice(format!(" script: {hash}, on {source}:{line}.").as_bytes());
    }
    Ending::Failed(Reply::Error(text.into()))
}
