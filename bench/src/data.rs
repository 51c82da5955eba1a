//! The data that every system is measured with: keys, values and the order of both.
//!
//! Keys are 16 characters that look random and are a bijection of the key's number, so that loading
//! them in the order of their numbers is loading in random order. Values are letters and digits:
//! text, so that they fit into JSON, without repetitions that a compressing system would profit
//! from.

/// A key: 16 lower-case hexadecimal digits.
pub(crate) type Key = [u8; KEY_BYTES];

pub(crate) const KEY_BYTES: usize = 16;
const POOL_BYTES: usize = 1 << 20;

/// The key of a number.
pub(crate) fn key(number: u64) -> Key {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut key = [0; KEY_BYTES];
    for (digits, byte) in key.chunks_exact_mut(2).zip(mix(number).to_be_bytes()) {
        digits[0] = DIGITS[usize::from(byte >> 4)];
        digits[1] = DIGITS[usize::from(byte & 15)];
    }
    key
}

/// The finish of `SplitMix64`: a bijection that leaves no order.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Random numbers that cost next to nothing; the same seed gives the same numbers.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(mix(seed))
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        ((u128::from(mix(self.0)) * u128::from(end)) >> 64) as u64
    }

    /// An index of something of that length.
    #[expect(clippy::cast_possible_truncation, reason = "it is below a length")]
    fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }
}

/// Values of one length: pieces of a pool.
pub(crate) struct Values {
    pool: Vec<u8>,
    pub(crate) value_bytes: usize,
}

impl Values {
    pub(crate) fn new(value_bytes: usize) -> Values {
        const LETTERS: &[u8; 62] =
            b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let mut rng = Rng::new(62);
        let letter = |_| LETTERS[rng.index(LETTERS.len())];
        Values { pool: (0..POOL_BYTES + value_bytes).map(letter).collect(), value_bytes }
    }

    pub(crate) fn any(&self, rng: &mut Rng) -> &[u8] {
        let from = rng.index(POOL_BYTES);
        &self.pool[from..from + self.value_bytes]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_are_distinct_text_in_no_order() {
        let keys: Vec<Key> = (0..1000).map(key).collect();
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), 1000);
        assert!(keys.iter().flatten().all(u8::is_ascii_hexdigit));
        assert!(!keys.is_sorted());
    }

    #[test]
    fn random_numbers_stay_below_their_end_and_repeat_with_their_seed() {
        let numbers = |seed| {
            let mut rng = Rng::new(seed);
            (0..1000).map(|_| rng.below(10)).collect::<Vec<_>>()
        };
        assert!(numbers(1).iter().all(|number| *number < 10));
        assert_eq!(numbers(1), numbers(1));
        assert_ne!(numbers(1), numbers(2));
    }

    #[test]
    fn values_are_text_of_the_length_asked_for() {
        let values = Values::new(100);
        let mut rng = Rng::new(1);
        let (one, other) = (values.any(&mut rng).to_vec(), values.any(&mut rng));
        assert_eq!(one.len(), 100);
        assert_ne!(one, other);
        assert!(one.iter().all(u8::is_ascii_alphanumeric));
    }
}
