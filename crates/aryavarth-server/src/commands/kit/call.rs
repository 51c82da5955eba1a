//! A command as a client has sent it, with its row.

use aryavarth_protocol::Command;

use crate::commands::kit::args::Args;
use crate::commands::kit::rows::Registry;
use crate::commands::kit::spec::Spec;

/// A command and its row, which is looked up once, when the command has arrived.
#[derive(Debug)]
pub(crate) struct CommandCall {
    pub(crate) command: Command,
    /// `None` if no row takes the call: it is refused by [`Registry::find`]'s error.
    pub(crate) spec: Option<&'static Spec>,
}

impl CommandCall {
    pub(crate) fn new(registry: &'static Registry, command: Command) -> Self {
        let spec = registry.find(&Args::new(&command)).ok();
        CommandCall { command, spec }
    }

    /// Whether the row of the command writes keys.
    pub(crate) fn is_write(&self) -> bool {
        self.spec.is_some_and(Spec::writes)
    }

    /// The same call with a copy of its bytes, which keeps no more than its own.
    pub(crate) fn detached(&self) -> Self {
        CommandCall { command: self.command.detached(), spec: self.spec }
    }
}
