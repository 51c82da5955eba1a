//! The machine that runs scripts: Lua 5.1, one machine for each thread that runs them.
//!
//! ```text
//!   run --> machine of the thread --> compiled script --> protect(script) --> value --> reply
//!                |                                          |  ^
//!                | hook: clock, SCRIPT KILL                 v  |
//!                +---------- stop --------------> redis.call --> Host
//! ```
//!
//! Invariants:
//! - The hook looks at the clock after every [`STEPS`] instructions, and after every [`SLOW_STEPS`] once
//!   they took long: functions of the library are one instruction, and may copy megabytes.
//! - A stop is noted in [`Control`] before its error is raised, and decides the run's end, whatever
//!   the script returns.
//! - A machine ends after [`RUNS_MAX`] runs, after an error of memory and after a panic.

mod bits;
mod calls;
mod cjson;
mod cmsgpack;
mod control;
mod convert;
mod numbers;
mod patterns;
mod problem;
mod sandbox;
mod strings;
mod structs;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use aryavarth_protocol::Reply;
use mlua::{Function, Lua, LuaOptions, StdLib, Table, Value};

use super::{Hash, Host, Input, Running, Script, Stop};
use crate::limits::ScriptLimits;
use control::Control;

/// Instructions between two looks at the clock.
const STEPS: u32 = 250;
/// The same, in a script whose instructions take long.
const SLOW_STEPS: u32 = 10;
/// Runs after which a machine is made anew.
const RUNS_MAX: u32 = 10_000;
/// Compiled scripts that a machine keeps.
const COMPILED_MAX: usize = 256;
/// Memory above that of a new machine, with which it is cleaned up after a run.
const UNTIDY_BYTES: usize = 1 << 20;

thread_local! {
    static MACHINE: RefCell<Option<Machine>> = const { RefCell::new(None) };
}

/// A machine with its sandbox.
struct Machine {
    lua: Lua,
    control: Rc<Control>,
    /// The globals of scripts: what a script sees, and where they are kept.
    env: Table,
    globals: Table,
    /// The real table behind `redis`.
    redis: Table,
    /// Calls a script with a handler of errors.
    protect: Function,
    compiled: HashMap<Hash, Function>,
    runs: u32,
    /// Memory of the machine when it was new.
    bytes_at_rest: usize,
    memory_bytes_max: usize,
}

/// Why a machine could not be used.
type Trouble = mlua::Error;

impl Machine {
    fn new(limits: &ScriptLimits) -> Result<Machine, Trouble> {
        let libraries = StdLib::STRING | StdLib::TABLE | StdLib::MATH;
        let lua = Lua::new_with(libraries, LuaOptions::new())?;
        let control = Rc::new(Control::default());
        let sandbox::Sandbox { env, globals, redis, protect } = sandbox::build(&lua, &control)?;
        lua.gc_collect()?;
        let bytes_at_rest = lua.used_memory();
        let memory_bytes_max = limits.memory_bytes_max;
        lua.set_memory_limit(bytes_at_rest + memory_bytes_max)?;
        control.memory_bytes_max.set(memory_bytes_max);
        control.machine_bytes_max.set(bytes_at_rest + memory_bytes_max);
        Ok(Machine {
            lua,
            control,
            env,
            globals,
            redis,
            protect,
            compiled: HashMap::new(),
            runs: 0,
            bytes_at_rest,
            memory_bytes_max,
        })
    }

    /// The function of a script.
    ///
    /// # Errors
    /// The problem of its text.
    fn compile(&mut self, script: &Script) -> Result<Function, String> {
        if let Some(function) = self.compiled.get(&script.hash) {
            return Ok(function.clone());
        }
        let function = sandbox::compile(&self.lua, &script.source, "@user_script", &self.env)?;
        if self.compiled.len() >= COMPILED_MAX {
            self.compiled.clear();
        }
        self.compiled.insert(script.hash, function.clone());
        Ok(function)
    }

    fn run(&mut self, script: &Script, input: Input<'_>, host: &mut dyn Host) -> Ending {
        let function = match self.compile(script) {
            Ok(function) => function,
            Err(problem) => {
                let text = format!("ERR Error compiling script (new function): {problem}");
                return Ending::Failed(Reply::error(text));
            }
        };
        self.control.knows.set(Some(host.knows()));
        let outcome = self.call(&function, input, host);
        // The last function of the library may have kept the hook waiting. The stop is noted.
        let _ = self.control.look(&self.lua);
        let log = self.control.log.take();
        let ending = match (self.control.stopped.take(), outcome) {
            (Some(stop), _) => Ending::Stopped(stop),
            (None, Err(trouble)) => Ending::out_of_memory(&trouble, self.memory_bytes_max),
            (None, Ok((true, value))) => {
                let version = self.control.version.get();
                match convert::to_reply(&value, version, input.reply_bytes_max) {
                    Ok(reply) => Ending::Returned(reply),
                    Err(text) => Ending::Failed(Reply::error(text)),
                }
            }
            (None, Ok((false, problem))) => problem::uncaught(&problem, script.hash, &self.control),
        };
        for (level, line) in log {
            host.log(level, line);
        }
        ending
    }

