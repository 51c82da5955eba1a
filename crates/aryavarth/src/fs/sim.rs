//! A simulated file system that forgets at a crash what was not synced.

pub struct SimFs;
pub enum Crash {}
