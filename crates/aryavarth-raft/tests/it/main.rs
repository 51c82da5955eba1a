//! The Raft log and a node's files, through their public face.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of tests are small")]

#[cfg(test)]
mod answers;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod rot;
#[cfg(test)]
mod story;
#[cfg(test)]
mod suite;
