//! The engine's promises, tested from outside: one binary, one module per promise.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of tests are small")]

// First, for the others use its macro.
#[cfg(test)]
#[macro_use]
mod engines;
#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "without `sled`, no engine that `stories!` lists")]
mod after_reopen;
#[cfg(test)]
mod beside;
#[cfg(test)]
mod calls;
#[cfg(test)]
mod clocks;
#[cfg(test)]
mod concurrent;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod cut_and_flip;
#[cfg(test)]
mod deadlines;
#[cfg(test)]
mod differential;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod events;
#[cfg(test)]
#[cfg(feature = "async")]
mod examples;
#[cfg(test)]
mod expired;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod format;
#[cfg(test)]
mod full_open;
#[cfg(test)]
#[cfg(feature = "async")]
mod futures;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod linear;
#[cfg(test)]
mod locks;
#[cfg(test)]
mod many_spaces;
#[cfg(test)]
mod mapped;
#[cfg(test)]
mod moved;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod order;
#[cfg(test)]
mod races;
#[cfg(test)]
mod read_now;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod regressions;
#[cfg(test)]
mod remembered;
#[cfg(test)]
mod reopened;
#[cfg(test)]
mod runner;
#[cfg(test)]
mod salvage;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod scripts;
#[cfg(test)]
mod scrub;
#[cfg(feature = "sled")]
#[cfg(test)]
mod sled;
#[cfg(feature = "sled")]
#[cfg(test)]
mod sled_spaces;
#[cfg(test)]
mod small_disk;
#[cfg(test)]
mod spaces;
#[cfg(test)]
mod starts;
#[cfg(test)]
mod tombstones;
#[cfg(test)]
mod volume;
#[cfg(test)]
mod walks;
#[cfg(test)]
mod watches;
#[cfg(test)]
mod workload;
