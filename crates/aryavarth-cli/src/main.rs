//! The aryavarth command.

fn main() {}
