//! Replies as the client of the Redis protocol reads them, in pieces and at once. The properties stand in `aryavarth_client::fuzzing`, which ordinary tests call too.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| aryavarth_client::fuzzing::reply(data));

#[cfg(not(fuzzing))]
fn main() {}
