//! What the engine promises, tested from outside: one binary, one module per promise.

#[cfg(test)]
mod concurrent;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod read_now;
