//! The run that a machine is in: when and why it ends, and what it does beside its effects.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aryavarth_protocol::Command;
use mlua::{HookTriggers, Lua, VmState};

use super::super::{Running, Stop};
use super::{SLOW_STEPS, STEPS, cjson, problem};
use crate::limits::ScriptLimits;

/// Between two looks at the clock, this is long.
const SLOW: Duration = Duration::from_millis(2);
/// Steps of a library function between two looks at the clock.
const WORK: u32 = 100_000;
/// Bytes that a library function copies, compares or hashes in one step.
const STEP_BYTES: usize = 16;
/// The lowest bits of a seed, as srand48 has them.
const FIRST_RANDOM: u64 = 0x330e;
/// Lines and bytes that one run may log.
const LOG_LINES_MAX: usize = 100;
pub(super) const LOG_LINE_BYTES_MAX: usize = 1_024;

/// Whether there is such a command.
type Knows = fn(&Command) -> bool;

/// The state of a run. It outlives the run, as its machine does.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// Why the script was stopped, while it is on its way out.
    pub(super) stopped: RefCell<Option<Stop>>,
    is_stopped: Cell<bool>,
    /// The error that ends the script is one of memory.
    pub(super) is_out_of_memory: Cell<bool>,
    is_killed: RefCell<Arc<AtomicBool>>,
    deadline: Cell<Option<Instant>>,
    time_max: Cell<Duration>,
    looked: Cell<Option<Instant>>,
    is_slow: Cell<bool>,
    work: Cell<u32>,
    /// The version of the protocol that replies to the script have.
    pub(super) version: Cell<u8>,
    random: Cell<u64>,
    pub(super) log: RefCell<Vec<(i64, Vec<u8>)>>,
    pub(super) memory_bytes_max: Cell<usize>,
    /// The most bytes that the machine may have, with those of a new one.
    pub(super) machine_bytes_max: Cell<usize>,
    /// The most bytes of a text that is compiled.
    pub(super) text_bytes_max: Cell<usize>,
    pub(super) json: cjson::Settings,
    /// Whether there is a command.
    pub(super) knows: Cell<Option<Knows>>,
}

impl Control {
    /// Begins a run.
    pub(super) fn begin(&self, running: &Running<'_>, limits: &ScriptLimits) {
        let now = Instant::now();
        self.stopped.replace(None);
        self.is_stopped.set(false);
        self.is_out_of_memory.set(false);
        self.is_killed.replace(Arc::clone(&running.is_killed));
        let (whole, locked) = (running.began + limits.time, now + limits.locked_time);
        self.time_max.set(if whole < locked { limits.time } else { limits.locked_time });
        self.deadline.set(Some(whole.min(locked)));
        self.looked.set(Some(now));
        self.text_bytes_max.set(limits.text_bytes_max);
        self.is_slow.set(false);
        self.work.set(0);
        self.version.set(2);
        self.json.reset();
        self.random.set(running.random);
        self.log.borrow_mut().clear();
    }

    /// Sets the hook that looks at the clock.
    pub(super) fn watch(self: &Rc<Self>, lua: &Lua) -> mlua::Result<()> {
        let steps = if self.is_slow.get() { SLOW_STEPS } else { STEPS };
        let triggers = HookTriggers::new().every_nth_instruction(steps);
        let control = Rc::clone(self);
        lua.set_global_hook(triggers, move |lua, _| {
            control.look(lua)?;
            let is_slow = control.is_slow.get();
            if is_slow && steps == STEPS {
                control.watch(lua)?;
            }
            Ok(VmState::Continue)
        })
    }

    /// Looks at the clock and at SCRIPT KILL.
    pub(super) fn look(&self, lua: &Lua) -> mlua::Result<()> {
        if self.is_stopped.get() {
            return Err(problem::stopped());
        }
        let now = Instant::now();
        let passed = self.looked.replace(Some(now)).map(|before| now - before);
        self.is_slow.set(self.is_slow.get() || passed.is_some_and(|passed| passed > SLOW));
        if self.is_killed.borrow().load(Ordering::Relaxed) {
            let place = problem::place_of_script(lua);
            let text =
                format!("ERR Script killed by user with SCRIPT KILL. Nothing was done.{place}");
            return Err(self.stop(Stop::Refused(text.into_bytes().into())));
        }
        if self.deadline.get().is_some_and(|deadline| now > deadline) {
            let ms = self.time_max.get().as_millis();
            let text = format!(
                "ERR the script ran for more than {ms} ms and was stopped; nothing was done; let it \
                 do less at a time"
            );
            return Err(self.stop(Stop::Refused(text.into_bytes().into())));
        }
        Ok(())
    }

    /// Counts steps of a library function, and looks at the clock from time to time.
    pub(super) fn step(&self, lua: &Lua, steps: u32) -> mlua::Result<()> {
        let work = self.work.get().saturating_add(steps);
        if work < WORK {
            self.work.set(work);
            return Ok(());
        }
        self.work.set(0);
        self.look(lua)
    }

    /// Counts bytes that a library function reads or writes: each [`STEP_BYTES`] of them are a step.
    pub(super) fn pay(&self, lua: &Lua, bytes: usize) -> mlua::Result<()> {
        self.step(lua, u32::try_from(bytes / STEP_BYTES).unwrap_or(u32::MAX))
    }

    /// Refuses a buffer for which the script has no memory left: it would become a text of Lua.
    pub(super) fn room(&self, lua: &Lua, bytes: usize) -> mlua::Result<()> {
        let bytes = bytes.saturating_add(lua.used_memory());
        if bytes > self.machine_bytes_max.get() { Err(problem::out_of_memory()) } else { Ok(()) }
    }

    /// Notes that the script stops; returns the error to raise.
    pub(super) fn stop(&self, why: Stop) -> mlua::Error {
        self.stopped.borrow_mut().get_or_insert(why);
        self.is_stopped.set(true);
        problem::stopped()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.get()
    }

    /// The next random number, below 2^31, as lrand48 has it.
    pub(super) fn random(&self) -> u64 {
        let next =
            self.random.get().wrapping_mul(0x5_deec_e66d).wrapping_add(0xb) & ((1 << 48) - 1);
        self.random.set(next);
        next >> 17
    }

    /// Seeds the random numbers.
    pub(super) fn seed(&self, seed: u32) {
        self.random.set(u64::from(seed) << 16 | FIRST_RANDOM);
    }

    /// Keeps a line for the log.
    pub(super) fn note(&self, level: i64, line: Vec<u8>) {
        let mut log = self.log.borrow_mut();
        if log.len() < LOG_LINES_MAX {
            log.push((level, line));
        }
    }
}
