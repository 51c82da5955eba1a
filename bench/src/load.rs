//! Loads keys into the store of any peer.

use crate::data::{Key, Rng, Values, key};
use crate::outcome::BoxError;
use crate::peers::Peer;

/// Keys that are loaded by one call.
const LOAD_KEYS: usize = 1000;

/// Sets every key once, in random order.
pub(crate) fn load_all(peer: &dyn Peer, keys: u64, values: &Values) -> Result<(), BoxError> {
    load_keys(peer, keys, values, key)
}

pub(crate) fn load_keys(
    peer: &dyn Peer,
    count: u64,
    values: &Values,
    mut key_of: impl FnMut(u64) -> Key,
) -> Result<(), BoxError> {
    let mut rng = Rng::new(count);
    for first in (0..count).step_by(LOAD_KEYS) {
        let numbers = first..count.min(first + LOAD_KEYS as u64);
        let batch: Vec<_> = numbers.map(|number| (key_of(number), values.any(&mut rng))).collect();
        peer.load(&batch)?;
    }
    Ok(())
}