    fn call(
        &self,
        function: &Function,
        input: Input<'_>,
        host: &mut dyn Host,
    ) -> Result<(bool, Value), Trouble> {
        let lua = &self.lua;
        let list = |parts: &[&[u8]]| -> Result<Table, Trouble> {
            let table = lua.create_table_with_capacity(parts.len(), 0)?;
            for part in parts {
                table.raw_push(lua.create_string(part)?)?;
            }
            Ok(table)
        };
        self.globals.raw_set("KEYS", list(input.keys)?)?;
        self.globals.raw_set("ARGV", list(input.args)?)?;
        let host = RefCell::new(host);
        let outcome = lua.scope(|scope| {
            let control = &*self.control;
            let call = |raises| {
                let host = &host;
                scope.create_function(move |lua, args| {
                    calls::call(lua, control, host, &args, raises)
                })
            };
            self.redis.raw_set("call", call(true)?)?;
            self.redis.raw_set("pcall", call(false)?)?;
            self.protect.call::<(bool, Value)>(function)
        });
        self.globals.raw_set("KEYS", Value::Nil)?;
        self.globals.raw_set("ARGV", Value::Nil)?;
        outcome
    }

    /// Whether the machine is to be kept after a run.
    fn is_kept(&mut self, ending: &Ending) -> bool {
        self.runs += 1;
        if self.runs >= RUNS_MAX || matches!(ending, Ending::OutOfMemory(_)) {
            return false;
        }
        let bytes = |lua: &Lua| lua.used_memory().saturating_sub(self.bytes_at_rest);
        if bytes(&self.lua) > UNTIDY_BYTES {
            self.compiled.clear();
            return self.lua.gc_collect().is_ok() && bytes(&self.lua) <= UNTIDY_BYTES;
        }
        true
    }
}

/// The end of a run.
#[derive(Debug)]
enum Ending {
    Returned(Reply),
    /// The script raised an error.
    Failed(Reply),
    Stopped(Stop),
    /// The script was stopped for want of memory: the text of the error.
    OutOfMemory(String),
}

impl Ending {
    fn out_of_memory(trouble: &Trouble, bytes_max: usize) -> Ending {
        match trouble {
            mlua::Error::MemoryError(_) => Ending::OutOfMemory(problem::no_memory(bytes_max)),
            other => Ending::Failed(Reply::error(format!("ERR {}", problem::first_line(other)))),
        }
    }
}

/// Runs a script on this thread's machine.
///
/// # Errors
/// The reason for which it was stopped: none of its effects are to be kept.
pub(crate) fn run(
    script: &Script,
    input: Input<'_>,
    (running, limits): (&Running<'_>, &ScriptLimits),
    host: &mut dyn Host,
) -> Result<Reply, Stop> {
    let ending = with_machine(limits, |machine| {
        machine.control.begin(running, limits);
        machine.control.watch(&machine.lua)?;
        Ok(machine.run(script, input, host))
    });
    match ending {
        Ok(Ending::Failed(Reply::Error(text))) if script.flags.all_or_nothing => {
            Err(Stop::Refused(text))
        }
        Ok(Ending::Returned(reply) | Ending::Failed(reply)) => Ok(reply),
        Ok(Ending::Stopped(stop)) => Err(stop),
        Ok(Ending::OutOfMemory(text)) => Err(Stop::Refused(text.into_bytes().into())),
        Err(trouble) => {
            let text = format!("ERR no machine for scripts: {}", problem::first_line(&trouble));
            Err(Stop::Refused(text.into_bytes().into()))
        }
    }
}

/// Compiles a script on this thread's machine.
///
/// # Errors
/// The problem of its text.
pub(super) fn check(script: &Script, limits: &ScriptLimits) -> Result<(), String> {
    let mut problem = None;
    let done = with_machine(limits, |machine| {
        problem = machine.compile(script).err();
        Ok(Ending::Returned(Reply::Null))
    });
    match (done, problem) {
        (Err(trouble), _) => Err(problem::first_line(&trouble)),
        (Ok(_), Some(problem)) => Err(format!("Error compiling script (new function): {problem}")),
        (Ok(_), None) => Ok(()),
    }
}

/// Lends this thread's machine, which is lost if `work` panics.
fn with_machine(
    limits: &ScriptLimits,
    work: impl FnOnce(&mut Machine) -> Result<Ending, Trouble>,
) -> Result<Ending, Trouble> {
    let kept = MACHINE.with(RefCell::take);
    let kept = kept.filter(|machine| machine.memory_bytes_max == limits.memory_bytes_max);
    let mut machine = kept.map_or_else(|| Machine::new(limits), Ok)?;
    let ending = work(&mut machine)?;
    if machine.is_kept(&ending) {
        MACHINE.set(Some(machine));
    }
    Ok(ending)
}
