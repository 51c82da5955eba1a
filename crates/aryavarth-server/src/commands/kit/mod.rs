//! The parts of every command: its row, its arguments, its context, its failures.
//!
//! The bottom of the commands: imports no family, no registry and no dispatch.

pub(crate) mod args;
pub(crate) mod call;
pub(crate) mod context;
pub(crate) mod deadline;
pub(crate) mod failure;
pub(crate) mod flags;
pub(crate) mod help;
pub(crate) mod read;
pub(crate) mod rows;
pub(crate) mod spec;

pub(crate) use crate::settings::REDIS_VERSION;
