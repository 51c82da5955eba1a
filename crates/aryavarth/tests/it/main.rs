//! What the engine promises, tested from outside: one binary, one module per promise.

#[cfg(test)]
mod concurrent;
mod contract;
mod regressions;
