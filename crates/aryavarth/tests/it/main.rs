//! What the engine promises, tested from outside: one binary, one module per promise.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of tests are small")]

#[cfg(test)]
mod concurrent;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod cut_and_flip;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod format;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod linear;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod order;
#[cfg(test)]
mod races;
#[cfg(test)]
mod read_now;
#[cfg(test)]
mod regressions;
#[cfg(test)]
mod reopened;
#[cfg(test)]
mod runner;
#[cfg(test)]
mod salvage;
#[cfg(test)]
mod scripts;
#[cfg(test)]
mod scrub;
#[cfg(feature = "sled")]
#[cfg(test)]
mod sled;
#[cfg(test)]
mod small_disk;
#[cfg(test)]
mod tombstones;
#[cfg(test)]
mod workload;
