//! The session with a client of the Redis protocol, fed in pieces and at once. The properties stand in `aryavarth_protocol::fuzzing`, which ordinary tests call too.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| aryavarth_protocol::fuzzing::resp(data));

#[cfg(not(fuzzing))]
fn main() {}
