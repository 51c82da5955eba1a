//! What the engine promises, tested from outside: one binary, one module per promise.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of tests are small")]

#[cfg(test)]
mod concurrent;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod regressions;
