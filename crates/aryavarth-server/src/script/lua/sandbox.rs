//! The globals of scripts: the safe part of the library, and our functions.

use std::rc::Rc;

use mlua::chunk::ChunkMode;
use mlua::{Function, Lua, MultiValue, Table, Value};

use super::super::too_long;
use super::calls::{self, Arguments};
use super::control::Control;
use super::{bits, cjson, cmsgpack, problem, strings, structs};

/// A chunk that was compiled elsewhere begins with it; it could break the machine.
const BYTECODE: u8 = 0x1b;

/// Bytes of a chunk's name that are kept: errors show no more than 60.
const NAME_BYTES_MAX: usize = 1_024;

/// The parts of a sandbox that a machine needs.
pub(super) struct Sandbox {
    pub(super) env: Table,
    pub(super) globals: Table,
    pub(super) redis: Table,
    pub(super) protect: Function,
}

/// Makes the sandbox of a new machine.
pub(super) fn build(lua: &Lua, control: &Rc<Control>) -> mlua::Result<Sandbox> {
    let ours = lua.create_table()?;
    ours.raw_set("redis", calls::table(lua, control)?)?;
    ours.raw_set("bit", bits::table(lua)?)?;
    ours.raw_set("cjson", cjson::table(lua, control)?)?;
    ours.raw_set("cmsgpack", cmsgpack::table(lua, control)?)?;
    ours.raw_set("struct", structs::table(lua, control)?)?;
    ours.raw_set("math", math(lua, control)?)?;
    ours.raw_set("string", strings::table(lua, control)?)?;
    let own = Rc::clone(control);
    let describe = lua.create_function(move |lua, problem: Value| {
        if own.is_stopped() {
            return Err(problem::stopped());
        }
        problem::seen(lua, problem, false)?.ok_or_else(problem::stopped)
    })?;
    let own = Rc::clone(control);
    let blame = lua.create_function(move |lua, problem: Value| blame(lua, &own, problem))?;
    let own = Rc::clone(control);
    let load = lua.create_function(move |lua, args| load_text(lua, &own, args))?;
    let change_metatable = lua.create_function(change_metatable)?;
    let prelude = lua.load(include_str!("sandbox.lua")).set_name("=sandbox");
    let (env, globals, redis, protect) =
        prelude.call((ours, describe, blame, load, change_metatable))?;
    Ok(Sandbox { env, globals, redis, protect })
}

/// The table of an error that a script did not catch, with its place.
fn blame(lua: &Lua, control: &Control, problem: Value) -> mlua::Result<Value> {
    if control.is_stopped() {
        return Ok(Value::Nil);
    }
    let is_out_of_memory =
        matches!(&problem, Value::Error(error) if problem::is_out_of_memory(error));
    control.is_out_of_memory.set(is_out_of_memory);
    let Some(problem) = problem::seen(lua, problem, true)? else { return Ok(Value::Nil) };
    let table = if let Value::Table(table) = problem {
        // The place is not written into a table that scripts share.
        if is_frozen(&table)? { lua.create_table()? } else { table }
    } else {
        let text = problem.to_string().unwrap_or_else(|_| problem.type_name().to_owned());
        let text =
            lua.coerce_string(problem)?.map_or(text.into_bytes(), |it| it.as_bytes().to_vec());
        problem::error_table(lua, &[b"ERR ", &*text].concat())?
    };
    if let Some((source, line)) = problem::blamed(lua) {
        table.raw_set("source", source)?;
        table.raw_set("line", line)?;
    }
    Ok(Value::Table(table))
}

/// Whether scripts share a table.
fn is_frozen(table: &Table) -> mlua::Result<bool> {
    let Some(meta) = table.metatable() else { return Ok(false) };
    Ok(meta.raw_get::<Option<bool>>("__frozen")?.unwrap_or(false))
}

