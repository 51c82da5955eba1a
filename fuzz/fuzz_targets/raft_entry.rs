//! Entries of the Raft log, and members of a cluster. The properties stand in `aryavarth_raft::fuzzing`, which ordinary tests call too.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| aryavarth_raft::fuzzing::raft_entry(data));

#[cfg(not(fuzzing))]
fn main() {}
