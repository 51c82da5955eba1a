//! Hint files. The properties stand in `aryavarth::fuzzing`, which ordinary tests call too.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| aryavarth::fuzzing::hint(data));

#[cfg(not(fuzzing))]
fn main() {}
