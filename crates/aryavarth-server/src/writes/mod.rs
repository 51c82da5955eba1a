//! Blind writes of all connections on their way to the engine: a queue, and the jobs that empty it.

pub(crate) mod collector;
pub(crate) mod queue;