/// `setmetatable`, but for tables that scripts share.
fn change_metatable(lua: &Lua, values: MultiValue) -> mlua::Result<Table> {
    let args = Arguments { lua, name: "setmetatable", values };
    let Value::Table(table) = args.value(1) else { return Err(args.wrong(1, "table")) };
    let meta = match args.value(2) {
        Value::Table(meta) => Some(meta),
        Value::Nil if args.values.len() > 1 => None,
        _ => return Err(args.bad(2, "nil or table expected")),
    };
    if is_frozen(&table)? {
        return Err(problem::text("Attempt to modify a readonly table"));
    }
    if let Some(old) = table.metatable()
        && !old.raw_get::<Value>("__metatable")?.is_nil()
    {
        return Err(problem::complain(lua, "cannot change a protected metatable"));
    }
    table.set_metatable(meta)?;
    Ok(table)
}

/// Compiles a text, with the globals of scripts.
///
/// # Errors
/// The problem of the text.
pub(super) fn compile(lua: &Lua, text: &[u8], name: &str, env: &Table) -> Result<Function, String> {
    if text.first() == Some(&BYTECODE) {
        return Err("compiled chunks are not accepted".to_owned());
    }
    // The machine refers to the name only where its collector does not look while it compiles.
    let _anchor = lua.create_string(name).map_err(|error| problem::first_line(&error))?;
    let chunk = lua.load(text).set_name(name).set_mode(ChunkMode::Text);
    let chunk = chunk.set_environment(env.clone());
    chunk.into_function().map_err(|error| match error {
        mlua::Error::SyntaxError { message, .. } => message,
        other => problem::first_line(&other),
    })
}

/// `loadstring`: a function, or nil and the problem.
fn load_text(
    lua: &Lua,
    control: &Control,
    (text, name, env): (Value, Value, Table),
) -> mlua::Result<(Value, Value)> {
    let Some(text) = lua.coerce_string(text.clone())?.filter(|_| !text.is_table()) else {
        let values = MultiValue::from_iter([text]);
        let args = Arguments { lua, name: "loadstring", values };
        return args.text(1).map(|_| (Value::Nil, Value::Nil));
    };
    let length = text.as_bytes().len();
    // A text is compiled in one go, and some in a time that grows with the square of their length.
    control.step(lua, u32::try_from(length).unwrap_or(u32::MAX))?;
    if length > control.text_bytes_max.get() {
        let problem = too_long(control.text_bytes_max.get());
        return Ok((Value::Nil, Value::String(lua.create_string(problem)?)));
    }
    let name = lua.coerce_string(name)?.unwrap_or_else(|| text.clone());
    let name = name
        .as_bytes()
        .get(..NAME_BYTES_MAX)
        .map_or_else(|| name.to_string_lossy(), |part| String::from_utf8_lossy(part).into_owned());
    match compile(lua, &text.as_bytes(), &name, &env) {
        Ok(function) => Ok((Value::Function(function), Value::Nil)),
        Err(problem) => Ok((Value::Nil, Value::String(lua.create_string(problem)?))),
    }
}

/// Random numbers, the same in each run.
fn math(lua: &Lua, control: &Rc<Control>) -> mlua::Result<Table> {
    let math = lua.create_table()?;
    let own = Rc::clone(control);
    let random = move |lua: &Lua, values: MultiValue| {
        let count = values.len();
        let args = Arguments { lua, name: "random", values };
        #[expect(clippy::cast_precision_loss, reason = "31 bits are exact")]
        let part = (own.random() % RANDOM_MAX) as f64 / RANDOM_MAX as f64;
        let (low, high) = match count {
            0 => return Ok(part),
            1 => (1.0, args.number(1)?.trunc()),
            2 => (args.number(1)?.trunc(), args.number(2)?.trunc()),
            _ => return Err(problem::complain(lua, "wrong number of arguments")),
        };
        if low > high {
            return Err(args.bad(count, "interval is empty"));
        }
        Ok((part * (high - low + 1.0)).floor() + low)
    };
    math.raw_set("random", lua.create_function(random)?)?;
    let own = Rc::clone(control);
    let seed = move |lua: &Lua, values: MultiValue| {
        let seed = Arguments { lua, name: "randomseed", values }.integer(1)?;
        own.seed(u32::try_from(seed & i64::from(u32::MAX)).unwrap_or(0));
        Ok(())
    };
    math.raw_set("randomseed", lua.create_function(seed)?)?;
    Ok(math)
}

/// Random numbers are below this.
const RANDOM_MAX: u64 = 0x7fff_ffff;
